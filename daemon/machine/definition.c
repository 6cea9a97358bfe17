// SPDX-License-Identifier: GPL-2.0-or-later
/* definition: see machine.h */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/machine/internal.h"

int machine_definition_complete(struct machine_definition *d, struct error *e) {
        const struct machine_config *c = &d->base;

        if (!c->name)
                return error_set(e, -EINVAL, "schema-required", "lower case letters, digits and hyphens",
                                 "machine.name: is missing");
        if (c->exec) {
                error_set(e, -EINVAL, "schema-conflict", NULL, "machine.exec: is for lodge run only");
                error_set_fix(e, "lodge exec %s COMMAND, once it runs", c->name);
                return -EINVAL;
        }
        if (!c->image && !c->kernel && c->firmware == MACHINE_FIRMWARE_NONE)
                return error_set(e, -EINVAL, "kernel-missing",
                                 "name an image, as debian/12 (lodge image list shows them), or boot a disk: "
                                 "--firmware uefi",
                                 "machine %s has nothing to boot: no image and no kernel", c->name);
        if (c->firmware != MACHINE_FIRMWARE_NONE && !c->image && !d->disk_size && c->n_disks == 0 && c->n_cdroms == 0)
                return error_set(e, -EINVAL, "kernel-missing",
                                 "give it a disk: --disk FILE; or an empty one and an installer: --disk-size 20G "
                                 "--cdrom FILE; or an image",
                                 "machine %s has nothing to boot: no image, no disk and no CD", c->name);
        return machine_definition_check(d, e);
}

int machine_definition_load(const struct store_machine *row, struct machine_definition **ret, struct error *e) {
        return machine_definition_parse(row->config, strlen(row->config), ret, e);
}

/* RFC 7396. @target is changed. Nesting is bounded by the patch's parser. */
static int merge(json_t *target, const json_t *patch) {
        const char *key;
        json_t *value;

        json_object_foreach((json_t *)patch, key, value) {
                json_t *old = json_object_get(target, key);
                int r = 0;

                if (json_is_null(value))
                        json_object_del(target, key);
                else if (json_is_object(value)) {
                        if (!json_is_object(old)) {
                                old = json_object();
                                if (json_object_set_new(target, key, old) < 0)
                                        return -ENOMEM;
                        }
                        r = merge(old, value);
                } else if (json_object_set_new(target, key, json_deep_copy(value)) < 0)
                        return -ENOMEM;
                if (r < 0)
                        return r;
        }
        return 0;
}

int machine_definition_patch(const struct store_machine *row, const json_t *patch, struct machine_definition **ret,
                             struct error *e) {
        json_auto_t *config = json_loads(row->config, 0, NULL);
        _cleanup_free_ char *text = NULL;
        int r;

        if (!json_is_object(config))
                return error_set(e, -EUCLEAN, "store-content", NULL, "the definition of %s cannot be read", row->name);
        if (json_is_string(json_object_get(patch, "template")) &&
            !json_equal(json_object_get(patch, "template"), json_object_get(config, "template")))
                return error_set(e, -EINVAL, "template-late", "lodge define --template NAME makes a machine of it",
                                 "a template is chosen when a machine is defined");
        /* The topology was filled in for the old number of CPUs; whoever names only a new number leaves it to us again. */
        if (json_object_get(patch, "cpus") && !json_object_get(patch, "sockets") && !json_object_get(patch, "cores") &&
            !json_object_get(patch, "threads")) {
                json_object_del(config, "sockets");
                json_object_del(config, "cores");
                json_object_del(config, "threads");
        }
        r = merge(config, patch);
        text = r < 0 ? NULL : json_dumps(config, JSON_COMPACT);
        if (!text)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot change the definition");
        r = machine_definition_parse(text, strlen(text), ret, e);
        return r;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static int replace(char **at, char *text) {
        if (!text)
                return -ENOMEM;
        free(*at);
        *at = text;
        return 0;
}

static char *labels_text(const struct machine_definition *d) {
        json_t *list = json_array();
        char *text, pair[512];

        for (size_t i = 0; i < d->n_labels; i++) {
                snprintf(pair, sizeof(pair), d->labels[i].value ? "%s=%s" : "%s", d->labels[i].key, d->labels[i].value);
                json_array_append_new(list, json_string(pair));
        }
        text = json_dumps(list, JSON_COMPACT);
        json_decref(list);
        return text;
}

int machine_row_set(struct store_machine *row, const struct machine_definition *d, struct error *e) {
        int r = replace(&row->config, machine_definition_format(d));

        if (r == 0)
                r = replace(&row->labels, labels_text(d));
        if (r == 0 && d->base.image)
                r = replace(&row->image, strdup(d->base.image));
        else if (!d->base.image) {
                free(row->image);
                row->image = NULL;
        }
        row->cpus = d->base.cpus;
        row->memory = d->base.memory;
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot keep the definition") : 0;
}

static int uuid_make(char **ret) {
        unsigned char b[16];
        char *text;

        if (getrandom(b, sizeof(b), 0) != sizeof(b))
                return -EIO;
        b[6] = (b[6] & 0x0f) | 0x40; /* RFC 9562, version 4 */
        b[8] = (b[8] & 0x3f) | 0x80;
        if (asprintf(&text, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
                     b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]) < 0)
                return -ENOMEM;
        *ret = text;
        return 0;
}

