// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * access: who may what, per project; the words of tokens; addresses: without these tests a new request could be open to who is held to one project, and half a
 * token be taken for a whole one
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/address.h"
#include "daemon/api/access.h"
#include "daemon/api/uri.h"
#include "daemon/tls/token.h"

static const struct schema_route *route(enum schema_route_id id) {
        return &schema_routes[id];
}

/* An admin of one project is none of the host: what is not listed as open to one project is refused, whatever comes to be. */
static void test_one_project(void **state) {
        static const enum schema_route_id open[] = {
                ROUTE_DAEMON_SHOW,   ROUTE_OPENAPI,       ROUTE_HEALTH_SHOW,    ROUTE_READY_SHOW,
                ROUTE_CLIENT_ENROL,  ROUTE_IMAGE_LIST,    ROUTE_IMAGE_SHOW,     ROUTE_POOL_SHOW,
                ROUTE_NETWORK_LIST,  ROUTE_NETWORK_SHOW,  ROUTE_OPERATION_SHOW, ROUTE_OPERATION_CANCEL,
                ROUTE_TEMPLATE_LIST, ROUTE_TEMPLATE_SHOW,
        };
        const struct access a = { .role = SCHEMA_ROLE_ADMIN, .network = true, .project = "a" };

        for (enum schema_route_id id = 0; id < ROUTE_COUNT; id++) {
                const bool has_project = route(id)->query && schema_field_find(route(id)->query, "project");
                bool is_open = false;

                for (size_t i = 0; i < ELEMENTSOF(open); i++)
                        is_open |= open[i] == id;
                if (has_project) {
                        assert_int_equal(access_judge(&a, route(id), "a"), ACCESS_GRANTED);
                        assert_int_equal(access_judge(&a, route(id), "b"), ACCESS_PROJECT);
                        assert_int_equal(access_judge(&a, route(id), "default"), ACCESS_PROJECT);
                } else
                        assert_int_equal(access_judge(&a, route(id), NULL), is_open ? ACCESS_GRANTED : ACCESS_HOST);
        }
        assert_true(access_sees(&a, "a"));
        assert_false(access_sees(&a, "b"));
        assert_false(access_sees(&a, NULL)); /* what concerns the host alone */
}

/* Nobody on the network may do what anybody on the socket may. */
static void test_unknown(void **state) {
        const struct access a = { .role = SCHEMA_ROLE_NONE, .network = true }, local = { .role = SCHEMA_ROLE_NONE };

        for (enum schema_route_id id = 0; id < ROUTE_COUNT; id++) {
                const bool open = id == ROUTE_CLIENT_ENROL || id == ROUTE_HEALTH_SHOW;

                assert_int_equal(access_judge(&a, route(id), NULL), open ? ACCESS_GRANTED : ACCESS_UNKNOWN);
                assert_int_equal(access_judge(&local, route(id), NULL),
                                 route(id)->role == SCHEMA_ROLE_NONE ? ACCESS_GRANTED : ACCESS_ROLE);
        }
}

static void test_roles(void **state) {
        struct access a = { .network = true, .role = SCHEMA_ROLE_VIEWER };

        assert_int_equal(access_judge(&a, route(ROUTE_MACHINE_LIST), "b"), ACCESS_GRANTED);
        assert_int_equal(access_judge(&a, route(ROUTE_MACHINE_START), "b"), ACCESS_ROLE);
        a.role = SCHEMA_ROLE_OPERATOR;
        assert_int_equal(access_judge(&a, route(ROUTE_MACHINE_START), "b"), ACCESS_GRANTED);
        assert_int_equal(access_judge(&a, route(ROUTE_TOKEN_CREATE), NULL), ACCESS_ROLE);
        a.role = SCHEMA_ROLE_ADMIN;
        assert_int_equal(access_judge(&a, route(ROUTE_TOKEN_CREATE), NULL), ACCESS_GRANTED);
        assert_true(access_sees(&a, "b") && access_sees(&a, NULL));
}

