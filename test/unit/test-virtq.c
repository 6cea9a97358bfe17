// SPDX-License-Identifier: GPL-2.0-or-later
/* virtq: what a driver may do works at every index; what it may not do breaks the queue and nothing else */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "test/unit/virtq-driver.h"

#define NEXT     VRING_DESC_F_NEXT
#define WRITE    VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

struct rig {
        struct driver d;
        struct virtq q;
        struct virtq_chain chain;
};

static void start(struct rig *rig, uint16_t size) {
        memset(driver_at(&rig->d, 0), 0, DRIVER_RAM);
        rig->d.size = size;
        rig->d.next = 0;
        rig->q.size_max = 256;
        virtq_reset(&rig->q);
        rig->q.size = size;
        rig->q.desc_gpa = rig->d.desc;
        rig->q.avail_gpa = rig->d.avail;
        rig->q.used_gpa = rig->d.used;
        rig->q.indirect = rig->q.event_idx = true;
        rig->q.n_bad = 0;
        assert_int_equal(virtq_enable(&rig->q), 0);
}

static int setup(void **state) {
        struct rig *rig = calloc(1, sizeof(*rig));
        struct memory_options options = { .size = DRIVER_RAM };

        *state = rig;
        if (!rig || memory_new(&options, &rig->d.memory, NULL) < 0)
                return -1;
        rig->d.desc = DRIVER_DESC;
        rig->d.avail = DRIVER_AVAIL;
        rig->d.used = DRIVER_USED;
        rig->q.memory = rig->d.memory;
        start(rig, 8);
        return 0;
}

static int teardown(void **state) {
        struct rig *rig = *state;

        memory_free(rig->d.memory);
        free(rig);
        return 0;
}

/* The next pop must break the queue, count once, and leave it dead but harmless until reset. */
static void assert_breaks(struct rig *rig) {
        uint16_t used = driver_used(&rig->d)->idx;

        assert_int_equal(virtq_pop(&rig->q, &rig->chain), -EPROTO);
        assert_true(rig->q.broken);
        assert_int_equal(rig->q.n_bad, 1);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), -EPROTO);
        assert_int_equal(rig->q.n_bad, 1);
        virtq_push(&rig->q, 0, 0);
        assert_false(virtq_flush(&rig->q));
        assert_int_equal(driver_used(&rig->d)->idx, used);
        assert_false(virtq_enable_notify(&rig->q));
        virtq_unpop(&rig->q);
        virtq_disable_notify(&rig->q);
        start(rig, rig->d.size);
}

/* Readable and writable buffers arrive as host pointers, in order, with the right totals. */
static void test_direct_chain(void **state) {
        struct rig *rig = *state;
        char buf[8] = "";

        driver_set(&rig->d, 5, DRIVER_DATA, 3, NEXT, 2);
        driver_set(&rig->d, 2, DRIVER_DATA + 100, 0, NEXT, 0); /* empty: left out */
        driver_set(&rig->d, 0, DRIVER_DATA + 200, 2, NEXT, 1);
        driver_set(&rig->d, 1, DRIVER_DATA + 300, 4, WRITE | NEXT, 3);
        driver_set(&rig->d, 3, DRIVER_DATA + 400, 4, WRITE, 77); /* next means nothing without NEXT */
        memcpy(driver_at(&rig->d, DRIVER_DATA), "abc", 3);
        memcpy(driver_at(&rig->d, DRIVER_DATA + 200), "de", 2);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 0);
        driver_offer(&rig->d, 5);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
        assert_int_equal(rig->chain.head, 5);
        assert_int_equal(rig->chain.n_readable, 2);
        assert_int_equal(rig->chain.n_writable, 2);
        assert_int_equal(rig->chain.readable, 5);
        assert_int_equal(rig->chain.writable, 8);
        assert_int_equal(virtq_chain_read(&rig->chain, 1, buf, sizeof(buf)), 4);
        assert_string_equal(buf, "bcde");
        assert_int_equal(virtq_chain_read(&rig->chain, 5, buf, 1), 0);
        assert_int_equal(virtq_chain_write(&rig->chain, 2, "123456789", 9), 6);
        assert_memory_equal(driver_at(&rig->d, DRIVER_DATA + 300),
                            "\0\0"
                            "12",
                            4);
        assert_memory_equal(driver_at(&rig->d, DRIVER_DATA + 400), "3456\0", 5);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 0);
        virtq_push(&rig->q, 5, 6);
        assert_int_equal(driver_used(&rig->d)->idx, 0); /* not before the flush */
        assert_true(virtq_flush(&rig->q));
        assert_int_equal(driver_used(&rig->d)->idx, 1);
        assert_int_equal(driver_used(&rig->d)->ring[0].id, 5);
        assert_int_equal(driver_used(&rig->d)->ring[0].len, 6);
        assert_false(virtq_flush(&rig->q)); /* nothing new */
}

