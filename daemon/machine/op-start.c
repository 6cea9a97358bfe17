// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-start: launch (define a machine and start it) and start
 *
 *      launch: define   the row                                  undo: delete it
 *      both:   network  the networks are up, its ports published  undo: withdraw the ports
 *              disk     the machine's own disk, from its image, or empty   undo: delete what was made
 *              record   the row knows its disk
 *              seed     what its first boot is told
 *              spawn    the keeper, by the broker                undo: end it
 *              watch    its sockets
 *
 * In the journal: uuid; wanted_before; volume (its name, chosen at the start, so that an undo knows it); may_make (the disk was not there before). A start that is
 * found half done is undone: what a person sees is a machine that is stopped, with an operation that says so.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/machine/internal.h"
#include "daemon/seed/seed.h"

int operation_target(struct operation *op, struct store_machine **ret_row, struct error *e) {
        struct machines *ms = op->context;

        return store_machine_find(ms->store, NULL, op->row->target_uuid, ret_row, e);
}

void on_step_answer(void *opaque, const struct error *e, struct wire_message *reply) {
        operation_step_done(opaque, e);
}

static void on_progress(void *opaque, const char *text, struct wire_message *m) {
        operation_progress(opaque, "%s", text);
}

int operation_ask(struct operation *op, const char *what, json_t *args, broker_reply_fn fn, struct error *e) {
        struct machines *ms = op->context;
        int r = operation_note(op, e);

        if (r < 0) {
                json_decref(args);
                return r;
        }
        if (!args || broker_call(ms->broker, what, args, on_progress, fn, op, &op->call) < 0)
                return broker_gone(e);
        return 1;
}

