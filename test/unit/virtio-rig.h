// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-rig: a machine without vCPUs around the real PCI bus, loop and memory and a fake KVM, and a virtio driver's accesses to it
 *
 * For tests of devices on virtio-pci: what a guest does by MMIO happens here by bus_read() and bus_write().
 */
#pragma once

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "test/unit/fake-kvm.h"
#include "test/unit/virtq-driver.h"
#include "vmm/machine/machine.h"

/* Offsets in BAR 0; a driver learns them from the capabilities (test-virtio checks that they say so). */
#define RIG_ISR      0x1000u
#define RIG_DEVICE   0x2000u
#define RIG_DOORBELL 0x4000u

struct virtio_rig {
        struct kvm kvm;
        struct machine machine;
        unsigned int slot;
        uint64_t bar; /* address of BAR 0 */
};

static inline int virtio_rig_init(struct virtio_rig *rig, unsigned int slot) {
        struct memory_options options = { .size = DRIVER_RAM };

        memset(rig, 0, sizeof(*rig));
        rig->slot = slot;
        rig->machine.kvm = &rig->kvm;
        if (loop_new(&rig->machine.loop) < 0 || memory_new(&options, &rig->machine.memory, NULL) < 0 ||
            bus_new(&rig->machine.mmio) < 0 || bus_new(&rig->machine.ports) < 0)
                return -1;
        return pci_bus_new(&rig->kvm, rig->machine.mmio, rig->machine.ports, 0x4000000000, 0x1000000000,
                           &rig->machine.pci);
}

static inline void virtio_rig_done(struct virtio_rig *rig) {
        pci_bus_free(rig->machine.pci);
        bus_free(rig->machine.mmio);
        bus_free(rig->machine.ports);
        memory_free(rig->machine.memory);
        loop_free(rig->machine.loop);
}

static inline uint64_t rig_config(struct virtio_rig *rig, unsigned int reg, unsigned int size) {
        return bus_read(rig->machine.mmio, LAYOUT_ECAM_BASE + (rig->slot << 15) + reg, size);
}

static inline void rig_set_config(struct virtio_rig *rig, unsigned int reg, unsigned int size, uint64_t value) {
        bus_write(rig->machine.mmio, LAYOUT_ECAM_BASE + (rig->slot << 15) + reg, size, value);
}

static inline uint64_t rig_get(struct virtio_rig *rig, unsigned int offset, unsigned int size) {
        return bus_read(rig->machine.mmio, rig->bar + offset, size);
}

static inline void rig_set(struct virtio_rig *rig, unsigned int offset, unsigned int size, uint64_t value) {
        bus_write(rig->machine.mmio, rig->bar + offset, size, value);
}

static inline uint8_t rig_status(struct virtio_rig *rig) {
        return (uint8_t)rig_get(rig, VIRTIO_PCI_COMMON_STATUS, 1);
}

static inline void rig_set_status(struct virtio_rig *rig, uint8_t status) {
        rig_set(rig, VIRTIO_PCI_COMMON_STATUS, 1, status);
}

/* Switch decoding and bus mastering on, as a driver's first step. */
static inline void rig_map(struct virtio_rig *rig) {
        rig->bar = (rig_config(rig, PCI_BASE_ADDRESS_0, 4) & ~0xfull) | rig_config(rig, PCI_BASE_ADDRESS_1, 4) << 32;
        rig_set_config(rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static inline uint64_t rig_features(struct virtio_rig *rig) {
        uint64_t features = 0;

        for (unsigned int word = 0; word < 2; word++) {
                rig_set(rig, VIRTIO_PCI_COMMON_DFSELECT, 4, word);
                features |= rig_get(rig, VIRTIO_PCI_COMMON_DF, 4) << 32 * word;
        }
        return features;
}

/* §3.1.1 steps 1 to 6; the status afterwards. */
static inline uint8_t rig_negotiate(struct virtio_rig *rig, uint64_t features) {
        rig_set_status(rig, 0);
        rig_set_status(rig, VIRTIO_CONFIG_S_ACKNOWLEDGE);
        rig_set_status(rig, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        for (unsigned int word = 0; word < 2; word++) {
                rig_set(rig, VIRTIO_PCI_COMMON_GFSELECT, 4, word);
                rig_set(rig, VIRTIO_PCI_COMMON_GF, 4, features >> 32 * word & UINT32_MAX);
        }
        rig_set_status(rig, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
        return rig_status(rig);
}

/* Set queue @index up for @driver and enable it. */
static inline void rig_enable_queue(struct virtio_rig *rig, unsigned int index, struct driver *driver) {
        driver->memory = rig->machine.memory;
        driver->next = 0;
        rig_set(rig, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
        rig_set(rig, VIRTIO_PCI_COMMON_Q_SIZE, 2, driver->size);
        rig_set(rig, VIRTIO_PCI_COMMON_Q_DESCLO, 4, driver->desc);
        rig_set(rig, VIRTIO_PCI_COMMON_Q_DESCHI, 4, driver->desc >> 32);
        rig_set(rig, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, driver->avail);
        rig_set(rig, VIRTIO_PCI_COMMON_Q_USEDLO, 8, driver->used);
        rig_set(rig, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static inline void rig_driver_ok(struct virtio_rig *rig) {
        rig_set_status(rig, rig_status(rig) | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Ring as the guest does: the kernel's doorbell if there is one, else the access comes to us. Then let the main loop run. */
static inline void rig_kick(struct virtio_rig *rig, unsigned int index) {
        if (!fake_kvm_ring(&rig->kvm, rig->bar + RIG_DOORBELL + 4 * index))
                rig_set(rig, RIG_DOORBELL + 4 * index, 2, index);
        while (loop_run_once(rig->machine.loop, 0) > 0)
                ;
}