/* Indirect tables: alone, behind direct descriptors, at an odd address, with WRITE set on the descriptor that names them. */
static void test_indirect_chain(void **state) {
        struct rig *rig = *state;
        struct vring_desc table[3] = {
                { DRIVER_DATA, 1, NEXT, 2 },
                { DRIVER_DATA + 8, 4, WRITE, 0 },
                { DRIVER_DATA + 16, 2, NEXT, 1 },
        };

        memcpy(driver_at(&rig->d, DRIVER_INDIRECT + 1), table, sizeof(table));
        driver_set(&rig->d, 0, DRIVER_INDIRECT + 1, sizeof(table), INDIRECT | WRITE, 0);
        driver_set(&rig->d, 1, DRIVER_DATA + 32, 7, NEXT, 2);
        driver_set(&rig->d, 2, DRIVER_INDIRECT + 1, sizeof(table), INDIRECT, 0);
        driver_offer(&rig->d, 0);
        driver_offer(&rig->d, 1);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
        assert_int_equal(rig->chain.n_readable, 2);
        assert_int_equal(rig->chain.readable, 3);
        assert_int_equal(rig->chain.writable, 4);
        assert_ptr_equal(rig->chain.iov[1].iov_base, driver_at(&rig->d, DRIVER_DATA + 16));
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
        assert_int_equal(rig->chain.head, 1);
        assert_int_equal(rig->chain.n_readable, 3);
        assert_int_equal(rig->chain.readable, 10);
}

/* A table as long as the queue that we offered is fine even when the driver took a shorter ring; one more buffer is not. */
static void test_indirect_limit(void **state) {
        struct rig *rig = *state;
        struct vring_desc *table = driver_at(&rig->d, DRIVER_INDIRECT);

        for (unsigned int n = 256; n <= 257; n++) {
                for (unsigned int i = 0; i < n; i++)
                        table[i] = (struct vring_desc){ DRIVER_DATA, 1, i + 1 < n ? NEXT : 0, (uint16_t)(i + 1) };
                driver_set(&rig->d, 0, DRIVER_INDIRECT, n * 16, INDIRECT, 0);
                driver_offer(&rig->d, 0);
                if (n == 256) {
                        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
                        assert_int_equal(rig->chain.readable, 256);
                } else
                        assert_breaks(rig);
        }
}

