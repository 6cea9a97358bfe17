// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp: see qmp.h */
#include "daemon/engine/qmp.h"

#include <string.h>

#include "daemon/engine/json-stream.h"

#define QMP_LINE_MAX (1u << 20)
#define QMP_PENDING  32

struct pending {
        json_int_t id; /* 0: free */
        bool sent;
        json_t *command;
        qmp_client_reply_fn fn;
        void *opaque;
};

struct qmp_client {
        struct json_stream *stream;
        const struct qmp_client_ops *ops;
        void *opaque;
        bool greeted, ready, ended;
        json_int_t last_id;
        struct pending pending[QMP_PENDING];
};

static void pending_finish(struct qmp_client *q, struct pending *p, int result, json_t *value) {
        qmp_client_reply_fn fn = p->fn;
        void *opaque = p->opaque;

        json_decref(p->command);
        *p = (struct pending){ 0 };
        if (fn)
                fn(opaque, result, value);
}

static int submit(struct qmp_client *q, struct pending *p) {
        int r = json_stream_send(q->stream, p->command, false);

        p->sent = true;
        json_decref(TAKE_PTR(p->command));
        return r;
}

static struct pending *find(struct qmp_client *q, json_int_t id) {
        for (size_t i = 0; i < QMP_PENDING; i++)
                if (q->pending[i].id == id)
                        return &q->pending[i];
        return NULL;
}

static int add(struct qmp_client *q, const char *name, json_t *arguments, qmp_client_reply_fn fn, void *opaque,
               struct pending **ret_pending) {
        struct pending *p = find(q, 0);
        json_t *command;

        command =
                p ? json_pack("{s:s, s:I, s:o*}", "execute", name, "id", q->last_id + 1, "arguments", arguments) : NULL;
        if (!command) {
                json_decref(p ? NULL : arguments); /* json_pack() took it */
                return p ? -ENOMEM : -ENOBUFS;
        }
        *p = (struct pending){ .id = ++q->last_id, .command = command, .fn = fn, .opaque = opaque };
        *ret_pending = p;
        return 0;
}

static void on_negotiated(void *opaque, int result, json_t *value) {
        struct qmp_client *q = opaque;

        if (result < 0)
                return; /* nothing will be sent; whoever waits has a deadline */
        q->ready = true;
        for (json_int_t id = 1; id <= q->last_id; id++) {
                struct pending *p = find(q, id);

                if (p && !p->sent)
                        submit(q, p);
        }
}

static void on_object(void *opaque, json_t *object) {
        struct qmp_client *q = opaque;
        json_t *value = json_object_get(object, "event"), *id;
        struct pending *p;

        if (json_is_string(value)) {
                json_t *data = json_object_get(object, "data");

                q->ops->on_event(q->opaque, json_string_value(value), json_is_object(data) ? data : NULL);
                return;
        }
        if (json_object_get(object, "QMP")) {
                if (!q->greeted && add(q, "qmp_capabilities", NULL, on_negotiated, q, &p) == 0) {
                        q->greeted = true;
                        submit(q, p);
                }
                return;
        }
        id = json_object_get(object, "id");
        p = json_is_integer(id) && json_integer_value(id) > 0 ? find(q, json_integer_value(id)) : NULL;
        if (!p || !p->sent)
                return; /* no answer to anything we asked */
        value = json_object_get(object, "return");
        if (value)
                pending_finish(q, p, 0, value);
        else
                pending_finish(q, p, -EREMOTEIO, json_object_get(object, "error"));
}

static void on_end(void *opaque, int reason) {
        struct qmp_client *q = opaque;

        q->ended = true;
        q->ready = false;
        q->ops->on_end(q->opaque, reason);
}

int qmp_client_new(struct loop *loop, int fd, const struct qmp_client_ops *ops, void *opaque,
                   struct qmp_client **ret_client) {
        static const struct json_stream_ops stream_ops = { .on_object = on_object, .on_end = on_end };
        struct qmp_client *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return -ENOMEM;
        q->ops = ops;
        q->opaque = opaque;
        r = json_stream_new(loop, fd, QMP_LINE_MAX, &stream_ops, q, &q->stream);
        if (r < 0) {
                free(q);
                return r;
        }
        *ret_client = q;
        return 0;
}

void qmp_client_free(struct qmp_client *q) {
        if (!q)
                return;
        for (size_t i = 0; i < QMP_PENDING; i++)
                json_decref(q->pending[i].command);
        json_stream_free(q->stream);
        free(q);
}

bool qmp_client_ready(const struct qmp_client *q) {
        return q->ready;
}

int qmp_client_command(struct qmp_client *q, const char *name, json_t *arguments, qmp_client_reply_fn fn,
                       void *opaque) {
        struct pending *p;
        int r;

        if (q->ended) {
                json_decref(arguments);
                return -EPIPE;
        }
        r = add(q, name, arguments, fn, opaque, &p);
        if (r < 0)
                return r;
        return q->ready ? submit(q, p) : 0;
}
