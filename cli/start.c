// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * start: the user's own daemon, started when it is needed
 *
 *      lodged --session --idle-exit 600        beside our own executable, or in ../sbin
 *
 * It leads a session of its own and outlives us; what it says goes to lodged.log beside its socket, so that a start that fails can be explained.
 * Two commands that start one at the same time are no problem: the second daemon finds the state locked and ends, and both commands
 * wait for the same socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/io.h"
#include "base/spawn.h"
#include "cli/client.h"

#define IDLE_EXIT "600"
#define TRIES     1000 /* of 10 ms */
#define LOG_MAX   65536

static int daemon_path(char **ret_path) {
        static const char *const places[] = { ".", "../sbin", NULL };
        int r = spawn_find_beside("lodged", places, ret_path);

        return r == -ENOENT ? spawn_find("lodged", ret_path) : r;
}

static int open_log(const char *socket_path, char **ret_path, struct error *e) {
        _cleanup_free_ char *dir = strdup(socket_path), *path = NULL;
        int fd;

        if (!dir)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot start a daemon");
        *strrchr(dir, '/') = '\0';
        if (mkdir(dir, 0700) < 0 && errno != EEXIST)
                return error_set(e, -errno, "socket-dir", "set XDG_RUNTIME_DIR to a directory of yours",
                                 "cannot make directory %s", dir);
        if (asprintf(&path, "%s/lodged.log", dir) < 0) {
                path = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot start a daemon");
        }
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return error_set(e, -errno, "socket-dir", NULL, "cannot write %s", path);
        *ret_path = TAKE_PTR(path);
        return fd;
}

/* Its last words that are an error: "lodged: ..." and the fix below. */
static int start_failed(int log_fd, const char *log_path, int status, struct error *e) {
        _cleanup_free_ char *text = NULL;
        char *line, *last = NULL, *rest, *fix = NULL;
        size_t n;

        if (lseek(log_fd, 0, SEEK_SET) == 0 && io_read_all(log_fd, LOG_MAX, &text, &n) < 0)
                text = NULL;
        for (rest = text; rest && (line = strsep(&rest, "\n"));) {
                if (strncmp(line, "lodged: ", 8) == 0)
                        last = line + 8;
                if (strncmp(line, "  fix: ", 7) == 0)
                        fix = line + 7;
        }
        if (last)
                error_set(e, -ENOTCONN, "daemon-start", fix, "a session daemon was started and ended: %s", last);
        else {
                error_set(e, -ENOTCONN, "daemon-start", NULL, "a session daemon was started and ended with status %d",
                          status);
                error_set_fix(e, "read %s", log_path);
        }
        return -ENOTCONN;
}

int client_start_session(const char *socket_path, struct error *e) {
        const char *argv[] = { "lodged", "--session", "--idle-exit", IDLE_EXIT, NULL };
        _cleanup_free_ char *path = NULL, *log_path = NULL;
        _cleanup_close_ int log_fd = -EBADF, pidfd = -EBADF;
        struct spawn s = { .argv = argv, .stdin_fd = -1, .stdout_fd = -1 };
        int status = 0, fd, r = daemon_path(&path);
        bool ended = false;
        pid_t pid;

        if (r < 0)
                return error_set(e, -ENOTCONN, "daemon-missing", "install lodged",
                                 "no daemon runs, and there is no lodged to start");
        log_fd = open_log(socket_path, &log_path, e);
        if (log_fd < 0)
                return log_fd;
        s.path = path;
        s.stderr_fd = log_fd;
        r = spawn_child(&s, &pid, &pidfd, e);
        if (r < 0)
                return r;
        for (unsigned int i = 0; i < TRIES; i++) {
                fd = client_connect(socket_path);
                if (fd >= 0) {
                        fprintf(stderr,
                                "lodge: started a session daemon (machines of user %u); the system daemon is not "
                                "running: systemctl start lodged\n",
                                geteuid());
                        return fd;
                }
                if (ended)
                        return start_failed(log_fd, log_path, status, e);
                ended = spawn_wait(pid, pidfd, 10, &status) == 0;
                if (ended) /* the one that another command started may be on its way */
                        nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
        }
        error_set(e, -ENOTCONN, "daemon-start", NULL, "a session daemon was started and does not answer");
        error_set_fix(e, "read %s", log_path);
        return -ENOTCONN;
}
