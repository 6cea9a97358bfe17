// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * event: lodge event list: what happened, and with --follow what happens
 *
 * Following. Events have numbers, and what comes later has a larger one; the largest that was printed is all that is remembered. What is there already is listed, page after page; then
 * a WebSocket begins behind that number, and brings each event when it happens. When it ends, because the daemon was started again, the network failed, or what reads our output
 * is too slow for the daemon to wait, the same is done once more: nothing is lost, nothing comes twice, and a line on stderr says so. Only who is let in no longer is not to come back.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/ask.h"
#include "cli/websocket.h"

#define EVENT_COLUMNS "seq,time,kind,target,message"
#define OPEN_MS       60000
#define SILENCE_MS    100000 /* the daemon pings every half minute */
#define AGAIN_MS      500
#define CLOSE_REVOKED 4001
#define CLOSE_SLOW    4008

struct following {
        struct ask *a;
        uint64_t after; /* the number of the last event that was printed, or that can't concern us */
        bool opened;    /* the stream was there, since it was last said that it is not */
        bool printed;   /* the head of a table is there */
        bool mute;      /* the stream ended without a reason */
        char *project;  /* of the stream */
        char *started;  /* when the daemon was */
        const char *scope;
};

/* What programs get is a page each time, so that they all look the same. */
static int print_page(struct following *f, json_t *page, struct error *e) {
        struct ask *a = f->a;
        struct view_options view = *a->view, *old = a->view;
        int r;

        view.no_header |= f->printed;
        a->view = &view;
        r = ask_print_list(a, page, f->printed ? NULL : "events", &event_view_schema, EVENT_COLUMNS, e);
        a->view = old;
        f->printed = true;
        fflush(stdout);
        return r;
}

static uint64_t number(const json_t *object, const char *key) {
        return (uint64_t)json_integer_value(json_object_get(object, key));
}

/* One page. Return: 1: it was full, and there may be more; 0; -errno. */
static int list_page(struct following *f, struct error *e) {
        const struct event_query *how = ask_object(f->a, &event_query_schema);
        const struct event_query next = { .after = f->after, .limit = how->limit };
        _cleanup_free_ char *query = NULL;
        json_auto_t *page = NULL;
        json_t *items;
        size_t n;
        int r = client_query_object(&query, &event_query_schema, &next);

        if (r == 0)
                r = client_call(f->a->client, &(const struct client_call){ .route = ROUTE_EVENT_LIST, .query = query },
                                &page, e);
        if (r < 0)
                return r;
        items = json_object_get(page, "items");
        n = json_array_size(items);
        f->scope = streq(json_string_value(json_object_get(page, "scope")) ?: "", "system") ? "system" : "session";
        if (n == how->limit)
                f->after = number(json_array_get(items, n - 1), "seq");
        else if (number(page, "last") > f->after)
                f->after = number(page, "last");
        if (n > 0 || !f->a->request->follow)
                r = print_page(f, page, e);
        return r < 0 ? r : n == how->limit;
}

/* ---- following ----------------------------------------------------------------------------------------------------------- */

/*
 * The list is of one project, and a stream of all unless it is named: that of whoever is held to one, else the list's default. And a stream that ended while the daemon went
 * on has been ended by it: to whoever does not read at all it cannot say so.
 */
static int look_at_daemon(struct following *f, struct error *e) {
        json_auto_t *daemon = NULL;
        const char *project = f->a->client->project, *started;
        int r = client_call(f->a->client, &(const struct client_call){ .route = ROUTE_DAEMON_SHOW }, &daemon, e);

        if (r < 0)
                return r;
        started = json_string_value(json_object_get(daemon, "started")) ?: "";
        if (f->mute && f->started && streq(f->started, started))
                fputs("lodge: the daemon has not ended: what reads these events was too slow for it, or the connection "
                      "broke\n",
                      stderr);
        f->mute = false;
        free(f->started);
        f->started = strdup(started);
        free(f->project);
        f->project = strdup(project ?: json_string_value(json_object_get(daemon, "project")) ?: "default");
        return f->project && f->started ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot follow the events");
}

static int stream_open(struct following *f, struct error *e) {
        const struct event_stream_query how = { .after = f->after };
        struct client_call call = { .route = ROUTE_EVENT_STREAM };
        _cleanup_(http_answer_clear) struct http_answer refusal = { 0 };
        _cleanup_free_ char *query = NULL, *target = NULL;
        int r = client_query_object(&query, &event_stream_query_schema, &how);

        if (r == 0 && !f->a->client->project)
                r = client_query_add(&query, "project", f->project);
        call.query = query;
        if (r == 0)
                r = client_target(f->a->client, &call, &target);
        if (r == 0)
                r = client_reconnect(f->a->client, e);
        if (r == 0)
                r = websocket_open(&f->a->client->http, target, OPEN_MS, &refusal);
        if (r == -EPROTO && refusal.status)
                return client_refusal(&refusal, e);
        return r;
}

