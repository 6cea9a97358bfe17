// SPDX-License-Identifier: GPL-2.0-or-later
/* ask: see ask.h */
#include "cli/ask.h"

#include <errno.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void *ask_object(const struct ask *a, const struct schema_object *object) {
        for (size_t i = 0; i < SCHEMA_OBJECTS_MAX; i++)
                if (a->command->objects[i] == object)
                        return a->objects[i];
        return NULL;
}

bool ask_is_people(const struct ask *a) {
        return a->options->format == TABLE_FORMAT_TABLE;
}

int ask_send(struct ask *a, enum schema_route_id route, const char *name, const struct schema_object *body,
             json_t **ret_json, struct error *e) {
        _cleanup_free_ char *text = body ? schema_format(body, ask_object(a, body)) : NULL;

        if (body && !text)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        return ask_send_text(a, route, name, text, ret_json, e);
}

int ask_send_text(struct ask *a, enum schema_route_id route, const char *name, const char *body, json_t **ret_json,
                  struct error *e) {
        _cleanup_free_ char *query = NULL;
        const struct schema_object *how = schema_routes[route].query;
        struct client_call call = { .route = route, .parameter = name, .body = body };

        if (how && ask_object(a, how) && client_query_object(&query, how, ask_object(a, how)) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        if (a->request && a->request->dry_run && client_query_add(&query, "dry_run", "true") < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        call.query = query;
        return client_call(a->client, &call, ret_json, e);
}

int ask_list(struct ask *a, enum schema_route_id route, const char *query, json_t **ret_page, struct error *e) {
        json_auto_t *all = NULL;

        for (;;) {
                _cleanup_free_ char *with_after = query ? strdup(query) : NULL;
                struct client_call call = { .route = route };
                json_auto_t *page = NULL;
                const char *next = json_string_value(json_object_get(all, "next"));
                int r;

                if ((query && !with_after) || (next && client_query_add(&with_after, "after", next) < 0))
                        return error_set(e, -ENOMEM, "memory", NULL, "cannot list");
                call.query = with_after;
                r = client_call(a->client, &call, &page, e);
                if (r < 0)
                        return r;
                if (!all)
                        all = TAKE_PTR(page);
                else {
                        json_array_extend(json_object_get(all, "items"), json_object_get(page, "items"));
                        if (json_object_get(page, "next"))
                                json_object_set(all, "next", json_object_get(page, "next"));
                        else
                                json_object_del(all, "next");
                }
                if (!json_object_get(all, "next"))
                        break;
        }
        *ret_page = TAKE_PTR(all);
        return 0;
}

/* ---- output -------------------------------------------------------------------------------------------------------- */

static struct render make_render(const struct ask *a, const struct schema_object *object, const char *columns) {
        const char *chosen = a->view ? a->view->columns : NULL;
        struct render r = render_to_stdout(a->options->format, object, chosen ?: columns);

        r.chosen = chosen;
        r.no_header = a->view && a->view->no_header;
        return r;
}

static void print_scope(const struct ask *a, const json_t *answer, const char *what) {
        const char *scope = json_string_value(json_object_get(answer, "scope"));
        struct ucred peer = { .uid = geteuid() };
        socklen_t n = sizeof(peer);
        const struct passwd *user;

        if (a->options->format == TABLE_FORMAT_JSON || a->options->format == TABLE_FORMAT_YAML || !scope)
                return;
        if (a->client->remote) {
                fprintf(stderr, "remote %s: %s %s\n", a->client->remote->config->name,
                        streq(scope, "system") ? "system" : "session", what);
                return;
        }
        if (streq(scope, "system")) {
                fprintf(stderr, "system %s\n", what);
                return;
        }
        getsockopt(a->client->http.fd, SOL_SOCKET, SO_PEERCRED, &peer, &n);
        user = getpwuid(peer.uid);
        if (user)
                fprintf(stderr, "session %s of user %s\n", what, user->pw_name);
        else
                fprintf(stderr, "session %s of user %u\n", what, peer.uid);
}

int ask_print_list(struct ask *a, json_t *page, const char *what, const struct schema_object *item, const char *columns,
                   struct error *e) {
        const struct render r = make_render(a, item, columns);
        int result = render_check(&r, e);

        if (result < 0)
                return result;
        if (what)
                print_scope(a, page, what);
        return render_list(&r, page, e);
}

int ask_print_object(struct ask *a, json_t *object, const struct schema_object *schema, const char *columns,
                     struct error *e) {
        const struct render r = make_render(a, schema, columns);

        return render_object(&r, object, e);
}

bool ask_yes(const char *question) {
        char line[16];

        if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
                return false;
        render_text(stderr, question);
        fputs(" [y/N] ", stderr);
        if (!fgets(line, sizeof(line), stdin))
                return false;
        return line[0] == 'y' || line[0] == 'Y';
}

/* ---- a command's life ------------------------------------------------------------------------------------------------ */

static int make_objects(struct ask *a, struct error *e) {
        for (size_t i = 0; i < SCHEMA_OBJECTS_MAX && a->command->objects[i]; i++)
                if (schema_new(a->command->objects[i], &a->objects[i]) < 0)
                        return error_set(e, -ENOMEM, "memory", NULL, "cannot start");
        a->options = ask_object(a, &client_options_schema);
        a->view = ask_object(a, &view_options_schema);
        a->request = ask_object(a, &request_options_schema);
        return 0;
}

static void free_objects(struct ask *a) {
        for (size_t i = 0; i < SCHEMA_OBJECTS_MAX && a->command->objects[i]; i++)
                schema_free(a->command->objects[i], a->objects[i]);
        client_free(a->client);
}

static int reach(struct ask *a, enum cli_daemon how, struct error *e) {
        bool named = client_is_named(a->options);
        int r = how == CLI_DAEMON_NAMED && !named
                        ? 0
                        : client_open(a->options, how == CLI_DAEMON_START || a->options->session, &a->client, e);

        if (r == -ECONNREFUSED && how == CLI_DAEMON_IF_THERE && !named) {
                error_clear(e);
                return 0;
        }
        return r;
}

int cli_ask(const struct cli_command *command, int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct ask a = { .command = command->schema };
        int status, r = make_objects(&a, &e);

        if (r == 0 && cli_parse_given(command->schema, argc, argv, a.objects, &a.given, &status)) {
                free_objects(&a);
                return status;
        }
        if (r == 0)
                r = reach(&a, command->daemon, &e);
        if (r == 0)
                r = command->ask(&a, &e);
        status = a.status;
        if (r < 0) {
                error_set(&e, r, "failed", NULL, "cannot finish lodge %s", command->schema->name);
                if (a.options && a.options->format == TABLE_FORMAT_JSON)
                        cli_fail_json(&e);
                status = cli_fail(&e);
        }
        free_objects(&a);
        return status;
}
