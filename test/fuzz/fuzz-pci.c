// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-pci: a guest that reads and writes configuration space, BARs and the MSI-X table as it likes
 *
 * The input is a list of accesses of 8 bytes: where (ECAM, ports, a BAR wherever the guest moved it, an interrupt of the
 * device), which register, how wide, and the value. The fake KVM counts what makes no sense (the same route twice, taking
 * away what is not there): at the end nothing may be left over and nothing counted.
 */
#include <linux/pci_regs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "test/unit/fake-kvm.h"
#include "vmm/machine/bus.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/pci.h"

#define HIGH_BASE 0x4000000000ull
#define HIGH_SIZE 0x1000000000ull
#define VECTORS   9

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct access {
        uint8_t kind, slot;
        uint16_t reg;
        uint32_t value;
};

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size) {
        return offset;
}

static void bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        if (offset + size > 0x8000)
                abort();
}

static const struct bus_ops bar_ops = { bar_read, bar_write };
static const struct pci_device_ops device_ops = { 0 };
static const struct pci_identity identity = {
        .name = "fuzz", .vendor = 0x1af4, .device = 0x1044, .class_code = 0x00ff00
};

static void one_access(struct bus *mmio, struct bus *ports, struct pci_device *device, const struct access *a) {
        unsigned int size = 1u << (a->kind >> 6); /* 1, 2, 4, 8 */
        unsigned int slot = 3 + a->slot % 3;
        uint64_t ecam = LAYOUT_ECAM_BASE + ((uint64_t)slot << 15) + a->reg % PCI_CONFIG_SIZE;
        const uint8_t *config = pci_config(device);
        uint32_t bar;

        switch (a->kind & 7) {
        case 0:
                bus_read(mmio, ecam, size);
                break;
        case 1:
                bus_write(mmio, ecam, size, a->value);
                break;
        case 2:
                bus_write(ports, 0xcf8 + a->slot % 8, size, a->value);
                break;
        case 3:
                bus_read(ports, 0xcfc + a->slot % 4, size);
                break;
        case 4: /* inside the BAR, wherever it is now */
        case 5:
                memcpy(&bar, config + PCI_BASE_ADDRESS_0 + 4 * (a->slot % PCI_BARS), sizeof(bar));
                if (a->kind & 1)
                        bus_write(mmio, (bar & ~0xfu) + (uint64_t)(a->reg % 0x1000), size, a->value);
                else
                        bus_read(mmio, (bar & ~0xfu) + (uint64_t)(a->reg % 0x1000), size);
                break;
        default:
                pci_msix_notify(device, a->slot % (VECTORS + 2));
                break;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct kvm *kvm = calloc(1, sizeof(*kvm));
        struct pci_device *devices[2] = { NULL, NULL };
        struct pci_bus *pci = NULL;
        struct bus *mmio = NULL, *ports = NULL;

        if (!kvm || bus_new(&mmio) < 0 || bus_new(&ports) < 0 ||
            pci_bus_new(kvm, mmio, ports, HIGH_BASE, HIGH_SIZE, &pci) < 0)
                abort();
        for (unsigned int i = 0; i < 2; i++)
                if (pci_device_new(pci, 3 + i, 0, &identity, &device_ops, kvm, &devices[i], NULL) < 0 ||
                    pci_add_bar(devices[i], 0, 0x8000, i == 0, false, &bar_ops, kvm) < 0 ||
                    pci_add_msix(devices[i], 2, VECTORS) < 0)
                        abort();

        for (size_t at = 0; at + sizeof(struct access) <= size; at += sizeof(struct access)) {
                struct access a;

                memcpy(&a, data + at, sizeof(a));
                one_access(mmio, ports, devices[a.slot & 1], &a);
        }
        pci_bus_reset(pci);

        pci_device_free(devices[0]);
        pci_device_free(devices[1]);
        pci_bus_free(pci);
        bus_free(mmio);
        bus_free(ports);
        if (kvm->n_errors > 0 || kvm->n_msis > 0 || kvm->n_doorbells > 0)
                abort();
        free(kvm);
        return 0;
}
