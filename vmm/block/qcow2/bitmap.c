// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bitmap: persistent dirty bitmaps (QEMU's docs/interop/qcow2.txt, "Bitmaps")
 *
 *      header extension --> directory (an entry for each: name, granularity, flags) --> bitmap table --> clusters full of bits
 *
 * Theory of operation. Bits are marked before the data is written, with an atomic OR on a word that mostly holds the bit already: then a
 * mark is one load. The bitmaps to mark are in a small array of atomic pointers; one that is removed leaves the array, but its memory is
 * kept until the image is closed, because a marking thread may just have looked.
 *
 * Opening for a guest's writing sets "in use" in the directory, in place (one word inside a sector), and syncs. A clean close writes bitmaps anew, into
 * new clusters, and switches the header to a new directory without the flag. In between, whatever the file says is out of date and says so.
 *
 * Bounds. A bitmap that is inconsistent, unknown in type, or too large to keep (MEMORY_MAX for all) isn't loaded: it stays where it is, in use,
 * and can be removed. Its clusters are not touched.
 */
#include "vmm/block/qcow2/bitmap.h"

#include <endian.h>
#include <inttypes.h>

#define TRACKED         32u            /* bitmaps that are marked at a time */
#define MEMORY_MAX      (256ull << 20) /* bytes of bits for all bitmaps of an image */
#define GRANULARITY_MIN 9u
#define GRANULARITY_MAX 31u

struct bitmap {
        char *name;
        uint32_t flags; /* as in the directory; without IN_USE */
        uint8_t type, granularity;
        uint8_t *extra; /* kept as it stands */
        uint32_t extra_size;
        _Atomic uint64_t *words; /* NULL: inconsistent */
        uint64_t n_bits;
        uint64_t table; /* where it stands in the file; 0: nowhere yet */
        uint32_t n_table;
        bool removed;
};

struct qcow2_bitmaps {
        uint64_t size, cluster, memory;
        unsigned int version;               /* of the image's format */
        uint64_t directory, directory_size; /* in the file; 0: none */
        struct bitmap **list;               /* in the directory's order; removed ones too */
        unsigned int n;
        _Atomic(struct bitmap *) tracked[TRACKED];
        _Atomic unsigned int n_tracked; /* slots that may be in use */
};

static int damaged(struct error *e) {
        return error_set(e, -EUCLEAN, "qcow2-bitmaps", "repair the image: lodge image check --repair all FILE",
                         "the image's bitmap directory is damaged");
}

static void bitmap_free(struct bitmap *m) {
        if (!m)
                return;
        free(m->name);
        free(m->extra);
        free((void *)m->words);
        free(m);
}

void qcow2_bitmaps_free(struct qcow2_bitmaps *b) {
        if (!b)
                return;
        for (unsigned int i = 0; i < b->n; i++)
                bitmap_free(b->list[i]);
        free(b->list);
        free(b);
}

static uint64_t n_words(const struct bitmap *m) {
        return (m->n_bits + 63) / 64;
}

static uint32_t table_entries(const struct qcow2_bitmaps *b, const struct bitmap *m) {
        return (uint32_t)MAX((m->n_bits + 8 * b->cluster - 1) / (8 * b->cluster), 1ull);
}

/* Gives it bits, all clear. -E2BIG when the image has had its share of memory. */
static int allocate_words(struct qcow2_bitmaps *b, struct bitmap *m) {
        uint64_t bytes;

        m->n_bits = (b->size >> m->granularity) + ((b->size & ((1ull << m->granularity) - 1)) != 0);
        bytes = MAX(n_words(m), 1ull) * 8;
        if (bytes > MEMORY_MAX - MIN(b->memory, MEMORY_MAX))
                return -E2BIG;
        m->words = calloc(1, bytes); // NOLINT(clang-analyzer-optin.portability.UnixAPI): 8 bytes at least
        if (!m->words)
                return -ENOMEM;
        b->memory += bytes;
        return 0;
}

