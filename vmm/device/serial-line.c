// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * serial-line: see serial-line.h
 *
 * Output. Each byte costs the guest an exit already, so what is done for it here must be short: it goes into a ring, and the
 * ring goes out by one write(2) at the end of a line, when it is half full, or 2 ms after its first byte, whichever is
 * first. The write is made at once on the thread that brought the byte: the descriptor cannot block, so this is cheaper than
 * waking the loop. When it takes no more, the loop waits for it; from then on the ring fills, then
 * serial_line_full() holds the guest back. If nothing moves for STUCK_US after that, whoever reads is taken to be stuck: bytes are dropped and
 * counted until something moves again. A reader that is gone (EPIPE, hang-up) is gone for good.
 *
 * A descriptor that other processes share must not get O_NONBLOCK: the flag belongs to the open file description, so the
 * user's shell would have it too. Sockets have MSG_DONTWAIT; pipes and terminals are opened again through /proc/self/fd (at the start,
 * before the sandbox), and only where that fails is the flag set, and taken away at the end. Regular files and block devices
 * have no such state: a write to them goes to the page cache; they never make the loop wait, since epoll refuses them.
 *
 * Input stays in its descriptor until the guest has room for it: what is read is what fits. epoll is asked only then. A
 * descriptor that epoll refuses, or that has hung up (which epoll reports for ever), is read directly instead.
 *
 * Sources are made and freed on the loop's thread only; a vCPU's thread changes what they wait for, by a system call,
 * under the machine lock.
 */
#include "vmm/device/serial-line.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"

/* seccomp: main,vcpu: write, sendto -- output, also on the thread of the exit */
/* seccomp: main: read, recvfrom -- input */
/* seccomp: main: poll (rare) -- the last output */
/* seccomp: main: fcntl arg1=F_GETFL (rare) -- taking O_NONBLOCK back at the end */
/* seccomp: main: fcntl arg1=F_SETFL (rare) */

#define RING_SIZE  16384u /* a power of two */
#define FLUSH_US   2000
#define STUCK_US   200000
#define DRAIN_MS   200
#define INPUT_SIZE 64u

enum fd_kind { FD_NONE, FD_SOCKET, FD_STREAM, FD_FILE }; /* FD_STREAM: O_NONBLOCK is on */

struct serial_line {
        struct loop *loop;
        const struct serial_line_ops *ops;
        void *opaque;
        struct loop_source *timer; /* flush, input without epoll, stuck reader */

        enum fd_kind out_kind;
        int out_fd, owned_out_fd;
        int flagged_fd; /* O_NONBLOCK was set here and must go again */
        struct loop_source *out_source;
        bool out_blocked; /* EPOLLOUT will come */
        bool flush_armed;
        bool dropping; /* the reader is stuck */
        uint64_t full_until;
        uint64_t dropped;
        unsigned int head, count;

        enum fd_kind in_kind;
        int in_fd, owned_in_fd;
        struct loop_source *in_source; /* NULL: read directly */
        bool in_armed;

        uint8_t ring[RING_SIZE]; /* last: only its first page is touched by a guest that writes lines */
};

static void drop_all(struct serial_line *line) {
        line->dropped += line->count;
        line->head = line->count = 0;
}

/* The reader is gone. The source goes when the loop next looks at it (hang-up), or with the line. */
static void out_gone(struct serial_line *line) {
        drop_all(line);
        line->out_kind = FD_NONE;
        line->out_blocked = false;
}

static ssize_t out_write(struct serial_line *line, const void *buf, size_t n) {
        if (line->out_kind == FD_SOCKET)
                return send(line->out_fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        return write(line->out_fd, buf, n);
}

static void wait_for_room(struct serial_line *line) {
        if (line->out_source && loop_source_set_events(line->out_source, EPOLLOUT) >= 0)
                line->out_blocked = true;
        else
                drop_all(line); /* a file that says "again": there is nothing to wait for */
}

/* Write as much as goes. */
static void flush(struct serial_line *line) {
        while (line->count > 0 && line->out_kind != FD_NONE) {
                size_t n = MIN(line->count, RING_SIZE - line->head);
                ssize_t r = out_write(line, line->ring + line->head, n);

                if (r > 0) {
                        line->head = (line->head + (unsigned int)r) & (RING_SIZE - 1);
                        line->count -= (unsigned int)r;
                        line->dropping = false;
                } else if (r < 0 && errno == EINTR)
                        continue;
                else if (r == 0 || errno == EAGAIN) {
                        wait_for_room(line);
                        return;
                } else if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
                        drop_all(line); /* the disk may have room again later */
                } else
                        out_gone(line);
        }
        if (line->count == 0)
                line->head = 0;
}

