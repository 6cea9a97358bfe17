// SPDX-License-Identifier: GPL-2.0-or-later
/* api-event: what happened: the list */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "daemon/api/internal.h"

struct list {
        const struct api_request *q;
        struct event_page *page;
        size_t limit;
};

void api_event_fill(struct event_view *v, const struct store_event *event) {
        json_auto_t *data = event->data ? json_loads(event->data, 0, NULL) : NULL;

        v->seq = event->seq;
        v->time = time_text(event->time);
        v->kind = text_copy(event->kind);
        v->project = text_copy(event->project);
        v->target = text_copy(event->target);
        v->request = text_copy(event->request_id);
        v->message = text_copy(json_string_value(json_object_get(data, "message")));
}

static int list_one(void *opaque, const struct store_event *event) {
        struct list *l = opaque;
        struct event_view *item;
        int r;

        if (!request_sees(l->q, event->project))
                return 0;
        if (l->page->n_items == l->limit)
                return 1;
        r = event_page_add_items(l->page, &item);
        if (r < 0)
                return r;
        api_event_fill(item, event);
        return 0;
}

int api_event_list(struct api_request *q, struct error *e) {
        _cleanup_(event_page_freep) struct event_page *page = NULL;
        const struct event_query *query = q->query;
        struct list l = { .q = q, .limit = query->limit };
        uint64_t oldest;
        int r;

        if (event_page_new(&page) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the events");
        page->scope = q->api->o.config->scope;
        l.page = page;
        r = store_event_each(q->api->o.store, query->after, query->project, 0, list_one, &l, e);
        if (r < 0)
                error_set(e, r, "memory", NULL, "cannot list the events");
        if (r >= 0)
                r = store_event_range(q->api->o.store, &oldest, &page->last, e);
        return r < 0 ? r : api_answer(q, page);
}
