// SPDX-License-Identifier: GPL-2.0-or-later
/* render-value: one value of an answer as text, for a cell of a table or of CSV */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "schema/lodge-schema.h"

/** value_is_empty() - nothing, null, "" or a list without items. */
bool value_is_empty(const json_t *value);

/**
 * value_text() - as text, not escaped yet
 * @field:  what the schema says of it, or of the list that it is in
 * @people: sizes as "1.5 GiB", and of an object what is not as it would be by itself, "disk.raw,format=raw"; else sizes in bytes,
 *          objects as JSON
 *
 * Pairs like labels are KEY=VALUE in both. Return: allocated; NULL without memory.
 */
char *value_text(const json_t *value, const struct schema_field *field, bool people);
