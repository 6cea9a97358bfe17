// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * open: an image is opened, closed, resized
 *
 * Theory of operation. Opening for writing reads the L1 and refcount tables and notes where all metadata lies; a table that lies outside the
 * file, or where another one is, makes the image one that has to be repaired first. The dirty bit is set before the first change that
 * isn't inside guest data, whether refcounts are lazy or not: a kill may leave clusters that nothing points at, and with the
 * bit the next one who opens the image finds them. Closing writes everything, gives the pool back, and clears the bit.
 */
#include <string.h>

#include "vmm/block/qcow2/image.h"
#include "vmm/block/qcow2/resize.h"

#define CACHE_DEFAULT (32ull << 20)

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "no memory for a qcow2 image");
}

static int cannot_read(int r, struct error *e) {
        return error_set(e, r, "disk-read", NULL, "cannot read the image's tables");
}

static int note_damage(struct error *e) {
        return error_set(e, -EIO, "qcow2-corrupt", "repair it: lodge image check --repair all FILE",
                         "the image's tables overlap or lie outside the file; it can only be read");
}

/* Notes that metadata lies there. */
static int note(struct qcow2 *q, uint64_t at, uint64_t bytes, struct error *e) {
        uint64_t clusters = (bytes + q->cluster - 1) >> q->bits;

        for (uint64_t i = 0; i < clusters; i++) {
                int r = clusters_add(&q->meta, (at >> q->bits) + i);

                if (r < 0)
                        return no_memory(e);
                if (r > 0)
                        return note_damage(e);
        }
        return 0;
}

static int note_table(struct qcow2 *q, uint64_t at, struct error *e) {
        if (!at)
                return 0;
        return table_at_ok(q, at) ? note(q, at, q->cluster, e) : note_damage(e);
}

static int note_all(struct qcow2 *q, struct error *e) {
        int r = note(q, 0, q->cluster, e);

        if (r == 0)
                r = note(q, q->h.l1_offset, 8ull * q->h.l1_entries, e);
        if (r == 0)
                r = note(q, q->h.reftable_offset, (uint64_t)q->h.reftable_clusters << q->bits, e);
        for (uint32_t i = 0; r == 0 && i < q->reftable->size / 8; i++)
                r = note_table(q, table_get(q->reftable, i) & QCOW2_REFTABLE_MASK, e);
        for (uint32_t i = 0; r == 0 && i < q->h.l1_entries; i++)
                r = note_table(q, table_get(q->l1, i) & QCOW2_OFFSET_MASK, e);
        if (r == 0 && q->h.bitmaps.n)
                r = note(q, q->h.bitmaps.directory_offset, q->h.bitmaps.directory_size, e);
        return r;
}

static int load_l1(struct qcow2 *q, struct error *e) {
        struct table *t = table_new(q->h.l1_offset, MAX(8ull * q->h.l1_entries, 8ull));
        int r;

        if (!t)
                return no_memory(e);
        r = q->h.l1_entries ? file_read(q->layer.file, (void *)t->words, 8ull * q->h.l1_entries, t->at) : 0;
        if (r < 0) {
                table_free(t);
                return cannot_read(r, e);
        }
        table_free(q->l1);
        q->l1 = t;
        return 0;
}

static int load_tables(struct qcow2 *q, uint64_t cache, struct error *e) {
        uint64_t tables = MIN(cache >> q->bits, (uint64_t)UINT32_MAX / 2);
        int r = load_l1(q, e);

        if (r < 0)
                return r;
        if (cache_init(&q->l2s, q->h.l1_entries, (uint32_t)(tables - tables / 4)) < 0)
                return no_memory(e);
        if (q->layer.readonly)
                return 0;
        q->reftable = table_new(q->h.reftable_offset, QCOW2_REFTABLE_BYTES_MAX);
        if (!q->reftable)
                return no_memory(e);
        q->reftable->size = q->h.reftable_clusters << q->bits;
        if (cache_init(&q->refblocks, q->reftable->size / 8, (uint32_t)(tables / 4)) < 0)
                return no_memory(e);
        r = table_read(q, q->reftable);
        return r < 0 ? cannot_read(r, e) : note_all(q, e);
}

