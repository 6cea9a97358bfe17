// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shut-in: a hostile program, and a hostile download, try to get at files, sockets and processes that are not theirs
 *
 * What they try is tried without the walls first, where that does no harm, so that a case which fails for another reason shows nothing unnoticed.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/capability.h"
#include "base/cleanup.h"
#include "daemon/fetch/shut-in-filter.h"
#include "daemon/fetch/shut-in.h"

/* They are left out of a build with sanitizers, which need more of the system. */
#define NEEDS_FILTERS()                                                                                                \
        do {                                                                                                           \
                if (SANITIZED)                                                                                         \
                        skip();                                                                                        \
        } while (0)

static char dir[] = "/tmp/test-shut-in.XXXXXX", victim[64], in[64], out[64], address[64];
static int in_fd, out_fd, server;
static pid_t other;

/* ---- attempts: 0: it could be done; or an errno ------------------------------------------------------------------------- */

static int told(long r) {
        return r < 0 ? errno : 0;
}

static int do_truncate(void) {
        return told(truncate(victim, 1));
}

static int do_open(void) {
        return told(open(victim, O_RDONLY));
}

static int do_chmod(void) {
        return told(syscall(SYS_chmod, victim, 0777));
}

static int do_fchmodat(void) {
        return told(syscall(SYS_fchmodat, AT_FDCWD, victim, 0777));
}

static int do_fchmodat2(void) {
        return told(syscall(452, AT_FDCWD, victim, 0777, 0));
}

static int do_fchmod(void) {
        return told(fchmod(in_fd, 0777));
}

static int do_chown(void) {
        return told(syscall(SYS_chown, victim, -1, -1));
}

static int do_lchown(void) {
        return told(syscall(SYS_lchown, victim, -1, -1));
}

static int do_fchownat(void) {
        return told(syscall(SYS_fchownat, AT_FDCWD, victim, -1, -1, 0));
}

static int do_utimensat(void) {
        return told(utimensat(AT_FDCWD, victim, (struct timespec[2]){ { .tv_sec = 1 }, { .tv_sec = 1 } }, 0));
}

static int do_utimes(void) {
        return told(syscall(SYS_utimes, victim, (struct timeval[2]){ { .tv_sec = 1 }, { .tv_sec = 1 } }));
}

static int do_utime(void) {
        return told(syscall(SYS_utime, victim, NULL));
}

static int do_futimesat(void) {
        return told(syscall(SYS_futimesat, AT_FDCWD, victim, NULL));
}

static int do_pidfd(void) {
        int fd = (int)syscall(SYS_pidfd_open, other, 0);

        return fd < 0 ? errno : told(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
}

static int do_kill(void) {
        return told(kill(other, 0));
}

static int do_kill_all(void) {
        return told(kill(0, 0));
}

static int do_tgkill(void) {
        return told(syscall(SYS_tgkill, other, other, 0));
}

static int do_prlimit(void) {
        struct rlimit l;

        return told(prlimit(other, RLIMIT_NOFILE, NULL, &l));
}

static int do_setown(void) {
        return told(fcntl(in_fd, F_SETOWN, other));
}

static int do_priority(void) {
        return told(setpriority(PRIO_PROCESS, (id_t)other, 0));
}

static int do_fork(void) {
        pid_t pid = fork();

        if (pid == 0)
                _exit(0);
        return pid < 0 ? errno : (waitpid(pid, NULL, 0), 0);
}

static int do_vfork(void) {
        pid_t pid = (pid_t)syscall(SYS_fork);

        if (pid == 0)
                _exit(0);
        return pid < 0 ? errno : (waitpid(pid, NULL, 0), 0);
}

static int do_setsid(void) {
        return told(setsid()) == EPERM && getsid(0) == getpid() ? 0 : errno;
}

static int do_pdeathsig(void) {
        return told(prctl(PR_SET_PDEATHSIG, 0));
}

static int do_datagram(void) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        int p[2], r = socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, p);

        strcpy(a.sun_path, address);
        if (r < 0)
                return errno;
        return told(sendto(p[0], "x", 1, 0, (struct sockaddr *)&a, sizeof(a)));
}

static int do_shm(void) {
        int id = shmget(IPC_PRIVATE, 4096, 0600);

        return id < 0 ? errno : (shmctl(id, IPC_RMID, NULL), 0);
}

static int do_write_in(void) {
        char path[40];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", in_fd);
        return told(open(path, O_WRONLY));
}

