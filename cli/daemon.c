// SPDX-License-Identifier: GPL-2.0-or-later
/* daemon: the commands on operations, events, who changed what, and the daemon itself */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "cli/ask.h"

#define OPERATION_COLUMNS "id,kind,target,status,step,created,requester"
#define OPERATION_SHOW    "id,kind,project,target,status,step,progress,created,changed,requester,request,error,warnings"
#define EVENT_COLUMNS     "seq,time,kind,target,message"
#define AUDIT_COLUMNS     "seq,time,who,action,project,target,status"
#define NETWORK_COLUMNS   "all"
#define DAEMON_COLUMNS    "version,scope,pid,started,machines,running,kvm,kvm_evidence,kvm_cure,user,role,project"

int ask_operation_list(struct ask *a, struct error *e) {
        _cleanup_free_ char *query = NULL;
        json_auto_t *page = NULL;
        int r = client_query_object(&query, &operation_query_schema, ask_object(a, &operation_query_schema));

        if (r == 0)
                r = ask_list(a, ROUTE_OPERATION_LIST, query, &page, e);
        return r < 0 ? r : ask_print_list(a, page, "operations", &operation_view_schema, OPERATION_COLUMNS, e);
}

int ask_operation_show(struct ask *a, struct error *e) {
        json_auto_t *operation = NULL;
        int r = ask_send(a, ROUTE_OPERATION_SHOW, a->request->id, NULL, &operation, e);

        return r < 0 ? r : ask_print_object(a, operation, &operation_view_schema, OPERATION_SHOW, e);
}

int ask_operation_wait(struct ask *a, struct error *e) {
        json_auto_t *operation = NULL, *end = NULL;
        int r = ask_send(a, ROUTE_OPERATION_SHOW, a->request->id, NULL, &operation, e);

        return r < 0 ? r : follow_print(a, operation, &end, e);
}

int ask_operation_cancel(struct ask *a, struct error *e) {
        json_auto_t *operation = NULL;
        int r = ask_send(a, ROUTE_OPERATION_CANCEL, a->request->id, NULL, &operation, e);

        return r < 0 ? r : ask_print_object(a, operation, &operation_view_schema, OPERATION_SHOW, e);
}

/* One page after the other: events have numbers, and what comes later has a larger one. */
static int show_events(struct ask *a, bool first, uint64_t *after, size_t *ret_n, struct error *e) {
        const struct event_query *how = ask_object(a, &event_query_schema);
        _cleanup_(event_query_freep) struct event_query *next = NULL;
        _cleanup_free_ char *query = NULL;
        json_auto_t *page = NULL;
        struct view_options view = *a->view, *old = a->view;
        json_t *items;
        int r;

        if (event_query_new(&next) < 0)
                return -ENOMEM;
        next->after = *after;
        next->limit = how->limit;
        if (client_query_object(&query, &event_query_schema, next) < 0)
                return -ENOMEM;
        r = client_call(a->client, &(const struct client_call){ .route = ROUTE_EVENT_LIST, .query = query }, &page, e);
        if (r < 0)
                return r;
        items = json_object_get(page, "items");
        *ret_n = json_array_size(items);
        if (*ret_n > 0)
                *after = (uint64_t)json_integer_value(json_object_get(json_array_get(items, *ret_n - 1), "seq"));
        if (*ret_n == 0 && (!first || a->request->follow))
                return 0;
        view.no_header |= !first;
        a->view = &view;
        r = ask_print_list(a, page, first ? "events" : NULL, &event_view_schema, EVENT_COLUMNS, e);
        a->view = old;
        fflush(stdout);
        return r;
}

int ask_event_list(struct ask *a, struct error *e) {
        const struct event_query *how = ask_object(a, &event_query_schema);
        uint64_t after = how->after;
        bool first = true;
        size_t n = 0;
        int r;

        do {
                r = show_events(a, first, &after, &n, e);
                if (n > 0)
                        first = false;
                if (r == 0 && n < how->limit && a->request->follow)
                        nanosleep(&(struct timespec){ .tv_nsec = 500000000 }, NULL);
        } while (r == 0 && a->request->follow && !ferror(stdout));
        return r;
}

int ask_audit_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_send(a, ROUTE_AUDIT_LIST, NULL, NULL, &page, e);

        return r < 0 ? r : ask_print_list(a, page, "changes", &audit_view_schema, AUDIT_COLUMNS, e);
}

int ask_network_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_list(a, ROUTE_NETWORK_LIST, NULL, &page, e);

        return r < 0 ? r : ask_print_list(a, page, NULL, &network_config_schema, NETWORK_COLUMNS, e);
}

int ask_network_show(struct ask *a, struct error *e) {
        json_auto_t *network = NULL;
        int r = ask_send(a, ROUTE_NETWORK_SHOW, a->request->name, NULL, &network, e);

        return r < 0 ? r : ask_print_object(a, network, &network_view_schema, "state,problems,warnings,leases", e);
}

int ask_pool_show(struct ask *a, struct error *e) {
        json_auto_t *pool = NULL;
        int r = ask_send(a, ROUTE_POOL_SHOW, a->request->name, NULL, &pool, e);

        if (r < 0 || !ask_is_people(a))
                return r < 0 ? r : ask_print_object(a, pool, &pool_view_schema, "all", e);
        r = ask_print_object(a, pool, &pool_view_schema, "name,path,capacity,available,allocated", e);
        if (r < 0 || json_array_size(json_object_get(pool, "items")) == 0)
                return r;
        putchar('\n');
        return ask_print_list(a, pool, NULL, &volume_view_schema, "all", e);
}

int ask_daemon_show(struct ask *a, struct error *e) {
        json_auto_t *daemon = NULL;
        int r = client_call(a->client, &(const struct client_call){ .route = ROUTE_DAEMON_SHOW }, &daemon, e);

        return r < 0 ? r : ask_print_object(a, daemon, &daemon_view_schema, DAEMON_COLUMNS, e);
}
