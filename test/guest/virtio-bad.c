// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-bad: a driver that breaks each rule of a virtqueue in turn
 *
 * The device may say DEVICE_NEEDS_RESET or ignore the chain; the VMM must survive, write nothing where it wasn't told to, and serve the next
 * driver after a reset as if nothing had been. With "strict" on the command line, DEVICE_NEEDS_RESET is required where the
 * specification calls for it (virtio 1.2 §2.1.2).
 */
#include "virtio.h"

static struct vq queue;
static struct vq_desc indirect[8];
static uint8_t buffer[256] __attribute__((aligned(64)));
static bool strict;

static uint32_t at(const void *p) {
        return (uint32_t)(uintptr_t)p;
}

/* The device works: 32 bytes come, not all alike, and none behind them is touched. */
static void test_works(struct virtio *v, const char *name) {
        bool good = true, changed = false;

        memset(buffer, 0xaa, sizeof(buffer));
        queue.desc[0] = (struct vq_desc){ at(buffer), 32, DESC_WRITE, 0 };
        if (!virtio_start(v, &queue, 0, 0xffff)) {
                ok(false, name);
                return;
        }
        queue.desc[0] = (struct vq_desc){ at(buffer), 32, DESC_WRITE, 0 };
        virtio_kick(v, &queue, 0);
        good = virtio_wait(&queue, 1) && queue.used.ring[0].id == 0 && queue.used.ring[0].len >= 1 &&
               queue.used.ring[0].len <= 32;
        for (unsigned int i = 0; i < 32; i++)
                changed |= buffer[i] != 0xaa;
        for (unsigned int i = 32; i < sizeof(buffer); i++)
                good &= buffer[i] == 0xaa;
        ok(good && changed, name);
}

static const uint64_t features_indirect = 1u << FEATURE_INDIRECT;

/* Each of these fills the queue in a wrong way and returns the head to offer. */
static uint16_t loop_of_one(void) {
        queue.desc[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE | DESC_NEXT, 0 };
        return 0;
}
static uint16_t loop_of_all(void) {
        for (uint16_t i = 0; i < VQ_SIZE; i++)
                queue.desc[i] =
                        (struct vq_desc){ at(buffer), 1, DESC_WRITE | DESC_NEXT, (uint16_t)((i + 1) % VQ_SIZE) };
        return 0;
}
static uint16_t next_outside(void) {
        queue.desc[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE | DESC_NEXT, 0xfff0 };
        return 0;
}
static uint16_t head_outside(void) {
        return VQ_SIZE;
}
static uint16_t far_head_outside(void) {
        return 0xffff;
}
static uint16_t address_outside(void) {
        queue.desc[0] = (struct vq_desc){ 0xfffffffff000, 16, DESC_WRITE, 0 };
        return 0;
}
static uint16_t address_wraps(void) {
        queue.desc[0] = (struct vq_desc){ 0xfffffffffffffff8, 0x1000, DESC_WRITE, 0 };
        return 0;
}
static uint16_t address_in_hole(void) {
        queue.desc[0] = (struct vq_desc){ 0xd0000000, 16, DESC_WRITE, 0 };
        return 0;
}
static uint16_t end_outside(void) {
        queue.desc[0] = (struct vq_desc){ machine.memory_top - 8, 0x7fffffff, DESC_WRITE, 0 };
        return 0;
}
static uint16_t too_long(void) {
        for (uint16_t i = 0; i < VQ_SIZE; i++)
                queue.desc[i] = (struct vq_desc){ 0x100000, 0xffffffff, DESC_WRITE | (i < VQ_SIZE - 1 ? DESC_NEXT : 0),
                                                  (uint16_t)(i + 1) };
        return 0;
}
static uint16_t readable_behind_writable(void) {
        queue.desc[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE | DESC_NEXT, 1 };
        queue.desc[1] = (struct vq_desc){ at(buffer), 16, 0, 0 };
        return 0;
}
static uint16_t indirect_of_odd_length(void) {
        indirect[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE, 0 };
        queue.desc[0] = (struct vq_desc){ at(indirect), 17, DESC_INDIRECT, 0 };
        return 0;
}
static uint16_t indirect_in_indirect(void) {
        indirect[0] = (struct vq_desc){ at(indirect), 16, DESC_INDIRECT, 0 };
        queue.desc[0] = (struct vq_desc){ at(indirect), 16, DESC_INDIRECT, 0 };
        return 0;
}
static uint16_t indirect_and_next(void) {
        indirect[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE, 0 };
        queue.desc[0] = (struct vq_desc){ at(indirect), 16, DESC_INDIRECT | DESC_NEXT, 1 };
        queue.desc[1] = (struct vq_desc){ at(buffer), 16, DESC_WRITE, 0 };
        return 0;
}
static uint16_t indirect_loop(void) {
        indirect[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE | DESC_NEXT, 0 };
        queue.desc[0] = (struct vq_desc){ at(indirect), 128, DESC_INDIRECT, 0 };
        return 0;
}
static uint16_t indirect_outside(void) {
        queue.desc[0] = (struct vq_desc){ 0xfffffffff000, 16, DESC_INDIRECT, 0 };
        return 0;
}
static uint16_t indirect_huge(void) {
        queue.desc[0] = (struct vq_desc){ at(indirect), 0xfffffff0, DESC_INDIRECT, 0 };
        return 0;
}
static uint16_t index_jumps(void) {
        queue.desc[0] = (struct vq_desc){ at(buffer), 16, DESC_WRITE, 0 };
        queue.avail.idx += 1000; /* more than the queue holds */
        return 0;
}

