// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check: is everything where the image says, and counted as often as it is used?
 *
 * Theory of operation. References are counted from scratch, by walking everything that the header leads to, and then compared with the
 * refcounts in the image:
 *
 *   1. metadata is marked, in the order of its worth: header, L1 table, snapshots, L2 tables, bitmaps, refcount structures. What
 *      overlaps something marked before is a corruption, and loses: an L1 entry is dropped, bitmaps are given up, refcounts are rebuilt.
 *      Two L1 entries of the active table for one L2 table overlap too, unless snapshots explain it: a write through one would change what
 *      the other shows. Nothing tells which of them is wrong; the later one is dropped.
 *   2. each L2 table is read once, however many L1 tables lead to it, and its entries counted with that factor. An entry that points
 *      outside the file or at metadata is a corruption; mending makes it a zero cluster.
 *   3. refcounts are compared (refcheck.c): too high is a leak, too low a corruption.
 *   4. the COPIED flags are compared with the refcounts: a wrong one would let a write go to a shared cluster.
 *
 * Order of repair, so that a kill at any moment leaves nothing worse than before: entries that are dropped, sync; refcounts that rise (or new
 * refcount structures, complete and synced before the header points at them), sync; COPIED flags, sync; only then refcounts that
 * fall; the dirty and corrupt bits last of all. Nothing falls while some reference could not be followed.
 *
 * Bounds. Each cluster of the file is read at most a few times, holes are skipped, memory follows the number of table entries that really stand
 * in the file (counts.c), and reports end after LINES_MAX lines.
 */
#include "vmm/block/qcow2/check.h"

#include <inttypes.h>
#include <stdarg.h>

#define LINES_MAX 10000u
#define PIECE     65536u /* bytes of a table, read at a time */

void check_found(struct check *c, enum finding kind, const char *format, ...) {
        static const char *const words[] = { [CORRUPTION] = "corrupt", [LEAK] = "leak", [ERROR] = "error" };
        char line[256];
        va_list ap;
        int n;

        switch (kind) {
        case CORRUPTION:
                c->res->corruptions++;
                break;
        case LEAK:
                c->res->leaks++;
                break;
        case ERROR:
                c->res->errors++;
        }
        if (!c->res->report || c->lines > LINES_MAX)
                return;
        if (c->lines++ == LINES_MAX) {
                c->res->report(c->res->opaque, "more was found, but is not listed");
                return;
        }
        n = snprintf(line, sizeof line, "%s: ", words[kind]);
        va_start(ap, format);
        vsnprintf(line + n, sizeof line - (size_t)n, format, ap);
        va_end(ap);
        c->res->report(c->res->opaque, line);
}

bool check_has_data(struct check *c, uint64_t offset, uint64_t length) {
        uint64_t end = MIN(offset + length, file_size(c->file));

        while (offset < end) {
                bool data = true;
                uint64_t n = 0;

                if (file_next(c->file, offset, &data, &n) < 0 || data)
                        return true;
                if (n == 0)
                        return true;
                offset += n;
        }
        return false;
}

bool check_inside(const struct check *c, uint64_t offset, uint64_t length) {
        return offset >= c->cluster && offset <= c->end && length <= c->end - offset;
}

int check_mark(struct check *c, uint64_t offset, uint64_t length) {
        uint64_t first = offset / c->cluster, last = (offset + length + c->cluster - 1) / c->cluster;
        int overlap = 0;

        for (uint64_t i = first; i < last; i++) {
                int r = counts_add(&c->counts, i, 1, true);

                if (r < 0)
                        return r;
                overlap |= counts_get(&c->counts, i) > 1;
        }
        return overlap;
}

static int remember_l2(struct check *c, uint64_t where, uint64_t entry, bool active) {
        if (c->n_l2s == c->room_l2s) {
                size_t room = c->room_l2s ? 2 * c->room_l2s : 256;
                struct l2_ref *l2s = realloc(c->l2s, room * sizeof *l2s);

                if (!l2s)
                        return -ENOMEM;
                c->l2s = l2s;
                c->room_l2s = room;
        }
        c->l2s[c->n_l2s++] = (struct l2_ref){ entry & QCOW2_OFFSET_MASK, where, entry, active, false };
        return 0;
}

/* An entry that leads nowhere: counted as corrupt, and cleared if we may. */
static int drop_l1(struct check *c, uint64_t where) {
        static const uint8_t nothing[8];
        int r;

        if (!c->fix_all) {
                c->lost++;
                return 0;
        }
        r = file_write(c->file, nothing, sizeof nothing, where);
        if (r == 0)
                c->res->corruptions_fixed++;
        return r;
}

