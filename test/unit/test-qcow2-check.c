// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2 check: snapshots, bitmaps and entries that lie are found, named and mended, and so is what a broken disk hides */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/qcow2-rig.h"

/* A number in the image. */
struct lie {
        uint64_t at;
        unsigned int bytes;
        uint64_t value;
};

static void tell(struct rig *t, const struct lie *lie) {
        uint8_t v[8];

        be64_put(v, lie->value);
        assert_int_equal(file_write(t->file, v + 8 - lie->bytes, lie->bytes, lie->at), 0);
}

static unsigned int lines, about_snapshots, last_is_more;

static void count_line(void *opaque, const char *line) {
        lines++;
        about_snapshots += strstr(line, "snapshot") != NULL;
        last_is_more = strstr(line, "not listed") != NULL;
}

/* Found, mended, and the guest's data still at its place. */
static void assert_found(struct rig *t, bool mended) {
        struct qcow2_check c = check(t, 0);

        assert_true(c.corruptions > 0);
        assert_int_equal(c.corruptions_fixed + c.leaks_fixed, 0);
        check(t, QCOW2_REPAIR_ALL);
        c = check(t, 0);
        assert_true(!mended || c.corruptions + c.leaks == 0);
        assert_int_equal(get64(t, 4 * K64) & QCOW2_OFFSET_MASK, 5 * K64);
}

/* ---- snapshots: the table at cluster 7, its only L1 table at cluster 8 with the active one's content --------------- */

#define SNAPSHOTS (7 * K64)

static void rig_snapshot(struct rig *t) {
        rig_small(t);
        add_data(t, 2);
        for (unsigned int i = 4; i < 9; i++)
                put_refcount(t, i, i < 7 ? 2 : 1);
        put64(t, 3 * K64, 4 * K64); /* shared: nothing is COPIED */
        put64(t, 4 * K64, 5 * K64);
        put64(t, 4 * K64 + 8, 6 * K64);
        put64(t, 8 * K64, 4 * K64);
        put64(t, SNAPSHOTS + QCOW2_SN_L1_OFFSET, 8 * K64);
        tell(t, &(struct lie){ SNAPSHOTS + QCOW2_SN_L1_ENTRIES, 4, 1 });
        tell(t, &(struct lie){ SNAPSHOTS + QCOW2_SN_ID_SIZE, 2, 1 });
        tell(t, &(struct lie){ SNAPSHOTS + QCOW2_SN_EXTRA_SIZE, 4, 16 });
        tell(t, &(struct lie){ QCOW2_H_SNAPSHOTS, 4, 1 });
        put64(t, QCOW2_H_SNAPSHOTS_OFFSET, SNAPSHOTS);
        assert_int_equal(file_truncate(t->file, 9 * K64), 0);
}

/* A snapshot's clusters would be freed by the next repair if it were not walked. */
static void test_snapshot(void **state) {
        struct rig t;

        rig_snapshot(&t);
        assert_flawless(&t);
        put_refcount(&t, 5,
                     1); /* enough for the active table, which then ought to say COPIED, but not for the snapshot's */
        assert_mends(&t, 2, 0);
        put_refcount(&t, 6, 7);
        assert_mends(&t, 0, 1);
        put64(&t, 4 * K64 + 8, 6 * K64 | QCOW2_COPIED); /* would be overwritten in place */
        assert_mends(&t, 1, 0);
        put64(&t, 3 * K64, 4 * K64 | QCOW2_COPIED);
        assert_mends(&t, 1, 0);
        rig_done(&t);
}

