// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp: the client side of the control socket, for both engines
 *
 * QEMU and lodge-vmm greet with {"QMP": ...}; the client answers with qmp_capabilities and then sends commands, each with
 * an id. Replies come back in any order of time but are matched by that id; events come in between. Commands given
 * before the greeting wait for it.
 */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"
#include "base/loop.h"

struct qmp_client;

struct qmp_client_ops {
        void (*on_event)(void *opaque, const char *name, json_t *data); /* data: borrowed, an object or NULL */
        void (*on_end)(void *opaque, int reason);                       /* 0: the other side closed; else -errno */
};

/**
 * qmp_client_reply_fn - the answer to a command
 * @result: 0, or -EREMOTEIO when the machine refused (@value is its {"class", "desc"})
 * @value:  borrowed, may be NULL
 *
 * Commands that are still open when the stream ends get no answer: on_end() speaks for all of them.
 */
typedef void (*qmp_client_reply_fn)(void *opaque, int result, json_t *value);

/** qmp_client_new() - talk over @fd, a connected stream socket that stays the caller's. */
int qmp_client_new(struct loop *loop, int fd, const struct qmp_client_ops *ops, void *opaque,
                   struct qmp_client **ret_client);
void qmp_client_free(struct qmp_client *qmp);
DEFINE_CLEANUP(qmp_client, qmp_client_free);

/** qmp_client_ready() - has the greeting been answered? */
bool qmp_client_ready(const struct qmp_client *qmp);

/**
 * qmp_client_command() - send a command
 * @arguments: taken over, also on failure; NULL for none
 * @fn:        may be NULL
 * Return: 0, -EPIPE after the end, -ENOBUFS when too many are waiting (32).
 */
int qmp_client_command(struct qmp_client *qmp, const char *name, json_t *arguments, qmp_client_reply_fn fn,
                       void *opaque);
