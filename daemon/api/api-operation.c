// SPDX-License-Identifier: GPL-2.0-or-later
/* api-operation: requests about operations, and waiting for one */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "daemon/api/internal.h"

static int add_error(struct operation_view *v, const char *text) {
        json_auto_t *error = text ? json_loads(text, 0, NULL) : NULL;
        struct problem *p;

        if (!error)
                return 0;
        if (operation_view_add_error(v, &p) < 0)
                return -ENOMEM;
        p->id = text_copy(json_string_value(json_object_get(error, "id")) ?: "unknown");
        p->message = text_copy(json_string_value(json_object_get(error, "message")) ?: "it failed");
        p->fix = text_copy(json_string_value(json_object_get(error, "fix")));
        p->code = text_copy(strerrorname_np((int)json_integer_value(json_object_get(error, "errno"))));
        return 0;
}

static int add_warnings(struct operation_view *v, const json_t *list) {
        size_t n = json_array_size(list);

        if (n == 0)
                return 0;
        v->warnings = calloc(n, sizeof(*v->warnings));
        if (!v->warnings)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                v->warnings[v->n_warnings++] = strdup(json_string_value(json_array_get(list, i)) ?: "");
        return 0;
}

int operation_view_make(const struct store_op *row, const struct operation *op, struct operation_view **ret) {
        static const enum operation_status states[] = {
                [STORE_OP_RUNNING] = OPERATION_STATUS_RUNNING,     [STORE_OP_UNDOING] = OPERATION_STATUS_UNDOING,
                [STORE_OP_DONE] = OPERATION_STATUS_DONE,           [STORE_OP_FAILED] = OPERATION_STATUS_FAILED,
                [STORE_OP_CANCELLED] = OPERATION_STATUS_CANCELLED,
        };
        _cleanup_(operation_view_freep) struct operation_view *v = NULL;
        json_auto_t *warnings = row->result ? json_loads(row->result, 0, NULL) : NULL;
        int r;

        if (operation_view_new(&v) < 0)
                return -ENOMEM;
        v->id = text_copy(row->id);
        v->kind = text_copy(row->kind);
        v->project = text_copy(row->project);
        v->target = text_copy(row->target);
        v->status = states[row->state];
        v->steps = row->n_steps;
        v->step_number = row->step < row->n_steps ? row->step + 1 : row->n_steps;
        v->created = time_text(row->created);
        v->changed = time_text(row->changed);
        v->requester = text_copy(row->requester);
        v->request = text_copy(row->request_id);
        if (op && row->step < op->kind->n_steps)
                v->step = text_copy(op->kind->steps[row->step].name);
        if (op && op->progress[0])
                v->progress = text_copy(op->progress);
        r = add_error(v, row->error);
        if (r == 0)
                r = add_warnings(v, op && op->warnings ? op->warnings : warnings);
        if (r == 0)
                *ret = TAKE_PTR(v);
        return r;
}

static int answer_row(struct api_request *q, const struct store_op *row, struct error *e) {
        _cleanup_(operation_view_freep) struct operation_view *view = NULL;
        const struct operation *op = operation_find(machines_operations(q->api->o.machines), row->id);
        int r = operation_view_make(row, op, &view);

        return r < 0 ? error_set(e, r, "memory", NULL, "cannot show the operation") : api_answer(q, view);
}

int api_answer_operation(struct api_request *q, char *id, struct error *e) {
        _cleanup_free_ char *own = id;
        _cleanup_(store_op_freep) struct store_op *row = NULL;
        int r = store_op_find(q->api->o.store, own, &row, e);

        if (r < 0)
                return r;
        return answer_row(q, row, e);
}

/* ---- lists ---------------------------------------------------------------------------------------------------------- */

struct list {
        struct api_request *q;
        struct operation_page *page;
        const struct operation_query *query;
};

