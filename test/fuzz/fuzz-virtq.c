// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-virtq: a driver that writes anything anywhere into its rings, while a device pops and pushes
 *
 * The input is the guest's memory, from the rings on: the first bytes choose the queue's size, features and the areas'
 * places; the rest is what the guest wrote there. Each chain that comes out must lie inside RAM (its bytes are read and
 * written, and the sanitizer watches), be bounded, and the whole must end.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/machine/memory.h"
#include "vmm/virtio/virtq.h"

#define RAM       (1u << 20)
#define HEAD_SIZE 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a device does with a chain: look at all of it, fill some. */
static uint32_t touch(const struct virtq_chain *chain) {
        uint64_t sum = 0, readable = 0, writable = 0;

        if (chain->n_readable + chain->n_writable > VIRTQ_CHAIN_MAX)
                abort();
        for (unsigned int i = 0; i < chain->n_readable; i++) {
                readable += chain->iov[i].iov_len;
                sum += ((const uint8_t *)chain->iov[i].iov_base)[chain->iov[i].iov_len - 1];
        }
        for (unsigned int i = chain->n_readable; i < chain->n_readable + chain->n_writable; i++) {
                writable += chain->iov[i].iov_len;
                ((uint8_t *)chain->iov[i].iov_base)[chain->iov[i].iov_len - 1] = (uint8_t)sum;
        }
        if (readable != chain->readable || writable != chain->writable || readable + writable > UINT32_MAX)
                abort();
        return (uint32_t)writable;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const struct memory_options options = { .size = RAM };
        _cleanup_(memory_freep) struct memory *memory = NULL;
        static struct virtq_chain chain; /* large; a fuzz target has one thread */
        struct virtq q = { 0 };
        unsigned int chains = 0;

        if (size < HEAD_SIZE)
                return -1;
        if (memory_new(&options, &memory, NULL) < 0)
                abort();
        q.memory = memory;
        q.size_max = VIRTQ_SIZE_MAX;
        q.size = data[0] & 0x80 ? data[1] : (uint16_t)(1u << (data[0] & 15));
        q.indirect = data[2] & 1;
        q.event_idx = data[2] & 2;
        q.desc_gpa = 0x1000u + data[3];
        q.avail_gpa = 0x2000u + data[4];
        q.used_gpa = 0x3000u + data[5];
        if (data[2] & 4)
                q.used_gpa = RAM - data[6];
        /* Rings and what indirect tables may hold lie behind each other. */
        memcpy(memory_host(memory, 0x1000, 0x10000), data + HEAD_SIZE,
               size - HEAD_SIZE < 0x10000 ? size - HEAD_SIZE : 0x10000);

        if (virtq_enable(&q) < 0)
                return 0;
        while (virtq_pop(&q, &chain) == 1) {
                if (++chains > UINT16_MAX + 1u)
                        abort(); /* more chains than an index can count: a loop */
                virtq_push(&q, chain.head, touch(&chain));
                if (chains % 3 == 0)
                        virtq_flush(&q);
                if (chains % 7 == 0 && virtq_pop(&q, &chain) == 1)
                        virtq_unpop(&q);
                if (chains > 64)
                        break;
        }
        virtq_flush(&q);
        virtq_disable_notify(&q);
        virtq_enable_notify(&q);
        virtq_reset(&q);
        return 0;
}
