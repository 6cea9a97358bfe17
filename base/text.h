// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * text: numbers and sizes as people write them, and what of a text a terminal only shows
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** text_copy() - strdup() that takes NULL, and gives it back. */
char *text_copy(const char *text);

/** text_parse_uint() - decimal or 0x-hexadecimal, whole string, no sign or space; -EINVAL, -ERANGE beyond @max. */
int text_parse_uint(const char *text, uint64_t max, uint64_t *ret_value);

/**
 * text_parse_size() - bytes: a decimal number with an optional unit K, M, G, T (or KiB, KB ...: all powers of 1024)
 *
 * "512M", "2GiB", "1.5G" are fine. Return: 0, -EINVAL when it is no size, -ERANGE when it does not fit 64 bits.
 */
int text_parse_size(const char *text, uint64_t *ret_bytes);

/** text_shell_quote() - a word that sh(1) takes as @text, whatever is in it; allocated; NULL without memory. */
char *text_shell_quote(const char *text);

/** text_lies_below() - is @path the directory @root or something in it? Both are names without links; "/" holds everything. */
bool text_lies_below(const char *path, const char *root);

#define TEXT_SIZE_MAX 32
/** text_format_size() - "1.5 GiB", "300 MiB", "12 B"; @buf holds TEXT_SIZE_MAX bytes; returns @buf. */
const char *text_format_size(uint64_t bytes, char buf[static TEXT_SIZE_MAX]);

/**
 * text_char() - the next character of a text that may come from anywhere, not empty
 * @ret_plain: a terminal shows it; false for controls (of C1, too), for marks that change the direction or break the line, and for a byte that is
 *             no UTF-8
 *
 * Return: its bytes, 1 to 4.
 */
size_t text_char(const char *text, bool *ret_plain);
