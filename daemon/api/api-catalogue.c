// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * api-catalogue: servers of images, what they have, and pulling it
 *
 * The list of what could be had asks for the images that are here, then for every source's index, some at a time, and answers when the last of them has come. A source
 * whose index can't be had or believed is a problem in the answer, and no reason to keep the others back. When the client has gone, what is under way is cancelled:
 * a server that is slow is not to keep lodge-fetches busy that nobody waits for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "daemon/api/internal.h"
#include "daemon/machine/catalogue.h"

#define BUILTIN   "builtin"
#define AT_A_TIME 4u /* the broker does twice as many, for two clients */

/* ---- sources ------------------------------------------------------------------------------------------------------------- */

static int list_source(void *opaque, const struct image_source_config *source) {
        struct image_source_page *page = opaque;
        struct image_source_view *v;

        if (image_source_page_add_items(page, &v) < 0)
                return -ENOMEM;
        v->name = strdup(source->name);
        v->url = strdup(source->url);
        v->type = source->type;
        v->trust = machine_source_trust(source);
        return v->name && v->url ? 0 : -ENOMEM;
}

int api_image_source_list(struct api_request *q, struct error *e) {
        _cleanup_(image_source_page_freep) struct image_source_page *page = NULL;
        int r = image_source_page_new(&page);

        if (r == 0)
                r = machine_source_each(q->api->o.machines, list_source, page, e);
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot list the sources") : api_answer(q, page);
}

int api_image_source_add(struct api_request *q, struct error *e) {
        int r = machine_source_add(q->api->o.machines, q->body, e);

        return r < 0 ? r : api_image_source_list(q, e);
}

int api_image_source_delete(struct api_request *q, struct error *e) {
        int r = machine_source_delete(q->api->o.machines, q->parameters[0], e);

        return r < 0 ? r : api_image_source_list(q, e);
}

/* ---- what could be had --------------------------------------------------------------------------------------------------- */

struct one;

struct listing {
        struct api_request *q; /* NULL: the client has gone */
        struct machines *machines;
        struct broker_client *broker;
        struct catalogue_page *page;
        json_t *images;    /* those that are here */
        json_t *sources;   /* names of those that are still to be asked */
        struct one *asked; /* those that are being asked */
        unsigned int n_open;
        const char *only; /* a source; NULL: all */
        bool found;
};

struct one { /* a source that is asked */
        struct one *next;
        uint64_t call;
        struct listing *l;
        char *name;
        enum image_trust trust;
};

static void listing_free(struct listing *l) {
        catalogue_page_free(l->page);
        json_decref(l->images);
        json_decref(l->sources);
        free(l);
}

static const char *text_of(const json_t *o, const char *key) {
        return json_string_value(json_object_get(o, key));
}

/* The image here that was made from it: of this version, if there is one. */
static void look_here(struct listing *l, struct catalogue_item *item, const char *checksum) {
        json_t *image;
        size_t i;

        json_array_foreach(l->images, i, image) {
                const char *catalogue = text_of(image, "catalogue"), *name = text_of(image, "name");
                const char *theirs = text_of(image, "checksum"), *colon = theirs ? strchr(theirs, ':') : NULL;
                bool same, builtin = streq(item->source, BUILTIN);

                if (!name || item->current)
                        continue;
                if (builtin)
                        same = !text_of(image, "source") && streq(name, item->name);
                else
                        same = catalogue && strncmp(catalogue, item->source, strlen(item->source)) == 0 &&
                               catalogue[strlen(item->source)] == ':' &&
                               streq(catalogue + strlen(item->source) + 1, item->name);
                if (!same)
                        continue;
                free(item->here);
                item->here = strdup(name);
                item->current = builtin || (colon && checksum && streq(colon + 1, checksum));
        }
}

static int add_item(struct one *one, const struct fetch_item *from) {
        struct catalogue_item *item;

        if (catalogue_page_add_items(one->l->page, &item) < 0)
                return -ENOMEM;
        item->name = strdup(from->name);
        item->source = strdup(one->name);
        item->version = text_copy(from->version);
        item->title = text_copy(from->title);
        item->size = from->size;
        item->trust = one->trust;
        item->aliases = from->n_aliases ? calloc(from->n_aliases, sizeof(*item->aliases)) : NULL;
        for (size_t i = 0; item->aliases && i < from->n_aliases; i++)
                if ((item->aliases[item->n_aliases] = strdup(from->aliases[i])))
                        item->n_aliases++;
        if (!item->name || !item->source)
                return -ENOMEM;
        look_here(one->l, item, from->digest);
        return 0;
}

static void add_problem(struct listing *l, const char *source, const struct error *e) {
        struct note_view *note;

        if (catalogue_page_add_problems(l->page, &note) < 0)
                return;
        note->id = strdup(e->id ?: "unknown");
        if (asprintf(&note->message, "%s: %s", source, e->message ?: "it failed") < 0)
                note->message = NULL;
        note->fix = text_copy(e->fix);
        if (!note->message)
                note->message = strdup("");
}

static void go_on(struct listing *l);

