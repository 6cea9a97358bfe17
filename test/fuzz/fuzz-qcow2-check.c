// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-qcow2-check: a sound image with some words overwritten, examined and mended
 *
 * The first bytes choose the image's shape, every ten after them a word and what is written there. Whatever it is: the examination ends, an
 * error has its reason, and when a repair says that it has mended everything, a second look finds nothing.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "input.h"
#include "vmm/block/qcow2/bitmap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int space_alloc(void *opaque, uint64_t bytes, uint64_t *ret_offset) {
        struct file *file = opaque;

        *ret_offset = (file_size(file) + 65535) & ~65535ull;
        return file_truncate(file, *ret_offset + ((bytes + 65535) & ~65535ull));
}

static void space_free(void *opaque, uint64_t offset, uint64_t bytes) {
}

/* A bitmap with some bits, counted by a repair. */
static void add_bitmap(struct file *file) {
        struct qcow2_bitmap_space space = { space_alloc, space_free, file };
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = NULL;
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        struct qcow2_check c = { 0 };

        if (qcow2_header_load(file, &h, NULL) < 0 || qcow2_bitmaps_load(file, &h, true, &b, NULL) < 0)
                return;
        if (qcow2_bitmaps_add(b, "a", 512, true, NULL) == 0) {
                qcow2_bitmaps_mark(b, 4096, 9000);
                qcow2_bitmaps_store(b, file, &h, &space, false, NULL);
        }
        qcow2_check(file, QCOW2_REPAIR_ALL, &c, NULL);
}

static void examine(struct file *file) {
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = NULL;
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        struct qcow2_check before = { 0 }, c = { 0 }, after = { 0 };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct qcow2_info info;
        char *strings = NULL;
        int r;

        if (qcow2_peek(file, &info, &strings, NULL) == 0)
                free(strings);
        if (qcow2_header_load(file, &h, NULL) == 0)
                qcow2_bitmaps_load(file, &h, false, &b, NULL);
        r = qcow2_check(file, 0, &before, &e);
        MUST(r == 0 || (e.id && e.message));
        MUST(before.corruptions_fixed == 0 && before.leaks_fixed == 0);
        if (r < 0)
                return;
        r = qcow2_check(file, QCOW2_REPAIR_ALL, &c, &e);
        if (r < 0 || c.errors || c.corruptions != c.corruptions_fixed)
                return;
        r = qcow2_check(file, 0, &after, &e);
        MUST(r == 0 && after.corruptions == 0 && after.errors == 0);
        MUST(after.leaks <= 1); /* a rebuild's spare block */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input in = { data, size };
        uint64_t shape = input_take(&in, 2);
        struct qcow2_create o = {
                .size = 1 << 20,
                .version = shape & 1 ? 3 : 2,
                .cluster = shape & 2 ? 512 : 16384,
                .preallocate_metadata = shape & 4,
        };
        _cleanup_close_ int fd = memfd_create("image", MFD_CLOEXEC);
        struct file_options options = { .fd = fd };
        struct file *file = NULL;

        if (o.version == 3) {
                o.refcount_bits = 1u << (shape >> 4) % 7;
                o.extended_l2 = shape & 8 && o.cluster == 16384;
        }
        if (file_open(&options, &file, NULL) < 0)
                return 0;
        if (qcow2_create(file, &o, NULL) == 0) {
                if (shape & 128)
                        add_bitmap(file);
                for (unsigned int i = 0; i < 64 && in.left; i++) {
                        uint64_t at = input_take(&in, 2), value = input_take(&in, 8);
                        uint8_t word[8];

                        /* The low half aims at the header's fields, the rest at entries all over the tables. */
                        at = at < 1024 ? at / 8 : at % (file_size(file) / 8) * 8;
                        be64_put(word, value);
                        if (file_write(file, word, at < 128 ? 4 : 8, at) < 0)
                                break;
                }
                examine(file);
        }
        file_close(file);
        return 0;
}
