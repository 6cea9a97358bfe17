// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store: what lodged remembers, in one SQLite file
 *
 * The file is DIR/lodge.db, with DIR/lodge.db-wal beside it while it is open. Only the worker opens it, from one
 * thread. Every function here is one transaction, durable when it returns 0, unless store_begin() opened one: then it
 * is one step of that, which takes effect whole or not at all, and durable with store_commit().
 *
 * Order never comes from a clock: machines are listed by name, operations and events by the number that they got, and
 * a generation comes from one counter for the whole store, so that an object that was deleted and made again never has
 * a generation that it had before. Times are Unix time in microseconds, to be shown to people.
 *
 * Strings are UTF-8; what has to be checked about them (names, sizes, JSON) the caller has checked. The one bound here
 * is 16 MiB for a row: "store-too-big", -E2BIG.
 *
 * Errors that any function may give:
 *
 *      store-full      -ENOSPC         no space; the transaction was undone
 *      store-corrupt   -EUCLEAN        the file is damaged: stop; the next store_open() keeps a copy and says more
 *      store-io        -errno          the disk failed; undone
 *      store-memory    -ENOMEM
 *      store-value     -EINVAL         a string that must be there is NULL, or a number is 2^63 or more
 *      store-undone    -ECANCELED      an error before this one undid the transaction that store_begin() opened
 *      store-nested    -EBUSY          store_begin() twice, or the same list inside a list
 *
 * A callback of an ..._each() function gets strings that are good until it returns, returns 0 to go on and anything
 * else to stop, which the list then returns. It must not change the table that it is shown.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

struct store;

/**
 * store_open() - open or make the store in directory @dir, bring it to the newest schema, check it
 * @dir: exists, and belongs to the caller; it stays locked (flock) until store_free()
 *
 * What happens to the file before all is known to be well: nothing.
 *
 * Return: 0, or
 *      store-newer     -EPROTONOSUPPORT        a newer lodged made it; the file is not touched
 *      store-corrupt   -EUCLEAN                damaged; the original is not touched, a copy is beside it as
 *                                              lodge.db.corrupt-TIME (when it was last written, so that each start
 *                                              does not add one)
 *      store-busy      -EBUSY                  another process has it
 *      store-full      -ENOSPC
 *      store-open      -errno                  anything else that forbids to open it
 */
int store_open(const char *dir, struct store **ret_store, struct error *e);

/** store_free() - close; a transaction that is open is undone. NULL is fine. */
void store_free(struct store *s);
DEFINE_CLEANUP(store, store_free);

/** store_schema_version() - the number of the newest migration: user_version of every store that is open. */
int store_schema_version(void);

/* ---- transactions ---- */

/** store_begin() - the functions that follow are steps of one transaction; -EBUSY "store-nested" if there is one. */
int store_begin(struct store *s, struct error *e);

/** store_commit() - make it durable. Whatever it returns, the transaction is over: on failure all of it is undone. */
int store_commit(struct store *s, struct error *e);

/** store_rollback() - undo the transaction; nothing happens if there is none. */
void store_rollback(struct store *s);

/* ---- machines ---- */

struct store_machine {
        char *uuid, *name, *project;
        uint32_t number;          /* unique, the lowest free one from 1: uids and interface names are made from it */
        uint64_t generation;      /* grows with every change: the ETag */
        int64_t created, changed; /* Unix time, microseconds */
        bool wanted;              /* the desired state is running */
        char *config;             /* JSON of machine_definition, as the person gave it, with defaults left out */
        char *running;            /* the config that the running machine was started with; NULL: it does not run */
        char *facts;              /* JSON: what is known and has to survive a restart; may be NULL */
        /* the summary, so that a list needs no JSON */
        uint32_t cpus;
        uint64_t memory; /* bytes */
        char *image;     /* may be NULL */
        char *labels;    /* JSON: ["key=value", ...]; NULL is the same as [] */
};

