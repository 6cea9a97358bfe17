// SPDX-License-Identifier: GPL-2.0-or-later
/* guest: see guest.h */
#include "guest.h"

#include <stdarg.h>

#define SERIAL     0x3f8
#define DEBUG_EXIT 0xf4
#define PM_HZ      3579545u

struct guest_machine machine;
static unsigned int n_tests, n_failed;

void guest_start(uint32_t magic, uint32_t info);

void *memset(void *p, int c, size_t n) {
        for (volatile uint8_t *b = p; n > 0; n--)
                *b++ = (uint8_t)c;
        return p;
}

void *memcpy(void *to, const void *from, size_t n) {
        const uint8_t *f = from;

        for (volatile uint8_t *t = to; n > 0; n--)
                *t++ = *f++;
        return to;
}

int mem_cmp(const void *a, const void *b, size_t n) {
        const uint8_t *x = a, *y = b;

        for (; n > 0; n--, x++, y++)
                if (*x != *y)
                        return *x - *y;
        return 0;
}

bool str_has(const char *text, const char *word) {
        size_t n = 0;

        while (word[n])
                n++;
        for (; *text; text++) {
                size_t i = 0;

                while (i < n && text[i] == word[i])
                        i++;
                if (i == n)
                        return true;
        }
        return false;
}

static void put(char c) {
        for (unsigned int i = 0; i < 100000 && !(inb(SERIAL + 5) & 0x20); i++)
                pause_cpu();
        outb(SERIAL, (uint8_t)c);
}

static void put_string(const char *s) {
        while (*s)
                put(*s++);
}

static void put_number(uint32_t v, unsigned int base) {
        char digits[12];
        unsigned int n = 0;

        do {
                digits[n++] = "0123456789abcdef"[v % base];
                v /= base;
        } while (v);
        while (n > 0)
                put(digits[--n]);
}

static void vprint(const char *f, va_list ap) {
        for (; *f; f++) {
                int d;

                if (*f != '%') {
                        put(*f);
                        continue;
                }
                switch (*++f) {
                case 's':
                        put_string(va_arg(ap, const char *));
                        break;
                case 'd':
                        d = va_arg(ap, int);
                        if (d < 0)
                                put('-');
                        put_number(d < 0 ? -(uint32_t)d : (uint32_t)d, 10);
                        break;
                case 'u':
                        put_number(va_arg(ap, uint32_t), 10);
                        break;
                case 'x':
                        put_number(va_arg(ap, uint32_t), 16);
                        break;
                case 'c':
                        put((char)va_arg(ap, int));
                        break;
                default:
                        put(*f);
                }
        }
}

void print(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vprint(format, ap);
        va_end(ap);
}

bool ok(bool passed, const char *name) {
        n_tests++;
        if (!passed)
                n_failed++;
        print("%sok %u - %s\n", passed ? "" : "not ", n_tests, name);
        return passed;
}

bool is(uint32_t got, uint32_t wanted, const char *name) {
        if (got != wanted)
                print("# got 0x%x, wanted 0x%x\n", got, wanted);
        return ok(got == wanted, name);
}

void guest_exit(uint32_t value) {
        outl(DEBUG_EXIT, value);
        print("Bail out! still here after the debug exit\n");
        for (;;)
                __asm__ volatile("cli; hlt");
}

void guest_done(void) {
        print("1..%u\n", n_tests);
        guest_exit(n_failed > 0);
}

void guest_fail(const char *why) {
        print("Bail out! %s\n", why);
        guest_exit(1);
}

/* ACPI */

static bool sums_to_zero(uint32_t at, uint32_t n) {
        uint8_t sum = 0;

        while (n-- > 0)
                sum = (uint8_t)(sum + rd8(at++));
        return sum == 0;
}

static void note_table(uint32_t table) {
        static const char names[3][5] = { "FACP", "APIC", "MCFG" };
        uint32_t *const places[3] = { &machine.fadt, &machine.madt, &machine.mcfg };

        for (unsigned int i = 0; i < 3; i++)
                if (mem_cmp((void *)(uintptr_t)table, names[i], 4) == 0 && sums_to_zero(table, rd32(table + 4)))
                        *places[i] = table;
}

static void find_tables(void) {
        for (uint32_t at = 0xe0000; at < 0x100000 && !machine.rsdp; at += 16)
                if (mem_cmp((void *)(uintptr_t)at, "RSD PTR ", 8) == 0 && sums_to_zero(at, 20))
                        machine.rsdp = at;
        if (!machine.rsdp)
                guest_fail("no RSDP");
        if (rd8(machine.rsdp + 15) >= 2 && rd32(machine.rsdp + 24)) { /* XSDT */
                uint32_t xsdt = rd32(machine.rsdp + 24);

                for (uint32_t i = 36; i < rd32(xsdt + 4); i += 8)
                        note_table(rd32(xsdt + i));
        } else {
                uint32_t rsdt = rd32(machine.rsdp + 16);

                for (uint32_t i = 36; i < rd32(rsdt + 4); i += 4)
                        note_table(rd32(rsdt + i));
        }
        if (!machine.fadt || !machine.madt || !machine.mcfg)
                guest_fail("no FADT, MADT or MCFG");
}

