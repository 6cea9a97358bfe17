// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-pull: take an image from a server
 *
 *      look    read the source's index, find the image: its URL, size and checksum go into the journal
 *      fetch   download it, compare the checksum, make a disk of it; the image appears whole or not at all
 *
 * Both can be done again: a pull that was interrupted goes on, with what had come, and with the index as it was read first. Nothing has to be undone: what is left
 * of a download that failed is the image store's (daemon/image/pull.c), and so is its end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/machine/catalogue.h"
#include "daemon/machine/internal.h"

static void set_text(struct operation *op, const char *key, const char *value) {
        if (value)
                json_object_set_new(op->args, key, json_string(value));
}

/* The source's URL and trust are those that the index was asked for with: it may be deleted, or another by now. */
static int note_item(struct operation *op, const struct fetch_item *item, struct error *e) {
        const char *base = operation_arg(op, "source_url") ?: "";
        size_t n = strlen(base);
        _cleanup_free_ char *url = NULL, *catalogue = NULL;

        if (asprintf(&url, "%s%s%s", base, n > 0 && base[n - 1] == '/' ? "" : "/", item->path) < 0)
                url = NULL;
        if (asprintf(&catalogue, "%s:%s", operation_arg(op, "source"), item->name) < 0)
                catalogue = NULL;
        if (!url || !catalogue)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot pull the image");
        set_text(op, "url", url);
        set_text(op, "catalogue", catalogue);
        set_text(op, "digest", item->digest);
        set_text(op, "version", item->version);
        set_text(op, "format", pull_format_to_string(item->format));
        json_object_set_new(op->args, "size", json_integer((json_int_t)item->size));
        if (!operation_arg(op, "as"))
                set_text(op, "as", item->name);
        return 0;
}

static void on_index(void *opaque, const struct error *e, const struct fetch_result *result) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct operation *op = opaque;
        const char *name = operation_arg(op, "name") ?: "";
        const struct fetch_item *item = result ? machine_index_find(result, name) : NULL;
        int r = 0;

        if (!e && !item) {
                r = error_set(&own, -ENOENT, "catalogue-no-image", NULL, "source %s has no image %s",
                              operation_arg(op, "source"), name);
                error_set_fix(&own, "see what it has: lodge image available %s", operation_arg(op, "source"));
        } else if (!e)
                r = note_item(op, item, &own);
        operation_step_done(op, r < 0 ? &own : e);
}

static int look_run(struct operation *op, struct error *e) {
        _cleanup_(image_source_config_freep) struct image_source_config *source = NULL;
        int r = machine_source_load(op->context, operation_arg(op, "source") ?: "", &source, e);

        if (r < 0)
                return r;
        set_text(op, "source_url", source->url);
        set_text(op, "trust", image_trust_to_string(machine_source_trust(source)));
        operation_progress(op, "reading the index of %s", source->url);
        r = machine_index(op->context, source, on_index, op, &op->call, e);
        return r < 0 ? r : 1;
}

static int fetch_run_step(struct operation *op, struct error *e) {
        return operation_ask(op, "image-pull",
                             json_pack("{s:s, s:s, s:s, s:s*, s:s, s:s, s:s, s:I}", "name", operation_arg(op, "as"),
                                       "url", operation_arg(op, "url"), "digest", operation_arg(op, "digest"),
                                       "version", operation_arg(op, "version"), "format", operation_arg(op, "format"),
                                       "catalogue", operation_arg(op, "catalogue"), "trust", operation_arg(op, "trust"),
                                       "size", json_integer_value(json_object_get(op->args, "size"))),
                             on_step_answer, e);
}

static void pull_ended(struct operation *op) {
        bool done = op->row->state == STORE_OP_DONE;

        machines_event(op->context, done ? "image-pulled" : "image-failed", NULL, op->row->target, op->row->request_id,
                       "%s", done ? "it can be used" : op->error.message ?: "it was not pulled");
}

static const struct operation_step pull_steps[] = { { "look", look_run, NULL }, { "fetch", fetch_run_step, NULL } };
const struct operation_kind image_pull_kind = { .name = "image-pull",
                                                .steps = pull_steps,
                                                .n_steps = ELEMENTSOF(pull_steps),
                                                .cancel = operation_cancel_call,
                                                .ended = pull_ended };

int machine_image_pull(struct machines *ms, const struct image_pull_request *how, const struct machine_caller *caller,
                       char **ret_id, struct error *e) {
        _cleanup_(image_source_config_freep) struct image_source_config *source = NULL;
        char target[256];
        struct operation *op;
        int r = machine_source_load(ms, how->source, &source, e);

        if (r < 0)
                return r;
        if (how->as && !image_name_is_valid(how->as))
                return error_set(e, -EINVAL, "image-name",
                                 "use lower-case letters, digits, '.', '-', '_', and '/' between at most three parts",
                                 "'%s' can't be an image's name", how->as);
        snprintf(target, sizeof(target), "%s:%s", how->source, how->name);
        r = operation_begin(ms->operations, &image_pull_kind, "default", target, NULL,
                            json_pack("{s:s, s:s, s:s*}", "source", how->source, "name", how->name, "as", how->as),
                            caller->who, caller->request_id, &op, e);
        if (r < 0)
                return r;
        *ret_id = strdup(op->row->id);
        return *ret_id ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot follow the pull");
}
