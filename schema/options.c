// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * options: from a command line's words to a struct, by the tables
 *
 * An option sets one field of one of its command's objects. A list of objects grows by one item each time its option is
 * given; the item is written as comma-separated key=value pairs, of which the first may be the bare value of the `head`
 * field (--disk FILE,readonly=on) and may carry the `head_value` field behind an '=' (--net tap=tap0,mtu=9000). A comma
 * inside a value is written twice. A boolean key alone means on.
 *
 * Values get the same checks as in JSON. Paths in messages begin with the option: "--disk format: ...".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "schema/schema.h"

#define OPTIONS_MAX 64 /* of a command: one bit each remembers which were given */

const struct schema_field *schema_field_find(const struct schema_object *o, const char *name) {
        for (unsigned int i = 0; o && i < o->n_fields; i++)
                if (streq(o->fields[i].name, name))
                        return &o->fields[i];
        return NULL;
}

static int parse_bool(const char *text, bool *ret) {
        static const char *const on[] = { "on", "yes", "true", "1" }, *const off[] = { "off", "no", "false", "0" };

        for (size_t i = 0; i < ELEMENTSOF(on); i++)
                if (streq(text, on[i]) || streq(text, off[i])) {
                        *ret = streq(text, on[i]);
                        return 0;
                }
        return -EINVAL;
}

static int parse_number(const struct schema_field *f, const char *text, int64_t *ret, const struct schema_path *path,
                        struct error *e) {
        uint64_t v;
        int r;

        if (f->kind == SCHEMA_SIZE)
                r = text_parse_size(text, &v);
        else
                r = text_parse_uint(text, INT64_MAX, &v);
        if (r == -ERANGE || (r >= 0 && v > INT64_MAX))
                return schema_fail(e, path, "schema-range", NULL, "%.64s is too big a number", text);
        if (r < 0)
                return schema_fail(e, path, "schema-type", NULL, "\"%.64s\" is no %s", text,
                                   f->kind == SCHEMA_SIZE ? "size (bytes, or a number with K, M, G or T)" : "number");
        r = schema_check_number(f, (int64_t)v, path, e);
        if (r < 0)
                return r;
        *ret = (int64_t)v;
        return 0;
}

/* "0-3+6": each range is checked, and the whole is bounded by the list's own limit. */
static int parse_int_list(const struct schema_field *f, const char *text, void *value, const struct schema_path *path,
                          struct error *e) {
        _cleanup_free_ char *copy = strdup(text);
        char *rest = copy, *word;

        if (!copy)
                return schema_fail_oom(e);
        while ((word = strsep(&rest, "+"))) {
                char *dash = strchr(word, '-');
                int64_t first, last;
                int r;

                if (dash)
                        *dash++ = '\0';
                r = parse_number(f, word, &first, path, e);
                if (r < 0)
                        return r;
                last = first;
                if (dash) {
                        r = parse_number(f, dash, &last, path, e);
                        if (r < 0)
                                return r;
                }
                if (last < first)
                        return schema_fail(e, path, "schema-range", NULL, "%s-%s runs backwards", word, dash);
                for (int64_t v = first; v <= last; v++) {
                        if (*(size_t *)schema_at(value, f->n_offset) >= f->max_items)
                                return schema_fail(e, path, "schema-too-many", NULL,
                                                   "more than %u numbers are too many", f->max_items);
                        if (schema_append_int(f, value, (uint32_t)v) < 0)
                                return schema_fail_oom(e);
                }
        }
        return 0;
}

static int parse_string(const struct schema_field *f, const char *text, char **at, const struct schema_path *path,
                        struct error *e) {
        int r = schema_check_string(f, text, path, e);
        char *copy;

        if (r < 0)
                return r;
        copy = strdup(text);
        if (!copy)
                return schema_fail_oom(e);
        free(*at);
        *at = copy;
        return 0;
}

