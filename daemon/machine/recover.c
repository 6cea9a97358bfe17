// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * recover: at the daemon's start, make what the store says and what there is agree again
 *
 *      1  the broker lists the runtime directories: which keepers live, and which ended meanwhile
 *      2  those that live are attached to
 *      3  the operations that the last daemon left are taken up
 *      4  a machine that ended while nobody looked is told of as if somebody had, and its restart policy is asked; one that ended with its host is stopped
 *      5  a process or directory of a machine that no row knows, and no operation is about to undo, is ended and removed
 *         and so is an upload that no operation needs
 *      6  at the first start since the host booted, the machines that start with it are started, in their order
 *
 * Which boot it is comes from the broker; the one that step 6 was last done for is an object in the store, written when it is done: so a daemon that is killed in
 * between does the rest the next time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/machine/internal.h"

#define BOOT_KIND "host"
#define BOOT_NAME "boot"

struct autostart {
        char *uuid;
        int64_t order;
        uint64_t delay_us;
};

struct recovery {
        struct machines *ms;
        json_t *items; /* {uuid: state} */
        char *boot;
        bool fresh; /* the host has booted since the last time */
        unsigned int attaching, taken_up;
        struct autostart *starts;
        size_t n_starts, next_start;
        struct loop_source *timer;
};

void recovery_free(struct recovery *r) {
        if (!r)
                return;
        loop_source_free(r->timer);
        for (size_t i = 0; i < r->n_starts; i++)
                free(r->starts[i].uuid);
        free(r->starts);
        json_decref(r->items);
        free(r->boot);
        free(r);
}

/* ---- which boot ----------------------------------------------------------------------------------------------------- */

static bool boot_is_new(struct recovery *r) {
        _cleanup_(store_object_freep) struct store_object *kept = NULL;
        json_auto_t *config = NULL;
        const char *id;

        if (!r->boot || store_object_find(r->ms->store, BOOT_KIND, "", BOOT_NAME, &kept, NULL) < 0)
                return true;
        config = json_loads(kept->config, 0, NULL);
        id = json_string_value(json_object_get(config, "id"));
        return !id || !streq(id, r->boot);
}

static void boot_keep(struct recovery *r) {
        _cleanup_error_ struct error e = ERROR_INIT;
        char kind[] = BOOT_KIND, project[] = "", name[] = BOOT_NAME, config[128];
        struct store_object o = { .kind = kind, .project = project, .name = name, .config = config };
        int code;

        snprintf(config, sizeof(config), "{\"id\":\"%.64s\"}", r->boot ?: "");
        code = store_object_update(r->ms->store, &o, 0, &e);
        if (code == -ENOENT) {
                error_clear(&e);
                code = store_object_add(r->ms->store, &o, &e);
        }
        if (code < 0)
                log_warning("cannot keep which boot this is: %s", e.message ?: "?");
}

/* ---- machines that start with the host ------------------------------------------------------------------------------ */

static int by_order(const void *a, const void *b) {
        const struct autostart *x = a, *y = b;

        return x->order == y->order ? strcmp(x->uuid, y->uuid) : x->order < y->order ? -1 : 1;
}

static int add_autostart(void *opaque, const struct store_machine *row) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        struct recovery *r = opaque;
        struct autostart *grown;

        if (machine_definition_load(row, &d, NULL) < 0 || !d->autostart.enabled)
                return 0;
        grown = realloc(r->starts, (r->n_starts + 1) * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        r->starts = grown;
        grown[r->n_starts] = (struct autostart){ strdup(row->uuid), (int64_t)d->autostart.order,
                                                 (uint64_t)d->autostart.delay * 1000000 };
        if (!grown[r->n_starts].uuid)
                return -ENOMEM;
        r->n_starts++;
        return 0;
}

