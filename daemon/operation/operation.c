// SPDX-License-Identifier: GPL-2.0-or-later
/* operation: see operation.h */
#include "daemon/operation/operation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "daemon/wire/wire.h"

#define WATCHERS_MAX 4
#define RETRY_US     2000000 /* the journal can't be written: the disk is full, say */

struct operations {
        struct loop *loop;
        struct store *store;
        const struct operation_kind *const *kinds;
        void *context;
        struct operation *list;
        struct loop_source *retry;
        struct {
                operation_watch_fn fn;
                void *opaque;
        } watchers[WATCHERS_MAX];
        unsigned int n_watchers;
        struct fault fault;
        bool frozen;
};

static void advance(struct operation *op);

int operations_new(struct loop *loop, struct store *store, const struct operation_kind *const *kinds, void *context,
                   struct operations **ret_all) {
        struct operations *all = calloc(1, sizeof(*all));

        if (!all)
                return -ENOMEM;
        *all = (struct operations){ .loop = loop, .store = store, .kinds = kinds, .context = context };
        fault_arm(&all->fault, "worker");
        *ret_all = all;
        return 0;
}

static void operation_free(struct operation *op) {
        if (!op)
                return;
        if (op->kind->release)
                op->kind->release(op);
        json_decref(op->args);
        json_decref(op->warnings);
        error_clear(&op->error);
        store_op_free(op->row);
        free(op);
}

void operations_free(struct operations *all) {
        if (!all)
                return;
        while (all->list) {
                struct operation *op = all->list;

                all->list = op->next;
                operation_free(op);
        }
        loop_source_free(all->retry);
        free(all);
}

static void unlink_operation(struct operation *op) {
        struct operation **at = &op->all->list;

        while (*at && *at != op)
                at = &(*at)->next;
        if (*at)
                *at = op->next;
}

static void tell(struct operation *op) {
        for (unsigned int i = 0; i < op->all->n_watchers; i++)
                op->all->watchers[i].fn(op->all->watchers[i].opaque, op);
}

void operations_freeze(struct operations *all) {
        all->frozen = true;
}

struct fault *operations_fault(struct operations *all) {
        return &all->fault;
}

/* The step that an operation is at, as a point's name. */
static void point(struct operation *op, const char *when) {
        const struct operation_kind *kind = op->kind;

        fault_point(&op->all->fault, op->row->step < kind->n_steps ? kind->steps[op->row->step].name : "end", when);
}

/* ---- the journal ------------------------------------------------------------------------------------------------- */

static int render(struct operation *op, struct error *e) {
        json_t *error;

        free(op->row->args);
        op->row->args = json_dumps(op->args, JSON_COMPACT);
        if (!op->row->args)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot write the journal");
        if (op->error.code < 0) {
                error = wire_error(&op->error);
                free(op->row->error);
                op->row->error = error ? json_dumps(error, JSON_COMPACT) : NULL;
                json_decref(error);
        }
        if (op->warnings) {
                free(op->row->result);
                op->row->result = json_dumps(op->warnings, JSON_COMPACT);
        }
        return 0;
}

static int write_row(struct operation *op, struct error *e) {
        int r;

        if (op->written) { /* by operation_begin() */
                op->written = false;
                return 0;
        }
        r = render(op, e);
        if (r < 0)
                return r;
        point(op, "journal");
        r = store_op_update(op->all->store, op->row, e);
        point(op, "journaled");
        return r;
}

int operation_note(struct operation *op, struct error *e) {
        int r = op->unnoted ? write_row(op, e) : 0;

        op->stalls = r < 0;
        if (r == 0)
                op->unnoted = false;
        return r;
}

/* The end: the row and what ended() changes are one transaction. */
static int write_end(struct operation *op, struct error *e) {
        int r = store_begin(op->all->store, e);

        if (r < 0)
                return r;
        if (op->kind->ended)
                op->kind->ended(op);
        r = render(op, e);
        if (r == 0)
                r = store_op_update(op->all->store, op->row, e);
        if (r < 0) {
                store_rollback(op->all->store);
                return r;
        }
        fault_point(&op->all->fault, "end", "journal");
        r = store_commit(op->all->store, e);
        fault_point(&op->all->fault, "end", "journaled");
        return r;
}

