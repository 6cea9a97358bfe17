// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * schema: objects that people, programs and files hand to Lodge, checked against tables made from lodge.yaml
 *
 * Theory of operation. lodge.yaml says what an object holds. generate.py turns each object into a C struct and a table of
 * struct schema_field, which says where in the struct a field lies and what it may hold. The code here walks those
 * tables: from JSON to a struct (parse.c), from a struct to JSON (format.c), from a command line's words to a struct
 * (options.c), defaults and freeing (object.c). All ways in go through the same checks (value.c), so that a number that
 * the command line refuses is refused in a file too, and with the same words. Rules that need several fields are in
 * rules.c.
 *
 * Everything that comes in is hostile: the text's length, its nesting, each list's length and each string's length are
 * bounded before anything is kept; unknown and repeated keys are errors, so that a typing mistake is never ignored.
 *
 * Use the typed functions in the generated schema/lodge-schema.h (machine_config_parse() and so on); those here take
 * the tables.
 *
 * Errors: code -EINVAL (or -ENOMEM), message "machine.cpus: 300 is out of range 1..254", and one of these ids:
 * schema-json, schema-too-long, schema-too-deep, schema-nul, schema-duplicate-key, schema-unknown-key, schema-type,
 * schema-range, schema-multiple, schema-enum, schema-pattern, schema-too-many, schema-required, schema-conflict,
 * schema-topology, schema-numa, option-unknown, option-argument, option-twice, argument-unexpected, argument-missing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define SCHEMA_TEXT_MAX  (1u << 20) /* bytes of JSON */
#define SCHEMA_DEPTH_MAX 16u        /* nested objects and arrays */
#define SCHEMA_PATH_MAX  256u       /* bytes of "machine.disks[1].format" */

enum schema_kind {
        SCHEMA_BOOL,        /* bool */
        SCHEMA_INT,         /* uint32_t */
        SCHEMA_FD,          /* int, -1 for none */
        SCHEMA_SIZE,        /* uint64_t, bytes */
        SCHEMA_ENUM,        /* a C enum */
        SCHEMA_STRING,      /* char *, NULL for none */
        SCHEMA_OBJECT,      /* a struct, in place */
        SCHEMA_INT_LIST,    /* uint32_t * and size_t */
        SCHEMA_STRING_LIST, /* char ** and size_t */
        SCHEMA_OBJECT_LIST, /* an array of structs and size_t */
};

enum schema_charset {
        SCHEMA_CHARSET_TEXT,      /* UTF-8 without control characters */
        SCHEMA_CHARSET_PRINTABLE, /* ASCII 0x20..0x7e */
        SCHEMA_CHARSET_ANY,       /* UTF-8 */
};

struct schema_enum {
        const char *const *names;
        unsigned int n_names;
};

struct schema_object;

struct schema_field {
        const char *name;
        enum schema_kind kind;
        enum schema_charset charset;
        bool required;
        bool count;            /* a size that is no bytes */
        bool optional_number;  /* a number that may stay unset, as 0, which is outside min..max */
        unsigned int offset;   /* of the value in its struct */
        unsigned int n_offset; /* of a list's length */
        unsigned int max_items;
        unsigned int max_bytes; /* of a string, without its NUL */
        int64_t min, max, multiple, preset;
        const char *preset_text;
        const char *pattern; /* POSIX extended */
        const struct schema_enum *values;
        const struct schema_object *object; /* SCHEMA_OBJECT, SCHEMA_OBJECT_LIST */
        const char *help;
};

/* Where in a document a value lies; each level lives on the stack of whoever walks it. */
struct schema_path {
        const struct schema_path *up;
        const char *name;
        int index; /* in a list, or -1 */
};

typedef int (*schema_rule_fn)(void *value, const struct schema_path *path, struct error *e);

struct schema_object {
        const char *name;
        const char *help;
        size_t size;
        const struct schema_field *fields;
        unsigned int n_fields;
        const schema_rule_fn *rules; /* NULL-terminated, or NULL */
};

/* An option or argument of a command: text that sets one field of one of the objects that the command fills. */
struct schema_option {
        const char *name;    /* without the dashes; of an argument: as the usage line shows it */
        const char *arg;     /* what follows, or NULL for a switch */
        unsigned int object; /* index into the command's objects */
        const struct schema_field *field;
        const struct schema_field *head, *head_value; /* of an object list: see lodge.yaml */
        bool optional;                                /* of an argument */
        bool rest;                                    /* of an argument: it takes all that follows, options too */
};

