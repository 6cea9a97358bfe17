// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * wire: messages between lodged's two processes, the broker and the worker
 *
 * One message is one packet of a SOCK_SEQPACKET pair: a JSON object, and up to WIRE_FDS_MAX descriptors with it.
 *
 *      worker -> broker   {"call": 7, "op": "machine-start", "args": {...}}
 *                         {"cancel": 7}
 *      broker -> worker   {"call": 7, "result": {...}}
 *                         {"call": 7, "error": {"id": ..., "message": ..., "fix": ..., "errno": 16}}
 *                         {"call": 7, "progress": "..."}
 *
 * A text that does not fit into a packet (WIRE_INLINE_MAX) travels in a sealed memory file instead, as the first
 * descriptor of the packet "@". Each side holds the other for hostile: lengths are bounded before anything is read, and what is no JSON
 * object is -EPROTO.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

#define WIRE_FDS_MAX    16u
#define WIRE_INLINE_MAX (64u << 10)
#define WIRE_TEXT_MAX   (4u << 20)

/* A message that came. wire_message_clear() closes what nobody took. */
struct wire_message {
        json_t *json;
        int fds[WIRE_FDS_MAX];
        size_t n_fds;
};

/**
 * wire_send() - send @json, borrowed, with descriptors that stay the caller's
 * Return: 0, -EAGAIN when the other side does not read, -EPIPE when it is gone, -EMSGSIZE, or -errno.
 */
int wire_send(int sock, const json_t *json, const int *fds, size_t n_fds);

/** wire_receive() - the next message; 1 with one, 0 at the end, -EAGAIN, -EPROTO, or -errno. */
int wire_receive(int sock, struct wire_message *ret_message);

void wire_message_clear(struct wire_message *m);

/** wire_take_fd() - the @i-th descriptor, now the caller's; -EBADF when there is none. */
int wire_take_fd(struct wire_message *m, size_t i);

/** wire_error() - an error as JSON; NULL when there is no memory. */
json_t *wire_error(const struct error *e);

/** wire_load_error() - an error out of JSON, whose texts are the other side's; returns its code, which is negative. */
int wire_load_error(const json_t *json, struct error *e);