/* ---- going on ---------------------------------------------------------------------------------------------------- */

static void run_queued(void *opaque) {
        struct operation *op = opaque;

        op->queued = false;
        if (op->abandoned)
                operation_free(op);
        else if (!op->all->frozen)
                advance(op);
}

static void queue(struct operation *op) {
        if (!op->queued && loop_post(op->all->loop, run_queued, op) == 0)
                op->queued = true;
}

/* The store can't be written. What was done stays done; the operation waits and tries again, and says so. */
static void on_retry(void *opaque) {
        struct operations *all = opaque;

        for (struct operation *op = all->list; op; op = op->next)
                if (!op->busy)
                        queue(op);
}

static void stalled(struct operation *op, const struct error *e) {
        log_warning("operation %s waits: %s", op->kind->name, e->message ?: "its journal can't be written");
        operation_progress(op, "waits: %s", e->message ?: "its journal can't be written");
        if (!op->all->retry && loop_add_timer(op->all->loop, on_retry, op->all, &op->all->retry) < 0)
                return;
        loop_timer_set(op->all->retry, RETRY_US);
}

static void finish(struct operation *op, enum store_op_state state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        enum store_op_state before = op->row->state;

        op->row->state = state;
        if (write_end(op, &e) < 0) {
                op->row->state = before;
                stalled(op, &e);
                return;
        }
        tell(op);
        unlink_operation(op);
        operation_free(op);
}

static void undo_from_here(struct operation *op, const struct error *e) {
        error_set_foreign(&op->error, e->code, e->id, e->fix, e->message ?: "it failed");
        op->row->state = STORE_OP_UNDOING;
        queue(op);
}

/* One step forward. Return: true when there is more to do at once. */
static bool step_forward(struct operation *op) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const struct operation_step *step;
        int r;

        if (op->row->step >= op->kind->n_steps) {
                finish(op, STORE_OP_DONE);
                return false;
        }
        step = &op->kind->steps[op->row->step];
        op->unnoted = step->late && !op->written;
        op->written &= !step->late;
        if (!step->late && write_row(op, &e) < 0) {
                stalled(op, &e);
                return false;
        }
        tell(op);
        op->busy = true;
        r = step->run ? step->run(op, &e) : 0;
        if (r > 0)
                point(op, "begun");
        if (r > 0 || (r < 0 && op->all->frozen)) /* the next process takes it up here */
                return false;
        op->busy = false;
        if (r < 0 && op->stalls) {
                op->stalls = false;
                stalled(op, &e);
                return false;
        }
        if (r < 0) {
                error_set(&e, r, "operation", NULL, "cannot do step %s", step->name);
                undo_from_here(op, &e);
                return false;
        }
        op->row->step++;
        return true;
}

static bool step_back(struct operation *op) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const struct operation_step *step = &op->kind->steps[op->row->step];
        int r;

        op->unnoted = false;
        if (write_row(op, &e) < 0) {
                stalled(op, &e);
                return false;
        }
        tell(op);
        op->busy = true;
        r = step->undo ? step->undo(op, &e) : 0;
        if (r > 0)
                point(op, "undo-begun");
        if (r > 0 || (r < 0 && op->all->frozen))
                return false;
        op->busy = false;
        if (r < 0) {
                log_warning("operation %s: undoing step %s: %s", op->kind->name, step->name, e.message ?: strerror(-r));
                operation_warn(op, "undoing step %s failed: %s", step->name, e.message ?: strerror(-r));
        }
        if (op->row->step == 0) {
                finish(op, op->cancelled ? STORE_OP_CANCELLED : STORE_OP_FAILED);
                return false;
        }
        op->row->step--;
        return true;
}

static void advance(struct operation *op) {
        bool more = !op->busy;

        while (more)
                more = op->row->state == STORE_OP_UNDOING ? step_back(op) : step_forward(op);
}

