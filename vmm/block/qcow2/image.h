// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image: an open qcow2 image, as the files of this room that serve it see it
 *
 *      open.c          opening, closing, resizing
 *      map.c           where is it? The path that never waits
 *      write.c         changes that may wait: copy on write, zeroes, discard, compressed clusters
 *      refcounts.c     clusters: given out, given back
 *      tables.c        the tables in memory
 *      flush.c         the order in which they reach the disk
 *
 * Theory of operation. L1 table and refcount table are in memory as a whole; L2 tables and refcount blocks are loaded when they are needed,
 * and stay as long as the cache has room. All are kept as they stand in the file (big-endian) with a bit for each part that was changed.
 * Four promises about the file hold at every moment, whatever the kernel writes back first (flush.c keeps them):
 *
 *      1. a cluster's refcount is never lower than the number of references to it
 *      2. a reference never points at something older than itself
 *      3. a cluster that was freed is not used again before the tables without it are durable, and before everybody who may still be
 *         reading from it or writing to it has left (layer_passed())
 *      4. nothing is written where metadata is known to lie
 *
 * Locks, in this order:
 *
 *      stripe[n]       one guest cluster out of STRIPES is changed by a call that may wait; so an entry that such a call has looked at changes
 *                      only through map() meanwhile, which turns "zeroes" into data and nothing else
 *      flush_lock      one flush at a time; the L1 table's place
 *      lock            tables, refcounts, free space. Held while a table is loaded, never while data moves or a flush writes
 *      users' locks    layer.h; also taken to change what map() finds without @lock: which tables are there, and @meta
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/block/qcow2/bitmap.h"
#include "vmm/block/qcow2/clusters.h"
#include "vmm/block/qcow2/compress.h"
#include "vmm/block/qcow2/format.h"
#include "vmm/block/qcow2/unpacked.h"

#define STRIPES     64u
#define TABLE_BLOCK 4096u /* bytes: the unit in which tables are written */

/* A table in memory. */
struct table {
        uint64_t at;       /* offset in the file */
        uint32_t size;     /* bytes */
        uint32_t index;    /* of the entry that points here, in the L1 or refcount table */
        bool fresh;        /* nothing on disk points here yet */
        bool busy;         /* a flush has a copy of changes: must stay */
        uint32_t n_dirty;  /* blocks */
        uint64_t *dirty;   /* bit: block of TABLE_BLOCK bytes */
        _Atomic bool used; /* not beside the flags: gcc reads those in one go, which TSan would take for a race */
        _Atomic uint64_t words[]; /* big-endian */
};

/* Tables of one kind that come and go: L2 tables by L1 index, refcount blocks by refcount table index. */
struct cache {
        _Atomic(struct table *) *by_index;
        uint32_t n_index;
        struct table **loaded;
        uint32_t n, room, limit; /* @limit is kept as long as clean tables can go */
        uint32_t hand;
};

/* Clusters in a row. */
struct run {
        uint64_t cluster, n;
        uint64_t stamp; /* of layer_epoch(), when it was unlinked */
};
struct runs {
        struct run *v;
        size_t n, room;
};

struct qcow2 {
        struct layer layer;
        struct qcow2_header h;
        struct qcow2_codec *codec;
        struct unpacked unpacked;
        struct qcow2_bitmaps *bitmaps; /* NULL: none */
        bool keep_discard;
        unsigned int bits;            /* of a cluster's size */
        uint64_t cluster, unit;       /* bytes; @unit: a cluster or subcluster, what an entry can tell apart */
        uint32_t l2_entries, l2_step; /* entries of a table; words of an entry */
        uint64_t per_refblock;        /* clusters that a refcount block counts */
        uint64_t opened_size;         /* bytes of the file; closing doesn't cut below */

        pthread_mutex_t stripes[STRIPES];
        pthread_mutex_t flush_lock;
        pthread_mutex_t lock;

        struct table *l1, *reftable;
        /* @reftable has memory for the largest one. At 0: it got longer, and a flush has to find it a place. What the header on disk says is
         * in @h. */
        struct cache l2s, refblocks;
        struct clusters meta;
        uint64_t hint;               /* no free cluster is below */
        struct runs pool;            /* counted, reads as zeroes, nobody's */
        uint64_t pool_next;          /* clusters for the next refill */
        struct runs pending;         /* unlinked; not durably yet */
        struct runs waiting;         /* unlinked durably; somebody may be inside */
        uint64_t packed, packed_end; /* where the next compressed cluster may go, bytes; equal: nowhere */
        bool closing;                /* nobody else is at work: everything is written */
        bool finished;               /* closed in order, or failed to be: closing writes nothing any more */
        _Atomic bool size_unsure;    /* a resize failed half way: the next flush writes the size that holds */
        bool l1_unsure;              /* so did one before: the next flush writes where the L1 table is */
        bool lost;      /* a cluster that nothing points at could not be given back: for the repair at the next open */
        bool dirty_set; /* the dirty bit is on disk (or there is none in this version) */

        _Atomic bool broken;    /* a damage was met: no more changes */
        _Atomic bool unflushed; /* a reference has changed */
        _Atomic uint32_t flushing;
        _Atomic uint64_t flush_started, flush_completed; /* numbers of flushes */
};

static inline struct qcow2 *qcow2_of(struct layer *layer) {
        return CONTAINER_OF(layer, struct qcow2, layer);
}

static inline pthread_mutex_t *stripe_of(struct qcow2 *q, uint64_t offset) {
        return &q->stripes[(offset >> q->bits) % STRIPES];
}

