// SPDX-License-Identifier: GPL-2.0-or-later
/* api-machine: requests about machines */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "daemon/api/api.h"
#include "daemon/machine/catalogue.h"

int api_machine(struct api_request *q, struct store_machine **ret_row, struct error *e) {
        return store_machine_find(q->api->o.store, q->project, q->parameters[0], ret_row, e);
}

static int answer_machine(struct api_request *q, const struct store_machine *row, struct error *e) {
        _cleanup_(machine_view_freep) struct machine_view *view = NULL;
        int r = machine_view_make(q->api->o.machines, row, &view, e);

        if (r < 0)
                return r;
        api_etag(q, row->generation);
        return api_answer(q, view);
}

/* ---- lists ---------------------------------------------------------------------------------------------------------- */

struct list {
        struct api_request *q;
        const struct machine_query *query;
        struct machine_page *page;
        enum machine_status status;
        bool any_status;
};

static int add_texts(const json_t *list, char ***ret_texts, size_t *ret_n) {
        size_t n = json_array_size(list);
        char **texts = n > 0 ? calloc(n, sizeof(*texts)) : NULL;

        if (n > 0 && !texts)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                texts[i] = strdup(json_string_value(json_array_get(list, i)) ?: "");
        *ret_texts = texts;
        *ret_n = n;
        return 0;
}

static int add_labels(struct machine_summary *s, const char *labels) {
        json_auto_t *list = labels && strcmp(labels, "[]") != 0 ? json_loads(labels, 0, NULL) : NULL;

        return add_texts(list, &s->labels, &s->n_labels);
}

static int list_one(void *opaque, const struct store_machine *row) {
        struct list *l = opaque;
        struct machine_summary *s;
        const char *engine;
        enum machine_status status = machine_status_of(l->q->api->o.machines, row, &engine);
        int r;

        if (!l->any_status && status != l->status)
                return 0;
        if (l->page->n_items == l->query->limit) { /* there is more */
                s = &l->page->items[l->page->n_items - 1];
                if (!l->query->all_projects)
                        l->page->next = text_copy(s->name);
                else if (asprintf(&l->page->next, "%s/%s", s->name, s->project) < 0) {
                        l->page->next = NULL;
                        return -ENOMEM;
                }
                return 1;
        }
        r = machine_page_add_items(l->page, &s);
        if (r < 0)
                return r;
        s->name = text_copy(row->name);
        s->uuid = text_copy(row->uuid);
        s->project = text_copy(row->project);
        s->generation = row->generation;
        s->status = status;
        s->wanted = row->wanted ? MACHINE_STATUS_RUNNING : MACHINE_STATUS_STOPPED;
        s->engine = text_copy(engine);
        s->cpus = row->cpus;
        s->memory = row->memory;
        s->image = text_copy(row->image);
        r = engine ? add_texts(machine_addresses(l->q->api->o.machines, row->uuid), &s->addresses, &s->n_addresses) : 0;
        return r < 0 ? r : add_labels(s, row->labels);
}

