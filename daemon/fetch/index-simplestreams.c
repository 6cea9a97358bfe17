// SPDX-License-Identifier: GPL-2.0-or-later
/* index-simplestreams: see index.h */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/fetch/index.h"
#include "daemon/image/image.h"

#define NAME_MAX_BYTES 100
#define ALIASES_MAX    16
#define TEXT_MAX       255

/* The disk images among a version's items, the better ones first. Both servers of note call their qcow2 files .img. */
static const struct {
        const char *ftype;
        enum pull_format format;
} ftypes[] = {
        { "disk1.img", PULL_FORMAT_IMG },      { "disk-kvm.img", PULL_FORMAT_IMG }, { "disk.qcow2", PULL_FORMAT_QCOW2 },
        { "disk.img", PULL_FORMAT_IMG },       { "disk.raw", PULL_FORMAT_RAW },     { "uefi1.img", PULL_FORMAT_IMG },
        { "disk.raw.xz", PULL_FORMAT_RAW_XZ },
};

static json_t *parse(const char *text, size_t n, const char *what, struct error *e) {
        json_error_t je;
        json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);

        if (json_is_object(root))
                return root;
        error_set(e, -EPROTO, "fetch-index", "check the source's URL and type: lodge image source list",
                  "the source's %s is no JSON object: %s", what, root ? "it is something else" : je.text);
        json_decref(root);
        return NULL;
}

static const char *text_of(const json_t *o, const char *key) {
        const json_t *v = json_object_get(o, key);
        const char *text = json_string_value(v);

        return text && json_string_length(v) == strlen(text) ? text : NULL;
}

/* A text to show, of a reasonable length and without controls. */
static char *plain_text(const char *text) {
        char *copy = text && strlen(text) <= TEXT_MAX ? strdup(text) : NULL;

        for (char *p = copy; p && *p; p++)
                if ((unsigned char)*p < ' ' || (unsigned char)*p >= 127)
                        *p = '?';
        return copy;
}

int index_products(const char *text, size_t n, char *ret_paths[static INDEX_PRODUCTS_MAX], struct error *e) {
        json_auto_t *root = parse(text, n, "index", e);
        const char *key;
        json_t *entry;
        int found = 0;

        if (!root)
                return -EPROTO;
        json_object_foreach(json_object_get(root, "index"), key, entry) {
                const char *path = text_of(entry, "path"), *type = text_of(entry, "datatype");

                if (found < INDEX_PRODUCTS_MAX && path && index_path_is_good(path) && strlen(path) > 5 &&
                    streq(path + strlen(path) - 5, ".json") && (!type || streq(type, "image-downloads"))) {
                        ret_paths[found] = strdup(path);
                        if (!ret_paths[found])
                                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the index");
                        found++;
                }
        }
        if (found == 0)
                return error_set(e, -ENOENT, "fetch-index", "check the source's URL: lodge image source list",
                                 "the source's index names no images");
        return found;
}

/* The newest version that has a disk image. Versions are dates and numbers: their texts' order is theirs. */
static const json_t *newest(const json_t *product, const char **ret_version, enum pull_format *ret_format) {
        const json_t *best = NULL;
        const char *version;
        json_t *v;

        json_object_foreach(json_object_get(product, "versions"), version, v) {
                const json_t *items = json_object_get(v, "items");

                if (best && strcmp(version, *ret_version) <= 0)
                        continue;
                for (size_t i = 0; i < ELEMENTSOF(ftypes); i++) {
                        const json_t *item = NULL;
                        const char *key;
                        json_t *candidate;

                        json_object_foreach((json_t *)(uintptr_t)items, key, candidate) {
                                const char *ftype = text_of(candidate, "ftype");

                                if (ftype && streq(ftype, ftypes[i].ftype))
                                        item = candidate;
                        }
                        if (item) {
                                best = item;
                                *ret_version = version;
                                *ret_format = ftypes[i].format;
                                break;
                        }
                }
        }
        return best;
}

