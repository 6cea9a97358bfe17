// SPDX-License-Identifier: GPL-2.0-or-later
/* fake-kvm: see fake-kvm.h */
#include "test/unit/fake-kvm.h"

#include <errno.h>
#include <unistd.h>

#include "vmm/kvm/kvm.h"

int kvm_set_memory(struct kvm *kvm, unsigned int slot, uint64_t gpa, uint64_t size, void *host, bool readonly) {
        return 0;
}

int kvm_msi_add(struct kvm *kvm, int event_fd) {
        if (kvm->fail_msi)
                return -ENOSPC;
        for (int i = 0; i < FAKE_KVM_MSIS; i++)
                if (!kvm->msis[i].used) {
                        kvm->msis[i].used = true;
                        kvm->msis[i].routed = false;
                        kvm->msis[i].event_fd = event_fd;
                        kvm->n_msis++;
                        return KVM_GSI_IRQCHIP + i;
                }
        return -ENOSPC;
}

int kvm_msi_set(struct kvm *kvm, int gsi, uint64_t address, uint32_t data) {
        int i = gsi - KVM_GSI_IRQCHIP;

        if (i < 0 || i >= FAKE_KVM_MSIS || !kvm->msis[i].used) {
                kvm->n_errors++;
                return -EINVAL;
        }
        kvm->n_routings++;
        kvm->msis[i].routed = true;
        kvm->msis[i].address = address;
        kvm->msis[i].data = data;
        return 0;
}

void kvm_msi_remove(struct kvm *kvm, int gsi, int event_fd) {
        int i = gsi - KVM_GSI_IRQCHIP;

        if (i < 0 || i >= FAKE_KVM_MSIS || !kvm->msis[i].used || kvm->msis[i].event_fd != event_fd) {
                kvm->n_errors++;
                return;
        }
        kvm->msis[i].used = false;
        kvm->n_msis--;
}

int kvm_doorbell(struct kvm *kvm, int event_fd, bool pio, uint64_t address, unsigned int len, const uint64_t *match,
                 bool assign) {
        int empty = -1;

        if (assign && kvm->fail_doorbell)
                return -ENOSPC;
        for (int i = 0; i < FAKE_KVM_DOORBELLS; i++) {
                if (!kvm->doorbells[i].used)
                        empty = i;
                else if (kvm->doorbells[i].address == address) {
                        if (assign || kvm->doorbells[i].event_fd != event_fd) {
                                kvm->n_errors++;
                                return -EEXIST;
                        }
                        kvm->doorbells[i].used = false;
                        kvm->n_doorbells--;
                        return 0;
                }
        }
        if (!assign) {
                kvm->n_errors++;
                return -ENOENT;
        }
        if (empty < 0)
                return -ENOSPC;
        kvm->doorbells[empty].used = true;
        kvm->doorbells[empty].event_fd = event_fd;
        kvm->doorbells[empty].address = address;
        kvm->n_doorbells++;
        return 0;
}

bool fake_kvm_ring(struct kvm *kvm, uint64_t address) {
        uint64_t one = 1;

        for (int i = 0; i < FAKE_KVM_DOORBELLS; i++)
                if (kvm->doorbells[i].used && kvm->doorbells[i].address == address)
                        return write(kvm->doorbells[i].event_fd, &one, sizeof(one)) == sizeof(one);
        return false;
}