/* As flush(), and tell the port if that made room. */
static void flush_and_tell(struct serial_line *line) {
        bool full = serial_line_full(line);

        flush(line);
        if (full && !serial_line_full(line))
                line->ops->room(line->opaque);
}

static void ring_is_full(struct serial_line *line) {
        if (line->dropping)
                return;
        line->full_until = clock_ns() / 1000 + STUCK_US;
        (void)loop_timer_set(line->timer, STUCK_US);
}

void serial_line_put(struct serial_line *line, uint8_t byte) {
        if (line->out_kind == FD_NONE)
                return;
        if (line->count == RING_SIZE) {
                line->dropped++;
                return;
        }
        line->ring[(line->head + line->count) & (RING_SIZE - 1)] = byte;
        line->count++;
        if (line->out_blocked) {
                if (line->count == RING_SIZE)
                        ring_is_full(line);
        } else if (byte == '\n' || line->count >= RING_SIZE / 2)
                flush(line);
        else if (!line->flush_armed)
                line->flush_armed = loop_timer_set(line->timer, FLUSH_US) >= 0;
}

bool serial_line_full(const struct serial_line *line) {
        return line->count == RING_SIZE && !line->dropping;
}

static void on_out(void *opaque, int fd, uint32_t events) {
        struct serial_line *line = opaque;

        if (events & (EPOLLERR | EPOLLHUP) || line->out_kind == FD_NONE) {
                bool full = serial_line_full(line);

                out_gone(line);
                loop_source_free(line->out_source);
                line->out_source = NULL;
                if (full)
                        line->ops->room(line->opaque);
                return;
        }
        line->out_blocked = false;
        (void)loop_source_set_events(line->out_source, 0);
        flush_and_tell(line);
}

static void in_end(struct serial_line *line) {
        loop_source_free(line->in_source);
        line->in_source = NULL;
        line->in_kind = FD_NONE;
        line->in_armed = false;
}

/* On the loop's thread: hand over what the guest has room for. */
static void read_input(struct serial_line *line) {
        uint8_t buf[INPUT_SIZE];
        size_t n = MIN(line->ops->wanted(line->opaque), sizeof(buf));
        ssize_t r;

        if (n == 0) {
                line->in_armed = false;
                if (line->in_source)
                        (void)loop_source_set_events(line->in_source, 0);
                return;
        }
        if (line->in_kind == FD_SOCKET)
                r = recv(line->in_fd, buf, n, MSG_DONTWAIT);
        else
                r = read(line->in_fd, buf, n);
        if (r > 0) {
                line->ops->input(line->opaque, buf, (size_t)r);
                if (!line->in_source && line->in_armed)
                        (void)loop_timer_set(line->timer, 0); /* no epoll here: look again */
        } else if (r == 0 || (errno != EAGAIN && errno != EINTR))
                in_end(line);
}

static void on_in(void *opaque, int fd, uint32_t events) {
        struct serial_line *line = opaque;

        if (!(events & EPOLLIN) && (events & (EPOLLERR | EPOLLHUP))) {
                if (line->in_armed) {
                        read_input(line); /* says end or error */
                        return;
                }
                /* Hung up, perhaps with bytes left, and the guest wants none now: epoll would say so for ever. */
                loop_source_free(line->in_source);
                line->in_source = NULL;
                return;
        }
        read_input(line);
}

void serial_line_want(struct serial_line *line) {
        if (line->in_kind == FD_NONE || line->in_armed)
                return;
        line->in_armed = true;
        if (line->in_source)
                (void)loop_source_set_events(line->in_source, EPOLLIN);
        else
                (void)loop_timer_set(line->timer, 0);
}

static void on_timer(void *opaque) {
        struct serial_line *line = opaque;

        line->flush_armed = false;
        if (!line->out_blocked)
                flush_and_tell(line);
        if (serial_line_full(line)) {
                uint64_t now = clock_ns() / 1000;

                if (now >= line->full_until) {
                        line->dropping = true;
                        line->ops->room(line->opaque);
                } else
                        (void)loop_timer_set(line->timer, line->full_until - now);
        }
        if (line->in_kind != FD_NONE && line->in_armed && !line->in_source)
                read_input(line);
}

