// SPDX-License-Identifier: GPL-2.0-or-later
/* cpus: see cpus.h */
#include "vmm/machine/cpus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/machine/cpuid.h"
#include "vmm/machine/machine.h"

#define CPU_STACK_SIZE (128 * 1024)

struct cpu {
        struct cpus *cpus;
        unsigned int index;
        struct kvm_vcpu *vcpu;
        pthread_t thread;
        bool started;
        int tid;
};

struct cpus {
        struct machine *machine;
        unsigned int n;
        struct cpu *cpu;

        _Atomic bool park;     /* asked to stop; read without the lock before each run */
        bool exit;             /* guarded by the machine lock, as is all below */
        unsigned int n_parked; /* threads that wait */
        pthread_cond_t parked; /* n_parked grew */
        pthread_cond_t go;     /* park or exit changed */
};

static void dispatch_pio(struct machine *machine, struct kvm_run *run) {
        uint8_t *data = (uint8_t *)run + run->io.data_offset;

        for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
                uint64_t value = 0;

                if (run->io.direction == KVM_EXIT_IO_OUT) {
                        memcpy(&value, data, run->io.size);
                        bus_write(machine->ports, run->io.port, run->io.size, value);
                } else {
                        value = bus_read(machine->ports, run->io.port, run->io.size);
                        memcpy(data, &value, run->io.size);
                }
        }
}

static void dispatch_mmio(struct machine *machine, struct kvm_run *run) {
        unsigned int len = MIN(run->mmio.len, 8u);
        uint64_t value = 0;

        if (run->mmio.is_write) {
                memcpy(&value, run->mmio.data, len);
                bus_write(machine->mmio, run->mmio.phys_addr, len, value);
        } else {
                value = bus_read(machine->mmio, run->mmio.phys_addr, len);
                memcpy(run->mmio.data, &value, len);
        }
}

static void fail(struct cpu *cpu, const char *what, uint64_t detail) {
        struct kvm_regs regs = { 0 };

        (void)kvm_vcpu_get_regs(cpu->vcpu, &regs);
        log_error("vCPU %u cannot go on: %s 0x%llx at rip 0x%llx rsp 0x%llx", cpu->index, what,
                  (unsigned long long)detail, (unsigned long long)regs.rip, (unsigned long long)regs.rsp);
        machine_request_shutdown(cpu->cpus->machine, SHUTDOWN_ERROR, 2);
}

/* Under the machine lock. What was gathered came before this exit. */
static void dispatch(struct cpu *cpu, struct kvm_run *run) {
        struct machine *machine = cpu->cpus->machine;

        machine_flush_coalesced(machine);
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
                dispatch_pio(machine, run);
                break;
        case KVM_EXIT_MMIO:
                dispatch_mmio(machine, run);
                break;
        case KVM_EXIT_SHUTDOWN: /* triple fault */
                machine_request_reset(machine);
                break;
        case KVM_EXIT_FAIL_ENTRY:
                fail(cpu, "entry failed with reason", run->fail_entry.hardware_entry_failure_reason);
                break;
        case KVM_EXIT_INTERNAL_ERROR:
                fail(cpu, "KVM internal error", run->internal.suberror);
                break;
        case KVM_EXIT_INTR:
        case KVM_EXIT_IRQ_WINDOW_OPEN:
                break;
        default:
                fail(cpu, "unexpected KVM exit", run->exit_reason);
                break;
        }
}

/* Wait while parked; false when it is time to end. Takes and leaves the machine lock. */
static bool wait_parked(struct cpus *cpus) {
        bool go_on;

        pthread_mutex_lock(&cpus->machine->lock);
        cpus->n_parked++;
        pthread_cond_broadcast(&cpus->parked);
        while (atomic_load(&cpus->park) && !cpus->exit)
                pthread_cond_wait(&cpus->go, &cpus->machine->lock);
        cpus->n_parked--;
        go_on = !cpus->exit;
        pthread_mutex_unlock(&cpus->machine->lock);
        return go_on;
}

