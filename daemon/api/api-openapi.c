// SPDX-License-Identifier: GPL-2.0-or-later
/* api-openapi: the document that says what the API takes and gives; the build makes it from the schema */
#include <string.h>

#include "daemon/api/internal.h"

int api_openapi(struct api_request *q, struct error *e) {
        SoupMessageHeaders *asked = soup_server_message_get_request_headers(q->message);
        SoupMessageHeaders *headers = soup_server_message_get_response_headers(q->message);
        const char *known = soup_message_headers_get_list(asked, "If-None-Match");

        soup_message_headers_replace(headers, "ETag", schema_openapi_etag);
        if (known && strstr(known, schema_openapi_etag))
                return api_answer_text(q, SOUP_STATUS_NOT_MODIFIED, q->route->raw, "", 0);
        return api_answer_text(q, SOUP_STATUS_OK, q->route->raw, schema_openapi, schema_openapi_size);
}
