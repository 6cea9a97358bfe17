// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2, opened: what can't be served is refused by name, what turns out to be damaged stops all changes */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/qcow2-rig.h"
#include "vmm/block/qcow2/resize.h"

/* Up to four numbers of eight bytes, each with its place; 0, 0 ends. */
struct lie {
        uint64_t at, value;
};

static void tell(struct rig *t, const struct lie *lies, size_t n) {
        for (size_t i = 0; i < n && (lies[i].at || lies[i].value); i++)
                put64(t, lies[i].at, lies[i].value);
}

static struct layer *open_layer(struct rig *t, const struct qcow2_options *o) {
        struct layer *layer = NULL;

        error_clear(&t->e);
        assert_int_equal(qcow2_open(t->file, o, &layer, &t->e), 0);
        return layer;
}

/* Closes the layer and with it the file; another one follows. */
static void reopen(struct rig *t, struct layer *layer) {
        layer_close(layer);
        rig_open(t, NULL);
}

static void refused(struct rig *t, const struct qcow2_options *o, int code, const char *id) {
        struct layer *layer = NULL;

        error_clear(&t->e);
        assert_int_equal(qcow2_open(t->file, o, &layer, &t->e), code);
        assert_string_equal(t->e.id, id);
        assert_null(layer);
}

#define EXT(type, n) ((uint64_t)(type) << 32 | (n))
#define V3           QCOW2_HEADER_V3

static const struct {
        struct lie lies[5];
        const char *id; /* NULL: it is good */
} extensions[] = {
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 16) } }, "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 24) }, { QCOW2_H_AUTOCLEAR, 1 } }, "qcow2-header" }, /* none */
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 24) }, { QCOW2_H_AUTOCLEAR, 1 }, { V3 + 8, UINT64_MAX } }, "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 24) }, { QCOW2_H_AUTOCLEAR, 1 }, { V3 + 8, 1ull << 32 | 1 } },
          "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 24) },
            { QCOW2_H_AUTOCLEAR, 1 },
            { V3 + 8, 1ull << 32 },
            { V3 + 16, UINT64_MAX },
            { V3 + 24, K64 } },
          "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 24) },
            { QCOW2_H_AUTOCLEAR, 1 },
            { V3 + 8, 1ull << 32 },
            { V3 + 16, 32 },
            { V3 + 24, 1ull << 60 } },
          "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_BITMAPS, 24) }, { V3 + 8, UINT64_MAX } }, NULL }, /* without its bit it is void */
        { { { V3, EXT(QCOW2_EXT_FEATURE_NAMES, 0) } }, NULL },
        { { { V3, EXT(QCOW2_EXT_FEATURE_NAMES, 48) }, { V3 + 56, EXT(QCOW2_EXT_FEATURE_NAMES, 48) } }, "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_CRYPTO, 8) } }, "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_CRYPTO, 16) }, { V3 + 8, 7 } }, "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_CRYPTO, 16) }, { V3 + 16, UINT64_MAX } }, "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_CRYPTO, 16) }, { V3 + 8, QCOW2_OFFSET_END - K64 }, { V3 + 16, 2 * K64 } },
          "qcow2-header" },
        { { { V3, EXT(QCOW2_EXT_CRYPTO, 16) }, { V3 + 8, 6 * K64 }, { V3 + 16, 512 } }, NULL },
        { { { V3, EXT(QCOW2_EXT_DATA_FILE, 3) }, { V3 + 8, 0x4142430000000000 } }, NULL },
        { { { V3, EXT(QCOW2_EXT_BACKING_FORMAT, 8) }, { V3 + 8, 0x7261770000000000 } }, NULL },
        { { { V3, EXT(0x12345678, K64) } }, "qcow2-header" },
        { { { QCOW2_H_BACKING_OFFSET, K64 - 4 }, { QCOW2_H_BACKING_SIZE - 4, 0 } }, NULL }, /* an empty name */
        { { { QCOW2_H_SNAPSHOTS, 1ull << 32 }, { QCOW2_H_SNAPSHOTS_OFFSET, 12 } }, "qcow2-header" },
        { { { QCOW2_H_SNAPSHOTS, 1ull << 32 }, { QCOW2_H_SNAPSHOTS_OFFSET, 1ull << 60 } }, "qcow2-header" },
        { { { QCOW2_H_L1_OFFSET, 0 } }, "qcow2-header" },
        { { { QCOW2_H_REFTABLE_OFFSET, 1ull << 60 } }, "qcow2-header" },
        { { { QCOW2_H_REFCOUNT_ORDER, 4ull << 32 | 120 }, { V3, 0x1122334455667788 }, { V3 + 8, 0 } }, NULL },
};

