// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sandbox: see sandbox.h
 *
 * The filters are constants (filters.h, made at build time). A forbidden call raises SIGSYS instead of killing at once, so that the
 * handler can say which call it was: an operator's only hint when a libc or a kernel brings a new one. The handler
 * cannot be replaced later, since no filter allows rt_sigaction; where SIGSYS is blocked, the kernel kills the process.
 *
 * Below are the rules for what libc does on its own account, whatever code runs.
 */
#include "vmm/sandbox/sandbox.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/capability.h"
#include "base/cleanup.h"
#include "vmm/sandbox/filters.h"
#include "vmm/sandbox/internal.h"

/* seccomp: main,vcpu,block,io: futex -- mutexes, conditions, joining threads */
/* seccomp: main,vcpu,block,io: write -- log lines, errors */
/* seccomp: main,vcpu,block,io: exit_group (rare) -- the end, also from the SIGSYS handler */
/* seccomp: vcpu,block,io: exit, madvise, rt_sigprocmask -- the end of a thread gives its stack back */
/* seccomp: main: exit_group -- the end */
/* seccomp: main: munmap -- joining a thread, giving back large blocks */
/* seccomp: main,vcpu,io: brk (rare) -- malloc */
/* seccomp: main,vcpu,io: mmap arg2&PROT_EXEC=0 (rare) -- malloc of large blocks, arenas */
/* seccomp: main,vcpu,io: mprotect arg2&PROT_EXEC=0 (rare) -- growing an arena */
/* seccomp: vcpu,io: munmap (rare) -- malloc of large blocks */
/* seccomp: main,vcpu,io: mremap (rare) -- realloc of large blocks */
/* seccomp: main: madvise (rare) -- malloc trims its heaps */
/* seccomp: main,vcpu,block,io: rt_sigreturn (rare) -- back from a kick */
/* seccomp: main,vcpu,block,io: restart_syscall (rare) -- a wait that was stopped and continued (SIGSTOP, a debugger) */
/* seccomp: main,vcpu,io: clock_gettime (rare) -- where the vDSO has no clock that works */
/* seccomp: main: close -- what devices and control hold */
/* seccomp: main,vcpu,io: gettid, getpid (rare) -- abort(), pthread_kill() */
/* seccomp: main,vcpu,block,io: tgkill arg0=PID (rare) -- abort() */

static const struct {
        const char *name;
        const struct sock_filter *filter;
        size_t n;
} roles[] = {
        [SANDBOX_ROLE_MAIN] = { "main", filter_main, ELEMENTSOF(filter_main) },
        [SANDBOX_ROLE_VCPU] = { "vcpu", filter_vcpu, ELEMENTSOF(filter_vcpu) },
        [SANDBOX_ROLE_BLOCK] = { "block", filter_block, ELEMENTSOF(filter_block) },
        [SANDBOX_ROLE_IO] = { "io", filter_io, ELEMENTSOF(filter_io) },
};
_Static_assert(ELEMENTSOF(roles) == SANDBOX_ROLE_COUNT, "each role has a filter");

#define FILTER_MAX 1024 /* instructions */
_Static_assert(ELEMENTSOF(filter_main) <= FILTER_MAX && ELEMENTSOF(filter_vcpu) <= FILTER_MAX &&
                       ELEMENTSOF(filter_block) <= FILTER_MAX && ELEMENTSOF(filter_io) <= FILTER_MAX,
               "a filter fits the loader's buffer");

static __thread enum sandbox_role thread_role; /* for the handler's message only */

const char *sandbox_role_name(enum sandbox_role role) {
        return roles[role].name;
}

/* Only async-signal-safe calls, and only such as every role has. */
static void on_sigsys(int signo, siginfo_t *info, void *context) {
        char line[128];
        int n = snprintf(line, sizeof(line),
                         "lodge-vmm: the sandbox of role %s stopped system call %d  [sandbox-violation]\n",
                         roles[thread_role].name, info->si_syscall);

        (void)!write(STDERR_FILENO, line, (size_t)n);
        _exit(2);
}

int sandbox_prepare(void) {
        struct sigaction action = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO };
        struct rlimit no_core = { 0 };
        int r;

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0)
                return -errno;
        capability_bound();
        r = capability_keep(0);
        if (r < 0)
                return r;
        (void)mallopt(M_ARENA_MAX, 1); /* to make or trim other arenas, malloc reads files below /sys and /proc */
        return sigaction(SIGSYS, &action, NULL) < 0 ? -errno : 0;
}

#ifdef SANDBOX_NO_FILTERS
int sandbox_enter_thread(enum sandbox_role role) {
        thread_role = role;
        return 0;
}
#else
int sandbox_enter_thread(enum sandbox_role role) {
        struct sock_filter filter[FILTER_MAX];
        struct sock_fprog program = { .len = (unsigned short)roles[role].n, .filter = filter };

        thread_role = role;
        memcpy(filter, roles[role].filter, roles[role].n * sizeof(filter[0]));
        for (size_t i = 0; i < roles[role].n; i++)
                if (filter[i].code == (BPF_JMP | BPF_JEQ | BPF_K) && filter[i].k == SANDBOX_PID)
                        filter[i].k = (uint32_t)getpid();
        return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}
#endif
