// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * faults: every allocation, read and write of a qcow2 image's life fails once
 *
 * Theory of operation. A case is a way to make an image, and a run of operations on it. The run is repeated: the first time its first
 * allocation fails, then its second, until one run needs fewer; then the same with reads, with writes, and with a disk that takes no change
 * any more from the n-th one on. Whatever fails, the run has to say so or to have done all of it (closing in order, too), the image must not be
 * corrupt, for qemu-img neither, and once it is opened again each sector holds what was last written there: those that the run never named
 * to the byte. What is counted is counted in the test's thread only, so a run always fails at the same place.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>

#include <cmocka.h>

#include "test/block/disk.h"
#include "test/block/fault.h"
#include "test/unit/qcow2-rig.h"
#include "vmm/block/qcow2/bitmap.h"
#include "vmm/block/qcow2/image.h"

#define SECTOR 512u
#define SIZE   (4ull << 20) /* bytes, the largest that an image gets */
#define QEMU   64           /* every so many failures qemu-img looks too */

enum { GOES_ON = 0x99, BACKING = 0xbb, ANY = 0xff }; /* sectors: written after a failure; what lies below; not known */

/* ---- operations --------------------------------------------------------------------------------------------------- */

enum op { END, WRITE, COMPRESSED, READ, ZERO, UNMAP, DISCARD, FLUSH, RESIZE, REBASE };

struct step {
        enum op op;
        uint32_t offset, length; /* bytes; RESIZE: the new size in @offset */
};

struct image {
        struct rig rig;
        uint64_t size, first_size;
        bool in_order;                  /* the last one who had it open says that it was closed in order */
        uint8_t sectors[SIZE / SECTOR]; /* the byte that each is full of */
        struct layer *backing;
        struct rig below;
};

static uint8_t buffer[SIZE];

static int step_do(struct layer *layer, const struct step *s, uint8_t tag) {
        memset(buffer, tag, s->length);
        switch (s->op) {
        case WRITE:
                return layer_write(layer, buffer, s->offset, s->length);
        case COMPRESSED:
                return layer->ops->write_compressed(layer, buffer, s->offset, s->length);
        case READ:
                return layer_read(layer, NULL, buffer, s->offset, s->length);
        case ZERO:
        case UNMAP:
                return layer_zero(layer, s->offset, s->length, s->op == UNMAP);
        case DISCARD:
                return layer_discard(layer, s->offset, s->length);
        case RESIZE:
                return layer->ops->resize(layer, s->offset, NULL);
        case REBASE:
                return qcow2_set_backing(layer, "new", "raw", NULL);
        default:
                return layer_flush(layer);
        }
}

static void step_note(struct image *t, const struct step *s, uint8_t tag) {
        if (s->op == RESIZE) {
                memset(t->sectors + s->offset / SECTOR, 0, (SIZE - s->offset) / SECTOR);
                t->size = s->offset;
        } else if (s->op == WRITE || s->op == COMPRESSED || s->op == ZERO || s->op == UNMAP || s->op == DISCARD)
                memset(t->sectors + s->offset / SECTOR,
                       s->op == DISCARD                        ? ANY
                       : s->op == WRITE || s->op == COMPRESSED ? tag
                                                               : 0,
                       s->length / SECTOR);
}

static int image_open(struct image *t, const struct sys *sys, struct layer **ret_layer) {
        const struct qcow2_options o = { .repair = true, .cache = 2048 };
        _cleanup_(file_freep) struct file *file = NULL;
        int r = file_open(&(struct file_options){ .sys = sys, .fd = t->rig.fd }, &file, NULL);

        if (r == 0)
                r = qcow2_open(file, &o, ret_layer, NULL);
        if (r < 0)
                return r;
        TAKE_PTR(file);
        (*ret_layer)->backing = t->backing;
        return 0;
}

static void image_close(struct layer *layer) {
        layer->backing = NULL;
        layer_close(layer);
}

/* After something failed: what is written and flushed from now on has to be there as ever. */
static void image_go_on(struct image *t, struct layer *layer) {
        const struct step write = { WRITE, (uint32_t)t->first_size - 4096, 4096 }, flush = { FLUSH };
        struct step unknown = write;
        int r = step_do(layer, &write, GOES_ON);

        unknown.op = DISCARD;
        if (r == 0)
                r = step_do(layer, &flush, 0);
        step_note(t, r == 0 ? &write : &unknown, GOES_ON);
        if (r == 0) /* the size that it says it has is the one that it has */
                t->size = atomic_load(&layer->size);
}