static void *cpu_thread(void *opaque) {
        struct cpu *cpu = opaque;
        struct machine *machine = cpu->cpus->machine;
        char name[16];
        int r;

        snprintf(name, sizeof(name), "vcpu%u", cpu->index);
        pthread_setname_np(pthread_self(), name);
        cpu->tid = gettid();
        r = kvm_vcpu_bind(cpu->vcpu);
        if (r >= 0 && machine->hooks->vcpu_thread_start)
                r = machine->hooks->vcpu_thread_start(machine);
        if (r < 0) {
                log_error("vCPU %u: its thread cannot be set up: %s", cpu->index, strerror(-r));
                _exit(2); /* unconfined guest code must not run */
        }

        for (;;) {
                kvm_vcpu_unkick(cpu->vcpu);
                if (atomic_load(&cpu->cpus->park) && !wait_parked(cpu->cpus))
                        return NULL;
                r = kvm_vcpu_run(cpu->vcpu);
                if (r == -EINTR)
                        continue;
                pthread_mutex_lock(&machine->lock);
                if (r < 0)
                        fail(cpu, "KVM_RUN failed with errno", (uint64_t)-r);
                else
                        dispatch(cpu, kvm_vcpu_run_area(cpu->vcpu));
                pthread_mutex_unlock(&machine->lock);
        }
}

static int start_thread(struct cpu *cpu) {
        pthread_attr_t attr;
        int r;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, CPU_STACK_SIZE);
        r = pthread_create(&cpu->thread, &attr, cpu_thread, cpu);
        pthread_attr_destroy(&attr);
        cpu->started = r == 0;
        return -r;
}

