// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * operation: work in several steps that ends whole or not at all, whatever happens in between
 *
 * Theory of operation. A kind of operation is a table of steps. Before a step begins, its number is written to the journal (store_op), durably; a step that fails
 * makes the ones before it, and itself, be undone, last one first. So at every point in time the journal says what may have happened:
 *
 *      RUNNING at step i    steps 0..i-1 are done, step i may be, in part
 *      UNDOING at step i    steps above i are undone, step i may be, in part
 *
 * and at the next start operations_recover() goes on from there: an operation that is past its steps that are undone repeats its step, another is undone. Therefore
 * every run() and every undo() can be repeated, and undo() can undo what was done in part or not at all.
 *
 * A step either ends at once, or says that it goes on (1) and calls operation_step_done() later. What the steps need is in op->args, which is in the journal; what
 * they find out for later steps goes to op->args as well, and is written with the next step's number. A step that often has nothing to do is
 * late: its number is written when it finds out that it has. If the process ends before, it had changed nothing.
 *
 * An operation can be watched (operations_watch()), and cancelled while it runs, where its kind allows.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/loop.h"
#include "daemon/store/store.h"

struct operations;
struct operation;

struct operation_step {
        const char *name;
        /* Return: 0 done, 1 goes on, -errno with @e. NULL: nothing to do. */
        int (*run)(struct operation *op, struct error *e);
        int (*undo)(struct operation *op, struct error *e);
        bool late; /* run() calls operation_note() before it changes anything: having nothing to do costs no write */
};

struct operation_kind {
        const char *name;
        const struct operation_step *steps;
        unsigned int n_steps;
        unsigned int n_undone; /* after a restart in one of so many first steps it is undone; later it goes on */
        void (*cancel)(
                struct operation *op); /* end the step that goes on, with an error; NULL: it can't be cancelled */
        void (*release)(struct operation *op); /* op->state */
        void (*ended)(struct operation *op);   /* it is over, well or not; in the transaction that writes its end */
};

#define OPERATION_WARNINGS_MAX 16

struct operation {
        struct operation *next;
        struct operations *all;
        const struct operation_kind *kind;
        struct store_op *row;
        json_t *args;
        json_t *warnings;   /* texts */
        struct error error; /* why it is being undone */
        char progress[256];
        bool cancelled;
        bool busy; /* a step goes on */
        bool queued, abandoned;
        bool written;  /* the journal holds this state and step */
        bool unnoted;  /* it does not yet: a late step has begun */
        bool stalls;   /* operation_note() failed */
        uint64_t call; /* for the steps: an open call to the broker, or 0 */
        void *state;   /* for the steps: gone with the process */
        void *context; /* as given to operations_new() */
};

/** operations_new() - @kinds: a NULL-terminated list, which stays the caller's. */
int operations_new(struct loop *loop, struct store *store, const struct operation_kind *const *kinds, void *context,
                   struct operations **ret_all);
void operations_free(struct operations *all);
DEFINE_CLEANUP(operations, operations_free);

/** operations_recover() - take up what the last daemon left; call it once, when its steps can run. */
int operations_recover(struct operations *all, struct error *e);

/**
 * operation_begin() - write down that an operation begins; its first step runs when the caller has returned to the loop
 * @args:   taken over, also on failure
 * @ret_op: valid until it has ended; may be NULL
 *
 * Inside the caller's transaction if there is one. One operation at a time works on a target: -EBUSY "operation-running".
 */
int operation_begin(struct operations *all, const struct operation_kind *kind, const char *project, const char *target,
                    const char *target_uuid, json_t *args, const char *requester, const char *request_id,
                    struct operation **ret_op, struct error *e);

/** operation_target_free() - what operation_begin() would say of the target: 0, or -EBUSY "operation-running". */
int operation_target_free(struct operations *all, const char *target, const char *target_uuid, struct error *e);

/**
 * operations_freeze() - this process is about to end: nothing goes on, nothing is undone, the journal stays as it is
 *
 * Steps fail then, because nobody answers them any more. That is not a reason to undo: the next process takes up what it finds.
 */
void operations_freeze(struct operations *all);

/** operations_fault() - the points of the process that the operations run in; the steps may have some of their own. */
struct fault *operations_fault(struct operations *all);

/** operation_abandon() - the transaction in which it began was not committed: it never was. */
void operation_abandon(struct operation *op);

/**
 * operation_note() - write the number of a late step to the journal, if that has not been done
 *
 * On failure run() returns what this returned, with nothing changed: the step is run again when the journal can be written.
 */
int operation_note(struct operation *op, struct error *e);

/** operation_step_done() - the step that went on has ended: well (@e NULL or no error), or not. */
void operation_step_done(struct operation *op, const struct error *e);

/** operation_step_skip() - the last step, which goes on, has ended well: the operation is over when this returns, and gone. */
void operation_step_skip(struct operation *op);

/** operation_progress() - what to show of it. */
void operation_progress(struct operation *op, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** operation_warn() - something that the person should know although all goes well. */
void operation_warn(struct operation *op, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** operation_find() - one that is not over; by its id, or by its target's UUID; NULL if there is none. */
struct operation *operation_find(struct operations *all, const char *id);
struct operation *operation_of_target(struct operations *all, const char *target_uuid);

/** operations_first() - of those that are not over; the others by its next. NULL: there is none. */
struct operation *operations_first(const struct operations *all);

/** operation_cancel() - -EINVAL "operation-cancel" if it can't be. */
int operation_cancel(struct operation *op, struct error *e);

/** operations_count() - those that are not over. */
unsigned int operations_count(const struct operations *all);

/* Called after each change of an operation; when it is over, for the last time. */
typedef void (*operation_watch_fn)(void *opaque, const struct operation *op);
void operations_watch(struct operations *all, operation_watch_fn fn, void *opaque);

/** operation_arg() - a text in op->args, or NULL. */
const char *operation_arg(const struct operation *op, const char *key);
