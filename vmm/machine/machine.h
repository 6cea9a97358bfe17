// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine: memory, vCPUs, buses and devices put together, and the life of the whole
 *
 * Threads and locks. The main thread runs the event loop; each vCPU has a thread. One lock, the machine lock, guards all
 * device state: a vCPU thread takes it to dispatch a PIO or MMIO exit, the main loop holds it while callbacks run (see
 * loop_set_guard()). So device code never locks, and never blocks. A device may give a queue an I/O thread (io-thread.h), whose loop has a
 * lock of its own for that queue's state. Lock order: machine, I/O thread, then those of msix and of vmm/kvm's routes.
 *
 * Life. machine_new() -> devices -> cpus -> machine_start() -> pause, resume, reset -> machine_free(). A reset (triple fault, port
 * 0xcf9, i8042, ACPI reset register, QMP) parks the vCPUs, resets the interrupt controllers and every device, runs the loader again, and
 * lets them go (while a device still waits for its storage, the vCPUs stay parked and the loop runs); a power-off (ACPI S5), a debug exit, a panic or QMP quit ends the loop with the process's exit status.
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

struct machine;
struct vmm_config;      /* schema: what the parent handed in */
struct throttle_config; /* schema: a disk's limits */
struct device;          /* device/device.h */
struct cpus;            /* cpus.h: the vCPU threads */

enum machine_state {
        MACHINE_PRELAUNCH,
        MACHINE_RUNNING,
        MACHINE_PAUSED,
        MACHINE_IO_ERROR, /* paused, since the host's storage failed a disk */
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
        MACHINE_EVENT_DISK_ERROR, /* machine->disk_error */
        MACHINE_EVENT_JOB_READY,  /* this one and the next: machine->disk_job */
        MACHINE_EVENT_JOB_ERROR,
        MACHINE_EVENT_JOB_COMPLETED, /* the end, also after an error */
        MACHINE_EVENT_JOB_CANCELLED, /* the other end */
};

/* A request of a disk's that the host's storage has failed. */
struct machine_disk_error {
        unsigned int disk;
        bool write;
        enum disk_error_action { DISK_ERROR_REPORT, DISK_ERROR_PAUSE, DISK_ERROR_IGNORE } action;
        int error; /* errno */
};

/* A mirror of a disk to another image, at some moment. */
struct machine_disk_job {
        unsigned int disk;
        enum machine_job_state {
                MACHINE_JOB_CREATED,
                MACHINE_JOB_RUNNING,
                MACHINE_JOB_READY,    /* it may be completed */
                MACHINE_JOB_PENDING,  /* it is being completed */
                MACHINE_JOB_ABORTING, /* cancelled, or failed */
                MACHINE_JOB_STATE_COUNT,
        } state;
        uint64_t done, left; /* bytes */
        uint64_t speed;      /* bytes in a second; 0: no limit */
        bool write;          /* what has failed: the target, rather than the disk itself */
        int error;           /* errno; 0: none */
        const char *message; /* what happened then, in words; NULL: none. Good as long as the event lasts */
};

struct machine_mirror {
        int fd;             /* of the target's image; taken over on success */
        const char *format; /* "raw" or "qcow2", a constant */
        uint64_t speed;     /* bytes in a second; 0: no limit */
        bool pivot;         /* in the end the disk goes on with the target */
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

/* What a disk did since the process began, for query-blockstats; see device/disk-stats.h. */
enum machine_disk_stat {
        MACHINE_DISK_READ,
        MACHINE_DISK_WRITE, /* of zeroes, too */
        MACHINE_DISK_FLUSH,
        MACHINE_DISK_UNMAP,
        MACHINE_DISK_STAT_COUNT
};

struct machine_disk_stats {
        uint64_t operations[MACHINE_DISK_STAT_COUNT]; /* that were done */
        uint64_t bytes[MACHINE_DISK_STAT_COUNT];      /* of them */
        uint64_t failed[MACHINE_DISK_STAT_COUNT];     /* operations of which the guest was told that they failed */
};

typedef void (*machine_event_fn)(void *opaque, enum machine_event event, enum shutdown_reason reason);

/* What a machine asks of the rooms above it; main.c ties them together. */
struct machine_hooks {
        void (*reset_devices)(struct machine *machine);
        bool (*devices_busy)(struct machine *machine); /* is that still going on? */
        int (*pause_devices)(struct machine *machine); /* nothing is in flight afterwards; or -errno, and they go on */
        void (*resume_devices)(struct machine *machine);
        void (*power_button)(struct machine *machine);
        /* Other limits for a disk; -errno with an error. */
        int (*set_disk_limits)(struct machine *machine, unsigned int disk, const struct throttle_config *limits,
                               struct error *e);
        /* A larger disk; @done comes on the main thread unless -errno with an error is returned. */
        int (*resize_disk)(struct machine *machine, unsigned int disk, uint64_t size,
                           void (*done)(void *opaque, int result, const struct error *e), void *opaque,
                           struct error *e);
        /* Begin to mirror a disk; events tell how it goes on. -errno with an error. */
        int (*mirror_disk)(struct machine *machine, unsigned int disk, const struct machine_mirror *options,
                           struct error *e);
        /* How far a disk's mirror is: -ENOENT no such disk, -ESRCH it has none. */
        int (*query_disk_job)(struct machine *machine, unsigned int disk, struct machine_disk_job *ret_job);
        /* What a disk has done: -ENOENT no such disk, -ESRCH a back end serves it, and counts by itself. */
        int (*query_disk_stats)(struct machine *machine, unsigned int disk, struct machine_disk_stats *ret_stats);
        /* End a disk's mirror, soon: with a whole copy, or at once. -errno with an error. */
        int (*end_disk_job)(struct machine *machine, unsigned int disk, bool complete, struct error *e);
        /* Fill guest memory and say how the boot CPU starts; @sregs is as after power-on when called, to be changed. */
        int (*load)(struct machine *machine, struct kvm_regs *regs, struct kvm_sregs *sregs, struct error *e);
        /* First thing on each vCPU's thread (the sandbox); a failure ends the process. */
        int (*vcpu_thread_start)(struct machine *machine);
        /* First thing on each thread that does a disk's I/O; a failure fails the disk. May be NULL. */
        int (*block_thread_start)(struct machine *machine);
        /* First thing on each I/O thread (io-thread.h). May be NULL. */
        int (*io_thread_start)(struct machine *machine);
};

#define MACHINE_LISTENERS_MAX 8

struct machine {
        const struct vmm_config *config;
        const struct machine_hooks *hooks;
        const struct sys *sys; /* for the files of disks; NULL: the real one */
        struct loop *loop;
        struct kvm *kvm;
        struct memory *memory;
        struct bus *mmio, *ports;
        struct pci_bus *pci;
        struct cpus *cpus;
        struct device *devices; /* device/device.h */
        pthread_mutex_t lock;
        enum machine_state state;

