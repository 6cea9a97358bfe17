// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * copy: a whole file, or the disk in an image, into an empty file, sharing blocks where the file system can, keeping holes where it can't
 */
#pragma once

#include "base/sys.h"
#include "vmm/block/layer/layer.h"

/**
 * copy_sparse() - make @to (empty, writable) read like @from
 * @cancel_fd: stop with -EINTR when it is readable; -EBADF: never
 *
 * Tries FICLONE (btrfs, XFS, bcachefs: at once, no space), then copy_file_range(2) of the data between the holes,
 * then read and write. Does not sync. Moves the offset of @from. Return: 0 or -errno; on failure @to holds a part.
 */
int copy_sparse(const struct sys *sys, int from, int to, int cancel_fd);

/* How a copy tells how far it is, and how it is stopped. */
struct copy_watch {
        void (*advance)(void *opaque, uint64_t done, uint64_t all); /* bytes of the file's size; may be NULL */
        void *opaque;
        int cancel_fd; /* as above */
};

/** copy_sparse_watched() - copy_sparse() that says how far it is */
int copy_sparse_watched(const struct sys *sys, int from, int to, const struct copy_watch *watch);

/**
 * copy_write_sparse() - write @n bytes to @to, which is new there: blocks of zeroes stay holes
 *
 * The caller sets the file's size. Return: 0 or -errno.
 */
int copy_write_sparse(const struct sys *sys, int to, const void *data, size_t n, uint64_t at);

/** copy_layer() - make @to (empty, writable) read like the disk @from, whatever lies below it; the rest as copy_sparse() */
int copy_layer(const struct sys *sys, struct layer *from, int to, int cancel_fd);
