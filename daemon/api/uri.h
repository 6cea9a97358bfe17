// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * uri: a request's path and query, taken apart once and strictly
 *
 * A client's text is percent-decoded exactly once, after it was split, so that an encoded slash is part of a name and never divides
 * one. What comes out is UTF-8 without NUL; a part of a path holds no control characters either. Anything else is refused, not repaired.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "schema/schema.h"

#define URI_PARAMETERS_MAX 2
#define URI_PART_MAX       1024 /* bytes of a parameter in a path, encoded */
#define URI_QUERY_KEYS_MAX 32

/**
 * uri_decode() - undo percent-encoding
 * @form:     a + is a space, as in a query
 * @ret_text: allocated
 * Return: 0, -ENOMEM, -EINVAL: a broken escape, a NUL, no UTF-8
 */
int uri_decode(const char *text, size_t n, bool form, char **ret_text);

/**
 * uri_path_match() - does @path, still encoded, fit a route's?
 * @pattern:        "/v1/machines/{name}": {name} takes one part, which is not empty
 * @ret_parameters: what stood there, decoded and allocated; untouched unless 1 is returned
 * Return: 1, 0: it does not fit, -EINVAL: it fits, but a part is too long or cannot be decoded, -ENOMEM
 */
int uri_path_match(const char *pattern, const char *path, char *ret_parameters[static URI_PARAMETERS_MAX]);

/**
 * uri_query_parse() - a query's keys and values as an object of kind @o
 * @o:         what the query may hold; NULL: nothing
 * @query:     still encoded; NULL is the empty one
 * @ret_value: made by schema_parse(); NULL if @o is
 * Return: 0, or -EINVAL "query" or one of the schema's ids, -ENOMEM
 */
int uri_query_parse(const struct schema_object *o, const char *query, void **ret_value, struct error *e);

/** uri_query_has() - does a query hold that key? One that a broken escape makes unreadable counts as held. */
bool uri_query_has(const char *query, const char *key);
