// SPDX-License-Identifier: GPL-2.0-or-later
/* access: the commands on tokens and clients of a daemon, and on the remotes that we know */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/ask.h"
#include "cli/remote.h"

#define TOKEN_COLUMNS  "name,role,project,created,expires,expired"
#define CLIENT_COLUMNS "name,role,project,created,fingerprint"
#define REMOTE_COLUMNS "name,addresses,client,role,project"

static const char *text_of(const json_t *object, const char *key) {
        return json_string_value(json_object_get(object, key)) ?: "";
}

/* ---- tokens and clients ------------------------------------------------------------------------------------------------- */

/* The token alone on the standard output, so that it can be passed on by a pipe. */
static void say_token(const json_t *token) {
        const char *project = text_of(token, "project");

        fprintf(stderr, "a token for client %s (%s, %s%s), until %s; on the other host: lodge remote add NAME TOKEN\n",
                text_of(token, "name"), text_of(token, "role"), *project ? "project " : "all projects", project,
                text_of(token, "expires"));
        render_text(stdout, text_of(token, "token"));
        putchar('\n');
}

int ask_token_create(struct ask *a, struct error *e) {
        json_auto_t *token = NULL;
        int r = ask_send(a, ROUTE_TOKEN_CREATE, NULL, &token_request_schema, &token, e);

        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, token, &token_created_schema, "all", e);
        say_token(token);
        return 0;
}

int ask_token_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_list(a, ROUTE_TOKEN_LIST, NULL, &page, e);

        return r < 0 ? r : ask_print_list(a, page, "tokens", &token_view_schema, TOKEN_COLUMNS, e);
}

static int delete_one(struct ask *a, enum schema_route_id route, const char *what, const struct schema_object *item,
                      struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_send(a, route, a->request->name, NULL, &page, e);

        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_list(a, page, NULL, item, "all", e);
        render_text(stdout, a->request->name);
        printf(": %s\n", what);
        return 0;
}

int ask_token_delete(struct ask *a, struct error *e) {
        return delete_one(a, ROUTE_TOKEN_DELETE, "deleted", &token_view_schema, e);
}

int ask_client_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_list(a, ROUTE_CLIENT_LIST, NULL, &page, e);

        return r < 0 ? r : ask_print_list(a, page, "clients", &client_view_schema, CLIENT_COLUMNS, e);
}

int ask_client_show(struct ask *a, struct error *e) {
        json_auto_t *client = NULL;
        int r = ask_send(a, ROUTE_CLIENT_SHOW, a->request->name, NULL, &client, e);

        return r < 0 ? r : ask_print_object(a, client, &client_view_schema, CLIENT_COLUMNS, e);
}

int ask_client_set(struct ask *a, struct error *e) {
        const struct client_set_options *o = ask_object(a, &client_set_options_schema);
        json_auto_t *patch = json_object(), *client = NULL;
        _cleanup_free_ char *body = NULL;
        const char *project;
        int r = 0;

        for (size_t i = 0; i < o->n_fields && r == 0; i++)
                r = ask_patch_add(patch, &client_grant_schema, o->fields[i], e);
        if (r < 0)
                return r;
        body = json_dumps(patch, JSON_COMPACT);
        if (!body)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot change the client");
        r = ask_send_text(a, ROUTE_CLIENT_CHANGE, a->request->name, body, &client, e);
        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, client, &client_view_schema, "all", e);
        project = text_of(client, "project");
        render_text(stdout, text_of(client, "name"));
        printf(": %s of %s%s from now on\n", text_of(client, "role"), *project ? "project " : "all projects", project);
        return 0;
}

int ask_client_delete(struct ask *a, struct error *e) {
        return delete_one(a, ROUTE_CLIENT_DELETE, "let in no longer", &client_view_schema, e);
}

/* ---- remotes ------------------------------------------------------------------------------------------------------------- */

