// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * write: changes that may wait, one guest cluster after the other
 *
 * Theory of operation. Each cluster is changed under its stripe's lock, in up to three steps: look (under @lock), move data (under the
 * stripe only), link (under @lock again). Between looking and linking only map() can have turned zeroes into data; then the entry is
 * not the one that was looked at, and everything starts over. Data is written before it is linked, so a kill between the two loses
 * space, not data. The stripe also keeps the cluster from being freed by others while data moves: epochs are for those who only map.
 * Whole clusters in a row that hide what is below go the same way together, with one write for all.
 *
 * The unit in which data is copied from below is the cluster, with extended L2 entries the subcluster.
 */
#include <string.h>

#include "base/iov.h"
#include "vmm/block/qcow2/image.h"

#define AGAIN   1
#define RUN_MAX 32u /* clusters that are written together */

/* The cluster that is changed, and what was found there */
struct target {
        struct qcow2 *q;
        uint64_t start, l1_index; /* @start: guest offset of the cluster */
        uint32_t index;
        struct table *table; /* valid while @lock is held */
        struct place place;  /* of the first unit */
};

static struct target target_of(struct qcow2 *q, uint64_t offset) {
        uint64_t span = q->cluster * q->l2_entries;

        return (struct target){
                .q = q,
                .start = offset & ~(q->cluster - 1),
                .l1_index = offset / span,
                .index = (uint32_t)((offset % span) >> q->bits),
        };
}

/* @lock held. With @change the table is ours to change, and the image is marked dirty. */
static int look(struct target *t, bool change) {
        struct qcow2 *q = t->q;
        int r = change ? image_begin(q) : 0;

        if (r == 0)
                r = change ? l2_get_owned(q, t->l1_index, &t->table) : l2_get(q, t->l1_index, &t->table);
        if (r < 0)
                return r;
        t->place = (struct place){ .kind = EXTENT_UNALLOCATED };
        r = t->table ? place_get(q, t->table, t->index, 0, &t->place) : 0;
        return r < 0 ? image_damaged(q, "an L2 entry makes no sense") : 0;
}

static bool is_same(const struct place *a, const struct place *b) {
        return a->entry == b->entry && a->bitmap == b->bitmap;
}

/* Is the entry still as it was found? The table may have left meanwhile. @lock held. */
static int look_again(struct target *t) {
        struct place before = t->place;
        int r = look(t, true);

        if (r < 0)
                return r;
        return is_same(&before, &t->place) ? 0 : AGAIN;
}

/* Too many changed tables: a flush makes room. No lock but a stripe is held. */
static int make_room(struct qcow2 *q) {
        bool full;

        pthread_mutex_lock(&q->lock);
        full = cache_is_full(&q->l2s) || cache_is_full(&q->refblocks);
        pthread_mutex_unlock(&q->lock);
        return full ? qcow2_flush(&q->layer) : 0;
}

static void free_compressed(struct qcow2 *q, uint64_t entry) {
        uint64_t at, end;

        unpacked_forget(&q->unpacked);
        qcow2_compressed_range(entry, q->bits, &at, &end);
        for (uint64_t c = at >> q->bits; c <= (end - 1) >> q->bits; c++)
                clusters_free(q, c, 1);
}

/* What an entry pointed at, when it doesn't any more. */
static void free_place(struct qcow2 *q, const struct place *p) {
        if (p->kind == EXTENT_COMPRESSED)
                free_compressed(q, p->host);
        else if (p->allocated)
                clusters_free(q, p->host >> q->bits, 1);
}

static uint32_t unit_mask(const struct qcow2 *q, uint64_t from, uint64_t to) {
        uint32_t first = (uint32_t)(from / q->unit), n = (uint32_t)((to - 1) / q->unit) - first + 1;

        return (n == 32 ? UINT32_MAX : (1u << n) - 1) << first;
}

