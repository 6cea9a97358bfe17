// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine: memory, vCPUs, buses and devices put together, and the life of the whole
 *
 * Threads and locks. The main thread runs the event loop; each vCPU has a thread. One lock, the machine lock, guards all device
 * state: a vCPU thread takes it to dispatch a PIO or MMIO exit, the main loop holds it while callbacks run (see loop_set_guard()). So device code
 * never locks, and never blocks. Lock order: machine lock, then the routing lock inside vmm/kvm. vCPU state (run, pause)
 * has a lock of its own that is never held while waiting for the machine lock.
 *
 * Life. machine_new() -> devices -> loader sets memory and the boot CPU -> machine_start() -> pause/resume/reset -> machine_stop().
 * A reset (triple fault, port 0xcf9, i8042, ACPI reset register, QMP) parks the vCPUs, resets every device in the order of the registry, runs
 * the loader again, and releases them; a power-off (ACPI S5), a debug exit or QMP quit ends the process through the loop.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/bus.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/memory.h"
#include "vmm/machine/pci.h"

struct vmm_config; /* schema: what the parent handed in */
struct device;     /* device/device.h */
struct cpus;       /* cpus.h: the vCPU threads */

enum machine_state {
        MACHINE_PRELAUNCH,
        MACHINE_RUNNING,
        MACHINE_PAUSED,
        MACHINE_SHUTDOWN, /* the guest powered off */
        MACHINE_GUEST_PANICKED,
        MACHINE_INTERNAL_ERROR, /* KVM could not go on: the event says why */
        MACHINE_STATE_COUNT,
};

enum machine_event {
        MACHINE_EVENT_STOP, /* paused */
        MACHINE_EVENT_RESUME,
        MACHINE_EVENT_RESET,
        MACHINE_EVENT_POWERDOWN, /* power button pressed */
        MACHINE_EVENT_SHUTDOWN,  /* with a reason */
        MACHINE_EVENT_GUEST_PANICKED,
        MACHINE_EVENT_INTERNAL_ERROR,
};

enum shutdown_reason {
        SHUTDOWN_GUEST,       /* ACPI S5 */
        SHUTDOWN_GUEST_RESET, /* a reset, when machines are told to end instead (no_reboot) */
        SHUTDOWN_HOST_QUIT,   /* QMP quit, SIGTERM */
        SHUTDOWN_DEBUG_EXIT,  /* status given */
        SHUTDOWN_PANIC,
        SHUTDOWN_ERROR,
        SHUTDOWN_REASON_COUNT,
};

typedef void (*machine_event_fn)(void *opaque, enum machine_event event, enum shutdown_reason reason);

struct machine {
        const struct vmm_config *config;
        struct loop *loop;
        struct kvm *kvm;
        struct memory *memory;
        struct bus *mmio, *ports;
        struct pci_bus *pci;
        struct cpus *cpus;
        pthread_mutex_t lock;
        enum machine_state state;
        struct device *devices; /* device/registry.h: the devices */
        struct machine_listener *listeners;
        int exit_status;
};

/** machine_raise()/machine_lower() - level of an interrupt pin, @gsi 0..23. */
void machine_set_irq(struct machine *machine, unsigned int gsi, bool level);

/*
 * What devices ask for. All of these may be called under the machine lock from any thread: they only post to the main loop.
 */
void machine_request_reset(struct machine *machine);
void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status);
void machine_report_panic(struct machine *machine);

/* What control asks for, on the main thread. -EINVAL in a state that doesn't allow it. */
int machine_pause(struct machine *machine);
int machine_resume(struct machine *machine);
int machine_reset(struct machine *machine);
int machine_power_button(struct machine *machine);

/** machine_listen() - be told of events, on the main thread. machine_unlisten() with the same pair. */
int machine_listen(struct machine *machine, machine_event_fn fn, void *opaque);
void machine_unlisten(struct machine *machine, machine_event_fn fn, void *opaque);

/** machine_state_name() - QMP's word: "running", "paused", "prelaunch", "shutdown", "guest-panicked", "internal-error". */
const char *machine_state_name(enum machine_state state);