/* All steps, or up to the first that fails. Those that are done are noted; so are all when one fails, as not known. */
static int image_run(struct image *t, const struct sys *sys, const struct step *steps, uint8_t tag) {
        struct layer *layer = NULL;
        int r = image_open(t, sys, &layer);

        for (const struct step *s = steps; r == 0 && s->op; s++, tag++) {
                r = step_do(layer, s, tag);
                if (r == 0)
                        step_note(t, s, tag);
        }
        for (const struct step *s = steps; r < 0 && s->op; s++) {
                struct step unknown = { s->op == RESIZE ? END : DISCARD, s->offset, s->length };

                if (s->op == RESIZE)
                        t->size = 0;
                if (s->op != READ && s->op != FLUSH && s->op != REBASE)
                        step_note(t, &unknown, 0);
        }
        if (layer && r < 0)
                image_go_on(t, layer);
        t->in_order = layer && layer_finish(layer, NULL) == 0;
        if (layer)
                image_close(layer);
        return r;
}

/* ---- cases -------------------------------------------------------------------------------------------------------- */

struct life {
        struct qcow2_create shape;
        bool backing, bitmap, broken; /* a raw image below; a bitmap that marks all; repaired when it is opened */
        struct step before[8], steps[16];
};

static const struct life lives[] = {
        /* all ways to change a cluster, over a backing image */
        { { .size = 1 << 20, .cluster = 4096 },
          .backing = true,
          .before = { { WRITE, 0, 65536 }, { COMPRESSED, 131072, 4096 }, { FLUSH } },
          .steps = { { WRITE, 70144, 1024 },
                     { COMPRESSED, 204800, 4096 },
                     { READ, 131072, 512 },
                     { WRITE, 131584, 512 },
                     { ZERO, 24576, 8192 },
                     { UNMAP, 262656, 12288 },
                     { DISCARD, 32768, 8192 },
                     { FLUSH },
                     { WRITE, 32768, 4096 },
                     { READ, 204800, 4096 },
                     { FLUSH } } },
        /* the refcount table gets longer, tables leave the cache */
        { { .size = SIZE, .cluster = 512, .refcount_bits = 64 },
          .before = { { WRITE, 0, 1900u << 10 }, { FLUSH } },
          .steps = { { WRITE, 2000u << 10, 64u << 10 }, { FLUSH }, { READ, 0, 64u << 10 }, { FLUSH } } },
        /* larger and smaller, with an L1 table that needs another place */
        { { .size = 256u << 10, .cluster = 512 },
          .before = { { WRITE, 0, 131072 }, { FLUSH } },
          .steps = { { RESIZE, SIZE },
                     { WRITE, 3u << 20, 4096 },
                     { FLUSH },
                     { RESIZE, 1u << 20 },
                     { WRITE, 786432, 4096 },
                     { FLUSH } } },
        { { .size = 256u << 10, .cluster = 512 },
          .backing = true,
          .before = { { WRITE, 0, 4096 }, { FLUSH } },
          .steps = { { RESIZE, 512u << 10 }, { FLUSH } } },
        /* subclusters, zstd */
        { { .size = 1 << 20, .cluster = 16384, .extended_l2 = true, .compression = QCOW2_ZSTD },
          .backing = true,
          .before = { { WRITE, 0, 65536 }, { COMPRESSED, 131072, 16384 }, { FLUSH } },
          .steps = { { WRITE, 262144, 512 },
                     { ZERO, 263168, 1024 },
                     { WRITE, 131072, 512 },
                     { COMPRESSED, 196608, 16384 },
                     { READ, 196608, 1024 },
                     { UNMAP, 16384, 1024 },
                     { DISCARD, 32768, 16384 },
                     { FLUSH } } },
        /* lazy refcounts, and version 2 */
        { { .size = 1 << 20, .cluster = 512, .lazy_refcounts = true },
          .before = { { WRITE, 0, 65536 }, { FLUSH } },
          .steps = { { WRITE, 262144, 65536 }, { ZERO, 262144, 4096 }, { FLUSH } } },
        { { .size = 1 << 20, .cluster = 512, .version = 2 },
          .backing = true,
          .before = { { WRITE, 0, 65536 }, { FLUSH } },
          .steps = { { WRITE, 262144, 65536 }, { ZERO, 262144, 4096 }, { DISCARD, 270336, 4096 }, { FLUSH } } },
        /* bitmaps are read, marked, written back */
        { { .size = 1 << 20, .cluster = 4096 },
          .bitmap = true,
          .before = { { WRITE, 0, 65536 }, { FLUSH } },
          .steps = { { WRITE, 131072, 4096 }, { WRITE, 0, 512 }, { COMPRESSED, 196608, 4096 }, { FLUSH } } },
        /* a dirty image with leaks and a wrong count is mended first */
        { { .size = 1 << 20, .cluster = 4096 },
          .broken = true,
          .before = { { WRITE, 0, 65536 }, { FLUSH } },
          .steps = { { WRITE, 131072, 4096 }, { FLUSH } } },
        { { .size = 1 << 20, .cluster = 4096 },
          .before = { { WRITE, 0, 65536 }, { FLUSH } },
          .steps = { { REBASE }, { WRITE, 131072, 4096 }, { FLUSH } } },
};

