// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what kvm.c and vcpu.c share, and nobody else sees */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/kvm/kvm.h"

/* Intel's real mode needs four pages of guest physical space of its own, below the 4 GiB line (KVM_SET_TSS_ADDR). */
#define LAYOUT_IDENTITY_MAP 0xfffbc000ul
#define LAYOUT_TSS          0xfffbd000ul

struct kvm_msi_slot {
        bool used, routed;
        uint64_t address;
        uint32_t data;
};

struct kvm {
        const struct sys *sys;
        int kvm_fd; /* borrowed */
        int vm_fd;
        bool pit;
        size_t run_size;
        struct kvm_coalesced_mmio_ring *coalesced; /* in the first vCPU's run area; NULL: not offered */

        struct kvm_irqchip initial_chips[3];
        struct kvm_pit_state2 initial_pit;

        pthread_mutex_t routing_lock; /* guards all below */
        struct kvm_irq_routing *routes;
        unsigned int n_fixed;
        struct kvm_msi_slot *msis;
        unsigned int n_msis; /* there is room for */
};

/** kvm_find_coalesced() - the first vCPU's run area is mapped: the ring is in it, where the kernel has one. */
void kvm_find_coalesced(struct kvm *kvm, void *run);
/** kvm_forget_coalesced() - @run is about to be unmapped: when the ring is in it, there is none from now on. */
void kvm_forget_coalesced(struct kvm *kvm, void *run);

/** kvm_vm_ioctl() - an ioctl on the VM: its result, or -errno. */
int kvm_vm_ioctl(struct kvm *kvm, unsigned long request, const void *arg);