static void on_next_start(void *opaque) {
        static const struct machine_caller self = { .who = "autostart" };
        struct recovery *r = opaque;

        while (r->next_start < r->n_starts) {
                const struct autostart *a = &r->starts[r->next_start++];
                _cleanup_(store_machine_freep) struct store_machine *row = NULL;
                _cleanup_error_ struct error e = ERROR_INIT;
                char *id;

                if (live_find(r->ms, a->uuid) || operation_of_target(r->ms->operations, a->uuid) ||
                    store_machine_find(r->ms->store, NULL, a->uuid, &row, NULL) < 0)
                        continue;
                if (machine_start(r->ms, row, &self, &id, &e) == 0)
                        free(id);
                else
                        machines_event(r->ms, "machine-start-failed", row->project, row->name, NULL, "%s",
                                       e.message ?: "it cannot start with the host");
                if (a->delay_us > 0 && r->next_start < r->n_starts) {
                        loop_timer_set(r->timer, a->delay_us);
                        return;
                }
        }
        boot_keep(r);
}

static void autostart(struct recovery *r) {
        const struct store_machine_filter whole = { .whole = true };
        _cleanup_error_ struct error e = ERROR_INIT;

        if (store_machine_each(r->ms->store, &whole, add_autostart, r, &e) < 0) {
                log_warning("cannot tell which machines start with the host: %s", e.message ?: "?");
                return;
        }
        if (r->n_starts > 0)
                qsort(r->starts, r->n_starts, sizeof(*r->starts), by_order);
        if (loop_add_timer(r->ms->loop, on_next_start, r, &r->timer) == 0)
                on_next_start(r);
}

/* ---- what ended meanwhile ------------------------------------------------------------------------------------------- */

struct gone {
        struct recovery *r;
        json_t *uuids;
};

/* Rows that say that they run, or are to be started again, while nothing runs. Only their names are kept: they are changed afterwards. */
static int add_gone(void *opaque, const struct store_machine *row) {
        struct gone *gone = opaque;
        const char *state = json_string_value(json_object_get(gone->r->items, row->uuid));

        if (live_find(gone->r->ms, row->uuid) || (state && streq(state, "running")))
                return 0;
        if (row->running || state || row->wanted)
                json_array_append_new(gone->uuids, json_string(row->uuid));
        return 0;
}

static void settle(struct recovery *r, const char *uuid) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        const struct operation *op = operation_of_target(r->ms->operations, uuid);

        if (store_machine_find(r->ms->store, NULL, uuid, &row, NULL) < 0)
                return;
        if (op && (op->kind == &start_kind || op->kind == &launch_kind || op->kind == &reboot_kind))
                return; /* it is being undone, with all that it has left; or it clears that by itself */
        if (row->running)
                live_reap(r->ms, row, r->fresh);
        else if (!r->fresh && !op)
                restart_consider(r->ms, row, false); /* the last daemon was about to */
}

static void settle_all(struct recovery *r) {
        const struct store_machine_filter whole = { .whole = true };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct gone gone = { r, json_array() };
        json_t *item;
        size_t i;

        if (store_machine_each(r->ms->store, &whole, add_gone, &gone, &e) < 0)
                log_warning("cannot tell which machines have ended: %s", e.message ?: "?");
        json_array_foreach(gone.uuids, i, item) {
                settle(r, json_string_value(item));
        }
        json_decref(gone.uuids);
}

/* ---- what no row knows ---------------------------------------------------------------------------------------------- */

struct orphan {
        struct machines *ms;
        char uuid[37];
        bool running;
};

static void on_purged(void *opaque, const struct error *e, struct wire_message *reply) {
        struct orphan *o = opaque;

        if (e)
                log_warning("what is left of %s cannot be removed: %s", o->uuid, e->message ?: "?");
        else if (o->running)
                machines_event(o->ms, "orphan-ended", NULL, o->uuid, NULL,
                               "a process of a machine that the store does not know was ended; its disk, UEFI "
                               "variables and TPM stay");
        free(o);
}

static void on_orphan_ended(void *opaque, const struct error *e, struct wire_message *reply) {
        struct orphan *o = opaque;

        if (e) {
                on_purged(o, e, reply);
                return;
        }
        /* What its devices remember stays, like its disk: the store may be an older one, put back. */
        if (broker_call(o->ms->broker, "machine-purge", json_pack("{s:s}", "uuid", o->uuid), NULL, on_purged, o, NULL) <
            0)
                free(o);
}

