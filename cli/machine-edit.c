// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine-edit: lodge machine set, and lodge machine edit
 *
 * set sends a JSON merge patch (RFC 7396) of the fields that were named. edit writes the definition as JSON into a private file, starts the editor, and
 * sends the whole back, with the ETag of what was read: if somebody else changed the machine meanwhile, nothing is lost and nothing overwritten,
 * the person's text is kept and its place told.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/io.h"
#include "cli/ask.h"

/* ---- set ------------------------------------------------------------------------------------------------------------- */

/* Puts the field that @path names of a whole object into a patch; a field that was not set becomes null. */
static int patch_put(json_t *patch, const json_t *whole, const char *path) {
        char part[128];

        for (;;) {
                size_t n = strcspn(path, ".");
                json_t *inner;

                if (n >= sizeof(part))
                        return -EINVAL;
                memcpy(part, path, n);
                part[n] = '\0';
                whole = json_object_get(whole, part);
                if (path[n] == '\0')
                        return json_object_set_new(patch, part, whole ? json_incref((json_t *)whole) : json_null());
                inner = json_object_get(patch, part);
                if (!json_is_object(inner)) {
                        inner = json_object();
                        if (json_object_set_new(patch, part, inner) < 0)
                                return -ENOMEM;
                }
                patch = inner;
                path += n + 1;
        }
}

static int patch_judged(json_t *patch, const struct schema_object *object, void *value, const char *path,
                        const char *text, struct error *e) {
        _cleanup_free_ char *whole = NULL;
        json_auto_t *json = NULL;
        int r = schema_set_text(object, value, object->name, text, e);

        if (r < 0)
                return r;
        whole = schema_format(object, value);
        json = whole ? json_loads(whole, 0, NULL) : NULL;
        return json && patch_put(patch, json, path) == 0
                       ? 0
                       : error_set(e, -ENOMEM, "memory", NULL, "cannot change the %s", object->name);
}

int ask_patch_add(json_t *patch, const struct schema_object *object, const char *text, struct error *e) {
        const char *equals = strchr(text, '=');
        _cleanup_free_ char *path = strndup(text, equals ? (size_t)(equals - text) : strlen(text));
        void *value = NULL;
        int r;

        if (!path || schema_new(object, &value) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot change it");
        if (equals && equals[1] == '\0') /* the field's name is judged by the daemon */
                r = patch_put(patch, NULL, path);
        else
                r = patch_judged(patch, object, value, path, text, e);
        schema_free(object, value);
        return r;
}

static void say_changed(const struct ask *a, const json_t *machine) {
        json_t *pending = json_object_get(json_object_get(machine, "state"), "pending"), *field;
        size_t i;

        render_text(stdout, json_string_value(json_object_get(machine, "name")) ?: "?");
        fputs(a->request->dry_run ? ": could be changed" : ": changed", stdout);
        json_array_foreach(pending, i, field) {
                printf(i ? ", %s" : "; from the next start on: %s", json_string_value(field) ?: "?");
        }
        putchar('\n');
}

int ask_machine_set(struct ask *a, struct error *e) {
        json_auto_t *patch = json_object(), *machine = NULL;
        _cleanup_free_ char *body = NULL;
        struct client_call call = { .route = ROUTE_MACHINE_CHANGE, .parameter = a->request->name };
        int r = patch ? 0 : -ENOMEM;

        for (size_t i = 0; i < a->request->n_fields && r == 0; i++)
                r = ask_patch_add(patch, &machine_definition_schema, a->request->fields[i], e);
        if (r < 0 && !e->fix)
                error_set_fix(e, "as memory=2G or limits.cpu_quota=50; what is longer: lodge machine edit NAME");
        /* A topology that was completed for other CPUs would contradict the new number. */
        if (r == 0 && json_object_get(patch, "cpus"))
                for (const char *const *key = (const char *const[]){ "sockets", "cores", "threads", NULL }; *key; key++)
                        if (!json_object_get(patch, *key))
                                json_object_set_new(patch, *key, json_null());
        if (r < 0)
                return r;
        body = json_dumps(patch, JSON_COMPACT);
        call.body = body;
        call.query = a->request->dry_run ? "dry_run=true" : NULL;
        r = client_call(a->client, &call, &machine, e);
        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, machine, &machine_view_schema, "all", e);
        say_changed(a, machine);
        return 0;
}

/* ---- edit ------------------------------------------------------------------------------------------------------------ */

struct edit {
        struct ask *a;
        char path[64];
        char etag[64];
};

