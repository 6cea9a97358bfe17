// SPDX-License-Identifier: GPL-2.0-or-later
/* pty: see pty.h */
#include "daemon/image/tiny/pty.h"

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

static int put(int fd, const char *p, ssize_t n) {
        while (n > 0) {
                ssize_t k = write(fd, p, (size_t)n);

                if (k < 0 && errno != EINTR)
                        return -1;
                if (k > 0) {
                        p += k;
                        n -= k;
                }
        }
        return 0;
}

int pty_run(const char *command) {
        int terminal, status;
        pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
        char buf[4096];

        if (pid < 0)
                return 127;
        if (pid == 0) {
                execl("/bin/sh", "sh", "-c", command, (char *)NULL);
                _exit(127);
        }
        struct pollfd fds[2] = { { .fd = terminal, .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };
        for (;;) {
                if (poll(fds, 2, -1) < 0 && errno != EINTR)
                        break;
                if (fds[1].revents) {
                        ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

                        if (n <= 0) {
                                fds[1].fd = -1;
                                buf[0] = 4; /* ^D */
                                n = 1;
                        }
                        if (put(terminal, buf, n) < 0)
                                break;
                }
                if (fds[0].revents) {
                        ssize_t n = read(terminal, buf, sizeof(buf));

                        if (n <= 0 || put(STDOUT_FILENO, buf, n) < 0) /* EIO: nobody has the terminal any more */
                                break;
                }
        }
        close(terminal);
        if (waitpid(pid, &status, 0) < 0)
                return 127;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
