// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp: the sockets of the control protocol; see qmp.h
 *
 * Theory of operation. Each client has a frame (the object that is coming in) and a bounded output buffer. Replies push back: while
 * more than OUT_HIGH bytes wait to go out, nothing more is read from that client and what was read is not executed, so a
 * client that sends and never reads stops itself. Events can't wait for anybody: a client that has let them pile up to OUT_MAX is
 * disconnected. No call here blocks.
 *
 * A client is freed only at the end of the callbacks of its own socket or by qmp_free(); what goes wrong elsewhere (an event that
 * does not fit) marks it dead and hangs up, which wakes the loop.
 */
#include "vmm/control/qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "vmm/control/frame.h"
#include "vmm/control/internal.h"

/* seccomp: main: accept4, recvmsg, sendto, close -- clients */
/* seccomp: main: shutdown (rare) -- a client that lets events pile up */
/* seccomp: main: poll (rare) -- the last events for a client that was slow */

#define CLIENTS_MAX 8
#define CHUNK_SIZE  4096u
#define OUT_HIGH    16384u
#define OUT_MAX     262144u
#define RETRY_US    1000000 /* accept() again after it failed for want of something */
#define DRAIN_MS    200

struct qmp_client {
        struct qmp *qmp;
        int fd;
        struct loop_source *source;
        uint32_t events;
        bool ready; /* capabilities negotiated: commands and events */
        bool dead;
        bool ended;            /* the client sends no more */
        struct qmp_call *call; /* that has no answer yet */
        struct qmp_fds fds;

        char chunk[CHUNK_SIZE]; /* read, not yet executed: [chunk_at, chunk_len) */
        size_t chunk_at, chunk_len;
        struct frame frame;

        char *out; /* [out_at, out_len) of out_room bytes */
        size_t out_at, out_len, out_room;
};

struct qmp {
        struct qmp_context context;
        int listen_fd; /* or -1 */
        struct loop_source *listener, *retry;
        struct qmp_client *clients[CLIENTS_MAX];
        bool listening;
};

static void client_free(struct qmp_client *c) {
        if (!c)
                return;
        for (size_t i = 0; i < CLIENTS_MAX; i++)
                if (c->qmp->clients[i] == c)
                        c->qmp->clients[i] = NULL;
        if (c->call)
                c->call->client = NULL;
        loop_source_free(c->source);
        qmp_fds_clear(&c->fds);
        safe_close(c->fd);
        free(c->out);
        free(c);
}

static void client_flush(struct qmp_client *c) {
        while (!c->dead && c->out_at < c->out_len) {
                ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n >= 0)
                        c->out_at += (size_t)n;
                else if (errno == EAGAIN)
                        return;
                else if (errno != EINTR)
                        c->dead = true;
        }
        c->out_at = c->out_len = 0;
}

static bool make_room(struct qmp_client *c, size_t n) {
        size_t used = c->out_len - c->out_at, room = MAX(c->out_room, (size_t)1024);
        char *bigger;

        if (n > OUT_MAX - used)
                return false;
        if (c->out_at > 0) {
                memmove(c->out, c->out + c->out_at, used);
                c->out_at = 0;
                c->out_len = used;
        }
        if (n <= c->out_room - used)
                return true;
        while (room < used + n)
                room *= 2;
        bigger = realloc(c->out, room);
        if (!bigger)
                return false;
        c->out = bigger;
        c->out_room = room;
        return true;
}

/* Wait for what this client's state allows; make a dead one come up in the loop. */
static void client_update_events(struct qmp_client *c) {
        bool pending = c->out_at < c->out_len;
        uint32_t events = 0;

        if (pending || c->dead)
                events |= EPOLLOUT;
        if (!c->dead && !c->ended && !c->call && c->out_len - c->out_at < OUT_HIGH)
                events |= EPOLLIN;
        if (events != c->events && loop_source_set_events(c->source, events) >= 0)
                c->events = events;
}

