// SPDX-License-Identifier: GPL-2.0-or-later
/* run: see run.h */
#include "daemon/image/run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"

#define GRACE_SECONDS 10
#define FD_MAX        20

/* In the program's process, between fork and exec: only async-signal-safe calls. */
_Noreturn static void exec_program(const char *const *argv, const struct run_fd *fds, size_t n_fds, const char *dir) {
        int moved[FD_MAX], null = open("/dev/null", O_RDWR | O_CLOEXEC);
        bool given[3] = { false };
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        for (size_t i = 0; i < n_fds; i++) { /* out of the way first: targets may be sources of others */
                moved[i] = fcntl(fds[i].from, F_DUPFD_CLOEXEC, FD_MAX);
                if (moved[i] < 0)
                        _exit(126);
        }
        for (size_t i = 0; i < n_fds; i++) {
                if (dup2(moved[i], fds[i].as) < 0)
                        _exit(126);
                if (fds[i].as < 3)
                        given[fds[i].as] = true;
        }
        for (int i = 0; i < 3; i++)
                if (!given[i] && dup2(null, i) < 0)
                        _exit(126);
        if (chdir(dir) < 0)
                _exit(126);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
}

/* The leader of the group; see run.h. Signals are blocked and waited for, so none can be missed. */
_Noreturn static void keep(const char *const *argv, const struct run_fd *fds, size_t n_fds, const char *dir,
                           pid_t parent) {
        bool ending = false;
        uint64_t since = 0;
        sigset_t set;
        pid_t pid;

        setpgid(0, 0);
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGCHLD);
        sigprocmask(SIG_BLOCK, &set, NULL);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
                _exit(126);
        pid = fork();
        if (pid == 0)
                exec_program(argv, fds, n_fds, dir);
        if (pid < 0)
                _exit(126);
        for (;;) {
                struct timespec tick = { .tv_sec = 1 };
                int signo = sigtimedwait(&set, NULL, &tick), status;

                if (signo == SIGTERM && !ending) {
                        ending = true;
                        since = clock_ns();
                        kill(0, SIGTERM); /* us too; it is pending and harmless */
                }
                if (ending && clock_ns() - since >= GRACE_SECONDS * 1000000000ull)
                        kill(0, SIGKILL);
                if (waitpid(pid, &status, WNOHANG) == pid) {
                        kill(0, SIGTERM); /* whoever it left behind */
                        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
                }
        }
}

/* Cuts what came into lines. @buf is NUL-terminated by us; a line that does not fit is handed out in pieces. */
static void hand_out_lines(char *buf, size_t *len, size_t size, void (*line)(void *, char *), void *opaque) {
        char *start = buf, *end;

        while ((end = memchr(start, '\n', *len - (start - buf)))) {
                *end = '\0';
                line(opaque, start);
                start = end + 1;
        }
        *len -= start - buf;
        memmove(buf, start, *len);
        if (*len == size - 1) {
                buf[*len] = '\0';
                line(opaque, buf);
                *len = 0;
        }
}

static int wait_for(int pid_fd, pid_t pid, int line_fd, void (*line)(void *, char *), void *opaque, int cancel_fd) {
        bool cancelled = false;
        char buf[1024];
        size_t len = 0;

        for (;;) {
                struct pollfd p[] = {
                        { .fd = pid_fd, .events = POLLIN },
                        { .fd = line_fd, .events = POLLIN },
                        { .fd = cancelled ? -1 : cancel_fd, .events = POLLIN },
                };

                if (poll(p, ELEMENTSOF(p), -1) < 0 && errno != EINTR)
                        return -errno;
                if (p[2].revents) {
                        cancelled = true;
                        kill(pid, SIGTERM);
                }
                if (p[1].revents) {
                        ssize_t n = read(line_fd, buf + len, sizeof(buf) - 1 - len);
                        if (n > 0) {
                                len += n;
                                hand_out_lines(buf, &len, sizeof(buf), line, opaque);
                                continue; /* all lines before the end */
                        }
                        if (n == 0)
                                line_fd = -1;
                }
                if (p[0].revents)
                        return cancelled ? -EINTR : 0;
        }
}

int run_program(const char *const *argv, const struct run_fd *fds, size_t n_fds, const char *dir, int line_fd,
                void (*line)(void *opaque, char *text), void *opaque, int cancel_fd) {
        _cleanup_close_ int pid_fd = -EBADF;
        pid_t parent = getpid(), pid;
        int r, status;

        if (n_fds > FD_MAX)
                return -EINVAL;
        if (line_fd >= 0) {
                r = io_set_nonblock(line_fd, 1);
                if (r < 0)
                        return r;
        }
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                keep(argv, fds, n_fds, dir, parent);
        pid_fd = syscall(SYS_pidfd_open, pid, 0);
        if (pid_fd < 0) {
                r = -errno;
                kill(pid, SIGTERM);
        } else
                r = wait_for(pid_fd, pid, line_fd, line, opaque, cancel_fd);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        if (r < 0)
                return r;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
