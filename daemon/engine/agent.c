// SPDX-License-Identifier: GPL-2.0-or-later
/* agent: see agent.h */
#include "daemon/engine/agent.h"

#include <string.h>
#include <sys/random.h>

#include "base/base64.h"
#include "daemon/engine/json-stream.h"

#define AGENT_LINE_MAX    (48u << 20) /* two streams of 16 MiB in base64, and some */
#define AGENT_KNOCK_US    200000
#define AGENT_RETRY_US    2000000 /* while a knock waits to be sent, which is as good as another one */
#define AGENT_POLL_US     10000
#define AGENT_POLL_SLOW   200000
#define AGENT_PATIENCE_US 30000000 /* for an answer */
#define AGENT_SILENCE_US  3000000  /* after which a request that is not answered when all is well has gone well */
#define AGENT_QUEUE_MAX   128
#define AGENT_EXECS_MAX   48 /* qemu-ga takes some more */

enum agent_state { AGENT_SYNCING, AGENT_SETTLING, AGENT_READY, AGENT_ENDED };

struct request {
        struct request *next;
        json_t *command;
        agent_reply_fn fn; /* NULL: forgotten */
        void *opaque;
        bool silent; /* success is not answered */
        bool opens;  /* it makes a handle, which is closed if nobody waits for it any more */
};

/* A command in the guest. */
struct exec {
        struct exec *next;
        struct agent *agent;
        struct loop_source *timer;
        agent_exec_fn fn; /* NULL: forgotten */
        void *opaque;
        json_int_t pid;
        uint64_t poll_us;
};

struct agent {
        struct loop *loop;
        struct json_stream *stream;
        struct loop_source *timer; /* of the knocks, and of the answer to the first request */
        const struct agent_ops *ops;
        void *opaque;
        enum agent_state state;
        json_int_t sync;
        struct request *queue; /* the first one is open if `sent` */
        bool sent;
        int failed; /* sending did: it ends at the loop's next turn, and not inside of somebody's call */
        unsigned int n_queue, n_execs;
        struct exec *execs;
};

static int send_command(struct agent *a, const char *name, json_t *arguments, bool delimit) {
        json_t *command = json_pack("{s:s, s:o*}", "execute", name, "arguments", arguments);
        int r;

        if (!command)
                return -ENOMEM;
        r = json_stream_send(a->stream, command, delimit);
        json_decref(command);
        return r;
}

/* ---- the queue ------------------------------------------------------------------------------------------------------- */

static void end(struct agent *a, int reason);

static void request_free(struct request *q) {
        json_decref(q->command);
        free(q);
}

static struct request *queue_take(struct agent *a) {
        struct request *q = a->queue;

        if (q) {
                a->queue = q->next;
                a->n_queue--;
                a->sent = false;
        }
        return q;
}

static void queue_next(struct agent *a) {
        int r;

        if (a->state != AGENT_READY || a->failed || a->sent || !a->queue)
                return;
        r = json_stream_send(a->stream, a->queue->command, false);
        if (r < 0) {
                a->failed = r;
                loop_timer_set(a->timer, 0);
                return;
        }
        a->sent = true;
        loop_timer_set(a->timer, a->queue->silent ? AGENT_SILENCE_US : AGENT_PATIENCE_US);
}

/* The first request is over; what comes after it is sent before its owner hears of it, who may do anything. */
static void queue_done(struct agent *a, int result, json_t *value, const char *reason) {
        struct request *q = queue_take(a);

        if (!a->failed)
                loop_timer_set(a->timer, UINT64_MAX);
        queue_next(a);
        if (q->fn)
                q->fn(q->opaque, result, value, reason);
        request_free(q);
}

static int queue_add(struct agent *a, const char *name, json_t *arguments, bool silent, agent_reply_fn fn,
                     void *opaque) {
        struct request *q = NULL, **at = &a->queue;
        json_t *command;

        if (!arguments)
                return -EINVAL; /* not UTF-8, or no memory */
        if (a->failed || a->state != AGENT_READY || a->n_queue >= AGENT_QUEUE_MAX) {
                json_decref(arguments);
                return a->failed || a->state == AGENT_ENDED ? -EPIPE : -EBUSY;
        }
        command = json_pack("{s:s, s:o}", "execute", name, "arguments", arguments);
        q = command ? calloc(1, sizeof(*q)) : NULL;
        if (!q) {
                json_decref(command);
                return -ENOMEM;
        }
        *q = (struct request){ .command = command,
                               .fn = fn,
                               .opaque = opaque,
                               .silent = silent,
                               .opens = strcmp(name, "guest-file-open") == 0 };
        while (*at)
                at = &(*at)->next;
        *at = q;
        a->n_queue++;
        queue_next(a);
        return 0;
}

static void exec_free(struct exec *x) {
        struct exec **at = &x->agent->execs;

        while (*at && *at != x)
                at = &(*at)->next;
        if (*at) {
                *at = x->next;
                x->agent->n_execs--;
        }
        agent_forget(x->agent, x);
        loop_source_free(x->timer);
        free(x);
}

