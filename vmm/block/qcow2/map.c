// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * map: where is it? What L2 entries mean, and the path that never waits
 *
 * Theory of operation. A question takes the asker's own lock, looks into the L2 table if it is in memory, and goes on as far as
 * neighbouring entries lead to neighbouring places. Standard entries are one word. Of an extended entry the bitmap is read before and
 * after the offset: the same twice means that they belong together.
 *
 * With LAYER_WRITE an answer is a place that may be overwritten: ours alone, inside the file, and no metadata. Where the guest has zeroes and
 * the pool has a cluster, that cluster is linked here and now, before the guest's bytes are in it: until they are, it reads as
 * the zeroes that it replaces, also after a power cut.
 */
#include "vmm/block/qcow2/image.h"

#define LOCK_TRIES 64

/* Does its host offset mean anything? */
static bool has_place(const struct place *p) {
        return p->kind == EXTENT_DATA || (p->kind == EXTENT_ZERO && p->allocated);
}

static int standard_place(const struct qcow2 *q, uint64_t entry, struct place *p) {
        uint64_t at = entry & QCOW2_OFFSET_MASK;

        p->host = at;
        p->allocated = at != 0;
        p->copied = entry & QCOW2_COPIED;
        if (q->h.version >= 3 && entry & QCOW2_ZERO)
                p->kind = EXTENT_ZERO;
        else
                p->kind = at ? EXTENT_DATA : EXTENT_UNALLOCATED;
        return at % q->cluster ? -EIO : 0;
}

/* The bitmap is one word: where a part of it contradicts itself, or means data that has no place, none of it is followed. */
static int extended_place(const struct qcow2 *q, uint64_t entry, uint64_t bitmap, uint32_t sub, struct place *p) {
        uint64_t at = entry & QCOW2_OFFSET_MASK;
        bool data = QCOW2_SUB_ALLOC(bitmap) >> sub & 1, zero = QCOW2_SUB_ZERO(bitmap) >> sub & 1;

        p->host = at ? at + sub * q->unit : 0;
        p->allocated = at != 0;
        p->copied = entry & QCOW2_COPIED;
        p->kind = data ? EXTENT_DATA : zero ? EXTENT_ZERO : EXTENT_UNALLOCATED;
        return at % q->cluster || QCOW2_SUB_ALLOC(bitmap) & QCOW2_SUB_ZERO(bitmap) || (!at && QCOW2_SUB_ALLOC(bitmap))
                       ? -EIO
                       : 0;
}

int place_get(const struct qcow2 *q, const struct table *t, uint32_t index, uint32_t sub, struct place *ret) {
        uint64_t entry, bitmap = 0;

        if (q->l2_step == 1) {
                entry = table_get(t, index);
        } else {
                uint64_t again = table_get(t, 2 * index + 1);

                do {
                        bitmap = again;
                        entry = table_get(t, 2 * index);
                        again = table_get(t, 2 * index + 1);
                } while (again != bitmap);
        }
        *ret = (struct place){ .entry = entry, .bitmap = bitmap };
        if (entry & QCOW2_COMPRESSED) {
                ret->kind = EXTENT_COMPRESSED;
                ret->host = entry;
                ret->allocated = true;
                return 0;
        }
        return q->l2_step == 1 ? standard_place(q, entry, ret) : extended_place(q, entry, bitmap, sub, ret);
}

/* Between the two stores of an extended entry a reader may see the new offset with the old bitmap, or a bitmap without data and any offset; where
 * that would mislead him he has to wait. */
void place_set(struct qcow2 *q, struct table *t, uint32_t index, uint64_t entry, uint64_t bitmap) {
        if (q->l2_step == 1) {
                table_set(t, index, entry);
        } else if (table_get(t, 2 * index) & QCOW2_COMPRESSED || entry & QCOW2_COMPRESSED) {
                layer_lock_users(&q->layer);
                table_set(t, 2 * index, entry);
                table_set(t, 2 * index + 1, bitmap);
                layer_unlock_users(&q->layer);
        } else if (entry & QCOW2_OFFSET_MASK) {
                table_set(t, 2 * index, entry);
                table_set(t, 2 * index + 1, bitmap);
        } else {
                table_set(t, 2 * index + 1, bitmap);
                table_set(t, 2 * index, entry);
        }
        atomic_store(&q->unflushed, true);
}

