// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spawn: see spawn.h
 *
 * A pipe that is close-on-exec tells how it went: it ends without a byte when exec succeeded, else it carries the errno.
 * Between fork and exec the child calls nothing but async-signal-safe functions.
 */
#include "base/spawn.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/capability.h"
#include "base/cleanup.h"
#include "base/io.h"

#define SPAWN_FDS_MAX 256

static int pidfd_of(pid_t pid) {
        return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Descriptors 0..2 become what was asked for. They may be each other's sources, so they are first moved out of the way. */
static int place_stdio(const struct spawn *s) {
        int want[3] = { s->stdin_fd, s->stdout_fd, s->stderr_fd };

        for (int i = 0; i < 3; i++) {
                want[i] = want[i] >= 0 ? fcntl(want[i], F_DUPFD_CLOEXEC, 3)
                                       : open("/dev/null", i == 0 ? O_RDONLY | O_CLOEXEC : O_WRONLY | O_CLOEXEC);
                if (want[i] >= 0 && want[i] < 3)
                        want[i] = fcntl(want[i], F_DUPFD_CLOEXEC, 3);
                if (want[i] < 0)
                        return -errno;
        }
        for (int i = 0; i < 3; i++)
                if (dup2(want[i], i) < 0)
                        return -errno;
        return 0;
}

/* @keep is sorted. */
static int close_others(const int *keep, size_t n) {
        unsigned int from = 3;

        for (size_t i = 0; i < n; i++) {
                unsigned int fd = (unsigned int)keep[i];

                if (fd > from && syscall(SYS_close_range, from, fd - 1, 0) < 0)
                        return -errno;
                if (fd >= from)
                        from = fd + 1;
        }
        return syscall(SYS_close_range, from, ~0u, 0) < 0 ? -errno : 0;
}

static void reset_signals(void) {
        struct sigaction dfl = { .sa_handler = SIG_DFL };
        sigset_t none;

        for (int i = 1; i < NSIG; i++)
                sigaction(i, &dfl, NULL); /* fails for those that can't be changed */
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The files of the control groups, opened before the fork, where a failure can be explained. */
struct cgroups {
        int fds[SPAWN_CGROUPS_MAX];
        size_t n;
};

static void cgroups_close(struct cgroups *c) {
        while (c->n > 0)
                safe_close(c->fds[--c->n]);
}

static int cgroups_open(const struct spawn_jail *jail, struct cgroups *c, struct error *e) {
        if (jail->n_cgroups > SPAWN_CGROUPS_MAX)
                return error_set(e, -E2BIG, "spawn-cgroup", NULL, "there are more than %d control groups",
                                 SPAWN_CGROUPS_MAX);
        for (size_t i = 0; i < jail->n_cgroups; i++) {
                _cleanup_free_ char *path = NULL;
                int fd;

                if (asprintf(&path, "%s/cgroup.procs", jail->cgroups[i]) < 0) {
                        path = NULL;
                        return error_set(e, -ENOMEM, "spawn-cgroup", NULL, "cannot open a control group");
                }
                fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
                if (fd < 0)
                        return error_set(e, -errno, "spawn-cgroup",
                                         "the group has to exist, and whoever starts a process in it must own it",
                                         "cannot open control group %s", jail->cgroups[i]);
                c->fds[c->n++] = fd;
        }
        return 0;
}

/* The calls themselves: libc's would reach for locks to tell other threads, and there are none in this child. */
static int become(const struct spawn_jail *jail) {
        int r;

        capability_bound();
        if (syscall(SYS_setgroups, jail->n_groups, jail->groups) < 0 ||
            syscall(SYS_setresgid, jail->gid, jail->gid, jail->gid) < 0 ||
            syscall(SYS_setresuid, jail->uid, jail->uid, jail->uid) < 0)
                return -errno;
        r = capability_keep(0);
        return r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : r;
}

static int enter_jail(const struct spawn_jail *jail, const struct cgroups *cgroups) {
        for (size_t i = 0; i < cgroups->n; i++)
                if (write(cgroups->fds[i], "0", 1) != 1) /* 0 is whoever writes, in both versions */
                        return -errno;
        if (jail->alone && unshare(CLONE_NEWNET | CLONE_NEWIPC) < 0 && errno != EPERM && errno != EINVAL)
                return -errno;
        return jail->identity ? become(jail) : 0;
}

static int child_prepare(const struct spawn *s, const struct cgroups *cgroups, const int *keep, size_t n_keep,
                         int report_fd, pid_t parent) {
        int r;

        reset_signals();
        setsid(); /* keys typed at our terminal (Ctrl-C) are for us alone */
        r = s->jail ? enter_jail(s->jail, cgroups) : 0;
        if (r < 0)
                return r;
        if (s->death_signal) {
                if (prctl(PR_SET_PDEATHSIG, s->death_signal) < 0)
                        return -errno;
                if (getppid() != parent)
                        return -ECHILD; /* it ended in between: no signal will come */
        }
        r = place_stdio(s);
        if (r < 0)
                return r;
        r = close_others(keep, n_keep);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n_keep; i++)
                if (keep[i] != report_fd && keep[i] != s->exec_fd) {
                        r = io_set_cloexec(keep[i], false);
                        if (r < 0)
                                return r;
                }
        return 0;
}

static int compare_int(const void *a, const void *b) {
        return *(const int *)a - *(const int *)b;
}

int spawn_find_beside(const char *name, const char *const *places, char **ret_path) {
        char self[PATH_MAX], path[PATH_MAX + 64];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash;

        if (n <= 0)
                return -ENOENT;
        self[n] = '\0';
        slash = strrchr(self, '/');
        if (slash)
                *slash = '\0';
        for (; *places; places++) {
                snprintf(path, sizeof(path), "%s/%s/%s", self, *places, name);
                if (access(path, X_OK) < 0)
                        continue;
                *ret_path = strdup(path);
                return *ret_path ? 0 : -ENOMEM;
        }
        return -ENOENT;
}

int spawn_find(const char *name, char **ret_path) {
        static const char extra[] = ":/usr/local/sbin:/usr/sbin:/sbin";
        _cleanup_free_ char *dirs = NULL;
        const char *path = getenv("PATH") ?: "/usr/local/bin:/usr/bin:/bin";
        char *save = NULL;

        if (strchr(name, '/')) {
                if (access(name, X_OK) < 0)
                        return -errno;
                *ret_path = strdup(name);
                return *ret_path ? 0 : -ENOMEM;
        }
        if (asprintf(&dirs, "%s%s", path, extra) < 0) {
                dirs = NULL;
                return -ENOMEM;
        }
        for (char *d = strtok_r(dirs, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
                char *full;

                if (d[0] != '/')
                        continue; /* the current directory is no place to take programs from */
                if (asprintf(&full, "%s/%s", d, name) < 0)
                        return -ENOMEM;
                if (access(full, X_OK) == 0) {
                        *ret_path = full;
                        return 0;
                }
                free(full);
        }
        return -ENOENT;
}

/* Our environment with the child's own entries in front; only the array is allocated. */
static char **make_environment(const char *const *front) {
        size_t n_front = 0, n = 0;
        char **env;

        while (front && front[n_front])
                n_front++;
        while (environ[n])
                n++;
        env = calloc(n_front + n + 1, sizeof(*env));
        if (!env)
                return NULL;
        if (n_front)
                memcpy(env, front, n_front * sizeof(*env));
        memcpy(env + n_front, environ, n * sizeof(*env));
        return env;
}

/* Returns only when it failed: errno. */
static int execute(const struct spawn *s, const char *path, char *const *env) {
        if (s->exec_fd > 0)
                syscall(SYS_execveat, s->exec_fd, "", s->argv, env, AT_EMPTY_PATH);
        else
                execve(path, (char *const *)s->argv, env);
        return errno;
}

int spawn_child(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct error *e) {
        _cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF, pidfd = -EBADF;
        _cleanup_(cgroups_close) struct cgroups cgroups = { .n = 0 };
        _cleanup_free_ char *path = NULL, **env = make_environment(s->env);
        int keep[SPAWN_FDS_MAX + 2], pipe_fds[2], failed = 0, r;
        pid_t parent = getpid(), pid;
        size_t n_keep = 0;

        if (!env || s->n_fds > SPAWN_FDS_MAX)
                return error_set(e, env ? -E2BIG : -ENOMEM, "spawn", NULL, "cannot start %s", s->path);
        if (s->exec_fd > 0 ? !(path = strdup(s->path)) : spawn_find(s->path, &path) < 0)
                return error_set(e, -ENOENT, "spawn-missing", NULL, "cannot find program %s", s->path);
        r = s->jail ? cgroups_open(s->jail, &cgroups, e) : 0;
        if (r < 0)
                return r;
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_set(e, -errno, "spawn", NULL, "cannot start %s", s->path);
        read_fd = pipe_fds[0];
        write_fd = pipe_fds[1];
        for (size_t i = 0; i < s->n_fds; i++)
                if (s->fds[i] > 2)
                        keep[n_keep++] = s->fds[i];
        keep[n_keep++] = write_fd;
        if (s->exec_fd > 0)
                keep[n_keep++] = s->exec_fd;
        qsort(keep, n_keep, sizeof(*keep), compare_int);

        pid = fork();
        if (pid < 0)
                return error_set(e, -errno, "spawn", NULL, "cannot start %s", s->path);
        if (pid == 0) {
                failed = -child_prepare(s, &cgroups, keep, n_keep, write_fd, parent);
                if (failed == 0)
                        failed = execute(s, path, env);
                (void)!write(write_fd, &failed, sizeof(failed));
                _exit(127);
        }
        write_fd = safe_close(write_fd);
        pidfd = pidfd_of(pid);
        while (read(read_fd, &failed, sizeof(failed)) < 0 && errno == EINTR)
                ;
        if (failed != 0 || pidfd < 0) {
                int code = failed ? -failed : -errno;

                kill(pid, SIGKILL);
                while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                        ;
                return error_set(e, code, "spawn", NULL, "cannot start %s", path);
        }
        io_set_cloexec(pidfd, true);
        *ret_pid = pid;
        *ret_pidfd = TAKE_FD(pidfd);
        return 0;
}

int spawn_wait(pid_t pid, int pidfd, int timeout_ms, int *ret_status) {
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        int r, status;

        do
                r = poll(&p, 1, timeout_ms);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;
        if (r == 0)
                return -ETIMEDOUT;
        do
                r = waitpid(pid, &status, 0);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;
        *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return 0;
}

int spawn_end(pid_t pid, int pidfd, int grace_ms) {
        int status, r;

        syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0);
        r = spawn_wait(pid, pidfd, grace_ms, &status);
        if (r == -ETIMEDOUT) {
                syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
                r = spawn_wait(pid, pidfd, -1, &status);
        }
        return r < 0 ? r : status;
}
