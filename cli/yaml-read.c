// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * yaml-read: reading; see yaml.h
 *
 * libyaml finds the events (a scalar, the beginning and the end of a list or mapping), and this file makes values of them, with a stack of those that are open: no recursion, and a
 * bound on the depth. Each value's line is kept under its path, because the schema judges the values later and knows paths only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/cleanup.h"
#include "cli/yaml.h"

struct open_value {
        json_t *value; /* owned by what holds it, or by the reader */
        char *key;     /* in a mapping: that whose value comes next; NULL: a key comes */
        size_t n_path; /* bytes of the path that are its */
};

struct reader {
        yaml_parser_t parser;
        struct yaml_lines *lines;
        struct open_value open[YAML_DEPTH_MAX];
        unsigned int depth, above;
        char path[SCHEMA_PATH_MAX];
        json_t *root;
};

static int refuse(const struct reader *r, struct error *e, size_t line, const char *fix, const char *what) {
        return error_set(e, -EINVAL, "yaml", fix, "line %zu: %s", line + 1 + r->above, what);
}

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "cannot read the text");
}

static int note_line(struct reader *r, size_t line, struct error *e) {
        struct yaml_line *grown = realloc(r->lines->items, (r->lines->n + 1) * sizeof(*grown));
        char *path = strdup(r->path);

        if (grown)
                r->lines->items = grown;
        if (!grown || !path) {
                free(path);
                return no_memory(e);
        }
        grown[r->lines->n++] = (struct yaml_line){ path, (unsigned int)line + 1 + r->above };
        return 0;
}

/* "null", "~" and nothing; true, false; decimal numbers; all else is a text. */
static json_t *plain_value(const char *text, size_t n) {
        static const char *const nulls[] = { "", "~", "null", "Null", "NULL" };
        static const char *const trues[] = { "true", "True", "TRUE" };
        static const char *const falses[] = { "false", "False", "FALSE" };
        bool sign = text[0] == '-' || text[0] == '+';
        char *end;

        for (size_t i = 0; i < ELEMENTSOF(nulls); i++)
                if (streq(text, nulls[i]))
                        return json_null();
        for (size_t i = 0; i < ELEMENTSOF(trues); i++) {
                if (streq(text, trues[i]))
                        return json_true();
                if (streq(text, falses[i]))
                        return json_false();
        }
        if (n > sign && strspn(text + sign, "0123456789") == n - sign) {
                long long number;

                errno = 0;
                number = strtoll(text, &end, 10);
                if (errno == 0)
                        return json_integer(number);
        }
        if (n > sign && strspn(text + sign, "0123456789.eE+-") == n - sign && text[sign] >= '0' && text[sign] <= '9') {
                double number = strtod(text, &end);

                if (*end == '\0')
                        return json_real(number);
        }
        return json_stringn(text, n);
}

static json_t *scalar_value(const yaml_event_t *event) {
        const char *text = (const char *)event->data.scalar.value;
        size_t n = event->data.scalar.length;

        return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain_value(text, n) : json_stringn(text, n);
}

static void path_add(struct reader *r, size_t from, const char *key, size_t index) {
        if (key)
                snprintf(r->path + from, sizeof(r->path) - from, "%s%s", from > 0 ? "." : "", key);
        else
                snprintf(r->path + from, sizeof(r->path) - from, "[%zu]", index);
}

/* The path of the value that comes now. */
static void path_of_next(struct reader *r) {
        const struct open_value *top = r->depth > 0 ? &r->open[r->depth - 1] : NULL;

        if (!top)
                r->path[0] = '\0';
        else
                path_add(r, top->n_path, top->key, json_array_size(top->value));
}

/* @value is taken over. What has no value is as if it were not there. */
static int put(struct reader *r, json_t *value, size_t line, struct error *e) {
        struct open_value *top = r->depth > 0 ? &r->open[r->depth - 1] : NULL;
        int code = 0;

        path_of_next(r);
        if (note_line(r, line, e) < 0) {
                json_decref(value);
                return e ? e->code : -ENOMEM;
        }
        if (!value)
                return refuse(r, e, line, "write it in UTF-8", "this is no text");
        if (!top)
                r->root = value;
        else if (json_is_array(top->value))
                code = json_array_append_new(top->value, value);
        else {
                if (json_is_null(value))
                        json_decref(value);
                else
                        code = json_object_set_new(top->value, top->key, value);
                free(TAKE_PTR(top->key));
        }
        return code < 0 ? no_memory(e) : 0;
}

static bool is_known(const struct reader *r, const char *path) {
        for (size_t i = 0; i < r->lines->n; i++)
                if (streq(r->lines->items[i].path, path))
                        return true;
        return false;
}

