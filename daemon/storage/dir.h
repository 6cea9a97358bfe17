// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dir: what the parts of the driver for directories share; see dir.c. dir-files.c looks, dir.c changes.
 */
#pragma once

#include "daemon/storage/driver.h"

#define DIR_NAME_SIZE 80 /* "web.qcow2" */

struct dir_pool {
        struct pool pool;
        int fd; /* of the directory */
};

struct dir_entry {
        enum volume_format format;
        char file[DIR_NAME_SIZE];
};

static inline int dir_fd(const struct pool *pool) {
        return ((const struct dir_pool *)pool)->fd;
}

/** dir_open(), dir_close(), dir_usage(), dir_find(), dir_list(), dir_each_allocated(), dir_path() - see struct pool_driver_ops */
int dir_open(struct pool *pool, struct error *e);
void dir_close(struct pool *pool);
int dir_usage(struct pool *pool, struct pool_usage *ret_usage, struct error *e);
int dir_find(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e);
int dir_list(struct pool *pool, struct volume ***ret_volumes, size_t *ret_n, struct error *e);
int dir_each_allocated(struct pool *pool, volume_allocated_fn fn, void *opaque, struct error *e);
int dir_path(struct pool *pool, const char *name, char **ret_path, struct error *e);

/** dir_find_good() - dir_find(), but a broken volume is -EUCLEAN "volume-damaged". */
int dir_find_good(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e);

/** dir_file_name() - "web" and a format make "web.qcow2". */
void dir_file_name(const char *name, enum volume_format format, char ret_file[static DIR_NAME_SIZE]);

/** dir_lookup() - which file is volume @name? -ENOENT; -ENOTUNIQ: there are two; @ret_entry may be NULL. */
int dir_lookup(struct pool *pool, const char *name, struct dir_entry *ret_entry);

/** dir_lookup_failed() - the error for a code of dir_lookup() or dir_open_file(). */
int dir_lookup_failed(struct pool *pool, const char *name, int code, struct error *e);

/** dir_open_file() - a regular file of the directory, no link; returns the descriptor or -errno (-ELOOP, -EMEDIUMTYPE: none such). */
int dir_open_file(struct pool *pool, const char *file, int flags);

/** dir_open_claimed() - open a volume and claim it by the pool's lock function; "disk-busy". */
int dir_open_claimed(struct pool *pool, const char *name, bool readonly, int *ret_fd, enum volume_format *ret_format,
                     struct error *e);

/** dir_path_of() - absolute path of a file; NULL without memory. */
char *dir_path_of(const struct pool *pool, const char *file);

/** dir_lock() - no name comes or goes while @ret_lock is open. */
int dir_lock(struct pool *pool, int *ret_lock, struct error *e);

/** dir_space() - capacity and available bytes; 0 or -errno. */
int dir_space(struct pool *pool, struct pool_usage *ret_usage);
