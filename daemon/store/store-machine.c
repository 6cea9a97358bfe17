// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-machine: the machines
 *
 * A list is made from the conditions that its filter has, each a constant piece of SQL, so that SQLite can choose an
 * index for exactly these; the statement for each set of conditions is kept. A label is looked up in machine_labels,
 * which holds every label of every machine, whole: "a" finds "a" and "a=...", never "ab".
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/store/internal.h"
#include "schema/schema.h"

#define NO_LABELS "[]"

void store_machine_free(struct store_machine *m) {
        if (!m)
                return;
        free(m->uuid);
        free(m->name);
        free(m->project);
        free(m->config);
        free(m->running);
        free(m->facts);
        free(m->image);
        free(m->labels);
        free(m);
}

/* Fill @m with the row's columns; the strings are the row's. @whole: the row has config, running and facts. */
static int machine_of_row(struct query *q, bool whole, struct store_machine *m, struct error *e) {
        *m = (struct store_machine){
                .number = (uint32_t)query_get_uint(q, 0),
                .uuid = query_get_text(q, 1),
                .name = query_get_text(q, 2),
                .project = query_get_text(q, 3),
                .generation = query_get_uint(q, 4),
                .created = query_get_int(q, 5),
                .changed = query_get_int(q, 6),
                .wanted = query_get_int(q, 7) != 0,
                .cpus = (uint32_t)query_get_uint(q, 8),
                .memory = query_get_uint(q, 9),
                .image = query_get_text(q, 10),
                .labels = query_get_text(q, 11),
        };
        if (whole) {
                m->config = query_get_text(q, 12);
                m->running = query_get_text(q, 13);
                m->facts = query_get_text(q, 14);
        }
        if (!m->uuid || !m->name || !m->project || !m->labels || (whole && !m->config))
                return store_row_damaged(q->s, "read a machine", e);
        return 0;
}

static int machine_copy(struct query *q, struct store_machine **ret_machine, struct error *e) {
        _cleanup_(store_machine_freep) struct store_machine *m = calloc(1, sizeof(*m));
        struct store_machine row;
        int r;

        if (!m)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read a machine");
        r = machine_of_row(q, true, &row, e);
        if (r < 0)
                return r;
        m->number = row.number;
        m->generation = row.generation;
        m->created = row.created;
        m->changed = row.changed;
        m->wanted = row.wanted;
        m->cpus = row.cpus;
        m->memory = row.memory;
        if (query_get_copy(q, 1, &m->uuid) < 0 || query_get_copy(q, 2, &m->name) < 0 ||
            query_get_copy(q, 3, &m->project) < 0 || query_get_copy(q, 10, &m->image) < 0 ||
            query_get_copy(q, 11, &m->labels) < 0 || query_get_copy(q, 12, &m->config) < 0 ||
            query_get_copy(q, 13, &m->running) < 0 || query_get_copy(q, 14, &m->facts) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read machine %s", row.name);
        *ret_machine = TAKE_PTR(m);
        return 0;
}

static const char *one_of_two(const void *table, unsigned int i) {
        return ((const char *const *)table)[i];
}

/* The machine's name in @project that is nearest to @name, allocated; NULL when none is near, or on any error. */
static char *nearest_name(struct store *s, const char *project, const char *name) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_MACHINE_NAMES);
        _cleanup_free_ char *best = NULL;

        query_text(&q, 1, project);
        while (query_row(&q, NULL) > 0) {
                const char *candidate = query_get_text(&q, 0);
                const char *two[] = { best ?: candidate, candidate };

                if (candidate && schema_suggest(name, one_of_two, two, 2) == candidate) {
                        char *copy = strdup(candidate);

                        if (!copy)
                                return NULL;
                        free(best);
                        best = copy;
                }
        }
        return TAKE_PTR(best);
}

