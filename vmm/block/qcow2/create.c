// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * create: a new, empty image
 *
 *      header | refcount table | refcount blocks | L1 table | L2 tables | data
 *                                                            only when metadata is preallocated
 *
 * Theory of operation. How many clusters the refcount structures take depends on how many clusters there are, themselves included: the
 * plan is made once, as a fixed point, and then everything is written in one pass from front to back. The header's first
 * sector comes last, after a sync: an image that was not finished has no header, and nobody takes it for one.
 *
 * Preallocated data clusters must read as zeroes. A regular file that was cut to nothing and extended does; a device is zeroed.
 */
#include "vmm/block/qcow2/format.h"

#include <inttypes.h>

#define SECTOR 512u /* is written whole or not at all */

/* Where everything goes, in clusters */
struct plan {
        struct qcow2_header h;
        uint64_t cluster;
        uint64_t reftable, refblocks, n_refblocks;
        uint64_t l1, n_l1;
        uint64_t l2, n_l2;
        uint64_t data, n_data;
        uint64_t end; /* clusters in all */
};

static int refuse(struct error *e, const char *fix, const char *what) {
        return error_set(e, -EINVAL, "qcow2-create", fix, "cannot create the qcow2 image: %s", what);
}

static bool power_of_two(uint64_t v) {
        return v && !(v & (v - 1));
}

static int check_options(const struct qcow2_create *o, struct error *e) {
        unsigned int version = o->version ? o->version : 3, bits = o->refcount_bits ? o->refcount_bits : 16;
        uint32_t cluster = o->cluster ? o->cluster : 65536;

        if (version != 2 && version != 3)
                return refuse(e, "version: 2 or 3", "the version is not known");
        if (!power_of_two(cluster) || cluster < 1u << QCOW2_CLUSTER_BITS_MIN || cluster > 1u << QCOW2_CLUSTER_BITS_MAX)
                return refuse(e, "a power of two from 512 bytes to 2 MiB", "the cluster size is out of range");
        if (!power_of_two(bits) || bits > 64)
                return refuse(e, "a power of two from 1 to 64", "the refcounts' width is out of range");
        if (o->compression != QCOW2_ZLIB && o->compression != QCOW2_ZSTD)
                return refuse(e, "zlib or zstd", "the compression type is not known");
        if (version == 2 && (bits != 16 || o->compression != QCOW2_ZLIB || o->extended_l2 || o->lazy_refcounts))
                return refuse(e, "use version 3",
                              "version 2 has refcounts of 16 bits, zlib, no extended L2 entries, no lazy refcounts");
        if (o->extended_l2 && cluster < 16384)
                return refuse(e, "use clusters of 16 KiB or more", "extended L2 entries need large clusters");
        if (o->size % 512 || o->size > INT64_MAX)
                return refuse(e, "a multiple of 512 bytes, below 8 EiB", "the disk's size is out of range");
        if (o->backing_file && !*o->backing_file)
                return refuse(e, "name the backing image", "the backing image's name is empty");
        if (o->backing_file && strlen(o->backing_file) > QCOW2_BACKING_NAME_MAX)
                return refuse(e, "use a shorter path", "the backing image's name is longer than 1023 bytes");
        if (o->backing_file && !(o->backing_format && *o->backing_format))
                return refuse(e, "name the format, raw or qcow2", "the backing image's format is not given");
        if (!o->backing_file && o->backing_format)
                return refuse(e, "name the backing image too", "a backing format without a backing image");
        if (o->backing_file && o->preallocate_metadata && !o->extended_l2)
                return refuse(e, "use extended L2 entries, or don't preallocate",
                              "a preallocated cluster would hide the backing image");
        return 0;
}

