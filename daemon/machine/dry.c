// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dry: what start, stop, reboot and delete would find, and what they would do; see machine.h
 *
 * What they find is found by the functions that they begin with themselves (machine_start_check() and so on), and for a start by the broker and a task of its: the
 * image and its kernel, the volume, the engine, the host's memory, each disk and whether somebody holds it. What a start finds out only by doing it is not known here:
 * whether a network comes up, a volume can be made, or a helper starts.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/machine/internal.h"

__attribute__((format(printf, 2, 3))) static void add(json_t *plan, const char *format, ...) {
        char text[512];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        json_array_append_new(plan, json_string(text));
}

/* ---- what is done -------------------------------------------------------------------------------------------------- */

static void plan_stop(json_t *plan, const struct machine_stop_request *how) {
        if (how->way == STOP_WAY_FORCE) {
                add(plan, "pull its plug");
                return;
        }
        add(plan, "ask the guest to power itself off, %s, for up to %u s",
            how->way == STOP_WAY_ACPI ? "by the power button" : "by its agent, then by the power button", how->timeout);
        if (how->force)
                add(plan, "pull its plug if it still runs");
}

static void plan_start(json_t *plan, const struct store_machine *row, const struct machine_definition *d,
                       const json_t *networks) {
        json_auto_t *facts = row_facts(row);
        const char *volume = json_string_value(json_object_get(facts, "volume"));
        json_int_t size = json_integer_value(json_object_get(facts, "disk_size"));
        json_t *network;
        size_t i;

        json_array_foreach(networks, i, network) {
                add(plan, "have network %s up", json_string_value(json_object_get(network, "name")) ?: "?");
        }
        if (volume && d->disk_size > 0 && (json_int_t)d->disk_size != size)
                add(plan, "grow volume %s of pool %s", volume, d->pool);
        else if (!volume && d->base.image)
                add(plan, "make its disk in pool %s, where image %s has one", d->pool, d->base.image);
        else if (!volume && d->disk_size > 0)
                add(plan, "make an empty disk in pool %s", d->pool);
        add(plan, "write the seed of its first boot, where its image reads one");
}

static void plan_delete(json_t *plan, struct machines *ms, const struct store_machine *row,
                        const struct machine_definition *d, const struct machine_delete_query *how) {
        json_auto_t *facts = row_facts(row);
        const char *volume = json_string_value(json_object_get(facts, "volume"));

        if (live_find(ms, row->uuid))
                add(plan, "pull its plug");
        if (volume)
                add(plan, how->disks ? "delete volume %s of pool %s" : "keep volume %s of pool %s", volume, d->pool);
        add(plan, "remove its addresses, its seed and what its devices remember");
        add(plan, "forget its definition");
}

/* ---- at once -------------------------------------------------------------------------------------------------------- */

int machine_dry_stop(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                     json_t *plan, struct error *e) {
        int r = machine_stop_check(ms, row, how, e);

        if (r == 0)
                plan_stop(plan, how);
        return r;
}

int machine_dry_delete(struct machines *ms, const struct store_machine *row, const struct machine_delete_query *how,
                       uint64_t generation, json_t *plan, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        int r = machine_delete_check(ms, row, how, generation, &d, e);

        if (r == 0)
                plan_delete(plan, ms, row, d, how);
        return r;
}

/* Its disks are its own now: whether they are free is not asked. */
int machine_dry_reboot(struct machines *ms, const struct store_machine *row, const struct machine_stop_request *how,
                       json_t *plan, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *networks = NULL;
        int r = machine_reboot_check(ms, row, e);

        if (r == 0)
                r = machine_networks_of(ms, row, &d, &networks, e);
        if (r < 0)
                return r;
        plan_stop(plan, how);
        plan_start(plan, row, d, networks);
        add(plan, "start it");
        return 0;
}

/* ---- start ----------------------------------------------------------------------------------------------------------- */

struct dry {
        json_t *plan;
        machine_dry_fn fn;
        void *opaque;
};

static void on_checked(void *opaque, const struct error *e, struct wire_message *reply) {
        struct dry *dry = opaque;
        const json_t *choice = reply ? reply->json : NULL;
        const char *engine = json_string_value(json_object_get(choice, "engine"));

        if (!e)
                add(dry->plan, "start it by engine %s%s", engine ?: "?",
                    json_is_true(json_object_get(choice, "kvm")) ? "" : ", emulating");
        dry->fn(dry->opaque, e, choice, dry->plan);
        json_decref(dry->plan);
        free(dry);
}

int machine_dry_start(struct machines *ms, const struct store_machine *row, machine_dry_fn fn, void *opaque,
                      struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *networks = NULL, *facts = row_facts(row);
        struct dry *dry;
        json_t *args;
        int r = machine_start_check(ms, row, e);

        if (r == 0)
                r = machine_networks_of(ms, row, &d, &networks, e);
        if (r < 0)
                return r;
        dry = calloc(1, sizeof(*dry));
        args = start_spawn_args(row, d, networks, json_string_value(json_object_get(facts, "volume")), false);
        if (!dry || !args) {
                free(dry);
                json_decref(args);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot look at the machine");
        }
        *dry = (struct dry){ .plan = json_array(), .fn = fn, .opaque = opaque };
        plan_start(dry->plan, row, d, networks);
        if (broker_call(ms->broker, "machine-check", args, NULL, on_checked, dry, NULL) < 0) {
                json_decref(dry->plan);
                free(dry);
                return broker_gone(e);
        }
        return 0;
}
