// SPDX-License-Identifier: GPL-2.0-or-later
/* pci, msix: configuration space of every width, BARs that move, interrupts that are masked, held, routed and pending */
#include <linux/pci_regs.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "test/unit/fake-kvm.h"
#include "vmm/machine/bus.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/pci.h"

#define HIGH_BASE 0x4000000000ull
#define HIGH_SIZE 0x1000000000ull
#define SLOT      5
#define VECTORS   9

struct rig {
        struct kvm kvm;
        struct bus *mmio, *ports;
        struct pci_bus *pci;
        struct pci_device *device;
        uint64_t last_offset, last_value;
        unsigned int n_writes, config_reads, config_writes;
        uint64_t mapped[PCI_BARS];
};

static const struct pci_identity identity = { .name = "test",
                                              .vendor = 0x1af4,
                                              .device = 0x1044,
                                              .subsystem_vendor = 0x1af4,
                                              .subsystem = 0x1100,
                                              .revision = 1,
                                              .class_code = 0x00ff00 };

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size) {
        return 0xb0b0 + offset;
}

static void bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct rig *rig = opaque;

        rig->last_offset = offset;
        rig->last_value = value;
        rig->n_writes++;
}

static const struct bus_ops bar_ops = { bar_read, bar_write };

static void on_config_read(void *opaque, unsigned int offset, unsigned int size) {
        ((struct rig *)opaque)->config_reads++;
}

static void on_config_write(void *opaque, unsigned int offset, unsigned int size) {
        ((struct rig *)opaque)->config_writes++;
}

static void on_bar_mapped(void *opaque, unsigned int bar, uint64_t address, bool mapped) {
        struct rig *rig = opaque;

        assert_true(bar < PCI_BARS);
        assert_true(mapped ? rig->mapped[bar] == 0 : rig->mapped[bar] == address); /* strictly by turns */
        rig->mapped[bar] = mapped ? address : 0;
}

static const struct pci_device_ops ops = { on_config_read, on_config_write, on_bar_mapped };

static uint64_t ecam(unsigned int slot, unsigned int function, unsigned int reg) {
        return LAYOUT_ECAM_BASE + (slot << 15 | function << 12 | reg);
}

static uint32_t get(struct rig *rig, unsigned int reg, unsigned int size) {
        return (uint32_t)bus_read(rig->mmio, ecam(SLOT, 0, reg), size);
}

static void set(struct rig *rig, unsigned int reg, unsigned int size, uint32_t value) {
        bus_write(rig->mmio, ecam(SLOT, 0, reg), size, value);
}

static uint64_t get_bar(struct rig *rig, unsigned int bar, bool is_64bit) {
        uint64_t low = get(rig, PCI_BASE_ADDRESS_0 + 4 * bar, 4) & ~0xfu;

        return is_64bit ? low | (uint64_t)get(rig, PCI_BASE_ADDRESS_0 + 4 * bar + 4, 4) << 32 : low;
}

static void set_bar(struct rig *rig, unsigned int bar, uint64_t address) {
        set(rig, PCI_BASE_ADDRESS_0 + 4 * bar, 4, (uint32_t)address);
        if (bar == 0)
                set(rig, PCI_BASE_ADDRESS_0 + 4, 4, (uint32_t)(address >> 32));
}

static unsigned int find_capability(struct rig *rig, uint8_t id) {
        unsigned int at = get(rig, PCI_CAPABILITY_LIST, 1);

        for (unsigned int n = 0; at && n < 48; n++, at = get(rig, at + 1, 1))
                if (get(rig, at, 1) == id)
                        return at;
        return 0;
}

static int setup(void **state) {
        struct rig *rig = calloc(1, sizeof(*rig));

        *state = rig;
        if (!rig || bus_new(&rig->mmio) < 0 || bus_new(&rig->ports) < 0 ||
            pci_bus_new(&rig->kvm, rig->mmio, rig->ports, HIGH_BASE, HIGH_SIZE, &rig->pci) < 0 ||
            pci_device_new(rig->pci, SLOT, 0, &identity, &ops, rig, &rig->device, NULL) < 0 ||
            pci_add_bar(rig->device, 0, 0x8000, true, false, &bar_ops, rig) < 0 ||
            pci_add_msix(rig->device, 2, VECTORS) < 0)
                return -1;
        return 0;
}