static int space_alloc(void *opaque, uint64_t bytes, uint64_t *ret_offset) {
        struct rig *t = opaque;

        *ret_offset = (file_size(t->file) + 4095) & ~4095ull;
        return file_truncate(t->file, *ret_offset + ((bytes + 4095) & ~4095ull));
}

static void space_free(void *opaque, uint64_t offset, uint64_t bytes) {
}

static void add_bitmap(struct rig *t) {
        const struct qcow2_bitmap_space space = { space_alloc, space_free, t };
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        struct qcow2_bitmaps *b = NULL;

        assert_int_equal(qcow2_header_load(t->file, &h, NULL), 0);
        assert_int_equal(qcow2_bitmaps_load(t->file, &h, true, &b, NULL), 0);
        assert_int_equal(qcow2_bitmaps_add(b, "b", 4096, true, NULL), 0);
        assert_int_equal(qcow2_bitmaps_store(b, t->file, &h, &space, false, NULL), 0);
        qcow2_bitmaps_free(b);
        check(t, QCOW2_REPAIR_ALL);
}

/* As a kill leaves it, and worse: a leak, and a count of zero for the first cluster of the guest's. */
static void break_image(struct rig *t) {
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        uint64_t l2, block;
        uint8_t zero[2] = { 0 };

        assert_int_equal(qcow2_header_load(t->file, &h, NULL), 0);
        l2 = get64(t, h.l1_offset) & QCOW2_OFFSET_MASK;
        block = get64(t, h.reftable_offset);
        assert_int_equal(file_write(t->file, zero, 2, block + 2 * ((get64(t, l2) & QCOW2_OFFSET_MASK) / 4096)), 0);
        zero[1] = 1;
        assert_int_equal(file_write(t->file, zero, 2, block + 2 * (file_size(t->file) / 4096)), 0);
        assert_int_equal(file_truncate(t->file, file_size(t->file) + 4096), 0);
        put64(t, QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_DIRTY);
}

static void image_make(struct image *t, const struct life *life) {
        *t = (struct image){ .size = life->shape.size, .first_size = life->shape.size, .below.fd = -EBADF };
        rig_init(&t->rig);
        rig_create(&t->rig, &life->shape);
        if (life->backing) {
                struct rig *b = &t->below;

                rig_init(b);
                memset(buffer, BACKING, SIZE);
                assert_int_equal(file_write(b->file, buffer, life->shape.size, 0), 0);
                assert_int_equal(raw_open(b->file, &t->backing, NULL), 0);
                memset(t->sectors, BACKING, life->shape.size / SECTOR);
        }
        assert_int_equal(image_run(t, NULL, life->before, 1), 0);
        file_close(t->rig.file);
        rig_open(&t->rig, NULL);
        if (life->bitmap)
                add_bitmap(&t->rig);
        if (life->broken)
                break_image(&t->rig);
        file_close(t->rig.file);
        t->rig.file = NULL;
}

/* The backing image stays @from's. */
static void image_copy(struct image *t, const struct image *from) {
        off_t size = lseek(from->rig.fd, 0, SEEK_END), at = 0;

        memcpy(t, from, sizeof *t);
        t->rig.fd = memfd_create("copy", MFD_CLOEXEC);
        assert_int_equal(sendfile(t->rig.fd, from->rig.fd, &at, (size_t)size), size);
}

