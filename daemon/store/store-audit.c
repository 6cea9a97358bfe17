// SPDX-License-Identifier: GPL-2.0-or-later
/* store-audit: who changed what. There is no function that changes an entry. */
#include "daemon/store/internal.h"

static int audit_append(struct store *s, const struct store_audit *a, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_AUDIT_ADD);

        query_int(&q, 1, store_now());
        query_text(&q, 2, a->principal);
        query_text(&q, 3, a->action);
        query_text(&q, 4, a->project);
        query_text(&q, 5, a->target);
        query_int(&q, 6, a->status);
        query_text(&q, 7, a->request_id);
        query_text(&q, 8, a->detail);
        return query_run(&q, e);
}

int store_audit_add(struct store *s, const struct store_audit *a, uint64_t *ret_seq, struct error *e) {
        int64_t seq;
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = audit_append(s, a, e);
        seq = sqlite3_last_insert_rowid(s->db);
        r = store_leave(s, r, e);
        if (r >= 0 && ret_seq)
                *ret_seq = (uint64_t)seq;
        return r;
}

int store_audit_each(struct store *s, uint64_t after_seq, const char *project, uint32_t limit,
                     int (*fn)(void *opaque, const struct store_audit *a), void *opaque, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_AUDIT_EACH);
        int r;

        query_uint(&q, 1, MIN(after_seq, (uint64_t)INT64_MAX));
        query_int(&q, 2, limit ? (int64_t)limit : -1);
        query_text(&q, 3, project);
        while ((r = query_row(&q, e)) > 0) {
                const struct store_audit a = {
                        .seq = query_get_uint(&q, 0),
                        .time = query_get_int(&q, 1),
                        .principal = query_get_text(&q, 2),
                        .action = query_get_text(&q, 3),
                        .project = query_get_text(&q, 4),
                        .target = query_get_text(&q, 5),
                        .status = (int32_t)query_get_int(&q, 6),
                        .request_id = query_get_text(&q, 7),
                        .detail = query_get_text(&q, 8),
                };

                if (!a.principal || !a.action)
                        return store_row_damaged(s, "read the audit record", e);
                r = fn(opaque, &a);
                if (r != 0)
                        return r;
        }
        return r;
}

static int audit_forget(struct store *s, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_AUDIT_EXPIRE);

        query_int(&q, 1, store_now() - STORE_AUDIT_KEEP_US);
        return query_run(&q, e);
}

int store_audit_expire(struct store *s, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, audit_forget(s, e), e);
}
