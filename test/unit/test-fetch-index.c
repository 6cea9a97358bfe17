// SPDX-License-Identifier: GPL-2.0-or-later
/* Units of daemon/fetch: indexes as servers write them, hostile ones too; names, paths, armour, SHA-512. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/fetch/index.h"
#include "daemon/fetch/sha512.h"
#include "daemon/fetch/verify.h"
#include "daemon/image/image.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* A path that climbs, or that a URL takes for more than a path, would leave what the source's URL covers. */
static void test_paths(void **state) {
        static const char *const good[] = { "a", "a/b.img", "streams/v1/com.ubuntu.cloud:released:download.json",
                                            "..a/b", "a/20241101_05:24/disk.qcow2" };
        static const char *const bad[] = {
                "",       "/a",  "../a", "a/../b", "a/..", ".",    "./a", "a//b",  "a/",
                "a%2e/b", "a?b", "a#b",  "a b",    "a\nb", "a\\b", "..",  "a/./b", "\xc3\xa4"
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_true(index_path_is_good(good[i]));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(index_path_is_good(bad[i]));
}

static void test_names(void **state) {
        static const struct {
                const char *from, *to; /* NULL: none comes out */
        } table[] = {
                { "Ubuntu/24.04", "ubuntu/24.04" },
                { "Alma Linux/9", "alma-linux/9" },
                { "../../etc", NULL },
                { "a/b/c/d", NULL },
                { "", NULL },
                { "-x-", "x" },
                { "\x1b[31m", "31m" },
        };
        char name[101];

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                bool made = index_name(table[i].from, strlen(table[i].from), name);

                assert_int_equal(made, table[i].to != NULL);
                if (made)
                        assert_string_equal(name, table[i].to);
        }
}

/* Both forms of lines; of two files of one name the better one; no other architectures, no other files. */
static void test_plain(void **state) {
        static const char text[] = DIGEST "  a.raw\n" DIGEST " *a.qcow2\r\nSHA256 (b.img.xz) = " DIGEST "\n" DIGEST
                                          "  c-arm64.qcow2\n" DIGEST "  notes.txt\n" DIGEST "  ../d.raw\n" DIGEST
                                          "  ./e.IMG\nabc  f.raw\n\n" DIGEST "\n" DIGEST;
        _cleanup_(fetch_result_freep) struct fetch_result *r = NULL;

        assert_int_equal(fetch_result_new(&r), 0);
        assert_int_equal(index_plain(text, sizeof(text) - 1, r, NULL), 0);
        assert_int_equal(r->n_items, 3);
        assert_string_equal(r->items[0].name, "a");
        assert_string_equal(r->items[0].path, "a.qcow2");
        assert_int_equal(r->items[0].format, PULL_FORMAT_QCOW2);
        assert_string_equal(r->items[1].name, "b");
        assert_int_equal(r->items[1].format, PULL_FORMAT_IMG_XZ);
        assert_string_equal(r->items[2].name, "e");
        assert_string_equal(r->items[2].digest, DIGEST);
}

/* A server names more than anybody needs: the list ends, and the rest costs no memory. */
static void test_plain_is_bounded(void **state) {
        _cleanup_(fetch_result_freep) struct fetch_result *r = NULL;
        _cleanup_free_ char *text = NULL;
        size_t n;
        FILE *f = open_memstream(&text, &n);

        for (int i = 0; i < 5000; i++)
                fprintf(f, DIGEST "  image%d.raw\n", i);
        fclose(f);
        assert_int_equal(fetch_result_new(&r), 0);
        assert_int_equal(index_plain(text, n, r, NULL), 0);
        assert_int_equal(r->n_items, INDEX_ITEMS_MAX);
}

#define ITEM(ftype, size)                                                                                              \
        "{\"ftype\": \"" ftype "\", \"path\": \"i/d.img\", \"size\": " size ", \"sha256\": \"" DIGEST "\"}"
#define PRODUCT(arch, versions)                                                                                        \
        "{\"arch\": \"" arch                                                                                           \
        "\", \"os\": \"Debian\", \"release\": \"12\", \"aliases\": \"x,Y z,\", \"versions\": " versions "}"
#define PRODUCTS(p) "{\"products\": {\"p\": " p "}}"

static size_t count(const char *text, struct fetch_result **ret) {
        assert_int_equal(fetch_result_new(ret), 0);
        assert_int_equal(index_simplestreams(text, strlen(text), *ret, NULL), 0);
        return (*ret)->n_items;
}

static void test_simplestreams(void **state) {
        static const char text[] = PRODUCTS(
                PRODUCT("amd64",
                        "{\"20240102\": {\"items\": {\"a\": " ITEM(
                                "disk1.img",
                                "7") "}}, \"20240101\": {\"items\": {\"a\": " ITEM("disk1.img",
                                                                                   "8") "}}, \"20240103\": {\"items\": "
                                                                                        "{\"a\": " ITEM("root.tar.xz",
                                                                                                        "9") "}}}"));
        _cleanup_(fetch_result_freep) struct fetch_result *r = NULL;

        assert_int_equal(count(text, &r), 1);
        assert_string_equal(r->items[0].name, "debian/12");
        assert_string_equal(r->items[0].version, "20240102"); /* the newest with a disk */
        assert_int_equal(r->items[0].size, 7);
        assert_int_equal(r->items[0].n_aliases, 2);
        assert_string_equal(r->items[0].aliases[1], "y-z");
}

