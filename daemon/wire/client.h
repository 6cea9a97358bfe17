// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * client: the worker's side of the wire: calls to the broker, and their answers
 *
 * A call is sent at once, or waits here while many others are open, so that the wire never fills up and nothing here
 * waits. Answers come in any order. When the broker is gone, on_end() is called and then every open call fails with -EPIPE: the worker has
 * no business without it, and ends.
 */
#pragma once

#include "base/loop.h"
#include "daemon/wire/wire.h"

struct broker_client;

struct broker_client_ops {
        void (*on_end)(void *opaque, int reason);
};

/**
 * broker_reply_fn - the answer to a call
 * @e:     NULL, or why it failed; borrowed
 * @reply: NULL with @e; else its json is the result, borrowed, and its descriptors may be taken by wire_take_fd()
 */
typedef void (*broker_reply_fn)(void *opaque, const struct error *e, struct wire_message *reply);

/**
 * broker_progress_fn - a call says how far it is; hostile text of programs that it runs may be in there
 * @m: its descriptors, if the call hands out some before its end, may be taken by wire_take_fd()
 */
typedef void (*broker_progress_fn)(void *opaque, const char *text, struct wire_message *m);

/** broker_client_new() - talk over @fd, which stays the caller's. */
int broker_client_new(struct loop *loop, int fd, const struct broker_client_ops *ops, void *opaque,
                      struct broker_client **ret_client);

/** broker_client_free() - open calls get no answer. NULL is fine. */
void broker_client_free(struct broker_client *c);
DEFINE_CLEANUP(broker_client, broker_client_free);

/**
 * broker_call() - ask the broker for something
 * @op:       a constant text: the name of an operation in broker.c's table
 * @args:     taken over, also on failure; NULL: none
 * @progress: may be NULL
 * @ret_id:   for broker_cancel() and broker_forget(); may be NULL
 *
 * @fn is called exactly once, later, unless this returns an error: -ENOMEM, -EPIPE.
 */
int broker_call(struct broker_client *c, const char *op, json_t *args, broker_progress_fn progress, broker_reply_fn fn,
                void *opaque, uint64_t *ret_id);

/** broker_gone() - the error for a call that could not be made: -EAGAIN "broker-gone". */
int broker_gone(struct error *e);

/** broker_cancel() - ask a call to end early; its answer still comes. */
void broker_cancel(struct broker_client *c, uint64_t id);

/** broker_forget() - nobody wants the answer of a call any more: its functions are not called. */
void broker_forget(struct broker_client *c, uint64_t id);
