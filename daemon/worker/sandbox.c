// SPDX-License-Identifier: GPL-2.0-or-later
/* sandbox: see sandbox.h */
#include "daemon/worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/capability.h"
#include "base/cleanup.h"
#include "base/log.h"

/* All that Landlock's first version knows; the rights that later ones added have nothing to do with what is opened. */
#define LANDLOCK_FS_ALL ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

static int allow(int ruleset, const char *path, int flags, uint64_t access) {
        struct landlock_path_beneath_attr beneath = { .allowed_access = access };
        _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC | O_NOFOLLOW | flags);

        if (fd < 0)
                return -errno;
        beneath.parent_fd = fd;
        return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0 ? -errno : 0;
}

/* Return: 0, -EOPNOTSUPP where the kernel has no Landlock, or -errno. */
static int landlock(const char *dir) {
        const struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_FS_ALL };
        _cleanup_close_ int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
        int r;

        if (ruleset < 0)
                return errno == ENOSYS || errno == EOPNOTSUPP ? -EOPNOTSUPP : -errno;
        r = allow(ruleset, dir, O_DIRECTORY,
                  LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                          LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE);
        if (r == 0) /* SQLite's random numbers */
                r = allow(ruleset, "/dev/urandom", 0, LANDLOCK_ACCESS_FS_READ_FILE);
        if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
                r = -errno;
        return r;
}

static const int calls[] = {
        /* memory and threads: malloc, GLib's helper threads */
        SCMP_SYS(brk),
        SCMP_SYS(mmap),
        SCMP_SYS(munmap),
        SCMP_SYS(mremap),
        SCMP_SYS(mprotect),
        SCMP_SYS(madvise),
        SCMP_SYS(futex),
        SCMP_SYS(set_robust_list),
        SCMP_SYS(rseq),
        SCMP_SYS(sched_yield),
        SCMP_SYS(sched_getaffinity),
        SCMP_SYS(gettid),
        SCMP_SYS(getpid),
        SCMP_SYS(getppid),
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
        SCMP_SYS(membarrier),
        SCMP_SYS(sched_getattr),
        SCMP_SYS(sched_setattr),
        SCMP_SYS(getrusage),
        SCMP_SYS(sysinfo),
        SCMP_SYS(uname),
        /* signals: their handling; sending one is not allowed */
        SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sigaltstack),
        SCMP_SYS(restart_syscall),
        /* time */
        SCMP_SYS(clock_gettime),
        SCMP_SYS(clock_getres),
        SCMP_SYS(clock_nanosleep),
        SCMP_SYS(nanosleep),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(time),
        SCMP_SYS(timerfd_create),
        SCMP_SYS(timerfd_settime),
        SCMP_SYS(getrandom),
        /* waiting */
        SCMP_SYS(poll),
        SCMP_SYS(ppoll),
        SCMP_SYS(epoll_create1),
        SCMP_SYS(epoll_ctl),
        SCMP_SYS(epoll_wait),
        SCMP_SYS(epoll_pwait),
        SCMP_SYS(eventfd2),
        SCMP_SYS(pipe2),
        SCMP_SYS(select),
        SCMP_SYS(pselect6),
        /* descriptors */
        SCMP_SYS(read),
        SCMP_SYS(write),
        SCMP_SYS(readv),
        SCMP_SYS(writev),
        SCMP_SYS(close),
        SCMP_SYS(fcntl),
        SCMP_SYS(dup),
        SCMP_SYS(dup3),
        SCMP_SYS(lseek),
        SCMP_SYS(fstat),
        SCMP_SYS(ioctl),
        SCMP_SYS(memfd_create),
        /* the store: Landlock says where */
        SCMP_SYS(openat),
        SCMP_SYS(open),
        SCMP_SYS(newfstatat),
        SCMP_SYS(stat),
        SCMP_SYS(lstat),
        SCMP_SYS(statx),
        SCMP_SYS(access),
        SCMP_SYS(faccessat),
        SCMP_SYS(faccessat2),
        SCMP_SYS(unlink),
        SCMP_SYS(unlinkat),
        SCMP_SYS(pread64),
        SCMP_SYS(pwrite64),
        SCMP_SYS(fsync),
        SCMP_SYS(fdatasync),
        SCMP_SYS(ftruncate),
        SCMP_SYS(fallocate),
        SCMP_SYS(getcwd),
        SCMP_SYS(fchmod),
        SCMP_SYS(fchown),
        SCMP_SYS(geteuid),
        SCMP_SYS(getuid),
        SCMP_SYS(getegid),
        SCMP_SYS(getgid),
        SCMP_SYS(readlink),
        SCMP_SYS(getdents64),
        SCMP_SYS(flock),
        SCMP_SYS(rename),
        SCMP_SYS(renameat),
        SCMP_SYS(renameat2),
        SCMP_SYS(linkat),
        SCMP_SYS(fstatfs),
        SCMP_SYS(statfs),
        SCMP_SYS(umask),
        SCMP_SYS(utimensat),
        /* sockets that it was given, and those accepted from them */
        SCMP_SYS(accept4),
        SCMP_SYS(recvmsg),
        SCMP_SYS(sendmsg),
        SCMP_SYS(recvfrom),
        SCMP_SYS(sendto),
        SCMP_SYS(shutdown),
        SCMP_SYS(getsockopt),
        SCMP_SYS(setsockopt),
        SCMP_SYS(getsockname),
        SCMP_SYS(getpeername),
        SCMP_SYS(socketpair),
};

static int seccomp(void) {
        scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        int r = ctx ? 0 : -ENOMEM;

        for (size_t i = 0; i < ELEMENTSOF(calls) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
        /* Threads, but no processes and no namespaces. clone3 hides its flags behind a pointer: glibc falls back to clone. */
        if (r == 0)
                r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
        if (r == 0)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                     SCMP_A0(SCMP_CMP_MASKED_EQ, 0x00010000 /* CLONE_THREAD */, 0x00010000));
        if (r == 0)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
        if (r == 0)
                r = seccomp_load(ctx);
        if (ctx)
                seccomp_release(ctx);
        return r;
}

int sandbox_enter(const char *store_dir, struct error *e) {
        int r = capability_renounce();

        if (r == 0)
                r = landlock(store_dir);
        if (r == -EOPNOTSUPP) {
                log_warning("this kernel has no Landlock: the worker's files are kept apart by its user alone");
                r = 0;
        }
        if (r == 0)
                r = seccomp();
        return r < 0 ? error_set(e, r, "sandbox", NULL, "cannot shut the worker in") : 0;
}