/* Every rule about one chain, broken once. Were one not checked, a guest could read our memory or hang a thread. */
static void test_bad_chains(void **state) {
        static const struct {
                const char *what;
                struct vring_desc direct[3], indirect[3];
                bool no_indirect;
        } cases[] = {
                { "descriptor loop", { { DRIVER_DATA, 1, NEXT, 1 }, { DRIVER_DATA, 1, NEXT, 0 } } },
                { "loop of empty buffers", { { DRIVER_DATA, 0, NEXT, 0 } } },
                { "next outside the table", { { DRIVER_DATA, 1, NEXT, 8 } } },
                { "readable behind writable", { { DRIVER_DATA, 1, NEXT | WRITE, 1 }, { DRIVER_DATA, 1, 0, 0 } } },
                { "empty readable behind writable", { { DRIVER_DATA, 1, NEXT | WRITE, 1 }, { DRIVER_DATA, 0, 0, 0 } } },
                { "no such address", { { DRIVER_RAM, 1, 0, 0 } } },
                { "no such address, empty", { { 1ull << 50, 0, 0, 0 } } },
                { "runs out of the slot", { { DRIVER_RAM - 4, 5, 0, 0 } } },
                { "address overflow", { { UINT64_MAX - 1, 16, 0, 0 } } },
                { "longer than RAM", { { 0, UINT32_MAX, 0, 0 } } },
                { "indirect not negotiated",
                  { { DRIVER_INDIRECT, 16, INDIRECT, 0 } },
                  { { DRIVER_DATA, 1, 0, 0 } },
                  true },
                { "indirect with next", { { DRIVER_INDIRECT, 16, INDIRECT | NEXT, 1 } }, { { DRIVER_DATA, 1, 0, 0 } } },
                { "indirect in indirect",
                  { { DRIVER_INDIRECT, 16, INDIRECT, 0 } },
                  { { DRIVER_INDIRECT, 16, INDIRECT, 0 } } },
                { "indirect table of no entries", { { DRIVER_INDIRECT, 0, INDIRECT, 0 } } },
                { "indirect table of 1.5 entries",
                  { { DRIVER_INDIRECT, 24, INDIRECT, 0 } },
                  { { DRIVER_DATA, 1, 0, 0 } } },
                { "indirect table outside RAM", { { DRIVER_RAM - 16, 32, INDIRECT, 0 } } },
                { "next outside the indirect table",
                  { { DRIVER_INDIRECT, 32, INDIRECT, 0 } },
                  { { DRIVER_DATA, 1, NEXT, 2 } } },
                { "loop in the indirect table",
                  { { DRIVER_INDIRECT, 16, INDIRECT, 0 } },
                  { { DRIVER_DATA, 1, NEXT, 0 } } },
                { "readable behind writable across the table",
                  { { DRIVER_DATA, 1, NEXT | WRITE, 1 }, { DRIVER_INDIRECT, 16, INDIRECT, 0 } },
                  { { DRIVER_DATA, 1, 0, 0 } } },
        };
        struct rig *rig = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                print_message("  %s\n", cases[i].what);
                memcpy(driver_desc(&rig->d, 0), cases[i].direct, sizeof(cases[i].direct));
                memcpy(driver_at(&rig->d, DRIVER_INDIRECT), cases[i].indirect, sizeof(cases[i].indirect));
                rig->q.indirect = !cases[i].no_indirect;
                driver_offer(&rig->d, 0);
                assert_breaks(rig);
        }
        driver_offer(&rig->d, 8); /* head outside the table */
        assert_breaks(rig);
        driver_avail(&rig->d)->idx = 9; /* more chains than entries */
        assert_breaks(rig);
        driver_avail(&rig->d)->idx = 0xffff; /* went back */
        assert_breaks(rig);
}

/* 2^32-1 bytes in all and no more: the used length has 32 bits. The same RAM may appear in many buffers. */
static void test_total_length(void **state) {
        struct rig *rig = *state;
        struct vring_desc *table = driver_at(&rig->d, DRIVER_INDIRECT);
        struct memory_options options = { .size = 64ull << 20 };
        uint64_t total = 0;
        unsigned int n = 0;

        memory_free(rig->d.memory);
        assert_int_equal(memory_new(&options, &rig->d.memory, NULL), 0);
        rig->q.memory = rig->d.memory;
        start(rig, 8);
        table = driver_at(&rig->d, DRIVER_INDIRECT);
        while (total < UINT32_MAX) {
                uint32_t len = (uint32_t)MIN(UINT32_MAX - total, (uint64_t)(60u << 20));

                table[n] = (struct vring_desc){ DRIVER_DATA, len, NEXT, (uint16_t)(n + 1) };
                total += len;
                n++;
        }
        table[n - 1].flags = 0;
        driver_set(&rig->d, 0, DRIVER_INDIRECT, (n + 1) * 16, INDIRECT, 0);
        driver_offer(&rig->d, 0);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
        assert_int_equal(rig->chain.readable, UINT32_MAX);
        table[n - 1].flags = NEXT;
        table[n] = (struct vring_desc){ DRIVER_DATA, 1, 0, 0 };
        driver_offer(&rig->d, 0);
        assert_breaks(rig);
}