/* The refcount structures count themselves: grow them until they are enough. */
static int plan_refcounts(struct plan *p, uint64_t others, struct error *e) {
        uint64_t per_block = qcow2_refblock_entries(&p->h), blocks = 1, table = 1;

        for (;;) {
                uint64_t n = others + blocks + table;
                uint64_t want_blocks = (n + per_block - 1) / per_block;
                uint64_t want_table = (want_blocks * 8 + p->cluster - 1) / p->cluster;

                if (want_table * p->cluster > QCOW2_REFTABLE_BYTES_MAX)
                        return refuse(e, "use larger clusters or narrower refcounts",
                                      "the refcount table gets too large");
                if (want_blocks <= blocks && want_table <= table)
                        break;
                blocks = MAX(blocks, want_blocks);
                table = MAX(table, want_table);
        }
        p->h.reftable_clusters = (uint32_t)table;
        p->n_refblocks = blocks;
        return 0;
}

static int make_plan(struct plan *p, const struct qcow2_create *o, struct error *e) {
        uint64_t l1_entries, others;
        int r;

        p->h.version = o->version ? o->version : 3;
        p->h.cluster_bits = (uint32_t)__builtin_ctz(o->cluster ? o->cluster : 65536);
        p->h.refcount_order = (uint32_t)__builtin_ctz(o->refcount_bits ? o->refcount_bits : 16);
        p->h.compression = o->compression;
        p->h.size = o->size;
        p->h.incompatible = (o->compression != QCOW2_ZLIB ? QCOW2_INCOMPAT_COMPRESSION : 0) |
                            (o->extended_l2 ? QCOW2_INCOMPAT_EXTL2 : 0);
        p->h.compatible = o->lazy_refcounts ? QCOW2_COMPAT_LAZY : 0;
        p->cluster = qcow2_cluster(&p->h);

        l1_entries = qcow2_l1_entries(&p->h, o->size);
        if (l1_entries > QCOW2_L1_BYTES_MAX / 8)
                return refuse(e, "use larger clusters", "the disk is too large for this cluster size");
        p->h.l1_entries = (uint32_t)l1_entries;
        p->n_l1 = (l1_entries * 8 + p->cluster - 1) / p->cluster;
        if (o->preallocate_metadata) {
                p->n_l2 = l1_entries;
                p->n_data = (o->size + p->cluster - 1) / p->cluster;
        }
        others = 1 + p->n_l1 + p->n_l2 + p->n_data;
        if (others > (QCOW2_OFFSET_END >> 1) / p->cluster)
                return refuse(e, "don't preallocate", "the file would get too large");
        r = plan_refcounts(p, others, e);
        if (r < 0)
                return r;
        p->reftable = 1;
        p->refblocks = p->reftable + p->h.reftable_clusters;
        p->l1 = p->refblocks + p->n_refblocks;
        p->l2 = p->l1 + p->n_l1;
        p->data = p->l2 + p->n_l2;
        p->end = p->data + p->n_data;
        p->h.reftable_offset = p->reftable * p->cluster;
        p->h.l1_offset = p->n_l1 ? p->l1 * p->cluster : 0;
        return 0;
}

/* Throw the old content away, so that the first cluster is no header and everything that isn't written reads as zeroes. */
static int clear_file(struct file *file, const struct plan *p) {
        int r;

        if (!file_is_device(file)) {
                r = file_truncate(file, 0);
                return r < 0 ? r : file_truncate(file, p->end * p->cluster);
        }
        if (file_size(file) < p->end * p->cluster)
                return -ENOSPC;
        r = file_zero(file, 0, p->l2 * p->cluster, true);
        if (r == 0 && p->n_data && !qcow2_extended_l2(&p->h))
                r = file_zero(file, p->data * p->cluster, p->n_data * p->cluster, true);
        return r < 0 ? r : file_sync(file);
}

