// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage: what machines use, added up for each project: at each pass of sample.c
 *
 * CPU time is a counter of its process: the difference to the sample before is added. Of a machine that was found running by a new daemon the first sample
 * is where counting begins, since what came before was counted by the old one. Memory and storage are levels: what is seen now is counted for the
 * time since the last sample. What a machine does after its last sample is lost, up to a minute.
 *
 * Storage is counted for machines that are stopped, too: it costs while it lies there. That is a row for each machine that has a disk, so it is done only every
 * STORAGE_PASSES passes; a disk's size changes slowly. It counts while the daemon runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/machine/internal.h"

#define STORAGE_PASSES 10

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

struct storage {
        const json_t *volumes;
        struct lying *items;
        size_t n, size;
};

static int find_volume(void *opaque, const struct store_machine *row) {
        struct storage *s = opaque;
        json_auto_t *facts = row->facts ? json_loads(row->facts, 0, NULL) : NULL;
        const char *volume = json_string_value(json_object_get(facts, "volume"));
        json_t *bytes = volume ? json_object_get(s->volumes, volume) : NULL;
        struct lying *grown;

        if (!bytes)
                return 0;
        if (s->n == s->size) {
                grown = reallocarray(s->items, s->size * 2 + 64, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                s->items = grown;
                s->size = s->size * 2 + 64;
        }
        s->items[s->n] = (struct lying){ strdup(row->project), strdup(row->uuid), (uint64_t)json_integer_value(bytes) };
        s->n++;
        return s->items[s->n - 1].project && s->items[s->n - 1].uuid ? 0 : -ENOMEM;
}

static int write_storage(struct machines *ms, const struct storage *s, uint64_t ns, struct error *e) {
        int r = store_begin(ms->store, e);

        for (size_t i = 0; i < s->n && r == 0; i++) {
                const struct store_usage u = { .project = s->items[i].project,
                                               .machine = s->items[i].uuid,
                                               .storage_mib_s = mib_seconds(s->items[i].bytes, ns) };

                r = store_usage_add(ms->store, &u, e);
                if (r < 0)
                        store_rollback(ms->store);
        }
        return r < 0 ? r : store_commit(ms->store, e);
}

void usage_count_storage(struct machines *ms, const json_t *volumes) {
        const struct store_machine_filter whole = { .whole = true };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct storage s = { .volumes = volumes };
        uint64_t now = clock_ns(), since = ms->storage_ns;
        int r;

        if (++ms->storage_passes < STORAGE_PASSES)
                return;
        ms->storage_passes = 0;
        ms->storage_ns = now;
        r = store_machine_each(ms->store, &whole, find_volume, &s, &e);
        if (r == 0 && s.n > 0)
                r = write_storage(ms, &s, now - since, &e);
        if (r < 0)
                log_warning("the usage of storage is not kept: %s", e.message ?: strerror(-r));
        for (size_t i = 0; i < s.n; i++) {
                free(s.items[i].project);
                free(s.items[i].uuid);
        }
        free(s.items);
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
