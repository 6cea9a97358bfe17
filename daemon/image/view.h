// SPDX-License-Identifier: GPL-2.0-or-later
/* view: an image as clients see it (schema: image_view): the broker answers it, and the command line shows it without a daemon */
#pragma once

#include <jansson.h>

#include "daemon/image/image.h"

/** image_view_json() - of one image; NULL without memory. */
json_t *image_view_json(const struct image *image);

/** image_page_json() - of all in a store, as {"items": [...]}. Return: 0 or -errno with @e. */
int image_page_json(struct image_store *store, json_t **ret, struct error *e);
