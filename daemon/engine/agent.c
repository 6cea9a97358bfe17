// SPDX-License-Identifier: GPL-2.0-or-later
/* agent: see agent.h */
#include "daemon/engine/agent.h"

#include <string.h>
#include <sys/random.h>

#include "daemon/engine/json-stream.h"

#define AGENT_LINE_MAX  (48u << 20) /* two streams of 16 MiB in base64, and some */
#define AGENT_KNOCK_US  200000
#define AGENT_POLL_US   10000
#define AGENT_POLL_SLOW 200000

enum agent_state { AGENT_SYNCING, AGENT_SETTLING, AGENT_READY, AGENT_STARTING, AGENT_RUNNING, AGENT_ENDED };

struct agent {
        struct json_stream *stream;
        struct loop_source *timer;
        const struct agent_ops *ops;
        void *opaque;
        enum agent_state state;
        bool asked; /* a guest-exec-status is open */
        bool shutdown_asked;
        json_int_t sync, pid;
        uint64_t poll_us;
};

static void end(struct agent *a, int reason) {
        if (a->state == AGENT_ENDED)
                return;
        a->state = AGENT_ENDED;
        loop_timer_set(a->timer, UINT64_MAX);
        a->ops->on_end(a->opaque, reason);
}

static int ask(struct agent *a, const char *name, json_t *arguments, bool delimit) {
        json_t *command = json_pack("{s:s, s:o*}", "execute", name, "arguments", arguments);
        int r;

        if (!command)
                return -ENOMEM;
        r = json_stream_send(a->stream, command, delimit);
        json_decref(command);
        return r;
}

static void on_timer(void *opaque) {
        struct agent *a = opaque;

        switch (a->state) {
        case AGENT_SYNCING:
                /* Full or not: the next knock may get through. */
                ask(a, "guest-sync-delimited", json_pack("{s:I}", "id", a->sync), true);
                loop_timer_set(a->timer, AGENT_KNOCK_US);
                return;
        case AGENT_RUNNING:
                if (!a->asked && ask(a, "guest-exec-status", json_pack("{s:I}", "pid", a->pid), false) == 0)
                        a->asked = true;
                a->poll_us = MIN(a->poll_us + a->poll_us / 2, (uint64_t)AGENT_POLL_SLOW);
                loop_timer_set(a->timer, a->poll_us);
                return;
        default:
                return;
        }
}

static void exec_failed(struct agent *a, json_t *why) {
        const char *text = json_string_value(json_object_get(why, "desc"));

        a->state = AGENT_READY;
        loop_timer_set(a->timer, UINT64_MAX);
        a->ops->on_exec(a->opaque, -EREMOTEIO, NULL, text ?: "no reason given");
}

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
        return agent_decode_base64(json_string_value(data), json_string_length(data), ret_data, ret_len);
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

static void on_status(struct agent *a, json_t *value) {
        __attribute__((cleanup(result_clear))) struct agent_result result = { 0 };
        json_t *exited = json_object_get(value, "exited");

        a->asked = false;
        if (!json_is_boolean(exited)) {
                end(a, -EPROTO);
                return;
        }
        if (json_is_false(exited))
                return;
        if (!take_status(value, &result.status) ||
            take_output(value, "out-data", "out-truncated", &result.out, &result.out_len, &result.out_truncated) < 0 ||
            take_output(value, "err-data", "err-truncated", &result.err, &result.err_len, &result.err_truncated) < 0) {
                end(a, -EPROTO);
                return;
        }
        a->state = AGENT_READY;
        loop_timer_set(a->timer, UINT64_MAX);
        a->ops->on_exec(a->opaque, 0, &result, NULL);
}