/* What a step changes in the store, with the journal's word that the step has begun: one transaction. */
int operation_update(struct operation *op, struct store_machine *row, struct error *e) {
        struct machines *ms = op->context;
        int r = store_begin(ms->store, e);

        if (r < 0)
                return r;
        r = operation_note(op, e);
        if (r == 0)
                r = store_machine_update(ms->store, row, 0, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        r = store_commit(ms->store, e);
        op->stalls = r < 0;
        return r;
}

void operation_cancel_call(struct operation *op) {
        struct machines *ms = op->context;

        if (op->call)
                broker_cancel(ms->broker, op->call);
}

/* ---- define --------------------------------------------------------------------------------------------------------- */

int define_undo(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        int r = store_machine_delete(ms->store, op->row->target_uuid, 0, e);

        if (r == -ENOENT) {
                error_clear(e);
                return 0;
        }
        return r;
}

/* ---- disk ----------------------------------------------------------------------------------------------------------- */

static void on_disk(void *opaque, const struct error *e, struct wire_message *reply) {
        struct operation *op = opaque;
        const char *name = reply ? json_string_value(json_object_get(reply->json, "name")) : NULL;

        if (name)
                json_object_set_new(op->args, "volume", json_string(name));
        operation_step_done(op, e);
}

int start_disk_run(struct operation *op, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *facts = NULL;
        const char *volume;
        int r = operation_target(op, &row, e);

        if (r == 0)
                r = machine_definition_load(row, &d, e);
        if (r < 0)
                return r;
        facts = row_facts(row);
        volume = json_string_value(json_object_get(facts, "volume"));
        json_object_set_new(op->args, "disk_size", json_integer((json_int_t)d->disk_size));
        if (volume) { /* it has one */
                json_object_set_new(op->args, "volume", json_string(volume));
                if (d->disk_size == 0 ||
                    (json_int_t)d->disk_size == json_integer_value(json_object_get(facts, "disk_size")))
                        return 0;
                return operation_ask(
                        op, "volume-grow",
                        json_pack("{s:s, s:s, s:I}", "pool", d->pool, "name", volume, "size", (json_int_t)d->disk_size),
                        on_step_answer, e);
        }
        if (!d->base.image && !d->disk_size)
                return 0;
        return operation_ask(op, "machine-disk",
                             json_pack("{s:b, s:s, s:s, s:s*, s:I}", "again", 1, "pool", d->pool, "name",
                                       operation_arg(op, "disk_name"), "image", d->base.image, "size",
                                       (json_int_t)d->disk_size),
                             on_disk, e);
}

int start_disk_undo(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        const char *name = operation_arg(op, "disk_name");
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_auto_t *facts = NULL;

        if (!name || !json_is_true(json_object_get(op->args, "may_make")))
                return 0;
        /* A row that knows the disk keeps it: it is the machine's by now, and may be of use the next time. */
        if (store_machine_find(ms->store, NULL, op->row->target_uuid, &row, NULL) == 0) {
                facts = row_facts(row);
                if (json_object_get(facts, "volume"))
                        return 0;
        }
        return operation_ask(op, "volume-delete",
                             json_pack("{s:s, s:s}", "pool", operation_arg(op, "pool"), "name", name), on_step_answer,
                             e);
}

int start_record_run(struct operation *op, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        const char *volume = operation_arg(op, "volume");
        json_auto_t *facts = NULL;
        int r;

        if (!volume)
                return 0;
        r = operation_target(op, &row, e);
        if (r < 0)
                return r;
        facts = row_facts(row);
        json_object_set_new(facts, "volume", json_string(volume));
        json_object_set(facts, "disk_size", json_object_get(op->args, "disk_size"));
        if (row_set_facts(row, facts) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot keep the disk's name");
        return operation_update(op, row, e);
}

/* Only launch takes the disk back: a machine that was there before keeps it. */
int start_record_undo(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_auto_t *facts = NULL;

        if (op->kind != &launch_kind || store_machine_find(ms->store, NULL, op->row->target_uuid, &row, NULL) < 0)
                return 0;
        facts = row_facts(row);
        json_object_del(facts, "volume");
        row_set_facts(row, facts);
        return store_machine_update(ms->store, row, 0, e);
}

/* ---- seed ----------------------------------------------------------------------------------------------------------- */

static void on_seed(void *opaque, const struct error *e, struct wire_message *reply) {
        struct operation *op = opaque;
        json_t *warning;
        size_t i;

        if (reply) {
                json_object_set(op->args, "seed", json_object_get(reply->json, "made"));
                json_object_set(op->args, "agent", json_object_get(reply->json, "agent"));
                json_array_foreach(json_object_get(reply->json, "warnings"), i, warning) {
                        operation_warn(op, "first boot: %s", json_string_value(warning) ?: "");
                }
        }
        operation_step_done(op, e);
}

int start_seed_run(struct operation *op, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_t *args;
        int r = operation_target(op, &row, e);

        if (r < 0)
                return r;
        args = machine_seed_args(row, false);
        return args ? operation_ask(op, "seed-write", args, on_seed, e)
                    : error_set(e, -ENOMEM, "memory", NULL, "cannot make the seed");
}

static int start_seed_undo(struct operation *op, struct error *e) {
        return operation_ask(op, "machine-purge", json_pack("{s:s, s:b}", "uuid", op->row->target_uuid, "devices", 1),
                             on_step_answer, e);
}

/* ---- spawn ---------------------------------------------------------------------------------------------------------- */

static void on_spawn(void *opaque, const struct error *e, struct wire_message *reply) {
        struct operation *op = opaque;
        const char *reason = reply ? json_string_value(json_object_get(reply->json, "engine_reason")) : NULL;

        if (reason)
                json_object_set_new(op->args, "engine_reason", json_string(reason));
        if (reply)
                json_object_set(op->args, "addresses", json_object_get(reply->json, "addresses"));
        if (reply && *(json_string_value(json_object_get(reply->json, "warning")) ?: ""))
                operation_warn(op, "%s", json_string_value(json_object_get(reply->json, "warning")));
        if (reply && json_is_true(json_object_get(reply->json, "fallback")))
                operation_warn(op, "engine qemu%s: %s",
                               json_is_true(json_object_get(reply->json, "kvm")) ? "" : ", emulating", reason ?: "");
        operation_step_done(op, e);
}

static json_t *hardware(const struct machine_definition *d) {
        _cleanup_free_ char *text = machine_config_format(&d->base);

        return text ? json_loads(text, 0, NULL) : NULL;
}

json_t *start_spawn_args(const struct store_machine *row, const struct machine_definition *d, json_t *networks,
                         const char *volume, bool seed) {
        _cleanup_free_ char *limits = limits_config_format(&d->limits);
        json_t *machine = hardware(d);

        if (!machine || !limits) {
                json_decref(machine);
                return NULL;
        }
        json_object_set_new(machine, "name", json_string(row->name));
        json_object_set_new(machine, "uuid", json_string(row->uuid));
        return json_pack("{s:s, s:i, s:O, s:b, s:s, s:i, s:s*, s:s*, s:s, s:o, s:o}", "disk_cache",
                         disk_cache_to_string(d->disk_cache), "disk_iothreads", (int)d->disk_iothreads, "networks",
                         networks, "seed", seed, "uuid", row->uuid, "number", (int)row->number, "image", d->base.image,
                         "volume", volume, "pool", d->pool, "machine", machine, "limits", json_loads(limits, 0, NULL));
}

int start_spawn_run(struct operation *op, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *networks = NULL;
        json_t *args;
        int r = operation_target(op, &row, e);

        if (r == 0)
                r = machine_networks_of(op->context, row, &d, &networks, e);
        if (r < 0)
                return r;
        args = start_spawn_args(row, d, networks, operation_arg(op, "volume"),
                                json_is_true(json_object_get(op->args, "seed")));
        if (!args)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot start the machine");
        operation_progress(op, "starting");
        return operation_ask(op, "machine-start", args, on_spawn, e);
}

int start_spawn_undo(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = operation_target(op, &row, e);

        return r < 0 ? r : operation_ask(op, "machine-end", machine_end_args(ms, row), on_step_answer, e);
}

/* ---- watch ---------------------------------------------------------------------------------------------------------- */

static void on_watched(void *opaque, const struct error *e) {
        operation_step_done(opaque, e);
}

int start_watch_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_auto_t *facts = NULL;
        int r = operation_target(op, &row, e);

        if (r < 0)
                return r;
        facts = row_facts(row);
        if (operation_arg(op, "engine_reason"))
                json_object_set_new(facts, "engine_reason", json_string(operation_arg(op, "engine_reason")));
        json_object_set(facts, "addresses", json_object_get(op->args, "addresses"));
        json_object_del(facts, "reason");
        free(row->running);
        row->running = strdup(row->config);
        if (!row->running || row_set_facts(row, facts) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot start the machine");
        r = operation_update(op, row, e);
        if (r == 0)
                r = live_attach(ms, row, on_watched, op, e);
        return r < 0 ? r : 1;
}

int start_watch_undo(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        struct machine_live *live = live_find(ms, op->row->target_uuid);

        if (live)
                live_free(live); /* its end is asked for by the step before */
        return 0;
}

/* ---- boot ----------------------------------------------------------------------------------------------------------- */

/*
 * launch waits for the guest, since that is what a person wants to know: does it boot, and did cloud-init do what it was told? Whatever the answer is, the
 * machine stays: its console says more than an undo would.
 */
struct boot {
        struct operation *op;
        struct loop_source *timer;
        unsigned int ticks;
        bool asked;
};

#define BOOT_TICK_US 250000

static void boot_release(struct operation *op) {
        struct machines *ms = op->context;
        struct boot *b = op->state;

        if (!b)
                return;
        machine_exec_forget(ms, b);
        loop_source_free(b->timer);
        free(b);
        op->state = NULL;
}

static void boot_done(struct boot *b) {
        operation_step_done(b->op, NULL);
}

static void on_cloud_init(void *opaque, const struct error *e, const struct agent_result *result) {
        struct boot *b = opaque;
        struct seed_result found = { 0 };

        b->asked = false;
        if (e || result->status == 127 || seed_result_parse(result->out ?: "", result->out_len, &found) < 0) {
                boot_done(b); /* it has no cloud-init */
                return;
        }
        operation_progress(b->op, "cloud-init: %s", seed_state_name(found.state));
        for (size_t i = 0; i < found.n_messages; i++)
                operation_warn(b->op, "cloud-init: %s", found.messages[i]);
        if (found.state == SEED_ERROR && found.n_messages == 0)
                operation_warn(b->op, "cloud-init failed: lodge exec %s 'cloud-init status --long'",
                               b->op->row->target);
        if (found.state != SEED_RUNNING)
                boot_done(b);
        seed_result_clear(&found);
}

static void on_boot_tick(void *opaque) {
        struct boot *b = opaque;
        struct operation *op = b->op;
        struct machines *ms = op->context;
        struct machine_live *live = live_find(ms, op->row->target_uuid);
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_int_t limit = json_integer_value(json_object_get(op->args, "boot_timeout"));

        if (!live) {
                operation_warn(op, "it ended while it booted: lodge info %s says how", op->row->target);
                boot_done(b);
                return;
        }
        if (++b->ticks * (uint64_t)BOOT_TICK_US > (uint64_t)limit * 1000000) {
                operation_warn(op, "it runs, but its guest agent did not answer within %d s: lodge console %s",
                               (int)limit, op->row->target);
                boot_done(b);
                return;
        }
        if (live->agent_ready && !b->asked && b->ticks % 4 == 0 &&
            store_machine_find(ms->store, NULL, op->row->target_uuid, &row, NULL) == 0 &&
            machine_exec(ms, row, "cloud-init status --format json 2>/dev/null", 60, on_cloud_init, b, NULL) == 0)
                b->asked = true;
        if (!live->agent_ready)
                operation_progress(op, "waiting for the guest, %u s", b->ticks / (1000000 / BOOT_TICK_US));
        loop_timer_set(b->timer, BOOT_TICK_US);
}

static int boot_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        struct boot *b;

        if (json_integer_value(json_object_get(op->args, "boot_timeout")) == 0 ||
            !json_is_true(json_object_get(op->args, "agent")))
                return 0;
        b = calloc(1, sizeof(*b));
        if (!b || loop_add_timer(ms->loop, on_boot_tick, b, &b->timer) < 0) {
                free(b);
                return 0;
        }
        b->op = op;
        op->state = b;
        loop_timer_set(b->timer, BOOT_TICK_US);
        return 1;
}

static struct operation *launch_that_waits(struct machines *ms, const char *uuid) {
        struct operation *op = operation_of_target(ms->operations, uuid);

        return op && op->kind == &launch_kind && op->row->step == op->kind->n_steps - 1 && op->busy && op->state ? op
                                                                                                                 : NULL;
}

int launch_or_free(struct machines *ms, const struct store_machine *row, struct error *e) {
        return launch_that_waits(ms, row->uuid) ? 0 : operation_target_free(ms->operations, row->name, row->uuid, e);
}

void launch_stop_waiting(struct machines *ms, const char *uuid) {
        struct operation *op = launch_that_waits(ms, uuid);

        if (op)
                operation_step_skip(op);
}

/* ---- the end -------------------------------------------------------------------------------------------------------- */

void start_ended(struct operation *op) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;

        if (op->row->state == STORE_OP_DONE) {
                machines_event(ms, "machine-started", op->row->project, op->row->target, op->row->request_id,
                               "started by %s", op->row->requester ?: "the daemon");
                return;
        }
        if (store_machine_find(ms->store, NULL, op->row->target_uuid, &row, NULL) == 0) {
                row->wanted = json_is_true(json_object_get(op->args, "wanted_before"));
                free(row->running);
                row->running = NULL;
                store_machine_update(ms->store, row, 0, NULL);
                restart_consider(ms, row, false);
        }
        machines_event(ms, "machine-start-failed", op->row->project, op->row->target, op->row->request_id, "%s",
                       op->error.message ?: "it failed");
}

