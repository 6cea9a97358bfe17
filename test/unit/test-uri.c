// SPDX-License-Identifier: GPL-2.0-or-later
/* What a request's path and query say: without these tests a name could lead elsewhere, or be decoded twice. */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/api/uri.h"
#include "schema/lodge-schema.h"

static int match(const char *pattern, const char *path, char **ret_first) {
        char *parameters[URI_PARAMETERS_MAX] = { NULL };
        int r = uri_path_match(pattern, path, parameters);

        *ret_first = parameters[0];
        free(parameters[1]);
        return r;
}

static void test_path(void **state) {
        static const struct {
                const char *path;
                int result;
                const char *name;
        } cases[] = {
                { "/v1/machines/web", 1, "web" },
                { "/v1/machines/a%2Fb", 1, "a/b" },
                { "/v1/machines/%2e%2e", 1, ".." },
                { "/v1/machines/%2541", 1, "%41" },
                { "/v1/machines/a+b", 1, "a+b" },
                { "/v1/machines/%c3%a4", 1, "\xc3\xa4" },
                { "/v1/machines/", 0, NULL },
                { "/v1/machines", 0, NULL },
                { "/v1/machines/a/", 0, NULL },
                { "/v1/machines/a/b", 0, NULL },
                { "//v1/machines/a", 0, NULL },
                { "", 0, NULL },
                { "/v1/machines/%", -EINVAL, NULL },
                { "/v1/machines/%4", -EINVAL, NULL },
                { "/v1/machines/%zz", -EINVAL, NULL },
                { "/v1/machines/a%00b", -EINVAL, NULL },
                { "/v1/machines/%ff", -EINVAL, NULL },
                { "/v1/machines/%1b[31m", -EINVAL, NULL },
                { "/v1/machines/a%0d%0ab", -EINVAL, NULL },
        };
        char longest[sizeof("/v1/machines/") + URI_PART_MAX + 1] = "/v1/machines/";

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *name = NULL;

                assert_int_equal(match("/v1/machines/{name}", cases[i].path, &name), cases[i].result);
                if (cases[i].name)
                        assert_string_equal(name, cases[i].name);
                else
                        assert_null(name);
        }
        memset(longest + strlen(longest), 'a', URI_PART_MAX);
        for (int over = 0; over < 2; over++) {
                _cleanup_free_ char *name = NULL;

                assert_int_equal(match("/v1/machines/{name}", longest, &name), over ? -EINVAL : 1);
                longest[sizeof(longest) - 2] = 'a';
        }
}

static int query(const char *text, struct machine_query **ret) {
        _cleanup_error_ struct error e = ERROR_INIT;
        void *value = NULL;
        int r = uri_query_parse(&machine_query_schema, text, &value, &e);

        *ret = value;
        if (r < 0)
                assert_non_null(e.id);
        return r;
}

static void test_query(void **state) {
        static const char *const bad[] = { "limit=0",          "limit=1001", "limit=1e3", "limit=-1",
                                           "limit=1&limit=1",  "x=1",        "limit=%00", "limit=%3",
                                           "project=",         "project=..", "label=%ff", "label=a%0ab",
                                           "%6cimit=1&limit=2" };
        struct machine_query *q;
        char many[URI_QUERY_KEYS_MAX * 8 + 16] = "";

        assert_int_equal(query("limit=7&label=a%3db+c&&prefix=w", &q), 0);
        assert_int_equal(q->limit, 7);
        assert_string_equal(q->label, "a=b c");
        assert_string_equal(q->prefix, "w");
        assert_string_equal(q->project, "default");
        machine_query_free(q);
        assert_int_equal(query(NULL, &q), 0);
        machine_query_free(q);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(query(bad[i], &q), -EINVAL);
        for (int i = 0; i <= URI_QUERY_KEYS_MAX; i++)
                strcat(many, "a=1&");
        assert_int_equal(query(many, &q), -EINVAL);
}

static void test_no_query(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        void *value = &e;

        assert_int_equal(uri_query_parse(NULL, "", &value, &e), 0);
        assert_null(value);
        assert_int_equal(uri_query_parse(NULL, "a=1", &value, &e), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_path),
                cmocka_unit_test(test_query),
                cmocka_unit_test(test_no_query),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
