// SPDX-License-Identifier: GPL-2.0-or-later
/* machines: the registry, and what changes a definition; see machine.h */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "daemon/machine/internal.h"

static const struct operation_kind *const kinds[] = {
        &launch_kind, &start_kind,       &stop_kind,       &delete_kind,       &clone_kind,
        &reboot_kind, &image_build_kind, &image_pull_kind, &image_import_kind, NULL
};

int machines_new(enum api_scope scope, struct loop *loop, struct store *store, struct broker_client *broker,
                 machines_event_fn on_event, void *opaque, struct machines **ret_machines) {
        struct machines *ms = calloc(1, sizeof(*ms));
        int r;

        if (!ms)
                return -ENOMEM;
        *ms = (struct machines){
                .scope = scope, .loop = loop, .store = store, .broker = broker, .on_event = on_event, .opaque = opaque
        };
        r = operations_new(loop, store, kinds, ms, &ms->operations);
        if (r == 0)
                r = sample_begin(ms);
        if (r < 0) {
                operations_free(ms->operations);
                free(ms);
                return r;
        }
        *ret_machines = ms;
        return 0;
}

void machines_free(struct machines *ms) {
        if (!ms)
                return;
        recovery_free(ms->recovery);
        restarts_free(ms);
        operations_free(ms->operations);
        while (ms->live)
                live_free(ms->live);
        sample_end(ms);
        free(ms);
}

void machines_freeze(struct machines *ms) {
        operations_freeze(ms->operations);
}

struct operations *machines_operations(struct machines *ms) {
        return ms->operations;
}

unsigned int machines_running(const struct machines *ms) {
        return ms->n_live;
}

struct machine_live *live_find(struct machines *ms, const char *uuid) {
        for (struct machine_live *l = ms->live; l; l = l->next)
                if (streq(l->uuid, uuid))
                        return l;
        return NULL;
}

int machine_refuse_stopped(const struct store_machine *row, struct error *e) {
        error_set(e, -EALREADY, "machine-stopped", NULL, "%s does not run", row->name);
        error_set_fix(e, "lodge start %s", row->name);
        return -EALREADY;
}

int machine_refuse_running(const struct store_machine *row, const char *why, struct error *e) {
        error_set(e, -EBUSY, "machine-running", NULL, "%s %s", row->name, why);
        error_set_fix(e, "stop it first: lodge stop %s", row->name);
        return -EBUSY;
}

/* Write @event down, in the transaction that is open if there is one. Its data are the caller's to free. */
static void event_keep(struct machines *ms, const char *message, struct store_event *event) {
        _cleanup_error_ struct error e = ERROR_INIT;
        json_t *value = message ? json_pack("{s:s}", "message", message) : NULL;

        event->time = (int64_t)time(NULL) * 1000000;
        event->data = value ? json_dumps(value, JSON_COMPACT) : NULL;
        json_decref(value);
        if (store_event_add(ms->store, event->kind, event->project, event->target, event->data, event->request_id,
                            &event->seq, &e) < 0)
                log_warning("event %s of %s is not kept: %s", event->kind, event->target ?: "the daemon",
                            e.message ?: "");
}

static void event_tell(struct machines *ms, const char *message, const struct store_event *event) {
        const char *id = event->request_id;

        log_info("%s %s: %s%s%s", event->kind, event->target ?: "", message ?: "", id ? " request=" : "", id ?: "");
        ms->on_event(ms->opaque, event);
}

void machines_event(struct machines *ms, const char *kind, const char *project, const char *target,
                    const char *request_id, const char *format, ...) {
        _cleanup_free_ char *message = NULL;
        struct store_event event = { .kind = (char *)kind,
                                     .project = (char *)project,
                                     .target = (char *)target,
                                     .request_id = (char *)request_id };
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&message, format, ap) < 0)
                message = NULL;
        va_end(ap);
        event_keep(ms, message, &event);
        event_tell(ms, message, &event);
        free(event.data);
}

/* ---- definitions --------------------------------------------------------------------------------------------------- */

/* A change that is one transaction. */
static int write_row(struct machines *ms, const char *what, struct store_machine *row, uint64_t generation,
                     int (*fn)(struct store *s, struct store_machine *row, uint64_t generation, struct error *e),
                     struct error *e) {
        struct fault *fault = operations_fault(ms->operations);
        int r;

        fault_point(fault, what, "journal");
        r = fn(ms->store, row, generation, e);
        fault_point(fault, what, "journaled");
        return r;
}

