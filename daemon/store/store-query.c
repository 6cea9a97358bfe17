// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-query: one statement run, transactions, and what SQLite's errors mean to a person; see internal.h
 *
 * SQLite undoes a whole transaction by itself after some errors (no space, no memory, a failed write) and is then in
 * autocommit mode: what followed would be committed one by one. So store_enter() refuses to write when store_begin()
 * was called and no transaction is open any more, until the caller says store_rollback().
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "daemon/store/internal.h"

int64_t store_now(void) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int error_of_file(const struct store *s, int rc, const char *what, struct error *e) {
        int number = s->db ? sqlite3_system_errno(s->db) : 0;

        if ((rc & 0xff) == SQLITE_FULL || number == ENOSPC || number == EDQUOT || number == EFBIG)
                return error_set(e, -ENOSPC, "store-full", "make room in its file system, then try again",
                                 "cannot %s: no space for %s/lodge.db", what, s->dir);
        if ((rc & 0xff) == SQLITE_READONLY)
                return error_set(e, -EROFS, "store-io", "the file system or the file does not let itself be written",
                                 "cannot %s: %s/lodge.db is read-only", what, s->dir);
        return error_set(e, number > 0 ? -number : -EIO, "store-io", "look at the kernel's log for errors of the disk",
                         "cannot %s: %s/lodge.db: %s", what, s->dir, sqlite3_errstr(rc));
}

int store_error(const struct store *s, int rc, const char *what, struct error *e) {
        switch (rc & 0xff) {
        case SQLITE_FULL:
        case SQLITE_IOERR:
        case SQLITE_READONLY:
        case SQLITE_CANTOPEN:
        case SQLITE_PERM:
                return error_of_file(s, rc, what, e);
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                return error_set(e, -EUCLEAN, "store-corrupt",
                                 "start lodged again: it checks the store and says how to go on",
                                 "cannot %s: %s/lodge.db is damaged", what, s->dir);
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return error_set(e, -EBUSY, "store-busy",
                                 "another program has the store open: find it with fuser and end it",
                                 "cannot %s: %s/lodge.db is locked", what, s->dir);
        case SQLITE_NOMEM:
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot %s: no memory", what);
        case SQLITE_TOOBIG:
                return error_set(e, -E2BIG, "store-too-big", "make it smaller: 16 MiB is the limit",
                                 "cannot %s: too large", what);
        case SQLITE_CONSTRAINT:
        case SQLITE_MISMATCH:
        case SQLITE_RANGE:
                return error_set(e, -EINVAL, "store-value", NULL, "cannot %s: a value is missing or out of range",
                                 what);
        default:
                return error_set(e, -EIO, "store-io", NULL, "cannot %s: %s", what,
                                 s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
        }
}

int store_row_damaged(const struct store *s, const char *what, struct error *e) {
        if (sqlite3_errcode(s->db) == SQLITE_NOMEM)
                return store_error(s, SQLITE_NOMEM, what, e);
        return store_error(s, SQLITE_CORRUPT, what, e);
}

int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret_stmt, struct error *e) {
        int rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret_stmt, NULL);

        if (rc == SQLITE_ERROR) /* a table or column is not there, though the version says so */
                rc = SQLITE_CORRUPT;
        return rc == SQLITE_OK ? 0 : store_error(s, rc, "prepare to use the store", e);
}

struct query query_start_stmt(struct store *s, sqlite3_stmt *stmt) {
        return (struct query){ .s = s, .stmt = stmt, .nested = sqlite3_stmt_busy(stmt) };
}

struct query query_start(struct store *s, enum statement id) {
        return query_start_stmt(s, s->statements[id]);
}

void query_end(struct query *q) {
        if (q->nested)
                return; /* it belongs to the one that runs */
        sqlite3_reset(q->stmt);
        sqlite3_clear_bindings(q->stmt);
}

static void query_bound(struct query *q, int rc) {
        if (q->rc == SQLITE_OK)
                q->rc = rc;
}

void query_text(struct query *q, int i, const char *text) {
        if (!q->nested)
                query_bound(q, text ? sqlite3_bind_text64(q->stmt, i, text, strlen(text), SQLITE_STATIC, SQLITE_UTF8)
                                    : sqlite3_bind_null(q->stmt, i));
}

void query_int(struct query *q, int i, int64_t value) {
        if (!q->nested)
                query_bound(q, sqlite3_bind_int64(q->stmt, i, value));
}

void query_uint(struct query *q, int i, uint64_t value) {
        if (value > INT64_MAX)
                query_bound(q, SQLITE_RANGE);
        else
                query_int(q, i, (int64_t)value);
}

void query_blob(struct query *q, int i, const void *data, size_t n) {
        if (!q->nested)
                query_bound(q, sqlite3_bind_blob64(q->stmt, i, data, n, SQLITE_STATIC));
}