/* "ubuntu/24.04", "debian/bookworm/cloud". Ubuntu gives a version, others a release; "default" says nothing. */
static bool product_name(const json_t *product, char ret_name[static NAME_MAX_BYTES + 1]) {
        const char *os = text_of(product, "os"), *release = text_of(product, "version") ?: text_of(product, "release");
        const char *variant = text_of(product, "variant");
        char joined[256];
        int n;

        if (!os || !release || strchr(os, '/') || strchr(release, '/'))
                return false;
        if (variant && !streq(variant, "default"))
                n = snprintf(joined, sizeof(joined), "%s/%s/%s", os, release, variant);
        else
                n = snprintf(joined, sizeof(joined), "%s/%s", os, release);
        return n > 0 && (size_t)n < sizeof(joined) && index_name(joined, (size_t)n, ret_name);
}

static int add_alias(struct fetch_item *item, const char *text, size_t n) {
        char name[NAME_MAX_BYTES + 1];
        char **grown;

        if (n == 0 || item->n_aliases >= ALIASES_MAX || !index_name(text, n, name))
                return 0;
        grown = reallocarray(item->aliases, item->n_aliases + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        item->aliases = grown;
        grown[item->n_aliases] = strdup(name);
        if (!grown[item->n_aliases])
                return -ENOMEM;
        item->n_aliases++;
        return 0;
}

static int fill(struct fetch_item *item, const json_t *product, const json_t *file, const char *name,
                const char *version, enum pull_format format) {
        const char *aliases = text_of(product, "aliases");
        const char *digest = text_of(file, "sha256") ?: text_of(file, "sha512");
        json_int_t size = json_integer_value(json_object_get(file, "size"));
        int r = 0;

        item->name = strdup(name);
        item->path = strdup(text_of(file, "path"));
        item->digest = strdup(digest);
        item->version = plain_text(version);
        item->title = plain_text(text_of(product, "release_title") ?: text_of(product, "release"));
        item->size = (uint64_t)size;
        item->format = format;
        while (aliases && r == 0) {
                size_t n = strcspn(aliases, ",");

                r = add_alias(item, aliases, n);
                aliases = aliases[n] ? aliases + n + 1 : NULL;
        }
        return r < 0 || !item->name || !item->path || !item->digest ? -ENOMEM : 0;
}

static bool is_good_file(const json_t *file) {
        const char *path = text_of(file, "path"), *digest = text_of(file, "sha256") ?: text_of(file, "sha512");
        const json_t *size = json_object_get(file, "size");
        size_t n = digest ? strlen(digest) : 0;

        return path && index_path_is_good(path) && (n == 64 || n == 128) && strspn(digest, "0123456789abcdef") == n &&
               json_is_integer(size) && json_integer_value(size) > 0 && json_integer_value(size) <= (json_int_t)1 << 46;
}

static int add_product(const json_t *product, struct fetch_result *result) {
        const char *arch = text_of(product, "arch"), *version = NULL;
        enum pull_format format = PULL_FORMAT_RAW;
        char name[NAME_MAX_BYTES + 1];
        struct fetch_item *item;
        const json_t *file;

        if (!arch || !(streq(arch, "amd64") || streq(arch, "x86_64")) || !product_name(product, name))
                return 0;
        file = newest(product, &version, &format);
        if (!file || !is_good_file(file) || result->n_items >= INDEX_ITEMS_MAX)
                return 0;
        for (size_t i = 0; i < result->n_items; i++)
                if (streq(result->items[i].name, name))
                        return 0; /* the first one of that name */
        if (fetch_result_add_items(result, &item) < 0)
                return -ENOMEM;
        return fill(item, product, file, name, version, format);
}

int index_simplestreams(const char *text, size_t n, struct fetch_result *result, struct error *e) {
        json_auto_t *root = parse(text, n, "file of products", e);
        const char *key;
        json_t *product;
        int r = 0;

        if (!root)
                return -EPROTO;
        json_object_foreach(json_object_get(root, "products"), key, product) {
                r = add_product(product, result);
                if (r < 0)
                        return error_set(e, r, "memory", NULL, "cannot read the index");
        }
        return 0;
}