/**
 * store_machine_add() - remember a new machine
 * @m: uuid, name, project, config, and the summary are set (NULL for what may be NULL); number, generation, created and
 *     changed are filled in on success
 *
 * Return: 0, -EEXIST "machine-exists" (name or uuid is taken), -EINVAL "machine-labels" (no array of strings).
 */
int store_machine_add(struct store *s, struct store_machine *m, struct error *e);

/**
 * store_machine_find() - one machine, with all its fields
 * @project:      NULL: look in all of them
 * @name_or_uuid: a uuid is looked for as a uuid first
 *
 * Return: 0, -ENOENT "machine-not-found" (its fix names the nearest name), -ENOTUNIQ "machine-ambiguous" (no project is
 * given, and several have one of that name).
 */
int store_machine_find(struct store *s, const char *project, const char *name_or_uuid,
                       struct store_machine **ret_machine, struct error *e);

/**
 * store_machine_update() - write all fields of the machine that has @m's uuid
 * @m:                 number and created are ignored; generation and changed are filled in on success
 * @expect_generation: 0: any; else it must be this one
 *
 * Return: 0, -ESTALE "machine-changed", -ENOENT "machine-not-found", -EEXIST "machine-exists" (the new name is taken
 * already), -EINVAL "machine-labels".
 */
int store_machine_update(struct store *s, struct store_machine *m, uint64_t expect_generation, struct error *e);

/** store_machine_delete() - forget it; its number is free again. -ENOENT, -ESTALE as store_machine_update(). */
int store_machine_delete(struct store *s, const char *uuid, uint64_t expect_generation, struct error *e);

void store_machine_free(struct store_machine *m);
DEFINE_CLEANUP(store_machine, store_machine_free);

/* All fields may be NULL or 0: no condition. They hold together: a machine is shown that fulfils all. */
struct store_machine_filter {
        const char *project;
        const char *label; /* "key=value": exactly this; "key": any value of it, or none */
        const char *image;
        const char *name_prefix;
        const char *after;         /* a name: only what comes after it; for paging, the last one that was shown */
        const char *after_project; /* its project, if @project is not given: names are unique in a project only */
        uint32_t limit;
        bool whole; /* config, running and facts, too; else they are NULL */
};

/**
 * store_machine_each() - machines by name (bytes compared), those of one name by project
 * @f: NULL: all
 *
 * 10,000 machines take some 10 ms; nothing is allocated for each.
 */
int store_machine_each(struct store *s, const struct store_machine_filter *f,
                       int (*fn)(void *opaque, const struct store_machine *m), void *opaque, struct error *e);

/** store_machine_count() - how many there are in @project (NULL: in all). */
int store_machine_count(struct store *s, const char *project, uint64_t *ret_n, struct error *e);

/* ---- operations: the journal of work in several steps ---- */

enum store_op_state { /* kept in the file: append only */
                      STORE_OP_RUNNING,
                      STORE_OP_UNDOING,
                      STORE_OP_DONE,
                      STORE_OP_FAILED,
                      STORE_OP_CANCELLED,
};

/** store_op_is_finished() - done, failed or cancelled: nothing will change any more. */
static inline bool store_op_is_finished(enum store_op_state state) {
        return state >= STORE_OP_DONE;
}

struct store_op {
        char *id;                      /* uuid, made by store_op_add() */
        char *kind, *project, *target; /* "launch", "default", the machine's name */
        char *target_uuid;             /* may be NULL */
        enum store_op_state state;
        uint32_t step, n_steps;       /* the step that is under way: written before its work begins */
        char *args;                   /* JSON, all that the steps need to be done again or undone; may be NULL */
        char *result, *error;         /* JSON, may be NULL */
        char *requester, *request_id; /* may be NULL */
        int64_t created, changed;     /* Unix time, microseconds */
};