static int write_text(struct edit *edit, const json_t *config, struct error *e) {
        _cleanup_free_ char *text = json_dumps(config, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        _cleanup_close_ int fd = -EBADF;
        int r;

        strcpy(edit->path, "/tmp/lodge-edit-XXXXXX.json");
        fd = text ? mkostemps(edit->path, 5, O_CLOEXEC) : -EBADF;
        if (fd < 0)
                return error_set(e, -errno, "edit-file", "is /tmp full?", "cannot make a file to edit");
        r = io_write_all(fd, text, strlen(text));
        if (r == 0)
                r = io_write_all(fd, "\n", 1);
        return r < 0 ? error_set(e, r, "edit-file", "is /tmp full?", "cannot write %s", edit->path) : 0;
}

static int read_text(const struct edit *edit, char **ret_text, struct error *e) {
        _cleanup_close_ int fd = open(edit->path, O_RDONLY | O_CLOEXEC);
        size_t n;
        int r = fd < 0 ? -errno : io_read_all(fd, SCHEMA_TEXT_MAX, ret_text, &n);

        return r < 0 ? error_set(e, r, "edit-file", NULL, "cannot read %s", edit->path) : 0;
}

/* $EDITOR may hold options, so a shell runs it; the file is an argument of its own. */
static int run_editor(const struct edit *edit, struct error *e) {
        const char *editor = getenv("VISUAL") ?: getenv("EDITOR");
        _cleanup_free_ char *line = NULL;
        int status;
        pid_t pid;

        if (asprintf(&line, "exec %s \"$1\"",
                     editor && *editor                               ? editor
                     : access("/usr/bin/sensible-editor", X_OK) == 0 ? "sensible-editor"
                                                                     : "vi") < 0) {
                line = NULL;
                return -ENOMEM;
        }
        pid = fork();
        if (pid == 0) {
                execl("/bin/sh", "sh", "-c", line, "lodge", edit->path, NULL);
                _exit(127);
        }
        if (pid < 0)
                return error_set(e, -errno, "editor", NULL, "cannot start the editor");
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_set(e, -errno, "editor", NULL, "cannot wait for the editor");
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                return error_set(e, -EPROTO, "editor", "set EDITOR to the editor that you like",
                                 "the editor ended with an error; nothing was changed");
        return 0;
}

static int look(struct edit *edit, json_t **ret_config, struct error *e) {
        json_auto_t *machine = NULL;
        int r = ask_send(edit->a, ROUTE_MACHINE_SHOW, edit->a->request->name, NULL, &machine, e);

        if (r < 0)
                return r;
        memcpy(edit->etag, edit->a->client->etag, sizeof(edit->etag));
        *ret_config = json_incref(json_object_get(machine, "config"));
        return 0;
}

/* The daemon judges it. Return: 0, -errno with @e. */
static int send_text(struct edit *edit, const char *text, json_t **ret_machine, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        const struct client_call call = { .route = ROUTE_MACHINE_REPLACE,
                                          .parameter = edit->a->request->name,
                                          .body = text,
                                          .if_match = edit->etag };
        int r = machine_definition_parse(text, strlen(text), &d,
                                         e); /* with a place in the text, which the daemon's answer has not */

        return r < 0 ? r : client_call(edit->a->client, &call, ret_machine, e);
}

/* What was typed is somebody's work: the file stays, and is named. */
static int keep_text(struct edit *edit, int r, struct error *e) {
        error_prefix(e, "your text is kept in %s", edit->path);
        return r;
}

static int edit_loop(struct edit *edit, const json_t *before, struct error *e) {
        for (;;) {
                _cleanup_error_ struct error own = ERROR_INIT;
                _cleanup_free_ char *text = NULL;
                json_auto_t *machine = NULL, *after = NULL;
                int r = run_editor(edit, e);

                if (r == 0)
                        r = read_text(edit, &text, e);
                if (r < 0)
                        return keep_text(edit, r, e);
                after = json_loads(text, 0, NULL);
                if (after && json_equal(after, before)) {
                        unlink(edit->path);
                        puts("nothing was changed");
                        return 0;
                }
                r = send_text(edit, text, &machine, &own);
                if (r == 0) {
                        unlink(edit->path);
                        say_changed(edit->a, machine);
                        return 0;
                }
                if (own.code == -ESTALE || !isatty(STDIN_FILENO)) {
                        *e = own;
                        own = ERROR_INIT;
                        if (e->code == -ESTALE)
                                error_set_fix(e,
                                              "look at the change (lodge info %s), then edit again; your text is in %s",
                                              edit->a->request->name, edit->path);
                        return keep_text(edit, e->code, e);
                }
                error_print(&own, "lodge", stderr);
                if (!ask_yes("Edit it again?")) {
                        *e = own;
                        own = ERROR_INIT;
                        return keep_text(edit, e->code, e);
                }
        }
}

int ask_machine_edit(struct ask *a, struct error *e) {
        struct edit edit = { .a = a };
        json_auto_t *config = NULL;
        int r = look(&edit, &config, e);

        if (r == 0)
                r = write_text(&edit, config, e);
        return r < 0 ? r : edit_loop(&edit, config, e);
}