/* What it is to be able to do. */
static int do_read_in(void) {
        char path[40];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", in_fd);
        return told(open(path, O_RDONLY));
}

static int do_write_out(void) {
        char path[40];
        int fd;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", out_fd);
        fd = open(path, O_RDWR | O_TRUNC);
        return fd < 0 ? errno : told(ftruncate(fd, 4096) < 0 ? -1 : write(fd, "x", 1));
}

static int thread(void *arg) {
        return 0;
}

static int do_thread(void) {
        static char stack[64 << 10] __attribute__((aligned(16)));

        return told(clone(thread, stack + sizeof(stack),
                          CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FS | CLONE_FILES, NULL));
}

static int do_own_signal(void) {
        return told(syscall(SYS_tgkill, getpid(), getpid(), 0));
}

static int do_stream_pair(void) {
        int p[2];

        return told(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p));
}

struct attempt {
        const char *what;
        int (*fn)(void);
};

static const struct attempt refused[] = {
        { "truncate", do_truncate },
        { "open", do_open },
        { "chmod", do_chmod },
        { "fchmodat", do_fchmodat },
        { "fchmod", do_fchmod },
        { "chown", do_chown },
        { "lchown", do_lchown },
        { "fchownat", do_fchownat },
        { "utimensat", do_utimensat },
        { "utimes", do_utimes },
        { "utime", do_utime },
        { "futimesat", do_futimesat },
        { "pidfd", do_pidfd },
        { "kill", do_kill },
        { "kill all", do_kill_all },
        { "tgkill", do_tgkill },
        { "prlimit", do_prlimit },
        { "F_SETOWN", do_setown },
        { "priority", do_priority },
        { "fork", do_fork },
        { "SYS_fork", do_vfork },
        { "pdeathsig", do_pdeathsig },
        { "datagram", do_datagram },
        { "shm", do_shm },
        { "write to what is read", do_write_in },
};

static const struct attempt allowed[] = {
        { "read the input", do_read_in },
        { "write the output", do_write_out },
        { "a thread", do_thread },
        { "a signal to itself", do_own_signal },
};

/* ---- who tries ----------------------------------------------------------------------------------------------------------- */

static int hostile_program(void *opaque, struct error *e) {
        for (size_t i = 0; i < ELEMENTSOF(refused); i++) {
                int code = refused[i].fn();

                if (code != EPERM && code != EACCES && code != ENOSYS)
                        return error_set(e, -EINVAL, "test", NULL, "%s: %s", refused[i].what, strerror(code));
        }
        if (do_fchmodat2() != ENOSYS || do_setsid() != EPERM)
                return error_set(e, -EINVAL, "test", NULL, "fchmodat2 or setsid");
        for (size_t i = 0; i < ELEMENTSOF(allowed); i++) {
                int code = allowed[i].fn();

                if (code != 0)
                        return error_set(e, -EINVAL, "test", NULL, "%s: %s", allowed[i].what, strerror(code));
        }
        return 0;
}

static int hostile_download(void *opaque, struct error *e) {
        if (do_datagram() != EPERM || do_setown() != EPERM || do_fork() != EPERM || do_truncate() != EPERM ||
            do_kill() != EPERM)
                return error_set(e, -EINVAL, "test", NULL, "a download could do what it may not");
        return do_stream_pair() == 0 && do_thread() == 0
                       ? 0
                       : error_set(e, -EINVAL, "test", NULL, "a download can't do what it must");
}

static void run(enum shut_in how, shut_in_fn fn) {
        const struct shut_in_limits limits = { .file_bytes = 1 << 20,
                                               .cpu_seconds = 10,
                                               .read_files = &in_fd,
                                               .n_read_files = 1,
                                               .write_files = &out_fd,
                                               .n_write_files = 1 };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct stat before, after;
        char byte;

        assert_int_equal(stat(victim, &before), 0);
        if (shut_in_run(how, &limits, fn, NULL, NULL, &e) < 0)
                fail_msg("%s", e.message ?: "?");
        assert_int_equal(stat(victim, &after), 0);
        assert_memory_equal(&before.st_ctim, &after.st_ctim, sizeof(before.st_ctim));
        assert_int_equal(before.st_size, after.st_size);
        assert_int_equal(recv(server, &byte, 1, MSG_DONTWAIT), -1);
}

static void test_program(void **state) {
        NEEDS_FILTERS();
        run(SHUT_IN_PROGRAM, hostile_program);
}

