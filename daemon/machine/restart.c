// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * restart: machines that ended by themselves are started again, where their definition wants that, later each time
 *
 * The first time after a second, then after two, four, ... up to a minute; one that then lived for a while begins anew. When the time has come the row is
 * looked at again: a person may have stopped or deleted the machine meanwhile. Nothing of this outlives the daemon: recover.c asks again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/machine/internal.h"

#define DELAY_US     1000000ull
#define DELAY_MAX_US 60000000ull
#define CALM_NS      60000000000ull

struct restart {
        struct restart *next;
        struct machines *ms;
        char *uuid;
        struct loop_source *timer;
        unsigned int n; /* times in a row */
        uint64_t due;   /* clock_ns() */
};

static void restart_free(struct restart *r) {
        loop_source_free(r->timer);
        free(r->uuid);
        free(r);
}

void restarts_free(struct machines *ms) {
        while (ms->restarts) {
                struct restart *r = ms->restarts;

                ms->restarts = r->next;
                restart_free(r);
        }
}

static void on_due(void *opaque) {
        static const struct machine_caller self = { .who = "restart policy" };
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct restart *r = opaque;
        char *id;

        if (live_find(r->ms, r->uuid) || operation_of_target(r->ms->operations, r->uuid) ||
            store_machine_find(r->ms->store, NULL, r->uuid, &row, NULL) < 0 || !row->wanted)
                return;
        if (machine_start(r->ms, row, &self, &id, &e) == 0)
                free(id);
        else
                log_warning("%s cannot be started again: %s", row->name, e.message ?: "?");
}

static struct restart *find(struct machines *ms, const char *uuid) {
        struct restart *r;

        for (r = ms->restarts; r; r = r->next)
                if (streq(r->uuid, uuid))
                        return r;
        r = calloc(1, sizeof(*r));
        if (!r)
                return NULL;
        r->ms = ms;
        r->uuid = strdup(uuid);
        if (!r->uuid || loop_add_timer(ms->loop, on_due, r, &r->timer) < 0) {
                restart_free(r);
                return NULL;
        }
        r->next = ms->restarts;
        ms->restarts = r;
        return r;
}

bool restart_consider(struct machines *ms, const struct store_machine *row, bool clean) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        struct restart *r;
        uint64_t delay;

        if (!row->wanted || machine_definition_load(row, &d, NULL) < 0)
                return false;
        if (d->restart != MACHINE_RESTART_ALWAYS && (d->restart != MACHINE_RESTART_ON_FAILURE || clean))
                return false;
        r = find(ms, row->uuid);
        if (!r)
                return false;
        if (r->due && clock_ns() > r->due + CALM_NS)
                r->n = 0;
        delay = DELAY_US << (r->n < 6 ? r->n : 6);
        if (delay > DELAY_MAX_US)
                delay = DELAY_MAX_US;
        r->n++;
        r->due = clock_ns() + delay * 1000;
        loop_timer_set(r->timer, delay);
        return true;
}
