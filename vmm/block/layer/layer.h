// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layer: one image of a disk's chain, whatever its format
 *
 *      guest address --> layer 0 (top, written) --> layer 1 (its backing image, read only) --> ... --> zeroes
 *
 * Theory of operation. A format answers one question quickly, layer_map(): where are these bytes? When the answer is "here, at this
 * offset of my file", the data path (vmm/block's queues) moves the bytes itself, asynchronously, between guest memory and the file. All else
 * (tables that must be loaded, copy on write, compressed clusters, flushes with metadata) is done by calls that may wait, on worker
 * threads or in tools, and these are plain, sequential code. So the fast path has no waiting in it, and the slow path no state machine.
 *
 * An answer of layer_map() stays true while its asker is inside layer_enter() ... layer_leave(): a format may change the mapping
 * meanwhile (discard), but it does not reuse the space for something else before all who were inside have left. It never waits for that:
 * it looks (layer_passed()) when it would like to reuse the space.
 *
 * Threads. Everything from any thread at once, but layer_close() and the list of users, which change while nobody else is at work.
 * Each thread that calls layer_map() has its own struct layer_user; a mapping takes only that user's lock, so two queues never meet.
 * NULL for the user is good from any thread too (the format then takes its own lock), but nothing keeps the mapping from changing: it is
 * for tools that have the layer to themselves, and for backing images, which nobody changes.
 * A format that must change what map() reads behind its back (evicting a table) takes all users' locks: layer_lock_users().
 * Lock order: the format's own locks, then the users' locks in list order.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vmm/block/layer/file.h"

#define LAYER_CHAIN_MAX 64 /* images in a chain */
#define LAYER_USERS_MAX 64 /* threads that map in one layer */

struct layer;

enum extent_kind {
        EXTENT_DATA,        /* at @host of the layer's file */
        EXTENT_ZERO,        /* zeroes, whatever lies below */
        EXTENT_COMPRESSED,  /* here, but only layer_read() can get it */
        EXTENT_UNALLOCATED, /* ask the backing image; without one, zeroes */
};

struct extent {
        enum extent_kind kind;
        uint64_t length; /* bytes, from the offset asked for; at least 1, at most what was asked for */
        uint64_t host;   /* EXTENT_DATA: offset in the file; EXTENT_ZERO with @allocated: where space is kept for it */
        bool allocated;  /* EXTENT_ZERO: has space of its own */
};

enum {
        LAYER_NOWAIT = 1 << 0, /* -EAGAIN rather than I/O */
        /* give EXTENT_DATA that may be overwritten in place with the bytes to come, allocating if it can be done at once; -EAGAIN when
         * it takes layer_write() (copy on write); implies LAYER_NOWAIT */
        LAYER_WRITE = 1 << 1,
        LAYER_HOLES =
                1 << 2, /* raw: say EXTENT_ZERO where the file has a hole (costs system calls); others: no effect */
};

/* One thread that maps. Filled by layer_user_add(). */
struct layer_user {
        pthread_mutex_t lock;
        _Atomic uint32_t inside[2]; /* by parity of the epoch they entered in */
};

struct layer_ops {
        const char *name; /* "raw", "qcow2" */
        int (*map)(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
                   struct extent *ret_extent);
        /* All below may wait. Offsets and lengths are within the layer; any alignment. */
        int (*read_compressed)(struct layer *layer, uint64_t offset, uint64_t length,
                               void *buf); /* within one cluster */
        int (*write)(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t offset,
                     uint64_t length);
        int (*write_compressed)(struct layer *layer, const void *buf, uint64_t offset,
                                uint64_t length); /* one whole cluster (or the last part); NULL: cannot */
        int (*zero)(struct layer *layer, uint64_t offset, uint64_t length, bool unmap);
        int (*discard)(struct layer *layer, uint64_t offset, uint64_t length);
        int (*flush)(struct layer *layer); /* everything completed before is on stable storage */
        bool (*needs_flush)(
                struct layer *layer); /* false: file_sync() of the file does what flush() would; never waits */
        int (*resize)(struct layer *layer, uint64_t size, struct error *e); /* bytes; shrinking loses what is behind */
        int (*finish)(struct layer *layer, struct error *e); /* see layer_finish(); only of writable layers, and once */
        void (*close)(struct layer *layer); /* finishes what isn't yet; releases @layer, but not its backing image */
};

