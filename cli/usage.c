// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage: `lodge usage list`
 *
 * The daemon counts in MiB times hours and names machines by their UUIDs, which stay when a machine is renamed or gone. People read GiB times hours, and names; JSON,
 * YAML, CSV and chosen columns are as the daemon says it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/ask.h"

#define USAGE_COLUMNS "project,machine,month,cpu,memory,storage"

/* {UUID: name}, of the machines that there are, in the project that is asked for or in default; empty when that can't be found out. */
static json_t *machine_names(struct ask *a) {
        _cleanup_error_ struct error e = ERROR_INIT;
        json_auto_t *page = NULL;
        json_t *names = json_object(), *item;
        size_t i;

        if (ask_list(a, ROUTE_MACHINE_LIST, NULL, &page, &e) < 0)
                return names;
        json_array_foreach(json_object_get(page, "items"), i, item) {
                const char *uuid = json_string_value(json_object_get(item, "uuid"));

                if (uuid)
                        json_object_set(names, uuid, json_object_get(item, "name"));
        }
        return names;
}

static void set_cpu(json_t *line, json_int_t s) {
        char text[32];

        if (s >= 3600)
                snprintf(text, sizeof(text), "%lld h %02lld min", (long long)s / 3600, (long long)s / 60 % 60);
        else if (s >= 60)
                snprintf(text, sizeof(text), "%lld min %02lld s", (long long)s / 60, (long long)s % 60);
        else
                snprintf(text, sizeof(text), "%lld s", (long long)s);
        json_object_set_new(line, "cpu", json_string(text));
}

static void set_hours(json_t *line, const char *key, json_int_t mib_hours) {
        char text[32];

        snprintf(text, sizeof(text), "%.*f GiB-h", mib_hours < 10 * 1024 ? 2 : 0, (double)mib_hours / 1024);
        json_object_set_new(line, key, json_string(text));
}

static json_t *line_of(const json_t *item, const json_t *names) {
        const char *uuid = json_string_value(json_object_get(item, "machine")) ?: "";
        json_int_t month = json_integer_value(json_object_get(item, "month"));
        json_t *line = json_object(), *name = json_object_get(names, uuid);
        char text[16];

        snprintf(text, sizeof(text), "%04d-%02d", (int)(month / 100), (int)(month % 100));
        json_object_set(line, "project", json_object_get(item, "project"));
        json_object_set_new(line, "machine", name ? json_incref(name) : json_string(uuid));
        json_object_set_new(line, "month", json_string(text));
        set_cpu(line, json_integer_value(json_object_get(item, "cpu_seconds")));
        set_hours(line, "memory", json_integer_value(json_object_get(item, "memory_mib_hours")));
        set_hours(line, "storage", json_integer_value(json_object_get(item, "storage_mib_hours")));
        return line;
}

static int print_lines(struct ask *a, json_t *page, struct error *e) {
        json_auto_t *names = machine_names(a), *people = json_copy(page);
        json_t *lines = json_array(), *item;
        size_t i;

        json_array_foreach(json_object_get(page, "items"), i, item) {
                json_array_append_new(lines, line_of(item, names));
        }
        json_object_set_new(people, "items", lines);
        return ask_print_list(a, people, NULL, &usage_line_schema, USAGE_COLUMNS, e);
}

int ask_usage_list(struct ask *a, struct error *e) {
        const struct usage_query *how = ask_object(a, &usage_query_schema);
        json_auto_t *page = NULL;
        int r;

        if (how->month > 0 && (how->month < 197001 || how->month % 100 < 1 || how->month % 100 > 12))
                return error_set(e, -EINVAL, "usage-month", "give it as 202611", "--month: %u is no month", how->month);
        r = ask_send(a, ROUTE_USAGE_LIST, NULL, NULL, &page, e);
        if (r < 0)
                return r;
        if (ask_is_people(a) && !a->view->columns)
                return print_lines(a, page, e);
        return ask_print_list(a, page, NULL, &usage_view_schema, "all", e);
}
