// SPDX-License-Identifier: GPL-2.0-or-later
/* template: lodge template list and show, and what a definition that names a template is sent as */
#include "cli/template.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LIST_COLUMNS "name,summary"
#define SHOW_COLUMNS "field,value,why"

int ask_template_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = ask_list(a, ROUTE_TEMPLATE_LIST, NULL, &page, e);

        return r < 0 ? r : ask_print_list(a, page, NULL, &template_view_schema, LIST_COLUMNS, e);
}

/* For people and spreadsheets a line for each choice; for programs the whole. */
int ask_template_show(struct ask *a, struct error *e) {
        const struct template_options *which = ask_object(a, &template_options_schema);
        json_auto_t *template = NULL, *page = NULL;
        int r = ask_send(a, ROUTE_TEMPLATE_SHOW, which->name, NULL, &template, e);

        if (r < 0)
                return r;
        if (!ask_is_people(a) && a->options->format != TABLE_FORMAT_CSV)
                return ask_print_object(a, template, &template_view_schema, "all", e);
        page = json_pack("{s:O}", "items", json_object_get(template, "fields"));
        if (!page)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot show the template");
        if (ask_is_people(a)) {
                render_text(stdout, json_string_value(json_object_get(template, "name")) ?: "");
                fputs(": ", stdout);
                render_text(stdout, json_string_value(json_object_get(template, "summary")) ?: "");
                fputs("\n\n", stdout);
        }
        return ask_print_list(a, page, NULL, &template_field_view_schema, SHOW_COLUMNS, e);
}

/* ---- definitions ---------------------------------------------------------------------------------------------------- */

/* Was the field among the command's options? */
static bool was_given(const struct ask *a, const struct schema_object *object, const char *field) {
        for (unsigned int i = 0; i < a->command->n_options; i++) {
                const struct schema_option *o = &a->command->options[i];

                if (a->command->objects[o->object] == object && streq(o->field->name, field) && a->given & 1ull << i)
                        return true;
        }
        return false;
}

static int as_json(const struct schema_object *o, const void *value, json_t **ret_json) {
        _cleanup_free_ char *text = schema_format(o, value);

        *ret_json = text ? json_loads(text, 0, NULL) : NULL;
        return *ret_json ? 0 : -ENOMEM;
}

int template_said(const struct ask *a, char **ret_text, struct error *e) {
        const struct schema_object *o = &machine_definition_schema;
        _cleanup_(machine_definition_freep) struct machine_definition *preset = NULL;
        json_auto_t *said = NULL, *presets = NULL;
        json_t *value;
        const char *key;
        void *next;
        int r = machine_definition_new(&preset);

        if (r == 0)
                r = as_json(o, preset, &presets);
        if (r == 0)
                r = as_json(o, ask_object(a, o), &said);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot prepare the machine");
        json_object_foreach_safe(said, next, key, value) {
                if (json_equal(value, json_object_get(presets, key)) && !was_given(a, o, key))
                        json_object_del(said, key);
        }
        *ret_text = json_dumps(said, JSON_COMPACT);
        return *ret_text ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
}

void template_explain(const char *name, const char *said, FILE *f) {
        const struct schema_template *t = schema_template_find(name);
        json_auto_t *body = json_loads(said, 0, NULL);

        if (!t)
                return;
        fprintf(f, "\nfrom template %s:\n", t->name);
        for (unsigned int i = 0; i < t->n_fields; i++)
                if (json_object_get(body, t->fields[i].field))
                        fprintf(f, "  %s: not the template's %s, you said otherwise\n", t->fields[i].field,
                                t->fields[i].json);
                else
                        fprintf(f, "  %s %s: %s\n", t->fields[i].field, t->fields[i].json, t->fields[i].why);
}
