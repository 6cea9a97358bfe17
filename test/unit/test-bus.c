// SPDX-License-Identifier: GPL-2.0-or-later
/* bus: overlaps are refused, and an access reaches a device only when it lies wholly inside its region */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/machine/bus.h"

struct probe {
        uint64_t offset, value;
        unsigned int size, calls;
};

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned int size) {
        struct probe *p = opaque;

        *p = (struct probe){ offset, 0, size, p->calls + 1 };
        return 0x1122334455667788ull;
}

static void probe_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct probe *p = opaque;

        *p = (struct probe){ offset, value, size, p->calls + 1 };
}

static const struct bus_ops probe_ops = { probe_read, probe_write };

/* Two devices at one address would each see half of what the guest does. */
static void test_overlap_is_refused(void **state) {
        _cleanup_(bus_freep) struct bus *bus = NULL;
        struct probe p = { 0 };

        assert_int_equal(bus_new(&bus), 0);
        assert_int_equal(bus_add(bus, 0x1000, 0x100, &probe_ops, &p, "a", NULL), 0);
        assert_int_equal(bus_add(bus, 0x10ff, 1, &probe_ops, &p, "b", NULL), -EEXIST);
        assert_int_equal(bus_add(bus, 0xfff, 2, &probe_ops, &p, "b", NULL), -EEXIST);
        assert_int_equal(bus_add(bus, 0x0, 0x10000, &probe_ops, &p, "b", NULL), -EEXIST);
        assert_int_equal(bus_add(bus, 0x1100, 0x10, &probe_ops, &p, "b", NULL), 0);
        assert_int_equal(bus_add(bus, 0xff0, 0x10, &probe_ops, &p, "c", NULL), 0);
        assert_int_equal(bus_add(bus, 5, 0, &probe_ops, &p, "d", NULL), -EINVAL);
        assert_int_equal(bus_add(bus, UINT64_MAX, 2, &probe_ops, &p, "d", NULL), -EINVAL);
        assert_int_equal(bus_add(bus, UINT64_MAX, 1, &probe_ops, &p, "d", NULL), 0);
}

/* A device model indexes its registers by offset + size: an access over its end must never arrive. */
static void test_straddling_access_reaches_nobody(void **state) {
        _cleanup_(bus_freep) struct bus *bus = NULL;
        struct probe p = { 0 };

        assert_int_equal(bus_new(&bus), 0);
        assert_int_equal(bus_add(bus, 0x1000, 6, &probe_ops, &p, "a", NULL), 0);
        assert_int_equal(bus_read(bus, 0x1004, 4), 0xffffffff);
        assert_int_equal(bus_read(bus, 0xffe, 4), 0xffffffff);
        assert_int_equal(bus_read(bus, 0x1000, 8), UINT64_MAX);
        bus_write(bus, 0x1005, 2, 1);
        assert_int_equal(p.calls, 0);
        assert_int_equal(bus_read(bus, 0x1004, 2), 0x7788);
        assert_int_equal(p.offset, 4);
        bus_write(bus, 0x1005, 1, 9);
        assert_int_equal(p.calls, 2);
        assert_int_equal(p.value, 9);
}

/* BARs come and go while the guest runs: what is gone must not answer, what stays must. */
static void test_remove(void **state) {
        _cleanup_(bus_freep) struct bus *bus = NULL;
        struct bus_region *regions[100];
        struct probe p = { 0 };

        assert_int_equal(bus_new(&bus), 0);
        for (unsigned int i = 0; i < 100; i++)
                assert_int_equal(bus_add(bus, (i * 37 % 100) * 16, 16, &probe_ops, &p, "r", &regions[i]), 0);
        for (unsigned int i = 0; i < 100; i += 2)
                bus_remove(bus, regions[i]);
        for (unsigned int i = 0; i < 100; i++)
                assert_int_equal(bus_read(bus, (i * 37 % 100) * 16, 1), i % 2 ? 0x88 : 0xff);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_overlap_is_refused),
                cmocka_unit_test(test_straddling_access_reaches_nobody),
                cmocka_unit_test(test_remove),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
