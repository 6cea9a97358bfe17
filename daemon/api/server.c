// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * server: connections: accepted here and handed to libsoup, counted, and closed when they are too many, too slow or idle
 *
 * libsoup has few limits of its own (a request's head may have 64 KiB), so this file keeps a list: who it is, whom it waits for, and since when. A
 * sweep every 5 s closes what has been silent for too long: before or within its request, or while it is to take the answer. When there
 * are too many connections the one that has waited for longest with its request makes room; one user gets no more than a share.
 *
 * A connection serves one request: libsoup 3.2 never closes one that its client leaves between two, and connecting to a unix socket is cheap.
 */
#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/api/internal.h"

#define CONNECTIONS_MAX 1800u
#define USER_MAX        1500u          /* of one user's, other than root */
#define SLOW_NS         20000000000ull /* for all of a request to come, or any of an answer to be taken */
#define UPLOAD_LEAST    (64u << 10)    /* bytes of an upload that have to come in that time: 3 KiB a second */
#define SWEEP_US        5000000
#define CLOCK_JUMP_S    60
#define CLOCK_DOUBT_NS  (86400ull * 1000000000u)
#define EXPIRE_SWEEPS   720u /* an hour */
#define ACCEPTS_AT_ONCE 64
#define GROUPS_MAX      256
#define DRAIN_MAX                                                                                                      \
        (16u << 20) /* bytes of a body that is too large and read all the same, so that the client sees the answer */

static void on_connection_gone(gpointer opaque, GObject *was);

static void connection_unlink(struct api *api, struct api_connection *c) {
        struct api_connection **at = &api->connections;

        while (*at && *at != c)
                at = &(*at)->next;
        if (*at) {
                *at = c->next;
                api->n_connections--;
                if (api->accept)
                        loop_source_set_events(api->accept, EPOLLIN);
        }
        g_object_unref(c->address);
        free(c);
}

/* libsoup holds the stream as long as the connection lives. */
struct gone {
        struct api *api;
        struct api_connection *connection;
};

static void on_connection_gone(gpointer opaque, GObject *was) {
        struct gone *gone = opaque;

        api_stream_connection_gone(gone->api, gone->connection);
        connection_unlink(gone->api, gone->connection);
        free(gone);
}

void connection_close(struct api_connection *c) {
        g_socket_shutdown(g_socket_connection_get_socket(c->stream), TRUE, TRUE, NULL);
}

struct api_connection *connection_of(struct api *api, SoupServerMessage *message) {
        const GSocketAddress *address = soup_server_message_get_remote_address(message);

        for (struct api_connection *c = api->connections; c && address; c = c->next)
                if (c->address == address)
                        return c;
        return NULL;
}

static void phase_set(struct api_connection *c, enum api_phase phase) {
        c->phase = phase;
        c->since = clock_ns();
}

void connection_waits(struct api *api, SoupServerMessage *message, bool for_us) {
        struct api_connection *c = connection_of(api, message);

        if (!c)
                return;
        phase_set(c, for_us ? API_WORKING : API_READING);
        c->counted = 0;
}

void connection_answers(struct api *api, SoupServerMessage *message) {
        struct api_connection *c = connection_of(api, message);

        if (c)
                phase_set(c, API_WRITING);
}

/* libsoup does not look at a connection while a request is being worked on. Once it tries to answer it learns that nobody is there. */
static void give_up_if_gone(struct api *api, struct api_connection *c) {
        /* Over the network a client that has closed is seen to have ended its half, and one that goes on with the other half is none of HTTP's. */
        struct pollfd fd = { .fd = g_socket_get_fd(g_socket_connection_get_socket(c->stream)),
                             .events = c->network ? POLLRDHUP : 0 };

        if (poll(&fd, 1, 0) <= 0 || !(fd.revents & (POLLHUP | POLLERR | POLLRDHUP)))
                return;
        for (struct api_request *q = api->waiting; q; q = q->next) {
                if (!q->paused || q->gone || connection_of(api, q->message) != c)
                        continue;
                q->paused = false;
                soup_server_message_unpause(q->message);
                return;
        }
}

/* What is kept for a time only. */
static void expire(struct api *api) {
        _cleanup_error_ struct error e = ERROR_INIT;

        idempotency_expire(api);
        if (store_op_expire(api->o.store, &e) < 0 || store_audit_expire(api->o.store, &e) < 0)
                log_warning("cannot forget old operations and audit entries: %s", e.message ?: "");
}

/* A clock that is set forward makes all look old that is kept for a time only, so that it is kept until somebody has had time to see that. */
static void watch_clock(struct api *api) {
        int64_t offset = clock_offset_s(), jump = offset - api->clock_offset_s;

        if (jump > -CLOCK_JUMP_S && jump < CLOCK_JUMP_S)
                return;
        api->clock_offset_s = offset;
        if (jump > 0)
                api->clock_doubted_ns = clock_ns();
        machines_event(api->o.machines, "clock-jumped", NULL, NULL, NULL, "the host's clock was set %s by %lld s%s",
                       jump > 0 ? "forward" : "back", (long long)(jump > 0 ? jump : -jump),
                       jump > 0 ? ": for a day, nothing is forgotten for its age" : "");
}

static bool clock_is_doubted(const struct api *api) {
        return api->clock_doubted_ns != 0 && clock_ns() - api->clock_doubted_ns < CLOCK_DOUBT_NS;
}

static void on_sweep(void *opaque) {
        struct api *api = opaque;
        uint64_t now = clock_ns();

        for (struct api_connection *c = api->connections, *next; c; c = next) {
                next = c->next;
                if (c->lasting)
                        continue;
                if (c->phase == API_WORKING)
                        give_up_if_gone(api, c);
                else if (now - c->since > SLOW_NS)
                        connection_close(c);
        }
        watch_clock(api);
        network_sweep(api);
        if (++api->sweeps % EXPIRE_SWEEPS == 0 && !clock_is_doubted(api))
                expire(api);
        loop_source_set_events(api->accept, EPOLLIN);
        loop_timer_set(api->sweep, SWEEP_US);
}

/* Close the connection that waits for a request for longest; @uid NULL: anybody's. */
static bool close_idle(struct api *api, const uid_t *uid) {
        struct api_connection *oldest = NULL;

        for (struct api_connection *c = api->connections; c; c = c->next)
                if (c->phase == API_FRESH && !c->lasting && (!uid || (!c->network && c->uid == *uid)) &&
                    (!oldest || c->since < oldest->since))
                        oldest = c;
        if (!oldest || oldest->since == UINT64_MAX)
                return false;
        oldest->since = UINT64_MAX; /* not twice */
        connection_close(oldest);
        return true;
}

/* One user cannot take all connections from the others. */
static bool is_over_share(struct api *api, uid_t uid) {
        unsigned int n = 0;

        if (uid == 0)
                return false;
        for (struct api_connection *c = api->connections; c; c = c->next)
                n += !c->network && c->uid == uid && c->since != UINT64_MAX;
        return n >= USER_MAX && !close_idle(api, &uid);
}

static bool in_group(int fd, gid_t group, gid_t primary) {
        gid_t groups[GROUPS_MAX];
        socklen_t n = sizeof(groups);

        if (group == 0)
                return false;
        if (primary == group)
                return true;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0)
                return false;
        for (size_t i = 0; i < n / sizeof(*groups); i++)
                if (groups[i] == group)
                        return true;
        return false;
}

