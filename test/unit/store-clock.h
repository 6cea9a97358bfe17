// SPDX-License-Identifier: GPL-2.0-or-later
/* store-clock: the time of day is the test's; for programs that are linked with --wrap=clock_gettime. Included after cmocka.h. */
#pragma once

#include <stdint.h>
#include <time.h>

#include "test/unit/store-rig.h"

static int64_t clock_offset; /* seconds */

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t) {
        int r = __real_clock_gettime(id, t);

        if (id == CLOCK_REALTIME)
                t->tv_sec += clock_offset;
        return r;
}

static inline int clock_teardown(void **state) {
        clock_offset = 0;
        return rig_teardown(state);
}
