// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * yaml: see yaml.h
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
