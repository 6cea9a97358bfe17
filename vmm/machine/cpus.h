// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpus: the vCPU threads: create, park, let go, reset, end
 *
 * Each thread loops over kvm_vcpu_run() and dispatches exits under the machine lock. Parking uses that same lock: a thread that
 * sees the request counts itself as parked and waits; whoever parks them waits, dropping the lock meanwhile, until all are. So
 * after cpus_park() no guest code runs and no exit is half done.
 */
#pragma once

#include "base/error.h"
#include "vmm/kvm/kvm.h"

struct machine;
struct cpus;

/** cpus_new() - create the vCPUs with their CPUID, and their threads, parked; the machine lock must not be held. */
int cpus_new(struct machine *machine, struct cpus **ret_cpus, struct error *e);

/** cpus_free() - end the threads and release; the machine lock must not be held. NULL is fine. */
void cpus_free(struct cpus *cpus);

/** cpus_request_park() - have every vCPU stop soon; from any thread, a vCPU's own included. */
void cpus_request_park(struct cpus *cpus);

/** cpus_park() - stop every vCPU and wait until they have; on the main thread under the machine lock, which it drops while it waits. */
void cpus_park(struct cpus *cpus);

/** cpus_unpark() - let them go; under the machine lock. */
void cpus_unpark(struct cpus *cpus);

/**
 * cpus_reset() - back to power-on; all must be parked
 * @ret_sregs: the boot CPU's special registers, for the loader to change; cpus_set_entry() writes them back
 */
int cpus_reset(struct cpus *cpus, struct kvm_sregs *ret_sregs);

/** cpus_set_entry() - how the boot CPU starts. */
int cpus_set_entry(struct cpus *cpus, const struct kvm_regs *regs, const struct kvm_sregs *sregs);

/** cpus_resumed() - tell every guest kernel that it was stopped, so that its watchdogs don't bark (KVM_KVMCLOCK_CTRL). */
void cpus_resumed(struct cpus *cpus);

/** cpus_count() - how many vCPUs; cpus_thread_id() - the host's thread id of vCPU @index. */
unsigned int cpus_count(const struct cpus *cpus);
int cpus_thread_id(const struct cpus *cpus, unsigned int index);
