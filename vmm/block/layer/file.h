// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file: the host's file or block device under one layer of a disk, for calls that may wait
 *
 * Everything that is not on the data path goes through here: metadata, copy on write, tools. A transfer is done whole or fails: short
 * ones are continued, -EINTR is retried. Reading behind the end gives zeroes. With direct I/O (O_DIRECT) any offset, length and address
 * works: what is not aligned goes through a buffer of this call, and a partial block of a write is read first.
 *
 * Threads. All calls from any thread at once; two unaligned direct writes into the same block are kept apart by a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/sys.h"

struct file;

struct file_options {
        const struct sys *sys; /* NULL: the real one */
        int fd;                /* a regular file or block device; borrowed, must outlive the file */
        bool readonly;
        bool direct; /* bypass the host's page cache (O_DIRECT); also on when @fd has it already */
};

/**
 * file_open() - examine a descriptor
 *
 * Return: 0, or -errno with "disk-type" (neither file nor block device), "disk-direct" (O_DIRECT refused or misaligned), "disk-access"
 * (@fd is not open for writing).
 */
int file_open(const struct file_options *options, struct file **ret_file, struct error *e);
void file_close(struct file *file);
DEFINE_CLEANUP(file, file_close);

/** Facts. file_size() follows file_truncate(), and writes behind the end. */
int file_fd(const struct file *file);
const struct sys *file_sys(const struct file *file);
uint64_t file_size(const struct file *file); /* bytes */
uint32_t
file_logical_block(const struct file *file); /* bytes: unit and alignment for direct I/O, else 512 (or the device's) */
uint32_t file_physical_block(const struct file *file);
bool file_is_device(const struct file *file);
bool file_is_direct(const struct file *file);
bool file_is_readonly(const struct file *file);

/** file_is_same() - are these two descriptors of one file, or of one block device? False when it can't be said. */
bool file_is_same(int fd, int other_fd);

/** file_read(), file_write() - the whole of @len bytes at @offset; 0 or -errno. */
int file_read(struct file *file, void *buf, uint64_t len, uint64_t offset);
int file_write(struct file *file, const void *buf, uint64_t len, uint64_t offset);

/** file_read_part(), file_write_part() - as above, @len bytes of @iov from its byte @skip on; @iov is not changed, any @n_iov; -EINVAL: too few */
int file_read_part(struct file *file, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len,
                   uint64_t offset);
int file_write_part(struct file *file, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t len,
                    uint64_t offset);

/**
 * file_zero() - make [@offset, @offset + @len) read as zeroes
 * @unmap: the space may be given back. Falls back from fallocate() to writing zeroes.
 */
int file_zero(struct file *file, uint64_t offset, uint64_t len, bool unmap);

/** file_punch() - as file_zero() with @unmap, but never by writing: -EOPNOTSUPP where the file system can't, and nothing happened. */
int file_punch(struct file *file, uint64_t offset, uint64_t len);

/** file_discard() - the content no longer matters; 0 also where there is no such thing. */
int file_discard(struct file *file, uint64_t offset, uint64_t len);

/**
 * file_sync() - what was written, and the size, is on stable storage (fdatasync)
 *
 * Linux tells of data that it could not write back once, to whoever asks first, and has then forgotten it. So a file whose sync has failed
 * never claims again that all is stable: from then on each call fails as the first one did.
 */
int file_sync(struct file *file);

/** file_sync_lost() - 0, or how a sync has failed (-errno); file_sync_fail() notes that one did which was not file_sync()'s. */
int file_sync_lost(const struct file *file);
void file_sync_fail(struct file *file, int error);

/** file_truncate() - -ENOTSUP for a device unless it is large enough. New bytes are zeroes. */
int file_truncate(struct file *file, uint64_t size);

/**
 * file_next() - where does data begin, and where does it end (SEEK_DATA, SEEK_HOLE)
 * @ret_data: does @offset lie in data?
 * @ret_length: so long the answer holds, to the end of the file at most; untouched on error
 */
int file_next(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_length);
