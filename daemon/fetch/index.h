// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * index: what a server says that it has, as a list of images
 *
 * Two forms. `simplestreams`: streams/v1/index.json names files of products; a product has versions, a version items, an item a ftype, a path, a size and a
 * SHA-256. Of each product for this architecture the newest version's disk image is taken (index-simplestreams.c). `plain`: the lines of SHA256SUMS or SHA512SUMS,
 * as sha256sum(1) writes them, or as BSD does (index-plain.c).
 *
 * The text is hostile: names are made into ours or left out; a path stays below the source's URL and holds nothing that a URL would take for more
 * than a path; numbers and texts are bounded; what does not fit is left out, since one bad entry is no reason to do without the others.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

#define INDEX_BYTES_MAX    (64u << 20)
#define INDEX_PRODUCTS_MAX 8 /* files of products in one index */
#define INDEX_ITEMS_MAX    2000

/** index_path_is_good() - a path below the source's URL, that is nothing else. */
bool index_path_is_good(const char *path);

/** index_name() - a name of ours made of what a server calls it: lower case, '-' for what can't be; false if nothing comes out. */
bool index_name(const char *text, size_t n, char ret_name[static 101]);

/** index_products() - the paths of the files of products in an index.json. Return: how many, or -errno with @e. */
int index_products(const char *text, size_t n, char *ret_paths[static INDEX_PRODUCTS_MAX], struct error *e);

/** index_simplestreams() - add the images in a file of products. Return: 0 or -errno with @e. */
int index_simplestreams(const char *text, size_t n, struct fetch_result *result, struct error *e);

/** index_plain() - add the images in a file of checksums. */
int index_plain(const char *text, size_t n, struct fetch_result *result, struct error *e);