int machine_row_new(const char *project, const struct machine_definition *d, struct store_machine **ret,
                    struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = calloc(1, sizeof(*row));
        int r = row ? 0 : -ENOMEM;

        if (r == 0) {
                row->name = strdup(d->base.name);
                row->project = strdup(project);
                if (d->base.uuid)
                        row->uuid = strdup(d->base.uuid);
                else
                        r = uuid_make(&row->uuid);
                if (r == 0 && (!row->name || !row->project || !row->uuid))
                        r = -ENOMEM;
        }
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot keep the machine");
        r = machine_row_set(row, d, e);
        if (r == 0)
                *ret = TAKE_PTR(row);
        return r;
}

json_t *row_facts(const struct store_machine *row) {
        json_t *facts = row->facts ? json_loads(row->facts, 0, NULL) : NULL;

        if (json_is_object(facts))
                return facts;
        json_decref(facts);
        return json_object();
}

int row_set_facts(struct store_machine *row, const json_t *facts) {
        return replace(&row->facts, json_dumps(facts, JSON_COMPACT));
}

json_t *machine_seed_args(const struct store_machine *row, bool check) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        _cleanup_free_ char *cloud = NULL;

        if (machine_definition_load(row, &d, NULL) < 0)
                return NULL;
        cloud = cloud_config_format(&d->cloud);
        return cloud ? json_pack("{s:s, s:s, s:s*, s:o, s:b}", "uuid", row->uuid, "name", row->name, "image",
                                 d->base.image, "cloud", json_loads(cloud, 0, NULL), "check", check)
                     : NULL;
}

/* ---- what waits for the next start --------------------------------------------------------------------------------- */

/* Of no concern to the process that runs. */
static bool is_for_daemon(const char *key) {
        static const char *const keys[] = { "notes", "labels", "restart", "autostart", "name", "pool", "template" };

        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (streq(keys[i], key))
                        return true;
        return false;
}

json_t *machine_pending(const struct store_machine *row) {
        json_auto_t *config = row->running ? json_loads(row->config, 0, NULL) : NULL;
        json_auto_t *running = row->running ? json_loads(row->running, 0, NULL) : NULL;
        json_t *list = json_array(), *value;
        const char *key;

        json_object_foreach(config, key, value) {
                if (!is_for_daemon(key) && !json_equal(value, json_object_get(running, key)))
                        json_array_append_new(list, json_string(key));
        }
        json_object_foreach(running, key, value) {
                if (!is_for_daemon(key) && !json_object_get(config, key))
                        json_array_append_new(list, json_string(key));
        }
        return list;
}
