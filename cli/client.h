// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * client: lodged, as the commands see it
 *
 * Which daemon: with --remote or $LODGE_REMOTE that of another host (remote.h); else --socket or $LODGE_SOCKET; else the system daemon's, /run/lodge/lodged.sock; else the user's own, in $XDG_RUNTIME_DIR/lodge or
 * /tmp/lodge-UID, where everything must belong to the user; and when that does not run, it is started (start.c) and said so, once, on stderr.
 *
 * A system daemon that refuses the caller is an error with the cure, not a reason to ask another daemon: the machines would be others.
 *
 * An answer that is an error becomes a struct error with the daemon's id, message and fix. What the daemon cannot do yet because it is still
 * starting is asked again for a while.
 *
 * Threads: one.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "cli/http.h"
#include "cli/remote.h"
#include "schema/lodge-schema.h"

#define CLIENT_SYSTEM_SOCKET "/run/lodge/lodged.sock"

struct client {
        const struct client_options *options; /* borrowed */
        const char *project;                  /* NULL: the daemon's default */
        char *path;                           /* of its socket; NULL: it is on another host */
        struct remote *remote;                /* that host; NULL: it is on this one */
        bool borrowed;                        /* the remote is */
        struct http http;
        bool used;   /* the connection */
        int stop_fd; /* becomes readable when waiting should end; -EBADF: none */
        char etag[64];
        char request[72]; /* the last answer's request id */
};

/** client_open() - find and reach the daemon; @start: start one if none runs. Return: 0, -ENOTCONN or -errno with @e. */
int client_open(const struct client_options *options, bool start, struct client **ret_client, struct error *e);

/** client_has_system() - is the system daemon the one that is asked when nothing else is said? It runs, whether it lets us in or not. */
bool client_has_system(void);

/** client_has_session() - does the caller's own daemon run? */
bool client_has_session(void);

/** client_is_named() - was a daemon asked for by an option, $LODGE_SOCKET or $LODGE_REMOTE? */
bool client_is_named(const struct client_options *options);

/** client_open_remote() - reach a remote that was not kept yet; it is borrowed. */
int client_open_remote(const struct client_options *options, struct remote *remote, struct client **ret_client,
                       struct error *e);
void client_free(struct client *client);
DEFINE_CLEANUP(client, client_free);

/* One request. All but route may be left out. */
struct client_call {
        enum schema_route_id route;
        const char *parameter; /* what stands for {name} or {id} in the path */
        const char *query;     /* as client_query_add() makes it */
        const char *body;
        const struct http_file *file; /* instead of a body */
        const char *if_match;
        int timeout_s; /* how long the daemon may be silent; 0: a minute */
};

/**
 * client_call() - ask, and wait for the answer
 * @ret_json: the answer; owned. Return: 0; -ECANCELED when stop_fd became readable; -errno with @e.
 */
int client_call(struct client *client, const struct client_call *call, json_t **ret_json, struct error *e);

/**
 * client_query_add() - append KEY=VALUE, encoded, to an allocated query
 * @query: NULL at first. Return: 0, -ENOMEM.
 */
int client_query_add(char **query, const char *key, const char *value);

/** client_target() - the encoded target of a request, for websocket_open(). @ret_target: allocated */
int client_target(const struct client *client, const struct client_call *call, char **ret_target);

/** client_reconnect() - a fresh connection to the same daemon, for a request or a WebSocket. Return: 0, -errno, often without @e. */
int client_reconnect(struct client *client, struct error *e);

/**
 * client_stream_target() - the encoded target of a machine's WebSocket, for websocket_open()
 * @what:  "console" or "shell"; @query: as client_query_add() makes it. @ret_target: allocated
 */
int client_stream_target(const struct client *client, const char *name, const char *what, const char *query,
                         char **ret_target);

/** client_refusal() - the error that an answer tells of. */
int client_refusal(const struct http_answer *answer, struct error *e);

/** client_code() - the errno, negative, of a name as "EBUSY"; @fallback when there is none. */
int client_code(const char *name, int fallback);

/** client_query_object() - append every field that is set of an object of the schema that a route takes as its query. */
int client_query_object(char **query, const struct schema_object *object, const void *value);

/* ---- for start.c and tests ----------------------------------------------------------------------------------------- */

/** client_start_session() - start the user's own daemon and connect to it. Return: a connected socket, or -errno with @e. */
int client_start_session(const char *socket_path, struct error *e);

/** client_connect() - connect to a socket; -errno. */
int client_connect(const char *path);
