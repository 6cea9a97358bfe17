// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * clusters: see clusters.h
 */
#include "vmm/block/qcow2/clusters.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t hash(const struct clusters *c, uint64_t cluster) {
        return cluster * 0x9e3779b97f4a7c15ull >> 20 & (c->n_slots - 1);
}

/* Where @cluster is, or would go. There always is a free slot. */
static uint64_t find(const struct clusters *c, uint64_t cluster) {
        uint64_t i = hash(c, cluster);

        while (c->slots[i] && c->slots[i] != cluster + 1)
                i = (i + 1) & (c->n_slots - 1);
        return i;
}

void clusters_done(struct clusters *c) {
        free(c->slots);
        *c = (struct clusters){ 0 };
}

int clusters_reserve(struct clusters *c, uint64_t more) {
        struct clusters bigger = { .n_slots = c->n_slots ? c->n_slots : 64 };

        if (more > UINT32_MAX)
                return -ENOMEM;
        while (2 * (c->n + more) > bigger.n_slots)
                bigger.n_slots *= 2;
        if (bigger.n_slots == c->n_slots)
                return 0;
        bigger.slots = calloc(bigger.n_slots, sizeof *bigger.slots);
        if (!bigger.slots)
                return -ENOMEM;
        for (uint64_t i = 0; i < c->n_slots; i++)
                if (c->slots[i])
                        bigger.slots[find(&bigger, c->slots[i] - 1)] = c->slots[i];
        bigger.n = c->n;
        free(c->slots);
        *c = bigger;
        return 0;
}

int clusters_add(struct clusters *c, uint64_t cluster) {
        int r = clusters_reserve(c, 1);
        uint64_t i;

        if (r < 0)
                return r;
        i = find(c, cluster);
        if (c->slots[i])
                return 1;
        c->slots[i] = cluster + 1;
        c->n++;
        return 0;
}

void clusters_remove(struct clusters *c, uint64_t cluster) {
        uint64_t hole, i;

        if (!c->n)
                return;
        hole = find(c, cluster);
        if (!c->slots[hole])
                return;
        c->slots[hole] = 0;
        c->n--;
        /* Whoever probed past the hole moves into it. */
        for (i = (hole + 1) & (c->n_slots - 1); c->slots[i]; i = (i + 1) & (c->n_slots - 1)) {
                uint64_t home = hash(c, c->slots[i] - 1);

                if (((i - home) & (c->n_slots - 1)) < ((i - hole) & (c->n_slots - 1)))
                        continue;
                c->slots[hole] = c->slots[i];
                c->slots[i] = 0;
                hole = i;
        }
}

bool clusters_has(const struct clusters *c, uint64_t cluster, uint64_t n) {
        if (!c->n)
                return false;
        for (uint64_t i = 0; i < n; i++)
                if (c->slots[find(c, cluster + i)])
                        return true;
        return false;
}