/* Strings and tables behind the header come from anybody: what leads out of it, or contradicts itself, is refused and not followed. */
static void test_hostile_extensions(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(extensions); i++) {
                _cleanup_qcow2_header_ struct qcow2_header h = { 0 }, again = { 0 };
                struct rig t;
                int r;

                rig_small(&t);
                for (unsigned int k = 0; k < 16; k++)
                        put64(&t, V3 + 8 * k, 0);
                tell(&t, extensions[i].lies, ELEMENTSOF(extensions[i].lies));
                r = qcow2_header_load(t.file, &h, &t.e);
                assert_int_equal(r, extensions[i].id ? -EUCLEAN : 0);
                if (extensions[i].id) {
                        assert_string_equal(t.e.id, extensions[i].id);
                } else { /* what is good survives being written again */
                        assert_int_equal(qcow2_header_store(t.file, &h, &t.e), 0);
                        assert_int_equal(qcow2_header_load(t.file, &again, &t.e), 0);
                        assert_int_equal(again.crypto_offset, h.crypto_offset);
                        assert_int_equal(again.tail_size, h.tail_size);
                        assert_int_equal(!h.data_file, !again.data_file);
                        assert_int_equal(again.others_size, h.others_size);
                }
                rig_done(&t);
        }
}

/* The backing file's name may begin right behind an extension and so cut its padding off: what the extension says counts to its last byte. */
static void test_extension_without_padding(void **state) {
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 }, again = { 0 };
        static const uint8_t other[16] = { 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o' };
        struct rig t;

        rig_small(&t);
        put64(&t, V3, EXT(QCOW2_EXT_BACKING_FORMAT, 3));
        put64(&t, V3 + 8, 0x7261770000000000);
        assert_int_equal(file_write(t.file, other, 13, V3 + 16), 0);
        assert_int_equal(file_write(t.file, "name", 4, V3 + 29), 0);
        put64(&t, QCOW2_H_BACKING_OFFSET, V3 + 29);
        assert_int_equal(file_write(t.file, (uint8_t[4]){ 0, 0, 0, 4 }, 4, QCOW2_H_BACKING_SIZE), 0);
        for (unsigned int i = 0; i < 2; i++) {
                assert_int_equal(qcow2_header_load(t.file, &h, &t.e), 0);
                assert_string_equal(h.backing_file, "name");
                assert_string_equal(h.backing_format, "raw");
                assert_int_equal(h.others_size, sizeof other);
                assert_memory_equal(h.others, other, sizeof other);
                assert_int_equal(qcow2_header_store(t.file, &h, &t.e), 0);
                qcow2_header_done(&h);
        }
        put64(&t, V3, EXT(QCOW2_EXT_BACKING_FORMAT, 5)); /* and a string */
        put64(&t, V3 + 8, 0x71636f7732000000);
        assert_int_equal(file_write(t.file, "name", 4, V3 + 13), 0);
        put64(&t, QCOW2_H_BACKING_OFFSET, V3 + 13);
        assert_int_equal(qcow2_header_load(t.file, &again, &t.e), 0);
        assert_string_equal(again.backing_format, "qcow2");
        assert_string_equal(again.backing_file, "name");
        rig_done(&t);
}

/* A disk has whole sectors: a layer that has not would be read behind its end. */
static void test_odd_size(void **state) {
        struct layer *layer;
        struct rig t;

        rig_small(&t);
        put64(&t, QCOW2_H_SIZE, (64 << 20) - 100);
        layer = open_layer(&t, &(struct qcow2_options){ 0 });
        assert_int_equal(atomic_load(&layer->size), (64 << 20) - 512);
        assert_int_equal(layer->ops->resize(layer, 64 << 20, &t.e), 0);
        reopen(&t, layer);
        assert_int_equal(get64(&t, QCOW2_H_SIZE), 64 << 20);
        rig_done(&t);
}