/* Is the place of an entry that has one good to be written to, as far as that can be told without knowing who else has it? @lock held */
static int check_place(struct qcow2 *q, const struct place *p) {
        uint64_t count;
        int r;

        if (clusters_has(&q->meta, p->host >> q->bits, 1))
                return image_damaged(q, "a guest cluster lies where a table is");
        if (!p->copied || p->host < file_size(q->layer.file))
                return 0;
        r = refcount_get(q, p->host >> q->bits, &count);
        if (r == 0 && count != 1) /* behind the file's end, and not counted: anything could be meant */
                return image_damaged(q, "a guest cluster lies outside the file");
        return r;
}

/* May bytes [@in, @in + @n) of the cluster be overwritten where they are? @lock held */
static int in_place(struct target *t, uint64_t in, uint64_t n, bool *ret) {
        struct qcow2 *q = t->q;
        const struct place *p = &t->place;
        uint64_t count;
        int r;

        *ret = false;
        if (p->kind == EXTENT_COMPRESSED || !p->allocated)
                return 0;
        if (q->l2_step == 1 && p->kind != EXTENT_DATA)
                return 0;
        if (q->l2_step == 2 && ~QCOW2_SUB_ALLOC(p->bitmap) & unit_mask(q, in, in + n))
                return 0;
        r = check_place(q, p);
        if (r < 0)
                return r;
        if (!p->copied) { /* perhaps it is, all the same */
                r = refcount_get(q, p->host >> q->bits, &count);
                if (r < 0)
                        return r;
        }
        *ret = p->copied || count == 1;
        return 0;
}

/* What the guest sees now, zeroes behind the disk's end. */
static int read_old(struct qcow2 *q, uint8_t *buf, uint64_t offset, uint64_t length) {
        uint64_t size = atomic_load(&q->layer.size), n = offset < size ? MIN(length, size - offset) : 0;

        memset(buf + n, 0, length - n);
        return n ? layer_read(&q->layer, NULL, buf, offset, n) : 0;
}

/* A cluster's new content on its way */
struct copy {
        const struct iovec *iov;
        unsigned int n_iov;
        uint64_t skip, in, n; /* @n bytes of @iov from @skip go to @in of the cluster */
        uint64_t from, to;    /* what is written of the cluster */
        uint64_t host;        /* the cluster, offset */
        bool new;             /* it was allocated for this */
};

/* How much has to be written along, so that whole units get data? */
static void widen(const struct target *t, struct copy *c) {
        const struct qcow2 *q = t->q;
        uint64_t last = (c->in + c->n - 1) / q->unit;

        if (c->new && t->place.allocated) { /* everything moves */
                c->from = 0;
                c->to = q->cluster;
                return;
        }
        c->from = c->in & ~(q->unit - 1);
        c->to = (last + 1) * q->unit;
        if (q->l2_step == 1 || c->new)
                return;
        if (QCOW2_SUB_ALLOC(t->place.bitmap) >> c->in / q->unit & 1)
                c->from = c->in;
        if (QCOW2_SUB_ALLOC(t->place.bitmap) >> last & 1)
                c->to = c->in + c->n;
}

static int move_data(struct target *t, const struct copy *c) {
        struct qcow2 *q = t->q;
        uint64_t behind = c->in + c->n;
        _cleanup_free_ uint8_t *buf = NULL;
        int r;

        if (c->from == c->in && c->to == behind)
                return file_write_part(q->layer.file, c->iov, c->n_iov, c->skip, c->n, c->host + c->in);
        buf = aligned_alloc(4096, (c->to - c->from + 4095) & ~4095ull);
        if (!buf)
                return -ENOMEM;
        r = read_old(q, buf, t->start + c->from, c->in - c->from);
        if (r == 0)
                r = read_old(q, buf + (behind - c->from), t->start + behind, c->to - behind);
        if (r < 0)
                return r;
        iov_to_buf(c->iov, c->n_iov, c->skip, buf + (c->in - c->from), c->n);
        return file_write(q->layer.file, buf, c->to - c->from, c->host + c->from);
}

