// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * refcheck: the refcounts in the image, beside what was counted
 *
 * Theory of operation. Both sides are sorted by cluster: the refcount blocks by nature, the counts by counts_sort(). So one pass merges them;
 * blocks that are holes are not read, and stretches where neither side says anything are skipped by the word. A cluster that
 * is referenced but has no refcount block can't be mended in place, nor can a block that overlaps other metadata: that asks for a rebuild.
 *
 * The same pass serves three times: to look, to raise what is too low, to lower what is too high. Raising comes before, and lowering
 * after, the entries that depend on it (see check.c).
 */
#include "vmm/block/qcow2/check.h"

#include <inttypes.h>

static int damaged_block(struct check *c, uint64_t i, const char *how) {
        check_found(c, CORRUPTION, "refcount block %" PRIu64 " at %#" PRIx64 " %s", i, c->reftable[i], how);
        c->reftable[i] = 0;
        c->rebuild = true;
        c->rebuild_fixes++;
        return 0;
}

static int load_block(struct check *c, uint64_t i) {
        uint64_t at = c->reftable[i] & QCOW2_REFTABLE_MASK;
        int r;

        if (c->reftable[i] & ~QCOW2_REFTABLE_MASK)
                return damaged_block(c, i, "has reserved bits");
        if (at % c->cluster || !check_inside(c, at, c->cluster))
                return damaged_block(c, i, at % c->cluster ? "is not aligned" : "is not in the file");
        if (counts_get(&c->counts, at / c->cluster) > 0)
                return damaged_block(c, i, "overlaps other metadata");
        r = check_mark(c, at, c->cluster);
        return MIN(r, 0);
}