int api_machine_list(struct api_request *q, struct error *e) {
        _cleanup_(machine_page_freep) struct machine_page *page = NULL;
        const struct machine_query *query = q->query;
        bool all = query->all_projects && !q->access.project[0];
        _cleanup_free_ char *after = text_copy(query->after);
        char *after_project = after && query->all_projects ? strchr(after, '/') : NULL; /* as list_one() wrote it */
        const struct store_machine_filter filter = { .project = all ? NULL : query->project,
                                                     .label = query->label,
                                                     .image = query->image,
                                                     .name_prefix = query->prefix,
                                                     .after = after,
                                                     .after_project = after_project ? after_project + 1 : NULL };
        struct list l = { .q = q, .query = query, .any_status = !query->status };
        int r;

        if (after_project)
                *after_project = '\0';
        if (query->status) {
                r = machine_status_from_string(query->status);
                if (r < 0)
                        return error_set(e, -EINVAL, "schema-enum",
                                         "running, stopped, paused, starting, stopping or failed",
                                         "there is no status '%.16s'", query->status);
                l.status = (enum machine_status)r;
        }
        if (machine_page_new(&page) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the machines");
        page->scope = q->api->o.config->scope;
        l.page = page;
        r = store_machine_each(q->api->o.store, &filter, list_one, &l, e);
        if (r < 0)
                error_set(e, r, "memory", NULL, "cannot list the machines");
        if (r >= 0)
                r = store_machine_count(q->api->o.store, filter.project, &page->total, e);
        return r < 0 ? r : api_answer(q, page);
}

int api_machine_show(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = api_machine(q, &row, e);

        return r < 0 ? r : answer_machine(q, row, e);
}

/* ---- definitions ---------------------------------------------------------------------------------------------------- */

/* A definition is judged with the host in mind before it is kept: does its image exist, which engine would run it? */
struct judge {
        struct api_request *q;
        int (*then)(struct api_request *q, struct error *e);
};

static void then(struct judge *j, const struct error *e) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct api_request *q = j->q;
        int r;

        q->state = NULL;
        if (q->gone) {
                api_answer_error(q, NULL);
                free(j);
                return;
        }
        if (!e) {
                r = j->then(q, &own);
                if (r < 0)
                        e = &own;
        }
        free(j);
        if (e)
                api_answer_error(q, e);
}

static void on_engine(void *opaque, const struct error *e, struct wire_message *reply) {
        struct judge *j = opaque;

        if (!e)
                j->q->decision = json_incref(reply->json);
        then(j, e);
}

static void on_seed(void *opaque, const struct error *e, struct wire_message *reply) {
        struct judge *j = opaque;
        struct machine_definition *d = j->q->body;
        _cleanup_error_ struct error own = ERROR_INIT;
        _cleanup_free_ char *text = NULL;

        if (e) {
                then(j, e);
                return;
        }
        text = machine_config_format(&d->base);
        if (!text ||
            broker_call(j->q->api->o.broker, "engine-decide", json_pack("{s:o}", "machine", json_loads(text, 0, NULL)),
                        NULL, on_engine, j, NULL) < 0) {
                broker_gone(&own);
                then(j, &own);
        }
}

static int judge_seed(struct judge *j, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = machine_row_new(j->q->project, j->q->body, &row, e);
        json_t *args = r == 0 ? machine_seed_args(row, true) : NULL;

        if (r < 0)
                return r;
        return !args || broker_call(j->q->api->o.broker, "seed-write", args, NULL, on_seed, j, NULL) < 0
                       ? broker_gone(e)
                       : 0;
}

static void on_image(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct judge *j = opaque;

        if (e && e->id && streq(e->id, "image-not-found")) {
                const struct machine_definition *d = j->q->body;

                error_set_foreign(&own, e->code, e->id, e->fix, e->message);
                machine_image_hint(j->q->api->o.machines, d->base.image, &own);
                e = &own;
        }
        if (!e && judge_seed(j, &own) < 0)
                e = &own;
        if (e)
                then(j, e);
}

/* Files and interfaces of the host are all projects' and none's: not for who is held to one. */
static int host_things_allowed(const struct api_request *q, const struct machine_definition *d, struct error *e) {
        const struct machine_config *c = &d->base;
        bool tap = false;

        for (size_t i = 0; i < c->n_nets; i++)
                tap |= c->nets[i].type == MACHINE_NET_TYPE_TAP;
        if (!q->access.project[0] || (!c->n_disks && !c->n_cdroms && !c->kernel && !c->initrd && !tap))
                return 0;
        return error_set(e, -EACCES, "project",
                         "leave out disks, CDs, kernels and taps; images and networks are for everybody",
                         "files and interfaces of the host are not for a client that is held to one project");
}