static int list_one(void *opaque, const struct store_op *row) {
        struct list *l = opaque;
        _cleanup_(operation_view_freep) struct operation_view *view = NULL;
        struct operation_view *item;
        int r;

        if (l->page->n_items == l->query->limit) {
                l->page->next = text_copy(l->page->items[l->page->n_items - 1].id);
                return 1;
        }
        r = operation_view_make(row, operation_find(machines_operations(l->q->api->o.machines), row->id), &view);
        if (r == 0)
                r = operation_page_add_items(l->page, &item);
        if (r < 0)
                return r;
        schema_clear(&operation_view_schema, item);
        *item = *view;
        free(TAKE_PTR(view));
        return 0;
}

int api_operation_list(struct api_request *q, struct error *e) {
        _cleanup_(operation_page_freep) struct operation_page *page = NULL;
        const struct operation_query *query = q->query;
        const struct store_op_filter filter = { .unfinished = query->running,
                                                .newest = true,
                                                .project = query->project,
                                                .target = query->target,
                                                .after = query->after };
        struct list l = { .q = q, .query = query };
        int r;

        if (operation_page_new(&page) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the operations");
        page->scope = q->api->o.config->scope;
        l.page = page;
        r = store_op_each(q->api->o.store, &filter, list_one, &l, e);
        if (r < 0)
                error_set(e, r, "memory", NULL, "cannot list the operations");
        return r < 0 ? r : api_answer(q, page);
}

/* ---- one ------------------------------------------------------------------------------------------------------------ */

struct waiting {
        struct loop_source *timer;
        char id[40];
};

/* It is answered now, whatever there is to say. */
static void answer_waiting(struct api_request *q) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_(store_op_freep) struct store_op *row = NULL;
        struct waiting *w = q->state;

        loop_source_free(w->timer);
        if (store_op_find(q->api->o.store, w->id, &row, &e) < 0 || answer_row(q, row, &e) < 0)
                api_answer_error(q, &e);
}

static void on_wait_over(void *opaque) {
        answer_waiting(opaque);
}

static void forget_waiting(struct api_request *q) {
        struct waiting *w = q->state;

        loop_source_free(w->timer);
}

void api_operation_changed(void *opaque, const struct operation *op) {
        struct api *api = opaque;
        struct api_request *next;

        for (struct api_request *q = api->waiting; q; q = next) {
                struct waiting *w = q->state;

                next = q->next;
                if (q->route && q->route == &schema_routes[ROUTE_OPERATION_SHOW] && w && streq(w->id, op->row->id))
                        answer_waiting(q);
        }
}

/* One of another project is as if it were not there. */
static int find_row(struct api_request *q, struct store_op **ret_row, struct error *e) {
        _cleanup_(store_op_freep) struct store_op *row = NULL;
        int r = store_op_find(q->api->o.store, q->parameters[0], &row, e);

        if (r < 0)
                return r;
        if (!request_sees(q, row->project))
                return store_op_unknown(q->parameters[0], e);
        *ret_row = TAKE_PTR(row);
        return 0;
}

int api_operation_show(struct api_request *q, struct error *e) {
        _cleanup_(store_op_freep) struct store_op *row = NULL;
        const struct operation_wait_query *query = q->query;
        struct waiting *w;
        int r = find_row(q, &row, e);

        if (r < 0)
                return r;
        if (query->wait == 0 || store_op_is_finished(row->state))
                return answer_row(q, row, e);
        w = calloc(1, sizeof(*w));
        if (!w || loop_add_timer(q->api->o.loop, on_wait_over, q, &w->timer) < 0) {
                free(w);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot wait");
        }
        snprintf(w->id, sizeof(w->id), "%s", row->id);
        loop_timer_set(w->timer, query->wait * 1000000ull);
        q->state = w;
        q->forget = forget_waiting;
        return 1;
}

int api_operation_cancel(struct api_request *q, struct error *e) {
        _cleanup_(store_op_freep) struct store_op *row = NULL;
        struct operation *op = operation_find(machines_operations(q->api->o.machines), q->parameters[0]);
        int r = find_row(q, &row, e);

        if (r == 0)
                r = op ? operation_cancel(op, e)
                       : error_set(e, -EALREADY, "operation-finished", NULL, "the operation is over already");
        if (r < 0)
                return r;
        store_op_free(TAKE_PTR(row));
        r = store_op_find(q->api->o.store, q->parameters[0], &row, e);
        return r < 0 ? r : answer_row(q, row, e);
}
