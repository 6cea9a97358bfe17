// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-stop: stop a machine, and delete one
 *
 *      stop:    ask      the ladder of live.c, until the machine has ended or the time is over
 *      delete:  end      pull its plug, if that was asked for
 *               disks    delete its disks, if that was asked for
 *               purge    its addresses, seed and last words
 *               forget   delete its row
 *
 * Both roll forward: half of a stop or a delete can't be taken back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/machine/internal.h"

#define KILL_PATIENCE_US 10000000

/* A step that waits for the machine's end: live.c ends it (on_reaped()), or the deadline does. */
struct wait {
        struct operation *op;
        struct loop_source *deadline;
        bool kill; /* at the deadline */
};

void stop_release(struct operation *op) {
        struct wait *w = op->state;

        if (!w)
                return;
        loop_source_free(w->deadline);
        free(w);
        op->state = NULL;
}

static void on_ignored(void *opaque, const struct error *e, struct wire_message *reply) {
}

static int pull_plug(struct machines *ms, const char *uuid) {
        return broker_call(ms->broker, "machine-kill", json_pack("{s:s}", "uuid", uuid), NULL, on_ignored, NULL, NULL);
}

static void on_deadline(void *opaque) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct wait *w = opaque;
        struct operation *op = w->op;
        struct machines *ms = op->context;
        struct machine_live *live = live_find(ms, op->row->target_uuid);

        if (w->kill && pull_plug(ms, op->row->target_uuid) == 0) { /* its end comes now, or never */
                w->kill = false;
                loop_timer_set(w->deadline, KILL_PATIENCE_US);
                return;
        }
        error_set(&e, -ETIMEDOUT, "stop-timeout", NULL, "%s did not stop in time%s", op->row->target,
                  live && !live->agent_ready ? ": no guest agent answers, and the power button does nothing" : "");
        error_set_fix(&e, "pull its plug: lodge stop %s --way force; what its guest did not write is lost",
                      op->row->target);
        if (live)
                loop_timer_set(live->ladder, UINT64_MAX);
        operation_step_done(op, &e);
}

static int wait_begin(struct operation *op, uint64_t deadline_us, bool kill, struct error *e) {
        struct machines *ms = op->context;
        struct wait *w = calloc(1, sizeof(*w));

        if (!w || loop_add_timer(ms->loop, on_deadline, w, &w->deadline) < 0) {
                free(w);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot wait for the machine");
        }
        w->op = op;
        w->kill = kill;
        op->state = w;
        loop_timer_set(w->deadline, deadline_us);
        return 1;
}

int stop_ask_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        struct machine_live *live = live_find(ms, op->row->target_uuid);
        const char *way = operation_arg(op, "way");
        json_int_t timeout = json_integer_value(json_object_get(op->args, "timeout"));

        if (!live)
                return 0;
        if (way && streq(way, "force"))
                return pull_plug(ms, live->uuid) < 0 ? -EAGAIN : wait_begin(op, KILL_PATIENCE_US, true, e);
        live_ask_end(live, !way || streq(way, "graceful"));
        return wait_begin(op, (uint64_t)timeout * 1000000, json_is_true(json_object_get(op->args, "force")), e);
}

void stop_cancel(struct operation *op) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct machines *ms = op->context;
        struct machine_live *live = live_find(ms, op->row->target_uuid);

        if (live)
                loop_timer_set(live->ladder, UINT64_MAX);
        error_set(&e, -ECANCELED, "operation-cancelled", NULL,
                  "nobody waits for it any more; the guest may still stop");
        operation_step_done(op, &e);
}

/* ---- delete --------------------------------------------------------------------------------------------------------- */

static int end_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;

        if (!live_find(ms, op->row->target_uuid))
                return 0;
        return pull_plug(ms, op->row->target_uuid) < 0 ? -EAGAIN : wait_begin(op, KILL_PATIENCE_US, true, e);
}

static void on_volume(void *opaque, const struct error *e, struct wire_message *reply) {
        operation_step_done(opaque, e && e->code == -ENOENT ? NULL : e);
}

static int disks_run(struct operation *op, struct error *e) {
        const char *volume = operation_arg(op, "volume");

        if (!volume)
                return 0;
        if (!json_is_true(json_object_get(op->args, "disks"))) {
                operation_warn(op, "its disk is kept: volume %s of pool %s", volume, operation_arg(op, "pool"));
                return 0;
        }
        return operation_ask(op, "volume-delete",
                             json_pack("{s:s, s:s}", "pool", operation_arg(op, "pool"), "name", volume), on_volume, e);
}

static int purge_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_t *args;

        if (store_machine_find(ms->store, NULL, op->row->target_uuid, &row, NULL) < 0)
                return 0;
        args = machine_end_args(ms, row);
        json_object_set_new(args, "devices", json_true());
        return operation_ask(op, "machine-purge", args, on_step_answer, e);
}

/* The row goes last, with the journal's word for it: as long as there is one, the rest can be found. */
static int forget_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        int r = store_begin(ms->store, e);

        if (r < 0)
                return r;
        r = operation_note(op, e);
        if (r == 0)
                r = store_machine_delete(ms->store, op->row->target_uuid, 0, e);
        if (r < 0) {
                store_rollback(ms->store);
                if (r != -ENOENT)
                        return r;
                error_clear(e);
                return 0;
        }
        r = store_commit(ms->store, e);
        op->stalls = r < 0;
        return r;
}