/* A snapshot table that lies leads nowhere, and nothing that might be a snapshot's is freed on its account. */
static void test_hostile_snapshots(void **state) {
        static const struct lie lies[] = {
                { SNAPSHOTS + QCOW2_SN_L1_OFFSET, 8, 8 * K64 + 512 }, /* not aligned */
                { SNAPSHOTS + QCOW2_SN_L1_OFFSET, 8, 1ull << 40 },    /* not in the file */
                { SNAPSHOTS + QCOW2_SN_L1_OFFSET, 8, 0 },             /* the header */
                { SNAPSHOTS + QCOW2_SN_L1_OFFSET, 8, 3 * K64 },       /* the active table */
                { SNAPSHOTS + QCOW2_SN_L1_ENTRIES, 4, UINT32_MAX },   /* more than there may be */
                { SNAPSHOTS + QCOW2_SN_L1_ENTRIES, 4, 1 << 20 },      /* more than there are */
                { SNAPSHOTS + QCOW2_SN_EXTRA_SIZE, 4, UINT32_MAX },   /* behind the file */
                { QCOW2_H_SNAPSHOTS, 4, 65536 },                      /* entries all over the file and behind it */
                { QCOW2_H_SNAPSHOTS_OFFSET, 8, 3 * K64 },             /* the L1 table */
                { QCOW2_H_SNAPSHOTS_OFFSET, 8, 1ull << 50 },          /* not in the file */
                { 8 * K64, 8, 1ull << 50 },                           /* an L2 table that is not in the file */
        };

        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                struct qcow2_check c = { .report = count_line };
                struct rig t;

                rig_snapshot(&t);
                tell(&t, &lies[i]);
                about_snapshots = 0;
                assert_int_equal(qcow2_check(t.file, 0, &c, &t.e), 0);
                assert_true(about_snapshots > 0 || lies[i].at == 8 * K64);
                assert_found(&t, false);
                assert_true(get64(&t, 2 * K64) != 0); /* the refcounts are still there */
                rig_done(&t);
        }
}

/* ---- bitmaps: the directory at cluster 7, the table at cluster 8, bits at cluster 9 -------------------------------- */

#define DIRECTORY (7 * K64)

static void rig_bitmap(struct rig *t) {
        rig_small(t);
        add_data(t, 2);
        for (unsigned int i = 7; i < 10; i++)
                put_refcount(t, i, 1);
        put64(t, DIRECTORY + QCOW2_BM_TABLE_OFFSET, 8 * K64);
        tell(t, &(struct lie){ DIRECTORY + QCOW2_BM_TABLE_ENTRIES, 4, 1 });
        tell(t, &(struct lie){ DIRECTORY + QCOW2_BM_TYPE, 1, QCOW2_BM_TYPE_DIRTY });
        tell(t, &(struct lie){ DIRECTORY + QCOW2_BM_GRANULARITY, 1, 16 });
        tell(t, &(struct lie){ DIRECTORY + QCOW2_BM_NAME_SIZE, 2, 1 });
        tell(t, &(struct lie){ DIRECTORY + QCOW2_BM_FIXED, 1, 'b' });
        put64(t, 8 * K64, 9 * K64);
        put64(t, QCOW2_H_AUTOCLEAR, QCOW2_AUTOCLEAR_BITMAPS);
        put64(t, QCOW2_HEADER_V3, (uint64_t)QCOW2_EXT_BITMAPS << 32 | 24);
        put64(t, QCOW2_HEADER_V3 + 8, 1ull << 32);
        put64(t, QCOW2_HEADER_V3 + 16, 32);
        put64(t, QCOW2_HEADER_V3 + 24, DIRECTORY);
        put64(t, QCOW2_HEADER_V3 + 32, 0);
        assert_int_equal(file_truncate(t->file, 10 * K64), 0);
}

