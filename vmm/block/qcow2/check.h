// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check: what the parts of the examination share (check.c walks the map, refcheck.c compares the refcounts, repair.c writes)
 */
#pragma once

#include "vmm/block/qcow2/counts.h"
#include "vmm/block/qcow2/format.h"

/* One L1 entry that points at an L2 table */
struct l2_ref {
        uint64_t table; /* offset of the L2 table */
        uint64_t where; /* offset of the L1 entry */
        uint64_t entry; /* as it stands there */
        bool active;    /* of the active L1 table; else of a snapshot's */
        bool skip; /* the table overlaps other metadata, or is another entry's: not counted, nor walked for this one */
};

struct check {
        struct file *file;
        struct qcow2_header h;
        struct qcow2_check *res;
        bool fix_leaks, fix_all;
        bool will_lower; /* refcounts that are too high fall in the end: flags are compared with what they will be */
        uint64_t cluster;
        uint64_t end;           /* bytes: the file's size, rounded up to a cluster */
        uint64_t lines;         /* reported */
        uint64_t lost;          /* references that were not followed and are still there: nothing may be freed */
        uint64_t unfixed_width; /* clusters with more references than a refcount holds */

        struct counts counts;
        struct l2_ref *l2s; /* sorted by table */
        size_t n_l2s, room_l2s;
        uint64_t *reftable; /* host order; 0: no block, or not a valid one */
        uint32_t n_reftable;
        bool reftable_counted;
        bool again;                 /* the bitmaps were given up: their clusters are leaks for the next run */
        bool rebuild;               /* the refcount structures can't be mended in place */
        uint64_t rebuild_fixes;     /* corruptions that a rebuild mends */
        uint64_t too_low, too_high; /* refcounts, to be mended */
        uint64_t highest;           /* cluster in use, + 1 */
        uint64_t highest_counted;   /* as highest, references only */
        uint8_t *buf;               /* one cluster */
};

enum finding { CORRUPTION, LEAK, ERROR };

/** check_found() - count a finding and report it, up to a limit of lines. */
void check_found(struct check *c, enum finding kind, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** check_has_data() - is there a byte in [@offset, @offset + @length) that isn't a hole? Also true where that can't be told. */
bool check_has_data(struct check *c, uint64_t offset, uint64_t length);

/** check_mark() - count the metadata in a range. Return: 1 when some of it was counted before (overlap), 0, or -errno. */
int check_mark(struct check *c, uint64_t offset, uint64_t length);

/** check_inside() - does the range lie inside the file, behind the header? */
bool check_inside(const struct check *c, uint64_t offset, uint64_t length);

/** check_bitmaps() - count the bitmaps' clusters. 1: they overlap something or are damaged. */
int check_bitmaps(struct check *c);

/** check_snapshots() - count the snapshots' tables and collect their L1 entries. */
int check_snapshots(struct check *c);

/** check_collect_l1() - remember each L2 table that the L1 table at @offset points at. */
int check_collect_l1(struct check *c, uint64_t offset, uint32_t entries, bool active);

/** refcheck_load() - read the refcount table and count it and its blocks. */
int refcheck_load(struct check *c);

/** refcheck_compare() - compare the refcounts with what was counted. Counts must be sorted. */
enum refcheck { REFCHECK_LOOK, REFCHECK_RAISE, REFCHECK_LOWER };
int refcheck_compare(struct check *c, enum refcheck mode);

/** repair_rebuild() - write new refcount structures behind everything in use, then let the header point at them. */
int repair_rebuild(struct check *c, struct error *e);
