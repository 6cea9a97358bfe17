// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pace: should a thread that others wake take the CPU from them at once, or let them go on?
 *
 * A thread that sleeps much goes first when it is woken: where all CPUs are busy, the scheduler takes one from whoever woke it. That is
 * right for a lone request. It is dear when the waker has more in hand: each request then costs two context switches, and the thread
 * finds one where it could have found thirty. SCHED_BATCH (sched(7)) turns that off for a thread: it starts when a CPU is free or
 * its turn comes. On a host with a free CPU the two don't differ.
 *
 * Theory of operation. Nobody can know what the waker has in hand, so it is tried. While much work comes a piece at a wake-up, the thread
 * becomes patient for a window of PACE_WAKES wake-ups or PACE_TRIAL_NS. When more than one piece at a time then came, and no fewer in a second,
 * that goes on for as long as it is so. Otherwise the thread is eager again, and each trial that failed doubles the time to the next one, so that
 * a load that does not gain by it spends next to no time in trials.
 *
 * This file decides and calls nothing: base/loop.c counts, and does what is decided.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PACE_WAKES    64u         /* in a window */
#define PACE_TRIAL_NS 20000000ull /* a patient window is no longer than that: what a trial in vain may cost */
#define PACE_RATE     2000u /* pieces of work in a second: below, each may be waited for, and there is nothing to win */
#define PACE_SKIP_MAX 1024u /* windows between two trials, at most */

struct pace {
        bool patient;
        unsigned int wakes, skip, backoff; /* skip: windows until the next trial; backoff: windows after a failed one */
        uint64_t work, began,
                eager_rate; /* of this window, in ns of clock_ns(); of the last one before the trial, in a second */
};

/** pace_needs_clock() - will the next pace_woken() look at its @now? */
bool pace_needs_clock(const struct pace *p);

/**
 * pace_woken() - the thread was asleep, was woken, and has done what there was to do
 * @work: pieces of it
 * @now:  ns of clock_ns(), if pace_needs_clock()
 *
 * Return: true when @p->patient has changed.
 */
bool pace_woken(struct pace *p, uint64_t work, uint64_t now);
