// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-crash: a process that writes to a store at random is killed, again and again, for some seconds
 *
 * The writer says over a pipe what it is about to do, and that it was done. Whatever it had done must be there after
 * the kill; what it was about to do is there whole or not at all; nothing else differs; and SQLite and the store's own
 * rules (numbers, labels, events without gaps) find nothing wrong. What a power loss would do to the disk's cache is
 * not tried.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/clock.h"
#include "daemon/store/store.h"
#include "test/unit/store-rig.h"

#define MACHINES   40
#define SECONDS    5
#define CONFIG_MAX 60000

enum action { ADD, UPDATE, DELETE, TOGETHER, ACTION_MAX };

/* What the writer says. Twice for each action: before, and after it was answered. */
struct word {
        uint32_t done, action, machine;
        uint64_t value;
};

/* What is known to be there: the value of a machine is the first number of its facts. */
struct model {
        bool present[MACHINES];
        uint64_t value[MACHINES];
        uint64_t events;
};

static uint32_t next_random(uint32_t *seed) {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 17;
        *seed ^= *seed << 5;
        return *seed;
}

static bool is_possible(const struct model *model, const struct word *w) {
        return model->present[w->machine] == (w->action != ADD);
}

static void apply(struct model *model, const struct word *w) {
        model->present[w->machine] = w->action != DELETE;
        model->value[w->machine] = w->value;
        model->events += w->action == TOGETHER;
}

/* ---- the writer ---- */

static char *filler(uint32_t *seed) {
        size_t n = next_random(seed) % CONFIG_MAX;
        char *text = malloc(n + 3);

        memset(text, 'x', n + 2);
        text[0] = text[n + 1] = '"';
        text[n + 2] = '\0';
        return text;
}

static int act(struct store *s, const struct word *w, uint32_t *seed) {
        _cleanup_free_ char *config = filler(seed);
        char name[16], facts[32], labels[64], uuid[40];
        struct store_machine m = machine(name, 0);
        int r;

        snprintf(uuid, sizeof(uuid), "00000000-0000-4000-8000-%012x", w->machine);
        snprintf(name, sizeof(name), "m%u", w->machine);
        snprintf(facts, sizeof(facts), "%llu", (unsigned long long)w->value);
        snprintf(labels, sizeof(labels), "[\"all\",\"v=%llu\"]", (unsigned long long)w->value);
        m.uuid = uuid;
        m.config = config;
        m.facts = facts;
        m.labels = labels;
        if (w->action == ADD)
                return store_machine_add(s, &m, NULL);
        if (w->action == DELETE)
                return store_machine_delete(s, uuid, 0, NULL);
        if (w->action == UPDATE)
                return store_machine_update(s, &m, 0, NULL);
        r = store_begin(s, NULL);
        if (r >= 0)
                r = store_event_add(s, "changed", "default", name, facts, NULL, NULL, NULL);
        if (r >= 0)
                r = store_machine_update(s, &m, 0, NULL);
        return r < 0 ? r : store_commit(s, NULL);
}

/* Never returns; -1 as a word's `done` says that something failed that must not. */
static void writer(const char *dir, int fd, struct model model, uint64_t value, uint32_t seed) {
        struct store *s = NULL;

        if (store_open(dir, &s, NULL) < 0) {
                struct word failed = { .done = UINT32_MAX };

                (void)!write(fd, &failed, sizeof(failed));
                _exit(1);
        }
        for (;;) {
                struct word w = { .action = next_random(&seed) % ACTION_MAX,
                                  .machine = next_random(&seed) % MACHINES,
                                  .value = ++value };

                if (!is_possible(&model, &w))
                        continue;
                (void)!write(fd, &w, sizeof(w));
                w.done = act(s, &w, &seed) < 0 ? UINT32_MAX : 1;
                (void)!write(fd, &w, sizeof(w));
                if (w.done != 1)
                        _exit(1);
                apply(&model, &w);
        }
}

/* ---- what is there ---- */

struct found {
        struct model model;
        uint64_t next_event;
};

static int see_machine(void *opaque, const struct store_machine *m) {
        struct found *found = opaque;
        char labels[64];
        unsigned int i;

        assert_int_equal(sscanf(m->name, "m%u", &i), 1);
        assert_true(i < MACHINES && !found->model.present[i]);
        found->model.present[i] = true;
        found->model.value[i] = strtoull(m->facts, NULL, 10);
        snprintf(labels, sizeof(labels), "[\"all\",\"v=%s\"]", m->facts);
        assert_string_equal(m->labels, labels); /* row and JSON are of the same moment */
        return 0;
}

static int see_event(void *opaque, const struct store_event *event) {
        struct found *found = opaque;

        if (found->next_event == 0)
                found->next_event = event->seq;
        assert_int_equal(event->seq, found->next_event++);
        return 0;
}

static bool is_same(const struct model *a, const struct model *b) {
        for (unsigned int i = 0; i < MACHINES; i++)
                if (a->present[i] != b->present[i] || (a->present[i] && a->value[i] != b->value[i]))
                        return false;
        return a->events == b->events;
}

static void expect_sql(sqlite3 *db, const char *sql, const char *answer) {
        sqlite3_stmt *stmt = NULL;

        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
        assert_string_equal(sqlite3_column_text(stmt, 0), answer);
        sqlite3_finalize(stmt);
}