#define SCHEMA_OBJECTS_MAX 6
struct schema_command {
        const char *name;  /* "run", "image build" */
        const char *alias; /* another name, or NULL */
        bool hidden;       /* for scripts: not listed */
        const char *summary;
        const struct schema_object *objects[SCHEMA_OBJECTS_MAX];
        const struct schema_option *arguments, *options;
        unsigned int n_arguments, n_options;
};

/* Who may send a request: each role may what the ones before it may. */
enum schema_role { SCHEMA_ROLE_NONE, SCHEMA_ROLE_VIEWER, SCHEMA_ROLE_OPERATOR, SCHEMA_ROLE_ADMIN };

/* A request that lodged's API answers. */
struct schema_route {
        const char *name;   /* "machine_start" */
        const char *method; /* "POST" */
        const char *path;   /* "/v1/machines/{name}/start" */
        const char *summary;
        enum schema_role role;
        unsigned int status;                               /* of a good answer */
        const struct schema_object *query, *body, *answer; /* NULL: none */
        bool template;                                     /* see schema_template_apply() */
        bool patch;                                        /* the body is a JSON merge patch (RFC 7396) of @body */
        bool operation;                                    /* the answer is an operation that goes on */
        bool dry_run;                                      /* the query may hold dry_run: check only */
        const struct schema_object *dry_answer;            /* what a dry run answers, with 200 */
        bool if_match;                                     /* If-Match is looked at */
        bool secret;                                       /* the answer holds a secret: it is never kept */
        bool upload;                                       /* the body is a file's bytes, taken while they come */
        const char *raw; /* media type of an answer that is no JSON, or "websocket"; NULL: it is @answer */
};

/* Hardware that fits a purpose: values for fields of a machine_definition, as JSON, each with its reason. */
struct schema_template_field {
        const char *field, *json, *why;
};

struct schema_template {
        const char *name, *summary;
        const struct schema_template_field *fields;
        unsigned int n_fields;
};

/* Every template, in templates.yaml's order (generated). */
extern const struct schema_template schema_templates[];
extern const unsigned int schema_n_templates;

/* The OpenAPI document (generated), and its ETag, in quotes. */
extern const char schema_openapi[], schema_openapi_etag[];
extern const size_t schema_openapi_size;

/* Every command, in lodge.yaml's order (generated). */
extern const struct schema_command *const schema_commands[];
extern const unsigned int schema_n_commands;

/** schema_new() - allocate an object and fill in its defaults; -ENOMEM. */
int schema_new(const struct schema_object *o, void **ret_value);

/** schema_free() - release an object made by schema_new() and all that it holds. NULL is fine. */
void schema_free(const struct schema_object *o, void *value);

/** schema_init() - fill in the defaults of an object in place, whose memory is zeroed; -ENOMEM. */
int schema_init(const struct schema_object *o, void *value);

/** schema_clear() - release what an object in place holds. */
void schema_clear(const struct schema_object *o, void *value);

/**
 * schema_list_add() - append an item with its defaults to a list of objects
 * @value:    the object that holds the list
 * @ret_item: the new item: valid until the next call
 * Return: 0, -ENOMEM, -E2BIG when the list is full
 */
int schema_list_add(const struct schema_field *list, void *value, void **ret_item);

/**
 * schema_parse() - make an object from JSON text, check it and its rules
 * @json: need not end in NUL
 * Return: 0, or -EINVAL or -ENOMEM with @e filled; @ret_value is untouched then
 */
int schema_parse(const struct schema_object *o, const char *json, size_t len, void **ret_value, struct error *e);

/** schema_parse_json() - any object, within the bounds that schema_parse() sets, as jansson's; for what is merged or passed on. */
struct json_t;
int schema_parse_json(const char *json, size_t len, struct json_t **ret_json, struct error *e);

/** schema_template_find() - the template of that name, or NULL. */
const struct schema_template *schema_template_find(const char *name);

/**
 * schema_template_apply() - let the template that a body names fill in what the body leaves out
 * @body: a JSON object; its key `template` stays. Without that key nothing happens
 * Return: 0, or -EINVAL ("template-unknown", with the nearest name) or -ENOMEM with @e.
 */
int schema_template_apply(struct json_t *body, struct error *e);

/** schema_check() - check an object that was filled by hand or by options, and apply its rules (they may complete it). */
int schema_check(const struct schema_object *o, void *value, struct error *e);

