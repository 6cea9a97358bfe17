// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2 bitmaps: every change is marked, survives a clean close, and is never trusted after any other end; and resizing's steps */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/block/qcow2/bitmap.h"
#include "vmm/block/qcow2/resize.h"

#define MIB (1ull << 20)

struct rig {
        int fd;
        struct file *file;
        struct qcow2_header h;
        struct qcow2_bitmaps *b;
        struct error e;
        unsigned int freed; /* ranges */
        bool full;          /* the disk is */
};

/* Space behind the end; the refcounts are mended by a check afterwards, as after a kill. */
static int rig_alloc(void *opaque, uint64_t bytes, uint64_t *ret_offset) {
        struct rig *t = opaque;
        uint64_t at = (file_size(t->file) + 65535) & ~65535ull;

        if (t->full)
                return -ENOSPC;
        *ret_offset = at;
        return file_truncate(t->file, at + ((bytes + 65535) & ~65535ull));
}

static void rig_free(void *opaque, uint64_t offset, uint64_t bytes) {
        ((struct rig *)opaque)->freed++;
}

static void rig_load(struct rig *t, bool writable) {
        qcow2_bitmaps_free(t->b);
        qcow2_header_done(&t->h);
        t->b = NULL;
        assert_int_equal(qcow2_header_load(t->file, &t->h, &t->e), 0);
        assert_int_equal(qcow2_bitmaps_load(t->file, &t->h, writable, &t->b, &t->e), 0);
}

static void rig_init(struct rig *t) {
        struct qcow2_create o = { .size = 1ull << 30 };
        struct file_options f = { 0 };

        *t = (struct rig){ .fd = memfd_create("image", MFD_CLOEXEC) };
        f.fd = t->fd;
        assert_int_equal(file_open(&f, &t->file, &t->e), 0);
        assert_int_equal(qcow2_create(t->file, &o, &t->e), 0);
        rig_load(t, true);
}

static void rig_done(struct rig *t) {
        qcow2_bitmaps_free(t->b);
        qcow2_header_done(&t->h);
        file_close(t->file);
        close(t->fd);
        error_clear(&t->e);
}

static int rig_store(struct rig *t, bool keep_using) {
        struct qcow2_bitmap_space space = { rig_alloc, rig_free, t };

        return qcow2_bitmaps_store(t->b, t->file, &t->h, &space, keep_using, &t->e);
}

static void assert_range(struct rig *t, const char *name, uint64_t from, uint64_t start, uint64_t length) {
        uint64_t s = 0, n = 0;

        assert_int_equal(qcow2_bitmaps_next(t->b, name, from, &s, &n), 1);
        assert_int_equal(s, start);
        assert_int_equal(n, length);
}

static void assert_found_nothing(struct rig *t) {
        struct qcow2_check c = { 0 };

        assert_int_equal(qcow2_check(t->file, 0, &c, &t->e), 0);
        assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
}

/* After a repair of the refcounts nothing else may be wrong, and a second look finds nothing. */
static void assert_sound(struct rig *t) {
        struct qcow2_check c = { 0 };

        assert_int_equal(qcow2_check(t->file, QCOW2_REPAIR_ALL, &c, &t->e), 0);
        assert_found_nothing(t);
}

/* Where the last bit reaches behind the disk's end, a walk over the ranges ends there, and what they sum up to is what is dirty. */
static void test_end_inside_a_bit(void **state) {
        struct qcow2_header h = { .version = 3, .size = 65536 + 512, .cluster_bits = 16 };
        struct qcow2_bitmaps *b = NULL;
        struct qcow2_bitmap_info info;
        uint64_t start = 0, length = 0;

        assert_int_equal(qcow2_bitmaps_load(NULL, &h, false, &b, NULL), 0);
        assert_int_equal(qcow2_bitmaps_add(b, "a", 65536, true, NULL), 0);
        qcow2_bitmaps_mark(b, h.size - 1, 1);
        assert_int_equal(qcow2_bitmaps_next(b, "a", 0, &start, &length), 1);
        assert_int_equal(start, 65536);
        assert_int_equal(length, 512);
        assert_int_equal(qcow2_bitmaps_next(b, "a", h.size - 1, &start, &length), 1);
        assert_int_equal(length, 1);
        assert_int_equal(qcow2_bitmaps_next(b, "a", h.size, &start, &length), 0);
        qcow2_bitmaps_info(b, 0, &info);
        assert_int_equal(info.dirty, 512);
        qcow2_bitmaps_free(b);
}

