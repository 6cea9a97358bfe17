// SPDX-License-Identifier: GPL-2.0-or-later
/* feed: see feed.h */
#include "daemon/keeper/feed.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/io.h"

#define INPUT_MAX 4096u

struct viewer {
        struct feed *feed;
        int fd; /* negative: this place is free */
        struct loop_source *source;
        uint64_t at;    /* place in the stream: all before it was sent */
        bool says_more; /* it has not ended its side */
        bool gone;      /* it has, and hears nothing any more: only what it typed is left */
};

struct feed {
        struct loop *loop;
        int fd;
        struct loop_source *source;
        uint64_t total;
        char input[INPUT_MAX];
        size_t input_len;
        struct viewer viewers[FEED_VIEWERS_MAX];
        char ring[FEED_RING_SIZE];
};

/* ---- viewers ----------------------------------------------------------------------------------------------------- */

static void viewer_drop(struct viewer *v) {
        loop_source_free(TAKE_PTR(v->source));
        v->fd = safe_close(v->fd);
}

static void viewer_update(struct viewer *v) {
        uint32_t events = 0;

        if (v->fd < 0 || !v->source)
                return;
        if (v->says_more && v->feed->input_len == 0)
                events |= EPOLLIN;
        if (v->at < v->feed->total)
                events |= EPOLLOUT;
        if (loop_source_set_events(v->source, events) < 0)
                viewer_drop(v);
}

