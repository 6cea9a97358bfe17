// SPDX-License-Identifier: GPL-2.0-or-later
/* clock: the time that never goes back, for measuring and waiting */
#pragma once

#include <stdint.h>
#include <time.h>

/** clock_ns() - nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t clock_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/** clock_offset_s() - by how many seconds the calendar is ahead of the time since boot: it changes when somebody sets the clock, and only then. */
static inline int64_t clock_offset_s(void) {
        struct timespec calendar, since_boot;

        clock_gettime(CLOCK_REALTIME, &calendar);
        clock_gettime(CLOCK_BOOTTIME, &since_boot);
        return (int64_t)calendar.tv_sec - (int64_t)since_boot.tv_sec;
}
