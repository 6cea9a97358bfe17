// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * clusters: the set of host clusters in which an open image's metadata lies
 *
 * It is asked before each write in place, so that no damaged reference ever makes us overwrite a table. A hash with linear probing, at most
 * half full; removal moves the followers back, so there are no tombstones.
 *
 * Threads. clusters_has() from any number of threads as long as nobody changes the set.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct clusters {
        uint64_t *slots; /* cluster + 1; 0: free */
        uint64_t n, n_slots;
};

void clusters_done(struct clusters *c);

/** clusters_reserve() - make room for @more clusters, so that clusters_add() can't fail. -ENOMEM */
int clusters_reserve(struct clusters *c, uint64_t more);

/** clusters_add() - 1: it was in the set before, 0, -ENOMEM */
int clusters_add(struct clusters *c, uint64_t cluster);
void clusters_remove(struct clusters *c, uint64_t cluster);

/** clusters_has() - is one of [@cluster, @cluster + @n) in the set? */
bool clusters_has(const struct clusters *c, uint64_t cluster, uint64_t n);
