// SPDX-License-Identifier: GPL-2.0-or-later
/* pci: BARs have sizes and move, capability lists end, MSI-X obeys its masks and remembers what they held back (PCI 3.0 §6.2.5, §6.8.2) */
#include "virtio.h"

#define VECTOR 0x51

static struct vq queue;
static uint8_t entropy[64];
static volatile uint32_t interrupts;

__attribute__((interrupt)) static void on_msi(struct interrupt_frame *frame) {
        interrupts++;
        interrupt_eoi();
}

static void test_bars(struct virtio *v) {
        uint32_t reg = v->config + 0x10, moved, before;
        unsigned int bar = 0;

        while (bar < 6 && !(rd32(reg + bar * 4) & ~0xfu)) /* the first one that is there */
                bar++;
        for (uint32_t cap = 0; (cap = pci_capability(v->config, 9, cap)) != 0;)
                if (rd8(cap + 3) == 1)
                        bar = rd8(cap + 4); /* the common configuration's */
        before = rd16(v->common + 0x12);    /* number of queues */
        ok(before >= 1 && before < 64, "the common configuration is there");
        moved = v->next_bar + 0x100000;
        moved &= ~0xfffffu;
        pci_place_bar(v->config, bar, moved);
        is(rd32(reg + bar * 4) & ~0xfu, moved, "a BAR keeps the address that it is given");
        is(rd16(moved + (v->common & 0xfff) + 0x12), before, "the device answers there");
        is(rd32(v->common), 0xffffffff, "and not at its old place");
        wr16(v->config + 4, (uint16_t)(rd16(v->config + 4) & ~2u));
        is(rd32(moved), 0xffffffff, "without memory decoding it answers nowhere");
        wr16(v->config + 4, (uint16_t)(rd16(v->config + 4) | 2));
        pci_place_bar(v->config, bar, v->common & ~0xfffu);
        is(rd16(v->common + 0x12), before, "it moves back");
}

static void test_config(struct virtio *v) {
        uint32_t id = rd32(v->config), steps = 0;

        wr32(v->config, 0);
        is(rd32(v->config), id, "the vendor is read-only");
        ok(rd16(v->config + 6) & 0x10, "there is a capability list");
        for (uint32_t at = rd8(v->config + 0x34); at && steps < 48; at = rd8(v->config + at + 1))
                steps++;
        ok(steps >= 5 && steps < 48, "which ends");
        is(rd8(v->config + 0x3d), 0, "no interrupt pin: MSI-X only");
}

static bool ask(struct virtio *v, uint16_t used) {
        queue.desc[0] = (struct vq_desc){ (uint32_t)(uintptr_t)entropy, sizeof(entropy), DESC_WRITE, 0 };
        virtio_kick(v, &queue, 0);
        return virtio_wait(&queue, used);
}

static void test_msix(struct virtio *v) {
        uint32_t cap = pci_capability(v->config, 0x11, 0), bars = v->config + 0x10, table, pba, control = cap + 2;

        if (!ok(cap != 0, "there is MSI-X"))
                return;
        table = (rd32(bars + (rd32(cap + 4) & 7) * 4) & ~0xfu) + (rd32(cap + 4) & ~7u);
        pba = (rd32(bars + (rd32(cap + 8) & 7) * 4) & ~0xfu) + (rd32(cap + 8) & ~7u);
        ok((rd16(control) & 0x7ff) >= 1, "with a vector for the queue");
        is(rd32(table + 16 + 12) & 1, 1, "vectors start masked");
        wr32(table + 16, 0xfee00000);
        wr32(table + 16 + 4, 0);
        wr32(table + 16 + 8, VECTOR);
        wr16(control, (uint16_t)(rd16(control) | 0x8000));
        ok(virtio_start(v, &queue, 0, 1), "the queue takes vector 1");

        ok(ask(v, 1), "the device serves a request");
        wait_us(10000);
        is(interrupts, 0, "a masked vector is silent");
        is(rd32(pba) >> 1 & 1, 1, "but pending");
        wr32(table + 16 + 12, 0);
        ok(wait_for(&interrupts, 1000000), "unmasking lets it go");
        is(rd32(pba) >> 1 & 1, 0, "and nothing is pending any more");
        interrupts = 0;
        ok(ask(v, 2) && wait_for(&interrupts, 1000000), "an unmasked vector interrupts at once");
        wait_us(10000);
        is(interrupts, 1, "once");

        interrupts = 0;
        wr16(control, (uint16_t)(rd16(control) | 0x4000)); /* mask the function */
        ok(ask(v, 3), "a request while the function is masked");
        wait_us(10000);
        is(interrupts, 0, "is silent");
        wr16(control, (uint16_t)(rd16(control) & ~0x4000u));
        ok(wait_for(&interrupts, 1000000), "until it is unmasked");
}

void guest_main(const char *cmdline) {
        struct virtio v;

        if (!virtio_open(&v, 0x1044, 0xd0000000))
                guest_fail("no virtio-rng");
        interrupts_init();
        interrupt_set(VECTOR, on_msi);
        interrupts_on();
        test_config(&v);
        test_bars(&v);
        test_msix(&v);
        interrupts_off();
}