static int judge(struct api_request *q, int (*next)(struct api_request *q, struct error *e), struct error *e) {
        struct machine_definition *d = q->body;
        struct judge *j;
        int r = machine_definition_complete(d, e);

        if (r == 0)
                r = host_things_allowed(q, d, e);
        if (r < 0)
                return r;
        j = calloc(1, sizeof(*j));
        if (!j)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot check the definition");
        *j = (struct judge){ q, next };
        if (!d->base.image)
                r = judge_seed(j, e);
        else if (broker_call(q->api->o.broker, "image-find", json_pack("{s:s}", "name", d->base.image), NULL, on_image,
                             j, NULL) < 0)
                r = broker_gone(e);
        if (r < 0) {
                free(j);
                return r;
        }
        return 1;
}

/* Why this engine, and what it leaves out. */
static char *reason_text(const json_t *decision) {
        const char *reason = json_string_value(json_object_get(decision, "engine_reason"));
        const char *warning = json_string_value(json_object_get(decision, "warning"));
        char *text;

        if (!reason)
                return NULL;
        return asprintf(&text, "%s%s%s", reason, warning && *warning ? "; " : "", warning ?: "") < 0 ? NULL : text;
}

static void show_choice(struct machine_state_view *s, const json_t *choice) {
        free(s->engine);
        free(s->engine_reason);
        s->engine = text_copy(json_string_value(json_object_get(choice, "engine")));
        s->engine_reason = reason_text(choice);
        s->kvm = json_is_true(json_object_get(choice, "kvm"));
}

/* What a dry run of a new machine answers: the machine as it would be. */
static int answer_dry(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL, *other = NULL;
        _cleanup_(machine_view_freep) struct machine_view *view = NULL;
        const struct machine_definition *d = q->body;

        if (store_machine_find(q->api->o.store, q->project, d->base.name, &other, NULL) == 0)
                return error_set(e, -EEXIST, "machine-exists", "choose another name", "there is a machine %s already",
                                 d->base.name);
        int r = machine_row_new(q->project, d, &row, e);
        if (r == 0)
                r = machine_view_make(q->api->o.machines, row, &view, e);
        if (r < 0)
                return r;
        show_choice(&view->state, q->decision);
        return api_answer(q, view);
}

static int define_judged(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r;

        if (q->dry_run)
                return answer_dry(q, e);
        r = machine_define(q->api->o.machines, q->project, q->body, &q->caller, &row, e);
        return r < 0 ? r : answer_machine(q, row, e);
}

int api_machine_define(struct api_request *q, struct error *e) {
        return judge(q, define_judged, e);
}

static int launch_judged(struct api_request *q, struct error *e) {
        char *id;
        int r;

        if (q->dry_run)
                return answer_dry(q, e);
        r = machine_launch(q->api->o.machines, q->project, q->body,
                           ((const struct machine_launch_query *)q->query)->wait, &q->caller, &id, e);
        return r < 0 ? r : api_answer_operation(q, id, e);
}

int api_machine_launch(struct api_request *q, struct error *e) {
        return judge(q, launch_judged, e);
}

static void on_settled(void *opaque) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct api_request *q = opaque;
        int r = store_machine_find(q->api->o.store, NULL, q->state, &row, &e);

        q->forget = NULL;
        if (r == 0)
                r = answer_machine(q, row, &e);
        if (r < 0)
                api_answer_error(q, &e);
}

static void forget_settling(struct api_request *q) {
        machine_settle_forget(q->api->o.machines, q);
}