uint64_t serial_line_dropped(const struct serial_line *line) {
        return line->dropped;
}

/* Make *@fd one that cannot block; *@owned is what has to be closed for it, *@flagged what has to lose O_NONBLOCK. */
static int prepare(int *fd, int access, enum fd_kind *ret_kind, int *owned, int *flagged) {
        char path[32];
        struct stat st;
        int flags = fcntl(*fd, F_GETFL), r;

        if (flags < 0 || fstat(*fd, &st) < 0)
                return -errno;
        if ((flags & O_ACCMODE) != O_RDWR && (flags & O_ACCMODE) != access)
                return -EBADF;
        if (S_ISSOCK(st.st_mode)) {
                *ret_kind = FD_SOCKET;
                return 0;
        }
        *ret_kind = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? FD_FILE : FD_STREAM;
        if (*ret_kind == FD_FILE || (flags & O_NONBLOCK))
                return 0;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
        r = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (r >= 0) {
                *fd = *owned = r;
                return 0;
        }
        if (!flagged)
                return 0; /* input: read only when epoll says so */
        r = io_set_nonblock(*fd, 1);
        if (r >= 0)
                *flagged = *fd;
        return r;
}

/* epoll refuses regular files and /dev/null (-EPERM): those need no waiting. The same descriptor twice needs a second number. */
static int watch(struct serial_line *line, int *fd, int *owned, loop_fd_fn fn, struct loop_source **ret_source) {
        int r = loop_add_fd(line->loop, *fd, 0, fn, line, ret_source);

        if (r == -EEXIST) {
                int copy = fcntl(*fd, F_DUPFD_CLOEXEC, 3);

                if (copy < 0)
                        return -errno;
                *fd = *owned = copy;
                r = loop_add_fd(line->loop, copy, 0, fn, line, ret_source);
        }
        return r == -EPERM ? 0 : r;
}

int serial_line_new(struct loop *loop, int in_fd, int out_fd, const struct serial_line_ops *ops, void *opaque,
                    struct serial_line **ret_line, struct error *e) {
        _cleanup_(serial_line_freep) struct serial_line *line = calloc(1, sizeof(*line));
        int r;

        if (!line)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the serial line");
        line->loop = loop;
        line->ops = ops;
        line->opaque = opaque;
        line->owned_in_fd = line->owned_out_fd = line->flagged_fd = -EBADF;
        line->in_fd = in_fd;
        line->out_fd = out_fd;
        r = loop_add_timer(loop, on_timer, line, &line->timer);
        if (r >= 0 && in_fd >= 0)
                r = prepare(&line->in_fd, O_RDONLY, &line->in_kind, &line->owned_in_fd, NULL);
        if (r >= 0 && in_fd >= 0)
                r = watch(line, &line->in_fd, &line->owned_in_fd, on_in, &line->in_source);
        if (r < 0)
                return error_set(e, r, "serial-fd", "give a readable descriptor, or -1",
                                 "cannot use serial input, descriptor %d", in_fd);
        if (out_fd >= 0)
                r = prepare(&line->out_fd, O_WRONLY, &line->out_kind, &line->owned_out_fd, &line->flagged_fd);
        if (r >= 0 && out_fd >= 0)
                r = watch(line, &line->out_fd, &line->owned_out_fd, on_out, &line->out_source);
        if (r < 0)
                return error_set(e, r, "serial-fd", "give a writable descriptor, or -1",
                                 "cannot use serial output, descriptor %d", out_fd);
        *ret_line = TAKE_PTR(line);
        return 0;
}

void serial_line_free(struct serial_line *line) {
        if (!line)
                return;
        for (uint64_t end = clock_ns() / 1000 + DRAIN_MS * 1000; line->count > 0;) {
                struct pollfd p = { .fd = line->out_fd, .events = POLLOUT };
                uint64_t now = clock_ns() / 1000;

                flush(line);
                if (line->count == 0 || now >= end || poll(&p, 1, (int)((end - now) / 1000) + 1) <= 0)
                        break;
        }
        if (line->flagged_fd >= 0)
                (void)io_set_nonblock(line->flagged_fd, 0);
        loop_source_free(line->in_source);
        loop_source_free(line->out_source);
        loop_source_free(line->timer);
        safe_close(line->owned_in_fd);
        safe_close(line->owned_out_fd);
        free(line);
}