/* A format's own structure begins with this. */
struct layer {
        const struct layer_ops *ops;
        struct file *file;      /* owned */
        struct layer *backing;  /* NULL: none; set by whoever opens the chain; not owned by the format */
        _Atomic uint64_t size;  /* bytes that the guest sees: a multiple of 512 */
        uint32_t cluster;       /* bytes: the unit of allocation; raw: the file's physical block */
        uint32_t logical_block; /* bytes: what a guest should take for its sector; raw: the file's; else 512 */
        bool readonly;

        pthread_mutex_t users_lock; /* the list */
        struct layer_user *users[LAYER_USERS_MAX];
        unsigned int n_users;
        _Atomic uint64_t epoch;
};

/** layer_init(), layer_destroy() - for formats: the common part. @file is taken over when it returns. */
void layer_init(struct layer *layer, const struct layer_ops *ops, struct file *file);
void layer_destroy(struct layer *layer);

/**
 * layer_user_add(), layer_user_remove() - a thread starts or stops mapping in @layer and in every layer below it (one user serves the
 * whole chain: its lock is taken for one layer at a time, and only the top one is ever entered); -ENOSPC when there are LAYER_USERS_MAX
 */
int layer_user_add(struct layer *layer, struct layer_user *user);
void layer_user_remove(struct layer *layer, struct layer_user *user);

/** layer_lock_users(), layer_unlock_users() - no map() is running meanwhile. Short, and never around I/O. */
void layer_lock_users(struct layer *layer);
void layer_unlock_users(struct layer *layer);

/** layer_enter() - mappings obtained from now on stay good until layer_leave(); returns a token for it. May be nested. */
unsigned int layer_enter(struct layer *layer, struct layer_user *user);
void layer_leave(struct layer_user *user, unsigned int token);

/** layer_epoch() - a stamp for space that was unmapped just now. */
uint64_t layer_epoch(const struct layer *layer);

/**
 * layer_passed() - has everybody left who may know a mapping from before @stamp? Moves the epoch on if it can; never waits.
 * Not while holding a user's lock.
 */
bool layer_passed(struct layer *layer, uint64_t stamp);

/** layer_map() - see struct layer_ops. The range must lie inside the layer (layer_read() and friends take care). 0 or -errno. */
int layer_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
              struct extent *ret_extent);

/**
 * layer_read() - read through the chain: @layer, then its backing images, then zeroes; also behind a shorter backing image's end
 * @buf or @iov: exactly @length bytes
 */
int layer_read(struct layer *layer, struct layer_user *user, void *buf, uint64_t offset, uint64_t length);
int layer_readv(struct layer *layer, struct layer_user *user, const struct iovec *iov, unsigned int n_iov,
                uint64_t offset, uint64_t length);

/** layer_write(), layer_zero(), layer_discard(), layer_flush() - may wait; -EROFS, -ERANGE, -EIO ... */
int layer_write(struct layer *layer, const void *buf, uint64_t offset, uint64_t length);
int layer_writev(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t length);
int layer_zero(struct layer *layer, uint64_t offset, uint64_t length, bool unmap);
int layer_discard(struct layer *layer, uint64_t offset, uint64_t length);
int layer_flush(struct layer *layer);

/**
 * layer_find() - for the data path: as layer_status(), with @flags of layer_map(); an UNALLOCATED answer reads as zeroes
 * Not checked: the range must lie inside @layer.
 */
int layer_find(struct layer *layer, struct layer_user *user, const struct layer *base, uint64_t offset, uint64_t length,
               unsigned int flags, struct extent *ret_extent, struct layer **ret_layer);

/**
 * layer_status() - for map, convert and the mirror: what is at @offset, seen through the chain down to @base (exclusive; NULL: to the end)
 * @ret_extent: kind DATA, COMPRESSED, ZERO, or UNALLOCATED when no layer above @base has it
 * @ret_layer:  the layer that holds it; NULL for UNALLOCATED
 */
int layer_status(struct layer *layer, struct layer_user *user, struct layer *base, uint64_t offset, uint64_t length,
                 struct extent *ret_extent, struct layer **ret_layer);

/**
 * layer_finish() - what closing does to the file of @layer, but it says whether it worked. Nothing but layer_close() may follow.
 * Return: 0 (also for one that is only read), or -errno with "disk-write" or "qcow2-bitmaps": the image was not closed in order.
 */
int layer_finish(struct layer *layer, struct error *e);

/** layer_close() - closes @layer and every layer below it. NULL is fine. */
void layer_close(struct layer *layer);
DEFINE_CLEANUP(layer, layer_close);

/** raw_open() - a layer whose bytes are the file's bytes; takes @file over on success. "disk-size": no multiple of 512, or empty. */
int raw_open(struct file *file, struct layer **ret_layer, struct error *e);
