// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpacked: the compressed clusters that were read last, as they are without compression
 *
 * A guest that reads a compressed cluster in small pieces would pay for all of it each time. A few are kept, named by their L2 entry, which
 * says where the compressed bytes are and how many. The name holds as long as no compressed cluster of the image was written or freed:
 * then a number changes (unpacked_forget()), and nothing that was kept before is found any more.
 *
 * Threads. All calls from any thread at once.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define UNPACKED_MAX   16u
#define UNPACKED_BYTES (1u << 20) /* of memory, or one cluster */

struct unpacked {
        _Atomic uint64_t number;
        pthread_mutex_t lock; /* the rest */
        unsigned int n, next;
        struct {
                uint64_t entry, number;
                uint8_t *data; /* NULL: none */
        } kept[UNPACKED_MAX];
};

/** unpacked_init() - @cluster: bytes */
void unpacked_init(struct unpacked *u, uint64_t cluster);
void unpacked_done(struct unpacked *u);

/** unpacked_forget() - compressed clusters are about to change. */
void unpacked_forget(struct unpacked *u);

/** unpacked_number() - to be asked for before the L2 entry is looked at. */
uint64_t unpacked_number(const struct unpacked *u);

/** unpacked_get() - @n bytes from @in of the cluster with this entry; false: it isn't kept */
bool unpacked_get(struct unpacked *u, uint64_t entry, uint64_t number, uint64_t in, uint64_t n, void *buf);

/** unpacked_put() - keep a cluster; takes @data (from malloc()) over */
void unpacked_put(struct unpacked *u, uint64_t entry, uint64_t number, uint8_t *data);
