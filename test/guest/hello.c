// SPDX-License-Identifier: GPL-2.0-or-later
/* hello: the guest starts as multiboot says, finds the firmware's tables, and can end the machine with a number */
#include "guest.h"

void guest_main(const char *cmdline) {
        uint32_t cr0;

        __asm__("mov %%cr0, %0" : "=r"(cr0));
        ok(true, "the serial port works");
        ok((cr0 & 0x80000001) == 1, "protected mode without paging");
        ok(str_has(cmdline, "value="), "the command line arrives");
        ok(machine.memory_top > 0x200000, "memory behind 1 MiB");
        wr32(machine.memory_top - 4, 0x12345678);
        is(rd32(machine.memory_top - 4), 0x12345678, "the last word of low memory works");
        ok(machine.cpus >= 1, "the MADT has a processor");
        if (str_has(cmdline, "value=85"))
                guest_exit(85);
}
