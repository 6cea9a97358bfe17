// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what qmp.c (sockets) and qmp-commands.c (what is said on them) share, and nobody else sees */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "vmm/machine/machine.h"

#define QMP_FDS_MAX  4
#define QMP_NAME_MAX 32 /* bytes of a descriptor's name */

struct qmp_client;

/* Descriptors that a client has sent, and the names that it gave them; see qmp-fd.c. */
struct qmp_fds {
        int received; /* the last one, not named yet; -1: none */
        struct {
                char name[QMP_NAME_MAX + 1]; /* "": free */
                int fd;
        } named[QMP_FDS_MAX];
};

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
        struct qmp_fds *fds;    /* of the client that speaks */
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

json_t *qmp_query_blockstats(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
extern const char *const qmp_query_blockstats_arguments[];

/** qmp_get_disk() - the disk that "id", "device" or "node-name" names; false with @f filled. */
bool qmp_get_disk(json_t *arguments, unsigned int *ret_index, struct qmp_failure *f);

/** qmp_get_number() - 0 to @max into @v if there is one called @name; false with @f filled when it is something else. */
bool qmp_get_number(json_t *arguments, const char *name, int64_t max, uint64_t *v, struct qmp_failure *f);

/* qmp-jobs.c: mirrors of disks. */
json_t *qmp_blockdev_mirror(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
json_t *qmp_query_block_jobs(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
json_t *qmp_block_job_cancel(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
json_t *qmp_block_job_complete(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
extern const char *const qmp_blockdev_mirror_arguments[];
extern const char *const qmp_block_job_arguments[];

/** qmp_job_data() - what an event says of a job; new reference, NULL without memory. */
json_t *qmp_job_data(const struct machine_disk_job *job, enum machine_event event);

/* qmp-fd.c: descriptors. */
json_t *qmp_getfd(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
json_t *qmp_closefd(struct qmp_context *context, json_t *arguments, struct qmp_failure *f);
extern const char *const qmp_fd_arguments[];

/** qmp_fds_init(), qmp_fds_clear() - begin with none; close all. */
void qmp_fds_init(struct qmp_fds *fds);
void qmp_fds_clear(struct qmp_fds *fds);

/** qmp_fds_receive() - @fd has come, and is taken over; one that came before and has no name is closed. */
void qmp_fds_receive(struct qmp_fds *fds, int fd);

/** qmp_fd_find() - the descriptor called @name, still the client's, or -1. */
int qmp_fd_find(const struct qmp_fds *fds, const char *name);

/** qmp_fd_forget() - the descriptor called @name, which there is, is somebody else's now. */
void qmp_fd_forget(struct qmp_fds *fds, const char *name);

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
