// SPDX-License-Identifier: GPL-2.0-or-later
/* internal: what the files of this folder share beside api.h */
#pragma once

#include "daemon/api/api.h"
#include "daemon/tls/identity.h"

/* Whom a connection waits for. */
enum api_phase {
        API_FRESH,   /* the client: for the head of its request, of which libsoup does not tell when it begins */
        API_READING, /* the client: for the rest of a request */
        API_WORKING, /* us */
        API_WRITING, /* the client: to take the answer */
};

/* One client's connection. */
struct api_connection {
        struct api_connection *next;
        GSocketConnection *stream;
        GSocketAddress *address; /* what libsoup knows it by */
        uid_t uid;
        bool in_group;         /* of those who may use the daemon */
        bool network;          /* it has no uid, but perhaps a certificate */
        bool certified, known; /* it has shown one; a client's, when it came */
        uint8_t fingerprint[FINGERPRINT_SIZE];
        uint64_t place; /* where it comes from: an address, or the half of one that a site has */
        enum api_phase phase;
        uint64_t since;    /* when its phase began, or when a part of the answer was taken last (monotonic ns) */
        uint64_t received; /* bytes of the body */
        uint64_t counted;  /* of an upload: bytes since @since */
        bool uploads;      /* some of an upload was taken */
        bool lasting;      /* a WebSocket: it may be silent */
        bool stream_open;  /* it became a WebSocket */
};

/** request_take() - all of a request has come, or the head of an upload: find out what it wants, and call its handler. */
void request_take(struct api *api, SoupServerMessage *message);

/** request_is_upload() - has it a body that is taken while it comes? */
bool request_is_upload(SoupServerMessage *message);

/** upload_of() - the request whose body @message brings, and whose fate is not known yet; else NULL. */
struct api_request *upload_of(struct api *api, SoupServerMessage *message);

/** upload_chunk() - a part of the body. */
void upload_chunk(struct api_request *q, const void *data, size_t n);

/** upload_whole() - all of it has come. */
void upload_whole(struct api_request *q);

/** request_refuse() - an answer to a request that is not looked at; @status 0: the answer in case libsoup refuses it by itself. */
void request_refuse(SoupServerMessage *message, unsigned int status, const char *id, const char *fix, const char *text);

/** request_allowed() - access_judge(), with what a person should know: -EACCES "role" or "project", or request_unknown()'s. */
int request_allowed(const struct access *a, const struct schema_route *route, const char *project, struct error *e);

/**
 * request_project() - where the query takes a project: the one that it names; who is held to one need not name it
 * @query:       as it was sent; @object: what the schema made of it, in which the project is set
 * @ret_project: borrowed from @object; NULL: there is none. Return: 0, -ENOMEM.
 */
int request_project(const struct access *a, const struct schema_route *route, const char *query, void *object,
                    const char **ret_project);

/** request_peer() - who is at the other end of @c, which may be NULL. */
void request_peer(struct api *api, const struct api_connection *c, struct access *ret_access);

/** request_unknown() - the answer to who is not known here, and how to become known. */
int request_unknown(const struct access *a, struct error *e);

/** request_sees() - may the caller see what is in that project? NULL: what is in none. */
bool request_sees(const struct api_request *q, const char *project);

/** connection_of() - NULL if it is closed by now. */
struct api_connection *connection_of(struct api *api, SoupServerMessage *message);

/** connection_add() - a connection of @socket is there, over @stream; its fields that say who it is are filled in. Frees all when that can't be done. */
void connection_add(struct api *api, struct api_connection *c, GIOStream *stream);

/** connection_close() - at once; it is freed later. */
void connection_close(struct api_connection *c);

/** network_begin() - accept from the sockets that listen on the network. */
int network_begin(struct api *api, struct error *e);
void network_end(struct api *api);

/** network_sweep() - end handshakes that take too long. */
void network_sweep(struct api *api);

/** connection_waits() - the rest of the request's body has to come, in time; or, with @for_us, nothing: it is us that take ours. */
void connection_waits(struct api *api, SoupServerMessage *message, bool for_us);

/** connection_answers() - the answer is there: the client has to take it, in time. */
void connection_answers(struct api *api, SoupServerMessage *message);

/** idempotency_begin() - 0: to be done; 1: it was done before and has been answered; -errno. */
int idempotency_begin(struct api_request *q, struct error *e);

/** idempotency_end() - remember the answer, if it is to be. */
void idempotency_end(struct api_request *q, unsigned int status, const char *text, size_t n);

/** idempotency_expire() - forget what is too old. */
void idempotency_expire(struct api *api);

/** api_stream_wanted() - does a request want a WebSocket of ours? */
bool api_stream_wanted(SoupServerMessage *message, const char *path);

/** api_stream_begin() - answer the handshake; the stream begins when that answer is out. */
void api_stream_begin(struct api *api, SoupServerMessage *message);

/** api_stream_revoke() - a client is known no longer, or (@known) may do less than before: its streams end. */
void api_stream_revoke(struct api *api, const uint8_t fingerprint[static FINGERPRINT_SIZE], bool known);

/** api_stream_connection_gone() - @c is about to be freed. */
void api_stream_connection_gone(struct api *api, const struct api_connection *c);

/** api_event_fill() - an event as clients see it. */
void api_event_fill(struct event_view *v, const struct store_event *event);

/**
 * metrics_add_label() - NAME="VALUE", for Prometheus
 *
 * Backslash, quote and line feed are escaped, as the format wants it; other control characters, which some readers cannot take, become '?'.
 */
void metrics_add_label(GString *text, const char *name, const char *value);

/** api_audit() - write down who changed what, when a request that changes something is answered. */
void api_audit(struct api_request *q, unsigned int status);
