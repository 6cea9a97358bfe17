// SPDX-License-Identifier: GPL-2.0-or-later
/* op-image: build an image; and who needs an image or a volume */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/machine/internal.h"

static void on_built(void *opaque, const struct error *e, struct wire_message *reply) {
        struct operation *op = opaque;

        if (reply && json_is_true(json_object_get(reply->json, "cached")))
                operation_warn(op, "it is up to date: the same packages and recipe; --rebuild builds it all the same");
        operation_step_done(op, e);
}

static int build_run(struct operation *op, struct error *e) {
        return operation_ask(op, "image-build",
                             json_pack("{s:s, s:b}", "name", op->row->target, "force",
                                       json_is_true(json_object_get(op->args, "rebuild"))),
                             on_built, e);
}

static void build_ended(struct operation *op) {
        bool done = op->row->state == STORE_OP_DONE;

        machines_event(op->context, done ? "image-built" : "image-failed", NULL, op->row->target, op->row->request_id, "%s",
                       done ? "it can be used" : op->error.message ?: "it was not built");
}

/* An image appears whole or not at all, so a build that was interrupted is simply done again. */
static const struct operation_step build_steps[] = { { "build", build_run, NULL } };
const struct operation_kind image_build_kind = { .name = "image-build",
                                                 .steps = build_steps,
                                                 .n_steps = ELEMENTSOF(build_steps),
                                                 .cancel = operation_cancel_call,
                                                 .ended = build_ended };

int machine_image_build(struct machines *ms, const struct image_build_request *how, const struct machine_caller *caller,
                        char **ret_id, struct error *e) {
        struct operation *op;
        int r = operation_begin(ms->operations, &image_build_kind, "default", how->name, NULL,
                                json_pack("{s:b}", "rebuild", how->rebuild), caller->who, caller->request_id, &op, e);

        if (r < 0)
                return r;
        *ret_id = strdup(op->row->id);
        return *ret_id ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot follow the build");
}

/* ---- who needs it ----------------------------------------------------------------------------------------------------- */

struct search {
        const char *volume;
        char *found;
};

static int first(void *opaque, const struct store_machine *row) {
        struct search *s = opaque;

        s->found = strdup(row->name);
        return 1;
}

int machine_image_unused(struct machines *ms, const char *image, struct error *e) {
        const struct store_machine_filter filter = { .image = image, .limit = 1 };
        struct search s = { 0 };
        int r = store_machine_each(ms->store, &filter, first, &s, e);

        if (r >= 0 && s.found)
                r = error_set(e, -EBUSY, "image-in-use", "delete the machine first, or keep the image",
                              "image %s is needed by machine %s", image, s.found);
        free(s.found);
        return r < 0 ? r : 0;
}

static int owns(void *opaque, const struct store_machine *row) {
        struct search *s = opaque;
        json_auto_t *facts = row_facts(row);
        const char *volume = json_string_value(json_object_get(facts, "volume"));

        return volume && streq(volume, s->volume) ? first(s, row) : 0;
}

int machine_volume_owner(struct machines *ms, const char *volume, char **ret_name, struct error *e) {
        const struct store_machine_filter all = { .whole = true };
        struct search s = { .volume = volume };
        int r = store_machine_each(ms->store, &all, owns, &s, e);

        if (r < 0)
                return r;
        *ret_name = s.found;
        return 0;
}