/* Each bit that a write should have set is set, or the bitmap says itself that it can't be trusted. */
static void assert_marked(struct image *t, struct layer *layer) {
        struct qcow2_bitmaps *b = qcow2_of(layer)->bitmaps;
        struct qcow2_bitmap_info info;
        uint64_t start, n;

        if (!b || qcow2_bitmaps_count(b) == 0)
                return;
        qcow2_bitmaps_info(b, 0, &info);
        if (info.inconsistent)
                return;
        for (uint64_t i = 0; i < t->size / SECTOR; i++)
                if (t->sectors[i] >= 0x10 && t->sectors[i] != ANY) {
                        assert_int_equal(qcow2_bitmaps_next(b, "b", i * SECTOR, &start, &n), 1);
                        assert_int_equal(start, i * SECTOR);
                }
}

/* Not corrupt as it is; and opened again it holds what it should, and is left without a flaw. */
static void assert_image(struct image *t, const struct life *life, bool qemu) {
        bool lazy = life->shape.lazy_refcounts || life->broken, v2 = life->shape.version == 2;
        struct layer *layer = NULL;
        struct qcow2_check c;
        int status;

        rig_open(&t->rig, NULL);
        c = check(&t->rig, 0);
        assert_true((lazy && !t->in_order) || c.corruptions == 0);
        assert_true(!t->in_order || c.leaks == 0);
        assert_int_equal(c.errors, 0);
        status = qemu ? disk_check_qemu(t->rig.fd, true) : 0;
        assert_true(status == 0 || status == 3 || status == 127 || (lazy && status == 2));
        assert_int_equal(image_open(t, NULL, &layer), 0);
        if (t->size)
                assert_int_equal(atomic_load(&layer->size), t->size);
        assert_int_equal(layer_read(layer, NULL, buffer, 0, atomic_load(&layer->size)), 0);
        for (uint64_t i = 0; i < atomic_load(&layer->size); i += SECTOR)
                if (t->sectors[i / SECTOR] != ANY)
                        assert_int_equal(buffer[i], t->sectors[i / SECTOR]);
        assert_marked(t, layer);
        image_close(layer);
        file_close(t->rig.file);
        rig_open(&t->rig, NULL);
        c = check(&t->rig, 0);
        assert_int_equal(c.corruptions, 0);
        assert_true(v2 || c.leaks == 0);
}

static void life_survives(const struct life *life, const struct image *made, enum fault kind) {
        const struct sys sys = fault_sys();
        static struct image t;
        unsigned int n = 0;
        bool hit;

        do {
                int r;

                image_copy(&t, made);
                fault_arm(kind, ++n);
                r = image_run(&t, &sys, life->steps, 0x10);
                hit = fault_disarm();
                assert_true(r == 0 || (hit && r == (int[]){ 0, -ENOMEM, -EIO, -EIO, -EIO, -ENOSPC }[kind]));
                assert_image(&t, life, n % QEMU == 1);
                rig_done(&t.rig);
        } while (hit);
}

/* What fails is said or done all the same, and nothing else suffers: each line of qcow2 that gives up is run by this. */
static void test_lives(void **state) {
        static struct image made;

        for (size_t i = 0; i < ELEMENTSOF(lives); i++) {
                image_make(&made, &lives[i]);
                for (enum fault kind = MEMORY; kind < FAULT_COUNT; kind++)
                        life_survives(&lives[i], &made, kind);
                layer_close(made.backing);
                safe_close(made.below.fd);
                rig_done(&made.rig);
        }
}

/* ---- calls on a closed image --------------------------------------------------------------------------------------- */

static int with_file(struct image *t, const struct sys *sys, int (*run)(struct file *file, struct error *e),
                     bool takes) {
        const struct file_options o = { .sys = sys, .fd = t->rig.fd };
        _cleanup_(file_freep) struct file *file = NULL;
        int r = file_open(&o, &file, &t->rig.e);

        return r < 0 ? r : run(takes ? TAKE_PTR(file) : file, &t->rig.e);
}

static int run_create(struct file *file, struct error *e) {
        const struct qcow2_create o = {
                .size = 2 << 20, .cluster = 512, .backing_file = "below", .backing_format = "raw"
        };

        return qcow2_create(file, &o, e);
}

static int run_create_full(struct file *file, struct error *e) {
        return qcow2_create(file, &(struct qcow2_create){ .size = 2 << 20, .preallocate_metadata = true }, e);
}

static int run_peek(struct file *file, struct error *e) {
        _cleanup_free_ char *strings = NULL;
        struct qcow2_info info;

        return qcow2_peek(file, &info, &strings, e);
}

