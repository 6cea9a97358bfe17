// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * format: what lies in a qcow2 file, bit by bit (QEMU's docs/interop/qcow2.txt)
 *
 * Everything in the file is big-endian. An image is a header in cluster 0, a two-level map from guest clusters to host clusters (L1 and
 * L2 tables), and a two-level array of reference counts, one for each host cluster (refcount table and blocks):
 *
 *      header --+--> L1 table -----> L2 tables -----> data clusters
 *               +--> refcount table -----> refcount blocks
 *               +--> snapshot table -----> an L1 table each
 *               +--> bitmap directory -----> bitmap tables -----> bitmap clusters
 *
 * struct qcow2_header is the header in the host's byte order, with its extensions; header.c reads, checks and writes it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "vmm/block/layer/file.h"
#include "vmm/block/qcow2/qcow2.h"

#define QCOW2_MAGIC              0x514649fbu /* "QFI\xfb" */
#define QCOW2_CLUSTER_BITS_MIN   9u
#define QCOW2_CLUSTER_BITS_MAX   21u
#define QCOW2_REFCOUNT_ORDER_MAX 6u

/* Limits that are QEMU's too: what it refuses, we neither write nor read. */
#define QCOW2_L1_BYTES_MAX        (32u << 20)
#define QCOW2_REFTABLE_BYTES_MAX  (8u << 20)
#define QCOW2_SNAPSHOTS_MAX       65536u
#define QCOW2_SNAPSHOTS_BYTES_MAX (64u << 20) /* the snapshot table */
#define QCOW2_BACKING_NAME_MAX    1023u       /* bytes, without the NUL */
#define QCOW2_BITMAPS_MAX         65535u
#define QCOW2_BITMAP_DIR_MAX      ((uint64_t)QCOW2_BITMAPS_MAX * 1024) /* bytes of the bitmap directory */
#define QCOW2_BITMAP_NAME_MAX     1023u
#define QCOW2_BITMAP_TABLE_MAX    0x8000000u   /* entries of one bitmap table */
#define QCOW2_OFFSET_END          (1ull << 56) /* host offsets have 56 bits */

/* Header fields: where they lie. A version 2 header ends at QCOW2_HEADER_V2. */
enum {
        QCOW2_H_MAGIC = 0,              /* u32 */
        QCOW2_H_VERSION = 4,            /* u32 */
        QCOW2_H_BACKING_OFFSET = 8,     /* u64 */
        QCOW2_H_BACKING_SIZE = 16,      /* u32 */
        QCOW2_H_CLUSTER_BITS = 20,      /* u32 */
        QCOW2_H_SIZE = 24,              /* u64 */
        QCOW2_H_CRYPT = 32,             /* u32 */
        QCOW2_H_L1_ENTRIES = 36,        /* u32 */
        QCOW2_H_L1_OFFSET = 40,         /* u64 */
        QCOW2_H_REFTABLE_OFFSET = 48,   /* u64 */
        QCOW2_H_REFTABLE_CLUSTERS = 56, /* u32 */
        QCOW2_H_SNAPSHOTS = 60,         /* u32 */
        QCOW2_H_SNAPSHOTS_OFFSET = 64,  /* u64 */
        QCOW2_HEADER_V2 = 72,
        QCOW2_H_INCOMPATIBLE = 72,   /* u64 */
        QCOW2_H_COMPATIBLE = 80,     /* u64 */
        QCOW2_H_AUTOCLEAR = 88,      /* u64 */
        QCOW2_H_REFCOUNT_ORDER = 96, /* u32 */
        QCOW2_H_LENGTH = 100,        /* u32 */
        QCOW2_HEADER_V3_MIN = 104,
        QCOW2_H_COMPRESSION = 104, /* u8, seven bytes of padding */
        QCOW2_HEADER_V3 = 112,
};

