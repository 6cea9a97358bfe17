// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * refcounts: host clusters, given out and given back
 *
 * Theory of operation. A free cluster is one whose refcount is zero, or which no refcount block counts yet. The search goes up from @hint, below
 * which nothing is free. Where it meets clusters without a refcount block, the block is made at that very place, so that it counts
 * itself; a long run that has to be in one piece has all its blocks in front of it. A refcount table that gets too short grows in memory;
 * the next flush finds it a place and moves the header over.
 *
 * The counts in memory are never lower than the references in memory and on disk together, so they may be written at any time. That is why
 * giving back takes a while (promises 1 and 3 of image.h):
 *
 *      clusters_free(): pending --flush: tables durable--> waiting --layer_passed()--> reclaim(): space punched, count lowered
 *
 * Lost memory for such a run costs its space until the next repair, nothing else.
 *
 * The pool. Clusters that read as zeroes (behind the file's former end, or punched), counted already: with one of them, "reads as zeroes" becomes
 * "data, in place" without any wait (map.c).
 */
#include <string.h>

#include "vmm/block/qcow2/image.h"

#define POOL_BYTES   (16ull << 20) /* of a refill, at most: 8 clusters of the largest kind */
#define POOL_MIN     4ull          /* clusters */
#define POOL_MAX     4096ull
#define EXTEND_SLACK 4u /* refcount blocks */

void runs_done(struct runs *r) {
        free(r->v);
        *r = (struct runs){ 0 };
}

/* Room for another one. */
static int runs_reserve(struct runs *r) {
        size_t room = r->room ? 2 * r->room : 16;
        struct run *v;

        if (r->n < r->room)
                return 0;
        v = reallocarray(r->v, room, sizeof *v);
        if (!v)
                return -ENOMEM;
        r->v = v;
        r->room = room;
        return 0;
}

void runs_add(struct qcow2 *q, struct runs *r, uint64_t cluster, uint64_t n, uint64_t stamp) {
        struct run *last = r->n ? &r->v[r->n - 1] : NULL;

        if (last && last->stamp == stamp && last->cluster + last->n == cluster) {
                last->n += n;
                return;
        }
        if (runs_reserve(r) < 0) { /* a leak, until the next repair */
                q->lost = true;
                return;
        }
        r->v[r->n++] = (struct run){ .cluster = cluster, .n = n, .stamp = stamp };
}

void runs_move(struct qcow2 *q, struct runs *from, struct runs *to) {
        for (size_t i = 0; i < from->n; i++)
                runs_add(q, to, from->v[i].cluster, from->v[i].n, from->v[i].stamp);
        from->n = 0;
}

int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *ret) {
        struct table *b = NULL;
        int r = refblock_get(q, cluster / q->per_refblock, &b);

        if (r < 0)
                return r;
        if (b)
                atomic_store_explicit(&b->used, true, memory_order_relaxed);
        *ret = b ? qcow2_refcount_get((const void *)b->words, q->h.refcount_order, cluster % q->per_refblock) : 0;
        return 0;
}

static void put(struct qcow2 *q, struct table *b, uint64_t cluster, uint64_t value) {
        uint64_t i = cluster % q->per_refblock;

        qcow2_refcount_put((void *)b->words, q->h.refcount_order, i, value);
        table_mark(b, (uint32_t)((i << q->h.refcount_order) / 8), MAX((1u << q->h.refcount_order) / 8, 1u));
}

int refcount_add(struct qcow2 *q, uint64_t cluster, int delta) {
        uint64_t count;
        struct table *b = NULL;
        int r = refblock_get(q, cluster / q->per_refblock, &b);

        if (r < 0)
                return r;
        if (!b)
                return image_damaged(q, "a cluster in use has no refcount block");
        count = qcow2_refcount_get((const void *)b->words, q->h.refcount_order, cluster % q->per_refblock);
        if (delta < 0 && count == 0)
                return image_damaged(q, "a cluster in use has a refcount of zero");
        if (delta > 0 && count == qcow2_refcount_max(q->h.refcount_order))
                return -EOVERFLOW;
        put(q, b, cluster, delta < 0 ? count - 1 : count + 1);
        if (delta < 0 && count == 1)
                q->hint = MIN(q->hint, cluster);
        return 0;
}

