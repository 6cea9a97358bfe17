// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine-define: lodge launch and lodge define
 *
 * Files are named relative to where the person is; the daemon is elsewhere, so they are made absolute here.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/io.h"
#include "cli/ask.h"
#include "cli/template.h"
#include "daemon/image/image.h"
#include "daemon/seed/seed.h"

#define FILE_MAX (256u << 10) /* of user-data, and of keys */

#define PLAN_COLUMNS                                                                                                   \
        "name,state.engine,state.engine_reason,config.cpus,config.memory,config.image,config.kernel,config.pool,"      \
        "config.disk_size,config.disks,config.cdroms,config.firmware,config.tpm,config.nets"

int cli_default_name(const char *image, char **ret_name) {
        const char *base = image ?: "machine";
        unsigned char random[2];
        char name[64];
        size_t n = 0;

        for (const char *p = base; *p && n < 40; p++) {
                if (isalnum((unsigned char)*p))
                        name[n++] = (char)tolower((unsigned char)*p);
                else if (n > 0 && name[n - 1] != '-')
                        name[n++] = '-';
        }
        while (n > 0 && name[n - 1] == '-')
                n--;
        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                return -EIO;
        snprintf(name + n, sizeof(name) - n, "%s%02x%02x", n ? "-" : "m", random[0], random[1]);
        *ret_name = strdup(name);
        return *ret_name ? 0 : -ENOMEM;
}

static int make_absolute(char **path) {
        _cleanup_free_ char *here = NULL;
        char *absolute;

        if (!*path || **path == '/' || **path == '\0')
                return 0;
        here = getcwd(NULL, 0);
        if (!here || asprintf(&absolute, "%s/%s", here, *path) < 0)
                return -ENOMEM;
        free(*path);
        *path = absolute;
        return 0;
}

/* A file's text, for the daemon, which may not read it. */
static int read_file(const char *path, char **ret_text, struct error *e) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        size_t n;
        int r = fd < 0 ? -errno : io_read_all(fd, FILE_MAX, ret_text, &n);

        if (r < 0)
                return error_set(e, r, "file-read", NULL, "cannot read %s", path);
        if (strlen(*ret_text) != n) {
                free(TAKE_PTR(*ret_text));
                return error_set(e, -EINVAL, "file-read", "give a text", "%s is no text: it holds NUL bytes", path);
        }
        return 0;
}

static int add_key(struct cloud_config *cloud, const char *line, struct error *e) {
        char **grown = reallocarray(cloud->ssh_keys, cloud->n_ssh_keys + 1, sizeof(*grown));

        if (!grown)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        cloud->ssh_keys = grown;
        grown[cloud->n_ssh_keys] = strdup(line);
        if (!grown[cloud->n_ssh_keys])
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        cloud->n_ssh_keys++;
        return 0;
}

/* The keys in a file, one a line; comments as in authorized_keys. */
static int add_key_file(struct cloud_config *cloud, const char *path, struct error *e) {
        _cleanup_free_ char *text = NULL;
        char *rest, *line;
        int r = read_file(path, &text, e);

        rest = r < 0 ? NULL : text;
        while (r == 0 && (line = strsep(&rest, "\n"))) {
                line[strcspn(line, "\r")] = '\0';
                if (*line && *line != '#')
                        r = add_key(cloud, line, e);
        }
        return r;
}

/* Keys that were not named are the caller's own: who makes a machine wants to get in. */
static int add_access(const struct access_options *access, struct cloud_config *cloud, struct error *e) {
        char **keys;
        size_t n;
        int r = 0;

        if (access->user) {
                free(cloud->user);
                cloud->user = strdup(access->user);
                r = cloud->user ? 0 : -ENOMEM;
        }
        for (size_t i = 0; i < access->n_ssh_keys && r == 0; i++)
                r = add_key_file(cloud, access->ssh_keys[i], e);
        if (r == 0 && access->user_data)
                r = read_file(access->user_data, &cloud->user_data, e);
        if (r < 0 || access->n_ssh_keys > 0 || ssh_keys_find(NULL, &keys, &n) < 0)
                return r;
        for (size_t i = 0; i < n && r == 0; i++)
                r = add_key(cloud, keys[i], e);
        ssh_keys_free(keys, n);
        return r;
}

/* A template for systems that are installed from a CD: those with firmware. */
static bool template_installs(const char *name) {
        const struct schema_template *t = name ? schema_template_find(name) : NULL;

        for (unsigned int i = 0; t && i < t->n_fields; i++)
                if (streq(t->fields[i].field, "firmware"))
                        return true;
        return false;
}

