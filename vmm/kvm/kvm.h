// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm: the one room that talks to /dev/kvm
 *
 * Everything above this folder sees a VM (memory slots, interrupt routes, doorbells) and vCPUs (registers, run). No other
 * folder includes <linux/kvm.h> for its ioctls; the register structures of the KVM API pass through as they are, since
 * they are the field's own words for them.
 *
 * The interrupt controllers (PIC, IOAPIC, LAPICs) and the PIT live in the kernel: see doc/adr on the irqchip.
 *
 * Threads. struct kvm: setters may be called from any thread (each is one ioctl); the routing table has its own lock.
 * struct kvm_vcpu: only its own thread, but for kvm_vcpu_kick().
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/sys.h"

struct kvm;
struct kvm_vcpu;

#define KVM_GSI_IRQCHIP 24   /* GSIs 0..23 are the IOAPIC's pins; MSI routes come behind them */
#define KVM_GSI_MAX     4096 /* KVM_MAX_IRQ_ROUTES on x86 */

/**
 * kvm_open() - make a VM with in-kernel interrupt controllers
 * @sys:     the call table, kept (tests inject failures)
 * @kvm_fd:  an open /dev/kvm; borrowed, must outlive the VM
 * @pit:     make the in-kernel i8254 as well
 * @ret_kvm: the VM
 *
 * Return: 0, or -errno with @e filled: "kvm-api" (version), "kvm-capability" (names the missing one), "kvm-create".
 */
int kvm_open(const struct sys *sys, int kvm_fd, bool pit, struct kvm **ret_kvm, struct error *e);
void kvm_close(struct kvm *kvm);
DEFINE_CLEANUP(kvm, kvm_close);

/** kvm_max_vcpus() - how many vCPUs this kernel allows in one VM (at least 1). */
unsigned int kvm_max_vcpus(const struct kvm *kvm);

/** kvm_vcpu_id_limit() - the first APIC id that is not allowed. */
unsigned int kvm_vcpu_id_limit(const struct kvm *kvm);

/** kvm_has_cap() - KVM_CHECK_EXTENSION on the VM: 0 or the extension's value. */
int kvm_has_cap(const struct kvm *kvm, unsigned int cap);

/**
 * kvm_set_memory() - place host memory in the guest physical address space
 * @slot: number of the memory slot; @gpa, @size: bytes, page aligned, size 0 removes; @host: where it is mapped here
 */
int kvm_set_memory(struct kvm *kvm, unsigned int slot, uint64_t gpa, uint64_t size, void *host, bool readonly);

/** kvm_irq_line() - set the level of an IOAPIC/PIC input, @gsi 0..23. */
int kvm_irq_line(struct kvm *kvm, unsigned int gsi, bool level);

/**
 * kvm_msi_add() - take a free GSI behind the IOAPIC's, tie it to @event_fd by irqfd; it has no route until kvm_msi_set()
 * Return: the GSI, or -ENOSPC, -errno.
 */
int kvm_msi_add(struct kvm *kvm, int event_fd);

/** kvm_msi_set() - (re)route a GSI from kvm_msi_add() to the message @address, @data (PCI 3.0 §6.8); -errno. */
int kvm_msi_set(struct kvm *kvm, int gsi, uint64_t address, uint32_t data);

/** kvm_msi_remove() - undo kvm_msi_add(). @event_fd as given there. */
void kvm_msi_remove(struct kvm *kvm, int gsi, int event_fd);

/**
 * kvm_doorbell() - have the kernel turn guest writes to @address into a wake-up of @event_fd (ioeventfd)
 * @pio:    an I/O port rather than a guest physical address
 * @len:    1, 2, 4, 8, or 0 for any length (MMIO)
 * @match:  only writes of this value, or NULL for every write
 * @assign: false takes it away; the other arguments as before
 */
int kvm_doorbell(struct kvm *kvm, int event_fd, bool pio, uint64_t address, unsigned int len, const uint64_t *match,
                 bool assign);