static int read_word(const struct remote_options *o, char **ret_word, struct error *e) {
        const char *given = o->token ?: o->token_word;
        char line[TOKEN_TEXT_MAX + 2];

        if (!given) {
                if (isatty(STDIN_FILENO))
                        fputs("token: ", stderr);
                given = fgets(line, sizeof(line), stdin);
        }
        if (!given)
                return error_set(e, -EINVAL, "token", "on the server: lodge token create NAME", "there is no token");
        *ret_word = strdup(given);
        return *ret_word ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot read the token");
}

static int enrol(struct remote *remote, const struct token *token, struct error *e) {
        _cleanup_(client_options_freep) struct client_options *options = NULL;
        _cleanup_(client_freep) struct client *client = NULL;
        char body[FINGERPRINT_TEXT_SIZE + 16], secret[FINGERPRINT_TEXT_SIZE];
        const struct client_call call = { .route = ROUTE_CLIENT_ENROL, .body = body };
        struct remote_config *c = remote->config;
        json_auto_t *view = NULL;
        int r = client_options_new(&options);

        snprintf(body, sizeof(body), "{\"secret\":\"%s\"}", fingerprint_format(token->secret, secret));
        if (r == 0)
                r = client_open_remote(options, remote, &client, e);
        if (r == 0)
                r = client_call(client, &call, &view, e);
        if (r < 0)
                return r;
        c->client = strdup(text_of(view, "name"));
        c->role = strdup(text_of(view, "role"));
        c->project = json_object_get(view, "project") ? strdup(text_of(view, "project")) : NULL;
        return c->client && c->role ? 0 : -ENOMEM;
}

static int show(const struct remote_options *o, const struct remote_config *c, struct error *e) {
        const struct render render = render_to_stdout(o->format, &remote_config_schema, REMOTE_COLUMNS);
        _cleanup_free_ char *text = remote_config_format(c);
        json_auto_t *object = text ? json_loads(text, 0, NULL) : NULL;

        return object ? render_object(&render, object, e) : error_set(e, -ENOMEM, "memory", NULL, "cannot show it");
}

static int add(const void *options, struct error *e) {
        const struct remote_options *o = options;
        _cleanup_(remote_freep) struct remote *remote = NULL;
        _cleanup_(token_freep) struct token *token = NULL;
        _cleanup_free_ char *word = NULL;
        const struct remote_config *c;
        int r;

        if (streq(o->name, REMOTE_LOCAL))
                return error_set(e, -EINVAL, "remote-name", "take another name", "%s is this host", o->name);
        r = read_word(o, &word, e);
        if (r == 0)
                r = token_parse(word, &token, e);
        if (r == 0)
                r = remote_new(o->name, token, &remote, e);
        if (r == 0)
                r = enrol(remote, token, e);
        if (r == 0)
                r = remote_save(remote, e);
        if (r < 0)
                return r;
        c = remote->config;
        if (o->format != TABLE_FORMAT_TABLE)
                return show(o, c, e);
        printf("%s: let in as client %s (%s, %s%s); lodge list --remote %s\n", c->name, c->client, c->role,
               c->project ? "project " : "all projects", c->project ?: "", c->name);
        return 0;
}

static int list(const void *options, struct error *e) {
        const struct remote_options *o = options;
        const struct render render = render_to_stdout(o->format, &remote_config_schema, REMOTE_COLUMNS);
        json_auto_t *page = NULL;
        int r = remote_list(&page, e);

        return r < 0 ? r : render_list(&render, page, e);
}

static int forget(const void *options, struct error *e) {
        const struct remote_options *o = options;
        int r = remote_delete(o->name, e);

        if (r < 0)
                return r;
        if (o->format == TABLE_FORMAT_TABLE)
                printf("%s: forgotten; on the server: lodge client delete\n", o->name);
        return 0;
}

int cli_remote_add(int argc, char **argv) {
        return cli_local(&schema_command_remote_add, &remote_options_schema, add, argc, argv);
}

int cli_remote_list(int argc, char **argv) {
        return cli_local(&schema_command_remote_list, &remote_options_schema, list, argc, argv);
}

int cli_remote_delete(int argc, char **argv) {
        return cli_local(&schema_command_remote_delete, &remote_options_schema, forget, argc, argv);
}
