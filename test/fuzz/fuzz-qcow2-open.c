// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-qcow2-open: an image with something in it and some words overwritten, opened and used
 *
 * The first bytes choose the image's shape, then come words and what is written there, then operations of the guest. Whatever it is:
 * nothing crashes or hangs, an error of opening has its reason, and the header is never overwritten with what a guest writes.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "input.h"
#include "vmm/block/qcow2/format.h"

#define SIZE (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct layer *open_layer(struct file *file, bool readonly) {
        const struct qcow2_options options = { .readonly = readonly, .repair = true, .cache = 1 << 16 };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct layer *layer = NULL;
        int r = qcow2_open(file, &options, &layer, &e);

        MUST(r == 0 || (e.id && e.message));
        return layer;
}

/* The layer closes a file of its own. */
static struct file *another(int fd) {
        struct file *file = NULL;

        return file_open(&(struct file_options){ .fd = fd }, &file, NULL) < 0 ? NULL : file;
}

static void fill(int fd, uint32_t cluster) {
        struct file *file = another(fd);
        struct layer *layer = file ? open_layer(file, false) : NULL;
        _cleanup_free_ uint8_t *buf = malloc(65536);

        if (!layer || !buf) {
                file_close(file);
                return;
        }
        memset(buf, 0x5a, 65536);
        layer_write(layer, buf, 0, 65536);
        layer_write(layer, buf, 300000, 5000);
        layer->ops->write_compressed(layer, buf, 131072, cluster);
        layer->ops->write_compressed(layer, buf, 131072 + cluster, cluster);
        layer_zero(layer, 16384, 32768, false);
        layer_discard(layer, 0, 16384);
        layer_close(layer);
}

static void use(struct layer *layer, struct input *in) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ uint8_t *buf = malloc(65536);
        struct extent extent;
        struct layer *owner;

        if (!buf)
                return;
        memset(buf, 0xa5, 65536);
        for (unsigned int i = 0; i < 48 && in->left; i++) {
                unsigned int what = (unsigned int)input_take(in, 1);
                uint64_t offset = input_take(in, 2) * 512, length = (input_take(in, 1) % 128 + 1) * 512;

                switch (what % 10) {
                case 0:
                        layer_write(layer, buf, offset, length);
                        break;
                case 1:
                        layer_zero(layer, offset, length, what & 16);
                        break;
                case 2:
                        layer_discard(layer, offset, length);
                        break;
                case 3:
                        layer_flush(layer);
                        break;
                case 4:
                        if (!layer->readonly && offset + layer->cluster <= atomic_load(&layer->size) &&
                            layer->cluster <= 65536)
                                layer->ops->write_compressed(layer, buf, offset & ~(layer->cluster - 1ull),
                                                             layer->cluster);
                        break;
                case 5:
                        if (what & 64)
                                layer->ops->resize(layer, offset + 512, &e);
                        break;
                case 6:
                        layer_status(layer, NULL, NULL, offset, length, &extent, &owner);
                        break;
                case 7:
                        if (layer_map(layer, NULL, offset, length, LAYER_WRITE, &extent) == 0)
                                file_write(layer->file, buf, extent.length, extent.host);
                        break;
                default:
                        layer_read(layer, NULL, buf, offset, length);
                        memset(buf, 0xa5, 65536);
                }
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input in = { data, size };
        uint64_t shape = input_take(&in, 2);
        struct qcow2_create o = {
                .size = SIZE,
                .version = shape & 1 ? 3 : 2,
                .cluster = shape & 2 ? 512 : 16384,
        };
        _cleanup_close_ int fd = memfd_create("image", MFD_CLOEXEC);
        struct file *file = another(fd);
        struct layer *layer;
        uint8_t magic[4];

        log_set_level(LOG_LEVEL_ERROR - 1);
        if (o.version == 3) {
                o.refcount_bits = 1u << (shape >> 4) % 7;
                o.extended_l2 = shape & 8 && o.cluster == 16384;
                o.compression = shape & 256 ? QCOW2_ZSTD : QCOW2_ZLIB;
                o.lazy_refcounts = shape & 512;
        }
        if (!file)
                return 0;
        if (qcow2_create(file, &o, NULL) < 0) {
                file_close(file);
                return 0;
        }
        fill(fd, o.cluster);
        file_close(file);
        file = another(fd);
        if (!file)
                return 0;
        for (uint64_t n = input_take(&in, 1) % 16; n > 0; n--) {
                uint64_t at = input_take(&in, 2), value = input_take(&in, 8);
                uint8_t word[8];

                at = at < 1024 ? at / 8 : at % (file_size(file) / 8) * 8;
                be64_put(word, value);
                file_write(file, word, at < 128 ? 4 : 8, at);
        }
        layer = open_layer(file, shape & 128);
        if (!layer) {
                file_close(file);
                return 0;
        }
        use(layer, &in);
        layer_close(layer);
        MUST(pread(fd, magic, 4, 0) == 4 && be32_get(magic) == QCOW2_MAGIC);
        return 0;
}
