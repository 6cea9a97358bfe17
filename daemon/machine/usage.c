// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage: what machines use, added up for each project: at each pass of sample.c
 *
 * CPU time is a counter of its process: the difference to the sample before is added. Of a machine that was found running by a new daemon the first sample
 * is where counting begins, since what came before was counted by the old one. Memory and storage are levels: what is seen now is counted for the
 * time since the last sample. What a machine does after its last sample is lost, up to a minute.
 *
 * Storage is counted for machines that are stopped, too: it costs while it lies there. That is a row for each machine that has a disk, so it is done only every
 * STORAGE_PASSES passes, and STORAGE_SLICE machines at a time; a disk's size changes slowly. It counts while the daemon runs. A daemon that is killed in between has
 * counted for some, and the others lose that time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/machine/internal.h"

#define STORAGE_PASSES   10
#define STORAGE_SLICE    250u
#define STORAGE_PAUSE_US 20000

static uint64_t mib_seconds(uint64_t bytes, uint64_t ns) {
        return (uint64_t)((double)bytes / (1 << 20) * ((double)ns / 1e9));
}

static void add(struct machines *ms, const json_t *item, uint64_t now) {
        const char *uuid = json_string_value(json_object_get(item, "uuid"));
        uint64_t cpu = (uint64_t)json_integer_value(json_object_get(item, "cpu_us"));
        uint64_t memory = (uint64_t)json_integer_value(json_object_get(item, "memory"));
        uint32_t pid = (uint32_t)json_integer_value(json_object_get(item, "pid"));
        struct machine_live *live = uuid ? live_find(ms, uuid) : NULL;
        struct store_usage u;

        if (!live)
                return;
        u = (struct store_usage){ .project = live->project,
                                  .machine = live->uuid,
                                  .memory_mib_s = mib_seconds(memory, now - live->sampled_ns) };
        if (live->sampled_pid == pid && cpu >= live->sample.cpu_us)
                u.cpu_us = cpu - live->sample.cpu_us;
        else
                u.cpu_us = live->found ? 0 : cpu;
        live->sampled_pid = pid;
        live->sampled_ns = now;
        live->sample.cpu_us = cpu;
        live->sample.memory = memory;
        live->sample.time = time_now_us();
        store_usage_add(ms->store, &u, NULL);
}

void usage_count_running(struct machines *ms, const json_t *items) {
        _cleanup_error_ struct error e = ERROR_INIT;
        uint64_t now = clock_ns();
        json_t *item;
        size_t i;

        if (json_array_size(items) == 0 || store_begin(ms->store, &e) < 0)
                return;
        json_array_foreach(items, i, item) {
                add(ms, item, now);
        }
        if (store_commit(ms->store, &e) < 0)
                log_warning("usage is not kept: %s", e.message ?: "");
}

/* ---- storage ---------------------------------------------------------------------------------------------------------- */

struct lying {
        char *project, *uuid;
        uint64_t bytes;
};

/* A walk through all machines, some at a time, so that clients need not wait for it. */
struct storage_walk {
        struct machines *ms;
        struct loop_source *timer;
        json_t *volumes;
        uint64_t ns; /* since the last walk */
        char *after, *after_project;
        struct lying items[STORAGE_SLICE];
        size_t n, n_rows;
};

static void storage_walk_clear(struct storage_walk *w) {
        for (size_t i = 0; i < w->n; i++) {
                free(w->items[i].project);
                free(w->items[i].uuid);
        }
        w->n = w->n_rows = 0;
}

void usage_end(struct machines *ms) {
        struct storage_walk *w = TAKE_PTR(ms->storage_walk);

        if (!w)
                return;
        storage_walk_clear(w);
        loop_source_free(w->timer);
        json_decref(w->volumes);
        free(w->after);
        free(w->after_project);
        free(w);
}