/**
 * store_op_add() - write down that an operation begins
 * @op: kind, project, target, and what else is known; on success id (allocated, the old one is
 *      freed), created and changed are filled in
 */
int store_op_add(struct store *s, struct store_op *op, struct error *e);

/**
 * store_op_update() - write state, step, n_steps, target_uuid, args, result and error of the operation with @op's id
 *
 * Return: 0 (and op->changed), -ENOENT "operation-not-found", -EALREADY "operation-finished": what is finished stays.
 */
int store_op_update(struct store *s, struct store_op *op, struct error *e);

/** store_op_find() - -ENOENT "operation-not-found". */
int store_op_find(struct store *s, const char *id, struct store_op **ret_op, struct error *e);

/** store_op_unknown() - the error for an id that there is no operation of: -ENOENT "operation-not-found". */
int store_op_unknown(const char *id, struct error *e);

void store_op_free(struct store_op *op);
DEFINE_CLEANUP(store_op, store_op_free);

struct store_op_filter {
        bool unfinished; /* only these */
        bool newest;     /* the newest first */
        const char *project, *target;
        const char *
                after; /* an operation's id: only what comes after it in this order (all, if it is not known any more) */
        uint32_t limit;
};

/** store_op_each() - operations in the order in which they began, or from the newest on; @f may be NULL. */
int store_op_each(struct store *s, const struct store_op_filter *f, int (*fn)(void *opaque, const struct store_op *op),
                  void *opaque, struct error *e);

#define STORE_OP_KEEP    1000                        /* finished ones, the newest */
#define STORE_OP_KEEP_US (7LL * 24 * 3600 * 1000000) /* and none that ended longer ago */

/** store_op_expire() - forget finished operations that need not be kept. */
int store_op_expire(struct store *s, struct error *e);

/* ---- events: what happened ---- */

#define STORE_EVENT_KEEP 10000

struct store_event {
        uint64_t seq; /* 1, 2, 3 ...: no number is left out, and none is used twice */
        int64_t time; /* Unix time, microseconds */
        char *kind, *project, *target;
        char *data;       /* JSON, may be NULL */
        char *request_id; /* may be NULL */
};

/**
 * store_event_add() - append; the oldest go when there are more than STORE_EVENT_KEEP
 * @project, @target, @data_json, @request_id: may be NULL
 * @ret_seq: its number; may be NULL
 */
int store_event_add(struct store *s, const char *kind, const char *project, const char *target, const char *data_json,
                    const char *request_id, uint64_t *ret_seq, struct error *e);

/**
 * store_event_each() - events with a number above @after_seq, in order
 * @project: those of it, and those that belong to none, which are the daemon's; NULL: of all
 * @limit:   0: no limit
 */
int store_event_each(struct store *s, uint64_t after_seq, const char *project, uint32_t limit,
                     int (*fn)(void *opaque, const struct store_event *event), void *opaque, struct error *e);

/**
 * store_event_range() - the oldest and the newest number that are kept; newest is 0 if there was never one
 *
 * A listener that saw up to N has missed something exactly if *@ret_oldest > N + 1.
 */
int store_event_range(struct store *s, uint64_t *ret_oldest, uint64_t *ret_newest, struct error *e);

/* ---- objects: small named documents: networks, pools, projects, templates ---- */

struct store_object {
        char *kind, *project, *name; /* "network", "default", "lan"; project "": it belongs to none */
        uint64_t generation;         /* as a machine's */
        int64_t created, changed;    /* Unix time, microseconds */
        char *config;                /* JSON */
};

/** store_object_add() - generation and times are filled in on success; -EEXIST "object-exists". */
int store_object_add(struct store *s, struct store_object *o, struct error *e);

/** store_object_find() - -ENOENT "object-not-found". */
int store_object_find(struct store *s, const char *kind, const char *project, const char *name,
                      struct store_object **ret_object, struct error *e);

