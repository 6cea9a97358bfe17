// SPDX-License-Identifier: GPL-2.0-or-later
/* catalogue: see catalogue.h */
#include "daemon/machine/catalogue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/machine/internal.h"

#define KIND        "image-source"
#define NAMES_KIND  "image-names"
#define SOURCES_MAX 64
#define NAMES_MAX   (256u << 10) /* bytes of a source's names that are kept */
#define BUILTIN     "builtin"

enum image_trust machine_source_trust(const struct image_source_config *source) {
        return source->key ? IMAGE_TRUST_SIGNED : IMAGE_TRUST_CHECKSUMS_ONLY;
}

static int count(void *opaque, const struct store_object *o) {
        ++*(unsigned int *)opaque;
        return 0;
}

int machine_source_add(struct machines *ms, const struct image_source_config *source, struct error *e) {
        _cleanup_free_ char *text = image_source_config_format(source);
        struct store_object o = { .kind = (char *)KIND, .project = (char *)"", .name = source->name, .config = text };
        unsigned int n = 0;
        int r = text ? store_object_each(ms->store, KIND, "", count, &n, e)
                     : error_set(e, -ENOMEM, "memory", NULL, "cannot keep the source");

        if (r < 0)
                return r;
        if (streq(source->name, BUILTIN))
                return error_set(e, -EEXIST, "source-exists", "take another name",
                                 "source " BUILTIN " is the recipes that come with Lodge");
        if (n >= SOURCES_MAX)
                return error_set(e, -E2BIG, "too-many-sources", "delete one: lodge image source list",
                                 "there are %u sources, and that is the limit", n);
        r = store_object_add(ms->store, &o, NULL);
        if (r == -EEXIST) {
                error_set(e, r, "source-exists", NULL, "there is a source %s already", source->name);
                error_set_fix(e, "take another name, or delete that one: lodge image source delete %s", source->name);
        }
        return r < 0 ? error_set(e, r, "store", NULL, "cannot keep the source") : 0;
}

static int not_found(const char *name, int code, struct error *e) {
        return error_set(e, code, "source-not-found", "lodge image source list shows them", "there is no source %s",
                         name);
}

int machine_source_delete(struct machines *ms, const char *name, struct error *e) {
        int r = store_object_delete(ms->store, KIND, "", name, 0, NULL);

        if (r < 0)
                return not_found(name, r, e);
        store_object_delete(ms->store, NAMES_KIND, "", name, 0, NULL);
        return 0;
}

int machine_source_load(struct machines *ms, const char *name, struct image_source_config **ret, struct error *e) {
        _cleanup_(store_object_freep) struct store_object *o = NULL;
        int r = store_object_find(ms->store, KIND, "", name, &o, NULL);

        return r < 0 ? not_found(name, r, e) : image_source_config_parse(o->config, strlen(o->config), ret, e);
}

struct each {
        int (*fn)(void *opaque, const struct image_source_config *source);
        void *opaque;
};

static int each_one(void *opaque, const struct store_object *o) {
        _cleanup_(image_source_config_freep) struct image_source_config *source = NULL;
        const struct each *each = opaque;

        if (image_source_config_parse(o->config, strlen(o->config), &source, NULL) < 0)
                return 0; /* a newer Lodge's */
        return each->fn(each->opaque, source);
}

int machine_source_each(struct machines *ms, int (*fn)(void *opaque, const struct image_source_config *source),
                        void *opaque, struct error *e) {
        struct each each = { fn, opaque };

        return store_object_each(ms->store, KIND, "", each_one, &each, e);
}

/* ---- an index ------------------------------------------------------------------------------------------------------------ */

struct asked {
        struct machines *ms;
        char *source;
        machine_index_fn fn;
        void *opaque;
};

/* For machine_image_hint(). A hint that can't be kept is not missed. */
static void keep_names(struct machines *ms, const char *source, const struct fetch_result *result) {
        json_auto_t *names = json_array();
        _cleanup_free_ char *text = NULL;
        struct store_object o = { .kind = (char *)NAMES_KIND, .project = (char *)"", .name = (char *)source };
        _cleanup_(store_object_freep) struct store_object *asked = NULL;

        if (store_object_find(ms->store, KIND, "", source, &asked, NULL) < 0)
                return; /* it was deleted meanwhile, and its names with it */
        for (size_t i = 0; i < result->n_items; i++)
                json_array_append_new(names, json_string(result->items[i].name));
        text = json_dumps(names, JSON_COMPACT);
        if (!text || strlen(text) > NAMES_MAX)
                return;
        o.config = text;
        if (store_object_update(ms->store, &o, 0, NULL) == -ENOENT)
                store_object_add(ms->store, &o, NULL);
}

static void on_index(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_(fetch_result_freep) struct fetch_result *result = NULL;
        _cleanup_error_ struct error own = ERROR_INIT;
        struct asked *a = opaque;

        if (!e) {
                _cleanup_close_ int fd = wire_take_fd(reply, 0);

                if (fetch_result_load(fd, &result, &own) < 0)
                        e = &own;
                else
                        keep_names(a->ms, a->source, result);
        }
        a->fn(a->opaque, e, result);
        free(a->source);
        free(a);
}

int machine_index(struct machines *ms, const struct image_source_config *source, machine_index_fn fn, void *opaque,
                  uint64_t *ret_call, struct error *e) {
        _cleanup_free_ char *text = image_source_config_format(source);
        struct asked *a = calloc(1, sizeof(*a));
        char *name = strdup(source->name);

        if (!text || !a || !name) {
                free(a);
                free(name);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the index");
        }
        *a = (struct asked){ ms, name, fn, opaque };
        if (broker_call(ms->broker, "image-index", json_pack("{s:o}", "source", json_loads(text, 0, NULL)), NULL,
                        on_index, a, ret_call) < 0) {
                free(name);
                free(a);
                return broker_gone(e);
        }
        return 0;
}

const struct fetch_item *machine_index_find(const struct fetch_result *result, const char *name) {
        for (size_t i = 0; i < result->n_items; i++)
                if (streq(result->items[i].name, name))
                        return &result->items[i];
        for (size_t i = 0; i < result->n_items; i++)
                for (size_t k = 0; k < result->items[i].n_aliases; k++)
                        if (streq(result->items[i].aliases[k], name))
                                return &result->items[i];
        return NULL;
}

struct hint {
        const char *image;
        char *source;
};

static int has_it(void *opaque, const struct store_object *o) {
        json_auto_t *names = json_loads(o->config, 0, NULL);
        struct hint *h = opaque;
        json_t *name;
        size_t i;

        json_array_foreach(names, i, name) {
                if (json_is_string(name) && streq(json_string_value(name), h->image)) {
                        h->source = strdup(o->name);
                        return 1;
                }
        }
        return 0;
}

void machine_image_hint(struct machines *ms, const char *image, struct error *e) {
        struct hint h = { .image = image };

        if (e->id && streq(e->id, "image-not-found") &&
            store_object_each(ms->store, NAMES_KIND, "", has_it, &h, NULL) > 0 && h.source)
                error_set_fix(e, "pull it: lodge image pull %s:%s", h.source, image);
        free(h.source);
}
