// SPDX-License-Identifier: GPL-2.0-or-later
/* op-image: images, by their names: list, show, build, delete; servers' indexes, and pulling what they name */
#include <stdlib.h>
#include <string.h>

#include "daemon/broker/broker.h"
#include "daemon/image/fetch.h"
#include "daemon/image/image.h"
#include "daemon/image/view.h"
#include "daemon/storage/pool.h"

#define FETCHES_MAX 8u

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
        unsigned int n = 0;

        for (const struct broker_call *c = call->broker->calls; c; c = c->next)
                n += c->op == call->op;
        return n <= FETCHES_MAX ? 0
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

const struct broker_op broker_image_ops[] = {
        { "image-list", NULL, images_list },
        { "image-find", &broker_image_args_schema, images_find },
        { "image-delete", &broker_image_args_schema, images_delete },
        { "image-build", &broker_image_args_schema, images_build },
        { "image-index", &broker_source_args_schema, images_index },
        { "image-pull", &broker_pull_args_schema, images_pull },
        { 0 },
};
