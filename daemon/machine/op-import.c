// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-import: make an image of what a client has uploaded
 *
 *      import  the image appears whole or not at all, and then the upload goes; undone: the upload goes
 *
 * The bytes are there, on the disk and compared with their checksum, before this begins (daemon/api/api-upload.c). An import that was interrupted is done again. What
 * nobody was told of before the daemon was killed is an upload without an operation: import_sweep() has it removed.
 *
 * A few are made at a time, and the others wait for their turn, in order: each takes one of the calls that may be open to the broker, which machines need, too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/machine/internal.h"

#define IMPORTS_MAX 4u /* at a time */

static bool is_import(const struct operation *op) {
        return op->kind == &image_import_kind && op->row->state == STORE_OP_RUNNING && op->busy;
}

static bool has_room(const struct machines *ms) {
        unsigned int n = 0;

        for (const struct operation *op = operations_first(ms->operations); op; op = op->next)
                n += is_import(op) && op->call;
        return n < IMPORTS_MAX;
}

static int import_ask(struct operation *op, struct error *e);

/* One has ended: the turn is the next one's that waits. */
static void import_next(struct machines *ms) {
        for (struct operation *op = operations_first(ms->operations), *next; op && has_room(ms); op = next) {
                _cleanup_error_ struct error e = ERROR_INIT;

                next = op->next; /* one whose undoing fails, too, is gone */
                if (is_import(op) && !op->call && import_ask(op, &e) < 0)
                        operation_step_done(op, &e);
        }
}

static void on_imported(void *opaque, const struct error *e, struct wire_message *reply) {
        struct operation *op = opaque;
        struct machines *ms = op->context;

        operation_step_done(op, e);
        import_next(ms);
}

static int import_ask(struct operation *op, struct error *e) {
        return operation_ask(op, "image-import",
                             json_pack("{s:s, s:s, s:s, s:s, s:s*, s:b}", "upload", operation_arg(op, "upload"), "name",
                                       op->row->target, "sha256", operation_arg(op, "sha256"), "format",
                                       operation_arg(op, "format"), "append", operation_arg(op, "append"), "agent",
                                       json_is_true(json_object_get(op->args, "agent"))),
                             on_imported, e);
}

static int import_run(struct operation *op, struct error *e) {
        if (has_room(op->context))
                return import_ask(op, e);
        operation_progress(op, "waiting for other imports");
        return 1;
}

static void import_cancel(struct operation *op) {
        _cleanup_error_ struct error e = ERROR_INIT;

        if (op->call) {
                operation_cancel_call(op);
                return;
        }
        error_set(&e, -EINTR, "cancelled", NULL, "the import was stopped");
        operation_step_done(op, &e);
}

static int import_undo(struct operation *op, struct error *e) {
        return operation_ask(op, "image-upload-drop", json_pack("{s:s}", "upload", operation_arg(op, "upload")),
                             on_step_answer, e);
}

static void import_ended(struct operation *op) {
        bool done = op->row->state == STORE_OP_DONE;

        machines_event(op->context, done ? "image-imported" : "image-failed", NULL, op->row->target,
                       op->row->request_id, "%s", done ? "it can be used" : op->error.message ?: "it was not imported");
}

static const struct operation_step import_steps[] = { { "import", import_run, import_undo } };
const struct operation_kind image_import_kind = { .name = "image-import",
                                                  .steps = import_steps,
                                                  .n_steps = ELEMENTSOF(import_steps),
                                                  .cancel = import_cancel,
                                                  .ended = import_ended };

void machine_image_upload_drop(struct machines *ms, const char *upload) {
        if (broker_call(ms->broker, "image-upload-drop", json_pack("{s:s}", "upload", upload), NULL, NULL, NULL, NULL) <
            0)
                log_warning("upload %s is removed at the next start", upload);
}

int machine_image_import(struct machines *ms, const char *name, const struct image_upload_request *how,
                         const char *upload, const char *sha256, const struct machine_caller *caller, char **ret_id,
                         struct error *e) {
        struct operation *op;
        int r = operation_begin(ms->operations, &image_import_kind, "default", name, NULL,
                                json_pack("{s:s, s:s, s:s, s:s*, s:b}", "upload", upload, "sha256", sha256, "format",
                                          image_upload_format_to_string(how->disk_format), "append", how->append,
                                          "agent", how->agent),
                                caller->who, caller->request_id, &op, e);

        if (r < 0) {
                machine_image_upload_drop(ms, upload);
                return r;
        }
        *ret_id = strdup(op->row->id);
        return *ret_id ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot follow the import");
}

void import_sweep(struct machines *ms) {
        json_t *keep = json_array();

        for (const struct operation *op = operations_first(ms->operations); op; op = op->next)
                if (op->kind == &image_import_kind)
                        json_array_append(keep, json_object_get(op->args, "upload"));
        if (broker_call(ms->broker, "image-upload-keep", json_pack("{s:o}", "keep", keep), NULL, NULL, NULL, NULL) < 0)
                log_warning("uploads that were broken off are removed at the next start");
}
