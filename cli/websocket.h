// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * websocket: the client's side of a WebSocket (RFC 6455) over a connection to lodged
 *
 * Frames are whole messages here: lodged sends no fragments; the bound on one is WEBSOCKET_MESSAGE_MAX. Pings are answered. The server's proof that it
 * speaks WebSocket (Sec-WebSocket-Accept) is not checked: it guards against caches and proxies, and between us and a daemon is none.
 *
 * Threads: one.
 */
#pragma once

#include "cli/http.h"

#define WEBSOCKET_MESSAGE_MAX (1u << 20)

enum websocket_kind { WEBSOCKET_TEXT = 1, WEBSOCKET_BINARY = 2, WEBSOCKET_CLOSE = 8 };

struct websocket_message {
        enum websocket_kind kind;
        const char *data; /* inside the connection's buffer: until the next call */
        size_t len;
        unsigned int code; /* of a close */
};

/**
 * websocket_open() - ask for one on a fresh connection
 * @ret_refusal: filled when the daemon answers with something else
 * Return: 0; -EPROTO with @ret_refusal filled; else as http_ask().
 */
int websocket_open(struct http *h, const char *target, int timeout_ms, struct http_answer *ret_refusal);

/** websocket_send() - one message; waits until it is out; -errno. */
int websocket_send(struct http *h, enum websocket_kind kind, const void *data, size_t len);

/**
 * websocket_read() - read once what has come, if the connection is readable
 * Return: bytes, 0 at the end, -ETIMEDOUT when nothing has come, -errno.
 */
ssize_t websocket_read(struct http *h);

/**
 * websocket_next() - the next whole message of what was read
 * Return: 1 with @ret_message, 0 when there is none yet, -EBADMSG when the other side broke the protocol, -errno.
 */
int websocket_next(struct http *h, struct websocket_message *ret_message);
