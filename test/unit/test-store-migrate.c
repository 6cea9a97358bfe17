// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-migrate: a store of every earlier schema version becomes one of the newest, with all its rows
 *
 * test/unit/store/vN.sql is a dump of a store as the lodged that had version N wrote it. The tables of a migrated store
 * are compared with those of a new one, and its rows with those of the dump. Whoever adds a migration adds the dump of
 * the version before it: the test fails until it is there.
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

#include "base/io.h"
#include "base/text.h"
#include "daemon/store/store.h"
#include "test/unit/store-rig.h"

static sqlite3 *connect_to(struct rig *rig) {
        char path[256];
        sqlite3 *db = NULL;

        assert_int_equal(sqlite3_open(rig_path(rig, "lodge.db", path), &db), SQLITE_OK);
        return db;
}

static void run(sqlite3 *db, const char *sql) {
        char *message = NULL;

        if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
                fail_msg("%s", message);
}

/* All that a query gives, as text. */
static char *ask(sqlite3 *db, const char *sql) {
        sqlite3_stmt *stmt = NULL;
        char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);

        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
        while (sqlite3_step(stmt) == SQLITE_ROW) {
                for (int i = 0; i < sqlite3_column_count(stmt); i++)
                        fprintf(f, "%s|", (const char *)sqlite3_column_text(stmt, i) ?: "NULL");
                fputc('\n', f);
        }
        sqlite3_finalize(stmt);
        fclose(f);
        return text;
}

static void expect_answer(sqlite3 *db, const char *sql, const char *answer) {
        _cleanup_free_ char *text = ask(db, sql);

        assert_string_equal(text, answer);
}

/* A store of version @version, as it was dumped. */
static void make_old(struct rig *rig, int version) {
        _cleanup_free_ char *sql = NULL;
        _cleanup_close_ int fd = -EBADF;
        char path[512];
        size_t n;
        sqlite3 *db = connect_to(rig);

        snprintf(path, sizeof(path), "%s/v%d.sql", STORE_DUMPS, version);
        fd = open(path, O_RDONLY);
        assert_true(fd >= 0); /* the dump of each earlier version has to be there */
        assert_int_equal(io_read_all(fd, 1 << 20, &sql, &n), 0);
        run(db, "PRAGMA journal_mode = WAL");
        run(db, "PRAGMA writable_schema = ON"); /* sqlite_sequence is written by the dump */
        run(db, sql);
        sqlite3_close(db);
}