/* A table of clusters in a row: entry i is the offset of cluster @first + i, with @flags. Entries are @step bytes apart. */
static int write_table(struct file *file, const struct plan *p, uint64_t at, uint64_t n, uint64_t first, uint64_t flags,
                       uint32_t step, uint8_t *buf) {
        uint64_t per = MAX(p->cluster / step, 1u);

        for (uint64_t i = 0; i < n; i += per) {
                uint64_t m = MIN(per, n - i);
                int r;

                memset(buf, 0, p->cluster);
                for (uint64_t k = 0; k < m; k++)
                        be64_put(buf + k * step, (first + i + k) * p->cluster | flags);
                r = file_write(file, buf, p->cluster, (at + i / per) * p->cluster);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Every cluster of a new image is used once. */
static int write_refblocks(struct file *file, const struct plan *p, uint8_t *buf) {
        uint64_t per = qcow2_refblock_entries(&p->h);

        for (uint64_t i = 0; i < p->n_refblocks; i++) {
                uint64_t m = i * per < p->end ? MIN(per, p->end - i * per) : 0;
                int r;

                memset(buf, 0, p->cluster);
                for (uint64_t k = 0; k < m; k++)
                        qcow2_refcount_put(buf, p->h.refcount_order, k, 1);
                r = file_write(file, buf, p->cluster, (p->refblocks + i) * p->cluster);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int write_tables(struct file *file, const struct plan *p, const uint8_t *header, uint8_t *buf) {
        uint32_t entry = qcow2_l2_entry(&p->h);
        int r = clear_file(file, p);

        if (r == 0)
                r = write_table(file, p, p->reftable, p->n_refblocks, p->refblocks, 0, 8, buf);
        if (r == 0)
                r = write_refblocks(file, p, buf);
        if (r == 0 && p->n_l2)
                r = write_table(file, p, p->l1, p->n_l2, p->l2, QCOW2_COPIED, 8, buf);
        if (r == 0)
                r = write_table(file, p, p->l2, p->n_data, p->data, QCOW2_COPIED, entry, buf);
        if (r == 0 && p->cluster > SECTOR)
                r = file_write(file, header + SECTOR, p->cluster - SECTOR, SECTOR);
        return r < 0 ? r : file_sync(file);
}

int qcow2_create(struct file *file, const struct qcow2_create *options, struct error *e) {
        struct plan p = { 0 };
        _cleanup_free_ uint8_t *buf = NULL, *header = NULL;
        size_t used = 0;
        int r = check_options(options, e);

        if (r == 0)
                r = make_plan(&p, options, e);
        if (r < 0)
                return r;
        p.h.backing_file = (char *)options->backing_file; /* only read, and not released: p.h owns nothing */
        p.h.backing_format = (char *)options->backing_format;
        /* The plan's clusters are 512 bytes at least. */
        header = malloc(p.cluster); // NOLINT(clang-analyzer-optin.portability.UnixAPI)
        buf = malloc(p.cluster);    // NOLINT(clang-analyzer-optin.portability.UnixAPI)
        if (!buf || !header)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory to create a qcow2 image");
        r = qcow2_header_encode(&p.h, header, p.cluster, &used, e); /* before anything is lost */
        if (r < 0)
                return r;
        r = write_tables(file, &p, header, buf);
        if (r == 0)
                r = file_write(file, header, SECTOR, 0);
        if (r == 0)
                r = file_sync(file);
        if (r < 0)
                return error_set(e, r, "qcow2-create", "check the file system's free space and the device's size",
                                 "cannot write the new qcow2 image");
        return 0;
}

int qcow2_measure(const struct qcow2_create *options, uint64_t data, uint64_t *ret_required, uint64_t *ret_full,
                  struct error *e) {
        struct qcow2_create o = *options;
        struct plan p = { 0 };
        uint64_t full;
        int r = check_options(&o, e);

        if (r < 0)
                return r;
        o.preallocate_metadata = true; /* all tables, whatever is in them */
        r = make_plan(&p, &o, e);
        if (r < 0)
                return r;
        full = p.end * p.cluster;
        if (!options->preallocate_metadata)
                data = MIN(data, p.n_data * p.cluster);
        else
                data = p.n_data * p.cluster;
        data = (data + p.cluster - 1) & ~(p.cluster - 1);
        *ret_required = full - p.n_data * p.cluster + data;
        *ret_full = full;
        return 0;
}
