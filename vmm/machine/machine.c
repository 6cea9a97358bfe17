// SPDX-License-Identifier: GPL-2.0-or-later
/* machine: see machine.h */
#include "vmm/machine/machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/machine/cpus.h"

static const char *const state_names[] = {
        [MACHINE_PRELAUNCH] = "prelaunch",
        [MACHINE_RUNNING] = "running",
        [MACHINE_PAUSED] = "paused",
        [MACHINE_IO_ERROR] = "io-error",
        [MACHINE_SHUTDOWN] = "shutdown",
        [MACHINE_GUEST_PANICKED] = "guest-panicked",
        [MACHINE_INTERNAL_ERROR] = "internal-error",
};
_Static_assert(ELEMENTSOF(state_names) == MACHINE_STATE_COUNT, "each state has a name");

const char *machine_state_name(enum machine_state state) {
        return state_names[state];
}

static uint64_t page_size(const struct vmm_config *config) {
        switch (config->hugepages) {
        case MACHINE_HUGEPAGES_2M:
                return 2ull << 20;
        case MACHINE_HUGEPAGES_1G:
                return 1ull << 30;
        default:
                return 0;
        }
}

/* A vhost-user disk's back end reads and writes guest memory. */
static bool is_shared(const struct vmm_config *config) {
        for (size_t i = 0; i < config->n_disks; i++)
                if (config->disks[i].vhost_user)
                        return true;
        return false;
}

static int build(struct machine *machine, struct error *e) {
        const struct vmm_config *config = machine->config;
        struct memory_options options = {
                .size = config->memory,
                .page_size = page_size(config),
                .shared = is_shared(config),
                .preallocate = config->preallocate,
        };
        int r;

        r = memory_new(&options, &machine->memory, e);
        if (r < 0)
                return r;
        r = kvm_open(&sys_real, config->kvm_fd, config->pit, &machine->kvm, e);
        if (r < 0)
                return r;
        r = memory_register(machine->memory, machine->kvm);
        if (r < 0)
                return error_set(e, r, "memory-slot", NULL, "cannot give KVM the guest's memory");
        r = bus_new(&machine->mmio);
        if (r >= 0)
                r = bus_new(&machine->ports);
        if (r >= 0)
                r = pci_bus_new(machine->kvm, machine->mmio, machine->ports, memory_mmio64_base(machine->memory),
                                LAYOUT_MMIO64_SIZE, &machine->pci);
        return r < 0 ? error_set(e, r, "machine-bus", NULL, "cannot make the machine's buses") : 0;
}

int machine_new(const struct vmm_config *config, const struct machine_hooks *hooks, struct loop *loop,
                struct machine **ret_machine, struct error *e) {
        _cleanup_(machine_freep) struct machine *machine = calloc(1, sizeof(*machine));
        int r;

        if (!machine)
                return error_set(e, -ENOMEM, "machine-create", NULL, "cannot make the machine");
        machine->config = config;
        machine->hooks = hooks;
        machine->loop = loop;
        pthread_mutex_init(&machine->lock, NULL);
        r = build(machine, e);
        if (r < 0)
                return r;
        loop_set_guard(loop, &machine->lock);
        *ret_machine = TAKE_PTR(machine);
        return 0;
}

void machine_free(struct machine *machine) {
        if (!machine)
                return;
        loop_set_guard(machine->loop, NULL);
        pci_bus_free(machine->pci);
        bus_free(machine->ports);
        bus_free(machine->mmio);
        kvm_close(machine->kvm);
        memory_free(machine->memory);
        pthread_mutex_destroy(&machine->lock);
        free(machine);
}

void machine_set_irq(struct machine *machine, unsigned int gsi, bool level) {
        (void)kvm_irq_line(machine->kvm, gsi, level); /* fails only for a pin that does not exist */
}

void machine_flush_coalesced(struct machine *machine) {
        unsigned int size;
        uint32_t value;
        uint16_t port;

        while (kvm_coalesced_next(machine->kvm, &port, &size, &value))
                bus_write(machine->ports, port, size, size < 4 ? value & ((1u << size * 8) - 1) : value);
}

