// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * json-stream: JSON objects, one a line, over a stream socket: what QMP and the guest agent both speak
 *
 * Theory of operation. The other side is hostile: a VMM that a guest took over, or the guest itself. A line is bounded
 * (a longer one ends the stream), the JSON parser bounds nesting, an object is handed on only when the whole line has
 * been parsed, and nothing read here is ever printed unescaped. Output is queued while the socket is full, bounded as
 * well. A byte 0xff, which no UTF-8 text holds, drops what was read of the current line: the guest agent's
 * guest-sync-delimited starts afresh that way (QEMU guest agent protocol, guest-sync-delimited).
 *
 * A stream ends once: by end of file, an error, or a broken rule; on_end is called from the loop and says why.
 */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"
#include "base/loop.h"

struct json_stream;

struct json_stream_ops {
        void (*on_object)(void *opaque, json_t *object); /* borrowed */
        void (*on_end)(void *opaque, int reason);        /* 0: end of file; -EMSGSIZE, -EPROTO, -errno */
};

/**
 * json_stream_new() - start reading
 * @fd:       a connected stream socket, borrowed; made non-blocking
 * @max_line: longest line that is accepted, in bytes
 */
int json_stream_new(struct loop *loop, int fd, size_t max_line, const struct json_stream_ops *ops, void *opaque,
                    struct json_stream **ret_stream);
void json_stream_free(struct json_stream *s);
DEFINE_CLEANUP(json_stream, json_stream_free);

/**
 * json_stream_send() - send an object as a line
 * @object:  borrowed
 * @delimit: put 0xff in front, so that the other side forgets half a line
 * Return: 0, -ENOMEM, -ENOBUFS when the other side doesn't read, -EPIPE after the end.
 */
int json_stream_send(struct json_stream *s, const json_t *object, bool delimit);

/** json_stream_waiting() - is something still to be sent, because the other side does not read? */
bool json_stream_waiting(const struct json_stream *s);
