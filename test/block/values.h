// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * values: what the model knows of a sector: the stamps that it may be painted with
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SECTOR 512u
#define VALUES 14

/* What a sector may hold: stamps, 0 is zeroes. */
struct values {
        uint64_t v[VALUES];
        uint8_t n;
        bool any; /* lost count */
};

struct sector {
        struct values now, past;
};

static inline void values_add(struct values *v, uint64_t x) {
        for (uint8_t i = 0; i < v->n; i++)
                if (v->v[i] == x)
                        return;
        if (v->n == VALUES)
                v->any = true;
        else
                v->v[v->n++] = x;
}

static inline void values_set(struct values *v, uint64_t x) {
        *v = (struct values){ .v = { x }, .n = 1 };
}

static inline bool values_has(const struct values *v, uint64_t x) {
        for (uint8_t i = 0; i < v->n; i++)
                if (v->v[i] == x)
                        return true;
        return v->any;
}

/* A sector full of its stamp, 0: of zeroes. */
static inline void sector_paint(uint8_t *buf, uint64_t stamp) {
        memset(buf, 0, SECTOR);
        for (unsigned int i = 0; stamp && i < SECTOR / 8; i += 1 + stamp % 5)
                memcpy(buf + 8 * i, &stamp, 8);
}

/* Its stamp; UINT64_MAX: it holds something else. */
static inline uint64_t sector_look(const uint8_t *buf) {
        uint8_t want[SECTOR];
        uint64_t stamp;

        memcpy(&stamp, buf, 8);
        sector_paint(want, stamp);
        return memcmp(want, buf, SECTOR) == 0 ? stamp : UINT64_MAX;
}
