// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * internal: what the store's files share: the object, its statements, and how one is run
 *
 * A statement is prepared when the store is opened and kept. To run one:
 *
 *      _cleanup_(query_end) struct query q = query_start(s, STMT_X);
 *
 *      query_text(&q, 1, name);
 *      r = query_row(&q, e);           1: a row is there, 0: the end
 *      number = query_get_uint(&q, 0);
 *
 * The first failure of a bind stays in the query and comes out of query_row(). query_end() makes the statement ready
 * for its next use and forgets what was bound.
 */
#pragma once

#include <sqlite3.h>

#include "daemon/store/store.h"

#define STORE_APPLICATION_ID 0x4c6f6467 /* "Lodg" */
#define STORE_LENGTH_MAX     (16 << 20) /* bytes of a row */

/* Keep in the order of statements.c. */
enum statement {
        STMT_BEGIN,
        STMT_COMMIT,
        STMT_ROLLBACK,
        STMT_STEP,
        STMT_STEP_DONE,
        STMT_STEP_UNDO,
        STMT_GENERATION,
        STMT_NUMBER_TAKE,
        STMT_NUMBER_NEXT,
        STMT_NUMBER_FREE,
        STMT_MACHINE_ADD,
        STMT_MACHINE_ADD_CONFIG,
        STMT_MACHINE_BY_UUID,
        STMT_MACHINE_BY_NAME,
        STMT_MACHINE_BY_NAME_ONLY,
        STMT_MACHINE_GENERATION,
        STMT_MACHINE_UPDATE,
        STMT_MACHINE_UPDATE_CONFIG,
        STMT_MACHINE_DELETE,
        STMT_MACHINE_NAMES,
        STMT_MACHINE_COUNT,
        STMT_MACHINE_COUNT_ALL,
        STMT_LABELS_CHECK,
        STMT_LABELS_SAME,
        STMT_LABELS_DELETE,
        STMT_LABELS_ADD,
        STMT_OP_ADD,
        STMT_OP_UPDATE,
        STMT_OP_FIND,
        STMT_OP_SEQ,
        STMT_OP_EACH,
        STMT_OP_EACH_UNFINISHED,
        STMT_OP_NEWEST,
        STMT_OP_NEWEST_UNFINISHED,
        STMT_OP_EXPIRE_TIME,
        STMT_OP_EXPIRE_COUNT,
        STMT_EVENT_ADD,
        STMT_EVENT_EXPIRE,
        STMT_EVENT_EACH,
        STMT_EVENT_EACH_PROJECT,
        STMT_EVENT_RANGE,
        STMT_OBJECT_ADD,
        STMT_OBJECT_FIND,
        STMT_OBJECT_UPDATE,
        STMT_OBJECT_DELETE,
        STMT_OBJECT_EACH,
        STMT_USAGE_ADD,
        STMT_USAGE_EACH,
        STMT_USAGE_SUM,
        STMT_USAGE_EXPIRE,
        STMT_AUDIT_ADD,
        STMT_AUDIT_EACH,
        STMT_AUDIT_EXPIRE,
        STMT_IDEMPOTENCY_FIND,
        STMT_IDEMPOTENCY_FORGET,
        STMT_IDEMPOTENCY_ADD,
        STMT_IDEMPOTENCY_TRIM,
        STMT_IDEMPOTENCY_EXPIRE,
        STMT_TOKEN_ADD,
        STMT_TOKEN_DIGESTS,
        STMT_TOKEN_TAKE,
        STMT_TOKEN_DELETE,
        STMT_TOKEN_EACH,
        STMT_CLIENT_ADD,
        STMT_CLIENT_FIND,
        STMT_CLIENT_FIND_NAME,
        STMT_CLIENT_GRANT,
        STMT_CLIENT_REVOKE,
        STMT_CLIENT_EACH,
        STMT_MAX,
};

#define STORE_LISTS 256 /* one for each set of conditions of a machine list */