void operation_step_done(struct operation *op, const struct error *e) {
        bool undoing = op->row->state == STORE_OP_UNDOING;

        if (op->all->frozen)
                return;
        op->busy = false;
        op->call = 0;
        if (e && e->code < 0 && !undoing) {
                undo_from_here(op, e);
                return;
        }
        if (e && e->code < 0)
                operation_warn(op, "undoing step %s failed: %s", op->kind->steps[op->row->step].name,
                               e->message ?: strerror(-e->code));
        if (!undoing)
                op->row->step++;
        else if (op->row->step == 0) {
                finish(op, op->cancelled ? STORE_OP_CANCELLED : STORE_OP_FAILED);
                return;
        } else
                op->row->step--;
        queue(op);
}

void operation_step_skip(struct operation *op) {
        if (!op->busy || op->queued || op->row->state != STORE_OP_RUNNING)
                return;
        op->busy = false;
        op->row->step++;
        advance(op);
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

static int adopt(struct operations *all, const struct operation_kind *kind, struct store_op *row, json_t *args,
                 struct operation **ret_op) {
        struct operation *op = calloc(1, sizeof(*op)), **at = &all->list;

        if (!op)
                return -ENOMEM;
        *op = (struct operation){ .all = all, .kind = kind, .row = row, .args = args, .context = all->context };
        while (*at)
                at = &(*at)->next;
        *at = op;
        *ret_op = op;
        return 0;
}

static struct store_op *row_new(const struct operation_kind *kind, const char *project, const char *target,
                                const char *target_uuid, const char *args, const char *requester,
                                const char *request_id) {
        struct store_op *row = calloc(1, sizeof(*row));

        if (!row)
                return NULL;
        row->kind = strdup(kind->name);
        row->project = strdup(project);
        row->target = text_copy(target);
        row->target_uuid = text_copy(target_uuid);
        row->n_steps = kind->n_steps;
        row->args = text_copy(args);
        row->requester = text_copy(requester);
        row->request_id = text_copy(request_id);
        return row;
}

int operation_target_free(struct operations *all, const char *target, const char *target_uuid, struct error *e) {
        const struct operation *other = operation_of_target(all, target_uuid);

        if (!other)
                return 0;
        error_set(e, -EBUSY, "operation-running", NULL, "%s is busy: %s is under way", target, other->kind->name);
        error_set_fix(e, "wait for it: lodge operation wait %s", other->row->id);
        return -EBUSY;
}

int operation_begin(struct operations *all, const struct operation_kind *kind, const char *project, const char *target,
                    const char *target_uuid, json_t *args, const char *requester, const char *request_id,
                    struct operation **ret_op, struct error *e) {
        _cleanup_free_ char *text = args ? json_dumps(args, JSON_COMPACT) : NULL;
        struct operation *op = NULL;
        struct store_op *row;
        int r = target_uuid ? operation_target_free(all, target, target_uuid, e) : 0;

        if (r < 0) {
                json_decref(args);
                return r;
        }
        row = text ? row_new(kind, project, target, target_uuid, text, requester, request_id) : NULL;
        r = row ? store_op_add(all->store, row, e) : error_set(e, -ENOMEM, "memory", NULL, "cannot begin");
        if (r == 0 && adopt(all, kind, row, args, &op) < 0)
                r = error_set(e, -ENOMEM, "memory", NULL, "cannot begin");
        if (r < 0) {
                store_op_free(row);
                json_decref(args);
                return r;
        }
        op->written = true;
        queue(op);
        if (ret_op)
                *ret_op = op;
        return 0;
}

void operation_abandon(struct operation *op) {
        unlink_operation(op);
        op->abandoned = true;
        if (!op->queued)
                operation_free(op);
}

static const struct operation_kind *kind_find(const struct operations *all, const char *name) {
        for (size_t i = 0; all->kinds[i]; i++)
                if (streq(all->kinds[i]->name, name))
                        return all->kinds[i];
        return NULL;
}

static struct store_op *row_copy(const struct store_op *from) {
        struct store_op *row = calloc(1, sizeof(*row));

        if (!row)
                return NULL;
        *row = *from;
        row->id = text_copy(from->id);
        row->kind = text_copy(from->kind);
        row->project = text_copy(from->project);
        row->target = text_copy(from->target);
        row->target_uuid = text_copy(from->target_uuid);
        row->args = text_copy(from->args);
        row->result = text_copy(from->result);
        row->error = text_copy(from->error);
        row->requester = text_copy(from->requester);
        row->request_id = text_copy(from->request_id);
        return row;
}

static int recover_one(void *opaque, const struct store_op *from) {
        struct operations *all = opaque;
        const struct operation_kind *kind = kind_find(all, from->kind);
        struct operation *op;
        struct store_op *row;
        json_t *error;

        if (!kind || from->step > kind->n_steps) {
                log_error("operation %s of kind %s is not one that this version knows: it stays as it is", from->id,
                          from->kind);
                return 0;
        }
        row = row_copy(from);
        if (!row || adopt(all, kind, row, row->args ? json_loads(row->args, 0, NULL) : json_object(), &op) < 0) {
                store_op_free(row);
                return -ENOMEM;
        }
        if (!op->args)
                op->args = json_object();
        error = row->error ? json_loads(row->error, 0, NULL) : NULL;
        if (row->state == STORE_OP_RUNNING && row->step < kind->n_undone) {
                error_set(&op->error, -EINTR, "operation-interrupted", "do it again",
                          "the daemon ended before this was done: it was undone");
                row->state = STORE_OP_UNDOING;
        } else if (error) {
                wire_load_error(error, &op->error);
        }
        json_decref(error);
        /* All steps were done, but not the end written. */
        if (row->state == STORE_OP_UNDOING && row->step == kind->n_steps)
                row->step--;
        log_info("operation %s of %s: %s at step %u", kind->name, row->target ?: "?",
                 row->state == STORE_OP_UNDOING ? "is undone" : "goes on", row->step);
        return 0;
}

int operations_recover(struct operations *all, struct error *e) {
        const struct store_op_filter filter = { .unfinished = true };
        int r = store_op_each(all->store, &filter, recover_one, all, e);

        if (r < 0)
                return r;
        for (struct operation *op = all->list; op; op = op->next)
                queue(op);
        return 0;
}

struct operation *operations_first(const struct operations *all) {
        return all->list;
}

struct operation *operation_find(struct operations *all, const char *id) {
        for (struct operation *op = all->list; op; op = op->next)
                if (streq(op->row->id, id))
                        return op;
        return NULL;
}

struct operation *operation_of_target(struct operations *all, const char *target_uuid) {
        for (struct operation *op = all->list; op; op = op->next)
                if (op->row->target_uuid && streq(op->row->target_uuid, target_uuid))
                        return op;
        return NULL;
}

int operation_cancel(struct operation *op, struct error *e) {
        if (op->row->state == STORE_OP_UNDOING)
                return error_set(e, -EINVAL, "operation-cancel", NULL, "it is being undone already");
        if (!op->kind->cancel || !op->busy)
                return error_set(e, -EINVAL, "operation-cancel", "wait for its end", "%s cannot be cancelled now",
                                 op->kind->name);
        op->cancelled = true;
        op->kind->cancel(op);
        return 0;
}

unsigned int operations_count(const struct operations *all) {
        unsigned int n = 0;

        for (const struct operation *op = all->list; op; op = op->next)
                n++;
        return n;
}

void operations_watch(struct operations *all, operation_watch_fn fn, void *opaque) {
        if (all->n_watchers < WATCHERS_MAX) {
                all->watchers[all->n_watchers].fn = fn;
                all->watchers[all->n_watchers++].opaque = opaque;
        }
}

void operation_progress(struct operation *op, const char *format, ...) {
        char text[sizeof(op->progress)];
        va_list ap;

        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (streq(text, op->progress))
                return;
        memcpy(op->progress, text, sizeof(text));
        tell(op);
}

void operation_warn(struct operation *op, const char *format, ...) {
        char text[1024];
        json_t *value;
        va_list ap;

        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (!op->warnings)
                op->warnings = json_array();
        value = json_string(text);
        if (value && json_array_size(op->warnings) < OPERATION_WARNINGS_MAX)
                json_array_append_new(op->warnings, value);
        else
                json_decref(value);
}

const char *operation_arg(const struct operation *op, const char *key) {
        return json_string_value(json_object_get(op->args, key));
}
