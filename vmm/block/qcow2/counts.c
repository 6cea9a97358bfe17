// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * counts: a hash of small pieces
 *
 * Theory of operation. An image of a few megabytes can claim offsets all over 2^56 bytes, so an array over all clusters would be the
 * image's choice, not ours. Pieces of 16 clusters hold 5 bytes a cluster where an image is dense, and at worst 100 bytes for each table
 * entry that stands in the file: memory is bounded by the metadata that is really there. The hash has linear probing, at most half full;
 * the last piece is remembered, because entries of a table mostly point at neighbours.
 */
#include "vmm/block/qcow2/counts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MAX (1u << 26) /* pieces: 2^30 clusters, 5 GiB of memory */
#define NONE        UINT32_MAX

void counts_init(struct counts *c, uint32_t max) {
        *c = (struct counts){ .last = NONE, .max = max ? max : DEFAULT_MAX };
}

void counts_done(struct counts *c) {
        free(c->pieces);
        free(c->slots);
        *c = (struct counts){ .last = NONE };
}

static uint32_t hash(uint64_t key, uint32_t n_slots) {
        return (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 32) & (n_slots - 1);
}

static void insert(struct counts *c, uint32_t index) {
        uint32_t i = hash(c->pieces[index].key, c->n_slots);

        while (c->slots[i])
                i = (i + 1) & (c->n_slots - 1);
        c->slots[i] = index + 1;
}

static void rehash(struct counts *c) {
        memset(c->slots, 0, c->n_slots * sizeof *c->slots);
        for (uint32_t i = 0; i < c->n; i++)
                insert(c, i);
}

static int grow(struct counts *c) {
        uint32_t room = c->room ? 2 * c->room : 256;
        struct counts_piece *pieces;
        uint32_t *slots;

        pieces = realloc(c->pieces, room * sizeof *pieces);
        if (!pieces)
                return -ENOMEM;
        c->pieces = pieces;
        slots = malloc(2ul * room * sizeof *slots);
        if (!slots)
                return -ENOMEM;
        free(c->slots);
        c->slots = slots;
        c->n_slots = 2 * room;
        c->room = room;
        rehash(c);
        return 0;
}

static uint32_t look(struct counts *c, uint64_t key) {
        if (c->last != NONE && c->pieces[c->last].key == key)
                return c->last;
        if (!c->n_slots)
                return NONE;
        for (uint32_t i = hash(key, c->n_slots); c->slots[i]; i = (i + 1) & (c->n_slots - 1))
                if (c->pieces[c->slots[i] - 1].key == key)
                        return c->last = c->slots[i] - 1;
        return NONE;
}

struct counts_piece *counts_find(struct counts *c, uint64_t cluster) {
        uint32_t i = look(c, cluster / COUNTS_PIECE);

        return i == NONE ? NULL : &c->pieces[i];
}

int counts_add(struct counts *c, uint64_t cluster, uint32_t n, bool meta) {
        uint64_t key = cluster / COUNTS_PIECE;
        unsigned int at = cluster % COUNTS_PIECE;
        uint32_t i = look(c, key);
        struct counts_piece *p;
        int r;

        if (i == NONE) {
                if (c->n >= c->max)
                        return -E2BIG;
                if (c->n == c->room) {
                        r = grow(c);
                        if (r < 0)
                                return r;
                }
                i = c->n++;
                c->pieces[i] = (struct counts_piece){ .key = key };
                insert(c, i);
                c->last = i;
        }
        p = &c->pieces[i];
        p->count[at] = n > UINT32_MAX - p->count[at] ? UINT32_MAX : p->count[at] + n;
        if (meta)
                p->meta |= (uint16_t)(1u << at);
        return 0;
}

uint32_t counts_get(struct counts *c, uint64_t cluster) {
        struct counts_piece *p = counts_find(c, cluster);

        return p ? p->count[cluster % COUNTS_PIECE] : 0;
}

bool counts_is_meta(struct counts *c, uint64_t cluster) {
        struct counts_piece *p = counts_find(c, cluster);

        return p && p->meta >> cluster % COUNTS_PIECE & 1;
}

static int by_key(const void *a, const void *b) {
        uint64_t x = ((const struct counts_piece *)a)->key, y = ((const struct counts_piece *)b)->key;

        return x < y ? -1 : x > y;
}

void counts_sort(struct counts *c) {
        if (c->n)
                qsort(c->pieces, c->n, sizeof *c->pieces, by_key);
        c->last = NONE;
        if (c->n_slots)
                rehash(c);
}
