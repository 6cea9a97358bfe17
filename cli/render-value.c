// SPDX-License-Identifier: GPL-2.0-or-later
/* render-value: see render-value.h */
#include "cli/render-value.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

bool value_is_empty(const json_t *value) {
        return !value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0) ||
               (json_is_array(value) && json_array_size(value) == 0);
}

static void put_number(FILE *f, const struct schema_field *field, json_int_t v, bool people) {
        char size[TEXT_SIZE_MAX];

        if (people && field->kind == SCHEMA_SIZE && !field->count)
                fputs(text_format_size((uint64_t)v, size), f);
        else
                fprintf(f, "%" JSON_INTEGER_FORMAT, v);
}

/* Is it what it would be if nobody had said anything? */
static bool is_preset(const struct schema_field *field, const json_t *value) {
        switch (field->kind) {
        case SCHEMA_BOOL:
                return json_is_true(value) == (field->preset != 0);
        case SCHEMA_ENUM:
                return json_is_string(value) && field->preset >= 0 && field->preset < field->values->n_names &&
                       streq(json_string_value(value), field->values->names[field->preset]);
        case SCHEMA_STRING:
                return json_is_string(value) && field->preset_text &&
                       streq(json_string_value(value), field->preset_text);
        default:
                return json_is_integer(value) && json_integer_value(value) == field->preset;
        }
}

static void put_value(FILE *f, const struct schema_field *field, const json_t *value, bool people);

/* Its first field alone, as on the command line, the others as KEY=VALUE; what is nested as "throttle.iops=100". */
static void put_object(FILE *f, const struct schema_object *o, const json_t *object, const char *prefix, bool *first) {
        for (unsigned int i = 0; i < o->n_fields; i++) {
                const struct schema_field *field = &o->fields[i];
                const json_t *value = json_object_get(object, field->name);
                char path[128];

                if (value_is_empty(value))
                        continue;
                snprintf(path, sizeof(path), "%s%s", prefix, field->name);
                if (field->kind == SCHEMA_OBJECT) {
                        size_t n = strlen(path);

                        snprintf(path + n, sizeof(path) - n, ".");
                        put_object(f, field->object, value, path, first);
                        continue;
                }
                if (!field->required && is_preset(field, value))
                        continue;
                fputs(*first ? "" : ",", f);
                if (i > 0 || *prefix)
                        fprintf(f, "%s=", path);
                put_value(f, field, value, true);
                *first = false;
        }
}

/* What is no list. */
static void put_one(FILE *f, const struct schema_field *field, const json_t *value, bool people) {
        const char *key = json_string_value(json_object_get(value, "key"));
        const char *text = json_string_value(json_object_get(value, "value"));
        bool first = true;

        if (json_is_string(value))
                fputs(json_string_value(value), f);
        else if (json_is_boolean(value))
                fputs(people ? (json_is_true(value) ? "yes" : "no") : json_is_true(value) ? "true" : "false", f);
        else if (json_is_integer(value))
                put_number(f, field, json_integer_value(value), people);
        else if (key)
                fprintf(f, text ? "%s=%s" : "%s", key, text);
        else if (people && field->object)
                put_object(f, field->object, value, "", &first);
        else
                json_dumpf(value, f, JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
}

static void put_value(FILE *f, const struct schema_field *field, const json_t *value, bool people) {
        size_t i;
        json_t *item;

        if (!json_is_array(value)) {
                put_one(f, field, value, people);
                return;
        }
        json_array_foreach((json_t *)value, i, item) {
                fputs(i ? "," : "", f);
                put_one(f, field, item, people);
        }
}

char *value_text(const json_t *value, const struct schema_field *field, bool people) {
        char *text = NULL;
        size_t n;
        FILE *f;

        if (value_is_empty(value))
                return strdup(people ? "-" : "");
        f = open_memstream(&text, &n);
        if (!f)
                return NULL;
        put_value(f, field, value, people);
        if (fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
}