void connection_add(struct api *api, struct api_connection *c, GIOStream *stream) {
        struct gone *gone = calloc(1, sizeof(*gone));
        char name[32];
        GError *error = NULL;

        if (!gone) {
                g_object_unref(stream);
                g_object_unref(c->stream);
                free(c);
                return;
        }
        *gone = (struct gone){ api, c };
        /* libsoup knows a connection by its address only, and clients of a unix socket have none: each gets a name. */
        snprintf(name, sizeof(name), "client-%llu", (unsigned long long)++api->last_connection);
        c->address = g_unix_socket_address_new(name);
        c->since = clock_ns();
        c->next = api->connections;
        api->connections = c;
        api->n_connections++;
        g_object_weak_ref(G_OBJECT(c->stream), on_connection_gone, gone);
        if (!soup_server_accept_iostream(api->server, stream, api->local, c->address, &error)) {
                log_warning("cannot serve a connection: %s", error->message);
                g_error_free(error);
        }
        g_object_unref(c->stream); /* the stream's now, and that is the server's */
        g_object_unref(stream);
}

static void take_connection(struct api *api, int fd) {
        struct api_connection *c = calloc(1, sizeof(*c));
        GSocket *socket = g_socket_new_from_fd(fd, NULL);
        struct ucred peer;
        socklen_t n = sizeof(peer);

        if (!c || !socket || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0 || is_over_share(api, peer.uid)) {
                free(c);
                if (socket)
                        g_object_unref(socket);
                else
                        close(fd);
                return;
        }
        *c = (struct api_connection){ .stream = g_socket_connection_factory_create_connection(socket),
                                      .uid = peer.uid,
                                      .in_group = in_group(fd, (gid_t)api->o.config->group, peer.gid) };
        g_object_unref(socket);
        connection_add(api, c, g_object_ref(G_IO_STREAM(c->stream)));
}

