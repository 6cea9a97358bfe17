// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * metrics: figures for Prometheus, in its text format, version 0.0.4
 *
 * All figures are in one table, metrics[]: name, type, help, and the function that writes its samples. doc/metrics.md is made from the table, and a test
 * holds the dashboard against it (test/lint/metrics). Names are Prometheus' way: base units, _total for what only grows.
 *
 * A scrape asks nobody: figures of machines, networks and the pool are those of the last pass (daemon/machine/sample.h), and say when that was. The store is read
 * once, for which machines there are.
 *
 * Labels may hold anything: names of machines are a person's, names of disks a VMM's; all are escaped. An answer is bounded: machines that do not fit any more are
 * left out, which lodge_metrics_truncated tells.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "daemon/api/internal.h"
#include "daemon/machine/sample.h"

#define MACHINES_MAX 20000u
#define TEXT_MAX     (16u << 20)

/* A machine in the store. */
struct item {
        char *labels; /* machine="...",project="...",uuid="...": escaped */
        bool running;
        uint32_t cpus;
        uint64_t memory;
        struct machine_running live; /* of one that runs */
};

struct scrape {
        struct api *api;
        const struct samples *samples;
        const char *name; /* of the metric that is being written */
        GString *text;
        struct item *items;
        size_t n_items, size;
        uint64_t by_status[MACHINE_STATUS_COUNT], running_cpus, running_memory;
        bool truncated;
};

struct metric {
        const char *name;
        enum { GAUGE, COUNTER } type;
        const char *help;
        void (*write)(struct scrape *s);
};

/* ---- the format ------------------------------------------------------------------------------------------------------- */