int machine_define(struct machines *ms, const char *project, const struct machine_definition *d,
                   const struct machine_caller *caller, struct store_machine **ret_row, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_free_ char *message = NULL;
        struct store_event event = { .kind = (char *)"machine-defined",
                                     .project = (char *)project,
                                     .request_id = (char *)caller->request_id };
        int r = networks_name_free(ms, project, d->base.name, d, e);

        if (r == 0)
                r = machine_row_new(project, d, &row, e);
        if (r == 0 && asprintf(&message, "defined by %s", caller->who) < 0)
                r = error_set(e, -ENOMEM, "memory", NULL, "cannot define the machine");
        if (r == 0)
                r = store_begin(ms->store, e);
        if (r < 0)
                return r;
        r = store_machine_add(ms->store, row, e);
        if (r < 0) {
                store_rollback(ms->store);
                return r;
        }
        event.target = row->name;
        event_keep(ms, message, &event);
        fault_point(operations_fault(ms->operations), "define", "journal");
        r = store_commit(ms->store, e);
        fault_point(operations_fault(ms->operations), "define", "journaled");
        if (r == 0) {
                event_tell(ms, message, &event);
                *ret_row = TAKE_PTR(row);
        }
        free(event.data);
        return r;
}

/* A disk that is there grows, or stays. */
static int disk_not_smaller(const struct store_machine *row, const struct machine_definition *d, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *old = NULL;
        json_auto_t *facts = row_facts(row);
        int r = machine_definition_load(row, &old, e);

        if (r < 0 || !json_object_get(facts, "volume") || d->disk_size == 0 || d->disk_size >= old->disk_size)
                return r;
        return error_set(e, -EINVAL, "disk-shrink", "make a new machine with a smaller disk, and copy what it holds",
                         "the disk of %s is there already, and does not become smaller", row->name);
}

int machine_redefine(struct machines *ms, struct store_machine *row, const struct machine_definition *d,
                     uint64_t generation, const struct machine_caller *caller, struct error *e) {
        json_t *pending;
        int r;

        if (d->base.name && !streq(d->base.name, row->name))
                return error_set(e, -EINVAL, "machine-name", "lodge rename OLD NEW",
                                 "a definition does not change the name %s to %s", row->name, d->base.name);
        if (d->base.uuid && !streq(d->base.uuid, row->uuid))
                return error_set(e, -EINVAL, "machine-uuid", NULL, "the UUID of %s does not change", row->name);
        r = disk_not_smaller(row, d, e);
        if (r == 0)
                r = networks_name_free(ms, row->project, row->name, d, e);
        if (r == 0)
                r = machine_row_set(row, d, e);
        if (r == 0)
                r = write_row(ms, "change", row, generation, store_machine_update, e);
        if (r < 0)
                return r;
        pending = machine_pending(row);
        machines_event(ms, "machine-changed", row->project, row->name, caller->request_id, "changed by %s%s",
                       caller->who, json_array_size(pending) ? "; some of it waits for the next start" : "");
        json_decref(pending);
        return 0;
}

static void on_purged(void *opaque, const struct error *e, struct wire_message *reply) {
        if (e)
                log_warning("what belonged to a machine's old name is not taken away: %s", e->message ?: "?");
}

int machine_rename(struct machines *ms, struct store_machine *row, const char *name, uint64_t generation,
                   const struct machine_caller *caller, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        _cleanup_free_ char *old = strdup(row->name);
        struct machine_live *live = live_find(ms, row->uuid);
        json_auto_t *old_args = NULL;
        int r;

        if (operation_of_target(ms->operations, row->uuid))
                return error_set(e, -EBUSY, "operation-running", "try again when it is over",
                                 "%s is busy: an operation is under way", row->name);
        if (live)
                return machine_refuse_running(row, "runs under its name and keeps it until it stops", e);
        r = machine_definition_load(row, &d, e);
        if (r == 0)
                r = networks_name_free(ms, row->project, name, d, e);
        if (r < 0)
                return r;
        old_args = machine_end_args(ms, row);
        free(d->base.name);
        d->base.name = strdup(name);
        free(row->name);
        row->name = strdup(name);
        if (!row->name || !d->base.name)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot rename the machine");
        r = machine_row_set(row, d, e);
        if (r == 0)
                r = write_row(ms, "rename", row, generation, store_machine_update, e);
        if (r < 0)
                return r;
        /* Its addresses in networks, and its seed, which holds the name: the next start makes both anew. */
        broker_call(ms->broker, "machine-purge", json_incref(old_args), NULL, on_purged, NULL, NULL);
        machines_event(ms, "machine-renamed", row->project, row->name, caller->request_id, "was %s; renamed by %s", old,
                       caller->who);
        return 0;
}