static int append(struct qcow2_bitmaps *b, struct bitmap *m) {
        struct bitmap **list = realloc(b->list, (b->n + 1) * sizeof *list);

        if (!list)
                return -ENOMEM;
        b->list = list;
        b->list[b->n++] = m;
        return 0;
}

static int track(struct qcow2_bitmaps *b, struct bitmap *m) {
        for (unsigned int i = 0; i < TRACKED; i++)
                if (!b->tracked[i]) {
                        b->tracked[i] = m;
                        if (i >= b->n_tracked)
                                b->n_tracked = i + 1;
                        return 0;
                }
        return -ENOSPC;
}

static bool is_tracked(const struct qcow2_bitmaps *b, const struct bitmap *m) {
        for (unsigned int i = 0; i < TRACKED; i++)
                if (b->tracked[i] == m)
                        return true;
        return false;
}

static void untrack(struct qcow2_bitmaps *b, const struct bitmap *m) {
        for (unsigned int i = 0; i < TRACKED; i++)
                if (b->tracked[i] == m)
                        b->tracked[i] = NULL;
}

void qcow2_bitmaps_mark(struct qcow2_bitmaps *b, uint64_t offset, uint64_t length) {
        unsigned int n = atomic_load_explicit(&b->n_tracked, memory_order_acquire);

        if (!n || !length || offset >= b->size)
                return;
        length = MIN(length, b->size - offset);
        for (unsigned int i = 0; i < n; i++) {
                struct bitmap *m = atomic_load_explicit(&b->tracked[i], memory_order_acquire);
                uint64_t first, last;

                if (!m)
                        continue;
                first = offset >> m->granularity;
                last = (offset + length - 1) >> m->granularity;
                for (uint64_t w = first / 64; w <= last / 64; w++) {
                        uint64_t mask = ~0ull;

                        if (w == first / 64)
                                mask &= ~0ull << first % 64;
                        if (w == last / 64)
                                mask &= ~0ull >> (63 - last % 64);
                        if ((atomic_load_explicit(&m->words[w], memory_order_relaxed) & mask) != mask)
                                atomic_fetch_or_explicit(&m->words[w], mask, memory_order_release);
                }
        }
}

/* Fills a bitmap's words from its table in the file. 1: it can't be trusted. */
static int load_words(struct qcow2_bitmaps *b, struct bitmap *m, struct file *file) {
        uint64_t bytes = n_words(m) * 8;
        _cleanup_free_ uint8_t *table = malloc(8ull * m->n_table), *buf = malloc(b->cluster);
        int r;

        if (!table || !buf)
                return -ENOMEM;
        r = file_read(file, table, 8ull * m->n_table, m->table);
        if (r < 0)
                return r;
        for (uint64_t i = 0; i < m->n_table; i++) {
                uint64_t entry = be64_get(table + 8 * i), at = entry & QCOW2_OFFSET_MASK, from = i * b->cluster;

                if (entry & QCOW2_BITMAP_RESERVED || at % b->cluster || (at && entry & QCOW2_BITMAP_ALL_ONES) ||
                    at >= file_size(file))
                        return 1;
                if (!at && !(entry & QCOW2_BITMAP_ALL_ONES))
                        continue;
                memset(buf, 0xff, b->cluster);
                r = at ? file_read(file, buf, b->cluster, at) : 0;
                if (r < 0)
                        return r;
                for (uint64_t k = 0; k < b->cluster && from + k < bytes; k += 8) {
                        uint64_t word;

                        memcpy(&word, buf + k, 8);
                        m->words[(from + k) / 8] = le64toh(word);
                }
        }
        if (m->n_bits % 64) /* what lies behind the disk's end isn't dirty */
                m->words[m->n_bits / 64] &= (1ull << m->n_bits % 64) - 1;
        return 0;
}