static void read_tables(void) {
        uint32_t end = machine.madt + rd32(machine.madt + 4);

        machine.sci = rd16(machine.fadt + 46);
        machine.pm1_evt = rd32(machine.fadt + 56);
        machine.pm1_cnt = rd32(machine.fadt + 64);
        machine.pm_tmr = rd32(machine.fadt + 76);
        machine.pm1_len = rd8(machine.fadt + 88);
        machine.reset_port = rd32(machine.fadt + 120);
        machine.reset_value = rd8(machine.fadt + 128);
        machine.ecam = rd32(machine.mcfg + 44);
        machine.lapic = rd32(machine.madt + 36);
        for (uint32_t at = machine.madt + 44; at < end && rd8(at + 1) >= 2; at += rd8(at + 1)) {
                if (rd8(at) == 0 && rd32(at + 4) & 1)
                        machine.cpus++;
                if (rd8(at) == 1)
                        machine.ioapic = rd32(at + 4);
        }
}

void guest_start(uint32_t magic, uint32_t info) {
        outb(SERIAL + 1, 0);
        outb(SERIAL + 3, 3);
        print("TAP version 13\n");
        if (magic != 0x2badb002)
                guest_fail("not started by multiboot");
        machine.memory_top = 0x100000 + rd32(info + 8) * 1024;
        find_tables();
        read_tables();
        guest_main((const char *)(uintptr_t)(rd32(info) & 4 ? rd32(info + 16) : (uint32_t)(uintptr_t) ""));
        guest_done();
}

__attribute__((weak)) void guest_ap_main(void) {
}

/* Time */

uint32_t timer_read(void) {
        return inl((uint16_t)machine.pm_tmr) & 0xffffff; /* 24 bits are always there */
}

void wait_us(uint32_t us) {
        volatile uint32_t never = 0;

        (void)wait_for(&never, us);
}

bool wait_for(volatile uint32_t *flag, uint32_t us) {
        uint32_t last = timer_read(), left = us / 1000 * (PM_HZ / 1000) + us % 1000 * (PM_HZ / 1000) / 1000;

        while (!*flag) {
                uint32_t now = timer_read(), passed = (now - last) & 0xffffff;

                if (passed >= left)
                        return *flag != 0;
                left -= passed;
                last = now;
                pause_cpu();
        }
        return true;
}

/* Interrupts */

static struct { uint16_t low, selector, flags, high; } idt[256];

__attribute__((interrupt)) static void unexpected(struct interrupt_frame *frame) {
        guest_fail("unexpected interrupt or exception");
}

__attribute__((interrupt)) static void spurious(struct interrupt_frame *frame) {
}

void interrupt_set(unsigned int vector, interrupt_fn fn) {
        uint32_t at = (uint32_t)(uintptr_t)fn;

        idt[vector].low = (uint16_t)at;
        idt[vector].selector = 0x08;
        idt[vector].flags = 0x8e00;
        idt[vector].high = (uint16_t)(at >> 16);
}

void interrupt_load_idt(void) {
        const struct {
                uint16_t limit;
                uint32_t base;
        } __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint32_t)(uintptr_t)idt };

        __asm__ volatile("lidt %0" : : "m"(pointer));
}

void interrupts_init(void) {
        for (unsigned int i = 0; i < 256; i++)
                interrupt_set(i, unexpected);
        interrupt_set(0xff, spurious);
        interrupt_load_idt();
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
        wr32(machine.lapic + 0xf0, 0x1ff); /* on, spurious vector 0xff */
        wr32(machine.lapic + 0x80, 0);     /* every priority */
}

void interrupt_eoi(void) {
        wr32(machine.lapic + 0xb0, 0);
}

static void ioapic_write(unsigned int reg, uint32_t v) {
        wr32(machine.ioapic, reg);
        wr32(machine.ioapic + 0x10, v);
}

void ioapic_route(unsigned int pin, unsigned int vector, bool level) {
        ioapic_write(0x11 + pin * 2, rd32(machine.lapic + 0x20)); /* the id's place is the same in both */
        ioapic_write(0x10 + pin * 2, vector | (level ? 1u << 15 : 0));
}

/* PCI */

uint32_t pci_find(uint16_t vendor, uint16_t device) {
        for (uint32_t slot = 0; slot < 32; slot++) {
                uint32_t config = machine.ecam + (slot << 15);

                if (rd32(config) == ((uint32_t)device << 16 | vendor))
                        return config;
        }
        return 0;
}

uint32_t pci_capability(uint32_t config, uint8_t id, uint32_t after) {
        uint32_t at = after ? rd8(after + 1) : rd8(config + 0x34);

        for (unsigned int i = 0; i < 48 && at >= 0x40; i++, at = rd8(config + at + 1))
                if (rd8(config + at) == id)
                        return config + at;
        return 0;
}

void pci_place_bar(uint32_t config, unsigned int bar, uint32_t address) {
        uint32_t reg = config + 0x10 + bar * 4;
        uint16_t command = rd16(config + 4);

        wr16(config + 4, (uint16_t)(command & ~2u));
        if ((rd32(reg) & 6) == 4)
                wr32(reg + 4, 0);
        wr32(reg, address);
        wr16(config + 4, (uint16_t)(command | 6)); /* memory, bus master */
}
