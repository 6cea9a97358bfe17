// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * api-metrics: for those who watch over the daemon, for those who pay, and the record of who changed what; figures for Prometheus are in metrics.c
 */
#include <errno.h>
#include <string.h>

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
