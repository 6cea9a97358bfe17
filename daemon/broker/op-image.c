// SPDX-License-Identifier: GPL-2.0-or-later
/* op-image: images, by their names: list, show, build, delete */
#include <stdlib.h>
#include <string.h>

#include "daemon/broker/broker.h"
#include "daemon/image/image.h"
#include "daemon/storage/pool.h"

static json_t *image_json(const struct image *image) {
        uint64_t size = 0;

        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++)
                size += image->files[i].name ? image->files[i].size : 0;
        return json_pack("{s:s, s:s*, s:s*, s:s*, s:s*, s:s*, s:s*, s:s*, s:s*, s:s*, s:b, s:b, s:I, s:I}", "name",
                         image->name, "version", image->version, "created", image->created, "arch", image->arch,
                         "format", image->format, "source", image->source, "broken", image->broken, "user", image->user,
                         "login", image->login, "cmdline", image->cmdline, "agent", image->agent, "disk",
                         image->files[IMAGE_FILE_DISK].name != NULL, "size", (json_int_t)size, "disk_size",
                         (json_int_t)(image->files[IMAGE_FILE_DISK].name ? image->files[IMAGE_FILE_DISK].size : 0));
}

static int images_list(struct broker_call *call, void *args, struct error *e) {
        json_t *items = json_array();
        struct image **images;
        size_t n;
        int r = image_list(call->broker->images, &images, &n, e);

        if (r < 0) {
                json_decref(items);
                return r;
        }
        for (size_t i = 0; i < n; i++)
                json_array_append_new(items, image_json(images[i]));
        image_list_free(images, n);
        call->result = json_pack("{s:o}", "items", items);
        return call->result ? 0 : -ENOMEM;
}

static int images_find(struct broker_call *call, void *args, struct error *e) {
        const struct broker_image_args *a = args;
        _cleanup_(image_freep) struct image *image = NULL;
        int r = image_find(call->broker->images, a->name, &image, e);

        if (r < 0)
                return r;
        call->result = image_json(image);
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

const struct broker_op broker_image_ops[] = {
        { "image-list", NULL, images_list },
        { "image-find", &broker_image_args_schema, images_find },
        { "image-delete", &broker_image_args_schema, images_delete },
        { "image-build", &broker_image_args_schema, images_build },
        { 0 },
};
