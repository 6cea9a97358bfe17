// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what qmp.c (sockets) and qmp-commands.c (what is said on them) share, and nobody else sees */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "vmm/machine/machine.h"

struct qmp_client;

/*
 * A command whose answer comes later. Until then its client's next commands wait, so that answers keep their order; other clients, and
 * events, do not.
 */
struct qmp_call {
        struct qmp_client *client; /* NULL: it has gone meanwhile */
        json_t *id;                /* NULL: none */
};

/* Facts that tell who asked for what the machine's events announce. */
struct qmp_context {
        struct machine *machine;
        bool resetting;         /* inside system_reset */
        bool quitting;          /* quit was called */
        struct qmp_call *later; /* set by a command that answers later: allocated, and filled by qmp.c */
};

#define QMP_GENERIC "GenericError"

/* Why a command failed; all empty: no memory. */
struct qmp_failure {
        const char *class;
        char desc[160];
};

/** qmp_fail() - fill @f; returns NULL, so that a command can end with it. */
json_t *qmp_fail(struct qmp_failure *f, const char *class, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* qmp-disk.c: commands (see qmp-commands.c), and the arguments that each knows. */
json_t *qmp_block_set_io_throttle(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
extern const char *const qmp_block_set_io_throttle_arguments[];

json_t *qmp_block_resize(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
extern const char *const qmp_block_resize_arguments[];

/** qmp_greeting() - the first object on a connection; new reference, NULL without memory. */
json_t *qmp_greeting(void);

/**
 * qmp_execute() - answer one request
 * @ready: in: has this client negotiated capabilities? out: true after qmp_capabilities
 * Return: the reply, a new reference; NULL without memory.
 */
json_t *qmp_execute(struct qmp_context *context, bool *ready, const char *text, size_t len);

/** qmp_reply() - {"return": @result} or, without a result, the failure; with @id if not NULL; new reference; NULL without memory. */
json_t *qmp_reply(json_t *result, const struct qmp_failure *f, json_t *id);

/** qmp_call_new() - for a command that answers later, which then returns NULL with an empty failure. NULL without memory. */
struct qmp_call *qmp_call_new(struct qmp_context *context);

/** qmp_call_finish() - the answer, which is {} for a NULL @f, and the end of @call. */
void qmp_call_finish(struct qmp_call *call, const struct qmp_failure *f);

/** qmp_error_reply() - {"error": {"class", "desc"}} with @id if not NULL; new reference. */
json_t *qmp_error_reply(const char *class, const char *desc, json_t *id);

/** qmp_event() - the object for an event of the machine, with the time; new reference, NULL if QMP has none or no memory. */
json_t *qmp_event(const struct qmp_context *context, enum machine_event event, enum shutdown_reason reason);
