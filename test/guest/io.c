// SPDX-License-Identifier: GPL-2.0-or-later
/* io: accesses that nobody answers, that straddle a device's border, that repeat; the two ways into configuration space */
#include "guest.h"

static void rep_outsb(const char *s, uint32_t n) {
        __asm__ volatile("rep outsb" : "+S"(s), "+c"(n) : "d"((uint16_t)0x3f8) : "memory");
}

static void rep_insb(void *to, uint32_t n, uint16_t port) {
        __asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(port) : "memory");
}

static uint32_t config_by_port(uint32_t address, uint16_t data_port) {
        outl(0xcf8, 0x80000000 | address);
        return inl(data_port);
}

static void test_ports(void) {
        uint16_t pm_end = (uint16_t)(machine.pm_tmr + 8); /* timer 4, GPE0 4: the block's end here */
        uint8_t status[4] = { 0 };
        uint32_t t;

        is(inb(0x1234), 0xff, "a port that nobody answers reads as ones");
        is(inw(0x1234), 0xffff, "in two bytes");
        is(inl(0x1234), 0xffffffff, "in four bytes");
        outl(0x1234, 0);
        ok(true, "writing there does nothing");
        if (machine.pm_tmr == 0x608) { /* ours; another VMM has other neighbours */
                is(inl((uint16_t)(pm_end - 2)), 0xffffffff, "a read over the border of a device reads as ones");
                is(inw((uint16_t)(pm_end - 1)), 0xffff, "in two bytes");
                outl((uint16_t)(pm_end - 2), 0xffffffff);
                is(inl(0x3fd), 0xffffffff, "so does one that starts in the serial port");
        }
        rep_outsb("# one write of many bytes\n", 26);
        rep_insb(status, sizeof(status), 0x3fd);
        ok((status[0] & 0x20) && status[0] == status[3], "one read of many bytes");
        t = timer_read();
        wait_us(2000);
        ok(((timer_read() - t) & 0xffffff) >= 7000, "the ACPI timer runs");
}

static void test_config_space(void) {
        uint32_t absent = machine.ecam + (29u << 15);

        is(config_by_port(0, 0xcfc), rd32(machine.ecam), "ports and ECAM show the same host bridge");
        outl(0xcf8, 0x80000000);
        is(inw(0xcfe), rd16(machine.ecam + 2), "two bytes at 0xcfe");
        is(inb(0xcff), rd8(machine.ecam + 3), "one byte at 0xcff");
        outl(0xcf8, 0);
        is(inl(0xcfc), 0xffffffff, "without the enable bit nobody answers");
        is(config_by_port(31u << 11 | 7u << 8, 0xcfc), 0xffffffff, "an absent function reads as ones");
        outb(0xcf8, 0x55);
        ok(true, "a byte to the address port does no harm");
        is(rd32(absent), 0xffffffff, "an absent function reads as ones by ECAM");
        is(rd32(absent + 0xffe), 0xffffffff, "also over the border of two functions");
        wr32(absent, 0);
        is(rd32(absent), 0xffffffff, "writing there does nothing");
}

static void test_memory_holes(void) {
        uint32_t hole = 0xdfff0000;

        is(rd8(hole), 0xff, "memory that nobody answers reads as ones");
        is(rd32(hole + 0xffe), 0xffffffff, "also over a page's border");
        wr32(hole + 0xffe, 0);
        is(rd32(hole), 0xffffffff, "writing there does nothing");
}

void guest_main(const char *cmdline) {
        test_ports();
        test_config_space();
        test_memory_holes();
}
