// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine-edit: lodge machine set, and lodge machine edit
 *
 * set sends a JSON merge patch (RFC 7396) of the fields that were named. edit writes the definition as YAML into a private file, with the schema's line about each field, starts
 * the editor, and sends the whole back, with the ETag of what was read: if somebody else changed the machine meanwhile, nothing is lost and nothing overwritten,
 * the person's text is kept and its place told. What is wrong with it stands in its first lines ("# ! ...") when the editor comes back; a text that comes back as it was is given up.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/io.h"
#include "cli/ask.h"
#include "cli/yaml.h"

#define BLIND_TRIES 3 /* of an editor that nobody looks into */

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

#define PROBLEM_MARK  "# ! "
#define PROBLEM_LINES 2u

struct edit {
        struct ask *a;
        char path[64];
        char etag[64];
        json_t *before; /* the definition as it was, as the schema writes it */
        char *refused;  /* the text that was wrong the last time; NULL: none */
};

static int out_of_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "cannot edit the machine");
}

static int write_file(const struct edit *edit, int flags, const char *text, size_t n, struct error *e) {
        _cleanup_close_ int fd = open(edit->path, O_WRONLY | O_CLOEXEC | flags);
        int r = fd < 0 ? -errno : io_write_all(fd, text, n);

        return r < 0 ? error_set(e, r, "edit-file", "is /tmp full?", "cannot write %s", edit->path) : 0;
}

static int write_first(struct edit *edit, const json_t *config, struct error *e) {
        _cleanup_free_ char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);
        int fd, r;

        if (!f)
                return out_of_memory(e);
        fprintf(f,
                "# The definition of machine %s. Save it and leave the editor to change the machine; leave it as it is "
                "to change nothing.\n"
                "# Sizes are bytes, or have a unit of 1024: K, M, G, T. A field that is taken away has its "
                "default.\n\n",
                edit->a->request->name);
        r = yaml_write_explained(f, config, &machine_definition_schema);
        if (fclose(f) != 0 || r < 0)
                return out_of_memory(e);
        strcpy(edit->path, "/tmp/lodge-edit-XXXXXX.yaml");
        fd = mkostemps(edit->path, 5, O_CLOEXEC);
        if (fd < 0)
                return error_set(e, -errno, "edit-file", "is /tmp full?", "cannot make a file to edit");
        close(fd);
        return write_file(edit, 0, text, n, e);
}