/* A longer refcount table, in memory; see flush.c for its place. */
static int extend(struct qcow2 *q, uint64_t index) {
        uint64_t per = q->cluster / 8, old = q->reftable->size / 8, entries, clusters;
        int r;

        entries = MAX(old + old / 2, index + 1) + EXTEND_SLACK;
        /* it counts its own clusters too */
        clusters = (entries + entries / per / q->per_refblock + EXTEND_SLACK + per - 1) / per;
        if (clusters * q->cluster > QCOW2_REFTABLE_BYTES_MAX) {
                clusters = QCOW2_REFTABLE_BYTES_MAX / q->cluster;
                if (clusters * per <= index)
                        return -EFBIG;
        }
        r = cache_grow(&q->refblocks, (uint32_t)(clusters * per));
        if (r < 0)
                return r;
        /* A place that a flush was about to name: whether the header on disk does is unknown, so it stays as it is. (A flush that is at
         * it right now sees to it in the end.) */
        q->lost |= q->reftable->at && q->reftable->at != q->h.reftable_offset && !q->reftable->busy;
        q->reftable->at = 0;
        q->reftable->size = (uint32_t)(clusters * q->cluster); /* its memory is as large as it ever gets */
        return 0;
}

/* Does the file end here, for good? */
static int check_end(const struct qcow2 *q, uint64_t cluster) {
        if (cluster >= QCOW2_OFFSET_END >> q->bits || cluster >= (uint64_t)INT64_MAX >> q->bits)
                return -EFBIG;
        return file_is_device(q->layer.file) && (cluster + 1) << q->bits > file_size(q->layer.file) ? -ENOSPC : 0;
}

/* The refcount block @index, in cluster @place: free, and counted by a block that exists or by this one. */
static int refblock_new(struct qcow2 *q, uint64_t index, uint64_t place) {
        struct table *b, *holder = NULL;
        int r = check_end(q, place);

        if (r == 0 && index >= q->reftable->size / 8)
                r = extend(q, index);
        if (r < 0)
                return r;
        if (clusters_has(&q->meta, place, 1))
                return image_damaged(q, "a table lies in a cluster that is counted as free");
        b = table_new(place << q->bits, q->cluster);
        r = b ? meta_add(q, b->at, 1) : -ENOMEM;
        if (r < 0) {
                table_free(b);
                return r;
        }
        b->index = (uint32_t)index;
        b->fresh = true;
        table_mark(b, 0, b->size);
        r = place / q->per_refblock == index ? 0 : refblock_get(q, place / q->per_refblock, &holder);
        if (r == 0) {
                put(q, holder ? holder : b, place,
                    1); /* first: a table that is changed does not leave the cache for @b */
                r = cache_add(q, &q->refblocks, b);
                if (r < 0 && holder)
                        put(q, holder, place, 0);
        }
        if (r < 0) {
                meta_remove(q, b->at, 1);
                table_free(b);
                return r;
        }
        table_set(q->reftable, (uint32_t)index, b->at);
        return 0;
}

/* Blocks for the clusters from @cluster on, so many that a run of @want can follow. @ret_next: behind them. */
static int cover(struct qcow2 *q, uint64_t cluster, uint64_t want, uint64_t *ret_next) {
        uint64_t place = cluster, index = cluster / q->per_refblock;

        for (; index * q->per_refblock < place + want; index++) {
                struct table *b = NULL;
                uint64_t count = 1;
                int r = refblock_get(q, index, &b);

                if (r < 0)
                        return r;
                if (b)
                        continue;
                while (place / q->per_refblock != index) {
                        r = refcount_get(q, place, &count);
                        if (r < 0)
                                return r;
                        if (count == 0)
                                break;
                        place++;
                }
                r = refblock_new(q, index, place++);
                if (r < 0)
                        return r;
        }
        *ret_next = place;
        return 0;
}

/* The search: *@n clusters from *@start are free. */
static int find_free(struct qcow2 *q, uint64_t want, bool all, uint64_t *start, uint64_t *n) {
        uint64_t c = q->hint, first = UINT64_MAX;

        *n = 0;
        while (*n < want) {
                struct table *b = NULL;
                uint64_t count;
                int r = check_end(q, c);

                if (r == 0)
                        r = refblock_get(q, c / q->per_refblock, &b);
                if (r < 0 && *n > 0 && !all)
                        break;
                if (r < 0)
                        return r;
                if (!b) {
                        if (*n > 0 && !all)
                                break;
                        r = cover(q, c, all ? want : 1, &c);
                        if (r < 0)
                                return r;
                        *n = 0;
                        continue;
                }
                atomic_store_explicit(&b->used, true, memory_order_relaxed);
                count = qcow2_refcount_get((const void *)b->words, q->h.refcount_order, c % q->per_refblock);
                if (count == 0) {
                        first = MIN(first, c);
                        *start = *n == 0 ? c : *start;
                        ++*n;
                } else if (*n > 0 && !all) {
                        break;
                } else {
                        *n = 0;
                }
                c++;
        }
        q->hint = *start == first ? *start + *n : first;
        return 0;
}

