// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * api-upload: a disk image that a client sends
 *
 * Theory of operation. The request is judged when its head is there (server.c calls request_take() then), and libsoup is kept from reading on. The broker checks the name and the room and starts a
 * task that holds the file; with the task's first word comes the end of a pipe, and only then is the body read: with Expect: 100-continue, what is refused was not sent.
 *
 *      client --TLS--> libsoup --8 KiB at a time--> pipe --> the broker's task: checksum, file in the image store
 *
 * A pipe that is full stops the reading, so memory stays small and the worker never waits for a disk. The task's answer, when it has all and it is on the disk, begins the operation
 * that makes the image; that is the answer (202). A client that goes away, or is too slow (server.c), has the task cancelled, which removes the file; a task whose answer
 * is on its way then has its upload dropped here. Nothing is resumed. When the task fails, what is still to come is read and dropped: libsoup answers after the body, and a
 * client that was cut off would not learn why.
 *
 * The upload outlives its request until the task has answered.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "daemon/api/internal.h"

#define UPLOAD_MAX (64ull << 40)

struct api_upload {
        struct api_request *q; /* NULL: nobody waits for it any more */
        struct api *api;
        uint64_t call;
        int fd; /* the pipe; -EBADF: not there yet, or nobody reads it any more */
        struct loop_source *source;
        unsigned char *rest; /* what the pipe did not take */
        size_t n_rest;
};

struct api_request *upload_of(struct api *api, SoupServerMessage *message) {
        for (struct api_request *q = api->waiting; q; q = q->next)
                if (q->message == message)
                        return q->upload ? q : NULL;
        return NULL;
}

static void pipe_close(struct api_upload *u) {
        loop_source_free(TAKE_PTR(u->source));
        u->fd = safe_close(u->fd);
        free(TAKE_PTR(u->rest));
        u->n_rest = 0;
}

static void hold(struct api_request *q) {
        if (q->paused)
                return;
        q->paused = true;
        soup_server_message_pause(q->message);
        connection_waits(q->api, q->message, true);
}

static void go_on(struct api_request *q) {
        if (!q->paused)
                return;
        q->paused = false;
        connection_waits(q->api, q->message, false);
        soup_server_message_unpause(q->message);
}

/* As much as the pipe takes. Return: bytes; all when nobody reads it any more, whose answer says why. */
static size_t pipe_write(struct api_upload *u, const void *data, size_t n) {
        ssize_t written = u->fd < 0 ? -1 : write(u->fd, data, n);

        if (written >= 0)
                return (size_t)written;
        return u->fd >= 0 && (errno == EAGAIN || errno == EINTR) ? 0 : n;
}

static void on_room(void *opaque, int fd, uint32_t events) {
        struct api_upload *u = opaque;
        size_t n = pipe_write(u, u->rest, u->n_rest);

        u->n_rest -= n;
        memmove(u->rest, u->rest + n, u->n_rest);
        if (u->n_rest > 0)
                return;
        loop_source_free(TAKE_PTR(u->source));
        if (u->q)
                go_on(u->q);
}

static void upload_fail(struct api_upload *u, int r) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct api_request *q = TAKE_PTR(u->q);

        error_set(&e, r, "upload", "send it again", "cannot go on with the upload");
        q->upload = NULL;
        q->forget = NULL;
        pipe_close(u);
        broker_cancel(u->api->o.broker, u->call);
        api_answer_error(q, &e);
}

void upload_chunk(struct api_request *q, const void *data, size_t n) {
        struct api_upload *u = q->upload;
        size_t written = u->n_rest > 0 ? 0 : pipe_write(u, data, n);
        unsigned char *grown;
        int r = 0;

        if (written == n)
                return;
        grown = realloc(u->rest, u->n_rest + n - written);
        if (!grown) {
                upload_fail(u, -ENOMEM);
                return;
        }
        memcpy(grown + u->n_rest, (const unsigned char *)data + written, n - written);
        u->rest = grown;
        u->n_rest += n - written;
        hold(q);
        if (!u->source)
                r = loop_add_fd(u->api->o.loop, u->fd, EPOLLOUT, on_room, u, &u->source);
        if (r < 0)
                upload_fail(u, r);
}

void upload_whole(struct api_request *q) {
        hold(q); /* until the task has answered */
}

/* ---- the task ------------------------------------------------------------------------------------------------------------ */

static void on_word(void *opaque, const char *text, struct wire_message *m) {
        struct api_upload *u = opaque;

        if (u->fd >= 0 || !u->q)
                return;
        u->fd = wire_take_fd(m, 0);
        if (u->fd < 0 || io_set_nonblock(u->fd, true) < 0)
                upload_fail(u, -EPROTO);
        else
                go_on(u->q);
}

static int begin_import(struct api_request *q, const json_t *reply, struct error *e) {
        const char *upload = json_string_value(json_object_get(reply, "upload"));
        const char *sha256 = json_string_value(json_object_get(reply, "sha256"));
        char *id;
        int r;

        if (!upload || !sha256)
                return error_set(e, -EIO, "broker-answer", NULL, "the broker's answer cannot be understood");
        r = machine_image_import(q->api->o.machines, q->parameters[0], q->query, upload, sha256, &q->caller, &id, e);
        return r < 0 ? r : api_answer_operation(q, id, e);
}

static void on_received(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct api_upload *u = opaque;
        struct api_request *q = u->q;
        const char *upload = reply ? json_string_value(json_object_get(reply->json, "upload")) : NULL;

        if (q) {
                q->upload = NULL;
                q->forget = NULL;
        } else if (upload)
                machine_image_upload_drop(u->api->o.machines, upload);
        pipe_close(u);
        free(u);
        if (q && !e && begin_import(q, reply->json, &own) < 0)
                e = &own;
        if (q && e)
                api_answer_error(q, e);
}

static void on_gone(struct api_request *q) {
        struct api_upload *u = TAKE_PTR(q->upload);

        u->q = NULL;
        pipe_close(u);
        broker_cancel(u->api->o.broker, u->call);
}

static int check_length(const struct api_request *q, uint64_t *ret_size, struct error *e) {
        SoupMessageHeaders *headers = soup_server_message_get_request_headers(q->message);

        if (soup_message_headers_get_encoding(headers) != SOUP_ENCODING_CONTENT_LENGTH)
                return error_set(e, -EINVAL, "upload-length", "send a Content-Length, and no Transfer-Encoding",
                                 "how many bytes are to come has to be said");
        *ret_size = (uint64_t)soup_message_headers_get_content_length(headers);
        return 0;
}

int api_image_upload(struct api_request *q, struct error *e) {
        const struct image_upload_request *how = q->query;
        struct api_upload *u;
        uint64_t size = 0;
        int r = check_length(q, &size, e);

        if (r < 0)
                return r;
        if (size > UPLOAD_MAX)
                return error_set(e, -EFBIG, "body-too-large", "send less", "an image has at most 64 TiB");
        u = calloc(1, sizeof(*u));
        if (!u)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot take the upload");
        *u = (struct api_upload){ .q = q, .api = q->api, .fd = -EBADF };
        if (broker_call(q->api->o.broker, "image-receive",
                        json_pack("{s:s, s:I, s:s*}", "name", q->parameters[0], "size", (json_int_t)size, "sha256",
                                  how->sha256),
                        on_word, on_received, u, &u->call) < 0) {
                free(u);
                return broker_gone(e);
        }
        q->upload = u;
        q->forget = on_gone;
        connection_waits(q->api, q->message, true);
        return 1;
}
