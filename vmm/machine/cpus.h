// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpus: the vCPU threads: create, start, park, resume, reset, end
 *
 * Each thread loops over kvm_vcpu_run() and dispatches exits. A parked thread waits on a condition; cpus_park() returns when all of them
 * do, so the caller may then touch vCPU registers and device state at will.
 */
#pragma once

#include "base/error.h"
#include "vmm/boot/boot.h"

struct machine;
struct cpus;

/** cpus_new() - create the vCPUs with their CPUID and MSRs, and the threads, parked. */
int cpus_new(struct machine *machine, struct cpus **ret_cpus, struct error *e);
void cpus_free(struct cpus *cpus); /* ends the threads */
void cpus_park(struct cpus *cpus);
void cpus_unpark(struct cpus *cpus);
/** cpus_reset() - all parked: back to power-on; the boot CPU starts at @entry, the others wait for SIPI. */
int cpus_reset(struct cpus *cpus, const struct boot_entry *entry);
/** cpus_boot_sregs() - the boot CPU's special registers, for the loader. */
int cpus_boot_sregs(struct cpus *cpus, struct kvm_sregs *ret_sregs);
