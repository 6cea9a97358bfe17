// SPDX-License-Identifier: GPL-2.0-or-later
/* pool: see pool.h */
#include "daemon/storage/driver.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
static const struct pool_driver_ops *const drivers[] = {
        &pool_dir_ops,
};

static const struct pool_driver_ops *driver_of(enum pool_type type) {
        for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++)
                if (drivers[i]->type == type)
                        return drivers[i];
        return NULL;
}

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
}

bool volume_name_is_valid(const char *name, size_t len) {
        if (len == 0 || len > 63 || name[0] == '-' || name[len - 1] == '-')
                return false;
        for (size_t i = 0; i < len; i++)
                if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') && name[i] != '-')
                        return false;
        return true;
}

static int check_name(const char *name, struct error *e) {
        if (name && volume_name_is_valid(name, strnlen(name, 64)))
                return 0;
        return error_set(e, -EINVAL, "volume-name", "use 1 to 63 lower case letters, digits and hyphens: web-data",
                         "'%.80s' can't be a volume's name", name ?: "");
}

static int check_size(uint64_t size, struct error *e) {
        if (size > 0 && size % 512 == 0 && size <= VOLUME_SIZE_MAX)
                return 0;
        return error_set(e, -EINVAL, "volume-size", "give a multiple of 512, up to 64T: 20G",
                         "a volume can't have %" PRIu64 " bytes", size);
}

int volume_not_found(const struct pool *pool, const char *name, struct error *e) {
        return error_set(e, -ENOENT, "volume-not-found", "see what is there: lodge pool show default",
                         "no volume %s in pool %s", name, pool->config->name);
}

int volume_exists(const struct pool *pool, const char *name, struct error *e) {
        error_set(e, -EEXIST, "volume-exists", NULL, "there is a volume %s in pool %s already", name,
                  pool->config->name);
        error_set_fix(e, "choose another name, or remove that one first: DELETE /v1/pools/POOL/volumes/%s, of the API",
                      name);
        return -EEXIST;
}

int pool_full(const struct pool *pool, const char *name, uint64_t need, uint64_t available, struct error *e) {
        char missing[TEXT_SIZE_MAX], free_text[TEXT_SIZE_MAX], need_text[TEXT_SIZE_MAX];

        text_format_size(need > available ? need - available : 512, missing);
        error_set(e, -ENOSPC, "pool-full", NULL,
                  "pool %s is full: volume %s needs %s, there are %s, and so %s are missing", pool->config->name, name,
                  text_format_size(need, need_text), text_format_size(available, free_text), missing);
        error_set_fix(e, "make room for %s in %s: lodge pool show default, df -h %s", missing, pool->path, pool->path);
        return -ENOSPC;
}

static int work_of(const struct volume_request *request, bool need_size, struct volume_work *ret, struct error *e) {
        int r = check_name(request->name, e);

        if (r == 0 && (need_size || request->size != 0))
                r = check_size(request->size, e);
        if (r < 0)
                return r;
        *ret = (struct volume_work){ .name = request->name, .size = request->size, .again = request->again };
        ret->progress = request->progress ? *request->progress : (struct pool_progress){ .cancel_fd = -EBADF };
        return 0;
}

static int copy_config(const struct pool_config *config, struct pool_config **ret, struct error *e) {
        _cleanup_free_ char *text = pool_config_format(config);

        return text ? pool_config_parse(text, strlen(text), ret, e) : no_memory(e);
}

int pool_open(const struct pool_config *config, const struct pool_options *options, struct pool **ret_pool,
              struct error *e) {
        const struct pool_driver_ops *ops = driver_of(config->type);
        _cleanup_(pool_freep) struct pool *pool = NULL;
        int r;

        if (!ops)
                return error_set(e, -ENOTSUP, "pool-open", "use a pool of type dir",
                                 "pool %s has a type without a driver", config->name);
        pool = calloc(1, ops->size);
        if (!pool)
                return no_memory(e);
        pool->ops = ops;
        pool->sys = options && options->sys ? options->sys : &sys_real;
        pool->lock = options ? options->lock : NULL;
        pool->images = options ? options->images : NULL;
        r = copy_config(config, &pool->config, e); /* checks it, too */
        if (r == 0)
                r = ops->open(pool, e);
        if (r < 0)
                return r;
        *ret_pool = TAKE_PTR(pool);
        return 0;
}

void pool_close(struct pool *pool) {
        if (!pool)
                return;
        pool->ops->close(pool);
        pool_config_free(pool->config);
        free(pool->path);
        free(pool);
}

const char *pool_name(const struct pool *pool) {
        return pool->config->name;
}

const char *pool_path(const struct pool *pool) {
        return pool->path;
}

int pool_get_usage(struct pool *pool, struct pool_usage *ret_usage, struct error *e) {
        return pool->ops->usage(pool, ret_usage, e);
}