int machine_gather_port(struct machine *machine, uint16_t port, bool on) {
        int r = kvm_coalesce(machine->kvm, port, 1, on);

        if (!on)
                machine_flush_coalesced(machine); /* another vCPU may have written in between */
        return r;
}

static void emit(struct machine *machine, enum machine_event event, enum shutdown_reason reason) {
        for (size_t i = 0; i < MACHINE_LISTENERS_MAX; i++)
                if (machine->listeners[i].fn)
                        machine->listeners[i].fn(machine->listeners[i].opaque, event, reason);
}

int machine_listen(struct machine *machine, machine_event_fn fn, void *opaque) {
        for (size_t i = 0; i < MACHINE_LISTENERS_MAX; i++)
                if (!machine->listeners[i].fn) {
                        machine->listeners[i].fn = fn;
                        machine->listeners[i].opaque = opaque;
                        return 0;
                }
        return -ENOSPC;
}

void machine_unlisten(struct machine *machine, machine_event_fn fn, void *opaque) {
        for (size_t i = 0; i < MACHINE_LISTENERS_MAX; i++)
                if (machine->listeners[i].fn == fn && machine->listeners[i].opaque == opaque)
                        machine->listeners[i].fn = NULL;
}

/* vCPUs are parked: power-on state everywhere, kernel in memory, boot CPU at its entry. */
static int load(struct machine *machine, struct error *e) {
        struct kvm_regs regs = { .rflags = 2 };
        struct kvm_sregs sregs;
        int r;

        r = cpus_reset(machine->cpus, &sregs);
        if (r < 0)
                return error_set(e, r, "cpu-reset", NULL, "cannot reset the vCPUs");
        r = machine->hooks->load(machine, &regs, &sregs, e);
        if (r < 0)
                return r;
        r = cpus_set_entry(machine->cpus, &regs, &sregs);
        return r < 0 ? error_set(e, r, "cpu-entry", NULL, "cannot set the boot CPU's registers") : 0;
}

int machine_start(struct machine *machine, struct error *e) {
        int r;

        pthread_mutex_lock(&machine->lock);
        cpus_park(machine->cpus);
        r = load(machine, e);
        if (r >= 0) {
                machine->state = MACHINE_RUNNING;
                cpus_unpark(machine->cpus);
        }
        pthread_mutex_unlock(&machine->lock);
        return r;
}

static void end(struct machine *machine, enum machine_state state, enum shutdown_reason reason, int status) {
        cpus_request_park(machine->cpus);
        machine->state = state;
        emit(machine, MACHINE_EVENT_SHUTDOWN, reason);
        loop_quit(machine->loop, status);
}

static void do_shutdown(struct machine *machine) {
        enum shutdown_reason reason = machine->requests.reason;

        if (reason == SHUTDOWN_ERROR)
                emit(machine, MACHINE_EVENT_INTERNAL_ERROR, reason);
        end(machine, reason == SHUTDOWN_ERROR ? MACHINE_INTERNAL_ERROR : MACHINE_SHUTDOWN, reason,
            machine->requests.exit_status);
}

/* On the main loop: what devices asked for since. A shutdown beats a panic beats a reset. */
static void act_on_requests(void *opaque) {
        struct machine *machine = opaque;
        struct machine_requests *q = &machine->requests;

        q->posted = false;
        if (machine->state == MACHINE_SHUTDOWN || machine->state == MACHINE_INTERNAL_ERROR)
                return;
        if (q->shutdown) {
                do_shutdown(machine);
        } else if (q->panic) {
                emit(machine, MACHINE_EVENT_GUEST_PANICKED, SHUTDOWN_PANIC);
                end(machine, MACHINE_GUEST_PANICKED, SHUTDOWN_PANIC, 2);
        } else if (q->reset) {
                (void)machine_reset(machine);
        }
}

static void post_requests(struct machine *machine) {
        cpus_request_park(machine->cpus);
        if (machine->requests.posted)
                return;
        machine->requests.posted = true;
        (void)loop_post(machine->loop, act_on_requests, machine); /* one at a time: it always has room */
}

void machine_request_reset(struct machine *machine) {
        machine->requests.reset = true;
        post_requests(machine);
}

