// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage: what machines use, added up for each project: a sample of each running machine every minute
 *
 * CPU time is a counter of its process: the difference to the sample before is added. Of a machine that was found running by a new daemon the first sample
 * is where counting begins, since what came before was counted by the old one. Memory is a level: what is
 * seen now is counted for the time since the last sample. What a machine does after its last sample is lost, up to a minute.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/machine/internal.h"

#define SAMPLE_US 60000000

static void add(struct machines *ms, const json_t *item, uint64_t seconds) {
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
                                  .memory_mib_s = (memory >> 20) * seconds };
        if (live->sampled_pid == pid && cpu >= live->sampled_cpu_us)
                u.cpu_us = cpu - live->sampled_cpu_us;
        else
                u.cpu_us = live->found ? 0 : cpu;
        live->sampled_pid = pid;
        live->sampled_cpu_us = cpu;
        store_usage_add(ms->store, &u, NULL);
}

static void on_sample(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct machines *ms = opaque;
        uint64_t now = clock_ns(),
                 seconds = ms->sampled_ns ? (now - ms->sampled_ns) / 1000000000u : SAMPLE_US / 1000000;
        json_t *item;
        size_t i;

        ms->sampled_ns = now;
        loop_timer_set(ms->sample, SAMPLE_US);
        if (e || json_array_size(json_object_get(reply->json, "items")) == 0 || store_begin(ms->store, &own) < 0)
                return;
        json_array_foreach(json_object_get(reply->json, "items"), i, item) {
                add(ms, item, seconds);
        }
        if (store_commit(ms->store, &own) < 0)
                log_warning("usage is not kept: %s", own.message ?: "");
}

static void on_timer(void *opaque) {
        struct machines *ms = opaque;

        if (ms->n_live == 0)
                ms->sampled_ns = 0; /* whoever starts next did not run all this time */
        if (ms->n_live == 0 || broker_call(ms->broker, "machines-usage", NULL, NULL, on_sample, ms, NULL) < 0)
                loop_timer_set(ms->sample, SAMPLE_US);
}

int usage_begin(struct machines *ms) {
        int r = loop_add_timer(ms->loop, on_timer, ms, &ms->sample);

        return r < 0 ? r : loop_timer_set(ms->sample, SAMPLE_US);
}
