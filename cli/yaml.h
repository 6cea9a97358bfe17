// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * yaml: JSON values as YAML 1.2, in block style, such as every YAML parser reads back as the same values; and YAML that a person wrote as JSON values
 *
 * Reading takes what JSON has, and no more: one document, no anchors, aliases or tags, each key once. A plain word is null, true, false, a decimal number or else a text
 * (YAML 1.2, core schema, without its octal and hexadecimal numbers): `no` and 52:54:00:12:34:56 are texts.
 */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "base/error.h"
#include "schema/schema.h"

#define YAML_DEPTH_MAX 16u

/** yaml_write() - write a value as a document, with a newline at its end; -EIO. */
int yaml_write(FILE *f, const json_t *value);

/**
 * yaml_write_explained() - write an object for a person who is to change it
 * @o: what it is: each field is followed by the schema's line about it, and those that are not set stand at the end, as comments; sizes have units
 */
int yaml_write_explained(FILE *f, const json_t *value, const struct schema_object *o);

/* On which line each value was. */
struct yaml_lines {
        struct yaml_line {
                char *path; /* "disks[1].format" */
                unsigned int line;
        } * items;
        size_t n;
};

/**
 * yaml_read() - parse @text
 * @above:     lines that will stand above it where a person looks for a line
 * @ret_value: owned; json_null() for a text without a document. Keys without a value are left out.
 * @ret_lines: filled, also by a failure; end it by yaml_lines_clear()
 *
 * Return: 0, -EINVAL with @e "yaml", whose message begins with the line.
 */
int yaml_read(const char *text, size_t n, json_t **ret_value, unsigned int above, struct yaml_lines *ret_lines,
              struct error *e);

/**
 * yaml_line_of() - where is what an error of the schema is about?
 * @message: begins with a path, "machine.disks[1].format: ..."; its first word is the object's name
 * Return: the line of that value, or of the nearest thing that holds it; 0: not known.
 */
unsigned int yaml_line_of(const struct yaml_lines *lines, const char *message);

void yaml_lines_clear(struct yaml_lines *lines);
