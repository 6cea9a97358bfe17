// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * server: a keeper's socket: one JSON object a packet (SOCK_SEQPACKET), requests in, answers and events out
 *
 * Theory of operation. A packet is read whole or not at all, so there is no stream to get out of step with: a client that dies in the middle
 * of anything leaves nothing behind. A packet that is too long, no JSON, or no request is answered with an error. No call waits for a
 * client: one that does not read its answers or events is disconnected. There are at most SERVER_CLIENTS_MAX; further ones
 * are closed at once. Clients run as root or as we do: others are turned away, should they get past the socket's mode.
 */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"
#include "base/loop.h"
#include "schema/lodge-schema.h"

#define SERVER_PACKET_MAX  65536u
#define SERVER_CLIENTS_MAX 64

struct server;

struct server_ops {
        /*
         * Answer @request: fill @reply->status, or @ret_fd with a descriptor that goes out with the answer and is closed then. Events are the
         * server's own matter.
         */
        int (*on_request)(void *opaque, const struct keeper_request *request, struct keeper_reply *reply, int *ret_fd,
                          struct error *e);
};

/** server_new() - serve @listen_fd, a listening socket, borrowed. */
int server_new(struct loop *loop, int listen_fd, const struct server_ops *ops, void *opaque,
               struct server **ret_server);

/** server_tell() - send an event to those who asked for events. */
void server_tell(struct server *server, const struct keeper_event *event);

/** server_free() - disconnects all. NULL is fine. */
void server_free(struct server *server);
DEFINE_CLEANUP(server, server_free);
