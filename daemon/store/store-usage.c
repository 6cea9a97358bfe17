// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-usage: what machines used, added up
 *
 * One row for each machine and month: a bill needs no more, and 10,000 machines make 10,000 rows in a month, however
 * often they are measured. Whole numbers in small units, so that nothing is lost to rounding when many small amounts
 * are added.
 */
#include <time.h>

#include "daemon/store/internal.h"

uint32_t store_usage_month(int64_t time) {
        time_t seconds = (time_t)(time / 1000000);
        struct tm tm;

        if (!gmtime_r(&seconds, &tm) || tm.tm_year < 70 || tm.tm_year > 8099)
                return 197001;
        return (uint32_t)((tm.tm_year + 1900) * 100 + tm.tm_mon + 1);
}

static int usage_write(struct store *s, const struct store_usage *u, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_USAGE_ADD);

        query_text(&q, 1, u->project);
        query_text(&q, 2, u->machine);
        query_int(&q, 3, u->month ?: store_usage_month(store_now()));
        query_uint(&q, 4, u->cpu_us);
        query_uint(&q, 5, u->memory_mib_s);
        query_uint(&q, 6, u->storage_mib_s);
        return query_run(&q, e);
}

int store_usage_add(struct store *s, const struct store_usage *u, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, usage_write(s, u, e), e);
}

static int usage_rows(struct store *s, struct query *q, int (*fn)(void *opaque, const struct store_usage *u),
                      void *opaque, struct error *e) {
        int r;

        while ((r = query_row(q, e)) > 0) {
                const struct store_usage u = {
                        .project = query_get_text(q, 0),
                        .machine = query_get_text(q, 1),
                        .month = (uint32_t)query_get_uint(q, 2),
                        .cpu_us = query_get_uint(q, 3),
                        .memory_mib_s = query_get_uint(q, 4),
                        .storage_mib_s = query_get_uint(q, 5),
                };

                if (!u.project || !u.machine)
                        return store_row_damaged(s, "read usage", e);
                r = fn(opaque, &u);
                if (r != 0)
                        return r;
        }
        return r;
}

int store_usage_each(struct store *s, const char *project, uint32_t month,
                     int (*fn)(void *opaque, const struct store_usage *u), void *opaque, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_USAGE_EACH);

        query_text(&q, 1, project);
        query_int(&q, 2, month);
        return usage_rows(s, &q, fn, opaque, e);
}

int store_usage_sum(struct store *s, uint32_t month, int (*fn)(void *opaque, const struct store_usage *u), void *opaque,
                    struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_USAGE_SUM);

        query_int(&q, 1, month);
        return usage_rows(s, &q, fn, opaque, e);
}

static int usage_forget(struct store *s, uint32_t before_month, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_USAGE_EXPIRE);

        query_int(&q, 1, before_month);
        return query_run(&q, e);
}

int store_usage_expire(struct store *s, uint32_t before_month, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, usage_forget(s, before_month, e), e);
}