/* @lock held: the entry points at the new data. */
static void link_data(struct target *t, const struct copy *c) {
        struct qcow2 *q = t->q;
        uint64_t bitmap = 0;

        if (q->l2_step == 2) {
                uint64_t mask = unit_mask(q, c->from, c->to);

                bitmap = t->place.kind == EXTENT_COMPRESSED ? 0 : t->place.bitmap;
                bitmap = (bitmap & ~(mask << 32)) | mask;
        }
        place_set(q, t->table, t->index, c->host | QCOW2_COPIED, bitmap);
        if (c->new)
                free_place(q, &t->place);
}

/* @lock is held, and released. */
static int copy_on_write(struct target *t, struct copy *c) {
        struct qcow2 *q = t->q;
        uint64_t n;
        int r = 0;

        c->new = t->place.kind == EXTENT_COMPRESSED || !t->place.allocated || !t->place.copied;
        if (c->new)
                r = clusters_alloc(q, 1, true, &c->host, &n);
        else
                r = check_place(q, &t->place);
        c->host = c->new ? c->host << q->bits : t->place.host;
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
                return r;
        widen(t, c);
        r = move_data(t, c);
        pthread_mutex_lock(&q->lock);
        if (r == 0)
                r = look_again(t);
        if (r == 0)
                link_data(t, c);
        else if (c->new)
                clusters_undo(q, c->host >> q->bits, 1);
        pthread_mutex_unlock(&q->lock);
        return r;
}

static int write_once(struct target *t, struct copy *c) {
        struct qcow2 *q = t->q;
        bool ready = false;
        int r = make_room(q);

        if (r < 0)
                return r;
        pthread_mutex_lock(&q->lock);
        r = atomic_load(&q->broken) ? -EIO : look(t, false);
        if (r == 0)
                r = in_place(t, c->in, c->n, &ready);
        if (r == 0 && !ready)
                r = look(t, true);
        if (r == 0 && !ready && reads_as_zeroes(q, &t->place, t->start)) {
                if (q->pool.n == 0) {
                        pthread_mutex_unlock(&q->lock);
                        r = pool_refill(q);
                        return r < 0 ? r : AGAIN;
                }
                ready = pool_link(q, t->table, t->index, t->start, 1, &t->place.host) == 1;
        }
        if (r == 0 && !ready)
                return copy_on_write(t, c);
        pthread_mutex_unlock(&q->lock);
        return r < 0 ? r
                     : file_write_part(q->layer.file, c->iov, c->n_iov, c->skip, c->n,
                                       (t->place.host & ~(q->cluster - 1)) + c->in);
}

static int write_cluster(struct qcow2 *q, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t offset,
                         uint64_t n) {
        int r;

        do {
                struct target t = target_of(q, offset);
                struct copy c = { .iov = iov, .n_iov = n_iov, .skip = skip, .in = offset - t.start, .n = n };

                r = write_once(&t, &c);
        } while (r == AGAIN);
        return r;
}

/* Clusters from @t on, @n at most, that have no place and don't read as zeroes: those can get new places together. @lock held. */
static int find_run(struct target *t, uint32_t n, struct place *places, uint32_t *ret_n) {
        struct qcow2 *q = t->q;
        uint32_t i = 0;
        int r = look(t, false);

        for (n = MIN(n, q->l2_entries - t->index); r == 0 && i < n; i++) {
                places[i] = (struct place){ .kind = EXTENT_UNALLOCATED };
                if (t->table)
                        r = place_get(q, t->table, t->index + i, 0, &places[i]);
                if (r < 0)
                        return image_damaged(q, "an L2 entry makes no sense");
                if (places[i].allocated || places[i].kind == EXTENT_COMPRESSED ||
                    reads_as_zeroes(q, &places[i], t->start + i * q->cluster))
                        break;
        }
        *ret_n = i;
        return r;
}

