// SPDX-License-Identifier: GPL-2.0-or-later
/* dirty: see dirty.h */
#include "vmm/block/dirty.h"

#include <errno.h>
#include <stdlib.h>

/* Bits [@from, @to) of a word, 0 <= from < to <= 64. */
static uint64_t mask(uint64_t from, uint64_t to) {
        return (to < 64 ? (1ull << to) - 1 : UINT64_MAX) & ~((1ull << from) - 1);
}

int dirty_new(uint64_t size, struct dirty **ret_dirty) {
        uint64_t n_words = (size + DIRTY_WORD - 1) / DIRTY_WORD;
        struct dirty *d = calloc(1, sizeof(*d) + n_words * sizeof(d->words[0]));

        if (!d)
                return -ENOMEM;
        d->size = size;
        d->n_words = n_words;
        dirty_mark(d, 0, size);
        *ret_dirty = d;
        return 0;
}

void dirty_free(struct dirty *d) {
        free(d);
}

void dirty_mark(struct dirty *d, uint64_t offset, uint64_t length) {
        uint64_t at, end;

        if (length == 0 || offset >= d->size)
                return;
        at = offset / DIRTY_PIECE;
        end = (offset + MIN(length, d->size - offset) - 1) / DIRTY_PIECE + 1;
        while (at < end) {
                uint64_t next = MIN((at / 64 + 1) * 64, end);
                uint64_t bits = mask(at % 64, next - at / 64 * 64);
                uint64_t fresh = bits & ~atomic_fetch_or(&d->words[at / 64], bits);

                if (fresh)
                        atomic_fetch_add(&d->n_pieces, __builtin_popcountll(fresh));
                at = next;
        }
}

uint64_t dirty_take(struct dirty *d, uint64_t i) {
        if (atomic_load_explicit(&d->words[i], memory_order_relaxed) == 0)
                return 0;
        return atomic_exchange(&d->words[i], 0);
}

void dirty_settle(struct dirty *d, uint64_t taken) {
        atomic_fetch_sub(&d->n_pieces, __builtin_popcountll(taken));
}

uint64_t dirty_left(const struct dirty *d) {
        int64_t n = atomic_load(&d->n_pieces);

        return n > 0 ? MIN((uint64_t)n * DIRTY_PIECE, d->size) : 0;
}