static void on_object(void *opaque, json_t *object) {
        struct agent *a = opaque;
        json_t *value = json_object_get(object, "return"), *error = json_object_get(object, "error");
        json_t *pid;

        switch (a->state) {
        case AGENT_SYNCING:
                if (!json_is_integer(value) || json_integer_value(value) != a->sync)
                        return; /* an answer to somebody else */
                a->state = AGENT_SETTLING;
                loop_timer_set(a->timer, UINT64_MAX);
                if (ask(a, "guest-sync", json_pack("{s:I}", "id", ++a->sync), false) < 0)
                        end(a, -EPROTO);
                return;
        case AGENT_SETTLING:
                if (!json_is_integer(value) || json_integer_value(value) != a->sync)
                        return; /* echoes of further knocks */
                a->state = AGENT_READY;
                a->ops->on_ready(a->opaque);
                return;
        case AGENT_STARTING:
                pid = json_object_get(value, "pid");
                if (!json_is_integer(pid)) {
                        exec_failed(a, error);
                        return;
                }
                a->pid = json_integer_value(pid);
                a->state = AGENT_RUNNING;
                a->asked = false;
                a->poll_us = AGENT_POLL_US;
                loop_timer_set(a->timer, AGENT_POLL_US);
                return;
        case AGENT_RUNNING:
                if (error)
                        exec_failed(a, error);
                else if (json_is_object(value))
                        on_status(a, value);
                return;
        case AGENT_READY:
                if (error && a->shutdown_asked) {
                        a->shutdown_asked = false;
                        a->ops->on_refused(a->opaque);
                }
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
        uint32_t id;
        int r;

        if (!a)
                return -ENOMEM;
        a->ops = ops;
        a->opaque = opaque;
        if (getrandom(&id, sizeof(id), 0) != sizeof(id))
                return -EIO;
        a->sync = (json_int_t)(id >> 2);
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
        if (!a)
                return;
        loop_source_free(a->timer);
        json_stream_free(a->stream);
        free(a);
}

int agent_exec(struct agent *a, const char *command) {
        json_t *arguments;
        int r;

        if (a->state != AGENT_READY)
                return a->state == AGENT_ENDED ? -EPIPE : -EBUSY;
        arguments = json_pack("{s:s, s:[s,s], s:b}", "path", "/bin/sh", "arg", "-c", command, "capture-output", 1);
        if (!arguments)
                return -EINVAL; /* not UTF-8 */
        r = ask(a, "guest-exec", arguments, false);
        if (r == 0)
                a->state = AGENT_STARTING;
        return r;
}

int agent_shutdown(struct agent *a) {
        if (a->state != AGENT_READY)
                return a->state == AGENT_ENDED ? -EPIPE : -EBUSY;
        a->shutdown_asked = true;
        return ask(a, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"), false);
}

static int base64_value(char c) {
        if (c >= 'A' && c <= 'Z')
                return c - 'A';
        if (c >= 'a' && c <= 'z')
                return c - 'a' + 26;
        if (c >= '0' && c <= '9')
                return c - '0' + 52;
        return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int agent_decode_base64(const char *text, size_t n, char **ret_data, size_t *ret_len) {
        _cleanup_free_ char *data = NULL;
        uint32_t bits = 0;
        unsigned int pad = 0;
        size_t len = 0;

        if (n % 4 != 0)
                return -EINVAL;
        while (pad < 2 && n > pad && text[n - 1 - pad] == '=')
                pad++;
        data = malloc(n / 4 * 3 + 1);
        if (!data)
                return -ENOMEM;
        for (size_t i = 0; i < n - pad; i++) {
                int v = base64_value(text[i]);

                if (v < 0)
                        return -EINVAL;
                bits = bits << 6 | (uint32_t)v;
                /* Of each group of four characters, the 2nd, 3rd and 4th complete a byte. */
                if (i % 4 > 0)
                        data[len++] = (char)(bits >> (6 - 2 * (i % 4)));
        }
        data[len] = '\0';
        *ret_data = TAKE_PTR(data);
        *ret_len = len;
        return 0;
}
