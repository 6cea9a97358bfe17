// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2: images that grow, versions 2 and 3 (QEMU's docs/interop/qcow2.txt is the specification)
 *
 * What is served: cluster sizes 512 B to 2 MiB, refcounts of 1 to 64 bits, standard, zero and compressed clusters (zlib, zstd), extended L2
 * entries (subclusters), lazy refcounts, the dirty and corrupt bits, persistent dirty bitmaps, unknown compatible and autoclear features as the
 * specification asks. What is recognised and refused, with an error that says so: encryption, internal snapshots (writing), external data files,
 * unknown incompatible features.
 *
 * Whatever the image says, memory and time stay bounded, and nothing is written where metadata is known to lie.
 */
#pragma once

#include "vmm/block/layer/layer.h"

enum qcow2_compression { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 };

struct qcow2_options {
        bool readonly;
        bool repair; /* a dirty image (lazy refcounts, or a kill) is repaired first; without it, it can only be opened readonly */
        uint64_t cache;    /* bytes of tables kept in memory; 0: 32 MiB */
        bool same_content; /* what the guest sees will not change: bitmaps stay good in the file, not in use */
        bool keep_discard; /* discards by the guest are not passed on to the file (space stays allocated) */
};

/**
 * qcow2_open() - open one image, not its backing image; takes @file over on success
 *
 * The caller sets layer->backing before the first read. Return: 0, or -errno with "qcow2-magic" (not qcow2), "qcow2-header" (damaged or
 * out of bounds), "qcow2-version", "qcow2-feature" (unknown incompatible feature, named), "qcow2-encrypted", "qcow2-snapshots",
 * "qcow2-data-file", "qcow2-corrupt" (marked corrupt: only readonly), "qcow2-dirty".
 */
int qcow2_open(struct file *file, const struct qcow2_options *options, struct layer **ret_layer, struct error *e);

/** What an image says of itself; strings are the image's own bytes, hostile, and owned by the layer. */
struct qcow2_info {
        unsigned int version; /* 2 or 3 */
        uint64_t size;        /* bytes that the guest sees */
        uint32_t cluster;     /* bytes */
        unsigned int refcount_bits;
        enum qcow2_compression compression;
        bool extended_l2, lazy_refcounts, dirty, corrupt, encrypted;
        const char *backing_file;   /* NULL: none */
        const char *backing_format; /* NULL: not recorded */
        const char *data_file;      /* NULL: none */
        unsigned int n_snapshots, n_bitmaps;
};

/** qcow2_peek() - read the header only, also of images that can't be opened; strings in @ret_strings, to be freed. For info and for chains. */
int qcow2_peek(struct file *file, struct qcow2_info *ret_info, char **ret_strings, struct error *e);

struct qcow2_create {
        uint64_t size;              /* bytes, a multiple of 512 */
        unsigned int version;       /* 2 or 3; 0: 3 */
        uint32_t cluster;           /* bytes, a power of two, 512 to 2 MiB; 0: 64 KiB */
        unsigned int refcount_bits; /* 1, 2, 4 ... 64; 0: 16 */
        enum qcow2_compression compression;
        bool extended_l2, lazy_refcounts;
        bool preallocate_metadata;                 /* all tables and data clusters allocated, no data written */
        const char *backing_file, *backing_format; /* NULL: none; a format is required with a file */
};

/** qcow2_create() - write an empty image into @file, whose content is lost. "qcow2-create" names the option that is out of range. */
int qcow2_create(struct file *file, const struct qcow2_create *options, struct error *e);

/**
 * qcow2_measure() - how large does a file with such an image get?
 * @data: bytes that will hold data (each cluster that is touched counts whole); ignored when metadata is preallocated
 * @ret_required, @ret_full: bytes with @data in it, and with every cluster allocated; tables for the whole disk are in both, as in
 *              qemu-img measure. Untouched on error ("qcow2-create").
 */
int qcow2_measure(const struct qcow2_create *options, uint64_t data, uint64_t *ret_required, uint64_t *ret_full,
                  struct error *e);

/** qcow2_set_backing() - record another backing image (NULL: none) in an open, writable image. Data is not touched (see rebase). */
int qcow2_set_backing(struct layer *layer, const char *backing_file, const char *backing_format, struct error *e);

/**
 * qcow2_make_empty() - nothing is in an open, writable image any more; what it held is durable in the one below, which says the same
 *
 * So nothing changes for the guest, and nothing is marked in the image's bitmaps. Nobody else is at work. 0 or -errno.
 */
int qcow2_make_empty(struct layer *layer);

struct qcow2_check {
        uint64_t corruptions, leaks, errors; /* found; errors: could not be examined */
        uint64_t corruptions_fixed, leaks_fixed;
        uint64_t allocated, compressed, fragmented, total; /* guest clusters */
        uint64_t end;                                      /* bytes: the end of the last cluster in use */
        void (*report)(void *opaque, const char *line);    /* each finding, in words; may be NULL */
        void (*progress)(void *opaque, uint64_t done, uint64_t all);
        void *opaque;
};
enum { QCOW2_REPAIR_LEAKS = 1 << 0, QCOW2_REPAIR_ALL = 1 << 1 };

/** qcow2_check() - examine a closed image, mend what @repair allows. 0 also when something was found: read @check. -errno: could not be examined. */
int qcow2_check(struct file *file, unsigned int repair, struct qcow2_check *check, struct error *e);