/* Bitmaps that lie are given up, with their space: a backup from them would miss writes, and their tables may be the guest's data. */
static void test_hostile_bitmaps(void **state) {
        static const struct lie lies[] = {
                { QCOW2_HEADER_V3 + 24, 8, 1ull << 40 },               /* the directory: not in the file */
                { QCOW2_HEADER_V3 + 24, 8, 3 * K64 },                  /* the L1 table */
                { QCOW2_HEADER_V3 + 16, 8, 16 },                       /* too short for an entry */
                { QCOW2_HEADER_V3 + 16, 8, 40 },                       /* longer than its entries */
                { QCOW2_HEADER_V3 + 8, 4, 2 },                         /* an entry less than it says */
                { DIRECTORY + QCOW2_BM_EXTRA_SIZE, 4, UINT32_MAX },    /* behind the directory */
                { DIRECTORY + QCOW2_BM_TABLE_OFFSET, 8, 8 * K64 + 8 }, /* not aligned */
                { DIRECTORY + QCOW2_BM_TABLE_OFFSET, 8, 1ull << 50 },  /* not in the file */
                { DIRECTORY + QCOW2_BM_TABLE_OFFSET, 8, DIRECTORY },   /* itself */
                { DIRECTORY + QCOW2_BM_TABLE_ENTRIES, 4, 0 },          /* nothing */
                { DIRECTORY + QCOW2_BM_TABLE_ENTRIES, 4, UINT32_MAX }, /* more than there may be */
                { 8 * K64, 8, 9 * K64 | 2 },                           /* reserved bits */
                { 8 * K64, 8, 9 * K64 | QCOW2_BITMAP_ALL_ONES },       /* contradicts itself */
                { 8 * K64, 8, 9 * K64 + 512 },                         /* not aligned */
                { 8 * K64, 8, 1ull << 50 },                            /* not in the file */
                { 8 * K64, 8, 8 * K64 },                               /* itself */
        };
        struct rig t;

        rig_bitmap(&t);
        assert_flawless(&t);
        put64(&t, 8 * K64, QCOW2_BITMAP_ALL_ONES); /* needs no cluster */
        assert_mends(&t, 0, 1);
        rig_done(&t);
        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                rig_bitmap(&t);
                tell(&t, &lies[i]);
                assert_found(&t, true);
                assert_int_equal(get64(&t, QCOW2_H_AUTOCLEAR), 0);
                rig_done(&t);
        }
}

/* ---- the map ------------------------------------------------------------------------------------------------------- */

/* An entry that contradicts itself is not guessed at: it reads as zeroes, or loses the bit that makes no sense. */
static void test_hostile_entries(void **state) {
        const uint64_t packed = qcow2_compressed_entry(6 * K64, 512, 16);
        const struct {
                struct qcow2_create shape;
                uint64_t entry, bitmap, then; /* of the second cluster */
        } bad[] = {
                { { 0 }, packed | QCOW2_COPIED, 0, packed },
                { { 0 }, qcow2_compressed_entry(512, 512, 16), 0, QCOW2_ZERO },        /* the header */
                { { 0 }, qcow2_compressed_entry(3 * K64, 512, 16), 0, QCOW2_ZERO },    /* the L1 table */
                { { 0 }, qcow2_compressed_entry(1ull << 40, 512, 16), 0, QCOW2_ZERO }, /* behind the file */
                { { .version = 2 }, 6 * K64 | QCOW2_COPIED | QCOW2_ZERO, 0, 6 * K64 | QCOW2_COPIED },
                { { .version = 2 }, 6 * K64 + 512, 0, 0 },
                { { .extended_l2 = true }, 6 * K64 | QCOW2_COPIED, 1ull << 32 | 1, 0 }, /* data and zero at once */
                { { .extended_l2 = true }, 0, 1, 0 },                                   /* data without a place */
                { { .extended_l2 = true }, 6 * K64 | QCOW2_COPIED | QCOW2_ZERO, 1, 6 * K64 | QCOW2_COPIED },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct qcow2_create o = bad[i].shape;
                uint64_t step = o.extended_l2 ? 16 : 8;
                struct rig t;

                o.size = 64 << 20;
                rig_init(&t);
                rig_create(&t, &o);
                add_data(&t, 2);
                put64(&t, 4 * K64 + 8, o.extended_l2 ? UINT32_MAX : 6 * K64 | QCOW2_COPIED);
                put64(&t, 4 * K64 + step, bad[i].entry);
                if (step == 16)
                        put64(&t, 4 * K64 + 24, bad[i].bitmap);
                assert_found(&t, true);
                assert_int_equal(get64(&t, 4 * K64 + step), bad[i].then);
                rig_done(&t);
        }
}

