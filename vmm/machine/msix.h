// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * msix: the table, mask and pending bits of one function's MSI-X capability (PCI 3.0 §6.8.2)
 *
 * pci.c owns the capability in configuration space and tells the state of its control bits; here are the vectors.
 *
 * Theory of operation. A vector that may be sent is a write to its eventfd, which the kernel turns into the message (irqfd and a
 * route). Eventfd, GSI and route are made when the first message is sent, not when the guest programs the vector: guests program many
 * vectors that never fire, and write address and data several times before they settle; each route is an expensive ioctl that
 * waits for all vCPUs. Whether a vector is masked is known only here; the kernel's side never changes for it.
 *
 * Threads. msix_notify() and msix_eventfd() from any thread; the rest under the machine lock. One mutex guards the
 * vectors, so that no message leaves once a guest's write of a mask bit has returned. Lock order: machine, msix, routing inside kvm.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "vmm/machine/bus.h"

#define MSIX_BAR_SIZE 4096
#define MSIX_TABLE    0     /* offsets in the BAR */
#define MSIX_PBA      0x800 /* behind 64 vectors of 16 bytes */

struct kvm;
struct msix;

/** msix_new() - @vectors: 1..PCI_MSIX_MAX, all masked, the function off. */
int msix_new(struct kvm *kvm, const char *name, unsigned int vectors, struct msix **ret_msix);
void msix_free(struct msix *msix);
DEFINE_CLEANUP(msix, msix_free);

/** msix_reset() - as after msix_new(); eventfds and GSIs are kept for next time. */
void msix_reset(struct msix *msix);

/**
 * msix_set_control() - the function's control bits changed
 * @enabled: MSI-X Enable; switching it off forgets pending messages
 * @held:    Function Mask, or the function is no bus master: messages wait
 */
void msix_set_control(struct msix *msix, bool enabled, bool held);

/* See pci_msix_notify() and pci_msix_eventfd(). */
bool msix_notify(struct msix *msix, unsigned int vector);
int msix_eventfd(struct msix *msix, unsigned int vector);

/* Answers in the BAR; opaque is the struct msix. */
extern const struct bus_ops msix_bus_ops;