static int redefine(struct api_request *q, struct store_machine *row, struct machine_definition *d, struct error *e) {
        uint64_t generation;
        int r = api_if_match(q, &generation, e);

        if (r == 0 && !d->base.name) {
                d->base.name = strdup(row->name);
                r = d->base.name ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot change the machine");
        }
        if (r == 0)
                r = machine_definition_complete(d, e);
        if (r == 0)
                r = host_things_allowed(q, d, e);
        if (r == 0 && generation && generation != row->generation)
                r = error_set(e, -ESTALE, "machine-changed", "look at it again, and try again",
                              "%s has changed since you looked at it", row->name);
        if (r == 0 && q->dry_run)
                r = machine_row_set(row, d, e);
        else if (r == 0)
                r = machine_redefine(q->api->o.machines, row, d, generation, &q->caller, e);
        if (r < 0 || q->dry_run)
                return r < 0 ? r : answer_machine(q, row, e);
        q->state = strdup(row->uuid);
        if (!q->state || !machine_settle(q->api->o.machines, row->uuid, on_settled, q))
                return answer_machine(q, row, e);
        q->forget = forget_settling;
        return 1;
}

int api_machine_replace(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = api_machine(q, &row, e);

        return r < 0 ? r : redefine(q, row, q->body, e);
}

int api_machine_change(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        int r = api_machine(q, &row, e);

        if (r == 0)
                r = machine_definition_patch(row, q->patch, &d, e);
        return r < 0 ? r : redefine(q, row, d, e);
}

int api_machine_rename(struct api_request *q, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        const struct machine_rename_request *how = q->body;
        uint64_t generation = 0;
        int r = api_machine(q, &row, e);

        if (r == 0)
                r = api_if_match(q, &generation, e);
        if (r == 0 && !q->dry_run)
                r = machine_rename(q->api->o.machines, row, how->name, generation, &q->caller, e);
        return r < 0 ? r : answer_machine(q, row, e);
}

/* ---- operations ----------------------------------------------------------------------------------------------------- */

/* @generation: that the client has seen, 0 for any */
typedef int (*operation_begin_fn)(struct api_request *q, struct store_machine *row, uint64_t generation, char **ret_id,
                                  struct error *e);

/* A dry run of the same: 0 with what would be done in @plan, 1 when that is answered later. */
typedef int (*operation_dry_fn)(struct api_request *q, struct store_machine *row, uint64_t generation, json_t *plan,
                                struct error *e);

/* The machine, with what would be done to it. @choice: of an engine; NULL: none is chosen */
static int answer_plan(struct api_request *q, const struct store_machine *row, const json_t *choice, const json_t *plan,
                       struct error *e) {
        _cleanup_(machine_view_freep) struct machine_view *view = NULL;
        int r = machine_view_make(q->api->o.machines, row, &view, e);

        if (r == 0 && add_texts(plan, &view->state.plan, &view->state.n_plan) < 0)
                r = error_set(e, -ENOMEM, "memory", NULL, "cannot show the machine");
        if (r < 0)
                return r;
        if (choice)
                show_choice(&view->state, choice);
        api_etag(q, row->generation);
        return api_answer(q, view);
}

static int answer_dry_run(struct api_request *q, struct store_machine *row, uint64_t generation, operation_dry_fn dry,
                          struct error *e) {
        json_auto_t *plan = json_array();
        int r = plan ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot show the machine");

        if (r == 0 && dry)
                r = dry(q, row, generation, plan, e);
        return r != 0 ? r : answer_plan(q, row, NULL, plan, e);
}

/* Begin an operation on the machine that the path names, or, in a dry run, look whether it could begin. */
static int operate(struct api_request *q, operation_begin_fn begin, operation_dry_fn dry, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        uint64_t generation = 0;
        char *id;
        int r = api_machine(q, &row, e);

        if (r == 0 && q->route->if_match)
                r = api_if_match(q, &generation, e);
        if (r < 0)
                return r;
        if (q->dry_run)
                return answer_dry_run(q, row, generation, dry, e);
        r = begin(q, row, generation, &id, e);
        return r < 0 ? r : api_answer_operation(q, id, e);
}

static int begin_delete(struct api_request *q, struct store_machine *row, uint64_t generation, char **ret_id,
                        struct error *e) {
        return machine_delete(q->api->o.machines, row, q->query, generation, &q->caller, ret_id, e);
}