static void test_network(void **state) {
        NEEDS_FILTERS();
        run(SHUT_IN_NETWORK, hostile_download);
}

/* Without walls, each of them works: in a process of its own, since some leave it changed. */
static void test_they_would_work(void **state) {
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                        if (refused[i].fn() != 0) {
                                fprintf(stderr, "%s does not work anyway\n", refused[i].what);
                                _exit(1);
                        }
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(recv(server, &(char){ 0 }, 1, MSG_DONTWAIT), 1);
}

/* A later download has the files of those before it. */
static int rewrite(void *opaque, struct error *e) {
        int fd = *(int *)opaque;

        if (pwrite(fd, "X", 1, 0) != -1 || ftruncate(fd, 0) != -1 || ftruncate(fd, 100) != -1)
                return error_set(e, -EINVAL, "test", NULL, "a sealed file was changed");
        return mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED
                       ? 0
                       : error_set(e, -EINVAL, "test", NULL, "a sealed file was mapped for writing");
}

static void test_sealed(void **state) {
        _cleanup_close_ int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        const struct shut_in_limits limits = { .file_bytes = 1 << 20, .cpu_seconds = 10 };
        char text[8] = "";

        assert_int_equal(write(fd, "content", 7), 7);
        assert_int_equal(shut_in_seal(fd), 0);
        assert_int_equal(shut_in_run(SHUT_IN_NETWORK, &limits, rewrite, &fd, NULL, NULL), 0);
        assert_int_equal(pread(fd, text, 7, 0), 7);
        assert_string_equal(text, "content");
}

static int make(const char *name, char *path, size_t n) {
        int fd;

        snprintf(path, n, "%s/%s", dir, name);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        return fd >= 0 && write(fd, "content", 7) == 7 ? fd : -1;
}

static int set_up(void **state) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };

        if (!mkdtemp(dir))
                return -1;
        close(make("victim", victim, sizeof(victim)));
        in_fd = make("in", in, sizeof(in));
        out_fd = make("out", out, sizeof(out));
        snprintf(address, sizeof(address), "%s/socket", dir);
        strcpy(a.sun_path, address);
        server = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (in_fd < 0 || out_fd < 0 || bind(server, (struct sockaddr *)&a, sizeof(a)) < 0)
                return -1;
        other = fork();
        if (other == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                pause();
                _exit(0);
        }
        return other < 0 ? -1 : 0;
}

static int tear_down(void **state) {
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
        unlink(victim);
        unlink(in);
        unlink(out);
        unlink(address);
        return rmdir(dir);
}

static int nothing(void *opaque, struct error *e) {
        return 0;
}

/* A kernel that has no Landlock. Return: 0: it ran; 1: it was refused with a fix; 2: something else. */
static int without_landlock(enum shut_in how, bool own_user) {
        const struct shut_in_limits limits = { .file_bytes = 1 << 20, .cpu_seconds = 10, .own_user = own_user };
        _cleanup_error_ struct error e = ERROR_INIT;
        scmp_filter_ctx ctx;
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid > 0) {
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFEXITED(status));
                return WEXITSTATUS(status);
        }
        ctx = seccomp_init(SCMP_ACT_ALLOW);
        if (!ctx || seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EOPNOTSUPP), SCMP_SYS(landlock_create_ruleset), 0) < 0 ||
            seccomp_load(ctx) < 0)
                _exit(2);
        if (shut_in_run(how, &limits, nothing, NULL, NULL, &e) == 0)
                _exit(0);
        _exit(e.id && strcmp(e.id, "fetch-sandbox") == 0 && e.fix ? 1 : 2);
}

/* Without it a download could read what the person can, unless its user is nobody's; and a program always could. */
static void test_without_landlock(void **state) {
        NEEDS_FILTERS();
        assert_int_equal(without_landlock(SHUT_IN_NETWORK, true), 0);
        assert_int_equal(without_landlock(SHUT_IN_NETWORK, false), 1);
        assert_int_equal(without_landlock(SHUT_IN_COMPUTE, false), 0);
        assert_int_equal(without_landlock(SHUT_IN_PROGRAM, true), 1);
}

static int give_up(void **state) {
        return capability_renounce();
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_they_would_work),  cmocka_unit_test_setup(test_program, give_up),
                cmocka_unit_test(test_network),          cmocka_unit_test(test_sealed),
                cmocka_unit_test(test_without_landlock),
        };

        return cmocka_run_group_tests(tests, set_up, tear_down);
}
