// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stream: WebSockets: what happens, as it happens, and consoles
 *
 *      GET /v1/events/stream?after=N           events as text frames, from number N on
 *      GET /v1/machines/NAME/console?history=B the serial console, binary frames both ways, after B bytes of what it has shown
 *
 *      GET /v1/machines/NAME/shell?user=U&rows=R&columns=C&terminal=T&command=CMD
 *                                              a terminal in the guest: binary frames both ways; {"rows":R,"columns":C} as text when ours changes;
 *                                              {"status":N} as text at its end
 *
 * A listener that does not read must cost nothing: libsoup keeps what is sent without a bound, so before each frame the socket is asked whether it takes more. What
 * is sent while it does not is counted, and at SLOW_BYTES the listener is told (close code 4008, "too slow: ...") and dropped; it can come back with the last number that it saw. A
 * console is not read further while its viewer does not, and the keeper drops viewers that are behind.
 */
#include <errno.h>
#include <glib-unix.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/api/internal.h"
#include "daemon/api/uri.h"

#define SLOW_BYTES      (1u << 20)
#define CLOSE_SLOW      4008
#define CLOSE_FAILED    4000
#define CLOSE_REVOKED   4001
#define CLOSE_CHANGED   4003
#define CONSOLE_CHUNK   16384
#define CONSOLE_WAIT_US 20000
#define INPUT_MAX       (64u << 10)
#define STREAMS_MAX     512u
#define STREAMS_OF_ONE  128u /* of one client of the network's: others can listen, too */
#define KEEPALIVE_S     30

struct api_stream {
        struct api_stream *next;
        struct api *api;
        struct api_connection *connection;
        SoupWebsocketConnection *socket;
        struct access access;
        bool revoked;
        char *project;     /* of events; NULL: all */
        size_t behind;     /* bytes sent while the socket took none */
        int fd;            /* of a console, or -EBADF */
        GByteArray *early; /* keys that came before the console was there */
        struct loop_source *source, *wait;
        uint64_t call; /* to the broker, for the console's socket */
        struct machine_shell *shell;
        bool console; /* or a shell */
};

static void stream_free(struct api_stream *s) {
        struct api_stream **at = &s->api->streams;

        while (*at && *at != s)
                at = &(*at)->next;
        if (*at) {
                *at = s->next;
                s->api->n_streams--;
        }
        if (s->call)
                broker_forget(s->api->o.broker, s->call);
        if (s->shell)
                machine_shell_close(s->shell);
        loop_source_free(s->source);
        loop_source_free(s->wait);
        safe_close(s->fd);
        if (s->early)
                g_byte_array_unref(s->early);
        g_signal_handlers_disconnect_by_data(s->socket, s);
        g_object_unref(s->socket);
        free(s->project);
        free(s);
}

static void stream_close(struct api_stream *s, unsigned short code, const char *why) {
        if (soup_websocket_connection_get_state(s->socket) == SOUP_WEBSOCKET_STATE_OPEN)
                soup_websocket_connection_close(s->socket, code, why);
}

static void on_closed(SoupWebsocketConnection *socket, gpointer opaque) {
        stream_free(opaque);
}

static bool takes_more(const struct api_stream *s) {
        return s->connection &&
               (g_socket_condition_check(g_socket_connection_get_socket(s->connection->stream), G_IO_OUT) & G_IO_OUT);
}

/* ---- events --------------------------------------------------------------------------------------------------------- */

static void send_event(struct api_stream *s, const struct store_event *event) {
        _cleanup_(event_view_freep) struct event_view *v = NULL;
        _cleanup_free_ char *text = NULL;

        if (soup_websocket_connection_get_state(s->socket) != SOUP_WEBSOCKET_STATE_OPEN || event_view_new(&v) < 0)
                return;
        api_event_fill(v, event);
        text = event_view_format(v);
        if (!text)
                return;
        s->behind = takes_more(s) ? 0 : s->behind + strlen(text);
        if (s->behind > SLOW_BYTES)
                stream_close(s, CLOSE_SLOW, "too slow: come back with after=N, the last number that you saw");
        else
                soup_websocket_connection_send_text(s->socket, text);
}

static bool concerns(const struct api_stream *s, const struct store_event *event) {
        return !s->console && access_sees(&s->access, event->project) &&
               (!s->project || !event->project || streq(s->project, event->project));
}

