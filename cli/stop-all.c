// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stop-all: lodge stop --all, as an administrator types it and as lodge-shutdown.service runs it when the host shuts down
 *
 *      list      the machines that run, of all projects that the caller sees, or of the one that was named
 *      sort      those that don't start with the host; then those that do, the highest order first
 *      stop      those of one rank side by side, each by an operation of its own; the next rank when all of them have ended
 *      list      again: what was started meanwhile goes, too
 *
 * The order is autostart's, backwards: what starts early (a database, a router) is what others lean on. A machine that does not stop is told of and does not hold up the
 * next rank: whoever shuts a host down has only so much time. One that another operation works on is asked again until that is over. So is a daemon that is started anew
 * meanwhile: it gets PATIENCE_NS, since giving up means that the host pulls every plug.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/ask.h"

#define LOOK_MS       200
#define PLUG_NS       20000000000ull /* what the daemon takes at most to pull a plug */
#define PATIENCE_NS   20000000000ull /* what a daemon that is started anew takes at most */
#define PASSES        3
#define NEVER_STARTED INT64_MAX /* the rank of a machine that does not start with the host */

struct target {
        const char *project, *name, *uuid; /* the list's */
        int64_t rank;                      /* the highest stops first */
        char *operation;                   /* its id; NULL: none has begun */
        uint64_t until;                    /* when that must be over */
        bool over;
};

struct stop_all {
        struct ask *a;
        json_t *page;
        struct target *targets;
        size_t n;
        json_t *results;
        struct error *e; /* the first failure */
        bool all_projects;
};

static const char *text_of(const json_t *object, const char *key) {
        return json_string_value(json_object_get(object, key)) ?: "";
}

static void clear(struct stop_all *s) {
        for (size_t i = 0; i < s->n; i++)
                free(s->targets[i].operation);
        free(TAKE_PTR(s->targets));
        s->n = 0;
        json_decref(TAKE_PTR(s->page));
}

static void print_name(const struct stop_all *s, const struct target *t, FILE *f) {
        if (s->all_projects && !streq(t->project, "default")) {
                render_text(f, t->project);
                fputc('/', f);
        }
        render_text(f, t->name);
}

/* Of a machine in a project of its own: each request names that. */
static int call_of(struct stop_all *s, const struct target *t, struct client_call call, json_t **ret_json,
                   struct error *e) {
        struct client *c = s->a->client;
        const char *before = c->project;
        int r;

        call.parameter = call.parameter ?: t->uuid;
        c->project = t->project;
        r = client_call(c, &call, ret_json, e);
        c->project = before;
        return r;
}

/* ---- which, and in what order ---------------------------------------------------------------------------------------- */

static int by_rank(const void *a, const void *b) {
        const struct target *x = a, *y = b;
        int r = x->rank == y->rank ? strcmp(x->name, y->name) : x->rank > y->rank ? -1 : 1;

        return r ?: strcmp(x->project, y->project);
}

/* A machine that has failed runs again in a moment, where its definition wants that: stopping it ends this, too. */
static bool is_to_stop(const json_t *machine) {
        const json_t *state = json_object_get(machine, "state");
        const char *status = text_of(state, "status");

        if (streq(status, "failed"))
                return streq(text_of(state, "wanted"), "running") &&
                       !streq(text_of(json_object_get(machine, "config"), "restart"), "no");
        return !streq(status, "stopped");
}

/* Somebody else's operation, or a daemon that is started anew, is over in a moment; Ctrl-C ends the whole at the next look. */
static bool passes(int r) {
        return r == -EBUSY || r == -EAGAIN || r == -ECONNREFUSED;
}

/* Before the next look. Return: 0, -ECANCELED when the waiting was ended. */
static int pause_for(const struct stop_all *s) {
        struct pollfd stop = { .fd = s->a->client->stop_fd, .events = POLLIN };

        return poll(&stop, 1, LOOK_MS) > 0 ? -ECANCELED : 0;
}

static int add(struct stop_all *s, const json_t *item, struct error *e) {
        struct target t = { .project = text_of(item, "project"),
                            .name = text_of(item, "name"),
                            .uuid = text_of(item, "uuid"),
                            .rank = NEVER_STARTED };
        json_auto_t *machine = NULL;
        const json_t *autostart;
        int r = call_of(s, &t, (struct client_call){ .route = ROUTE_MACHINE_SHOW }, &machine, e);

        if (r == -ENOENT) { /* it was deleted meanwhile */
                error_clear(e);
                return 0;
        }
        if (r < 0 || !is_to_stop(machine))
                return r;
        autostart = json_object_get(json_object_get(machine, "config"), "autostart");
        if (json_is_true(json_object_get(autostart, "enabled")))
                t.rank = json_integer_value(json_object_get(autostart, "order"));
        s->targets[s->n++] = t;
        return 0;
}

