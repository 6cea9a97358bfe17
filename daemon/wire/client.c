// SPDX-License-Identifier: GPL-2.0-or-later
/* client: see client.h */
#include "daemon/wire/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define OPEN_MAX_CALLS 32u /* on the wire at a time */

struct call {
        struct call *next;
        uint64_t id;
        const char *op;
        json_t *args; /* until it is sent */
        broker_progress_fn progress;
        broker_reply_fn fn; /* NULL: forgotten */
        void *opaque;
        bool sent;
        bool cancelled; /* before it was sent */
};

struct broker_client {
        struct loop *loop;
        int fd;
        const struct broker_client_ops *ops;
        void *opaque;
        struct loop_source *source;
        struct call *calls; /* in order of their ids */
        unsigned int n_sent;
        uint64_t last_id;
        bool ended;
};

static void call_free(struct call *call) {
        json_decref(call->args);
        free(call);
}

static struct call **find(struct broker_client *c, uint64_t id) {
        struct call **at = &c->calls;

        while (*at && (*at)->id != id)
                at = &(*at)->next;
        return at;
}

/* Everything fails: also what its functions ask for now. */
static void end(struct broker_client *c, int reason) {
        _cleanup_error_ struct error e = ERROR_INIT;

        if (c->ended)
                return;
        c->ended = true;
        loop_source_free(TAKE_PTR(c->source));
        c->ops->on_end(c->opaque, reason);
        error_set(&e, -EPIPE, "broker-gone", "try again in a moment", "the daemon's broker is gone");
        while (c->calls) {
                struct call *call = c->calls;

                c->calls = call->next;
                if (call->fn)
                        call->fn(call->opaque, &e, NULL);
                call_free(call);
        }
}

static void send_cancel(struct broker_client *c, uint64_t id) {
        json_t *message = json_pack("{s:I}", "cancel", (json_int_t)id);

        if (message)
                wire_send(c->fd, message, NULL, 0);
        json_decref(message);
}

static int send_call(struct broker_client *c, struct call *call) {
        json_t *message =
                json_pack("{s:I, s:s, s:O*}", "call", (json_int_t)call->id, "op", call->op, "args", call->args);
        int r = message ? wire_send(c->fd, message, NULL, 0) : -ENOMEM;

        json_decref(message);
        if (r < 0)
                return r;
        json_decref(call->args);
        call->args = NULL;
        call->sent = true;
        c->n_sent++;
        if (call->cancelled) /* the broker knows how to end it, and answers */
                send_cancel(c, call->id);
        return 0;
}

static int send_waiting(struct broker_client *c) {
        int r = 0;

        for (struct call *call = c->calls; call && r == 0 && c->n_sent < OPEN_MAX_CALLS; call = call->next)
                if (!call->sent)
                        r = send_call(c, call);
        return r == -EAGAIN ? 0 : r;
}

static void on_answer(struct broker_client *c, struct wire_message *m) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct call **at = find(c, (uint64_t)json_integer_value(json_object_get(m->json, "call"))), *call = *at;
        json_t *error = json_object_get(m->json, "error"), *result;
        const char *progress = json_string_value(json_object_get(m->json, "progress"));

        if (!call || !call->sent)
                return;
        if (progress) {
                if (call->progress)
                        call->progress(call->opaque, progress, m);
                return;
        }
        *at = call->next;
        c->n_sent--;
        if (call->fn && error) {
                wire_load_error(error, &e);
                call->fn(call->opaque, &e, NULL);
        } else if (call->fn) {
                result = json_incref(json_object_get(m->json, "result") ?: m->json);
                json_decref(m->json);
                m->json = result;
                call->fn(call->opaque, NULL, m);
        }
        call_free(call);
}

static void on_wire(void *opaque, int fd, uint32_t events) {
        struct broker_client *c = opaque;
        struct wire_message m = { 0 };
        int r = wire_receive(fd, &m);

        if (r == -EAGAIN)
                return;
        if (r <= 0) {
                end(c, r);
                return;
        }
        on_answer(c, &m);
        wire_message_clear(&m);
        r = c->ended ? 0 : send_waiting(c);
        if (r < 0)
                end(c, r);
}

int broker_client_new(struct loop *loop, int fd, const struct broker_client_ops *ops, void *opaque,
                      struct broker_client **ret_client) {
        struct broker_client *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return -ENOMEM;
        *c = (struct broker_client){ .loop = loop, .fd = fd, .ops = ops, .opaque = opaque };
        r = loop_add_fd(loop, fd, EPOLLIN, on_wire, c, &c->source);
        if (r < 0) {
                free(c);
                return r;
        }
        *ret_client = c;
        return 0;
}

void broker_client_free(struct broker_client *c) {
        if (!c)
                return;
        while (c->calls) {
                struct call *call = c->calls;

                c->calls = call->next;
                call_free(call);
        }
        loop_source_free(c->source);
        free(c);
}

int broker_call(struct broker_client *c, const char *op, json_t *args, broker_progress_fn progress, broker_reply_fn fn,
                void *opaque, uint64_t *ret_id) {
        struct call *call = c->ended ? NULL : calloc(1, sizeof(*call)), **at = &c->calls;
        int r;

        if (!call) {
                json_decref(args);
                return c->ended ? -EPIPE : -ENOMEM;
        }
        *call = (struct call){
                .id = ++c->last_id, .op = op, .args = args, .progress = progress, .fn = fn, .opaque = opaque
        };
        while (*at)
                at = &(*at)->next;
        *at = call;
        r = send_waiting(c);
        if (r < 0) {
                *find(c, call->id) = call->next;
                call_free(call);
                if (r == -EPIPE ||
                    r == -ECONNRESET) /* the loop has not told us yet: whoever asks now must not take it for an answer */
                        end(c, r);
                return r;
        }
        if (ret_id)
                *ret_id = call->id;
        return 0;
}

int broker_gone(struct error *e) {
        return error_set(e, -EAGAIN, "broker-gone", "try again in a moment", "the daemon's broker does not answer");
}

void broker_cancel(struct broker_client *c, uint64_t id) {
        struct call *call = *find(c, id);

        if (call && call->sent)
                send_cancel(c, id);
        else if (call)
                call->cancelled = true;
}

void broker_forget(struct broker_client *c, uint64_t id) {
        struct call *call = *find(c, id);

        if (call) {
                call->fn = NULL;
                call->progress = NULL;
        }
}