/* tables.c. All under @lock unless said otherwise. */
struct table *table_new(uint64_t at, uint64_t size);
void table_free(struct table *t);
static inline uint64_t table_get(const struct table *t, uint32_t word) {
        return __builtin_bswap64(atomic_load_explicit(&t->words[word], memory_order_acquire));
}
void table_set(struct table *t, uint32_t word, uint64_t value);
void table_mark(struct table *t, uint32_t offset, uint32_t bytes); /* changed */
int table_read(struct qcow2 *q, struct table *t);

int cache_init(struct cache *c, uint32_t n_index, uint32_t limit);
void cache_done(struct cache *c);
int cache_grow(struct cache *c, uint32_t n_index); /* users' locks held, for L2 tables */
/** cache_add() - takes @t over when it returns 0; a clean table may go for it. */
int cache_add(struct qcow2 *q, struct cache *c, struct table *t);
bool cache_is_full(const struct cache *c); /* of changed tables: a flush would help */

/** l2_get() - the L2 table of an L1 entry, loaded; NULL when there is none. -EIO: damaged */
int l2_get(struct qcow2 *q, uint64_t l1_index, struct table **ret);
/** l2_get_owned() - as l2_get(), but to be changed: made, or given a copy of its own, when needed. */
int l2_get_owned(struct qcow2 *q, uint64_t l1_index, struct table **ret);
/** refblock_get() - the refcount block of an entry of the refcount table; NULL when there is none. */
int refblock_get(struct qcow2 *q, uint64_t index, struct table **ret);
bool table_at_ok(const struct qcow2 *q, uint64_t at); /* aligned, behind the header, inside the file */

/** image_damaged() - a damage was met: no more changes, and the image says so itself. Returns -EIO. @lock held. */
int image_damaged(struct qcow2 *q, const char *what);
/** image_begin() - before a change: set the dirty bit, durably. @lock held. */
int image_begin(struct qcow2 *q);
int meta_add(struct qcow2 *q, uint64_t at, uint64_t clusters);
void meta_remove(struct qcow2 *q, uint64_t at, uint64_t clusters);

/* map.c */
struct place {
        enum extent_kind kind;
        bool copied;            /* ours alone */
        bool allocated;         /* has a host cluster */
        uint64_t host;          /* of the unit; COMPRESSED: the entry */
        uint64_t entry, bitmap; /* the words, as they stand in the table */
};
/** place_get() - one unit: cluster @index of the table, unit @sub of the cluster. -EIO: damaged */
int place_get(const struct qcow2 *q, const struct table *t, uint32_t index, uint32_t sub, struct place *ret);
/** place_set() - a new entry; map() sees it at once. @lock held, table owned. */
void place_set(struct qcow2 *q, struct table *t, uint32_t index, uint64_t entry, uint64_t bitmap);
bool backing_is_empty(const struct qcow2 *q, uint64_t cluster_offset); /* an unallocated cluster reads as zeroes */
bool reads_as_zeroes(const struct qcow2 *q, const struct place *p,
                     uint64_t cluster_offset); /* all of it, and it has no place */
/** pool_link() - @n clusters at most, from @index of @t on (guest offset @offset), get clusters from the pool in a row; how many did */
uint32_t pool_link(struct qcow2 *q, struct table *t, uint32_t index, uint64_t offset, uint32_t n, uint64_t *ret_host);
int qcow2_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
              struct extent *ret_extent);

/* refcounts.c; @lock held unless said otherwise */
/** clusters_alloc() - up to @want clusters in a row (exactly so many with @all), counted once each; -ENOSPC, -EFBIG */
int clusters_alloc(struct qcow2 *q, uint64_t want, bool all, uint64_t *ret_cluster, uint64_t *ret_n);
/** clusters_undo() - give back what nothing ever pointed at. */
void clusters_undo(struct qcow2 *q, uint64_t cluster, uint64_t n);
/** clusters_free() - one reference less for each of @n clusters, once that is durable and everybody has left. */
void clusters_free(struct qcow2 *q, uint64_t cluster, uint64_t n);
int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *ret);
int refcount_add(struct qcow2 *q, uint64_t cluster, int delta);
/** pool_refill() - @lock NOT held */
int pool_refill(struct qcow2 *q);
void pool_release(struct qcow2 *q);
/** reclaim() - take up what has waited long enough; @flush_lock held, @lock NOT held */
void reclaim(struct qcow2 *q);
/** runs_add(), runs_move() - where there is no memory, the image is left for the repair at the next open; @lock held */
void runs_add(struct qcow2 *q, struct runs *r, uint64_t cluster, uint64_t n, uint64_t stamp);
void runs_move(struct qcow2 *q, struct runs *from, struct runs *to);
void runs_done(struct runs *r);

/* flush.c; no lock of ours held */
int qcow2_flush(struct layer *layer);
int flush_locked(struct qcow2 *q); /* @flush_lock held */
bool qcow2_needs_flush(struct layer *layer);

/* write.c */
int qcow2_write(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t length);
int qcow2_write_compressed(struct layer *layer, const void *buf, uint64_t offset, uint64_t length);
int qcow2_read_compressed(struct layer *layer, uint64_t offset, uint64_t length, void *buf);
int qcow2_zero(struct layer *layer, uint64_t offset, uint64_t length, bool unmap);
int qcow2_discard(struct layer *layer, uint64_t offset, uint64_t length);
