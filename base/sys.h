// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sys: the operating system calls that a test may want to fail, behind one table
 *
 * Code that handles data or resources calls through a `const struct sys *` (usually `&sys_real`, kept in its object), so
 * that a unit test can hand in a table of its own that fails the third write, returns short reads, or has no memory.
 * Add a call here when a test needs to make it fail; do not wrap the rest.
 */
#pragma once

#include <fcntl.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct io_uring_params;
struct stat;
struct statvfs;

struct sys {
        int (*open)(const char *path, int flags, ...);
        ssize_t (*pread)(int fd, void *buf, size_t n, off_t offset);
        ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t offset);
        ssize_t (*preadv)(int fd, const struct iovec *iov, int n, off_t offset);
        ssize_t (*pwritev)(int fd, const struct iovec *iov, int n, off_t offset);
        ssize_t (*read)(int fd, void *buf, size_t n);
        ssize_t (*write)(int fd, const void *buf, size_t n);
        int (*fstat)(int fd, struct stat *ret);
        int (*fstatvfs)(int fd, struct statvfs *ret);
        int (*fdatasync)(int fd);
        int (*fallocate)(int fd, int mode, off_t offset, off_t len);
        int (*ftruncate)(int fd, off_t length);
        int (*ioctl)(int fd, unsigned long request, ...);
        int (*io_uring_setup)(unsigned int entries, struct io_uring_params *params);
        int (*io_uring_register)(int fd, unsigned int opcode, void *arg, unsigned int n);
        void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
};

extern const struct sys sys_real;