/* Areas that are misaligned, outside RAM, or of a size that we can't index must be refused before they are used. */
static void test_enable_checks_areas(void **state) {
        struct rig *rig = *state;
        static const struct {
                uint64_t desc, avail, used;
                uint16_t size;
        } bad[] = {
                { DRIVER_DESC + 8, DRIVER_AVAIL, DRIVER_USED, 8 },  { DRIVER_DESC, DRIVER_AVAIL + 1, DRIVER_USED, 8 },
                { DRIVER_DESC, DRIVER_AVAIL, DRIVER_USED + 2, 8 },  { DRIVER_RAM - 112, DRIVER_AVAIL, DRIVER_USED, 8 },
                { DRIVER_DESC, DRIVER_RAM - 20, DRIVER_USED, 8 },   { DRIVER_DESC, DRIVER_AVAIL, DRIVER_RAM - 68, 8 },
                { DRIVER_DESC, DRIVER_AVAIL, DRIVER_USED, 0 },      { DRIVER_DESC, DRIVER_AVAIL, DRIVER_USED, 7 },
                { DRIVER_DESC, DRIVER_AVAIL, DRIVER_USED, 512 },    { UINT64_MAX - 15, DRIVER_AVAIL, DRIVER_USED, 8 },
                { DRIVER_DESC, DRIVER_AVAIL, DRIVER_USED, 0x8000 },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                virtq_reset(&rig->q);
                rig->q.size = bad[i].size;
                rig->q.desc_gpa = bad[i].desc;
                rig->q.avail_gpa = bad[i].avail;
                rig->q.used_gpa = bad[i].used;
                assert_int_equal(virtq_enable(&rig->q), -EINVAL);
                assert_int_equal(virtq_pop(&rig->q, &rig->chain), 0);
                virtq_push(&rig->q, 0, 0);
                assert_false(virtq_flush(&rig->q));
        }
        /* to the last byte of RAM is fine */
        virtq_reset(&rig->q);
        assert_int_equal(rig->q.size, 256);
        rig->q.size = 8;
        rig->q.desc_gpa = DRIVER_RAM - 128;
        rig->q.avail_gpa = DRIVER_AVAIL;
        rig->q.used_gpa = DRIVER_USED;
        assert_int_equal(virtq_enable(&rig->q), 0);
        assert_int_equal(virtq_enable(&rig->q), -EINVAL); /* twice */
}

/* Indices are 16 bits and run on: every entry must come back right across several wraps, whatever the batch. */
static void test_indices_wrap(void **state) {
        struct rig *rig = *state;
        uint16_t seen = 0;

        for (unsigned int round = 0; round < 3 * 65536;) {
                unsigned int batch = 1 + round % 8;

                for (unsigned int i = 0; i < batch; i++) {
                        driver_set(&rig->d, i, DRIVER_DATA + 16 * i, i + 1, i % 2 ? WRITE : 0, 0);
                        driver_offer(&rig->d, (uint16_t)i);
                }
                for (unsigned int i = 0; i < batch; i++) {
                        if (virtq_pop(&rig->q, &rig->chain) != 1 || rig->chain.head != i ||
                            rig->chain.readable + rig->chain.writable != i + 1)
                                fail_msg("round %u: chain %u is wrong", round, i);
                        if (round % 5 == 0) { /* given back and taken again */
                                virtq_unpop(&rig->q);
                                if (virtq_pop(&rig->q, &rig->chain) != 1 || rig->chain.head != i)
                                        fail_msg("round %u: chain %u did not come back", round, i);
                        }
                        virtq_push(&rig->q, rig->chain.head, i);
                }
                if (virtq_pop(&rig->q, &rig->chain) != 0)
                        fail_msg("round %u: the ring is not empty", round);
                virtq_flush(&rig->q);
                if (driver_used(&rig->d)->idx != rig->d.next)
                        fail_msg("round %u: used %u, available %u", round, driver_used(&rig->d)->idx, rig->d.next);
                for (unsigned int i = 0; i < batch; i++, seen++)
                        if (driver_used(&rig->d)->ring[seen % 8].id != i ||
                            driver_used(&rig->d)->ring[seen % 8].len != i)
                                fail_msg("round %u: used entry %u is wrong", round, i);
                round += batch;
        }
}