static void delete_ended(struct operation *op) {
        struct machines *ms = op->context;

        if (op->row->state == STORE_OP_DONE)
                machines_event(ms, "machine-deleted", op->row->project, op->row->target, op->row->request_id,
                               "deleted by %s", op->row->requester ?: "the daemon");
}

static const struct operation_step stop_steps[] = { { "ask", stop_ask_run, NULL } };
static const struct operation_step delete_steps[] = {
        { "end", end_run, NULL },
        { "disks", disks_run, NULL, .late = true },
        { "purge", purge_run, NULL },
        { "forget", forget_run, NULL, .late = true },
};

const struct operation_kind stop_kind = { .name = "machine-stop",
                                          .steps = stop_steps,
                                          .n_steps = ELEMENTSOF(stop_steps),
                                          .cancel = stop_cancel,
                                          .release = stop_release };
const struct operation_kind delete_kind = { .name = "machine-delete",
                                            .steps = delete_steps,
                                            .n_steps = ELEMENTSOF(delete_steps),
                                            .release = stop_release,
                                            .ended = delete_ended };

/* ---- the way in ------------------------------------------------------------------------------------------------------ */

static int begin(struct machines *ms, const struct operation_kind *kind, struct store_machine *row, json_t *args,
                 const struct machine_caller *caller, struct operation **ret_op, struct error *e) {
        struct operation *op;
        int r = operation_begin(ms->operations, kind, row->project, row->name, row->uuid, args, caller->who,
                                caller->request_id, &op, e);

        if (r < 0)
                return r;
        row->wanted = false;
        r = store_machine_update(ms->store, row, 0, e);
        if (r < 0)
                operation_abandon(op);
        else
                *ret_op = op;
        return r;
}

/* @generation: that was looked at; 0: whichever */
static int generation_check(const struct store_machine *row, uint64_t generation, struct error *e) {
        if (generation == 0 || generation == row->generation)
                return 0;
        error_set(e, -ESTALE, "machine-changed", NULL, "%s has changed since you looked at it", row->name);
        error_set_fix(e, "look at it again: lodge info %s", row->name);
        return -ESTALE;
}

/* One transaction: the operation, and that the machine is not wanted to run any more. */
static int begin_whole(struct machines *ms, const struct operation_kind *kind, const struct store_machine *row,
                       uint64_t generation, json_t *args, const struct machine_caller *caller, char **ret_id,
                       struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *mine = NULL;
        struct operation *op;
        int r = store_begin(ms->store, e);

        if (r < 0) {
                json_decref(args);
                return r;
        }
        r = store_machine_find(ms->store, NULL, row->uuid, &mine, e);
        if (r == 0)
                r = generation_check(mine, generation, e);
        if (r < 0)
                json_decref(args);
        else
                r = begin(ms, kind, mine, args, caller, &op, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        return operation_commit(ms, op, ret_id, e);
}

/* Whoever waits for the guest loses patience: force goes past a stop that is under way. */
static struct operation *stop_to_pass(struct machines *ms, const struct store_machine *row,
                                      const struct machine_stop_request *how) {
        struct operation *other = operation_of_target(ms->operations, row->uuid);

        return other && other->kind == &stop_kind && how->way == STOP_WAY_FORCE ? other : NULL;
}

int machine_stop_check(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                       struct error *e) {
        if (!live_find(ms, row->uuid) && !row->wanted)
                return machine_refuse_stopped(row, e);
        return stop_to_pass(ms, row, how) ? 0 : launch_or_free(ms, row, e);
}

int machine_stop(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                 const struct machine_caller *caller, char **ret_id, struct error *e) {
        struct operation *other = stop_to_pass(ms, row, how);
        int r = machine_stop_check(ms, row, how, e);

        if (r < 0)
                return r;
        launch_stop_waiting(ms, row->uuid);
        if (other) {
                if (pull_plug(ms, row->uuid) < 0)
                        return broker_gone(e);
                *ret_id = strdup(other->row->id);
                return *ret_id ? 0 : -ENOMEM;
        }
        return begin_whole(ms, &stop_kind, row, 0,
                           json_pack("{s:s, s:i, s:b}", "way", stop_way_to_string(how->way), "timeout",
                                     (int)how->timeout, "force", how->force),
                           caller, ret_id, e);
}

int machine_delete_check(struct machines *ms, const struct store_machine *row, const struct machine_delete_query *how,
                         uint64_t generation, struct machine_definition **ret_d, struct error *e) {
        int r;

        if (live_find(ms, row->uuid) && !how->force) {
                error_set(e, -EBUSY, "machine-running", NULL, "%s runs", row->name);
                error_set_fix(e, "stop it first: lodge stop %s; or pull its plug: lodge delete %s --force", row->name,
                              row->name);
                return -EBUSY;
        }
        r = generation_check(row, generation, e);
        if (r == 0)
                r = launch_or_free(ms, row, e);
        return r < 0 ? r : machine_definition_load(row, ret_d, e);
}

int machine_delete(struct machines *ms, const struct store_machine *row, const struct machine_delete_query *how,
                   uint64_t generation, const struct machine_caller *caller, char **ret_id, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *facts = row_facts(row);
        int r = machine_delete_check(ms, row, how, generation, &d, e);

        if (r < 0)
                return r;
        launch_stop_waiting(ms, row->uuid);
        return begin_whole(ms, &delete_kind, row, generation,
                           json_pack("{s:b, s:s, s:s*}", "disks", how->disks, "pool", d->pool, "volume",
                                     json_string_value(json_object_get(facts, "volume"))),
                           caller, ret_id, e);
}
