// SPDX-License-Identifier: GPL-2.0-or-later
/* op-volume: machines' disks, by pool and name; and the seeds of their first boot */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/broker/broker.h"
#include "daemon/engine/parts.h"
#include "daemon/image/image.h"
#include "daemon/seed/seed.h"
#include "daemon/storage/pool.h"

int broker_pool_open(struct broker *b, const char *name, struct pool **ret_pool, struct error *e) {
        const struct pool_options options = { .images = b->images, .lock = disk_lock };
        struct pool_config config = { .name = (char *)name, .type = POOL_TYPE_DIR };
        int r;

        if (!streq(name, "default"))
                return error_set(e, -ENOENT, "pool-not-found", "use pool default", "there is no pool %s", name);
        if (asprintf(&config.path, "%s/%s", b->paths.pools, name) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot open the pool");
        r = pool_open(&config, &options, ret_pool, e);
        free(config.path);
        return r;
}

static json_t *volume_json(const struct volume *v) {
        return json_pack("{s:s, s:s, s:I, s:I, s:s*, s:s*}", "name", v->name, "format",
                         volume_format_to_string(v->format), "size", (json_int_t)v->size, "allocated",
                         (json_int_t)v->allocated, "image", v->image, "broken", v->broken);
}

/* ---- making ---------------------------------------------------------------------------------------------------------- */

struct make {
        struct broker *broker;
        const struct broker_volume_args *args;
};

struct step {
        const struct image_progress *progress;
        uint64_t told; /* percent */
};

static void on_advance(void *opaque, uint64_t done, uint64_t all) {
        struct step *step = opaque;
        uint64_t percent = all ? done * 100 / all : 100;
        char text[64];

        if (percent == step->told)
                return;
        step->told = percent;
        snprintf(text, sizeof(text), "copying: %u %%", (unsigned int)percent);
        step->progress->step(step->progress->opaque, text);
}

static int make_from_image(struct broker *b, struct pool *pool, const char *image_name,
                           const struct volume_request *request, struct error *e) {
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_close_ int lock = -EBADF;
        int r = image_find(b->images, image_name, &image, e);

        if (r == 0)
                r = image_lock(image, &lock, e);
        return r < 0 ? r : volume_create_from_image(pool, request, image, e);
}

static int make_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        const struct make *m = opaque;
        const struct broker_volume_args *a = m->args;
        struct step step = { progress, 0 };
        const struct pool_progress advance = { on_advance, &step, progress->cancel_fd };
        const struct volume_request request = {
                .name = a->name, .size = a->size, .again = a->again, .progress = &advance
        };
        _cleanup_(pool_freep) struct pool *pool = NULL;
        _cleanup_(volume_freep) struct volume *made = NULL;
        int r = broker_pool_open(m->broker, a->pool, &pool, e);

        if (r < 0)
                return r;
        if (a->image)
                r = make_from_image(m->broker, pool, a->image, &request, e);
        else if (a->source)
                r = volume_clone(pool, a->source, &request, e);
        else
                r = volume_create_empty(pool, &request, VOLUME_FORMAT_QCOW2, e);
        if (r == 0)
                r = volume_find(pool, a->name, &made, e);
        if (r == 0)
                *ret = volume_json(made);
        return r;
}

static int volume_make(struct broker_call *call, void *args, struct error *e) {
        struct make make = { call->broker, args };

        return broker_task(call, make_task, &make, e);
}

/* An image that has no disk (it lives in its initrd) gives its machines none: {}. A disk of a machine without an image is empty. */
static int machine_disk(struct broker_call *call, void *args, struct error *e) {
        const struct broker_volume_args *a = args;
        _cleanup_(image_freep) struct image *image = NULL;
        int r;

        if (!a->image)
                return volume_make(call, args, e);
        r = image_find(call->broker->images, a->image, &image, e);
        if (r < 0 || !image->files[IMAGE_FILE_DISK].name)
                return r;
        return volume_make(call, args, e);
}

/* ---- the rest -------------------------------------------------------------------------------------------------------- */

static int volume_remove(struct broker_call *call, void *args, struct error *e) {
        const struct broker_volume_args *a = args;
        _cleanup_(pool_freep) struct pool *pool = NULL;
        int r = broker_pool_open(call->broker, a->pool, &pool, e);

        return r < 0 ? r : volume_delete(pool, a->name, e);
}

static int volume_grow(struct broker_call *call, void *args, struct error *e) {
        const struct broker_volume_args *a = args;
        _cleanup_(pool_freep) struct pool *pool = NULL;
        _cleanup_(volume_freep) struct volume *v = NULL;
        int r = broker_pool_open(call->broker, a->pool, &pool, e);

        if (r == 0)
                r = volume_find(pool, a->name, &v, e);
        return r < 0 || v->size >= a->size ? r : volume_resize(pool, a->name, a->size, e);
}