/* A file that ends inside the header, or has a header of another shape. */
static void test_short_headers(void **state) {
        static const struct {
                uint64_t size;
                const char *id;
        } cases[] = { { 0, "qcow2-magic" }, { 71, "qcow2-magic" }, { 72, "qcow2-header" }, { 103, "qcow2-header" } };
        struct qcow2_header h = { 0 };
        struct rig t;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                rig_small(&t);
                assert_int_equal(file_truncate(t.file, cases[i].size), 0);
                assert_int_equal(qcow2_header_load(t.file, &h, &t.e), -EUCLEAN);
                assert_string_equal(t.e.id, cases[i].id);
                rig_done(&t);
        }
}

/* A name for which there is no room must not be cut off: it would be another file's. */
static void test_header_is_full(void **state) {
        static char name[QCOW2_BACKING_NAME_MAX + 2];
        struct qcow2_create o = { .size = 1 << 20, .backing_file = name, .backing_format = "raw" };
        struct rig t;

        rig_init(&t);
        memset(name, 'n', sizeof name - 1);
        assert_int_equal(qcow2_create(t.file, &o, &t.e), -EINVAL);
        assert_string_equal(t.e.id, "qcow2-create");
        error_clear(&t.e);
        name[400] = '\0';
        o.cluster = 512;
        assert_int_equal(qcow2_create(t.file, &o, &t.e), -ENOSPC);
        assert_string_equal(t.e.id, "qcow2-header-full");
        error_clear(&t.e);
        name[0] = '\0';
        assert_int_equal(qcow2_create(t.file, &o, &t.e), -EINVAL);
        assert_int_equal(file_size(t.file), 0); /* whatever was there before is still there */
        rig_done(&t);
}

/* Each reason for which we can't serve an image has a name of its own, and a file that was refused is still the caller's. */
static void test_refusals(void **state) {
        static const struct {
                struct lie lies[2];
                int code;
                const char *id;
                bool readable;
        } cases[] = {
                { { { QCOW2_H_CRYPT, 1ull << 32 | 1 } }, -ENOTSUP, "qcow2-encrypted", false },
                { { { QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_DATA_FILE } }, -ENOTSUP, "qcow2-data-file", false },
                { { { QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_COMPRESSION }, { QCOW2_H_COMPRESSION, 7ull << 56 } },
                  -ENOTSUP,
                  "qcow2-feature",
                  false },
                { { { QCOW2_H_INCOMPATIBLE, 1ull << 40 } }, -ENOTSUP, "qcow2-feature", false },
                { { { QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_CORRUPT } }, -EIO, "qcow2-corrupt", true },
                { { { QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_DIRTY } }, -EIO, "qcow2-dirty", true },
                { { { QCOW2_H_SNAPSHOTS, 1ull << 32 }, { QCOW2_H_SNAPSHOTS_OFFSET, 6 * K64 } },
                  -ENOTSUP,
                  "qcow2-snapshots",
                  true },
                { { { QCOW2_H_REFTABLE_OFFSET, 1ull << 40 } }, -EUCLEAN, "qcow2-header", false },
                { { { QCOW2_H_L1_OFFSET, 1ull << 40 } }, -EUCLEAN, "qcow2-header", false },
                { { { QCOW2_H_L1_OFFSET, K64 } }, -EUCLEAN, "qcow2-header", false },
                /* tables where other tables are, and outside the file */
                { { { 3 * K64, 3 * K64 } }, -EIO, "qcow2-corrupt", true },
                { { { 3 * K64, 1ull << 40 } }, -EIO, "qcow2-corrupt", true },
                { { { K64, 3 * K64 } }, -EIO, "qcow2-corrupt", true },
                { { { K64, 2 * K64 + 512 } }, -EIO, "qcow2-corrupt", true },
        };
        const struct qcow2_options readonly = { .readonly = true }, writable = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint8_t before[4096], after[4096];
                struct rig t;

                rig_small(&t);
                add_data(&t, 2);
                tell(&t, cases[i].lies, ELEMENTSOF(cases[i].lies));
                assert_int_equal(file_read(t.file, before, sizeof before, 0), 0);
                refused(&t, &writable, cases[i].code, cases[i].id);
                if (cases[i].readable)
                        reopen(&t, open_layer(&t, &readonly));
                else
                        refused(&t, &readonly, cases[i].code, cases[i].id);
                assert_int_equal(file_read(t.file, after, sizeof after, 0), 0);
                assert_memory_equal(before, after, sizeof before);
                rig_done(&t);
        }
}

