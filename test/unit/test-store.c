// SPDX-License-Identifier: GPL-2.0-or-later
/* store: machines, operations and events as lodged keeps them, and transactions */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/clock.h"
#include "daemon/store/store.h"
#include "test/unit/store-rig.h"

/* ---- machines ---- */

/* Everything that is given comes back, after the store was closed, too. */
static void test_machine_comes_back(void **state) {
        struct rig *rig = *state;
        _cleanup_(store_machine_freep) struct store_machine *found = NULL;
        struct store_machine m = machine("web", 1);

        m.image = (char *)"debian/12";
        m.labels = (char *)"[\"tier=front\"]";
        m.running = (char *)"{\"cpus\":1}";
        m.wanted = true;
        m.memory = 1ULL << 40;
        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        assert_int_equal(m.number, 1);
        assert_true(m.generation > 0 && m.created > 0 && m.changed == m.created);
        rig_reopen(rig);
        assert_int_equal(store_machine_find(rig->s, "default", "web", &found, NULL), 0);
        assert_string_equal(found->uuid, m.uuid);
        assert_string_equal(found->config, m.config);
        assert_string_equal(found->running, m.running);
        assert_null(found->facts);
        assert_string_equal(found->image, "debian/12");
        assert_string_equal(found->labels, m.labels);
        assert_true(found->wanted);
        assert_int_equal(found->memory, m.memory);
        assert_int_equal(found->generation, m.generation);
        assert_int_equal(found->created, m.created);
}

/* A name is one machine's in its project, and a uuid one machine's everywhere; what failed left nothing behind. */
static void test_name_and_uuid_are_unique(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct store_machine a = machine("web", 1), b = machine("web", 2), c = machine("other", 1),
                             d = machine("web", 3);
        uint64_t n = 0;

        d.project = (char *)"lab";
        assert_int_equal(store_machine_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &b, &e), -EEXIST);
        assert_string_equal(e.id, "machine-exists");
        assert_int_equal(b.number, 0);
        assert_int_equal(store_machine_add(rig->s, &c, NULL), -EEXIST);
        assert_int_equal(store_machine_add(rig->s, &d, NULL), 0);
        assert_int_equal(d.number, 2);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, 2);
        assert_int_equal(store_machine_count(rig->s, "lab", &n, NULL), 0);
        assert_int_equal(n, 1);
}

/* Interface names and uids come from the number: it has to stay small, and unique. */
static void test_number_is_the_lowest_free_one(void **state) {
        struct rig *rig = *state;
        struct store_machine m[5];

        for (unsigned int i = 0; i < 5; i++) {
                m[i] = machine(rig_name(rig, i), i);
                assert_int_equal(store_machine_add(rig->s, &m[i], NULL), 0);
                assert_int_equal(m[i].number, i + 1);
        }
        assert_int_equal(store_machine_delete(rig->s, m[3].uuid, 0, NULL), 0);
        assert_int_equal(store_machine_delete(rig->s, m[1].uuid, 0, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &m[1], NULL), 0);
        assert_int_equal(m[1].number, 2);
        assert_int_equal(store_machine_add(rig->s, &m[3], NULL), 0);
        assert_int_equal(m[3].number, 4);
}

/* An ETag that somebody holds must not fit a machine that was changed, or made again under the same name. */
static void test_stale_generation_is_refused(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct store_machine m = machine("web", 1);
        uint64_t first, second;

        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        first = m.generation;
        m.wanted = true;
        assert_int_equal(store_machine_update(rig->s, &m, first, NULL), 0);
        second = m.generation;
        assert_true(second > first);
        assert_int_equal(store_machine_update(rig->s, &m, first, &e), -ESTALE);
        assert_string_equal(e.id, "machine-changed");
        assert_int_equal(m.generation, second);
        assert_int_equal(store_machine_delete(rig->s, m.uuid, first, NULL), -ESTALE);
        assert_int_equal(store_machine_delete(rig->s, m.uuid, second, NULL), 0);
        assert_int_equal(store_machine_delete(rig->s, m.uuid, 0, NULL), -ENOENT);
        assert_int_equal(store_machine_update(rig->s, &m, 0, NULL), -ENOENT);
        rig_reopen(rig);
        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        assert_true(m.generation > second);
}