static int find_volume(void *opaque, const struct store_machine *row) {
        struct storage_walk *w = opaque;
        json_auto_t *facts = row->facts ? json_loads(row->facts, 0, NULL) : NULL;
        const char *volume = json_string_value(json_object_get(facts, "volume"));
        const json_t *bytes = volume ? json_object_get(w->volumes, volume) : NULL;
        struct lying *l;

        free(w->after);
        free(w->after_project);
        w->after = strdup(row->name);
        w->after_project = strdup(row->project);
        w->n_rows++;
        if (!w->after || !w->after_project)
                return -ENOMEM;
        if (!bytes)
                return 0;
        l = &w->items[w->n++];
        *l = (struct lying){ strdup(row->project), strdup(row->uuid), (uint64_t)json_integer_value(bytes) };
        return l->project && l->uuid ? 0 : -ENOMEM;
}

static int write_storage(struct storage_walk *w, struct error *e) {
        struct store *store = w->ms->store;
        int r = w->n > 0 ? store_begin(store, e) : 0;

        if (r < 0 || w->n == 0)
                return r;
        for (size_t i = 0; i < w->n && r == 0; i++) {
                const struct store_usage u = { .project = w->items[i].project,
                                               .machine = w->items[i].uuid,
                                               .storage_mib_s = mib_seconds(w->items[i].bytes, w->ns) };

                r = store_usage_add(store, &u, e);
        }
        if (r == 0)
                return store_commit(store, e);
        store_rollback(store);
        return r;
}

static void on_slice(void *opaque) {
        struct storage_walk *w = opaque;
        _cleanup_free_ char *after = TAKE_PTR(w->after), *after_project = TAKE_PTR(w->after_project);
        const struct store_machine_filter filter = {
                .whole = true, .after = after, .after_project = after_project, .limit = STORAGE_SLICE
        };
        _cleanup_error_ struct error e = ERROR_INIT;
        bool more;
        int r = store_machine_each(w->ms->store, &filter, find_volume, w, &e);

        if (r == 0)
                r = write_storage(w, &e);
        if (r < 0)
                log_warning("the usage of storage is not kept: %s", e.message ?: strerror(-r));
        more = r == 0 && w->n_rows == STORAGE_SLICE;
        storage_walk_clear(w);
        if (!more || loop_timer_set(w->timer, STORAGE_PAUSE_US) < 0)
                usage_end(w->ms);
}

void usage_count_storage(struct machines *ms, const json_t *volumes) {
        struct storage_walk *w;
        uint64_t now = clock_ns();

        if (++ms->storage_passes < STORAGE_PASSES || ms->storage_walk)
                return;
        w = ms->storage_walk = calloc(1, sizeof(*w));
        if (!w)
                return;
        w->ms = ms;
        w->volumes = json_incref((json_t *)volumes);
        w->ns = now - ms->storage_ns;
        if (loop_add_timer(ms->loop, on_slice, w, &w->timer) < 0 || loop_timer_set(w->timer, 0) < 0) {
                usage_end(ms);
                return;
        }
        ms->storage_passes = 0;
        ms->storage_ns = now;
}

/* ---- projects --------------------------------------------------------------------------------------------------------- */

static int add_project(void *opaque, const struct store_usage *u) {
        return json_object_set_new(opaque, u->project,
                                   json_pack("{s:I, s:I, s:I}", "cpu_us", (json_int_t)u->cpu_us, "memory_mib_s",
                                             (json_int_t)u->memory_mib_s, "storage_mib_s",
                                             (json_int_t)u->storage_mib_s)) < 0
                       ? -ENOMEM
                       : 0;
}

json_t *usage_of_projects(struct machines *ms) {
        _cleanup_error_ struct error e = ERROR_INIT;
        json_t *projects = json_object();

        if (store_usage_sum(ms->store, store_usage_month(time_now_us()), add_project, projects, &e) < 0)
                log_warning("the usage of projects cannot be read: %s", e.message ?: "?");
        return projects;
}