/* One directory entry. Return: its length, or -errno; 0: damaged. */
static int64_t load_entry(struct qcow2_bitmaps *b, struct file *file, const uint8_t *p, uint64_t left) {
        uint64_t name, extra, size;
        struct bitmap *m;
        int r;

        if (left < QCOW2_BM_FIXED)
                return 0;
        name = be16_get(p + QCOW2_BM_NAME_SIZE);
        extra = be32_get(p + QCOW2_BM_EXTRA_SIZE);
        size = (QCOW2_BM_FIXED + name + extra + 7) & ~7ull;
        if (size > left || !name || name > QCOW2_BITMAP_NAME_MAX)
                return 0;
        m = calloc(1, sizeof *m);
        if (!m || append(b, m) < 0) {
                free(m);
                return -ENOMEM;
        }
        m->name = strndup((const char *)p + QCOW2_BM_FIXED + extra, name);
        m->extra = malloc(extra + 1);
        if (!m->name || !m->extra)
                return -ENOMEM;
        memcpy(m->extra, p + QCOW2_BM_FIXED, extra);
        m->extra_size = (uint32_t)extra;
        m->table = be64_get(p + QCOW2_BM_TABLE_OFFSET);
        m->n_table = be32_get(p + QCOW2_BM_TABLE_ENTRIES);
        m->flags = be32_get(p + QCOW2_BM_FLAGS);
        m->type = p[QCOW2_BM_TYPE];
        m->granularity = p[QCOW2_BM_GRANULARITY];
        if (m->table % b->cluster || !m->table || m->n_table > QCOW2_BITMAP_TABLE_MAX || m->table > file_size(file) ||
            8ull * m->n_table > file_size(file) - m->table)
                return 0;
        if (m->flags & ~(QCOW2_BM_AUTO | QCOW2_BM_EXTRA_OK) || m->type != QCOW2_BM_TYPE_DIRTY ||
            m->granularity < GRANULARITY_MIN || m->granularity > GRANULARITY_MAX ||
            (extra && !(m->flags & QCOW2_BM_EXTRA_OK)))
                return (int64_t)size; /* stays inconsistent */
        r = allocate_words(b, m);
        if (r == 0)
                r = m->n_table == table_entries(b, m) ? load_words(b, m, file) : 1;
        if (r) { /* damaged or too large: inconsistent */
                free((void *)m->words);
                m->words = NULL;
                if (r == -ENOMEM)
                        return r;
        }
        if (m->words && m->flags & QCOW2_BM_AUTO)
                track(b, m); /* where there are too many, the others become inconsistent: see below */
        if (m->words && m->flags & QCOW2_BM_AUTO && !is_tracked(b, m)) {
                free((void *)m->words);
                m->words = NULL;
        }
        return (int64_t)size;
}

int qcow2_bitmaps_load(struct file *file, const struct qcow2_header *h, bool writable, struct qcow2_bitmaps **ret,
                       struct error *e) {
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = calloc(1, sizeof *b);
        uint64_t size = h->bitmaps.directory_size, at = 0;
        _cleanup_free_ uint8_t *directory = NULL;
        int r;

        if (!b)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for bitmaps");
        b->size = h->size;
        b->version = h->version;
        b->cluster = qcow2_cluster(h);
        if (!h->bitmaps.n) {
                *ret = TAKE_PTR(b);
                return 0;
        }
        if (h->bitmaps.directory_offset > file_size(file) || size > file_size(file) - h->bitmaps.directory_offset)
                return damaged(e);
        directory = malloc(size);
        if (!directory)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for bitmaps");
        r = file_read(file, directory, size, h->bitmaps.directory_offset);
        for (uint32_t i = 0; r >= 0 && i < h->bitmaps.n; i++) {
                int64_t n = load_entry(b, file, directory + at, size - at);

                if (n <= 0)
                        return n ? error_set(e, (int)n, "memory", NULL, "no memory for bitmaps") : damaged(e);
                be32_put(directory + at + QCOW2_BM_FLAGS, be32_get(directory + at + QCOW2_BM_FLAGS) | QCOW2_BM_IN_USE);
                at += (uint64_t)n;
        }
        if (r >= 0 && writable) {
                r = file_write(file, directory, size, h->bitmaps.directory_offset);
                if (r >= 0)
                        r = file_sync(file);
        }
        if (r < 0)
                return error_set(e, r, "qcow2-bitmaps", NULL, "cannot load the image's bitmaps");
        b->directory = h->bitmaps.directory_offset;
        b->directory_size = size;
        *ret = TAKE_PTR(b);
        return 0;
}