int clusters_alloc(struct qcow2 *q, uint64_t want, bool all, uint64_t *ret_cluster, uint64_t *ret_n) {
        uint64_t start = 0, n = 0;
        int r = find_free(q, want, all, &start, &n);

        if (r < 0)
                return r;
        if (clusters_has(&q->meta, start, n))
                return image_damaged(q, "a table lies in a cluster that is counted as free");
        for (uint64_t i = 0; i < n; i++) {
                r = refcount_add(q, start + i, 1);
                if (r < 0) {
                        clusters_undo(q, start, i);
                        return r;
                }
        }
        atomic_store(&q->unflushed, true);
        *ret_cluster = start;
        *ret_n = n;
        return 0;
}

void clusters_undo(struct qcow2 *q, uint64_t cluster, uint64_t n) {
        for (uint64_t i = 0; i < n; i++)
                if (refcount_add(q, cluster + i, -1) < 0)
                        q->lost = true;
}

void clusters_free(struct qcow2 *q, uint64_t cluster, uint64_t n) {
        if (clusters_has(&q->meta, cluster, n))
                image_damaged(q, "a guest cluster lies where a table is");
        else
                runs_add(q, &q->pending, cluster, n, layer_epoch(&q->layer));
}

/* The range reads as zeroes afterwards, and lies inside the file. It is ours alone. */
static int make_zero(struct file *file, uint64_t offset, uint64_t length) {
        static const uint8_t zeroes[512];
        uint64_t size = file_size(file);
        int r = offset < size ? file_zero(file, offset, MIN(length, size - offset), true) : 0;

        /* However large the file is known to be: a write that failed may have counted and not arrived. */
        if (r == 0 && !file_is_device(file))
                r = file_write(file, zeroes, sizeof zeroes, offset + length - sizeof zeroes);
        return r;
}

int pool_refill(struct qcow2 *q) {
        uint64_t most = MIN(POOL_BYTES >> q->bits, POOL_MAX), start, n;
        int r;

        pthread_mutex_lock(&q->lock);
        if (q->pool.n > 0) {
                pthread_mutex_unlock(&q->lock);
                return 0;
        }
        r = image_begin(q);
        if (r == 0)
                r = clusters_alloc(q, q->pool_next, false, &start, &n);
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
                return r;
        r = make_zero(q->layer.file, start << q->bits, n << q->bits);
        pthread_mutex_lock(&q->lock);
        if (r == 0 && runs_reserve(&q->pool) < 0)
                r = -ENOMEM;
        if (r == 0) {
                runs_add(q, &q->pool, start, n, 0);
                q->pool_next = MIN(2 * q->pool_next, most);
        } else {
                clusters_undo(q, start, n);
                q->pool_next = POOL_MIN; /* perhaps there is little space left */
        }
        pthread_mutex_unlock(&q->lock);
        return r;
}

void pool_release(struct qcow2 *q) {
        for (size_t i = 0; i < q->pool.n; i++)
                clusters_undo(q, q->pool.v[i].cluster, q->pool.v[i].n);
        q->pool.n = 0;
}

/* Clusters from @cluster on that are referenced once: by what was unlinked. Nobody else can get at them. */
static uint64_t punchable(struct qcow2 *q, uint64_t cluster, uint64_t n, int *ret) {
        uint64_t i, count;

        *ret = 0;
        for (i = 0; i < n; i++) {
                *ret = refcount_get(q, cluster + i, &count);
                if (*ret < 0 || count != 1)
                        break;
                if (q->packed < q->packed_end && q->packed >> q->bits == cluster + i)
                        q->packed = q->packed_end = 0;
        }
        return i;
}

void reclaim(struct qcow2 *q) {
        struct runs passed = { 0 }, later = { 0 };

        pthread_mutex_lock(&q->lock);
        for (size_t i = 0; i < q->waiting.n; i++) {
                const struct run *w = &q->waiting.v[i];

                runs_add(q, layer_passed(&q->layer, w->stamp) ? &passed : &later, w->cluster, w->n, w->stamp);
        }
        runs_done(&q->waiting);
        q->waiting = later;
        for (size_t i = 0; i < passed.n; i++) {
                uint64_t cluster = passed.v[i].cluster, end = cluster + passed.v[i].n;

                while (cluster < end && !atomic_load(&q->broken)) {
                        int r;
                        uint64_t n = punchable(q, cluster, end - cluster, &r);

                        if (n > 0 && !q->keep_discard) {
                                pthread_mutex_unlock(&q->lock);
                                file_discard(q->layer.file, cluster << q->bits, n << q->bits);
                                pthread_mutex_lock(&q->lock);
                        }
                        n = MAX(n, 1u);
                        for (uint64_t k = 0; k < n && r == 0; k++)
                                r = refcount_add(q, cluster + k, -1);
                        q->lost |= r < 0;
                        cluster += n;
                }
        }
        pthread_mutex_unlock(&q->lock);
        runs_done(&passed);
}
