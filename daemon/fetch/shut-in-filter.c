// SPDX-License-Identifier: GPL-2.0-or-later
/* shut-in-filter: see shut-in-filter.h */
#include "daemon/fetch/shut-in-filter.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

/* What computing takes. */
static const int compute_calls[] = {
        SCMP_SYS(brk),
        SCMP_SYS(mmap),
        SCMP_SYS(munmap),
        SCMP_SYS(mremap),
        SCMP_SYS(mprotect),
        SCMP_SYS(madvise),
        SCMP_SYS(futex),
        SCMP_SYS(getrandom),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(clock_nanosleep),
        SCMP_SYS(nanosleep),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(time),
        SCMP_SYS(poll),
        SCMP_SYS(ppoll),
        SCMP_SYS(sched_yield),
        SCMP_SYS(gettid),
        SCMP_SYS(getpid),
        SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sigaltstack),
        SCMP_SYS(restart_syscall),
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
        SCMP_SYS(read),
        SCMP_SYS(readv),
        SCMP_SYS(pread64),
        SCMP_SYS(preadv),
        SCMP_SYS(write),
        SCMP_SYS(writev),
        SCMP_SYS(pwrite64),
        SCMP_SYS(pwritev),
        SCMP_SYS(copy_file_range),
        SCMP_SYS(ioctl),
        SCMP_SYS(flock),
        SCMP_SYS(lseek),
        SCMP_SYS(fstat),
        SCMP_SYS(newfstatat), /* fstat() is one of these by now */
        SCMP_SYS(ftruncate),
        SCMP_SYS(fallocate),
        SCMP_SYS(fsync),
        SCMP_SYS(fdatasync),
        SCMP_SYS(dup),
        SCMP_SYS(close),
};

/* What the network takes besides: sockets, threads that resolve names, files (Landlock says which). */
static const int network_calls[] = {
        SCMP_SYS(connect),
        SCMP_SYS(sendto),
        SCMP_SYS(recvfrom),
        SCMP_SYS(sendmsg),
        SCMP_SYS(recvmsg),
        SCMP_SYS(sendmmsg),
        SCMP_SYS(recvmmsg),
        SCMP_SYS(getsockopt),
        SCMP_SYS(setsockopt),
        SCMP_SYS(getsockname),
        SCMP_SYS(getpeername),
        SCMP_SYS(shutdown),
        SCMP_SYS(select),
        SCMP_SYS(pselect6),
        SCMP_SYS(epoll_create1),
        SCMP_SYS(epoll_ctl),
        SCMP_SYS(epoll_wait),
        SCMP_SYS(epoll_pwait),
        SCMP_SYS(pipe2),
        SCMP_SYS(eventfd2),
        SCMP_SYS(openat),
        SCMP_SYS(open),
        SCMP_SYS(stat),
        SCMP_SYS(lstat),
        SCMP_SYS(statx),
        SCMP_SYS(access),
        SCMP_SYS(faccessat),
        SCMP_SYS(faccessat2),
        SCMP_SYS(readlink),
        SCMP_SYS(getdents64),
        SCMP_SYS(getuid),
        SCMP_SYS(geteuid),
        SCMP_SYS(getgid),
        SCMP_SYS(getegid),
        SCMP_SYS(uname),
        SCMP_SYS(sysinfo),
        SCMP_SYS(sched_getaffinity),
        SCMP_SYS(set_robust_list),
        SCMP_SYS(rseq),
        SCMP_SYS(membarrier),
};

/* What of fcntl() computing and the network take: not F_SETOWN and F_SETSIG, by which one process signals another. */
static const int fcntl_commands[] = { F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL };

/*
 * What a program of the distribution's never needs here, and a way out would. Its own calls are too many to name. Landlock says which files it may
 * open; whatever changes a file, or reaches a process, without opening one is refused here.
 */