void api_event(struct api *api, const struct store_event *event) {
        struct api_stream *next;

        for (struct api_stream *s = api->streams; s; s = next) {
                next = s->next;
                if (concerns(s, event))
                        send_event(s, event);
        }
}

static int send_old(void *opaque, const struct store_event *event) {
        struct api_stream *s = opaque;

        if (access_sees(&s->access, event->project))
                send_event(s, event);
        return soup_websocket_connection_get_state(s->socket) == SOUP_WEBSOCKET_STATE_OPEN ? 0 : 1;
}

/* ---- consoles ------------------------------------------------------------------------------------------------------- */

static void on_console(void *opaque, int fd, uint32_t events) {
        struct api_stream *s = opaque;
        char buf[CONSOLE_CHUNK];
        ssize_t n;

        if (!takes_more(s)) { /* the viewer has to read first */
                loop_source_set_events(s->source, 0);
                loop_timer_set(s->wait, CONSOLE_WAIT_US);
                return;
        }
        n = read(fd, buf, sizeof(buf));
        if (n > 0)
                soup_websocket_connection_send_binary(s->socket, buf, (gsize)n);
        else if (n == 0 || errno != EAGAIN) {
                loop_source_free(TAKE_PTR(s->source));
                stream_close(s, SOUP_WEBSOCKET_CLOSE_NORMAL, "the machine has ended");
        }
}

static void on_console_wait(void *opaque) {
        struct api_stream *s = opaque;

        if (s->source)
                loop_source_set_events(s->source, EPOLLIN);
}

/* ---- shells ---------------------------------------------------------------------------------------------------------- */

static void on_shell_output(void *opaque, const void *data, size_t n) {
        struct api_stream *s = opaque;

        soup_websocket_connection_send_binary(s->socket, data, (gsize)n);
}

static bool shell_takes_more(void *opaque) {
        return takes_more(opaque);
}

static void on_shell_end(void *opaque, int status, const char *why) {
        struct api_stream *s = opaque;
        char text[32];

        s->shell = NULL;
        if (status < 0) {
                stream_close(s, CLOSE_FAILED, why);
                return;
        }
        snprintf(text, sizeof(text), "{\"status\":%d}", status);
        if (soup_websocket_connection_get_state(s->socket) == SOUP_WEBSOCKET_STATE_OPEN)
                soup_websocket_connection_send_text(s->socket, text);
        stream_close(s, SOUP_WEBSOCKET_CLOSE_NORMAL, "the shell has ended");
}

static int shell_begin(struct api_stream *s, const char *name, const void *query, struct error *e) {
        static const struct machine_shell_ops ops = { on_shell_output, shell_takes_more, on_shell_end };
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = store_machine_find(s->api->o.store, s->project, name, &row, e);

        s->console = true;
        return r < 0 ? r : machine_shell_open(s->api->o.machines, row, query, &ops, s, &s->shell, e);
}

/* Keys, or the terminal's new size. */
static void shell_message(struct api_stream *s, gint type, const char *data, gsize n) {
        json_auto_t *size = NULL;

        if (type == SOUP_WEBSOCKET_DATA_BINARY) {
                machine_shell_input(s->shell, data, n);
                return;
        }
        size = json_loadb(data, n, 0, NULL);
        machine_shell_resize(s->shell, (unsigned int)MIN(json_integer_value(json_object_get(size, "rows")), 10000),
                             (unsigned int)MIN(json_integer_value(json_object_get(size, "columns")), 10000));
}

/* Keys. A guest that does not read its console loses them, as on a real line. */
static void on_message(SoupWebsocketConnection *socket, gint type, GBytes *message, gpointer opaque) {
        struct api_stream *s = opaque;
        gsize n;
        const char *data = g_bytes_get_data(message, &n);

        if (s->revoked)
                return;
        if (s->shell)
                shell_message(s, type, data, n);
        else if (s->console && s->fd >= 0)
                (void)!write(s->fd, data, n);
        else if (s->console && n > 0 && (!s->early || s->early->len + n <= INPUT_MAX)) {
                if (!s->early)
                        s->early = g_byte_array_new();
                g_byte_array_append(s->early, (const guint8 *)data, (guint)n);
        }
}

