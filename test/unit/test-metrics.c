// SPDX-License-Identifier: GPL-2.0-or-later
/* What a VMM that somebody has taken over says of its disks, and what it could do to those who read the daemon's figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "daemon/api/internal.h"
#include "daemon/machine/internal.h"

/* A name must not end its label, or its line, and bring figures of its own. */
static void test_labels_are_escaped(void **state) {
        static const char *const cases[][2] = {
                { "web", "a=\"web\"" },
                { "", "a=\"\"" },
                { "x\"} 1\nlodge_machine_up{machine=\"y", "a=\"x\\\"} 1\\nlodge_machine_up{machine=\\\"y\"" },
                { "back\\slash\\n", "a=\"back\\\\slash\\\\n\"" },
                { "\r\t\x1b[31m\x7f", "a=\"???[31m?\"" },
                { "\xc3\xa4", "a=\"\xc3\xa4\"" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                GString *text = g_string_new(NULL);

                metrics_add_label(text, "a", cases[i][0]);
                assert_string_equal(text->str, cases[i][1]);
                g_string_free(text, TRUE);
        }
}

static void take(struct machine_sample *s, const char *text) {
        json_auto_t *answer = json_loads(text, JSON_DECODE_ANY, NULL);

        assert_non_null(answer);
        sample_take_disks(s, answer);
}

/* Both engines' answers; QEMU has more in it, and an empty "device". */
static void test_disks_of_both_engines(void **state) {
        struct machine_sample s = { 0 };

        take(&s, "[{\"device\":\"disk0\",\"node-name\":\"disk0\",\"stats\":{\"rd_bytes\":1,\"wr_bytes\":2,\"rd_"
                 "operations\":3,"
                 "\"wr_operations\":4,\"flush_operations\":5,\"unmap_operations\":6,\"unmap_bytes\":7,\"failed_rd_"
                 "operations\":1,"
                 "\"failed_wr_operations\":2,\"failed_flush_operations\":4,\"failed_unmap_operations\":8}}]");
        assert_int_equal(s.n_disks, 1);
        assert_string_equal(s.disks[0].name, "disk0");
        assert_int_equal(s.disks[0].read_bytes, 1);
        assert_int_equal(s.disks[0].written_bytes, 2);
        assert_int_equal(s.disks[0].reads, 3);
        assert_int_equal(s.disks[0].writes, 4);
        assert_int_equal(s.disks[0].flushes, 5);
        assert_int_equal(s.disks[0].discards, 6);
        assert_int_equal(s.disks[0].discarded_bytes, 7);
        assert_int_equal(s.disks[0].errors, 15);
        assert_true(s.disk_time > 0);
        take(&s, "[{\"device\":\"\",\"qdev\":\"/machine/x\",\"node-name\":\"disk1\",\"parent\":{\"stats\":{}},"
                 "\"stats\":{\"rd_bytes\":9,\"timed_stats\":[],\"account_failed\":true}}]");
        assert_int_equal(s.n_disks, 1);
        assert_string_equal(s.disks[0].name, "disk1");
        assert_int_equal(s.disks[0].read_bytes, 9);
}

/* Nothing that a VMM says grows without a bound, is taken for a figure when it is none, or makes two samples of one name. */
static void test_hostile_disks(void **state) {
        struct machine_sample s = { 0 };
        json_auto_t *many = json_array();

        take(&s, "{\"not\":\"a list\"}");
        assert_int_equal(s.n_disks, 0);
        take(&s, "[1,null,\"x\",[],{},{\"node-name\":\"a\"},{\"node-name\":\"\",\"stats\":{}},{\"node-name\":7,"
                 "\"stats\":{}},"
                 "{\"node-name\":\"b\",\"stats\":[]}]");
        assert_int_equal(s.n_disks, 0);
        take(&s, "[{\"node-name\":\"a-name-that-is-far-too-long\",\"stats\":{\"rd_bytes\":-5,\"wr_bytes\":\"9\",\"rd_"
                 "operations\":1.5}},"
                 "{\"node-name\":\"d\",\"stats\":{\"rd_bytes\":1}},{\"node-name\":\"d\",\"stats\":{\"rd_bytes\":2}}]");
        assert_int_equal(s.n_disks, 2);
        assert_int_equal(strlen(s.disks[0].name), sizeof(s.disks[0].name) - 1);
        assert_int_equal(s.disks[0].read_bytes + s.disks[0].written_bytes + s.disks[0].reads, 0);
        assert_int_equal(s.disks[1].read_bytes, 1);
        for (int i = 0; i < 5000; i++) {
                char name[16];

                snprintf(name, sizeof(name), "disk%d", i);
                json_array_append_new(many, json_pack("{s:s, s:{}}", "node-name", name, "stats"));
        }
        sample_take_disks(&s, many);
        assert_int_equal(s.n_disks, SAMPLE_DISKS_MAX);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_labels_are_escaped),
                cmocka_unit_test(test_disks_of_both_engines),
                cmocka_unit_test(test_hostile_disks),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
