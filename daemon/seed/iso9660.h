// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * iso9660: a file system of a few files, in memory (ECMA-119, interchange level 2 but for the '-' in names)
 */
#pragma once

#include <stddef.h>

#define ISO_FILES_MAX 16
#define ISO_NAME_MAX  28          /* bytes, without ".;1" */
#define ISO_SIZE_MAX  (16u << 20) /* bytes of all files together */

struct iso_file {
        const char *name; /* upper case letters, digits, '-', '_'; Linux shows it in lower case */
        const void *data;
        size_t size;
};

/**
 * iso_make() - the file system's bytes, always the same for the same files
 * @volume:    its id, up to 32 characters
 * @files:     up to ISO_FILES_MAX, in the order of their names; those with data NULL are left out
 * @ret_image: a multiple of 2048 bytes; free() it
 *
 * Return: 0, -EINVAL (too many, too large, a name too long or out of order), -ENOMEM.
 */
int iso_make(const char *volume, const struct iso_file *files, size_t n_files, void **ret_image, size_t *ret_size);
