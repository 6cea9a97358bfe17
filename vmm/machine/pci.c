// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci: see pci.h
 *
 * A function's configuration space is bytes with a mask: a write changes what the mask allows, and the code behind it looks at
 * the result, not at the write. So every access width does what it should, and nothing depends on how the guest cuts its accesses.
 */
#include "vmm/machine/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <string.h>

#include "vmm/machine/layout.h"
#include "vmm/machine/msix.h"

#define SLOTS         32
#define FUNCTIONS     8
#define NO_CONFIG     UINT64_MAX /* what nobody answers with */

#define HIGH_BAR_SIZE (16ull << 20) /* larger 64-bit BARs start in the window above 4 GiB */

struct bar {
        struct pci_device *device;
        uint64_t size; /* 0: no such BAR */
        bool is_64bit;
        const struct bus_ops *ops;
        void *opaque;
        struct bus_region *region; /* while it decodes */
        uint64_t address;          /* of the region */
        bool refused;              /* it should decode but another BAR is in its place */
};

struct pci_device {
        struct pci_bus *bus;
        unsigned int slot, function;
        const char *name;
        const struct pci_device_ops *ops;
        void *opaque;
        uint8_t config[PCI_CONFIG_KEPT], initial[PCI_CONFIG_KEPT], writable[PCI_CONFIG_KEPT];
        unsigned int next_capability, last_capability;
        struct bar bars[PCI_BARS];
        struct msix *msix;
        unsigned int msix_capability;
};

/* A window for BARs: addresses are handed out upwards. */
struct window {
        uint64_t base, size, used;
};

struct pci_bus {
        struct kvm *kvm;
        struct bus *mmio, *ports;
        struct bus_region *ecam, *port_region;
        struct pci_device *devices[SLOTS][FUNCTIONS];
        uint32_t config_address;
        struct window low, high;
        bool retry; /* some BAR was refused */
        const struct bus_ops *reset_ops;
        void *reset_opaque;
};

