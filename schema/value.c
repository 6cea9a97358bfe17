// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * value: is this value allowed here, and if not, in which words is it refused
 *
 * Every way in (JSON, the command line, a struct filled by hand) ends in the checks of this file. A message names the
 * field by its path, shows the value (cut to VALUE_SHOWN bytes, so that a hostile text can't flood a terminal) and what
 * may stand there. Control characters are escaped where an error is printed, not here.
 */
#include <errno.h>
#include <inttypes.h>
#include <regex.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/schema.h"

#define VALUE_SHOWN    64
#define WORD_MAX       31u /* longer words get no suggestion */
#define DISTANCE_MAX   2u  /* typing errors that a suggestion forgives */
#define LIST_SHOWN_MAX 256

const char *schema_path_text(const struct schema_path *path, char buf[static SCHEMA_PATH_MAX]) {
        const struct schema_path *levels[SCHEMA_DEPTH_MAX * 2];
        size_t n = 0, at = 0;

        buf[0] = '\0';
        for (const struct schema_path *p = path; p && n < ELEMENTSOF(levels); p = p->up)
                levels[n++] = p;
        while (n-- > 0) {
                const struct schema_path *p = levels[n];
                int r;

                if (p->index >= 0)
                        r = snprintf(buf + at, SCHEMA_PATH_MAX - at, "[%d]", p->index);
                else
                        r = snprintf(buf + at, SCHEMA_PATH_MAX - at, "%s%.64s", at == 0 ? "" : ".", p->name);
                if (r < 0 || (size_t)r >= SCHEMA_PATH_MAX - at)
                        break;
                at += (size_t)r;
        }
        return buf;
}

int schema_fail(struct error *e, const struct schema_path *path, const char *id, const char *fix, const char *format,
                ...) {
        _cleanup_free_ char *message = NULL;
        char where[SCHEMA_PATH_MAX];
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&message, format, ap) < 0)
                message = NULL;
        va_end(ap);
        if (!message)
                return schema_fail_oom(e);
        return error_set(e, -EINVAL, id, fix, "%s: %s", schema_path_text(path, where), message);
}

int schema_fail_oom(struct error *e) {
        return error_set(e, -ENOMEM, "out-of-memory", NULL, "cannot keep the configuration");
}

/* Levenshtein distance of two words of at most WORD_MAX bytes. */
static unsigned int word_distance(const char *a, const char *b) {
        unsigned int row[WORD_MAX + 1];
        size_t n_a = strlen(a), n_b = strlen(b);

        for (unsigned int j = 0; j <= n_b; j++)
                row[j] = j;
        for (unsigned int i = 1; i <= n_a; i++) {
                unsigned int diagonal = row[0];

                row[0] = i;
                for (unsigned int j = 1; j <= n_b; j++) {
                        unsigned int above = row[j];
                        unsigned int best = diagonal + (a[i - 1] != b[j - 1]);

                        best = MIN(best, above + 1);
                        row[j] = MIN(best, row[j - 1] + 1);
                        diagonal = above;
                }
        }
        return row[n_b];
}

const char *schema_suggest(const char *word, const char *(*candidate)(const void *table, unsigned int i),
                           const void *table, unsigned int n) {
        const char *best = NULL;
        unsigned int best_distance = DISTANCE_MAX + 1;
        size_t len = strlen(word);

        if (len > WORD_MAX)
                return NULL;
        for (unsigned int i = 0; i < n; i++) {
                const char *c = candidate(table, i);
                unsigned int d;

                if (strlen(c) > WORD_MAX)
                        continue;
                d = word_distance(word, c);
                if (d < best_distance && d < len) { /* "x" is not a typing error for "cpus" */
                        best = c;
                        best_distance = d;
                }
        }
        return best;
}

static const char *field_name(const void *table, unsigned int i) {
        return ((const struct schema_field *)table)[i].name;
}

static const char *enum_name(const void *table, unsigned int i) {
        return ((const char *const *)table)[i];
}

int schema_unknown_key(const struct schema_object *o, const char *key, const struct schema_path *path,
                       struct error *e) {
        const struct schema_path at = { .up = path, .name = key, .index = -1 };
        const char *near = schema_suggest(key, field_name, o->fields, o->n_fields);
        char known[LIST_SHOWN_MAX] = "";
        size_t n = 0;

        if (near)
                return schema_fail(e, &at, "schema-unknown-key", NULL, "unknown key, did you mean %s?", near);
        for (unsigned int i = 0; i < o->n_fields && n < sizeof(known); i++)
                n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i > 0 ? ", " : "", o->fields[i].name);
        return schema_fail(e, &at, "schema-unknown-key", NULL, "unknown key; known are: %s%s", known,
                           n >= sizeof(known) ? " ..." : "");
}

const char *schema_size_text(int64_t v, char buf[static 32]) {
        static const char units[] = "KMGT";
        int unit = -1;

        while (v != 0 && v % 1024 == 0 && unit < 3) {
                v /= 1024;
                unit++;
        }
        if (unit < 0)
                snprintf(buf, 32, "%" PRId64, v);
        else
                snprintf(buf, 32, "%" PRId64 "%c", v, units[unit]);
        return buf;
}