int query_row(struct query *q, struct error *e) {
        int rc = q->rc;

        if (q->nested)
                return error_set(e, -EBUSY, "store-nested", NULL,
                                 "the store is asked the same thing while it answers it");
        if (rc == SQLITE_OK)
                rc = sqlite3_step(q->stmt);
        if (rc == SQLITE_ROW)
                return 1;
        if (rc == SQLITE_DONE)
                return 0;
        q->rc = rc;
        return store_error(q->s, rc, "use the store", e);
}

int query_run(struct query *q, struct error *e) {
        int r;

        do
                r = query_row(q, e);
        while (r > 0);
        return r;
}

int query_run_unique(struct query *q, struct error *e) {
        int r = query_run(q, NULL);

        if (r >= 0)
                return r;
        if (q->rc == SQLITE_CONSTRAINT_UNIQUE || q->rc == SQLITE_CONSTRAINT_PRIMARYKEY)
                return -EEXIST;
        return store_error(q->s, q->rc, "use the store", e);
}

bool query_get_digest(struct query *q, int i, uint8_t ret_digest[static STORE_DIGEST_SIZE]) {
        const void *data = sqlite3_column_blob(q->stmt, i);

        if (!data || sqlite3_column_bytes(q->stmt, i) != STORE_DIGEST_SIZE)
                return false;
        memcpy(ret_digest, data, STORE_DIGEST_SIZE);
        return true;
}

char *query_get_text(struct query *q, int i) {
        return (char *)sqlite3_column_text(q->stmt, i);
}

int64_t query_get_int(struct query *q, int i) {
        return sqlite3_column_int64(q->stmt, i);
}

uint64_t query_get_uint(struct query *q, int i) {
        int64_t value = sqlite3_column_int64(q->stmt, i);

        return value > 0 ? (uint64_t)value : 0;
}

int query_get_copy(struct query *q, int i, char **ret_text) {
        const char *text = query_get_text(q, i);
        char *copy = NULL;

        if (text) {
                copy = strdup(text);
                if (!copy)
                        return -ENOMEM;
        } else if (sqlite3_column_type(q->stmt, i) != SQLITE_NULL) {
                return -ENOMEM;
        }
        *ret_text = copy;
        return 0;
}

int store_run(struct store *s, enum statement id, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, id);

        return query_run(&q, e);
}

int store_next_generation(struct store *s, uint64_t *ret_generation, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_GENERATION);
        uint64_t generation;
        int r = query_row(&q, e);

        if (r < 0)
                return r;
        if (r == 0)
                return store_row_damaged(s, "number a change", e);
        generation = query_get_uint(&q, 0);
        r = query_run(&q, e);
        if (r < 0)
                return r;
        *ret_generation = generation;
        return 0;
}

/* A transaction that store_begin() opened and SQLite undid must not go on as single writes. */
static int check_not_undone(struct store *s, struct error *e) {
        if (s->in_transaction && sqlite3_get_autocommit(s->db))
                return error_set(e, -ECANCELED, "store-undone", "begin again",
                                 "an earlier error undid the transaction");
        return 0;
}

int store_enter(struct store *s, struct error *e) {
        int r = check_not_undone(s, e);

        return r < 0 ? r : store_run(s, s->in_transaction ? STMT_STEP : STMT_BEGIN, e);
}

int store_leave(struct store *s, int r, struct error *e) {
        if (r >= 0) {
                int q = store_run(s, s->in_transaction ? STMT_STEP_DONE : STMT_COMMIT, e);

                if (q >= 0)
                        return r;
                r = q;
        }
        if (sqlite3_get_autocommit(s->db))
                return r; /* undone by SQLite */
        /* Half a step must not stay: if it can't be undone alone, all goes, and check_not_undone() tells the caller. */
        if (!s->in_transaction || store_run(s, STMT_STEP_UNDO, NULL) < 0 || store_run(s, STMT_STEP_DONE, NULL) < 0)
                (void)store_run(s, STMT_ROLLBACK, NULL);
        return r;
}

int store_begin(struct store *s, struct error *e) {
        int r;

        if (s->in_transaction)
                return error_set(e, -EBUSY, "store-nested", NULL, "a transaction is open already");
        r = store_run(s, STMT_BEGIN, e);
        if (r < 0)
                return r;
        s->in_transaction = true;
        return 0;
}

int store_commit(struct store *s, struct error *e) {
        int r;

        if (!s->in_transaction)
                return error_set(e, -EINVAL, "store-nested", NULL, "there is no transaction to commit");
        r = check_not_undone(s, e);
        if (r >= 0)
                r = store_run(s, STMT_COMMIT, e);
        store_rollback(s);
        return r;
}

void store_rollback(struct store *s) {
        if (s->in_transaction && !sqlite3_get_autocommit(s->db))
                (void)store_run(s, STMT_ROLLBACK, NULL);
        s->in_transaction = false;
}
