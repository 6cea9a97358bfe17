// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * http: one connection to lodged, for one request and its answer (HTTP/1.1, RFC 9112)
 *
 * Only what lodged speaks, over its unix socket or over TLS (tls.h): bodies with Content-Length or chunked. An answer is bounded: 64 KiB of
 * headers, HTTP_BODY_MAX of body. Why not libsoup, which the daemon uses: doc/adr/0015-a-small-http-client.md.
 *
 * A wait for an answer ends early when a descriptor that the caller names becomes readable (a signalfd: Ctrl-C).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

#define HTTP_BODY_MAX (256u << 20)

struct tls;

struct http {
        int fd;
        struct tls *tls; /* what lies in between; NULL: nothing */
        int stop_fd;     /* -EBADF: none */
        char *buf;       /* what has come and was not used yet */
        size_t len, room;
        size_t used; /* by websocket.c: bytes at its beginning that were handed out */
};

#define HTTP_INIT ((struct http){ .fd = -EBADF, .stop_fd = -EBADF })

/* A body that is a file, read from its beginning. It is sent once the server has said that it wants it: "Expect: 100-continue" (RFC 9110 §10.1.1). */
struct http_file {
        int fd;
        uint64_t size;                             /* bytes; a file that has fewer is -ESTALE */
        void (*sent)(void *opaque, uint64_t done); /* so many so far; may be NULL */
        void *opaque;
};

struct http_request {
        const char *method, *target;  /* the target is encoded already: "/v1/machines?limit=2" */
        const char *headers;          /* whole lines, each with its CRLF; NULL: none */
        const char *body;             /* JSON; NULL: none */
        const struct http_file *file; /* instead of a body */
        int timeout_ms;               /* for each pause of the other side */
        bool upgrade;                 /* 101 is an answer, too: what follows is no HTTP */
};

struct http_answer {
        unsigned int status;
        char *body; /* with a NUL behind its len bytes; owned */
        size_t len;
        char etag[64];    /* "" when there was none */
        char request[72]; /* X-Request-Id */
};

/**
 * http_ask() - send a request and wait for its answer
 * @ret_answer: filled on success; end it by http_answer_clear()
 *
 * Return: 0; -ECANCELED when stop_fd became readable; -ECONNRESET when the other side went away before a byte of the answer; -ETIMEDOUT; -EBADMSG
 * when what came is no answer or is too large; -errno. After a failure the connection is of no use.
 */
int http_ask(struct http *h, const struct http_request *q, struct http_answer *ret_answer);

void http_answer_clear(struct http_answer *answer);

/** http_send() - all of it; @timeout_ms for each pause, -1: none. Return: 0, as http_ask() else. */
int http_send(struct http *h, const void *data, size_t n, int timeout_ms);

/** http_more() - read more into the buffer. Return: bytes, 0 at the end, -ETIMEDOUT, -ECANCELED, -EBADMSG when it holds too much, -errno. */
ssize_t http_more(struct http *h, int timeout_ms);

/** http_close() - with what was read ahead. */
void http_close(struct http *h);