/* What store() replaces, to be freed when nothing points there any more, or what it made, if it failed. */
struct ranges {
        struct range {
                uint64_t offset, bytes;
        } * list;
        size_t n;
};

static int ranges_add(struct ranges *r, uint64_t offset, uint64_t bytes) {
        struct range *list = reallocarray(r->list, r->n + 1, sizeof *list);

        if (!list)
                return -ENOMEM;
        r->list = list;
        r->list[r->n++] = (struct range){ offset, bytes };
        return 0;
}

static void ranges_free(struct ranges *r, const struct qcow2_bitmap_space *space) {
        for (size_t i = 0; space && i < r->n; i++)
                space->free(space->opaque, r->list[i].offset, r->list[i].bytes);
        free(r->list);
        *r = (struct ranges){ 0 };
}

static int take_space(const struct qcow2_bitmap_space *space, uint64_t bytes, struct ranges *made, uint64_t *ret) {
        int r = space->alloc(space->opaque, bytes, ret);

        if (r == 0 && ranges_add(made, *ret, bytes) < 0) {
                space->free(space->opaque, *ret, bytes);
                r = -ENOMEM;
        }
        return r;
}

/* The old table and the clusters that it points at. */
static int collect_old(const struct qcow2_bitmaps *b, const struct bitmap *m, struct file *file, struct ranges *old) {
        _cleanup_free_ uint8_t *table = NULL;
        int r;

        if (!m->table)
                return 0;
        table = malloc(8ull * m->n_table + 1);
        if (!table)
                return -ENOMEM;
        r = file_read(file, table, 8ull * m->n_table, m->table);
        for (uint64_t i = 0; r == 0 && i < m->n_table; i++) {
                uint64_t at = be64_get(table + 8 * i) & QCOW2_OFFSET_MASK;

                if (at && at % b->cluster == 0)
                        r = ranges_add(old, at, b->cluster);
        }
        return r < 0 ? r : ranges_add(old, m->table, 8ull * m->n_table);
}

/* Writes the bits into new clusters; stretches that are all clear or all set take none. */
static int store_words(const struct qcow2_bitmaps *b, struct bitmap *m, struct file *file,
                       const struct qcow2_bitmap_space *space, struct ranges *made, uint64_t *ret_table) {
        uint32_t n = table_entries(b, m);
        uint64_t bytes = n_words(m) * 8;
        _cleanup_free_ uint8_t *table = calloc(n, 8), *buf = malloc(b->cluster);
        int r = table && buf ? take_space(space, 8ull * n, made, ret_table) : -ENOMEM;

        for (uint64_t i = 0; r == 0 && i < n; i++) {
                bool any = false;
                uint64_t at;

                memset(buf, 0, b->cluster);
                for (uint64_t k = 0; k < b->cluster && i * b->cluster + k < bytes; k += 8) {
                        uint64_t word = htole64(m->words[(i * b->cluster + k) / 8]);

                        memcpy(buf + k, &word, 8);
                        any |= word != 0;
                }
                if (!any)
                        continue;
                r = take_space(space, b->cluster, made, &at);
                if (r == 0)
                        r = file_write(file, buf, b->cluster, at);
                be64_put(table + 8 * i, r == 0 ? at : 0);
        }
        return r < 0 ? r : file_write(file, table, 8ull * n, *ret_table);
}