/* Dirty and corrupt bits, features that a writer must clear, bitmaps that are about to become old. */
static int start_writing(struct qcow2 *q, const struct qcow2_options *o, struct error *e) {
        bool clear = q->h.version >= 3 && q->h.autoclear & ~QCOW2_AUTOCLEAR_KNOWN;
        int r;

        if (q->h.bitmaps.n) {
                r = qcow2_bitmaps_load(q->layer.file, &q->h, !o->same_content, &q->bitmaps, e);
                if (r < 0)
                        return r;
        }
        if (!clear)
                return 0;
        q->h.autoclear &= QCOW2_AUTOCLEAR_KNOWN;
        r = qcow2_header_store_features(q->layer.file, &q->h);
        if (r == 0)
                r = file_sync(q->layer.file);
        return r < 0 ? error_set(e, r, "disk-write", NULL, "cannot write the image's header") : 0;
}

static int load_header(struct qcow2 *q, struct file *file, const struct qcow2_options *o, struct error *e) {
        int r = qcow2_header_load(file, &q->h, e);

        if (r == 0)
                r = qcow2_header_refuse(&q->h, !o->readonly, e);
        if (r == 0)
                r = qcow2_header_fits(&q->h, file, e);
        return r;
}

static int repair(struct qcow2 *q, struct file *file, const struct qcow2_options *o, struct error *e) {
        struct qcow2_check check = { 0 };
        int r;

        if (o->readonly || !(q->h.incompatible & QCOW2_INCOMPAT_DIRTY))
                return 0;
        if (!o->repair)
                return error_set(e, -EIO, "qcow2-dirty", "repair it: lodge image check --repair all",
                                 "the image was not closed in order and can only be read");
        r = qcow2_check(file, QCOW2_REPAIR_LEAKS | QCOW2_REPAIR_ALL, &check, e);
        if (r < 0)
                return r;
        if (check.errors || check.corruptions > check.corruptions_fixed)
                return note_damage(e);
        qcow2_header_done(&q->h);
        q->h = (struct qcow2_header){ 0 };
        return load_header(q, file, o, e);
}

static void release(struct qcow2 *q) {
        if (!q)
                return;
        qcow2_bitmaps_free(q->bitmaps);
        qcow2_codec_free(q->codec);
        unpacked_done(&q->unpacked);
        cache_done(&q->l2s);
        cache_done(&q->refblocks);
        table_free(q->l1);
        table_free(q->reftable);
        clusters_done(&q->meta);
        runs_done(&q->pool);
        runs_done(&q->pending);
        runs_done(&q->waiting);
        qcow2_header_done(&q->h);
        pthread_mutex_destroy(&q->lock);
        pthread_mutex_destroy(&q->flush_lock);
        for (unsigned int i = 0; i < STRIPES; i++)
                pthread_mutex_destroy(&q->stripes[i]);
        free(q);
}
DEFINE_CLEANUP(qcow2, release);

/* Cuts off what is free at the end, but nothing that was there before. */
static int cut(struct qcow2 *q) {
        uint64_t size = file_size(q->layer.file), end = (size + q->cluster - 1) >> q->bits, count = 0;
        int r = 0;

        if (file_is_device(q->layer.file))
                return 0;
        while (r == 0 && end << q->bits > q->opened_size) {
                struct table *b = NULL;

                r = refblock_get(q, (end - 1) / q->per_refblock, &b);
                if (r == 0 && !b) { /* nothing near here is counted */
                        end = (end - 1) / q->per_refblock * q->per_refblock;
                        end = MIN(end, q->reftable->size / 8 * q->per_refblock);
                        continue;
                }
                if (r == 0)
                        r = refcount_get(q, end - 1, &count);
                if (r < 0 || count > 0)
                        break;
                end--;
        }
        return r < 0 || end << q->bits == size ? r : file_truncate(q->layer.file, MAX(end << q->bits, q->opened_size));
}

static int bitmap_alloc(void *opaque, uint64_t bytes, uint64_t *ret_offset) {
        struct qcow2 *q = opaque;
        uint64_t cluster, n;
        int r;

        pthread_mutex_lock(&q->lock);
        r = image_begin(q);
        if (r == 0)
                r = clusters_alloc(q, (bytes + q->cluster - 1) >> q->bits, true, &cluster, &n);
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
                return r;
        r = flush_locked(q);
        if (r < 0) {
                pthread_mutex_lock(&q->lock);
                clusters_undo(q, cluster, n);
                pthread_mutex_unlock(&q->lock);
                return r;
        }
        *ret_offset = cluster << q->bits;
        return 0;
}

static void bitmap_free(void *opaque, uint64_t offset, uint64_t bytes) {
        struct qcow2 *q = opaque;
        uint64_t n = (bytes + q->cluster - 1) >> q->bits;

        pthread_mutex_lock(&q->lock);
        clusters_free(q, offset >> q->bits, n);
        pthread_mutex_unlock(&q->lock);
}