/* Feature bits */
#define QCOW2_INCOMPAT_DIRTY       (1ull << 0)
#define QCOW2_INCOMPAT_CORRUPT     (1ull << 1)
#define QCOW2_INCOMPAT_DATA_FILE   (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPAT_EXTL2       (1ull << 4)
#define QCOW2_INCOMPAT_KNOWN       0x1full
#define QCOW2_COMPAT_LAZY          (1ull << 0)
#define QCOW2_AUTOCLEAR_BITMAPS    (1ull << 0)
#define QCOW2_AUTOCLEAR_RAW        (1ull << 1)
#define QCOW2_AUTOCLEAR_KNOWN      0x1ull /* others are cleared when the image is opened for writing */

/* Header extensions: u32 type, u32 length, data, padding to 8 bytes */
#define QCOW2_EXT_END            0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES  0x6803f857u
#define QCOW2_EXT_BITMAPS        0x23852875u
#define QCOW2_EXT_CRYPTO         0x0537be77u
#define QCOW2_EXT_DATA_FILE      0x44415441u

/* Table entries */
#define QCOW2_OFFSET_MASK     0x00fffffffffffe00ull /* L1, L2, bitmap tables: bits 9 to 55 */
#define QCOW2_COPIED          (1ull << 63)          /* the refcount is exactly one: may be written in place */
#define QCOW2_COMPRESSED      (1ull << 62)
#define QCOW2_ZERO            (1ull << 0) /* L2, standard entries of version 3 */
#define QCOW2_L1_RESERVED     0x7f000000000001ffull
#define QCOW2_L2_RESERVED     0x3f000000000001feull /* standard entries */
#define QCOW2_REFTABLE_MASK   0xfffffffffffffe00ull
#define QCOW2_BITMAP_ALL_ONES (1ull << 0) /* bitmap table entry without an offset */
#define QCOW2_BITMAP_RESERVED 0xff000000000001feull

/* Extended L2 entries are 16 bytes: the entry, then a word with these halves, a bit for each of 32 subclusters. */
#define QCOW2_SUBCLUSTERS     32u
#define QCOW2_SUB_ALLOC(word) ((uint32_t)(word))
#define QCOW2_SUB_ZERO(word)  ((uint32_t)((word) >> 32))

/* Bitmap directory entry: fixed part of 24 bytes, extra data, name, padding to 8 */
enum {
        QCOW2_BM_TABLE_OFFSET = 0,  /* u64 */
        QCOW2_BM_TABLE_ENTRIES = 8, /* u32 */
        QCOW2_BM_FLAGS = 12,        /* u32 */
        QCOW2_BM_TYPE = 16,         /* u8 */
        QCOW2_BM_GRANULARITY = 17,  /* u8 */
        QCOW2_BM_NAME_SIZE = 18,    /* u16 */
        QCOW2_BM_EXTRA_SIZE = 20,   /* u32 */
        QCOW2_BM_FIXED = 24,
};
#define QCOW2_BM_IN_USE     (1u << 0)
#define QCOW2_BM_AUTO       (1u << 1)
#define QCOW2_BM_EXTRA_OK   (1u << 2)
#define QCOW2_BM_TYPE_DIRTY 1u

/* Snapshot table entry: fixed part of 40 bytes, extra data, id, name, padding to 8 */
enum {
        QCOW2_SN_L1_OFFSET = 0,   /* u64 */
        QCOW2_SN_L1_ENTRIES = 8,  /* u32 */
        QCOW2_SN_ID_SIZE = 12,    /* u16 */
        QCOW2_SN_NAME_SIZE = 14,  /* u16 */
        QCOW2_SN_EXTRA_SIZE = 36, /* u32 */
        QCOW2_SN_FIXED = 40,
};

/* Big-endian numbers at any address */
static inline uint16_t be16_get(const void *p) {
        uint16_t v;

        memcpy(&v, p, sizeof v);
        return __builtin_bswap16(v);
}

static inline uint32_t be32_get(const void *p) {
        uint32_t v;

        memcpy(&v, p, sizeof v);
        return __builtin_bswap32(v);
}

static inline uint64_t be64_get(const void *p) {
        uint64_t v;

        memcpy(&v, p, sizeof v);
        return __builtin_bswap64(v);
}

