// SPDX-License-Identifier: GPL-2.0-or-later
/* daemon: the commands on operations, who changed what, and the daemon itself */
#include <errno.h>
#include <stdio.h>

#include "cli/ask.h"

#define OPERATION_COLUMNS "id,kind,target,status,step,created,requester"
#define OPERATION_SHOW    "id,kind,project,target,status,step,progress,created,changed,requester,request,error,warnings"
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
