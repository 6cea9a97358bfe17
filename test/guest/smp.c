// SPDX-License-Identifier: GPL-2.0-or-later
/* smp: every processor of the MADT starts by INIT and SIPI, once, with an id of its own */
#include "guest.h"

static volatile uint32_t started, all_started, stores[256];

void guest_ap_main(void) {
        uint32_t id = rd32(machine.lapic + 0x20) >> 24;

        __atomic_add_fetch(&stores[id], 1, __ATOMIC_SEQ_CST);
        if (__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST) == machine.cpus - 1)
                all_started = 1;
}

extern const uint8_t guest_trampoline[], guest_trampoline_end[];

static void send_ipi(uint32_t id, uint32_t command) {
        wr32(machine.lapic + 0x310, id << 24);
        wr32(machine.lapic + 0x300, command);
        while (rd32(machine.lapic + 0x300) & 1u << 12)
                pause_cpu();
}

void guest_main(const char *cmdline) {
        uint32_t self = rd32(machine.lapic + 0x20) >> 24, end = machine.madt + rd32(machine.madt + 4), bad = 0;

        wr32(machine.lapic + 0xf0, 0x1ff);
        memcpy((void *)GUEST_TRAMPOLINE, guest_trampoline, (size_t)(guest_trampoline_end - guest_trampoline));
        is(self, 0, "the boot processor has id 0");
        for (uint32_t at = machine.madt + 44; at < end; at += rd8(at + 1))
                if (rd8(at) == 0 && rd8(at + 3) != self) {
                        send_ipi(rd8(at + 3), 0x4500); /* INIT */
                        wait_us(1000);
                        send_ipi(rd8(at + 3), 0x4600 | GUEST_TRAMPOLINE >> 12); /* SIPI */
                        wait_us(200);
                        send_ipi(rd8(at + 3),
                                 0x4600 | GUEST_TRAMPOLINE >> 12); /* the second one must not start it again */
                }
        if (machine.cpus > 1)
                ok(wait_for(&all_started, 5000000), "all others started");
        print("# %u processors, %u started\n", machine.cpus, started);
        is(started, machine.cpus - 1, "none is missing");
        for (uint32_t at = machine.madt + 44; at < end; at += rd8(at + 1))
                if (rd8(at) == 0 && rd8(at + 3) != self && stores[rd8(at + 3)] != 1)
                        bad++;
        is(bad, 0, "each ran once, under the id that the MADT gives it");
}