static uint16_t get16(const uint8_t *p) {
        return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p) {
        return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static void put16(uint8_t *p, uint16_t v) {
        p[0] = (uint8_t)v;
        p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v) {
        put16(p, (uint16_t)v);
        put16(p + 2, (uint16_t)(v >> 16));
}

static bool overlap(unsigned int a, unsigned int a_size, unsigned int b, unsigned int b_size) {
        return a < b + b_size && b < a + a_size;
}

/* Set bytes of the configuration as it is and as it will be after a reset. */
static void config_init(struct pci_device *device, unsigned int offset, const void *data, size_t n) {
        memcpy(device->config + offset, data, n);
        memcpy(device->initial + offset, data, n);
}

static void config_init8(struct pci_device *device, unsigned int offset, uint8_t value) {
        config_init(device, offset, &value, 1);
}

static void config_init16(struct pci_device *device, unsigned int offset, uint16_t value) {
        uint8_t bytes[2];

        put16(bytes, value);
        config_init(device, offset, bytes, sizeof(bytes));
}

static void config_init32(struct pci_device *device, unsigned int offset, uint32_t value) {
        uint8_t bytes[4];

        put32(bytes, value);
        config_init(device, offset, bytes, sizeof(bytes));
}

/* --- BARs --- */

static bool in_window(const struct window *w, uint64_t address, uint64_t size) {
        return address >= w->base && address - w->base < w->size && size <= w->size - (address - w->base);
}

/* Where the BAR should decode now; false when it should not at all. */
static bool bar_wanted(const struct bar *bar, unsigned int number, uint64_t *ret_address) {
        const struct pci_device *device = bar->device;
        const uint8_t *reg = device->config + PCI_BASE_ADDRESS_0 + 4 * number;
        uint64_t address = get32(reg) & ~0xfu;

        if (bar->is_64bit)
                address |= (uint64_t)get32(reg + 4) << 32;
        if (!(get16(device->config + PCI_COMMAND) & PCI_COMMAND_MEMORY))
                return false;
        if (!in_window(&device->bus->low, address, bar->size) && !in_window(&device->bus->high, address, bar->size))
                return false;
        *ret_address = address;
        return true;
}

static void bar_unmap(struct bar *bar, unsigned int number) {
        struct pci_device *device = bar->device;

        if (!bar->region)
                return;
        if (device->ops && device->ops->bar_mapped)
                device->ops->bar_mapped(device->opaque, number, bar->address, false);
        bus_remove(device->bus->mmio, bar->region);
        bar->region = NULL;
}

static void bar_map(struct bar *bar, unsigned int number) {
        struct pci_device *device = bar->device;
        uint64_t address;

        bar->refused = false;
        if (bar->region || !bar_wanted(bar, number, &address))
                return;
        if (bus_add(device->bus->mmio, address, bar->size, bar->ops, bar->opaque, device->name, &bar->region) < 0) {
                bar->region = NULL;
                bar->refused = device->bus->retry = true;
                return;
        }
        bar->address = address;
        if (device->ops && device->ops->bar_mapped)
                device->ops->bar_mapped(device->opaque, number, address, true);
}

/* A place became free: those who waited for one may have it. */
static void retry_refused(struct pci_bus *bus) {
        if (!bus->retry)
                return;
        bus->retry = false;
        for (unsigned int i = 0; i < SLOTS * FUNCTIONS; i++) {
                struct pci_device *device = bus->devices[i / FUNCTIONS][i % FUNCTIONS];

                for (unsigned int b = 0; device && b < PCI_BARS; b++)
                        if (device->bars[b].refused)
                                bar_map(&device->bars[b], b);
        }
}

/* Command or BARs were written: make the regions follow. */
static void update_bars(struct pci_device *device) {
        bool freed = false;
        uint64_t address;

        for (unsigned int i = 0; i < PCI_BARS; i++) {
                struct bar *bar = &device->bars[i];

                if (bar->region && (!bar_wanted(bar, i, &address) || address != bar->address)) {
                        bar_unmap(bar, i);
                        freed = true;
                }
        }
        for (unsigned int i = 0; i < PCI_BARS; i++)
                if (device->bars[i].size > 0)
                        bar_map(&device->bars[i], i);
        if (freed)
                retry_refused(device->bus);
}

static int window_take(struct window *w, uint64_t size, uint64_t *ret_address) {
        uint64_t base = (w->base + w->used + size - 1) & ~(size - 1); /* BARs are aligned to their size */

        if (!in_window(w, base, size))
                return -ENOSPC;
        w->used = base + size - w->base;
        *ret_address = base;
        return 0;
}

int pci_add_bar(struct pci_device *device, unsigned int bar, uint64_t size, bool is_64bit, bool prefetchable,
                const struct bus_ops *ops, void *opaque) {
        unsigned int n_regs = is_64bit ? 2 : 1, reg = PCI_BASE_ADDRESS_0 + 4 * bar;
        uint64_t address, mask = ~(size - 1);
        struct window *window;
        int r;

        if (bar + n_regs > PCI_BARS || size < 16 || (size & (size - 1)) != 0 || (!is_64bit && size > 1u << 31))
                return -EINVAL;
        for (unsigned int i = 0; i < n_regs; i++)
                if (device->bars[bar + i].size > 0 || get32(device->writable + reg + 4 * i) != 0)
                        return -EEXIST;
        window = is_64bit && size > HIGH_BAR_SIZE ? &device->bus->high : &device->bus->low;
        r = window_take(window, MAX(size, (uint64_t)LAYOUT_PAGE), &address); /* no two share a page */
        if (r < 0)
                return r;
        device->bars[bar] =
                (struct bar){ .device = device, .size = size, .is_64bit = is_64bit, .ops = ops, .opaque = opaque };
        config_init32(device, reg,
                      (uint32_t)address | (is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0) |
                              (prefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0));
        put32(device->writable + reg, (uint32_t)mask & ~0xfu);
        if (is_64bit) {
                config_init32(device, reg + 4, (uint32_t)(address >> 32));
                put32(device->writable + reg + 4, (uint32_t)(mask >> 32));
        }
        update_bars(device);
        return 0;
}

/* --- capabilities --- */

int pci_add_capability(struct pci_device *device, uint8_t id, uint8_t len, const void *data, const void *writable) {
        unsigned int at = device->next_capability;

        if (len < 2 || at + len > PCI_CONFIG_KEPT)
                return -ENOSPC;
        config_init8(device, at, id);
        config_init8(device, at + 1, 0);
        if (data)
                config_init(device, at + 2, data, len - 2u);
        if (writable)
                memcpy(device->writable + at + 2, writable, len - 2u);
        config_init8(device, device->last_capability ? device->last_capability + 1 : PCI_CAPABILITY_LIST, (uint8_t)at);
        config_init16(device, PCI_STATUS, PCI_STATUS_CAP_LIST);
        device->last_capability = at;
        device->next_capability = (at + len + 3) & ~3u;
        return (int)at;
}

/* PCI Express 2.0 §7.8: an endpoint integrated into the root complex has no link. */
static int add_express_capability(struct pci_device *device) {
        uint8_t data[0x3c] = { 0 }, writable[0x3c] = { 0 };
        int r;

        put16(data + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4);
        put32(data + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER);
        put16(writable + PCI_EXP_DEVCTL, 0x7fff); /* all but the last: a function level reset is not offered */
        r = pci_add_capability(device, PCI_CAP_ID_EXP, sizeof(data), data + 2, writable + 2);
        return r < 0 ? r : 0;
}

int pci_add_msix(struct pci_device *device, unsigned int bar, unsigned int vectors) {
        uint8_t data[PCI_CAP_MSIX_SIZEOF] = { 0 }, writable[PCI_CAP_MSIX_SIZEOF] = { 0 };
        _cleanup_(msix_freep) struct msix *msix = NULL;
        int r;

        if (device->msix)
                return -EEXIST;
        r = msix_new(device->bus->kvm, device->name, vectors, &msix);
        if (r < 0)
                return r;
        put16(data + PCI_MSIX_FLAGS, (uint16_t)(vectors - 1));
        put16(writable + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
        put32(data + PCI_MSIX_TABLE, MSIX_TABLE | bar);
        put32(data + PCI_MSIX_PBA, MSIX_PBA | bar);
        r = pci_add_capability(device, PCI_CAP_ID_MSIX, sizeof(data), data + 2, writable + 2);
        if (r < 0)
                return r;
        device->msix_capability = (unsigned int)r;
        r = pci_add_bar(device, bar, MSIX_BAR_SIZE, false, false, &msix_bus_ops, msix);
        if (r < 0)
                return r;
        device->msix = TAKE_PTR(msix);
        return 0;
}

static void update_msix(struct pci_device *device) {
        uint16_t flags = get16(device->config + device->msix_capability + PCI_MSIX_FLAGS);
        bool master = get16(device->config + PCI_COMMAND) & PCI_COMMAND_MASTER;

        msix_set_control(device->msix, flags & PCI_MSIX_FLAGS_ENABLE, (flags & PCI_MSIX_FLAGS_MASKALL) || !master);
}

bool pci_msix_notify(struct pci_device *device, unsigned int vector) {
        return device->msix && msix_notify(device->msix, vector);
}

int pci_msix_eventfd(struct pci_device *device, unsigned int vector) {
        return device->msix ? msix_eventfd(device->msix, vector) : -1;
}

/* --- configuration accesses: @offset 0..4095, @size 1, 2, 4 --- */

static uint64_t function_read(struct pci_device *device, unsigned int offset, unsigned int size) {
        uint64_t value = 0;

        if (!device || offset + size > PCI_CONFIG_SIZE)
                return NO_CONFIG;
        if (device->ops && device->ops->config_read && offset + size > PCI_STD_HEADER_SIZEOF &&
            offset < PCI_CONFIG_KEPT)
                device->ops->config_read(device->opaque, offset, size);
        for (unsigned int i = 0; i < size && offset + i < PCI_CONFIG_KEPT; i++)
                value |= (uint64_t)device->config[offset + i] << 8 * i;
        return value;
}

static void function_write(struct pci_device *device, unsigned int offset, unsigned int size, uint64_t value) {
        bool command;

        if (!device || offset + size > PCI_CONFIG_SIZE || offset >= PCI_CONFIG_KEPT)
                return;
        for (unsigned int i = 0; i < size && offset + i < PCI_CONFIG_KEPT; i++) {
                uint8_t mask = device->writable[offset + i], byte = (uint8_t)(value >> 8 * i);

                device->config[offset + i] = (uint8_t)((device->config[offset + i] & ~mask) | (byte & mask));
        }
        command = overlap(offset, size, PCI_COMMAND, 2);
        if (command || overlap(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_BARS))
                update_bars(device);
        if (device->msix && (command || overlap(offset, size, device->msix_capability + PCI_MSIX_FLAGS, 2)))
                update_msix(device);
        if (device->ops && device->ops->config_write && offset + size > PCI_STD_HEADER_SIZEOF)
                device->ops->config_write(device->opaque, offset, size);
}

/* PCI Express §7.2.2: bus, device, function and register from the address. One bus here. */
static struct pci_device *ecam_function(struct pci_bus *bus, uint64_t offset) {
        return bus->devices[offset >> 15 & (SLOTS - 1)][offset >> 12 & (FUNCTIONS - 1)];
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned int size) {
        struct pci_device *device = ecam_function(opaque, offset);
        unsigned int reg = offset & (PCI_CONFIG_SIZE - 1);

        if (size == 8)
                return function_read(device, reg, 4) | function_read(device, reg + 4, 4) << 32;
        return function_read(device, reg, size);
}

static void ecam_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct pci_device *device = ecam_function(opaque, offset);
        unsigned int reg = offset & (PCI_CONFIG_SIZE - 1);

        if (size == 8) {
                function_write(device, reg, 4, value & UINT32_MAX);
                function_write(device, reg + 4, 4, value >> 32);
                return;
        }
        function_write(device, reg, size, value);
}

static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/* PCI 3.0 §3.2.2.3.2, mechanism #1: the address at 0xcf8 (dwords only), the data at 0xcfc..0xcff. */
#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_BITS   0x80fffffcu
#define PORT_DATA      4 /* offset from 0xcf8 */
#define PORT_RESET     1

static struct pci_device *port_function(struct pci_bus *bus) {
        uint32_t address = bus->config_address;

        if (!(address & ADDRESS_ENABLE) || (address >> 16 & 0xff) != 0)
                return NULL;
        return bus->devices[address >> 11 & (SLOTS - 1)][address >> 8 & (FUNCTIONS - 1)];
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned int size) {
        struct pci_bus *bus = opaque;

        if (offset >= PORT_DATA && size <= 4)
                return function_read(port_function(bus),
                                     (bus->config_address & 0xfc) + (unsigned int)(offset - PORT_DATA), size);
        if (offset == 0 && size == 4)
                return bus->config_address;
        if (offset == PORT_RESET && size == 1 && bus->reset_ops)
                return bus->reset_ops->read(bus->reset_opaque, 0, 1);
        return NO_CONFIG;
}

static void port_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct pci_bus *bus = opaque;

        if (offset >= PORT_DATA && size <= 4)
                function_write(port_function(bus), (bus->config_address & 0xfc) + (unsigned int)(offset - PORT_DATA),
                               size, value);
        else if (offset == 0 && size == 4)
                bus->config_address = (uint32_t)value & ADDRESS_BITS;
        else if (offset == PORT_RESET && size == 1 && bus->reset_ops)
                bus->reset_ops->write(bus->reset_opaque, 0, 1, value);
}