static void on_accept(void *opaque, int listen_fd, uint32_t events) {
        struct api *api = opaque;

        for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
                int fd = -1;

                if (api->n_connections >= CONNECTIONS_MAX)
                        close_idle(api, NULL);
                if (api->n_connections < CONNECTIONS_MAX + ACCEPTS_AT_ONCE) {
                        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                        if (fd < 0 && errno == EAGAIN)
                                return;
                }
                if (fd < 0) { /* who comes now waits in the kernel's queue, until one goes or the next sweep */
                        close_idle(api, NULL);
                        loop_source_set_events(api->accept, 0);
                        return;
                }
                take_connection(api, fd);
        }
}

/* ---- one message's life --------------------------------------------------------------------------------------------- */

static void refuse_large(SoupServerMessage *message) {
        SoupMessageBody *body = soup_server_message_get_request_body(message);

        soup_message_body_truncate(body);
        soup_message_body_set_accumulate(body, FALSE);
        request_refuse(message, SOUP_STATUS_REQUEST_ENTITY_TOO_LARGE, "body-too-large", "send less",
                       "a body has at most 1 MiB");
}

/* What is too large is refused before it is kept. libsoup answers only when all has come: more than a little is not waited for. */
static void on_headers(SoupServerMessage *message, gpointer opaque) {
        struct api *api = opaque;
        SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);
        struct api_connection *c = connection_of(api, message);

        soup_message_body_truncate(soup_server_message_get_response_body(message)); /* libsoup has understood it */
        /* libsoup would cut the answer into parts, as many as are asked for. */
        soup_message_headers_remove(headers, "Range");
        if (c)
                phase_set(c, API_READING);
        if (request_is_upload(message)) {
                soup_message_body_set_accumulate(soup_server_message_get_request_body(message), FALSE);
                request_take(api, message);
                return;
        }
        if (soup_message_headers_get_encoding(headers) != SOUP_ENCODING_CONTENT_LENGTH)
                return;
        if (soup_message_headers_get_content_length(headers) > (goffset)API_BODY_MAX)
                refuse_large(message);
        if (c && soup_message_headers_get_content_length(headers) > (goffset)DRAIN_MAX &&
            !(soup_message_headers_get_expectations(headers) & SOUP_EXPECTATION_CONTINUE))
                connection_close(c);
}

/* An upload may last for as long as it has to, but what comes within SLOW_NS is not next to nothing. */
static void count_upload(struct api_connection *c, size_t n) {
        c->counted += n;
        if (c->counted < UPLOAD_LEAST)
                return;
        c->counted = 0;
        c->since = clock_ns();
}

/* The body is counted while it comes. */
static void on_chunk(SoupServerMessage *message, GBytes *chunk, gpointer opaque) {
        struct api_connection *c = connection_of(opaque, message);
        struct api_request *upload = upload_of(opaque, message);
        gsize n;
        const void *data = g_bytes_get_data(chunk, &n);

        if (upload) {
                if (c) {
                        c->uploads = true;
                        count_upload(c, n);
                }
                upload_chunk(upload, data, n);
                return;
        }
        if (!c)
                return;
        if (c->uploads) { /* it has failed, and libsoup tells why when all has come: at the pace of an upload */
                count_upload(c, n);
                return;
        }
        c->received += n;
        if (c->received > API_BODY_MAX && soup_server_message_get_status(message) == SOUP_STATUS_NONE)
                refuse_large(message);
        if (c->received > DRAIN_MAX)
                connection_close(c); /* it goes on and on */
}

static void on_body(SoupServerMessage *message, gpointer opaque) {
        struct api_connection *c = connection_of(opaque, message);

        if (c) /* what was refused is answered now */
                phase_set(c, soup_server_message_get_status(message) == SOUP_STATUS_NONE ? API_WORKING : API_WRITING);
}