static int volumes_list(struct broker_call *call, void *args, struct error *e) {
        const struct broker_pool_args *a = args;
        _cleanup_(pool_freep) struct pool *pool = NULL;
        json_t *items;
        struct volume **volumes;
        struct pool_usage usage;
        size_t n;
        int r = broker_pool_open(call->broker, a->pool, &pool, e);

        if (r == 0)
                r = pool_get_usage(pool, &usage, e);
        if (r == 0)
                r = volume_list(pool, &volumes, &n, e);
        if (r < 0)
                return r;
        items = json_array();
        for (size_t i = 0; i < n; i++)
                json_array_append_new(items, volume_json(volumes[i]));
        volume_list_free(volumes, n);
        call->result = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o}", "name", pool_name(pool), "path", pool_path(pool),
                                 "capacity", (json_int_t)usage.capacity, "available", (json_int_t)usage.available,
                                 "allocated", (json_int_t)usage.allocated, "items", items);
        return call->result ? 0 : -ENOMEM;
}

static int add_allocated(void *opaque, const char *name, uint64_t allocated) {
        return json_object_set_new(opaque, name, json_integer((json_int_t)allocated)) < 0 ? -ENOMEM : 0;
}

/* How full a pool is, without a look into its volumes. */
static int pool_fill(struct broker_call *call, void *args, struct error *e) {
        const struct broker_pool_args *a = args;
        _cleanup_(pool_freep) struct pool *pool = NULL;
        json_auto_t *volumes = json_object();
        struct pool_usage usage;
        int r = broker_pool_open(call->broker, a->pool, &pool, e);

        if (r == 0)
                r = pool_get_usage(pool, &usage, e);
        if (r == 0)
                r = volume_each_allocated(pool, add_allocated, volumes, e);
        if (r < 0)
                return r;
        call->result = json_pack("{s:s, s:I, s:I, s:I, s:O}", "name", pool_name(pool), "capacity",
                                 (json_int_t)usage.capacity, "available", (json_int_t)usage.available, "allocated",
                                 (json_int_t)usage.allocated, "volumes", volumes);
        return call->result ? 0 : -ENOMEM;
}

static int seed_dir(struct broker *b, const char *uuid, char **ret_dir) {
        char *dir;

        if (asprintf(&dir, "%s/%s", b->paths.seeds, uuid) < 0)
                return -ENOMEM;
        if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
                free(dir);
                return -errno;
        }
        *ret_dir = dir;
        return 0;
}

/* Does the machine get a seed? If its image boots by cloud-init (those that have a disk do), or if something is to be done at its first boot. */
static bool wants_seed(const struct cloud_config *c, const struct image *image) {
        return (image && image->files[IMAGE_FILE_DISK].name) || c->n_ssh_keys || c->password_hash || c->user_data;
}

/* Judge it, and write it unless only that was asked for. */
static int seed_write(struct broker_call *call, void *args, struct error *e) {
        const struct broker_seed_args *a = args;
        const struct seed_machine machine = { .instance_id = a->uuid, .name = a->name };
        __attribute__((cleanup(seed_warnings_clear))) struct seed_warnings warnings = { 0 };
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_free_ char *dir = NULL;
        json_t *list;
        bool wanted;
        int r = 0;

        if (a->image)
                r = image_find(call->broker->images, a->image, &image, e);
        if (r == 0)
                r = seed_validate(&a->cloud, !image || image->login, &warnings, e);
        wanted = r == 0 && wants_seed(&a->cloud, image);
        if (wanted && !a->check) {
                r = seed_dir(call->broker, a->uuid, &dir);
                r = r < 0 ? error_set(e, r, "seed-io", NULL, "cannot make a directory for the seed")
                          : seed_make(&a->cloud, &machine, dir, NULL, e);
        }
        if (r < 0)
                return r;
        list = json_array();
        for (size_t i = 0; i < warnings.n; i++)
                json_array_append_new(list, json_string(warnings.text[i]));
        call->result = json_pack("{s:o, s:b, s:b}", "warnings", list, "made", wanted, "agent", image && image->agent);
        return call->result ? 0 : -ENOMEM;
}

const struct broker_op broker_volume_ops[] = {
        { "machine-disk", &broker_volume_args_schema, machine_disk },
        { "volume-make", &broker_volume_args_schema, volume_make },
        { "volume-grow", &broker_volume_args_schema, volume_grow },
        { "volume-delete", &broker_volume_args_schema, volume_remove },
        { "volume-list", &broker_pool_args_schema, volumes_list },
        { "pool-usage", &broker_pool_args_schema, pool_fill },
        { "seed-write", &broker_seed_args_schema, seed_write },
        { 0 },
};
