// SPDX-License-Identifier: GPL-2.0-or-later
/* pty: see pty.h */
#include "daemon/image/tiny/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdbool.h>
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

/*
 * Between the standard streams and the terminal, until nobody has the terminal any more. A terminal that is full takes no more keys until somebody reads them, which may
 * wait for us to take output: so keys wait here, and no more are read meanwhile.
 */
static void carry(int terminal) {
        char keys[4096], shown[4096];
        size_t left = 0, at = 0;
        bool ended = false;

        for (;;) {
                struct pollfd fds[2] = { { .fd = terminal, .events = left ? POLLIN | POLLOUT : POLLIN },
                                         { .fd = left || ended ? -1 : STDIN_FILENO, .events = POLLIN } };
                ssize_t n;

                /* Keys that a line is too long for are thrown away, and nobody wakes us for the room: so look now and then. */
                if (poll(fds, 2, left ? 100 : -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return;
                }
                if (fds[1].revents) {
                        n = read(STDIN_FILENO, keys, sizeof(keys));
                        if (n <= 0) {
                                ended = true;
                                keys[0] = 4; /* ^D */
                                n = 1;
                        }
                        at = 0;
                        left = (size_t)n;
                }
                if (left) {
                        n = write(terminal, keys + at, left);
                        if (n < 0 && errno != EAGAIN && errno != EINTR)
                                left = 0; /* nobody has the terminal: what it still shows is read below */
                        if (n > 0) {
                                at += (size_t)n;
                                left -= (size_t)n;
                        }
                }
                if (fds[0].revents & ~POLLOUT) {
                        n = read(terminal, shown, sizeof(shown));
                        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                                continue;
                        if (n <= 0 || put(STDOUT_FILENO, shown, n) < 0) /* EIO: nobody has the terminal any more */
                                return;
                }
        }
}

int pty_run(const char *command) {
        int terminal, status;
        pid_t pid = forkpty(&terminal, NULL, NULL, NULL);

        if (pid < 0)
                return 127;
        if (pid == 0) {
                execl("/bin/sh", "sh", "-c", command, (char *)NULL);
                _exit(127);
        }
        fcntl(terminal, F_SETFL, O_NONBLOCK);
        carry(terminal);
        close(terminal);
        if (waitpid(pid, &status, 0) < 0)
                return 127;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
