// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * api: lodged's HTTP, over a unix socket and, with TLS, over the network: who may ask, what is asked, and the answer
 *
 * Theory of operation. The schema says which requests there are (schema_routes[]): method, path, the objects that come and go, who may send them. This room
 * accepts connections (server.c, network.c), finds the route, the caller's role, parses query and body by the schema, and calls the route's handler from the one
 * table in routes.c. A handler answers at once, or keeps the request and answers later. Errors are answered as {"error": {id, message, fix, code, request}} with
 * a status made from the errno.
 *
 * A client is hostile. Connections are counted, in all and for each user; a request must have come whole in time; its body is bounded while it comes; nesting is bounded by the
 * schema's parser. What a client sends costs at most what these limits say.
 *
 *      ETag/If-Match   a machine's generation; If-Match with another one is 412
 *      Idempotency-Key a POST that was answered is answered the same way again, for a day
 *      X-Request-Id    taken over if it is a plain word, else made; it is in the log, the events and the answer
 *      ?dry_run=true   everything is checked, nothing done
 *
 * Threads: one. GLib's main loop runs the worker; base/loop hangs in it as one source.
 */
#pragma once

#include <jansson.h>
#include <libsoup/soup.h>
#include <stdbool.h>

#include "daemon/api/access.h"
#include "daemon/api/uri.h"
#include "daemon/machine/machine.h"
#include "daemon/store/store.h"
#include "daemon/wire/client.h"
#include "schema/lodge-schema.h"

struct api;
struct api_connection;
struct api_guesses;
struct api_network;
struct api_stream;
struct api_upload;
struct identity;

struct api_options {
        const struct worker_config *config;
        struct loop *loop;
        struct store *store;
        struct machines *machines;
        struct broker_client *broker;
        const struct identity *identity; /* of ours on the network; NULL: nobody listens there */
};

/** api_new() - answer on config->listen_fd, and with TLS on config->network_fds. */
int api_new(const struct api_options *options, struct api **ret_api, struct error *e);
void api_free(struct api *api);
DEFINE_CLEANUP(api, api_free);

/**
 * api_idle() - is nobody connected?
 * @ret_count: connections that there ever were, so that short ones between two questions are noticed
 */
bool api_idle(const struct api *api, uint64_t *ret_count);

/** api_event() - tell those who listen for events. */
void api_event(struct api *api, const struct store_event *event);

/** api_ready() - the recovery is over: requests that change something are answered from now on. */
void api_ready(struct api *api);

/* ---- for the files of this folder ---------------------------------------------------------------------------------- */

#define API_BODY_MAX (1u << 20)

/* One request, from its last byte to its answer. */
struct api_request {
        struct api_request *next;
        struct api *api;
        SoupServerMessage *message;
        const struct schema_route *route;
        char *parameters[URI_PARAMETERS_MAX]; /* {name}, decoded */
        void *query;                          /* the route's objects, parsed, or NULL */
        void *body;
        json_t *patch; /* of a route with `patch`: the body as it came */
        char id[40];
        struct access access; /* who asks, and what they may */
        struct machine_caller caller;
        const char *project; /* of the query, or "default" */
        bool dry_run, paused, gone;
        bool audited;                          /* write it down, although its route needs no role */
        void (*forget)(struct api_request *q); /* the client has gone before the answer; NULL: nothing to stop */
        void *state;                           /* the handler's, freed with free() */
        char *idempotency_key;                 /* to be remembered with the answer; NULL: none */
        uint8_t idempotency_digest[STORE_DIGEST_SIZE];
        struct api_upload *
                upload; /* where the body goes, of a route that takes one while it comes; NULL once its fate is known */
        json_t *decision; /* which engine it would be, of a new machine */
};

struct api {
        struct api_options o;
        SoupServer *server;
        GSocketAddress *local; /* what libsoup takes for ours */
        struct loop_source *accept, *sweep;
        unsigned int sweeps;
        int64_t clock_offset_s;    /* clock_offset_s() at the last sweep */
        uint64_t clock_doubted_ns; /* when the clock was set forward (monotonic); 0: not of late */
        struct api_connection *connections;
        unsigned int n_connections;
        uint64_t last_connection;
        struct api_request *waiting; /* requests that are answered later */
        struct api_stream *streams;  /* WebSockets */
        unsigned int n_streams;
        bool ready;
        struct api_network *network; /* who comes by TLS */
        struct api_guesses *guesses; /* wrong tokens */
        uint64_t counts[6];          /* answers by hundreds of their status */
};

/** A handler. Return: 0 answered, 1 answered later, -errno with @e. */
typedef int (*api_handler)(struct api_request *q, struct error *e);

/** api_handler_of() - the table of routes.c. */
api_handler api_handler_of(enum schema_route_id id);

/**
 * api_answer() - answer with an object of the route's kind, in a dry run of its dry_answer's; ends the request
 * Return: 0, so that it can be returned.
 */
int api_answer(struct api_request *q, const void *object);

/** api_answer_text() - any answer. @text is copied. */
int api_answer_text(struct api_request *q, unsigned int status, const char *type, const char *text, size_t n);

/** api_answer_error() - the request has failed. */
void api_answer_error(struct api_request *q, const struct error *e);

/** api_answer_operation() - 202, with the operation of that id, which is taken over. */
int api_answer_operation(struct api_request *q, char *id, struct error *e);

/** api_etag() - the generation that goes with the answer. */
void api_etag(struct api_request *q, uint64_t generation);

/** api_if_match() - the generation that the client has seen, 0 for none; -EINVAL "etag". */
int api_if_match(struct api_request *q, uint64_t *ret_generation, struct error *e);

/**
 * api_pass() - answer with what the broker answers to a call, checked by the route's object
 * @args: taken over. Return: 1, -errno.
 */
int api_pass(struct api_request *q, const char *op, json_t *args, struct error *e);

/** api_pass_then() - call the broker, and when that went well, go on with @then, which answers. */
int api_pass_then(struct api_request *q, const char *op, json_t *args, api_handler then, struct error *e);

/** api_machine() - the machine that the path names. */
int api_machine(struct api_request *q, struct store_machine **ret_row, struct error *e);

/** operation_view_make() - an operation as clients see it, of a row and of what is in memory of it (@op, may be NULL). */
int operation_view_make(const struct store_op *row, const struct operation *op, struct operation_view **ret);

/* One function for each of the schema's requests: api_machine_list() and so on. */
#define API_DECLARE(ID, name) int api_##name(struct api_request *q, struct error *e);
SCHEMA_ROUTES(API_DECLARE)
#undef API_DECLARE

/** api_operation_changed() - those who wait for the operation are answered. */
void api_operation_changed(void *opaque, const struct operation *op);
