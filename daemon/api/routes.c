// SPDX-License-Identifier: GPL-2.0-or-later
/* routes: which function answers which of the schema's requests */
#include "daemon/api/api.h"

static const api_handler handlers[ROUTE_COUNT] = {
        [ROUTE_DAEMON_SHOW] = api_daemon_show,       [ROUTE_MACHINE_LIST] = api_machine_list,
        [ROUTE_MACHINE_DEFINE] = api_machine_define, [ROUTE_MACHINE_LAUNCH] = api_machine_launch,
        [ROUTE_MACHINE_SHOW] = api_machine_show,     [ROUTE_MACHINE_REPLACE] = api_machine_replace,
        [ROUTE_MACHINE_CHANGE] = api_machine_change, [ROUTE_MACHINE_DELETE] = api_machine_delete,
        [ROUTE_MACHINE_START] = api_machine_start,   [ROUTE_MACHINE_STOP] = api_machine_stop,
        [ROUTE_MACHINE_PAUSE] = api_machine_pause,   [ROUTE_MACHINE_RESUME] = api_machine_resume,
        [ROUTE_MACHINE_RESET] = api_machine_reset,   [ROUTE_MACHINE_RENAME] = api_machine_rename,
        [ROUTE_MACHINE_EXEC] = api_machine_exec,     [ROUTE_OPERATION_LIST] = api_operation_list,
        [ROUTE_OPERATION_SHOW] = api_operation_show, [ROUTE_OPERATION_CANCEL] = api_operation_cancel,
        [ROUTE_EVENT_LIST] = api_event_list,         [ROUTE_OPENAPI] = api_openapi,
};

api_handler api_handler_of(enum schema_route_id id) {
        return handlers[id];
}
