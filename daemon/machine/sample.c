// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sample: see sample.h; what comes of it for those who pay is in usage.c
 *
 * LODGED_TEST_SAMPLE_MS in the daemon's environment, which is its administrator's, is another time between two passes, for tests; 0: there are none.
 */
#include "daemon/machine/sample.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/machine/internal.h"

#define SAMPLE_US    60000000
#define FIRST_US     2000000 /* soon after the start, so that there are figures */
#define TEST_SAMPLE  "LODGED_TEST_SAMPLE_MS"
#define NETWORKS_MAX 256u

int64_t time_now_us(void) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t number(const json_t *object, const char *key) {
        json_int_t n = json_integer_value(json_object_get(object, key));

        return n > 0 ? (uint64_t)n : 0;
}

/* ---- disks ------------------------------------------------------------------------------------------------------------ */

static uint64_t errors(const json_t *stats) {
        static const char *const keys[] = { "failed_rd_operations", "failed_wr_operations", "failed_flush_operations",
                                            "failed_unmap_operations" };
        uint64_t sum = 0;

        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                sum += number(stats, keys[i]);
        return sum;
}

/* QEMU names the node in one place, lodge-vmm in both. */
static bool disk_of(const json_t *item, struct disk_sample *ret) {
        const json_t *stats = json_object_get(item, "stats");
        const char *name = json_string_value(json_object_get(item, "node-name"))
                                   ?: json_string_value(json_object_get(item, "device"));

        if (!name || !*name || !json_is_object(stats))
                return false;
        *ret = (struct disk_sample){
                .read_bytes = number(stats, "rd_bytes"),
                .written_bytes = number(stats, "wr_bytes"),
                .discarded_bytes = number(stats, "unmap_bytes"),
                .reads = number(stats, "rd_operations"),
                .writes = number(stats, "wr_operations"),
                .flushes = number(stats, "flush_operations"),
                .discards = number(stats, "unmap_operations"),
                .errors = errors(stats),
        };
        snprintf(ret->name, sizeof(ret->name), "%s", name);
        return true;
}

void sample_take_disks(struct machine_sample *s, const json_t *answer) {
        json_t *item;
        size_t i;

        s->n_disks = 0;
        json_array_foreach(answer, i, item) {
                struct disk_sample *d = &s->disks[s->n_disks];
                bool twice = false;

                if (s->n_disks == SAMPLE_DISKS_MAX)
                        break;
                if (!disk_of(item, d))
                        continue;
                for (unsigned int k = 0; k < s->n_disks; k++)
                        twice |= streq(s->disks[k].name, d->name);
                s->n_disks += !twice;
        }
        s->disk_time = time_now_us();
}

static void on_disks(void *opaque, int result, json_t *value) {
        struct machine_live *live = opaque;

        live->sampling = false;
        if (result == 0)
                sample_take_disks(&live->sample, value);
}

static void ask_disks(struct machine_live *live) {
        if (!live->sampling && qmp_client_ready(live->qmp))
                live->sampling = qmp_client_command(live->qmp, "query-blockstats", NULL, on_disks, live) == 0;
}

/* ---- interfaces ------------------------------------------------------------------------------------------------------- */

/* A port of a network belongs to a machine's name there, whatever the project. */
static struct machine_live *find_by_name(struct machines *ms, const char *name) {
        for (struct machine_live *l = ms->live; l; l = l->next)
                if (streq(l->name, name))
                        return l;
        return NULL;
}

/* What the tap has received the guest has sent. */
static void take_tap(struct machines *ms, const json_t *tap) {
        const char *machine = json_string_value(json_object_get(tap, "machine"));
        struct machine_live *live = machine ? find_by_name(ms, machine) : NULL;
        struct net_sample *n;

        if (!live || live->sample.n_nets == SAMPLE_NETS_MAX)
                return;
        n = &live->sample.nets[live->sample.n_nets++];
        *n = (struct net_sample){
                .received_bytes = number(tap, "sent_bytes"),
                .received_packets = number(tap, "sent_packets"),
                .received_drops = number(tap, "sent_drops"),
                .sent_bytes = number(tap, "received_bytes"),
                .sent_packets = number(tap, "received_packets"),
                .sent_drops = number(tap, "received_drops"),
        };
        snprintf(n->interface, sizeof(n->interface), "%s", json_string_value(json_object_get(tap, "interface")) ?: "");
        snprintf(n->network, sizeof(n->network), "%s", json_string_value(json_object_get(tap, "network")) ?: "");
}

static void take_taps(struct machines *ms, const json_t *taps) {
        json_t *tap;
        size_t i;

        for (struct machine_live *l = ms->live; l; l = l->next)
                l->sample.n_nets = 0;
        json_array_foreach(taps, i, tap) {
                take_tap(ms, tap);
        }
}

