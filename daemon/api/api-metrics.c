// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * api-metrics: figures: for Prometheus (its text format, version 0.0.4), for those who watch over the daemon, for those who pay, and the record of who
 * changed what
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/text.h"
#include "daemon/api/internal.h"

int api_health_show(struct api_request *q, struct error *e) {
        return api_answer_text(q, 200, "text/plain", "ok\n", 3);
}

int api_ready_show(struct api_request *q, struct error *e) {
        if (q->api->ready)
                return api_answer_text(q, 200, "text/plain", "ready\n", 6);
        return error_set(e, -EAGAIN, "daemon-starting", "try again in a moment",
                         "the daemon is still finding out which machines run");
}

/* ---- Prometheus ------------------------------------------------------------------------------------------------------ */

struct count {
        struct machines *machines;
        uint64_t by_status[MACHINE_STATUS_COUNT], cpus, memory;
};

static int count_one(void *opaque, const struct store_machine *row) {
        struct count *c = opaque;
        const char *engine;
        enum machine_status status = machine_status_of(c->machines, row, &engine);

        c->by_status[status]++;
        if (status == MACHINE_STATUS_RUNNING || status == MACHINE_STATUS_PAUSED) {
                c->cpus += row->cpus;
                c->memory += row->memory;
        }
        return 0;
}

