// SPDX-License-Identifier: GPL-2.0-or-later
/* http: see http.h */
#include "cli/http.h"

#include <ctype.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/tls.h"

#define HEAD_MAX  (64u << 10)
#define READ_SIZE (64u << 10)
#define FILE_PART (256u << 10)

void http_close(struct http *h) {
        tls_close(h->tls);
        h->tls = NULL;
        h->fd = safe_close(h->fd);
        free(h->buf);
        h->buf = NULL;
        h->len = h->room = 0;
}

void http_answer_clear(struct http_answer *answer) {
        free(answer->body);
        *answer = (struct http_answer){ 0 };
}

/* Return: 0 when @events can be done, -ECANCELED, -ETIMEDOUT, -errno. */
static int wait_for(const struct http *h, short events, int timeout_ms) {
        struct pollfd fds[2] = { { .fd = h->fd, .events = events }, { .fd = h->stop_fd, .events = POLLIN } };
        int r;

        do
                r = poll(fds, 2, timeout_ms);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;
        if (fds[1].revents)
                return -ECANCELED;
        return r == 0 ? -ETIMEDOUT : 0;
}

static ssize_t send_some(const struct http *h, const char *data, size_t n) {
        ssize_t sent;

        if (h->tls)
                return tls_write(h->tls, data, n);
        sent = send(h->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0)
                return sent;
        return errno == EINTR ? -EAGAIN : errno == EPIPE ? -ECONNRESET : -errno;
}

int http_send(struct http *h, const void *data, size_t n, int timeout_ms) {
        const char *at = data;

        while (n > 0) {
                int r = wait_for(h, POLLOUT, timeout_ms);
                ssize_t sent;

                if (r < 0)
                        return r;
                sent = send_some(h, at, n);
                if (sent < 0 && sent != -EAGAIN)
                        return (int)sent;
                if (sent > 0) {
                        at += sent;
                        n -= (size_t)sent;
                }
        }
        return 0;
}

static ssize_t receive_some(const struct http *h, char *buf, size_t n) {
        ssize_t got = h->tls ? tls_read(h->tls, buf, n) : recv(h->fd, buf, n, 0);

        return got < 0 && !h->tls ? -errno : got;
}

ssize_t http_more(struct http *h, int timeout_ms) {
        ssize_t n;
        int r = h->tls && tls_pending(h->tls) ? 0 : wait_for(h, POLLIN, timeout_ms);

        if (r < 0)
                return r;
        if (h->room - h->len < READ_SIZE) {
                size_t room = h->room * 2 + READ_SIZE;
                char *grown;

                if (room > 2 * (size_t)HTTP_BODY_MAX + HEAD_MAX)
                        return -EBADMSG;
                grown = realloc(h->buf, room);
                if (!grown)
                        return -ENOMEM;
                h->buf = grown;
                h->room = room;
        }
        n = receive_some(h, h->buf + h->len, h->room - h->len - 1);
        if (n < 0)
                return n == -EINTR || n == -EAGAIN ? 1 : n;
        h->len += (size_t)n;
        h->buf[h->len] = '\0';
        return n;
}

static void used(struct http *h, size_t n) {
        h->len -= n;
        memmove(h->buf, h->buf + n, h->len + 1);
}

/* Until @n bytes are there. */
static int need(struct http *h, size_t n, int timeout_ms) {
        while (h->len < n) {
                ssize_t r = http_more(h, timeout_ms);

                if (r <= 0)
                        return r == 0 ? -EBADMSG : (int)r;
        }
        return 0;
}

/* Until there is a @mark in the buffer, which is allowed @max bytes; @ret_n: bytes with the mark. */
static int need_mark(struct http *h, const char *mark, size_t max, int timeout_ms, size_t *ret_n) {
        size_t from = 0, len = strlen(mark);

        for (;;) {
                const char *at = h->len > from ? memmem(h->buf + from, h->len - from, mark, len) : NULL;
                ssize_t r;

                if (at) {
                        *ret_n = (size_t)(at - h->buf) + len;
                        return *ret_n > max ? -EBADMSG : 0;
                }
                if (h->len > max)
                        return -EBADMSG;
                from = h->len > len ? h->len - len : 0;
                r = http_more(h, timeout_ms);
                if (r <= 0)
                        return r < 0 ? (int)r : h->len == 0 ? -ECONNRESET : -EBADMSG;
        }
}

static void copy_value(char *to, size_t size, const char *value, size_t n) {
        if (n >= size)
                return;
        memcpy(to, value, n);
        to[n] = '\0';
}

static bool decimal(const char *text, size_t n, size_t max, size_t *ret) {
        size_t v = 0;

        for (size_t i = 0; i < n; i++) {
                if (!isdigit((unsigned char)text[i]) || v > max / 10)
                        return false;
                v = v * 10 + (size_t)(text[i] - '0');
        }
        *ret = v;
        return n > 0 && v <= max;
}

/* One line of the head. @length: SIZE_MAX for chunked. */
static bool header(struct http_answer *answer, const char *line, size_t n, size_t *length) {
        const char *colon = memchr(line, ':', n), *value;
        size_t name = colon ? (size_t)(colon - line) : 0, len;

        if (!colon)
                return false;
        value = colon + 1;
        len = n - name - 1;
        while (len > 0 && (*value == ' ' || *value == '\t'))
                value++, len--;
        while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
                len--;
        if (name == 14 && strncasecmp(line, "Content-Length", name) == 0)
                return decimal(value, len, HTTP_BODY_MAX, length);
        if (name == 17 && strncasecmp(line, "Transfer-Encoding", name) == 0) {
                if (len != 7 || strncasecmp(value, "chunked", len) != 0)
                        return false;
                *length = SIZE_MAX;
        } else if (name == 4 && strncasecmp(line, "ETag", name) == 0)
                copy_value(answer->etag, sizeof(answer->etag), value, len);
        else if (name == 12 && strncasecmp(line, "X-Request-Id", name) == 0)
                copy_value(answer->request, sizeof(answer->request), value, len);
        return true;
}

