// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * meta: image.json, to and from struct image
 */
#pragma once

#include "daemon/image/image.h"

#define IMAGE_META_FILE "image.json"

/** image_meta_load() - read and check image.json below @dir_fd into @image (name and dir are the caller's). */
int image_meta_load(int dir_fd, struct image *image, struct error *error);

/** image_meta_format() - the text of image.json; free() it. NULL without memory. */
char *image_meta_format(const struct image *image);

/** image_name_to_dir() - "debian/12" to "debian@12"; NULL without memory. */
char *image_name_to_dir(const char *name);

/** image_dir_to_name() - the way back; NULL when it is no image's directory or without memory. */
char *image_dir_to_name(const char *dir);

/** image_set_string() - replace an owned string by a copy; NULL clears; -ENOMEM. */
int image_set_string(char **field, const char *value);
