// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-op: the journal of operations
 *
 * The caller writes the step that it is about to take, then takes it. Whatever kills the daemon, the next start finds
 * the operations that are not finished, in the order in which they began, and each one's args say how to do its step
 * again or undo it. What is finished does not change any more, so that a late update can't bring an operation back to
 * life.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/store/internal.h"

#define UUID_SIZE 37

/* A random UUID: RFC 4122 §4.4. */
static int uuid_make(char ret_uuid[static UUID_SIZE]) {
        unsigned char b[16];

        if (getrandom(b, sizeof(b), 0) != sizeof(b))
                return -EIO;
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        snprintf(ret_uuid, UUID_SIZE, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
        return 0;
}

static int op_insert(struct store *s, const struct store_op *op, const char *id, int64_t now, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OP_ADD);

        query_text(&q, 1, id);
        query_text(&q, 2, op->kind);
        query_text(&q, 3, op->project);
        query_text(&q, 4, op->target);
        query_text(&q, 5, op->target_uuid);
        query_int(&q, 6, op->state);
        query_int(&q, 7, op->step);
        query_int(&q, 8, op->n_steps);
        query_text(&q, 9, op->requester);
        query_text(&q, 10, op->request_id);
        query_int(&q, 11, now);
        query_text(&q, 12, op->args);
        query_text(&q, 13, op->result);
        query_text(&q, 14, op->error);
        return query_run(&q, e);
}

int store_op_add(struct store *s, struct store_op *op, struct error *e) {
        _cleanup_free_ char *id = malloc(UUID_SIZE);
        int64_t now = store_now();
        int r;

        if (!id)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot begin an operation");
        r = uuid_make(id);
        if (r < 0)
                return error_set(e, r, "store-io", NULL, "cannot get random bytes");
        r = store_enter(s, e);
        if (r < 0)
                return r;
        r = store_leave(s, op_insert(s, op, id, now, e), e);
        if (r < 0)
                return r;
        free(op->id);
        op->id = TAKE_PTR(id);
        op->created = op->changed = now;
        return 0;
}

int store_op_unknown(const char *id, struct error *e) {
        return error_set(e, -ENOENT, "operation-not-found",
                         "finished operations are forgotten after some days: lodge operation list",
                         "there is no operation %s", id);
}

static int op_write(struct store *s, const struct store_op *op, int64_t now, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OP_UPDATE), found = query_start(s, STMT_OP_SEQ);
        int r;

        query_text(&q, 1, op->id);
        query_text(&q, 2, op->target_uuid);
        query_int(&q, 3, op->state);
        query_int(&q, 4, op->step);
        query_int(&q, 5, op->n_steps);
        query_int(&q, 6, now);
        query_text(&q, 7, op->args);
        query_text(&q, 8, op->result);
        query_text(&q, 9, op->error);
        r = query_run(&q, e);
        if (r < 0 || sqlite3_changes(s->db) > 0)
                return r;
        query_text(&found, 1, op->id);
        r = query_row(&found, e);
        if (r < 0)
                return r;
        if (r == 0)
                return store_op_unknown(op->id, e);
        return error_set(e, -EALREADY, "operation-finished", NULL, "operation %s is finished", op->id);
}

int store_op_update(struct store *s, struct store_op *op, struct error *e) {
        int64_t now = store_now();
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = store_leave(s, op_write(s, op, now, e), e);
        if (r < 0)
                return r;
        op->changed = now;
        return 0;
}

/* Fill @op with the row's columns; the strings are the row's. */
static int op_of_row(struct query *q, struct store_op *op, struct error *e) {
        *op = (struct store_op){
                .id = query_get_text(q, 0),
                .kind = query_get_text(q, 1),
                .project = query_get_text(q, 2),
                .target = query_get_text(q, 3),
                .target_uuid = query_get_text(q, 4),
                .state = (enum store_op_state)query_get_int(q, 5),
                .step = (uint32_t)query_get_uint(q, 6),
                .n_steps = (uint32_t)query_get_uint(q, 7),
                .requester = query_get_text(q, 8),
                .request_id = query_get_text(q, 9),
                .created = query_get_int(q, 10),
                .changed = query_get_int(q, 11),
                .args = query_get_text(q, 12),
                .result = query_get_text(q, 13),
                .error = query_get_text(q, 14),
        };
        if (!op->id || !op->kind || !op->project || !op->target || query_get_uint(q, 5) > STORE_OP_CANCELLED)
                return store_row_damaged(q->s, "read an operation", e);
        return 0;
}