/* @lock held: the entries point at the new data; AGAIN when one is not what it was. */
static int link_run(struct target *t, const struct place *before, uint64_t first, uint32_t n) {
        struct qcow2 *q = t->q;
        int r = look(t, true);

        for (uint32_t i = 0; r == 0 && i < n; i++) {
                struct place now;

                r = place_get(q, t->table, t->index + i, 0, &now);
                if (r == 0 && !is_same(&now, &before[i]))
                        r = AGAIN;
        }
        for (uint32_t i = 0; r == 0 && i < n; i++)
                place_set(q, t->table, t->index + i, (first + i) << q->bits | QCOW2_COPIED,
                          q->l2_step == 2 ? UINT32_MAX : 0);
        return r;
}

/* @n whole clusters, whose stripes are held. *@ret_n: how many were written, 0 when they don't go together. */
static int write_run(struct qcow2 *q, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t offset,
                     uint32_t n, uint32_t *ret_n) {
        struct target t = target_of(q, offset);
        struct place before[RUN_MAX];
        uint64_t first, got = 0;
        int r = make_room(q);

        *ret_n = 0;
        if (r < 0)
                return r;
        pthread_mutex_lock(&q->lock);
        r = atomic_load(&q->broken) ? -EIO : find_run(&t, n, before, &n);
        if (r == 0 && n > 1)
                r = look(&t, true);
        if (r == 0 && n > 1)
                r = clusters_alloc(q, n, false, &first, &got);
        pthread_mutex_unlock(&q->lock);
        if (r < 0 || got == 0)
                return r;
        r = file_write_part(q->layer.file, iov, n_iov, skip, got << q->bits, first << q->bits);
        pthread_mutex_lock(&q->lock);
        if (r == 0)
                r = link_run(&t, before, first, (uint32_t)got);
        if (r == 0)
                *ret_n = (uint32_t)got;
        else
                clusters_undo(q, first, got);
        pthread_mutex_unlock(&q->lock);
        return r == AGAIN ? 0 : r;
}

/* As much of a write as goes together: *@ret_done bytes, 0 for none. In rising order of stripes, so that two of these can't wait for each other. */
static int write_together(struct qcow2 *q, const struct iovec *iov, unsigned int n_iov, uint64_t skip, uint64_t offset,
                          uint64_t length, uint64_t *ret_done) {
        uint32_t stripe = (uint32_t)((offset >> q->bits) % STRIPES), n = MIN(RUN_MAX, STRIPES - stripe), did;
        int r;

        *ret_done = 0;
        n = (uint32_t)MIN(length >> q->bits, n);
        if (n < 2 || offset % q->cluster != 0)
                return 0;
        for (uint32_t i = 0; i < n; i++)
                pthread_mutex_lock(&q->stripes[stripe + i]);
        r = write_run(q, iov, n_iov, skip, offset, n, &did);
        for (uint32_t i = 0; i < n; i++)
                pthread_mutex_unlock(&q->stripes[stripe + i]);
        *ret_done = (uint64_t)did << q->bits;
        return r;
}

static void mark(struct qcow2 *q, uint64_t offset, uint64_t length) {
        if (q->bitmaps)
                qcow2_bitmaps_mark(q->bitmaps, offset, length);
}

int qcow2_write(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t length) {
        struct qcow2 *q = qcow2_of(layer);
        int r = 0;

        mark(q, offset, length);
        for (uint64_t done = 0; r == 0 && done < length;) {
                uint64_t at = offset + done, n;
                pthread_mutex_t *stripe = stripe_of(q, at);

                r = write_together(q, iov, n_iov, done, at, length - done, &n);
                if (r == 0 && n == 0) {
                        n = MIN(length - done, q->cluster - (at & (q->cluster - 1)));
                        pthread_mutex_lock(stripe);
                        r = write_cluster(q, iov, n_iov, done, at, n);
                        pthread_mutex_unlock(stripe);
                }
                done += n;
        }
        return r;
}