static void on_console_fd(void *opaque, const struct error *e, struct wire_message *reply) {
        struct api_stream *s = opaque;
        int r;

        s->call = 0;
        if (s->revoked)
                return;
        if (e) {
                stream_close(s, CLOSE_FAILED, e->message ?: "there is no console");
                return;
        }
        s->fd = wire_take_fd(reply, 0);
        r = s->fd < 0 ? -EPROTO : io_set_nonblock(s->fd, true);
        if (r == 0)
                r = loop_add_timer(s->api->o.loop, on_console_wait, s, &s->wait);
        if (r == 0)
                r = loop_add_fd(s->api->o.loop, s->fd, EPOLLIN, on_console, s, &s->source);
        if (r < 0)
                stream_close(s, CLOSE_FAILED, "cannot read the console");
        else if (s->early)
                (void)!write(s->fd, s->early->data, s->early->len);
}

/* ---- the way in ------------------------------------------------------------------------------------------------------ */

static int console_begin(struct api_stream *s, const char *name, const void *query, struct error *e) {
        const struct machine_console_query *how = query;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = store_machine_find(s->api->o.store, s->project, name, &row, e);

        if (r < 0)
                return r;
        s->console = true;
        return broker_call(s->api->o.broker, "machine-console",
                           json_pack("{s:s, s:I}", "uuid", row->uuid, "history", (json_int_t)how->history), NULL,
                           on_console_fd, s, &s->call);
}

static int events_begin(struct api_stream *s, const char *name, const void *query, struct error *e) {
        const struct event_stream_query *how = query;

        return how->after ? store_event_each(s->api->o.store, how->after, s->project, 0, send_old, s, e) : 0;
}

/* Which stream a path names, with the machine's name in @ret_name, allocated; NULL: none. */
static const struct stream_kind {
        enum schema_route_id route;
        int (*begin)(struct api_stream *s, const char *name, const void *query, struct error *e);
} * stream_kind_of(const char *path, char **ret_name) {
        static const struct stream_kind kinds[] = {
                { ROUTE_EVENT_STREAM, events_begin },
                { ROUTE_MACHINE_CONSOLE, console_begin },
                { ROUTE_MACHINE_SHELL, shell_begin },
        };

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                char *parameters[URI_PARAMETERS_MAX] = { NULL };

                if (uri_path_match(schema_routes[kinds[i].route].path, path, parameters) <= 0)
                        continue;
                *ret_name = parameters[0];
                return &kinds[i];
        }
        return NULL;
}

bool api_stream_wanted(SoupServerMessage *message, const char *path) {
        SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);
        _cleanup_free_ char *name = NULL;

        return stream_kind_of(path, &name) && soup_message_headers_header_contains(headers, "Upgrade", "websocket");
}

/* Whoever sends a plain request there. */
static int not_a_stream(struct error *e) {
        return error_set(e, -EPROTO, "websocket", "ask with Upgrade: websocket, as RFC 6455 says; or use lodge",
                         "this is a WebSocket, and the request asks for none");
}

int api_event_stream(struct api_request *q, struct error *e) {
        return not_a_stream(e);
}

int api_machine_console(struct api_request *q, struct error *e) {
        return not_a_stream(e);
}

int api_machine_shell(struct api_request *q, struct error *e) {
        return not_a_stream(e);
}

static bool has_too_many(const struct api_stream *s) {
        unsigned int n = 0;

        for (const struct api_stream *o = s->access.network ? s->api->streams : NULL; o; o = o->next)
                n += o->access.network && streq(o->access.who, s->access.who);
        return n > STREAMS_OF_ONE;
}

/* Who had a console or a shell, or wanted one: keys change a guest, as requests do. */
static void stream_audit(struct api_stream *s, const struct schema_route *route, const char *name, int result) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const struct store_audit a = { .principal = s->access.who,
                                       .action = (char *)route->name,
                                       .project = s->project,
                                       .target = (char *)(uintptr_t)name,
                                       .status = result == 0         ? 101
                                                 : result == -EACCES ? 403
                                                                     : 400 };

        if (route->role >= SCHEMA_ROLE_OPERATOR && store_audit_add(s->api->o.store, &a, NULL, &e) < 0)
                log_warning("a stream is not in the audit record: %s", e.message ?: "");
}