/* The image's own name for a feature helps; it is the image's word, so it is cut and quoted. */
static void test_feature_is_named(void **state) {
        const struct qcow2_options o = { 0 };
        struct rig t;

        rig_small(&t);
        put64(&t, V3, EXT(QCOW2_EXT_FEATURE_NAMES, 48));
        put64(&t, V3 + 8, (uint64_t)40 << 48 | 0x6d6167696300); /* "magic" */
        for (unsigned int i = 2; i < 9; i++)
                put64(&t, V3 + 8 * i, 0);
        put64(&t, QCOW2_H_INCOMPATIBLE, 1ull << 40);
        refused(&t, &o, -ENOTSUP, "qcow2-feature");
        assert_non_null(strstr(t.e.message, "(incompatible bit 40)"));
        assert_non_null(strstr(t.e.message, "'magic'"));
        rig_done(&t);
}

/* A writer must clear what it can't keep true; a reader must not write at all. */
static void test_autoclear(void **state) {
        const struct qcow2_options readonly = { .readonly = true }, writable = { 0 };
        struct layer *layer;
        struct rig t;

        rig_small(&t);
        put64(&t, QCOW2_H_AUTOCLEAR, 1ull << 50);
        layer = open_layer(&t, &readonly);
        assert_int_equal(layer->ops->resize(layer, 1 << 20, &t.e), -EROFS);
        error_clear(&t.e);
        assert_int_equal(qcow2_set_backing(layer, "x", "raw", &t.e), -EROFS);
        assert_int_equal(layer_zero(layer, 0, 512, true), -EROFS);
        assert_int_equal(layer_flush(layer), 0);
        reopen(&t, layer);
        assert_int_equal(get64(&t, QCOW2_H_AUTOCLEAR), 1ull << 50);
        reopen(&t, open_layer(&t, &writable));
        assert_int_equal(get64(&t, QCOW2_H_AUTOCLEAR), 0);
        rig_done(&t);
}

/* Sizes that the format has no place for, and images of which a part would not follow, keep the size that they have. */
static void test_resize_refusals(void **state) {
        static const uint64_t sizes[] = { 511, 1ull << 63, INT64_MAX & ~511ull };
        struct qcow2_header h = { .version = 3, .cluster_bits = 16, .n_snapshots = 1 };
        const struct qcow2_options o = { 0 };
        struct layer *layer;
        struct rig t;

        rig_small(&t);
        layer = open_layer(&t, &o);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                assert_int_equal(layer->ops->resize(layer, sizes[i], &t.e), -EINVAL);
                assert_string_equal(t.e.id, "qcow2-resize");
                error_clear(&t.e);
        }
        assert_int_equal(layer->ops->resize(layer, 64 << 20, &t.e), 0); /* as it is */
        assert_int_equal(qcow2_resize_check(&h, 1 << 20, &t.e), -ENOTSUP);
        error_clear(&t.e);
        h.n_snapshots = 0;
        h.bitmaps.n = 1;
        assert_int_equal(qcow2_resize_check(&h, 1 << 20, &t.e), -ENOTSUP);
        reopen(&t, layer);
        assert_int_equal(get64(&t, QCOW2_H_SIZE), 64 << 20);
        rig_done(&t);
}

/* ---- damage that shows when it is met ------------------------------------------------------------------------------ */

enum op { WRITE, UNMAP };

/* Metadata that is about to be overwritten, or a count that can't be true: nothing is changed any more, the image says so itself, and what
 * can be read can still be read. */