static int complete(struct machine_definition *d, struct error *e) {
        struct machine_config *c = &d->base;
        int r = 0;

        /* With a kernel, or a CD or disk to boot, `lodge launch --kernel FILE web` names the machine. */
        if ((c->kernel || c->n_cdroms > 0 || (c->firmware != MACHINE_FIRMWARE_NONE && c->n_disks > 0) ||
             template_installs(d->template)) &&
            c->image && !c->name)
                c->name = TAKE_PTR(c->image);
        if (!c->name)
                r = cli_default_name(c->image, &c->name);
        if (r == 0)
                r = make_absolute(&c->kernel);
        if (r == 0)
                r = make_absolute(&c->initrd);
        for (size_t i = 0; i < c->n_disks && r == 0; i++)
                r = make_absolute(&c->disks[i].path);
        for (size_t i = 0; i < c->n_cdroms && r == 0; i++)
                r = make_absolute(&c->cdroms[i]);
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot prepare the machine") : 0;
}

static int send(struct ask *a, enum schema_route_id route, json_t **ret_json, struct error *e) {
        const struct machine_definition *d = ask_object(a, &machine_definition_schema);
        _cleanup_free_ char *said = NULL;
        int r;

        if (!d->template)
                return ask_send(a, route, NULL, &machine_definition_schema, ret_json, e);
        r = template_said(a, &said, e);
        return r < 0 ? r : ask_send_text(a, route, NULL, said, ret_json, e);
}

static int explain_template(const struct ask *a, struct error *e) {
        const struct machine_definition *d = ask_object(a, &machine_definition_schema);
        _cleanup_free_ char *said = NULL;
        int r = d->template ? template_said(a, &said, e) : 0;

        if (r == 0 && d->template)
                template_explain(d->template, said, stderr);
        return r;
}

/* What --dry-run and --explain show: the machine as it would be. */
static int show_plan(struct ask *a, enum schema_route_id route, struct error *e) {
        bool dry_run = a->request->dry_run;
        json_auto_t *machine = NULL;
        int r;

        a->request->dry_run = true;
        r = send(a, route, &machine, e);
        a->request->dry_run = dry_run;
        if (r == 0 && a->request->explain)
                r = explain_template(a, e);
        if (r < 0)
                return r;
        if (dry_run)
                return ask_print_object(a, machine, &machine_view_schema, PLAN_COLUMNS, e);
        const struct render to_stderr = { .file = stderr, .object = &machine_view_schema, .columns = PLAN_COLUMNS };
        return render_object(&to_stderr, machine, e);
}

static int prepare(struct ask *a, struct error *e) {
        struct machine_definition *d = ask_object(a, &machine_definition_schema);
        int r = complete(d, e);

        return r < 0 ? r : add_access(ask_object(a, &access_options_schema), &d->cloud, e);
}

static int begin(struct ask *a, enum schema_route_id route, json_t **ret_answer, struct error *e) {
        int r = 0;

        if (a->request->dry_run || a->request->explain)
                r = show_plan(a, route, e);
        if (r < 0 || a->request->dry_run)
                return r;
        return send(a, route, ret_answer, e);
}

int ask_machine_define(struct ask *a, struct error *e) {
        json_auto_t *machine = NULL;
        int r = prepare(a, e);

        if (r == 0)
                r = begin(a, ROUTE_MACHINE_DEFINE, &machine, e);
        if (r < 0 || !machine)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, machine, &machine_view_schema, PLAN_COLUMNS, e);
        printf("%s: defined; lodge start %s\n", json_string_value(json_object_get(machine, "name")),
               json_string_value(json_object_get(machine, "name")));
        return 0;
}

/* Is all that is missing an image that can be built? */
static bool wants_building(const struct ask *a, const struct error *e) {
        const struct machine_definition *d = ask_object(a, &machine_definition_schema);

        return !a->request->dry_run && e->id && streq(e->id, "image-not-found") && image_recipe_is(d->base.image);
}

static int build_image(struct ask *a, struct error *e) {
        const struct machine_definition *d = ask_object(a, &machine_definition_schema);
        json_auto_t *operation = NULL;
        _cleanup_free_ char *body = NULL;
        int r;

        if (ask_is_people(a))
                fprintf(stderr, "lodge: there is no image %s yet: it is built first, which takes a minute or two\n",
                        d->base.image);
        if (asprintf(&body, "{\"name\":\"%s\"}", d->base.image) < 0) { /* a recipe's name needs no escapes */
                body = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot build the image");
        }
        r = ask_send_text(a, ROUTE_IMAGE_BUILD, NULL, body, &operation, e);
        return r < 0 ? r : follow(a, operation, NULL, e);
}

int ask_machine_launch(struct ask *a, struct error *e) {
        json_auto_t *operation = NULL, *end = NULL;
        int r = prepare(a, e);

        if (r == 0)
                r = begin(a, ROUTE_MACHINE_LAUNCH, &operation, e);
        if (r < 0 && wants_building(a, e)) {
                error_clear(e);
                r = build_image(a, e);
                if (r == 0)
                        r = begin(a, ROUTE_MACHINE_LAUNCH, &operation, e);
        }
        if (r < 0 || !operation)
                return r;
        return follow_print(a, operation, &end, e);
}
