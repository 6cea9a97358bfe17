// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-event: what happened, for listeners and for people
 *
 * AUTOINCREMENT never uses a number twice, and its counter is undone with the transaction: so there are no gaps.
 */
#include <errno.h>

#include "daemon/store/internal.h"

static int event_append(struct store *s, const char *kind, const char *project, const char *target,
                        const char *data_json, const char *request_id, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_EVENT_ADD);

        query_int(&q, 1, store_now());
        query_text(&q, 2, kind);
        query_text(&q, 3, project);
        query_text(&q, 4, target);
        query_text(&q, 5, request_id);
        query_text(&q, 6, data_json);
        return query_run(&q, e);
}

int store_event_add(struct store *s, const char *kind, const char *project, const char *target, const char *data_json,
                    const char *request_id, uint64_t *ret_seq, struct error *e) {
        int64_t seq = 0;
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = event_append(s, kind, project, target, data_json, request_id, e);
        if (r >= 0) {
                seq = sqlite3_last_insert_rowid(s->db);
                if (seq > STORE_EVENT_KEEP) {
                        _cleanup_(query_end) struct query q = query_start(s, STMT_EVENT_EXPIRE);

                        query_int(&q, 1, seq - STORE_EVENT_KEEP);
                        r = query_run(&q, e);
                }
        }
        r = store_leave(s, r, e);
        if (r >= 0 && ret_seq)
                *ret_seq = (uint64_t)seq;
        return r;
}

int store_event_each(struct store *s, uint64_t after_seq, const char *project, uint32_t limit,
                     int (*fn)(void *opaque, const struct store_event *event), void *opaque, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, project ? STMT_EVENT_EACH_PROJECT : STMT_EVENT_EACH);
        int r;

        query_uint(&q, 1, MIN(after_seq, (uint64_t)INT64_MAX));
        query_int(&q, 2, limit ? (int64_t)limit : -1);
        if (project)
                query_text(&q, 3, project);
        while ((r = query_row(&q, e)) > 0) {
                const struct store_event event = {
                        .seq = query_get_uint(&q, 0),
                        .time = query_get_int(&q, 1),
                        .kind = query_get_text(&q, 2),
                        .project = query_get_text(&q, 3),
                        .target = query_get_text(&q, 4),
                        .request_id = query_get_text(&q, 5),
                        .data = query_get_text(&q, 6),
                };

                if (!event.kind)
                        return store_row_damaged(s, "read an event", e);
                r = fn(opaque, &event);
                if (r != 0)
                        return r;
        }
        return r;
}

int store_event_range(struct store *s, uint64_t *ret_oldest, uint64_t *ret_newest, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_EVENT_RANGE);
        int r = query_row(&q, e);

        if (r < 0)
                return r;
        *ret_oldest = query_get_uint(&q, 0);
        *ret_newest = query_get_uint(&q, 1);
        return 0;
}
