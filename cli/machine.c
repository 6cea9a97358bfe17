// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine: the commands on machines that are there
 *
 * A command that takes several machines asks for all of them first and follows the operations then, so that they go on side by side. What fails is told of
 * for each; the exit status is the first failure's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/ask.h"

#define LIST_COLUMNS "name,status,engine,cpus,memory,image,addresses,labels"
#define SHOW_COLUMNS                                                                                                   \
        "name,uuid,project,state.status,state.wanted,state.reason,state.engine,state.engine_reason,state.kvm,"         \
        "config.cpus,config.memory,config.image,config.kernel,config.firmware,config.disk_size,config.disks,"          \
        "config.cdroms,config.nets,config.publish,config.template,"                                                    \
        "state.addresses,config.labels,config.notes,state.since,state.operation,state.pending,created"

/* ---- looking ------------------------------------------------------------------------------------------------------- */

int ask_machine_list(struct ask *a, struct error *e) {
        const struct machine_query *query = ask_object(a, &machine_query_schema);
        _cleanup_free_ char *text = NULL;
        json_auto_t *page = NULL;
        int r = client_query_object(&text, &machine_query_schema, query);

        if (r < 0)
                return r;
        r = ask_list(a, ROUTE_MACHINE_LIST, text, &page, e);
        if (r < 0)
                return r;
        r = ask_print_list(a, page, "machines", &machine_summary_schema,
                           query->all_projects ? "project," LIST_COLUMNS : LIST_COLUMNS, e);
        if (r < 0)
                return r;
        if (ask_is_people(a) && json_array_size(json_object_get(page, "items")) == 0)
                fputs(json_integer_value(json_object_get(page, "total")) > 0
                              ? "none of them is such\n"
                              : "there is none yet: lodge launch tiny NAME\n",
                      stderr);
        return 0;
}

int ask_machine_show(struct ask *a, struct error *e) {
        json_auto_t *machine = NULL;
        int r = ask_send(a, ROUTE_MACHINE_SHOW, a->request->name, NULL, &machine, e);

        return r < 0 ? r : ask_print_object(a, machine, &machine_view_schema, SHOW_COLUMNS, e);
}

/* ---- one action on each ---------------------------------------------------------------------------------------------- */

struct action {
        enum schema_route_id route;
        const struct schema_object *body;
        const char *query;
        const char *said; /* of an action that is done at once */
};

void ask_keep_error(struct error *first, struct error *own) {
        if (first->code == 0) {
                *first = *own;
                *own = ERROR_INIT;
                return;
        }
        error_print(own, "lodge", stderr);
}

static int send_action(struct ask *a, const struct action *action, const char *name, json_t **ret_json,
                       struct error *e) {
        _cleanup_free_ char *body = action->body ? schema_format(action->body, ask_object(a, action->body)) : NULL;
        _cleanup_free_ char *query = action->query ? strdup(action->query) : NULL;
        struct client_call call = { .route = action->route, .parameter = name, .body = body };

        if ((action->body && !body) || (action->query && !query) ||
            (a->request->dry_run && client_query_add(&query, "dry_run", "true") < 0))
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        call.query = query;
        return client_call(a->client, &call, ret_json, e);
}

static void say_plan(const json_t *machine) {
        const json_t *text;
        size_t i;

        puts(": would be done");
        json_array_foreach(json_object_get(json_object_get(machine, "state"), "plan"), i, text) {
                fputs("  ", stdout);
                render_text(stdout, json_string_value(text) ?: "");
                putchar('\n');
        }
}

/* How one of the answers goes on. */
static int finish_action(struct ask *a, const struct action *action, const char *name, json_t *answer, json_t **ret,
                         struct error *e) {
        bool operation = schema_routes[action->route].operation && json_object_get(answer, "steps");
        json_auto_t *end = NULL;
        int r;

        if (!operation || a->request->dry_run || a->request->detach) {
                if (ask_is_people(a)) {
                        render_text(stdout, name);
                        if (a->request->dry_run)
                                say_plan(answer);
                        else if (operation)
                                printf(": goes on as operation %s\n",
                                       json_string_value(json_object_get(answer, "id")) ?: "?");
                        else
                                printf(": %s\n", action->said);
                }
                *ret = json_incref(answer);
                return 0;
        }
        r = follow(a, answer, &end, e);
        if (r < 0)
                return r;
        if (ask_is_people(a))
                follow_say(end);
        *ret = TAKE_PTR(end);
        return 0;
}

int ask_print_results(struct ask *a, json_t *results, const struct schema_object *object, struct error *e) {
        if (ask_is_people(a) || json_array_size(results) == 0)
                return 0;
        if (json_array_size(results) == 1)
                return ask_print_object(a, json_array_get(results, 0), object, "all", e);
        json_auto_t *page = json_pack("{s:O}", "items", results);
        return ask_print_list(a, page, NULL, object, "all", e);
}

