// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parts: the examination of what hangs beside the map: internal snapshots and persistent bitmaps
 *
 * Theory of operation. Each range is marked before it is read, and a range that overlaps something marked before isn't read at all. So
 * however often the image points at the same table, its bytes are read once.
 */
#include "vmm/block/qcow2/check.h"

#include <inttypes.h>

int check_snapshots(struct check *c) {
        uint64_t at = c->h.snapshots_offset;
        uint8_t fixed[QCOW2_SN_FIXED];
        int r = 0;

        for (uint32_t i = 0; i < c->h.n_snapshots; i++) {
                uint64_t l1, bytes, size;
                uint32_t entries;

                if (!check_inside(c, at, sizeof fixed))
                        goto damaged;
                r = file_read(c->file, fixed, sizeof fixed, at);
                if (r < 0)
                        return r;
                l1 = be64_get(fixed + QCOW2_SN_L1_OFFSET);
                entries = be32_get(fixed + QCOW2_SN_L1_ENTRIES);
                bytes = 8ull * entries;
                size = (uint64_t)QCOW2_SN_FIXED + be32_get(fixed + QCOW2_SN_EXTRA_SIZE) +
                       be16_get(fixed + QCOW2_SN_ID_SIZE) + be16_get(fixed + QCOW2_SN_NAME_SIZE);
                at += (size + 7) & ~7ull;
                if (!check_inside(c, at, 0) || at - c->h.snapshots_offset > QCOW2_SNAPSHOTS_BYTES_MAX)
                        goto damaged;
                if (l1 % c->cluster || bytes > QCOW2_L1_BYTES_MAX || (bytes && !check_inside(c, l1, bytes))) {
                        check_found(c, CORRUPTION, "snapshot %" PRIu32 ": its L1 table is not in the file", i);
                        c->lost++;
                        continue;
                }
                r = bytes ? check_mark(c, l1, bytes) : 0;
                if (r == 1) {
                        check_found(c, CORRUPTION, "snapshot %" PRIu32 ": its L1 table overlaps other metadata", i);
                        c->lost++;
                        continue;
                }
                if (r == 0)
                        r = check_collect_l1(c, l1, entries, false);
                if (r < 0)
                        return r;
        }
        if (at > c->h.snapshots_offset)
                r = check_mark(c, c->h.snapshots_offset, at - c->h.snapshots_offset);
        if (r != 1)
                return r;
damaged:
        check_found(c, CORRUPTION, "the snapshot table at %#" PRIx64 " is damaged", c->h.snapshots_offset);
        c->lost++;
        return 0;
}

/* The clusters of one bitmap, whose table lies at @table. */
static int bitmap_clusters(struct check *c, uint64_t table, uint64_t bytes) {
        uint8_t buf[4096];

        for (uint64_t at = 0; at < bytes; at += sizeof buf) {
                uint64_t n = MIN(bytes - at, (uint64_t)sizeof buf);
                int r;

                if (!check_has_data(c, table + at, n))
                        continue;
                r = file_read(c->file, buf, n, table + at);
                if (r < 0)
                        return r;
                for (uint64_t i = 0; i < n; i += 8) {
                        uint64_t entry = be64_get(buf + i), offset = entry & QCOW2_OFFSET_MASK;

                        if (entry & QCOW2_BITMAP_RESERVED || (offset && entry & QCOW2_BITMAP_ALL_ONES))
                                return 1;
                        if (!offset)
                                continue;
                        if (offset % c->cluster || !check_inside(c, offset, c->cluster))
                                return 1;
                        r = check_mark(c, offset, c->cluster);
                        if (r)
                                return r;
                }
        }
        return 0;
}

/* One entry of the directory. Return: its length, 0: damaged, -errno */
static int64_t directory_entry(struct check *c, const uint8_t *p, uint64_t left) {
        uint64_t size, table, bytes;
        int r;

        if (left < QCOW2_BM_FIXED)
                return 0;
        size = (uint64_t)QCOW2_BM_FIXED + be32_get(p + QCOW2_BM_EXTRA_SIZE) + be16_get(p + QCOW2_BM_NAME_SIZE);
        size = (size + 7) & ~7ull;
        table = be64_get(p + QCOW2_BM_TABLE_OFFSET);
        bytes = 8ull * be32_get(p + QCOW2_BM_TABLE_ENTRIES);
        if (size > left || table % c->cluster || bytes > 8ull * QCOW2_BITMAP_TABLE_MAX || !bytes ||
            !check_inside(c, table, bytes))
                return 0;
        r = check_mark(c, table, bytes);
        if (r == 0)
                r = bitmap_clusters(c, table, bytes);
        return r == 0 ? (int64_t)size : MIN(r, 0);
}

int check_bitmaps(struct check *c) {
        uint64_t size = c->h.bitmaps.directory_size, offset = c->h.bitmaps.directory_offset, at = 0;
        _cleanup_free_ uint8_t *directory = NULL;
        int r;

        if (!c->h.bitmaps.n)
                return 0;
        if (!check_inside(c, offset, size))
                return 1;
        r = check_mark(c, offset, size);
        if (r)
                return r;
        directory = malloc(size);
        if (!directory)
                return -ENOMEM;
        r = file_read(c->file, directory, size, offset);
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < c->h.bitmaps.n; i++) {
                int64_t n = directory_entry(c, directory + at, size - at);

                if (n <= 0)
                        return n < 0 ? (int)n : 1;
                at += (uint64_t)n;
        }
        return at == size ? 0 : 1;
}
