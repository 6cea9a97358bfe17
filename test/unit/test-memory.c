// SPDX-License-Identifier: GPL-2.0-or-later
/* memory: no guest address reaches host memory that is not the guest's, and the PCI hole stays a hole */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/machine/layout.h"
#include "vmm/machine/memory.h"

static struct memory *make(uint64_t size) {
        struct memory_options options = { .size = size };
        struct memory *m = NULL;

        assert_int_equal(memory_new(&options, &m, NULL), 0);
        return m;
}

/* Every length and address comes from the guest; a wrapped sum would hand out the VMM's own memory. */
static void test_bounds(void **state) {
        _cleanup_(memory_freep) struct memory *m = make(16 << 20);
        char c;

        assert_non_null(memory_host(m, 0, 16 << 20));
        assert_null(memory_host(m, 0, (16 << 20) + 1));
        assert_null(memory_host(m, 16 << 20, 0));
        assert_null(memory_host(m, (16 << 20) - 1, 2));
        assert_null(memory_host(m, 4096, UINT64_MAX));
        assert_null(memory_host(m, UINT64_MAX, 1));
        assert_null(memory_host(m, UINT64_MAX - 1, 4));
        assert_int_equal(memory_read(m, 16 << 20, &c, 1), -EFAULT);
        assert_int_equal(memory_write(m, (16 << 20) - 1, "ab", 2), -EFAULT);
}

/* RAM above 3 GiB moves behind 4 GiB; a buffer across the hole is no buffer. */
static void test_hole(void **state) {
        _cleanup_(memory_freep) struct memory *m = make(4ull << 30);
        const struct memory_region *regions;
        uint8_t *low, *high;

        assert_int_equal(memory_regions(m, &regions), 2);
        assert_int_equal(regions[1].gpa, LAYOUT_HIGH_RAM_BASE);
        assert_int_equal(regions[0].size + regions[1].size, 4ull << 30);
        low = memory_host(m, LAYOUT_LOW_RAM_MAX - 1, 1);
        high = memory_host(m, LAYOUT_HIGH_RAM_BASE, 1);
        assert_non_null(low);
        assert_ptr_equal(high, low + 1); /* adjacent here, not in the guest */
        assert_null(memory_host(m, LAYOUT_LOW_RAM_MAX - 1, 2));
        assert_null(memory_host(m, LAYOUT_LOW_RAM_MAX, 1));
        assert_null(memory_host(m, LAYOUT_ECAM_BASE, 4));
        assert_null(memory_host(m, 5ull << 30, 1));
}

/* Else KVM maps all of it by pages of 4 KiB, and every access of the guest's that misses the TLB walks longer. */
static void test_large_pages_fit(void **state) {
        static const struct {
                uint64_t size, page;
        } cases[] = { { 16 << 20, 2 << 20 }, { (16 << 20) + 4096, 2 << 20 }, { 4ull << 30, 1 << 30 } };

        for (size_t i = 0; i < 3; i++) {
                _cleanup_(memory_freep) struct memory *m = make(cases[i].size);
                const struct memory_region *regions;
                size_t n = memory_regions(m, &regions);

                for (size_t k = 0; k < n; k++)
                        assert_int_equal(((uintptr_t)regions[k].host ^ regions[k].gpa) % cases[i].page, 0);
        }
}

/* A machine that the host can't hold must be refused with both figures, not be killed later. */
static void test_more_than_the_host_has(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct memory_options options = { .size = 1ull << 50 };
        struct memory *m = NULL;

        assert_int_equal(memory_new(&options, &m, &e), -ENOMEM);
        assert_string_equal(e.id, "memory-host");
        assert_null(m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_hole),
                cmocka_unit_test(test_large_pages_fit),
                cmocka_unit_test(test_more_than_the_host_has),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
