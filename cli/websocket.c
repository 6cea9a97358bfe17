// SPDX-License-Identifier: GPL-2.0-or-later
/* websocket: see websocket.h */
#include "cli/websocket.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/base64.h"

#define PING 9
#define PONG 10

int websocket_open(struct http *h, const char *target, int timeout_ms, struct http_answer *ret_refusal) {
        _cleanup_(http_answer_clear) struct http_answer answer = { 0 };
        _cleanup_free_ char *key = NULL, *headers = NULL;
        unsigned char random[16];
        struct http_request q = { .method = "GET", .target = target, .timeout_ms = timeout_ms, .upgrade = true };
        int r;

        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                return -EIO;
        key = base64_encode(random, sizeof(random));
        if (!key || asprintf(&headers,
                             "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                             "Sec-WebSocket-Key: %s\r\n",
                             key) < 0) {
                headers = NULL;
                return -ENOMEM;
        }
        q.headers = headers;
        r = http_ask(h, &q, &answer);
        if (r < 0 || answer.status == 101)
                return r;
        *ret_refusal = answer;
        answer = (struct http_answer){ 0 };
        return -EPROTO;
}

int websocket_send(struct http *h, enum websocket_kind kind, const void *data, size_t len) {
        unsigned char head[14], mask[4];
        _cleanup_free_ unsigned char *frame = malloc(sizeof(head) + len);
        size_t n = 2;

        if (!frame)
                return -ENOMEM;
        if (getrandom(mask, sizeof(mask), 0) != sizeof(mask))
                return -EIO;
        head[0] = (unsigned char)(0x80 | (unsigned int)kind);
        if (len < 126)
                head[1] = (unsigned char)(0x80 | len);
        else {
                bool large = len > UINT16_MAX;

                head[1] = (unsigned char)(0x80 | (large ? 127 : 126));
                for (int shift = large ? 56 : 8; shift >= 0; shift -= 8)
                        head[n++] = (unsigned char)((uint64_t)len >> shift);
        }
        memcpy(head + n, mask, sizeof(mask));
        n += sizeof(mask);
        memcpy(frame, head, n);
        for (size_t i = 0; i < len; i++)
                frame[n + i] = ((const unsigned char *)data)[i] ^ mask[i % 4];
        return http_send(h, frame, n + len, -1);
}

ssize_t websocket_read(struct http *h) {
        return http_more(h, 0);
}

/* Cuts the message that was handed out last off the buffer. */
static void drop_used(struct http *h) {
        h->len -= h->used;
        memmove(h->buf, h->buf + h->used, h->len);
        h->used = 0;
}

int websocket_next(struct http *h, struct websocket_message *ret_message) {
        for (;;) {
                const unsigned char *b;
                size_t n = 2, len;
                unsigned int kind;
                int r = 0;

                drop_used(h);
                b = (const unsigned char *)h->buf;
                if (h->len < n)
                        return 0;
                len = b[1] & 0x7f;
                if (len >= 126) {
                        size_t bytes = len == 126 ? 2 : 8;

                        if (h->len < n + bytes)
                                return 0;
                        len = 0;
                        for (size_t i = 0; i < bytes; i++)
                                len = len << 8 | b[n + i];
                        n += bytes;
                }
                kind = b[0] & 0x0f;
                if ((b[0] & 0xf0) != 0x80 || (b[1] & 0x80) || len > WEBSOCKET_MESSAGE_MAX) /* a fragment, or masked */
                        return -EBADMSG;
                if (h->len < n + len)
                        return 0;
                h->used = n + len;
                if (kind == PING)
                        r = websocket_send(h, (enum websocket_kind)PONG, b + n, len);
                if (r < 0)
                        return r;
                if (kind == PING || kind == PONG)
                        continue;
                if (kind != WEBSOCKET_TEXT && kind != WEBSOCKET_BINARY && kind != WEBSOCKET_CLOSE)
                        return -EBADMSG;
                *ret_message =
                        (struct websocket_message){ .kind = (enum websocket_kind)kind, .data = h->buf + n, .len = len };
                if (kind == WEBSOCKET_CLOSE && len >= 2) {
                        ret_message->code = (unsigned int)b[n] << 8 | b[n + 1];
                        ret_message->data += 2;
                        ret_message->len -= 2;
                }
                return 1;
        }
}