/* Event index: an interrupt exactly when the index that the driver named is among those just used, at every place of the circle. */
static void test_used_event_truth_table(void **state) {
        struct rig *rig = *state;

        static const uint16_t places[] = { 0, 1, 7, 8, 0x7fff, 0x8000, 0xfff7, 0xfffe, 0xffff };

        for (size_t p = 0; p < ELEMENTSOF(places); p++)
                for (unsigned int n = 0; n <= 8; n++)
                        for (int delta = -20; delta <= 20; delta++) {
                                uint16_t event = (uint16_t)(places[p] + delta);
                                bool expected = false;

                                for (unsigned int i = 0; i < n; i++)
                                        expected |= (uint16_t)(places[p] + i) == event;
                                rig->q.next_used = rig->q.signalled_used = places[p];
                                *driver_used_event(&rig->d) = event;
                                for (unsigned int i = 0; i < n; i++)
                                        virtq_push(&rig->q, 0, 0);
                                if (virtq_flush(&rig->q) != expected)
                                        fail_msg("at %u, %u used, event %u: expected %d", places[p], n, event,
                                                 expected);
                        }
        /* all 65536 events around one place */
        for (unsigned int event = 0; event < 65536; event++) {
                rig->q.next_used = rig->q.signalled_used = 0xfffd;
                *driver_used_event(&rig->d) = (uint16_t)event;
                for (unsigned int i = 0; i < 5; i++)
                        virtq_push(&rig->q, 0, 0);
                if (virtq_flush(&rig->q) != (event >= 0xfffd || event < 2))
                        fail_msg("event %u", event);
        }
        rig->q.signalled_used_valid = false; /* after a restore nobody knows: signal */
        *driver_used_event(&rig->d) = 0x4000;
        assert_true(virtq_flush(&rig->q));
        assert_false(virtq_flush(&rig->q));
}

/* Without event indices the flags decide, both ways. */
static void test_flags(void **state) {
        struct rig *rig = *state;

        rig->q.event_idx = false;
        virtq_push(&rig->q, 0, 0);
        driver_avail(&rig->d)->flags = VRING_AVAIL_F_NO_INTERRUPT;
        assert_false(virtq_flush(&rig->q));
        assert_int_equal(driver_used(&rig->d)->idx, 1);
        virtq_push(&rig->q, 0, 0);
        driver_avail(&rig->d)->flags = 0;
        assert_true(virtq_flush(&rig->q));
        virtq_disable_notify(&rig->q);
        assert_int_equal(driver_used(&rig->d)->flags, VRING_USED_F_NO_NOTIFY);
        driver_offer(&rig->d, 0);
        assert_true(virtq_enable_notify(&rig->q)); /* came in between */
        assert_int_equal(driver_used(&rig->d)->flags, 0);
}

/* With event indices, a device that only pops until 0 must still be rung for the next chain; one that polls must not be. */
static void test_avail_event(void **state) {
        struct rig *rig = *state;

        driver_set(&rig->d, 0, DRIVER_DATA, 1, 0, 0);
        for (unsigned int i = 1; i <= 20; i++) {
                driver_offer(&rig->d, 0);
                assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
                assert_int_equal(*driver_avail_event(&rig->d), i - 1);
                assert_int_equal(virtq_pop(&rig->q, &rig->chain), 0);
                assert_int_equal(*driver_avail_event(&rig->d), i);
        }
        virtq_disable_notify(&rig->q);
        assert_int_equal(driver_used(&rig->d)->flags, 0); /* §2.7.10.1 */
        driver_offer(&rig->d, 0);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 1);
        assert_int_equal(virtq_pop(&rig->q, &rig->chain), 0);
        assert_int_equal(*driver_avail_event(&rig->d), 20);
        assert_false(virtq_enable_notify(&rig->q));
        assert_int_equal(*driver_avail_event(&rig->d), 21);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_direct_chain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_indirect_chain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_indirect_limit, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_chains, setup, teardown),
                cmocka_unit_test_setup_teardown(test_total_length, setup, teardown),
                cmocka_unit_test_setup_teardown(test_enable_checks_areas, setup, teardown),
                cmocka_unit_test_setup_teardown(test_indices_wrap, setup, teardown),
                cmocka_unit_test_setup_teardown(test_used_event_truth_table, setup, teardown),
                cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
                cmocka_unit_test_setup_teardown(test_avail_event, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