/**
 * store_object_update() - write the config of the object that has @o's kind, project and name
 * @expect_generation: 0: any
 *
 * Return: 0 (generation and changed are filled in), -ESTALE "object-changed", -ENOENT "object-not-found".
 */
int store_object_update(struct store *s, struct store_object *o, uint64_t expect_generation, struct error *e);

/** store_object_delete() - -ESTALE, -ENOENT as store_object_update(). */
int store_object_delete(struct store *s, const char *kind, const char *project, const char *name,
                        uint64_t expect_generation, struct error *e);

void store_object_free(struct store_object *o);
DEFINE_CLEANUP(store_object, store_object_free);

/** store_object_each() - those of a kind, by name and project; @project NULL: of all. */
int store_object_each(struct store *s, const char *kind, const char *project,
                      int (*fn)(void *opaque, const struct store_object *o), void *opaque, struct error *e);

/* ---- usage: what a project's machines used, added up by month; it stays when the machine goes ---- */

struct store_usage {
        char *project, *machine; /* the machine's uuid */
        uint32_t month;          /* 202611 is November 2026, UTC */
        uint64_t cpu_us;         /* microseconds of CPU time */
        uint64_t memory_mib_s;   /* MiB of memory, times seconds: 3,686,400 are a GiB-hour */
        uint64_t storage_mib_s;  /* MiB of storage, times seconds */
};

/** store_usage_month() - the month of a time in microseconds, as struct store_usage has it. */
uint32_t store_usage_month(int64_t time);

/** store_usage_add() - add @u's three figures to what is known; month 0: this one. Many go into one transaction. */
int store_usage_add(struct store *s, const struct store_usage *u, struct error *e);

/** store_usage_each() - by project, machine and month. @project NULL and @month 0: all. */
int store_usage_each(struct store *s, const char *project, uint32_t month,
                     int (*fn)(void *opaque, const struct store_usage *u), void *opaque, struct error *e);

/** store_usage_sum() - of all projects in one month, by project; the machine is "". */
int store_usage_sum(struct store *s, uint32_t month, int (*fn)(void *opaque, const struct store_usage *u), void *opaque,
                    struct error *e);

/** store_usage_expire() - forget the months before @before_month. */
int store_usage_expire(struct store *s, uint32_t before_month, struct error *e);

/* ---- audit: who changed what; append only ---- */

#define STORE_AUDIT_KEEP_US (400LL * 24 * 3600 * 1000000)

struct store_audit {
        uint64_t seq;                                 /* 1, 2, 3 ..., as an event's */
        int64_t time;                                 /* Unix time, microseconds */
        char *principal;                              /* "uid:1000", "client:NAME" */
        char *action;                                 /* "machine.delete" */
        char *project, *target, *request_id, *detail; /* may be NULL; detail is JSON */
        int32_t status;                               /* HTTP's */
};

/** store_audit_add() - append; seq and time of @a are ignored. @ret_seq may be NULL. */
int store_audit_add(struct store *s, const struct store_audit *a, uint64_t *ret_seq, struct error *e);

/** store_audit_each() - in order, as store_event_each(). */
int store_audit_each(struct store *s, uint64_t after_seq, const char *project, uint32_t limit,
                     int (*fn)(void *opaque, const struct store_audit *a), void *opaque, struct error *e);

/**
 * store_audit_expire() - forget what is older than STORE_AUDIT_KEEP_US, at most 1,000 at a time
 *
 * A clock that jumps ahead for a moment then costs little of the record, and no call takes long.
 */
int store_audit_expire(struct store *s, struct error *e);

/* ---- idempotency keys: the answer to a request that was repeated ---- */

#define STORE_DIGEST_SIZE         32   /* SHA-256 */
#define STORE_IDEMPOTENCY_KEEP    1000 /* of a principal, the newest */
#define STORE_IDEMPOTENCY_KEEP_US (24LL * 3600 * 1000000)