static size_t put_entry(const struct bitmap *m, uint8_t *p, uint64_t table, uint32_t n_table, uint32_t flags) {
        size_t name = strlen(m->name), size = (QCOW2_BM_FIXED + m->extra_size + name + 7) & ~7ull;

        if (p) {
                be64_put(p + QCOW2_BM_TABLE_OFFSET, table);
                be32_put(p + QCOW2_BM_TABLE_ENTRIES, n_table);
                be32_put(p + QCOW2_BM_FLAGS, flags);
                p[QCOW2_BM_TYPE] = m->type;
                p[QCOW2_BM_GRANULARITY] = m->granularity;
                be16_put(p + QCOW2_BM_NAME_SIZE, (uint16_t)name);
                be32_put(p + QCOW2_BM_EXTRA_SIZE, m->extra_size);
                if (m->extra_size)
                        memcpy(p + QCOW2_BM_FIXED, m->extra, m->extra_size);
                memcpy(p + QCOW2_BM_FIXED + m->extra_size, m->name, name);
        }
        return size;
}

/* New bitmaps, tables and directory, and what will be free when the header points at them. @tables: where each went; @ret: zeroed by the caller */
static int write_all(struct qcow2_bitmaps *b, struct file *file, const struct qcow2_bitmap_space *space,
                     bool keep_using, struct ranges *made, struct ranges *old, uint64_t *tables,
                     struct qcow2_header_bitmaps *ret) {
        _cleanup_free_ uint8_t *directory = NULL;
        uint64_t size = 0, at = 0;
        int r = 0;

        for (unsigned int i = 0; r == 0 && i < b->n; i++) {
                struct bitmap *m = b->list[i];

                tables[i] = m->table;
                if (m->removed || m->words)
                        r = collect_old(b, m, file, old);
                if (m->removed)
                        continue;
                if (r == 0 && m->words)
                        r = store_words(b, m, file, space, made, &tables[i]);
                size += put_entry(m, NULL, 0, 0, 0);
                ret->n++;
        }
        if (r == 0 && b->directory)
                r = ranges_add(old, b->directory, b->directory_size);
        if (r < 0 || !ret->n)
                return r;
        directory = calloc(1, size);
        r = directory ? take_space(space, size, made, &ret->directory_offset) : -ENOMEM;
        for (unsigned int i = 0; r == 0 && i < b->n; i++) {
                struct bitmap *m = b->list[i];
                uint32_t flags = (m->flags & ~(QCOW2_BM_IN_USE | (m->words ? QCOW2_BM_AUTO : 0))) |
                                 (keep_using || !m->words ? QCOW2_BM_IN_USE : 0) |
                                 (m->words && is_tracked(b, m) ? QCOW2_BM_AUTO : 0);

                if (!m->removed)
                        at += put_entry(m, directory + at, tables[i], m->words ? table_entries(b, m) : m->n_table,
                                        flags);
        }
        ret->directory_size = size;
        return r < 0 ? r : file_write(file, directory, size, ret->directory_offset);
}

int qcow2_bitmaps_store(struct qcow2_bitmaps *b, struct file *file, struct qcow2_header *h,
                        const struct qcow2_bitmap_space *space, bool keep_using, struct error *e) {
        _cleanup_free_ uint64_t *tables = calloc(b->n + 1, sizeof *tables);
        struct ranges made = { 0 }, old = { 0 };
        struct qcow2_header_bitmaps bitmaps = { 0 };
        struct qcow2_header next;
        int r;

        if (!b->n)
                return 0;
        r = tables ? write_all(b, file, space, keep_using, &made, &old, tables, &bitmaps) : -ENOMEM;
        if (r == 0)
                r = file_sync(file);
        if (r < 0) {
                ranges_free(&made, space);
                ranges_free(&old, NULL);
                return error_set(e, r, "qcow2-bitmaps", "free some space on the host",
                                 "cannot write the image's bitmaps");
        }
        /* Only now: taking space may have flushed, and so moved the refcount table and set the dirty bit. */
        next = *h; /* borrows its strings */
        next.bitmaps = bitmaps;
        next.autoclear =
                next.bitmaps.n ? next.autoclear | QCOW2_AUTOCLEAR_BITMAPS : next.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS;
        r = qcow2_header_store(file, &next, e);
        if (r == 0)
                r = file_sync(file);
        ranges_free(&made, NULL);
        if (r < 0) { /* which header is on the disk is unknown: free neither's clusters */
                ranges_free(&old, NULL);
                return error_set(e, r, "qcow2-bitmaps", NULL, "cannot write the image's header");
        }
        h->bitmaps = next.bitmaps;
        h->autoclear = next.autoclear;
        h->bitmaps_stale = false;
        b->directory = next.bitmaps.n ? next.bitmaps.directory_offset : 0;
        b->directory_size = next.bitmaps.directory_size;
        for (unsigned int i = 0; i < b->n; i++) {
                struct bitmap *m = b->list[i];

                m->table = m->removed ? 0 : tables[i];
                if (m->words)
                        m->n_table = table_entries(b, m);
        }
        ranges_free(&old, space);
        return 0;
}

