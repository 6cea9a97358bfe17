// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what the files of this folder share beside api.h */
#pragma once

#include "daemon/api/api.h"

/* One client's connection. */
struct api_connection {
        struct api_connection *next;
        GSocketConnection *stream;
        GSocketAddress *address; /* what libsoup knows it by */
        uid_t uid;
        bool in_group;     /* of those who may use the daemon */
        uint64_t since;    /* when it began to wait for its next request, or for the rest of one (monotonic ns) */
        unsigned int busy; /* requests that are being answered */
        bool reading;      /* a request's head has come, and not yet all of it */
        bool lasting;      /* a WebSocket: it may be silent */
};

/** request_take() - all of a request has come: find out what it wants, and call its handler. */
void request_take(struct api *api, SoupServerMessage *message);

/** request_peer() - who is at the other end: role and name. */
void request_peer(struct api *api, SoupServerMessage *message, char *ret_who, size_t n, enum schema_role *ret_role);

/** connection_of() - NULL if it is closed by now. */
struct api_connection *connection_of(struct api *api, SoupServerMessage *message);

/** api_stream_wanted() - does a request want a WebSocket of ours? */
bool api_stream_wanted(SoupServerMessage *message, const char *path);

/** api_stream_begin() - answer the handshake; the stream begins when that answer is out. */
void api_stream_begin(struct api *api, SoupServerMessage *message);

/** api_stream_connection_gone() - @c is about to be freed. */
void api_stream_connection_gone(struct api *api, const struct api_connection *c);

/** api_event_fill() - an event as clients see it. */
void api_event_fill(struct event_view *v, const struct store_event *event);
