// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parse: from JSON text to a struct, by the tables
 *
 * Theory of operation. Length and nesting are bounded on the raw text first, so that the JSON library sees nothing that
 * could cost it much; it refuses repeated keys and NUL characters. Then each key is looked up in the object's table and
 * its value converted into the struct, and last schema_check() judges the struct as a whole, as it does for one that
 * came from options. Conversion alone therefore only asks whether the type is right and whether the value fits the C
 * type.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "schema/schema.h"

/* Counts nesting outside of strings. What is no JSON at all is left for the parser to refuse. */
static bool too_deep(const char *json, size_t len) {
        unsigned int depth = 0;
        bool string = false;

        for (size_t i = 0; i < len; i++) {
                char c = json[i];

                if (string) {
                        if (c == '\\')
                                i++;
                        else if (c == '"')
                                string = false;
                } else if (c == '"') {
                        string = true;
                } else if (c == '{' || c == '[') {
                        if (++depth > SCHEMA_DEPTH_MAX)
                                return true;
                } else if ((c == '}' || c == ']') && depth > 0) {
                        depth--;
                }
        }
        return false;
}

static const char *type_name(const json_t *j) {
        switch (json_typeof(j)) {
        case JSON_OBJECT:
                return "an object";
        case JSON_ARRAY:
                return "a list";
        case JSON_STRING:
                return "a string";
        case JSON_INTEGER:
                return "an integer";
        case JSON_REAL:
                return "a fraction";
        case JSON_TRUE:
        case JSON_FALSE:
                return "a boolean";
        default:
                return "null";
        }
}

static int wrong_type(const json_t *j, const char *wanted, const struct schema_path *path, struct error *e) {
        return schema_fail(e, path, "schema-type", NULL, "must be %s, not %s", wanted, type_name(j));
}

static int load_object(const struct schema_object *o, json_t *j, void *value, const struct schema_path *path,
                       struct error *e);

/* An integer that passes the field's own limits, and so fits the field's C type. */
static int load_number(const struct schema_field *f, const json_t *j, int64_t *ret, const struct schema_path *path,
                       struct error *e) {
        int64_t v;
        int r;

        if (f->kind == SCHEMA_SIZE && json_is_string(j)) {
                uint64_t bytes;

                r = text_parse_size(json_string_value(j), &bytes);
                if (r < 0 || bytes > INT64_MAX)
                        return schema_fail(e, path, r == -EINVAL ? "schema-type" : "schema-range",
                                           "write bytes, or a number with K, M, G or T", "\"%.64s\" is no size",
                                           json_string_value(j));
                v = (int64_t)bytes;
        } else if (json_is_integer(j)) {
                v = json_integer_value(j);
        } else {
                return wrong_type(j, f->kind == SCHEMA_SIZE ? "a size" : "an integer", path, e);
        }
        r = schema_check_number(f, v, path, e);
        if (r < 0)
                return r;
        *ret = v;
        return 0;
}