static int look_once(struct stop_all *s, struct error *e) {
        json_t *item;
        size_t i;
        int r;

        clear(s);
        r = ask_list(s->a, ROUTE_MACHINE_LIST, s->all_projects ? "all_projects=true" : NULL, &s->page, e);
        if (r < 0)
                return r;
        s->targets = calloc(json_array_size(json_object_get(s->page, "items")) + 1, sizeof(*s->targets));
        if (!s->targets)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot stop the machines");
        json_array_foreach(json_object_get(s->page, "items"), i, item) {
                if (r == 0 && !streq(text_of(item, "status"), "stopped"))
                        r = add(s, item, e);
        }
        qsort(s->targets, s->n, sizeof(*s->targets), by_rank);
        return r;
}

static int look(struct stop_all *s, struct error *e) {
        uint64_t end = clock_ns() + PATIENCE_NS;
        int r;

        while (passes(r = look_once(s, e)) && clock_ns() < end) {
                error_clear(e);
                r = pause_for(s);
                if (r < 0)
                        return r;
        }
        return r;
}

/* ---- one rank --------------------------------------------------------------------------------------------------------- */

static void failed(struct stop_all *s, struct target *t, struct error *own) {
        t->over = true;
        ask_keep_error(s->e, own);
}

static void stopped(struct stop_all *s, struct target *t, json_t *operation) {
        t->over = true;
        if (operation)
                json_array_append(s->results, operation);
        if (ask_is_people(s->a)) {
                print_name(s, t, stdout);
                puts(": stopped");
                fflush(stdout);
        }
}

/* Ask for its stop. @late: another operation has had its time, and now the plug is pulled. */
static void begin(struct stop_all *s, struct target *t, const struct machine_stop_request *how, bool late) {
        const struct machine_stop_request plug = { .way = STOP_WAY_FORCE, .timeout = how->timeout };
        _cleanup_free_ char *body = machine_stop_request_format(late && how->force ? &plug : how);
        _cleanup_error_ struct error own = ERROR_INIT;
        json_auto_t *operation = NULL;
        int r = body ? call_of(s, t, (struct client_call){ .route = ROUTE_MACHINE_STOP, .body = body }, &operation,
                               &own)
                     : error_set(&own, -ENOMEM, "memory", NULL, "cannot ask the daemon");

        if (r == -ECANCELED || (passes(r) && !late))
                return;
        if (r == -EALREADY || r == -ENOENT)
                stopped(s, t, NULL); /* it has ended, or is gone */
        else if (r < 0)
                failed(s, t, &own);
        else {
                t->until = clock_ns() + (late && how->force ? 0 : how->timeout * 1000000000ull) + PLUG_NS;
                t->operation = text_copy(text_of(operation, "id"));
                t->over = !t->operation;
        }
}

/* An operation may have no end, such as one that waits for room for its journal: it doesn't hold up the next rank. */
static void look_at(struct stop_all *s, struct target *t) {
        struct client_call call = { .route = ROUTE_OPERATION_SHOW, .parameter = t->operation };
        _cleanup_error_ struct error own = ERROR_INIT;
        json_auto_t *operation = NULL;
        int r = call_of(s, t, call, &operation, &own);
        bool lasts = r == 0 && !follow_is_over(operation);

        if (r == -ECANCELED || ((lasts || passes(r)) && clock_ns() <= t->until))
                return;
        if (lasts) {
                r = error_set(&own, -ETIMEDOUT, "operation-lasts", NULL, "%s: the operation that stops it does not end",
                              t->name);
                error_set_fix(&own, "see what it waits for: lodge operation show %s", t->operation);
        } else if (r == 0)
                r = follow_end(operation, &own);
        if (r < 0)
                failed(s, t, &own);
        else
                stopped(s, t, operation);
}

static void show(const struct stop_all *s, const struct target *rank, size_t n, size_t left, uint64_t since) {
        bool first = true;

        fputs("\r\033[Kstopping ", stderr);
        for (size_t i = 0, told = 0; i < n && told < 3; i++)
                if (!rank[i].over) {
                        fputs(first ? "" : ", ", stderr);
                        print_name(s, &rank[i], stderr);
                        first = false;
                        told++;
                }
        if (left > 3)
                fprintf(stderr, " and %zu others", left - 3);
        fprintf(stderr, ": %u s", (unsigned int)((clock_ns() - since) / 1000000000));
        fflush(stderr);
}