/**
 * store_idempotency_find() - was this asked before?
 * @digest:     of the request
 * @ret_status: HTTP's, of the answer that was given
 * @ret_body:   that answer's, allocated; NULL if it had none
 *
 * Return: 1 (both are set), 0: never, or longer ago than 24 h, -EEXIST "idempotency-conflict": the key was used for
 * another request.
 */
int store_idempotency_find(struct store *s, const char *principal, const char *key,
                           const uint8_t digest[static STORE_DIGEST_SIZE], int32_t *ret_status, char **ret_body,
                           struct error *e);

/** store_idempotency_add() - keep the answer, in the transaction of the work itself; -EEXIST "idempotency-conflict". */
int store_idempotency_add(struct store *s, const char *principal, const char *key,
                          const uint8_t digest[static STORE_DIGEST_SIZE], int32_t status, const char *body,
                          struct error *e);

/** store_idempotency_expire() - forget what is older than 24 h. */
int store_idempotency_expire(struct store *s, struct error *e);

/* ---- tokens and clients: who may come over the network ---- */

struct store_token {
        char *name, *role;
        char *projects;           /* JSON: ["a", ...]; NULL: all */
        int64_t created, expires; /* Unix time, microseconds */
};

/**
 * store_token_add() - a token for one enrolment
 * @digest: SHA-256 of the token: the token itself is never kept
 * @t:      name, role, projects, expires; created is filled in
 *
 * Return: 0, -EEXIST "token-exists" (the name or digest).
 */
int store_token_add(struct store *s, const uint8_t digest[static STORE_DIGEST_SIZE], struct store_token *t,
                    struct error *e);

/**
 * store_token_take() - use it up: of two who come with the same token, one gets it
 * Return: 0, -ENOENT "token-unknown" (or used already), -EKEYEXPIRED "token-expired" (and it is gone).
 */
int store_token_take(struct store *s, const uint8_t digest[static STORE_DIGEST_SIZE], struct store_token **ret_token,
                     struct error *e);

/** store_token_delete() - by name; -ENOENT "token-unknown". */
int store_token_delete(struct store *s, const char *name, struct error *e);

/** store_token_each() - by name. */
int store_token_each(struct store *s, int (*fn)(void *opaque, const struct store_token *t), void *opaque,
                     struct error *e);

void store_token_free(struct store_token *t);
DEFINE_CLEANUP(store_token, store_token_free);

struct store_client {
        uint8_t fingerprint[STORE_DIGEST_SIZE]; /* SHA-256 of the certificate */
        char *name, *role;
        char *projects;           /* JSON: ["a", ...]; NULL: all */
        int64_t created, revoked; /* Unix time, microseconds; revoked 0: it may come in */
};

/** store_client_add() - created is filled in; -EEXIST "client-exists": fingerprint, or name of one not revoked. */
int store_client_add(struct store *s, struct store_client *c, struct error *e);

/** store_client_find() - also one that is revoked: look at it. -ENOENT "client-unknown". */
int store_client_find(struct store *s, const uint8_t fingerprint[static STORE_DIGEST_SIZE],
                      struct store_client **ret_client, struct error *e);

/** store_client_find_name() - the one of this name that may come in; -ENOENT "client-unknown". */
int store_client_find_name(struct store *s, const char *name, struct store_client **ret_client, struct error *e);

/** store_client_grant() - another role, and other projects, for the one of this name that may come in; -ENOENT "client-unknown". */
int store_client_grant(struct store *s, const char *name, const char *role, const char *projects, struct error *e);

/** store_client_revoke() - the one of this name, for good; -ENOENT "client-unknown". */
int store_client_revoke(struct store *s, const char *name, struct error *e);

/** store_client_each() - by name, revoked ones too. */
int store_client_each(struct store *s, int (*fn)(void *opaque, const struct store_client *c), void *opaque,
                      struct error *e);

void store_client_free(struct store_client *c);
DEFINE_CLEANUP(store_client, store_client_free);