static inline void be16_put(void *p, uint16_t v) {
        v = __builtin_bswap16(v);
        memcpy(p, &v, sizeof v);
}

static inline void be32_put(void *p, uint32_t v) {
        v = __builtin_bswap32(v);
        memcpy(p, &v, sizeof v);
}

static inline void be64_put(void *p, uint64_t v) {
        v = __builtin_bswap64(v);
        memcpy(p, &v, sizeof v);
}

/* Refcounts: widths of 1 to 64 bits, the lowest bits of a byte first. */
static inline uint64_t qcow2_refcount_get(const void *block, unsigned int order, uint64_t index) {
        const uint8_t *p = block;

        switch (order) {
        case 0:
                return p[index / 8] >> index % 8 & 1;
        case 1:
                return p[index / 4] >> 2 * (index % 4) & 3;
        case 2:
                return p[index / 2] >> 4 * (index % 2) & 15;
        case 3:
                return p[index];
        case 4:
                return be16_get(p + 2 * index);
        case 5:
                return be32_get(p + 4 * index);
        default:
                return be64_get(p + 8 * index);
        }
}

/* @value must fit: qcow2_refcount_max(). */
static inline void qcow2_refcount_put(void *block, unsigned int order, uint64_t index, uint64_t value) {
        uint8_t *p = block;

        switch (order) {
        case 0:
                p[index / 8] = (uint8_t)((p[index / 8] & ~(1u << index % 8)) | value << index % 8);
                break;
        case 1:
                p[index / 4] = (uint8_t)((p[index / 4] & ~(3u << 2 * (index % 4))) | value << 2 * (index % 4));
                break;
        case 2:
                p[index / 2] = (uint8_t)((p[index / 2] & ~(15u << 4 * (index % 2))) | value << 4 * (index % 2));
                break;
        case 3:
                p[index] = (uint8_t)value;
                break;
        case 4:
                be16_put(p + 2 * index, (uint16_t)value);
                break;
        case 5:
                be32_put(p + 4 * index, (uint32_t)value);
                break;
        default:
                be64_put(p + 8 * index, value);
        }
}

