// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * change: what of a machine's new definition takes effect while it runs
 *
 *      limits       written to its control group, by the broker
 *      publish      forwards of its network; a machine with user networking waits for its next start
 *      disk_size    grows: block_resize
 *      throttle     of a disk that stays the same and is in no group: block_set_io_throttle; QEMU: of one that had limits when it started
 *
 * Theory of operation. The row has two definitions: what is wanted (config) and what the machine runs with (running); what differs is shown as pending. So there is nothing to
 * journal: settling compares them, makes true what can be, part by part, and writes each part that is true now into `running`. If the daemon is killed in between, the
 * next one settles again; every part can be done twice. What is refused stays pending, with an event that says why.
 *
 * One settling at a time works on a machine. A definition that changes meanwhile makes it begin again when it is through, and whoever waits is told then.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "daemon/machine/internal.h"

struct waiter {
        struct waiter *next;
        void (*fn)(void *opaque);
        void *opaque;
};

struct change {
        struct machine_live *live;
        char *was; /* `running`, as it was at the beginning */
        json_t *config, *running;
        unsigned int part; /* the next one */
        size_t disk;       /* within the throttles */
        bool again, changed;
        bool own_disk; /* it has a volume of its own, which is disk0 */
        bool *over;    /* while machine_settle() runs: set when nothing had to be waited for */
        uint64_t call;
        struct waiter *waiters;
};

static void change_next(struct change *c);

/* ---- parts ----------------------------------------------------------------------------------------------------------- */

static bool differs(const struct change *c, const char *key) {
        json_t *a = json_object_get(c->config, key), *b = json_object_get(c->running, key);

        return a != b && (!a || !b || !json_equal(a, b));
}

static void settled(struct change *c, const char *key) {
        json_t *value = json_object_get(c->config, key);

        if (value)
                json_object_set(c->running, key, value);
        else
                json_object_del(c->running, key);
        c->changed = true;
}

static void refused(struct change *c, const char *what, const char *why) {
        struct machine_live *live = c->live;

        machines_event(live->ms, "machine-change-waits", live->project, live->name, NULL,
                       "%s waits for the next start: %s", what, why ?: "it was refused");
}

static void broker_part_done(struct change *c, const char *key, const struct error *e) {
        c->call = 0;
        if (e)
                refused(c, key, e->message);
        else
                settled(c, key);
        change_next(c);
}

static void on_limits(void *opaque, const struct error *e, struct wire_message *reply) {
        broker_part_done(opaque, "limits", e);
}

/* Each part: 1 when it goes on and will call change_next(), else 0. */
static int limits_part(struct change *c) {
        json_t *limits = json_object_get(c->config, "limits");

        if (!differs(c, "limits"))
                return 0;
        return broker_call(c->live->ms->broker, "machine-limits",
                           json_pack("{s:s, s:o}", "uuid", c->live->uuid, "limits",
                                     limits ? json_deep_copy(limits) : json_object()),
                           NULL, on_limits, c, &c->call) == 0;
}

static void on_publish(void *opaque, const struct error *e, struct wire_message *reply) {
        struct change *c = opaque;

        if (!e)
                networks_keep_published(c->live->ms, c->live->uuid);
        broker_part_done(c, "publish", e);
}

static int publish_part(struct change *c) {
        if (!differs(c, "publish") || differs(c, "nets"))
                return 0;
        return networks_republish(c->live->ms, c->live->uuid, on_publish, c, &c->call) > 0;
}

static void qmp_part_done(struct change *c, const char *what, int result, json_t *value) {
        if (result < 0)
                refused(c, what, json_string_value(json_object_get(value, "desc")));
        else if (streq(what, "disk_size"))
                settled(c, what);
        else {
                json_t *wanted = json_array_get(json_object_get(c->config, "disks"), c->disk - 1);
                json_t *disk = json_array_get(json_object_get(c->running, "disks"), c->disk - 1);

                json_object_set(disk, "throttle", json_object_get(wanted, "throttle"));
                c->changed = true;
        }
        change_next(c);
}

static void on_resized(void *opaque, int result, json_t *value) {
        qmp_part_done(opaque, "disk_size", result, value);
}

