// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * base64: RFC 4648, §4, without line breaks
 */
#pragma once

#include <stddef.h>

/** base64_encode() - NUL-terminated text; free() it. NULL without memory. */
char *base64_encode(const void *data, size_t len);

/**
 * base64_decode() - the strict way back: whole groups, padding where it belongs, no bits set that mean nothing
 * @ret_data: allocated, with a NUL behind it; untouched on failure
 * Return: 0, -EINVAL, -ENOMEM.
 */
int base64_decode(const char *text, size_t len, unsigned char **ret_data, size_t *ret_len);
