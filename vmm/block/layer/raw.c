// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * raw: the layer whose bytes are the bytes of its file
 *
 * Nothing is ever mapped or allocated: guest offset and host offset are the same, each range is data that may be written in place, and the
 * calls pass straight through to the file. Asked with LAYER_HOLES, holes of the file are told from data.
 */
#include <errno.h>

#include "vmm/block/layer/layer.h"

static int raw_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
                   struct extent *ret_extent) {
        uint64_t n = length;
        bool data = true;

        if ((flags & LAYER_HOLES) && !(flags & (LAYER_NOWAIT | LAYER_WRITE)) &&
            file_next(layer->file, offset, &data, &n) < 0) {
                data = true;
                n = length;
        }
        *ret_extent = (struct extent){
                .kind = data ? EXTENT_DATA : EXTENT_ZERO,
                .length = MIN(n, length),
                .host = offset,
        };
        return 0;
}

static int raw_write(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t offset,
                     uint64_t length) {
        return file_write_part(layer->file, iov, n_iov, 0, length, offset);
}

static int raw_zero(struct layer *layer, uint64_t offset, uint64_t length, bool unmap) {
        return file_zero(layer->file, offset, length, unmap);
}

static int raw_discard(struct layer *layer, uint64_t offset, uint64_t length) {
        return file_discard(layer->file, offset, length);
}

static int raw_flush(struct layer *layer) {
        return file_sync(layer->file);
}

static int raw_finish(struct layer *layer, struct error *e) {
        int r = file_sync(layer->file);

        return r < 0 ? error_set(e, r, "disk-write", "check the file system's free space: df", "cannot write the disk")
                     : 0;
}

static bool raw_needs_flush(struct layer *layer) {
        return false;
}

static int raw_resize(struct layer *layer, uint64_t size, struct error *e) {
        int r;

        if (size == 0 || size % 512 != 0)
                return error_set(e, -EINVAL, "disk-size", "give a multiple of 512 bytes",
                                 "a disk can't have %llu bytes", (unsigned long long)size);
        r = file_truncate(layer->file, size);
        if (r < 0)
                return error_set(e, r, "disk-resize",
                                 r == -ENOTSUP ? "resize the block device itself first"
                                               : "make room on the file system",
                                 "cannot make the disk %llu bytes large", (unsigned long long)size);
        atomic_store(&layer->size, size);
        return 0;
}

static void raw_close(struct layer *layer) {
        layer_destroy(layer);
        free(layer);
}

static const struct layer_ops raw_ops = {
        .name = "raw",
        .map = raw_map,
        .write = raw_write,
        .zero = raw_zero,
        .discard = raw_discard,
        .flush = raw_flush,
        .needs_flush = raw_needs_flush,
        .resize = raw_resize,
        .finish = raw_finish,
        .close = raw_close,
};

int raw_open(struct file *file, struct layer **ret_layer, struct error *e) {
        uint64_t size = file_size(file);
        struct layer *layer;

        if (size == 0 || size % 512 != 0)
                return error_set(e, -EUCLEAN, "disk-size", "extend it: truncate -s %512 FILE",
                                 "the disk's size of %llu bytes is not a multiple of 512, or zero",
                                 (unsigned long long)size);
        if (file_is_direct(file) && !file_is_readonly(file) && size % file_logical_block(file) != 0)
                return error_set(e, -EINVAL, "disk-direct", "go through the page cache: cache=writeback",
                                 "direct I/O needs blocks of %u bytes, which do not fit the disk",
                                 file_logical_block(file));
        layer = calloc(1, sizeof(*layer));
        if (!layer)
                return error_set(e, -ENOMEM, "disk-memory", NULL, "no memory for a disk");
        layer_init(layer, &raw_ops, file);
        atomic_init(&layer->size, size);
        layer->cluster = file_physical_block(file);
        if (size % file_logical_block(file) == 0)
                layer->logical_block = file_logical_block(file);
        *ret_layer = layer;
        return 0;
}