static struct bitmap *find(const struct qcow2_bitmaps *b, const char *name) {
        for (unsigned int i = 0; i < b->n; i++)
                if (!b->list[i]->removed && streq(b->list[i]->name, name))
                        return b->list[i];
        return NULL;
}

int qcow2_bitmaps_add(struct qcow2_bitmaps *b, const char *name, uint64_t granularity, bool enabled, struct error *e) {
        struct bitmap *m;
        int r;

        granularity = granularity ? granularity : 65536;
        if (b->version < 3)
                return error_set(e, -ENOTSUP, "qcow2-bitmap-version", "make one of version 3: lodge image convert",
                                 "an image of version %u can't hold bitmaps", b->version);
        if (!*name || strlen(name) > QCOW2_BITMAP_NAME_MAX)
                return error_set(e, -EINVAL, "qcow2-bitmap-range", "give it a name of 1 to 1023 bytes",
                                 "the bitmap's name is %s", *name ? "too long" : "empty");
        if (granularity & (granularity - 1) || granularity < 1ull << GRANULARITY_MIN ||
            granularity > 1ull << GRANULARITY_MAX)
                return error_set(e, -EINVAL, "qcow2-bitmap-range", "a power of two from 512 bytes to 2 GiB",
                                 "the bitmap's granularity is out of range");
        if (qcow2_bitmaps_count(b) >= QCOW2_BITMAPS_MAX)
                return error_set(e, -EINVAL, "qcow2-bitmap-range", "remove another one: lodge image bitmap remove",
                                 "an image holds at most %u bitmaps", QCOW2_BITMAPS_MAX);
        if (find(b, name))
                return error_set(e, -EEXIST, "qcow2-bitmap-exists", "use another name", "the image has a bitmap %s",
                                 name);
        m = calloc(1, sizeof *m);
        if (!m)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for a bitmap");
        m->name = strdup(name);
        m->type = QCOW2_BM_TYPE_DIRTY;
        m->granularity = (uint8_t)__builtin_ctzll(granularity);
        r = m->name ? allocate_words(b, m) : -ENOMEM;
        if (r == 0)
                r = append(b, m);
        if (r < 0) {
                bitmap_free(m);
                return error_set(e, r, "qcow2-bitmap-range", "use a larger granularity", "no room for bitmap %s", name);
        }
        if (enabled && track(b, m) < 0) {
                m->removed = true; /* it was never stored: nothing is left of it */
                return error_set(e, -ENOSPC, "qcow2-bitmap-range", "remove or disable another one",
                                 "too many bitmaps are enabled");
        }
        return 0;
}

/* A bitmap that can be worked with. */
static int find_good(const struct qcow2_bitmaps *b, const char *name, struct bitmap **ret, struct error *e) {
        struct bitmap *m = find(b, name);

        if (!m)
                return error_set(e, -ENOENT, "qcow2-bitmap-missing", "list them: lodge image bitmap list",
                                 "the image has no bitmap %s", name);
        if (!m->words)
                return error_set(e, -EUCLEAN, "qcow2-bitmap-inconsistent",
                                 "remove it (lodge image bitmap remove), add it anew, and make a full backup",
                                 "bitmap %s is inconsistent and can only be removed: the image was not closed in "
                                 "order, or the bitmap is of an unknown kind",
                                 name);
        *ret = m;
        return 0;
}

