// SPDX-License-Identifier: GPL-2.0-or-later
/* uri: see uri.h */
#include "daemon/api/uri.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

int uri_decode(const char *text, size_t n, bool form, char **ret_text) {
        _cleanup_free_ char *out = malloc(n + 1);
        size_t len = 0;

        if (!out)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                int high, low;

                out[len] = text[i];
                if (text[i] == '%') {
                        if (n - i < 3)
                                return -EINVAL;
                        high = g_ascii_xdigit_value(text[i + 1]);
                        low = g_ascii_xdigit_value(text[i + 2]);
                        if (high < 0 || low < 0)
                                return -EINVAL;
                        out[len] = (char)(high << 4 | low);
                        i += 2;
                } else if (text[i] == '+' && form)
                        out[len] = ' ';
                if (out[len++] == 0)
                        return -EINVAL;
        }
        out[len] = 0;
        if (!g_utf8_validate(out, (gssize)len, NULL))
                return -EINVAL;
        *ret_text = TAKE_PTR(out);
        return 0;
}

/* A part of a path is shown to people: nothing in it moves their cursor. */
static int part_decode(const char *text, size_t n, char **ret_text) {
        _cleanup_free_ char *part = NULL;
        int r = n > URI_PART_MAX ? -EINVAL : uri_decode(text, n, false, &part);

        if (r < 0)
                return r;
        for (const char *p = part; *p; p++)
                if ((unsigned char)*p < 0x20 || *p == 0x7f)
                        return -EINVAL;
        *ret_text = TAKE_PTR(part);
        return 0;
}

int uri_path_match(const char *pattern, const char *path, char *ret_parameters[static URI_PARAMETERS_MAX]) {
        struct {
                const char *text;
                size_t n;
        } parts[URI_PARAMETERS_MAX];
        char *decoded[URI_PARAMETERS_MAX] = { NULL };
        size_t n_parts = 0;
        int r = 0;

        while (*pattern && *path) {
                if (*pattern == '{') {
                        size_t n = strcspn(path, "/");

                        if (n == 0 || n_parts == URI_PARAMETERS_MAX)
                                return 0;
                        parts[n_parts].text = path;
                        parts[n_parts++].n = n;
                        path += n;
                        pattern += strcspn(pattern, "}");
                        pattern += *pattern == '}';
                } else if (*pattern++ != *path++)
                        return 0;
        }
        if (*pattern || *path)
                return 0;
        for (size_t i = 0; i < n_parts && r == 0; i++)
                r = part_decode(parts[i].text, parts[i].n, &decoded[i]);
        for (size_t i = 0; i < URI_PARAMETERS_MAX; i++) {
                if (r == 0)
                        ret_parameters[i] = decoded[i];
                else
                        free(decoded[i]);
        }
        return r < 0 ? r : 1;
}

/* ---- queries -------------------------------------------------------------------------------------------------------- */

/* A query's text as the JSON that its field wants; what is of the wrong form stays text, for the schema to complain about. */
static json_t *value_json(const struct schema_field *f, const char *text) {
        uint64_t number;

        if (!text)
                return NULL;
        switch (f->kind) {
        case SCHEMA_BOOL:
                return streq(text, "true") || streq(text, "1") || !*text ? json_true()
                       : streq(text, "false") || streq(text, "0")        ? json_false()
                                                                         : json_string(text);
        case SCHEMA_INT:
                return text_parse_uint(text, INT64_MAX, &number) == 0 ? json_integer((json_int_t)number)
                                                                      : json_string(text);
        default:
                return json_string(text);
        }
}

static int fail(struct error *e, const char *what) {
        return error_set(e, -EINVAL, "query", "the OpenAPI document lists what there is: GET /v1/openapi.json",
                         "the query %s", what);
}

static int pair_add(const struct schema_object *o, json_t *object, const char *pair, size_t n, struct error *e) {
        const char *equals = memchr(pair, '=', n);
        size_t n_key = equals ? (size_t)(equals - pair) : n;
        _cleanup_free_ char *key = NULL, *value = NULL;
        const struct schema_field *field;
        int r = uri_decode(pair, n_key, true, &key);

        if (r == 0)
                r = uri_decode(equals ? equals + 1 : "", equals ? n - n_key - 1 : 0, true, &value);
        if (r == -EINVAL)
                return fail(e, "holds a broken escape, or what is no UTF-8 text");
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot read the query");
        field = schema_field_find(o, key);
        if (!field)
                return fail(e, "has a key that this request does not take");
        if (json_object_get(object, key))
                return fail(e, "has a key twice");
        return json_object_set_new(object, key, value_json(field, value)) < 0
                       ? error_set(e, -ENOMEM, "memory", NULL, "cannot read the query")
                       : 0;
}

int uri_query_parse(const struct schema_object *o, const char *query, void **ret_value, struct error *e) {
        json_auto_t *object = json_object();
        _cleanup_free_ char *text = NULL;
        int r = 0;

        for (const char *pair = query; pair && *pair && r == 0;) {
                size_t n = strcspn(pair, "&");

                if (json_object_size(object) == URI_QUERY_KEYS_MAX)
                        r = fail(e, "has too many keys");
                else if (n > 0)
                        r = pair_add(o, object, pair, n, e);
                pair += n + (pair[n] == '&');
        }
        if (r < 0)
                return r;
        if (!o) {
                *ret_value = NULL;
                return 0;
        }
        text = object ? json_dumps(object, JSON_COMPACT) : NULL;
        if (!text)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the query");
        return schema_parse(o, text, strlen(text), ret_value, e);
}

bool uri_query_has(const char *query, const char *key) {
        for (const char *pair = query; pair && *pair;) {
                size_t n = strcspn(pair, "&");
                const char *equals = memchr(pair, '=', n);
                _cleanup_free_ char *name = NULL;

                if (uri_decode(pair, equals ? (size_t)(equals - pair) : n, true, &name) < 0 || streq(name, key))
                        return true;
                pair += n + (pair[n] == '&');
        }
        return false;
}
