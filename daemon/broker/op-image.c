// SPDX-License-Identifier: GPL-2.0-or-later
/* op-image: images, by their names: list, show, build, delete; servers' indexes, and pulling what they name; uploads */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/broker/broker.h"
#include "daemon/image/fetch.h"
#include "daemon/image/image.h"
#include "daemon/image/upload.h"
#include "daemon/image/view.h"
#include "daemon/storage/pool.h"

#define FETCHES_MAX 8u
#define PIPE_BYTES  (1 << 20)

static int images_list(struct broker_call *call, void *args, struct error *e) {
        return image_page_json(call->broker->images, &call->result, e);
}

struct look {
        struct image_store *store;
        const char *name;
};

static int look_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        _cleanup_(image_freep) struct image *image = NULL;
        const struct look *l = opaque;
        int r = image_find(l->store, l->name, &image, e);

        if (r == 0)
                r = image_verify(image, e);
        if (r == 0)
                *ret = image_view_json(image);
        return r;
}

static int images_find(struct broker_call *call, void *args, struct error *e) {
        const struct broker_image_args *a = args;
        _cleanup_(image_freep) struct image *image = NULL;
        struct look look = { call->broker->images, a->name };
        int r = a->verify ? broker_task(call, look_task, &look, e) : image_find(look.store, a->name, &image, e);

        if (r != 0)
                return r;
        call->result = image_view_json(image);
        return call->result ? 0 : -ENOMEM;
}

static int images_delete(struct broker_call *call, void *args, struct error *e) {
        const struct broker_image_args *a = args;

        _cleanup_(pool_freep) struct pool *pool = NULL;
        int r = broker_pool_open(call->broker, "default", &pool, e);

        if (r == 0)
                r = pool_check_image(&pool, 1, a->name, e);
        return r < 0 ? r : image_delete(call->broker->images, a->name, e);
}

struct build {
        struct image_store *store;
        const char *name;
        bool force;
};

static int build_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        const struct build *b = opaque;
        bool cached = false;
        int r = image_build(b->store, b->name, b->force, progress, &cached, e);

        if (r == 0)
                *ret = json_pack("{s:b}", "cached", cached);
        return r;
}

static int images_build(struct broker_call *call, void *args, struct error *e) {
        const struct broker_image_args *a = args;
        struct build build = { call->broker->images, a->name, a->force };

        return broker_task(call, build_task, &build, e);
}

/* ---- servers of images --------------------------------------------------------------------------------------------------- */

/* So many of one kind at a time: each is some processes, and what they download. */
static int check_load(const struct broker_call *call, struct error *e) {
        return broker_calls_alike(call) <= FETCHES_MAX
                       ? 0
                       : error_set(e, -EBUSY, "fetch-busy", "try again in a moment",
                                   "%u downloads of this kind are under way", FETCHES_MAX);
}

struct index_task {
        const struct image_source_config *source;
        int result_fd;
};

static int index_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        const struct index_task *t = opaque;
        struct fetch_job job = {
                .task = FETCH_TASK_INDEX, .type = t->source->type, .key = t->source->key, .url = t->source->url
        };
        const struct fetch_files files = { .result = t->result_fd, .file = -EBADF, .note = -EBADF, .disk = -EBADF };

        return fetch_run(&job, &files, progress, e);
}

/* The index goes to the worker as a file that nobody here looks into. */
static int images_index(struct broker_call *call, void *args, struct error *e) {
        const struct broker_source_args *a = args;
        struct index_task task = { &a->source, fetch_result_file() };
        int r = check_load(call, e);

        if (task.result_fd < 0)
                return error_set(e, task.result_fd, "fetch", NULL, "cannot read the index");
        call->fds[0] = task.result_fd;
        call->n_fds = 1;
        return r < 0 ? r : broker_task(call, index_task, &task, e);
}

struct pull_task {
        struct image_store *store;
        struct image_pull how;
};

static int pull_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        const struct pull_task *t = opaque;

        return image_pull(t->store, &t->how, progress, e);
}