static void test_damage_stops_changes(void **state) {
        static const struct {
                struct lie lies[2];
                enum op op;
                uint64_t cluster; /* of the guest's, that @op goes to */
        } cases[] = {
                { { { 4 * K64, K64 | QCOW2_COPIED } }, WRITE, 0 },          /* the refcount table as data */
                { { { 4 * K64, 3 * K64 } }, WRITE, 0 },                     /* the L1 table, shared */
                { { { 4 * K64, 5 * K64 + 512 } }, WRITE, 0 },               /* not aligned */
                { { { 4 * K64, (1ull << 40) | QCOW2_COPIED } }, WRITE, 0 }, /* behind the file */
                { { { 4 * K64, (1ull << 40) | QCOW2_COPIED | QCOW2_ZERO } }, WRITE, 0 }, /* so too, kept for later */
                { { { 4 * K64, 4 * K64 | QCOW2_COPIED } }, UNMAP, 0 }, /* the L2 table is freed as data */
                { { { 3 * K64, 4 * K64 }, { 2 * K64 + 8, 0x0002000100010001 } }, WRITE, 9 }, /* an L2 table for two */
                { { { 2 * K64, 0 } }, WRITE, 9 },                                            /* the metadata is free */
                { { { K64, 0 } }, WRITE, 9 },                                                /* nothing is counted */
                { { { 2 * K64 + 8, 0x0001000000010001 } }, UNMAP, 0 }, /* the freed cluster was not counted */
        };
        const struct qcow2_options o = { 0 };
        static uint8_t buf[K64];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t at = cases[i].cluster * K64;
                struct layer *layer;
                struct rig t;
                int r;

                rig_small(&t);
                add_data(&t, 2);
                assert_int_equal(file_write(t.file, "data", 4, 6 * K64), 0);
                tell(&t, cases[i].lies, ELEMENTSOF(cases[i].lies));
                layer = open_layer(&t, &o);
                r = cases[i].op == WRITE ? layer_write(layer, buf, at, 512) : layer_discard(layer, at, K64);
                if (r == 0)
                        layer_flush(layer); /* frees it */
                assert_true(r == -EIO || cases[i].op == UNMAP);
                assert_int_equal(layer_write(layer, buf, 2 * K64, 512), -EIO);
                assert_int_equal(layer_zero(layer, K64 + 512, 512, false), -EIO);
                assert_int_equal(layer_flush(layer), -EIO); /* what was changed before is not in the file */
                assert_true(layer->ops->needs_flush(layer));
                assert_int_equal(layer_read(layer, NULL, buf, K64, 4), 0);
                assert_memory_equal(buf, "data", 4);
                memset(buf, 0, 4);
                reopen(&t, layer);
                assert_true(get64(&t, QCOW2_H_INCOMPATIBLE) & QCOW2_INCOMPAT_CORRUPT);
                refused(&t, &o, -EIO, "qcow2-corrupt");
                error_clear(&t.e);
                check(&t, QCOW2_REPAIR_ALL); /* and the fix that the message names helps */
                assert_flawless(&t);
                reopen(&t, open_layer(&t, &o));
                rig_done(&t);
        }
}

/* Subclusters that contradict themselves, or have data and no place: the whole entry is no good, whichever of them is asked for. */
static void test_contradictory_subclusters(void **state) {
        static const uint64_t entries[][2] = {
                { 0, 1 << 5 },
                { 5 * K64 | QCOW2_COPIED, 1ull << (32 + 5) | 1 << 5 },
        };
        const struct qcow2_options o = { 0 };
        uint8_t buf[512] = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(entries); i++) {
                struct layer *layer;
                struct rig t;

                rig_init(&t);
                rig_create(&t, &(struct qcow2_create){ .size = 64 << 20, .extended_l2 = true });
                add_data(&t, 1);
                put64(&t, 4 * K64, entries[i][0]);
                put64(&t, 4 * K64 + 8, entries[i][1]);
                layer = open_layer(&t, &o);
                assert_int_equal(layer_write(layer, buf, 0, sizeof buf), -EIO);
                reopen(&t, layer);
                refused(&t, &o, -EIO, "qcow2-corrupt");
                check(&t, QCOW2_REPAIR_ALL);
                assert_flawless(&t);
                reopen(&t, open_layer(&t, &o));
                rig_done(&t);
        }
}

