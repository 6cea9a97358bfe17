// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * render: an answer of the daemon, as a person or a program wants to read it: table, JSON, YAML, CSV
 *
 * Theory of operation. An answer is JSON whose object the schema names. A column is a path in it, "name" or "state.status"; the schema says what kind of value lies
 * there, so that sizes are "1.5 GiB" in a table and bytes elsewhere, and so that an unknown column is refused with its nearest neighbour. Lists are tables with a
 * line for each item; a single object is a table with a line for each column, without those that hold nothing.
 *
 * Answers hold texts from guests, images and other users. A table never prints a control character or a mark that turns the direction: they are escaped
 * as \xHH. JSON and YAML escape them by their own rules; to a terminal JSON is pure ASCII. CSV (RFC 4180, but for lines that end as the shell wants them) keeps what it was given, but on a terminal.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

struct render {
        FILE *file;
        enum table_format format;
        const struct schema_object *object; /* what an item is */
        const char *columns;                /* "name,state.status"; "all" */
        bool chosen;                        /* a person chose the columns: they select in JSON and YAML, too */
        bool no_header;
        bool terminal; /* the file is one */
        bool colour;
};

/** render_to_stdout() - how to render there: on a terminal, with colours where they may be. */
struct render render_to_stdout(enum table_format format, const struct schema_object *object, const char *columns);

/**
 * render_list() - a page's items
 * @page: the whole answer, with its array `items`; JSON and YAML show it as it is
 * Return: 0, or -EINVAL with @e "column-unknown".
 */
int render_list(const struct render *r, json_t *page, struct error *e);

/** render_object() - one object; as render_list(). */
int render_object(const struct render *r, json_t *object, struct error *e);

/** render_check() - are the columns such as the object has? As render_list() without output. */
int render_check(const struct render *r, struct error *e);

/** render_text() - a text from outside, for people: what a terminal does not only show is escaped. */
void render_text(FILE *f, const char *text);

/** render_colour() - may colours be used on a file? A terminal, and no NO_COLOR. */
bool render_colour(FILE *f);
