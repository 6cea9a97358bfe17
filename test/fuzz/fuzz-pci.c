// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-pci: the input is a guest that pokes configuration space, BARs, MSI-X and a virtio-rng device in any order and width
 *
 * What must hold: no doorbell or GSI is set twice or taken away twice, doorbells lie inside the PCI windows, and all of them are gone in
 * the end.
 */
#include "test/fuzz/input.h"
#include "test/unit/virtio-rig.h"
#include "vmm/device/device.h"

#define WINDOW_HIGH 0x4000000000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t plain_read(void *opaque, uint64_t offset, unsigned int size) {
        return offset;
}

static void plain_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
}

static const struct bus_ops plain_ops = { plain_read, plain_write };

/* A second function with BARs of several kinds, to get in the way of the first. */
static struct pci_device *add_plain(struct virtio_rig *rig) {
        static const struct pci_identity identity = { .name = "plain", .vendor = 0x1af4, .device = 1 };
        struct pci_device *device;

        MUST(pci_device_new(rig->machine.pci, 3, 0, &identity, NULL, NULL, &device, NULL) >= 0);
        MUST(pci_add_bar(device, 0, 16, false, false, &plain_ops, NULL) >= 0);
        MUST(pci_add_bar(device, 1, 1 << 25, true, true, &plain_ops, NULL) >= 0);
        MUST(pci_add_msix(device, 3, 64) >= 0);
        MUST(pci_add_bar(device, 4, 4096, true, false, &plain_ops, NULL) >= 0);
        return device;
}

/* Addresses that matter, so that the fuzzer need not guess 64 bits. */
static uint64_t address(struct virtio_rig *rig, struct input *in, unsigned int kind) {
        static const unsigned int slots[] = { 0, LAYOUT_SLOT_RNG, LAYOUT_SLOT_RNG, 3 };
        unsigned int offset = (unsigned int)input_take(in, 2);

        switch (kind % 5) {
        case 0:
                return LAYOUT_ECAM_BASE + (slots[offset >> 14] << 15) + (offset & 0x3fff) % 0x110;
        case 1:
                return (rig_config(rig, PCI_BASE_ADDRESS_0, 4) & ~0xfull) + offset % 0x8000;
        case 2:
                return (rig_config(rig, PCI_BASE_ADDRESS_2, 4) & ~0xfull) + offset % 0x1000;
        case 3:
                return LAYOUT_MMIO32_BASE + ((uint64_t)offset << 12);
        default:
                return ((rig_config(rig, PCI_BASE_ADDRESS_0, 4) & ~0xfull) | rig_config(rig, PCI_BASE_ADDRESS_1, 4)
                                                                                     << 32) +
                       offset % 0x40;
        }
}

static void step(struct virtio_rig *rig, struct device *rng, struct pci_device *plain, struct input *in) {
        unsigned int op = (unsigned int)input_take(in, 1), size = 1u << (op >> 6);
        uint64_t at, word;

        switch (op % 16) {
        case 0 ... 4:
                at = address(rig, in, op % 16);
                bus_write(rig->machine.mmio, at, size, input_take(in, size));
                break;
        case 5 ... 9:
                (void)bus_read(rig->machine.mmio, address(rig, in, op % 16), size);
                break;
        case 10:
                at = 0xcf8 + input_take(in, 1) % 8;
                bus_write(rig->machine.ports, at, size, input_take(in, size));
                break;
        case 11:
                (void)bus_read(rig->machine.ports, 0xcf8 + input_take(in, 1) % 8, size);
                break;
        case 12:
                word = input_take(in, 8);
                at = input_take(in, 2) % 0x9000;
                (void)memory_write(rig->machine.memory, at, &word, sizeof(word));
                break;
        case 13:
                (void)loop_run_once(rig->machine.loop, 0);
                break;
        case 14:
                (void)pci_msix_notify(plain, (unsigned int)input_take(in, 1));
                (void)pci_msix_eventfd(plain, (unsigned int)input_take(in, 1));
                break;
        case 15:
                if (size == 8) {
                        virtio_rng_class.reset(rng);
                        pci_bus_reset(rig->machine.pci);
                        MUST(rig->kvm.n_doorbells == 0);
                } else if (size == 4)
                        rig_map(rig);
                else if (rig_negotiate(rig, 1ull << VIRTIO_F_VERSION_1) & VIRTIO_CONFIG_S_FEATURES_OK) {
                        struct driver driver = {
                                .size = 8, .desc = DRIVER_DESC, .avail = DRIVER_AVAIL, .used = DRIVER_USED
                        };

                        rig_enable_queue(rig, 0, &driver);
                        rig_driver_ok(rig);
                        (void)fake_kvm_ring(&rig->kvm, rig->bar + RIG_DOORBELL);
                }
                break;
        }
        MUST(rig->kvm.n_errors == 0);
}

static void check_doorbells(const struct virtio_rig *rig) {
        for (unsigned int i = 0; i < FAKE_KVM_DOORBELLS; i++) {
                uint64_t at = rig->kvm.doorbells[i].address;

                MUST(!rig->kvm.doorbells[i].used || (at >= LAYOUT_MMIO32_BASE && at < LAYOUT_ECAM_BASE) ||
                     (at >= WINDOW_HIGH && at < 2 * WINDOW_HIGH));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input in = { data, size };
        struct pci_device *plain;
        struct virtio_rig *rig = calloc(1, sizeof(*rig));
        struct device *rng;

        MUST(rig && virtio_rig_init(rig, LAYOUT_SLOT_RNG) >= 0);
        MUST(virtio_rng_class.create(&rig->machine, 0, &rng, NULL) >= 0);
        plain = add_plain(rig);
        rig_map(rig);
        while (in.left > 0)
                step(rig, rng, plain, &in);
        check_doorbells(rig);
        pci_device_free(plain);
        virtio_rng_class.destroy(rng);
        MUST(rig->kvm.n_doorbells == 0 && rig->kvm.n_msis == 0 && rig->kvm.n_errors == 0);
        virtio_rig_done(rig);
        free(rig);
        return 0;
}
