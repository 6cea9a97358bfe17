// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpuid: which CPU the guest sees
 *
 * A table says, leaf by leaf and register by register, which bits pass from KVM's supported set, which are forced, and which leaves are
 * made here (topology 0xB and 0x1F, caches 4 and 0x8000001D, APIC ids, hypervisor range).
 */
#pragma once

#include "vmm/kvm/kvm.h"

struct vmm_config; /* schema */

struct cpu_topology {
        unsigned int sockets, cores, threads; /* product: the number of vCPUs */
};

/** cpuid_topology() - what the configuration asks for; one socket of single-threaded cores when its numbers are not set. */
struct cpu_topology cpuid_topology(const struct vmm_config *config);

/** cpuid_build() - the leaves of vCPU @apic_id; allocated, free() it; -errno. */
int cpuid_build(const struct kvm_cpuid2 *supported, const struct cpu_topology *topology, unsigned int apic_id,
                bool tsc_deadline, struct kvm_cpuid2 **ret_cpuid);

/** cpuid_apic_id() - the APIC id of vCPU @index: socket, core and thread fields each a power of two wide. */
unsigned int cpuid_apic_id(const struct cpu_topology *topology, unsigned int index);
