// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dirty: which parts of a disk have changed and have yet to be copied, in memory
 *
 * One bit for each DIRTY_PIECE bytes; 64 of them, a word, are taken at a time.
 *
 * Theory of operation. No change may be missed, and a copy may run at the same time as the change that it would miss. So a change is marked
 * when it has ended, and before anybody hears of its end; a copier takes the marks away first and reads the data then:
 *
 *      guest       data is written ..... marked ..... done()
 *      copier                 taken, read, written          the mark is there again: it comes back and reads what is new
 *
 * A change that was marked before it began would be lost here: the copier takes the mark, reads the old data, and nothing tells it to come
 * back. A change that has failed may have changed something, and is marked too. Nothing marks reads.
 *
 * The mark is an atomic OR even when the bit is there: a look at it could come before the data is seen by others, and just before it is taken.
 *
 * Threads. dirty_mark() from any thread at once, without locks; the caller sees to it that no two copiers have the same word.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "base/cleanup.h"

#define DIRTY_PIECE 65536u
#define DIRTY_WORD  (64ull * DIRTY_PIECE)

struct dirty {
        uint64_t size; /* bytes */
        uint64_t n_words;
        _Atomic int64_t n_pieces; /* marked, or taken and not settled; may be a moment behind the bits */
        _Atomic uint64_t words[];
};

/** dirty_new() - for a disk of @size bytes, all of it marked; -ENOMEM. */
int dirty_new(uint64_t size, struct dirty **ret_dirty);
void dirty_free(struct dirty *dirty);
DEFINE_CLEANUP(dirty, dirty_free);

/** dirty_mark() - [@offset, @offset + @length) has changed, in bytes; what lies behind the end is ignored. */
void dirty_mark(struct dirty *dirty, uint64_t offset, uint64_t length);

/** dirty_take() - the marks of word @i, which are gone then; 0: none. Each of them stands for DIRTY_PIECE bytes from @i * DIRTY_WORD on. */
uint64_t dirty_take(struct dirty *dirty, uint64_t i);

/** dirty_settle() - what dirty_take() returned has been copied. */
void dirty_settle(struct dirty *dirty, uint64_t taken);

/** dirty_left() - bytes that are marked, or taken and not settled; 0: nothing is left to do. From any thread. */
uint64_t dirty_left(const struct dirty *dirty);
