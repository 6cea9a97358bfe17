// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sandbox: what a thread of lodge-vmm may ask of the kernel, once it has all that it needs
 *
 * A guest that breaks out of a device model finds itself in a thread that can read and write the descriptors it has, and
 * little else: no file or socket can be opened, no program started, no memory made executable, no other process signalled.
 *
 * Each thread has a role, and each role a seccomp filter made of the comments
 *
 *      / * seccomp: ROLES: CALLS ... * /
 *
 * beside the code that needs the calls: see collect.py for their form. test/system/seccomp.sh runs machines and fails when a role
 * used a call that it doesn't have, or has one that it never used.
 */
#pragma once

enum sandbox_role {
        SANDBOX_ROLE_MAIN,  /* the event loop: devices, control */
        SANDBOX_ROLE_VCPU,  /* KVM_RUN and the exits' device work */
        SANDBOX_ROLE_BLOCK, /* block/pool.c */
        SANDBOX_ROLE_IO,    /* machine/io-thread.c */
        SANDBOX_ROLE_COUNT,
};

/** sandbox_role_name() - "main", "vcpu", "block", "io". */
const char *sandbox_role_name(enum sandbox_role role);

/**
 * sandbox_prepare() - for the whole process, before the first thread: no new privileges, no capabilities, no core dumps
 * (they would hold the guest's memory), and one line on stderr for whatever a filter stops
 *
 * Return: 0 or -errno.
 */
int sandbox_prepare(void);

/**
 * sandbox_enter_thread() - put the calling thread under its role's filter, for good
 *
 * A call that is not in the filter ends the process: a line on stderr names the role and the call, the exit status is 2.
 * Builds with sanitizers or coverage have no filters, since their run time needs calls of its own.
 *
 * Return: 0 or -errno.
 */
int sandbox_enter_thread(enum sandbox_role role);