        struct machine_listener {
                machine_event_fn fn;
                void *opaque;
        } listeners[MACHINE_LISTENERS_MAX];

        struct machine_disk_error disk_error; /* the last one */
        struct machine_disk_job disk_job;     /* that the event is about */
        struct kvm_clock_data paused_clock;   /* kvmclock stands still while the machine does */
        struct machine_requests {             /* asked by devices, not yet acted on; guarded by the lock */
                bool reset, shutdown, panic, posted;
                enum shutdown_reason reason;
                int exit_status;
        } requests;
};

/**
 * machine_new() - memory, VM and buses, from the configuration; no devices and no vCPUs yet
 * @config, @hooks: borrowed, must outlive the machine
 */
int machine_new(const struct vmm_config *config, const struct machine_hooks *hooks, struct loop *loop,
                struct machine **ret_machine, struct error *e);
void machine_free(struct machine *machine);
DEFINE_CLEANUP(machine, machine_free);

/** machine_start() - load the kernel and let the vCPUs go; once, from MACHINE_PRELAUNCH. */
int machine_start(struct machine *machine, struct error *e);

/** machine_flush_coalesced() - deliver the port writes that the kernel gathered (kvm_coalesce()); under the machine lock. */
void machine_flush_coalesced(struct machine *machine);

/** machine_gather_port() - start or end the gathering of writes to @port, see kvm_coalesce(); at the end what was gathered is delivered. */
int machine_gather_port(struct machine *machine, uint16_t port, bool on);

/** machine_set_irq() - level of an interrupt pin, @gsi 0..23. */
void machine_set_irq(struct machine *machine, unsigned int gsi, bool level);

/*
 * What devices ask for, under the machine lock, on any thread. The vCPUs stop at once; the main loop does the rest.
 */
void machine_request_reset(struct machine *machine);
void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status);
void machine_report_panic(struct machine *machine);

/** machine_reset_ready() - a device that kept a reset of the machine waiting is done with its own. */
void machine_reset_ready(struct machine *machine);

/**
 * machine_disk_failed() - tell of it and, when that is the action, pause; on the main thread, under the machine lock
 *
 * Return: 0; -errno: it should have paused but can't.
 */
int machine_disk_failed(struct machine *machine, const struct machine_disk_error *error);

/** machine_disk_job() - tell of an event of @job's, MACHINE_EVENT_JOB_*; on the main thread, under the machine lock */
void machine_disk_job(struct machine *machine, enum machine_event event, const struct machine_disk_job *job);

/* What control asks for, on the main thread, under the machine lock. -EINVAL in a state that doesn't allow it. */
/* machine_pause(): also -ETIMEDOUT when a disk's storage does not answer; the machine then runs on. */
int machine_pause(struct machine *machine);
int machine_resume(struct machine *machine);
int machine_reset(struct machine *machine);
int machine_power_button(struct machine *machine);

/** machine_listen() - be told of events, on the main thread; -ENOSPC when all places are taken. */
int machine_listen(struct machine *machine, machine_event_fn fn, void *opaque);
void machine_unlisten(struct machine *machine, machine_event_fn fn, void *opaque);

/** machine_state_name() - QMP's word: "prelaunch", "running", "paused", "io-error", "shutdown", "guest-panicked", "internal-error". */
const char *machine_state_name(enum machine_state state);