static const struct operation_step launch_steps[] = {
        { "define", NULL, define_undo },
        { "network", networks_run, networks_undo },
        { "disk", start_disk_run, start_disk_undo, .late = true },
        { "record", start_record_run, start_record_undo, .late = true },
        { "seed", start_seed_run, start_seed_undo, .late = true },
        { "spawn", start_spawn_run, start_spawn_undo },
        { "watch", start_watch_run, start_watch_undo, .late = true },
        { "boot", boot_run, NULL },
};

static const struct operation_step start_steps[] = {
        { "network", networks_run, networks_undo },
        { "disk", start_disk_run, start_disk_undo, .late = true },
        { "record", start_record_run, start_record_undo, .late = true },
        { "seed", start_seed_run, NULL, .late = true },
        { "spawn", start_spawn_run, start_spawn_undo },
        { "watch", start_watch_run, start_watch_undo, .late = true },
};

const struct operation_kind launch_kind = { .name = "machine-launch",
                                            .steps = launch_steps,
                                            .n_steps = ELEMENTSOF(launch_steps),
                                            .n_undone = ELEMENTSOF(launch_steps) - 1,
                                            .release = boot_release,
                                            .cancel = operation_cancel_call,
                                            .ended = start_ended };
const struct operation_kind start_kind = { .name = "machine-start",
                                           .steps = start_steps,
                                           .n_steps = ELEMENTSOF(start_steps),
                                           .n_undone = ELEMENTSOF(start_steps),
                                           .cancel = operation_cancel_call,
                                           .ended = start_ended };

