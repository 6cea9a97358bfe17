// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pool: where machines' disks are kept, whatever keeps them
 *
 * Theory of operation. A pool is a place for volumes; a driver makes it one: a const table of operations, listed in the
 * one array of pool.c. The functions here check what comes in, which is the same for every driver, and call the table.
 *
 *      pool_open(config) --type--> struct pool_driver_ops --> a directory today
 *
 * A volume has a name, a format and a size. The format is recorded by the driver (the directory: by the file's suffix)
 * and never found out by looking at the content, which belongs to a guest. A volume made from an image shares the image's
 * blocks where the file system can do that (reflink); such a volume is raw and independent. Elsewhere it is a qcow2 overlay
 * that stands on the image's disk, and needs the image for as long as it lives: see volume_images(), pool_check_image().
 *
 * What a volume's header says about the image is written by whoever serves the volume to a guest. So it is good for
 * listings only: before a volume is handed to a machine, volume_check() compares it with what the caller has recorded.
 *
 * All calls are idempotent, and complete or without a trace: what a killed process leaves is either a volume or
 * nothing, or a leftover that the next pool_open() removes.
 *
 * Threads. A pool may be used by several threads and processes at once; a struct pool holds nothing that changes.
 *
 * Error ids: pool-open, pool-unsafe, pool-full, pool-lock, volume-name, volume-not-found, volume-exists, volume-size,
 * volume-shrink, volume-damaged, volume-base, volume-io, image-no-disk, image-in-use, disk-busy (of the caller's lock).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/image/image.h"
#include "schema/lodge-schema.h"

struct pool;
struct sys;

#define VOLUME_SIZE_MAX (64ull << 40) /* bytes */

/* What a pool is opened with, beside its configuration. */
struct pool_options {
        const struct sys *sys;      /* NULL: the real calls */
        struct image_store *images; /* borrowed; NULL: which images volumes stand on stays unknown */
        /* Claims an open disk, as disk_lock() of daemon/engine/parts.h does; NULL: nothing is claimed. */
        int (*lock)(int fd, bool readonly, const char *path, struct error *e);
};

struct pool_usage {
        uint64_t capacity;  /* bytes of the storage that the pool lies on */
        uint64_t available; /* bytes that can still be written to it */
        uint64_t allocated; /* bytes that the volumes take; blocks that several share count for each */
};

/* One volume. Strings are owned. */
struct volume {
        char *name;
        enum volume_format format;
        uint64_t size;      /* bytes that a guest sees */
        uint64_t allocated; /* bytes that it takes */
        char *image;        /* the image that it says to stand on: see above; NULL: none */
        char *base;         /* that image's disk, a path; NULL: none */
        char *broken;       /* not NULL: why it can't be used; format and allocated are right nevertheless */
};

/* How a long call tells how far it is, and how it is stopped. */
struct pool_progress {
        void (*advance)(void *opaque, uint64_t done, uint64_t all); /* bytes; may be NULL */
        void *opaque;
        int cancel_fd; /* readable: stop and leave nothing, the result is -EINTR; -EBADF: can't be stopped */
};

/* A volume to be made. */
struct volume_request {
        const char *name;
        uint64_t size; /* bytes, a multiple of 512; 0: the image's or the source's */
        /*
         * A step that is done again after a crash: a volume of that name that is as it would be made is taken for the
         * one that was asked for. Otherwise it is -EEXIST, so that no machine gets another one's disk.
         */
        bool again;
        const struct pool_progress *progress; /* NULL: none */
};

/** pool_open() - open a pool, make its directory when it is missing, and sweep leftovers of processes that died
 * @options: NULL: the defaults
 *
 * Return: 0, or -errno with "pool-open", or "pool-unsafe": somebody else could change what is in it.
 */
int pool_open(const struct pool_config *config, const struct pool_options *options, struct pool **ret_pool,
              struct error *e);

/** pool_close() - release. NULL is fine. */
void pool_close(struct pool *pool);
DEFINE_CLEANUP(pool, pool_close);

/** Facts; the strings live as long as the pool. */
const char *pool_name(const struct pool *pool);
const char *pool_path(const struct pool *pool);

/** pool_get_usage() - how full it is. */
int pool_get_usage(struct pool *pool, struct pool_usage *ret_usage, struct error *e);

/** volume_create_empty() - a volume that reads as zeroes; @request->size must be given. "volume-exists", "pool-full" ... */
int volume_create_empty(struct pool *pool, const struct volume_request *request, enum volume_format format,
                        struct error *e);

/**
 * volume_create_from_image() - a volume that holds an image's disk
 *
 * Raw, sharing the image's blocks, where the storage can; else a qcow2 overlay. Larger than the image: the rest reads as zeroes;
 * smaller: -EINVAL "volume-size". Hold image_lock() around it, and until the volume is recorded.
 */
int volume_create_from_image(struct pool *pool, const struct volume_request *request, const struct image *image,
                             struct error *e);

/**
 * volume_clone() - a second volume with the content of @source, in the same format and standing on the same image, if it does on one
 * Return: 0; -EBUSY "disk-busy" while @source is written to; -EINTR when it was stopped; "volume-size" for a smaller size ...
 */
int volume_clone(struct pool *pool, const char *source, const struct volume_request *request, struct error *e);

/** volume_resize() - make it larger; 0 when it has that size already; -EINVAL "volume-shrink"; -EBUSY "disk-busy" while it is in use. */
int volume_resize(struct pool *pool, const char *name, uint64_t size, struct error *e);

/** volume_delete() - remove it; 0 when there is none; -EBUSY "disk-busy" while it is in use. */
int volume_delete(struct pool *pool, const char *name, struct error *e);

/** volume_find() - look one up; -ENOENT "volume-not-found"; -EUCLEAN "volume-damaged" when it can't be used. */
int volume_find(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e);

/** volume_list() - all by name, broken ones too (their ->broken says why). Free with volume_list_free(). */
int volume_list(struct pool *pool, struct volume ***ret_volumes, size_t *ret_n, struct error *e);
void volume_list_free(struct volume **volumes, size_t n);

typedef int (*volume_allocated_fn)(void *opaque, const char *name, uint64_t allocated);

/**
 * volume_each_allocated() - the bytes that each volume takes, broken ones too, in no order; no volume is opened: 10,000 take some 30 ms
 * Return: 0; what @fn returned, if that was not 0; -errno.
 */
int volume_each_allocated(struct pool *pool, volume_allocated_fn fn, void *opaque, struct error *e);

/** volume_free() - release. NULL is fine. */
void volume_free(struct volume *volume);
DEFINE_CLEANUP(volume, volume_free);

/** volume_open() - the volume's own file, without what it stands on, for reading or writing; close-on-exec, not claimed. */
int volume_open(struct pool *pool, const char *name, bool readonly, int *ret_fd, enum volume_format *ret_format,
                struct error *e);

/** volume_path() - absolute path by which an engine opens it. Owned by the caller. */
int volume_path(struct pool *pool, const char *name, char **ret_path, struct error *e);

/**
 * volume_check() - is a volume what was recorded when it was made? For the moment before a machine gets it.
 * @recorded: name, format, and the image that it stands on (NULL or "": none)
 *
 * Return: 0; -ENOENT "volume-not-found"; -EUCLEAN "volume-base": it names another file as its base than that image's disk, or
 * "volume-damaged".
 */
int volume_check(struct pool *pool, const struct volume_config *recorded, struct error *e);

/**
 * volume_images() - the names of the images that the pool's volumes stand on, each once, sorted
 * Free with volume_images_free().
 */
int volume_images(struct pool *pool, char ***ret_images, size_t *ret_n, struct error *e);
void volume_images_free(char **images, size_t n);

/**
 * pool_check_image() - may an image be deleted or replaced, as far as these pools' volumes go?
 * Return: 0, or -EBUSY "image-in-use" naming volumes that stand on it.
 */
int pool_check_image(struct pool *const *pools, size_t n_pools, const char *image, struct error *e);