/* The file would have no place for it: version 2 has no bit that tells other programs' writes. */
static void test_version_2_has_none(void **state) {
        struct qcow2_header h = { .version = 2, .size = 1 << 20, .cluster_bits = 16 };
        struct error e = ERROR_INIT;
        struct qcow2_bitmaps *b = NULL;

        assert_int_equal(qcow2_bitmaps_load(NULL, &h, false, &b, NULL), 0);
        assert_int_equal(qcow2_bitmaps_add(b, "a", 65536, true, &e), -ENOTSUP);
        assert_string_equal(e.id, "qcow2-bitmap-version");
        error_clear(&e);
        qcow2_bitmaps_free(b);
}

/* A change that isn't marked would be missing in the next backup. */
static void test_mark(void **state) {
        uint64_t s, n;
        struct rig t;

        rig_init(&t);
        qcow2_bitmaps_mark(t.b, 0, 4096); /* no bitmaps: nothing happens */
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 65536, true, &t.e), 0);
        assert_int_equal(qcow2_bitmaps_add(t.b, "off", 65536, false, &t.e), 0);
        assert_int_equal(qcow2_bitmaps_next(t.b, "a", 0, &s, &n), 0);
        qcow2_bitmaps_mark(t.b, 65535, 2);
        assert_range(&t, "a", 0, 0, 131072);
        qcow2_bitmaps_mark(t.b, 5 * MIB + 1, 10 * MIB);
        assert_range(&t, "a", 131072, 5 * MIB, 10 * MIB + 65536);
        assert_range(&t, "a", 6 * MIB + 3, 6 * MIB + 3, 9 * MIB + 65536 - 3);
        qcow2_bitmaps_mark(t.b, (1ull << 30) - 1, UINT64_MAX); /* cut at the end */
        qcow2_bitmaps_mark(t.b, UINT64_MAX, 1);
        assert_range(&t, "a", 100 * MIB, (1ull << 30) - 65536, 65536);
        assert_int_equal(qcow2_bitmaps_next(t.b, "off", 0, &s, &n), 0);
        assert_int_equal(qcow2_bitmaps_next(t.b, "none", 0, &s, &n), -ENOENT);
        rig_done(&t);
}

