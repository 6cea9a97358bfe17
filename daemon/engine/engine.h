// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine: start a machine, by lodge-vmm or by QEMU, and hold what is left of it here: a process and its sockets
 *
 * Theory of operation.
 *
 *      struct machine_config        what a person asked for (schema)
 *        | engine_decide()          which engine, and why (engine-auto.c)
 *        | parts_open()             every file, lock, tap and helper process, open and checked (parts.h)
 *        v
 *      engine_start()               render the parts as a config (engine-native.c) or a command line (engine-qemu.c),
 *        |                          fork, exec with just those descriptors
 *        v
 *      struct engine                pid, control socket (QMP), serial console, guest agent port, the VMM's own messages
 *
 * Both engines get the same parts and give the guest the same devices at the same PCI slots (vmm/machine/layout.h). Once
 * the process runs the parts are closed here: the process alone holds disks and their locks, so they are free again the
 * moment it ends, however it ends.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/engine/parts.h"
#include "daemon/host/probe.h"

enum engine_kind { ENGINE_NATIVE, ENGINE_QEMU, ENGINE_KIND_COUNT };

/** engine_name() - "native" or "qemu". */
const char *engine_name(enum engine_kind kind);

/* The agent's port, as qemu-guest-agent looks for it. */
#define ENGINE_AGENT_PORT "org.qemu.guest_agent.0"

/* What engine_decide() found. */
struct engine_choice {
        enum engine_kind kind;
        bool kvm;          /* qemu: may use KVM; else it emulates */
        bool fallback;     /* auto wanted native and took qemu: always said aloud */
        char reason[512];  /* one line */
        char warning[512]; /* what of the machine is left out here, and what to do about it; "": nothing */
};

/**
 * engine_decide() - choose the engine for a machine
 * @config:     what was asked for; config->engine is auto, native or qemu
 * @probe:      the host's KVM, from probe_run()
 * @ret_choice: filled on success
 *
 * Return: 0, or -errno with @e: "engine-native" (asked for, but this host or machine rules it out), "engine-qemu" (QEMU is
 * not installed), "firmware-missing", "tpm-missing".
 */
int engine_decide(const struct machine_config *config, const struct probe *probe, struct engine_choice *ret_choice,
                  struct error *e);

/** engine_program_path() - where is a program of libexec: beside our own executable, in the build tree, in libexec; allocated. -ENOENT. */
int engine_program_path(const char *name, char **ret_path);

/** engine_vmm_path() - the same for lodge-vmm. */
int engine_vmm_path(char **ret_path);

/* A machine that runs. */
struct engine {
        enum engine_kind kind;
        pid_t pid;
        int pidfd;
        int control_fd; /* QMP, connected, or -EBADF: see struct engine_options */
        int console_fd; /* the serial port, both ways */
        int agent_fd;   /* the agent's port */
        int log_fd;     /* what the process writes to stderr */
};

#define ENGINE_INIT                                                                                                    \
        ((struct engine){                                                                                              \
                .pidfd = -EBADF, .control_fd = -EBADF, .console_fd = -EBADF, .agent_fd = -EBADF, .log_fd = -EBADF })

/* How the process is started. All zero but for listen_fd, -1: as `lodge run` does it. */
struct engine_options {
        int listen_fd;                 /* a listening stream socket for QMP, borrowed; negative: one connected pair */
        const struct spawn_jail *jail; /* NULL: none */
};

/**
 * engine_start() - start the machine; it runs at once
 * @parts:      everything it is made of; stays the caller's
 * @options:    NULL: a connected control socket, no jail. With a listening one, engine->control_fd is negative
 * @ret_engine: the caller ends it by engine_end(), or lets it end, and calls engine_clear()
 */
int engine_start(const struct engine_choice *choice, const struct parts *parts, const struct engine_options *options,
                 struct engine *ret_engine, struct error *e);

/** engine_end() - SIGTERM, then SIGKILL after @grace_ms; does nothing when it is reaped already. Returns the exit status. */
int engine_end(struct engine *engine, int grace_ms);

/** engine_clear() - close the sockets. A process that still runs is ended. */
void engine_clear(struct engine *engine);

/* ---- for the files of this folder and their tests ---------------------------------------------------------------- */

/* The far ends of the sockets, which the process gets. */
struct engine_ends {
        int control_fd, console_fd, agent_fd, log_fd;
        bool control_listens;
};

/**
 * engine_native_config() - the JSON that lodge-vmm gets
 * @kvm_fd: an open /dev/kvm
 * Return: text, to be freed; NULL when there is no memory.
 */
char *engine_native_config(const struct parts *parts, const struct engine_ends *ends, int kvm_fd);

/**
 * engine_qemu_arguments() - QEMU's command line
 * @ret_argv: NULL-terminated, to be freed by engine_free_arguments()
 */
int engine_qemu_arguments(const struct parts *parts, const struct engine_ends *ends, bool kvm, char ***ret_argv);
void engine_free_arguments(char **argv);

int engine_native_start(const struct parts *parts, const struct engine_ends *ends, const struct spawn_jail *jail,
                        struct engine *engine, struct error *e);
int engine_qemu_start(const struct parts *parts, const struct engine_ends *ends, bool kvm,
                      const struct spawn_jail *jail, struct engine *engine, struct error *e);