static void expect_newest(struct rig *rig, const char *schema) {
        _cleanup_free_ char *text = NULL;
        char version[32];
        sqlite3 *db = connect_to(rig);

        snprintf(version, sizeof(version), "%d|\n", store_schema_version());
        expect_answer(db, "PRAGMA user_version", version);
        expect_answer(db, "PRAGMA integrity_check", "ok|\n");
        expect_answer(db, "PRAGMA foreign_key_check", "");
        text = ask(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name");
        assert_string_equal(text, schema);
        sqlite3_close(db);
}

static char *newest_schema(void) {
        struct rig rig;
        sqlite3 *db;
        char *text;

        rig_make(&rig);
        rig_open(&rig);
        rig_close(&rig);
        db = connect_to(&rig);
        text = ask(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name");
        sqlite3_close(db);
        rig_free(&rig);
        return text;
}

/* The rows of every table that the old version had, in the columns that it had. */
static char *rows(struct rig *rig, const char *tables) {
        _cleanup_free_ char *names = strdup(tables);
        char *text = NULL, *save = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);
        sqlite3 *db = connect_to(rig);

        for (char *name = strtok_r(names, "|\n", &save); name; name = strtok_r(NULL, "|\n", &save)) {
                _cleanup_free_ char *table = NULL;
                char sql[256];

                snprintf(sql, sizeof(sql), "SELECT * FROM %s ORDER BY 1, 2", name);
                if (streq(name, "free_numbers"))
                        snprintf(sql, sizeof(sql), "SELECT * FROM free_numbers ORDER BY 1");
                table = ask(db, sql);
                fprintf(f, "%s\n%s", name, table);
        }
        sqlite3_close(db);
        fclose(f);
        return text;
}

static char *table_names(struct rig *rig) {
        sqlite3 *db = connect_to(rig);
        char *text = ask(
                db, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'sqlite_sequence' ORDER BY name");

        sqlite3_close(db);
        return text;
}

/*
 * An upgrade loses nothing. When a migration changes a table that was there before, this comparison has to learn what
 * it changes; until then all rows stay as they were.
 */
static void test_every_version(void **state) {
        _cleanup_free_ char *schema = newest_schema();

        assert_true(store_schema_version() >= 2);
        for (int version = 1; version < store_schema_version(); version++) {
                _cleanup_free_ char *tables = NULL, *before = NULL, *after = NULL;
                struct rig rig;

                rig_make(&rig);
                make_old(&rig, version);
                tables = table_names(&rig);
                before = rows(&rig, tables);
                rig_open(&rig);
                rig_close(&rig);
                expect_newest(&rig, schema);
                after = rows(&rig, tables);
                assert_string_equal(before, after);
                rig_free(&rig);
        }
}

/* The functions find what the old version wrote: rows that are there but can't be read would be no use. */
static void test_v1_is_understood(void **state) {
        _cleanup_(store_machine_freep) struct store_machine *m = NULL;
        _cleanup_(store_op_freep) struct store_op *op = NULL;
        struct store_machine added = machine("new", 1);
        uint64_t oldest = 0, newest = 0, generation;
        struct rig rig;

        rig_make(&rig);
        make_old(&rig, 1);
        rig_open(&rig);
        assert_int_equal(store_machine_find(rig.s, "default", "web", &m, NULL), 0);
        assert_string_equal(m->facts, "{\"engine\":\"native\"}");
        assert_string_equal(m->labels, "[\"tier=front\",\"x\"]");
        generation = m->generation;
        assert_int_equal(store_machine_update(rig.s, m, generation, NULL), 0);
        assert_int_equal(m->generation, 4); /* the counter went on from 3 */
        assert_int_equal(store_op_find(rig.s, "ad9dedd1-0576-4f75-b160-bbed90f8506e", &op, NULL), 0);
        assert_int_equal(op->step, 3);
        assert_int_equal(store_event_range(rig.s, &oldest, &newest, NULL), 0);
        assert_true(oldest == 1 && newest == 2);
        assert_int_equal(store_machine_add(rig.s, &added, NULL), 0);
        assert_int_equal(added.number, 2);
        rig_free(&rig);
}

/* A migration that fails leaves the version before it, whole, and the next start tries again. */
static void test_failed_migration_changes_nothing(void **state) {
        _cleanup_free_ char *schema = newest_schema();
        _cleanup_error_ struct error e = ERROR_INIT;
        struct rig rig;
        sqlite3 *db;

        rig_make(&rig);
        make_old(&rig, 1);
        db = connect_to(&rig);
        run(db, "CREATE TABLE clients (x)"); /* in the way of the last table of version 2 */
        sqlite3_close(db);
        assert_int_equal(store_open(rig.dir, &rig.s, &e), -EUCLEAN);
        assert_string_equal(e.id, "store-corrupt");
        assert_non_null(strstr(e.message, "table clients already exists"));
        db = connect_to(&rig);
        expect_answer(db, "PRAGMA user_version", "1|\n");
        expect_answer(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'objects'", "0|\n");
        expect_answer(db, "SELECT count(*) FROM machines", "2|\n");
        run(db, "DROP TABLE clients");
        sqlite3_close(db);
        rig_open(&rig);
        rig_close(&rig);
        expect_newest(&rig, schema);
        rig_free(&rig);
}

/* A kill in the middle of a migration: the version before it or the one after, and the next start ends it. */
static void test_kill_while_migrating(void **state) {
        _cleanup_free_ char *schema = newest_schema();

        for (unsigned int i = 0; i < 30; i++) {
                struct rig rig;
                int status;
                pid_t pid;

                rig_make(&rig);
                make_old(&rig, 1);
                pid = fork();
                if (pid == 0)
                        _exit(store_open(rig.dir, &rig.s, NULL) < 0);
                nanosleep(&(struct timespec){ .tv_nsec = (long)i * 300000 }, NULL);
                kill(pid, SIGKILL);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                rig_open(&rig);
                rig_close(&rig);
                expect_newest(&rig, schema);
                rig_free(&rig);
        }
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_every_version),
                cmocka_unit_test(test_v1_is_understood),
                cmocka_unit_test(test_failed_migration_changes_nothing),
                cmocka_unit_test(test_kill_while_migrating),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
