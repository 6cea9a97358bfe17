// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2 without opening it: images are created whole or not at all, damage is found, named and mended, hostile claims cost nothing */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/unit/qcow2-rig.h"
#include "vmm/block/qcow2/compress.h"

/* Every combination that may be created is flawless and says of itself what was asked for. */
static void test_create_combinations(void **state) {
        static const uint32_t clusters[] = { 512, 4096, 65536, 2 << 20 };

        for (unsigned int i = 0; i < ELEMENTSOF(clusters) * 7 * 8; i++) {
                struct qcow2_create o = { .cluster = clusters[i % 4],
                                          .refcount_bits = 1u << i / 4 % 7,
                                          .size = 9 << 20 };
                struct qcow2_info info;
                char *strings = NULL;
                struct rig t;

                o.extended_l2 = i / 28 & 1 && o.cluster >= 16384;
                o.preallocate_metadata = i / 28 & 2;
                o.compression = i / 28 & 4 ? QCOW2_ZSTD : QCOW2_ZLIB;
                rig_init(&t);
                rig_create(&t, &o);
                assert_flawless(&t);
                assert_int_equal(qcow2_peek(t.file, &info, &strings, &t.e), 0);
                assert_int_equal(info.cluster, o.cluster);
                assert_int_equal(info.refcount_bits, o.refcount_bits);
                assert_int_equal(info.size, o.size);
                assert_int_equal(info.compression, o.compression);
                assert_int_equal(info.extended_l2, o.extended_l2);
                free(strings);
                rig_done(&t);
        }
}

/* A name and its format come back, and don't end up in each other. */
static void test_create_backing(void **state) {
        struct qcow2_create o = {
                .size = 1 << 20, .cluster = 512, .backing_file = "a/base.raw", .backing_format = "raw"
        };
        struct qcow2_info info;
        char *strings = NULL;
        struct rig t;

        rig_init(&t);
        rig_create(&t, &o);
        assert_int_equal(qcow2_peek(t.file, &info, &strings, &t.e), 0);
        assert_string_equal(info.backing_file, "a/base.raw");
        assert_string_equal(info.backing_format, "raw");
        assert_null(info.data_file);
        free(strings);
        rig_done(&t);
}

/* What the format has no place for is refused before the old content is lost. */
static void test_create_refuses(void **state) {
        static const struct qcow2_create bad[] = {
                { .size = 511 },
                { .size = 1ull << 62, .cluster = 512 },
                { .cluster = 256 },
                { .cluster = 4 << 20 },
                { .cluster = 3000 },
                { .refcount_bits = 3 },
                { .refcount_bits = 128 },
                { .version = 4 },
                { .version = 2, .refcount_bits = 8 },
                { .version = 2, .compression = QCOW2_ZSTD },
                { .version = 2, .lazy_refcounts = true },
                { .version = 2, .extended_l2 = true },
                { .extended_l2 = true, .cluster = 8192 },
                { .backing_file = "x" },
                { .backing_format = "raw" },
                { .backing_file = "x", .backing_format = "raw", .preallocate_metadata = true },
                { .compression = (enum qcow2_compression)2 },
        };
        struct rig t;

        rig_init(&t);
        assert_int_equal(file_write(t.file, "precious", 8, 0), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                assert_int_equal(qcow2_create(t.file, &bad[i], &t.e), -EINVAL);
                assert_string_equal(t.e.id, "qcow2-create");
                assert_non_null(t.e.fix);
                error_clear(&t.e);
                assert_int_equal(file_size(t.file), 8);
        }
        rig_done(&t);
}

/* Too little would fill a host's disk in the middle of a copy. */
static void test_measure(void **state) {
        struct qcow2_create o = { .size = 1ull << 30 };
        uint64_t required = 0, full = 0;
        struct rig t;

        assert_int_equal(qcow2_measure(&o, 0, &required, &full, NULL), 0);
        assert_int_equal(required, 393216); /* what qemu-img measure --size 1G says */
        assert_int_equal(full, 1074135040);
        o.preallocate_metadata = true;
        o.size = 9 << 20;
        rig_init(&t);
        rig_create(&t, &o);
        assert_int_equal(qcow2_measure(&o, 0, &required, &full, NULL), 0);
        assert_int_equal(required, full);
        assert_int_equal(file_size(t.file), full);
        rig_done(&t);
}