static int load_list(const struct schema_field *f, json_t *j, void *value, const struct schema_path *path,
                     struct error *e) {
        size_t n = json_array_size(j);

        if (!json_is_array(j))
                return wrong_type(j, "a list", path, e);
        if (f->max_items > 0 && n > f->max_items)
                return schema_fail(e, path, "schema-too-many", NULL, "%zu items are too many, at most %u are allowed",
                                   n, f->max_items);
        for (size_t i = 0; i < n; i++) {
                const struct schema_path at = { .up = path, .index = (int)i };
                json_t *item = json_array_get(j, i);
                void *object = NULL;
                int64_t v = 0;
                int r;

                if (f->kind == SCHEMA_INT_LIST) {
                        r = load_number(f, item, &v, &at, e);
                        if (r < 0)
                                return r;
                        r = schema_append_int(f, value, (uint32_t)v);
                } else if (f->kind == SCHEMA_STRING_LIST) {
                        if (!json_is_string(item))
                                return wrong_type(item, "a string", &at, e);
                        r = schema_append_string(f, value, json_string_value(item));
                } else {
                        r = schema_list_add(f, value, &object);
                }
                if (r < 0)
                        return schema_fail_oom(e);
                if (object) {
                        r = load_object(f->object, item, object, &at, e);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int load_scalar(const struct schema_field *f, json_t *j, void *value, const struct schema_path *path,
                       struct error *e) {
        void *at = schema_at(value, f->offset);
        int64_t v = 0;
        int r;

        switch (f->kind) {
        case SCHEMA_BOOL:
                if (!json_is_boolean(j))
                        return wrong_type(j, "true or false", path, e);
                *(bool *)at = json_is_true(j);
                return 0;
        case SCHEMA_ENUM:
                if (!json_is_string(j))
                        return wrong_type(j, "a string", path, e);
                r = schema_enum_find(f, json_string_value(j), path, e);
                if (r < 0)
                        return r;
                *(uint32_t *)at = (uint32_t)r;
                return 0;
        case SCHEMA_STRING:
                if (!json_is_string(j))
                        return wrong_type(j, "a string", path, e);
                free(*(char **)at);
                *(char **)at = strdup(json_string_value(j));
                return *(char **)at ? 0 : schema_fail_oom(e);
        default:
                break;
        }

        r = load_number(f, j, &v, path, e);
        if (r < 0)
                return r;
        if (f->kind == SCHEMA_SIZE)
                *(uint64_t *)at = (uint64_t)v;
        else if (f->kind == SCHEMA_FD)
                *(int *)at = (int)v;
        else
                *(uint32_t *)at = (uint32_t)v;
        return 0;
}

static int load_object(const struct schema_object *o, json_t *j, void *value, const struct schema_path *path,
                       struct error *e) {
        const char *key;
        json_t *item;
        int r;

        if (!json_is_object(j))
                return wrong_type(j, "an object", path, e);

        json_object_foreach(j, key, item) {
                const struct schema_path at = { .up = path, .name = key, .index = -1 };
                const struct schema_field *f = NULL;

                for (unsigned int i = 0; i < o->n_fields && !f; i++)
                        if (streq(o->fields[i].name, key))
                                f = &o->fields[i];
                if (!f)
                        return schema_unknown_key(o, key, path, e);

                if (f->kind == SCHEMA_OBJECT)
                        r = load_object(f->object, item, schema_at(value, f->offset), &at, e);
                else if (f->kind >= SCHEMA_INT_LIST)
                        r = load_list(f, item, value, &at, e);
                else
                        r = load_scalar(f, item, value, &at, e);
                if (r < 0)
                        return r;
        }

        for (unsigned int i = 0; i < o->n_fields; i++) {
                const struct schema_path at = { .up = path, .name = o->fields[i].name, .index = -1 };

                if (o->fields[i].required && !json_object_get(j, o->fields[i].name))
                        return schema_fail(e, &at, "schema-required", NULL, "is missing");
        }
        return 0;
}

static int fail_json(const struct schema_object *o, const json_error_t *je, struct error *e) {
        const struct schema_path root = { .name = o->name, .index = -1 };
        const char *id = "schema-json", *text = je->text;

        switch (json_error_code(je)) {
        case json_error_duplicate_key:
                id = "schema-duplicate-key";
                break;
        case json_error_null_character:
        case json_error_null_byte_in_key:
                id = "schema-nul";
                text = "a string must not hold the character NUL";
                break;
        case json_error_stack_overflow:
                id = "schema-too-deep";
                break;
        case json_error_numeric_overflow:
                id = "schema-range";
                break;
        case json_error_out_of_memory:
                return schema_fail_oom(e);
        default:
                break;
        }
        return schema_fail(e, &root, id, NULL, "line %d, column %d: %s", je->line, je->column, text);
}

static int load_text(const struct schema_object *o, const char *json, size_t len, json_t **ret_json, struct error *e) {
        const struct schema_path root = { .name = o->name, .index = -1 };
        json_error_t je;
        json_t *j;

        if (len > SCHEMA_TEXT_MAX)
                return schema_fail(e, &root, "schema-too-long", NULL,
                                   "%zu bytes of JSON are too long, at most %u are allowed", len, SCHEMA_TEXT_MAX);
        if (too_deep(json, len))
                return schema_fail(e, &root, "schema-too-deep", NULL, "more than %u nested objects and lists",
                                   SCHEMA_DEPTH_MAX);
        j = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
        if (!j)
                return fail_json(o, &je, e);
        *ret_json = j;
        return 0;
}

int schema_parse_json(const char *json, size_t len, json_t **ret_json, struct error *e) {
        static const struct schema_object any = { .name = "body" };
        const struct schema_path root = { .name = any.name, .index = -1 };
        json_auto_t *j = NULL;
        int r = load_text(&any, json, len, &j, e);

        if (r < 0)
                return r;
        if (!json_is_object(j))
                return wrong_type(j, "an object", &root, e);
        *ret_json = json_incref(j);
        return 0;
}

int schema_parse(const struct schema_object *o, const char *json, size_t len, void **ret_value, struct error *e) {
        const struct schema_path root = { .name = o->name, .index = -1 };
        json_auto_t *j = NULL;
        void *value = NULL;
        int r = load_text(o, json, len, &j, e);

        if (r < 0)
                return r;
        r = schema_new(o, &value);
        if (r < 0)
                return schema_fail_oom(e);
        r = load_object(o, j, value, &root, e);
        if (r >= 0)
                r = schema_check_fields(o, value, &root, e);
        if (r < 0) {
                schema_free(o, value);
                return r;
        }
        *ret_value = value;
        return 0;
}
