// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * follow: an operation of the daemon's, from its first answer to its end
 *
 * The daemon answers a question about an operation when it changes, or after half a minute. On a terminal its step is a line on stderr that is written again and again;
 * elsewhere nothing is printed. Ctrl-C ends only the waiting: the operation is the daemon's.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/ask.h"

static const char *text_of(const json_t *object, const char *key) {
        return json_string_value(json_object_get(object, key));
}

int ask_interrupt_fd(void) {
        sigset_t set;
        int fd;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return fd < 0 ? -errno : fd;
}

static void clear_line(bool shown) {
        if (shown)
                fputs("\r\033[K", stderr);
}

static void show_step(const json_t *op) {
        const char *step = text_of(op, "step"), *progress = text_of(op, "progress"), *target = text_of(op, "target");
        long long number = json_integer_value(json_object_get(op, "step_number"));
        long long steps = json_integer_value(json_object_get(op, "steps"));

        fputs("\r\033[K", stderr);
        render_text(stderr, target ?: "");
        fprintf(stderr, "  [%lld/%lld] ", number, steps);
        render_text(stderr, step ?: text_of(op, "kind") ?: "");
        if (progress) {
                fputs(": ", stderr);
                render_text(stderr, progress);
        }
        fflush(stderr);
}

bool follow_is_over(const json_t *op) {
        const char *status = text_of(op, "status");

        return !status || streq(status, "done") || streq(status, "failed") || streq(status, "cancelled");
}

static void print_warnings(const json_t *op) {
        json_t *warning;
        size_t i;

        json_array_foreach(json_object_get(op, "warnings"), i, warning) {
                fputs("lodge: ", stderr);
                render_text(stderr, text_of(op, "target") ?: "");
                fputs(": ", stderr);
                render_text(stderr, json_string_value(warning) ?: "");
                fputc('\n', stderr);
        }
}

int follow_end(const json_t *op, struct error *e) {
        const json_t *problem = json_array_get(json_object_get(op, "error"), 0);
        const char *status = text_of(op, "status"), *message = text_of(problem, "message");

        if (status && streq(status, "done"))
                return 0;
        if (status && streq(status, "cancelled") && !message)
                return error_set(e, -EPROTO, "cancelled", NULL, "%s: the operation was cancelled",
                                 text_of(op, "target") ?: "?");
        return error_set_foreign(e, client_code(text_of(problem, "code"), -EIO), text_of(problem, "id"),
                                 text_of(problem, "fix"), message ?: "the operation failed");
}

static int interrupted(const char *id, struct error *e) {
        error_set(e, -EPROTO, "interrupted", NULL, "stopped waiting; the operation goes on");
        error_set_fix(e, "lodge operation wait %s, or lodge operation cancel %s", id, id);
        return -EPROTO;
}

int follow(struct ask *a, const json_t *operation, json_t **ret_end, struct error *e) {
        bool terminal = isatty(STDERR_FILENO) && ask_is_people(a);
        json_auto_t *op = json_deep_copy(operation);
        const char *id = text_of(operation, "id");
        int r = 0;

        if (!id)
                return error_set(e, -EPROTO, "daemon-answer", NULL, "the daemon's answer is no operation");
        if (a->client->stop_fd < 0)
                a->client->stop_fd = ask_interrupt_fd();
        while (r == 0 && !follow_is_over(op)) {
                struct client_call call = { .route = ROUTE_OPERATION_SHOW, .parameter = id, .query = "wait=30" };

                if (terminal)
                        show_step(op);
                json_decref(TAKE_PTR(op));
                r = client_call(a->client, &call, &op, e);
        }
        clear_line(terminal);
        if (r == -ECANCELED)
                return interrupted(id, e);
        if (r < 0)
                return r;
        print_warnings(op);
        r = follow_end(op, e);
        if (r == 0 && ret_end)
                *ret_end = TAKE_PTR(op);
        return r;
}

void follow_say(const json_t *operation) {
        static const struct {
                const char *kind, *text;
        } texts[] = {
                { "machine-launch", "launched" }, { "machine-start", "started" }, { "machine-stop", "stopped" },
                { "machine-delete", "deleted" },  { "machine-clone", "cloned" },  { "machine-reboot", "rebooted" },
                { "image-pull", "pulled" },       { "image-build", "built" },     { "image-import", "imported" },
        };
        const char *kind = text_of(operation, "kind") ?: "", *text = "done";

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (streq(texts[i].kind, kind))
                        text = texts[i].text;
        render_text(stdout, text_of(operation, "target") ?: kind);
        printf(": %s\n", text);
}

int follow_print(struct ask *a, const json_t *operation, json_t **ret_end, struct error *e) {
        int r = 0;

        if (!a->request->detach)
                r = follow(a, operation, ret_end, e);
        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, *ret_end ?: (json_t *)operation, &operation_view_schema, "all", e);
        if (*ret_end) {
                follow_say(*ret_end);
                return 0;
        }
        render_text(stdout, text_of(operation, "target") ?: "?");
        printf(": goes on as operation %s\n", text_of(operation, "id") ?: "?");
        return 0;
}