/* "HTTP/1.1 200 OK", then lines to an empty one. */
static int parse_head(struct http_answer *answer, const char *head, size_t n, size_t *ret_length) {
        const char *end = head + n, *line = memmem(head, n, "\r\n", 2);
        size_t status;

        if (n < 14 || strncmp(head, "HTTP/1.1 ", 9) != 0 || !decimal(head + 9, 3, 599, &status) || status < 100)
                return -EBADMSG;
        answer->status = (unsigned int)status;
        *ret_length = 0;
        for (line += 2; line < end;) {
                const char *next = memmem(line, (size_t)(end - line), "\r\n", 2);

                if (!next || next == line)
                        break;
                if (!header(answer, line, (size_t)(next - line), ret_length))
                        return -EBADMSG;
                line = next + 2;
        }
        return 0;
}

static int take(struct http *h, struct http_answer *answer, size_t n) {
        char *grown = realloc(answer->body, answer->len + n + 1);

        if (!grown)
                return -ENOMEM;
        memcpy(grown + answer->len, h->buf, n);
        answer->body = grown;
        answer->len += n;
        grown[answer->len] = '\0';
        used(h, n);
        return 0;
}

static int read_chunks(struct http *h, struct http_answer *answer, int timeout_ms) {
        for (;;) {
                size_t n, size;
                char *end;
                int r = need_mark(h, "\r\n", 64, timeout_ms, &n);

                if (r < 0)
                        return r;
                size = strtoul(h->buf, &end, 16);
                if (end == h->buf || !isxdigit((unsigned char)h->buf[0]) || size > HTTP_BODY_MAX - answer->len)
                        return -EBADMSG;
                used(h, n);
                if (size == 0) { /* lodged sends no trailers */
                        r = need_mark(h, "\r\n", 2, timeout_ms, &n);
                        if (r == 0)
                                used(h, n);
                        return r;
                }
                r = need(h, size + 2, timeout_ms);
                if (r == 0)
                        r = take(h, answer, size);
                if (r < 0)
                        return r;
                used(h, 2);
        }
}

/* @up_to: 1xx come before the answer, and are passed over up to this one */
static int read_answer(struct http *h, struct http_answer *answer, unsigned int up_to, int timeout_ms) {
        size_t n, length = 0;
        int r;

        do {
                r = need_mark(h, "\r\n\r\n", HEAD_MAX, timeout_ms, &n);
                if (r == 0)
                        r = parse_head(answer, h->buf, n, &length);
                if (r < 0)
                        return r;
                used(h, n);
        } while (answer->status < 200 && answer->status != up_to);
        if (answer->status == up_to)
                return 0;
        if (answer->status == 204 || answer->status == 304)
                return take(h, answer, 0);
        if (length == SIZE_MAX) {
                r = take(h, answer, 0);
                return r < 0 ? r : read_chunks(h, answer, timeout_ms);
        }
        r = need(h, length, timeout_ms);
        return r < 0 ? r : take(h, answer, length);
}

static int send_head(struct http *h, const struct http_request *q, size_t n_body) {
        _cleanup_free_ char *head = NULL;
        const char *type = q->file   ? "Expect: 100-continue\r\nContent-Type: application/octet-stream\r\n"
                           : q->body ? "Content-Type: application/json\r\n"
                                     : "";
        int len = asprintf(&head, "%s %s HTTP/1.1\r\nHost: lodge\r\n%s%sContent-Length: %llu\r\n\r\n", q->method,
                           q->target, q->headers ?: "", type,
                           q->file ? (unsigned long long)q->file->size : (unsigned long long)n_body);

        if (len < 0) {
                head = NULL;
                return -ENOMEM;
        }
        return http_send(h, head, (size_t)len, q->timeout_ms);
}

static int send_file(struct http *h, const struct http_file *file, int timeout_ms) {
        _cleanup_free_ char *buf = malloc(FILE_PART);
        int r = buf ? 0 : -ENOMEM;

        for (uint64_t at = 0; r == 0 && at < file->size;) {
                ssize_t n = pread(file->fd, buf, MIN((uint64_t)FILE_PART, file->size - at), (off_t)at);

                if (n <= 0)
                        return n < 0 ? -errno : -ESTALE;
                r = http_send(h, buf, (size_t)n, timeout_ms);
                at += (uint64_t)n;
                if (file->sent)
                        file->sent(file->opaque, at);
        }
        return r;
}

int http_ask(struct http *h, const struct http_request *q, struct http_answer *ret_answer) {
        _cleanup_(http_answer_clear) struct http_answer answer = { 0 };
        size_t n = q->body ? strlen(q->body) : 0;
        int r = send_head(h, q, n);

        if (r == 0 && q->body)
                r = http_send(h, q->body, n, q->timeout_ms);
        if (r == 0 && q->file)
                r = read_answer(h, &answer, 100, q->timeout_ms);
        if (r == 0 && q->file && answer.status == 100)
                r = send_file(h, q->file, q->timeout_ms);
        /* A server that refuses a request early has answered before it closed. */
        if ((r == 0 || r == -ECONNRESET) && answer.status <= 100)
                r = read_answer(h, &answer, q->upgrade ? 101 : 0, q->timeout_ms);
        if (r < 0)
                return r;
        *ret_answer = answer;
        answer = (struct http_answer){ 0 };
        return 0;
}