/* What the steps need to know: the disk's name is made from the machine's at the time when the disk is. */
json_t *start_args(const struct store_machine *row, const struct machine_definition *d, unsigned int boot_timeout) {
        json_auto_t *facts = row_facts(row);
        char name[128];

        snprintf(name, sizeof(name), "%.54s-%.8s", row->name, row->uuid);
        return json_pack("{s:i, s:s, s:s, s:b, s:b}", "boot_timeout", (int)boot_timeout, "disk_name", name, "pool",
                         d->pool, "wanted_before", row->wanted, "may_make", json_object_get(facts, "volume") == NULL);
}

/* A transaction that ends in an operation. */
int operation_commit(struct machines *ms, struct operation *op, char **ret_id, struct error *e) {
        char *id = strdup(op->row->id);
        struct fault *fault = operations_fault(ms->operations);
        int r;

        fault_point(fault, "begin", "journal");
        r = id ? store_commit(ms->store, e) : error_set(e, -ENOMEM, "memory", NULL, "cannot begin");
        fault_point(fault, "begin", "journaled");
        if (!id)
                store_rollback(ms->store);
        if (r < 0) {
                operation_abandon(op);
                free(id);
                return r;
        }
        *ret_id = id;
        return 0;
}

int machine_launch(struct machines *ms, const char *project, const struct machine_definition *d,
                   unsigned int boot_timeout, const struct machine_caller *caller, char **ret_id, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        struct operation *op;
        int r = networks_name_free(ms, project, d->base.name, d, e);

        if (r == 0)
                r = machine_row_new(project, d, &row, e);
        if (r == 0)
                r = store_begin(ms->store, e);
        if (r < 0)
                return r;
        row->wanted = true;
        r = store_machine_add(ms->store, row, e);
        if (r == 0)
                r = operation_begin(ms->operations, &launch_kind, project, row->name, row->uuid,
                                    start_args(row, d, boot_timeout), caller->who, caller->request_id, &op, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        r = operation_commit(ms, op, ret_id, e);
        if (r == 0)
                machines_event(ms, "machine-defined", project, row->name, caller->request_id, "defined by %s",
                               caller->who);
        return r;
}

int machine_start_check(struct machines *ms, const struct store_machine *row, struct error *e) {
        if (live_find(ms, row->uuid)) {
                error_set(e, -EALREADY, "machine-running", NULL, "%s runs already", row->name);
                error_set_fix(e, "look at it: lodge info %s", row->name);
                return -EALREADY;
        }
        return operation_target_free(ms->operations, row->name, row->uuid, e);
}

int machine_start(struct machines *ms, const struct store_machine *row, const struct machine_caller *caller,
                  char **ret_id, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        _cleanup_(store_machine_freep) struct store_machine *mine = NULL;
        struct operation *op;
        int r = machine_start_check(ms, row, e);

        if (r == 0)
                r = store_begin(ms->store, e);
        if (r < 0)
                return r;
        r = store_machine_find(ms->store, NULL, row->uuid, &mine, e);
        if (r == 0)
                r = machine_definition_load(mine, &d, e);
        if (r == 0)
                r = operation_begin(ms->operations, &start_kind, mine->project, mine->name, mine->uuid,
                                    start_args(mine, d, 0), caller->who, caller->request_id, &op, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        mine->wanted = true;
        r = store_machine_update(ms->store, mine, 0, e);
        if (r < 0) {
                store_rollback(ms->store);
                operation_abandon(op);
                return r;
        }
        return operation_commit(ms, op, ret_id, e);
}