static int teardown(void **state) {
        struct rig *rig = *state;

        pci_device_free(rig->device);
        pci_bus_free(rig->pci);
        assert_int_equal(rig->kvm.n_errors, 0);
        assert_int_equal(rig->kvm.n_msis, 0);
        /* nothing is left on the buses */
        assert_int_equal(bus_read(rig->mmio, ecam(0, 0, 0), 4), UINT32_MAX);
        assert_int_equal(bus_read(rig->ports, 0xcf8, 4), UINT32_MAX);
        bus_free(rig->mmio);
        bus_free(rig->ports);
        free(rig);
        return 0;
}

/* All widths and alignments see the same bytes; what is not there reads as ones; read-only bytes stay. */
static void test_config_widths(void **state) {
        struct rig *rig = *state;

        assert_int_equal(get(rig, 0, 4), 0x10441af4);
        assert_int_equal(get(rig, 2, 2), 0x1044);
        assert_int_equal(get(rig, 1, 1), 0x1a);
        assert_int_equal(get(rig, 1, 4), 0x0010441a | get(rig, 4, 1) << 24); /* unaligned */
        assert_int_equal(bus_read(rig->mmio, ecam(SLOT, 0, 0), 8), 0x10441af4 | (uint64_t)get(rig, 4, 4) << 32);
        assert_int_equal(get(rig, PCI_CLASS_REVISION, 4), 0x00ff0001);
        assert_int_equal(bus_read(rig->mmio, ecam(0, 0, PCI_CLASS_DEVICE), 2),
                         0x0600); /* Linux looks for a host bridge */
        assert_int_equal(bus_read(rig->mmio, ecam(6, 0, 0), 4), UINT32_MAX);
        assert_int_equal(bus_read(rig->mmio, ecam(SLOT, 1, 0), 2), 0xffff);
        assert_int_equal(get(rig, 0x100, 4), 0); /* no extended capability */
        assert_int_equal(get(rig, 0xfe, 4), 0);
        assert_int_equal(get(rig, 0xffc, 4), 0);
        assert_int_equal(get(rig, 0xffe, 4), UINT32_MAX); /* straddles two functions */
        assert_int_equal(bus_read(rig->mmio, ecam(SLOT, 0, 0xffc), 8), 0xffffffff00000000ull);
        bus_write(rig->mmio, ecam(SLOT, 0, 0xffe), 4, 0);
        for (unsigned int i = 0; i < 256; i += 8)
                bus_write(rig->mmio, ecam(SLOT, 0, i), 8, 0);
        assert_int_equal(get(rig, 0, 4), 0x10441af4);
        set(rig, PCI_COMMAND, 4, UINT32_MAX);
        assert_int_equal(get(rig, PCI_COMMAND, 2), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
                                                           PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
        assert_int_equal(get(rig, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
        set(rig, PCI_INTERRUPT_LINE, 1, 11);
        assert_int_equal(get(rig, PCI_INTERRUPT_LINE, 2), 11); /* and no pin */
}

static void select_port(struct rig *rig, unsigned int slot, unsigned int function, unsigned int reg) {
        bus_write(rig->ports, 0xcf8, 4, 0x80000000u | slot << 11 | function << 8 | (reg & 0xfc));
}

/* Mechanism #1: the same registers by ports, with byte enables from the port number; disabled or another bus: nobody. */
static void test_config_ports(void **state) {
        struct rig *rig = *state;

        select_port(rig, SLOT, 0, 0);
        assert_int_equal(bus_read(rig->ports, 0xcfc, 4), 0x10441af4);
        assert_int_equal(bus_read(rig->ports, 0xcfe, 2), 0x1044);
        assert_int_equal(bus_read(rig->ports, 0xcfd, 1), 0x1a);
        assert_int_equal(bus_read(rig->ports, 0xcf8, 4), 0x80002800);
        assert_int_equal(bus_read(rig->ports, 0xcf8, 2), 0xffff); /* dwords only */
        bus_write(rig->ports, 0xcf8, 2, 0);
        bus_write(rig->ports, 0xcf8, 1, 0);
        assert_int_equal(bus_read(rig->ports, 0xcfc, 2), 0x1af4);
        assert_int_equal(bus_read(rig->ports, 0xcfa, 4), UINT32_MAX);
        select_port(rig, SLOT, 0, PCI_INTERRUPT_LINE);
        bus_write(rig->ports, 0xcfc, 1, 7);
        assert_int_equal(get(rig, PCI_INTERRUPT_LINE, 1), 7);
        bus_write(rig->ports, 0xcf8, 4, 0x00002800); /* not enabled */
        assert_int_equal(bus_read(rig->ports, 0xcfc, 4), UINT32_MAX);
        bus_write(rig->ports, 0xcf8, 4, 0x80012800); /* bus 1 */
        assert_int_equal(bus_read(rig->ports, 0xcfc, 4), UINT32_MAX);
        bus_write(rig->ports, 0xcf8, 4, 0xffffffff);
        assert_int_equal(bus_read(rig->ports, 0xcf8, 4), 0x80fffffc);
        bus_write(rig->ports, 0xcfc, 4, 0);
        assert_int_equal(bus_read(rig->ports, 0xcfc, 4), UINT32_MAX);
}

/* The reset port lies inside the address register: bytes go there, dwords here. */
static void test_reset_port(void **state) {
        struct rig *rig = *state;

        assert_int_equal(bus_read(rig->ports, 0xcf9, 1), 0xff);
        pci_bus_set_reset_port(rig->pci, &bar_ops, rig);
        bus_write(rig->ports, 0xcf9, 1, 6);
        assert_int_equal(rig->n_writes, 1);
        assert_int_equal(rig->last_value, 6);
        assert_int_equal(bus_read(rig->ports, 0xcf9, 1), 0xb0);
        bus_write(rig->ports, 0xcf8, 4,
                  0x80000600); /* bit pattern of a reset in the second byte: an address all the same */
        bus_write(rig->ports, 0xcf9, 2, 6);
        assert_int_equal(rig->n_writes, 1);
        pci_bus_set_reset_port(rig->pci, NULL, NULL);
        bus_write(rig->ports, 0xcf9, 1, 6);
        assert_int_equal(rig->n_writes, 1);
}

/* A driver sizes a BAR by writing ones; the address it had must come back when it is written back. */
static void test_bar_sizing(void **state) {
        struct rig *rig = *state;
        uint64_t first = get_bar(rig, 0, true);

        assert_int_equal(get(rig, PCI_BASE_ADDRESS_0, 4) & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
        assert_true(first >= LAYOUT_MMIO32_BASE && first + 0x8000 <= LAYOUT_MMIO32_BASE + LAYOUT_MMIO32_SIZE);
        assert_int_equal(first % 0x8000, 0);
        set_bar(rig, 0, UINT64_MAX);
        assert_int_equal(get_bar(rig, 0, true), ~0x7fffull);
        set(rig, PCI_BASE_ADDRESS_2, 4, UINT32_MAX);
        assert_int_equal(get(rig, PCI_BASE_ADDRESS_2, 4), 0xfffff000);
        set(rig, PCI_BASE_ADDRESS_3, 4, UINT32_MAX); /* no such BAR */
        assert_int_equal(get(rig, PCI_BASE_ADDRESS_3, 4), 0);
        set(rig, PCI_ROM_ADDRESS, 4, UINT32_MAX);
        assert_int_equal(get(rig, PCI_ROM_ADDRESS, 4), 0);
        set_bar(rig, 0, first);
        assert_int_equal(get_bar(rig, 0, true), first);
}

/* The region follows command and address, one byte at a time if the guest likes, and only inside the windows. */
static void test_bar_moves(void **state) {
        static const uint64_t nowhere[] = { 0,
                                            0x100000,
                                            LAYOUT_ECAM_BASE,
                                            LAYOUT_IOAPIC_BASE,
                                            0xfffff000,
                                            LAYOUT_LAPIC_BASE,
                                            LAYOUT_HIGH_RAM_BASE,
                                            HIGH_BASE - 0x8000,
                                            0xbfff8000,
                                            UINT64_MAX - 0x7fff,
                                            HIGH_BASE + HIGH_SIZE };
        struct rig *rig = *state;
        uint64_t first = get_bar(rig, 0, true), other = HIGH_BASE + 0x12340000;

        assert_int_equal(bus_read(rig->mmio, first, 2), 0xffff); /* decoding is off at power-on */
        set(rig, PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
        assert_int_equal(rig->mapped[0], first);
        assert_int_equal(bus_read(rig->mmio, first + 4, 2), 0xb0b4);
        set(rig, PCI_BASE_ADDRESS_0 + 2, 1, 0x10); /* one byte of the address */
        assert_int_equal(rig->mapped[0], (first & ~0xff0000ull) | 0x100000);
        set_bar(rig, 0, other);
        assert_int_equal(rig->mapped[0], other);
        assert_int_equal(bus_read(rig->mmio, first, 2), 0xffff);
        assert_int_equal(bus_read(rig->mmio, other + 0x7ffe, 2), (0xb0b0 + 0x7ffe) & 0xffff);
        for (size_t i = 0; i < ELEMENTSOF(nowhere); i++) {
                set_bar(rig, 0, nowhere[i]);
                assert_int_equal(rig->mapped[0], 0);
                assert_int_equal(get_bar(rig, 0, true), nowhere[i] & ~0x7fffull); /* the register keeps it */
        }
        set_bar(rig, 0, HIGH_BASE + HIGH_SIZE - 0x8000);
        assert_int_equal(rig->mapped[0], HIGH_BASE + HIGH_SIZE - 0x8000);
        set(rig, PCI_COMMAND, 1, 0);
        assert_int_equal(rig->mapped[0], 0);
        assert_int_equal(rig->mapped[2], 0);
        assert_int_equal(bus_read(rig->mmio, HIGH_BASE + HIGH_SIZE - 0x8000, 2), 0xffff);
        pci_bus_reset(rig->pci);
        assert_int_equal(get_bar(rig, 0, true), first);
}

/* Two BARs in one place: the first one answers, the other waits and comes when the place is free, on whatever device it is. */
static void test_bar_overlap(void **state) {
        struct rig *rig = *state;
        struct pci_device *second;
        uint64_t place = LAYOUT_MMIO32_BASE + 0x1000000;

        assert_int_equal(pci_device_new(rig->pci, 9, 0, &identity, NULL, NULL, &second, NULL), 0);
        assert_int_equal(pci_add_bar(second, 0, 0x1000, false, false, &bar_ops, rig), 0);
        set_bar(rig, 0, place);
        set_bar(rig, 2, place + 0x1000);
        set(rig, PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
        bus_write(rig->mmio, ecam(9, 0, PCI_BASE_ADDRESS_0), 4, place + 0x2000);
        bus_write(rig->mmio, ecam(9, 0, PCI_COMMAND), 1, PCI_COMMAND_MEMORY);
        assert_int_equal(rig->mapped[0], place);
        assert_int_equal(rig->mapped[2], 0);
        assert_int_equal(bus_read(rig->mmio, place + 0x2000, 2), 0xd0b0); /* BAR 0 answers */
        set_bar(rig, 0, place + 0x8000);
        assert_int_equal(rig->mapped[2], place + 0x1000);
        assert_int_equal(bus_read(rig->mmio, place + 0x2000, 2), 0xb0b0);
        assert_int_equal(bus_read(rig->mmio, place + 0x8000, 2), 0xb0b0);
        /* over another's: refused, and free again when that one goes for good */
        set_bar(rig, 2, place + 0x2000);
        assert_int_equal(rig->mapped[2], 0);
        pci_device_free(second);
        assert_int_equal(rig->mapped[2], place + 0x2000);
}

/* BARs are handed out without overlap, naturally aligned; bad ones are refused. */
static void test_bar_placement(void **state) {
        struct rig *rig = *state;
        uint64_t end = 0;

        for (unsigned int slot = 6; slot < 32; slot++) {
                struct pci_device *device;
                uint64_t address;

                assert_int_equal(pci_device_new(rig->pci, slot, 0, &identity, NULL, NULL, &device, NULL), 0);
                assert_int_equal(pci_add_bar(device, 0, slot % 2 ? 16 : 0x100000, true, true, &bar_ops, rig), 0);
                address = bus_read(rig->mmio, ecam(slot, 0, PCI_BASE_ADDRESS_0), 8);
                assert_int_equal(address & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
                address &= ~0xfull;
                assert_true(address >= end && address % 4096 == 0 && address >> 32 == 0);
                end = address + (slot % 2 ? 16 : 0x100000);
                assert_int_equal(pci_add_bar(device, 1, 16, false, false, &bar_ops, rig), -EEXIST);
                assert_int_equal(pci_add_bar(device, 2, 8, false, false, &bar_ops, rig), -EINVAL);
                assert_int_equal(pci_add_bar(device, 2, 24, false, false, &bar_ops, rig), -EINVAL);
                assert_int_equal(pci_add_bar(device, 5, 16, true, false, &bar_ops, rig), -EINVAL);
                assert_int_equal(pci_add_bar(device, 2, 1ull << 32, false, false, &bar_ops, rig), -EINVAL);
                assert_int_equal(pci_add_bar(device, 2, HIGH_SIZE * 2, true, false, &bar_ops, rig), -ENOSPC);
                if (slot == 31) {
                        assert_int_equal(pci_add_bar(device, 2, 1ull << 33, true, true, &bar_ops, rig), 0);
                        assert_true(bus_read(rig->mmio, ecam(slot, 0, PCI_BASE_ADDRESS_2), 8) >= HIGH_BASE);
                }
                /* left on the bus: pci_bus_free() takes what is there */
        }
}

/* 31 slots of 8 functions; function 0 says whether there are others. */
static void test_places(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct pci_device *device, *first;
        char name[16];

        assert_int_equal(pci_device_new(rig->pci, SLOT, 0, &identity, NULL, NULL, &device, &e), -EEXIST);
        assert_string_equal(e.id, "pci-slot");
        assert_int_equal(pci_device_new(rig->pci, 0, 0, &identity, NULL, NULL, &device, NULL), -EINVAL);
        assert_int_equal(pci_device_new(rig->pci, 32, 0, &identity, NULL, NULL, &device, NULL), -EINVAL);
        assert_int_equal(pci_device_new(rig->pci, 7, 1, &identity, NULL, NULL, &device, NULL), -EINVAL);
        assert_int_equal(pci_device_new(rig->pci, 7, 0, &identity, NULL, NULL, &first, NULL), 0);
        assert_int_equal(bus_read(rig->mmio, ecam(7, 0, PCI_HEADER_TYPE), 1), 0);
        assert_int_equal(pci_device_new(rig->pci, 7, 7, &identity, NULL, NULL, &device, NULL), 0);
        assert_int_equal(bus_read(rig->mmio, ecam(7, 0, PCI_HEADER_TYPE), 1), 0x80);
        assert_int_equal(bus_read(rig->mmio, ecam(7, 7, 0), 4), 0x10441af4);
        assert_string_equal(pci_describe(device, name), "00:07.7");
        pci_device_free(device);
        assert_int_equal(bus_read(rig->mmio, ecam(7, 0, PCI_HEADER_TYPE), 1), 0);
        pci_device_free(first);
}

/* The list ends, the endpoint says what it is, and a full configuration space says so. */
static void test_capabilities(void **state) {
        struct rig *rig = *state;
        uint8_t data[14] = { 1, 2, 3 }, writable[14] = { 0, 0xf0 };
        unsigned int express = find_capability(rig, PCI_CAP_ID_EXP);
        int at, r, n = 0;

        assert_int_equal(get(rig, express + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_VERS, 2);
        assert_int_equal((get(rig, express + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_TYPE) >> 4, PCI_EXP_TYPE_RC_END);
        assert_int_equal(get(rig, express + PCI_EXP_LNKCAP, 4), 0);
        set(rig, express + PCI_EXP_DEVCTL, 2, 0xffff);
        assert_int_equal(get(rig, express + PCI_EXP_DEVCTL, 2), 0x7fff);
        at = pci_add_capability(rig->device, PCI_CAP_ID_VNDR, 16, data, writable);
        assert_true(at > 0);
        assert_int_equal(find_capability(rig, PCI_CAP_ID_VNDR), at);
        assert_int_equal(get(rig, (unsigned int)at + 2, 4), 0x00030201);
        set(rig, (unsigned int)at + 2, 4, UINT32_MAX);
        assert_int_equal(get(rig, (unsigned int)at + 2, 4), 0x0003f201);
        assert_int_equal(rig->config_writes, 2); /* this one and DEVCTL */
        assert_true(rig->config_reads > 0);
        while ((r = pci_add_capability(rig->device, PCI_CAP_ID_VNDR, 16, NULL, NULL)) >= 0)
                n++;
        assert_int_equal(r, -ENOSPC);
        assert_true(n < 12);
        pci_bus_reset(rig->pci);
        assert_int_equal(get(rig, (unsigned int)at + 2, 4), 0x00030201);
}

/* --- MSI-X --- */

static void msix_start(struct rig *rig) {
        unsigned int cap = find_capability(rig, PCI_CAP_ID_MSIX);

        set(rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        set(rig, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

static void program(struct rig *rig, unsigned int vector, uint64_t address, uint32_t data, uint32_t control) {
        uint64_t entry = rig->mapped[2] + 16 * vector;

        bus_write(rig->mmio, entry, 8, address);
        bus_write(rig->mmio, entry + 8, 4, data);
        bus_write(rig->mmio, entry + 12, 4, control);
}

static uint64_t pending(struct rig *rig) {
        return bus_read(rig->mmio, rig->mapped[2] + 0x800, 8);
}

/* How many messages went to (@address, @data) since the last look. */
static unsigned int sent(struct rig *rig, uint64_t address, uint32_t data) {
        uint64_t n, total = 0;

        for (unsigned int i = 0; i < FAKE_KVM_MSIS; i++)
                if (rig->kvm.msis[i].used && rig->kvm.msis[i].address == address && rig->kvm.msis[i].data == data &&
                    read(rig->kvm.msis[i].event_fd, &n, sizeof(n)) == sizeof(n))
                        total += n;
        return (unsigned int)total;
}

/* A vector that never fires must cost no eventfd, GSI or route; one that does is routed once, not for every write of the guest. */
static void test_msix_costs_nothing_unused(void **state) {
        struct rig *rig = *state;

        msix_start(rig);
        for (unsigned int i = 0; i < VECTORS; i++) {
                program(rig, i, 0xfee00000, 0, 1);
                program(rig, i, 0xfee01000, 0x40 + i, 0);
        }
        assert_int_equal(rig->kvm.n_msis, 0);
        assert_int_equal(rig->kvm.n_routings, 0);
        assert_true(pci_msix_notify(rig->device, 3));
        assert_true(pci_msix_notify(rig->device, 3));
        assert_int_equal(sent(rig, 0xfee01000, 0x43), 2);
        assert_int_equal(rig->kvm.n_msis, 1);
        assert_int_equal(rig->kvm.n_routings, 1);
        program(rig, 3, 0xfee02000, 0x51, 0);
        pci_msix_notify(rig->device, 3);
        assert_int_equal(sent(rig, 0xfee02000, 0x51), 1);
        assert_int_equal(rig->kvm.n_msis, 1);
        assert_int_equal(rig->kvm.n_routings, 2);
        bus_write(rig->mmio, rig->mapped[2] + 16 * 3, 4, 0xfee05000); /* another CPU, the same vector */
        pci_msix_notify(rig->device, 3);
        assert_int_equal(sent(rig, 0xfee05000, 0x51), 1);
}

/* Masked by vector, by function, or without bus mastering: the message waits in the pending bits and goes out once. */
static void test_msix_pending(void **state) {
        struct rig *rig = *state;
        unsigned int cap = find_capability(rig, PCI_CAP_ID_MSIX);

        assert_int_equal(get(rig, cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
        assert_false(pci_msix_notify(rig->device, 0)); /* off: dropped */
        msix_start(rig);
        assert_int_equal(pending(rig), 0);
        program(rig, 1, 0xfee00000, 0x31, 1);
        pci_msix_notify(rig->device, 1);
        pci_msix_notify(rig->device, 1);
        pci_msix_notify(rig->device, VECTORS); /* no such vector */
        pci_msix_notify(rig->device, UINT32_MAX);
        assert_int_equal(pending(rig), 1 << 1);
        bus_write(rig->mmio, rig->mapped[2] + 0x800, 8, 0); /* read-only */
        assert_int_equal(pending(rig), 1 << 1);
        assert_int_equal(rig->kvm.n_msis, 0);
        program(rig, 1, 0xfee00000, 0x31, 0);
        assert_int_equal(pending(rig), 0);
        assert_int_equal(sent(rig, 0xfee00000, 0x31), 1);

        set(rig, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
        program(rig, 8, 0xfee00000, 0x38, 0);
        pci_msix_notify(rig->device, 1);
        pci_msix_notify(rig->device, 8);
        pci_msix_notify(rig->device, 0); /* masked itself as well */
        assert_int_equal(pending(rig), 1 << 1 | 1 << 8 | 1);
        set(rig, cap + PCI_MSIX_FLAGS + 1, 1, PCI_MSIX_FLAGS_ENABLE >> 8); /* by the byte */
        assert_int_equal(pending(rig), 1);
        assert_int_equal(sent(rig, 0xfee00000, 0x31), 1);
        assert_int_equal(sent(rig, 0xfee00000, 0x38), 1);

        set(rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        pci_msix_notify(rig->device, 1);
        assert_int_equal(sent(rig, 0xfee00000, 0x31), 0);
        set(rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        assert_int_equal(sent(rig, 0xfee00000, 0x31), 1);

        pci_msix_notify(rig->device, 0);
        set(rig, cap + PCI_MSIX_FLAGS, 2, 0); /* off forgets */
        assert_int_equal(pending(rig), 0);
}

/* The table takes aligned dwords and qwords; all else, and everything around it, is inert. */
static void test_msix_table_accesses(void **state) {
        struct rig *rig = *state;
        uint64_t bar;

        msix_start(rig);
        bar = rig->mapped[2];
        assert_int_equal(bus_read(rig->mmio, bar + 12, 4), 1); /* masked at first */
        program(rig, 0, 0x11112222fee03000, 0x77, UINT32_MAX);
        assert_int_equal(bus_read(rig->mmio, bar, 8), 0x11112222fee03000);
        assert_int_equal(bus_read(rig->mmio, bar + 4, 4), 0x11112222);
        assert_int_equal(bus_read(rig->mmio, bar + 1, 1), 0x30);
        assert_int_equal(bus_read(rig->mmio, bar + 12, 4), 1); /* reserved bits stay 0 */
        bus_write(rig->mmio, bar + 8, 8, 0x0000000000000088);  /* data and control in one */
        assert_int_equal(bus_read(rig->mmio, bar + 8, 8), 0x88);
        bus_write(rig->mmio, bar, 1, 0xff);
        bus_write(rig->mmio, bar, 2, 0xffff);
        bus_write(rig->mmio, bar + 2, 4, UINT32_MAX);
        bus_write(rig->mmio, bar + 4, 8, UINT64_MAX);
        assert_int_equal(bus_read(rig->mmio, bar, 8), 0x11112222fee03000);
        bus_write(rig->mmio, bar + 16 * VECTORS, 8, UINT64_MAX);
        assert_int_equal(bus_read(rig->mmio, bar + 16 * VECTORS, 8), 0);
        assert_int_equal(bus_read(rig->mmio, bar + 16 * VECTORS - 4, 8), 0); /* straddles the end */
        bus_write(rig->mmio, bar + 0xff8, 8, UINT64_MAX);
        assert_int_equal(bus_read(rig->mmio, bar + 0xff8, 8), 0);
        assert_int_equal(bus_read(rig->mmio, bar + 0x808, 8), 0);
}

/* No GSI left: the interrupt is lost, said once, and tried again when the guest programs the vector; for vhost, no eventfd. */
static void test_msix_without_gsi(void **state) {
        struct rig *rig = *state;

        msix_start(rig);
        program(rig, 0, 0xfee00000, 0x20, 0);
        rig->kvm.fail_msi = true;
        assert_true(pci_msix_notify(rig->device, 0));
        assert_int_equal(pci_msix_eventfd(rig->device, 0), -1);
        rig->kvm.fail_msi = false;
        pci_msix_notify(rig->device, 0);
        assert_int_equal(rig->kvm.n_msis, 0);
        program(rig, 0, 0xfee00000, 0x20, 0);
        pci_msix_notify(rig->device, 0);
        assert_int_equal(sent(rig, 0xfee00000, 0x20), 1);
        assert_true(pci_msix_eventfd(rig->device, 0) >= 0);
        program(rig, 0, 0xfee00000, 0x20, 1);
        assert_int_equal(pci_msix_eventfd(rig->device, 0), -1);
        assert_int_equal(pci_msix_eventfd(rig->device, VECTORS), -1);
        pci_bus_reset(rig->pci);
        assert_false(pci_msix_notify(rig->device, 0));
        assert_int_equal(pci_msix_eventfd(rig->device, 0), -1);
}

struct shared {
        struct rig *rig;
        bool stop;
        unsigned int n;
};

static void *notifier(void *opaque) {
        struct shared *s = opaque;

        while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
                pci_msix_notify(s->rig->device, 4);
                s->n++;
        }
        return NULL;
}

/* An I/O thread signals while the guest masks, reroutes and resets: no message may be lost (and ThreadSanitizer has a look). */
static void test_msix_from_another_thread(void **state) {
        struct rig *rig = *state;
        struct shared s = { .rig = rig };
        uint64_t n;
        unsigned int cap = find_capability(rig, PCI_CAP_ID_MSIX);
        pthread_t thread;

        msix_start(rig);
        assert_int_equal(pthread_create(&thread, NULL, notifier, &s), 0);
        for (unsigned int i = 0; i < 2000; i++) {
                program(rig, 4, 0xfee00000 + (i % 4 << 12), 0x40 + i % 8, i % 3 == 0);
                set(rig, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | (i % 2 ? PCI_MSIX_FLAGS_MASKALL : 0));
                (void)pending(rig);
                if (i % 500 == 499) {
                        pci_bus_reset(rig->pci);
                        msix_start(rig);
                }
        }
        __atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        program(rig, 4, 0xfee00000, 0x40, 0);
        set(rig, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
        assert_int_equal(pending(rig), 0);
        for (unsigned int i = 0; i < FAKE_KVM_MSIS; i++)
                if (rig->kvm.msis[i].used)
                        (void)!read(rig->kvm.msis[i].event_fd, &n, sizeof(n));
        pci_msix_notify(rig->device, 4);
        assert_int_equal(sent(rig, 0xfee00000, 0x40), 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                T(test_config_widths),    T(test_config_ports),
                T(test_reset_port),       T(test_bar_sizing),
                T(test_bar_moves),        T(test_bar_overlap),
                T(test_bar_placement),    T(test_places),
                T(test_capabilities),     T(test_msix_costs_nothing_unused),
                T(test_msix_pending),     T(test_msix_table_accesses),
                T(test_msix_without_gsi), T(test_msix_from_another_thread),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