/* A rename onto another's name must fail and leave both as they were. */
static void test_rename(void **state) {
        struct rig *rig = *state;
        struct store_machine a = machine("a", 1), b = machine("b", 2);
        _cleanup_(store_machine_freep) struct store_machine *found = NULL, *gone = NULL;

        assert_int_equal(store_machine_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &b, NULL), 0);
        b.name = (char *)"a";
        assert_int_equal(store_machine_update(rig->s, &b, 0, NULL), -EEXIST);
        b.name = (char *)"c";
        assert_int_equal(store_machine_update(rig->s, &b, 0, NULL), 0);
        assert_int_equal(store_machine_find(rig->s, "default", "c", &found, NULL), 0);
        assert_string_equal(found->uuid, b.uuid);
        assert_int_equal(found->number, 2);
        assert_int_equal(store_machine_find(rig->s, "default", "b", &gone, NULL), -ENOENT);
}

/* Find by name, uuid, in one project or all; and say which name was probably meant. */
static void test_find(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT, ambiguous = ERROR_INIT;
        struct store_machine a = machine("webserver", 1), b = machine("webserver", 2), c = machine("mail", 3);
        _cleanup_(store_machine_freep) struct store_machine *found = NULL, *other = NULL, *none = NULL;

        b.project = (char *)"lab";
        assert_int_equal(store_machine_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &b, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &c, NULL), 0);
        assert_int_equal(store_machine_find(rig->s, NULL, b.uuid, &found, NULL), 0);
        assert_string_equal(found->project, "lab");
        assert_int_equal(store_machine_find(rig->s, NULL, "mail", &other, NULL), 0);
        assert_int_equal(store_machine_find(rig->s, "default", b.uuid, &none, NULL), -ENOENT);
        assert_int_equal(store_machine_find(rig->s, NULL, "webserver", &none, &ambiguous), -ENOTUNIQ);
        assert_int_equal(store_machine_find(rig->s, "default", "websrever", &none, &e), -ENOENT);
        assert_string_equal(e.id, "machine-not-found");
        assert_non_null(strstr(e.fix, "webserver"));
        assert_null(none);
}

struct seen {
        unsigned int n, stop_at;
        char names[64][64];
        struct store *s;
};

static int see(void *opaque, const struct store_machine *m) {
        struct seen *seen = opaque;

        if (seen->n < ELEMENTSOF(seen->names))
                snprintf(seen->names[seen->n], sizeof(seen->names[0]), "%s", m->name);
        seen->n++;
        return seen->stop_at && seen->n == seen->stop_at ? 7 : 0;
}

static void expect_list(struct rig *rig, const struct store_machine_filter *f, const char *names) {
        struct seen seen = { 0 };
        char text[4096] = "";

        assert_int_equal(store_machine_each(rig->s, f, see, &seen, NULL), 0);
        for (unsigned int i = 0; i < seen.n; i++) {
                strcat(text, seen.names[i]);
                strcat(text, " ");
        }
        assert_string_equal(text, names);
}