static int machine_not_found(struct store *s, const char *project, const char *name, struct error *e) {
        _cleanup_free_ char *near = nearest_name(s, project, name);

        if (project)
                error_set(e, -ENOENT, "machine-not-found", "lodge list shows the machines",
                          "project %s has no machine %s", project, name);
        else
                error_set(e, -ENOENT, "machine-not-found", "lodge list shows the machines", "there is no machine %s",
                          name);
        if (near)
                error_set_fix(e, "did you mean %s? lodge list shows all machines", near);
        return -ENOENT;
}

static bool looks_like_uuid(const char *text) {
        for (size_t i = 0; i < 36; i++) {
                bool dash = i == 8 || i == 13 || i == 18 || i == 23;

                if (text[i] == '\0' || (text[i] == '-') != dash)
                        return false;
        }
        return text[36] == '\0';
}

int store_machine_find(struct store *s, const char *project, const char *name_or_uuid,
                       struct store_machine **ret_machine, struct error *e) {
        _cleanup_(query_end) struct query q =
                query_start(s, project ? STMT_MACHINE_BY_NAME : STMT_MACHINE_BY_NAME_ONLY);
        _cleanup_(query_end) struct query by_uuid = query_start(s, STMT_MACHINE_BY_UUID);
        _cleanup_(store_machine_freep) struct store_machine *m = NULL;
        int r;

        if (looks_like_uuid(name_or_uuid)) {
                query_text(&by_uuid, 1, name_or_uuid);
                query_text(&by_uuid, 2, project);
                r = query_row(&by_uuid, e);
                if (r != 0)
                        return r < 0 ? r : machine_copy(&by_uuid, ret_machine, e);
        }
        query_text(&q, 1, name_or_uuid);
        if (project)
                query_text(&q, 2, project);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r == 0)
                return machine_not_found(s, project, name_or_uuid, e);
        r = machine_copy(&q, &m, e);
        if (r < 0)
                return r;
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r > 0)
                return error_set(e, -ENOTUNIQ, "machine-ambiguous", "say which project, or the machine's uuid",
                                 "several projects have a machine %s", name_or_uuid);
        *ret_machine = TAKE_PTR(m);
        return 0;
}

static int check_labels(struct store *s, const char *labels, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_LABELS_CHECK);
        int r;

        query_text(&q, 1, labels);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        if (r == 0 || query_get_int(&q, 0) == 0)
                return error_set(e, -EINVAL, "machine-labels", "write them as [\"key=value\", ...]",
                                 "the labels are no list of strings");
        return 0;
}

/* The number, generation and name of the machine with this uuid: 1, or 0 when there is none. */
static int machine_look_up(struct store *s, const char *uuid, int64_t *ret_number, uint64_t *ret_generation,
                           char **ret_name, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_MACHINE_GENERATION);
        int r;

        query_text(&q, 1, uuid);
        r = query_row(&q, e);
        if (r <= 0)
                return r;
        if (query_get_copy(&q, 2, ret_name) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot look for machine %s", uuid);
        *ret_number = query_get_int(&q, 0);
        *ret_generation = query_get_uint(&q, 1);
        return 1;
}

/* What an INSERT or UPDATE of a machine gave: a name or uuid that is taken is told apart. */
static int machine_written(struct store *s, struct query *q, const struct store_machine *m, struct error *e) {
        _cleanup_free_ char *name = NULL;
        int64_t number;
        uint64_t generation;
        int r = query_run_unique(q, e);

        if (r != -EEXIST)
                return r;
        r = machine_look_up(s, m->uuid, &number, &generation, &name, NULL);
        if (r > 0 && m->number == 0)
                return error_set(e, -EEXIST, "machine-exists", "give the new one another uuid",
                                 "machine %s has uuid %s already", name ?: "?", m->uuid);
        return error_set(e, -EEXIST, "machine-exists", "take another name: lodge list shows which are taken",
                         "project %s has a machine %s already", m->project, m->name);
}