enum how { KEEP, UNMAP, DISCARD };

static int write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t n) {
        struct extent extent;
        int r = n ? qcow2_map(&q->layer, NULL, offset, n, 0, &extent) : 0;
        _cleanup_free_ uint8_t *zeroes = NULL;
        struct iovec iov = { .iov_len = n };

        if (r < 0 || n == 0)
                return r;
        if (extent.length == n &&
            (extent.kind == EXTENT_ZERO || (extent.kind == EXTENT_UNALLOCATED && backing_is_empty(q, offset))))
                return 0;
        iov.iov_base = zeroes = calloc(1, n);
        return zeroes ? write_cluster(q, &iov, 1, 0, offset, n) : -ENOMEM;
}

/* The new words for units [@from, @to) of zeroes. True when there is something to change. */
static bool zero_entry(const struct target *t, uint64_t from, uint64_t to, enum how how, uint64_t *entry,
                       uint64_t *bitmap, bool *ret_free) {
        const struct qcow2 *q = t->q;
        const struct place *p = &t->place;
        bool whole = from == 0 && to == q->cluster, empty = backing_is_empty(q, t->start);
        bool keep = how == KEEP && p->allocated && p->copied && p->kind != EXTENT_COMPRESSED && q->h.version >= 3;

        *bitmap = 0;
        *ret_free = p->allocated && !keep;
        if (q->l2_step == 1) {
                if (q->h.version < 3 || (how == DISCARD && empty))
                        *entry = 0;
                else
                        *entry = keep ? p->host | QCOW2_COPIED | QCOW2_ZERO : QCOW2_ZERO;
                return *entry != p->entry && !(p->kind == EXTENT_UNALLOCATED && empty);
        }
        *entry = p->entry;
        if (whole && (how == DISCARD || !p->allocated) && empty) {
                *entry = 0;
        } else if (p->kind == EXTENT_COMPRESSED || (whole && !keep)) {
                *entry = 0;
                *bitmap = (uint64_t)UINT32_MAX << 32;
        } else {
                uint64_t mask = unit_mask(q, from, to);

                *bitmap = (p->bitmap & ~mask) | mask << 32;
                *ret_free = !keep && p->allocated && QCOW2_SUB_ALLOC(*bitmap) == 0;
                if (*ret_free)
                        *entry = 0;
        }
        return *entry != p->entry || *bitmap != p->bitmap;
}

/* Whole units of a cluster; its stripe is held. AGAIN: zeroes have to be written. */
static int zero_units(struct qcow2 *q, uint64_t offset, uint64_t from, uint64_t to, enum how how) {
        struct target t = target_of(q, offset);
        uint64_t entry, bitmap;
        bool give_back;
        int r = make_room(q);

        if (r < 0)
                return r;
        pthread_mutex_lock(&q->lock);
        r = atomic_load(&q->broken) ? -EIO : look(&t, false);
        if (r < 0 || (!t.table && backing_is_empty(q, t.start)))
                goto out;
        if ((t.place.kind == EXTENT_COMPRESSED && to - from != q->cluster) ||
            (q->h.version < 3 && !backing_is_empty(q, t.start)))
                r = how == DISCARD ? 0 : AGAIN; /* no entry says this */
        else if (q->h.version < 3 && how == KEEP && t.place.allocated)
                r = AGAIN;
        else if (zero_entry(&t, from, to, how, &entry, &bitmap, &give_back)) {
                r = look(&t, true);
                if (r == 0 && zero_entry(&t, from, to, how, &entry, &bitmap, &give_back)) {
                        place_set(q, t.table, t.index, entry, bitmap);
                        if (give_back)
                                free_place(q, &t.place);
                }
        }
out:
        pthread_mutex_unlock(&q->lock);
        return r;
}