/** schema_format() - the object as JSON text on one line, in the schema's order; NULL when there is no memory. */
char *schema_format(const struct schema_object *o, const void *value);

/** schema_command_find() - the command that the first words of @argv name; *@ret_words: how many; NULL if none. */
const struct schema_command *schema_command_find(int argc, char *const argv[], int *ret_words);

/**
 * schema_command_parse() - fill a command's objects from its words
 * @argv:    the words behind the command's name
 * @objects: as many as @cmd->objects has, made by schema_new() or the typed ..._new()
 *
 * Options may be written --name VALUE or --name=VALUE, before, between or after arguments; "--" ends them. The values are
 * checked one by one; the caller runs ..._check() on each object afterwards, when it has added what it knows itself.
 *
 * Return: 0, 1 when --help or -h is among the options (nothing else is promised then), or -EINVAL with @e filled.
 */
int schema_command_parse(const struct schema_command *cmd, int argc, char *const argv[], void *const objects[],
                         struct error *e);

/** schema_command_parse_given() - the same; *@ret_given: a bit for each of the command's options that was among the words. */
int schema_command_parse_given(const struct schema_command *cmd, int argc, char *const argv[], void *const objects[],
                               uint64_t *ret_given, struct error *e);

/**
 * schema_set_text() - set one field of an object from "FIELD=VALUE", as "memory=2G" or "limits.cpu_quota=50"
 * @label: what errors begin with
 * Return: 0, or -EINVAL or -ENOMEM with @e.
 */
int schema_set_text(const struct schema_object *o, void *value, const char *label, const char *text, struct error *e);

/** schema_field_find() - the field of that name, or NULL; of no object: NULL. */
const struct schema_field *schema_field_find(const struct schema_object *o, const char *name);

/** schema_command_help() - write a command's usage, arguments and options, with defaults and ranges. */
void schema_command_help(const struct schema_command *cmd, FILE *f);

/** schema_describe_limits() - "1..254, default 1" and the like into @buf, "" when there is nothing to say; returns @buf. */
const char *schema_describe_limits(const struct schema_field *f, char *buf, size_t size);

/** schema_suggest() - the candidate nearest to @word, or NULL when none is near. */
const char *schema_suggest(const char *word, const char *(*candidate)(const void *table, unsigned int i),
                           const void *table, unsigned int n);

/* ---- for the files of this folder -------------------------------------------------------------------------------- */

/** schema_fail() - error_set(-EINVAL) with the path in front. */
int schema_fail(struct error *e, const struct schema_path *path, const char *id, const char *fix, const char *format,
                ...) __attribute__((format(printf, 5, 6)));

/** schema_fail_oom() - error_set(-ENOMEM). */
int schema_fail_oom(struct error *e);

/** schema_path_text() - "machine.disks[1].format"; returns @buf. */
const char *schema_path_text(const struct schema_path *path, char buf[static SCHEMA_PATH_MAX]);

/** schema_size_text() - a size as it would be typed: "4M", "512M", or plain bytes where no unit divides it; returns @buf. */
const char *schema_size_text(int64_t v, char buf[static 32]);

/** schema_check_number() - is @v within min..max and a multiple? */
int schema_check_number(const struct schema_field *f, int64_t v, const struct schema_path *path, struct error *e);

/** schema_check_string() - length, character set, pattern. */
int schema_check_string(const struct schema_field *f, const char *text, const struct schema_path *path,
                        struct error *e);

/** schema_enum_find() - the index of @text, or -EINVAL with @e saying what may stand there. */
int schema_enum_find(const struct schema_field *f, const char *text, const struct schema_path *path, struct error *e);

/** schema_enum_lookup() - the index of @text, or -EINVAL. */
int schema_enum_lookup(const struct schema_enum *values, const char *text);

/** schema_check_fields() - check every field of a struct; the part of schema_check() below the root. */
int schema_check_fields(const struct schema_object *o, void *value, const struct schema_path *path, struct error *e);

/** schema_unknown_key() - the error for a key that @o does not have. */
int schema_unknown_key(const struct schema_object *o, const char *key, const struct schema_path *path, struct error *e);

/** schema_append_int(), schema_append_string() - grow a list by one; -ENOMEM. */
int schema_append_int(const struct schema_field *f, void *value, uint32_t v);
int schema_append_string(const struct schema_field *f, void *value, const char *text);

static inline void *schema_at(void *value, unsigned int offset) {
        return (char *)value + offset;
}

static inline const void *schema_at_const(const void *value, unsigned int offset) {
        return (const char *)value + offset;
}
