// SPDX-License-Identifier: GPL-2.0-or-later
/* smbios: the structures are found and walked as a guest does it, and hold what the configuration says */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/memory.h"
#include "vmm/machine/smbios.h"

static struct memory *memory;

static uint64_t rd(const uint8_t *p, size_t n) {
        uint64_t v = 0;

        memcpy(&v, p, n);
        return v;
}

/* The entry point as Linux finds it: on 16-byte boundaries from 0xf0000, with a checksum. */
static const uint8_t *entry_point(void) {
        for (uint64_t gpa = 0xf0000; gpa < 0x100000; gpa += 16) {
                const uint8_t *p = memory_host(memory, gpa, 24);
                uint8_t sum = 0;

                if (memcmp(p, "_SM3_", 5) != 0)
                        continue;
                for (size_t i = 0; i < p[6]; i++)
                        sum = (uint8_t)(sum + p[i]);
                assert_int_equal(sum, 0);
                return p;
        }
        fail_msg("no entry point");
        return NULL;
}

/* Walk by lengths and double NULs; the walk must end exactly at the type 127 structure and the given length. */
static const uint8_t *find(uint8_t type, unsigned int skip_n) {
        const uint8_t *entry = entry_point(), *found = NULL;
        size_t length = rd(entry + 12, 4), at = 0;
        const uint8_t *base = memory_host(memory, rd(entry + 16, 8), length);

        assert_non_null(base);
        while (at < length) {
                const uint8_t *s = base + at;

                if (s[0] == type && !found && skip_n-- == 0)
                        found = s;
                assert_true(s[1] >= 4);
                at += s[1];
                while (base[at] || base[at + 1])
                        at++;
                at += 2;
                assert_true(at <= length);
                if (s[0] == 127)
                        assert_int_equal(at, length);
        }
        return found;
}

static const char *text(const uint8_t *s, uint8_t number) {
        const char *p = (const char *)s + s[1];

        assert_int_not_equal(number, 0);
        while (--number > 0)
                p += strlen(p) + 1;
        return p;
}

/* cloud-init finds its seed by the serial number, lodge its machine by the UUID: a byte out of order and neither works. */
static void test_system(void **state) {
        const char *const oem[] = { "io.systemd.credential:a=b", "", "second" };
        const struct smbios_options o = {
                .topology = { 2, 2, 2 },
                .uuid = "00112233-4455-6677-8899-aabbccddeeff",
                .serial = "ds=nocloud;h=web",
                .oem_strings = oem,
                .n_oem_strings = 3,
        };
        static const uint8_t uuid[] = { 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
                                        0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
        const uint8_t *s;

        assert_int_equal(smbios_write(memory, &o, NULL), 0);
        s = find(1, 0);
        assert_non_null(s);
        assert_string_equal(text(s, s[4]), "Lodge");
        assert_string_equal(text(s, s[7]), "ds=nocloud;h=web");
        assert_memory_equal(s + 8, uuid, 16);
        s = find(11, 0);
        assert_non_null(s);
        assert_int_equal(s[4], 2);
        assert_string_equal(text(s, 1), oem[0]);
        assert_string_equal(text(s, 2), "second");
        assert_non_null(find(4, 1));
        assert_null(find(4, 2));
        assert_int_equal(find(4, 0)[0x23], 2); /* cores */
        assert_int_equal(find(4, 0)[0x25], 4); /* threads */
        s = find(0, 0);
        assert_non_null(s);
        assert_int_not_equal(s[0x13] & 1 << 4, 0); /* a virtual machine */
}

static void test_without_strings(void **state) {
        const struct smbios_options o = { .topology = { 1, 1, 1 } };

        assert_int_equal(smbios_write(memory, &o, NULL), 0);
        assert_int_equal(find(1, 0)[7], 0);
        assert_null(find(11, 0));
        assert_non_null(find(3, 0));
        assert_int_equal(rd(find(16, 0) + 15, 8), 4ull << 30);
        assert_int_equal(rd(find(17, 0) + 12, 2), 4096); /* MiB */
        assert_int_equal(rd(find(19, 1) + 4, 4), LAYOUT_HIGH_RAM_BASE >> 10);
        assert_non_null(find(32, 0));
        assert_non_null(find(127, 0));
}

/* Strings that don't fit are an error for the person who gave them, not a table that ends in the middle. */
static void test_too_long(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *longish = calloc(1, 16385);
        const char *oem[5];
        const struct smbios_options o = { .topology = { 1, 1, 1 }, .oem_strings = oem, .n_oem_strings = 5 };

        memset(longish, 'x', 16384);
        for (size_t i = 0; i < 5; i++)
                oem[i] = longish;
        assert_int_equal(smbios_write(memory, &o, &e), -ENOSPC);
        assert_string_equal(e.id, "smbios-size");
}

static int setup(void **state) {
        const struct memory_options options = { .size = 4ull << 30 };

        return memory_new(&options, &memory, NULL);
}

static int teardown(void **state) {
        memory_free(memory);
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_system),
                cmocka_unit_test(test_without_strings),
                cmocka_unit_test(test_too_long),
        };

        return cmocka_run_group_tests_name("smbios", tests, setup, teardown);
}