bool backing_is_empty(const struct qcow2 *q, uint64_t cluster_offset) {
        return !q->layer.backing || cluster_offset >= atomic_load(&q->layer.backing->size);
}

bool reads_as_zeroes(const struct qcow2 *q, const struct place *p, uint64_t cluster_offset) {
        if (p->allocated)
                return false;
        if (backing_is_empty(q, cluster_offset))
                return true;
        return q->l2_step == 1 ? p->kind == EXTENT_ZERO : QCOW2_SUB_ZERO(p->bitmap) == UINT32_MAX;
}

/* Clusters of @t from @index on, @n at most, that read as zeroes and have no place get some from the pool, in a row. How many. */
uint32_t pool_link(struct qcow2 *q, struct table *t, uint32_t index, uint64_t offset, uint32_t n, uint64_t *ret_host) {
        struct run *run = q->pool.n ? &q->pool.v[q->pool.n - 1] : NULL;
        uint32_t i;

        if (!run || atomic_load(&q->broken))
                return 0;
        n = (uint32_t)MIN((uint64_t)n, run->n);
        *ret_host = run->cluster << q->bits;
        for (i = 0; i < n && index + i < q->l2_entries; i++) {
                struct place p;

                if (place_get(q, t, index + i, 0, &p) < 0 || !reads_as_zeroes(q, &p, offset + i * q->cluster))
                        break;
                place_set(q, t, index + i, run->cluster << q->bits | QCOW2_COPIED, UINT32_MAX);
                run->cluster++;
                run->n--;
        }
        if (run->n == 0)
                q->pool.n--;
        return i;
}

/* How far does @p's kind go on? Bytes from @offset, up to the end of the table. */
static uint64_t follow(const struct qcow2 *q, const struct table *t, uint64_t offset, uint64_t length,
                       const struct place *p) {
        uint64_t span = q->cluster * q->l2_entries, at = (offset & (span - 1)) & ~(q->unit - 1);
        uint64_t last = MIN((offset & (span - 1)) + length, span), host = p->host;

        while (at + q->unit < last) {
                struct place next;

                at += q->unit;
                host += q->unit;
                if (place_get(q, t, (uint32_t)(at >> q->bits), (uint32_t)((at & (q->cluster - 1)) / q->unit), &next) <
                    0)
                        return at - (offset & (span - 1));
                if (next.kind != p->kind || next.allocated != p->allocated || next.copied != p->copied ||
                    (has_place(p) && next.host != host))
                        return at - (offset & (span - 1));
        }
        return last - (offset & (span - 1));
}

static void fill(const struct qcow2 *q, const struct table *t, uint64_t offset, uint64_t length, const struct place *p,
                 struct extent *ret) {
        uint64_t in = offset & (q->unit - 1), size;

        *ret = (struct extent){ .kind = p->kind, .length = length };
        if (p->kind == EXTENT_COMPRESSED) {
                ret->length = MIN(length, q->cluster - (offset & (q->cluster - 1)));
                return;
        }
        ret->length = follow(q, t, offset, length, p);
        if (!has_place(p))
                return;
        ret->host = p->host + in;
        ret->allocated = p->kind == EXTENT_ZERO;
        if (p->kind != EXTENT_DATA)
                return;
        /* Behind the file's end there are zeroes. */
        size = file_size(q->layer.file);
        if (ret->host >= size)
                ret->kind = EXTENT_ZERO;
        else
                ret->length = MIN(ret->length, size - ret->host);
}