static int parse_value(const struct schema_field *f, const char *text, void *value, const struct schema_path *path,
                       struct error *e) {
        void *at = schema_at(value, f->offset);
        int64_t v = 0;
        int r;

        switch (f->kind) {
        case SCHEMA_BOOL:
                if (parse_bool(text, at) < 0)
                        return schema_fail(e, path, "schema-type", NULL, "\"%.64s\" is neither on nor off", text);
                return 0;
        case SCHEMA_ENUM:
                r = schema_enum_find(f, text, path, e);
                if (r < 0)
                        return r;
                *(uint32_t *)at = (uint32_t)r;
                return 0;
        case SCHEMA_STRING:
                return parse_string(f, text, at, path, e);
        case SCHEMA_INT_LIST:
                return parse_int_list(f, text, value, path, e);
        case SCHEMA_STRING_LIST:
                if (*(size_t *)schema_at(value, f->n_offset) >= f->max_items)
                        return schema_fail(e, path, "schema-too-many", NULL, "at most %u are allowed", f->max_items);
                r = schema_check_string(f, text, path, e);
                if (r < 0)
                        return r;
                return schema_append_string(f, value, text) < 0 ? schema_fail_oom(e) : 0;
        case SCHEMA_INT:
        case SCHEMA_SIZE:
        case SCHEMA_FD:
                break;
        case SCHEMA_OBJECT:
        case SCHEMA_OBJECT_LIST:
                return schema_fail(e, path, "schema-type", NULL, "cannot be written on a command line");
        }

        r = parse_number(f, text, &v, path, e);
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

/* Cuts the next pair off *@rest, in place: up to a single comma; two commas stand for one. */
static char *next_pair(char **rest) {
        char *start = *rest, *from = *rest, *to = *rest;

        if (!start)
                return NULL;
        for (; *from; from++) {
                if (*from == ',' && from[1] != ',')
                        break;
                if (*from == ',')
                        from++;
                *to++ = *from;
        }
        *rest = *from ? from + 1 : NULL;
        *to = '\0';
        return start;
}

/* The first pair of an item: VALUE of the head field, or VALUE=VALUE of the head and head_value fields. */
static int parse_head(const struct schema_option *o, char *text, void *item, const struct schema_path *path,
                      struct error *e) {
        const struct schema_path at = { .up = path, .name = o->head->name, .index = -1 };
        char *equals = o->head_value ? strchr(text, '=') : NULL;
        int r;

        if (equals)
                *equals++ = '\0';
        r = parse_value(o->head, text, item, &at, e);
        if (r < 0 || !equals)
                return r;
        return parse_value(o->head_value, equals, item,
                           &(const struct schema_path){ .up = path, .name = o->head_value->name, .index = -1 }, e);
}

/* KEY=VALUE; the key of a field in an object of the item's is OBJECT.KEY. */
static int parse_pair(const struct schema_object *object, char *pair, void *item, const struct schema_path *path,
                      struct error *e) {
        char *equals = strchr(pair, '='), *dot;
        const struct schema_path at = { .up = path, .name = pair, .index = -1 };
        const struct schema_field *f;

        if (equals)
                *equals = '\0';
        dot = strchr(pair, '.');
        if (dot) {
                *dot = '\0';
                f = schema_field_find(object, pair);
                if (f && f->kind == SCHEMA_OBJECT) {
                        if (equals)
                                *equals = '=';
                        return parse_pair(f->object, dot + 1, schema_at(item, f->offset), &at, e);
                }
                *dot = '.';
        }
        f = schema_field_find(object, pair);
        if (!f)
                return schema_unknown_key(object, pair, path, e);
        if (f->kind == SCHEMA_OBJECT)
                return schema_fail(e, &at, "option-argument", NULL, "is set by its parts: %s.%s=...", pair,
                                   f->object->fields[0].name);
        if (!equals && f->kind != SCHEMA_BOOL)
                return schema_fail(e, &at, "option-argument", NULL, "needs a value: %s=...", pair);
        return parse_value(f, equals ? equals + 1 : "on", item, &at, e);
}

int schema_set_text(const struct schema_object *o, void *value, const char *label, const char *text, struct error *e) {
        const struct schema_path path = { .name = label, .index = -1 };
        _cleanup_free_ char *copy = strdup(text);

        return copy ? parse_pair(o, copy, value, &path, e) : schema_fail_oom(e);
}

/* Is the first pair "key=value" of a known key, rather than the head's own text? */
static bool names_a_key(const struct schema_option *o, const char *pair) {
        size_t n = strcspn(pair, "=.");
        const struct schema_field *f;
        char key[64];

        if (!strchr(pair, '=') || n >= sizeof(key))
                return false;
        memcpy(key, pair, n);
        key[n] = '\0';
        f = schema_field_find(o->field->object, key);
        return f && (pair[n] == '=' || f->kind == SCHEMA_OBJECT);
}

static int parse_item(const struct schema_option *o, const char *text, void *value, const struct schema_path *path,
                      struct error *e) {
        const struct schema_field *f = o->field;
        _cleanup_free_ char *copy = NULL;
        char *rest, *pair;
        void *item;
        int r;

        r = schema_list_add(f, value, &item);
        if (r == -E2BIG)
                return schema_fail(e, path, "schema-too-many", NULL, "given more often than the allowed %u times",
                                   f->max_items);
        copy = strdup(text);
        if (r < 0 || !copy)
                return schema_fail_oom(e);

        rest = copy;
        for (bool first = true; (pair = next_pair(&rest)); first = false) {
                if (first && o->head && !names_a_key(o, pair))
                        r = parse_head(o, pair, item, path, e);
                else
                        r = parse_pair(f->object, pair, item, path, e);
                if (r < 0)
                        return r;
        }
        return schema_check_fields(f->object, item, path, e);
}

static int option_set(const struct schema_option *o, const char *label, const char *text, void *const objects[],
                      struct error *e) {
        const struct schema_path path = { .name = label, .index = -1 };
        void *value = objects[o->object];

        if (o->field->kind == SCHEMA_OBJECT_LIST)
                return parse_item(o, text, value, &path, e);
        return parse_value(o->field, text, value, &path, e);
}

static const char *option_name(const void *table, unsigned int i) {
        return ((const struct schema_option *)table)[i].name;
}

static int fail_unknown(const struct schema_command *cmd, const char *name, struct error *e) {
        const char *near = schema_suggest(name, option_name, cmd->options, cmd->n_options);
        const struct schema_option *last = cmd->n_arguments > 0 ? &cmd->arguments[cmd->n_arguments - 1] : NULL;

        error_set(e, -EINVAL, "option-unknown", NULL, "--%.64s: unknown option%s%s%s", name,
                  near ? ", did you mean --" : "", near ?: "", near ? "?" : "");
        if (last && strchr(last->name, '=') && !near) /* as lodge set has it */
                error_set_fix(e, "fields have no dashes: %.64s=VALUE; lodge %s --help", name, cmd->alias ?: cmd->name);
        else
                error_set_fix(e, "lodge %s --help lists the options", cmd->alias ?: cmd->name);
        return -EINVAL;
}

/* One word that begins with "--"; *@i is moved past a value in a word of its own. */
static int parse_option(const struct schema_command *cmd, int argc, char *const argv[], int *i, uint64_t *given,
                        void *const objects[], struct error *e) {
        const char *word = argv[*i] + 2, *text = strchr(word, '=');
        size_t len = text ? (size_t)(text - word) : strlen(word);
        const struct schema_option *o = NULL;
        char label[72];

        for (unsigned int k = 0; k < cmd->n_options && !o; k++)
                if (strncmp(cmd->options[k].name, word, len) == 0 && cmd->options[k].name[len] == '\0')
                        o = &cmd->options[k];
        if (!o) {
                snprintf(label, sizeof(label), "%.*s", (int)MIN(len, sizeof(label) - 1), word);
                return fail_unknown(cmd, label, e);
        }
        snprintf(label, sizeof(label), "--%s", o->name);

        if (o->field->kind < SCHEMA_INT_LIST && (*given & 1ull << (o - cmd->options)))
                return error_set(e, -EINVAL, "option-twice", NULL, "%s: given twice", label);
        *given |= 1ull << (o - cmd->options);
        if (text)
                text++;
        else if (o->field->kind == SCHEMA_BOOL)
                text = "on";
        else if (*i + 1 < argc)
                text = argv[++*i];
        else
                return error_set(e, -EINVAL, "option-argument", NULL, "%s: needs a value: %s %s", label, label, o->arg);
        return option_set(o, label, text, objects, e);
}

/* The last argument takes every word that is left when it is a list. */
static const struct schema_option *argument_at(const struct schema_command *cmd, unsigned int n) {
        const struct schema_option *last = cmd->n_arguments > 0 ? &cmd->arguments[cmd->n_arguments - 1] : NULL;

        if (n < cmd->n_arguments)
                return &cmd->arguments[n];
        return last && last->field->kind >= SCHEMA_INT_LIST ? last : NULL;
}

static int parse_argument(const struct schema_command *cmd, unsigned int n, const char *text, void *const objects[],
                          struct error *e) {
        const struct schema_option *argument = argument_at(cmd, n);

        if (!argument) {
                error_set(e, -EINVAL, "argument-unexpected", NULL, "unexpected argument \"%.64s\"", text);
                error_set_fix(e, "lodge %s --help shows what the command takes", cmd->name);
                return -EINVAL;
        }
        return option_set(argument, argument->name, text, objects, e);
}

int schema_command_parse_given(const struct schema_command *cmd, int argc, char *const argv[], void *const objects[],
                               uint64_t *ret_given, struct error *e) {
        unsigned int n_arguments = 0;
        bool options = true;
        uint64_t given = 0;

        if (cmd->n_options > OPTIONS_MAX)
                return error_set(e, -EINVAL, "option-unknown", NULL, "too many options in lodge %s", cmd->name);

        for (int i = 0; i < argc; i++) {
                const struct schema_option *argument = argument_at(cmd, n_arguments);
                int r;

                if (argument && argument->rest && (argv[i][0] != '-' || n_arguments >= cmd->n_arguments))
                        options = false;
                if (options && (streq(argv[i], "--help") || streq(argv[i], "-h")))
                        return 1;
                if (options && streq(argv[i], "--")) {
                        options = false;
                        continue;
                }
                if (options && argv[i][0] == '-' && argv[i][1] == '-')
                        r = parse_option(cmd, argc, argv, &i, &given, objects, e);
                else if (options && argv[i][0] == '-' && argv[i][1] != '\0')
                        r = fail_unknown(cmd, argv[i] + 1, e);
                else
                        r = parse_argument(cmd, n_arguments++, argv[i], objects, e);
                if (r < 0)
                        return r;
        }

        for (unsigned int k = n_arguments; k < cmd->n_arguments; k++)
                if (!cmd->arguments[k].optional) {
                        error_set(e, -EINVAL, "argument-missing", NULL, "%s is missing", cmd->arguments[k].name);
                        error_set_fix(e, "lodge %s %s", cmd->name, cmd->arguments[k].name);
                        return -EINVAL;
                }
        *ret_given = given;
        return 0;
}

int schema_command_parse(const struct schema_command *cmd, int argc, char *const argv[], void *const objects[],
                         struct error *e) {
        uint64_t given;

        return schema_command_parse_given(cmd, argc, argv, objects, &given, e);
}

/* How many of the words are a command's name? 0: they are not. */
static int name_words(const char *name, int argc, char *const argv[]) {
        int words = 0;

        while (*name && words < argc) {
                size_t len = strcspn(name, " ");

                if (strlen(argv[words]) != len || strncmp(argv[words], name, len) != 0)
                        return 0;
                name += len + (name[len] == ' ');
                words++;
        }
        return *name ? 0 : words;
}

const struct schema_command *schema_command_find(int argc, char *const argv[], int *ret_words) {
        const struct schema_command *best = NULL;
        int best_words = 0;

        for (unsigned int i = 0; i < schema_n_commands; i++) {
                const char *alias = schema_commands[i]->alias;
                int words = name_words(schema_commands[i]->name, argc, argv);

                if (words == 0 && alias)
                        words = name_words(alias, argc, argv);
                if (words > best_words) {
                        best = schema_commands[i];
                        best_words = words;
                }
        }
        if (best)
                *ret_words = best_words;
        return best;
}

#define HELP_COLUMN 30 /* where the explanations begin */

/* @dash, @name and @arg are one word or two; a long one has the line for itself. */
static void help_line(FILE *f, const char *dash, const char *name, const char *arg, const struct schema_field *field) {
        int width = fprintf(f, "  %s%s%s%s", dash, name, arg ? " " : "", arg ?: "");
        char limits[320];

        if (width >= HELP_COLUMN) {
                fputc('\n', f);
                width = 0;
        }
        schema_describe_limits(field, limits, sizeof(limits));
        fprintf(f, "%*s%s%s%s%s\n", HELP_COLUMN - MAX(width, 0), "", field->help, limits[0] ? " (" : "", limits,
                limits[0] ? ")" : "");
}

void schema_command_help(const struct schema_command *cmd, FILE *f) {
        fprintf(f, "usage: lodge %s", cmd->alias ?: cmd->name);
        for (unsigned int i = 0; i < cmd->n_arguments; i++)
                fprintf(f, cmd->arguments[i].optional ? " [%s%s]" : " %s%s", cmd->arguments[i].name,
                        cmd->arguments[i].field->kind >= SCHEMA_INT_LIST ? "..." : "");
        fprintf(f, "%s\n%s\n", cmd->n_options > 0 ? " [OPTION]..." : "", cmd->summary);
        if (cmd->alias)
                fprintf(f, "also: lodge %s\n", cmd->name);

        fputc('\n', f);
        for (unsigned int i = 0; i < cmd->n_arguments; i++)
                help_line(f, "", cmd->arguments[i].name, NULL, cmd->arguments[i].field);
        for (unsigned int i = 0; i < cmd->n_options; i++)
                help_line(f, "--", cmd->options[i].name, cmd->options[i].arg, cmd->options[i].field);
}
