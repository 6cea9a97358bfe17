// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * text: numbers and sizes as people write them
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/** text_parse_uint() - decimal or 0x-hexadecimal, whole string, no sign or space; -EINVAL, -ERANGE beyond @max. */
int text_parse_uint(const char *text, uint64_t max, uint64_t *ret_value);

/**
 * text_parse_size() - bytes: a decimal number with an optional unit K, M, G, T (or KiB, KB ...: all powers of 1024)
 *
 * "512M", "2GiB", "1.5G" are fine. Return: 0, -EINVAL when it is no size, -ERANGE when it does not fit 64 bits.
 */
int text_parse_size(const char *text, uint64_t *ret_bytes);

#define TEXT_SIZE_MAX 32
/** text_format_size() - "1.5 GiB", "300 MiB", "12 B"; @buf holds TEXT_SIZE_MAX bytes; returns @buf. */
const char *text_format_size(uint64_t bytes, char buf[static TEXT_SIZE_MAX]);