static int put_key(struct reader *r, const yaml_event_t *event, struct error *e) {
        struct open_value *top = &r->open[r->depth - 1];
        const char *key = (const char *)event->data.scalar.value;
        size_t line = event->start_mark.line;

        if (strlen(key) != event->data.scalar.length || strlen(key) > SCHEMA_PATH_MAX / 2)
                return refuse(r, e, line, NULL, "this can't be the name of a field");
        path_add(r, top->n_path, key, 0);
        if (is_known(r, r->path))
                return error_set(e, -EINVAL, "yaml", "keep one of them", "line %zu: %s was there before",
                                 line + 1 + r->above, r->path);
        top->key = strdup(key);
        return top->key ? 0 : no_memory(e);
}

static int begin(struct reader *r, json_t *value, size_t line, struct error *e) {
        int code;

        if (r->depth == YAML_DEPTH_MAX) {
                json_decref(value);
                return refuse(r, e, line, NULL, "too much is nested here");
        }
        code = put(r, value, line, e);
        if (code == 0)
                r->open[r->depth++] = (struct open_value){ .value = value, .n_path = strlen(r->path) };
        return code;
}

static bool is_tagged(const yaml_event_t *event) {
        switch (event->type) {
        case YAML_SCALAR_EVENT:
                return event->data.scalar.tag;
        case YAML_SEQUENCE_START_EVENT:
                return event->data.sequence_start.tag;
        case YAML_MAPPING_START_EVENT:
                return event->data.mapping_start.tag;
        default:
                return false;
        }
}

static bool is_anchored(const yaml_event_t *event) {
        switch (event->type) {
        case YAML_ALIAS_EVENT:
                return true;
        case YAML_SCALAR_EVENT:
                return event->data.scalar.anchor;
        case YAML_SEQUENCE_START_EVENT:
                return event->data.sequence_start.anchor;
        case YAML_MAPPING_START_EVENT:
                return event->data.mapping_start.anchor;
        default:
                return false;
        }
}

/* Return: 1 when it was the last one. */
static int take(struct reader *r, const yaml_event_t *event, struct error *e) {
        struct open_value *top = r->depth > 0 ? &r->open[r->depth - 1] : NULL;
        bool key = top && json_is_object(top->value) && !top->key;
        size_t line = event->start_mark.line;

        if (is_anchored(event))
                return refuse(r, e, line, "write it out", "anchors and aliases (& and *) are not read");
        if (is_tagged(event))
                return refuse(r, e, line, "leave it out", "tags (!) are not read");
        switch (event->type) {
        case YAML_DOCUMENT_START_EVENT:
                return r->root ? refuse(r, e, line, "keep one", "there is a second document") : 0;
        case YAML_SCALAR_EVENT:
                return key ? put_key(r, event, e) : put(r, scalar_value(event), line, e);
        case YAML_SEQUENCE_START_EVENT:
        case YAML_MAPPING_START_EVENT:
                if (key)
                        return refuse(r, e, line, NULL, "a list or a mapping can't be the name of a field");
                return begin(r, event->type == YAML_MAPPING_START_EVENT ? json_object() : json_array(), line, e);
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
                r->depth--;
                return 0;
        default:
                return event->type == YAML_STREAM_END_EVENT;
        }
}

static int read_events(struct reader *r, struct error *e) {
        int code = 0;

        while (code == 0) {
                yaml_event_t event;

                if (!yaml_parser_parse(&r->parser, &event))
                        return r->parser.error == YAML_MEMORY_ERROR ? no_memory(e)
                                                                    : refuse(r, e, r->parser.problem_mark.line, NULL,
                                                                             r->parser.problem ?: "this is no YAML");
                code = take(r, &event, e);
                yaml_event_delete(&event);
        }
        return code < 0 ? code : 0;
}

int yaml_read(const char *text, size_t n, json_t **ret_value, unsigned int above, struct yaml_lines *ret_lines,
              struct error *e) {
        struct reader r = { .lines = ret_lines, .above = above };
        int code;

        *ret_lines = (struct yaml_lines){ 0 };
        if (!yaml_parser_initialize(&r.parser))
                return no_memory(e);
        yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
        yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
        code = read_events(&r, e);
        yaml_parser_delete(&r.parser);
        for (unsigned int i = 0; i < YAML_DEPTH_MAX; i++)
                free(i < r.depth ? r.open[i].key : NULL);
        if (code < 0)
                json_decref(r.root);
        else
                *ret_value = r.root ?: json_null();
        return code;
}

unsigned int yaml_line_of(const struct yaml_lines *lines, const char *message) {
        const char *at = message + strcspn(message, ".:");
        unsigned int line = 0;
        size_t longest = 0;

        if (*at != '.')
                return 0;
        at++;
        for (size_t i = 0; i < lines->n; i++) {
                size_t n = strlen(lines->items[i].path);

                if (n > longest && strncmp(lines->items[i].path, at, n) == 0 && strchr(".:[", at[n])) {
                        longest = n;
                        line = lines->items[i].line;
                }
        }
        return line;
}

void yaml_lines_clear(struct yaml_lines *lines) {
        for (size_t i = 0; i < lines->n; i++)
                free(lines->items[i].path);
        free(lines->items);
        *lines = (struct yaml_lines){ 0 };
}