/* A leak costs space only: it is given back, and counts as no damage. */
static void test_leak(void **state) {
        struct qcow2_check c;
        struct rig t;

        rig_small(&t);
        add_data(&t, 3);
        assert_flawless(&t);
        put64(&t, 4 * K64 + 8, 0);
        c = check(&t, QCOW2_REPAIR_LEAKS);
        assert_int_equal(c.leaks, 1);
        assert_int_equal(c.leaks_fixed, 1);
        assert_int_equal(c.corruptions, 0);
        assert_flawless(&t);
        rig_done(&t);
}

/* A cluster in use without a refcount would be given out again. */
static void test_refcount_too_low(void **state) {
        struct rig t;

        rig_small(&t);
        add_data(&t, 3);
        put_refcount(&t, 6, 0);
        assert_mends(&t, 2, 0); /* the refcount, and so COPIED */
        rig_done(&t);
}

/* Two guest clusters at one place: a write to one must not change the other. */
static void test_cross_linked(void **state) {
        struct rig t;

        rig_small(&t);
        add_data(&t, 3);
        put64(&t, 4 * K64 + 8, 5 * K64 | QCOW2_COPIED);
        assert_mends(&t, 1, 1);
        assert_int_equal(get64(&t, 4 * K64), 5 * K64);
        assert_int_equal(get64(&t, 4 * K64 + 8), 5 * K64);
        rig_done(&t);
}

/* An entry that points at metadata would let the guest read and write it. */
static void test_points_at_metadata(void **state) {
        static const uint64_t at[] = { K64, 2 * K64, 3 * K64, 4 * K64, 1ull << 50, 5 * K64 + 512 };
        struct rig t;

        for (size_t i = 0; i < ELEMENTSOF(at); i++) {
                rig_small(&t);
                add_data(&t, 3);
                put64(&t, 4 * K64 + 16, at[i] | QCOW2_COPIED);
                assert_true(check(&t, 0).corruptions > 0);
                check(&t, QCOW2_REPAIR_ALL);
                assert_flawless(&t);
                assert_int_equal(get64(&t, 4 * K64 + 16), QCOW2_ZERO);
                rig_done(&t);
        }
}

/* So would an L2 table that is the header, the L1 table, or not there. */
static void test_l1_points_at_metadata(void **state) {
        static const uint64_t at[] = { 3 * K64, 1ull << 40, K64 + 512, 1ull << 55 };
        struct rig t;

        for (size_t i = 0; i < ELEMENTSOF(at); i++) {
                rig_small(&t);
                put64(&t, 3 * K64, at[i] | QCOW2_COPIED);
                assert_mends(&t, 1, 0);
                assert_int_equal(get64(&t, 3 * K64), 0);
                rig_done(&t);
        }
}

/* A compressed cluster has no subclusters: which of the two the entry means can't be told. */
static void test_compressed_subclusters(void **state) {
        struct qcow2_create o = { .size = 64 << 20, .extended_l2 = true };
        struct rig t;

        rig_init(&t);
        rig_create(&t, &o);
        add_data(&t, 1);
        put64(&t, 4 * K64, qcow2_compressed_entry(5 * K64, 512, 16));
        put64(&t, 4 * K64 + 8, 1);
        assert_mends(&t, 1, 1);
        assert_int_equal(get64(&t, 4 * K64), 0);
        assert_int_equal(get64(&t, 4 * K64 + 8), 0xffffffff00000000);
        rig_done(&t);
}

/* Bits that must not be there are taken away, and nothing else: the table behind the entry is good. */
static void test_reserved_bits(void **state) {
        struct rig t;

        rig_small(&t);
        add_data(&t, 3);
        put64(&t, 3 * K64, 4 * K64 | QCOW2_COPIED | 0x46 | 1ull << 60);
        put64(&t, 4 * K64 + 8, 6 * K64 | QCOW2_COPIED | 4);
        assert_mends(&t, 2, 0);
        assert_int_equal(get64(&t, 3 * K64), 4 * K64 | QCOW2_COPIED);
        assert_int_equal(get64(&t, 4 * K64 + 8), 6 * K64 | QCOW2_COPIED);
        rig_done(&t);
}

/* Writes left before the process "dies": the test's threads are one. */
static int writes_left;

