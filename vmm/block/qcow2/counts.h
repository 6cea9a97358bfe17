// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * counts: how often is each host cluster referenced, for files of any size
 *
 * A sparse array: memory grows with the clusters that were ever counted, not with the offsets that an image claims.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNTS_PIECE 16u /* clusters in one piece */

/* Neighbouring clusters, kept together. */
struct counts_piece {
        uint64_t key; /* the first cluster / COUNTS_PIECE */
        uint32_t count[COUNTS_PIECE];
        uint16_t meta; /* bit: metadata lies in this cluster */
        uint16_t one;  /* bit: the image's own refcount of this cluster is exactly one */
};

struct counts {
        struct counts_piece *pieces;
        uint32_t n, room;
        uint32_t *slots; /* hash: index into pieces + 1, 0 is free */
        uint32_t n_slots;
        uint32_t last; /* looked at last: neighbours come in a row */
        uint32_t max;  /* pieces at most */
};

/** counts_init() - @max: pieces at most, 0: enough for any honest image; counts_add() gives -E2BIG behind it */
void counts_init(struct counts *c, uint32_t max);
void counts_done(struct counts *c);

/** counts_find() - the piece of @cluster, or NULL when nothing near it was counted; valid until the next counts_add(). */
struct counts_piece *counts_find(struct counts *c, uint64_t cluster);

/** counts_add() - add @n references (saturating). 0, -ENOMEM, -E2BIG */
int counts_add(struct counts *c, uint64_t cluster, uint32_t n, bool meta);

/** counts_get() - references of @cluster; counts_is_meta() - was one of them added as metadata? */
uint32_t counts_get(struct counts *c, uint64_t cluster);
bool counts_is_meta(struct counts *c, uint64_t cluster);

/** counts_sort() - order pieces by cluster, to be walked from pieces[0] to pieces[n - 1]; everything else still works. */
void counts_sort(struct counts *c);