/* Takes the reference @json; NULL (no memory) ends the client, which would wait for an answer for ever. */
static void client_send(struct qmp_client *c, json_t *json) {
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
        size_t n = text ? strlen(text) : 0;

        json_decref(json);
        if (c->dead)
                return;
        if (!text || !make_room(c, n + 2)) {
                log_warning("control: a client is disconnected: %s", text ? "it does not read" : "no memory");
                c->dead = true;
                shutdown(c->fd, SHUT_RDWR); /* wakes the loop by a hang-up */
                return;
        }
        memcpy(c->out + c->out_len, text, n);
        memcpy(c->out + c->out_len + n, "\r\n", 2);
        c->out_len += n + 2;
        client_flush(c);
}

static void client_command(struct qmp_client *c) {
        struct qmp_context *context = &c->qmp->context;
        json_t *reply;

        context->fds = &c->fds;
        reply = qmp_execute(context, &c->ready, c->frame.text, c->frame.len);
        c->call = TAKE_PTR(context->later);
        if (c->call)
                c->call->client = c;
        else
                client_send(c, reply);
}

/* Execute what was read, as far as the output, and a command that has no answer yet, allow. */
static void client_execute(struct qmp_client *c) {
        while (!c->dead && !c->call && c->chunk_at < c->chunk_len && c->out_len - c->out_at < OUT_HIGH) {
                switch (frame_feed(&c->frame, c->chunk, c->chunk_len, &c->chunk_at)) {
                case FRAME_MORE:
                        break;
                case FRAME_OBJECT:
                        client_command(c);
                        break;
                case FRAME_BAD:
                        client_send(c, qmp_error_reply("GenericError", "Invalid JSON syntax", NULL));
                        break;
                case FRAME_TOO_BIG:
                        client_send(c, qmp_error_reply("GenericError", "QMP input is too long or too deep", NULL));
                        c->dead = true;
                        break;
                }
        }
}

static void client_read(struct qmp_client *c) {
        size_t n_fds = 1; /* with a message, at most; they end a read */
        int fd;
        ssize_t n = io_recv_fds(c->fd, c->chunk, sizeof(c->chunk), &fd, &n_fds);

        c->chunk_at = 0;
        c->chunk_len = n > 0 ? (size_t)n : 0;
        if (n >= 0 && n_fds > 0)
                qmp_fds_receive(&c->fds, fd);
        if (n == 0)
                c->ended = true;
        else if (n < 0 && n != -EAGAIN)
                c->dead = true;
}

static void on_client(void *opaque, int fd, uint32_t events) {
        struct qmp_client *c = opaque;

        client_flush(c);
        client_execute(c);
        if (!c->dead && !c->ended && c->chunk_at == c->chunk_len && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
                client_read(c);
                client_execute(c);
        }
        if (c->ended && !c->call && c->chunk_at == c->chunk_len && c->out_at == c->out_len)
                c->dead = true;
        if (c->dead || (events & EPOLLERR) || (events & EPOLLHUP && (c->ended || c->call)))
                client_free(c);
        else
                client_update_events(c);
}

void qmp_call_finish(struct qmp_call *call, const struct qmp_failure *f) {
        struct qmp_client *c = call->client;
        json_t *nothing = json_object();

        if (c) {
                c->call = NULL;
                client_send(c, qmp_reply(f ? NULL : nothing, f, call->id));
                on_client(c, c->fd, 0);
        }
        json_decref(nothing);
        json_decref(call->id);
        free(call);
}

static int client_new(struct qmp *qmp, int fd) {
        struct qmp_client *c;
        size_t place;
        int r;

        for (place = 0; place < CLIENTS_MAX && qmp->clients[place]; place++)
                ;
        if (place == CLIENTS_MAX)
                return -ENOSPC;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->qmp = qmp;
        c->events = EPOLLIN;
        qmp_fds_init(&c->fds);
        r = loop_add_fd(qmp->context.machine->loop, fd, c->events, on_client, c, &c->source);
        if (r < 0) {
                free(c);
                return r;
        }
        c->fd = fd;
        qmp->clients[place] = c;
        client_send(c, qmp_greeting());
        client_update_events(c);
        return 0;
}