static int images_pull(struct broker_call *call, void *args, struct error *e) {
        const struct broker_pull_args *a = args;
        struct pull_task task = { call->broker->images,
                                  { .name = a->name,
                                    .url = a->url,
                                    .size = a->size,
                                    .digest = a->digest,
                                    .format = pull_format_to_string(a->format),
                                    .version = a->version,
                                    .catalogue = a->catalogue,
                                    .trust = image_trust_to_string(a->trust) } };
        int r = check_load(call, e);

        return r < 0 ? r : broker_task(call, pull_task, &task, e);
}

/* ---- uploads ------------------------------------------------------------------------------------------------------------- */

struct receive_task {
        struct image_store *store;
        uint64_t size;
        const char *sha256;
        int from, to; /* the ends of the pipe; the worker writes to the second one */
};

static int receive_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        struct receive_task *t = opaque;
        char id[UPLOAD_ID_SIZE], sha256[SHA256_HEX_SIZE];
        int r;

        close(t->to);
        r = upload_receive(t->store, t->from, t->size, t->sha256, progress, id, sha256, e);
        if (r == 0)
                *ret = json_pack("{s:s, s:s}", "upload", id, "sha256", sha256);
        return r;
}

/* The worker gets the pipe's end with the task's first word, when the bytes may come; it parses what they come in, and the task neither it nor the broker. */
static int images_receive(struct broker_call *call, void *args, struct error *e) {
        const struct broker_receive_args *a = args;
        struct receive_task task = { call->broker->images, a->size, a->sha256, -EBADF, -EBADF };
        int p[2], r = check_load(call, e);

        if (r == 0)
                r = upload_check(task.store, a->name, a->size, e);
        if (r < 0)
                return r;
        if (pipe2(p, O_CLOEXEC) < 0)
                return error_set(e, -errno, "task", NULL, "cannot take an upload");
        (void)fcntl(p[0], F_SETPIPE_SZ, PIPE_BYTES);
        task.from = p[0];
        task.to = call->fds[0] = p[1];
        call->n_fds = 1;
        call->fds_early = true;
        r = broker_task(call, receive_task, &task, e);
        close(p[0]);
        return r;
}

struct import_task {
        struct image_store *store;
        struct image_upload how;
};

static int import_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        const struct import_task *t = opaque;

        return upload_import(t->store, &t->how, progress, e);
}

static int images_import(struct broker_call *call, void *args, struct error *e) {
        const struct broker_import_args *a = args;
        struct import_task task = { call->broker->images,
                                    { .id = a->upload,
                                      .sha256 = a->sha256,
                                      .name = a->name,
                                      .format = image_upload_format_to_string(a->format),
                                      .cmdline = a->append,
                                      .agent = a->agent } };

        return broker_task(call, import_task, &task, e);
}

static int images_upload_drop(struct broker_call *call, void *args, struct error *e) {
        const struct broker_upload_args *a = args;
        int r = upload_remove(call->broker->images, a->upload);

        return r < 0 ? error_set(e, r, "image-store", NULL, "cannot remove an upload") : 0;
}

static int images_upload_keep(struct broker_call *call, void *args, struct error *e) {
        const struct broker_uploads_args *a = args;

        upload_sweep(call->broker->images, a->keep, a->n_keep);
        return 0;
}

const struct broker_op broker_image_ops[] = {
        { "image-list", NULL, images_list },
        { "image-find", &broker_image_args_schema, images_find },
        { "image-delete", &broker_image_args_schema, images_delete },
        { "image-build", &broker_image_args_schema, images_build },
        { "image-index", &broker_source_args_schema, images_index },
        { "image-pull", &broker_pull_args_schema, images_pull },
        { "image-receive", &broker_receive_args_schema, images_receive },
        { "image-import", &broker_import_args_schema, images_import },
        { "image-upload-drop", &broker_upload_args_schema, images_upload_drop },
        { "image-upload-keep", &broker_uploads_args_schema, images_upload_keep },
        { 0 },
};