static inline uint64_t qcow2_refcount_max(unsigned int order) {
        return order >= 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

/* The header, in the host's byte order, and its extensions. All strings are the image's own: hostile, but NUL-terminated. */
struct qcow2_header {
        uint32_t version; /* 2 or 3 */
        uint32_t cluster_bits;
        uint32_t refcount_order;  /* a refcount has 1 << refcount_order bits */
        uint32_t compression;     /* enum qcow2_compression, or unknown */
        uint32_t crypt;           /* 0: none */
        uint64_t size;            /* bytes that the guest sees */
        uint64_t l1_offset;       /* a multiple of the cluster size */
        uint32_t l1_entries;      /* enough for @size */
        uint64_t reftable_offset; /* a multiple of the cluster size */
        uint32_t reftable_clusters;
        uint32_t n_snapshots;
        uint64_t snapshots_offset;
        uint64_t incompatible, compatible, autoclear;
        uint32_t length; /* bytes of the fixed part */

        char *backing_file, *backing_format, *data_file; /* owned; NULL: none */
        struct qcow2_header_bitmaps {
                uint32_t
                        n; /* 0: no bitmaps (the extension is missing, or invalid because its autoclear bit is unset) */
                uint64_t directory_size, directory_offset; /* bytes */
        } bitmaps;
        bool bitmaps_stale; /* there is an extension, but without its autoclear bit: what it points at is lost */
        uint64_t crypto_offset, crypto_length; /* LUKS header, bytes; 0: none */
        void *tail;                            /* fixed fields behind those that we know; owned */
        size_t tail_size;
        void *names; /* feature name table, 48 bytes each; owned */
        size_t names_size;
        void *others; /* extensions that we don't know, as they stand in the file; owned */
        size_t others_size;
};

static inline uint64_t qcow2_cluster(const struct qcow2_header *h) {
        return 1ull << h->cluster_bits;
}

static inline bool qcow2_extended_l2(const struct qcow2_header *h) {
        return h->incompatible & QCOW2_INCOMPAT_EXTL2;
}

/* Bytes of an L2 entry, and how many are in a table */
static inline uint32_t qcow2_l2_entry(const struct qcow2_header *h) {
        return qcow2_extended_l2(h) ? 16 : 8;
}

static inline uint32_t qcow2_l2_entries(const struct qcow2_header *h) {
        return (uint32_t)(qcow2_cluster(h) / qcow2_l2_entry(h));
}

/* How many clusters one refcount block counts */
static inline uint64_t qcow2_refblock_entries(const struct qcow2_header *h) {
        return qcow2_cluster(h) * 8 >> h->refcount_order;
}

/* How many L1 entries @size bytes take: at most 2^55, so the caller can compare with its limit. */
static inline uint64_t qcow2_l1_entries(const struct qcow2_header *h, uint64_t size) {
        uint64_t span = qcow2_cluster(h) * qcow2_l2_entries(h);

        /* A cluster is 512 bytes at least, an entry 16 at most. */
        return size / span + (size % span != 0); // NOLINT(clang-analyzer-core.DivideZero)
}

/* A compressed cluster's L2 entry: where its bytes begin, and where the last sector of it ends (that much may be read). */
static inline void qcow2_compressed_range(uint64_t entry, uint32_t cluster_bits, uint64_t *ret_offset,
                                          uint64_t *ret_end) {
        unsigned int bits = 62 - (cluster_bits - 8);
        uint64_t offset = entry & ((1ull << bits) - 1);
        uint64_t sectors = (entry & (QCOW2_COMPRESSED - 1)) >> bits;

        *ret_offset = offset;
        *ret_end = (offset & ~511ull) + (sectors + 1) * 512;
}

/** qcow2_compressed_entry() - the L2 entry for @bytes (at most a cluster) of compressed data at @offset. */
static inline uint64_t qcow2_compressed_entry(uint64_t offset, uint64_t bytes, uint32_t cluster_bits) {
        uint64_t sectors = ((offset + bytes - 1) >> 9) - (offset >> 9);

        return QCOW2_COMPRESSED | sectors << (62 - (cluster_bits - 8)) | offset;
}

/**
 * qcow2_header_load() - read and check the header and its extensions
 * @ret: to be released by qcow2_header_done(); untouched on error
 *
 * Every field is inside the format's limits afterwards; whether the tables lie inside the file is asked by qcow2_header_fits(), whether
 * we serve such an image by qcow2_header_refuse(). Errors: "qcow2-magic", "qcow2-version", "qcow2-header", and those of reading.
 */
int qcow2_header_load(struct file *file, struct qcow2_header *ret, struct error *e);
void qcow2_header_done(struct qcow2_header *h);
#define _cleanup_qcow2_header_ __attribute__((cleanup(qcow2_header_done)))

/** qcow2_header_fits() - do the L1 table and the refcount table lie inside the file, apart from each other and the header? "qcow2-header". */
int qcow2_header_fits(const struct qcow2_header *h, const struct file *file, struct error *e);

/** qcow2_header_refuse() - 0 when we can serve this image (@writable: also write it), or the error that says why not. Dirty is not looked at. */
int qcow2_header_refuse(const struct qcow2_header *h, bool writable, struct error *e);

/**
 * qcow2_header_encode() - the bytes of the header
 * @buf, @n: cleared first; at most one cluster
 * @ret_used: the bytes that must be written
 * Return: 0, or -ENOSPC with "qcow2-header-full" when header, extensions and the backing file's name take more than @n bytes.
 */
int qcow2_header_encode(const struct qcow2_header *h, void *buf, size_t n, size_t *ret_used, struct error *e);

/** qcow2_header_store() - encode and write; the caller syncs. Extensions and strings may have been changed. */
int qcow2_header_store(struct file *file, const struct qcow2_header *h, struct error *e);

/** qcow2_header_store_features() - write the three feature words of a version 3 header only (within one sector); the caller syncs. */
int qcow2_header_store_features(struct file *file, const struct qcow2_header *h);
