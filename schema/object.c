// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * object: defaults, lists and freeing, by the tables
 *
 * A list is two members of its struct: a pointer to an array that realloc() owns, and its length. Items of an object list
 * lie in the array by value, so that a caller writes config->disks[i].fd.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/schema.h"

static int field_init(const struct schema_field *f, void *value) {
        void *at = schema_at(value, f->offset);

        switch (f->kind) {
        case SCHEMA_BOOL:
                *(bool *)at = f->preset != 0;
                return 0;
        case SCHEMA_INT:
        case SCHEMA_ENUM:
                *(uint32_t *)at = (uint32_t)f->preset;
                return 0;
        case SCHEMA_FD:
                *(int *)at = (int)f->preset;
                return 0;
        case SCHEMA_SIZE:
                *(uint64_t *)at = (uint64_t)f->preset;
                return 0;
        case SCHEMA_STRING:
                if (!f->preset_text)
                        return 0;
                *(char **)at = strdup(f->preset_text);
                return *(char **)at ? 0 : -ENOMEM;
        case SCHEMA_OBJECT:
                return schema_init(f->object, at);
        case SCHEMA_INT_LIST:
        case SCHEMA_STRING_LIST:
        case SCHEMA_OBJECT_LIST:
                return 0;
        }
        return -EINVAL;
}

static void field_clear(const struct schema_field *f, void *value) {
        void *at = schema_at(value, f->offset);
        size_t *n;

        switch (f->kind) {
        case SCHEMA_STRING:
                free(TAKE_PTR(*(char **)at));
                return;
        case SCHEMA_OBJECT:
                schema_clear(f->object, at);
                return;
        case SCHEMA_INT_LIST:
        case SCHEMA_STRING_LIST:
        case SCHEMA_OBJECT_LIST:
                break;
        default:
                return;
        }

        n = schema_at(value, f->n_offset);
        for (size_t i = 0; i < *n; i++)
                if (f->kind == SCHEMA_STRING_LIST)
                        free((*(char ***)at)[i]);
                else if (f->kind == SCHEMA_OBJECT_LIST)
                        schema_clear(f->object, *(char **)at + i * f->object->size);
        *n = 0;
        free(TAKE_PTR(*(void **)at));
}

int schema_init(const struct schema_object *o, void *value) {
        for (unsigned int i = 0; i < o->n_fields; i++) {
                int r = field_init(&o->fields[i], value);

                if (r < 0) {
                        schema_clear(o, value);
                        return r;
                }
        }
        return 0;
}

void schema_clear(const struct schema_object *o, void *value) {
        for (unsigned int i = 0; i < o->n_fields; i++)
                field_clear(&o->fields[i], value);
}

int schema_new(const struct schema_object *o, void **ret_value) {
        _cleanup_free_ void *value = calloc(1, o->size);
        int r;

        if (!value)
                return -ENOMEM;
        r = schema_init(o, value);
        if (r < 0)
                return r;
        *ret_value = TAKE_PTR(value);
        return 0;
}

void schema_free(const struct schema_object *o, void *value) {
        if (!value)
                return;
        schema_clear(o, value);
        free(value);
}

/* Room for one more item of @item_size bytes, zeroed, at the end of the list; the length is not changed. */
static void *list_grow(const struct schema_field *f, void *value, size_t item_size) {
        void **items = schema_at(value, f->offset);
        const size_t *n = schema_at(value, f->n_offset);
        void *grown = reallocarray(*items, *n + 1, item_size);

        if (!grown)
                return NULL;
        *items = grown;
        return memset((char *)grown + *n * item_size, 0, item_size);
}

int schema_list_add(const struct schema_field *list, void *value, void **ret_item) {
        size_t *n = schema_at(value, list->n_offset);
        void *item;
        int r;

        if (list->max_items > 0 && *n >= list->max_items)
                return -E2BIG;
        item = list_grow(list, value, list->object->size);
        if (!item)
                return -ENOMEM;
        r = schema_init(list->object, item);
        if (r < 0)
                return r;
        (*n)++;
        *ret_item = item;
        return 0;
}

int schema_append_int(const struct schema_field *f, void *value, uint32_t v) {
        size_t *n = schema_at(value, f->n_offset);
        uint32_t *item = list_grow(f, value, sizeof(*item));

        if (!item)
                return -ENOMEM;
        *item = v;
        (*n)++;
        return 0;
}

int schema_append_string(const struct schema_field *f, void *value, const char *text) {
        size_t *n = schema_at(value, f->n_offset);
        char **item = list_grow(f, value, sizeof(*item));

        if (!item)
                return -ENOMEM;
        *item = strdup(text);
        if (!*item)
                return -ENOMEM;
        (*n)++;
        return 0;
}