static struct qcow2_bitmap_space space_of(struct qcow2 *q) {
        return (struct qcow2_bitmap_space){ .alloc = bitmap_alloc, .free = bitmap_free, .opaque = q };
}

/* What is open on disk is closed in order. Whatever fails, the dirty bit then stays. */
static int finish_writing(struct qcow2 *q, struct error *e) {
        struct qcow2_bitmap_space space = space_of(q);
        int r;

        if (q->bitmaps && !atomic_load(&q->broken)) {
                uint64_t old = q->h.bitmaps.directory_offset, size = q->h.bitmaps.directory_size;

                meta_remove(q, old, (size + q->cluster - 1) >> q->bits);
                r = qcow2_bitmaps_store(q->bitmaps, q->layer.file, &q->h, &space, false, e);
                if (r < 0)
                        return r;
        }
        if (!q->dirty_set)
                return file_sync(q->layer.file);
        q->closing = true;
        pool_release(q);
        r = flush_locked(q);
        if (r == 0)
                r = flush_locked(q); /* the counts that the first one's reclaim() has lowered */
        if (r == 0 && !atomic_load(&q->broken))
                r = cut(q);
        if (r < 0 || atomic_load(&q->broken) || q->lost || q->h.version < 3)
                return r;
        q->h.incompatible &= ~QCOW2_INCOMPAT_DIRTY;
        r = qcow2_header_store_features(q->layer.file, &q->h);
        return r < 0 ? r : file_sync(q->layer.file);
}

static int qcow2_finish(struct layer *layer, struct error *e) {
        struct qcow2 *q = qcow2_of(layer);
        int r;

        pthread_mutex_lock(&q->flush_lock);
        q->finished = true;
        r = finish_writing(q, e);
        pthread_mutex_unlock(&q->flush_lock);
        if (r < 0)
                return error_set(e, r, "disk-write", "check the file system's free space: df",
                                 "cannot write the image's tables");
        if (atomic_load(&q->broken) || q->lost || q->h.incompatible & QCOW2_INCOMPAT_DIRTY)
                return error_set(e, -EIO, "disk-write", "repair it: lodge image check --repair all",
                                 "the image could not be closed in order");
        return 0;
}

static void qcow2_close(struct layer *layer) {
        struct qcow2 *q = qcow2_of(layer);

        if (!layer->readonly && !q->finished)
                qcow2_finish(layer, NULL);
        layer_destroy(layer);
        release(q);
}

/* The header as it is now, with borrowed strings: workers may be about to set its bits. */
static struct qcow2_header header_of(struct qcow2 *q) {
        struct qcow2_header h;

        pthread_mutex_lock(&q->lock);
        h = q->h;
        pthread_mutex_unlock(&q->lock);
        return h;
}

/* The place of an L1 table is metadata from the moment on that it is ours: there is nothing left to fail once the header names it. */
static int l1_alloc(void *opaque, uint64_t bytes, uint64_t *ret_offset) {
        struct qcow2 *q = opaque;
        uint64_t n = (bytes + q->cluster - 1) >> q->bits, at;
        int r = bitmap_alloc(q, bytes, &at);

        if (r < 0)
                return r;
        pthread_mutex_lock(&q->lock);
        r = meta_add(q, at, n);
        if (r < 0)
                clusters_undo(q, at >> q->bits, n);
        pthread_mutex_unlock(&q->lock);
        if (r == 0)
                *ret_offset = at;
        return r;
}

static void l1_free(void *opaque, uint64_t offset, uint64_t bytes) {
        struct qcow2 *q = opaque;
        uint64_t n = (bytes + q->cluster - 1) >> q->bits;

        pthread_mutex_lock(&q->lock);
        meta_remove(q, offset, n);
        clusters_free(q, offset >> q->bits, n);
        pthread_mutex_unlock(&q->lock);
}

/* An L1 table in memory for @entries, and an array of L2 tables to go with it. */
static struct table *l1_new(struct qcow2 *q, uint64_t entries) {
        struct table *t = table_new(0, 8 * entries);
        int r;

        pthread_mutex_lock(&q->lock);
        layer_lock_users(&q->layer);
        r = cache_grow(&q->l2s, (uint32_t)entries);
        layer_unlock_users(&q->layer);
        pthread_mutex_unlock(&q->lock);
        if (t && r == 0)
                return t;
        table_free(t);
        return NULL;
}