/* A shared flag that is merely missing is set again; a cluster behind the end of a file that was cut reads as zeroes. */
static void test_harmless_damage(void **state) {
        const struct qcow2_options o = { 0 };
        uint8_t buf[512] = { 0 };
        struct layer *layer;
        struct rig t;

        rig_small(&t);
        add_data(&t, 2);
        put64(&t, 3 * K64, 4 * K64);
        put64(&t, 4 * K64, 5 * K64);
        assert_int_equal(file_write(t.file, "data", 4, 5 * K64), 0);
        layer = open_layer(&t, &o);
        assert_int_equal(layer_write(layer, "more", 512, 4), 0);
        assert_int_equal(layer_write(layer, "more", 9 * K64, 4), 0);
        reopen(&t, layer);
        assert_int_equal(get64(&t, 3 * K64), 4 * K64 | QCOW2_COPIED);
        assert_int_equal(file_truncate(t.file, 6 * K64), 0); /* the second cluster is gone */
        layer = open_layer(&t, &(struct qcow2_options){ .readonly = true });
        memset(buf, 1, sizeof buf);
        assert_int_equal(layer_read(layer, NULL, buf, K64, sizeof buf), 0);
        assert_int_equal(buf[0] + buf[511], 0);
        assert_int_equal(layer_read(layer, NULL, buf, 0, 4), 0);
        assert_memory_equal(buf, "data", 4);
        reopen(&t, layer);
        rig_done(&t);
}

/* Compressed bytes that lead out of the file are no reason to read there, nor to write to the image. */
static void test_hostile_compressed(void **state) {
        const uint64_t at[] = { 1ull << 40, 7 * K64, 5 * K64 };
        uint8_t buf[512];

        for (size_t i = 0; i < ELEMENTSOF(at); i++) {
                struct layer *layer;
                struct rig t;

                rig_small(&t);
                add_data(&t, 2);
                put64(&t, 4 * K64, qcow2_compressed_entry(at[i], 512, 16));
                layer = open_layer(&t, &(struct qcow2_options){ .readonly = true });
                assert_int_equal(layer_read(layer, NULL, buf, 0, sizeof buf), -EIO);
                assert_int_equal(layer_read(layer, NULL, buf, K64, sizeof buf), 0);
                reopen(&t, layer);
                rig_done(&t);
        }
}

/* A commit empties the image that it has copied down: zeroes that a discard leaves, up to the last sector, would hide the copy. */
static void test_discard_forgets(void **state) {
        const uint64_t size = 3 * K64 + 5 * 512;

        for (unsigned int i = 0; i < 4; i++) {
                struct qcow2_create o = { .size = size, .extended_l2 = i & 1 };
                struct layer *layer;
                struct extent x;
                struct rig t;

                rig_init(&t);
                rig_create(&t, &o);
                layer = open_layer(&t, &(struct qcow2_options){ 0 });
                for (uint64_t at = 0; at < size; at += K64) {
                        uint64_t n = MIN(size - at, K64);
                        static const uint8_t data[K64] = { 1 };

                        assert_int_equal(i & 2 ? layer->ops->write_compressed(layer, data, at, n)
                                               : layer_write(layer, data, at, n),
                                         0);
                }
                assert_int_equal(layer_discard(layer, 0, size), 0);
                assert_int_equal(layer_map(layer, NULL, 0, size, 0, &x), 0);
                assert_int_equal(x.kind, EXTENT_UNALLOCATED);
                assert_int_equal(x.length, size);
                reopen(&t, layer);
                assert_flawless(&t);
                rig_done(&t);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hostile_extensions),
                cmocka_unit_test(test_short_headers),
                cmocka_unit_test(test_header_is_full),
                cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_feature_is_named),
                cmocka_unit_test(test_autoclear),
                cmocka_unit_test(test_resize_refusals),
                cmocka_unit_test(test_damage_stops_changes),
                cmocka_unit_test(test_harmless_damage),
                cmocka_unit_test(test_hostile_compressed),
                cmocka_unit_test(test_discard_forgets),

                cmocka_unit_test(test_contradictory_subclusters),
                cmocka_unit_test(test_extension_without_padding),
                cmocka_unit_test(test_odd_size),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