static int size_part(struct change *c) {
        json_int_t size = json_integer_value(json_object_get(c->config, "disk_size"));

        if (!differs(c, "disk_size") || size <= json_integer_value(json_object_get(c->running, "disk_size")))
                return 0;
        if (!c->own_disk) { /* there is none to be grown: it would be a new one's */
                settled(c, "disk_size");
                return 0;
        }
        return qmp_client_command(c->live->qmp, "block_resize",
                                  json_pack("{s:s, s:I}", "node-name", "disk0", "size", size), on_resized, c) == 0;
}

/* All but the throttle is the same, and it is nobody else's. */
static bool only_throttle(json_t *a, json_t *b) {
        json_auto_t *x = json_copy(a), *y = json_copy(b);

        json_object_del(x, "throttle");
        json_object_del(y, "throttle");
        return json_equal(x, y) && !json_object_get(json_object_get(a, "throttle"), "group") &&
               !json_object_get(json_object_get(b, "throttle"), "group");
}

static json_t *throttle_arguments(json_t *t, const char *id, bool qemu) {
        static const struct {
                const char *ours, *rate, *burst, *length, *qom;
        } limits[] = {
                { "bps", "bps", "bps_max", "bps_max_length", "bps-total" },
                { "bps_read", "bps_rd", "bps_rd_max", "bps_rd_max_length", "bps-read" },
                { "bps_write", "bps_wr", "bps_wr_max", "bps_wr_max_length", "bps-write" },
                { "iops", "iops", "iops_max", "iops_max_length", "iops-total" },
                { "iops_read", "iops_rd", "iops_rd_max", "iops_rd_max_length", "iops-read" },
                { "iops_write", "iops_wr", "iops_wr_max", "iops_wr_max_length", "iops-write" },
        };
        json_int_t seconds = json_integer_value(json_object_get(t, "burst_seconds"));
        json_t *values = qemu ? json_object() : json_pack("{s:s}", "id", id);
        char key[40];

        for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
                json_int_t rate = json_integer_value(json_object_get(t, limits[i].ours)), burst;

                snprintf(key, sizeof(key), "%s_burst", limits[i].ours);
                burst = json_integer_value(json_object_get(t, key));
                json_object_set_new(values, qemu ? limits[i].qom : limits[i].rate, json_integer(rate));
                snprintf(key, sizeof(key), "%s-max", limits[i].qom);
                if (burst || qemu)
                        json_object_set_new(values, qemu ? key : limits[i].burst, json_integer(burst));
                snprintf(key, sizeof(key), "%s-max-length", limits[i].qom);
                if (burst || qemu)
                        json_object_set_new(values, qemu ? key : limits[i].length,
                                            json_integer(burst && seconds ? seconds : 1));
        }
        if (json_object_get(t, "iops_size"))
                json_object_set(values, qemu ? "iops-size" : "iops_size", json_object_get(t, "iops_size"));
        return values;
}

static bool limits_any(json_t *t) {
        const char *key;
        json_t *value;

        json_object_foreach(t, key, value) {
                if (!strstr(key, "burst") && !streq(key, "iops_size") && json_integer_value(value) > 0)
                        return true;
        }
        return false;
}

static void on_throttle(void *opaque, int result, json_t *value) {
        qmp_part_done(opaque, "throttle", result, value);
}

static int throttle_part(struct change *c) {
        json_t *wanted = json_object_get(c->config, "disks"), *disks = json_object_get(c->running, "disks");
        bool qemu = c->live->engine && streq(c->live->engine, "qemu");

        while (json_array_size(wanted) == json_array_size(disks) && c->disk < json_array_size(disks)) {
                json_t *a = json_array_get(wanted, c->disk), *b = json_array_get(disks, c->disk), *t, *arguments;
                size_t number = c->own_disk + c->disk++; /* its image's is before them */
                char name[40];

                t = json_object_get(a, "throttle");
                if (json_equal(a, b) || !only_throttle(a, b) || (qemu && !limits_any(json_object_get(b, "throttle"))))
                        continue;
                snprintf(name, sizeof(name), "disk%zu", number);
                arguments = throttle_arguments(t, name, qemu);
                snprintf(name, sizeof(name), "/objects/throttle%zu", number);
                if (qemu)
                        arguments =
                                json_pack("{s:s, s:s, s:o}", "path", name, "property", "limits", "value", arguments);
                if (qmp_client_command(c->live->qmp, qemu ? "qom-set" : "block_set_io_throttle", arguments, on_throttle,
                                       c) == 0)
                        return 1;
        }
        return 0;
}