void machine_reset_ready(struct machine *machine) {
        if (machine->requests.reset)
                post_requests(machine);
}

void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status) {
        if (machine->requests.shutdown)
                return; /* the first reason stands */
        machine->requests.shutdown = true;
        machine->requests.reason = reason;
        machine->requests.exit_status = exit_status;
        post_requests(machine);
}

void machine_report_panic(struct machine *machine) {
        machine->requests.panic = true;
        post_requests(machine);
}

/* Unless something waits that needs them parked. */
static void let_go(struct machine *machine) {
        if (!machine->requests.posted && !machine->requests.reset)
                cpus_unpark(machine->cpus);
}

static bool is_paused(const struct machine *machine) {
        return machine->state == MACHINE_PAUSED || machine->state == MACHINE_IO_ERROR;
}

static int pause_as(struct machine *machine, enum machine_state state) {
        int r;

        if (is_paused(machine))
                return 0;
        if (machine->state != MACHINE_RUNNING)
                return -EINVAL;
        cpus_park(machine->cpus);
        r = machine->hooks->pause_devices(machine);
        if (r < 0) {
                let_go(machine);
                return r;
        }
        if (kvm_clock_get(machine->kvm, &machine->paused_clock) < 0)
                machine->paused_clock.clock = 0;
        machine->state = state;
        emit(machine, MACHINE_EVENT_STOP, 0);
        return 0;
}

int machine_pause(struct machine *machine) {
        return pause_as(machine, MACHINE_PAUSED);
}

int machine_disk_failed(struct machine *machine, const struct machine_disk_error *error) {
        machine->disk_error = *error;
        emit(machine, MACHINE_EVENT_DISK_ERROR, 0);
        return error->action == DISK_ERROR_PAUSE ? pause_as(machine, MACHINE_IO_ERROR) : 0;
}

void machine_disk_job(struct machine *machine, enum machine_event event, const struct machine_disk_job *job) {
        machine->disk_job = *job;
        emit(machine, event, 0);
        machine->disk_job.message = NULL;
}

int machine_resume(struct machine *machine) {
        if (machine->state == MACHINE_RUNNING)
                return 0;
        if (!is_paused(machine))
                return -EINVAL;
        if (machine->paused_clock.clock > 0) {
                struct kvm_clock_data clock = { .clock = machine->paused_clock.clock };

                (void)kvm_clock_set(machine->kvm, &clock);
        }
        cpus_resumed(machine->cpus);
        machine->hooks->resume_devices(machine);
        machine->state = MACHINE_RUNNING;
        emit(machine, MACHINE_EVENT_RESUME, 0);
        let_go(machine);
        return 0;
}

int machine_reset(struct machine *machine) {
        _cleanup_error_ struct error e = ERROR_INIT;
        int r;

        if (machine->state != MACHINE_RUNNING && !is_paused(machine))
                return -EINVAL;
        cpus_park(machine->cpus);
        machine->hooks->reset_devices(machine);
        machine->requests.reset = machine->hooks->devices_busy(machine);
        if (machine->requests.reset)
                return 0; /* machine_reset_ready() brings us back */
        pci_bus_reset(machine->pci);
        r = kvm_irqchip_reset(machine->kvm);
        if (r < 0)
                error_set(&e, r, "irqchip-reset", NULL, "cannot reset the interrupt controllers");
        else
                r = load(machine, &e);
        if (r < 0) {
                error_print(&e, "lodge-vmm", stderr);
                machine->requests = (struct machine_requests){ .reason = SHUTDOWN_ERROR, .exit_status = 2 };
                do_shutdown(machine);
                return r;
        }
        emit(machine, MACHINE_EVENT_RESET, SHUTDOWN_GUEST_RESET);
        if (machine->state == MACHINE_RUNNING)
                cpus_unpark(machine->cpus);
        return 0;
}

int machine_power_button(struct machine *machine) {
        if (machine->state != MACHINE_RUNNING && !is_paused(machine))
                return -EINVAL;
        machine->hooks->power_button(machine);
        emit(machine, MACHINE_EVENT_POWERDOWN, 0);
        return 0;
}
