// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * repair: new refcount structures from what was counted
 *
 * Theory of operation. When blocks are missing, or lie on top of something else, mending in place isn't possible or isn't safe. The old
 * table and blocks are left as they are; new ones are written behind the last cluster that anybody uses or counts, with blocks only for
 * stretches in which something is counted, and synced. Then one write of 12 bytes inside one sector lets the header point at the new
 * table. A kill before it leaves the old image and some unused bytes behind its end; the old structures are free from then on.
 *
 * The new structures count themselves, so their size is found as a fixed point.
 */
#include "vmm/block/qcow2/check.h"

#include <inttypes.h>

struct rebuild {
        struct check *c;
        uint64_t per;              /* clusters that one block counts */
        uint64_t table, n_table;   /* the new table, in clusters */
        uint64_t blocks, n_blocks; /* the new blocks */
        uint8_t *entries;          /* the new table's content */
};

/* The old table and blocks are no longer referenced. */
static void forget_old(struct check *c) {
        uint64_t first = c->h.reftable_offset / c->cluster;
        struct counts_piece *p;

        for (uint64_t i = 0; c->reftable_counted && i < c->h.reftable_clusters; i++) {
                p = counts_find(&c->counts, first + i);
                if (p && p->count[(first + i) % COUNTS_PIECE])
                        p->count[(first + i) % COUNTS_PIECE]--;
        }
        for (uint32_t i = 0; i < c->n_reftable; i++) {
                uint64_t at = c->reftable[i] / c->cluster;

                p = c->reftable[i] ? counts_find(&c->counts, at) : NULL;
                if (p && p->count[at % COUNTS_PIECE])
                        p->count[at % COUNTS_PIECE]--;
        }
}

static bool piece_used(const struct counts_piece *p) {
        for (unsigned int i = 0; i < COUNTS_PIECE; i++)
                if (p->count[i])
                        return true;
        return false;
}

/* How many blocks are needed: one for each stretch with a count, and those for the structures themselves at [@from, @to). */
static uint64_t needed_blocks(const struct rebuild *b, uint64_t from, uint64_t to) {
        uint64_t n = to > from ? (to - 1) / b->per - from / b->per + 1 : 0, last = UINT64_MAX;
        const struct counts *counts = &b->c->counts;

        for (uint32_t i = 0; i < counts->n; i++) {
                uint64_t index = counts->pieces[i].key * COUNTS_PIECE / b->per;

                if (index == last || (index >= from / b->per && index <= (to - 1) / b->per))
                        continue;
                if (piece_used(&counts->pieces[i])) {
                        n++;
                        last = index;
                }
        }
        return n;
}

static int plan(struct rebuild *b) {
        struct check *c = b->c;

        b->table = MAX(c->highest, c->highest_counted);
        b->table = MAX(b->table, 1ull);
        b->n_table = 1;
        b->n_blocks = 1;
        for (;;) {
                uint64_t end = b->table + b->n_table + b->n_blocks;
                uint64_t blocks = needed_blocks(b, b->table, end);
                uint64_t table = (((end - 1) / b->per + 1) * 8 + c->cluster - 1) / c->cluster;

                if (table > QCOW2_REFTABLE_BYTES_MAX / c->cluster || end > QCOW2_OFFSET_END / c->cluster)
                        return -EFBIG;
                if (blocks <= b->n_blocks && table <= b->n_table)
                        break;
                b->n_blocks = MAX(b->n_blocks, blocks);
                b->n_table = MAX(b->n_table, table);
        }
        b->blocks = b->table + b->n_table;
        if (file_is_device(c->file) && (b->blocks + b->n_blocks) * c->cluster > file_size(c->file))
                return -ENOSPC;
        return 0;
}

/* Fills block @index from the pieces at @at and the new structures' own clusters. */
static void fill_block(struct rebuild *b, uint64_t index, uint32_t *at) {
        struct check *c = b->c;
        uint64_t first = index * b->per, end = first + b->per, max = qcow2_refcount_max(c->h.refcount_order);
        uint64_t own = b->blocks + b->n_blocks;

        memset(c->buf, 0, c->cluster);
        for (; *at < c->counts.n && c->counts.pieces[*at].key * COUNTS_PIECE < end; ++*at) {
                struct counts_piece *p = &c->counts.pieces[*at];
                uint64_t k = p->key * COUNTS_PIECE - first;

                p->one = 0;
                for (unsigned int i = 0; i < COUNTS_PIECE; i++) {
                        if (p->count[i])
                                qcow2_refcount_put(c->buf, c->h.refcount_order, k + i, MIN((uint64_t)p->count[i], max));
                        p->one |= (uint16_t)((MIN((uint64_t)p->count[i], max) == 1) << i);
                }
        }
        for (uint64_t i = MAX(b->table, first); i < own && i < end; i++)
                qcow2_refcount_put(c->buf, c->h.refcount_order, i - first, 1);
}

static int write_blocks(struct rebuild *b) {
        struct check *c = b->c;
        uint64_t from = b->table / b->per, to = (b->blocks + b->n_blocks - 1) / b->per, n = 0, index = 0;
        uint32_t at = 0;

        while (true) {
                int r;

                while (at < c->counts.n && !piece_used(&c->counts.pieces[at]))
                        c->counts.pieces[at++].one = 0;
                if (at < c->counts.n)
                        index = c->counts.pieces[at].key * COUNTS_PIECE / b->per;
                else
                        index = UINT64_MAX;
                if (from <= to && index >= from)
                        index = from++;
                if (index == UINT64_MAX)
                        break;
                fill_block(b, index, &at);
                if (n >= b->n_blocks || index * 8 >= b->n_table * c->cluster)
                        return -EIO; /* the plan was wrong: nothing points here yet */
                r = file_write(c->file, c->buf, c->cluster, (b->blocks + n) * c->cluster);
                if (r < 0)
                        return r;
                be64_put(b->entries + index * 8, (b->blocks + n) * c->cluster);
                n++;
        }
        /* The fixed point may have asked for a block more than there are stretches: it stays unused, a leak of a cluster. */
        return file_write(c->file, b->entries, b->n_table * c->cluster, b->table * c->cluster);
}

int repair_rebuild(struct check *c, struct error *e) {
        struct rebuild b = { .c = c, .per = qcow2_refblock_entries(&c->h) };
        uint8_t pointer[12];
        int r = 0;

        if (c->lost) /* unreachable while every lost reference is dropped; free clusters only when all are known */
                return 0;
        forget_old(c);
        r = plan(&b);
        if (r < 0)
                return error_set(e, r, "qcow2-check", "convert the image: lodge image convert",
                                 "there is no room for new refcounts");
        b.entries = calloc(b.n_table, c->cluster);
        if (!b.entries)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for new refcounts");
        r = write_blocks(&b);
        if (r == 0)
                r = file_sync(c->file);
        free(b.entries);
        if (r < 0)
                return r;
        be64_put(pointer, b.table * c->cluster);
        be32_put(pointer + 8, (uint32_t)b.n_table);
        r = file_write(c->file, pointer, sizeof pointer, QCOW2_H_REFTABLE_OFFSET);
        if (r == 0)
                r = file_sync(c->file);
        if (r < 0)
                return r;
        c->h.reftable_offset = b.table * c->cluster;
        c->h.reftable_clusters = (uint32_t)b.n_table;
        c->res->corruptions_fixed += c->too_low + c->rebuild_fixes;
        c->res->leaks_fixed += c->too_high;
        c->too_low = c->too_high = 0;
        c->res->end = (b.blocks + b.n_blocks) * c->cluster;
        return 0;
}
