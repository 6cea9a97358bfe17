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

void guest_main(const char *cmdline) {
        uint16_t first, divisor = 1193182 / RATE;
        uint32_t seen;

        interrupts_init();
        interrupt_set(0x30, on_tick);
        outb(0x43, 0x34); /* channel 0, both bytes, mode 2 */
        outb(0x40, divisor & 0xff);
        outb(0x40, divisor >> 8);
        first = counter();
        wait_us(1000);
        ok(counter() != first, "the counter counts");
        ioapic_route(2, 0x30, false);
        interrupts_on();
        ok(wait_for(&ticks, 1000000), "a tick arrives");
        ticks = 0;
        wait_us(500000);
        seen = ticks;
        print("# %u ticks in half a second at %u Hz\n", seen, RATE);
        ok(seen >= RATE / 4 && seen <= RATE * 3 / 4, "about as many ticks as asked for"); /* a busy host may be late */
        interrupts_off();
}