static void exec_done(struct exec *x, int result, const struct agent_result *value, const char *reason) {
        agent_exec_fn fn = x->fn;
        void *opaque = x->opaque;

        exec_free(x);
        if (fn)
                fn(opaque, result, value, reason);
}

static void end(struct agent *a, int reason) {
        if (a->state == AGENT_ENDED)
                return;
        a->state = AGENT_ENDED;
        loop_timer_set(a->timer, UINT64_MAX);
        a->sent = false;
        while (a->execs)
                exec_done(a->execs, -EPIPE, NULL, "the guest agent is gone");
        while (a->queue)
                queue_done(a, -EPIPE, NULL, "the guest agent is gone");
        a->ops->on_end(a->opaque, reason);
}

/* ---- its timer ------------------------------------------------------------------------------------------------------- */

static int draw_number(json_int_t *ret_number) {
        uint32_t id;

        if (getrandom(&id, sizeof(id), 0) != sizeof(id))
                return -EIO;
        *ret_number = (json_int_t)(id >> 2);
        return 0;
}

static void on_timer(void *opaque) {
        struct agent *a = opaque;

        if (a->failed && a->state != AGENT_ENDED) {
                end(a, a->failed);
                return;
        }
        switch (a->state) {
        case AGENT_SYNCING:
        case AGENT_SETTLING:
                a->state = AGENT_SYNCING;
                /* Where no agent reads, one waits, not all that there were. Sent or not, the next may get through. */
                if (!json_stream_waiting(a->stream))
                        send_command(a, "guest-sync-delimited", json_pack("{s:I}", "id", a->sync), true);
                loop_timer_set(a->timer, json_stream_waiting(a->stream) ? AGENT_RETRY_US : AGENT_KNOCK_US);
                return;
        case AGENT_READY:
                if (!a->sent)
                        return;
                if (a->queue->silent) {
                        queue_done(a, 0, NULL, NULL);
                        return;
                }
                a->state = AGENT_SYNCING; /* nothing else is sent now */
                if (draw_number(&a->sync) <
                    0) /* one that the guest can't guess, or it could be ready before it has heard */
                        a->failed = -EIO;
                queue_done(a, -EREMOTEIO, NULL, "it does not answer");
                if (a->state == AGENT_SYNCING)
                        loop_timer_set(a->timer, 0);
                return;
        default:
                return;
        }
}

/* ---- commands -------------------------------------------------------------------------------------------------------- */

static void result_clear(struct agent_result *r) {
        free(r->out);
        free(r->err);
}

static int take_output(json_t *value, const char *data_key, const char *truncated_key, char **ret_data, size_t *ret_len,
                       bool *ret_truncated) {
        json_t *data = json_object_get(value, data_key);

        *ret_truncated = json_is_true(json_object_get(value, truncated_key));
        if (!data)
                return 0;
        if (!json_is_string(data))
                return -EPROTO;
        return base64_decode(json_string_value(data), json_string_length(data), (unsigned char **)ret_data, ret_len);
}

/* An integer of the exit-status kind: 0..255, or a signal's number. */
static bool take_status(json_t *value, int *ret_status) {
        json_t *code = json_object_get(value, "exitcode"), *signo = json_object_get(value, "signal");
        json_int_t n;

        if (json_is_integer(signo)) {
                n = json_integer_value(signo);
                *ret_status = (int)(128 + n);
                return n > 0 && n < 128;
        }
        if (!json_is_integer(code))
                return false;
        n = json_integer_value(code);
        *ret_status = (int)n;
        return n >= 0 && n <= 255;
}

static void on_status(void *opaque, int result, json_t *value, const char *reason) {
        __attribute__((cleanup(result_clear))) struct agent_result found = { 0 };
        json_t *exited = json_object_get(value, "exited");
        struct exec *x = opaque;

        if (result < 0) {
                exec_done(x, result, NULL, reason);
                return;
        }
        if (!json_is_boolean(exited)) {
                end(x->agent, -EPROTO);
                return;
        }
        if (json_is_false(exited)) {
                x->poll_us = MIN(x->poll_us + x->poll_us / 2, (uint64_t)AGENT_POLL_SLOW);
                loop_timer_set(x->timer, x->poll_us);
                return;
        }
        if (!take_status(value, &found.status) ||
            take_output(value, "out-data", "out-truncated", &found.out, &found.out_len, &found.out_truncated) < 0 ||
            take_output(value, "err-data", "err-truncated", &found.err, &found.err_len, &found.err_truncated) < 0) {
                end(x->agent, -EPROTO);
                return;
        }
        exec_done(x, 0, &found, NULL);
}

static void on_poll(void *opaque) {
        struct exec *x = opaque;

        if (agent_call(x->agent, "guest-exec-status", json_pack("{s:I}", "pid", x->pid), on_status, x) < 0)
                loop_timer_set(x->timer, AGENT_POLL_SLOW); /* it is being found again, or has much to do */
}

