// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * yaml: writing; see yaml.h
 *
 * A text stands plain only if it cannot be taken for anything else: it begins with a letter and holds letters, digits and a few marks, and is none of
 * the words that YAML 1.1 or 1.2 reads as a boolean or null. Every other text is quoted (YAML 1.2 §7.3.1), and what is not printable is escaped.
 */
#include "cli/yaml.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/text.h"

static bool is_plain(const char *text) {
        static const char *const words[] = { "true", "false", "yes", "no", "on", "off", "null", "y", "n" };
        size_t n = strlen(text);

        if (!isascii((unsigned char)text[0]) || !isalpha((unsigned char)text[0]))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!isascii((unsigned char)text[i]) || (!isalnum((unsigned char)text[i]) && !strchr("_-./", text[i])))
                        return false;
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcasecmp(words[i], text) == 0)
                        return false;
        return true;
}

/* One character that is not printable, as \xHH, \uHHHH or \UHHHHHHHH. @n: its bytes */
static void put_escaped(FILE *f, const char *text, size_t n) {
        static const unsigned char masks[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
        uint32_t c = (unsigned char)text[0] & masks[n];

        for (size_t i = 1; i < n; i++)
                c = c << 6 | ((unsigned char)text[i] & 0x3f);
        fprintf(f, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
}

static void put_text(FILE *f, const char *text) {
        bool plain;

        if (is_plain(text)) {
                fputs(text, f);
                return;
        }
        fputc('"', f);
        for (size_t n; *text; text += n) {
                n = text_char(text, &plain);
                if (*text == '"' || *text == '\\')
                        fprintf(f, "\\%c", *text);
                else if (*text == '\n')
                        fputs("\\n", f);
                else if (plain)
                        fwrite(text, 1, n, f);
                else
                        put_escaped(f, text, n);
        }
        fputc('"', f);
}

static bool is_nested(const json_t *value) {
        return (json_is_object(value) && json_object_size(value) > 0) ||
               (json_is_array(value) && json_array_size(value) > 0);
}

static void put_scalar(FILE *f, const json_t *value) {
        switch (json_typeof(value)) {
        case JSON_STRING:
                put_text(f, json_string_value(value));
                break;
        case JSON_INTEGER:
                fprintf(f, "%lld", (long long)json_integer_value(value));
                break;
        case JSON_REAL:
                fprintf(f, "%.17g", json_real_value(value));
                break;
        case JSON_TRUE:
        case JSON_FALSE:
                fputs(json_is_true(value) ? "true" : "false", f);
                break;
        case JSON_OBJECT:
                fputs("{}", f);
                break;
        case JSON_ARRAY:
                fputs("[]", f);
                break;
        default:
                fputs("null", f);
        }
}

/* @first: the line has begun already, behind "- ". Nesting is bounded by the parser that made the value. */
static void put_value(FILE *f, const json_t *value, int indent, bool first) { // NOLINT(misc-no-recursion)
        const char *key;
        json_t *item;
        size_t i;

        json_object_foreach((json_t *)value, key, item) {
                fprintf(f, "%*s", first ? 0 : indent, "");
                first = false;
                put_text(f, key);
                fputc(':', f);
                if (is_nested(item)) {
                        fputc('\n', f);
                        put_value(f, item, json_is_array(item) ? indent : indent + 2, false);
                } else {
                        fputc(' ', f);
                        put_scalar(f, item);
                        fputc('\n', f);
                }
        }
        json_array_foreach((json_t *)value, i, item) {
                fprintf(f, "%*s- ", first ? 0 : indent, "");
                first = false;
                if (is_nested(item))
                        put_value(f, item, indent + 2, true);
                else {
                        put_scalar(f, item);
                        fputc('\n', f);
                }
        }
}

int yaml_write(FILE *f, const json_t *value) {
        if (is_nested(value))
                put_value(f, value, 0, false);
        else {
                put_scalar(f, value);
                fputc('\n', f);
        }
        return ferror(f) ? -EIO : 0;
}

/* ---- for people ---------------------------------------------------------------------------------------------------------- */

/* A text of lines that stand as they are (YAML 1.2 §8.1.2): all printable, the first one not indented, and one end at most. */
static bool is_block(const char *text) {
        const char *first = strchr(text, '\n');
        size_t len = strlen(text);
        bool plain;

        if (!first || first == text || text[0] == ' ' || (len > 1 && text[len - 2] == '\n'))
                return false;
        for (size_t n; *text; text += n) {
                n = text_char(text, &plain);
                if (!plain && *text != '\n')
                        return false;
        }
        return true;
}

static void put_block(FILE *f, const char *text, int indent) {
        while (*text) {
                size_t n = strcspn(text, "\n");

                if (n > 0)
                        fprintf(f, "%*s%.*s", indent, "", (int)n, text);
                fputc('\n', f);
                text += n + (text[n] == '\n');
        }
}

static void put_help(FILE *f, const struct schema_field *field, bool wanted) {
        if (field && wanted)
                fprintf(f, "  # %s", field->help);
        fputc('\n', f);
}

static void put_object(FILE *f, const json_t *value, const struct schema_object *o, int indent, bool first, bool help);

/* Behind "key:", to the end of its last line. */
static void put_field(FILE *f, const json_t *value, const struct schema_field *field,
                      int indent, // NOLINT(misc-no-recursion)
                      bool help) {
        const char *text = json_string_value(value);
        char size[32];
        json_t *item;
        size_t i;

        if (text && is_block(text)) {
                fputs(text[strlen(text) - 1] == '\n' ? " |" : " |-", f);
                put_help(f, field, help);
                put_block(f, text, indent + 2);
                return;
        }
        if (!is_nested(value)) {
                fputc(' ', f);
                if (field && field->kind == SCHEMA_SIZE && !field->count && json_is_integer(value))
                        fputs(schema_size_text(json_integer_value(value), size), f);
                else
                        put_scalar(f, value);
                put_help(f, field, help);
                return;
        }
        put_help(f, field, help);
        if (json_is_object(value))
                put_object(f, value, field ? field->object : NULL, indent + 2, false, help);
        json_array_foreach((json_t *)value, i, item) {
                fprintf(f, "%*s- ", indent, "");
                if (json_is_object(item) && json_object_size(item) > 0)
                        put_object(f, item, field ? field->object : NULL, indent + 2, true, help && i == 0);
                else {
                        put_scalar(f, item);
                        fputc('\n', f);
                }
        }
}

/* @help: the first of a list's items is explained, the others look the same. */
static void put_object(FILE *f, const json_t *value, const struct schema_object *o,
                       int indent, // NOLINT(misc-no-recursion)
                       bool first, bool help) {
        const char *key;
        json_t *item;

        json_object_foreach((json_t *)value, key, item) {
                fprintf(f, "%*s", first ? 0 : indent, "");
                first = false;
                put_text(f, key);
                fputc(':', f);
                put_field(f, item, o ? schema_field_find(o, key) : NULL, indent, help);
        }
}

int yaml_write_explained(FILE *f, const json_t *value, const struct schema_object *o) {
        bool any = false;

        put_object(f, value, o, 0, false, true);
        for (unsigned int i = 0; i < o->n_fields; i++) {
                if (json_object_get(value, o->fields[i].name))
                        continue;
                if (!any)
                        fputs("\n# Not set:\n", f);
                any = true;
                fprintf(f, "#%s:  # %s\n", o->fields[i].name, o->fields[i].help);
        }
        return ferror(f) ? -EIO : 0;
}