static int on_event(struct following *f, const struct websocket_message *m, struct error *e) {
        json_auto_t *event = json_loadb(m->data, m->len, 0, NULL), *page = NULL;
        uint64_t seq = number(event, "seq");

        if (seq <= f->after) /* it was in the list, too */
                return 0;
        f->after = seq;
        page = json_pack("{s:s, s:[O], s:I}", "scope", f->scope, "items", event, "last", (json_int_t)seq);
        return page ? print_page(f, page, e) : error_set(e, -ENOMEM, "memory", NULL, "cannot follow the events");
}

/* Why it ended: one that can be taken up again is -EAGAIN. */
static int on_close(const struct websocket_message *m, struct error *e) {
        _cleanup_free_ char *why = strndup(m->data, m->len);

        if (m->code == CLOSE_SLOW)
                return error_set(e, -EAGAIN, "events-slow", NULL,
                                 "what reads these events is too slow, and the daemon ended the stream");
        if (m->code == CLOSE_REVOKED)
                return error_set(e, -EACCES, "events", NULL, "%s",
                                 why && *why ? why : "this client is let in no longer");
        return error_set(e, -EAGAIN, "events", NULL, "the stream of events ended%s%s", why && *why ? ": " : "",
                         why ?: "");
}

/* Until it ends. Return: 0 when nobody reads what we print; -errno. */
static int stream_read(struct following *f, struct error *e) {
        struct http *h = &f->a->client->http;
        struct websocket_message m;

        for (;;) {
                int r = websocket_next(h, &m);
                ssize_t n;

                if (r < 0)
                        return r;
                if (r > 0 && m.kind == WEBSOCKET_CLOSE)
                        return on_close(&m, e);
                if (r > 0) {
                        r = m.kind == WEBSOCKET_TEXT ? on_event(f, &m, e) : 0;
                        if (r < 0 || ferror(stdout))
                                return r;
                        continue;
                }
                n = http_more(h, SILENCE_MS);
                if (n <= 0)
                        return n < 0 ? (int)n : -ECONNRESET;
        }
}

static int follow_once(struct following *f, struct error *e) {
        int r;

        do
                r = list_page(f, e);
        while (r > 0 && !ferror(stdout));
        if (r == 0)
                r = look_at_daemon(f, e);
        if (r == 0)
                r = stream_open(f, e);
        if (r < 0)
                return r;
        f->opened = true;
        return stream_read(f, e);
}

static bool passes_by_itself(int code) {
        static const int codes[] = { -EAGAIN,       -ECONNRESET,  -ECONNREFUSED, -ENOENT,       -EPIPE,   -ETIMEDOUT,
                                     -EHOSTUNREACH, -ENETUNREACH, -EHOSTDOWN,    -ECONNABORTED, -ENETDOWN };

        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (codes[i] == code)
                        return true;
        return false;
}

/* Said once for each time that the stream ends. */
static void say_again(const struct following *f, const struct error *e) {
        fputs("lodge: ", stderr);
        render_text(stderr, e->message ?: "the connection to the daemon ended");
        fprintf(stderr, "; it goes on behind event %llu when the daemon answers\n", (unsigned long long)f->after);
}

static int follow_events(struct following *f, struct error *e) {
        for (;;) {
                _cleanup_error_ struct error own = ERROR_INIT;
                int r = follow_once(f, &own);

                if (r == 0)
                        return 0;
                if (!passes_by_itself(r) || !f->project) { /* the first time it is an error that nobody answers */
                        *e = own;
                        own = ERROR_INIT;
                        return error_set(e, r, "events", "look at the daemon's log", "the stream of events broke");
                }
                if (f->opened) {
                        f->mute = own.code == 0;
                        say_again(f, &own);
                }
                f->opened = false;
                nanosleep(&(struct timespec){ .tv_nsec = AGAIN_MS * 1000000l }, NULL);
        }
}

int ask_event_list(struct ask *a, struct error *e) {
        const struct event_query *how = ask_object(a, &event_query_schema);
        struct following f = { .a = a, .after = how->after, .opened = true, .scope = "session" };
        int r = a->request->follow ? follow_events(&f, e) : list_page(&f, e);

        free(f.project);
        free(f.started);
        return r < 0 ? r : 0;
}