void metrics_add_label(GString *text, const char *name, const char *value) {
        g_string_append_printf(text, "%s=\"", name);
        for (const char *c = value; *c; c++)
                if (*c == '\\' || *c == '"')
                        g_string_append_printf(text, "\\%c", *c);
                else if (*c == '\n')
                        g_string_append(text, "\\n");
                else
                        g_string_append_c(text, (unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c);
        g_string_append_c(text, '"');
}

static void sample(struct scrape *s, uint64_t value) {
        g_string_append_printf(s->text, "%s %" PRIu64 "\n", s->name, value);
}

static void sample_of(struct scrape *s, const char *label, const char *value, uint64_t n) {
        g_string_append_printf(s->text, "%s{", s->name);
        metrics_add_label(s->text, label, value);
        g_string_append_printf(s->text, "} %" PRIu64 "\n", n);
}

/* Microseconds as seconds. */
static void sample_us(struct scrape *s, const char *labels, uint64_t us) {
        g_string_append_printf(s->text, "%s%s%s%s %" PRIu64 ".%06" PRIu64 "\n", s->name, labels ? "{" : "",
                               labels ?: "", labels ? "}" : "", us / 1000000, us % 1000000);
}

static uint64_t number(const json_t *object, const char *key) {
        json_int_t n = json_integer_value(json_object_get(object, key));

        return n > 0 ? (uint64_t)n : 0;
}

/* ---- the daemon ------------------------------------------------------------------------------------------------------- */

static void write_info(struct scrape *s) {
        g_string_append_printf(s->text, "%s{version=\"%s\",scope=\"%s\"} 1\n", s->name, LODGE_VERSION,
                               api_scope_to_string(s->api->o.config->scope));
}

static void write_requests(struct scrape *s) {
        for (unsigned int i = 1; i < ELEMENTSOF(s->api->counts); i++)
                g_string_append_printf(s->text, "%s{class=\"%uxx\"} %" PRIu64 "\n", s->name, i, s->api->counts[i]);
}

static void write_connections(struct scrape *s) {
        sample(s, s->api->n_connections);
}

static void write_streams(struct scrape *s) {
        sample(s, s->api->n_streams);
}

static void write_operations(struct scrape *s) {
        sample(s, operations_count(machines_operations(s->api->o.machines)));
}

static void write_events(struct scrape *s) {
        uint64_t oldest, newest = 0;

        store_event_range(s->api->o.store, &oldest, &newest, NULL);
        sample(s, newest);
}

static void write_worker_cpu(struct scrape *s) {
        struct rusage u;

        if (getrusage(RUSAGE_SELF, &u) == 0)
                sample_us(s, NULL,
                          (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
                                  (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec));
}

static void write_worker_memory(struct scrape *s) {
        struct rusage u;

        if (getrusage(RUSAGE_SELF, &u) == 0)
                sample(s, (uint64_t)u.ru_maxrss * 1024);
}

static void write_pass(struct scrape *s) {
        if (s->samples->time > 0)
                sample_us(s, NULL, (uint64_t)s->samples->time);
}

static void write_truncated(struct scrape *s) {
        sample(s, s->truncated);
}

/* ---- all machines ----------------------------------------------------------------------------------------------------- */

static void write_machines(struct scrape *s) {
        for (unsigned int i = 0; i < MACHINE_STATUS_COUNT; i++)
                sample_of(s, "status", machine_status_to_string(i), s->by_status[i]);
}

static void write_running_cpus(struct scrape *s) {
        sample(s, s->running_cpus);
}

static void write_running_memory(struct scrape *s) {
        sample(s, s->running_memory);
}

/* ---- each machine ----------------------------------------------------------------------------------------------------- */

static bool fits(struct scrape *s) {
        if (s->text->len >= TEXT_MAX)
                s->truncated = true;
        return s->text->len < TEXT_MAX;
}

static void sample_machine(struct scrape *s, const struct item *m, uint64_t value) {
        g_string_append_printf(s->text, "%s{%s} %" PRIu64 "\n", s->name, m->labels, value);
}

#define FOREACH_MACHINE(m, s) for (struct item *m = (s)->items; m < (s)->items + (s)->n_items && fits(s); m++)
#define FOREACH_RUNNING(m, s) FOREACH_MACHINE(m, s) if (m->running)

static void write_up(struct scrape *s) {
        FOREACH_MACHINE(m, s)
        sample_machine(s, m, m->running);
}

static void write_paused(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        sample_machine(s, m, m->live.paused);
}

static void write_agent(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        sample_machine(s, m, m->live.agent);
}

static void write_cpus(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        sample_machine(s, m, m->cpus);
}

static void write_memory(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        sample_machine(s, m, m->memory);
}

static void write_cpu(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        if (m->live.sample->time > 0)
                sample_us(s, m->labels, m->live.sample->cpu_us);
}

static void write_resident(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        if (m->live.sample->time > 0)
                sample_machine(s, m, m->live.sample->memory);
}

static void write_machine_time(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        if (m->live.sample->time > 0)
                sample_us(s, m->labels, (uint64_t)m->live.sample->time);
}

static void write_disk_time(struct scrape *s) {
        FOREACH_RUNNING(m, s)
        if (m->live.sample->disk_time > 0)
                sample_us(s, m->labels, (uint64_t)m->live.sample->disk_time);
}

/* @at: where the figure is in a struct disk_sample. */
static void each_disk(struct scrape *s, size_t at) {
        FOREACH_RUNNING(m, s)
        for (unsigned int i = 0; i < m->live.sample->n_disks; i++) {
                const struct disk_sample *d = &m->live.sample->disks[i];

                g_string_append_printf(s->text, "%s{%s,", s->name, m->labels);
                metrics_add_label(s->text, "disk", d->name);
                g_string_append_printf(s->text, "} %" PRIu64 "\n", *(const uint64_t *)((const char *)d + at));
        }
}

static void each_net(struct scrape *s, size_t at) {
        FOREACH_RUNNING(m, s)
        for (unsigned int i = 0; i < m->live.sample->n_nets; i++) {
                const struct net_sample *n = &m->live.sample->nets[i];

                g_string_append_printf(s->text, "%s{%s,", s->name, m->labels);
                metrics_add_label(s->text, "interface", n->interface);
                g_string_append_c(s->text, ',');
                metrics_add_label(s->text, "network", n->network);
                g_string_append_printf(s->text, "} %" PRIu64 "\n", *(const uint64_t *)((const char *)n + at));
        }
}

#define DEFINE_EACH(each, type, field)                                                                                 \
        static void write_##each##_##field(struct scrape *s) {                                                         \
                each(s, offsetof(struct type, field));                                                                 \
        }
DEFINE_EACH(each_disk, disk_sample, read_bytes)
DEFINE_EACH(each_disk, disk_sample, written_bytes)
DEFINE_EACH(each_disk, disk_sample, discarded_bytes)
DEFINE_EACH(each_disk, disk_sample, reads)
DEFINE_EACH(each_disk, disk_sample, writes)
DEFINE_EACH(each_disk, disk_sample, flushes)
DEFINE_EACH(each_disk, disk_sample, discards)
DEFINE_EACH(each_disk, disk_sample, errors)
DEFINE_EACH(each_net, net_sample, received_bytes)
DEFINE_EACH(each_net, net_sample, received_packets)
DEFINE_EACH(each_net, net_sample, received_drops)
DEFINE_EACH(each_net, net_sample, sent_bytes)
DEFINE_EACH(each_net, net_sample, sent_packets)
DEFINE_EACH(each_net, net_sample, sent_drops)

/* ---- networks, pools, projects ---------------------------------------------------------------------------------------- */

static void write_network_state(struct scrape *s) {
        static const char *const states[] = { "up", "degraded", "down", "unknown" };
        json_t *network;
        size_t i;

        json_array_foreach(s->samples->networks, i, network) {
                const char *state = json_string_value(json_object_get(network, "state")) ?: "unknown";

                for (size_t k = 0; k < ELEMENTSOF(states); k++) {
                        g_string_append_printf(s->text, "%s{", s->name);
                        metrics_add_label(s->text, "network",
                                          json_string_value(json_object_get(network, "name")) ?: "");
                        g_string_append_printf(s->text, ",state=\"%s\"} %d\n", states[k], streq(state, states[k]));
                }
        }
}

static void write_network_leases(struct scrape *s) {
        json_t *network;
        size_t i;

        json_array_foreach(s->samples->networks, i, network) {
                sample_of(s, "network", json_string_value(json_object_get(network, "name")) ?: "",
                          number(network, "leases"));
        }
}

static void pool_figure(struct scrape *s, const char *key) {
        const char *name = json_string_value(json_object_get(s->samples->pool, "name"));

        if (name)
                sample_of(s, "pool", name, number(s->samples->pool, key));
}

static void write_pool_capacity(struct scrape *s) {
        pool_figure(s, "capacity");
}

static void write_pool_available(struct scrape *s) {
        pool_figure(s, "available");
}

static void write_pool_allocated(struct scrape *s) {
        pool_figure(s, "allocated");
}

static void write_pool_volumes(struct scrape *s) {
        const char *name = json_string_value(json_object_get(s->samples->pool, "name"));

        if (name)
                sample_of(s, "pool", name, json_object_size(json_object_get(s->samples->pool, "volumes")));
}

static void write_project_cpu(struct scrape *s) {
        const char *project;
        json_t *used;

        json_object_foreach(s->samples->projects, project, used) {
                GString *labels = g_string_new(NULL);

                metrics_add_label(labels, "project", project);
                sample_us(s, labels->str, number(used, "cpu_us"));
                g_string_free(labels, TRUE);
        }
}

static void project_mib_seconds(struct scrape *s, const char *key) {
        const char *project;
        json_t *used;

        json_object_foreach(s->samples->projects, project, used) {
                sample_of(s, "project", project, number(used, key) << 20);
        }
}

static void write_project_memory(struct scrape *s) {
        project_mib_seconds(s, "memory_mib_s");
}

static void write_project_storage(struct scrape *s) {
        project_mib_seconds(s, "storage_mib_s");
}

/* ---- the table -------------------------------------------------------------------------------------------------------- */

/* test/lint/metrics reads it. */
static const struct metric metrics[] = {
        { "lodge_info", GAUGE, "Version and scope of the daemon.", write_info },
        { "lodge_requests_total", COUNTER, "Requests answered, by the class of their status.", write_requests },
        { "lodge_connections", GAUGE, "Open connections of clients.", write_connections },
        { "lodge_streams", GAUGE, "Open WebSockets.", write_streams },
        { "lodge_operations", GAUGE, "Operations under way.", write_operations },
        { "lodge_events_total", COUNTER, "Events so far.", write_events },
        { "lodge_worker_cpu_seconds_total", COUNTER, "CPU time of lodged's worker.", write_worker_cpu },
        { "lodge_worker_max_resident_bytes", GAUGE, "Memory of lodged's worker at its largest.", write_worker_memory },
        { "lodge_sample_timestamp_seconds", GAUGE,
          "When the last pass over machines, pools and networks ended; absent before the first.", write_pass },

        { "lodge_machines", GAUGE, "Machines, by what they do.", write_machines },
        { "lodge_running_cpus", GAUGE, "Virtual CPUs of machines that run.", write_running_cpus },
        { "lodge_running_memory_bytes", GAUGE, "Memory that machines that run were given.", write_running_memory },

        { "lodge_machine_up", GAUGE, "Whether the machine runs (a paused one does).", write_up },
        { "lodge_machine_paused", GAUGE, "Whether its CPUs are stopped.", write_paused },
        { "lodge_machine_agent_up", GAUGE, "Whether its guest agent answers.", write_agent },
        { "lodge_machine_cpus", GAUGE, "Its virtual CPUs.", write_cpus },
        { "lodge_machine_memory_bytes", GAUGE, "Memory that it was given.", write_memory },
        { "lodge_machine_memory_resident_bytes", GAUGE, "Memory of the host that its process takes.", write_resident },
        { "lodge_machine_cpu_seconds_total", COUNTER, "CPU time of its process since its start.", write_cpu },
        { "lodge_machine_sample_timestamp_seconds", GAUGE,
          "When its CPU time, memory and interfaces were looked at last.", write_machine_time },
        { "lodge_machine_disk_sample_timestamp_seconds", GAUGE, "When it last said what its disks do.",
          write_disk_time },

        { "lodge_machine_disk_read_bytes_total", COUNTER, "Bytes that the guest has read from a disk.",
          write_each_disk_read_bytes },
        { "lodge_machine_disk_written_bytes_total", COUNTER, "Bytes that the guest has written to a disk.",
          write_each_disk_written_bytes },
        { "lodge_machine_disk_discarded_bytes_total", COUNTER, "Bytes that the guest has given back.",
          write_each_disk_discarded_bytes },
        { "lodge_machine_disk_reads_total", COUNTER, "Reads that were done.", write_each_disk_reads },
        { "lodge_machine_disk_writes_total", COUNTER, "Writes that were done.", write_each_disk_writes },
        { "lodge_machine_disk_flushes_total", COUNTER, "Flushes that were done.", write_each_disk_flushes },
        { "lodge_machine_disk_discards_total", COUNTER, "Discards that were done.", write_each_disk_discards },
        { "lodge_machine_disk_errors_total", COUNTER, "Operations of which the guest was told that they failed.",
          write_each_disk_errors },

        { "lodge_machine_network_receive_bytes_total", COUNTER,
          "Bytes that the guest was sent, by the host's tap; absent for user networking.",
          write_each_net_received_bytes },
        { "lodge_machine_network_receive_packets_total", COUNTER, "Packets that the guest was sent.",
          write_each_net_received_packets },
        { "lodge_machine_network_receive_drops_total", COUNTER, "Packets that the guest did not take in time.",
          write_each_net_received_drops },
        { "lodge_machine_network_transmit_bytes_total", COUNTER, "Bytes that the guest has sent.",
          write_each_net_sent_bytes },
        { "lodge_machine_network_transmit_packets_total", COUNTER, "Packets that the guest has sent.",
          write_each_net_sent_packets },
        { "lodge_machine_network_transmit_drops_total", COUNTER, "Packets of the guest's that the host dropped.",
          write_each_net_sent_drops },

        { "lodge_network_state", GAUGE, "1 for the state that the network is in, 0 for the others.",
          write_network_state },
        { "lodge_network_leases", GAUGE, "Addresses that the network has given out.", write_network_leases },

        { "lodge_pool_capacity_bytes", GAUGE, "Bytes of the storage that the pool lies on.", write_pool_capacity },
        { "lodge_pool_available_bytes", GAUGE, "Bytes that can still be written to it.", write_pool_available },
        { "lodge_pool_allocated_bytes", GAUGE, "Bytes that its volumes take.", write_pool_allocated },
        { "lodge_pool_volumes", GAUGE, "Volumes in it.", write_pool_volumes },

        { "lodge_project_cpu_seconds_total", COUNTER, "CPU time that the project's machines used this month (UTC).",
          write_project_cpu },
        { "lodge_project_memory_byte_seconds_total", COUNTER,
          "Memory of the host that they took this month, times its time.", write_project_memory },
        { "lodge_project_storage_byte_seconds_total", COUNTER,
          "Storage that their disks took this month, times its time.", write_project_storage },

        { "lodge_metrics_truncated", GAUGE, "1 when there are more machines than fit into one answer.",
          write_truncated },
};

/* ---- a scrape --------------------------------------------------------------------------------------------------------- */

static int count(void *opaque, const struct store_machine *row) {
        struct scrape *s = opaque;
        struct machines *ms = s->api->o.machines;
        const char *engine;
        enum machine_status status = machine_status_of(ms, row, &engine);
        struct item *m;
        GString *labels;

        s->by_status[status]++;
        if (status == MACHINE_STATUS_RUNNING || status == MACHINE_STATUS_PAUSED) {
                s->running_cpus += row->cpus;
                s->running_memory += row->memory;
        }
        if (s->n_items == MACHINES_MAX) {
                s->truncated = true;
                return 0;
        }
        if (s->n_items == s->size) {
                m = reallocarray(s->items, s->size * 2 + 64, sizeof(*m));
                if (!m)
                        return -ENOMEM;
                s->items = m;
                s->size = s->size * 2 + 64;
        }
        labels = g_string_new(NULL);
        metrics_add_label(labels, "machine", row->name);
        g_string_append_c(labels, ',');
        metrics_add_label(labels, "project", row->project);
        g_string_append_c(labels, ',');
        metrics_add_label(labels, "uuid", row->uuid);
        m = &s->items[s->n_items++];
        *m = (struct item){ .labels = g_string_free(labels, FALSE), .cpus = row->cpus, .memory = row->memory };
        m->running = machine_running_find(ms, row->uuid, &m->live);
        return 0;
}

static void write_all(struct scrape *s) {
        static const char *const types[] = { [GAUGE] = "gauge", [COUNTER] = "counter" };

        for (size_t i = 0; i < ELEMENTSOF(metrics); i++) {
                const struct metric *m = &metrics[i];
                size_t before = s->text->len, head;

                g_string_append_printf(s->text, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name,
                                       types[m->type]);
                head = s->text->len;
                s->name = m->name;
                m->write(s);
                if (s->text->len == head) /* nothing to say */
                        g_string_truncate(s->text, before);
        }
}

int api_metrics_show(struct api_request *q, struct error *e) {
        struct scrape s = { .api = q->api, .samples = machines_samples(q->api->o.machines) };
        int r = store_machine_each(q->api->o.store, NULL, count, &s, e);

        if (r == 0) {
                s.text = g_string_new(NULL);
                write_all(&s);
                r = api_answer_text(q, 200, "text/plain; version=0.0.4; charset=utf-8", s.text->str, s.text->len);
                g_string_free(s.text, TRUE);
        }
        for (size_t i = 0; i < s.n_items; i++)
                g_free(s.items[i].labels);
        free(s.items);
        return r;
}
