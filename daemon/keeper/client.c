// SPDX-License-Identifier: GPL-2.0-or-later
/* client: see client.h */
#include "daemon/keeper/client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/spawn.h"
#include "daemon/engine/engine.h"
#include "daemon/keeper/place.h"

#define PACKET_MAX 65536u
#define STATUS_MAX 16384u

int keeper_path(char **ret_path) {
        return engine_program_path("lodge-keeper", ret_path);
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static int write_config(const struct keeper_config *config, int *ret_fd) {
        _cleanup_free_ char *json = keeper_config_format(config);
        _cleanup_close_ int fd = memfd_create("lodge-keeper-config", MFD_CLOEXEC);
        int r;

        if (!json || fd < 0)
                return json ? -errno : -ENOMEM;
        r = io_write_all(fd, json, strlen(json));
        if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
                r = -errno;
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int keeper_spawn(const struct keeper_config *config, pid_t *ret_pid, int *ret_pidfd, int *ret_status_fd,
                 struct error *e) {
        _cleanup_close_ int config_fd = -EBADF, ours = -EBADF, theirs = -EBADF, lock_fd = -EBADF;
        struct keeper_config with_lock = *config;
        _cleanup_free_ char *path = NULL;
        char config_text[16], status_text[16];
        const char *argv[] = { "lodge-keeper", "--config-fd", config_text, "--status-fd", status_text, NULL };
        int fds[3], pair[2], r = keeper_path(&path);
        struct spawn s = { .argv = argv, .fds = fds, .n_fds = 3, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1 };

        if (r < 0)
                return error_set(e, r, "keeper-missing", "build or install lodge-keeper", "cannot find lodge-keeper");
        /* One that still ends has it: then the keeper waits for it, and we don't. */
        if (place_lock(config->run_dir, &lock_fd) == 0)
                with_lock.lock_fd = lock_fd;
        r = write_config(&with_lock, &config_fd);
        if (r == 0 && pipe2(pair, O_CLOEXEC) < 0)
                r = -errno;
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot prepare the machine");
        ours = pair[0];
        theirs = pair[1];
        r = io_set_nonblock(ours, true);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot prepare the machine");
        snprintf(config_text, sizeof(config_text), "%d", config_fd);
        snprintf(status_text, sizeof(status_text), "%d", theirs);
        fds[0] = config_fd;
        fds[1] = theirs;
        fds[2] = lock_fd;
        s.path = path;
        r = spawn_child(&s, ret_pid, ret_pidfd, e);
        if (r < 0)
                return r;
        *ret_status_fd = TAKE_FD(ours);
        return 0;
}

static int take_error(const struct keeper_error *from, struct error *e) {
        return error_set_foreign(e, -(int)from->code, from->id ?: "keeper", from->fix,
                                 from->message ?: "no reason given");
}

int keeper_started(int status_fd, struct error *e) {
        _cleanup_(keeper_ready_freep) struct keeper_ready *ready = NULL;
        char line[STATUS_MAX];
        ssize_t n;
        int r;

        do /* one write by the keeper, shorter than a pipe: it comes whole */
                n = read(status_fd, line, sizeof(line));
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return -EAGAIN;
        if (n <= 0)
                return error_set(e, n < 0 ? -errno : -EPIPE, "keeper-died", NULL,
                                 "the machine's keeper ended without a word");
        r = keeper_ready_parse(line, (size_t)n, &ready, e);
        if (r < 0)
                return r;
        if (ready->error.code != 0)
                return take_error(&ready->error, e);
        return 0;
}

int keeper_start(const struct keeper_config *config, pid_t *ret_pid, int *ret_pidfd, struct error *e) {
        _cleanup_close_ int pidfd = -EBADF, status_fd = -EBADF;
        struct pollfd p = { .events = POLLIN };
        uint64_t end = clock_ns() + KEEPER_START_TIMEOUT_MS * 1000000ull;
        pid_t pid;
        int r = keeper_spawn(config, &pid, &pidfd, &status_fd, e);

        if (r < 0)
                return r;
        p.fd = status_fd;
        do {
                uint64_t now = clock_ns();

                if (poll(&p, 1, now < end ? (int)((end - now) / 1000000) + 1 : 0) == 0)
                        r = error_set(e, -ETIMEDOUT, "keeper-timeout", NULL, "the machine did not start within %d s",
                                      KEEPER_START_TIMEOUT_MS / 1000);
                else
                        r = keeper_started(status_fd, e);
        } while (r == -EAGAIN);
        if (r < 0) {
                spawn_end(pid, pidfd, 4000); /* it stops its machine first, if there is one */
                return r;
        }
        *ret_pid = pid;
        *ret_pidfd = TAKE_FD(pidfd);
        return 0;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

int keeper_connect(const char *run_dir, int *ret_fd, struct error *e) {
        _cleanup_close_ int dir_fd = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        int r = dir_fd < 0 ? -errno : place_connect(dir_fd, PLACE_SOCKET, SOCK_SEQPACKET, ret_fd);

        return r < 0 ? error_set(e, r, "keeper-gone", NULL, "no keeper answers in %s", run_dir) : 0;
}

/* Return: bytes, or -errno; -ETIMEDOUT after @end. */
static ssize_t receive(int fd, char *buf, size_t size, int *ret_fd, uint64_t end) {
        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                uint64_t now = clock_ns();
                size_t n_fds = 1;
                int passed = -EBADF;
                ssize_t n = io_recv_fds(fd, buf, size, &passed, &n_fds);

                if (n != -EAGAIN) {
                        if (n > 0 && n_fds > 0)
                                *ret_fd = passed;
                        return n == 0 ? -EPIPE : n;
                }
                if (now >= end || poll(&p, 1, (int)((end - now) / 1000000) + 1) == 0)
                        return -ETIMEDOUT;
        }
}

static bool is_event(const char *packet, size_t n) {
        static const char start[] = "{\"event\":";

        return n >= sizeof(start) - 1 && memcmp(packet, start, sizeof(start) - 1) == 0;
}

static int exchange(int fd, const struct keeper_request *request, struct keeper_reply **ret_reply, int *ret_fd,
                    struct error *e) {
        _cleanup_(keeper_reply_freep) struct keeper_reply *reply = NULL;
        _cleanup_free_ char *text = keeper_request_format(request), *packet = malloc(PACKET_MAX);
        _cleanup_close_ int passed = -EBADF;
        uint64_t end = clock_ns() + KEEPER_TIMEOUT_MS * 1000000ull;
        ssize_t n = 0;
        int r;

        if (!text || !packet)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the keeper");
        r = io_send_fds(fd, text, strlen(text), NULL, 0);
        while (r == 0 && !reply) {
                passed = safe_close(passed);
                n = receive(fd, packet, PACKET_MAX, &passed, end);
                if (n < 0)
                        r = (int)n;
                else if (!is_event(packet, (size_t)n))
                        r = keeper_reply_parse(packet, (size_t)n, &reply, e);
                if (reply && reply->id != request->id && reply->id != 0) { /* to a call that was given up */
                        keeper_reply_free(reply);
                        reply = NULL;
                }
        }
        if (r < 0)
                return error_set(e, r, "keeper-call", NULL, "the keeper does not answer");
        if (reply->error.code != 0)
                return take_error(&reply->error, e);
        *ret_fd = TAKE_FD(passed);
        *ret_reply = TAKE_PTR(reply);
        return 0;
}

/* @ret_fd NULL: no descriptor is expected. @ret_reply may be NULL. */
static int call(int fd, enum keeper_op op, size_t history, struct keeper_reply **ret_reply, int *ret_fd,
                struct error *e) {
        _cleanup_(keeper_request_freep) struct keeper_request *request = NULL;
        _cleanup_(keeper_reply_freep) struct keeper_reply *reply = NULL;
        _cleanup_close_ int passed = -EBADF;
        int r = keeper_request_new(&request);

        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot ask the keeper");
        request->id =
                (uint32_t)(clock_ns() / 1000) | 1; /* another one than that of a call before, which was given up */
        request->op = op;
        request->history = history;
        r = exchange(fd, request, &reply, &passed, e);
        if (r < 0)
                return r;
        if (ret_fd && passed < 0)
                return error_set(e, -EPROTO, "keeper-call", NULL, "the keeper's answer lacks a descriptor");
        if (ret_fd)
                *ret_fd = TAKE_FD(passed);
        if (ret_reply)
                *ret_reply = TAKE_PTR(reply);
        return 0;
}

int keeper_get_status(int fd, struct keeper_status **ret_status, struct error *e) {
        _cleanup_(keeper_reply_freep) struct keeper_reply *reply = NULL;
        struct keeper_status *status;
        int r = call(fd, KEEPER_OP_STATUS, 0, &reply, NULL, e);

        if (r < 0)
                return r;
        r = keeper_status_new(&status);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot ask the keeper");
        *status = reply->status; /* with what it owns */
        reply->status = (struct keeper_status){ 0 };
        *ret_status = status;
        return 0;
}

int keeper_control(int fd, int *ret_control_fd, struct error *e) {
        return call(fd, KEEPER_OP_CONTROL, 0, NULL, ret_control_fd, e);
}

int keeper_agent(int fd, int *ret_agent_fd, struct error *e) {
        return call(fd, KEEPER_OP_AGENT, 0, NULL, ret_agent_fd, e);
}

int keeper_console(int fd, size_t history, int *ret_console_fd, struct error *e) {
        return call(fd, KEEPER_OP_CONSOLE, history, NULL, ret_console_fd, e);
}

int keeper_kill(int fd, struct error *e) {
        return call(fd, KEEPER_OP_KILL, 0, NULL, NULL, e);
}

int keeper_events(int fd, struct error *e) {
        return call(fd, KEEPER_OP_EVENTS, 0, NULL, NULL, e);
}

int keeper_event_read(int fd, struct keeper_event **ret_event) {
        _cleanup_free_ char *packet = malloc(PACKET_MAX);
        size_t n_fds = 0;
        ssize_t n;

        if (!packet)
                return -ENOMEM;
        n = io_recv_fds(fd, packet, PACKET_MAX, NULL, &n_fds);
        if (n <= 0)
                return n == -EAGAIN ? 0 : n == 0 ? -EPIPE : (int)n;
        if (!is_event(packet, (size_t)n) || keeper_event_parse(packet, (size_t)n, ret_event, NULL) < 0)
                return -EPROTO;
        return 1;
}

int keeper_exit_read(const char *run_dir, struct keeper_exit **ret_exit, struct error *e) {
        _cleanup_close_ int dir_fd = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        if (dir_fd >= 0)
                fd = openat(dir_fd, PLACE_EXIT, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return errno == ENOENT
                               ? -ENOENT
                               : error_set(e, -errno, "keeper-exit", NULL, "cannot read " PLACE_EXIT " in %s", run_dir);
        r = io_read_all(fd, SCHEMA_TEXT_MAX, &text, &n);
        if (r < 0)
                return error_set(e, r, "keeper-exit", NULL, "cannot read " PLACE_EXIT " in %s", run_dir);
        return keeper_exit_parse(text, n, ret_exit, e);
}