static int create_cpu(struct cpus *cpus, unsigned int index, const struct cpu_topology *topology,
                      const struct kvm_cpuid2 *supported, struct error *e) {
        _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;
        struct cpu *cpu = &cpus->cpu[index];
        unsigned int apic_id = cpuid_apic_id(topology, index);
        bool deadline = kvm_has_cap(cpus->machine->kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
        int r;

        cpu->cpus = cpus;
        cpu->index = index;
        if (apic_id >= kvm_vcpu_id_limit(cpus->machine->kvm) || apic_id > 254)
                return error_set(e, -E2BIG, "cpu-topology",
                                 "ask for fewer CPUs, or for numbers of cores and threads that are powers of two",
                                 "vCPU %u would need APIC id %u", index, apic_id);
        r = kvm_vcpu_new(cpus->machine->kvm, apic_id, &cpu->vcpu, e);
        if (r < 0)
                return r;
        r = cpuid_build(supported, topology, apic_id, deadline, &cpuid);
        if (r >= 0)
                r = kvm_vcpu_set_cpuid(cpu->vcpu, cpuid);
        if (r < 0)
                return error_set(e, r, "cpu-cpuid", NULL, "cannot set the CPUID of vCPU %u", index);
        return 0;
}

int cpus_new(struct machine *machine, struct cpus **ret_cpus, struct error *e) {
        _cleanup_free_ struct kvm_cpuid2 *supported = NULL;
        unsigned int n = machine->config->cpus, max = kvm_max_vcpus(machine->kvm);
        struct cpu_topology topology;
        struct cpus *cpus;
        int r;

        if (n > max)
                return error_set(e, -E2BIG, "cpu-count", "ask for fewer CPUs: --cpus",
                                 "the machine wants %u vCPUs, this KVM allows %u", n, max);
        r = kvm_supported_cpuid(machine->config->kvm_fd, &sys_real, &supported);
        if (r < 0)
                return error_set(e, r, "cpu-cpuid", NULL, "cannot find out which CPU features KVM has");
        topology = cpuid_topology(machine->config);

        cpus = calloc(1, sizeof(*cpus));
        if (cpus)
                cpus->cpu = calloc(n, sizeof(*cpus->cpu));
        if (!cpus || !cpus->cpu) {
                free(cpus);
                return error_set(e, -ENOMEM, "cpu-create", NULL, "cannot create %u vCPUs", n);
        }
        cpus->machine = machine;
        cpus->n = n;
        atomic_store(&cpus->park, true);
        pthread_cond_init(&cpus->parked, NULL);
        pthread_cond_init(&cpus->go, NULL);

        for (unsigned int i = 0; i < n && r >= 0; i++)
                r = create_cpu(cpus, i, &topology, supported, e);
        for (unsigned int i = 0; i < n && r >= 0; i++) {
                r = start_thread(&cpus->cpu[i]);
                if (r < 0)
                        error_set(e, r, "cpu-create", NULL, "cannot start the thread of vCPU %u", i);
        }
        if (r < 0) {
                cpus_free(cpus);
                return r;
        }
        *ret_cpus = cpus;
        return 0;
}

void cpus_free(struct cpus *cpus) {
        if (!cpus)
                return;
        cpus_request_park(cpus);
        pthread_mutex_lock(&cpus->machine->lock);
        cpus->exit = true;
        pthread_cond_broadcast(&cpus->go);
        pthread_mutex_unlock(&cpus->machine->lock);
        for (unsigned int i = 0; i < cpus->n; i++)
                if (cpus->cpu[i].started)
                        pthread_join(cpus->cpu[i].thread, NULL);
        pthread_mutex_lock(&cpus->machine->lock);
        machine_flush_coalesced(cpus->machine); /* the devices are destroyed later, when the ring is gone */
        pthread_mutex_unlock(&cpus->machine->lock);
        for (unsigned int i = 0; i < cpus->n; i++) /* not before: the first one's run area holds the shared ring */
                kvm_vcpu_free(cpus->cpu[i].vcpu);
        pthread_cond_destroy(&cpus->parked);
        pthread_cond_destroy(&cpus->go);
        free(cpus->cpu);
        free(cpus);
}

void cpus_request_park(struct cpus *cpus) {
        if (!cpus)
                return;
        atomic_store(&cpus->park, true);
        for (unsigned int i = 0; i < cpus->n; i++)
                if (cpus->cpu[i].vcpu)
                        kvm_vcpu_kick(cpus->cpu[i].vcpu);
}

void cpus_park(struct cpus *cpus) {
        cpus_request_park(cpus);
        while (cpus->n_parked < cpus->n)
                pthread_cond_wait(&cpus->parked, &cpus->machine->lock);
        machine_flush_coalesced(cpus->machine);
}

void cpus_unpark(struct cpus *cpus) {
        atomic_store(&cpus->park, false);
        pthread_cond_broadcast(&cpus->go);
}

int cpus_reset(struct cpus *cpus, struct kvm_sregs *ret_sregs) {
        for (unsigned int i = 0; i < cpus->n; i++) {
                int r = kvm_vcpu_reset(cpus->cpu[i].vcpu, i == 0);

                if (r < 0)
                        return r;
        }
        return kvm_vcpu_get_sregs(cpus->cpu[0].vcpu, ret_sregs);
}

int cpus_set_entry(struct cpus *cpus, const struct kvm_regs *regs, const struct kvm_sregs *sregs) {
        int r = kvm_vcpu_set_sregs(cpus->cpu[0].vcpu, sregs);

        return r < 0 ? r : kvm_vcpu_set_regs(cpus->cpu[0].vcpu, regs);
}

void cpus_resumed(struct cpus *cpus) {
        for (unsigned int i = 0; i < cpus->n; i++)
                (void)kvm_vcpu_clock_paused(cpus->cpu[i].vcpu); /* -EINVAL: this guest keeps its own time */
}

unsigned int cpus_count(const struct cpus *cpus) {
        return cpus->n;
}

int cpus_thread_id(const struct cpus *cpus, unsigned int index) {
        return cpus->cpu[index].tid;
}