int volume_each_allocated(struct pool *pool, volume_allocated_fn fn, void *opaque, struct error *e) {
        return pool->ops->each_allocated(pool, fn, opaque, e);
}

int volume_create_empty(struct pool *pool, const struct volume_request *request, enum volume_format format,
                        struct error *e) {
        struct volume_work work;
        int r = work_of(request, true, &work, e);

        return r < 0 ? r : pool->ops->create_empty(pool, &work, format, e);
}

int volume_create_from_image(struct pool *pool, const struct volume_request *request, const struct image *image,
                             struct error *e) {
        const struct image_file *disk = &image->files[IMAGE_FILE_DISK];
        char have[TEXT_SIZE_MAX], want[TEXT_SIZE_MAX];
        struct volume_work work;
        int r = work_of(request, false, &work, e);

        if (r < 0)
                return r;
        if (!disk->name)
                return error_set(e, -ENOENT, "image-no-disk", "start it without a disk, or choose another image",
                                 "image %s has no disk", image->name);
        if (work.size == 0)
                work.size = disk->size;
        if (work.size < disk->size) {
                error_set(e, -EINVAL, "volume-size", NULL, "image %s has a disk of %s, which does not fit %s",
                          image->name, text_format_size(disk->size, have), text_format_size(work.size, want));
                error_set_fix(e, "ask for %s or more", have);
                return -EINVAL;
        }
        r = check_size(work.size, e);
        return r < 0 ? r : pool->ops->create_from_image(pool, &work, image, e);
}

int volume_clone(struct pool *pool, const char *source, const struct volume_request *request, struct error *e) {
        struct volume_work work;
        int r = check_name(source, e);

        if (r == 0)
                r = work_of(request, false, &work, e);
        if (r < 0)
                return r;
        if (work.name && streq(source, work.name))
                return error_set(e, -EINVAL, "volume-name", "choose another name", "volume %s can't be its own clone",
                                 source);
        return pool->ops->clone(pool, source, &work, e);
}

int volume_resize(struct pool *pool, const char *name, uint64_t size, struct error *e) {
        int r = check_name(name, e);

        if (r == 0)
                r = check_size(size, e);
        return r < 0 ? r : pool->ops->resize(pool, name, size, e);
}

int volume_delete(struct pool *pool, const char *name, struct error *e) {
        int r = check_name(name, e);

        return r < 0 ? r : pool->ops->remove(pool, name, e);
}

int volume_broken(const struct pool *pool, const struct volume *v, struct error *e) {
        error_set(e, -EUCLEAN, "volume-damaged", NULL, "volume %s in pool %s: %s", v->name, pool->config->name,
                  v->broken);
        error_set_fix(e, "restore it from a backup, or remove it: DELETE /v1/pools/POOL/volumes/%s, of the API",
                      v->name);
        return -EUCLEAN;
}

int volume_find(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e) {
        _cleanup_(volume_freep) struct volume *v = NULL;
        int r = check_name(name, e);

        if (r == 0)
                r = pool->ops->find(pool, name, &v, e);
        if (r < 0)
                return r;
        if (v->broken)
                return volume_broken(pool, v, e);
        *ret_volume = TAKE_PTR(v);
        return 0;
}

static int by_name(const void *a, const void *b) {
        const struct volume *const *v = a, *const *w = b;

        return strcmp((*v)->name, (*w)->name);
}

int volume_list(struct pool *pool, struct volume ***ret_volumes, size_t *ret_n, struct error *e) {
        struct volume **volumes = NULL;
        size_t n = 0;
        int r = pool->ops->list(pool, &volumes, &n, e);

        if (r < 0)
                return r;
        if (n > 1)
                qsort(volumes, n, sizeof(struct volume *), by_name);
        *ret_volumes = volumes;
        *ret_n = n;
        return 0;
}

void volume_list_free(struct volume **volumes, size_t n) {
        for (size_t i = 0; i < n; i++)
                volume_free(volumes[i]);
        free(volumes);
}

void volume_free(struct volume *volume) {
        if (!volume)
                return;
        free(volume->name);
        free(volume->image);
        free(volume->base);
        free(volume->broken);
        free(volume);
}

int volume_open(struct pool *pool, const char *name, bool readonly, int *ret_fd, enum volume_format *ret_format,
                struct error *e) {
        int r = check_name(name, e);

        return r < 0 ? r : pool->ops->open_volume(pool, name, readonly, ret_fd, ret_format, e);
}

int volume_path(struct pool *pool, const char *name, char **ret_path, struct error *e) {
        int r = check_name(name, e);

        return r < 0 ? r : pool->ops->path(pool, name, ret_path, e);
}