/* The header names the place that @h has: @t, with what is in the old one, takes over. */
static void l1_switch(struct qcow2 *q, struct table *t, const struct qcow2_header *h) {
        struct table *old = q->l1;

        pthread_mutex_lock(&q->lock);
        layer_lock_users(&q->layer);
        t->at = h->l1_offset;
        memcpy((void *)t->words, (const void *)old->words, 8ull * q->h.l1_entries);
        table_mark(t, 0, t->size);
        q->l1 = t;
        q->h.l1_offset = h->l1_offset;
        q->h.l1_entries = h->l1_entries;
        layer_unlock_users(&q->layer);
        pthread_mutex_unlock(&q->lock);
        table_free(old);
}

/*
 * A longer L1 table, perhaps at another place. Workers go on meanwhile, and the L2 tables that they make are known to the table in memory only:
 * so the longer one takes its words from there, never from the file, and the next flush writes it whole. @flush_lock is held: no
 * flush writes to the old place what the new one then hasn't got.
 */
static int grow_l1(struct qcow2 *q, uint64_t size, struct error *e) {
        struct qcow2_bitmap_space space = { .alloc = l1_alloc, .free = l1_free, .opaque = q };
        struct qcow2_header longer = header_of(q);
        uint64_t entries = qcow2_l1_entries(&longer, size);
        struct table *t;
        int r;

        if (entries <= longer.l1_entries)
                return 0;
        t = l1_new(q, entries);
        if (!t)
                return no_memory(e);
        r = qcow2_resize_l1(q->layer.file, &longer, size, &space, &q->l1_unsure, e);
        if (r == 0) {
                l1_switch(q, t, &longer);
                return 0;
        }
        table_free(t);
        pthread_mutex_lock(&q->lock);
        q->lost |= q->l1_unsure;
        pthread_mutex_unlock(&q->lock);
        return r;
}

static int grow(struct qcow2 *q, uint64_t size, struct error *e) {
        uint64_t old = atomic_load(&q->layer.size);
        int r;

        pthread_mutex_lock(&q->flush_lock);
        r = flush_locked(q);
        r = r < 0 ? error_set(e, r, "disk-write", NULL, "cannot write the image's tables") : grow_l1(q, size, e);
        pthread_mutex_unlock(&q->flush_lock);
        if (r < 0)
                return r;
        r = qcow2_zero(&q->layer, old, size - old, true);
        if (r == 0)
                r = qcow2_flush(&q->layer);
        if (r < 0)
                return error_set(e, r, "qcow2-resize", "free some space on the host", "cannot clear the new part");
        return 0;
}

static int store_size(struct qcow2 *q, uint64_t size, struct error *e) {
        struct qcow2_header h;
        int r;

        pthread_mutex_lock(&q->flush_lock); /* a flush does the same where it failed before */
        h = header_of(q);
        r = qcow2_resize_store(q->layer.file, &h, size, e);
        q->h.size = h.size;
        q->size_unsure = r < 0;
        pthread_mutex_unlock(&q->flush_lock);
        return r;
}

/* Under the stripe of the cluster that held the end: who has that takes what lies behind the end for nothing. */
static void publish_size(struct qcow2 *q, uint64_t size) {
        pthread_mutex_t *stripe = stripe_of(q, atomic_load(&q->layer.size));

        pthread_mutex_lock(stripe);
        atomic_store(&q->layer.size, size);
        pthread_mutex_unlock(stripe);
}

static int qcow2_resize(struct layer *layer, uint64_t size, struct error *e) {
        struct qcow2 *q = qcow2_of(layer);
        uint64_t old = atomic_load(&layer->size), reach;
        struct qcow2_header h = header_of(q);
        int r = layer->readonly ? error_set(e, -EROFS, "qcow2-resize", NULL, "the image is opened for reading only")
                                : qcow2_resize_check(&h, size, e);

        if (r < 0 || (size == old && !q->size_unsure))
                return r;
        pthread_mutex_lock(&q->lock);
        r = image_begin(q);
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
                return error_set(e, r, "disk-write", NULL, "cannot write the image's header");
        if (size == old)
                return store_size(q, size, e);
        if (size > old) {
                r = grow(q, size, e);
                if (r == 0)
                        r = store_size(q, size, e);
                if (r == 0)
                        publish_size(q, size);
                return r;
        }
        r = store_size(q, size, e);
        if (r < 0)
                return r;
        atomic_store(&layer->size, size);
        size = (size + q->cluster - 1) & ~(q->cluster - 1);
        reach = MIN((old + q->cluster - 1) & ~(q->cluster - 1), q->h.l1_entries * (q->cluster * q->l2_entries));
        r = reach > size ? qcow2_discard(layer, size, reach - size) : 0;
        if (r == 0)
                r = qcow2_flush(layer);
        return r < 0 ? error_set(e, r, "qcow2-resize",
                                 "the disk is smaller now; its space comes back when it is repaired",
                                 "cannot give back the space behind the new end")
                     : 0;
}

