// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * guest: what a freestanding test guest has to work with
 *
 * A guest is one C file with a guest_main(), linked with start.S and guest.c into a 32-bit multiboot kernel. It prints TAP
 * on the serial port and ends by guest_done(): through the debug-exit port with 0 when all went well, so the VMM's exit status is 1, else 1,
 * status 3. It uses only what the machine tells it (ACPI, PCI), so it runs under QEMU as well, which keeps the tests honest.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_TRAMPOLINE 0x10000u /* page where SIPIs start processors */

/* A guest's own code. */
void guest_main(const char *cmdline);
void guest_ap_main(void);

/* TAP */
void print(const char *format, ...) __attribute__((format(printf, 1, 2))); /* %s %u %d %x %c only */
bool ok(bool passed, const char *name);
bool is(uint32_t got, uint32_t wanted, const char *name); /* as ok(), tells both when they differ */
void guest_done(void) __attribute__((noreturn));
void guest_exit(uint32_t value) __attribute__((noreturn));  /* by the debug-exit port */
void guest_fail(const char *why) __attribute__((noreturn)); /* bail out */

/* Strings */
bool str_has(const char *text, const char *word);
int mem_cmp(const void *a, const void *b, size_t n);
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

/* Ports and memory-mapped registers */
static inline void outb(uint16_t port, uint8_t v) {
        __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t v) {
        __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t v) {
        __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port) {
        uint8_t v;

        __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
        return v;
}
static inline uint16_t inw(uint16_t port) {
        uint16_t v;

        __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
        return v;
}
static inline uint32_t inl(uint16_t port) {
        uint32_t v;

        __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
        return v;
}
static inline uint8_t rd8(uint32_t a) {
        return *(volatile uint8_t *)(uintptr_t)a;
}
static inline uint16_t rd16(uint32_t a) {
        return *(volatile uint16_t *)(uintptr_t)a;
}
static inline uint32_t rd32(uint32_t a) {
        return *(volatile uint32_t *)(uintptr_t)a;
}
static inline void wr8(uint32_t a, uint8_t v) {
        *(volatile uint8_t *)(uintptr_t)a = v;
}
static inline void wr16(uint32_t a, uint16_t v) {
        *(volatile uint16_t *)(uintptr_t)a = v;
}
static inline void wr32(uint32_t a, uint32_t v) {
        *(volatile uint32_t *)(uintptr_t)a = v;
}
static inline void pause_cpu(void) {
        __asm__ volatile("pause" : : : "memory");
}
static inline void barrier(void) {
        __asm__ volatile("mfence" : : : "memory");
}
static inline uint64_t rdtsc(void) {
        uint32_t lo, hi;

        __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
        return (uint64_t)hi << 32 | lo;
}

/* What multiboot and ACPI say. */
struct guest_machine {
        uint32_t rsdp, fadt, madt, mcfg;
        uint32_t ecam;                              /* base, bus 0 */
        uint32_t pm1_evt, pm1_cnt, pm_tmr, pm1_len; /* ports; length of the event block */
        uint32_t sci;
        uint32_t lapic, ioapic;
        uint32_t reset_port, reset_value;
        unsigned int cpus;
        uint32_t memory_top; /* end of the RAM below 4 GiB */
};
extern struct guest_machine machine;

/* Time by the ACPI timer. */
uint32_t timer_read(void);
void wait_us(uint32_t us);
/* Wait until @*flag is not 0, at most @us; true if it came. */
bool wait_for(volatile uint32_t *flag, uint32_t us);

/* Interrupts: protected mode, no paging, LAPIC and IOAPIC. The PICs are masked. */
struct interrupt_frame;
typedef void (*interrupt_fn)(struct interrupt_frame *frame);
void interrupts_init(void);
void interrupt_set(unsigned int vector, interrupt_fn fn); /* with __attribute__((interrupt)) */
void interrupt_eoi(void);
void ioapic_route(unsigned int pin, unsigned int vector, bool level); /* active high, to this CPU, unmasked */
void interrupt_load_idt(void);                                        /* on another CPU */
static inline void interrupts_on(void) {
        __asm__ volatile("sti" : : : "memory");
}
static inline void interrupts_off(void) {
        __asm__ volatile("cli" : : : "memory");
}

/* PCI configuration space by ECAM, bus 0. */
uint32_t pci_find(uint16_t vendor, uint16_t device); /* address of its configuration space, or 0 */
uint32_t pci_capability(uint32_t config, uint8_t id,
                        uint32_t after); /* next one's address behind @after (0: the first), or 0 */
void pci_place_bar(uint32_t config, unsigned int bar, uint32_t address); /* a memory BAR, 32 or 64 bits */
