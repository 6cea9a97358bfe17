// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sandbox: each role makes the calls that its rules name, and the process ends at any other
 *
 * Every case runs in a child of its own, since a filter cannot be taken off again.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vmm/sandbox/sandbox.h"

#ifdef SANDBOX_NO_FILTERS
#        define NEEDS_FILTERS() skip() /* sanitizers and coverage: there is nothing to test */
#else
#        define NEEDS_FILTERS()
#endif

typedef void (*call_fn)(void);

/* The status of a child that enters @role and calls @fn; @text: its stderr. */
static int run(enum sandbox_role role, call_fn fn, char text[static 256]) {
        int fds[2], status;
        ssize_t n;
        pid_t pid;

        assert_int_equal(pipe(fds), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                dup2(fds[1], STDERR_FILENO);
                if (sandbox_prepare() < 0 || sandbox_enter_thread(role) < 0)
                        _exit(99);
                fn();
                _exit(0);
        }
        close(fds[1]);
        n = read(fds[0], text, 255);
        text[n > 0 ? n : 0] = '\0';
        close(fds[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status;
}

static void expect_allowed(enum sandbox_role role, call_fn fn, const char *name) {
        char text[256];
        int status = run(role, fn, text);

        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                fail_msg("role %s may not %s: status 0x%x, %s", sandbox_role_name(role), name, status, text);
}

static void expect_forbidden(enum sandbox_role role, call_fn fn, const char *name) {
        char text[256], who[64];
        int status = run(role, fn, text);

        snprintf(who, sizeof(who), "role %s stopped system call ", sandbox_role_name(role));
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 2 || !strstr(text, who) ||
            !strstr(text, "[sandbox-violation]"))
                fail_msg("role %s may %s: status 0x%x, %s", sandbox_role_name(role), name, status, text);
}

/* Calls by which code that has taken over a thread would get out. */

static void call_open(void) {
        syscall(SYS_open, "/etc/passwd", O_RDONLY);
}
static void call_openat(void) {
        syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
}
static void call_socket(void) {
        syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
}
static void call_connect(void) {
        syscall(SYS_connect, 0, NULL, 0);
}
static void call_execve(void) {
        syscall(SYS_execve, "/bin/true", NULL, NULL);
}
static void call_fork(void) {
        syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static void call_clone3(void) {
        syscall(SYS_clone3, NULL, 0);
}
static void call_ptrace(void) {
        syscall(SYS_ptrace, PTRACE_ATTACH, getppid(), 0, 0);
}
static void call_kill(void) {
        syscall(SYS_kill, 1, 0);
}
static void call_tgkill_other(void) {
        syscall(SYS_tgkill, 1, 1, 0);
}
static void call_mmap_exec(void) {
        syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static void call_mprotect_exec(void) {
        syscall(SYS_mprotect, NULL, 4096, PROT_READ | PROT_EXEC);
}
static void call_sigaction(void) {
        syscall(SYS_rt_sigaction, SIGSYS, NULL, NULL, 8);
}
static void call_create_vm(void) {
        ioctl(-1, KVM_CREATE_VM, 0);
}
static void call_set_memory(void) {
        ioctl(-1, KVM_SET_USER_MEMORY_REGION, 0);
}
static void call_tiocsti(void) {
        ioctl(-1, TIOCSTI, "x"); /* types on the user's terminal */
}
static void call_io_uring_setup(void) {
        syscall(SYS_io_uring_setup, 1, NULL);
}
static void call_bpf(void) {
        syscall(SYS_bpf, 0, NULL, 0);
}
static void call_setuid(void) {
        syscall(SYS_setuid, 0);
}
static void call_unlink(void) {
        syscall(SYS_unlink, "/nonexistent");
}
static void call_process_vm(void) {
        syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0);
}
static void call_path_stat(void) {
        syscall(SYS_newfstatat, AT_FDCWD, "/etc/passwd", NULL, 0);
}
static void call_run(void) {
        ioctl(-1, KVM_RUN, 0);
}
static void call_accept(void) {
        syscall(SYS_accept4, -1, NULL, NULL, 0);
}
static void call_pwritev(void) {
        syscall(SYS_pwritev, -1, NULL, 0, 0, 0);
}
static void call_epoll_wait(void) {
        syscall(SYS_epoll_wait, -1, NULL, 1, 0);
}
static void call_set_regs(void) {
        ioctl(-1, KVM_SET_REGS, 0);
}

/* Calls that a role lives on. */

static void call_write(void) {
        (void)!write(STDERR_FILENO, "", 0);
}
static void call_malloc(void) {
        for (size_t n = 16; n < 64 << 20; n *= 4)
                free(memset(malloc(n), 1, n));
}
static void call_irq_line(void) {
        ioctl(-1, KVM_IRQ_LINE, 0);
}
static void call_kick(void) {
        syscall(SYS_tgkill, getpid(), gettid(), 0);
}
static void call_nothing(void) {
}

#define CALL(fn)                                                                                                       \
        { fn, #fn }
struct call {
        call_fn fn;
        const char *name;
};

/* What breaks without it: the whole point of the sandbox. */
static void test_no_role_gets_out(void **state) {
        static const struct call calls[] = {
                CALL(call_open),           CALL(call_openat),       CALL(call_socket),     CALL(call_connect),
                CALL(call_execve),         CALL(call_fork),         CALL(call_clone3),     CALL(call_ptrace),
                CALL(call_kill),           CALL(call_tgkill_other), CALL(call_mmap_exec),  CALL(call_mprotect_exec),
                CALL(call_sigaction),      CALL(call_create_vm),    CALL(call_set_memory), CALL(call_tiocsti),
                CALL(call_io_uring_setup), CALL(call_bpf),          CALL(call_setuid),     CALL(call_unlink),
                CALL(call_process_vm),     CALL(call_path_stat),
        };

        NEEDS_FILTERS();
        for (enum sandbox_role role = 0; role < SANDBOX_ROLE_COUNT; role++)
                for (size_t i = 0; i < ELEMENTSOF(calls); i++)
                        expect_forbidden(role, calls[i].fn, calls[i].name);
}

/* Roles differ: a vCPU takes no clients, the block threads see no guest, only the main thread changes registers. */
static void test_roles_differ(void **state) {
        NEEDS_FILTERS();
        expect_allowed(SANDBOX_ROLE_VCPU, call_run, "run");
        expect_forbidden(SANDBOX_ROLE_MAIN, call_run, "run");
        expect_forbidden(SANDBOX_ROLE_BLOCK, call_run, "run");
        expect_allowed(SANDBOX_ROLE_MAIN, call_accept, "accept");
        expect_forbidden(SANDBOX_ROLE_VCPU, call_accept, "accept");
        expect_allowed(SANDBOX_ROLE_MAIN, call_epoll_wait, "epoll_wait");
        expect_forbidden(SANDBOX_ROLE_VCPU, call_epoll_wait, "epoll_wait");
        expect_allowed(SANDBOX_ROLE_MAIN, call_set_regs, "set registers");
        expect_forbidden(SANDBOX_ROLE_VCPU, call_set_regs, "set registers");
        expect_allowed(SANDBOX_ROLE_BLOCK, call_pwritev, "pwritev");
        expect_forbidden(SANDBOX_ROLE_VCPU, call_pwritev, "pwritev");
        expect_forbidden(SANDBOX_ROLE_BLOCK, call_irq_line, "raise an interrupt");
        expect_allowed(SANDBOX_ROLE_IO, call_epoll_wait, "epoll_wait");
        expect_forbidden(SANDBOX_ROLE_IO, call_pwritev, "pwritev");
        expect_forbidden(SANDBOX_ROLE_IO, call_run, "run");
        expect_forbidden(SANDBOX_ROLE_IO, call_accept, "accept");
        expect_forbidden(SANDBOX_ROLE_IO, call_set_regs, "set registers");
}

/* What every thread needs must work, or a machine ends at the first log line or allocation. */
static void test_life_goes_on(void **state) {
        for (enum sandbox_role role = 0; role < SANDBOX_ROLE_COUNT; role++) {
                expect_allowed(role, call_nothing, "exit");
                expect_allowed(role, call_write, "write");
        }
        for (enum sandbox_role role = SANDBOX_ROLE_MAIN; role <= SANDBOX_ROLE_VCPU; role++) {
                expect_allowed(role, call_malloc, "malloc");
                expect_allowed(role, call_irq_line, "raise an interrupt");
                expect_allowed(role, call_kick, "kick");
        }
}

/* Threads end after they entered their role: the stack is given back, and whoever joins them goes on. */
static void *thread_in_role(void *role) {
        return sandbox_enter_thread(*(enum sandbox_role *)role) < 0 ? role : NULL;
}

static void call_thread_of_vcpu(void) {
        enum sandbox_role role = SANDBOX_ROLE_VCPU;
        void *result = &role;
        pthread_t id;

        if (pthread_create(&id, NULL, thread_in_role, &role) != 0 || sandbox_enter_thread(SANDBOX_ROLE_MAIN) < 0 ||
            pthread_join(id, &result) != 0 || result)
                _exit(3);
}

static void test_threads_end(void **state) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                if (sandbox_prepare() < 0)
                        _exit(99);
                call_thread_of_vcpu();
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

/* Without no_new_privs a set-uid program would be a way up; a core dump would hold the guest's memory. */
static void call_check_prepared(void) {
        struct rlimit core;
        char line[128];
        FILE *f;

        if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0)
                _exit(3);
        f = fopen("/proc/self/status", "re");
        while (f && fgets(line, sizeof(line), f))
                if ((strncmp(line, "CapEff:", 7) == 0 || strncmp(line, "CapPrm:", 7) == 0 ||
                     strncmp(line, "CapInh:", 7) == 0 || strncmp(line, "CapAmb:", 7) == 0) &&
                    strtoull(line + 7, NULL, 16) != 0)
                        _exit(4);
        if (!f)
                _exit(5);
        fclose(f);
}

static void test_prepare(void **state) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                if (sandbox_prepare() < 0 || sandbox_prepare() < 0) /* harmless twice */
                        _exit(99);
                call_check_prepared();
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_no_role_gets_out), cmocka_unit_test(test_roles_differ),
                cmocka_unit_test(test_life_goes_on),     cmocka_unit_test(test_threads_end),
                cmocka_unit_test(test_prepare),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