/* [@offset, @offset + @n) inside one cluster */
static int zero_cluster(struct qcow2 *q, uint64_t offset, uint64_t n, enum how how) {
        uint64_t start = offset & ~(q->cluster - 1), in = offset - start, end = in + n, from, to;
        int r = 0;

        from = (in + q->unit - 1) & ~(q->unit - 1);
        to = end & ~(q->unit - 1);
        if (start + end == atomic_load(&q->layer.size))
                to = q->cluster; /* nothing is behind */
        if (from >= to)
                return how == DISCARD ? 0 : write_zeroes(q, offset, n);
        if (how != DISCARD)
                r = write_zeroes(q, offset, from - in);
        if (r == 0)
                r = zero_units(q, start, from, to, how);
        if (r == AGAIN)
                r = write_zeroes(q, start + from, MIN(to, end) - from);
        if (r == 0 && how != DISCARD && end > to)
                r = write_zeroes(q, start + to, end - to);
        return r;
}

/* Where there is no L2 table, and nothing below, everything is zero: bytes to go on by. */
static uint64_t skip_nothing(struct qcow2 *q, uint64_t offset, uint64_t length) {
        uint64_t span = q->cluster * q->l2_entries, n = 0;

        pthread_mutex_lock(&q->lock);
        while (n < length && offset + n < q->h.l1_entries * span &&
               backing_is_empty(q, (offset + n) & ~(q->cluster - 1)) &&
               !(table_get(q->l1, (uint32_t)((offset + n) / span)) & QCOW2_OFFSET_MASK))
                n += span - (offset + n) % span;
        pthread_mutex_unlock(&q->lock);
        return MIN(n, length);
}

static int zero_range(struct qcow2 *q, uint64_t offset, uint64_t length, enum how how) {
        int r = 0;

        mark(q, offset, length);
        for (uint64_t done = skip_nothing(q, offset, length); r == 0 && done < length;) {
                uint64_t at = offset + done, n = MIN(length - done, q->cluster - (at & (q->cluster - 1)));
                pthread_mutex_t *stripe = stripe_of(q, at);

                pthread_mutex_lock(stripe);
                r = zero_cluster(q, at, n, how);
                pthread_mutex_unlock(stripe);
                done += n;
                if ((offset + done) % (q->cluster * q->l2_entries) == 0)
                        done += skip_nothing(q, offset + done, length - done);
        }
        return r;
}

int qcow2_zero(struct layer *layer, uint64_t offset, uint64_t length, bool unmap) {
        return zero_range(qcow2_of(layer), offset, length, unmap ? UNMAP : KEEP);
}

int qcow2_discard(struct layer *layer, uint64_t offset, uint64_t length) {
        return zero_range(qcow2_of(layer), offset, length, DISCARD);
}

int qcow2_read_compressed(struct layer *layer, uint64_t offset, uint64_t length, void *buf) {
        struct qcow2 *q = qcow2_of(layer);
        struct target t = target_of(q, offset);
        uint64_t number = unpacked_number(&q->unpacked), at, end;
        _cleanup_free_ uint8_t *in = NULL, *out = NULL;
        int r;

        pthread_mutex_lock(&q->lock);
        r = look(&t, false);
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
                return r;
        if (t.place.kind != EXTENT_COMPRESSED) /* it was overwritten just now */
                return layer_read(layer, NULL, buf, offset, length);
        if (unpacked_get(&q->unpacked, t.place.host, number, offset - t.start, length, buf))
                return 0;
        qcow2_compressed_range(t.place.host, q->bits, &at, &end);
        if (at >= file_size(layer->file) || end - at > 2 * q->cluster + 512)
                return -EIO;
        in = malloc(end - at);
        out = length < q->cluster ? malloc(q->cluster) : NULL;
        if (!in || (length < q->cluster && !out))
                return -ENOMEM;
        r = file_read(layer->file, in, end - at, at);
        if (r == 0)
                r = qcow2_decompress(q->codec, in, end - at, out ?: buf, q->cluster);
        if (r == 0 && out) {
                memcpy(buf, out + (offset - t.start), length);
                unpacked_put(&q->unpacked, t.place.host, number, TAKE_PTR(out));
        }
        return r;
}

