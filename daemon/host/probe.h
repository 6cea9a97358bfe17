// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * probe: is this host's KVM worth anything?
 *
 * Theory of operation. That /dev/kvm exists says little: it may be closed to us, held by another hypervisor, or be an
 * emulator that runs a few million instructions a second and stops at the first one that it doesn't know. So the probe
 * starts a guest of a few dozen instructions in 64-bit mode and watches it:
 *
 *      step      the guest                                    what it proves
 *      start     reaches its first OUT                        a VM, a vCPU and long mode work
 *      speed     counts down a loop of known length           how fast; the host runs the same loop for comparison
 *      sse2      adds vectors and compares                    a stock x86-64 user space will run
 *      cx16      lock cmpxchg16b                              so will a stock kernel's slab allocator
 *
 * The threshold. The loop has no memory access and no exit, so hardware runs it as fast as the host does (1.0, with noise
 * 0.5 and more), also when "the host" is itself emulated and provides the model of a hardware extension. An instruction
 * interpreter needs 50 to 1000 host instructions for each: 0.02 and less. PROBE_SPEED_MIN lies between. How the two are
 * measured on a machine that is busy with other things: probe-speed.h.
 *
 * Facts and verdict are apart: probe_gather() asks the machine, probe_judge() is a pure function of the facts, so that
 * every verdict has a unit test on hosts that can't show it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum probe_verdict {
        PROBE_HARDWARE,
        PROBE_EMULATED,  /* it runs guests, but in software: too slow, or not all instructions */
        PROBE_FORBIDDEN, /* /dev/kvm is there, we may not open it */
        PROBE_MISSING,   /* no /dev/kvm */
        PROBE_BUSY,      /* another hypervisor holds the processor */
        PROBE_BROKEN,    /* it is there and open, and fails */
        PROBE_VERDICT_COUNT,
};

enum probe_step {
        PROBE_STEP_OPEN,
        PROBE_STEP_CREATE,
        PROBE_STEP_START,
        PROBE_STEP_SPEED,
        PROBE_STEP_SSE2,
        PROBE_STEP_CX16,
        PROBE_STEP_DONE
};

#define PROBE_SPEED_MIN 0.05 /* guest speed / host speed, see above */

struct probe_facts {
        /* the device */
        int open_errno;           /* 0: open */
        unsigned int device_mode; /* st_mode & 0777 */
        char device_group[32];
        bool in_group_database; /* the group's list in the user database has us */
        bool in_group_session;  /* this process has the group */
        char user[32];

        /* the processor and the kernel, for hosts without the device */
        bool cpu_vmx, cpu_svm, cpu_hypervisor;
        bool module_loaded;    /* kvm_intel or kvm_amd */
        bool module_available; /* it could be loaded: the module's file is there */
        bool container;
        bool vbox_loaded, vmware_loaded;

        /* the guest */
        enum probe_step step; /* the first that did not succeed; DONE: all did */
        int step_errno;       /* of the call that failed, 0 if none did */
        char step_message[160];
        unsigned int exit_reason,
                exit_detail; /* of KVM_RUN, when a step failed without errno; UINT32_MAX: the time limit */
        uint8_t instruction[15];
        unsigned int instruction_len;
        double guest_mips, host_mips; /* 0: not measured */
        unsigned int max_vcpus;
};

struct probe {
        struct probe_facts facts;
        enum probe_verdict verdict;
        char evidence[512]; /* one line */
        char cure[512];     /* one line; empty when nothing is wrong */
        double ms;          /* how long the probe took */
};

/** probe_verdict_name() - "hardware", "emulated", ... */
const char *probe_verdict_name(enum probe_verdict verdict);

/** probe_run() - gather and judge; in under a second, also with a guest that hangs. */
void probe_run(struct probe *ret_probe);

/** probe_gather() - ask the machine. @device: "/dev/kvm". */
void probe_gather(const char *device, struct probe_facts *ret_facts);

/** probe_judge() - from @probe->facts to verdict, evidence and cure. */
void probe_judge(struct probe *probe);