/* Two parts of the disk with one L2 table: a write to one would show in the other, so such an image is not opened for writing. Counted once or
 * twice, the check says so too, and mends it. */
static void test_shared_l2(void **state) {
        for (unsigned int n = 1; n <= 2; n++) {
                struct layer *layer = NULL;
                struct rig t;

                rig_init(&t);
                rig_create(&t, &(struct qcow2_create){ .size = 1 << 30 });
                add_data(&t, 2);
                put64(&t, 3 * K64, 4 * K64 | (n == 1 ? QCOW2_COPIED : 0));
                put64(&t, 3 * K64 + 8, get64(&t, 3 * K64));
                for (unsigned int i = 4; i < 7; i++)
                        put_refcount(&t, i, n);
                for (uint64_t at = 4 * K64; n == 2 && at < 4 * K64 + 16; at += 8)
                        put64(&t, at, get64(&t, at) & ~QCOW2_COPIED);
                assert_int_equal(qcow2_open(t.file, &(struct qcow2_options){ 0 }, &layer, &t.e), -EIO);
                assert_string_equal(t.e.id, "qcow2-corrupt");
                error_clear(&t.e);
                assert_found(&t, true);
                assert_int_equal(get64(&t, 3 * K64), 4 * K64 | QCOW2_COPIED);
                assert_int_equal(get64(&t, 3 * K64 + 8), 0);
                assert_int_equal(qcow2_open(t.file, &(struct qcow2_options){ 0 }, &layer, &t.e), 0);
                layer_close(layer);
                rig_open(&t, NULL);
                rig_done(&t);
        }
}

static void count_progress(void *opaque, uint64_t done, uint64_t all) {
        assert_true(done <= all);
        ++*(unsigned int *)opaque;
}

/* A report without an end would fill a disk with logs; each line of it is still counted. */
static void test_report_ends(void **state) {
        unsigned int progress = 0;
        struct qcow2_check c = { .report = count_line, .progress = count_progress, .opaque = &progress };
        struct rig t;

        rig_init(&t);
        rig_create(&t, &(struct qcow2_create){ .size = 1 << 30 });
        add_data(&t, 2);
        put64(&t, 3 * K64 + 8, 7 * K64 | QCOW2_COPIED);
        put_refcount(&t, 7, 1);
        for (unsigned int i = 0; i < 8192; i++) {
                put64(&t, 4 * K64 + 8 * i, 1ull << 40);
                put64(&t, 7 * K64 + 8 * i, 1ull << 40);
        }
        lines = 0;
        assert_int_equal(qcow2_check(t.file, 0, &c, &t.e), 0);
        assert_int_equal(c.corruptions, 16384);
        assert_int_equal(lines, 10001);
        assert_true(last_is_more);
        assert_int_equal(progress, 2);
        rig_done(&t);
}

static uint64_t unreadable; /* the cluster there */

static ssize_t failing_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        if ((uint64_t)offset / K64 == unreadable / K64) {
                errno = EIO;
                return -1;
        }
        return preadv(fd, iov, n, offset);
}

/* What can't be read may lead anywhere: it is an error, nothing is repaired on a guess, and the image stays as it is. */
static void test_unreadable(void **state) {
        static const struct {
                uint64_t at;
                int code;
        } parts[] = {
                { 0, -EIO },    { K64, -EIO },     { 2 * K64, 0 },    { 3 * K64, -EIO },
                { 4 * K64, 0 }, { 7 * K64, -EIO }, { 8 * K64, -EIO },
        };

        for (unsigned int k = 0; k < 2; k++)
                for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                        struct sys failing = sys_real;
                        struct qcow2_check c = { .report = count_line };
                        uint8_t before[8], after[8];
                        struct rig t;

                        (k ? rig_snapshot : rig_bitmap)(&t);
                        put_refcount(&t, 5, 3); /* something to mend */
                        assert_int_equal(pread(t.fd, before, 8, 2 * K64 + 8), 8);
                        file_close(t.file);
                        failing.preadv = failing_preadv;
                        unreadable = parts[i].at;
                        rig_open(&t, &failing);
                        assert_int_equal(qcow2_check(t.file, QCOW2_REPAIR_ALL, &c, &t.e), parts[i].code);
                        assert_true(parts[i].code || c.errors > 0);
                        assert_int_equal(pread(t.fd, after, 8, 2 * K64 + 8), 8);
                        assert_memory_equal(before, after, 8);
                        rig_done(&t);
                }
}

