// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tables: L2 tables and refcount blocks in memory
 *
 * Theory of operation. A table is found by the index of the entry that points at it: one array lookup, which map() makes under its user's
 * lock only. Tables leave by the clock algorithm, and only clean ones: when too many are changed, whoever needs room flushes first
 * (cache_is_full()), so the limit is a soft one: a few tables more while changes pile up. Words are atomic because map() reads while
 * somebody changes them; a changed entry is one store.
 */
#include <string.h>

#include "base/log.h"
#include "vmm/block/qcow2/image.h"

struct table *table_new(uint64_t at, uint64_t size) {
        uint64_t n_blocks = (size + TABLE_BLOCK - 1) / TABLE_BLOCK;
        struct table *t = calloc(1, sizeof(*t) + (size + 7) / 8 * 8);

        if (!t)
                return NULL;
        t->dirty = calloc((n_blocks + 63) / 64 + 1, 8);
        if (!t->dirty) {
                free(t);
                return NULL;
        }
        t->at = at;
        t->size = (uint32_t)size;
        return t;
}

void table_free(struct table *t) {
        if (!t)
                return;
        free(t->dirty);
        free(t);
}

void table_mark(struct table *t, uint32_t offset, uint32_t bytes) {
        for (uint32_t b = offset / TABLE_BLOCK; b <= (offset + bytes - 1) / TABLE_BLOCK; b++) {
                uint64_t bit = 1ull << b % 64;

                t->n_dirty += !(t->dirty[b / 64] & bit);
                t->dirty[b / 64] |= bit;
        }
}

void table_set(struct table *t, uint32_t word, uint64_t value) {
        atomic_store(&t->words[word], __builtin_bswap64(value));
        table_mark(t, word * 8, 8);
}

int table_read(struct qcow2 *q, struct table *t) {
        return file_read(q->layer.file, (void *)t->words, t->size, t->at);
}

int cache_init(struct cache *c, uint32_t n_index, uint32_t limit) {
        c->limit = MAX(limit, 4u);
        return cache_grow(c, MAX(n_index, 1u));
}

int cache_grow(struct cache *c, uint32_t n_index) {
        _Atomic(struct table *) *p;

        if (n_index <= c->n_index)
                return 0;
        p = calloc(n_index, sizeof(*p));
        if (!p)
                return -ENOMEM;
        for (uint32_t i = 0; i < c->n_index; i++)
                atomic_init(&p[i], atomic_load(&c->by_index[i]));
        free((void *)c->by_index);
        c->by_index = p;
        c->n_index = n_index;
        return 0;
}

void cache_done(struct cache *c) {
        for (uint32_t i = 0; i < c->n; i++)
                table_free(c->loaded[i]);
        free(c->loaded);
        free((void *)c->by_index);
        *c = (struct cache){ 0 };
}

bool cache_is_full(const struct cache *c) {
        uint32_t dirty = 0;

        if (c->n < c->limit)
                return false;
        for (uint32_t i = 0; i < c->n; i++)
                dirty += c->loaded[i]->n_dirty > 0;
        return dirty >= c->n / 2;
}

/* Makes room for one: the first clean table that was not used since the hand came by last. */
static void evict(struct qcow2 *q, struct cache *c) {
        for (uint32_t i = 0; c->n >= c->limit && i < 2 * c->n; i++) {
                struct table *t = c->loaded[c->hand = c->hand % c->n];

                if (t->n_dirty || t->busy || t->fresh || atomic_exchange(&t->used, false)) {
                        c->hand++;
                        continue;
                }
                layer_lock_users(&q->layer);
                atomic_store(&c->by_index[t->index], NULL);
                layer_unlock_users(&q->layer);
                c->loaded[c->hand] = c->loaded[--c->n];
                table_free(t);
                return;
        }
}

int cache_add(struct qcow2 *q, struct cache *c, struct table *t) {
        evict(q, c);
        if (c->n == c->room) {
                uint32_t room = c->room ? 2 * c->room : 16;
                struct table **p = reallocarray(c->loaded, room, sizeof(struct table *));

                if (!p)
                        return -ENOMEM;
                c->loaded = p;
                c->room = room;
        }
        c->loaded[c->n++] = t;
        atomic_store(&t->used, true);
        atomic_store(&c->by_index[t->index], t);
        return 0;
}

bool table_at_ok(const struct qcow2 *q, uint64_t at) {
        return at % q->cluster == 0 && at >= q->cluster && at < file_size(q->layer.file);
}

static int load(struct qcow2 *q, struct cache *c, uint64_t index, uint64_t at, struct table **ret) {
        struct table *t;
        int r;

        if (!table_at_ok(q, at))
                return image_damaged(q, "a table lies outside the file");
        t = table_new(at, q->cluster);
        if (!t)
                return -ENOMEM;
        t->index = (uint32_t)index;
        r = table_read(q, t);
        if (r == 0)
                r = cache_add(q, c, t);
        if (r < 0) {
                table_free(t);
                return r;
        }
        *ret = t;
        return 0;
}

