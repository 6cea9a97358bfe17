// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-pci: the virtio transport over PCI Express, modern only (virtio 1.2 §4.1)
 *
 * One 64-bit memory BAR of 32 KiB holds the common configuration, the ISR byte, the device's configuration space and one doorbell page
 * (notify_off_multiplier 4); a second BAR holds MSI-X: one vector for configuration changes and one for each queue. Doorbells are
 * ioeventfds, so ringing one costs no exit to user space.
 */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"
#include "vmm/virtio/virtio.h"

struct virtio_pci;
struct machine;

/** virtio_pci_new() - put @device on @machine's PCI bus at @slot; it stays the caller's and must outlive the transport. */
int virtio_pci_new(struct machine *machine, struct virtio_device *device, unsigned int slot,
                   struct virtio_pci **ret_proxy, struct error *e);
void virtio_pci_free(struct virtio_pci *proxy);
DEFINE_CLEANUP(virtio_pci, virtio_pci_free);
