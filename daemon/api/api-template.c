// SPDX-License-Identifier: GPL-2.0-or-later
/* api-template: requests about templates, which are the schema's */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "daemon/api/api.h"

/* As a person reads it: a text without its quotes. */
static char *value_text(const char *json) {
        json_auto_t *value = json_loads(json, JSON_DECODE_ANY, NULL);

        return text_copy(json_is_string(value) ? json_string_value(value) : json);
}

static int fill(struct template_view *v, const struct schema_template *t) {
        v->name = text_copy(t->name);
        v->summary = text_copy(t->summary);
        for (unsigned int i = 0; i < t->n_fields; i++) {
                struct template_field_view *f;
                int r = template_view_add_fields(v, &f);

                if (r < 0)
                        return r;
                f->field = text_copy(t->fields[i].field);
                f->value = value_text(t->fields[i].json);
                f->why = text_copy(t->fields[i].why);
                if (!f->field || !f->value || !f->why)
                        return -ENOMEM;
        }
        return v->name && v->summary ? 0 : -ENOMEM;
}

int api_template_list(struct api_request *q, struct error *e) {
        _cleanup_(template_page_freep) struct template_page *page = NULL;
        int r = template_page_new(&page);

        for (unsigned int i = 0; i < schema_n_templates && r == 0; i++) {
                struct template_view *v;

                r = template_page_add_items(page, &v);
                if (r == 0)
                        r = fill(v, &schema_templates[i]);
        }
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot list the templates") : api_answer(q, page);
}

int api_template_show(struct api_request *q, struct error *e) {
        const struct schema_template *t = schema_template_find(q->parameters[0]);
        _cleanup_(template_view_freep) struct template_view *v = NULL;
        int r;

        if (!t)
                return error_set(e, -ENOENT, "template-unknown", "lodge template list shows them",
                                 "there is no template '%.64s'", q->parameters[0]);
        r = template_view_new(&v);
        if (r == 0)
                r = fill(v, t);
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot show the template") : api_answer(q, v);
}