static const int program_refused[] = {
        /* sockets, and whatever else two processes may share */
        SCMP_SYS(socket),
        SCMP_SYS(socketpair),
        SCMP_SYS(connect),
        SCMP_SYS(bind),
        SCMP_SYS(listen),
        SCMP_SYS(accept),
        SCMP_SYS(accept4),
        SCMP_SYS(sendto),
        SCMP_SYS(sendmsg),
        SCMP_SYS(sendmmsg),
        SCMP_SYS(shmget),
        SCMP_SYS(shmat),
        SCMP_SYS(shmctl),
        SCMP_SYS(msgget),
        SCMP_SYS(msgsnd),
        SCMP_SYS(msgrcv),
        SCMP_SYS(msgctl),
        SCMP_SYS(semget),
        SCMP_SYS(semop),
        SCMP_SYS(semctl),
        SCMP_SYS(semtimedop),
        SCMP_SYS(mq_open),
        SCMP_SYS(mq_unlink),
        /* other processes; and more of its own, which would outlive the step */
        SCMP_SYS(fork),
        SCMP_SYS(vfork),
        SCMP_SYS(setsid),
        SCMP_SYS(setpgid),
        SCMP_SYS(ptrace),
        SCMP_SYS(process_vm_readv),
        SCMP_SYS(process_vm_writev),
        SCMP_SYS(process_madvise),
        SCMP_SYS(process_mrelease),
        SCMP_SYS(pidfd_open),
        SCMP_SYS(pidfd_getfd),
        SCMP_SYS(pidfd_send_signal),
        SCMP_SYS(tkill),
        SCMP_SYS(rt_sigqueueinfo),
        SCMP_SYS(rt_tgsigqueueinfo),
        SCMP_SYS(kcmp),
        SCMP_SYS(setpriority),
        SCMP_SYS(ioprio_set),
        SCMP_SYS(sched_setscheduler),
        SCMP_SYS(sched_setparam),
        SCMP_SYS(sched_setattr),
        SCMP_SYS(sched_setaffinity),
        SCMP_SYS(migrate_pages),
        SCMP_SYS(move_pages),
        /* files that it has not opened for writing */
        SCMP_SYS(truncate),
        SCMP_SYS(chmod),
        SCMP_SYS(fchmod),
        SCMP_SYS(fchmodat),
        SCMP_SYS(chown),
        SCMP_SYS(lchown),
        SCMP_SYS(fchown),
        SCMP_SYS(fchownat),
        SCMP_SYS(utime),
        SCMP_SYS(utimes),
        SCMP_SYS(futimesat),
        SCMP_SYS(utimensat),
        SCMP_SYS(setxattr),
        SCMP_SYS(lsetxattr),
        SCMP_SYS(fsetxattr),
        SCMP_SYS(removexattr),
        SCMP_SYS(lremovexattr),
        SCMP_SYS(fremovexattr),
        SCMP_SYS(inotify_add_watch),
        SCMP_SYS(fanotify_init),
        SCMP_SYS(open_by_handle_at),
        /* the system */
        SCMP_SYS(mount),
        SCMP_SYS(umount2),
        SCMP_SYS(pivot_root),
        SCMP_SYS(chroot),
        SCMP_SYS(unshare),
        SCMP_SYS(setns),
        SCMP_SYS(open_tree),
        SCMP_SYS(move_mount),
        SCMP_SYS(fsopen),
        SCMP_SYS(fspick),
        SCMP_SYS(mount_setattr),
        SCMP_SYS(bpf),
        SCMP_SYS(perf_event_open),
        SCMP_SYS(userfaultfd),
        SCMP_SYS(io_uring_setup),
        SCMP_SYS(io_uring_enter),
        SCMP_SYS(io_uring_register),
        SCMP_SYS(add_key),
        SCMP_SYS(request_key),
        SCMP_SYS(keyctl),
        SCMP_SYS(init_module),
        SCMP_SYS(finit_module),
        SCMP_SYS(kexec_load),
};

/* Calls of kernels to come, and fchmodat2, setxattrat and their like: to libraries they are missing. The same on all architectures. */
#define NEW_CALLS_BEGIN 450
#define NEW_CALLS_END   560

static int allow_fcntl(scmp_filter_ctx ctx) {
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(fcntl_commands) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                                     SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntl_commands[i]));
        return r;
}

/* Threads, and no processes. clone3 hides its flags behind a pointer: glibc falls back to clone. */
static int only_threads(scmp_filter_ctx ctx, bool list) {
        int r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

        if (r == 0 && list)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
        else if (r == 0)
                r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
        return r;
}

static int refuse_program(scmp_filter_ctx ctx) {
        const scmp_datum_t pid = (scmp_datum_t)getpid(); /* the program's */
        const struct {
                int call;
                struct scmp_arg_cmp when;
        } partly[] = {
                { SCMP_SYS(kill), SCMP_A0(SCMP_CMP_NE, pid) },
                { SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_NE, pid) },
                { SCMP_SYS(prlimit64), SCMP_A0(SCMP_CMP_NE, 0) },
                { SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_SETOWN) },
                { SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_SETOWN_EX) },
                { SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_SETSIG) },
                { SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_PDEATHSIG) }, /* it is to end with us */
        };
        int r = only_threads(ctx, false);

        for (size_t i = 0; i < ELEMENTSOF(program_refused) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), program_refused[i], 0);
        for (size_t i = 0; i < ELEMENTSOF(partly) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), partly[i].call, 1, partly[i].when);
        for (int nr = NEW_CALLS_BEGIN; nr < NEW_CALLS_END && r == 0; nr++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), nr, 0);
        return r;
}

static int allow_network(scmp_filter_ctx ctx) {
        static const int families[] = { AF_INET, AF_INET6 };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(network_calls) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, network_calls[i], 0);
        for (size_t i = 0; i < ELEMENTSOF(families) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                                     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
        if (r == 0) /* libcurl wakes its own thread by one; by a datagram socket anybody's could be reached */
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
                                     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, SOCK_STREAM));
        if (r == 0)
                r = only_threads(ctx, true);
        return r == 0 ? seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME))
                      : r;
}

int shut_in_filter(enum shut_in how) {
        bool list = how != SHUT_IN_PROGRAM;
        scmp_filter_ctx ctx = seccomp_init(list ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_ALLOW);
        int r = ctx ? 0 : -ENOMEM;

        if (SANITIZED)
                list = false, how = SHUT_IN_PROGRAM;
        for (size_t i = 0; list && i < ELEMENTSOF(compute_calls) && r == 0; i++)
                r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, compute_calls[i], 0);
        if (r == 0 && list)
                r = allow_fcntl(ctx);
        if (r == 0 && how == SHUT_IN_NETWORK)
                r = allow_network(ctx);
        if (r == 0 && how == SHUT_IN_PROGRAM && !SANITIZED)
                r = refuse_program(ctx);
        if (r == 0 && !SANITIZED)
                r = seccomp_load(ctx);
        if (ctx)
                seccomp_release(ctx);
        return r;
}
