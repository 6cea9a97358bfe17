// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * registered: memory that a ring of io_uring's knows by number, so that the kernel needs not pin it for each direct transfer
 *
 * Regions are registered in pieces, numbered in their order: which number an address has is arithmetic. What crosses from one piece into the
 * next has none, and is moved as if it were not registered.
 *
 * What it takes. The memory is locked: it can't be swapped, moved or given back while the ring lives, and counts against the user's limit on
 * locked memory, once for each ring. What the ring has is pages, not addresses: whatever is mapped there later, it does not see. The kernel
 * keeps 16 bytes for each page, or (since Linux 6.12) for each large page in pieces that have no others. A GiB takes 1.4 ms in large pages,
 * 20 to 40 ms in small ones; but where large pages are kept as small ones (older kernels; mixed pieces), the kernel searches all that
 * the ring has already, so as to count each only once: 0.1 s for a GiB, 3 s for four, and ever worse. So we look at
 * the clock after each piece (CPU time: that others run does not count), and rather have no memory registered than a start that takes minutes.
 *
 * Pieces. The kernel takes up to 1 GiB. Where memory is in large pages as the host had them, small pieces are better: one small page spoils
 * only its own piece. A page should not be cut in pieces, though: each would be searched for.
 *
 * Threads: registered_find() only reads.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/sys.h"

#define REGISTERED_REGIONS_MAX 4u

/* CPU time that it may take. */
#define REGISTERED_START_NS   50000000u
#define REGISTERED_PER_GIB_NS 64000000u

struct registered {
        unsigned int n;
        uint64_t piece; /* bytes */
        struct registered_region {
                uintptr_t begin;
                uint64_t size;
                unsigned int first; /* number of its first piece */
        } regions[REGISTERED_REGIONS_MAX];
};

/**
 * registered_add() - register memory with a ring that has none yet
 * @m:      all zero
 * @ring:   its descriptor
 * @piece:  bytes, a power of two from the page size to 1 GiB
 *
 * Return: 0, all of it is registered; else nothing is: -ETIME it takes too long, -E2BIG too many regions; the kernel's: -ENOMEM the limit on
 * locked memory, -EPERM, -EOPNOTSUPP and -EFAULT memory of a kind that can't be, -EINVAL a kernel before
 * 5.19, or too many pieces.
 */
int registered_add(struct registered *m, const struct sys *sys, int ring, const struct iovec *regions, unsigned int n,
                   uint64_t piece);

/**
 * registered_find() - is a transfer's memory all in one piece?
 * @iov:        its buffers, at least one
 * @ret_whole:  all of them together
 *
 * Return: the piece's number, or -1: it is not registered, or buffers do not follow each other.
 */
int registered_find(const struct registered *m, const struct iovec *iov, unsigned int n_iov, struct iovec *ret_whole);