static const struct {
        const char *name;
        uint16_t (*fill)(void);
        bool indirect, must_break;
} cases[] = {
        { "a descriptor that follows itself", loop_of_one, false, true },
        { "a loop through the whole table", loop_of_all, false, true },
        { "a next field outside the table", next_outside, false, true },
        { "a head outside the table", head_outside, false, true },
        { "a head far outside the table", far_head_outside, false, true },
        { "a buffer outside memory", address_outside, false, true },
        { "a buffer that wraps around", address_wraps, false, true },
        { "a buffer in the PCI hole", address_in_hole, false, true },
        { "a buffer that ends outside memory", end_outside, false, true },
        { "buffers longer than 4 GiB", too_long, false, true },
        { "a readable buffer behind a writable one", readable_behind_writable, false, true },
        { "an indirect table of 17 bytes", indirect_of_odd_length, true, true },
        { "an indirect table in an indirect table", indirect_in_indirect, true, true },
        { "an indirect descriptor with a next one", indirect_and_next, true, true },
        { "a loop in an indirect table", indirect_loop, true, true },
        { "an indirect table outside memory", indirect_outside, true, true },
        { "an indirect table of 4 GiB", indirect_huge, true, true },
        { "an available index that jumps ahead", index_jumps, false, true },
};

static void test_case(struct virtio *v, unsigned int i) {
        uint8_t status = 0;

        if (!virtio_start(v, &queue, cases[i].indirect ? features_indirect : 0, 0xffff)) {
                ok(false, "the device starts");
                return;
        }
        virtio_kick(v, &queue, cases[i].fill());
        for (unsigned int n = 0; n < 200 && !(status & STATUS_NEEDS_RESET); n++) {
                wait_us(500);
                status = virtio_status(v);
        }
        print("# status 0x%x, used index %u\n", status, queue.used.idx);
        ok(!strict || !cases[i].must_break || status & STATUS_NEEDS_RESET, cases[i].name);
}

/* Writes to the common configuration that make no sense; the device only has to be there afterwards. */
static void poke_registers(struct virtio *v) {
        virtio_reset(v);
        for (uint32_t reg = 0; reg < 0x38; reg++) {
                wr8(v->common + reg, 0xff);
                (void)rd8(v->common + reg);
        }
        for (uint32_t reg = 0; reg < 0x38; reg += 2)
                wr32(v->common + reg, 0xffffffff);
        for (uint32_t reg = 0; reg < 0x100; reg += 4)
                wr32(v->notify + reg, 0xffffffff);
        wr16(v->common + 0x16, 0xffff); /* a queue that isn't there */
        wr16(v->common + 0x1c, 1);
        ok(true, "registers survive nonsense");
}

static void queue_outside_memory(struct virtio *v) {
        struct vq *nowhere = (void *)0xd8000000;

        virtio_reset(v);
        wr8(v->common + 0x14, 1);
        wr8(v->common + 0x14, 3);
        wr32(v->common + 0x08, 1);
        wr32(v->common + 0x0c, 1);
        wr8(v->common + 0x14, 0xb);
        wr16(v->common + 0x16, 0);
        wr32(v->common + 0x20, at(nowhere));
        wr32(v->common + 0x28, at(nowhere));
        wr32(v->common + 0x30, at(nowhere));
        wr16(v->common + 0x1c, 1);
        wr8(v->common + 0x14, 0xf);
        wr16(v->notify, 0);
        ok(true, "a queue outside memory does no harm");
}

void guest_main(const char *cmdline) {
        struct virtio v;

        strict = str_has(cmdline, "strict");
        if (!virtio_open(&v, 0x1044, 0xd0000000))
                guest_fail("no virtio-rng");
        test_works(&v, "the device works");
        for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                test_case(&v, i);
                test_works(&v, "  after it, a reset makes the device work again");
        }
        poke_registers(&v);
        test_works(&v, "  after it, a reset makes the device work again");
        queue_outside_memory(&v);
        test_works(&v, "  after it, a reset makes the device work again");
}