static int stop_rank(struct stop_all *s, struct target *rank, size_t n) {
        const struct machine_stop_request *how = ask_object(s->a, &machine_stop_request_schema);
        bool terminal = isatty(STDERR_FILENO) && ask_is_people(s->a), shown = false;
        uint64_t since = clock_ns(), end = since + how->timeout * 1000000000ull;

        for (;;) {
                size_t left = 0;

                if (shown)
                        fputs("\r\033[K", stderr);
                for (size_t i = 0; i < n; i++) {
                        if (!rank[i].over && !rank[i].operation)
                                begin(s, &rank[i], how, clock_ns() > end);
                        else if (!rank[i].over)
                                look_at(s, &rank[i]);
                        left += !rank[i].over;
                }
                if (left == 0)
                        return 0;
                if (terminal)
                        show(s, rank, n, left, since);
                shown = terminal;
                if (pause_for(s) < 0)
                        return -ECANCELED;
        }
}

/* ---- all of them ------------------------------------------------------------------------------------------------------- */

static int stop_ranks(struct stop_all *s) {
        int r = 0;

        for (size_t i = 0, n; r == 0 && i < s->n; i += n) {
                for (n = 1; i + n < s->n && s->targets[i + n].rank == s->targets[i].rank;)
                        n++;
                r = stop_rank(s, s->targets + i, n);
        }
        return r;
}

/* A dry run: which would be stopped, in what order. */
static int show_plan(struct stop_all *s, struct error *e) {
        for (size_t i = 0; i < s->n; i++) {
                struct client_call call = { .route = ROUTE_MACHINE_STOP, .query = "dry_run=true", .body = "{}" };
                _cleanup_error_ struct error own = ERROR_INIT;
                json_auto_t *plan = NULL;

                if (call_of(s, &s->targets[i], call, &plan, &own) < 0) {
                        ask_keep_error(e, &own);
                        continue;
                }
                json_array_append(s->results, plan);
                if (!ask_is_people(s->a))
                        continue;
                print_name(s, &s->targets[i], stdout);
                puts(": would be done");
        }
        return ask_print_results(s->a, s->results, schema_routes[ROUTE_MACHINE_STOP].dry_answer, e);
}

/* What still runs, in one error. The others have been told of. */
static int remain(struct stop_all *s, struct error *e) {
        _cleanup_free_ char *names = NULL;
        size_t size;
        FILE *f = open_memstream(&names, &size);

        for (size_t i = 0; f && i < s->n && i < 8; i++) {
                fputs(i ? ", " : "", f);
                print_name(s, &s->targets[i], f);
        }
        if (f)
                fclose(f);
        if (s->e->code < 0)
                error_print(s->e, "lodge", stderr);
        error_clear(s->e);
        return error_set(e, -ETIMEDOUT, "machines-remain", "pull their plugs: lodge stop --all --way force",
                         s->n == 1 ? "%zu machine still runs: %s%s" : "%zu machines still run: %s%s", s->n,
                         names ?: "?", s->n > 8 ? ", ..." : "");
}

static int check_words(const struct ask *a, struct error *e) {
        if (a->request->n_names > 0)
                return error_set(e, -EINVAL, "option-conflict", NULL,
                                 "--all and names of machines contradict each other");
        if (a->request->detach)
                return error_set(e, -EINVAL, "option-conflict", NULL,
                                 "--all has to wait for machines before it asks the next: it cannot be detached");
        return 0;
}

int stop_all(struct ask *a, struct error *e) {
        _cleanup_error_ struct error first = ERROR_INIT;
        struct stop_all s = { .a = a, .results = json_array(), .e = &first, .all_projects = !a->client->project };
        int r = check_words(a, e);

        if (r == 0 && a->client->stop_fd < 0)
                a->client->stop_fd = ask_interrupt_fd();
        if (r == 0)
                r = look(&s, e);
        if (r == 0 && a->request->dry_run)
                r = show_plan(&s, e);
        else if (r == 0) {
                for (unsigned int pass = 0; r == 0 && s.n > 0 && pass < PASSES && first.code == 0; pass++) {
                        r = stop_ranks(&s);
                        if (r == 0)
                                r = look(&s, e);
                }
                if (r == 0)
                        r = ask_print_results(a, s.results, schema_routes[ROUTE_MACHINE_STOP].answer, e);
                if (r == 0 && s.n > 0)
                        r = remain(&s, e);
        }
        if (r == -ECANCELED)
                error_set(e, -EPROTO, "interrupted", "lodge operation list shows those that go on",
                          "stopped waiting; what was asked to stop may still do so");
        clear(&s);
        json_decref(s.results);
        return r;
}
