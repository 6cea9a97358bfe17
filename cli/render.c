// SPDX-License-Identifier: GPL-2.0-or-later
/* render: see render.h; YAML is in yaml.c */
#include "cli/render.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/render-value.h"
#include "cli/yaml.h"

#define COLUMNS_MAX 128 /* all of a machine are more than 64 */
#define PATH_MAX_   128

struct column {
        char path[PATH_MAX_];
        const char *label; /* the last part of the path */
        const struct schema_field *field;
        size_t width;
};

struct columns {
        struct column items[COLUMNS_MAX];
        size_t n;
};

/* ---- columns ------------------------------------------------------------------------------------------------------- */

static const char *field_name(const void *table, unsigned int i) {
        return ((const struct schema_field *)table)[i].name;
}

static int unknown_column(const struct schema_object *o, const char *path, const char *part, struct error *e) {
        const char *near = schema_suggest(part, field_name, o->fields, o->n_fields);
        char list[1024] = "";
        size_t n = 0;

        for (unsigned int i = 0; i < o->n_fields && n < sizeof(list); i++)
                n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", o->fields[i].name);
        error_set(e, -EINVAL, "column-unknown", NULL, "--columns: there is no column %.64s%s%s%s", path,
                  near ? ", did you mean " : "", near ?: "", near ? "?" : "");
        error_set_fix(e, "of %s: %s", o->name, list);
        return -EINVAL;
}

static int add_column(struct columns *c, const char *path, const struct schema_field *f, struct error *e) {
        struct column *column = &c->items[c->n];
        const char *dot;

        if (c->n == COLUMNS_MAX || strlen(path) >= sizeof(column->path))
                return error_set(e, -EINVAL, "column-unknown", NULL, "--columns: too many columns, or too long a name");
        memcpy(column->path, path, strlen(path) + 1);
        dot = strrchr(column->path, '.');
        column->label = dot ? dot + 1 : column->path;
        column->field = f;
        column->width = 0;
        c->n++;
        return 0;
}

static int add_all(struct columns *c, const struct schema_object *o, const char *prefix, struct error *e) {
        int r = 0;

        for (unsigned int i = 0; i < o->n_fields && r == 0; i++) {
                const struct schema_field *f = &o->fields[i];
                char path[PATH_MAX_];

                snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", f->name);
                r = f->kind == SCHEMA_OBJECT ? add_all(c, f->object, path, e) : add_column(c, path, f, e);
        }
        return r;
}

/* "state.status": each part but the last names an object. One that ends at an object stands for all of its fields. */
static int add_path(struct columns *c, const struct schema_object *o, const char *path, struct error *e) {
        char copy[PATH_MAX_];
        char *rest = copy, *part;
        const struct schema_field *f = NULL;

        if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
                return error_set(e, -EINVAL, "column-unknown", NULL, "--columns: too long a name");
        while ((part = strsep(&rest, "."))) {
                if (f && f->kind != SCHEMA_OBJECT)
                        return unknown_column(o, path, part, e);
                o = f ? f->object : o;
                f = schema_field_find(o, part);
                if (!f)
                        return unknown_column(o, path, part, e);
        }
        return f->kind == SCHEMA_OBJECT ? add_all(c, f->object, path, e) : add_column(c, path, f, e);
}

static int make_columns(const struct render *r, struct columns *c, struct error *e) {
        _cleanup_free_ char *copy = strdup(r->columns);
        char *rest = copy, *word;
        int result = 0;

        c->n = 0;
        if (!copy)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot show the answer");
        if (streq(copy, "all"))
                return add_all(c, r->object, "", e);
        while (result == 0 && (word = strsep(&rest, ",")))
                result = add_path(c, r->object, word, e);
        return result;
}