/* What the check must not touch, it leaves: readonly files, features that may refer to clusters in ways of their own. */
static void test_refusals(void **state) {
        struct qcow2_check c = { 0 };
        struct file *readonly;
        struct rig t;

        rig_small(&t);
        put_refcount(&t, 9, 1);
        assert_int_equal(file_open(&(struct file_options){ .fd = t.fd, .readonly = true }, &readonly, &t.e), 0);
        assert_int_equal(qcow2_check(readonly, QCOW2_REPAIR_ALL, &c, &t.e), -EROFS);
        assert_int_equal(qcow2_check(readonly, 0, &c, NULL), 0);
        assert_int_equal(c.leaks, 1);
        file_close(readonly);
        error_clear(&t.e);
        put64(&t, QCOW2_H_INCOMPATIBLE, 1ull << 33);
        assert_int_equal(qcow2_check(t.file, QCOW2_REPAIR_ALL, &c, &t.e), -ENOTSUP);
        assert_string_equal(t.e.id, "qcow2-feature");
        rig_done(&t);
}

/* The refcount table itself is nowhere, or where something else is: it is made anew, behind everything that is in use. */
static void test_refcount_table_lost(void **state) {
        static const struct lie lies[] = {
                { QCOW2_H_REFTABLE_OFFSET, 8, 1ull << 40 },
                { QCOW2_H_REFTABLE_OFFSET, 8, 3 * K64 },
                { QCOW2_H_REFTABLE_OFFSET, 8, 0 },
                { QCOW2_H_REFTABLE_CLUSTERS, 4, 0 },
                { K64, 8, 2 * K64 + 512 },
                { K64, 8, 1ull << 40 },
        };

        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                struct rig t;

                rig_small(&t);
                add_data(&t, 2);
                tell(&t, &lies[i]);
                assert_found(&t, true);
                rig_done(&t);
        }
}

/* More references than a refcount can hold: each is shared by as many as it can count, and nothing is freed under one. */
static void test_narrow_refcounts(void **state) {
        struct qcow2_check c = { 0 };
        struct rig t;

        rig_init(&t);
        rig_create(&t, &(struct qcow2_create){ .size = 64 << 20, .refcount_bits = 1 });
        put64(&t, 3 * K64, 4 * K64 | QCOW2_COPIED);
        put64(&t, 4 * K64, 5 * K64 | QCOW2_COPIED);
        put64(&t, 4 * K64 + 8, 5 * K64 | QCOW2_COPIED);
        tell(&t, &(struct lie){ 2 * K64, 1, 0x3f });
        assert_int_equal(file_truncate(t.file, 6 * K64), 0);
        assert_int_equal(qcow2_check(t.file, QCOW2_REPAIR_ALL, &c, &t.e), 0);
        assert_true(c.corruptions > c.corruptions_fixed);
        assert_int_equal(get64(&t, 4 * K64) & QCOW2_OFFSET_MASK, 5 * K64);
        rig_done(&t);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_snapshot),         cmocka_unit_test(test_hostile_snapshots),
                cmocka_unit_test(test_hostile_bitmaps),  cmocka_unit_test(test_hostile_entries),
                cmocka_unit_test(test_report_ends),      cmocka_unit_test(test_unreadable),
                cmocka_unit_test(test_refusals),         cmocka_unit_test(test_refcount_table_lost),
                cmocka_unit_test(test_narrow_refcounts), cmocka_unit_test(test_shared_l2),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
