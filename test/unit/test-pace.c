// SPDX-License-Identifier: GPL-2.0-or-later
/* test-pace: when a thread lets those who wake it go on */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/pace.h"

/* A load: how many pieces a wake-up finds, and how long one takes to come, when eager and when patient. */
struct load {
        uint64_t work[2], ns[2];
};

struct run {
        struct pace pace;
        uint64_t now, patient_ns;
        unsigned int changes;
};

static void play(struct run *r, const struct load *load, unsigned int wakes) {
        for (unsigned int i = 0; i < wakes; i++) {
                bool patient = r->pace.patient;

                r->now += load->ns[patient];
                r->patient_ns += patient ? load->ns[1] : 0;
                r->changes += pace_woken(&r->pace, load->work[patient], pace_needs_clock(&r->pace) ? r->now : 0);
        }
}

/* A guest with many requests in hand on a host without a free CPU: without this, two context switches for each. */
static void test_patience_that_pays_stays(void **state) {
        static const struct load many = { { 1, 30 }, { 200000, 3000000 } }; /* 5,000 a second; 10,000 */
        struct run r = { .now = 1 };

        play(&r, &many, 10000);
        assert_true(r.pace.patient);
        assert_int_equal(r.changes, 1);
}

/* One request at a time gains nothing by waiting for a CPU: trials in vain must cost next to nothing. */
static void test_a_lone_request_is_not_kept_waiting(void **state) {
        static const struct load lone = { { 1, 1 }, { 200000, 4000000 } };
        struct run r = { .now = 1 };

        play(&r, &lone, 200000);
        assert_false(r.pace.patient);
        assert_true(r.patient_ns > 0);
        assert_true(r.patient_ns < r.now / 100);
}

/* More at a time, but fewer in a second: other processes have the CPUs, and we'd starve. */
static void test_patience_that_slows_is_given_up(void **state) {
        static const struct load starved = { { 1, 4 }, { 200000, 8000000 } };
        struct run r = { .now = 1 };

        play(&r, &starved, 200000);
        assert_false(r.pace.patient);
        assert_true(r.patient_ns < r.now / 100);
}

/* A database that waits for each of its few flushes is never tried on. */
static void test_a_slow_load_is_left_alone(void **state) {
        static const struct load slow = { { 1, 1 }, { 1000000, 1000000 } };
        struct run r = { .now = 1 };

        play(&r, &slow, 10000);
        assert_int_equal(r.changes, 0);
}

/* Batches that come by themselves need no patience. */
static void test_batches_are_left_alone(void **state) {
        static const struct load batches = { { 8, 8 }, { 200000, 200000 } };
        struct run r = { .now = 1 };

        play(&r, &batches, 10000);
        assert_int_equal(r.changes, 0);
}

/* The load changes: what was right for thirty at a time is wrong for one. */
static void test_patience_ends_with_the_load(void **state) {
        static const struct load many = { { 1, 30 }, { 200000, 3000000 } }, slow = { { 1, 1 }, { 2000000, 5000000 } };
        struct run r = { .now = 1 };

        play(&r, &many, 10000);
        assert_true(r.pace.patient);
        play(&r, &slow, 10);
        assert_false(r.pace.patient);
        play(&r, &slow, 10000);
        assert_int_equal(r.changes, 2);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_patience_that_pays_stays),
                cmocka_unit_test(test_a_lone_request_is_not_kept_waiting),
                cmocka_unit_test(test_patience_that_slows_is_given_up),
                cmocka_unit_test(test_a_slow_load_is_left_alone),
                cmocka_unit_test(test_batches_are_left_alone),
                cmocka_unit_test(test_patience_ends_with_the_load),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