struct store {
        sqlite3 *db;
        char *dir;           /* without symbolic links */
        int dir_fd;          /* locked */
        bool in_transaction; /* store_begin() was called */
        sqlite3_stmt *statements[STMT_MAX];
        sqlite3_stmt *lists[STORE_LISTS]; /* made when first needed */
};

/** statement_sql() - the text of a statement. */
const char *statement_sql(enum statement id);

/** migration_sql() - what leads from schema version @i to @i + 1; NULL beyond the newest. */
const char *migration_sql(int i);

/** store_now() - Unix time in microseconds. */
int64_t store_now(void);

/** store_error() - say in @e what SQLite's @rc means, while doing @what; returns the code. */
int store_error(const struct store *s, int rc, const char *what, struct error *e);

/** store_prepare() - a statement that will be kept. */
int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret_stmt, struct error *e);

/* What is known of the file before SQLite gets it: store-check.c. */

/**
 * store_check_header() - look at the first bytes of DIR/lodge.db
 *
 * Return: 1 when there is none yet, 0 when SQLite may try it, else as store_open(); with -EUCLEAN, @ret_reason is set,
 * for the caller to report by store_report_corrupt().
 */
int store_check_header(int dir_fd, const char *dir, char **ret_reason, struct error *e);

/** store_report_corrupt() - keep a copy beside the damaged file, and say so; -EUCLEAN "store-corrupt". */
int store_report_corrupt(int dir_fd, const char *dir, const char *reason, struct error *e);

/** store_report_newer() - -EPROTONOSUPPORT "store-newer". */
int store_report_newer(const char *dir, int64_t version, struct error *e);

/* Running a statement. */

struct query {
        struct store *s;
        sqlite3_stmt *stmt;
        int rc; /* the first error */
        bool nested;
};

struct query query_start(struct store *s, enum statement id);
/** query_start_stmt() - the same for a statement that is not in the table. */
struct query query_start_stmt(struct store *s, sqlite3_stmt *stmt);
void query_end(struct query *q);

/* Parameters count from 1. Text is borrowed until query_end(); NULL becomes SQL's NULL. */
void query_text(struct query *q, int i, const char *text);
void query_int(struct query *q, int i, int64_t value);
void query_uint(struct query *q, int i, uint64_t value);
void query_blob(struct query *q, int i, const void *data, size_t n);

/** query_row() - go on to the next row: 1, 0 at the end, or the error, with @e filled. */
int query_row(struct query *q, struct error *e);

/** query_run() - run a statement that gives no rows. */
int query_run(struct query *q, struct error *e);

/** query_run_unique() - the same for one that writes; -EEXIST, without a message, when what must be unique is there. */
int query_run_unique(struct query *q, struct error *e);

/* Columns count from 0. Text is borrowed until the next row; NULL for SQL's NULL. */
char *query_get_text(struct query *q, int i);
int64_t query_get_int(struct query *q, int i);
uint64_t query_get_uint(struct query *q, int i);

/** query_get_digest() - a BLOB of STORE_DIGEST_SIZE bytes; false when it is none. */
bool query_get_digest(struct query *q, int i, uint8_t ret_digest[static STORE_DIGEST_SIZE]);

/** query_get_copy() - the column's text, allocated; NULL for SQL's NULL; -ENOMEM. */
int query_get_copy(struct query *q, int i, char **ret_text);

/** store_row_damaged() - a row that the schema forbids was read: "store-corrupt". */
int store_row_damaged(const struct store *s, const char *what, struct error *e);

/**
 * store_enter(), store_leave() - around a function that writes: a transaction, or a step of the one that is open
 * @r: what the function is about to return: below 0, and all that it wrote is undone
 * Return: @r, or the error of the commit.
 */
int store_enter(struct store *s, struct error *e);
int store_leave(struct store *s, int r, struct error *e);

/** store_run() - one statement without parameters. */
int store_run(struct store *s, enum statement id, struct error *e);

/** store_next_generation() - take the next one; inside store_enter(). */
int store_next_generation(struct store *s, uint64_t *ret_generation, struct error *e);
