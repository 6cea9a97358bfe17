// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-clone: a second machine of one that is stopped
 *
 *      define   its row                        undo: delete it
 *      disk     a copy of the other's disk     undo: delete that
 *      record   the row knows its disk
 *      devices  a copy of its UEFI variables   undo: delete that
 *
 * What must not be shared is new: the UUID, from which MAC addresses and cloud-init's instance-id are made, so that the guest makes itself a new machine-id and
 * host keys at its first boot; MAC addresses that the definition named are dropped, and published ports, which the host has only once.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/machine/internal.h"

static int disk_run(struct operation *op, struct error *e) {
        const char *source = operation_arg(op, "source");

        if (!source) /* it has none yet: the first start makes it */
                return 0;
        return operation_ask(op, "volume-make",
                             json_pack("{s:b, s:s, s:s, s:s}", "again", 1, "pool", operation_arg(op, "pool"), "name",
                                       operation_arg(op, "disk_name"), "source", source),
                             on_step_answer, e);
}

static int disk_undo(struct operation *op, struct error *e) {
        if (!operation_arg(op, "source"))
                return 0;
        return operation_ask(
                op, "volume-delete",
                json_pack("{s:s, s:s}", "pool", operation_arg(op, "pool"), "name", operation_arg(op, "disk_name")),
                on_step_answer, e);
}

static int record_run(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        json_auto_t *facts = NULL;
        int r;

        if (!operation_arg(op, "source"))
                return 0;
        r = store_machine_find(ms->store, NULL, op->row->target_uuid, &row, e);
        if (r < 0)
                return r;
        facts = row_facts(row);
        json_object_set_new(facts, "volume", json_string(operation_arg(op, "disk_name")));
        if (row_set_facts(row, facts) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot keep the disk's name");
        return store_machine_update(ms->store, row, 0, e);
}

static int devices_run(struct operation *op, struct error *e) {
        const char *source = operation_arg(op, "devices");

        if (json_is_true(json_object_get(op->args, "tpm")))
                operation_warn(op, "its TPM is a new one: what is sealed to the other's (BitLocker's key, say) needs a "
                                   "recovery key");
        return source ? operation_ask(op, "machine-devices",
                                      json_pack("{s:s, s:s}", "uuid", op->row->target_uuid, "source", source),
                                      on_step_answer, e)
                      : 0;
}

static int devices_undo(struct operation *op, struct error *e) {
        if (!operation_arg(op, "devices"))
                return 0;
        return operation_ask(op, "machine-purge", json_pack("{s:s, s:b}", "uuid", op->row->target_uuid, "devices", 1),
                             on_step_answer, e);
}

static void clone_ended(struct operation *op) {
        struct machines *ms = op->context;

        if (op->row->state == STORE_OP_DONE)
                machines_event(ms, "machine-cloned", op->row->project, op->row->target, op->row->request_id,
                               "a clone of %s, by %s", operation_arg(op, "of") ?: "?",
                               op->row->requester ?: "the daemon");
}

static const struct operation_step clone_steps[] = {
        { "define", NULL, define_undo },
        { "disk", disk_run, disk_undo },
        { "record", record_run, NULL },
        { "devices", devices_run, devices_undo },
};

const struct operation_kind clone_kind = { .name = "machine-clone",
                                           .steps = clone_steps,
                                           .n_steps = ELEMENTSOF(clone_steps),
                                           .n_undone = ELEMENTSOF(clone_steps),
                                           .cancel = operation_cancel_call,
                                           .ended = clone_ended };

static int clone_definition(const struct store_machine *row, const char *name, struct machine_definition **ret,
                            struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        int r = machine_definition_load(row, &d, e);

        if (r < 0)
                return r;
        free(d->base.name);
        free(d->base.uuid);
        d->base.uuid = NULL;
        d->base.name = strdup(name);
        for (size_t i = 0; i < d->base.n_nets; i++) {
                free(d->base.nets[i].mac);
                d->base.nets[i].mac = NULL;
        }
        for (size_t i = 0; i < d->base.n_publish; i++)
                free(d->base.publish[i]);
        d->base.n_publish = 0;
        free(d->cloud.hostname);
        d->cloud.hostname = NULL;
        if (!d->base.name)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot clone the machine");
        *ret = TAKE_PTR(d);
        return 0;
}

int machine_clone(struct machines *ms, const struct store_machine *row, const char *name,
                  const struct machine_caller *caller, char **ret_id, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        _cleanup_(store_machine_freep) struct store_machine *clone = NULL;
        json_auto_t *facts = row_facts(row);
        char disk[128];
        struct operation *op;
        int r;

        if (live_find(ms, row->uuid) || operation_of_target(ms->operations, row->uuid))
                return machine_refuse_running(row, "runs, or is busy: its disk would be copied half written", e);
        r = clone_definition(row, name, &d, e);
        if (r == 0)
                r = networks_name_free(ms, row->project, name, d, e);
        if (r == 0)
                r = machine_row_new(row->project, d, &clone, e);
        if (r == 0)
                r = store_begin(ms->store, e);
        if (r < 0)
                return r;
        snprintf(disk, sizeof(disk), "%.54s-%.8s", clone->name, clone->uuid);
        r = store_machine_add(ms->store, clone, e);
        if (r == 0)
                r = operation_begin(
                        ms->operations, &clone_kind, clone->project, clone->name, clone->uuid,
                        json_pack("{s:s, s:s, s:s, s:s*, s:s*, s:b}", "of", row->name, "pool", d->pool, "disk_name",
                                  disk, "source", json_string_value(json_object_get(facts, "volume")), "devices",
                                  d->base.firmware == MACHINE_FIRMWARE_NONE ? NULL : row->uuid, "tpm", d->base.tpm),
                        caller->who, caller->request_id, &op, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        return operation_commit(ms, op, ret_id, e);
}
