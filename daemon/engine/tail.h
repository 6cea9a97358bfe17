// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tail: the last bytes of a stream that nobody may need: a console, what a helper process said before it ended
 *
 * Whoever wrote them may be hostile: lines are printed with control characters escaped.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#define TAIL_MAX   16384
#define TAIL_LINES 20

struct tail {
        char data[TAIL_MAX];
        size_t len;
};

/** tail_add() - put @n bytes behind what is there; the oldest ones go. */
void tail_add(struct tail *tail, const char *data, size_t n);

/** tail_start() - where its last TAIL_LINES lines begin: an index into data, len when there are none. */
size_t tail_start(const struct tail *tail);

/** tail_print() - its last TAIL_LINES lines with "name| " in front, control characters escaped. */
void tail_print(const struct tail *tail, const char *name, FILE *f);

/** last_line() - the last line that isn't empty, in place; @buf has room for @n + 1 bytes. */
const char *last_line(char *buf, size_t n);
