// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * flush: the order in which changes reach the disk
 *
 *      copy what was changed, under the lock
 *      1. refcount blocks, new L2 tables                            --> sync, with all data written before
 *      2. the refcount table, or a longer one and then the header   --> sync, when there is something
 *      3. L2 tables, the L1 table                                   --> sync
 *      what was unlinked before may be reclaimed
 *
 * Theory of operation. The copies are taken at one moment, so what is linked while the writes go on isn't among them, and its counts and data
 * can be later. A cluster is linked either when its data was written before (write.c), or when it reads as zeroes, as the guest's bytes did
 * before (map.c): so after step 1 nothing in the copies points at anything older than itself. Whoever arrives while a flush is on its
 * way waits for the next one, and many are served by that one.
 *
 * When a write fails, everything in the copies counts as changed again. Once a damage was met no table is written any more, and every flush fails:
 * what was changed before is in memory only, and stays there.
 */
#include <string.h>

#include "vmm/block/qcow2/image.h"
#include "vmm/block/qcow2/resize.h"

enum phase { FIRST, SECOND, THIRD };

/* A part of a table, as it was. */
struct copy {
        struct copy *next;
        struct table *table;
        enum phase phase;
        uint32_t offset, length;
        uint64_t at;
        uint8_t data[];
};

struct batch {
        struct copy *copies;
        bool any[3];
        bool first_done;   /* durable: what new L2 tables hold, too */
        uint64_t reftable; /* its new place; 0: it hasn't moved */
        uint32_t reftable_clusters;
};

static int copy_blocks(struct batch *b, struct table *t, enum phase phase, uint32_t offset, uint32_t length) {
        struct copy *c = malloc(sizeof(*c) + length);

        if (!c)
                return -ENOMEM;
        *c = (struct copy){
                .next = b->copies,
                .table = t,
                .phase = phase,
                .offset = offset,
                .length = length,
                .at = t->at + offset,
        };
        memcpy(c->data, (const uint8_t *)t->words + offset, length);
        b->copies = c;
        b->any[phase] = true;
        t->busy = true;
        return 0;
}

static bool is_dirty(const struct table *t, uint32_t block) {
        return t->dirty[block / 64] >> block % 64 & 1;
}

/* Copy the changed parts, neighbours together. They count as unchanged from now on. */
static int copy_table(struct batch *b, struct table *t, enum phase phase) {
        uint32_t blocks = (t->size + TABLE_BLOCK - 1) / TABLE_BLOCK;

        for (uint32_t i = 0; t->n_dirty > 0 && i < blocks; i++) {
                uint32_t end = i;
                int r;

                while (end < blocks && is_dirty(t, end))
                        end++;
                if (end == i)
                        continue;
                r = copy_blocks(b, t, phase, i * TABLE_BLOCK, MIN(end * TABLE_BLOCK, t->size) - i * TABLE_BLOCK);
                if (r < 0)
                        return r;
                for (; i < end; i++, t->n_dirty--)
                        t->dirty[i / 64] &= ~(1ull << i % 64);
        }
        return 0;
}

/* A longer refcount table gets its place. It may have to grow for its own clusters' counts. */
static int place_reftable(struct qcow2 *q) {
        while (q->reftable->at == 0) {
                struct table *t = q->reftable;
                uint32_t size = t->size;
                uint64_t cluster, n;
                int r = clusters_alloc(q, size >> q->bits, true, &cluster, &n);

                if (r < 0)
                        return r;
                if (t->size != size) { /* it has grown meanwhile, so this is too short */
                        clusters_undo(q, cluster, n);
                        continue;
                }
                r = meta_add(q, cluster << q->bits, n);
                if (r < 0) {
                        clusters_undo(q, cluster, n);
                        return r;
                }
                t->at = cluster << q->bits;
        }
        return 0;
}

static int collect(struct qcow2 *q, struct batch *b) {
        int r = place_reftable(q);

        if (r == 0 && q->reftable->at != q->h.reftable_offset) {
                b->reftable = q->reftable->at;
                b->reftable_clusters = q->reftable->size >> q->bits;
                table_mark(q->reftable, 0, q->reftable->size);
        }
        /* Lazy refcounts are written when the image is closed; a kill leaves the dirty bit, and a repair counts anew. */
        if (!(q->h.compatible & QCOW2_COMPAT_LAZY) || q->closing || b->reftable || cache_is_full(&q->refblocks)) {
                for (uint32_t i = 0; r == 0 && i < q->refblocks.n; i++)
                        r = copy_table(b, q->refblocks.loaded[i], FIRST);
                if (r == 0)
                        r = copy_table(b, q->reftable, SECOND);
        }
        for (uint32_t i = 0; r == 0 && i < q->l2s.n; i++)
                r = copy_table(b, q->l2s.loaded[i], q->l2s.loaded[i]->fresh ? FIRST : THIRD);
        if (r == 0)
                r = copy_table(b, q->l1, THIRD);
        return r;
}

