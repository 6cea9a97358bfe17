// SPDX-License-Identifier: GPL-2.0-or-later
/* routes: which function answers which of the schema's requests: the one of its name */
#include "daemon/api/api.h"

#define HANDLER(ID, name) [ROUTE_##ID] = api_##name,
static const api_handler handlers[ROUTE_COUNT] = { SCHEMA_ROUTES(HANDLER) };

api_handler api_handler_of(enum schema_route_id id) {
        return handlers[id];
}