int qcow2_bitmaps_remove(struct qcow2_bitmaps *b, const char *name, struct error *e) {
        struct bitmap *m = find(b, name);

        if (!m)
                return error_set(e, -ENOENT, "qcow2-bitmap-missing", "list them: lodge image bitmap list",
                                 "the image has no bitmap %s", name);
        untrack(b, m);
        m->removed = true;
        return 0;
}

int qcow2_bitmaps_clear(struct qcow2_bitmaps *b, const char *name, struct error *e) {
        struct bitmap *m = NULL;
        int r = find_good(b, name, &m, e);

        for (uint64_t i = 0; r == 0 && i < n_words(m); i++)
                m->words[i] = 0;
        return r;
}

int qcow2_bitmaps_enable(struct qcow2_bitmaps *b, const char *name, bool enabled, struct error *e) {
        struct bitmap *m = NULL;
        int r = find_good(b, name, &m, e);

        if (r < 0 || is_tracked(b, m) == enabled)
                return r;
        if (!enabled)
                untrack(b, m);
        else if (track(b, m) < 0)
                return error_set(e, -ENOSPC, "qcow2-bitmap-range", "remove or disable another one",
                                 "too many bitmaps are enabled");
        return 0;
}

int qcow2_bitmaps_good(const struct qcow2_bitmaps *b, const char *name, struct error *e) {
        struct bitmap *m = NULL;

        return find_good(b, name, &m, e);
}

unsigned int qcow2_bitmaps_count(const struct qcow2_bitmaps *b) {
        unsigned int n = 0;

        for (unsigned int i = 0; i < b->n; i++)
                n += !b->list[i]->removed;
        return n;
}

static bool bit(const struct bitmap *m, uint64_t i) {
        return m->words[i / 64] >> i % 64 & 1;
}

void qcow2_bitmaps_info(const struct qcow2_bitmaps *b, unsigned int i, struct qcow2_bitmap_info *ret) {
        const struct bitmap *m = NULL;
        uint64_t bits = 0;

        for (unsigned int k = 0, at = 0; k < b->n; k++)
                if (!b->list[k]->removed && at++ == i)
                        m = b->list[k];
        *ret = (struct qcow2_bitmap_info){ 0 };
        if (!m)
                return;
        for (uint64_t w = 0; m->words && w < n_words(m); w++)
                bits += (uint64_t)__builtin_popcountll(m->words[w]);
        ret->name = m->name;
        ret->granularity = m->granularity < 64 ? 1ull << m->granularity : 0;
        ret->dirty = bits << m->granularity % 64;
        if (m->words && m->n_bits && bit(m, m->n_bits - 1))
                ret->dirty -= (m->n_bits << m->granularity) - b->size; /* the last bit's part behind the disk's end */
        ret->enabled = is_tracked(b, m);
        ret->inconsistent = !m->words;
}

int qcow2_bitmaps_next(const struct qcow2_bitmaps *b, const char *name, uint64_t offset, uint64_t *ret_start,
                       uint64_t *ret_length) {
        const struct bitmap *m = find(b, name);
        uint64_t i, end;

        if (!m)
                return -ENOENT;
        if (!m->words)
                return -EUCLEAN;
        if (offset >= b->size) /* inside the last bit, perhaps */
                return 0;
        for (i = offset >> m->granularity; i < m->n_bits && !bit(m, i);)
                i = m->words[i / 64] >> i % 64 ? i + 1 : (i / 64 + 1) * 64;
        if (i >= m->n_bits)
                return 0;
        for (end = i; end < m->n_bits && bit(m, end); end++)
                ;
        *ret_start = MAX(i << m->granularity, offset);
        *ret_length = MIN(end << m->granularity, b->size) - *ret_start;
        return 1;
}