/* Filters are exact: no label, image or name is taken for one that only begins so; and they hold together. */
static void test_list_filters(void **state) {
        struct rig *rig = *state;
        static const struct {
                const char *name, *project, *image, *labels;
        } machines[] = {
                { "b", "default", "debian/12", "[\"tier=front\",\"x\"]" },
                { "a", "default", "debian/12", "[\"tier=back\"]" },
                { "c", "default", "debian/1", "[\"tier=frontier\",\"tiers=front\",\"x-1\"]" },
                { "ab", "lab", NULL, "[\"x=1\",\"x=2\",\"x=1\"]" },
                { "a%", "lab", "tiny", NULL },
        };

        for (unsigned int i = 0; i < ELEMENTSOF(machines); i++) {
                struct store_machine m = machine(machines[i].name, i);

                m.project = (char *)machines[i].project;
                m.image = (char *)machines[i].image;
                m.labels = (char *)machines[i].labels;
                assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        }
        expect_list(rig, NULL, "a a% ab b c ");
        expect_list(rig, &(struct store_machine_filter){ .project = "default" }, "a b c ");
        expect_list(rig, &(struct store_machine_filter){ .label = "tier=front" }, "b ");
        expect_list(rig, &(struct store_machine_filter){ .label = "tier" }, "a b c ");
        expect_list(rig, &(struct store_machine_filter){ .label = "x" }, "ab b ");
        expect_list(rig, &(struct store_machine_filter){ .label = "x=2" }, "ab ");
        expect_list(rig, &(struct store_machine_filter){ .label = "' OR 1 --" }, "");
        expect_list(rig, &(struct store_machine_filter){ .image = "debian/1" }, "c ");
        expect_list(rig, &(struct store_machine_filter){ .name_prefix = "a" }, "a a% ab ");
        expect_list(rig, &(struct store_machine_filter){ .name_prefix = "a%" }, "a% ");
        expect_list(rig, &(struct store_machine_filter){ .name_prefix = "" }, "a a% ab b c ");
        expect_list(rig, &(struct store_machine_filter){ .project = "default", .label = "tier", .image = "debian/12" },
                    "a b ");
        expect_list(rig, &(struct store_machine_filter){ .project = "lab", .label = "tier" }, "");
        expect_list(rig, &(struct store_machine_filter){ .limit = 2, .after = "a%" }, "ab b ");
        expect_list(rig, &(struct store_machine_filter){ .after = "c" }, "");
}

/* Labels that changed are found by what they are now, those of a deleted machine not at all. */
static void test_labels_follow_the_machine(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct store_machine m = machine("a", 1);
        static const char *const bad[] = { "", "{", "{}", "[1]", "[null]", "[[\"a\"]]", "\"a\"" };

        m.labels = (char *)"[\"old\"]";
        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        m.labels = (char *)"[\"new\"]";
        assert_int_equal(store_machine_update(rig->s, &m, 0, NULL), 0);
        expect_list(rig, &(struct store_machine_filter){ .label = "old" }, "");
        expect_list(rig, &(struct store_machine_filter){ .label = "new" }, "a ");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                m.labels = (char *)bad[i];
                error_clear(&e);
                assert_int_equal(store_machine_update(rig->s, &m, 0, &e), -EINVAL);
                assert_string_equal(e.id, "machine-labels");
        }
        assert_int_equal(store_machine_delete(rig->s, m.uuid, 0, NULL), 0);
        expect_list(rig, &(struct store_machine_filter){ .label = "new" }, "");
        m.labels = NULL;
        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0); /* the same number, none of the labels */
        expect_list(rig, &(struct store_machine_filter){ .label = "new" }, "");
}

static int last_name(void *opaque, const struct store_machine *m) {
        struct seen *seen = opaque;

        seen->n++;
        snprintf(seen->names[0], sizeof(seen->names[0]), "%s", m->name);
        snprintf(seen->names[1], sizeof(seen->names[1]), "%s", m->project);
        return 0;
}

/* Pages show every machine once, also where several projects have one of the same name. */
static void test_pages(void **state) {
        struct rig *rig = *state;
        struct seen seen = { 0 };
        unsigned int pages = 0, before;

        for (unsigned int i = 0; i < 60; i++) {
                struct store_machine m = machine(rig_name(rig, i * 7 % 20), i);

                m.project = (char *)(i < 20 ? "a" : i < 40 ? "b" : "c");
                assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        }
        do {
                struct store_machine_filter f = { .limit = 7, .after = seen.names[0], .after_project = seen.names[1] };

                before = seen.n;
                assert_int_equal(store_machine_each(rig->s, &f, last_name, &seen, NULL), 0);
                pages++;
        } while (seen.n > before);
        assert_int_equal(seen.n, 60);
        assert_int_equal(pages, 10);
}

static int list_again(void *opaque, const struct store_machine *m) {
        struct seen *seen = opaque;
        struct seen inner = { 0 };
        _cleanup_error_ struct error e = ERROR_INIT;

        seen->n++;
        assert_int_equal(store_machine_each(seen->s, NULL, see, &inner, &e), -EBUSY);
        assert_string_equal(e.id, "store-nested");
        return 0;
}

