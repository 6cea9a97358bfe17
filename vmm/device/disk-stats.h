// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-stats: what a disk's queue has done for the guest, counted
 *
 * Each queue counts for itself, on the thread that completes its requests; whoever asks, on the machine's loop, adds the queues up. A counter has one writer, so a
 * relaxed load and store are an addition that no reader sees half of, without a lock and without a locked instruction. Different counters of one disk may be
 * some requests apart when they are read.
 *
 * What counts is what QEMU counts: requests that the guest was told are done, and apart from them those that it was told have failed. What waits to be tried again
 * counts when that is decided; what a reset cut off never does. Counters begin with the process: neither a reset of the machine nor one of the device empties them.
 */
#pragma once

#include "vmm/block/block.h"
#include "vmm/machine/machine.h"

/* NOLINTNEXTLINE(readability-non-const-parameter): it is written, which the check does not see in an atomic builtin */
static inline void disk_stats_add(uint64_t *counter, uint64_t n) {
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/** disk_stats_count() - @request has ended, and the guest is told; on the queue's thread. */
static inline void disk_stats_count(struct machine_disk_stats *s, const struct block_request *request, bool failed) {
        static const uint8_t kinds[BLOCK_OP_COUNT] = {
                [BLOCK_READ] = MACHINE_DISK_READ,          [BLOCK_WRITE] = MACHINE_DISK_WRITE,
                [BLOCK_FLUSH] = MACHINE_DISK_FLUSH,        [BLOCK_DISCARD] = MACHINE_DISK_UNMAP,
                [BLOCK_WRITE_ZEROES] = MACHINE_DISK_WRITE, /* as QEMU has it */
        };
        unsigned int kind = kinds[request->op];

        if (failed) {
                disk_stats_add(&s->failed[kind], 1);
                return;
        }
        disk_stats_add(&s->operations[kind], 1);
        disk_stats_add(&s->bytes[kind], request->length);
}

/** disk_stats_sum() - add @from to @sum; on any thread. */
static inline void disk_stats_sum(struct machine_disk_stats *sum, const struct machine_disk_stats *from) {
        for (unsigned int i = 0; i < MACHINE_DISK_STAT_COUNT; i++) {
                sum->operations[i] += __atomic_load_n(&from->operations[i], __ATOMIC_RELAXED);
                sum->bytes[i] += __atomic_load_n(&from->bytes[i], __ATOMIC_RELAXED);
                sum->failed[i] += __atomic_load_n(&from->failed[i], __ATOMIC_RELAXED);
        }
}
