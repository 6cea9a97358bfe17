// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bitmap: persistent dirty bitmaps, the memory of what was written since a backup
 *
 * An image keeps any number of named bitmaps, a bit for each 2^granularity bytes of the disk. While an image is open for writing they live in
 * memory and stand in the file as "in use": after a kill they are known to be out of date, and are never trusted again.
 *
 * Threads. qcow2_bitmaps_mark() from any thread, without a lock; everything else by one thread at a time.
 */
#pragma once

#include "vmm/block/qcow2/format.h"

struct qcow2_bitmaps;

/* Clusters for tables, from whoever keeps the refcounts. */
struct qcow2_bitmap_space {
        /* @bytes in a row (rounded up to clusters), refcounts durable before anything points there, or by the next file_sync(). 0 or -errno */
        int (*alloc)(void *opaque, uint64_t bytes, uint64_t *ret_offset);
        /* Nothing durable points there any more, says the bitmap: the range is the image's word, so what is known to be other metadata must stay. */
        void (*free)(void *opaque, uint64_t offset, uint64_t bytes);
        void *opaque;
};

struct qcow2_bitmap_info {
        const char *name;     /* the image's own bytes; valid until the bitmap is removed */
        uint64_t granularity; /* bytes for each bit */
        uint64_t dirty;       /* bytes marked */
        bool enabled;         /* writes are marked */
        bool inconsistent;    /* left in use by a kill, or not of a kind that we know: can only be removed */
};

/**
 * qcow2_bitmaps_load() - read an image's bitmaps
 * @writable: mark them as in use, durably, before the first write can happen
 * Return: 0 (also without bitmaps), -errno with "qcow2-bitmaps" (damaged) or those of input and output
 */
int qcow2_bitmaps_load(struct file *file, const struct qcow2_header *h, bool writable, struct qcow2_bitmaps **ret,
                       struct error *e);
void qcow2_bitmaps_free(struct qcow2_bitmaps *b);
DEFINE_CLEANUP(qcow2_bitmaps, qcow2_bitmaps_free);

/** qcow2_bitmaps_mark() - @length bytes at @offset are (about to be) changed. Never waits, never allocates; any range. */
void qcow2_bitmaps_mark(struct qcow2_bitmaps *b, uint64_t offset, uint64_t length);

/**
 * qcow2_bitmaps_store() - write all bitmaps and let the header point at them; on a clean close, or (with @keep_using) at a flush
 * @h: the image's header: extension and autoclear bit follow
 *
 * Order: bitmaps, tables and a new directory are durable before the header points there; only then the old ones are freed.
 */
int qcow2_bitmaps_store(struct qcow2_bitmaps *b, struct file *file, struct qcow2_header *h,
                        const struct qcow2_bitmap_space *space, bool keep_using, struct error *e);

/**
 * qcow2_bitmaps_add() - a new one, all clear
 * @granularity: bytes, a power of two, 512 to 2 GiB; 0: 64 KiB
 * Return: 0, -errno with "qcow2-bitmap-exists", "qcow2-bitmap-range" (also of the name), "qcow2-bitmap-version"
 */
int qcow2_bitmaps_add(struct qcow2_bitmaps *b, const char *name, uint64_t granularity, bool enabled, struct error *e);
/** qcow2_bitmaps_remove(), _clear(), _enable() - "qcow2-bitmap-missing", "qcow2-bitmap-inconsistent" (clear, enable) */
int qcow2_bitmaps_remove(struct qcow2_bitmaps *b, const char *name, struct error *e);
int qcow2_bitmaps_clear(struct qcow2_bitmaps *b, const char *name, struct error *e);
int qcow2_bitmaps_enable(struct qcow2_bitmaps *b, const char *name, bool enabled, struct error *e);

/** qcow2_bitmaps_good() - can its marks be read? Fails as clear does. */
int qcow2_bitmaps_good(const struct qcow2_bitmaps *b, const char *name, struct error *e);

unsigned int qcow2_bitmaps_count(const struct qcow2_bitmaps *b);
/** qcow2_bitmaps_info() - @i: below qcow2_bitmaps_count() */
void qcow2_bitmaps_info(const struct qcow2_bitmaps *b, unsigned int i, struct qcow2_bitmap_info *ret);

/**
 * qcow2_bitmaps_next() - the next dirty range at or behind @offset
 * @ret_start, @ret_length: bytes, cut at the disk's end
 * Return: 1 with a range, 0 when there is none, -ENOENT (no such bitmap), -EUCLEAN (inconsistent)
 */
int qcow2_bitmaps_next(const struct qcow2_bitmaps *b, const char *name, uint64_t offset, uint64_t *ret_start,
                       uint64_t *ret_length);

/**
 * qcow2_bitmaps_read() - the bitmaps of an image that is not open (edit.c). Nothing is written, also to an image that has to be repaired
 * Return: 0, or -errno with the ids of qcow2_open() for reading and of qcow2_bitmaps_load()
 */
int qcow2_bitmaps_read(struct file *file, struct qcow2_bitmaps **ret, struct error *e);

/**
 * qcow2_bitmaps_edit() - change the bitmaps of an image that is not open
 * @file: open for writing; taken over, whatever happens
 * @edit: makes the change, or refuses it (-errno): the file is as it was then
 *
 * Return: 0 when the change is durable and the image closed in order; -errno with the ids of @edit, qcow2_open(), qcow2_bitmaps_store(), or
 * "disk-write": the image and its bitmaps stand as they were or as they should be.
 */
int qcow2_bitmaps_edit(struct file *file, int (*edit)(struct qcow2_bitmaps *b, const void *opaque, struct error *e),
                       const void *opaque, struct error *e);
