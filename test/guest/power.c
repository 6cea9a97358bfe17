// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * power: the power button raises the SCI, and S5 turns the machine off
 *
 * With "button" on the command line, waits for the button first: prints "ready" for whoever presses it.
 */
#include "guest.h"

#define PWRBTN 0x100u

static volatile uint32_t pressed, interrupts;

__attribute__((interrupt)) static void on_sci(struct interrupt_frame *frame) {
        uint16_t status = inw((uint16_t)machine.pm1_evt);

        interrupts++;
        pressed |= status & PWRBTN;
        outw((uint16_t)machine.pm1_evt, status); /* write 1 to clear: the level goes down */
        interrupt_eoi();
}

static void test_button(void) {
        uint16_t enable = (uint16_t)(machine.pm1_evt + machine.pm1_len / 2);

        interrupts_init();
        interrupt_set(0x41, on_sci);
        outw((uint16_t)machine.pm1_evt, 0xffff);
        outw(enable, PWRBTN);
        is(inw(enable), PWRBTN, "the enable bit stays");
        ioapic_route(machine.sci, 0x41, true);
        interrupts_on();
        print("ready\n");
        ok(wait_for(&pressed, 20000000), "the button raises the SCI");
        wait_us(10000);
        is(interrupts, 1, "once");
        is(inw((uint16_t)machine.pm1_evt) & PWRBTN, 0, "and it can be acknowledged");
        interrupts_off();
}

void guest_main(const char *cmdline) {
        uint32_t smi = rd32(machine.fadt + 48);

        if (smi) /* not on our machine, which is in ACPI mode from the start */
                outb((uint16_t)smi, rd8(machine.fadt + 52));
        is(inw((uint16_t)machine.pm1_cnt) & 1, 1, "ACPI mode is on");
        if (str_has(cmdline, "button"))
                test_button();
        ok(true, "turning off");
        print("1..%u\n", str_has(cmdline, "button") ? 6u : 2u);
        outw((uint16_t)machine.pm1_cnt,
             0x2000 | (str_has(cmdline, "s5=0") ? 0 : 5u << 10)); /* SLP_EN, SLP_TYP of \_S5 */
        wait_us(2000000);
        guest_fail("still on");
}