static int begin_start(struct api_request *q, struct store_machine *row, uint64_t generation, char **ret_id,
                       struct error *e) {
        return machine_start(q->api->o.machines, row, &q->caller, ret_id, e);
}

static int begin_stop(struct api_request *q, struct store_machine *row, uint64_t generation, char **ret_id,
                      struct error *e) {
        return machine_stop(q->api->o.machines, row, q->body, &q->caller, ret_id, e);
}

static int begin_reboot(struct api_request *q, struct store_machine *row, uint64_t generation, char **ret_id,
                        struct error *e) {
        return machine_reboot(q->api->o.machines, row, q->body, &q->caller, ret_id, e);
}

static int begin_clone(struct api_request *q, struct store_machine *row, uint64_t generation, char **ret_id,
                       struct error *e) {
        const struct machine_rename_request *how = q->body;

        return machine_clone(q->api->o.machines, row, how->name, &q->caller, ret_id, e);
}

static int dry_delete(struct api_request *q, struct store_machine *row, uint64_t generation, json_t *plan,
                      struct error *e) {
        return machine_dry_delete(q->api->o.machines, row, q->query, generation, plan, e);
}

static int dry_stop(struct api_request *q, struct store_machine *row, uint64_t generation, json_t *plan,
                    struct error *e) {
        return machine_dry_stop(q->api->o.machines, row, q->body, plan, e);
}

static int dry_reboot(struct api_request *q, struct store_machine *row, uint64_t generation, json_t *plan,
                      struct error *e) {
        return machine_dry_reboot(q->api->o.machines, row, q->body, plan, e);
}

static void on_dry_start(void *opaque, const struct error *e, const json_t *choice, json_t *plan) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error own = ERROR_INIT;
        struct api_request *q = opaque;

        if (e || q->gone)
                api_answer_error(q, e);
        else if (api_machine(q, &row, &own) < 0 || answer_plan(q, row, choice, plan, &own) < 0)
                api_answer_error(q, &own); /* else it is answered, and gone */
}

static int dry_start(struct api_request *q, struct store_machine *row, uint64_t generation, json_t *plan,
                     struct error *e) {
        int r = machine_dry_start(q->api->o.machines, row, on_dry_start, q, e);

        return r < 0 ? r : 1;
}

int api_machine_delete(struct api_request *q, struct error *e) {
        return operate(q, begin_delete, dry_delete, e);
}

int api_machine_start(struct api_request *q, struct error *e) {
        return operate(q, begin_start, dry_start, e);
}

int api_machine_stop(struct api_request *q, struct error *e) {
        return operate(q, begin_stop, dry_stop, e);
}

int api_machine_reboot(struct api_request *q, struct error *e) {
        return operate(q, begin_reboot, dry_reboot, e);
}

int api_machine_clone(struct api_request *q, struct error *e) {
        return operate(q, begin_clone, NULL, e);
}

/* ---- commands -------------------------------------------------------------------------------------------------------- */

static void on_command(void *opaque, const struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error own = ERROR_INIT;
        struct api_request *q = opaque;

        if (!e && (api_machine(q, &row, &own) < 0 || answer_machine(q, row, &own) < 0))
                e = &own;
        if (e)
                api_answer_error(q, e);
}

static int command(struct api_request *q, const char *name, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        int r = api_machine(q, &row, e);

        if (r == 0)
                r = machine_command(q->api->o.machines, row, name, on_command, q, e);
        return r < 0 ? r : 1;
}

int api_machine_pause(struct api_request *q, struct error *e) {
        return command(q, "stop", e);
}

int api_machine_resume(struct api_request *q, struct error *e) {
        return command(q, "cont", e);
}

int api_machine_reset(struct api_request *q, struct error *e) {
        return command(q, "system_reset", e);
}