static int write_phase(struct qcow2 *q, const struct batch *b, enum phase phase) {
        for (const struct copy *c = b->copies; c; c = c->next) {
                int r = c->phase == phase ? file_write(q->layer.file, c->data, c->length, c->at) : 0;

                if (r < 0)
                        return r;
        }
        return file_sync(q->layer.file);
}

/* The header moves over to the longer refcount table: 12 bytes inside its first sector. */
static int move_reftable(struct qcow2 *q, const struct batch *b) {
        uint8_t fields[12];
        int r;

        be64_put(fields, b->reftable);
        be32_put(fields + 8, b->reftable_clusters);
        r = file_write(q->layer.file, fields, sizeof fields, QCOW2_H_REFTABLE_OFFSET);
        if (r == 0)
                r = file_sync(q->layer.file);
        return r;
}

static int write_all(struct qcow2 *q, struct batch *b) {
        int r = write_phase(q, b, FIRST);

        b->first_done = r == 0;
        if (r == 0 && b->any[SECOND])
                r = write_phase(q, b, SECOND);
        if (r == 0 && b->reftable)
                r = move_reftable(q, b);
        if (r == 0 && b->any[THIRD])
                r = write_phase(q, b, THIRD);
        return r;
}

static void finish(struct qcow2 *q, struct batch *b, struct runs *unlinked, int result) {
        struct copy *next;

        for (struct copy *c = b->copies; c; c = next) {
                struct table *t = c->table;

                next = c->next;
                t->busy = false;
                if (b->first_done)
                        t->fresh = false; /* from now on something on disk may point here, even when the rest failed */
                if (result < 0)
                        table_mark(t, c->offset, c->length);
                free(c);
        }
        /* It got longer meanwhile, so that nothing will name this place; but the header on disk may. */
        q->lost |= result < 0 && b->reftable && q->reftable->at != b->reftable;
        if (result == 0 && b->reftable) {
                meta_remove(q, q->h.reftable_offset, q->h.reftable_clusters);
                runs_add(q, &q->waiting, q->h.reftable_offset >> q->bits, q->h.reftable_clusters,
                         layer_epoch(&q->layer));
                q->h.reftable_offset = b->reftable;
                q->h.reftable_clusters = b->reftable_clusters;
        }
        runs_move(q, unlinked, result == 0 ? &q->waiting : &q->pending);
        runs_done(unlinked);
}

int flush_locked(struct qcow2 *q) {
        struct batch b = { 0 };
        struct runs unlinked;
        uint64_t number;
        bool broken;
        int r;

        pthread_mutex_lock(&q->lock);
        atomic_fetch_add(&q->flushing, 1);
        number = atomic_fetch_add(&q->flush_started, 1) + 1;
        atomic_store(&q->unflushed, false);
        unlinked = TAKE(q->pending, ((struct runs){ 0 }));
        broken = atomic_load(&q->broken);
        r = broken ? 0 : collect(q, &b);
        pthread_mutex_unlock(&q->lock);

        if (r == 0 && q->l1_unsure) {
                r = qcow2_resize_store_l1(q->layer.file, &q->h);
                q->l1_unsure = r < 0;
        }
        if (r == 0 && q->size_unsure) {
                r = qcow2_resize_store(q->layer.file, &q->h, q->h.size, NULL);
                q->size_unsure = r < 0;
        }
        if (r == 0)
                r = write_all(q, &b); /* nothing when @broken, but what was written in place is synced */
        if (r == 0 && broken)
                r = -EIO;

        pthread_mutex_lock(&q->lock);
        finish(q, &b, &unlinked, r);
        if (r == 0)
                atomic_store(&q->flush_completed, number);
        else
                atomic_store(&q->unflushed, true);
        atomic_fetch_sub(&q->flushing, 1);
        pthread_mutex_unlock(&q->lock);
        if (r == 0)
                reclaim(q);
        return r;
}

int qcow2_flush(struct layer *layer) {
        struct qcow2 *q = qcow2_of(layer);
        uint64_t before = atomic_load(&q->flush_started);
        int r = 0;

        pthread_mutex_lock(&q->flush_lock);
        if (atomic_load(&q->flush_completed) <= before) /* else one that started after us has done it */
                r = flush_locked(q);
        pthread_mutex_unlock(&q->flush_lock);
        return r;
}

bool qcow2_needs_flush(struct layer *layer) {
        struct qcow2 *q = qcow2_of(layer);

        return atomic_load(&q->unflushed) || atomic_load(&q->flushing) > 0;
}
