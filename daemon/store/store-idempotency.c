// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-idempotency: answers that were given, for clients that lost them and ask again
 *
 * A key belongs to who used it, and so does the room: nobody can push out another's keys.
 */
#include <errno.h>
#include <string.h>

#include "daemon/store/internal.h"

static int conflict(const char *key, struct error *e) {
        return error_set(e, -EEXIST, "idempotency-conflict", "take a new key for each request",
                         "idempotency key %s was used for another request", key);
}

int store_idempotency_find(struct store *s, const char *principal, const char *key,
                           const uint8_t digest[static STORE_DIGEST_SIZE], int32_t *ret_status, char **ret_body,
                           struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_IDEMPOTENCY_FIND);
        uint8_t known[STORE_DIGEST_SIZE];
        int r;

        query_text(&q, 1, principal);
        query_text(&q, 2, key);
        query_int(&q, 3, store_now() - STORE_IDEMPOTENCY_KEEP_US);
        r = query_row(&q, e);
        if (r <= 0)
                return r;
        if (!query_get_digest(&q, 0, known))
                return store_row_damaged(s, "look for an idempotency key", e);
        if (memcmp(known, digest, sizeof(known)) != 0)
                return conflict(key, e);
        if (query_get_copy(&q, 2, ret_body) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot look for an idempotency key");
        *ret_status = (int32_t)query_get_int(&q, 1);
        return 1;
}

static int key_forget(struct store *s, const char *principal, const char *key, int64_t now, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_IDEMPOTENCY_FORGET);

        query_text(&q, 1, principal);
        query_text(&q, 2, key);
        query_int(&q, 3, now - STORE_IDEMPOTENCY_KEEP_US);
        return query_run(&q, e);
}

static int key_trim(struct store *s, const char *principal, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_IDEMPOTENCY_TRIM);

        query_text(&q, 1, principal);
        query_int(&q, 2, STORE_IDEMPOTENCY_KEEP);
        return query_run(&q, e);
}

static int key_insert(struct store *s, const char *principal, const char *key,
                      const uint8_t digest[static STORE_DIGEST_SIZE], int32_t status, const char *body,
                      struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_IDEMPOTENCY_ADD);
        int64_t now = store_now();
        int r = key_forget(s, principal, key, now, e); /* one that ran out may be used again */

        if (r < 0)
                return r;
        query_text(&q, 1, principal);
        query_text(&q, 2, key);
        query_blob(&q, 3, digest, STORE_DIGEST_SIZE);
        query_int(&q, 4, status);
        query_int(&q, 5, now);
        query_text(&q, 6, body);
        r = query_run_unique(&q, e);
        if (r == -EEXIST)
                return conflict(key, e);
        return r < 0 ? r : key_trim(s, principal, e);
}

int store_idempotency_add(struct store *s, const char *principal, const char *key,
                          const uint8_t digest[static STORE_DIGEST_SIZE], int32_t status, const char *body,
                          struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, key_insert(s, principal, key, digest, status, body, e), e);
}

static int keys_expire(struct store *s, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_IDEMPOTENCY_EXPIRE);

        query_int(&q, 1, store_now() - STORE_IDEMPOTENCY_KEEP_US);
        return query_run(&q, e);
}

int store_idempotency_expire(struct store *s, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, keys_expire(s, e), e);
}