/* Send what it has not seen, as far as it takes it. */
static void viewer_push(struct viewer *v) {
        struct feed *f = v->feed;

        if (v->fd < 0 || v->gone)
                return;
        if (f->total - v->at > FEED_RING_SIZE) { /* overtaken: what it misses is lost */
                viewer_drop(v);
                return;
        }
        while (v->at < f->total) {
                size_t from = v->at % FEED_RING_SIZE, n = MIN((size_t)(f->total - v->at), FEED_RING_SIZE - from);
                ssize_t sent = send(v->fd, f->ring + from, n, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (sent < 0 && errno == EINTR)
                        continue;
                if (sent < 0 && errno == EAGAIN)
                        break;
                if (sent <= 0) {
                        viewer_drop(v);
                        return;
                }
                v->at += (uint64_t)sent;
        }
        viewer_update(v);
}

static void push_input(struct feed *f);

/* Take what it typed, into the buffer, which is empty. */
static void viewer_read(struct viewer *v) {
        struct feed *f = v->feed;
        ssize_t n = recv(v->fd, f->input, sizeof(f->input), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
                if (v->gone)
                        viewer_drop(v);
                return;
        }
        if (n > 0) {
                f->input_len = (size_t)n;
                return;
        }
        if (n < 0 || v->gone)
                viewer_drop(v);
        else
                v->says_more = false;
}

static void on_viewer(void *opaque, int fd, uint32_t events) {
        struct viewer *v = opaque;
        struct feed *f = v->feed;

        if (events & EPOLLERR) {
                viewer_drop(v);
                return;
        }
        if (events & EPOLLHUP) { /* it hears nothing any more; what it typed before it left still counts */
                v->gone = true;
                loop_source_free(TAKE_PTR(v->source));
        } else if (events & EPOLLOUT)
                viewer_push(v);
        if (v->fd >= 0 && f->input_len == 0 && (v->gone || (events & EPOLLIN && v->says_more)))
                viewer_read(v);
        push_input(f);
}

/* ---- the machine ------------------------------------------------------------------------------------------------- */

static void feed_update(struct feed *f) {
        if (f->source)
                loop_source_set_events(f->source, EPOLLIN | (f->input_len > 0 ? EPOLLOUT : 0));
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                viewer_update(&f->viewers[i]);
}

/* Give the machine what was typed; then what those typed who have left. */
static void push_input(struct feed *f) {
        for (size_t i = 0;;) {
                while (f->input_len > 0) {
                        ssize_t n = send(f->fd, f->input, f->input_len, MSG_DONTWAIT | MSG_NOSIGNAL);

                        if (n < 0 && errno == EINTR)
                                continue;
                        if (n < 0 && errno != EAGAIN)
                                f->input_len = 0; /* it has ended */
                        if (n <= 0)
                                break;
                        f->input_len -= (size_t)n;
                        memmove(f->input, f->input + n, f->input_len);
                }
                while (i < FEED_VIEWERS_MAX && (f->viewers[i].fd < 0 || !f->viewers[i].gone))
                        i++;
                if (f->input_len > 0 || i == FEED_VIEWERS_MAX)
                        break;
                viewer_read(&f->viewers[i]);
        }
        feed_update(f);
}

static void take(struct feed *f, const char *data, size_t n) {
        while (n > 0) {
                size_t at = f->total % FEED_RING_SIZE, part = MIN(n, FEED_RING_SIZE - at);

                memcpy(f->ring + at, data, part);
                f->total += part;
                data += part;
                n -= part;
        }
}

/* Return: was there something? */
static bool read_machine(struct feed *f) {
        char data[16384];
        ssize_t n;

        do
                n = recv(f->fd, data, sizeof(data), MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n > 0)
                take(f, data, (size_t)n);
        else if (n == 0 || errno != EAGAIN)
                loop_source_free(TAKE_PTR(f->source));
        return n > 0;
}

static void on_machine(void *opaque, int fd, uint32_t events) {
        struct feed *f = opaque;

        if (events & EPOLLOUT)
                push_input(f);
        if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || !read_machine(f))
                return;
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                viewer_push(&f->viewers[i]);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

int feed_new(struct loop *loop, int fd, struct feed **ret_feed) {
        _cleanup_(feed_freep) struct feed *f = calloc(1, sizeof(*f));
        int r;

        if (!f)
                return -ENOMEM;
        f->loop = loop;
        f->fd = fd;
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                f->viewers[i] = (struct viewer){ .feed = f, .fd = -EBADF };
        r = loop_add_fd(loop, fd, EPOLLIN, on_machine, f, &f->source);
        if (r < 0)
                return r;
        *ret_feed = TAKE_PTR(f);
        return 0;
}

/* A free place; one of those that have left only waits for the machine to read. */
static struct viewer *find_place(struct feed *f) {
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                if (f->viewers[i].fd < 0)
                        return &f->viewers[i];
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                if (f->viewers[i].gone) {
                        viewer_drop(&f->viewers[i]);
                        return &f->viewers[i];
                }
        return NULL;
}

int feed_view(struct feed *f, size_t history, int *ret_fd) {
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        struct viewer *v = find_place(f);
        int pair[2], r;

        if (!v)
                return -EUSERS;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        ours = pair[0];
        theirs = pair[1];
        r = io_set_nonblock(ours, true);
        if (r < 0)
                return r;
        *v = (struct viewer){ .feed = f, .fd = -EBADF, .says_more = true };
        r = loop_add_fd(f->loop, ours, 0, on_viewer, v, &v->source);
        if (r < 0)
                return r;
        v->fd = TAKE_FD(ours);
        history = MIN(history, (size_t)FEED_RING_SIZE);
        v->at = f->total - MIN((uint64_t)history, f->total);
        viewer_push(v);
        *ret_fd = TAKE_FD(theirs);
        return 0;
}

uint64_t feed_total(const struct feed *f) {
        return f->total;
}

void feed_end(struct feed *f) {
        while (f->source && read_machine(f))
                ;
        loop_source_free(TAKE_PTR(f->source));
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++) {
                viewer_push(&f->viewers[i]);
                viewer_drop(&f->viewers[i]);
        }
}

int feed_dump(const struct feed *f, int fd) {
        size_t len = (size_t)MIN(f->total, (uint64_t)FEED_RING_SIZE), from = (f->total - len) % FEED_RING_SIZE;
        size_t part = MIN(len, FEED_RING_SIZE - from);
        int r = io_write_all(fd, f->ring + from, part);

        return r < 0 ? r : io_write_all(fd, f->ring, len - part);
}

void feed_free(struct feed *f) {
        if (!f)
                return;
        loop_source_free(f->source);
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                viewer_drop(&f->viewers[i]);
        free(f);
}
