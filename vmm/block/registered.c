// SPDX-License-Identifier: GPL-2.0-or-later
/* registered: see registered.h */
#include "vmm/block/registered.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"

static uint64_t cpu_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* An empty table of @n pieces. */
static int make_table(const struct sys *sys, int ring, unsigned int n) {
        struct io_uring_rsrc_register table = { .nr = n, .flags = IORING_RSRC_REGISTER_SPARSE };

        return sys->io_uring_register(ring, IORING_REGISTER_BUFFERS2, &table, sizeof(table)) < 0 ? -errno : 0;
}

static int add_piece(const struct sys *sys, int ring, unsigned int number, void *begin, size_t size) {
        struct iovec iov = { begin, size };
        struct io_uring_rsrc_update2 update = { .offset = number, .data = (uintptr_t)&iov, .nr = 1 };
        int r = sys->io_uring_register(ring, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update));

        if (r < 0)
                return -errno;
        return r == 1 ? 0 : -EIO;
}

static int add_pieces(const struct registered *m, const struct sys *sys, int ring) {
        uint64_t start = cpu_ns(), bytes = 0;

        for (unsigned int i = 0; i < m->n; i++) {
                const struct registered_region *region = &m->regions[i];
                unsigned int number = region->first;

                for (uint64_t offset = 0; offset < region->size; offset += m->piece) {
                        uint64_t size = MIN(m->piece, region->size - offset);
                        int r = add_piece(sys, ring, number++, (void *)(region->begin + offset), size);

                        if (r < 0)
                                return r;
                        bytes += size;
                        if (cpu_ns() - start > REGISTERED_START_NS + (bytes >> 20) * (REGISTERED_PER_GIB_NS >> 10))
                                return -ETIME;
                }
        }
        return 0;
}

int registered_add(struct registered *m, const struct sys *sys, int ring, const struct iovec *regions, unsigned int n,
                   uint64_t piece) {
        uint64_t n_pieces = 0;
        int r;

        if (n > REGISTERED_REGIONS_MAX)
                return -E2BIG;
        m->piece = piece;
        for (unsigned int i = 0; i < n; i++) {
                m->regions[i] = (struct registered_region){
                        .begin = (uintptr_t)regions[i].iov_base,
                        .size = regions[i].iov_len,
                        .first = (unsigned int)n_pieces,
                };
                n_pieces += (regions[i].iov_len + m->piece - 1) / m->piece;
        }
        if (n_pieces > UINT16_MAX) /* a request has 16 bits for it; the kernel takes less */
                return -EINVAL;
        r = make_table(sys, ring, (unsigned int)n_pieces);
        if (r < 0)
                return r;
        m->n = n;
        r = add_pieces(m, sys, ring);
        if (r < 0) {
                (void)sys->io_uring_register(ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
                m->n = 0;
        }
        return r;
}

int registered_find(const struct registered *m, const struct iovec *iov, unsigned int n_iov, struct iovec *ret_whole) {
        uintptr_t begin = (uintptr_t)iov->iov_base, end = begin;

        if (m->n == 0)
                return -1;
        for (unsigned int i = 0; i < n_iov; i++) {
                if ((uintptr_t)iov[i].iov_base != end)
                        return -1;
                end += iov[i].iov_len;
        }
        for (unsigned int i = 0; i < m->n; i++) {
                const struct registered_region *region = &m->regions[i];
                uint64_t offset = begin - region->begin, size = end - begin;

                if (offset >= region->size || size > region->size - offset || size == 0)
                        continue;
                if (offset / m->piece != (offset + size - 1) / m->piece)
                        return -1;
                *ret_whole = (struct iovec){ (void *)begin, size };
                return (int)(region->first + offset / m->piece);
        }
        return -1;
}