int schema_check_number(const struct schema_field *f, int64_t v, const struct schema_path *path, struct error *e) {
        char low[32], high[32], value[32];

        if (f->kind == SCHEMA_SIZE) {
                if (v < f->min || v > f->max)
                        return schema_fail(e, path, "schema-range", NULL, "%s is out of range %s..%s",
                                           schema_size_text(v, value), schema_size_text(f->min, low),
                                           schema_size_text(f->max, high));
                if (f->multiple > 0 && v % f->multiple != 0)
                        return schema_fail(e, path, "schema-multiple", NULL, "%s is not a multiple of %s",
                                           schema_size_text(v, value), schema_size_text(f->multiple, low));
                return 0;
        }
        if (v < f->min || v > f->max) {
                if (f->min == f->max)
                        return schema_fail(e, path, "schema-range", NULL, "%" PRId64 " is not %" PRId64, v, f->min);
                return schema_fail(e, path, "schema-range", NULL, "%" PRId64 " is out of range %" PRId64 "..%" PRId64,
                                   v, f->min, f->max);
        }
        if (f->multiple > 0 && v % f->multiple != 0)
                return schema_fail(e, path, "schema-multiple", NULL, "%" PRId64 " is not a multiple of %" PRId64, v,
                                   f->multiple);
        return 0;
}

/* Is @text well-formed UTF-8, without surrogates and overlong forms? JSON can carry nothing else. */
static bool utf8_valid(const char *text) {
        const unsigned char *p = (const unsigned char *)text;

        while (*p) {
                unsigned int n = *p < 0x80 ? 0 : *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
                uint32_t c = *p & (n == 0 ? 0x7f : 0x3fu >> n);
                static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };

                if (*p >= 0x80 && (*p < 0xc2 || *p > 0xf4))
                        return false;
                p++;
                for (unsigned int i = 0; i < n; i++, p++) {
                        if ((*p & 0xc0) != 0x80)
                                return false;
                        c = c << 6 | (*p & 0x3f);
                }
                if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
                        return false;
        }
        return true;
}

static int check_charset(const struct schema_field *f, const char *text, const struct schema_path *path,
                         struct error *e) {
        if (!utf8_valid(text))
                return schema_fail(e, path, "schema-pattern", NULL, "is not UTF-8");
        if (f->charset == SCHEMA_CHARSET_ANY)
                return 0;
        for (const char *p = text; *p; p++) {
                unsigned char c = (unsigned char)*p;

                if (c < 0x20 || c == 0x7f)
                        return schema_fail(e, path, "schema-pattern", NULL,
                                           "control character 0x%02x is not allowed here", c);
                if (f->charset == SCHEMA_CHARSET_PRINTABLE && c > 0x7f)
                        return schema_fail(e, path, "schema-pattern", NULL, "only printable ASCII is allowed here");
        }
        return 0;
}

int schema_check_string(const struct schema_field *f, const char *text, const struct schema_path *path,
                        struct error *e) {
        size_t len = strlen(text);
        regex_t re;
        int r;

        if (len == 0 && (f->required || f->pattern))
                return schema_fail(e, path, "schema-pattern", NULL, "must not be empty");
        if (f->max_bytes > 0 && len > f->max_bytes)
                return schema_fail(e, path, "schema-too-long", NULL, "%zu bytes are too long, at most %u are allowed",
                                   len, f->max_bytes);
        r = check_charset(f, text, path, e);
        if (r < 0 || !f->pattern)
                return r;

        if (regcomp(&re, f->pattern, REG_EXTENDED | REG_NOSUB) != 0)
                return schema_fail_oom(e); /* the patterns are ours and compile: only memory can be missing */
        r = regexec(&re, text, 0, NULL, 0);
        regfree(&re);
        if (r != 0)
                return schema_fail(e, path, "schema-pattern", f->help, "\"%.*s\" does not match %s", VALUE_SHOWN, text,
                                   f->pattern);
        return 0;
}

int schema_enum_lookup(const struct schema_enum *values, const char *text) {
        for (unsigned int i = 0; i < values->n_names; i++)
                if (streq(values->names[i], text))
                        return (int)i;
        return -EINVAL;
}

static const char *enum_list(const struct schema_enum *values, char *buf, size_t size) {
        size_t n = 0;

        buf[0] = '\0';
        for (unsigned int i = 0; i < values->n_names && n < size; i++)
                n += (size_t)snprintf(buf + n, size - n, "%s%s", i > 0 ? ", " : "", values->names[i]);
        return buf;
}

int schema_enum_find(const struct schema_field *f, const char *text, const struct schema_path *path, struct error *e) {
        int i = schema_enum_lookup(f->values, text);
        char known[LIST_SHOWN_MAX];
        const char *near;

        if (i >= 0)
                return i;
        near = schema_suggest(text, enum_name, f->values->names, f->values->n_names);
        return schema_fail(e, path, "schema-enum", NULL, "\"%.*s\" is none of %s%s%s%s", VALUE_SHOWN, text,
                           enum_list(f->values, known, sizeof(known)), near ? "; did you mean " : "", near ?: "",
                           near ? "?" : "");
}