static void head(GString *text, const char *name, const char *type, const char *help) {
        g_string_append_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(GString *text, const char *name, const char *type, const char *help, uint64_t value) {
        head(text, name, type, help);
        g_string_append_printf(text, "%s %" PRIu64 "\n", name, value);
}

static void add_pool(GString *text, const json_t *pool) {
        const char *name = json_string_value(json_object_get(pool, "name"));
        static const char *const figures[] = { "capacity", "available", "allocated" };

        if (!name)
                return;
        for (size_t i = 0; i < ELEMENTSOF(figures); i++) {
                char metric[64];

                snprintf(metric, sizeof(metric), "lodge_pool_%s_bytes", figures[i]);
                head(text, metric, "gauge", "Bytes of a pool.");
                g_string_append_printf(text, "%s{pool=\"%s\"} %" PRIu64 "\n", metric, name,
                                       (uint64_t)json_integer_value(json_object_get(pool, figures[i])));
        }
        one(text, "lodge_volumes", "gauge", "Disks in pools.", json_array_size(json_object_get(pool, "items")));
}

static void add_daemon(GString *text, const struct api *api) {
        struct rusage usage;
        uint64_t oldest, newest = 0;

        head(text, "lodge_requests_total", "counter", "Requests answered, by the class of their status.");
        for (unsigned int i = 1; i < ELEMENTSOF(api->counts); i++)
                g_string_append_printf(text, "lodge_requests_total{class=\"%uxx\"} %" PRIu64 "\n", i, api->counts[i]);
        one(text, "lodge_connections", "gauge", "Open connections of clients.", api->n_connections);
        one(text, "lodge_streams", "gauge", "Open WebSockets.", api->n_streams);
        one(text, "lodge_operations", "gauge", "Operations under way.",
            operations_count(machines_operations(api->o.machines)));
        store_event_range(api->o.store, &oldest, &newest, NULL);
        one(text, "lodge_events_total", "counter", "Events so far.", newest);
        if (getrusage(RUSAGE_SELF, &usage) == 0) {
                head(text, "lodge_worker_cpu_seconds_total", "counter", "CPU time of lodged's worker.");
                g_string_append_printf(text, "lodge_worker_cpu_seconds_total %.3f\n",
                                       (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                                               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
                one(text, "lodge_worker_max_resident_bytes", "gauge", "Memory of lodged's worker at its largest.",
                    (uint64_t)usage.ru_maxrss * 1024);
        }
}

static int write_metrics(struct api_request *q, const json_t *pool, struct error *e) {
        struct count c = { .machines = q->api->o.machines };
        GString *text;
        int r = store_machine_each(q->api->o.store, NULL, count_one, &c, e);

        if (r < 0)
                return r;
        text = g_string_new(NULL);
        head(text, "lodge_info", "gauge", "Version and scope of the daemon.");
        g_string_append_printf(text, "lodge_info{version=\"%s\",scope=\"%s\"} 1\n", LODGE_VERSION,
                               api_scope_to_string(q->api->o.config->scope));
        head(text, "lodge_machines", "gauge", "Machines, by what they do.");
        for (unsigned int i = 0; i < MACHINE_STATUS_COUNT; i++)
                g_string_append_printf(text, "lodge_machines{status=\"%s\"} %" PRIu64 "\n", machine_status_to_string(i),
                                       c.by_status[i]);
        one(text, "lodge_running_cpus", "gauge", "Virtual CPUs of running machines.", c.cpus);
        one(text, "lodge_running_memory_bytes", "gauge", "Memory of running machines.", c.memory);
        add_pool(text, pool);
        add_daemon(text, q->api);
        r = api_answer_text(q, 200, "text/plain; version=0.0.4", text->str, text->len);
        g_string_free(text, TRUE);
        return r;
}

static void on_pool(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct api_request *q = opaque;

        if (write_metrics(q, reply ? reply->json : NULL, &own) < 0)
                api_answer_error(q, &own);
}

int api_metrics_show(struct api_request *q, struct error *e) {
        if (broker_call(q->api->o.broker, "volume-list", NULL, NULL, on_pool, q, NULL) < 0)
                return broker_gone(e);
        return 1;
}

/* ---- audit ------------------------------------------------------------------------------------------------------------ */

static int list_audit(void *opaque, const struct store_audit *a) {
        struct audit_page *page = opaque;
        struct audit_view *v;

        if (audit_page_add_items(page, &v) < 0)
                return -ENOMEM;
        v->seq = a->seq;
        v->time = time_text(a->time);
        v->who = text_copy(a->principal);
        v->action = text_copy(a->action);
        v->project = text_copy(a->project);
        v->target = text_copy(a->target);
        v->status = (uint32_t)a->status;
        v->request = text_copy(a->request_id);
        return 0;
}

int api_audit_list(struct api_request *q, struct error *e) {
        _cleanup_(audit_page_freep) struct audit_page *page = NULL;
        const struct audit_query *query = q->query;
        int r;

        if (audit_page_new(&page) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the changes");
        r = store_audit_each(q->api->o.store, query->after, NULL, query->limit, list_audit, page, e);
        return r < 0 ? r : api_answer(q, page);
}

void api_audit(struct api_request *q, unsigned int status) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const struct store_audit a = { .principal = q->access.who,
                                       .action = (char *)q->route->name,
                                       .project = (char *)q->project,
                                       .target = q->parameters[0],
                                       .request_id = q->id,
                                       .status = (int32_t)status };

        if ((q->route->role < SCHEMA_ROLE_OPERATOR && !q->audited) || q->dry_run || streq(q->route->method, "GET"))
                return;
        if (store_audit_add(q->api->o.store, &a, NULL, &e) < 0)
                log_warning("request %s is not in the audit record: %s", q->id, e.message ?: "");
}

/* ---- usage ------------------------------------------------------------------------------------------------------------ */

static int list_usage(void *opaque, const struct store_usage *u) {
        struct usage_page *page = opaque;
        struct usage_view *v;

        if (usage_page_add_items(page, &v) < 0)
                return -ENOMEM;
        v->project = text_copy(u->project);
        v->machine = text_copy(u->machine);
        v->month = u->month;
        v->cpu_seconds = u->cpu_us / 1000000;
        v->memory_mib_hours = u->memory_mib_s / 3600;
        v->storage_mib_hours = u->storage_mib_s / 3600;
        return 0;
}

int api_usage_list(struct api_request *q, struct error *e) {
        _cleanup_(usage_page_freep) struct usage_page *page = NULL;
        const struct usage_query *query = q->query;
        int r;

        if (usage_page_new(&page) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the usage");
        r = store_usage_each(q->api->o.store, query->project, query->month, list_usage, page, e);
        return r < 0 ? r : api_answer(q, page);
}
