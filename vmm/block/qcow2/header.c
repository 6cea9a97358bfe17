// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * header: the first cluster of a qcow2 image
 *
 *      0 ......... 72 ........ 104/112 ... length ............................................. at most one cluster
 *      version 2   features    more fixed  extensions (type, length, data) ... end   backing file's name
 *
 * Theory of operation. The header is the root of everything, and an image comes from anywhere: each number is compared with the format's
 * limits before it is used, so that whoever holds a struct qcow2_header may multiply and add without looking again. What we don't know
 * (fields behind ours, extensions) is kept and written back, as the specification asks.
 *
 * Writing. Most changes touch one field and so one sector, which a disk writes whole or not at all. Adding or dropping extensions
 * rewrites more: the backing file's name is put at a place of its own, far behind, so that it doesn't move when an extension comes, and
 * the bitmaps' extension is the last that we write, so that nothing else moves either.
 */
#include "vmm/block/qcow2/format.h"

#include <inttypes.h>

#define NAME_ENTRY 48u   /* one feature's name: u8 kind, u8 bit, 46 bytes */
#define NAME_PLACE 4096u /* the backing file's name ends here, or with the cluster */

struct feature_name {
        uint8_t kind, bit;
        const char *name;
};

/* The names that other programs show when they don't know a feature. */
static const struct feature_name feature_names[] = {
        { 0, 0, "dirty bit" },          { 0, 1, "corrupt bit" },         { 0, 2, "external data file" },
        { 0, 3, "compression type" },   { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
        { 2, 0, "persistent bitmaps" }, { 2, 1, "raw external data" },
};

static int damaged(struct error *e, const char *what) {
        return error_set(e, -EUCLEAN, "qcow2-header", "restore the image from a backup; qemu-img check may tell more",
                         "the qcow2 header is damaged: %s", what);
}

void qcow2_header_done(struct qcow2_header *h) {
        free(h->backing_file);
        free(h->backing_format);
        free(h->data_file);
        free(h->tail);
        free(h->names);
        free(h->others);
        *h = (struct qcow2_header){ 0 };
}

static int copy(const void *from, size_t n, void **to, size_t *to_size) {
        void *p = realloc(*to, *to_size + n);

        if (!p)
                return -ENOMEM;
        memcpy((char *)p + *to_size, from, n);
        *to = p;
        *to_size += n;
        return 0;
}

/* A string out of the image: ends at its first NUL. */
static int copy_string(const void *from, size_t n, char **to) {
        char *s = strndup(from, n);

        if (!s)
                return -ENOMEM;
        free(*to);
        *to = s;
        return 0;
}

static int load_bitmaps(struct qcow2_header *h, const uint8_t *data, uint32_t n, struct error *e) {
        uint32_t count;
        uint64_t size, offset;

        if (n != 24)
                return damaged(e, "the bitmaps extension has the wrong length");
        count = be32_get(data);
        size = be64_get(data + 8);
        offset = be64_get(data + 16);
        /* Without its bit, a program that knows nothing of bitmaps wrote to the image: what they say is void. */
        if (!(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
                h->bitmaps_stale = true;
                return 0;
        }
        if (count == 0 || count > QCOW2_BITMAPS_MAX || be32_get(data + 4) != 0)
                return damaged(e, "the number of bitmaps is out of range");
        if (offset & (qcow2_cluster(h) - 1) || offset == 0 || size == 0 || size > QCOW2_BITMAP_DIR_MAX ||
            offset > QCOW2_OFFSET_END - size)
                return damaged(e, "the bitmap directory lies out of range");
        h->bitmaps.n = count;
        h->bitmaps.directory_size = size;
        h->bitmaps.directory_offset = offset;
        return 0;
}

static int load_extension(struct qcow2_header *h, uint32_t type, const uint8_t *raw, uint32_t n, struct error *e) {
        static const uint8_t padding[8];
        const uint8_t *data = raw + 8;
        int r;

        switch (type) {
        case QCOW2_EXT_BACKING_FORMAT:
                return copy_string(data, n, &h->backing_format);
        case QCOW2_EXT_DATA_FILE:
                return copy_string(data, n, &h->data_file);
        case QCOW2_EXT_FEATURE_NAMES:
                if (h->names)
                        return damaged(e, "two feature name tables");
                return copy(data, n - n % NAME_ENTRY, &h->names, &h->names_size);
        case QCOW2_EXT_BITMAPS:
                return load_bitmaps(h, data, n, e);
        case QCOW2_EXT_CRYPTO:
                if (n < 16)
                        return damaged(e, "the encryption extension is too short");
                h->crypto_offset = be64_get(data);
                h->crypto_length = be64_get(data + 8);
                if (h->crypto_offset & (qcow2_cluster(h) - 1) || h->crypto_length > QCOW2_L1_BYTES_MAX ||
                    h->crypto_offset > QCOW2_OFFSET_END - h->crypto_length)
                        return damaged(e, "the encryption header lies out of range");
                return 0;
        default: /* the padding may be cut off by the name, so it isn't taken from the image */
                r = copy(raw, 8ul + n, &h->others, &h->others_size);
                return r < 0 ? r : copy(padding, -n & 7, &h->others, &h->others_size);
        }
}

/* @buf: the first cluster, @end: where extensions must end */
static int load_extensions(struct qcow2_header *h, const uint8_t *buf, size_t end, struct error *e) {
        size_t at = h->length;

        while (end >= 8 && at <= end - 8) {
                uint32_t type = be32_get(buf + at), n = be32_get(buf + at + 4);
                int r;

                if (type == QCOW2_EXT_END)
                        return 0;
                if (n > end - at - 8)
                        return damaged(e, "an extension is longer than the header");
                r = load_extension(h, type, buf + at, n, e);
                if (r < 0)
                        return r;
                at += 8 + (n + 7ul) / 8 * 8; /* behind @end: its padding was cut off by the name, which is allowed */
        }
        return 0;
}

static int check_fields(const struct qcow2_header *h, struct error *e) {
        uint64_t cluster = qcow2_cluster(h), in_cluster = cluster - 1;

        if (h->refcount_order > QCOW2_REFCOUNT_ORDER_MAX)
                return damaged(e, "refcounts are wider than 64 bits");
        if (qcow2_extended_l2(h) && h->cluster_bits < 14)
                return damaged(e, "extended L2 entries in clusters of less than 16 KiB");
        if (h->size > INT64_MAX)
                return damaged(e, "the disk is larger than 2^63 bytes");
        if (h->l1_entries > QCOW2_L1_BYTES_MAX / 8)
                return damaged(e, "the L1 table is too large");
        if (h->l1_entries < qcow2_l1_entries(h, h->size))
                return damaged(e, "the L1 table is too small for the disk");
        if (h->l1_offset & in_cluster || h->l1_offset >= QCOW2_OFFSET_END || (h->l1_entries && !h->l1_offset))
                return damaged(e, "the L1 table lies out of range");
        if (h->reftable_clusters > QCOW2_REFTABLE_BYTES_MAX >> h->cluster_bits)
                return damaged(e, "the refcount table is too large");
        if (h->reftable_offset & in_cluster || h->reftable_offset >= QCOW2_OFFSET_END)
                return damaged(e, "the refcount table lies out of range");
        if (h->n_snapshots > QCOW2_SNAPSHOTS_MAX)
                return damaged(e, "too many snapshots");
        if (h->n_snapshots && (h->snapshots_offset & in_cluster || h->snapshots_offset >= QCOW2_OFFSET_END))
                return damaged(e, "the snapshot table lies out of range");
        if (h->compression != QCOW2_ZLIB && !(h->incompatible & QCOW2_INCOMPAT_COMPRESSION))
                return damaged(e, "a compression type without its feature bit");
        return 0;
}

static int load_fixed(struct qcow2_header *h, const uint8_t *buf, uint64_t available, struct error *e) {
        if (available < QCOW2_HEADER_V2 || be32_get(buf + QCOW2_H_MAGIC) != QCOW2_MAGIC)
                return error_set(e, -EUCLEAN, "qcow2-magic", "give the image's real format: see lodge image info",
                                 "not a qcow2 image");
        h->version = be32_get(buf + QCOW2_H_VERSION);
        if (h->version != 2 && h->version != 3)
                return error_set(e, -ENOTSUP, "qcow2-version", "convert the image: qemu-img convert -O qcow2",
                                 "qcow2 version %" PRIu32 " is not known", h->version);
        h->cluster_bits = be32_get(buf + QCOW2_H_CLUSTER_BITS);
        if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
                return damaged(e, "the cluster size is out of range");
        h->size = be64_get(buf + QCOW2_H_SIZE);
        h->crypt = be32_get(buf + QCOW2_H_CRYPT);
        h->l1_entries = be32_get(buf + QCOW2_H_L1_ENTRIES);
        h->l1_offset = be64_get(buf + QCOW2_H_L1_OFFSET);
        h->reftable_offset = be64_get(buf + QCOW2_H_REFTABLE_OFFSET);
        h->reftable_clusters = be32_get(buf + QCOW2_H_REFTABLE_CLUSTERS);
        h->n_snapshots = be32_get(buf + QCOW2_H_SNAPSHOTS);
        h->snapshots_offset = be64_get(buf + QCOW2_H_SNAPSHOTS_OFFSET);
        h->refcount_order = 4;
        h->length = QCOW2_HEADER_V2;
        if (h->version == 2)
                return 0;

        if (available < QCOW2_HEADER_V3_MIN)
                return damaged(e, "it is cut off");
        h->incompatible = be64_get(buf + QCOW2_H_INCOMPATIBLE);
        h->compatible = be64_get(buf + QCOW2_H_COMPATIBLE);
        h->autoclear = be64_get(buf + QCOW2_H_AUTOCLEAR);
        h->refcount_order = be32_get(buf + QCOW2_H_REFCOUNT_ORDER);
        h->length = be32_get(buf + QCOW2_H_LENGTH);
        if (h->length < QCOW2_HEADER_V3_MIN || h->length > available ||
            h->length > MIN(qcow2_cluster(h), (uint64_t)65536))
                return damaged(e, "its length is out of range");
        if (h->length > QCOW2_H_COMPRESSION)
                h->compression = buf[QCOW2_H_COMPRESSION];
        if (h->length > QCOW2_HEADER_V3)
                return copy(buf + QCOW2_HEADER_V3, h->length - QCOW2_HEADER_V3, &h->tail, &h->tail_size);
        return 0;
}

int qcow2_header_load(struct file *file, struct qcow2_header *ret, struct error *e) {
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        uint64_t available = MIN(file_size(file), (uint64_t)(1u << QCOW2_CLUSTER_BITS_MAX)), name_at, name_size;
        _cleanup_free_ uint8_t *buf = NULL;
        size_t end;
        int r;

        /* Few headers need more than 64 KiB; the rest is read when the cluster size is known. */
        buf = calloc(1, 65536);
        if (!buf)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for a qcow2 header");
        r = file_read(file, buf, MIN(available, (uint64_t)65536), 0);
        if (r < 0)
                return error_set(e, r, "disk-read", NULL, "cannot read the qcow2 header");
        r = load_fixed(&h, buf, available, e);
        if (r == 0)
                r = check_fields(&h, e);
        if (r < 0)
                return error_set(e, r, "qcow2-header", NULL, "cannot load the qcow2 header");
        if (qcow2_cluster(&h) > 65536 && available > 65536) {
                uint8_t *larger = realloc(buf, MIN(available, qcow2_cluster(&h)));

                if (!larger)
                        return error_set(e, -ENOMEM, "memory", NULL, "no memory for a qcow2 header");
                buf = larger;
                r = file_read(file, buf + 65536, MIN(available, qcow2_cluster(&h)) - 65536, 65536);
                if (r < 0)
                        return error_set(e, r, "disk-read", NULL, "cannot read the qcow2 header");
        }

        name_at = be64_get(buf + QCOW2_H_BACKING_OFFSET);
        name_size = be32_get(buf + QCOW2_H_BACKING_SIZE);
        end = MIN(available, qcow2_cluster(&h));
        if (name_at) {
                if (name_at > end || name_size > MIN((uint64_t)QCOW2_BACKING_NAME_MAX, end - name_at))
                        return damaged(e, "the backing file's name lies out of range");
                if (name_at >= h.length)
                        end = name_at;
                if (name_size) {
                        r = copy_string(buf + name_at, name_size, &h.backing_file);
                        if (r < 0)
                                return error_set(e, r, "memory", NULL, "no memory for a qcow2 header");
                }
        }
        r = load_extensions(&h, buf, end, e);
        if (r < 0)
                return error_set(e, r, "qcow2-header", NULL, "cannot load the qcow2 header");
        *ret = h;
        h = (struct qcow2_header){ 0 };
        return 0;
}

int qcow2_header_fits(const struct qcow2_header *h, const struct file *file, struct error *e) {
        uint64_t cluster = qcow2_cluster(h), end = (file_size(file) + cluster - 1) & ~(cluster - 1);
        uint64_t l1 = (8ull * h->l1_entries + cluster - 1) & ~(cluster - 1);
        uint64_t reftable = (uint64_t)h->reftable_clusters * cluster;

        if (h->reftable_clusters == 0 || h->reftable_offset < cluster || h->reftable_offset > end ||
            reftable > end - h->reftable_offset)
                return damaged(e, "the refcount table does not lie inside the file");
        if (l1 && (h->l1_offset < cluster || h->l1_offset > end || l1 > end - h->l1_offset))
                return damaged(e, "the L1 table does not lie inside the file");
        if (l1 && h->l1_offset < h->reftable_offset + reftable && h->reftable_offset < h->l1_offset + l1)
                return damaged(e, "the L1 table and the refcount table overlap");
        return 0;
}

/* The name of the lowest unknown incompatible feature, from the image's own table; hostile, but at most 46 bytes. */
static void unknown_feature(const struct qcow2_header *h, char *buf, size_t n) {
        int bit = __builtin_ctzll(h->incompatible & ~QCOW2_INCOMPAT_KNOWN);
        const uint8_t *name = h->names;

        for (size_t i = 0; i + NAME_ENTRY <= h->names_size; i += NAME_ENTRY)
                if (name[i] == 0 && name[i + 1] == bit) {
                        snprintf(buf, n, "'%.46s' (incompatible bit %d)", (const char *)name + i + 2, bit);
                        return;
                }
        snprintf(buf, n, "incompatible bit %d", bit);
}

int qcow2_header_refuse(const struct qcow2_header *h, bool writable, struct error *e) {
        char name[96];

        if (h->incompatible & ~QCOW2_INCOMPAT_KNOWN) {
                unknown_feature(h, name, sizeof name);
                return error_set(e, -ENOTSUP, "qcow2-feature", "convert the image with the program that made it",
                                 "the image needs a feature that is not known here: %s", name);
        }
        if (h->crypt)
                return error_set(e, -ENOTSUP, "qcow2-encrypted", "decrypt it: qemu-img convert -O qcow2",
                                 "the image is encrypted (method %" PRIu32 ")", h->crypt);
        if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
                return error_set(e, -ENOTSUP, "qcow2-data-file", "bring it into one file: qemu-img convert -O qcow2",
                                 "the image keeps its data in another file");
        if (h->compression > QCOW2_ZSTD)
                return error_set(e, -ENOTSUP, "qcow2-feature", "convert the image with the program that made it",
                                 "compression type %" PRIu32 " is not known", h->compression);
        if (!writable)
                return 0;
        if (h->n_snapshots)
                return error_set(e, -ENOTSUP, "qcow2-snapshots",
                                 "delete them (qemu-img snapshot -d), or use the image as a backing image",
                                 "the image has %" PRIu32 " internal snapshots and so can only be read",
                                 h->n_snapshots);
        if (h->incompatible & QCOW2_INCOMPAT_CORRUPT)
                return error_set(e, -EIO, "qcow2-corrupt", "repair it: lodge image check --repair all FILE",
                                 "the image is marked as corrupt and can only be read");
        return 0;
}

/* Where encoding has got to */
struct writer {
        uint8_t *buf;
        size_t at, end;
        bool full;
};

static uint8_t *put(struct writer *w, size_t n) {
        uint8_t *p = w->buf + w->at;

        if (w->full || n > w->end - w->at) {
                w->full = true;
                return NULL;
        }
        w->at += n;
        return p;
}

static uint8_t *put_extension(struct writer *w, uint32_t type, size_t n) {
        uint8_t *p = put(w, 8 + (n + 7) / 8 * 8);

        if (!p)
                return NULL;
        be32_put(p, type);
        be32_put(p + 4, (uint32_t)n);
        return p + 8;
}

static void put_string(struct writer *w, uint32_t type, const char *s) {
        uint8_t *p = s ? put_extension(w, type, strlen(s)) : NULL;

        if (p)
                memcpy(p, s, strlen(s));
}

/* The names help others only: left out where there is no room. Another writer's table is kept. */
static void put_names(const struct qcow2_header *h, struct writer *w) {
        size_t n = h->names ? h->names_size : sizeof feature_names / sizeof *feature_names * NAME_ENTRY;
        uint8_t *p;

        if (h->version < 3 || w->full || n + 8 + 32 + 16 > w->end - w->at)
                return;
        p = put_extension(w, QCOW2_EXT_FEATURE_NAMES, n);
        if (!p)
                return;
        if (h->names) {
                memcpy(p, h->names, n);
                return;
        }
        for (size_t i = 0; i < ELEMENTSOF(feature_names); i++, p += NAME_ENTRY) {
                p[0] = feature_names[i].kind;
                p[1] = feature_names[i].bit;
                memcpy(p + 2, feature_names[i].name, strlen(feature_names[i].name));
        }
}

static void put_extensions(const struct qcow2_header *h, struct writer *w) {
        uint8_t *p;

        if (h->backing_file)
                put_string(w, QCOW2_EXT_BACKING_FORMAT, h->backing_format);
        put_string(w, QCOW2_EXT_DATA_FILE, h->data_file);
        if (h->crypto_length) {
                p = put_extension(w, QCOW2_EXT_CRYPTO, 16);
                if (p) {
                        be64_put(p, h->crypto_offset);
                        be64_put(p + 8, h->crypto_length);
                }
        }
        if (h->others_size) {
                p = put(w, h->others_size);
                if (p)
                        memcpy(p, h->others, h->others_size);
        }
        put_names(h, w);
        if (h->bitmaps.n) {
                p = put_extension(w, QCOW2_EXT_BITMAPS, 24);
                if (p) {
                        be32_put(p, h->bitmaps.n);
                        be64_put(p + 8, h->bitmaps.directory_size);
                        be64_put(p + 16, h->bitmaps.directory_offset);
                }
        }
        put_extension(w, QCOW2_EXT_END, 0);
}

static void put_fixed(const struct qcow2_header *h, uint8_t *buf) {
        be32_put(buf + QCOW2_H_MAGIC, QCOW2_MAGIC);
        be32_put(buf + QCOW2_H_VERSION, h->version);
        be32_put(buf + QCOW2_H_CLUSTER_BITS, h->cluster_bits);
        be64_put(buf + QCOW2_H_SIZE, h->size);
        be32_put(buf + QCOW2_H_CRYPT, h->crypt);
        be32_put(buf + QCOW2_H_L1_ENTRIES, h->l1_entries);
        be64_put(buf + QCOW2_H_L1_OFFSET, h->l1_offset);
        be64_put(buf + QCOW2_H_REFTABLE_OFFSET, h->reftable_offset);
        be32_put(buf + QCOW2_H_REFTABLE_CLUSTERS, h->reftable_clusters);
        be32_put(buf + QCOW2_H_SNAPSHOTS, h->n_snapshots);
        be64_put(buf + QCOW2_H_SNAPSHOTS_OFFSET, h->snapshots_offset);
        if (h->version == 2)
                return;
        be64_put(buf + QCOW2_H_INCOMPATIBLE, h->incompatible);
        be64_put(buf + QCOW2_H_COMPATIBLE, h->compatible);
        be64_put(buf + QCOW2_H_AUTOCLEAR, h->autoclear);
        be32_put(buf + QCOW2_H_REFCOUNT_ORDER, h->refcount_order);
        be32_put(buf + QCOW2_H_LENGTH, (uint32_t)(QCOW2_HEADER_V3 + h->tail_size));
        buf[QCOW2_H_COMPRESSION] = (uint8_t)h->compression;
        if (h->tail_size)
                memcpy(buf + QCOW2_HEADER_V3, h->tail, h->tail_size);
}

int qcow2_header_encode(const struct qcow2_header *h, void *buf, size_t n, size_t *ret_used, struct error *e) {
        struct writer w = { .buf = buf, .end = n, .at = QCOW2_HEADER_V2 };
        size_t name = h->backing_file ? strlen(h->backing_file) : 0, place = 0;

        memset(buf, 0, n);
        if (h->version >= 3)
                w.at = QCOW2_HEADER_V3 + h->tail_size;
        if (w.at > n || name > QCOW2_BACKING_NAME_MAX || name + 8 > n)
                goto full;
        if (name) {
                place = (MIN(n, (size_t)NAME_PLACE) - name) / 8 * 8;
                w.end = place;
        }
        if (w.at > w.end)
                goto full;
        put_fixed(h, buf);
        put_extensions(h, &w);
        if (w.full)
                goto full;
        if (name) {
                memcpy((char *)buf + place, h->backing_file, name);
                be64_put((char *)buf + QCOW2_H_BACKING_OFFSET, place);
                be32_put((char *)buf + QCOW2_H_BACKING_SIZE, (uint32_t)name);
                w.at = place + name;
        }
        *ret_used = w.at;
        return 0;
full:
        return error_set(e, -ENOSPC, "qcow2-header-full", "use a shorter name for the backing image or larger clusters",
                         "the qcow2 header with the backing image's name has no room in a cluster of %zu bytes", n);
}

int qcow2_header_store(struct file *file, const struct qcow2_header *h, struct error *e) {
        uint64_t cluster = qcow2_cluster(h);
        _cleanup_free_ uint8_t *buf = malloc(cluster);
        size_t used = 0;
        int r;

        if (!buf)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for a qcow2 header");
        r = qcow2_header_encode(h, buf, cluster, &used, e);
        if (r < 0)
                return r;
        r = file_write(file, buf, MIN((used + 511) & ~511ull, cluster), 0);
        if (r < 0)
                return error_set(e, r, "disk-write", NULL, "cannot write the qcow2 header");
        return 0;
}

int qcow2_header_store_features(struct file *file, const struct qcow2_header *h) {
        uint8_t buf[24];

        if (h->version < 3)
                return -EOPNOTSUPP;
        be64_put(buf, h->incompatible);
        be64_put(buf + 8, h->compatible);
        be64_put(buf + 16, h->autoclear);
        return file_write(file, buf, sizeof buf, QCOW2_H_INCOMPATIBLE);
}

int qcow2_peek(struct file *file, struct qcow2_info *ret_info, char **ret_strings, struct error *e) {
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        const char *from[3];
        char *strings, *at, *to[3] = { NULL };
        size_t n = 1;
        int r = qcow2_header_load(file, &h, e);

        if (r < 0)
                return r;
        from[0] = h.backing_file, from[1] = h.backing_format, from[2] = h.data_file;
        for (size_t i = 0; i < ELEMENTSOF(from); i++)
                n += from[i] ? strlen(from[i]) + 1 : 0;
        at = strings = calloc(1, n);
        if (!strings)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for a qcow2 header");
        for (size_t i = 0; i < ELEMENTSOF(from); i++)
                if (from[i]) {
                        to[i] = at;
                        at = stpcpy(at, from[i]) + 1;
                }
        *ret_info = (struct qcow2_info){
                .version = h.version,
                .size = h.size,
                .cluster = 1u << h.cluster_bits,
                .refcount_bits = 1u << h.refcount_order,
                .compression = (enum qcow2_compression)h.compression,
                .extended_l2 = qcow2_extended_l2(&h),
                .lazy_refcounts = h.compatible & QCOW2_COMPAT_LAZY,
                .dirty = h.incompatible & QCOW2_INCOMPAT_DIRTY,
                .corrupt = h.incompatible & QCOW2_INCOMPAT_CORRUPT,
                .encrypted = h.crypt != 0,
                .backing_file = to[0],
                .backing_format = to[1],
                .data_file = to[2],
                .n_snapshots = h.n_snapshots,
                .n_bitmaps = h.bitmaps.n,
        };
        *ret_strings = strings;
        return 0;
}