/* What a callback returns comes back, and a list inside the same list is refused without harm to the outer one. */
static void test_callbacks(void **state) {
        struct rig *rig = *state;
        struct seen seen = { .stop_at = 2 }, outer = { .s = rig->s };

        for (unsigned int i = 0; i < 5; i++) {
                struct store_machine m = machine(rig_name(rig, i), i);

                assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        }
        assert_int_equal(store_machine_each(rig->s, NULL, see, &seen, NULL), 7);
        assert_int_equal(seen.n, 2);
        assert_int_equal(store_machine_each(rig->s, NULL, list_again, &outer, NULL), 0);
        assert_int_equal(outer.n, 5);
}

/* ---- transactions ---- */

static int count_event(void *opaque, const struct store_event *event) {
        uint64_t *next = opaque;

        assert_int_equal(event->seq, (*next)++);
        return 0;
}

/* A transaction takes effect whole; a step that failed takes nothing else with it. */
static void test_transaction(void **state) {
        struct rig *rig = *state;
        struct store_machine a = machine("a", 1), b = machine("b", 2), again = machine("a", 3), c = machine("c", 4),
                             d = machine("d", 5);
        uint64_t n = 0, seq = 0;

        assert_int_equal(store_begin(rig->s, NULL), 0);
        assert_int_equal(store_begin(rig->s, NULL), -EBUSY);
        assert_int_equal(store_machine_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_event_add(rig->s, "added", "default", "a", NULL, NULL, &seq, NULL), 0);
        store_rollback(rig->s);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, 0);

        assert_int_equal(store_begin(rig->s, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &c, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &d, NULL), 0);
        assert_int_equal(store_machine_delete(rig->s, c.uuid, 0, NULL), 0);
        assert_int_equal(store_machine_add(rig->s, &again, NULL), -EEXIST); /* takes number 2, and gives it back */
        assert_int_equal(store_machine_add(rig->s, &b, NULL), 0);
        assert_int_equal(b.number, 2);
        assert_int_equal(store_event_add(rig->s, "added", "default", "a", NULL, NULL, &seq, NULL), 0);
        assert_int_equal(seq, 1); /* the number that was undone is not left out */
        assert_int_equal(store_commit(rig->s, NULL), 0);
        assert_int_equal(store_commit(rig->s, NULL), -EINVAL);
        rig_reopen(rig);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, 3);
}

/* ---- operations ---- */

static struct store_op operation(const char *target) {
        return (struct store_op){ .kind = (char *)"launch",
                                  .project = (char *)"default",
                                  .target = (char *)target,
                                  .n_steps = 3,
                                  .args = (char *)"{\"a\":1}" };
}

static int collect_op(void *opaque, const struct store_op *op) {
        strcat(opaque, op->target);
        return 0;
}

/* What was under way is found again after a kill, in order; what is finished stays as it is. */
static void test_operations(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct store_op a = operation("a"), b = operation("b"), c = operation("c");
        _cleanup_(store_op_freep) struct store_op *found = NULL;
        char text[64] = "";

        assert_int_equal(store_op_add(rig->s, &a, NULL), 0);
        assert_int_equal(store_op_add(rig->s, &b, NULL), 0);
        assert_int_equal(store_op_add(rig->s, &c, NULL), 0);
        assert_int_equal(strlen(a.id), 36);
        a.step = 2;
        assert_int_equal(store_op_update(rig->s, &a, NULL), 0);
        b.state = STORE_OP_FAILED;
        b.error = (char *)"{\"id\":\"x\"}";
        assert_int_equal(store_op_update(rig->s, &b, NULL), 0);
        b.state = STORE_OP_RUNNING;
        assert_int_equal(store_op_update(rig->s, &b, &e), -EALREADY);
        c.state = STORE_OP_UNDOING;
        assert_int_equal(store_op_update(rig->s, &c, NULL), 0);
        rig_reopen(rig);
        assert_int_equal(store_op_each(rig->s, &(struct store_op_filter){ .unfinished = true }, collect_op, text, NULL),
                         0);
        assert_string_equal(text, "ac");
        text[0] = '\0';
        assert_int_equal(
                store_op_each(rig->s, &(struct store_op_filter){ .after = a.id, .limit = 1 }, collect_op, text, NULL),
                0);
        assert_string_equal(text, "b");
        text[0] = '\0';
        text[0] = '\0';
        assert_int_equal(
                store_op_each(rig->s, &(struct store_op_filter){ .newest = true, .limit = 1 }, collect_op, text, NULL),
                0);
        assert_string_equal(text, "c");
        text[0] = '\0';
        assert_int_equal(store_op_each(rig->s, &(struct store_op_filter){ .newest = true, .after = c.id }, collect_op,
                                       text, NULL),
                         0);
        assert_string_equal(text, "ba");
        text[0] = '\0';
        assert_int_equal(store_op_each(rig->s, &(struct store_op_filter){ .target = "c", .project = "default" },
                                       collect_op, text, NULL),
                         0);
        assert_string_equal(text, "c");
        assert_int_equal(store_op_find(rig->s, b.id, &found, NULL), 0);
        assert_int_equal(found->state, STORE_OP_FAILED);
        assert_string_equal(found->error, b.error);
        assert_string_equal(found->args, b.args);
        assert_null(found->result);
        free(a.id);
        free(b.id);
        free(c.id);
}