static const struct layer_ops qcow2_ops = {
        .name = "qcow2",
        .map = qcow2_map,
        .read_compressed = qcow2_read_compressed,
        .write = qcow2_write,
        .write_compressed = qcow2_write_compressed,
        .zero = qcow2_zero,
        .discard = qcow2_discard,
        .flush = qcow2_flush,
        .needs_flush = qcow2_needs_flush,
        .resize = qcow2_resize,
        .finish = qcow2_finish,
        .close = qcow2_close,
};

static void init(struct qcow2 *q, struct file *file, const struct qcow2_options *o) {
        layer_init(&q->layer, &qcow2_ops, file);
        q->layer.readonly |= o->readonly;
        q->layer.cluster = (uint32_t)qcow2_cluster(&q->h);
        atomic_init(&q->layer.size,
                    q->h.size & ~511ull); /* a part of a sector at the end is nobody's: QEMU has none there */
        q->keep_discard = o->keep_discard;
        q->bits = q->h.cluster_bits;
        q->cluster = qcow2_cluster(&q->h);
        q->unit = qcow2_extended_l2(&q->h) ? q->cluster / QCOW2_SUBCLUSTERS : q->cluster;
        q->l2_entries = qcow2_l2_entries(&q->h);
        q->l2_step = qcow2_l2_entry(&q->h) / 8;
        q->per_refblock = qcow2_refblock_entries(&q->h);
        q->opened_size = file_size(file);
        q->pool_next = 4;
        q->dirty_set = q->h.version < 3;
        unpacked_init(&q->unpacked, q->cluster);
}

int qcow2_open(struct file *file, const struct qcow2_options *options, struct layer **ret_layer, struct error *e) {
        _cleanup_(qcow2_freep) struct qcow2 *q = calloc(1, sizeof(*q));
        struct qcow2_options o = *options;
        int r;

        if (!q)
                return no_memory(e);
        pthread_mutex_init(&q->lock, NULL);
        pthread_mutex_init(&q->flush_lock, NULL);
        for (unsigned int i = 0; i < STRIPES; i++)
                pthread_mutex_init(&q->stripes[i], NULL);
        o.readonly |= file_is_readonly(file);
        r = load_header(q, file, &o, e);
        if (r == 0)
                r = repair(q, file, &o, e);
        if (r == 0 && qcow2_codec_new((enum qcow2_compression)q->h.compression, &q->codec) < 0)
                r = no_memory(e);
        if (r < 0)
                return r;
        init(q, file, &o);
        r = load_tables(q, o.cache ?: CACHE_DEFAULT, e);
        if (r == 0 && !q->layer.readonly)
                r = start_writing(q, &o, e);
        if (r < 0) {
                q->layer.file = NULL; /* the caller's, again */
                layer_destroy(&q->layer);
                return r;
        }
        *ret_layer = &TAKE_PTR(q)->layer;
        return 0;
}

int qcow2_set_backing(struct layer *layer, const char *backing_file, const char *backing_format, struct error *e) {
        struct qcow2 *q = qcow2_of(layer);
        char *file = backing_file ? strdup(backing_file) : NULL,
             *format = backing_file && backing_format ? strdup(backing_format) : NULL;
        char *old_file = q->h.backing_file, *old_format = q->h.backing_format;
        int r;

        if (layer->readonly)
                r = error_set(e, -EROFS, "qcow2-backing", NULL, "the image is opened for reading only");
        else if (backing_file && (!file || !format))
                r = no_memory(e);
        else {
                q->h.backing_file = file;
                q->h.backing_format = format;
                r = qcow2_header_store(layer->file, &q->h, e);
                if (r == 0 && (r = file_sync(layer->file)) < 0)
                        error_set(e, r, "disk-write", NULL, "cannot write the image's header");
        }
        if (r < 0) {
                q->h.backing_file = old_file;
                q->h.backing_format = old_format;
                free(file);
                free(format);
                return r;
        }
        free(old_file);
        free(old_format);
        return 0;
}

/* Without an image below, what is discarded is not in the image any more, instead of being zeroes. */
int qcow2_make_empty(struct layer *layer) {
        struct qcow2 *q = qcow2_of(layer);
        struct qcow2_bitmaps *bitmaps = TAKE_PTR(q->bitmaps);
        struct layer *below = TAKE_PTR(layer->backing);
        int r = layer_discard(layer, 0, atomic_load(&layer->size));

        if (r == 0)
                r = layer_flush(layer);
        layer->backing = below;
        q->bitmaps = bitmaps;
        return r;
}