static int take_number(struct store *s, int64_t *ret_number, struct error *e) {
        _cleanup_(query_end) struct query freed = query_start(s, STMT_NUMBER_TAKE);
        _cleanup_(query_end) struct query next = query_start(s, STMT_NUMBER_NEXT);
        int r = query_row(&freed, e);

        if (r > 0) {
                *ret_number = query_get_int(&freed, 0);
                return 0;
        }
        if (r == 0)
                r = query_row(&next, e);
        if (r < 0)
                return r;
        if (query_get_int(&next, 0) > UINT32_MAX)
                return error_set(e, -ENOSPC, "store-full", NULL, "no machine number is free");
        *ret_number = query_get_int(&next, 0);
        return 0;
}

static int add_labels(struct store *s, int64_t number, const char *labels, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_LABELS_ADD);

        query_int(&q, 1, number);
        query_text(&q, 2, labels);
        return query_run(&q, e);
}

/* @m is the caller's, copied: its number, generation and times are filled in here. */
static int machine_insert(struct store *s, struct store_machine *m, struct error *e) {
        _cleanup_(query_end) struct query row = query_start(s, STMT_MACHINE_ADD);
        _cleanup_(query_end) struct query config = query_start(s, STMT_MACHINE_ADD_CONFIG);
        int64_t number = 0;
        int r = take_number(s, &number, e);

        if (r >= 0)
                r = store_next_generation(s, &m->generation, e);
        if (r < 0)
                return r;
        query_int(&row, 1, number);
        query_text(&row, 2, m->uuid);
        query_text(&row, 3, m->name);
        query_text(&row, 4, m->project);
        query_uint(&row, 5, m->generation);
        query_int(&row, 6, m->created);
        query_int(&row, 7, m->wanted);
        query_int(&row, 8, m->cpus);
        query_uint(&row, 9, m->memory);
        query_text(&row, 10, m->image);
        query_text(&row, 11, m->labels);
        m->number = 0; /* machine_written() must not take it for an update */
        r = machine_written(s, &row, m, e);
        if (r < 0)
                return r;
        m->number = (uint32_t)number;
        query_int(&config, 1, number);
        query_text(&config, 2, m->config);
        query_text(&config, 3, m->running);
        query_text(&config, 4, m->facts);
        r = query_run(&config, e);
        return r < 0 ? r : add_labels(s, number, m->labels, e);
}

int store_machine_add(struct store *s, struct store_machine *m, struct error *e) {
        struct store_machine new = *m;
        int r;

        new.labels = m->labels ?: (char *)NO_LABELS;
        new.created = new.changed = store_now();
        r = check_labels(s, new.labels, e);
        if (r >= 0)
                r = store_enter(s, e);
        if (r < 0)
                return r;
        r = store_leave(s, machine_insert(s, &new, e), e);
        if (r < 0)
                return r;
        m->number = new.number;
        m->generation = new.generation;
        m->created = new.created;
        m->changed = new.changed;
        return 0;
}

/* Find the machine that is to be changed or deleted. */
static int machine_expect(struct store *s, const char *uuid, uint64_t expect_generation, int64_t *ret_number,
                          struct error *e) {
        _cleanup_free_ char *name = NULL;
        uint64_t generation;
        int r = machine_look_up(s, uuid, ret_number, &generation, &name, e);

        if (r < 0)
                return r;
        if (r == 0)
                return error_set(e, -ENOENT, "machine-not-found", "lodge list shows the machines",
                                 "there is no machine with uuid %s", uuid);
        if (expect_generation != 0 && expect_generation != generation)
                return error_set(e, -ESTALE, "machine-changed", "look at it again, then repeat what you want to change",
                                 "machine %s was changed meanwhile (generation %llu, not %llu)", name,
                                 (unsigned long long)generation, (unsigned long long)expect_generation);
        return 0;
}

static int replace_labels(struct store *s, int64_t number, const char *labels, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_LABELS_DELETE);
        int r;

        query_int(&q, 1, number);
        r = query_run(&q, e);
        return r < 0 ? r : add_labels(s, number, labels, e);
}

static int labels_are_same(struct store *s, int64_t number, const char *labels, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_LABELS_SAME);
        int r;

        query_int(&q, 1, number);
        query_text(&q, 2, labels);
        r = query_row(&q, e);
        return r <= 0 ? r : query_get_int(&q, 0) != 0;
}