/* Bits come back as they went, and the image is sound with them. */
static void test_store_and_load(void **state) {
        struct qcow2_bitmap_info info;
        struct rig t;

        rig_init(&t);
        assert_int_equal(qcow2_bitmaps_add(t.b, "fine", 512, true, &t.e), 0);
        assert_int_equal(qcow2_bitmaps_add(t.b, "off", 1 << 20, true, &t.e), 0);
        qcow2_bitmaps_mark(t.b, 700 * MIB, 513);
        assert_int_equal(qcow2_bitmaps_enable(t.b, "off", false, &t.e), 0);
        qcow2_bitmaps_mark(t.b, 1 * MIB, 512);
        assert_int_equal(rig_store(&t, false), 0);
        assert_true(t.h.autoclear & QCOW2_AUTOCLEAR_BITMAPS);
        assert_sound(&t);
        rig_load(&t, true);
        assert_int_equal(qcow2_bitmaps_count(t.b), 2);
        qcow2_bitmaps_info(t.b, 0, &info);
        assert_string_equal(info.name, "fine");
        assert_int_equal(info.granularity, 512);
        assert_int_equal(info.dirty, 1536);
        assert_true(info.enabled);
        assert_false(info.inconsistent);
        qcow2_bitmaps_info(t.b, 1, &info);
        assert_false(info.enabled);
        assert_range(&t, "fine", 2 * MIB, 700 * MIB, 1024);
        assert_range(&t, "off", 0, 700 * MIB, 1 * MIB);

        /* Stored again, the old clusters are given back; removed, the extension goes too. */
        t.freed = 0;
        assert_int_equal(rig_store(&t, true), 0);
        assert_true(t.freed >= 5);
        assert_int_equal(qcow2_bitmaps_remove(t.b, "fine", &t.e), 0);
        assert_int_equal(qcow2_bitmaps_remove(t.b, "off", &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        rig_load(&t, false);
        assert_int_equal(t.h.bitmaps.n, 0);
        assert_int_equal(t.h.autoclear, 0);
        assert_sound(&t);
        rig_done(&t);
}

/* After a kill the bits miss writes: a backup from them would be wrong. */
static void test_kill(void **state) {
        struct qcow2_bitmap_info info;
        struct rig t;
        uint64_t s, n;

        rig_init(&t);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 0, true, &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        rig_load(&t, true); /* in use from here on */
        qcow2_bitmaps_mark(t.b, 0, 512);
        rig_load(&t, true); /* never stored */
        qcow2_bitmaps_info(t.b, 0, &info);
        assert_true(info.inconsistent);
        assert_int_equal(qcow2_bitmaps_next(t.b, "a", 0, &s, &n), -EUCLEAN);
        assert_int_equal(qcow2_bitmaps_clear(t.b, "a", &t.e), -EUCLEAN);
        assert_string_equal(t.e.id, "qcow2-bitmap-inconsistent");
        error_clear(&t.e);
        assert_int_equal(rig_store(&t, false), 0); /* stays out of date */
        rig_load(&t, false);
        qcow2_bitmaps_info(t.b, 0, &info);
        assert_true(info.inconsistent);
        rig_load(&t, true);
        assert_int_equal(qcow2_bitmaps_remove(t.b, "a", &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        assert_sound(&t);
        rig_done(&t);
}

/* Another program wrote without its autoclear bit: the bitmaps are void, and a repair gives their space back. */
static void test_autoclear(void **state) {
        static const uint8_t zero[8];
        struct rig t;

        rig_init(&t);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 0, true, &t.e), 0);
        qcow2_bitmaps_mark(t.b, 0, 512);
        assert_int_equal(rig_store(&t, false), 0);
        assert_sound(&t);
        assert_int_equal(file_write(t.file, zero, 8, QCOW2_H_AUTOCLEAR), 0);
        rig_load(&t, true);
        assert_true(t.h.bitmaps_stale);
        assert_int_equal(qcow2_bitmaps_count(t.b), 0);
        assert_sound(&t);
        rig_load(&t, true);
        assert_false(t.h.bitmaps_stale);
        rig_done(&t);
}

/* A full disk loses the bitmaps' freshness, not the image: the old directory stays, in use. */
static void test_no_space(void **state) {
        struct rig t;

        rig_init(&t);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 0, true, &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        rig_load(&t, true);
        t.full = true;
        t.freed = 0;
        assert_int_equal(rig_store(&t, false), -ENOSPC);
        assert_int_equal(t.freed, 0);
        error_clear(&t.e);
        assert_sound(&t);
        rig_load(&t, false);
        assert_int_equal(qcow2_bitmaps_count(t.b), 1);
        rig_done(&t);
}

static void test_refusals(void **state) {
        char name[16];
        struct rig t;

        rig_init(&t);
        assert_int_equal(qcow2_bitmaps_add(t.b, "", 0, true, &t.e), -EINVAL);
        error_clear(&t.e);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 256, true, &t.e), -EINVAL);
        error_clear(&t.e);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 3 << 20, true, &t.e), -EINVAL);
        error_clear(&t.e);
        for (unsigned int i = 0; i < 32; i++) {
                snprintf(name, sizeof name, "b%u", i);
                assert_int_equal(qcow2_bitmaps_add(t.b, name, 0, true, &t.e), 0);
        }
        assert_int_equal(qcow2_bitmaps_add(t.b, "b0", 0, true, &t.e), -EEXIST);
        error_clear(&t.e);
        assert_int_equal(qcow2_bitmaps_add(t.b, "more", 0, true, &t.e), -ENOSPC);
        error_clear(&t.e);
        assert_int_equal(qcow2_bitmaps_count(t.b), 32);
        assert_int_equal(qcow2_bitmaps_add(t.b, "more", 0, false, &t.e), 0);
        rig_done(&t);
}

