// SPDX-License-Identifier: GPL-2.0-or-later
/* api-daemon: the daemon itself */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "daemon/api/internal.h"

struct count {
        struct machines *machines;
        uint64_t all, running;
};

static int count_one(void *opaque, const struct store_machine *row) {
        struct count *c = opaque;
        const char *engine;
        enum machine_status status = machine_status_of(c->machines, row, &engine);

        c->all++;
        c->running += status == MACHINE_STATUS_RUNNING || status == MACHINE_STATUS_PAUSED;
        return 0;
}

/* Of the one project that the caller is held to, or of all. */
static void count_machines(const struct api_request *q, struct daemon_view *v) {
        const struct store_machine_filter filter = { .project = q->access.project };
        struct count c = { .machines = q->api->o.machines };

        if (q->access.project[0]) {
                store_machine_each(q->api->o.store, &filter, count_one, &c, NULL);
                v->machines = c.all;
                v->running = c.running;
                return;
        }
        v->running = machines_running(q->api->o.machines);
        store_machine_count(q->api->o.store, NULL, &v->machines, NULL);
}

static void on_facts(void *opaque, const struct error *e, struct wire_message *reply) {
        static const char *const roles[] = { "none", "viewer", "operator", "admin" };
        _cleanup_(daemon_view_freep) struct daemon_view *v = NULL;
        struct api_request *q = opaque;
        const struct worker_config *c = q->api->o.config;

        if (e || daemon_view_new(&v) < 0) {
                api_answer_error(q, e);
                return;
        }
        v->version = text_copy(LODGE_VERSION);
        v->api = 1;
        v->scope = c->scope;
        v->pid = c->broker_pid;
        v->started = text_copy(c->started);
        count_machines(q, v);
        v->kvm = text_copy(json_string_value(json_object_get(reply->json, "kvm")));
        v->kvm_evidence = text_copy(json_string_value(json_object_get(reply->json, "kvm_evidence")));
        v->kvm_cure = text_copy(json_string_value(json_object_get(reply->json, "kvm_cure")));
        v->user = text_copy(q->access.who);
        v->role = text_copy(roles[q->access.role]);
        v->project = text_copy(q->access.project[0] ? q->access.project : NULL);
        api_answer(q, v);
}

int api_daemon_show(struct api_request *q, struct error *e) {
        if (broker_call(q->api->o.broker, "host-facts", NULL, NULL, on_facts, q, NULL) < 0)
                return broker_gone(e);
        return 1;
}
