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