/* What the person wrote, without what we said about an earlier try. */
static int read_text(const struct edit *edit, char **ret_text, struct error *e) {
        _cleanup_close_ int fd = open(edit->path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        size_t n, skip = 0;
        int r = fd < 0 ? -errno : io_read_all(fd, SCHEMA_TEXT_MAX, &text, &n);

        if (r < 0)
                return error_set(e, r, "edit-file", NULL, "cannot read %s", edit->path);
        while (strncmp(text + skip, PROBLEM_MARK, strlen(PROBLEM_MARK)) == 0)
                skip += strcspn(text + skip, "\n") + (text[skip + strcspn(text + skip, "\n")] == '\n');
        *ret_text = strdup(text + skip);
        return *ret_text ? 0 : out_of_memory(e);
}

/* One line of a comment: what is quoted in a message could end it. */
static void put_problem(FILE *f, const char *text) {
        fputs(PROBLEM_MARK, f);
        render_text(f, text);
        fputc('\n', f);
}

/* Puts what is wrong in front of the text. */
static int write_problem(const struct edit *edit, const char *text, const struct error *problem, struct error *e) {
        _cleanup_free_ char *whole = NULL, *what = NULL, *cure = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&whole, &n);

        if (asprintf(&what, "%s  [%s]", problem->message ?: "it was refused", problem->id ?: "unknown") < 0)
                what = NULL;
        if (asprintf(&cure, "fix: %s", problem->fix ?: "change it, or leave it as it is to give up") < 0)
                cure = NULL;
        if (f && what && cure) {
                put_problem(f, what);
                put_problem(f, cure);
                fputs(text, f);
        }
        if (!f || fclose(f) != 0 || !what || !cure)
                return out_of_memory(e);
        return write_file(edit, O_TRUNC, whole, n, e);
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

/* A definition as the schema writes it, so that only what it means is compared. */
static int normal_form(const struct machine_definition *d, json_t **ret, struct error *e) {
        _cleanup_free_ char *text = machine_definition_format(d);

        *ret = text ? json_loads(text, 0, NULL) : NULL;
        return *ret ? 0 : out_of_memory(e);
}

static int look(struct edit *edit, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        _cleanup_free_ char *text = NULL;
        json_auto_t *machine = NULL;
        json_t *config;
        int r = ask_send(edit->a, ROUTE_MACHINE_SHOW, edit->a->request->name, NULL, &machine, e);

        if (r < 0)
                return r;
        memcpy(edit->etag, edit->a->client->etag, sizeof(edit->etag));
        config = json_object_get(machine, "config");
        text = json_dumps(config, 0);
        if (!text)
                return error_set(e, -EPROTO, "daemon-answer", NULL, "the daemon's answer is no machine");
        r = machine_definition_parse(text, strlen(text), &d, e);
        if (r == 0)
                r = normal_form(d, &edit->before, e);
        return r < 0 ? r : write_first(edit, config, e);
}

/* What the text says. Return: 1; 0: nothing, or what was there before; -errno with @e, that names a line of the file with the problem in front. */
static int parse(const struct edit *edit, const char *text, struct yaml_lines *lines, char **ret_body,
                 struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *value = NULL, *after = NULL;
        _cleanup_free_ char *body = NULL;
        int r = yaml_read(text, strlen(text), &value, PROBLEM_LINES, lines, e);

        if (r < 0)
                return r;
        if (json_is_null(value))
                return 0;
        body = json_dumps(value, JSON_ENCODE_ANY);
        if (!body)
                return out_of_memory(e);
        r = machine_definition_parse(body, strlen(body), &d, e);
        if (r == 0)
                r = normal_form(d, &after, e);
        if (r < 0)
                return r;
        *ret_body = TAKE_PTR(body);
        return !json_equal(after, edit->before);
}

static int send_text(const struct edit *edit, const char *text, json_t **ret_machine, struct error *e) {
        struct client_call call = { .route = ROUTE_MACHINE_REPLACE,
                                    .parameter = edit->a->request->name,
                                    .if_match = edit->etag };
        struct yaml_lines lines = { 0 };
        _cleanup_free_ char *body = NULL;
        unsigned int line;
        int r = parse(edit, text, &lines, &body, e);

        call.body = body;
        if (r > 0)
                r = client_call(edit->a->client, &call, ret_machine, e); /* which judges it, too */
        line = r < 0 && e->message ? yaml_line_of(&lines, e->message) : 0;
        if (line > 0)
                error_prefix(e, "line %u", line);
        yaml_lines_clear(&lines);
        return r;
}

/* What was typed is somebody's work: the file stays, and is named. */
static int keep_text(const struct edit *edit, int r, struct error *e) {
        error_prefix(e, "your text is kept in %s", edit->path);
        return r;
}

/* Return: 1: the editor is to come back; else as edit_loop(). */
static int edit_once(struct edit *edit, bool last, struct error *e) {
        _cleanup_error_ struct error own = ERROR_INIT;
        _cleanup_free_ char *text = NULL;
        json_auto_t *machine = NULL;
        bool same;
        int r = run_editor(edit, e);

        if (r == 0)
                r = read_text(edit, &text, e);
        if (r < 0)
                return keep_text(edit, r, e);
        same = edit->refused && text && streq(edit->refused, text);
        r = send_text(edit, text, &machine, &own);
        if (r >= 0) {
                unlink(edit->path);
                if (machine)
                        say_changed(edit->a, machine);
                else
                        puts("nothing was changed");
                return 0;
        }
        r = write_problem(edit, text, &own, e);
        if (r < 0)
                return keep_text(edit, r, e);
        if (own.code != -ESTALE && !same && !last) {
                free(edit->refused);
                edit->refused = TAKE_PTR(text);
                return 1;
        }
        *e = own;
        own = ERROR_INIT;
        if (e->code == -ESTALE)
                error_set_fix(e, "look at the change (lodge info %s), then edit again; your text is in %s",
                              edit->a->request->name, edit->path);
        return keep_text(edit, e->code, e);
}

int ask_machine_edit(struct ask *a, struct error *e) {
        struct edit edit = { .a = a };
        bool seen = isatty(STDIN_FILENO);
        int r = look(&edit, e) < 0 ? e->code : 1;

        for (unsigned int tries = 1; r > 0; tries++)
                r = edit_once(&edit, !seen && tries == BLIND_TRIES, e);
        json_decref(edit.before);
        free(edit.refused);
        return r;
}