/**
 * kvm_coalesce() - gather the guest's writes to an I/O port in a ring, rather than leave guest mode for each
 *
 * For ports whose writes may be late by a moment: whoever turns it on takes the writes with kvm_coalesced_next() at each exit, and from time
 * to time. Needs a vCPU, since the ring lies beside its run area. Return: 0, -ENOTSUP when this kernel has none, -errno.
 */
int kvm_coalesce(struct kvm *kvm, uint16_t port, unsigned int len, bool on);

/** kvm_coalesced_next() - take the oldest gathered write; false when there is none. One caller at a time. */
bool kvm_coalesced_next(struct kvm *kvm, uint16_t *ret_port, unsigned int *ret_size, uint32_t *ret_value);

/** kvm_set_boot_cpu() - APIC id of the bootstrap processor; before the first vCPU. */
int kvm_set_boot_cpu(struct kvm *kvm, unsigned int apic_id);

/** kvm_irqchip_reset() - PIC, IOAPIC and PIT back to their states at power-on; no vCPU may run. */
int kvm_irqchip_reset(struct kvm *kvm);

/** kvm_clock_get(), kvm_clock_set() - the VM's kvmclock. */
int kvm_clock_get(struct kvm *kvm, struct kvm_clock_data *ret_clock);
int kvm_clock_set(struct kvm *kvm, const struct kvm_clock_data *clock);

/**
 * kvm_supported_cpuid() - what this kernel can show to guests (KVM_GET_SUPPORTED_CPUID)
 * @ret_cpuid: allocated, ->nent entries; free() it
 */
int kvm_supported_cpuid(int kvm_fd, const struct sys *sys, struct kvm_cpuid2 **ret_cpuid);

/** kvm_vcpu_new() - make vCPU @apic_id and map its run area. */
int kvm_vcpu_new(struct kvm *kvm, unsigned int apic_id, struct kvm_vcpu **ret_vcpu, struct error *e);
void kvm_vcpu_free(struct kvm_vcpu *vcpu);
DEFINE_CLEANUP(kvm_vcpu, kvm_vcpu_free);

/* Registers: thin ioctls, 0 or -errno; the vCPU must not be running. */
int kvm_vcpu_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid);
int kvm_vcpu_get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *ret_regs);
int kvm_vcpu_set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *regs);
int kvm_vcpu_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *ret_sregs);
int kvm_vcpu_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);
int kvm_vcpu_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t value);

/**
 * kvm_vcpu_reset() - back to power-on, as after kvm_vcpu_new() and its first kvm_vcpu_set_cpuid()
 * @boot: this is the bootstrap processor: runnable; else it waits for INIT and SIPI (Intel SDM vol. 3 §9.4)
 */
int kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool boot);

/** kvm_vcpu_clock_paused() - set kvmclock's "guest stopped" flag (KVM_KVMCLOCK_CTRL); -EINVAL when the guest has no kvmclock. */
int kvm_vcpu_clock_paused(struct kvm_vcpu *vcpu);

/** kvm_vcpu_run_area() - the page shared with the kernel: exit reason and its data. */
struct kvm_run *kvm_vcpu_run_area(struct kvm_vcpu *vcpu);

/**
 * kvm_vcpu_run() - run the guest until something needs us
 * Return: 0 with the reason in the run area; -EINTR when kicked (pending PIO/MMIO is complete then); other -errno.
 */
int kvm_vcpu_run(struct kvm_vcpu *vcpu);

/**
 * kvm_vcpu_kick() - make the vCPU's next or present kvm_vcpu_run() return -EINTR; from any thread
 *
 * Sets immediate_exit and sends the thread SIGUSR1 (a no-op handler is installed by kvm_vcpu_bind()). The vCPU's thread clears it by
 * kvm_vcpu_unkick().
 */
void kvm_vcpu_kick(struct kvm_vcpu *vcpu);
void kvm_vcpu_unkick(struct kvm_vcpu *vcpu);

/** kvm_vcpu_bind() - declare the calling thread to be this vCPU's: kicks go to it. */
int kvm_vcpu_bind(struct kvm_vcpu *vcpu);