/* The answer from what is in memory; -EAGAIN: the table isn't. The user's lock or @lock is held. */
static int look(struct qcow2 *q, uint64_t offset, uint64_t length, unsigned int flags, struct extent *ret) {
        uint64_t span = q->cluster * q->l2_entries, l1_index = offset / span;
        uint32_t index = (uint32_t)((offset % span) >> q->bits);
        struct table *t;
        struct place p;
        int r;

        if (l1_index >= q->h.l1_entries)
                return -ERANGE;
        t = atomic_load_explicit(&q->l2s.by_index[l1_index], memory_order_acquire);
        if (!t) {
                if (flags & LAYER_WRITE || table_get(q->l1, (uint32_t)l1_index) & QCOW2_OFFSET_MASK)
                        return -EAGAIN;
                *ret = (struct extent){ .kind = EXTENT_UNALLOCATED, .length = MIN(length, span - offset % span) };
                return 0;
        }
        if (!atomic_load_explicit(&t->used, memory_order_relaxed))
                atomic_store_explicit(&t->used, true, memory_order_relaxed);
        r = place_get(q, t, index, (uint32_t)((offset & (q->cluster - 1)) / q->unit), &p);
        if (r < 0)
                return flags & LAYER_NOWAIT ? -EAGAIN : r;
        fill(q, t, offset, length, &p, ret);
        if (!(flags & LAYER_WRITE))
                return 0;
        if (ret->kind != EXTENT_DATA || !p.copied || atomic_load(&q->broken))
                return -EAGAIN;
        return clusters_has(&q->meta, ret->host >> q->bits,
                            ((ret->host + ret->length - 1) >> q->bits) - (ret->host >> q->bits) + 1)
                       ? -EAGAIN
                       : 0;
}

/* Zeroes become data, from the pool; -EAGAIN where that can't be done at once. */
static int link_now(struct qcow2 *q, uint64_t offset, uint64_t length, struct extent *ret) {
        uint64_t span = q->cluster * q->l2_entries, host, in = offset & (q->cluster - 1);
        struct table *t;
        uint32_t n = 0;
        int tries = LOCK_TRIES;

        while (pthread_mutex_trylock(&q->lock) != 0) {
                if (--tries == 0)
                        return -EAGAIN;
                __builtin_ia32_pause();
        }
        t = offset / span < q->h.l1_entries ? atomic_load(&q->l2s.by_index[offset / span]) : NULL;
        if (t && table_get(q->l1, (uint32_t)(offset / span)) & QCOW2_COPIED)
                n = pool_link(q, t, (uint32_t)((offset % span) >> q->bits), offset - in,
                              (uint32_t)MIN((in + length + q->cluster - 1) >> q->bits, (uint64_t)q->l2_entries), &host);
        pthread_mutex_unlock(&q->lock);
        if (n == 0)
                return -EAGAIN;
        *ret = (struct extent){
                .kind = EXTENT_DATA,
                .host = host + in,
                .length = MIN(length, (uint64_t)n * q->cluster - in),
        };
        return 0;
}

int qcow2_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
              struct extent *ret_extent) {
        struct qcow2 *q = qcow2_of(layer);
        pthread_mutex_t *lock = user ? &user->lock : &q->lock;
        int r;

        pthread_mutex_lock(lock);
        r = look(q, offset, length, flags, ret_extent);
        pthread_mutex_unlock(lock);
        if (r == -EAGAIN && flags & LAYER_WRITE)
                r = link_now(q, offset, length, ret_extent);
        if (r == 0 && flags & LAYER_WRITE && q->bitmaps)
                qcow2_bitmaps_mark(q->bitmaps, offset, ret_extent->length);
        if (r == -EAGAIN && !(flags & LAYER_NOWAIT)) {
                struct table *t;

                pthread_mutex_lock(&q->lock);
                r = l2_get(q, offset / (q->cluster * q->l2_entries), &t);
                if (r == 0)
                        r = look(q, offset, length, flags, ret_extent);
                pthread_mutex_unlock(&q->lock);
        }
        return r;
}