/* The rules that no table's definition holds. */
static void check_rules(struct rig *rig) {
        char path[256];
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(rig_path(rig, "lodge.db", path), &db), SQLITE_OK);
        expect_sql(db, "PRAGMA integrity_check", "ok");
        expect_sql(db, "SELECT count(*) FROM pragma_foreign_key_check", "0");
        expect_sql(
                db,
                "SELECT count(*) FROM (SELECT number FROM machines EXCEPT SELECT number FROM machine_configs UNION ALL"
                " SELECT number FROM machine_configs EXCEPT SELECT number FROM machines)",
                "0");
        /* Each number up to the highest is a machine's or free, never both. */
        expect_sql(db,
                   "WITH n AS (SELECT number FROM machines UNION ALL SELECT number FROM free_numbers)"
                   " SELECT count(*) = coalesce(max(number), 0) AND count(*) = count(DISTINCT number) FROM n",
                   "1");
        expect_sql(db,
                   "SELECT count(*) FROM (SELECT number, value FROM machines, json_each(labels)"
                   " EXCEPT SELECT number, label FROM machine_labels)",
                   "0");
        expect_sql(db,
                   "SELECT count(*) FROM (SELECT number, label FROM machine_labels"
                   " EXCEPT SELECT number, value FROM machines, json_each(labels))",
                   "0");
        expect_sql(db, "SELECT coalesce(max(generation), 0) <= (SELECT value FROM counters) FROM machines", "1");
        sqlite3_close(db);
}

static void look(struct rig *rig, struct model *ret_model) {
        struct store_machine_filter whole = { .whole = true };
        struct found found = { 0 };
        uint64_t oldest = 0;

        rig_open(rig);
        assert_int_equal(store_machine_each(rig->s, &whole, see_machine, &found, NULL), 0);
        assert_int_equal(store_event_each(rig->s, 0, NULL, 0, see_event, &found, NULL), 0);
        assert_int_equal(store_event_range(rig->s, &oldest, &found.model.events, NULL), 0);
        assert_true(found.next_event == 0 || found.next_event == found.model.events + 1);
        rig_close(rig);
        check_rules(rig);
        *ret_model = found.model;
}

/* ---- rounds ---- */

struct totals {
        unsigned int rounds, done, pending_done, pending_undone;
};

/* Take in what the writer said, up to @max words; it never says two things at once. */
static void listen_to(int fd, unsigned int max, struct model *model, struct word *last, struct totals *totals) {
        struct word w;

        while (max-- > 0 && read(fd, &w, sizeof(w)) == sizeof(w)) {
                assert_int_not_equal(w.done, UINT32_MAX);
                *last = w;
                if (w.done) {
                        apply(model, &w);
                        totals->done++;
                }
        }
}

static void one_round(struct rig *rig, struct model *model, uint64_t *value, uint32_t *seed, struct totals *totals) {
        struct model after, there;
        struct word last = { .done = 1, .value = *value };
        int fds[2], status;
        pid_t pid;

        assert_int_equal(pipe(fds), 0);
        assert_true(fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) > 0); /* the writer never waits for us */
        pid = fork();
        if (pid == 0) {
                close(fds[0]);
                writer(rig->dir, fds[1], *model, *value, *seed);
        }
        close(fds[1]);
        /* After so many words, which a slow machine reaches as well, and some of an action. */
        listen_to(fds[0], next_random(seed) % 60, model, &last, totals);
        nanosleep(&(struct timespec){ .tv_nsec = (long)(next_random(seed) % 4000) * 1000 }, NULL);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        listen_to(fds[0], UINT32_MAX, model, &last, totals);
        *value = last.value;
        close(fds[0]);
        look(rig, &there);
        after = *model;
        if (!last.done)
                apply(&after, &last);
        if (!is_same(model, &there)) {
                assert_true(!last.done && is_same(&after, &there));
                totals->pending_done++;
                *model = after;
        } else {
                totals->pending_undone += !last.done;
        }
        totals->rounds++;
}

/* What was answered survives a kill, and what was not is there whole or not at all. */
static void test_kill(void **state) {
        uint64_t end = clock_ns() + SECONDS * 1000000000ULL;
        uint32_t seed = (uint32_t)clock_ns() | 1;
        struct totals totals = { 0 };

        print_message("seed %u\n", seed);
        while (clock_ns() < end) { /* a new store now and then: making one is killed, too */
                struct model model = { 0 };
                uint64_t value = 0;
                struct rig rig;

                rig_make(&rig);
                for (unsigned int i = 0; i < 12 && clock_ns() < end; i++)
                        one_round(&rig, &model, &value, &seed, &totals);
                rig_free(&rig);
        }
        print_message("%u kills, %u changes answered; of those under way %u were there and %u not\n", totals.rounds,
                      totals.done, totals.pending_done, totals.pending_undone);
        assert_true(totals.done > 10);
}

/* Of several processes that want the same name, one gets it, however they are mixed. */
static void test_race_for_a_name(void **state) {
        enum { N = 8 };
        struct rig rig;
        pid_t pids[N];
        unsigned int won = 0;

        rig_make(&rig);
        for (unsigned int i = 0; i < N; i++) {
                pids[i] = fork();
                if (pids[i] == 0) {
                        struct store_machine m = machine("web", i);
                        int r;

                        while ((r = store_open(rig.dir, &rig.s, NULL)) == -EBUSY)
                                nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
                        if (r == 0)
                                r = store_machine_add(rig.s, &m, NULL);
                        store_free(rig.s);
                        _exit(r == 0 ? 0 : r == -EEXIST ? 1 : 2);
                }
        }
        for (unsigned int i = 0; i < N; i++) {
                int status;

                assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
                assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
                won += WEXITSTATUS(status) == 0;
        }
        assert_int_equal(won, 1);
        rig_free(&rig);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kill),
                cmocka_unit_test(test_race_for_a_name),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