int refcheck_load(struct check *c) {
        uint64_t at = c->h.reftable_offset, bytes = (uint64_t)c->h.reftable_clusters * c->cluster;
        int r;

        if (!bytes || !check_inside(c, at, bytes)) {
                check_found(c, CORRUPTION, "the refcount table at %#" PRIx64 " is not in the file", at);
                goto rebuild;
        }
        for (uint64_t i = at / c->cluster; i < (at + bytes) / c->cluster; i++)
                if (counts_get(&c->counts, i)) {
                        check_found(c, CORRUPTION, "the refcount table at %#" PRIx64 " overlaps other metadata", at);
                        goto rebuild;
                }
        r = check_mark(c, at, bytes);
        if (r < 0)
                return r;
        c->reftable_counted = true;
        c->reftable = malloc(bytes);
        if (!c->reftable)
                return -ENOMEM;
        r = file_read(c->file, c->reftable, bytes, at);
        if (r < 0)
                return r;
        c->n_reftable = (uint32_t)(bytes / 8);
        for (uint64_t i = 0; i < c->n_reftable; i++) {
                c->reftable[i] = be64_get(&c->reftable[i]);
                if (c->reftable[i]) {
                        r = load_block(c, i);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
rebuild:
        c->rebuild = true;
        c->rebuild_fixes++;
        return 0;
}

/* One cluster, with its refcount in the image and the references that were counted. True: the refcount was changed. */
static bool compare_one(struct check *c, enum refcheck mode, void *block, uint64_t i, uint64_t cluster, uint64_t has,
                        struct counts_piece *p) {
        uint64_t want = p ? p->count[cluster % COUNTS_PIECE] : 0, max = qcow2_refcount_max(c->h.refcount_order);
        bool raise = has < want, changed = false;

        if (mode == REFCHECK_LOOK) {
                if (has || want)
                        c->highest = MAX(c->highest, cluster + 1);
                if (want)
                        c->highest_counted = MAX(c->highest_counted, cluster + 1);
                if (raise) {
                        check_found(c, CORRUPTION, "cluster %" PRIu64 ": refcount %" PRIu64 ", %" PRIu64 " references",
                                    cluster, has, want);
                        if (want > max)
                                c->unfixed_width++;
                        else
                                c->too_low++;
                } else if (has > want) {
                        check_found(c, LEAK, "cluster %" PRIu64 ": refcount %" PRIu64 ", %" PRIu64 " references",
                                    cluster, has, want);
                        c->too_high++;
                }
        } else if (block && (mode == REFCHECK_RAISE ? raise : has > want)) {
                changed = has != MIN(want, max);
                has = MIN(want, max);
                qcow2_refcount_put(block, c->h.refcount_order, i, has);
                if (mode == REFCHECK_LOWER)
                        c->res->leaks_fixed++;
                else if (want <= max)
                        c->res->corruptions_fixed++;
        }
        if (c->will_lower)
                has = MIN(has, want);
        if (p && has == 1)
                p->one |= (uint16_t)(1u << cluster % COUNTS_PIECE);
        else if (p)
                p->one &= (uint16_t) ~(1u << cluster % COUNTS_PIECE);
        return changed;
}

/* The clusters of one refcount block; @block is NULL where there is none. @at: the next piece, moved on. True: changed. */
static bool compare_block(struct check *c, enum refcheck mode, uint8_t *block, uint64_t first, uint64_t n,
                          uint32_t *at) {
        uint64_t stride = block ? MAX(64ull >> c->h.refcount_order, 1ull) : n; /* refcounts in 8 bytes */
        bool changed = false;

        for (uint64_t i = 0; i < n; i += stride) {
                uint64_t next = *at < c->counts.n ? c->counts.pieces[*at].key * COUNTS_PIECE : UINT64_MAX;

                if (block && next >= first + i + stride && be64_get(block + (i / stride) * 8) == 0)
                        continue;
                if (!block) {
                        if (next >= first + n)
                                break;
                        i = next > first ? next - first : 0;
                        stride = COUNTS_PIECE;
                }
                for (uint64_t k = i; k < i + stride && k < n; k++) {
                        uint64_t cluster = first + k;
                        struct counts_piece *p;

                        while (*at < c->counts.n && c->counts.pieces[*at].key < cluster / COUNTS_PIECE)
                                ++*at;
                        p = *at < c->counts.n ? &c->counts.pieces[*at] : NULL;
                        if (p && p->key != cluster / COUNTS_PIECE)
                                p = NULL;
                        changed |= compare_one(c, mode, block, k, cluster,
                                               block ? qcow2_refcount_get(block, c->h.refcount_order, k) : 0, p);
                }
                while (*at < c->counts.n && (c->counts.pieces[*at].key + 1) * COUNTS_PIECE <= first + i + stride)
                        ++*at;
        }
        return changed;
}

int refcheck_compare(struct check *c, enum refcheck mode) {
        uint64_t per = qcow2_refblock_entries(&c->h), low = c->too_low + c->unfixed_width;
        uint32_t at = 0;

        for (uint64_t i = 0; i < c->n_reftable; i++) {
                uint64_t block = c->reftable[i];
                bool read = block && check_has_data(c, block, c->cluster), changed;
                int r;

                if (read) {
                        r = file_read(c->file, c->buf, c->cluster, block);
                        if (r < 0) {
                                if (mode != REFCHECK_LOOK)
                                        return r;
                                check_found(c, ERROR, "refcount block at %#" PRIx64 " cannot be read", block);
                        }
                } else if (block)
                        memset(c->buf, 0, c->cluster);
                low = c->too_low + c->unfixed_width;
                changed = compare_block(c, mode, block ? c->buf : NULL, i * per, per, &at);
                if (!block && c->too_low + c->unfixed_width > low)
                        c->rebuild = true;
                if (changed) {
                        r = file_write(c->file, c->buf, c->cluster, block);
                        if (r < 0)
                                return r;
                }
        }
        /* Behind the last block that the table has room for */
        low = c->too_low + c->unfixed_width;
        if (at < c->counts.n)
                compare_block(c, mode, NULL, c->n_reftable * per, UINT64_MAX / 2, &at);
        if (c->too_low + c->unfixed_width > low)
                c->rebuild = true;
        return 0;
}