/* A directory that lies is refused, or its bitmap is not trusted; nothing outside is read. */
static void test_hostile_directory(void **state) {
        static const struct {
                unsigned int at, bytes;
                uint64_t value;
                bool refused;
        } bad[] = {
                { QCOW2_BM_TABLE_OFFSET, 8, 7, true },
                { QCOW2_BM_TABLE_OFFSET, 8, 0, true },
                { QCOW2_BM_TABLE_OFFSET, 8, 1ull << 60, true },
                { QCOW2_BM_TABLE_ENTRIES, 4, UINT32_MAX, true },
                { QCOW2_BM_TABLE_ENTRIES, 4, 2, false },
                { QCOW2_BM_NAME_SIZE, 2, 0, true },
                { QCOW2_BM_NAME_SIZE, 2, 60000, true },
                { QCOW2_BM_EXTRA_SIZE, 4, UINT32_MAX, true },
                { QCOW2_BM_TYPE, 1, 9, false },
                { QCOW2_BM_GRANULARITY, 1, 8, false },
                { QCOW2_BM_GRANULARITY, 1, 255, false },
                { QCOW2_BM_FLAGS, 4, 0x80000000, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct qcow2_bitmap_info info;
                uint8_t v[8];
                struct rig t;

                rig_init(&t);
                assert_int_equal(qcow2_bitmaps_add(t.b, "a", 0, true, &t.e), 0);
                qcow2_bitmaps_mark(t.b, 0, 512);
                assert_int_equal(rig_store(&t, false), 0);
                be64_put(v, bad[i].value);
                assert_int_equal(file_write(t.file, v + 8 - bad[i].bytes, bad[i].bytes,
                                            t.h.bitmaps.directory_offset + bad[i].at),
                                 0);
                qcow2_bitmaps_free(t.b);
                t.b = NULL;
                if (bad[i].refused) {
                        assert_int_equal(qcow2_bitmaps_load(t.file, &t.h, true, &t.b, &t.e), -EUCLEAN);
                        assert_string_equal(t.e.id, "qcow2-bitmaps");
                } else {
                        assert_int_equal(qcow2_bitmaps_load(t.file, &t.h, true, &t.b, &t.e), 0);
                        qcow2_bitmaps_info(t.b, 0, &info);
                        assert_true(info.inconsistent);
                }
                assert_sound(&t);
                rig_done(&t);
        }
}

/* A table that leads to nothing good, or out of the file: bits that were lost would be missing in the next backup. */
static void test_hostile_table(void **state) {
        static const struct {
                uint64_t entry; /* the bits' own place is added to it */
                bool absolute, behind;
        } bad[] = {
                { 2, false, false },                     /* reserved bits */
                { QCOW2_BITMAP_ALL_ONES, false, false }, /* contradicts itself */
                { 512, false, false },                   /* not aligned */
                { 1ull << 50, true, false },             /* not in the file */
                { 0, true, true },                       /* where the file ends */
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct qcow2_bitmap_info info;
                uint8_t v[8], table[8];
                struct rig t;

                rig_init(&t);
                assert_int_equal(qcow2_bitmaps_add(t.b, "a", 0, true, &t.e), 0);
                qcow2_bitmaps_mark(t.b, 0, 512);
                assert_int_equal(rig_store(&t, false), 0);
                assert_int_equal(file_read(t.file, table, 8, t.h.bitmaps.directory_offset), 0);
                assert_int_equal(file_read(t.file, v, 8, be64_get(table)), 0);
                be64_put(v, bad[i].entry + (bad[i].behind     ? (file_size(t.file) + 65535) & ~65535ull
                                            : bad[i].absolute ? 0
                                                              : be64_get(v)));
                assert_int_equal(file_write(t.file, v, 8, be64_get(table)), 0);
                rig_load(&t, false);
                qcow2_bitmaps_info(t.b, 0, &info);
                assert_true(info.inconsistent);
                rig_done(&t);
        }
}

/* Bits that stand for "all" are all of the disk, and no more than the disk; what we don't know in an entry is kept. */
static void test_all_ones(void **state) {
        struct qcow2_bitmap_info info;
        uint8_t v[8], extra[4];
        struct rig t;

        rig_init(&t);
        t.h.size = (1ull << 30) - 65536; /* the last word is not full */
        assert_int_equal(qcow2_resize_store(t.file, &t.h, t.h.size, &t.e), 0);
        rig_load(&t, true);
        assert_int_equal(qcow2_bitmaps_add(t.b, "name five", 0, true, &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        assert_int_equal(file_read(t.file, v, 8, t.h.bitmaps.directory_offset), 0);
        {
                uint64_t table = be64_get(v), at = t.h.bitmaps.directory_offset;

                be64_put(v, QCOW2_BITMAP_ALL_ONES);
                assert_int_equal(file_write(t.file, v, 8, table), 0);
                be32_put(v, QCOW2_BM_AUTO | QCOW2_BM_EXTRA_OK); /* the first half of the name becomes extra data */
                assert_int_equal(file_write(t.file, v, 4, at + QCOW2_BM_FLAGS), 0);
                be16_put(v, 5);
                assert_int_equal(file_write(t.file, v, 2, at + QCOW2_BM_NAME_SIZE), 0);
                be32_put(v, 4);
                assert_int_equal(file_write(t.file, v, 4, at + QCOW2_BM_EXTRA_SIZE), 0);
        }
        rig_load(&t, true);
        qcow2_bitmaps_info(t.b, 0, &info);
        assert_string_equal(info.name, " five");
        assert_int_equal(info.dirty, t.h.size);
        assert_range(&t, " five", 0, 0, t.h.size);
        assert_int_equal(rig_store(&t, false), 0);
        assert_int_equal(file_read(t.file, extra, 4, t.h.bitmaps.directory_offset + QCOW2_BM_FIXED), 0);
        assert_memory_equal(extra, "name", 4);
        /* Without the flag that says it may be ignored, extra data makes a bitmap that we don't understand. */
        be32_put(v, QCOW2_BM_AUTO);
        assert_int_equal(file_write(t.file, v, 4, t.h.bitmaps.directory_offset + QCOW2_BM_FLAGS), 0);
        rig_load(&t, false);
        qcow2_bitmaps_info(t.b, 0, &info);
        assert_true(info.inconsistent);
        rig_done(&t);
}

/* More enabled bitmaps than can be marked: those that are not would miss writes, so they are out of date. */
static void test_too_many_enabled(void **state) {
        struct qcow2_bitmap_info info;
        unsigned int good = 0;
        char name[16];
        struct rig t;

        rig_init(&t);
        for (unsigned int i = 0; i < 40; i++) {
                snprintf(name, sizeof name, "b%u", i);
                assert_int_equal(qcow2_bitmaps_add(t.b, name, 1 << 20, i < 32, &t.e), 0);
        }
        assert_int_equal(qcow2_bitmaps_enable(t.b, "b32", true, &t.e), -ENOSPC);
        error_clear(&t.e);
        assert_int_equal(qcow2_bitmaps_enable(t.b, "b0", true, &t.e), 0); /* is already */
        assert_int_equal(qcow2_bitmaps_enable(t.b, "b0", false, &t.e), 0);
        assert_int_equal(qcow2_bitmaps_enable(t.b, "b32", true, &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        for (uint64_t at = t.h.bitmaps.directory_offset; at < t.h.bitmaps.directory_offset + t.h.bitmaps.directory_size;
             at += 32) {
                uint8_t flags[4];

                be32_put(flags, QCOW2_BM_AUTO);
                assert_int_equal(file_write(t.file, flags, 4, at + QCOW2_BM_FLAGS), 0);
        }
        rig_load(&t, false);
        for (unsigned int i = 0; i < 40; i++) {
                qcow2_bitmaps_info(t.b, i, &info);
                assert_true(info.enabled != info.inconsistent);
                good += info.enabled;
        }
        assert_int_equal(good, 32);
        qcow2_bitmaps_info(t.b, 40, &info);
        assert_null(info.name);
        rig_done(&t);
}

/* What isn't there can't be changed, what is too much for memory isn't made, and clearing forgets everything. */
static void test_changes(void **state) {
        static char name[QCOW2_BITMAP_NAME_MAX + 2];
        struct rig t;
        uint64_t s, n;

        rig_init(&t);
        assert_int_equal(qcow2_bitmaps_remove(t.b, "none", NULL), -ENOENT);
        assert_int_equal(qcow2_bitmaps_clear(t.b, "none", NULL), -ENOENT);
        assert_int_equal(qcow2_bitmaps_enable(t.b, "none", true, &t.e), -ENOENT);
        assert_string_equal(t.e.id, "qcow2-bitmap-missing");
        error_clear(&t.e);
        assert_int_equal(rig_store(&t, false), 0); /* nothing to write */
        memset(name, 'n', sizeof name - 1);
        assert_int_equal(qcow2_bitmaps_add(t.b, name, 0, true, NULL), -EINVAL);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 1ull << 32, true, NULL), -EINVAL);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 512, true, &t.e), 0);
        qcow2_bitmaps_mark(t.b, 12345, 100000);
        assert_int_equal(qcow2_bitmaps_clear(t.b, "a", &t.e), 0);
        assert_int_equal(qcow2_bitmaps_next(t.b, "a", 0, &s, &n), 0);
        qcow2_bitmaps_free(TAKE_PTR(t.b));
        t.h.size = 8ull << 40; /* 2 GiB of bits, 512 bytes each */
        assert_int_equal(qcow2_bitmaps_load(t.file, &t.h, false, &t.b, &t.e), 0);
        assert_int_equal(qcow2_bitmaps_add(t.b, "large", 512, true, &t.e), -E2BIG);
        assert_string_equal(t.e.id, "qcow2-bitmap-range");
        assert_int_equal(qcow2_bitmaps_count(t.b), 0);
        rig_done(&t);
}

/* Each step of growing leaves a sound image, with the entries that it had; a longer table is clear behind them. */
static void test_grow(void **state) {
        struct qcow2_bitmap_space space = { rig_alloc, rig_free, NULL };
        static const uint64_t sizes[] = { 2ull << 30, 8ull << 40, 1ull << 52 };
        struct qcow2_check c = { 0 };
        bool unsure = false;
        uint8_t entry[8];
        struct rig t;

        rig_init(&t);
        space.opaque = &t;
        memset(entry, 0xff, 8); /* rubbish behind the table's end, inside its cluster */
        assert_int_equal(file_write(t.file, entry, 8, t.h.l1_offset + 16), 0);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                assert_int_equal(qcow2_resize_check(&t.h, sizes[i], &t.e), i == 2 ? -EINVAL : 0);
                assert_int_equal(qcow2_resize_l1(t.file, &t.h, sizes[i], &space, &unsure, &t.e), i == 2 ? -EINVAL : 0);
                error_clear(&t.e);
                assert_sound(&t);
                if (i == 2)
                        break;
                assert_int_equal(qcow2_resize_store(t.file, &t.h, sizes[i], &t.e), 0);
                rig_load(&t, false);
                assert_int_equal(t.h.size, sizes[i]);
                assert_int_equal(qcow2_check(t.file, 0, &c, &t.e), 0);
                assert_int_equal(c.corruptions + c.leaks, 0);
        }
        t.full = true;
        assert_int_equal(qcow2_resize_l1(t.file, &t.h, 16ull << 40, &space, &unsure, &t.e), -ENOSPC);
        error_clear(&t.e);
        assert_sound(&t);
        assert_int_equal(qcow2_resize_store(t.file, &t.h, 16ull << 40, &t.e), -EINVAL);
        assert_int_equal(t.h.size, 8ull << 40);
        assert_false(unsure);
        rig_done(&t);
}

