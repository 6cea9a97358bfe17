// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * template: what a machine's template fills in
 *
 * A template is merged as JSON, before anything is checked: so what a person said can be told from what was left out, and the result is judged as if all of
 * it had been said.
 */
#include <errno.h>
#include <jansson.h>

#include "base/cleanup.h"
#include "schema/schema.h"

const struct schema_template *schema_template_find(const char *name) {
        for (unsigned int i = 0; i < schema_n_templates; i++)
                if (streq(schema_templates[i].name, name))
                        return &schema_templates[i];
        return NULL;
}

static const char *template_name(const void *table, unsigned int i) {
        return ((const struct schema_template *)table)[i].name;
}

int schema_template_apply(json_t *body, struct error *e) {
        const char *name = json_string_value(json_object_get(body, "template"));
        const struct schema_template *t = name ? schema_template_find(name) : NULL;

        if (!name) /* none, or no text: the schema refuses that */
                return 0;
        if (!t) {
                const char *near = schema_suggest(name, template_name, schema_templates, schema_n_templates);

                return error_set(e, -EINVAL, "template-unknown", "lodge template list shows them",
                                 "there is no template '%.64s'%s%s%s", name, near ? ", did you mean " : "", near ?: "",
                                 near ? "?" : "");
        }
        for (unsigned int i = 0; i < t->n_fields; i++) {
                json_t *value;

                if (json_object_get(body, t->fields[i].field))
                        continue;
                value = json_loads(t->fields[i].json, JSON_DECODE_ANY, NULL);
                if (!value || json_object_set_new(body, t->fields[i].field, value) < 0)
                        return schema_fail_oom(e);
        }
        return 0;
}
