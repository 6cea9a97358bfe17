// SPDX-License-Identifier: GPL-2.0-or-later
/* json-stream: see json-stream.h */
#include "daemon/engine/json-stream.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/io.h"

#define OUTPUT_MAX (1u << 20)
#define BUFFER_MIN 512u
#define READ_CHUNK 65536u
#define DELIMITER  0xff

struct json_stream {
        struct loop_source *source;
        int fd;
        const struct json_stream_ops *ops;
        void *opaque;
        char *line; /* what came of the current line */
        size_t len, room, max_line;
        char *out;
        size_t out_len, out_room;
        bool ended;
        bool *freed; /* set by json_stream_free() while a callback runs */
};

static int grow(char **buf, size_t *room, size_t need) {
        size_t size = *room ? *room : BUFFER_MIN;
        char *bigger;

        if (need <= *room)
                return 0;
        while (size < need)
                size *= 2;
        bigger = realloc(*buf, size);
        if (!bigger)
                return -ENOMEM;
        *buf = bigger;
        *room = size;
        return 0;
}

/* There is a stream or two for each machine, and most are silent most of the time. */
static void release(char **buf, size_t *room) {
        free(TAKE_PTR(*buf));
        *room = 0;
}

static void end(struct json_stream *s, int reason) {
        if (s->ended)
                return;
        s->ended = true;
        loop_source_free(TAKE_PTR(s->source));
        s->ops->on_end(s->opaque, reason);
}

static void deliver(struct json_stream *s) {
        json_t *object;
        json_error_t why;

        if (s->len == 0)
                return;
        object = json_loadb(s->line, s->len, JSON_REJECT_DUPLICATES, &why);
        s->len = 0;
        if (!json_is_object(object)) {
                json_decref(object);
                end(s, -EPROTO);
                return;
        }
        s->ops->on_object(s->opaque, object);
        json_decref(object);
}

/* Return: false when the stream is over or gone. */
static bool take(struct json_stream *s, const char *data, size_t n) {
        bool freed = false;

        s->freed = &freed;
        while (n > 0 && !freed && !s->ended) {
                size_t i = 0;

                while (i < n && data[i] != '\n' && (unsigned char)data[i] != DELIMITER)
                        i++;
                if (s->len + i > s->max_line) {
                        end(s, -EMSGSIZE);
                        break;
                }
                if (grow(&s->line, &s->room, s->len + i) < 0) {
                        end(s, -ENOMEM);
                        break;
                }
                if (i > 0)
                        memcpy(s->line + s->len, data, i);
                s->len += i;
                if (i == n)
                        break;
                if (data[i] == '\n') {
                        if (s->len > 0 && s->line[s->len - 1] == '\r')
                                s->len--;
                        deliver(s);
                } else
                        s->len = 0;
                data += i + 1;
                n -= i + 1;
        }
        if (freed)
                return false;
        s->freed = NULL;
        if (s->len == 0)
                release(&s->line, &s->room);
        return !s->ended;
}

static int flush(struct json_stream *s) {
        size_t sent = 0;

        while (sent < s->out_len) {
                ssize_t r = send(s->fd, s->out + sent, s->out_len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0 && errno == EAGAIN)
                        break;
                if (r < 0)
                        return -errno;
                sent += (size_t)r;
        }
        s->out_len -= sent;
        if (s->out_len == 0)
                release(&s->out, &s->out_room);
        else
                memmove(s->out, s->out + sent, s->out_len);
        return loop_source_set_events(s->source, s->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void on_ready(void *opaque, int fd, uint32_t events) {
        struct json_stream *s = opaque;
        char buf[READ_CHUNK];
        ssize_t n;
        int r;

        if (events & EPOLLOUT) {
                r = flush(s);
                if (r < 0) {
                        end(s, r);
                        return;
                }
        }
        if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                return;
        n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                end(s, n < 0 ? -errno : 0);
                return;
        }
        take(s, buf, (size_t)n);
}

int json_stream_new(struct loop *loop, int fd, size_t max_line, const struct json_stream_ops *ops, void *opaque,
                    struct json_stream **ret_stream) {
        struct json_stream *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (struct json_stream){ .fd = fd, .ops = ops, .opaque = opaque, .max_line = max_line };
        r = io_set_nonblock(fd, true);
        if (r == 0)
                r = loop_add_fd(loop, fd, EPOLLIN, on_ready, s, &s->source);
        if (r < 0) {
                free(s);
                return r;
        }
        *ret_stream = s;
        return 0;
}

void json_stream_free(struct json_stream *s) {
        if (!s)
                return;
        if (s->freed)
                *s->freed = true;
        loop_source_free(s->source);
        free(s->line);
        free(s->out);
        free(s);
}

bool json_stream_waiting(const struct json_stream *s) {
        return s->out_len > 0;
}

int json_stream_send(struct json_stream *s, const json_t *object, bool delimit) {
        size_t size, at;
        int r;

        if (s->ended)
                return -EPIPE;
        size = json_dumpb(object, NULL, 0, JSON_COMPACT);
        if (size == 0)
                return -ENOMEM;
        if (s->out_len + size + 2 > OUTPUT_MAX)
                return -ENOBUFS;
        r = grow(&s->out, &s->out_room, s->out_len + size + 2);
        if (r < 0)
                return r;
        at = s->out_len;
        if (delimit)
                s->out[at++] = (char)DELIMITER;
        at += json_dumpb(object, s->out + at, size, JSON_COMPACT);
        s->out[at++] = '\n';
        s->out_len = at;
        return flush(s);
}
