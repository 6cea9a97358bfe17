// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * io: whole reads and writes, and descriptors sent with a message
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sys;

/** io_read_at() - read exactly @n bytes at @offset; -ENODATA at an early end of file, else -errno. */
int io_read_at(const struct sys *sys, int fd, void *buf, size_t n, uint64_t offset);

/** io_write_at() - write exactly @n bytes at @offset; -errno. */
int io_write_at(const struct sys *sys, int fd, const void *buf, size_t n, uint64_t offset);

/** io_write_all() - write exactly @n bytes to a stream, waiting where it is non-blocking; -errno. */
int io_write_all(int fd, const void *buf, size_t n);

/**
 * io_read_all() - read a stream or file from its current place to its end
 * @max:     -EFBIG when there is more than this many bytes
 * @ret_buf: allocated, NUL-terminated behind the data
 * @ret_len: without the NUL
 */
int io_read_all(int fd, size_t max, char **ret_buf, size_t *ret_len);

/** io_make_dirs() - make a directory with @mode, and those above it that are missing with @above; what is there stays as it is; -errno. */
int io_make_dirs(const char *path, mode_t above, mode_t mode);

/** io_set_nonblock() - set or clear O_NONBLOCK; -errno. */
int io_set_nonblock(int fd, int on);

/** io_set_cloexec() - set or clear FD_CLOEXEC; -errno. */
int io_set_cloexec(int fd, int on);

/**
 * io_send_fds() - send one message with up to 32 descriptors over a unix socket (SCM_RIGHTS)
 * Return: 0, -EMSGSIZE if it could not go out whole, or -errno.
 */
int io_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds);

/**
 * io_recv_fds() - receive one message and up to *@n_fds descriptors, close-on-exec; never waits
 * @n_fds: in: room in @fds; out: how many came. A message that carried more than fits is refused whole: -EMSGSIZE.
 * Return: bytes received (0 at the end of the stream) or -errno (-EAGAIN: nothing is there).
 */
ssize_t io_recv_fds(int sock, void *buf, size_t n, int *fds, size_t *n_fds);