/* ---- a pass ----------------------------------------------------------------------------------------------------------- */

static void end_pass(struct machines *ms) {
        json_decref(ms->samples.projects);
        ms->samples.projects = usage_of_projects(ms);
        if (ms->sampled_networks) {
                json_decref(ms->samples.networks);
                ms->samples.networks = TAKE_PTR(ms->sampled_networks);
        }
        ms->samples.time = time_now_us();
        loop_timer_set(ms->sample, ms->sample_us);
}

static void next_network(struct machines *ms);

static void on_network(void *opaque, const struct error *e, struct wire_message *reply) {
        struct machines *ms = opaque;
        json_t *name = json_array_get(ms->network_names, ms->network_next++);
        const char *state = reply ? json_string_value(json_object_get(reply->json, "state")) : NULL;

        json_array_append_new(
                ms->sampled_networks,
                json_pack("{s:O, s:s, s:I}", "name", name, "state", state ?: "unknown", "leases",
                          reply ? (json_int_t)json_array_size(json_object_get(reply->json, "leases")) : 0));
        next_network(ms);
}

/* One after the other: the broker has one thread, and others want something, too. */
static void next_network(struct machines *ms) {
        json_t *name;

        for (; (name = json_array_get(ms->network_names, ms->network_next)); ms->network_next++) {
                json_auto_t *config = NULL;

                if (ms->network_next < NETWORKS_MAX &&
                    machine_network_load(ms, json_string_value(name), &config, NULL) == 0 &&
                    json_object_get(config, "subnet") &&
                    broker_call(ms->broker, "network-status", json_pack("{s:O}", "network", config), NULL, on_network,
                                ms, NULL) == 0)
                        return;
        }
        end_pass(ms);
}

static void ask_networks(struct machines *ms) {
        json_decref(TAKE_PTR(ms->network_names));
        json_decref(TAKE_PTR(ms->sampled_networks));
        ms->network_next = 0;
        if (ms->scope == API_SCOPE_SYSTEM && network_names(ms, &ms->network_names) == 0)
                ms->sampled_networks = json_array();
        next_network(ms);
}

static void on_pool(void *opaque, const struct error *e, struct wire_message *reply) {
        struct machines *ms = opaque;

        if (!e) {
                json_decref(ms->samples.pool);
                ms->samples.pool = json_incref(reply->json);
                usage_count_storage(ms, json_object_get(reply->json, "volumes"));
        }
        ask_networks(ms);
}

static void ask_pool(struct machines *ms) {
        if (broker_call(ms->broker, "pool-usage", NULL, NULL, on_pool, ms, NULL) < 0)
                ask_networks(ms);
}

static void on_usage(void *opaque, const struct error *e, struct wire_message *reply) {
        struct machines *ms = opaque;

        if (!e) {
                usage_count_running(ms, json_object_get(reply->json, "items"));
                take_taps(ms, json_object_get(reply->json, "taps"));
        }
        for (struct machine_live *l = ms->live; l; l = l->next)
                ask_disks(l);
        ask_pool(ms);
}

static void on_timer(void *opaque) {
        struct machines *ms = opaque;

        if (ms->n_live == 0 || broker_call(ms->broker, "machines-usage", NULL, NULL, on_usage, ms, NULL) < 0)
                ask_pool(ms);
}

int sample_begin(struct machines *ms) {
        const char *test = getenv(TEST_SAMPLE);
        int r = loop_add_timer(ms->loop, on_timer, ms, &ms->sample);

        ms->sample_us = test ? strtoul(test, NULL, 10) * 1000 : SAMPLE_US;
        ms->storage_ns = clock_ns();
        if (r == 0 && ms->sample_us > 0)
                r = loop_timer_set(ms->sample, MIN((uint64_t)FIRST_US, ms->sample_us));
        return r;
}

void sample_end(struct machines *ms) {
        usage_end(ms);
        loop_source_free(ms->sample);
        json_decref(ms->samples.pool);
        json_decref(ms->samples.networks);
        json_decref(ms->samples.projects);
        json_decref(ms->network_names);
        json_decref(ms->sampled_networks);
}

/* ---- for whoever reads ------------------------------------------------------------------------------------------------- */

bool machine_running_find(const struct machines *ms, const char *uuid, struct machine_running *ret) {
        const struct machine_live *live = live_find((struct machines *)ms, uuid);

        if (!live)
                return false;
        *ret = (struct machine_running){
                .uuid = live->uuid,
                .name = live->name,
                .project = live->project,
                .engine = live->engine,
                .paused = live->paused,
                .agent = live->agent_ready,
                .sample = &live->sample,
        };
        return true;
}

const struct samples *machines_samples(const struct machines *ms) {
        return &ms->samples;
}