static int run_repair(struct file *file, struct error *e) {
        struct qcow2_check c = { 0 };
        int r = qcow2_check(file, QCOW2_REPAIR_ALL, &c, e);

        /* What it could not read it has counted. */
        return r == 0 && c.errors ? error_set(e, -EIO, "errors", NULL, "errors") : r;
}

static int run_bitmaps(struct file *file, struct error *e) {
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = NULL;
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        int r = qcow2_header_load(file, &h, e);

        if (r == 0)
                r = qcow2_bitmaps_load(file, &h, false, &b, e);
        if (r == 0)
                r = qcow2_bitmaps_add(b, "another", 0, true, e);
        if (r == 0)
                r = qcow2_bitmaps_clear(b, "b", e);
        return r;
}

static int replace_bitmap(struct qcow2_bitmaps *b, const void *opaque, struct error *e) {
        int r = qcow2_bitmaps_remove(b, "b", e);

        return r < 0 ? r : qcow2_bitmaps_add(b, opaque, 512, true, e);
}

static int run_edit(struct file *file, struct error *e) {
        int r = run_repair(file, e);

        if (r == 0)
                return qcow2_bitmaps_edit(file, replace_bitmap, "another", e);
        file_close(file);
        return r;
}

/* What is said to be done is in the file; what has failed leaves the old bitmap or the new one, and it can be trusted. */
static void assert_edited(struct file *file, int r) {
        struct qcow2_bitmap_info info = { 0 };
        struct qcow2_bitmaps *b = NULL;

        assert_int_equal(qcow2_bitmaps_read(file, &b, NULL), 0);
        assert_int_equal(qcow2_bitmaps_count(b), 1);
        qcow2_bitmaps_info(b, 0, &info);
        assert_true(streq(info.name, "another") || (r < 0 && streq(info.name, "b")));
        assert_false(info.inconsistent);
        assert_true(r < 0 || (info.enabled && info.granularity == 512));
        qcow2_bitmaps_free(b);
}

static const struct {
        int (*run)(struct file *file, struct error *e);
        bool creates, takes; /* the file's content is new; the file is closed */
} calls[] = {
        { .run = run_create, .creates = true },
        { .run = run_create_full, .creates = true },
        { .run = run_peek },
        { .run = run_repair },
        { .run = run_bitmaps },
        { .run = run_edit, .takes = true },
};

/* A tool that has no memory or no space says so, with a reason, and leaves an image that is what it was, or none. */
static void test_calls(void **state) {
        static const struct life life = { .shape = { .size = 1 << 20, .cluster = 4096 },
                                          .bitmap = true,
                                          .broken = true,
                                          .before = { { WRITE, 0, 65536 }, { FLUSH } } };
        const struct sys sys = fault_sys();
        static struct image made, t;

        image_make(&made, &life);
        for (size_t i = 0; i < ELEMENTSOF(calls) * (FAULT_COUNT - 1); i++) {
                bool creates = calls[i / (FAULT_COUNT - 1)].creates;
                int (*run)(struct file * file, struct error * e) = calls[i / (FAULT_COUNT - 1)].run;
                unsigned int n = 0;
                bool hit;

                do {
                        int r;

                        image_copy(&t, &made);
                        assert_false(creates && ftruncate(t.rig.fd, 0) < 0);
                        fault_arm(MEMORY + i % (FAULT_COUNT - 1), ++n);
                        r = with_file(&t, &sys, run, calls[i / (FAULT_COUNT - 1)].takes);
                        hit = fault_disarm();
                        assert_int_equal(r < 0, t.rig.e.code < 0);
                        assert_true(r == 0 || t.rig.e.message);
                        error_clear(&t.rig.e);
                        rig_open(&t.rig, NULL);
                        if (run == run_edit)
                                assert_edited(t.rig.file, r);
                        if (!creates)
                                check(&t.rig, QCOW2_REPAIR_ALL);
                        if (!creates || r == 0 || get64(&t.rig, 0) >> 32 == QCOW2_MAGIC)
                                assert_flawless(&t.rig);
                        file_close(TAKE_PTR(t.rig.file));
                        if (!creates)
                                assert_image(&t, &life, false);
                        rig_done(&t.rig);
                } while (hit);
        }
        rig_done(&made.rig);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_lives),
                cmocka_unit_test(test_calls),
        };

        return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