static void on_started(void *opaque, int result, json_t *value, const char *reason) {
        json_t *pid = json_object_get(value, "pid");
        struct exec *x = opaque;

        if (result < 0)
                exec_done(x, result, NULL, reason);
        else if (!json_is_integer(pid))
                end(x->agent, -EPROTO);
        else {
                x->pid = json_integer_value(pid);
                loop_timer_set(x->timer, AGENT_POLL_US);
        }
}

int agent_exec(struct agent *a, const char *command, agent_exec_fn fn, void *opaque) {
        struct exec *x = a->n_execs < AGENT_EXECS_MAX ? calloc(1, sizeof(*x)) : NULL;
        int r;

        if (!x)
                return a->n_execs < AGENT_EXECS_MAX ? -ENOMEM : -EBUSY;
        *x = (struct exec){ .next = a->execs, .agent = a, .fn = fn, .opaque = opaque, .poll_us = AGENT_POLL_US };
        a->execs = x;
        a->n_execs++;
        r = loop_add_timer(a->loop, on_poll, x, &x->timer);
        if (r == 0)
                r = agent_call(
                        a, "guest-exec",
                        json_pack("{s:s, s:[s,s], s:b}", "path", "/bin/sh", "arg", "-c", command, "capture-output", 1),
                        on_started, x);
        if (r < 0)
                exec_free(x);
        return r;
}

int agent_call(struct agent *a, const char *command, json_t *arguments, agent_reply_fn fn, void *opaque) {
        return queue_add(a, command, arguments, false, fn, opaque);
}

/* A handle that nobody waits for any more; a guest has only so many. */
static void on_orphan(void *opaque, int result, json_t *value, const char *reason) {
        if (result == 0 && json_is_integer(value))
                agent_call(opaque, "guest-file-close", json_pack("{s:I}", "handle", json_integer_value(value)), NULL,
                           NULL);
}

void agent_forget(struct agent *a, const void *opaque) {
        for (struct request *q = a->queue; q; q = q->next)
                if (q->opaque == opaque) {
                        q->fn = q->opens ? on_orphan : NULL;
                        q->opaque = a;
                }
        for (struct exec *x = a->execs; x; x = x->next)
                if (x->opaque == opaque)
                        x->fn = NULL;
}

static void on_shutdown(void *opaque, int result, json_t *value, const char *reason) {
        struct agent *a = opaque;

        if (result == -EREMOTEIO)
                a->ops->on_refused(a->opaque);
}

int agent_shutdown(struct agent *a) {
        return queue_add(a, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"), true, on_shutdown, a);
}

/* ---- the stream ------------------------------------------------------------------------------------------------------ */

static void on_object(void *opaque, json_t *object) {
        struct agent *a = opaque;
        json_t *value = json_object_get(object, "return"), *error = json_object_get(object, "error");
        const char *text = json_string_value(json_object_get(error, "desc"));

        switch (a->state) {
        case AGENT_SYNCING:
                if (!json_is_integer(value) || json_integer_value(value) != a->sync)
                        return; /* an answer to somebody else */
                a->state = AGENT_SETTLING;
                loop_timer_set(a->timer, AGENT_PATIENCE_US);
                if (send_command(a, "guest-sync", json_pack("{s:I}", "id", ++a->sync), false) < 0)
                        end(a, -EPROTO);
                return;
        case AGENT_SETTLING:
                if (!json_is_integer(value) || json_integer_value(value) != a->sync)
                        return; /* echoes of further knocks */
                a->state = AGENT_READY;
                loop_timer_set(a->timer, UINT64_MAX);
                queue_next(a);
                a->ops->on_ready(a->opaque);
                return;
        case AGENT_READY:
                if (!a->sent) /* nobody asked */
                        return;
                if (error)
                        queue_done(a, -EREMOTEIO, NULL, text ?: "no reason given");
                else if (value)
                        queue_done(a, 0, value, NULL);
                else
                        end(a, -EPROTO);
                return;
        default:
                return;
        }
}

static void on_end(void *opaque, int reason) {
        end(opaque, reason);
}

int agent_new(struct loop *loop, int fd, const struct agent_ops *ops, void *opaque, struct agent **ret_agent) {
        static const struct json_stream_ops stream_ops = { .on_object = on_object, .on_end = on_end };
        _cleanup_(agent_freep) struct agent *a = calloc(1, sizeof(*a));
        int r;

        if (!a)
                return -ENOMEM;
        a->loop = loop;
        a->ops = ops;
        a->opaque = opaque;
        r = draw_number(&a->sync);
        if (r < 0)
                return r;
        r = json_stream_new(loop, fd, AGENT_LINE_MAX, &stream_ops, a, &a->stream);
        if (r < 0)
                return r;
        r = loop_add_timer(loop, on_timer, a, &a->timer);
        if (r < 0)
                return r;
        r = loop_timer_set(a->timer, 0);
        if (r < 0)
                return r;
        *ret_agent = TAKE_PTR(a);
        return 0;
}

void agent_free(struct agent *a) {
        struct request *q;

        if (!a)
                return;
        while (a->execs)
                exec_free(a->execs);
        while ((q = queue_take(a)))
                request_free(q);
        loop_source_free(a->timer);
        json_stream_free(a->stream);
        free(a);
}