int l2_get(struct qcow2 *q, uint64_t l1_index, struct table **ret) {
        struct table *t;
        uint64_t at;

        if (l1_index >= q->h.l1_entries)
                return -ERANGE;
        t = atomic_load(&q->l2s.by_index[l1_index]);
        at = table_get(q->l1, (uint32_t)l1_index) & QCOW2_OFFSET_MASK;
        if (t || !at) {
                *ret = t;
                return 0;
        }
        return load(q, &q->l2s, l1_index, at, ret);
}

/* A new place for a table; @from: what is in it, NULL: nothing. */
static int l2_new(struct qcow2 *q, uint64_t l1_index, const struct table *from, struct table **ret) {
        uint64_t cluster, n;
        struct table *t;
        int r = clusters_alloc(q, 1, true, &cluster, &n);

        if (r < 0)
                return r;
        t = table_new(cluster << q->bits, q->cluster);
        r = t ? meta_add(q, t->at, 1) : -ENOMEM;
        if (r == 0) {
                t->index = (uint32_t)l1_index;
                t->fresh = true;
                if (from)
                        memcpy((void *)t->words, (const void *)from->words, t->size);
                table_mark(t, 0, t->size);
                r = cache_add(q, &q->l2s, t);
                if (r < 0)
                        meta_remove(q, t->at, 1);
        }
        if (r < 0) {
                table_free(t);
                clusters_undo(q, cluster, 1);
                return r;
        }
        table_set(q->l1, (uint32_t)l1_index, t->at | QCOW2_COPIED);
        atomic_store(&q->unflushed, true);
        *ret = t;
        return 0;
}

int l2_get_owned(struct qcow2 *q, uint64_t l1_index, struct table **ret) {
        struct table *t = NULL;
        uint64_t entry, count;
        int r = l2_get(q, l1_index, &t);

        if (r < 0)
                return r;
        if (!t)
                return l2_new(q, l1_index, NULL, ret);
        entry = table_get(q->l1, (uint32_t)l1_index);
        if (!(entry & QCOW2_COPIED)) {
                r = refcount_get(q, t->at >> q->bits, &count);
                if (r < 0)
                        return r;
                if (count != 1) /* who else points there, in an image without snapshots? */
                        return image_damaged(q, "an L2 table is not referenced exactly once");
                table_set(q->l1, (uint32_t)l1_index, entry | QCOW2_COPIED);
                atomic_store(&q->unflushed, true);
        }
        *ret = t;
        return 0;
}

int refblock_get(struct qcow2 *q, uint64_t index, struct table **ret) {
        struct table *t;
        uint64_t at;

        if (index >= q->reftable->size / 8) {
                *ret = NULL;
                return 0;
        }
        t = atomic_load(&q->refblocks.by_index[index]);
        at = table_get(q->reftable, (uint32_t)index) & QCOW2_REFTABLE_MASK;
        if (t || !at) {
                *ret = t;
                return 0;
        }
        return load(q, &q->refblocks, index, at, ret);
}

int meta_add(struct qcow2 *q, uint64_t at, uint64_t clusters) {
        int r;

        layer_lock_users(&q->layer);
        r = clusters_reserve(&q->meta, clusters);
        for (uint64_t i = 0; r == 0 && i < clusters; i++)
                clusters_add(&q->meta, (at >> q->bits) + i);
        layer_unlock_users(&q->layer);
        return r;
}

void meta_remove(struct qcow2 *q, uint64_t at, uint64_t clusters) {
        layer_lock_users(&q->layer);
        for (uint64_t i = 0; i < clusters; i++)
                clusters_remove(&q->meta, (at >> q->bits) + i);
        layer_unlock_users(&q->layer);
}

int image_damaged(struct qcow2 *q, const char *what) {
        if (q->layer.readonly || atomic_exchange(&q->broken, true))
                return -EIO;
        log_error("a qcow2 image is damaged (%s): it is not changed any more; repair it with lodge image check", what);
        q->h.incompatible |= QCOW2_INCOMPAT_CORRUPT;
        if (qcow2_header_store_features(q->layer.file, &q->h) == 0)
                file_sync(q->layer.file);
        return -EIO;
}

int image_begin(struct qcow2 *q) {
        int r;

        if (atomic_load(&q->broken))
                return -EIO;
        if (q->dirty_set)
                return 0;
        q->h.incompatible |= QCOW2_INCOMPAT_DIRTY;
        r = qcow2_header_store_features(q->layer.file, &q->h);
        if (r == 0)
                r = file_sync(q->layer.file);
        if (r == 0)
                q->dirty_set = true;
        return r;
}