static int machine_write(struct store *s, struct store_machine *m, uint64_t expect_generation, struct error *e) {
        _cleanup_(query_end) struct query row = query_start(s, STMT_MACHINE_UPDATE);
        _cleanup_(query_end) struct query config = query_start(s, STMT_MACHINE_UPDATE_CONFIG);
        int64_t number = 0;
        int r = machine_expect(s, m->uuid, expect_generation, &number, e), same;

        if (r >= 0)
                r = store_next_generation(s, &m->generation, e);
        if (r < 0)
                return r;
        same = labels_are_same(s, number, m->labels, e);
        if (same < 0)
                return same;
        m->number = (uint32_t)number;
        query_int(&row, 1, number);
        query_text(&row, 2, m->name);
        query_text(&row, 3, m->project);
        query_uint(&row, 4, m->generation);
        query_int(&row, 5, m->changed);
        query_int(&row, 6, m->wanted);
        query_int(&row, 7, m->cpus);
        query_uint(&row, 8, m->memory);
        query_text(&row, 9, m->image);
        query_text(&row, 10, m->labels);
        r = machine_written(s, &row, m, e);
        if (r < 0)
                return r;
        query_int(&config, 1, number);
        query_text(&config, 2, m->config);
        query_text(&config, 3, m->running);
        query_text(&config, 4, m->facts);
        r = query_run(&config, e);
        return r < 0 || same ? r : replace_labels(s, number, m->labels, e);
}

int store_machine_update(struct store *s, struct store_machine *m, uint64_t expect_generation, struct error *e) {
        struct store_machine new = *m;
        int r;

        new.labels = m->labels ?: (char *)NO_LABELS;
        new.changed = store_now();
        r = check_labels(s, new.labels, e);
        if (r >= 0)
                r = store_enter(s, e);
        if (r < 0)
                return r;
        r = store_leave(s, machine_write(s, &new, expect_generation, e), e);
        if (r < 0)
                return r;
        m->generation = new.generation;
        m->changed = new.changed;
        return 0;
}

static int machine_remove(struct store *s, const char *uuid, uint64_t expect_generation, struct error *e) {
        _cleanup_(query_end) struct query row = query_start(s, STMT_MACHINE_DELETE);
        _cleanup_(query_end) struct query number_free = query_start(s, STMT_NUMBER_FREE);
        int64_t number = 0;
        int r = machine_expect(s, uuid, expect_generation, &number, e);

        if (r < 0)
                return r;
        query_int(&row, 1, number);
        query_int(&number_free, 1, number);
        r = query_run(&row, e);
        return r < 0 ? r : query_run(&number_free, e);
}

int store_machine_delete(struct store *s, const char *uuid, uint64_t expect_generation, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, machine_remove(s, uuid, expect_generation, e), e);
}

/* The conditions of a list, each a bit of the statement's place in store.lists. */
enum {
        LIST_PROJECT = 1 << 0,
        LIST_LABEL = 1 << 1,
        LIST_LABEL_KEY = 1 << 2,
        LIST_IMAGE = 1 << 3,
        LIST_PREFIX = 1 << 4,
        LIST_AFTER = 1 << 5,
        LIST_AFTER_PROJECT = 1 << 6,
        LIST_WHOLE = 1 << 7,
        LIST_END = 1 << 8,
};
static_assert(LIST_END == STORE_LISTS, "one statement for each set of conditions");

static unsigned int list_conditions(const struct store_machine_filter *f) {
        unsigned int set = 0;

        if (f->project)
                set |= LIST_PROJECT;
        if (f->label)
                set |= strchr(f->label, '=') ? LIST_LABEL : LIST_LABEL_KEY;
        if (f->image)
                set |= LIST_IMAGE;
        if (f->name_prefix)
                set |= LIST_PREFIX;
        if (f->after)
                set |= f->after_project && !f->project ? LIST_AFTER_PROJECT : LIST_AFTER;
        if (f->whole)
                set |= LIST_WHOLE;
        return set;
}