/* What the store holds and nobody understands gives no rights: above all, it is not "all projects". */
static void test_rows(void **state) {
        static const struct {
                const char *role, *projects;
                int result;
                const char *project;
        } cases[] = {
                { "viewer", NULL, 0, "" },
                { "admin", "[\"a\"]", 0, "a" },
                { "operator", "[]", -EINVAL, "" },
                { "root", NULL, -EINVAL, "" },
                { "admin", "[1]", -EINVAL, "" },
                { "admin", "[\"\"]", -EINVAL, "" },
                { "admin", "nonsense", -EINVAL, "" },
                { "admin", "{}", -EINVAL, "" },
                { "admin", "[\"a\",\"b\"]", -EINVAL, "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                struct access a = { .role = SCHEMA_ROLE_NONE };

                assert_int_equal(access_of_client("laptop", cases[i].role, cases[i].projects, &a), cases[i].result);
                assert_string_equal(a.project, cases[i].project);
                assert_true((a.role > SCHEMA_ROLE_NONE) == (cases[i].result == 0));
        }
}

/* The project is found as the parser finds it: an encoded key is no way around. */
static void test_query_has(void **state) {
        assert_true(uri_query_has("limit=2&project=a", "project"));
        assert_true(uri_query_has("pro%6aect=a", "project"));
        assert_true(uri_query_has("project", "project"));
        assert_true(uri_query_has("%zz=1", "project"));
        assert_false(uri_query_has("projects=a&limit=project", "project"));
        assert_false(uri_query_has(NULL, "project"));
}

static void test_tokens(void **state) {
        char *addresses[] = { (char *)"192.0.2.1:8443", (char *)"[2001:db8::1]:8443", (char *)"host.example:443" };
        const struct token t = {
                .secret = { 1, 2, 255 }, .fingerprint = { 9 }, .addresses = addresses, .n_addresses = 3
        };
        _cleanup_(token_freep) struct token *back = NULL, *none = NULL;
        _cleanup_free_ char *text = NULL, *padded = NULL;

        assert_int_equal(token_format(&t, &text), 0);
        assert_int_equal(strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"),
                         strlen(text));
        assert_true(asprintf(&padded, " %s\n", text) > 0);
        assert_int_equal(token_parse(padded, &back, NULL), 0);
        assert_memory_equal(back->secret, t.secret, sizeof(t.secret));
        assert_memory_equal(back->fingerprint, t.fingerprint, sizeof(t.fingerprint));
        assert_int_equal(back->n_addresses, 3);
        assert_string_equal(back->addresses[1], addresses[1]);
        for (size_t n = 0; n < strlen(text); n++) { /* a part of it is none */
                _cleanup_free_ char *part = strndup(text, n);

                assert_int_equal(token_parse(part, &none, NULL), -EINVAL);
        }
        text[20] = '\x1b';
        assert_int_equal(token_parse(text, &none, NULL), -EINVAL);
        assert_int_equal(token_parse("lodge1_e30", &none, NULL), -EINVAL); /* {} */
        assert_null(none);
}

static void test_addresses(void **state) {
        static const struct {
                const char *text, *host, *port;
        } cases[] = {
                { "192.0.2.1:8443", "192.0.2.1", "8443" },
                { "[::1]:1", "::1", "1" },
                { "host:65535", "host", "65535" },
                { "::1:8443", NULL, NULL },
                { "host", NULL, NULL },
                { "host:65536", NULL, NULL },
                { ":8443", NULL, NULL },
                { "[]:1", NULL, NULL },
                { "a b:1", NULL, NULL },
                { "host:", NULL, NULL },
                { "h\n:1", NULL, NULL },
                { "[::1:1", NULL, NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *host = NULL;
                const char *port = NULL;

                assert_int_equal(address_split(cases[i].text, &host, &port), cases[i].host ? 0 : -EINVAL);
                if (cases[i].host) {
                        assert_string_equal(host, cases[i].host);
                        assert_string_equal(port, cases[i].port);
                }
        }
}

/* Made once, private, and the same ever after; damage is no reason to make another. */
static void test_identity(void **state) {
        _cleanup_(identity_freep) struct identity *first = NULL, *second = NULL, *none = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        char path[] = "/tmp/lodge-access.XXXXXX";
        struct stat st;
        int dir, fd;

        assert_non_null(mkdtemp(path));
        dir = open(path, O_RDONLY | O_DIRECTORY);
        assert_int_equal(identity_load(dir, "tls.pem", "test", &first, NULL), 0);
        assert_int_equal(identity_load(dir, "tls.pem", "other", &second, NULL), 0);
        assert_memory_equal(first->fingerprint, second->fingerprint, sizeof(first->fingerprint));
        assert_int_equal(fstatat(dir, "tls.pem", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        fd = openat(dir, "tls.pem", O_WRONLY | O_TRUNC);
        assert_int_equal(write(fd, "x", 1), 1);
        close(fd);
        assert_int_equal(identity_load(dir, "tls.pem", "test", &none, &e), -EIO);
        assert_string_equal(e.id, "tls-identity");
        assert_null(none);
        unlinkat(dir, "tls.pem", 0);
        close(dir);
        assert_int_equal(rmdir(path), 0); /* nothing else was left */
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_one_project), cmocka_unit_test(test_unknown),   cmocka_unit_test(test_roles),
                cmocka_unit_test(test_rows),        cmocka_unit_test(test_query_has), cmocka_unit_test(test_tokens),
                cmocka_unit_test(test_addresses),   cmocka_unit_test(test_identity),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
