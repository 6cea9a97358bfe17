// SPDX-License-Identifier: GPL-2.0-or-later
/* throttle: rates hold over time, bursts end, groups are fair, and limits change under those who wait; all on a clock of the test's own */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vmm/block/throttle.h"

#define SECOND 1000000000ull
#define START  (1000 * SECOND)

/* One queue of one disk, always with a request at hand for each direction. */
struct load {
        struct throttle_waiter waiter;
        uint64_t bytes, next_at, served, think_ns;
        unsigned int wakes;
};

static void on_wake(struct throttle_waiter *waiter) {
        CONTAINER_OF(waiter, struct load, waiter)->wakes++;
}

static struct throttle_group *group_with(enum throttle_bucket i, uint64_t rate, uint64_t burst, uint64_t seconds) {
        struct throttle_limits limits = { 0 };
        struct throttle_group *g;

        limits.v[i] = (struct throttle_limit){ rate, burst, seconds };
        assert_int_equal(throttle_check(&limits, NULL), 0);
        assert_int_equal(throttle_group_new("g", &g), 0);
        throttle_group_set(g, &limits);
        return g;
}

static void load_init(struct load *l, struct throttle_disk *disk, bool write, uint64_t bytes) {
        *l = (struct load){ .bytes = bytes, .next_at = START };
        throttle_waiter_init(&l->waiter, disk, write, on_wake);
}

/* All loads ask whenever they were told to, until @until. */
static void run(struct load *loads, unsigned int n, uint64_t until) {
        for (;;) {
                struct load *first = &loads[0];
                uint64_t at;

                for (unsigned int i = 1; i < n; i++)
                        if (loads[i].next_at < first->next_at)
                                first = &loads[i];
                if (first->next_at >= until)
                        return;
                at = throttle_ask(&first->waiter, first->bytes, first->next_at);
                if (at == 0) {
                        first->served++;
                        first->next_at += first->think_ns;
                } else {
                        assert_true(at > first->next_at); /* or a timer would spin */
                        first->next_at = at;
                }
        }
}

/* A limit that lets a percent more through, or that never lets a disk have all of it, is not the limit that was asked for. */
static void test_rate_holds(void **state) {
        static const uint64_t rates[] = { 1, 7, 100, 12345, 1000000 };

        for (size_t i = 0; i < ELEMENTSOF(rates); i++) {
                struct throttle_group *g = group_with(THROTTLE_OPS, rates[i], 0, 0);
                struct throttle_disk disk;
                struct load l;
                uint64_t seconds = rates[i] > 10000 ? 2 : 100;

                throttle_disk_init(&disk, g);
                load_init(&l, &disk, true, 4096);
                run(&l, 1, START + seconds * SECOND);
                assert_in_range(l.served, rates[i] * seconds, rates[i] * seconds + rates[i] / 10 + 1);
                throttle_waiter_destroy(&l.waiter);
                throttle_disk_destroy(&disk);
                throttle_group_unref(g);
        }
}