/* Closing takes space for the bitmaps, which may move the refcount table: the header that names the bitmaps has to name the new one. */
static void test_close_moves_refcounts(void **state) {
        static const uint8_t data[65536] = { 7 };
        struct layer *layer = NULL;
        struct file *file = NULL;
        struct rig t;

        rig_init(&t);
        assert_int_equal(qcow2_create(t.file, &(struct qcow2_create){ .size = 16 * MIB, .cluster = 512 }, &t.e), 0);
        rig_load(&t, true);
        assert_int_equal(qcow2_bitmaps_add(t.b, "a", 0, true, &t.e), 0);
        assert_int_equal(rig_store(&t, false), 0);
        assert_sound(&t);
        assert_int_equal(file_open(&(struct file_options){ .fd = t.fd }, &file, &t.e), 0);
        assert_int_equal(qcow2_open(file, &(struct qcow2_options){ 0 }, &layer, &t.e), 0);
        for (uint64_t at = 0; at < 10 * MIB; at += sizeof data)
                assert_int_equal(layer_write(layer, data, at, sizeof data), 0);
        layer_close(layer);
        file_close(t.file);
        assert_int_equal(file_open(&(struct file_options){ .fd = t.fd }, &t.file, &t.e), 0);
        assert_found_nothing(&t);
        rig_load(&t, false);
        assert_false(t.h.incompatible & QCOW2_INCOMPAT_DIRTY);
        assert_range(&t, "a", 0, 0, 10 * MIB);
        rig_done(&t);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_mark),
                cmocka_unit_test(test_end_inside_a_bit),
                cmocka_unit_test(test_version_2_has_none),
                cmocka_unit_test(test_store_and_load),
                cmocka_unit_test(test_kill),
                cmocka_unit_test(test_autoclear),
                cmocka_unit_test(test_no_space),
                cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_hostile_directory),
                cmocka_unit_test(test_hostile_table),
                cmocka_unit_test(test_all_ones),
                cmocka_unit_test(test_too_many_enabled),
                cmocka_unit_test(test_changes),
                cmocka_unit_test(test_grow),
                cmocka_unit_test(test_close_moves_refcounts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
