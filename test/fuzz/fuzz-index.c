// SPDX-License-Identifier: GPL-2.0-or-later
/* fuzz-index: what a server of images says that it has: the first byte chooses the form, the rest is the index; and keys in armour */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/fetch/index.h"
#include "daemon/fetch/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whatever comes out, others build on: names that are ours, paths that stay below. */
static void judge(const struct fetch_result *r) {
        char name[101];

        for (size_t i = 0; i < r->n_items; i++)
                if (!index_path_is_good(r->items[i].path) ||
                    !index_name(r->items[i].name, strlen(r->items[i].name), name) || !streq(name, r->items[i].name))
                        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(fetch_result_freep) struct fetch_result *r = NULL, *again = NULL;
        _cleanup_free_ char *text = NULL, *json = NULL;
        char *paths[INDEX_PRODUCTS_MAX];
        unsigned char *keys;
        size_t n;

        if (size == 0 || fetch_result_new(&r) < 0)
                return 0;
        text = strndup((const char *)data + 1, size - 1);
        if (!text)
                return 0;
        switch (data[0] & 3) {
        case 0:
                index_plain((const char *)data + 1, size - 1, r, NULL);
                break;
        case 1:
                index_simplestreams((const char *)data + 1, size - 1, r, NULL);
                break;
        case 2: {
                int found = index_products((const char *)data + 1, size - 1, paths, NULL);

                for (int i = 0; i < found; i++)
                        free(paths[i]);
                break;
        }
        default:
                if (keyring_of_armour(text, &keys, &n) == 0)
                        free(keys);
        }
        judge(r);
        json = fetch_result_format(r);
        if (json && fetch_result_parse(json, strlen(json), &again, NULL) < 0)
                abort(); /* the other side would refuse it */
        return 0;
}