static int op_copy(struct query *q, struct store_op *op) {
        char **const texts[] = {
                &op->id,        &op->kind,       &op->project, &op->target, &op->target_uuid,
                &op->requester, &op->request_id, &op->args,    &op->result, &op->error,
        };
        static const int columns[] = { 0, 1, 2, 3, 4, 8, 9, 12, 13, 14 };

        static_assert(ELEMENTSOF(texts) == ELEMENTSOF(columns), "one column for each text");
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                *texts[i] = NULL;
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (query_get_copy(q, columns[i], texts[i]) < 0)
                        return -ENOMEM;
        return 0;
}

int store_op_find(struct store *s, const char *id, struct store_op **ret_op, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OP_FIND);
        _cleanup_(store_op_freep) struct store_op *op = NULL;
        struct store_op row;
        int r;

        query_text(&q, 1, id);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r == 0)
                return store_op_unknown(id, e);
        r = op_of_row(&q, &row, e);
        if (r < 0)
                return r;
        op = malloc(sizeof(*op));
        if (!op)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read operation %s", id);
        *op = row;
        if (op_copy(&q, op) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read operation %s", id);
        *ret_op = TAKE_PTR(op);
        return 0;
}

void store_op_free(struct store_op *op) {
        if (!op)
                return;
        free(op->id);
        free(op->kind);
        free(op->project);
        free(op->target);
        free(op->target_uuid);
        free(op->args);
        free(op->result);
        free(op->error);
        free(op->requester);
        free(op->request_id);
        free(op);
}

static int op_seq(struct store *s, const char *id, int64_t *ret_seq, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OP_SEQ);
        int r;

        query_text(&q, 1, id);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r > 0) /* else it is forgotten: begin at the beginning */
                *ret_seq = query_get_int(&q, 0);
        return 0;
}

int store_op_each(struct store *s, const struct store_op_filter *f, int (*fn)(void *opaque, const struct store_op *op),
                  void *opaque, struct error *e) {
        static const struct store_op_filter all = { 0 };
        static const enum statement statements[2][2] = { { STMT_OP_EACH, STMT_OP_EACH_UNFINISHED },
                                                         { STMT_OP_NEWEST, STMT_OP_NEWEST_UNFINISHED } };
        _cleanup_(query_end) struct query q = query_start(s, statements[f && f->newest][f && f->unfinished]);
        int64_t after = f && f->newest ? INT64_MAX : 0;
        int r;

        f = f ?: &all;
        if (f->after) {
                r = op_seq(s, f->after, &after, e);
                if (r < 0)
                        return r;
        }
        query_int(&q, 1, after);
        query_text(&q, 2, f->project);
        query_text(&q, 3, f->target);
        query_int(&q, 4, f->limit ? (int64_t)f->limit : -1);
        while ((r = query_row(&q, e)) > 0) {
                struct store_op op;

                r = op_of_row(&q, &op, e);
                if (r < 0)
                        return r;
                r = fn(opaque, &op);
                if (r != 0)
                        return r;
        }
        return r;
}

int store_op_expire(struct store *s, struct error *e) {
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        {
                _cleanup_(query_end) struct query old = query_start(s, STMT_OP_EXPIRE_TIME);
                _cleanup_(query_end) struct query many = query_start(s, STMT_OP_EXPIRE_COUNT);

                query_int(&old, 1, store_now() - STORE_OP_KEEP_US);
                query_int(&many, 1, STORE_OP_KEEP);
                r = query_run(&old, e);
                if (r >= 0)
                        r = query_run(&many, e);
        }
        return store_leave(s, r, e);
}
