// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * record: what a keeper tells others, as texts that survive: times, errors, the last lines of a log
 *
 * Much of it comes from a VMM or a helper that may be hostile, and all of it goes out as JSON that the reader checks: what is no plain
 * text becomes '?', what is too long is cut.
 */
#pragma once

#include <sys/wait.h>
#include <time.h>

#include "base/error.h"
#include "daemon/engine/tail.h"
#include "schema/lodge-schema.h"

/** record_text() - a copy of @text, at most @max bytes, all of it plain; NULL without memory. */
char *record_text(const char *text, size_t n, size_t max);

/** record_time() - now, as RFC 3339 in UTC; allocated, NULL without memory. */
char *record_time(void);

/** record_boottime_ms() - CLOCK_BOOTTIME, in milliseconds. */
uint64_t record_boottime_ms(void);

/** record_error() - @e as it goes out; @to is empty before. What there is no memory for is left out. */
void record_error(struct keeper_error *to, const struct error *e);

/** record_log() - the last lines of @tail, which may be NULL. Return: 0 or -ENOMEM. */
int record_log(struct keeper_exit *to, const struct tail *tail);

/** record_end() - exit status, 128+n for signal n, and that signal or 0, from waitid()'s answer. */
void record_end(const siginfo_t *info, uint32_t *ret_status, uint32_t *ret_signal);