/* ---- one after the other --------------------------------------------------------------------------------------------- */

static void change_free(struct change *c, bool tell) {
        struct waiter *w;

        c->live->change = NULL;
        if (c->call)
                broker_forget(c->live->ms->broker, c->call);
        while ((w = c->waiters)) {
                c->waiters = w->next;
                if (tell && w->fn)
                        w->fn(w->opaque);
                free(w);
        }
        json_decref(c->config);
        json_decref(c->running);
        free(c->was);
        free(c);
}

static int change_load(struct change *c, const struct store_machine *row) {
        json_auto_t *facts = row_facts(row);

        json_decref(c->config);
        json_decref(c->running);
        free(c->was);
        c->was = text_copy(row->running);
        c->config = json_loads(row->config, 0, NULL);
        c->running = json_loads(row->running, 0, NULL);
        c->part = 0;
        c->disk = 0;
        c->again = c->changed = false;
        c->own_disk = json_object_get(facts, "volume") != NULL;
        return c->was && c->config && c->running ? 0 : -ENOMEM;
}

/* What is true now, into the row, unless the machine was started again meanwhile. Its summary and its own definition stay. */
static void change_write(struct change *c) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct store *store = c->live->ms->store;
        int r = store_machine_find(store, NULL, c->live->uuid, &row, &e);

        if (r < 0 || !row->running || !streq(row->running, c->was))
                return;
        free(row->running);
        row->running = json_dumps(c->running, JSON_COMPACT);
        if (row->running)
                r = store_machine_update(store, row, 0, &e);
        if (r < 0)
                log_warning("%s: what was changed in it is not written down: %s", row->name, e.message ?: "");
}

static void change_done(struct change *c) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;

        if (c->changed)
                change_write(c);
        if (c->again && store_machine_find(c->live->ms->store, NULL, c->live->uuid, &row, NULL) == 0 && row->running &&
            change_load(c, row) == 0)
                change_next(c);
        else if (c->over) {
                *c->over = true;
                change_free(c, false);
        } else
                change_free(c, true);
}

static void change_next(struct change *c) {
        static int (*const parts[])(struct change * c) = { limits_part, publish_part, size_part, throttle_part };

        while (c->part < ELEMENTSOF(parts)) {
                if (parts[c->part](c) > 0) {
                        if (parts[c->part] != throttle_part) /* which has several */
                                c->part++;
                        return;
                }
                c->part++;
        }
        change_done(c);
}

bool machine_settle(struct machines *ms, const char *uuid, void (*fn)(void *opaque), void *opaque) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        struct machine_live *live = live_find(ms, uuid);
        json_auto_t *pending = NULL;
        bool over = false;
        struct waiter *w;
        struct change *c;

        if (!live || store_machine_find(ms->store, NULL, uuid, &row, NULL) < 0 || !row->running)
                return false;
        pending = machine_pending(row);
        if (json_array_size(pending) == 0 && !live->change)
                return false;
        w = calloc(1, sizeof(*w));
        if (!w)
                return false;
        *w = (struct waiter){ .fn = fn, .opaque = opaque };
        if (live->change) { /* which begins again */
                live->change->again = true;
                w->next = live->change->waiters;
                live->change->waiters = w;
                return true;
        }
        c = calloc(1, sizeof(*c));
        if (!c) {
                free(w);
                return false;
        }
        *c = (struct change){ .live = live, .waiters = w, .over = &over };
        live->change = c;
        if (change_load(c, row) < 0) {
                change_free(c, false);
                return false;
        }
        change_next(c);
        if (!over)
                c->over = NULL;
        return !over;
}

void machine_settle_forget(struct machines *ms, const void *opaque) {
        for (struct machine_live *l = ms->live; l; l = l->next)
                for (struct waiter *w = l->change ? l->change->waiters : NULL; w; w = w->next)
                        if (w->opaque == opaque)
                                w->fn = NULL;
}

void change_end(struct machine_live *live) {
        if (live->change)
                change_free(live->change, true);
}