int render_check(const struct render *r, struct error *e) {
        struct columns c;

        return make_columns(r, &c, e);
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static json_t *value_at(json_t *item, const char *path) {
        char part[PATH_MAX_];

        while (item && *path) {
                size_t n = strcspn(path, ".");

                memcpy(part, path, n);
                part[n] = '\0';
                item = json_object_get(item, part);
                path += n + (path[n] == '.');
        }
        return item;
}

/* ---- tables -------------------------------------------------------------------------------------------------------- */

/* Escapes @text; @f may be NULL. Return: how many columns it takes (a character is one). */
static size_t put_text(FILE *f, const char *text) {
        size_t width = 0, n;
        bool plain;

        for (; *text; text += n) {
                n = text_char(text, &plain);
                if (plain) {
                        width++;
                        if (f)
                                fwrite(text, 1, n, f);
                        continue;
                }
                width += 4 * n;
                for (size_t i = 0; i < n && f; i++)
                        fprintf(f, "\\x%02x", (unsigned char)text[i]);
        }
        return width;
}

void render_text(FILE *f, const char *text) {
        put_text(f, text);
}

bool render_colour(FILE *f) {
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

        return isatty(fileno(f)) && !(no && *no) && !(term && streq(term, "dumb"));
}

struct render render_to_stdout(enum table_format format, const struct schema_object *object, const char *columns) {
        return (struct render){ .file = stdout,
                                .format = format,
                                .object = object,
                                .columns = columns,
                                .terminal = isatty(STDOUT_FILENO),
                                .colour = render_colour(stdout) };
}

static const char *colour_of(const char *status) {
        static const struct {
                const char *status, *colour;
        } colours[] = {
                { "running", "\033[32m" }, { "done", "\033[32m" },     { "failed", "\033[31m" },
                { "paused", "\033[33m" },  { "starting", "\033[33m" }, { "stopping", "\033[33m" },
                { "undoing", "\033[33m" }, { "stopped", "\033[2m" },
        };

        for (size_t i = 0; i < ELEMENTSOF(colours); i++)
                if (streq(colours[i].status, status))
                        return colours[i].colour;
        return NULL;
}

/* @width: padded to it with spaces; 0: as it is. */
static void put_cell(const struct render *r, const struct column *c, const char *text, size_t width) {
        const char *colour = r->colour && streq(c->label, "status") ? colour_of(text) : NULL;
        size_t n;

        fputs(colour ?: "", r->file);
        n = put_text(r->file, text);
        fputs(colour ? "\033[0m" : "", r->file);
        for (; n < width; n++)
                fputc(' ', r->file);
}

static void put_label(FILE *f, const char *label, bool upper, size_t width) {
        size_t n = 0;

        for (; label[n]; n++)
                fputc(upper ? toupper((unsigned char)label[n]) : label[n] == '_' ? ' ' : label[n], f);
        for (; n < width; n++)
                fputc(' ', f);
}

static void free_texts(char **texts, size_t n) {
        for (size_t i = 0; texts && i < n; i++)
                free(texts[i]);
        free(texts);
}

static int list_table(const struct render *r, struct columns *c, const json_t *items, struct error *e) {
        size_t rows = json_array_size(items), n = rows * c->n;
        char **texts = calloc(n + 1, sizeof(*texts));
        bool complete = texts != NULL;

        for (size_t k = 0; k < c->n; k++)
                c->items[k].width = r->no_header ? 0 : strlen(c->items[k].label);
        for (size_t i = 0; complete && i < n; i++) {
                struct column *column = &c->items[i % c->n];

                texts[i] = value_text(value_at(json_array_get(items, i / c->n), column->path), column->field, true);
                complete = texts[i] != NULL;
                if (complete)
                        column->width = MAX(column->width, put_text(NULL, texts[i]));
        }
        for (size_t k = 0; complete && !r->no_header && rows > 0 && k < c->n; k++) {
                put_label(r->file, c->items[k].label, true, k + 1 < c->n ? c->items[k].width + 2 : 0);
                fputs(k + 1 < c->n ? "" : "\n", r->file);
        }
        for (size_t i = 0; complete && i < n; i++) {
                bool last = i % c->n == c->n - 1;

                put_cell(r, &c->items[i % c->n], texts[i], last ? 0 : c->items[i % c->n].width + 2);
                fputs(last ? "\n" : "", r->file);
        }
        free_texts(texts, n);
        return complete ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot show the answer");
}

/* Objects have a line each, the second and later ones behind @indent spaces. */
static int put_value(const struct render *r, const struct column *c, const json_t *value, size_t indent) {
        bool lines = c->field->kind == SCHEMA_OBJECT_LIST && json_is_object(json_array_get(value, 0)) &&
                     !json_object_get(json_array_get(value, 0), "key");

        for (size_t i = 0; i < (lines ? json_array_size(value) : 1); i++) {
                _cleanup_free_ char *text = value_text(lines ? json_array_get(value, i) : value, c->field, true);

                if (!text)
                        return -ENOMEM;
                fprintf(r->file, "%*s", i > 0 ? (int)indent : 0, "");
                put_cell(r, c, text, 0);
                fputc('\n', r->file);
        }
        return 0;
}

static int object_table(const struct render *r, const struct columns *c, json_t *object, struct error *e) {
        size_t width = 0;

        for (size_t k = 0; k < c->n; k++)
                if (!value_is_empty(value_at(object, c->items[k].path)))
                        width = MAX(width, strlen(c->items[k].label));
        for (size_t k = 0; k < c->n; k++) {
                const struct column *column = &c->items[k];
                json_t *value = value_at(object, column->path);

                if (value_is_empty(value))
                        continue;
                if (!r->no_header) {
                        put_label(r->file, column->label, false, 0);
                        fprintf(r->file, ":%*s", (int)(width + 2 - strlen(column->label)), "");
                }
                if (put_value(r, column, value, r->no_header ? 0 : width + 3) < 0)
                        return error_set(e, -ENOMEM, "memory", NULL, "cannot show the answer");
        }
        return 0;
}

/* ---- CSV ----------------------------------------------------------------------------------------------------------- */

static void put_csv(const struct render *r, const char *text) {
        if (!text[strcspn(text, ",\"\r\n")]) {
                if (r->terminal)
                        put_text(r->file, text);
                else
                        fputs(text, r->file);
                return;
        }
        fputc('"', r->file);
        for (; *text; text++) {
                char one[2] = { *text, '\0' };

                if (*text == '"')
                        fputc('"', r->file);
                if (r->terminal && (unsigned char)*text < 0x80)
                        put_text(r->file, one);
                else if (r->terminal)
                        fputc('?', r->file);
                else
                        fputc(*text, r->file);
        }
        fputc('"', r->file);
}

static int csv(const struct render *r, const struct columns *c, json_t *const *rows, size_t n, struct error *e) {
        for (size_t k = 0; !r->no_header && k < c->n; k++)
                fprintf(r->file, "%s%s", c->items[k].path, k + 1 < c->n ? "," : "\n");
        for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < c->n; k++) {
                        _cleanup_free_ char *text =
                                value_text(value_at(rows[i], c->items[k].path), c->items[k].field, false);

                        if (!text)
                                return error_set(e, -ENOMEM, "memory", NULL, "cannot show the answer");
                        put_csv(r, text);
                        fputs(k + 1 < c->n ? "," : "\n", r->file);
                }
        return 0;
}