/* Requests larger than the bucket go, one at a time, and are paid back: never refused, never for free. */
static void test_large_requests_are_paid_for(void **state) {
        struct throttle_group *g = group_with(THROTTLE_BYTES_READ, 1 << 20, 0, 0);
        struct throttle_disk disk;
        struct load l[2];

        throttle_disk_init(&disk, g);
        load_init(&l[0], &disk, false, 8 << 20);
        load_init(&l[1], &disk, true, 8 << 20);
        assert_int_equal(throttle_ask(&l[0].waiter, 8 << 20, START), 0);
        assert_in_range(throttle_ask(&l[0].waiter, 512, START), START + 7 * SECOND, START + 8 * SECOND);
        assert_int_equal(throttle_ask(&l[1].waiter, 8 << 20, START), 0); /* the other direction has no limit */
        throttle_forget(&l[0].waiter);
        l[0].next_at = START + 8 * SECOND;
        l[1].next_at = UINT64_MAX;
        run(l, 2, START + 88 * SECOND);
        assert_in_range(l[0].served, 10, 11);
        throttle_waiter_destroy(&l[0].waiter);
        throttle_waiter_destroy(&l[1].waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* Sizes as large as a discard, at rates as small as one byte: no wrap may turn years into now. */
static void test_no_overflow(void **state) {
        struct throttle_group *g = group_with(THROTTLE_BYTES, 1, 0, 0);
        struct throttle_disk disk;
        struct load l;

        throttle_disk_init(&disk, g);
        load_init(&l, &disk, true, 0);
        assert_int_equal(throttle_ask(&l.waiter, UINT64_MAX, START), 0);
        for (int i = 0; i < 5; i++) {
                assert_true(throttle_ask(&l.waiter, UINT64_MAX, START) > START + 3600 * SECOND);
                assert_true(throttle_ask(&l.waiter, UINT64_MAX, UINT64_MAX / 8) > UINT64_MAX / 8);
        }
        throttle_waiter_destroy(&l.waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* A burst gives what was saved up, no faster than its own rate, and then the average again. */
static void test_burst_ends(void **state) {
        struct throttle_group *g = group_with(THROTTLE_OPS, 100, 1000, 3);
        struct throttle_disk disk;
        struct load l;

        throttle_disk_init(&disk, g);
        load_init(&l, &disk, false, 512);
        run(&l, 1, START + 1 * SECOND);
        assert_in_range(l.served, 1000, 1101);
        run(&l, 1, START + 3 * SECOND);
        assert_in_range(l.served, 3000, 3101);
        run(&l, 1, START + 103 * SECOND); /* 3000 saved up, and 100 a second ever since the start */
        assert_in_range(l.served, 3000 + 10300, 3000 + 10301);
        l.next_at += 1000 * SECOND; /* idle: it saves up again, but not more than once */
        l.served = 0;
        run(&l, 1, l.next_at + 10 * SECOND);
        assert_in_range(l.served, 3000 + 1000, 3000 + 1002);
        throttle_waiter_destroy(&l.waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* A burst of one second may come at once (QEMU's meaning of *_max without a length). */
static void test_burst_of_one_second_comes_at_once(void **state) {
        struct throttle_group *g = group_with(THROTTLE_OPS, 10, 500, 0);
        struct throttle_disk disk;
        struct load l;

        throttle_disk_init(&disk, g);
        load_init(&l, &disk, false, 512);
        run(&l, 1, START + 1);
        assert_in_range(l.served, 500, 501);
        throttle_waiter_destroy(&l.waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* A disk with many queues and requests must not push out one with few. */
static void test_a_group_is_fair(void **state) {
        struct throttle_group *g = group_with(THROTTLE_OPS, 1000, 0, 0);
        struct throttle_disk busy, quiet;
        struct load l[9];
        uint64_t sum = 0;

        throttle_disk_init(&busy, g);
        throttle_disk_init(&quiet, g);
        for (unsigned int i = 0; i < 8; i++)
                load_init(&l[i], &busy, true, 4096);
        load_init(&l[8], &quiet, true, 4096);
        l[8].think_ns = 100000; /* one request at a time, with a pause in between */
        run(l, 9, START + 100 * SECOND);
        for (unsigned int i = 0; i < 8; i++) {
                assert_in_range(l[i].served, 5500, 7000); /* its queues are served alike */
                sum += l[i].served;
        }
        assert_in_range(sum, 49000, 51200);
        assert_in_range(l[8].served, 49000, 50200);
        for (unsigned int i = 0; i < 9; i++)
                throttle_waiter_destroy(&l[i].waiter);
        throttle_disk_destroy(&quiet);
        throttle_disk_destroy(&busy);
        throttle_group_unref(g);
}

/* Writes that wait for their own limit must not hold back reads that have room in the total. */
static void test_directions_wait_apart(void **state) {
        struct throttle_limits limits = { 0 };
        struct throttle_group *g;
        struct throttle_disk disk;
        struct load l[2];

        limits.v[THROTTLE_BYTES].rate = 100 << 20;
        limits.v[THROTTLE_OPS_WRITE].rate = 1;
        assert_int_equal(throttle_check(&limits, NULL), 0);
        assert_int_equal(throttle_group_new("g", &g), 0);
        throttle_group_set(g, &limits);
        throttle_disk_init(&disk, g);
        load_init(&l[0], &disk, true, 4096);
        load_init(&l[1], &disk, false, 65536);
        run(l, 2, START + 10 * SECOND);
        assert_in_range(l[0].served, 10, 11);
        assert_in_range(l[1].served, 15990, 16200);
        for (unsigned int i = 0; i < 2; i++)
                throttle_waiter_destroy(&l[i].waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* op_size: a large request counts as many operations, a small one still as a whole one. */
static void test_large_requests_count_as_many(void **state) {
        struct throttle_group *g = group_with(THROTTLE_OPS, 100, 0, 0);
        struct throttle_limits limits;
        struct throttle_disk disk;
        struct load l;

        throttle_group_get(g, &limits);
        limits.op_size = 4096;
        throttle_group_set(g, &limits);
        throttle_disk_init(&disk, g);
        load_init(&l, &disk, true, 6144); /* one and a half */
        run(&l, 1, START + 30 * SECOND);
        assert_in_range(l.served, 2000, 2010);
        l.served = 0;
        l.bytes = 512;
        run(&l, 1, START + 60 * SECOND);
        assert_in_range(l.served, 2985, 3010);
        throttle_waiter_destroy(&l.waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* Who waits for an hour under the old limit must hear of the new one. */
static void test_new_limits_wake(void **state) {
        struct throttle_group *g = group_with(THROTTLE_OPS, 1, 0, 0);
        struct throttle_limits limits = { 0 };
        struct throttle_disk disk;
        struct load l[2];

        throttle_disk_init(&disk, g);
        load_init(&l[0], &disk, true, 512);
        load_init(&l[1], &disk, true, 512);
        assert_int_equal(throttle_ask(&l[0].waiter, 512, START), 0);
        assert_true(throttle_ask(&l[0].waiter, 512, START) > START);
        assert_true(throttle_ask(&l[1].waiter, 512, START) > START);
        limits.v[THROTTLE_OPS].rate = 1000;
        throttle_group_set(g, &limits);
        assert_int_equal(l[0].wakes, 1);
        assert_int_equal(l[1].wakes, 1);
        assert_int_equal(throttle_ask(&l[0].waiter, 512, START), 0);
        assert_int_equal(throttle_ask(&l[1].waiter, 512, START), 0);
        /* and no limit at all lets everything through */
        throttle_group_set(g, &(struct throttle_limits){ 0 });
        for (int i = 0; i < 100000; i++)
                assert_int_equal(throttle_ask(&l[0].waiter, 1 << 30, START), 0);
        for (unsigned int i = 0; i < 2; i++)
                throttle_waiter_destroy(&l[i].waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* A request that is cancelled while it waits has moved nothing: the others get its time. */
static void test_forgotten_requests_are_not_charged(void **state) {
        struct throttle_group *g = group_with(THROTTLE_BYTES, 1 << 20, 0, 0);
        struct throttle_disk disk;
        struct load l[2];
        uint64_t before;

        throttle_disk_init(&disk, g);
        load_init(&l[0], &disk, true, 0);
        load_init(&l[1], &disk, true, 0);
        assert_int_equal(throttle_ask(&l[0].waiter, 1 << 20, START), 0);
        before = throttle_ask(&l[1].waiter, 1 << 20, START);
        assert_true(before > START);
        assert_int_equal(throttle_ask(&l[0].waiter, 1 << 20, START), before); /* in line: ask when that one has gone */
        throttle_forget(&l[1].waiter);
        assert_int_equal(l[0].wakes, 1);
        assert_int_equal(throttle_ask(&l[0].waiter, 1 << 20, START), before);
        for (unsigned int i = 0; i < 2; i++)
                throttle_waiter_destroy(&l[i].waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(g);
}

/* From one group to another while a request waits: the new group's limits count, and the old group outlives nobody. */
static void test_a_disk_moves_between_groups(void **state) {
        struct throttle_group *slow = group_with(THROTTLE_OPS, 1, 0, 0), *fast = group_with(THROTTLE_OPS, 1000, 0, 0);
        struct throttle_group *now;
        struct throttle_disk disk;
        struct load l;

        throttle_disk_init(&disk, slow);
        throttle_group_unref(slow); /* the disk keeps it */
        load_init(&l, &disk, true, 512);
        assert_int_equal(throttle_ask(&l.waiter, 512, START), 0);
        assert_true(throttle_ask(&l.waiter, 512, START) > START);
        throttle_disk_move(&disk, fast);
        assert_int_equal(l.wakes, 1);
        now = throttle_disk_group(&disk);
        assert_ptr_equal(now, fast);
        throttle_group_unref(now);
        assert_int_equal(throttle_ask(&l.waiter, 512, START), 0);
        throttle_waiter_destroy(&l.waiter);
        throttle_disk_destroy(&disk);
        throttle_group_unref(fast);
}

/* Limits that contradict each other are named when they are set, not found when the guest starves. */
static void test_senseless_limits_are_refused(void **state) {
        static const struct {
                enum throttle_bucket i;
                struct throttle_limit a, b; /* b: of the next bucket */
        } bad[] = {
                { THROTTLE_OPS, { 100, 0, 0 }, { 100, 0, 0 } },
                { THROTTLE_BYTES, { 100, 200, 0 }, { 0, 200, 0 } },
                { THROTTLE_OPS, { 0, 100, 0 }, { 0 } },
                { THROTTLE_OPS, { 100, 99, 0 }, { 0 } },
                { THROTTLE_OPS, { 100, 0, 2 }, { 0 } },
                { THROTTLE_BYTES, { THROTTLE_VALUE_MAX + 1, 0, 0 }, { 0 } },
                { THROTTLE_BYTES, { 100, THROTTLE_VALUE_MAX, 2 }, { 0 } },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                struct throttle_limits limits = { 0 };

                limits.v[bad[i].i] = bad[i].a;
                limits.v[bad[i].i + 1] = bad[i].b;
                assert_int_equal(throttle_check(&limits, NULL), -EINVAL);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_rate_holds),
                cmocka_unit_test(test_large_requests_are_paid_for),
                cmocka_unit_test(test_no_overflow),
                cmocka_unit_test(test_burst_ends),
                cmocka_unit_test(test_burst_of_one_second_comes_at_once),
                cmocka_unit_test(test_a_group_is_fair),
                cmocka_unit_test(test_directions_wait_apart),
                cmocka_unit_test(test_large_requests_count_as_many),
                cmocka_unit_test(test_new_limits_wake),
                cmocka_unit_test(test_forgotten_requests_are_not_charged),
                cmocka_unit_test(test_a_disk_moves_between_groups),
                cmocka_unit_test(test_senseless_limits_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