/* Only finished operations are forgotten, the oldest first. */
static void test_operations_expire(void **state) {
        struct rig *rig = *state;
        struct store_op running = operation("r");
        char text[STORE_OP_KEEP + 64] = "";

        assert_int_equal(store_op_add(rig->s, &running, NULL), 0);
        assert_int_equal(store_begin(rig->s, NULL), 0);
        for (unsigned int i = 0; i < STORE_OP_KEEP + 10; i++) {
                struct store_op op = operation(i < 10 ? "x" : "y");

                assert_int_equal(store_op_add(rig->s, &op, NULL), 0);
                op.state = STORE_OP_DONE;
                assert_int_equal(store_op_update(rig->s, &op, NULL), 0);
                free(op.id);
        }
        assert_int_equal(store_commit(rig->s, NULL), 0);
        assert_int_equal(store_op_expire(rig->s, NULL), 0);
        assert_int_equal(store_op_each(rig->s, NULL, collect_op, text, NULL), 0);
        assert_int_equal(strlen(text), STORE_OP_KEEP + 1);
        assert_int_equal(text[0], 'r');
        assert_null(strchr(text, 'x'));
        free(running.id);
}

/* ---- events ---- */

/* A listener can tell whether it missed something: no number is left out, and the oldest that is kept is known. */
static void test_events(void **state) {
        struct rig *rig = *state;
        uint64_t seq = 0, next, oldest = 9, newest = 9;

        assert_int_equal(store_event_range(rig->s, &oldest, &newest, NULL), 0);
        assert_true(oldest == 0 && newest == 0);
        assert_int_equal(store_begin(rig->s, NULL), 0);
        for (unsigned int i = 1; i <= STORE_EVENT_KEEP + 5; i++) {
                assert_int_equal(store_event_add(rig->s, "k", i % 2 ? "a" : NULL, "t", "{}", "r", &seq, NULL), 0);
                assert_int_equal(seq, i);
        }
        assert_int_equal(store_commit(rig->s, NULL), 0);
        rig_reopen(rig);
        assert_int_equal(store_event_range(rig->s, &oldest, &newest, NULL), 0);
        assert_int_equal(oldest, 6);
        assert_int_equal(newest, STORE_EVENT_KEEP + 5);
        next = 6;
        assert_int_equal(store_event_each(rig->s, 0, NULL, 0, count_event, &next, NULL), 0);
        assert_int_equal(next, newest + 1);
        next = 101;
        assert_int_equal(store_event_each(rig->s, 100, NULL, 10, count_event, &next, NULL), 0);
        assert_int_equal(next, 111);
        next = newest;
        assert_int_equal(store_event_each(rig->s, newest - 1, "a", 0, count_event, &next, NULL), 0);
        assert_int_equal(next, newest + 1);
        next = 0;
        assert_int_equal(store_event_each(rig->s, UINT64_MAX, NULL, 0, count_event, &next, NULL), 0);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_machine_comes_back, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_name_and_uuid_are_unique, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_number_is_the_lowest_free_one, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_stale_generation_is_refused, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_rename, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_find, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_list_filters, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_labels_follow_the_machine, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_pages, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_callbacks, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_transaction, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_operations, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_operations_expire, rig_setup_open, rig_teardown),
                cmocka_unit_test_setup_teardown(test_events, rig_setup_open, rig_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
