// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fake-kvm: stands in for the few calls of vmm/kvm/kvm.h that the PCI and virtio code makes, and remembers what they asked for
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define FAKE_KVM_MSIS      256
#define FAKE_KVM_DOORBELLS 256

struct kvm {
        struct {
                bool used, routed;
                int event_fd;
                uint64_t address;
                uint32_t data;
        } msis[FAKE_KVM_MSIS];
        struct {
                bool used;
                int event_fd;
                uint64_t address;
        } doorbells[FAKE_KVM_DOORBELLS];
        unsigned int n_msis, n_doorbells; /* in use */
        unsigned int n_routings;          /* calls of kvm_msi_set() */
        unsigned int n_errors; /* calls that make no sense: taking away what is not there, the same thing twice */
        bool fail_msi, fail_doorbell;
};

/** fake_kvm_ring() - the guest writes to @address: true when a doorbell was there (its eventfd is signalled). */
bool fake_kvm_ring(struct kvm *kvm, uint64_t address);