static int check_list(const struct schema_field *f, void *value, const struct schema_path *path, struct error *e) {
        size_t n = *(const size_t *)schema_at(value, f->n_offset);
        void *items = *(void **)schema_at(value, f->offset);

        if (f->required && n == 0)
                return schema_fail(e, path, "schema-required", NULL, "needs at least one item");
        if (f->max_items > 0 && n > f->max_items)
                return schema_fail(e, path, "schema-too-many", NULL, "%zu items are too many, at most %u are allowed",
                                   n, f->max_items);
        for (size_t i = 0; i < n; i++) {
                const struct schema_path at = { .up = path, .index = (int)i };
                int r = 0;

                if (f->kind == SCHEMA_INT_LIST)
                        r = schema_check_number(f, ((const uint32_t *)items)[i], &at, e);
                else if (f->kind == SCHEMA_STRING_LIST)
                        r = schema_check_string(f, ((char *const *)items)[i], &at, e);
                else
                        r = schema_check_fields(f->object, (char *)items + i * f->object->size, &at, e);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_field(const struct schema_field *f, void *value, const struct schema_path *path, struct error *e) {
        void *at = schema_at(value, f->offset);

        switch (f->kind) {
        case SCHEMA_BOOL:
                return 0;
        case SCHEMA_INT:
                if (f->optional_number && *(uint32_t *)at == 0)
                        return 0;
                return schema_check_number(f, *(uint32_t *)at, path, e);
        case SCHEMA_FD:
                return schema_check_number(f, *(int *)at, path, e);
        case SCHEMA_SIZE:
                if (*(uint64_t *)at > INT64_MAX)
                        return schema_fail(e, path, "schema-range", NULL, "the number is too big");
                if (f->optional_number && *(uint64_t *)at == 0)
                        return 0;
                return schema_check_number(f, (int64_t) * (uint64_t *)at, path, e);
        case SCHEMA_ENUM:
                if (*(uint32_t *)at >= f->values->n_names)
                        return schema_fail(e, path, "schema-enum", NULL, "%u is no value of this field",
                                           *(uint32_t *)at);
                return 0;
        case SCHEMA_STRING:
                if (*(char **)at)
                        return schema_check_string(f, *(char **)at, path, e);
                if (f->required)
                        return schema_fail(e, path, "schema-required", NULL, "is missing");
                return 0;
        case SCHEMA_OBJECT:
                return schema_check_fields(f->object, at, path, e);
        case SCHEMA_INT_LIST:
        case SCHEMA_STRING_LIST:
        case SCHEMA_OBJECT_LIST:
                return check_list(f, value, path, e);
        }
        return -EINVAL;
}

int schema_check_fields(const struct schema_object *o, void *value, const struct schema_path *path, struct error *e) {
        for (unsigned int i = 0; i < o->n_fields; i++) {
                const struct schema_path at = { .up = path, .name = o->fields[i].name, .index = -1 };
                int r = check_field(&o->fields[i], value, &at, e);

                if (r < 0)
                        return r;
        }
        for (unsigned int i = 0; o->rules && o->rules[i]; i++) {
                int r = o->rules[i](value, path, e);

                if (r < 0)
                        return r;
        }
        return 0;
}

int schema_check(const struct schema_object *o, void *value, struct error *e) {
        const struct schema_path root = { .name = o->name, .index = -1 };

        return schema_check_fields(o, value, &root, e);
}

const char *schema_describe_limits(const struct schema_field *f, char *buf, size_t size) {
        char low[32], high[32], preset[32];

        buf[0] = '\0';
        switch (f->kind) {
        case SCHEMA_INT:
                if (f->optional_number || f->required)
                        snprintf(buf, size, "%" PRId64 "..%" PRId64, f->min, f->max);
                else
                        snprintf(buf, size, "%" PRId64 "..%" PRId64 ", default %" PRId64, f->min, f->max, f->preset);
                break;
        case SCHEMA_SIZE:
                if (f->optional_number || f->required)
                        snprintf(buf, size, "%s..%s", schema_size_text(f->min, low), schema_size_text(f->max, high));
                else
                        snprintf(buf, size, "%s..%s, default %s", schema_size_text(f->min, low),
                                 schema_size_text(f->max, high), schema_size_text(f->preset, preset));
                break;
        case SCHEMA_ENUM: /* the values stand in the option's own form */
                if (!f->required)
                        snprintf(buf, size, "default %s", f->values->names[f->preset]);
                break;
        case SCHEMA_OBJECT_LIST:
        case SCHEMA_STRING_LIST:
        case SCHEMA_INT_LIST:
                snprintf(buf, size, "up to %u", f->max_items);
                break;
        default:
                break;
        }
        return buf;
}