static void orphan_end(struct machines *ms, const char *uuid, const char *state) {
        struct orphan *o = calloc(1, sizeof(*o));

        if (!o)
                return;
        o->ms = ms;
        o->running = streq(state, "running");
        snprintf(o->uuid, sizeof(o->uuid), "%s", uuid);
        log_info("machine %s is %s, and the store does not know it: it is ended", uuid, state);
        if (broker_call(ms->broker, "machine-end", json_pack("{s:s}", "uuid", uuid), NULL, on_orphan_ended, o, NULL) <
            0)
                free(o);
}

static void end_orphans(struct recovery *r) {
        const char *uuid;
        json_t *state;

        json_object_foreach(r->items, uuid, state) {
                _cleanup_(store_machine_freep) struct store_machine *row = NULL;
                _cleanup_error_ struct error e = ERROR_INIT;

                if (!operation_of_target(r->ms->operations, uuid) &&
                    store_machine_find(r->ms->store, NULL, uuid, &row, &e) == -ENOENT)
                        orphan_end(r->ms, uuid, json_string_value(state));
        }
}

/* ---- one after the other -------------------------------------------------------------------------------------------- */

static void recovered(struct recovery *r, int result) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct machines *ms = r->ms;

        ms->found = true;
        networks_sweep(ms); /* before an operation needs one of them */
        if (result == 0)
                result = operations_recover(ms->operations, &e);
        if (e.code < 0)
                error_print(&e, "lodged", stderr);
        if (result == 0) {
                unsigned int taken_up = operations_count(ms->operations);

                settle_all(r);
                end_orphans(r);
                import_sweep(ms);
                networks_renew(ms);
                if (r->fresh)
                        autostart(r);
                machines_event(ms, "daemon-started", NULL, NULL, NULL, "%u machines run; %u operations taken up%s",
                               ms->n_live, taken_up, r->fresh ? "; the host has booted since" : "");
        }
        ms->recovered(ms->recovered_opaque, result);
}

static void on_attached(void *opaque, const struct error *e) {
        struct recovery *r = opaque;

        if (e)
                log_warning("a machine's keeper does not answer: %s", e->message ?: "?");
        if (--r->attaching == 0)
                recovered(r, 0);
}

static void attach_found(struct recovery *r, const char *uuid) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;

        if (store_machine_find(r->ms->store, NULL, uuid, &row, &e) < 0)
                return;
        r->attaching++;
        if (live_attach(r->ms, row, on_attached, r, &e) < 0) {
                r->attaching--;
                log_warning("cannot attach to %s: %s", row->name, e.message ?: "?");
        }
}

static void on_machine_list(void *opaque, const struct error *e, struct wire_message *reply) {
        struct recovery *r = opaque;
        const char *boot = reply ? json_string_value(json_object_get(reply->json, "boot")) : NULL;
        json_t *item;
        size_t i;

        if (e) {
                log_error("cannot find out which machines run: %s", e->message ?: "?");
                recovered(r, e->code);
                return;
        }
        r->boot = boot ? strdup(boot) : NULL;
        r->fresh = boot_is_new(r);
        r->attaching = 1;
        json_array_foreach(json_object_get(reply->json, "items"), i, item) {
                const char *uuid = json_string_value(json_object_get(item, "uuid"));
                const char *state = json_string_value(json_object_get(item, "state"));

                if (!uuid || !state)
                        continue;
                json_object_set_new(r->items, uuid, json_string(state));
                if (streq(state, "running"))
                        attach_found(r, uuid);
        }
        if (--r->attaching == 0)
                recovered(r, 0);
}

int machines_recover(struct machines *ms, void (*fn)(void *opaque, int result), void *opaque) {
        struct recovery *r = calloc(1, sizeof(*r));
        int code;

        if (!r)
                return -ENOMEM;
        *r = (struct recovery){ .ms = ms, .items = json_object() };
        ms->recovered = fn;
        ms->recovered_opaque = opaque;
        code = broker_call(ms->broker, "machine-list", NULL, NULL, on_machine_list, r, NULL);
        if (code < 0)
                recovery_free(r);
        else
                ms->recovery = r;
        return code;
}