static const struct bus_ops port_ops = { .read = port_read, .write = port_write };

void pci_bus_set_reset_port(struct pci_bus *bus, const struct bus_ops *ops, void *opaque) {
        bus->reset_ops = ops;
        bus->reset_opaque = opaque;
}

/* --- functions and the bus --- */

/* Function 0 says whether there are others (PCI 3.0 §6.2.1). */
static void update_multifunction(struct pci_bus *bus, unsigned int slot) {
        struct pci_device *first = bus->devices[slot][0];
        uint8_t type = PCI_HEADER_TYPE_NORMAL;

        for (unsigned int i = 1; i < FUNCTIONS; i++)
                if (bus->devices[slot][i])
                        type |= 0x80;
        if (first)
                config_init8(first, PCI_HEADER_TYPE, type);
}

static struct pci_device *function_new(struct pci_bus *bus, unsigned int slot, unsigned int function,
                                       const struct pci_identity *identity) {
        struct pci_device *device = calloc(1, sizeof(*device));

        if (!device)
                return NULL;
        device->bus = bus;
        device->slot = slot;
        device->function = function;
        device->name = identity->name;
        device->next_capability = PCI_STD_HEADER_SIZEOF;
        config_init16(device, PCI_VENDOR_ID, identity->vendor);
        config_init16(device, PCI_DEVICE_ID, identity->device);
        config_init32(device, PCI_CLASS_REVISION, identity->class_code << 8 | identity->revision);
        config_init16(device, PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor);
        config_init16(device, PCI_SUBSYSTEM_ID, identity->subsystem);
        put16(device->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
                                                      PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
        device->writable[PCI_CACHE_LINE_SIZE] = 0xff;
        device->writable[PCI_INTERRUPT_LINE] = 0xff;
        bus->devices[slot][function] = device;
        update_multifunction(bus, slot);
        return device;
}

int pci_device_new(struct pci_bus *bus, unsigned int slot, unsigned int function, const struct pci_identity *identity,
                   const struct pci_device_ops *ops, void *opaque, struct pci_device **ret_device, struct error *e) {
        _cleanup_(pci_device_freep) struct pci_device *device = NULL;
        int r;

        if (slot == 0 || slot >= SLOTS || function >= FUNCTIONS || (function > 0 && !bus->devices[slot][0]))
                return error_set(e, -EINVAL, "pci-slot", NULL, "%s: there is no PCI slot %u function %u",
                                 identity->name, slot, function);
        if (bus->devices[slot][function])
                return error_set(e, -EEXIST, "pci-slot", NULL, "%s: PCI slot %u function %u holds %s already",
                                 identity->name, slot, function, bus->devices[slot][function]->name);
        device = function_new(bus, slot, function, identity);
        if (!device)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for PCI device %s", identity->name);
        device->ops = ops;
        device->opaque = opaque;
        r = add_express_capability(device);
        if (r < 0)
                return error_set(e, r, "pci-config", NULL, "%s: no room for a capability", identity->name);
        *ret_device = TAKE_PTR(device);
        return 0;
}

void pci_device_free(struct pci_device *device) {
        if (!device)
                return;
        for (unsigned int i = 0; i < PCI_BARS; i++)
                bar_unmap(&device->bars[i], i);
        device->bus->devices[device->slot][device->function] = NULL;
        update_multifunction(device->bus, device->slot);
        retry_refused(device->bus);
        msix_free(device->msix);
        free(device);
}

uint8_t *pci_config(struct pci_device *device) {
        return device->config;
}

const char *pci_describe(const struct pci_device *device, char buf[static 16]) {
        snprintf(buf, 16, "00:%02x.%u", device->slot & (SLOTS - 1), device->function & (FUNCTIONS - 1));
        return buf;
}

int pci_bus_new(struct kvm *kvm, struct bus *mmio, struct bus *ports, uint64_t mmio64_base, uint64_t mmio64_size,
                struct pci_bus **ret_bus) {
        /* The generic PCI Express host bridge: one that no guest has quirks for. */
        static const struct pci_identity bridge = { .name = "host-bridge",
                                                    .vendor = 0x1b36,
                                                    .device = 0x0008,
                                                    .subsystem_vendor = 0x1af4,
                                                    .subsystem = 0x1100,
                                                    .class_code = 0x060000 };
        _cleanup_(pci_bus_freep) struct pci_bus *bus = calloc(1, sizeof(*bus));
        int r;

        if (!bus)
                return -ENOMEM;
        bus->kvm = kvm;
        bus->mmio = mmio;
        bus->ports = ports;
        bus->low = (struct window){ .base = LAYOUT_MMIO32_BASE, .size = LAYOUT_MMIO32_SIZE };
        bus->high = (struct window){ .base = mmio64_base, .size = mmio64_size };
        r = bus_add(mmio, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE, &ecam_ops, bus, "pci-ecam", &bus->ecam);
        if (r < 0)
                return r;
        r = bus_add(ports, LAYOUT_PORT_PCI_CONFIG, 8, &port_ops, bus, "pci-config", &bus->port_region);
        if (r < 0)
                return r;
        if (!function_new(bus, 0, 0, &bridge))
                return -ENOMEM;
        *ret_bus = TAKE_PTR(bus);
        return 0;
}

void pci_bus_free(struct pci_bus *bus) {
        if (!bus)
                return;
        for (unsigned int i = SLOTS * FUNCTIONS; i-- > 0;)
                pci_device_free(bus->devices[i / FUNCTIONS][i % FUNCTIONS]);
        bus_remove(bus->ports, bus->port_region);
        bus_remove(bus->mmio, bus->ecam);
        free(bus);
}

void pci_bus_reset(struct pci_bus *bus) {
        bus->config_address = 0;
        for (unsigned int i = 0; i < SLOTS * FUNCTIONS; i++) {
                struct pci_device *device = bus->devices[i / FUNCTIONS][i % FUNCTIONS];

                if (!device)
                        continue;
                memcpy(device->config, device->initial, sizeof(device->config));
                update_bars(device); /* decoding is off now: all regions go */
                if (device->msix)
                        msix_reset(device->msix);
        }
}
