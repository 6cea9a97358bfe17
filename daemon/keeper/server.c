// SPDX-License-Identifier: GPL-2.0-or-later
/* server: see server.h */
#include "daemon/keeper/server.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/io.h"
#include "daemon/keeper/record.h"

#define RETRY_US 1000000 /* accept() again after it failed for want of something */

struct client {
        struct server *server;
        int fd; /* negative: this place is free */
        struct loop_source *source;
        bool listens; /* to events */
};

struct server {
        struct loop *loop;
        const struct server_ops *ops;
        void *opaque;
        struct loop_source *listener, *retry;
        struct client clients[SERVER_CLIENTS_MAX];
        char packet[SERVER_PACKET_MAX + 1];
};

static void client_drop(struct client *c) {
        loop_source_free(TAKE_PTR(c->source));
        c->fd = safe_close(c->fd);
        c->listens = false;
}

/* Return: 0, or -errno: then the client is dropped. */
static int send_packet(struct client *c, const char *text, int fd) {
        int r = text ? io_send_fds(c->fd, text, strlen(text), &fd, fd >= 0 ? 1 : 0) : -ENOMEM;

        if (r < 0)
                client_drop(c);
        return r;
}

static void answer(struct client *c, const char *packet, size_t n) {
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_(keeper_request_freep) struct keeper_request *request = NULL;
        _cleanup_(keeper_reply_freep) struct keeper_reply *reply = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        struct server *s = c->server;
        int r;

        if (n > SERVER_PACKET_MAX)
                r = error_set(&error, -EMSGSIZE, "keeper-packet", NULL, "the request has more than %u bytes",
                              SERVER_PACKET_MAX);
        else
                r = keeper_request_parse(packet, n, &request, &error);
        if (keeper_reply_new(&reply) < 0) {
                client_drop(c);
                return;
        }
        if (r == 0) {
                reply->id = request->id;
                if (request->op == KEEPER_OP_EVENTS)
                        c->listens = true;
                else
                        r = s->ops->on_request(s->opaque, request, reply, &fd, &error);
        }
        if (r < 0)
                record_error(&reply->error, &error);
        text = keeper_reply_format(reply);
        send_packet(c, text, fd);
}

static void on_client(void *opaque, int fd, uint32_t events) {
        struct client *c = opaque;
        struct server *s = c->server;
        size_t n_fds = 0; /* a client has none to give */
        ssize_t n = io_recv_fds(fd, s->packet, sizeof(s->packet), NULL, &n_fds);

        if (n == -EAGAIN)
                return;
        if (n <= 0)
                client_drop(c);
        else
                answer(c, s->packet, (size_t)n);
}

static bool is_trusted(int fd) {
        struct ucred peer;
        socklen_t n = sizeof(peer);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

static void on_retry(void *opaque) {
        struct server *s = opaque;

        loop_source_set_events(s->listener, EPOLLIN);
}

static void on_listener(void *opaque, int fd, uint32_t events) {
        struct server *s = opaque;
        _cleanup_close_ int client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct client *c = NULL;

        if (client_fd < 0) {
                if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                        return;
                /* The connection stays in the queue, so asking at once would be a busy loop. */
                loop_source_set_events(s->listener, 0);
                loop_timer_set(s->retry, RETRY_US);
                return;
        }
        for (size_t i = 0; i < SERVER_CLIENTS_MAX && !c; i++)
                if (s->clients[i].fd < 0)
                        c = &s->clients[i];
        if (!c || !is_trusted(client_fd))
                return;
        *c = (struct client){ .server = s, .fd = -EBADF };
        if (loop_add_fd(s->loop, client_fd, EPOLLIN, on_client, c, &c->source) == 0)
                c->fd = TAKE_FD(client_fd);
}

int server_new(struct loop *loop, int listen_fd, const struct server_ops *ops, void *opaque,
               struct server **ret_server) {
        _cleanup_(server_freep) struct server *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        s->loop = loop;
        s->ops = ops;
        s->opaque = opaque;
        for (size_t i = 0; i < SERVER_CLIENTS_MAX; i++)
                s->clients[i] = (struct client){ .server = s, .fd = -EBADF };
        r = io_set_nonblock(listen_fd, true);
        if (r == 0)
                r = loop_add_timer(loop, on_retry, s, &s->retry);
        if (r == 0)
                r = loop_add_fd(loop, listen_fd, EPOLLIN, on_listener, s, &s->listener);
        if (r < 0)
                return r;
        *ret_server = TAKE_PTR(s);
        return 0;
}

void server_tell(struct server *s, const struct keeper_event *event) {
        _cleanup_free_ char *text = keeper_event_format(event);

        for (size_t i = 0; i < SERVER_CLIENTS_MAX; i++)
                if (s->clients[i].fd >= 0 && s->clients[i].listens)
                        send_packet(&s->clients[i], text, -1);
}

void server_free(struct server *s) {
        if (!s)
                return;
        loop_source_free(s->listener);
        loop_source_free(s->retry);
        for (size_t i = 0; i < SERVER_CLIENTS_MAX; i++)
                client_drop(&s->clients[i]);
        free(s);
}