static int list_prepare(struct store *s, unsigned int set, struct error *e) {
        char sql[1024];
        int n = snprintf(
                sql, sizeof(sql),
                "SELECT m.number, m.uuid, m.name, m.project, m.generation, m.created, m.changed, m.wanted, m.cpus,"
                " m.memory, m.image, m.labels%s FROM machines AS m%s WHERE 1%s%s%s%s%s%s%s"
                " ORDER BY m.name, m.project LIMIT ?1",
                set & LIST_WHOLE ? ", c.config, c.running, c.facts" : "",
                set & LIST_WHOLE ? " JOIN machine_configs AS c USING (number)" : "",
                set & LIST_PROJECT ? " AND m.project = ?2" : "",
                set & LIST_LABEL ? " AND m.number IN (SELECT number FROM machine_labels WHERE label = ?3)" : "",
                set & LIST_LABEL_KEY
                        ? " AND m.number IN (SELECT number FROM machine_labels WHERE label = ?3 UNION ALL"
                          " SELECT number FROM machine_labels WHERE label >= ?3 || '=' AND label < ?3 || '>')"
                        : "",
                set & LIST_IMAGE ? " AND m.image = ?4" : "",
                set & LIST_PREFIX ? " AND m.name >= ?5 AND m.name < ?5 || char(1114111)"
                                    " AND substr(m.name, 1, length(?5)) = ?5"
                                  : "",
                set & LIST_AFTER ? " AND m.name > ?6" : "",
                set & LIST_AFTER_PROJECT ? " AND (m.name, m.project) > (?6, ?7)" : "");

        if (n < 0 || (size_t)n >= sizeof(sql))
                return error_set(e, -E2BIG, "store-io", NULL, "the list's statement is too long");
        return store_prepare(s, sql, &s->lists[set], e);
}

static void list_bind(struct query *q, unsigned int set, const struct store_machine_filter *f) {
        query_int(q, 1, f->limit ? (int64_t)f->limit : -1);
        if (set & LIST_PROJECT)
                query_text(q, 2, f->project);
        if (set & (LIST_LABEL | LIST_LABEL_KEY))
                query_text(q, 3, f->label);
        if (set & LIST_IMAGE)
                query_text(q, 4, f->image);
        if (set & LIST_PREFIX)
                query_text(q, 5, f->name_prefix);
        if (set & (LIST_AFTER | LIST_AFTER_PROJECT))
                query_text(q, 6, f->after);
        if (set & LIST_AFTER_PROJECT)
                query_text(q, 7, f->after_project);
}

static int list_run(struct query *q, bool whole, int (*fn)(void *opaque, const struct store_machine *m), void *opaque,
                    struct error *e) {
        int r;

        while ((r = query_row(q, e)) > 0) {
                struct store_machine m;

                r = machine_of_row(q, whole, &m, e);
                if (r < 0)
                        return r;
                r = fn(opaque, &m);
                if (r != 0)
                        return r;
        }
        return r;
}

int store_machine_each(struct store *s, const struct store_machine_filter *f,
                       int (*fn)(void *opaque, const struct store_machine *m), void *opaque, struct error *e) {
        static const struct store_machine_filter all = { 0 };
        unsigned int set = list_conditions(f ?: &all);

        if (!s->lists[set]) {
                int r = list_prepare(s, set, e);

                if (r < 0)
                        return r;
        }
        _cleanup_(query_end) struct query q = query_start_stmt(s, s->lists[set]);
        list_bind(&q, set, f ?: &all);
        return list_run(&q, set & LIST_WHOLE, fn, opaque, e);
}

int store_machine_count(struct store *s, const char *project, uint64_t *ret_n, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, project ? STMT_MACHINE_COUNT : STMT_MACHINE_COUNT_ALL);
        int r;

        if (project)
                query_text(&q, 1, project);
        r = query_row(&q, e);
        if (r < 0)
                return r;
        *ret_n = query_get_uint(&q, 0);
        return 0;
}