/* Bytes for a compressed cluster, behind the last one if they fit. @lock held */
static int packed_alloc(struct qcow2 *q, uint64_t size, uint64_t *ret) {
        uint64_t cluster, n, at = q->packed;
        bool open = q->packed < q->packed_end;
        int r;

        if (open && q->packed_end - q->packed >= size) {
                r = refcount_add(q, q->packed >> q->bits, 1);
                if (r == 0) {
                        atomic_store(&q->unflushed, true);
                        q->packed += size;
                        *ret = at;
                }
                if (r != -EOVERFLOW)
                        return r;
                open = false;
        }
        r = clusters_alloc(q, 1, true, &cluster, &n);
        if (r < 0)
                return r;
        if (!open || cluster << q->bits != q->packed_end || refcount_add(q, q->packed >> q->bits, 1) < 0)
                at = cluster << q->bits;
        q->packed = at + size;
        q->packed_end = (cluster + 1) << q->bits;
        *ret = at;
        return 0;
}

static void packed_undo(struct qcow2 *q, uint64_t at, uint64_t size) {
        for (uint64_t c = at >> q->bits; c <= (at + size - 1) >> q->bits; c++)
                clusters_undo(q, c, 1);
        q->packed = q->packed_end = 0;
}

/* AGAIN: write it as it is. */
static int store_compressed(struct qcow2 *q, uint64_t offset, const void *data, size_t size) {
        struct target t = target_of(q, offset);
        uint64_t at = 0;
        int r = make_room(q);

        if (r < 0)
                return r;
        pthread_mutex_lock(&q->lock);
        r = look(&t, true);
        if (r == 0)
                r = t.place.allocated ? AGAIN : packed_alloc(q, size, &at);
        pthread_mutex_unlock(&q->lock);
        if (r != 0)
                return r;
        unpacked_forget(&q->unpacked);
        r = (at + size) >> (62 - (q->bits - 8)) ? AGAIN : file_write(q->layer.file, data, size, at);
        pthread_mutex_lock(&q->lock);
        if (r == 0)
                r = look_again(&t);
        if (r == 0)
                place_set(q, t.table, t.index, qcow2_compressed_entry(at, size, q->bits), 0);
        else
                packed_undo(q, at, size);
        pthread_mutex_unlock(&q->lock);
        return r;
}

int qcow2_write_compressed(struct layer *layer, const void *buf, uint64_t offset, uint64_t length) {
        struct qcow2 *q = qcow2_of(layer);
        _cleanup_free_ uint8_t *whole = malloc(q->cluster), *out = malloc(q->cluster);
        pthread_mutex_t *stripe = stripe_of(q, offset);
        struct iovec iov = { .iov_base = (void *)buf, .iov_len = length };
        size_t size = 0;
        int r;

        if (offset & (q->cluster - 1) || length > q->cluster || length == 0)
                return -EINVAL;
        if (!whole || !out)
                return -ENOMEM;
        memcpy(whole, buf, length);
        memset(whole + length, 0, q->cluster - length);
        r = qcow2_compress(q->codec, whole, q->cluster, out, q->cluster - 1, &size);
        if (r < 0 && r != -ENOSPC)
                return r;
        mark(q, offset, length);
        pthread_mutex_lock(stripe);
        r = r == -ENOSPC ? AGAIN : store_compressed(q, offset, out, size);
        if (r == AGAIN)
                r = write_cluster(q, &iov, 1, 0, offset, length);
        pthread_mutex_unlock(stripe);
        return r;
}
