// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reset: each way to reset the machine starts it again
 *
 * how=triple|cf9|i8042|acpi|port92 on the command line. RAM keeps its content over a reset, so a mark in it tells the second start from
 * the first; what the loader put into memory is spoilt before the reset, to see that it is loaded again.
 */
#include "guest.h"

#define MARK_AT 0x300000u
#define MARK    0x7e5e7000u

static volatile uint32_t fresh = 0x600d; /* initialised data: as in the file after every start */

static void triple_fault(void) {
        const struct {
                uint16_t limit;
                uint32_t base;
        } __attribute__((packed)) none = { 0, 0 };

        __asm__ volatile("lidt %0; int3" : : "m"(none));
}

void guest_main(const char *cmdline) {
        uint32_t starts = (rd32(MARK_AT) & 0xfffff000) == MARK ? rd32(MARK_AT) & 0xfff : 0;

        is(fresh, 0x600d, "the kernel is as in its file");
        is(inb(0x3f8 + 7), 0, "the serial port is as after power-on");
        if (starts == 1) {
                wr32(MARK_AT, 0);
                ok(true, "started again");
                return;
        }
        ok(starts == 0, "first start");
        wr32(MARK_AT, MARK | 1);
        outb(0x3f8 + 7, 0x42); /* scratch register */
        fresh = 0xbad;
        print("# resetting by %s\n", cmdline);
        if (str_has(cmdline, "how=triple"))
                triple_fault();
        else if (str_has(cmdline, "how=cf9")) {
                outb(0xcf9, 0x02);
                outb(0xcf9, 0x06);
        } else if (str_has(cmdline, "how=i8042"))
                outb(0x64, 0xfe);
        else if (str_has(cmdline, "how=acpi"))
                outb((uint16_t)machine.reset_port, (uint8_t)machine.reset_value);
        else if (str_has(cmdline, "how=port92"))
                outb(0x92, 0x01);
        wait_us(2000000);
        guest_fail("the reset did not happen");
}