static int act(struct ask *a, const struct action *action, struct error *e) {
        size_t n = a->request->n_names;
        json_auto_t *results = json_array();
        _cleanup_free_ json_t **answers = calloc(n + 1, sizeof(*answers));
        int r;

        if (!answers || !results)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        for (size_t i = 0; i < n; i++) {
                _cleanup_error_ struct error own = ERROR_INIT;

                if (send_action(a, action, a->request->names[i], &answers[i], &own) < 0)
                        ask_keep_error(e, &own);
        }
        for (size_t i = 0; i < n; i++) {
                _cleanup_error_ struct error own = ERROR_INIT;
                json_t *result = NULL;

                if (!answers[i])
                        continue;
                r = finish_action(a, action, a->request->names[i], answers[i], &result, &own);
                json_decref(answers[i]);
                if (r < 0)
                        ask_keep_error(e, &own);
                else
                        json_array_append_new(results, result);
        }
        r = ask_print_results(
                a, results,
                a->request->dry_run ? schema_routes[action->route].dry_answer : schema_routes[action->route].answer, e);
        return e->code < 0 ? e->code : r;
}

int ask_machine_start(struct ask *a, struct error *e) {
        return act(a, &(const struct action){ .route = ROUTE_MACHINE_START }, e);
}

int ask_machine_stop(struct ask *a, struct error *e) {
        if (a->request->all)
                return stop_all(a, e);
        if (a->request->n_names == 0)
                return error_set(e, -EINVAL, "argument-missing", "lodge stop NAME, or lodge stop --all",
                                 "which machines?");
        return act(a, &(const struct action){ .route = ROUTE_MACHINE_STOP, .body = &machine_stop_request_schema }, e);
}

int ask_machine_reboot(struct ask *a, struct error *e) {
        return act(a, &(const struct action){ .route = ROUTE_MACHINE_REBOOT, .body = &machine_stop_request_schema }, e);
}

int ask_machine_kill(struct ask *a, struct error *e) {
        struct machine_stop_request *how = ask_object(a, &machine_stop_request_schema);

        how->way = STOP_WAY_FORCE;
        return ask_machine_stop(a, e);
}

int ask_machine_pause(struct ask *a, struct error *e) {
        return act(a, &(const struct action){ .route = ROUTE_MACHINE_PAUSE, .said = "paused" }, e);
}

int ask_machine_resume(struct ask *a, struct error *e) {
        return act(a, &(const struct action){ .route = ROUTE_MACHINE_RESUME, .said = "resumed" }, e);
}

int ask_machine_reset(struct ask *a, struct error *e) {
        return act(a, &(const struct action){ .route = ROUTE_MACHINE_RESET, .said = "reset" }, e);
}

/* A machine's disks are a person's data: whether they go, too, is never guessed. */
static int choose_disks(struct ask *a, bool *ret_disks, struct error *e) {
        const struct request_options *q = a->request;
        char question[160];

        if (q->disks && q->keep_disks)
                return error_set(e, -EINVAL, "option-conflict", NULL, "--disks and --keep-disks contradict each other");
        *ret_disks = q->disks;
        if (q->disks || q->keep_disks)
                return 0;
        if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO) || q->yes)
                return error_set(e, -EINVAL, "disks-undecided", "say --disks to delete them, too, or --keep-disks",
                                 "what becomes of the disks?");
        snprintf(question, sizeof(question), "Delete the disks of %.63s%s, too?", q->names[0],
                 q->n_names > 1 ? " and the others" : "");
        *ret_disks = ask_yes(question);
        return 0;
}

int ask_machine_delete(struct ask *a, struct error *e) {
        const struct request_options *q = a->request;
        _cleanup_free_ char *query = NULL;
        char question[160];
        bool disks = false;
        int r = choose_disks(a, &disks, e);

        if (r < 0)
                return r;
        snprintf(question, sizeof(question), "Delete %.63s%s%s?", q->names[0], q->n_names > 1 ? " and the others" : "",
                 disks ? " with all that is on the disks" : "");
        if (!q->yes && !q->dry_run && isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && !ask_yes(question)) {
                fputs("nothing was deleted\n", stderr);
                return 0;
        }
        if (disks)
                r = client_query_add(&query, "disks", "true");
        if (r == 0 && q->force)
                r = client_query_add(&query, "force", "true");
        return r < 0 ? r : act(a, &(const struct action){ .route = ROUTE_MACHINE_DELETE, .query = query }, e);
}

