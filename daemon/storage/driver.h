// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * driver: what a kind of pool has to do; see pool.h for what is promised to callers
 *
 * Names and sizes have been checked before a driver sees them; `progress` is never NULL. A driver is tested by
 * test/unit/test-pool.c: the same promises for each.
 */
#pragma once

#include "base/sys.h"
#include "daemon/storage/pool.h"

/* A driver's own structure begins with this. */
struct pool {
        const struct pool_driver_ops *ops;
        struct pool_config *config; /* owned */
        char *path;                 /* absolute */
        struct image_store *images; /* borrowed; NULL */
        const struct sys *sys;
        int (*lock)(int fd, bool readonly, const char *path, struct error *e); /* NULL: none */
};

/* A request whose fields are all set. */
struct volume_work {
        const char *name;
        uint64_t size; /* 0: as the source */
        bool again;
        struct pool_progress progress;
};

struct pool_driver_ops {
        enum pool_type type;
        size_t size; /* of the driver's structure: allocated, zeroed and freed by pool.c */
        int (*open)(struct pool *pool, struct error *e); /* also sweeps */
        void (*close)(struct pool *pool);                /* also after an open() that failed */
        int (*usage)(struct pool *pool, struct pool_usage *ret_usage, struct error *e);
        int (*create_empty)(struct pool *pool, const struct volume_work *work, enum volume_format format,
                            struct error *e);
        int (*create_from_image)(struct pool *pool, const struct volume_work *work, const struct image *image,
                                 struct error *e);
        int (*clone)(struct pool *pool, const char *source, const struct volume_work *work, struct error *e);
        int (*resize)(struct pool *pool, const char *name, uint64_t size, struct error *e);
        int (*remove)(struct pool *pool, const char *name, struct error *e);
        /* A broken volume is returned, with ->broken set. */
        int (*find)(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e);
        int (*list)(struct pool *pool, struct volume ***ret_volumes, size_t *ret_n, struct error *e);
        int (*each_allocated)(struct pool *pool, volume_allocated_fn fn, void *opaque, struct error *e);
        int (*open_volume)(struct pool *pool, const char *name, bool readonly, int *ret_fd,
                           enum volume_format *ret_format, struct error *e);
        int (*path)(struct pool *pool, const char *name, char **ret_path, struct error *e);
};

extern const struct pool_driver_ops pool_dir_ops;

/** volume_name_is_valid() - lower case letters, digits and hyphens, 1 to 63 of them. */
bool volume_name_is_valid(const char *name, size_t len);

/** volume_not_found(), volume_exists() - the errors that every driver has; return the code. */
int volume_not_found(const struct pool *pool, const char *name, struct error *e);
int volume_exists(const struct pool *pool, const char *name, struct error *e);

/** pool_full() - -ENOSPC "pool-full": @need bytes were to be written, @available can be. */
int pool_full(const struct pool *pool, const char *name, uint64_t need, uint64_t available, struct error *e);

/** volume_broken() - -EUCLEAN "volume-damaged" with what ->broken says. */
int volume_broken(const struct pool *pool, const struct volume *v, struct error *e);