static int stream_begin(struct api_stream *s, const char *path, const char *query_string, struct error *e) {
        _cleanup_free_ char *name = NULL;
        const struct stream_kind *kind = stream_kind_of(path, &name);
        const struct schema_route *route = &schema_routes[kind->route];
        const char *project = NULL;
        void *query = NULL;
        int r = uri_query_parse(route->query, query_string, &query, e);

        if (r == 0)
                r = request_project(&s->access, route, query_string, query, &project);
        if (r == 0)
                r = request_allowed(&s->access, route, project, e);
        s->project = text_copy(project);
        if (r == 0 && has_too_many(s))
                r = error_set(e, -EAGAIN, "too-many-streams", "close some of them", "this client has %u streams open",
                              STREAMS_OF_ONE);
        if (r == 0)
                r = kind->begin(s, name, query, e);
        stream_audit(s, route, name, r);
        schema_free(route->query, query);
        return r;
}

static void stream_take(struct api *api, SoupServerMessage *message, SoupWebsocketConnection *socket) {
        GUri *uri = soup_server_message_get_uri(message);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct api_stream *s = calloc(1, sizeof(*s));

        if (!s || api->n_streams >= STREAMS_MAX) {
                free(s);
                soup_websocket_connection_close(socket, CLOSE_FAILED, "too many listen");
                return;
        }
        *s = (struct api_stream){ .next = api->streams,
                                  .api = api,
                                  .connection = connection_of(api, message),
                                  .socket = g_object_ref(socket),
                                  .fd = -EBADF };
        request_peer(api, s->connection, &s->access);
        api->streams = s;
        api->n_streams++;
        if (s->connection)
                s->connection->lasting = s->connection->stream_open = true;
        soup_websocket_connection_set_max_incoming_payload_size(socket, INPUT_MAX);
        soup_websocket_connection_set_keepalive_interval(socket, KEEPALIVE_S);
        g_signal_connect(socket, "closed", G_CALLBACK(on_closed), s);
        g_signal_connect(socket, "message", G_CALLBACK(on_message), s);
        if (stream_begin(s, g_uri_get_path(uri), g_uri_get_query(uri), &e) < 0)
                stream_close(s, CLOSE_FAILED, e.message ?: "it failed");
}

static void on_shaken(SoupServerMessage *message, gpointer opaque) {
        GUri *uri = soup_server_message_get_uri(message);
        GIOStream *stream = soup_server_message_steal_connection(message);
        SoupWebsocketConnection *socket =
                soup_websocket_connection_new(stream, uri, SOUP_WEBSOCKET_CONNECTION_SERVER, NULL, NULL, NULL);

        g_object_unref(stream);
        stream_take(opaque, message, socket);
        g_object_unref(socket);
}

/*
 * By hand, and not by soup_server_add_websocket_handler(): that one takes any request of its path for a handshake whose answer is not there when the
 * handler returns, and ours often come later.
 */
void api_stream_begin(struct api *api, SoupServerMessage *message) {
        if (soup_websocket_server_process_handshake(message, NULL, NULL, NULL, NULL))
                g_signal_connect(message, "wrote-informational", G_CALLBACK(on_shaken), api);
}

/* It is told, and has the sweep's time to hear that; no key and no byte of a console passes from now on. */
void api_stream_revoke(struct api *api, const uint8_t fingerprint[static FINGERPRINT_SIZE], bool known) {
        for (struct api_stream *s = api->streams, *next; s; s = next) {
                next = s->next;
                if (!s->access.network || memcmp(s->access.fingerprint, fingerprint, FINGERPRINT_SIZE) != 0)
                        continue;
                s->revoked = true;
                if (s->shell)
                        machine_shell_close(TAKE_PTR(s->shell));
                loop_source_free(TAKE_PTR(s->source));
                s->fd = safe_close(s->fd);
                if (s->connection) {
                        s->connection->lasting = false;
                        s->connection->phase = API_WRITING;
                        s->connection->since = clock_ns();
                }
                if (known)
                        stream_close(s, CLOSE_CHANGED, "this client may do less than before: come back for the rest");
                else
                        stream_close(s, CLOSE_REVOKED, "this client is let in no longer");
        }
}

/* A connection goes before its WebSocket is told. */
void api_stream_connection_gone(struct api *api, const struct api_connection *c) {
        for (struct api_stream *s = api->streams; s; s = s->next)
                if (s->connection == c)
                        s->connection = NULL;
}
