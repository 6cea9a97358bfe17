// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci: one PCI Express root bus: configuration space by ECAM and ports 0xcf8/0xcfc, BARs, capabilities, MSI-X
 *
 * Every function is a struct pci_device with 4096 bytes of configuration space (the first 256 are kept; the extended part reads as 0: no
 * extended capability), a mask of what the guest may write, and up to six BARs whose regions appear on the MMIO bus while memory
 * decoding is on (PCI 3.0 §6.2). BARs get addresses before the guest starts, since there is no firmware to do it; the guest may size and
 * move them. MSI-X (PCI 3.0 §6.8.2) is the only interrupt: each vector is an eventfd tied to a GSI by irqfd, so an unmasked vector costs
 * no exit and any thread may signal it. A function sends messages only while it is bus master.
 *
 * First addresses. BARs up to 16 MiB go to the window below 4 GiB even when they are 64-bit ones: a 32-bit kernel or a small
 * loader without page tables for high memory reaches them there, and it has room for hundreds. Larger 64-bit ones go to the high window.
 *
 * Decoding. The host bridge passes on only its two windows, so a BAR outside them (over RAM, ECAM, the local APIC) does not
 * decode. Where two BARs overlap, the one that was there first answers; the other follows as soon as the place is free.
 *
 * Threads: configuration and BARs under the machine lock. pci_msix_notify() from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vmm/machine/bus.h"

#define PCI_CONFIG_SIZE 4096 /* of one function in ECAM */
#define PCI_CONFIG_KEPT 256  /* what is stored of it */
#define PCI_BARS        6
#define PCI_MSIX_MAX    64 /* vectors that one function may have here */

struct kvm;
struct pci_bus;
struct pci_device;

struct pci_identity {
        const char *name; /* for messages: "virtio-blk" */
        uint16_t vendor, device, subsystem_vendor, subsystem;
        uint8_t revision;
        uint32_t class_code; /* base << 16 | sub << 8 | interface */
};

struct pci_device_ops {
        /* Called before the guest sees or after it wrote bytes behind the header (0x40..0xff); either may be NULL. */
        void (*config_read)(void *opaque, unsigned int offset, unsigned int size);
        void (*config_write)(void *opaque, unsigned int offset, unsigned int size);
        /* A BAR got an address with decoding on (mapped) or lost it. For doorbells: (un)assign ioeventfds here. May be NULL. */
        void (*bar_mapped)(void *opaque, unsigned int bar, uint64_t address, bool mapped);
};

/** pci_bus_new() - the root bus with its host bridge in slot 0, on @mmio and @ports. */
int pci_bus_new(struct kvm *kvm, struct bus *mmio, struct bus *ports, uint64_t mmio64_base, uint64_t mmio64_size,
                struct pci_bus **ret_bus);
void pci_bus_free(struct pci_bus *bus);
DEFINE_CLEANUP(pci_bus, pci_bus_free);

/**
 * pci_bus_set_reset_port() - who answers byte accesses to port 0xcf9, which lies inside the configuration address register's dword
 *
 * Only 4-byte accesses reach 0xcf8, only 1-byte ones 0xcf9, as on a PC. @ops NULL: nobody. Offset 0, size 1.
 */
void pci_bus_set_reset_port(struct pci_bus *bus, const struct bus_ops *ops, void *opaque);

/** pci_bus_reset() - every function back to its state at power-on, BARs at their first addresses. */
void pci_bus_reset(struct pci_bus *bus);

/**
 * pci_device_new() - put a function on the bus; it shows up at once
 * @slot: 1..31, @function 0..7 (function 0 must come first; the multifunction bit is kept right)
 * Return: 0; "pci-slot" with -EEXIST when the place is taken, -EINVAL when there is no such place.
 */
int pci_device_new(struct pci_bus *bus, unsigned int slot, unsigned int function, const struct pci_identity *identity,
                   const struct pci_device_ops *ops, void *opaque, struct pci_device **ret_device, struct error *e);
void pci_device_free(struct pci_device *device);
DEFINE_CLEANUP(pci_device, pci_device_free);

/**
 * pci_add_bar() - a memory BAR
 * @bar: 0..5 (a 64-bit BAR takes @bar and @bar+1); @size: a power of two, at least 16
 *
 * Return: 0; -EINVAL, -EEXIST when the BAR is in use, -ENOSPC when the window is full.
 */
int pci_add_bar(struct pci_device *device, unsigned int bar, uint64_t size, bool is_64bit, bool prefetchable,
                const struct bus_ops *ops, void *opaque);

/**
 * pci_add_capability() - reserve @len bytes (2 of header included) in the list at 0x40..0xff
 * @data: initial content behind the header; @writable: mask of bits that the guest may write, or NULL for none
 * Return: the capability's offset, or -ENOSPC.
 */
int pci_add_capability(struct pci_device *device, uint8_t id, uint8_t len, const void *data, const void *writable);

/** pci_config() - the first PCI_CONFIG_KEPT bytes, to read and to refresh from config_read(). */
uint8_t *pci_config(struct pci_device *device);

/**
 * pci_add_msix() - MSI-X capability with its table and pending bits in @bar, a BAR of its own (made here)
 * @vectors: 1..PCI_MSIX_MAX
 */
int pci_add_msix(struct pci_device *device, unsigned int bar, unsigned int vectors);

/**
 * pci_msix_notify() - signal @vector; from any thread
 *
 * Masked (per vector or function) or no bus master: the pending bit is set and the message goes out when that ends. The first message
 * after the guest changed the vector's address or data also routes it (a system call or three more); vectors that never fire
 * cost nothing.
 *
 * Return: false when MSI-X is off (nothing happens then).
 */
bool pci_msix_notify(struct pci_device *device, unsigned int vector);

/** pci_msix_eventfd() - the irqfd of a vector, for vhost; -1 while masked handling needs us. Borrowed. */
int pci_msix_eventfd(struct pci_device *device, unsigned int vector);

/** pci_describe() - "00:03.0", for messages. */
const char *pci_describe(const struct pci_device *device, char buf[static 16]);