static void on_index(void *opaque, const struct error *e, const struct fetch_result *result) {
        struct one *one = opaque, **at;
        struct listing *l = one->l;

        for (at = &l->asked; *at && *at != one; at = &(*at)->next)
                ;
        if (*at)
                *at = one->next;
        if (e)
                add_problem(l, one->name, e);
        for (size_t i = 0; result && i < result->n_items; i++)
                if (add_item(one, &result->items[i]) < 0)
                        break;
        free(one->name);
        free(one);
        l->n_open--;
        go_on(l);
}

/* Ask the source of that name; one that can't be asked is a problem. */
static void ask_source(struct listing *l, const char *name) {
        _cleanup_(image_source_config_freep) struct image_source_config *source = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct one *one = calloc(1, sizeof(*one));

        if (one)
                *one = (struct one){ .l = l, .name = strdup(name) };
        if (!one || !one->name)
                error_set(&e, -ENOMEM, "memory", NULL, "it can't be asked");
        else if (machine_source_load(l->machines, name, &source, &e) == 0) {
                one->trust = machine_source_trust(source);
                if (machine_index(l->machines, source, on_index, one, &one->call, &e) == 0) {
                        one->next = l->asked;
                        l->asked = one;
                        l->n_open++;
                        return;
                }
        }
        add_problem(l, name, &e);
        if (one)
                free(one->name);
        free(one);
}

/* Ask as many as may be asked at a time; answer when none is left. */
static void go_on(struct listing *l) {
        while (l->q && l->n_open < AT_A_TIME && json_array_size(l->sources) > 0) {
                json_t *name = json_incref(json_array_get(l->sources, 0));

                json_array_remove(l->sources, 0);
                ask_source(l, json_string_value(name));
                json_decref(name);
        }
        if (l->n_open > 0)
                return;
        if (l->q)
                api_answer(l->q, l->page);
        listing_free(l);
}

/* The request is freed next; the listing is when what is asked has been answered. */
static void forget_listing(struct api_request *q) {
        struct listing *l = *(struct listing **)q->state;

        l->q = NULL;
        l->only = NULL;
        for (const struct one *one = l->asked; one; one = one->next)
                broker_cancel(l->broker, one->call);
}

static int want_source(void *opaque, const struct image_source_config *source) {
        struct listing *l = opaque;

        if (l->only && !streq(l->only, source->name))
                return 0;
        l->found = true;
        return json_array_append_new(l->sources, json_string(source->name)) < 0 ? -ENOMEM : 0;
}

static int add_recipes(struct listing *l) {
        if (l->only && !streq(l->only, BUILTIN))
                return 0;
        l->found = true;
        for (size_t i = 0; image_recipe_name(i); i++) {
                struct catalogue_item *item;

                if (catalogue_page_add_items(l->page, &item) < 0)
                        return -ENOMEM;
                item->name = strdup(image_recipe_name(i));
                item->source = strdup(BUILTIN);
                item->title = strdup(image_recipe_summary(i));
                item->trust = IMAGE_TRUST_SIGNED; /* by the distribution: apt checks it */
                if (!item->name || !item->source || !item->title)
                        return -ENOMEM;
                look_here(l, item, NULL);
        }
        return 0;
}

static void on_images(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct listing *l = opaque;
        int r = 0;

        l->n_open--;
        if (!l->q) {
                listing_free(l);
                return;
        }
        if (e)
                add_problem(l, BUILTIN, e);
        else
                l->images = json_incref(json_object_get(reply->json, "items"));
        r = add_recipes(l);
        if (r == 0)
                r = machine_source_each(l->machines, want_source, l, &own);
        if (r == 0 && !l->found)
                r = error_set(&own, -ENOENT, "source-not-found", "lodge image source list shows them",
                              "there is no source %s", l->only);
        if (r == 0) {
                go_on(l);
                return;
        }
        error_set(&own, r, "memory", NULL, "cannot list the catalogue");
        api_answer_error(l->q, &own);
        listing_free(l);
}

int api_catalogue_list(struct api_request *q, struct error *e) {
        const struct catalogue_query *query = q->query;
        struct listing *l = calloc(1, sizeof(*l));

        if (l)
                q->state = malloc(sizeof(l));
        if (!l || !q->state || catalogue_page_new(&l->page) < 0 || !(l->sources = json_array())) {
                if (l)
                        listing_free(l);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the catalogue");
        }
        *(struct listing **)q->state = l;
        l->q = q;
        l->machines = q->api->o.machines;
        l->broker = q->api->o.broker;
        l->only = query->source; /* the request's, which stays until it is answered */
        l->n_open = 1;
        if (broker_call(q->api->o.broker, "image-list", NULL, NULL, on_images, l, NULL) < 0) {
                listing_free(l);
                return broker_gone(e);
        }
        q->forget = forget_listing;
        return 1;
}

int api_image_pull(struct api_request *q, struct error *e) {
        char *id;
        int r = machine_image_pull(q->api->o.machines, q->body, &q->caller, &id, e);

        return r < 0 ? r : api_answer_operation(q, id, e);
}
