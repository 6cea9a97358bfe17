// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * format: from a struct to JSON text
 *
 * Every field is written, in the schema's order, but for those that are not set (a NULL string, an optional number that
 * is 0): what was written parses to the same struct again.
 */
#include <jansson.h>

#include "schema/schema.h"

static json_t *object_json(const struct schema_object *o, const void *value);

static json_t *list_json(const struct schema_field *f, const void *value) {
        size_t n = *(const size_t *)schema_at_const(value, f->n_offset);
        const void *items = *(void *const *)schema_at_const(value, f->offset);
        json_t *list = json_array();

        for (size_t i = 0; list && i < n; i++) {
                json_t *item;

                if (f->kind == SCHEMA_INT_LIST)
                        item = json_integer(((const uint32_t *)items)[i]);
                else if (f->kind == SCHEMA_STRING_LIST)
                        item = json_string(((char *const *)items)[i]);
                else
                        item = object_json(f->object, (const char *)items + i * f->object->size);
                if (json_array_append_new(list, item) < 0) { /* takes @item, and refuses NULL */
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}

/* *@ret_set is false where the field holds nothing. Return: a new reference, or NULL when there is no memory. */
static json_t *field_json(const struct schema_field *f, const void *value, bool *ret_set) {
        const void *at = schema_at_const(value, f->offset);

        *ret_set = true;
        switch (f->kind) {
        case SCHEMA_BOOL:
                return json_boolean(*(const bool *)at);
        case SCHEMA_INT:
                *ret_set = !f->optional_number || *(const uint32_t *)at != 0;
                return json_integer(*(const uint32_t *)at);
        case SCHEMA_FD:
                return json_integer(*(const int *)at);
        case SCHEMA_SIZE:
                *ret_set = !f->optional_number || *(const uint64_t *)at != 0;
                return json_integer((json_int_t) * (const uint64_t *)at);
        case SCHEMA_ENUM:
                if (*(const uint32_t *)at >= f->values->n_names)
                        return NULL;
                return json_string(f->values->names[*(const uint32_t *)at]);
        case SCHEMA_STRING:
                *ret_set = *(char *const *)at != NULL;
                return *ret_set ? json_string(*(char *const *)at) : json_null();
        case SCHEMA_OBJECT:
                return object_json(f->object, at);
        case SCHEMA_INT_LIST:
        case SCHEMA_STRING_LIST:
        case SCHEMA_OBJECT_LIST:
                return list_json(f, value);
        }
        return NULL;
}

static json_t *object_json(const struct schema_object *o, const void *value) {
        json_t *object = json_object();

        for (unsigned int i = 0; object && i < o->n_fields; i++) {
                bool set;
                json_t *item = field_json(&o->fields[i], value, &set);

                if (item && !set)
                        json_decref(item);
                else if (json_object_set_new(object, o->fields[i].name, item) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}

char *schema_format(const struct schema_object *o, const void *value) {
        json_t *object = object_json(o, value);
        char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

        json_decref(object);
        return text;
}
