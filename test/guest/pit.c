// SPDX-License-Identifier: GPL-2.0-or-later
/* pit: the i8254 ticks at its rate and reaches the processor through the IOAPIC's pin 2 */
#include "guest.h"

#define RATE 100u

static volatile uint32_t ticks;

__attribute__((interrupt)) static void on_tick(struct interrupt_frame *frame) {
        ticks++;
        interrupt_eoi();
}

static uint16_t counter(void) {
        uint16_t v;

        outb(0x43, 0); /* latch channel 0 */
        v = inb(0x40);
        return (uint16_t)(v | inb(0x40) << 8);
}

/*
 * The ACPI timer counts three times as fast as the PIT, so each measures the other. The host may stop us anywhere, hence the two bounds, and
 * only a measurement whose bounds lie close together says something.
 */
static bool counts_at_its_rate(uint32_t divisor) {
        for (unsigned int i = 0; i < 200; i++) {
                uint32_t outer = timer_read(), from = counter(), inner = timer_read(), passed, least, most;

                wait_us(3000);
                least = ((timer_read() - inner) & 0xffffff) / 3;
                passed = counter();
                most = ((timer_read() - outer) & 0xffffff) / 3;
                if (most - least > 1500 || most + 16 >= divisor)
                        continue;
                passed = (from + divisor - passed) % divisor;
                print("# %u counts where %u to %u were due\n", passed, least, most);
                return passed + 16 >= least && passed <= most + 16;
        }
        return false;
}

void guest_main(const char *cmdline) {
        uint16_t divisor = 1193182 / RATE;
        uint32_t passed = 0, last;

        interrupts_init();
        interrupt_set(0x30, on_tick);
        outb(0x43, 0x34); /* channel 0, both bytes, mode 2 */
        outb(0x40, divisor & 0xff);
        outb(0x40, divisor >> 8);
        ok(counts_at_its_rate(divisor), "the counter counts at its rate");
        ioapic_route(2, 0x30, false);
        interrupts_on();
        ok(wait_for(&ticks, 1000000), "a tick arrives");
        ticks = 0;
        last = timer_read();
        while (ticks < 50 && passed < 20 * 3579545u) { /* a busy host may be late, so the limit is far away */
                uint32_t now = timer_read();

                passed += (now - last) & 0xffffff;
                last = now;
                pause_cpu();
        }
        print("# 50 ticks in %u ms at %u Hz\n", passed / 3580, RATE);
        ok(ticks >= 50, "ticks go on");
        ok(passed > 3579545 / 100 * 40, "but no faster than asked for"); /* 400 ms: some may have been late before */
        interrupts_off();
}