int ask_machine_rename(struct ask *a, struct error *e) {
        const struct machine_rename_request *how = ask_object(a, &machine_rename_request_schema);
        json_auto_t *machine = NULL;
        int r = ask_send(a, ROUTE_MACHINE_RENAME, a->request->name, &machine_rename_request_schema, &machine, e);

        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, machine, &machine_view_schema, SHOW_COLUMNS, e);
        render_text(stdout, a->request->name);
        printf(a->request->dry_run ? ": could be renamed to %s\n" : ": is %s now\n", how->name);
        return 0;
}

int ask_machine_clone(struct ask *a, struct error *e) {
        json_auto_t *operation = NULL, *end = NULL;
        int r = ask_send(a, ROUTE_MACHINE_CLONE, a->request->name, &machine_rename_request_schema, &operation, e);

        return r < 0 ? r : follow_print(a, operation, &end, e);
}

/* ---- waiting --------------------------------------------------------------------------------------------------------- */

static bool is_there(const json_t *machine, enum wait_condition condition) {
        const json_t *state = json_object_get(machine, "state");
        const char *status = json_string_value(json_object_get(state, "status"));

        switch (condition) {
        case WAIT_CONDITION_RUNNING:
                return status && streq(status, "running");
        case WAIT_CONDITION_STOPPED:
                return status && (streq(status, "stopped") || streq(status, "failed"));
        case WAIT_CONDITION_AGENT:
                return json_is_true(json_object_get(state, "agent"));
        default:
                return true;
        }
}

int ask_machine_wait(struct ask *a, struct error *e) {
        const struct request_options *q = a->request;
        uint64_t end = clock_ns() + q->timeout * 1000000000ull;

        for (unsigned int pause_ms = 50;; pause_ms = MIN(pause_ms * 2, 500u)) {
                json_auto_t *machine = NULL;
                int r = ask_send(a, ROUTE_MACHINE_SHOW, q->name, NULL, &machine, e);

                if (r < 0)
                        return r;
                if (is_there(machine, q->wait_for))
                        return ask_is_people(a) ? 0
                                                : ask_print_object(a, machine, &machine_view_schema, SHOW_COLUMNS, e);
                if (q->timeout > 0 && clock_ns() >= end) {
                        error_set(e, -ETIMEDOUT, "wait-timeout", NULL, "%s: not %s after %u s", q->name,
                                  wait_condition_to_string(q->wait_for), q->timeout);
                        error_set_fix(e, "look at it: lodge info %s", q->name);
                        return -ETIMEDOUT;
                }
                nanosleep(&(struct timespec){ .tv_nsec = pause_ms * 1000000l }, NULL);
        }
}

/* ---- commands in the guest --------------------------------------------------------------------------------------------- */

/* A single word is a line for the shell. Several are a program and its arguments, which must reach it as they are. */
char *ask_command_line(char **words, size_t n) {
        char *text = NULL;
        size_t size;
        FILE *f;

        if (n == 1)
                return strdup(words[0]);
        f = open_memstream(&text, &size);
        for (size_t i = 0; f && i < n; i++) {
                _cleanup_free_ char *word = text_shell_quote(words[i]);

                fprintf(f, "%s%s", i ? " " : "", word ?: "");
        }
        if (!f || fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
}

static void put_bytes(const json_t *object, const char *key, FILE *f) {
        const json_t *text = json_object_get(object, key);

        fwrite(json_string_value(text) ?: "", 1, json_string_length(text), f);
}

int ask_machine_exec(struct ask *a, struct error *e) {
        struct machine_exec_request *how = ask_object(a, &machine_exec_request_schema);
        _cleanup_free_ char *body = NULL;
        json_auto_t *result = NULL;
        struct client_call call = { .route = ROUTE_MACHINE_EXEC,
                                    .parameter = a->request->name,
                                    .timeout_s = (int)how->timeout + 60 };
        int r;

        how->command = ask_command_line(a->request->words, a->request->n_words);
        r = how->command ? machine_exec_request_check(how, e) : -ENOMEM;
        if (r < 0)
                return r;
        body = machine_exec_request_format(how);
        if (!body)
                return -ENOMEM;
        call.body = body;
        r = client_call(a->client, &call, &result, e);
        if (r < 0)
                return r;
        a->status = (int)json_integer_value(json_object_get(result, "status"));
        if (!ask_is_people(a))
                return ask_print_object(a, result, &exec_result_schema, "all", e);
        put_bytes(result, "output", stdout);
        fflush(stdout);
        put_bytes(result, "messages", stderr);
        if (json_is_true(json_object_get(result, "truncated")))
                fputs("lodge: there was more output than the guest's agent keeps\n", stderr);
        return 0;
}