static void on_wrote(SoupServerMessage *message, guint n, gpointer opaque) {
        struct api_connection *c = connection_of(opaque, message);

        if (c && c->since != UINT64_MAX)
                c->since = clock_ns();
}

static void on_finished(SoupServerMessage *message, gpointer opaque) {
        struct api *api = opaque;

        for (struct api_request *q = api->waiting; q; q = q->next) {
                if (q->message != message || q->gone)
                        continue;
                q->gone = true;
                if (q->forget) {
                        q->forget(q);
                        api_answer_error(q, NULL);
                }
                return;
        }
}

static void on_started(SoupServer *server, SoupServerMessage *message, gpointer opaque) {
        struct api_connection *c = connection_of(opaque, message);

        if (c) {
                phase_set(c, API_FRESH);
                c->received = 0;
                c->uploads = false;
        }
        request_refuse(message, SOUP_STATUS_NONE, "http", "send HTTP/1.1; percent-encode what is not a plain character",
                       "this is no HTTP request that can be understood");
        g_signal_connect(message, "got-headers", G_CALLBACK(on_headers), opaque);
        g_signal_connect(message, "got-chunk", G_CALLBACK(on_chunk), opaque);
        g_signal_connect(message, "got-body", G_CALLBACK(on_body), opaque);
        g_signal_connect(message, "wrote-body-data", G_CALLBACK(on_wrote), opaque);
        g_signal_connect(message, "finished", G_CALLBACK(on_finished), opaque);
}

static enum schema_role connection_role(struct api *api, SoupServerMessage *message) {
        struct access a;

        request_peer(api, connection_of(api, message), &a);
        return a.role;
}

static void on_request(SoupServer *server, SoupServerMessage *message, const char *path, GHashTable *query,
                       gpointer opaque) {
        struct api *api = opaque;
        struct api_request *upload = upload_of(api, message);

        if (upload) {
                upload_whole(upload);
                return;
        }
        if (soup_server_message_get_status(message) != SOUP_STATUS_NONE)
                return; /* refused already */
        if (api_stream_wanted(message, path) && connection_role(api, message) > SCHEMA_ROLE_NONE) {
                api_stream_begin(api, message);
                return;
        }
        request_take(api, message);
}

int api_new(const struct api_options *options, struct api **ret_api, struct error *e) {
        _cleanup_(api_freep) struct api *api = calloc(1, sizeof(*api));
        int r;

        if (!api)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot answer requests");
        api->o = *options;
        api->clock_offset_s = clock_offset_s();
        /* An address of the kind that libsoup expects to serve HTTP/1.0 without a Host at. */
        api->local = g_inet_socket_address_new_from_string("127.0.0.1", 0);
        /* Paths are decoded by us, once, after they were taken apart. */
        api->server = soup_server_new("server-header", "lodged/" LODGE_VERSION, "raw-paths", TRUE, NULL);
        soup_server_add_handler(api->server, NULL, on_request, api, NULL);
        g_signal_connect(api->server, "request-started", G_CALLBACK(on_started), api);
        operations_watch(machines_operations(options->machines), api_operation_changed, api);
        r = loop_add_timer(options->loop, on_sweep, api, &api->sweep);
        if (r == 0)
                r = loop_timer_set(api->sweep, SWEEP_US);
        if (r == 0)
                r = loop_add_fd(options->loop, options->config->listen_fd, EPOLLIN, on_accept, api, &api->accept);
        if (r == 0)
                r = network_begin(api, e);
        if (r < 0)
                return error_set(e, r, "api", NULL, "cannot answer requests");
        *ret_api = TAKE_PTR(api);
        return 0;
}

void api_free(struct api *api) {
        if (!api)
                return;
        loop_source_free(TAKE_PTR(api->accept));
        loop_source_free(api->sweep);
        network_end(api);
        if (api->server) {
                soup_server_disconnect(api->server);
                g_object_unref(api->server);
        }
        g_clear_object(&api->local);
        free(api->guesses);
        free(api);
}

bool api_idle(const struct api *api, uint64_t *ret_count) {
        *ret_count = api->last_connection;
        return api->n_connections == 0;
}

void api_ready(struct api *api) {
        api->ready = true;
}
