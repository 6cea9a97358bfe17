// SPDX-License-Identifier: GPL-2.0-or-later
/* view: what clients see of a machine; see machine.h */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "daemon/machine/internal.h"

char *time_text(int64_t us) {
        time_t seconds = (time_t)(us / 1000000);
        char text[40];
        struct tm tm;

        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &tm));
        return strdup(text);
}

const json_t *machine_addresses(const struct machines *ms, const char *uuid) {
        const struct machine_live *live = live_find((struct machines *)ms, uuid);

        return live ? live->addresses : NULL;
}

enum machine_status machine_status_of(struct machines *ms, const struct store_machine *row, const char **ret_engine) {
        const struct machine_live *live = live_find(ms, row->uuid);
        const struct operation *op = operation_of_target(ms->operations, row->uuid);

        *ret_engine = live ? live->engine : NULL;
        if (op && op->kind == &stop_kind)
                return MACHINE_STATUS_STOPPING;
        if (op && op->kind == &reboot_kind && live)
                return MACHINE_STATUS_STOPPING;
        if (op && (op->kind == &start_kind || op->kind == &launch_kind || op->kind == &reboot_kind) && !live)
                return MACHINE_STATUS_STARTING;
        if (live)
                return live->paused ? MACHINE_STATUS_PAUSED : MACHINE_STATUS_RUNNING;
        if (!ms->found && row->wanted)
                return MACHINE_STATUS_RUNNING;
        return row->wanted ? MACHINE_STATUS_FAILED : MACHINE_STATUS_STOPPED;
}

static void add_text(char ***list, size_t *n, const char *text) {
        char **grown = realloc(*list, (*n + 1) * sizeof(*grown));

        if (!grown)
                return;
        *list = grown;
        grown[*n] = strdup(text);
        if (grown[*n])
                (*n)++;
}

int machine_state_fill(struct machines *ms, const struct store_machine *row, struct machine_state_view *s) {
        const struct machine_live *live = live_find(ms, row->uuid);
        const struct operation *op = operation_of_target(ms->operations, row->uuid);
        json_auto_t *facts = row_facts(row), *pending = machine_pending(row);
        const char *engine, *reason = json_string_value(json_object_get(facts, "reason"));
        size_t i;
        json_t *item;

        s->status = machine_status_of(ms, row, &engine);
        s->wanted = row->wanted ? MACHINE_STATUS_RUNNING : MACHINE_STATUS_STOPPED;
        s->reason = text_copy(reason);
        s->exit_status = (uint32_t)json_integer_value(json_object_get(facts, "exit_status"));
        s->operation = text_copy(op ? op->row->id : NULL);
        json_array_foreach(pending, i, item) {
                add_text(&s->pending, &s->n_pending, json_string_value(item));
        }
        if (live) {
                s->engine = text_copy(live->engine);
                s->engine_reason = text_copy(live->engine_reason);
                s->kvm = live->kvm;
                s->pid = live->pid;
                s->since = text_copy(live->since);
                s->agent = live->agent_ready;
                json_array_foreach(live->addresses, i, item) {
                        add_text(&s->addresses, &s->n_addresses, json_string_value(item));
                }
        } else
                s->since = text_copy(json_string_value(json_object_get(facts, "ended")));
        return 0;
}

int machine_view_make(struct machines *ms, const struct store_machine *row, struct machine_view **ret,
                      struct error *e) {
        _cleanup_(machine_view_freep) struct machine_view *v = NULL;
        struct machine_definition *d;
        int r = schema_new(&machine_view_schema, (void **)&v);

        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot show the machine");
        r = machine_definition_load(row, &d, e);
        if (r < 0)
                return r;
        /* The view takes over what the definition holds. */
        schema_clear(&machine_definition_schema, &v->config);
        v->config = *d;
        free(d);
        v->name = text_copy(row->name);
        v->uuid = text_copy(row->uuid);
        v->project = text_copy(row->project);
        v->generation = row->generation;
        v->created = time_text(row->created);
        v->changed = time_text(row->changed);
        machine_state_fill(ms, row, &v->state);
        *ret = TAKE_PTR(v);
        return 0;
}
