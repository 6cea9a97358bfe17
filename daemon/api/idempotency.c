// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * idempotency: a POST with an Idempotency-Key is done once, and answered the same way to a client that lost the answer and asks again
 *
 * What succeeded is remembered, for a day, with a digest of the request: the same key with another request is a conflict, and so is one
 * whose first request is not over. What failed has done nothing and may be asked again. A daemon that is killed between the work and
 * the note does not know of it; the second request then meets what the first one did, as a name that is taken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/api/internal.h"

#define KEY_MAX  255
#define KEPT_MAX 65536 /* bytes of an answer */

static const char too_large[] =
        "{\"error\":{\"id\":\"idempotency-too-large\",\"message\":\"this request was answered before, and the answer "
        "was too large to keep\",\"fix\":\"it was done: look at what it works on\",\"code\":\"EALREADY\"}}";

static void digest_make(struct api_request *q) {
        GUri *uri = soup_server_message_get_uri(q->message);
        GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
        GBytes *body = soup_message_body_flatten(soup_server_message_get_request_body(q->message));
        const char *parts[] = { q->route->method, g_uri_get_path(uri), g_uri_get_query(uri) ?: "" };
        gsize n = STORE_DIGEST_SIZE, n_body;
        const void *data = g_bytes_get_data(body, &n_body);

        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                g_checksum_update(sum, (const guchar *)parts[i], (gssize)strlen(parts[i]) + 1);
        g_checksum_update(sum, data, (gssize)n_body);
        g_checksum_get_digest(sum, q->idempotency_digest, &n);
        g_checksum_free(sum);
        g_bytes_unref(body);
}

static bool is_key(const char *text) {
        size_t n = strlen(text);

        for (size_t i = 0; i < n; i++)
                if (text[i] <= ' ' || text[i] > '~')
                        return false;
        return n > 0 && n <= KEY_MAX;
}

static bool in_flight(const struct api_request *q, const char *key) {
        for (const struct api_request *other = q->api->waiting; other; other = other->next)
                if (other != q && other->idempotency_key && streq(other->idempotency_key, key) &&
                    streq(other->access.who, q->access.who))
                        return true;
        return false;
}

int idempotency_begin(struct api_request *q, struct error *e) {
        const char *key =
                soup_message_headers_get_one(soup_server_message_get_request_headers(q->message), "Idempotency-Key");
        _cleanup_free_ char *body = NULL;
        int32_t status;
        int r;

        if (!key || !streq(q->route->method, "POST"))
                return 0;
        if (q->route->secret)
                return error_set(e, -EINVAL, "idempotency-secret", "leave the Idempotency-Key out",
                                 "the answer of %s holds a secret, and is not kept to be given twice", q->route->name);
        if (!is_key(key))
                return error_set(e, -EINVAL, "idempotency-key", "a UUID is a good one",
                                 "an Idempotency-Key has 1 to %d printable characters without blanks", KEY_MAX);
        digest_make(q);
        r = store_idempotency_find(q->api->o.store, q->access.who, key, q->idempotency_digest, &status, &body, e);
        if (r < 0)
                return r;
        if (r > 0) {
                soup_message_headers_replace(soup_server_message_get_response_headers(q->message),
                                             "Idempotency-Replayed", "true");
                api_answer_text(q, (unsigned int)status, "application/json", body ?: "", strlen(body ?: ""));
                return 1;
        }
        if (in_flight(q, key))
                return error_set(e, -EBUSY, "idempotency-busy", "wait, and ask again",
                                 "a request with this Idempotency-Key is not over yet");
        q->idempotency_key = strdup(key);
        return q->idempotency_key ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot keep the Idempotency-Key");
}

void idempotency_end(struct api_request *q, unsigned int status, const char *text, size_t n) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const bool fits = n <= KEPT_MAX;

        if (!q->idempotency_key || status >= 300)
                return;
        if (store_idempotency_add(q->api->o.store, q->access.who, q->idempotency_key, q->idempotency_digest,
                                  fits ? (int32_t)status : SOUP_STATUS_CONFLICT, fits ? text : too_large, &e) < 0)
                log_warning("request %s: its Idempotency-Key is not kept: %s", q->id, e.message);
}

void idempotency_expire(struct api *api) {
        _cleanup_error_ struct error e = ERROR_INIT;

        if (store_idempotency_expire(api->o.store, &e) < 0)
                log_warning("cannot forget old Idempotency-Keys: %s", e.message);
}
