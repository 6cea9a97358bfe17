// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-reboot: stop a machine and start it again, as one
 *
 *      ask      the ladder of live.c, until it has ended or the time is over: then it runs on
 *      again    it is wanted to run (a guest that powers off says otherwise)
 *      ...      the steps of a start: what its definition says by now takes effect
 *      spawn    with what is left of a spawn before: the daemon may have been killed in one
 *
 * Not a reset inside the guest: that would leave what waits for the next start waiting, and a power button can't ask for it. It rolls forward, unlike a start: a
 * machine that ran is meant to run again. When a step of the start fails, it stays stopped and says why.
 */
#include <errno.h>
#include <string.h>

#include "daemon/machine/internal.h"

static int again_run(struct operation *op, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = operation_target(op, &row, e);

        if (r < 0)
                return r;
        stop_release(op);
        row->wanted = true;
        free(row->running);
        row->running = NULL;
        return operation_update(op, row, e);
}

static void on_cleared(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct operation *op = opaque;
        int r;

        if (e) {
                operation_step_done(op, e);
                return;
        }
        r = start_spawn_run(op, &own);
        if (r < 0 && own.code == 0)
                error_set(&own, r, "machine-start", NULL, "cannot start the machine");
        if (r < 0)
                operation_step_done(op, &own);
}

static int spawn_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        struct machine_live *live = live_find(ms, op->row->target_uuid);
        int r = operation_target(op, &row, e);

        if (r < 0)
                return r;
        if (live)
                live_free(live); /* of the spawn before: not yet ours */
        return operation_ask(op, "machine-end", machine_end_args(ms, row), on_cleared, e);
}

static void reboot_ended(struct operation *op) {
        struct machines *ms = op->context;

        if (op->row->state == STORE_OP_DONE)
                machines_event(ms, "machine-rebooted", op->row->project, op->row->target, op->row->request_id,
                               "rebooted by %s", op->row->requester ?: "the daemon");
        else if (live_find(ms, op->row->target_uuid))
                machines_event(ms, "machine-reboot-failed", op->row->project, op->row->target, op->row->request_id,
                               "it runs on: %s", op->error.message ?: "it did not stop");
        else
                start_ended(op);
}

static const struct operation_step reboot_steps[] = {
        { "ask", stop_ask_run, NULL },
        { "again", again_run, NULL, .late = true },
        { "network", networks_run, networks_undo },
        { "disk", start_disk_run, start_disk_undo, .late = true },
        { "record", start_record_run, start_record_undo, .late = true },
        { "seed", start_seed_run, NULL, .late = true },
        { "spawn", spawn_run, start_spawn_undo },
        { "watch", start_watch_run, start_watch_undo, .late = true },
};

const struct operation_kind reboot_kind = { .name = "machine-reboot",
                                            .steps = reboot_steps,
                                            .n_steps = ELEMENTSOF(reboot_steps),
                                            .cancel = NULL,
                                            .release = stop_release,
                                            .ended = reboot_ended };

int machine_reboot_check(struct machines *ms, const struct store_machine *row, struct error *e) {
        if (!live_find(ms, row->uuid))
                return machine_refuse_stopped(row, e);
        return launch_or_free(ms, row, e);
}

int machine_reboot(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                   const struct machine_caller *caller, char **ret_id, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        struct operation *op;
        json_t *args;
        int r = machine_reboot_check(ms, row, e);

        if (r == 0)
                r = machine_definition_load(row, &d, e);
        if (r < 0)
                return r;
        launch_stop_waiting(ms, row->uuid);
        args = start_args(row, d, 0);
        if (!args)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot reboot the machine");
        json_object_set_new(args, "way", json_string(stop_way_to_string(how->way)));
        json_object_set_new(args, "timeout", json_integer(how->timeout));
        json_object_set_new(args, "force", json_boolean(how->force));
        r = store_begin(ms->store, e);
        if (r < 0) {
                json_decref(args);
                return r;
        }
        r = operation_begin(ms->operations, &reboot_kind, row->project, row->name, row->uuid, args, caller->who,
                            caller->request_id, &op, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        return operation_commit(ms, op, ret_id, e);
}