/* ---- whole answers ------------------------------------------------------------------------------------------------- */

static int structured(const struct render *r, const json_t *value, struct error *e) {
        size_t flags = JSON_INDENT(2) | JSON_PRESERVE_ORDER | (r->terminal ? JSON_ENSURE_ASCII : 0);

        if (r->format == TABLE_FORMAT_YAML)
                return yaml_write(r->file, value) < 0 ? error_set(e, -EIO, "output", NULL, "cannot write the answer")
                                                      : 0;
        if (json_dumpf(value, r->file, flags) < 0)
                return error_set(e, -EIO, "output", NULL, "cannot write the answer");
        fputc('\n', r->file);
        return 0;
}

/* Only the chosen columns, by their paths. */
static json_t *selected(const struct columns *c, json_t *item) {
        json_t *object = json_object();

        for (size_t k = 0; k < c->n; k++) {
                json_t *value = value_at(item, c->items[k].path);

                json_object_set_new(object, c->items[k].path, value ? json_incref(value) : json_null());
        }
        return object;
}

int render_list(const struct render *r, json_t *page, struct error *e) {
        json_t *items = json_object_get(page, "items"), *item;
        struct columns c;
        size_t i;
        int result = make_columns(r, &c, e);

        if (result < 0)
                return result;
        if (r->format == TABLE_FORMAT_TABLE)
                return list_table(r, &c, items, e);
        if (r->format == TABLE_FORMAT_CSV) {
                _cleanup_free_ json_t **rows = calloc(json_array_size(items) + 1, sizeof(json_t *));

                if (!rows)
                        return error_set(e, -ENOMEM, "memory", NULL, "cannot show the answer");
                json_array_foreach(items, i, item) {
                        rows[i] = item;
                }
                return csv(r, &c, rows, json_array_size(items), e);
        }
        if (r->chosen) {
                json_auto_t *less = json_copy(page);
                json_t *list = json_array();

                json_array_foreach(items, i, item) {
                        json_array_append_new(list, selected(&c, item));
                }
                json_object_set_new(less, "items", list);
                return structured(r, less, e);
        }
        return structured(r, page, e);
}

int render_object(const struct render *r, json_t *object, struct error *e) {
        struct columns c;
        int result = make_columns(r, &c, e);

        if (result < 0)
                return result;
        if (r->format == TABLE_FORMAT_TABLE)
                return object_table(r, &c, object, e);
        if (r->format == TABLE_FORMAT_CSV)
                return csv(r, &c, &object, 1, e);
        if (r->chosen) {
                json_auto_t *less = selected(&c, object);

                return structured(r, less, e);
        }
        return structured(r, object, e);
}
