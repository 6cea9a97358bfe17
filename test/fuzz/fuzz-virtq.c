// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-virtq: the input is a driver gone mad: it writes rings, descriptors and indirect tables, and the device's calls come in any order
 *
 * What must hold: every buffer of a popped chain lies inside RAM, totals are right and bounded, a broken queue stays silent.
 */
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "test/fuzz/input.h"
#include "vmm/machine/memory.h"
#include "vmm/virtio/virtq.h"

#define RAM      0x20000u
#define DESC     0x0000u
#define AVAIL    0x4000u
#define USED     0x5000u
#define INDIRECT 0x8000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
        struct memory *memory;
        struct virtq q;
        struct virtq_chain chain;
};

static void check_chain(const struct target *t) {
        const uint8_t *start = memory_host(t->memory, 0, RAM), *end = start + RAM;
        const struct virtq_chain *c = &t->chain;
        uint64_t totals[2] = { 0, 0 };

        MUST(c->head < t->q.size);
        MUST(c->n_readable + c->n_writable <= VIRTQ_CHAIN_MAX);
        for (unsigned int i = 0; i < c->n_readable + c->n_writable; i++) {
                const uint8_t *base = c->iov[i].iov_base;

                MUST(c->iov[i].iov_len > 0 && base >= start && base < end);
                MUST(c->iov[i].iov_len <= (size_t)(end - base));
                totals[i >= c->n_readable] += c->iov[i].iov_len;
        }
        MUST(totals[0] == c->readable && totals[1] == c->writable);
        MUST(c->readable + c->writable <= UINT32_MAX);
}

static void enable(struct target *t, struct input *in) {
        unsigned int options = (unsigned int)input_take(in, 1);

        virtq_reset(&t->q);
        t->q.size = (options & 0x80) ? (uint16_t)input_take(in, 2) : (uint16_t)(1 << (options & 7));
        t->q.indirect = options & 8;
        t->q.event_idx = options & 16;
        t->q.desc_gpa = (options & 0x20) ? input_take(in, 3) : DESC;
        t->q.avail_gpa = (options & 0x20) ? input_take(in, 3) : AVAIL;
        t->q.used_gpa = (options & 0x20) ? input_take(in, 3) : USED;
        (void)virtq_enable(&t->q);
}

static void put_desc(struct target *t, struct input *in, uint64_t table, unsigned int n) {
        struct vring_desc d;
        unsigned int i = (unsigned int)input_take(in, 1) % n, kind = (unsigned int)input_take(in, 1);

        d.flags = kind & 7;
        d.addr = (kind & 0x80) ? input_take(in, 8) : input_take(in, 3);
        d.len = (kind & 0x40) ? (uint32_t)input_take(in, 4) : (uint32_t)(input_take(in, 1) * ((kind & 0x20) ? 16 : 1));
        d.next = (uint16_t)input_take(in, 1);
        (void)memory_write(t->memory, table + i * sizeof(d), &d, sizeof(d));
}

static void offer(struct target *t, struct input *in) {
        uint16_t head = (uint16_t)input_take(in, 1), idx = 0;

        (void)memory_read(t->memory, t->q.avail_gpa + 2, &idx, sizeof(idx));
        (void)memory_write(t->memory, t->q.avail_gpa + 4 + 2ull * (t->q.size ? idx % t->q.size : 0), &head,
                           sizeof(head));
        idx++;
        (void)memory_write(t->memory, t->q.avail_gpa + 2, &idx, sizeof(idx));
}

static void step(struct target *t, struct input *in) {
        bool broken = t->q.broken;
        uint64_t word;
        int r;

        switch (input_take(in, 1) % 11) {
        case 0:
                enable(t, in);
                break;
        case 1:
                put_desc(t, in, t->q.desc_gpa, 128);
                break;
        case 2:
                put_desc(t, in, INDIRECT, 64);
                break;
        case 3:
                offer(t, in);
                break;
        case 4:
        case 5:
                r = virtq_pop(&t->q, &t->chain);
                MUST(r == 0 || r == 1 || r == -EPROTO);
                MUST(!(broken && t->q.enabled) || r == -EPROTO);
                if (r == 1) {
                        check_chain(t);
                        (void)virtq_chain_write(&t->chain, input_take(in, 1), &word, sizeof(word));
                        (void)virtq_chain_read(&t->chain, input_take(in, 1), &word, sizeof(word));
                }
                break;
        case 6:
                virtq_push(&t->q, (uint16_t)input_take(in, 1), (uint32_t)input_take(in, 1));
                break;
        case 7:
                MUST(!virtq_flush(&t->q) || !broken);
                break;
        case 8:
                virtq_unpop(&t->q);
                break;
        case 9:
                (input_take(in, 1) & 1) ? virtq_disable_notify(&t->q) : (void)virtq_enable_notify(&t->q);
                break;
        case 10:
                word = input_take(in, 3) % RAM;
                r = (int)input_take(in, 2);
                (void)memory_write(t->memory, word, &r, 2);
                break;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static struct target *t; /* made once: only the RAM's content matters */
        struct memory_options options = { .size = RAM };
        struct input in = { data, size };

        if (!t) {
                t = calloc(1, sizeof(*t));
                MUST(t && memory_new(&options, &t->memory, NULL) >= 0);
                t->q.memory = t->memory;
                t->q.size_max = 256;
        }
        memset(memory_host(t->memory, 0, RAM), 0, RAM);
        enable(t, &in);
        while (in.left > 0)
                step(t, &in);
        return 0;
}
