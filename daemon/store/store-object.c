// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-object: small named documents, told apart by kind: a new kind of thing needs no table of its own
 *
 * What is in the config is the business of the room that the kind belongs to.
 */
#include <errno.h>

#include "daemon/store/internal.h"

void store_object_free(struct store_object *o) {
        if (!o)
                return;
        free(o->kind);
        free(o->project);
        free(o->name);
        free(o->config);
        free(o);
}

static int object_not_found(const char *kind, const char *project, const char *name, struct error *e) {
        static const char fix[] = "look at the list of those that there are";

        if (project[0])
                return error_set(e, -ENOENT, "object-not-found", fix, "project %s has no %s %s", project, kind, name);
        return error_set(e, -ENOENT, "object-not-found", fix, "there is no %s %s", kind, name);
}

static void bind_key(struct query *q, const char *kind, const char *project, const char *name) {
        query_text(q, 1, kind);
        query_text(q, 2, project);
        query_text(q, 3, name);
}

static int object_of_row(struct query *q, struct store_object *o, struct error *e) {
        *o = (struct store_object){
                .kind = query_get_text(q, 0),
                .project = query_get_text(q, 1),
                .name = query_get_text(q, 2),
                .generation = query_get_uint(q, 3),
                .created = query_get_int(q, 4),
                .changed = query_get_int(q, 5),
                .config = query_get_text(q, 6),
        };
        if (!o->kind || !o->project || !o->name || !o->config)
                return store_row_damaged(q->s, "read an object", e);
        return 0;
}

int store_object_find(struct store *s, const char *kind, const char *project, const char *name,
                      struct store_object **ret_object, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OBJECT_FIND);
        _cleanup_(store_object_freep) struct store_object *o = NULL;
        struct store_object row;
        int r;

        bind_key(&q, kind, project, name);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r == 0)
                return object_not_found(kind, project, name, e);
        r = object_of_row(&q, &row, e);
        if (r < 0)
                return r;
        o = calloc(1, sizeof(*o));
        if (!o || query_get_copy(&q, 0, &o->kind) < 0 || query_get_copy(&q, 1, &o->project) < 0 ||
            query_get_copy(&q, 2, &o->name) < 0 || query_get_copy(&q, 6, &o->config) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read %s %s", kind, name);
        o->generation = row.generation;
        o->created = row.created;
        o->changed = row.changed;
        *ret_object = TAKE_PTR(o);
        return 0;
}

static int object_insert(struct store *s, const struct store_object *o, uint64_t *ret_generation, int64_t now,
                         struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OBJECT_ADD);
        int r = store_next_generation(s, ret_generation, e);

        if (r < 0)
                return r;
        bind_key(&q, o->kind, o->project, o->name);
        query_uint(&q, 4, *ret_generation);
        query_int(&q, 5, now);
        query_text(&q, 6, o->config);
        r = query_run_unique(&q, e);
        if (r == -EEXIST)
                return error_set(e, r, "object-exists", "take another name, or change the one that is there",
                                 "there is a %s %s already", o->kind, o->name);
        return r;
}

int store_object_add(struct store *s, struct store_object *o, struct error *e) {
        int64_t now = store_now();
        uint64_t generation = 0;
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = store_leave(s, object_insert(s, o, &generation, now, e), e);
        if (r < 0)
                return r;
        o->generation = generation;
        o->created = o->changed = now;
        return 0;
}

static int object_expect(struct store *s, const char *kind, const char *project, const char *name,
                         uint64_t expect_generation, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OBJECT_FIND);
        uint64_t generation;
        int r;

        bind_key(&q, kind, project, name);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r == 0)
                return object_not_found(kind, project, name, e);
        generation = query_get_uint(&q, 3);
        if (expect_generation != 0 && expect_generation != generation)
                return error_set(e, -ESTALE, "object-changed", "look at it again, then repeat what you want to change",
                                 "%s %s was changed meanwhile (generation %llu, not %llu)", kind, name,
                                 (unsigned long long)generation, (unsigned long long)expect_generation);
        return 0;
}

static int object_write(struct store *s, const struct store_object *o, uint64_t expect_generation,
                        uint64_t *ret_generation, int64_t now, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OBJECT_UPDATE);
        int r = object_expect(s, o->kind, o->project, o->name, expect_generation, e);

        if (r >= 0)
                r = store_next_generation(s, ret_generation, e);
        if (r < 0)
                return r;
        bind_key(&q, o->kind, o->project, o->name);
        query_uint(&q, 4, *ret_generation);
        query_int(&q, 5, now);
        query_text(&q, 6, o->config);
        return query_run(&q, e);
}

int store_object_update(struct store *s, struct store_object *o, uint64_t expect_generation, struct error *e) {
        int64_t now = store_now();
        uint64_t generation = 0;
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = store_leave(s, object_write(s, o, expect_generation, &generation, now, e), e);
        if (r < 0)
                return r;
        o->generation = generation;
        o->changed = now;
        return 0;
}

static int object_remove(struct store *s, const char *kind, const char *project, const char *name,
                         uint64_t expect_generation, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OBJECT_DELETE);
        int r = object_expect(s, kind, project, name, expect_generation, e);

        if (r < 0)
                return r;
        bind_key(&q, kind, project, name);
        return query_run(&q, e);
}

int store_object_delete(struct store *s, const char *kind, const char *project, const char *name,
                        uint64_t expect_generation, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, object_remove(s, kind, project, name, expect_generation, e), e);
}

int store_object_each(struct store *s, const char *kind, const char *project,
                      int (*fn)(void *opaque, const struct store_object *o), void *opaque, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_OBJECT_EACH);
        int r;

        query_text(&q, 1, kind);
        query_text(&q, 2, project);
        while ((r = query_row(&q, e)) > 0) {
                struct store_object o;

                r = object_of_row(&q, &o, e);
                if (r < 0)
                        return r;
                r = fn(opaque, &o);
                if (r != 0)
                        return r;
        }
        return r;
}