/* The disk of an image, by its name; NULL for none. */
static int base_of(const struct pool *pool, const char *name, char **ret_base, struct error *e) {
        _cleanup_(image_freep) struct image *image = NULL;
        int r;

        if (!name)
                return 0;
        if (!pool->images)
                return error_set(e, -ENOENT, "image-not-found", NULL, "there is no image store to look for %s in",
                                 name);
        r = image_find(pool->images, name, &image, e);
        if (r == 0)
                r = image_file_path(image, IMAGE_FILE_DISK, ret_base);
        return r == -ENOENT ? error_set(e, r, "image-no-disk", NULL, "image %s has no disk", name) : r;
}

int volume_check(struct pool *pool, const struct volume_config *recorded, struct error *e) {
        const char *image = recorded->image && recorded->image[0] ? recorded->image : NULL;
        _cleanup_(volume_freep) struct volume *v = NULL;
        _cleanup_free_ char *base = NULL;
        int r = volume_find(pool, recorded->name, &v, e);

        if (r < 0)
                return r;
        if (v->format != recorded->format)
                return error_set(e, -EUCLEAN, "volume-damaged", "give the file its old name back",
                                 "volume %s in pool %s was %s, and is called %s now", v->name, pool->config->name,
                                 volume_format_to_string(recorded->format), volume_format_to_string(v->format));
        r = base_of(pool, image, &base, e);
        if (r < 0)
                error_prefix(e, "volume %s in pool %s", v->name, pool->config->name);
        if (r < 0 || (!base && !v->base) || (base && v->base && streq(base, v->base)))
                return r;
        error_set(e, -EUCLEAN, "volume-base", NULL, "volume %s in pool %s should stand on %s, but names %s", v->name,
                  pool->config->name, base ?: "nothing", v->base ?: "nothing");
        error_set_fix(e,
                      "whoever could write to the volume may have changed that: restore it from a backup, or "
                      "remove it: DELETE /v1/pools/POOL/volumes/%s, of the API",
                      v->name);
        return -EUCLEAN;
}

static int add_image(char ***images, size_t *n, const char *name) {
        char **more;

        for (size_t i = 0; i < *n; i++)
                if (streq((*images)[i], name))
                        return 0;
        more = reallocarray(*images, *n + 1, sizeof(*more));
        if (!more)
                return -ENOMEM;
        *images = more;
        more[*n] = strdup(name);
        if (!more[*n])
                return -ENOMEM;
        (*n)++;
        return 0;
}

static int by_text(const void *a, const void *b) {
        return strcmp(*(char *const *)a, *(char *const *)b);
}

int volume_images(struct pool *pool, char ***ret_images, size_t *ret_n, struct error *e) {
        struct volume **volumes = NULL;
        char **images = NULL;
        size_t n_volumes = 0, n = 0;
        int r = volume_list(pool, &volumes, &n_volumes, e);

        for (size_t i = 0; r == 0 && i < n_volumes; i++)
                if (volumes[i]->image)
                        r = add_image(&images, &n, volumes[i]->image);
        volume_list_free(volumes, n_volumes);
        if (r < 0) {
                volume_images_free(images, n);
                return r == -ENOMEM ? no_memory(e) : r;
        }
        if (n > 1)
                qsort(images, n, sizeof(*images), by_text);
        *ret_images = images;
        *ret_n = n;
        return 0;
}

void volume_images_free(char **images, size_t n) {
        for (size_t i = 0; i < n; i++)
                free(images[i]);
        free(images);
}

/* Adds the volumes of @pool that stand on @image to the names in @text, three at most. */
static int users_of(struct pool *pool, const char *image, char *text, size_t size, size_t *n_users, struct error *e) {
        struct volume **volumes = NULL;
        size_t n = 0;
        int r = volume_list(pool, &volumes, &n, e);

        for (size_t i = 0; r == 0 && i < n; i++) {
                size_t len = strlen(text);

                if (!volumes[i]->image || !streq(volumes[i]->image, image))
                        continue;
                if (++*n_users <= 3)
                        snprintf(text + len, size - len, "%s%s/%s", len ? ", " : "", pool->config->name,
                                 volumes[i]->name);
        }
        volume_list_free(volumes, n);
        return r;
}

int pool_check_image(struct pool *const *pools, size_t n_pools, const char *image, struct error *e) {
        char text[3 * 140] = "", more[32] = "";
        size_t n = 0;

        for (size_t i = 0; i < n_pools; i++) {
                int r = users_of(pools[i], image, text, sizeof(text), &n, e);

                if (r < 0)
                        return r;
        }
        if (n == 0)
                return 0;
        if (n > 3)
                snprintf(more, sizeof(more), " and %zu more", n - 3);
        return error_set(e, -EBUSY, "image-in-use", "delete the machines that these volumes belong to, then try again",
                         "image %s is what %s %s%s %s on", image, n == 1 ? "volume" : "volumes", text, more,
                         n == 1 ? "stands" : "stand");
}
