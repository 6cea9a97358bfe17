// SPDX-License-Identifier: GPL-2.0-or-later
/* access: see access.h */
#include "daemon/api/access.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* What has no project in its query, and is open to who is held to one. */
static const enum schema_route_id open_to_one_project[] = {
        ROUTE_DAEMON_SHOW,  ROUTE_OPENAPI,        ROUTE_HEALTH_SHOW,
        ROUTE_READY_SHOW,   ROUTE_CLIENT_ENROL, /* itself */
        ROUTE_IMAGE_LIST,   ROUTE_IMAGE_SHOW,     ROUTE_POOL_SHOW,
        ROUTE_NETWORK_LIST, ROUTE_TEMPLATE_LIST,  ROUTE_TEMPLATE_SHOW,
        ROUTE_NETWORK_SHOW, ROUTE_OPERATION_SHOW, ROUTE_OPERATION_CANCEL, /* these look at the operation's project */
};

static bool is_open_to_one_project(const struct schema_route *route) {
        for (size_t i = 0; i < ELEMENTSOF(open_to_one_project); i++)
                if (route == &schema_routes[open_to_one_project[i]])
                        return true;
        return false;
}

enum access_verdict access_judge(const struct access *a, const struct schema_route *route, const char *project) {
        if (a->network && a->role == SCHEMA_ROLE_NONE)
                return route == &schema_routes[ROUTE_CLIENT_ENROL] || route == &schema_routes[ROUTE_HEALTH_SHOW]
                               ? ACCESS_GRANTED
                               : ACCESS_UNKNOWN;
        if (a->role < route->role)
                return ACCESS_ROLE;
        if (!a->project[0])
                return ACCESS_GRANTED;
        if (route->query && schema_field_find(route->query, "project"))
                return !project || streq(project, a->project) ? ACCESS_GRANTED : ACCESS_PROJECT;
        return is_open_to_one_project(route) ? ACCESS_GRANTED : ACCESS_HOST;
}

bool access_sees(const struct access *a, const char *project) {
        return !a->project[0] || (project && streq(project, a->project));
}

int access_of_client(const char *name, const char *role, const char *projects, struct access *ret_access) {
        json_auto_t *list = projects ? json_loads(projects, 0, NULL) : NULL;
        const char *project = json_string_value(json_array_get(list, 0));
        int r = client_role_from_string(role);
        static const enum schema_role roles[] = {
                [CLIENT_ROLE_VIEWER] = SCHEMA_ROLE_VIEWER,
                [CLIENT_ROLE_OPERATOR] = SCHEMA_ROLE_OPERATOR,
                [CLIENT_ROLE_ADMIN] = SCHEMA_ROLE_ADMIN,
        };

        if (r < 0 || (projects && (json_array_size(list) != 1 || !project || !*project ||
                                   strlen(project) >= sizeof(ret_access->project))))
                return -EINVAL;
        ret_access->role = roles[r];
        snprintf(ret_access->who, sizeof(ret_access->who), "client %s", name);
        snprintf(ret_access->project, sizeof(ret_access->project), "%s", project ?: "");
        return 0;
}