/* What is wrong in one entry costs that entry. */
static void test_simplestreams_left_out(void **state) {
        static const char *const texts[] = {
                PRODUCTS(PRODUCT("arm64", "{\"1\": {\"items\": {\"a\": " ITEM("disk1.img", "7") "}}}")),
                PRODUCTS(PRODUCT("amd64", "{\"1\": {\"items\": {\"a\": " ITEM("disk1.img", "-7") "}}}")),
                PRODUCTS(PRODUCT("amd64", "{\"1\": {\"items\": {\"a\": " ITEM("disk1.img", "\"7\"") "}}}")),
                PRODUCTS(PRODUCT("amd64", "{\"1\": {\"items\": {\"a\": " ITEM("disk1.img", "1e3") "}}}")),
                PRODUCTS(PRODUCT("amd64", "{\"1\": {\"items\": [1, 2]}, \"2\": 7}")),
                PRODUCTS(PRODUCT("amd64", "7")),
                PRODUCTS("[]"),
                "{\"products\": 7}",
                "{}",
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                _cleanup_(fetch_result_freep) struct fetch_result *r = NULL;

                assert_int_equal(count(texts[i], &r), 0);
        }
}

static void test_index(void **state) {
        static const char text[] = "{\"index\": {\"a\": {\"path\": \"../x.json\"}, \"b\": {\"path\": \"s/b.json\", "
                                   "\"datatype\": \"image-downloads\"}, "
                                   "\"c\": {\"path\": \"s/c.json\", \"datatype\": \"image-ids\"}, \"d\": {\"path\": "
                                   "\"s/d.txt\"}, \"e\": 7}}";
        char *paths[INDEX_PRODUCTS_MAX];
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(index_products(text, sizeof(text) - 1, paths, NULL), 1);
        assert_string_equal(paths[0], "s/b.json");
        free(paths[0]);
        assert_true(index_products("{\"index\": {}}", 13, paths, &e) < 0);
        assert_string_equal(e.id, "fetch-index");
        assert_true(index_products("nonsense", 8, paths, NULL) < 0);
}

static void test_armour(void **state) {
        static const char two[] =
                "-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\naGVs\nbG8=\n=abcd\n-----END PGP PUBLIC KEY "
                "BLOCK-----\n"
                "text\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nIQ==\n-----END PGP PUBLIC KEY BLOCK-----\n";
        static const char *const bad[] = {
                "", "x", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\naGVs\n",
                "-----BEGIN PGP PUBLIC KEY BLOCK-----\naGVs\n-----END PGP PUBLIC KEY BLOCK-----"
        };
        unsigned char *data;
        size_t n;

        assert_int_equal(keyring_of_armour(two, &data, &n), 0);
        assert_int_equal(n, 6);
        assert_memory_equal(data, "hello!", 6);
        free(data);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(keyring_of_armour(bad[i], &data, &n), -EINVAL);
}

/* FIPS 180-4's examples, and every length around a block's end. */
static void test_sha512(void **state) {
        static const char abc[] = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba"
                                  "3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        char hex[SHA512_HEX_SIZE], again[SHA512_HEX_SIZE];
        uint8_t data[300] = { 0 };
        struct sha512 s;

        sha512_init(&s);
        sha512_update(&s, "abc", 3);
        sha512_final_hex(&s, hex);
        assert_string_equal(hex, abc);
        for (size_t n = 100; n < sizeof(data); n++) {
                sha512_init(&s);
                sha512_update(&s, data, n);
                sha512_final_hex(&s, hex);
                sha512_init(&s);
                for (size_t i = 0; i < n; i++)
                        sha512_update(&s, data + i, 1);
                sha512_final_hex(&s, again);
                assert_string_equal(hex, again);
        }
}

/* What qemu-img reads, with its caller's user, comes from no server: neither an index nor the broker's caller can say so. */
static void test_pull_formats(void **state) {
        static const char *const formats[] = { "raw", "qcow2", "raw-xz", "img", "img-xz", "vmdk", "vhdx" };
        _cleanup_error_ struct error e = ERROR_INIT;

        for (size_t i = 0; i < ELEMENTSOF(formats); i++) {
                _cleanup_(broker_pull_args_freep) struct broker_pull_args *args = NULL;
                _cleanup_(fetch_result_freep) struct fetch_result *result = NULL;
                char text[512];

                snprintf(text, sizeof(text),
                         "{\"name\": \"a\", \"url\": \"http://a/\", \"digest\": \"" DIGEST
                         "\", \"catalogue\": \"a:a\", \"format\": \"%s\"}",
                         formats[i]);
                assert_int_equal(broker_pull_args_parse(text, strlen(text), &args, NULL) == 0, i < 5);
                snprintf(text, sizeof(text),
                         "{\"items\": [{\"name\": \"a\", \"path\": \"a\", \"digest\": \"" DIGEST
                         "\", \"format\": \"%s\"}]}",
                         formats[i]);
                assert_int_equal(fetch_result_parse(text, strlen(text), &result, NULL) == 0, i < 5);
        }
        assert_int_equal(image_pull(NULL, &(const struct image_pull){ .name = "a", .format = "vmdk" }, NULL, &e),
                         -EINVAL);
        assert_string_equal(e.id, "image-format");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_paths),         cmocka_unit_test(test_names),
                cmocka_unit_test(test_plain),         cmocka_unit_test(test_plain_is_bounded),
                cmocka_unit_test(test_simplestreams), cmocka_unit_test(test_simplestreams_left_out),
                cmocka_unit_test(test_index),         cmocka_unit_test(test_armour),
                cmocka_unit_test(test_sha512),        cmocka_unit_test(test_pull_formats),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
