// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * resize: a larger or smaller disk, in steps of which each leaves a sound image
 *
 * Growing:
 *   1. qcow2_resize_l1(): a new, longer L1 table is copied and synced; one write of 12 bytes inside the header's first sector moves to it.
 *      An L1 table that is longer than the disk needs is allowed.
 *   2. the layer zeroes what the new part would show of a backing image that is longer than the old size: nobody expects old data there.
 *      Zero entries are set, flushed, while the guest can't reach them yet.
 *   3. qcow2_resize_store(): the size, 8 bytes.
 * A kill between them leaves the old size.
 *
 * Shrinking:
 *   1. qcow2_resize_store(): the size first, durably. From then on nobody reads what lies behind.
 *   2. the layer discards what is behind: entries are cleared, synced, refcounts fall, space is given back. The L1 table keeps its length.
 * A kill between them leaves clusters that are counted and referenced, but not reachable by the guest; growing again must not show them,
 * so step 2 of growing zeroes everything from the old size to the end of the old L1 table's reach too.
 */
#include "vmm/block/qcow2/resize.h"

#include "vmm/block/qcow2/bitmap.h"

int qcow2_resize_check(const struct qcow2_header *h, uint64_t size, struct error *e) {
        if (size % 512 || size > INT64_MAX || qcow2_l1_entries(h, size) > QCOW2_L1_BYTES_MAX / 8)
                return error_set(e, -EINVAL, "qcow2-resize",
                                 "a multiple of 512 bytes; larger clusters allow larger disks",
                                 "the image cannot get this size");
        if (h->n_snapshots)
                return error_set(e, -ENOTSUP, "qcow2-resize", "delete the snapshots: qemu-img snapshot -d",
                                 "an image with internal snapshots is not resized");
        if (h->bitmaps.n)
                return error_set(e, -ENOTSUP, "qcow2-resize",
                                 "remove them (lodge image bitmap remove), and make a full backup afterwards",
                                 "an image with persistent bitmaps is not resized");
        return 0;
}

/* The old table's entries, in a table of @bytes at @at. */
static int copy_table(struct file *file, const struct qcow2_header *h, uint64_t at, uint64_t bytes) {
        uint64_t old = 8ull * h->l1_entries, cluster = qcow2_cluster(h);
        _cleanup_free_ uint8_t *buf = malloc(cluster);
        int r = buf ? 0 : -ENOMEM;

        for (uint64_t i = 0; r == 0 && i < bytes; i += cluster) {
                memset(buf, 0, cluster);
                if (i < old)
                        r = file_read(file, buf, MIN(cluster, old - i), h->l1_offset + i);
                if (r == 0)
                        r = file_write(file, buf, cluster, at + i);
        }
        return r < 0 ? r : file_sync(file);
}

/* Clears what @h's last cluster of the L1 table has room for, from its end to @entries: it must be clear before it counts. */
static int clear_behind(struct file *file, const struct qcow2_header *h, uint64_t entries) {
        static const uint8_t nothing[512];
        int r = 0;

        for (uint64_t i = 8ull * h->l1_entries; r == 0 && i < 8 * entries; i += sizeof nothing)
                r = file_write(file, nothing, MIN(sizeof nothing, 8 * entries - i), h->l1_offset + i);
        return r < 0 ? r : file_sync(file);
}

int qcow2_resize_store_l1(struct file *file, const struct qcow2_header *h) {
        uint8_t fields[12];
        int r;

        be32_put(fields, h->l1_entries);
        be64_put(fields + 4, h->l1_offset);
        r = file_write(file, fields, sizeof fields, QCOW2_H_L1_ENTRIES);
        return r < 0 ? r : file_sync(file);
}

int qcow2_resize_l1(struct file *file, struct qcow2_header *h, uint64_t size, const struct qcow2_bitmap_space *space,
                    bool *ret_unsure, struct error *e) {
        uint64_t entries = qcow2_l1_entries(h, size), cluster = qcow2_cluster(h), at = h->l1_offset, bytes, old;
        struct qcow2_header longer = *h;
        int r;

        if (entries <= h->l1_entries)
                return 0;
        if (entries > QCOW2_L1_BYTES_MAX / 8)
                return qcow2_resize_check(h, size, e);
        bytes = (8 * entries + cluster - 1) & ~(cluster - 1);
        old = (8ull * h->l1_entries + cluster - 1) & ~(cluster - 1);
        if (bytes == old) {
                r = clear_behind(file, h, entries);
        } else {
                r = space->alloc(space->opaque, bytes, &at);
                if (r < 0)
                        return error_set(e, r, "qcow2-resize", "free some space on the host",
                                         "no space for a longer L1 table");
                r = copy_table(file, h, at, bytes);
                if (r < 0) /* nothing points there yet */
                        space->free(space->opaque, at, bytes);
        }
        if (r < 0)
                return error_set(e, r, "qcow2-resize", NULL, "cannot write a longer L1 table");
        longer.l1_offset = at;
        longer.l1_entries = (uint32_t)entries;
        r = qcow2_resize_store_l1(file, &longer);
        if (r < 0) { /* which table the header on the disk names is unknown: both stay allocated */
                *ret_unsure = true;
                return error_set(e, r, "qcow2-resize", "reopen the image before it is used again",
                                 "cannot write the header");
        }
        if (bytes != old && old)
                space->free(space->opaque, h->l1_offset, old);
        h->l1_offset = at;
        h->l1_entries = (uint32_t)entries;
        return 0;
}

int qcow2_resize_store(struct file *file, struct qcow2_header *h, uint64_t size, struct error *e) {
        uint8_t field[8];
        int r;

        if (qcow2_l1_entries(h, size) > h->l1_entries)
                return error_set(e, -EINVAL, "qcow2-resize", NULL, "the L1 table is too short for this size");
        be64_put(field, size);
        r = file_write(file, field, sizeof field, QCOW2_H_SIZE);
        if (r == 0)
                r = file_sync(file);
        if (r < 0) {
                /* It may have arrived all the same; the old one has to be there at the next sync. */
                be64_put(field, h->size);
                if (file_write(file, field, sizeof field, QCOW2_H_SIZE) == 0)
                        file_sync(file);
                return error_set(e, r, "qcow2-resize", "reopen the image before it is used again",
                                 "cannot write the size");
        }
        h->size = size;
        return 0;
}