static void set_listening(struct qmp *qmp, bool on) {
        if (qmp->listening != on && loop_source_set_events(qmp->listener, on ? EPOLLIN : 0) >= 0)
                qmp->listening = on;
}

static void on_retry(void *opaque) {
        set_listening(opaque, true);
}

static void on_listener(void *opaque, int fd, uint32_t events) {
        struct qmp *qmp = opaque;
        int client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (client_fd < 0) {
                if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                        return;
                /* No descriptors or memory: the connection stays in the queue, so asking at once would be a busy loop. */
                set_listening(qmp, false);
                (void)loop_timer_set(qmp->retry, RETRY_US);
                return;
        }
        if (client_new(qmp, client_fd) < 0) {
                log_warning("control: a client is turned away: there are %d", CLIENTS_MAX);
                safe_close(client_fd);
        }
}

static void on_event(void *opaque, enum machine_event event, enum shutdown_reason reason) {
        struct qmp *qmp = opaque;
        json_t *object = qmp_event(&qmp->context, event, reason);

        if (!object)
                return;
        for (size_t i = 0; i < CLIENTS_MAX; i++) {
                struct qmp_client *c = qmp->clients[i];

                if (!c || !c->ready)
                        continue;
                client_send(c, json_incref(object));
                client_update_events(c);
        }
        json_decref(object);
}

static int serve(struct qmp *qmp, int fd) {
        struct loop *loop = qmp->context.machine->loop;
        int accepting = 0, type = 0, r;
        socklen_t len = sizeof(type);

        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
                return -errno;
        if (type != SOCK_STREAM)
                return -EPROTOTYPE;
        len = sizeof(accepting);
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &len) < 0)
                return -errno;
        if (!accepting)
                return client_new(qmp, fd);
        r = io_set_nonblock(fd, 1); /* a client that has gone again must not leave accept() waiting */
        if (r >= 0)
                r = loop_add_timer(loop, on_retry, qmp, &qmp->retry);
        if (r >= 0)
                r = loop_add_fd(loop, fd, EPOLLIN, on_listener, qmp, &qmp->listener);
        if (r < 0)
                return r;
        qmp->listen_fd = fd;
        qmp->listening = true;
        return 0;
}

int qmp_new(struct machine *machine, int fd, struct qmp **ret_qmp, struct error *e) {
        _cleanup_(qmp_freep) struct qmp *qmp = calloc(1, sizeof(*qmp));
        int r;

        if (!qmp)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the control socket");
        qmp->context.machine = machine;
        qmp->listen_fd = -EBADF;
        r = machine_listen(machine, on_event, qmp);
        if (r < 0)
                return error_set(e, r, "control-listen", NULL,
                                 "cannot listen for others who want the machine's events");
        r = fd >= 0 ? serve(qmp, fd) : 0;
        if (r < 0)
                return error_set(e, r, "control-fd", "hand in a listening or connected stream socket",
                                 "cannot use control socket, descriptor %d", fd);
        *ret_qmp = TAKE_PTR(qmp);
        return 0;
}

/* The last events (SHUTDOWN) should arrive: wait a little for each client that has not read. */
static void drain(struct qmp_client *c) {
        for (unsigned int tries = 0; !c->dead && c->out_at < c->out_len && tries < 4; tries++) {
                struct pollfd p = { .fd = c->fd, .events = POLLOUT };

                (void)poll(&p, 1, DRAIN_MS / 4 / CLIENTS_MAX);
                client_flush(c);
        }
}

void qmp_free(struct qmp *qmp) {
        if (!qmp)
                return;
        machine_unlisten(qmp->context.machine, on_event, qmp);
        for (size_t i = 0; i < CLIENTS_MAX; i++) {
                if (!qmp->clients[i])
                        continue;
                drain(qmp->clients[i]);
                client_free(qmp->clients[i]);
        }
        loop_source_free(qmp->retry);
        loop_source_free(qmp->listener);
        safe_close(qmp->listen_fd);
        free(qmp);
}