static ssize_t dying_pwrite(int fd, const void *buf, size_t n, off_t offset) {
        if (writes_left-- <= 0) {
                errno = EIO;
                return -1;
        }
        return pwrite(fd, buf, n, offset);
}

static ssize_t dying_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        if (writes_left-- <= 0) {
                errno = EIO;
                return -1;
        }
        return pwritev(fd, iov, n, offset);
}

/* A repair that is killed after any write leaves an image that the next repair mends, with the data where it was. */
static void test_killed_repair(void **state) {
        for (int i = 0, done = 0; !done; i++) {
                struct qcow2_check c = { 0 };
                struct sys dying = sys_real;
                struct rig t;

                rig_small(&t);
                add_data(&t, 6);
                put64(&t, 4 * K64 + 8, 5 * K64 | QCOW2_COPIED); /* cross-linked, and a leak */
                put64(&t, 4 * K64 + 16, K64);                   /* metadata */
                put_refcount(&t, 8, 0);
                if (i % 2)
                        put64(&t, K64 + 16, 3 * K64); /* asks for a rebuild */
                file_close(t.file);
                dying.pwrite = dying_pwrite;
                dying.pwritev = dying_pwritev;
                rig_open(&t, &dying);
                writes_left = i / 2;
                done = qcow2_check(t.file, QCOW2_REPAIR_ALL, &c, &t.e) == 0 && i % 2;
                error_clear(&t.e);
                file_close(t.file);
                rig_open(&t, NULL);
                check(&t, QCOW2_REPAIR_ALL);
                assert_flawless(&t);
                assert_int_equal(get64(&t, 4 * K64) & QCOW2_OFFSET_MASK, 5 * K64);
                assert_int_equal(get64(&t, 4 * K64 + 16), QCOW2_ZERO);
                assert_int_equal(get64(&t, 4 * K64 + 24), 8 * K64 | QCOW2_COPIED);
                rig_done(&t);
                assert_true(i < 100);
        }
}

/* A refcount table that leads to itself, outside, or to the same block again and again is rebuilt, and ends. */
static void test_refcount_table(void **state) {
        static const uint64_t at[] = { K64, 3 * K64, 4 * K64, 1ull << 60, 2 * K64 + 1, 0 };
        struct rig t;

        for (size_t i = 0; i < ELEMENTSOF(at); i++) {
                rig_small(&t);
                add_data(&t, 3);
                put64(&t, K64, at[i]);
                assert_true(check(&t, 0).corruptions > 0);
                check(&t, QCOW2_REPAIR_ALL);
                assert_flawless(&t);
                assert_int_equal(get64(&t, 4 * K64 + 16), 7 * K64 | QCOW2_COPIED); /* the data is still where it was */
                rig_done(&t);
        }
        rig_small(&t);
        for (uint64_t i = 1; i < 8192; i++)
                put64(&t, K64 + 8 * i, 2 * K64);
        assert_mends(&t, 8191, 0);
        rig_done(&t);
}