/* Reserved bits are no reason to lose the table behind them. */
static int clean_l1(struct check *c, uint64_t where, uint64_t *entry) {
        uint8_t buf[8];
        int r;

        check_found(c, CORRUPTION, "L1 entry at %#" PRIx64 " has reserved bits: %#" PRIx64, where, *entry);
        if (!c->fix_all)
                return 0;
        *entry &= ~QCOW2_L1_RESERVED;
        be64_put(buf, *entry);
        r = file_write(c->file, buf, sizeof buf, where);
        if (r == 0)
                c->res->corruptions_fixed++;
        return r;
}

int check_collect_l1(struct check *c, uint64_t offset, uint32_t entries, bool active) {
        uint64_t bytes = 8ull * entries;
        uint8_t buf[4096];

        for (uint64_t at = 0; at < bytes; at += sizeof buf) {
                uint64_t n = MIN(bytes - at, (uint64_t)sizeof buf);
                int r;

                if (at % PIECE == 0 && !check_has_data(c, offset + at, MIN(bytes - at, (uint64_t)PIECE))) {
                        at += PIECE - sizeof buf;
                        continue;
                }
                r = file_read(c->file, buf, n, offset + at);
                if (r < 0)
                        return r;
                for (uint64_t i = 0; i < n; i += 8) {
                        uint64_t entry = be64_get(buf + i), table = entry & QCOW2_OFFSET_MASK;

                        r = entry & QCOW2_L1_RESERVED ? clean_l1(c, offset + at + i, &entry) : 0;
                        if (r < 0)
                                return r;
                        if (!table)
                                continue;
                        if (table % c->cluster || !check_inside(c, table, c->cluster)) {
                                check_found(c, CORRUPTION, "L1 entry at %#" PRIx64 " points at %#" PRIx64 ": %s",
                                            offset + at + i, table,
                                            table % c->cluster ? "not aligned" : "not in the file");
                                r = drop_l1(c, offset + at + i);
                        } else
                                r = remember_l2(c, offset + at + i, entry, active);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int by_table(const void *a, const void *b) {
        const struct l2_ref *x = a, *y = b;

        if (x->table != y->table)
                return x->table < y->table ? -1 : 1;
        return x->where < y->where ? -1 : x->where > y->where ? 1 : 0;
}

/* Marks every L2 table once for each L1 entry that leads to it, and may. */
static int mark_l2_tables(struct check *c) {
        if (c->n_l2s)
                qsort(c->l2s, c->n_l2s, sizeof *c->l2s, by_table);
        for (size_t i = 0, next; i < c->n_l2s; i = next) {
                uint64_t table = c->l2s[i].table;
                bool overlap = counts_get(&c->counts, table / c->cluster) > 0;
                int r = 0;

                for (next = i; next < c->n_l2s && c->l2s[next].table == table; next++) {
                        bool again = next > i && !c->h.n_snapshots;

                        c->l2s[next].skip = overlap || again;
                        if (!c->l2s[next].skip) {
                                r = counts_add(&c->counts, table / c->cluster, 1, true);
                        } else {
                                check_found(c, CORRUPTION, "L1 entry at %#" PRIx64 " points at %s: %#" PRIx64,
                                            c->l2s[next].where, overlap ? "other metadata" : "another one's L2 table",
                                            table);
                                r = drop_l1(c, c->l2s[next].where);
                        }
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* What an L2 entry says */
struct l2_walk {
        struct check *c;
        uint32_t factor; /* L1 entries that lead here */
        bool active;
        bool changed;
        uint64_t next; /* offset that would go on without a break; 0: none */
};

/* Makes the entry read as zeroes, because what it points at is not the guest's data. */
static void drop_l2(struct l2_walk *w, uint8_t *p) {
        struct check *c = w->c;

        if (!c->fix_all) {
                c->lost++;
                return;
        }
        be64_put(p, c->h.version >= 3 && !qcow2_extended_l2(&c->h) ? QCOW2_ZERO : 0);
        if (qcow2_extended_l2(&c->h))
                be64_put(p + 8, 0xffffffff00000000ull);
        w->changed = true;
        c->res->corruptions_fixed++;
}

static int walk_compressed(struct l2_walk *w, uint8_t *p, uint64_t where, uint64_t entry) {
        struct check *c = w->c;
        uint64_t from, to;
        int r;

        qcow2_compressed_range(entry, c->h.cluster_bits, &from, &to);
        if (entry & QCOW2_COPIED) {
                check_found(c, CORRUPTION, "L2 entry at %#" PRIx64 ": COPIED on a compressed cluster", where);
                if (c->fix_all) {
                        be64_put(p, entry & ~QCOW2_COPIED);
                        w->changed = true;
                        c->res->corruptions_fixed++;
                }
        }
        if (w->active) {
                c->res->allocated++;
                c->res->compressed++;
                c->res->fragmented++;
        }
        if (qcow2_extended_l2(&c->h) && be64_get(p + 8)) {
                check_found(c, CORRUPTION, "L2 entry at %#" PRIx64 ": subclusters of a compressed cluster", where);
                drop_l2(w, p);
                return 0;
        }
        if (from < c->cluster || to > c->end) {
                check_found(c, CORRUPTION,
                            "L2 entry at %#" PRIx64 ": compressed data at %#" PRIx64 " is not in the file", where,
                            from);
                drop_l2(w, p);
                return 0;
        }
        for (uint64_t i = from / c->cluster; i <= (to - 1) / c->cluster; i++)
                if (counts_is_meta(&c->counts, i)) {
                        check_found(c, CORRUPTION, "L2 entry at %#" PRIx64 " points at metadata: %#" PRIx64, where,
                                    from);
                        drop_l2(w, p);
                        return 0;
                }
        for (uint64_t i = from / c->cluster; i <= (to - 1) / c->cluster; i++) {
                r = counts_add(&c->counts, i, w->factor, false);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The word behind an extended entry: @offset is the entry's, 0 without. True: the entry can't be used. */
static bool bad_subclusters(struct l2_walk *w, uint64_t where, uint64_t word, uint64_t offset) {
        if (!(QCOW2_SUB_ALLOC(word) & QCOW2_SUB_ZERO(word)) && (offset || !QCOW2_SUB_ALLOC(word)))
                return false;
        check_found(w->c, CORRUPTION, "L2 entry at %#" PRIx64 " has a contradictory subcluster bitmap: %#" PRIx64,
                    where, word);
        return true;
}

static int walk_standard(struct l2_walk *w, uint8_t *p, uint64_t where, uint64_t entry) {
        struct check *c = w->c;
        bool extended = qcow2_extended_l2(&c->h);
        uint64_t offset = entry & QCOW2_OFFSET_MASK;

        if (entry & (QCOW2_L2_RESERVED | (extended || c->h.version < 3 ? QCOW2_ZERO : 0))) {
                check_found(c, CORRUPTION, "L2 entry at %#" PRIx64 " has reserved bits: %#" PRIx64, where, entry);
                if (c->fix_all) {
                        be64_put(p, entry & ~QCOW2_L2_RESERVED & ~(extended || c->h.version < 3 ? QCOW2_ZERO : 0));
                        w->changed = true;
                        c->res->corruptions_fixed++;
                }
        }
        if (extended && bad_subclusters(w, where, be64_get(p + 8), offset)) {
                drop_l2(w, p);
                return 0;
        }
        if (!offset)
                return 0;
        if (c->h.incompatible & QCOW2_INCOMPAT_DATA_FILE)
                return 0; /* offsets in another file */
        if (offset % c->cluster || !check_inside(c, offset, c->cluster) ||
            counts_is_meta(&c->counts, offset / c->cluster)) {
                check_found(c, CORRUPTION, "L2 entry at %#" PRIx64 " points at %#" PRIx64 ": %s", where, offset,
                            offset % c->cluster                    ? "not aligned"
                            : !check_inside(c, offset, c->cluster) ? "not in the file"
                                                                   : "metadata");
                drop_l2(w, p);
                return 0;
        }
        if (w->active) {
                c->res->allocated++;
                c->res->fragmented += w->next && w->next != offset;
                w->next = offset + c->cluster;
        }
        return counts_add(&c->counts, offset / c->cluster, w->factor, false);
}

/* One L2 table, once. */
static int walk_table(struct check *c, uint64_t table, uint32_t factor, bool active) {
        struct l2_walk w = { .c = c, .factor = factor, .active = active };
        uint32_t step = qcow2_l2_entry(&c->h);
        int r;

        if (!check_has_data(c, table, c->cluster))
                return 0;
        r = file_read(c->file, c->buf, c->cluster, table);
        if (r < 0) {
                check_found(c, ERROR, "L2 table at %#" PRIx64 " cannot be read", table);
                return 0;
        }
        for (uint64_t i = 0; i < c->cluster; i += step) {
                uint64_t entry = be64_get(c->buf + i);

                if (!entry && (step == 8 || !be64_get(c->buf + i + 8)))
                        continue;
                r = entry & QCOW2_COMPRESSED ? walk_compressed(&w, c->buf + i, table + i, entry)
                                             : walk_standard(&w, c->buf + i, table + i, entry);
                if (r < 0)
                        return r;
        }
        return w.changed ? file_write(c->file, c->buf, c->cluster, table) : 0;
}

static int walk_tables(struct check *c) {
        for (size_t i = 0, next; i < c->n_l2s; i = next) {
                bool active = false;
                size_t n = 0;
                int r;

                for (next = i; next < c->n_l2s && c->l2s[next].table == c->l2s[i].table; next++) {
                        active |= c->l2s[next].active;
                        n += !c->l2s[next].skip;
                }
                if (n == 0)
                        continue;
                r = walk_table(c, c->l2s[i].table, (uint32_t)MIN(n, (size_t)UINT32_MAX), active);
                if (r < 0)
                        return r;
                if (c->res->progress)
                        c->res->progress(c->res->opaque, next, c->n_l2s);
        }
        return 0;
}

/* Is the image's own refcount of the cluster at @offset exactly one? */
static bool is_one(struct check *c, uint64_t offset) {
        struct counts_piece *p = counts_find(&c->counts, offset / c->cluster);

        return p && p->one >> offset / c->cluster % COUNTS_PIECE & 1;
}

static int copied_in_table(struct check *c, uint64_t table) {
        uint32_t step = qcow2_l2_entry(&c->h);
        bool changed = false;
        int r;

        if (!check_has_data(c, table, c->cluster))
                return 0;
        r = file_read(c->file, c->buf, c->cluster, table);
        if (r < 0)
                return 0; /* was reported before */
        for (uint64_t i = 0; i < c->cluster; i += step) {
                uint64_t entry = be64_get(c->buf + i), offset = entry & QCOW2_OFFSET_MASK;

                if (entry & QCOW2_COMPRESSED || !offset || offset % c->cluster ||
                    !check_inside(c, offset, c->cluster) || is_one(c, offset) == !!(entry & QCOW2_COPIED))
                        continue;
                check_found(c, CORRUPTION, "L2 entry at %#" PRIx64 ": wrong COPIED flag: %#" PRIx64, table + i, entry);
                if (c->fix_all) {
                        be64_put(c->buf + i, entry ^ QCOW2_COPIED);
                        c->res->corruptions_fixed++;
                        changed = true;
                }
        }
        return changed ? file_write(c->file, c->buf, c->cluster, table) : 0;
}

/* Snapshots' tables are not written in place: only the active one's flags matter. */
static int check_copied(struct check *c) {
        uint64_t before = UINT64_MAX;

        for (size_t i = 0; i < c->n_l2s; i++) {
                struct l2_ref *ref = &c->l2s[i];
                uint8_t buf[8];
                int r = 0;

                if (!ref->active || ref->skip)
                        continue;
                if (is_one(c, ref->table) != !!(ref->entry & QCOW2_COPIED)) {
                        check_found(c, CORRUPTION, "L1 entry at %#" PRIx64 ": wrong COPIED flag: %#" PRIx64, ref->where,
                                    ref->entry);
                        if (c->fix_all) {
                                be64_put(buf, (ref->entry & ~QCOW2_L1_RESERVED) ^ QCOW2_COPIED);
                                r = file_write(c->file, buf, sizeof buf, ref->where);
                                c->res->corruptions_fixed += r == 0;
                        }
                }
                if (r == 0 && ref->table != before && !(c->h.incompatible & QCOW2_INCOMPAT_DATA_FILE))
                        r = copied_in_table(c, ref->table);
                before = ref->table;
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Everything but the L2 tables' content and the refcounts: see the order at the top. */
static int mark_metadata(struct check *c, struct error *e) {
        uint64_t l1 = 8ull * c->h.l1_entries;
        int r = check_mark(c, 0, c->cluster);

        if (r >= 0 && l1) {
                if (!check_inside(c, c->h.l1_offset, l1))
                        return error_set(e, -EUCLEAN, "qcow2-header", "restore the image from a backup",
                                         "the L1 table at %#" PRIx64 " does not lie inside the file", c->h.l1_offset);
                r = check_mark(c, c->h.l1_offset, l1);
                if (r >= 0)
                        r = check_collect_l1(c, c->h.l1_offset, c->h.l1_entries, true);
        }
        if (r >= 0 && c->h.crypto_length && check_inside(c, c->h.crypto_offset, c->h.crypto_length))
                r = check_mark(c, c->h.crypto_offset, c->h.crypto_length);
        if (r >= 0)
                r = check_snapshots(c);
        if (r >= 0)
                r = mark_l2_tables(c);
        if (r >= 0)
                r = check_bitmaps(c);
        if (r == 1) {
                check_found(c, CORRUPTION, "the bitmaps are damaged or overlap other metadata");
                if (c->fix_all) {
                        c->h.bitmaps.n = 0;
                        c->h.autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
                        r = qcow2_header_store(c->file, &c->h, e);
                        c->res->corruptions_fixed += r == 0;
                        c->again = true; /* what they marked is counted as used in this run */
                } else
                        c->lost++;
        }
        if (r >= 0)
                r = refcheck_load(c);
        if (r >= 0)
                r = walk_tables(c);
        return MIN(r, 0);
}

/* The bits that say "examine me", last of all. */
static int mark_clean(struct check *c) {
        uint64_t was = c->h.incompatible;
        int r;

        if (c->res->errors || c->res->corruptions != c->res->corruptions_fixed || c->h.version < 3)
                return 0;
        c->h.incompatible &= ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
        if (c->h.incompatible == was)
                return 0;
        r = file_sync(c->file);
        if (r == 0)
                r = qcow2_header_store_features(c->file, &c->h);
        return r < 0 ? r : file_sync(c->file);
}

static int mend(struct check *c, struct error *e) {
        int r = 0;

        if (c->fix_all && c->res->errors == 0) {
                r = file_sync(c->file); /* dropped entries, before a refcount falls */
                if (r == 0 && c->rebuild)
                        r = repair_rebuild(c, e);
                else if (r == 0 && c->too_low)
                        r = refcheck_compare(c, REFCHECK_RAISE);
                if (r == 0)
                        r = file_sync(c->file);
        }
        if (r == 0 && !(c->will_lower && c->res->errors))
                r = check_copied(c);
        if (r < 0 || !c->fix_leaks || c->res->errors)
                return r;
        r = file_sync(c->file);
        /* A stale extension must not point at bitmaps that are about to be freed. */
        if (r == 0 && c->h.bitmaps_stale)
                r = qcow2_header_store(c->file, &c->h, e);
        if (r == 0)
                r = file_sync(c->file);
        if (r == 0 && c->too_high && c->will_lower)
                r = refcheck_compare(c, REFCHECK_LOWER);
        return r < 0 ? r : mark_clean(c);
}

static int examine(struct check *c, struct error *e) {
        int r = mark_metadata(c, e);

        if (r == 0) {
                counts_sort(&c->counts);
                c->will_lower = c->fix_leaks && !c->lost && !c->res->errors;
                r = refcheck_compare(c, REFCHECK_LOOK);
        }
        c->res->end = c->highest * c->cluster;
        c->res->total = c->h.size / c->cluster + (c->h.size % c->cluster != 0);
        return r < 0 ? r : mend(c, e);
}

/* One examination from scratch; @ret_again: some clusters were counted for what is no longer there, look again. */
static int run(struct file *file, unsigned int repair, struct qcow2_check *check, bool *ret_again, struct error *e) {
        struct check c = { .file = file, .res = check };
        int r = qcow2_header_load(file, &c.h, e);

        if (r < 0)
                return r;
        check->allocated = check->compressed = check->fragmented = 0;
        c.fix_all = repair & QCOW2_REPAIR_ALL;
        c.fix_leaks = c.fix_all || repair & QCOW2_REPAIR_LEAKS;
        c.cluster = qcow2_cluster(&c.h);
        c.end = (file_size(file) + c.cluster - 1) & ~(c.cluster - 1);
        counts_init(&c.counts, 0);
        c.buf = malloc(c.cluster);
        if (c.h.incompatible & ~QCOW2_INCOMPAT_KNOWN)
                r = qcow2_header_refuse(&c.h, false, e); /* who knows what that feature refers to */
        else if (!c.buf)
                r = -ENOMEM;
        else if (repair && file_is_readonly(file))
                r = error_set(e, -EROFS, "qcow2-check", "open the image for writing", "cannot repair a readonly image");
        else
                r = examine(&c, e);
        *ret_again = c.again;
        free(c.buf);
        free(c.l2s);
        free(c.reftable);
        counts_done(&c.counts);
        qcow2_header_done(&c.h);
        return r;
}

int qcow2_check(struct file *file, unsigned int repair, struct qcow2_check *check, struct error *e) {
        bool again = false;
        int r;

        check->corruptions = check->leaks = check->errors = check->corruptions_fixed = check->leaks_fixed = 0;
        check->total = check->end = 0;
        r = run(file, repair, check, &again, e);
        if (r == 0 && again)
                r = run(file, repair, check, &again, e);
        if (r < 0)
                return error_set(e, r, "qcow2-check",
                                 "see whether the disk that holds the image is sound, and has space",
                                 "cannot examine the qcow2 image");
        return 0;
}