/* The bits that ask for an examination go away when it found nothing more, and not before. */
static void test_dirty_bit(void **state) {
        struct rig t;

        rig_small(&t);
        add_data(&t, 1);
        put64(&t, QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
        put64(&t, 4 * K64, 9 * K64);
        check(&t, 0);
        assert_int_equal(get64(&t, QCOW2_H_INCOMPATIBLE), QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
        check(&t, QCOW2_REPAIR_LEAKS);
        assert_int_equal(get64(&t, QCOW2_H_INCOMPATIBLE), QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
        check(&t, QCOW2_REPAIR_ALL);
        assert_int_equal(get64(&t, QCOW2_H_INCOMPATIBLE), 0);
        assert_flawless(&t);
        rig_done(&t);
}

/* Nothing may be freed while some reference could not be followed: the cluster may be its. */
static void test_no_freeing_in_the_dark(void **state) {
        struct qcow2_check c;
        struct rig t;

        rig_small(&t);
        add_data(&t, 3);
        put64(&t, 3 * K64, 4 * K64 + 512);
        c = check(&t, QCOW2_REPAIR_LEAKS);
        assert_int_equal(c.leaks, 4);
        assert_int_equal(c.leaks_fixed, 0);
        rig_done(&t);
}

static uint64_t bytes_read;

static ssize_t counting_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        ssize_t r = preadv(fd, iov, n, offset);

        bytes_read += r > 0 ? (uint64_t)r : 0;
        return r;
}

#if defined(__has_feature)
#        define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#        define SANITIZED 1
#else
#        define SANITIZED 0
#endif

/* A few kilobytes that claim exabytes cost neither memory nor time. */
static void test_absurd_sizes(void **state) {
        struct rlimit limit, small = { 1ull << 30, 1ull << 30 };
        struct sys counting = sys_real;
        struct qcow2_check c;
        struct rig t;

        rig_init(&t);
        rig_create(&t, &(struct qcow2_create){ .size = 1ull << 50, .cluster = 2 << 20 });
        assert_int_equal(ftruncate(t.fd, 1ll << 50), 0);
        file_close(t.file);
        counting.preadv = counting_preadv;
        rig_open(&t, &counting);
        for (uint64_t i = 0; i < 2048; i++) /* L2 tables that are holes, all over the file */
                put64(&t, get64(&t, QCOW2_H_L1_OFFSET) + 8 * i, (1ull << 49) + (i << 30));
        assert_int_equal(getrlimit(RLIMIT_AS, &limit), 0);
        small.rlim_max = limit.rlim_max;
        if (!SANITIZED) /* the sanitizers' shadow memory is part of the address space */
                assert_int_equal(setrlimit(RLIMIT_AS, &small), 0);
        bytes_read = 0;
        c = check(&t, 0);
        assert_true(bytes_read < 64 << 20); /* the holes are 1 GiB of tables */
        assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
        assert_true(c.corruptions >= 1024);
        rig_done(&t);
}

/* Fields of the header that lead out of bounds are refused by name. */
static void test_hostile_headers(void **state) {
        static const struct {
                unsigned int at, bytes;
                uint64_t value;
                const char *id;
        } bad[] = {
                { QCOW2_H_MAGIC, 4, 0, "qcow2-magic" },
                { QCOW2_H_VERSION, 4, 9, "qcow2-version" },
                { QCOW2_H_CLUSTER_BITS, 4, 8, "qcow2-header" },
                { QCOW2_H_CLUSTER_BITS, 4, 63, "qcow2-header" },
                { QCOW2_H_CLUSTER_BITS, 4, UINT32_MAX, "qcow2-header" },
                { QCOW2_H_SIZE, 8, UINT64_MAX, "qcow2-header" },
                { QCOW2_H_SIZE, 8, 1ull << 62, "qcow2-header" },
                { QCOW2_H_L1_ENTRIES, 4, UINT32_MAX, "qcow2-header" },
                { QCOW2_H_L1_ENTRIES, 4, 0, "qcow2-header" },
                { QCOW2_H_L1_OFFSET, 8, 7, "qcow2-header" },
                { QCOW2_H_L1_OFFSET, 8, 1ull << 63, "qcow2-header" },
                { QCOW2_H_REFTABLE_OFFSET, 8, 1, "qcow2-header" },
                { QCOW2_H_REFTABLE_CLUSTERS, 4, UINT32_MAX, "qcow2-header" },
                { QCOW2_H_SNAPSHOTS, 4, UINT32_MAX, "qcow2-header" },
                { QCOW2_H_REFCOUNT_ORDER, 4, 7, "qcow2-header" },
                { QCOW2_H_LENGTH, 4, 100, "qcow2-header" },
                { QCOW2_H_LENGTH, 4, 65544, "qcow2-header" },
                { QCOW2_H_COMPRESSION, 1, 1, "qcow2-header" },
                { QCOW2_H_BACKING_OFFSET, 8, UINT64_MAX, "qcow2-header" },
                { QCOW2_HEADER_V3 + 4, 4, UINT32_MAX, "qcow2-header" }, /* an extension's length */
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct qcow2_header h = { 0 };
                uint8_t b[8];
                struct rig t;

                rig_small(&t);
                be64_put(b, bad[i].value);
                assert_int_equal(file_write(t.file, b + 8 - bad[i].bytes, bad[i].bytes, bad[i].at), 0);
                assert_true(qcow2_header_load(t.file, &h, &t.e) < 0);
                assert_string_equal(t.e.id, bad[i].id);
                rig_done(&t);
        }
}

/* What we can't serve is refused with a reason; what is unknown keeps its place when the header is written again. */
static void test_header_refusals_and_unknowns(void **state) {
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 }, again = { 0 };
        static const uint8_t other[16] = { 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o' };
        struct rig t;

        rig_small(&t);
        assert_int_equal(file_write(t.file, other, sizeof other, QCOW2_HEADER_V3), 0);
        put64(&t, QCOW2_HEADER_V3 + 16, 0);
        assert_int_equal(qcow2_header_load(t.file, &h, &t.e), 0);
        assert_int_equal(h.others_size, sizeof other);
        assert_int_equal(qcow2_header_refuse(&h, true, &t.e), 0);
        assert_int_equal(qcow2_header_fits(&h, t.file, &t.e), 0);
        h.n_snapshots = 1;
        assert_int_equal(qcow2_header_refuse(&h, false, &t.e), 0);
        assert_int_equal(qcow2_header_refuse(&h, true, &t.e), -ENOTSUP);
        assert_string_equal(t.e.id, "qcow2-snapshots");
        error_clear(&t.e);
        h.n_snapshots = 0;
        h.incompatible |= 1ull << 40;
        assert_int_equal(qcow2_header_refuse(&h, false, &t.e), -ENOTSUP);
        assert_string_equal(t.e.id, "qcow2-feature");
        h.incompatible &= ~(1ull << 40);
        assert_int_equal(qcow2_header_store(t.file, &h, &t.e), 0);
        assert_int_equal(qcow2_header_load(t.file, &again, &t.e), 0);
        assert_memory_equal(again.others, other, sizeof other);
        assert_flawless(&t);
        rig_done(&t);
}

/* What goes in comes out, behind it may lie anything, and damage is noticed instead of overrunning the cluster. */
static void test_compress(void **state) {
        static uint8_t in[65536], small[65536], out[65536 + 1];

        for (size_t i = 0; i < sizeof in; i++)
                in[i] = (uint8_t)(i / 97 * 31);
        for (enum qcow2_compression type = QCOW2_ZLIB; type <= QCOW2_ZSTD; type++) {
                _cleanup_(qcow2_codec_freep) struct qcow2_codec *codec = NULL;
                size_t n = 0;

                assert_int_equal(qcow2_codec_new(type, &codec), 0);
                assert_int_equal(qcow2_compress(codec, in, sizeof in, small, sizeof small - 1, &n), 0);
                assert_true(n < sizeof in / 4);
                memset(small + n, 0xa5, 511); /* the rest of the sector */
                out[65536] = 7;
                assert_int_equal(qcow2_decompress(codec, small, n + 511, out, 65536), 0);
                assert_memory_equal(in, out, sizeof in);
                assert_int_equal(qcow2_decompress(codec, small, n + 511, out, 4096), -EIO); /* more than a cluster */
                assert_int_equal(qcow2_decompress(codec, small, n / 2, out, 65536), -EIO);  /* cut off */
                memset(small + 8, 0xff, 64);
                assert_int_equal(qcow2_decompress(codec, small, n, out, 65536), -EIO);
                assert_int_equal(out[65536], 7);
                assert_int_equal(qcow2_compress(codec, in, sizeof in, small, 16, &n), -ENOSPC);
        }
        assert_int_equal(qcow2_codec_new((enum qcow2_compression)7, NULL), -ENOTSUP);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_create_combinations),
                cmocka_unit_test(test_create_backing),
                cmocka_unit_test(test_create_refuses),
                cmocka_unit_test(test_measure),
                cmocka_unit_test(test_leak),
                cmocka_unit_test(test_refcount_too_low),
                cmocka_unit_test(test_cross_linked),
                cmocka_unit_test(test_points_at_metadata),
                cmocka_unit_test(test_l1_points_at_metadata),
                cmocka_unit_test(test_compressed_subclusters),
                cmocka_unit_test(test_reserved_bits),
                cmocka_unit_test(test_killed_repair),
                cmocka_unit_test(test_refcount_table),
                cmocka_unit_test(test_dirty_bit),
                cmocka_unit_test(test_no_freeing_in_the_dark),
                cmocka_unit_test(test_absurd_sizes),
                cmocka_unit_test(test_hostile_headers),
                cmocka_unit_test(test_header_refusals_and_unknowns),
                cmocka_unit_test(test_compress),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
