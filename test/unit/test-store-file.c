// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-file: what store_open() makes of files that are damaged, newer, older, locked or half made, of a disk that is
 * full, and of a clock that goes backwards (clock_gettime is wrapped)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/text.h"
#include "daemon/store/store.h"
#include "test/unit/store-clock.h"

/* ---- files ---- */

static char *slurp(struct rig *rig, const char *name, size_t *ret_len) {
        char path[256], *data = NULL;
        _cleanup_close_ int fd = open(rig_path(rig, name, path), O_RDONLY);

        *ret_len = 0;
        if (fd < 0)
                return NULL;
        assert_int_equal(io_read_all(fd, 64 << 20, &data, ret_len), 0);
        return data;
}

static void spill(struct rig *rig, const char *name, const char *data, size_t len) {
        char path[256];
        _cleanup_close_ int fd = open(rig_path(rig, name, path), O_WRONLY | O_CREAT | O_TRUNC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(io_write_all(fd, data, len), 0);
}

/* The only file whose name begins so; false when there is none. */
static bool find_file(struct rig *rig, const char *prefix, bool wal, char ret_name[static 256]) {
        DIR *dir = opendir(rig->dir);
        struct dirent *entry;
        unsigned int n = 0;

        while ((entry = readdir(dir))) {
                size_t len = strlen(entry->d_name);
                bool is_wal = len > 4 && streq(entry->d_name + len - 4, "-wal");

                if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && is_wal == wal) {
                        snprintf(ret_name, 256, "%s", entry->d_name);
                        n++;
                }
        }
        closedir(dir);
        assert_true(n <= 1);
        return n == 1;
}

static void fill(struct store *s, unsigned int first, unsigned int n) {
        assert_int_equal(store_begin(s, NULL), 0);
        for (unsigned int i = first; i < first + n; i++) {
                char name[16];
                struct store_machine m = machine(name, i);

                snprintf(name, sizeof(name), "m%05u", i);
                m.labels = (char *)(i % 2 ? "[\"a=1\"]" : "[\"b\"]");
                assert_int_equal(store_machine_add(s, &m, NULL), 0);
                assert_int_equal(store_event_add(s, "machine-added", "default", name, NULL, NULL, NULL, NULL), 0);
        }
        assert_int_equal(store_commit(s, NULL), 0);
}

/* Leave a store as a kill leaves it, with a log that holds something: the child never closes it. */
static void fill_and_die(struct rig *rig, unsigned int first, unsigned int n) {
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                rig_open(rig);
                fill(rig->s, first, n);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

/* ---- opening ---- */

/* A second lodged must not get the store, from this process or another, and must not disturb the first. */
static void test_second_opener_is_refused(void **state) {
        struct rig *rig = *state;
        _cleanup_(store_freep) struct store *second = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        pid_t pid;
        int status;

        rig_open(rig);
        assert_int_equal(store_open(rig->dir, &second, &e), -EBUSY);
        assert_string_equal(e.id, "store-busy");
        pid = fork();
        if (pid == 0)
                _exit(store_open(rig->dir, &second, NULL) == -EBUSY ? 0 : 1);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        fill(rig->s, 1, 1);
        rig_reopen(rig);
}

/* Outside the directory and in it, only the store's own files: no journal, no shared memory file, mode 0600. */
static void test_files(void **state) {
        struct rig *rig = *state;
        DIR *dir;
        struct dirent *entry;
        unsigned int n = 0;
        char path[256];
        struct stat st;

        rig_open(rig);
        fill(rig->s, 1, 100);
        dir = opendir(rig->dir);
        while ((entry = readdir(dir))) {
                if (entry->d_name[0] == '.')
                        continue;
                n++;
                assert_true(streq(entry->d_name, "lodge.db") || streq(entry->d_name, "lodge.db-wal"));
                assert_int_equal(stat(rig_path(rig, entry->d_name, path), &st), 0);
                assert_int_equal(st.st_mode & 07777, 0600);
        }
        closedir(dir);
        assert_int_equal(n, 2);
        rig_close(rig);
        assert_int_equal(stat(rig_path(rig, "lodge.db-wal", path), &st), -1);
}

/* What a kill left while a store was made is no store, and does not stand in the way. */
static void test_half_made_store(void **state) {
        struct rig *rig = *state;
        char path[256];
        struct stat st;

        spill(rig, "lodge.db.new", "SQLite format 3", 10);
        spill(rig, "lodge.db.new-wal", "x", 1);
        rig_open(rig);
        assert_int_equal(stat(rig_path(rig, "lodge.db.new", path), &st), -1);
        assert_int_equal(stat(rig_path(rig, "lodge.db.new-wal", path), &st), -1);
}

static void test_no_directory(void **state) {
        _cleanup_(store_freep) struct store *s = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(store_open("/nonexistent/lodge", &s, &e), -ENOENT);
        assert_string_equal(e.id, "store-open");
        assert_non_null(e.fix);
}

static void run_sql(struct rig *rig, const char *sql) {
        char path[256];
        sqlite3 *db;

        assert_int_equal(sqlite3_open(rig_path(rig, "lodge.db", path), &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
}

static void expect_refused(struct rig *rig, int code, const char *id) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *before = NULL, *before_wal = NULL, *after = NULL, *after_wal = NULL;
        size_t n, n_wal, m, m_wal;

        before = slurp(rig, "lodge.db", &n);
        before_wal = slurp(rig, "lodge.db-wal", &n_wal);
        assert_int_equal(store_open(rig->dir, &rig->s, &e), code);
        assert_string_equal(e.id, id);
        assert_non_null(e.fix);
        after = slurp(rig, "lodge.db", &m);
        after_wal = slurp(rig, "lodge.db-wal", &m_wal);
        assert_true(n == m && n_wal == m_wal && !before == !after && !before_wal == !after_wal);
        assert_true(!before || memcmp(before, after, n) == 0);
        assert_true(!before_wal || memcmp(before_wal, after_wal, n_wal) == 0);
}

/* A downgrade must not lose what the newer lodged wrote: not a byte changes, be the version in file or log. */
static void test_newer_version_is_not_touched(void **state) {
        struct rig *rig = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        pid_t pid;
        int status;

        rig_open(rig);
        fill(rig->s, 1, 10);
        rig_close(rig);
        run_sql(rig, "PRAGMA user_version = 4711");
        expect_refused(rig, -EPROTONOSUPPORT, "store-newer");
        assert_int_equal(store_open(rig->dir, &rig->s, &e), -EPROTONOSUPPORT);
        assert_non_null(strstr(e.message, "4711"));

        run_sql(rig, "PRAGMA user_version = 1");
        pid = fork();
        if (pid == 0) { /* leaves the newer version in the log only */
                char path[256];
                sqlite3 *db;

                sqlite3_open(rig_path(rig, "lodge.db", path), &db);
                sqlite3_exec(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA user_version = 4712", NULL, NULL, NULL);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        expect_refused(rig, -EPROTONOSUPPORT, "store-newer");
}

/* ---- damage ---- */

/* The file is refused, it and its log are as they were, and one copy of both lies beside them, however often. */
static void expect_corrupt(struct rig *rig) {
        _cleanup_free_ char *data = NULL, *copy = NULL, *wal = NULL, *copy_wal = NULL;
        char name[256];
        size_t n, m, n_wal, m_wal;

        expect_refused(rig, -EUCLEAN, "store-corrupt");
        expect_refused(rig, -EUCLEAN, "store-corrupt");
        data = slurp(rig, "lodge.db", &n);
        wal = slurp(rig, "lodge.db-wal", &n_wal);
        if (data) {
                assert_true(find_file(rig, "lodge.db.corrupt-", false, name));
                copy = slurp(rig, name, &m);
                assert_true(n == m && memcmp(data, copy, n) == 0);
        }
        if (wal) {
                assert_true(find_file(rig, "lodge.db.corrupt-", true, name));
                copy_wal = slurp(rig, name, &m_wal);
                assert_true(n_wal == m_wal && memcmp(wal, copy_wal, n_wal) == 0);
        }
}

/* None of these may be taken for a new, empty store. */
static void test_no_store_at_all(void **state) {
        struct rig *rig = *state;
        _cleanup_free_ char *good = NULL, *garbage = malloc(100000);
        size_t n;

        rig_open(rig);
        fill(rig->s, 1, 200);
        rig_close(rig);
        good = slurp(rig, "lodge.db", &n);
        for (unsigned int i = 0; i < 100000; i++)
                garbage[i] = (char)(i * 2654435761u >> 13);
        const struct {
                const char *data;
                size_t n;
        } files[] = {
                { "", 0 },       { "x", 1 },          { good, 16 },      { good, 99 },
                { good, 100 },   { good, 4096 },      { good, n / 2 },   { good, n - 4096 },
                { good, n - 1 }, { garbage, 100000 }, { garbage, 4096 },
        };

        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                rig_clear(rig);
                spill(rig, "lodge.db", files[i].data, files[i].n);
                expect_corrupt(rig);
        }
        /* With a log beside it, SQLite would remove the log of an empty file. */
        rig_clear(rig);
        spill(rig, "lodge.db", "", 0);
        spill(rig, "lodge.db-wal", garbage, 5000);
        expect_corrupt(rig);
        rig_clear(rig);
        spill(rig, "lodge.db-wal", garbage, 5000);
        expect_corrupt(rig);
        /* A database of another program */
        rig_clear(rig);
        run_sql(rig, "PRAGMA journal_mode = WAL; CREATE TABLE t (x); PRAGMA user_version = 1");
        expect_corrupt(rig);
}

/* A file that lost its last byte: SQLite would read a zero there, in the middle of a config. */
static void test_cut_off(void **state) {
        struct rig *rig = *state;
        _cleanup_free_ char *config = malloc(20001), *data = NULL;
        struct store_machine m = machine("web", 1);
        size_t n;

        memset(config, 'x', 20000);
        config[20000] = '\0';
        m.config = config;
        rig_open(rig);
        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        rig_close(rig);
        data = slurp(rig, "lodge.db", &n);
        assert_int_equal(data[n - 1], 'x');
        spill(rig, "lodge.db", data, n - 1);
        expect_corrupt(rig);
}

/* A table or column that is missing though the version says otherwise is damage, found at once, not at first use. */
static void test_schema_is_damaged(void **state) {
        struct rig *rig = *state;

        rig_open(rig);
        rig_close(rig);
        run_sql(rig, "DROP TABLE free_numbers");
        expect_corrupt(rig);
        rig_clear(rig);
        rig_open(rig);
        rig_close(rig);
        run_sql(rig, "ALTER TABLE events RENAME COLUMN kind TO kinds");
        expect_corrupt(rig);
}

static int ignore_machine(void *opaque, const struct store_machine *m) {
        ++*(unsigned int *)opaque;
        return strlen(m->uuid) + strlen(m->name) + strlen(m->config) > 1 << 20;
}

/* Use a store that may be damaged in a way that nothing finds: answers or errors, nothing else. */
static void use(struct store *s) {
        struct store_machine_filter whole = { .whole = true };
        struct store_machine m = machine("zzz", 7777);
        unsigned int n = 0;

        (void)store_machine_each(s, &whole, ignore_machine, &n, NULL);
        (void)store_machine_add(s, &m, NULL);
        (void)store_event_add(s, "k", NULL, NULL, NULL, NULL, NULL, NULL);
        (void)store_op_expire(s, NULL);
        (void)store_machine_delete(s, m.uuid, 0, NULL);
}

/* Bytes that changed on the disk: refused with a copy, or (in a text, where nothing can tell) served, never a crash. */
static void test_flipped_bytes(void **state) {
        struct rig *rig = *state;
        _cleanup_free_ char *good = NULL, *bad = NULL;
        unsigned int refused = 0, served = 0, newer = 0;
        uint32_t random = 1;
        size_t n;

        rig_open(rig);
        fill(rig->s, 1, 300);
        rig_close(rig);
        good = slurp(rig, "lodge.db", &n);
        bad = malloc(n);
        for (unsigned int i = 0; i < 150; i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                size_t at;
                int r;

                memcpy(bad, good, n);
                for (unsigned int k = 0; k <= i % 4; k++) {
                        random = random * 1664525 + 1013904223;
                        /* the file's header; the pages' headers and first pointers; anywhere */
                        at = i % 3 == 0   ? (random >> 8) % 100
                             : i % 3 == 1 ? (random >> 8) % (n / 4096) * 4096 + (random >> 5) % 64
                                          : (random >> 8) % n;
                        bad[at] ^= (char)(1 + (random >> 24) % 255);
                }
                rig_clear(rig);
                spill(rig, "lodge.db", bad, n);
                r = store_open(rig->dir, &rig->s, &e);
                if (r == 0) {
                        served++;
                        use(rig->s);
                        rig_close(rig);
                        continue;
                }
                if (r == -EPROTONOSUPPORT)
                        newer++;
                else
                        refused++;
                expect_refused(rig, r, e.id);
                assert_true(r == -EPROTONOSUPPORT || r == -EUCLEAN);
        }
        print_message("150 damaged files: %u refused, %u taken for newer ones, %u served\n", refused, newer, served);
        assert_true(refused > 50);
}

/* A log that is damaged ends before the damage, as after a power loss; what was committed before it is there. */
static void test_damaged_log(void **state) {
        struct rig *rig = *state;
        _cleanup_free_ char *wal = NULL, *db = NULL;
        uint64_t machines = 0;
        size_t n, n_db;

        rig_open(rig);
        fill(rig->s, 1, 10);
        rig_close(rig);
        fill_and_die(rig, 100, 10);
        db = slurp(rig, "lodge.db", &n_db);
        wal = slurp(rig, "lodge.db-wal", &n);
        assert_true(n > 4096);
        rig_open(rig);
        assert_int_equal(store_machine_count(rig->s, NULL, &machines, NULL), 0);
        assert_int_equal(machines, 20);
        rig_close(rig);
        for (size_t at = 0; at < n; at += n / 37) {
                rig_clear(rig);
                spill(rig, "lodge.db", db, n_db);
                wal[at] ^= 0x55;
                spill(rig, "lodge.db-wal", wal, n);
                wal[at] ^= 0x55;
                rig_open(rig);
                assert_int_equal(store_machine_count(rig->s, NULL, &machines, NULL), 0);
                assert_true(machines == 10 || machines == 20);
                rig_close(rig);
        }
}

/* ---- a full disk ---- */

#define FULL_SIZE "size=1m"

/* In a mount namespace of its own: a file system of 1 MiB. What was answered is there, what was refused is not. */
static int full_disk(struct rig *rig) {
        _cleanup_error_ struct error e = ERROR_INIT;
        unsigned int added = 0, refused = 0, canceled = 0;
        char text[20001], path[256];
        uint64_t n = 0;
        int r = 0;

        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        rig_open(rig);
        while (r == 0 && added < 1000) {
                struct store_machine m = machine("", added + 1);

                m.name = m.uuid;
                m.config = text;
                r = store_machine_add(rig->s, &m, &e);
                added += r == 0;
        }
        assert_int_equal(r, -ENOSPC);
        assert_string_equal(e.id, "store-full");
        assert_true(added > 3);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, added);
        rig_close(rig);
        rig_open(rig); /* also without a byte free */
        /* More than the page cache, in a transaction: SQLite undoes it. What comes then, with room again, must not be
         * committed alone. */
        assert_int_equal(store_begin(rig->s, NULL), 0);
        for (unsigned int i = 0; i < 300; i++) {
                struct store_machine m = machine("", 5000 + i);

                m.name = m.uuid;
                m.config = text;
                r = store_machine_add(rig->s, &m, NULL);
                if (r == -ENOSPC)
                        assert_int_equal(mount(NULL, rig->dir, NULL, MS_REMOUNT, "size=8m"), 0);
                refused += r == -ENOSPC;
                canceled += r == -ECANCELED;
        }
        assert_true(refused == 1 && canceled > 0);
        assert_int_equal(store_commit(rig->s, NULL), -ECANCELED);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, added);
        fill(rig->s, 9000, 20); /* and it goes on */
        rig_reopen(rig);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, added + 20);
        rig_close(rig);
        /* No room to make a store at all: no half one stays behind. */
        rig_clear(rig);
        assert_int_equal(mount(NULL, rig->dir, NULL, MS_REMOUNT, "size=16k"), 0);
        error_clear(&e);
        assert_int_equal(store_open(rig->dir, &rig->s, &e), -ENOSPC);
        assert_string_equal(e.id, "store-full");
        assert_int_equal(access(rig_path(rig, "lodge.db", path), F_OK), -1);
        assert_int_equal(access(rig_path(rig, "lodge.db.new", path), F_OK), -1);
        return 0;
}

static void test_full_disk(void **state) {
        struct rig *rig = *state;
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
                    mount("lodge-test", rig->dir, "tmpfs", MS_NOSUID, FULL_SIZE) < 0)
                        _exit(77);
                _exit(full_disk(rig)); /* an assertion that fails ends the child otherwise */
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
                print_message("skipped: a full disk needs the right to mount\n");
                skip();
        }
        assert_int_equal(status, 0);
}

static int count_machine(void *opaque, const struct store_machine *m) {
        ++*(unsigned int *)opaque;
        return 0;
}

/* ---- the sandbox ---- */

/* From now on this process opens what is in @dir, and nothing else. */
static bool confine(const char *dir) {
        struct landlock_ruleset_attr attr = { .handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };
        struct landlock_path_beneath_attr beneath = { .allowed_access = attr.handled_access_fs };
        int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

        if (rules < 0)
                return false;
        beneath.parent_fd = open(dir, O_PATH | O_CLOEXEC);
        return beneath.parent_fd >= 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
               syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) == 0 &&
               syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

/* More than the page cache and the log hold, in one transaction with steps: all that could want a temporary file. */
static int work_confined(struct rig *rig) {
        struct store_machine_filter filter = { .label = "a=1", .image = "none" };
        unsigned int n = 0;

        if (!confine(rig->dir))
                return 77;
        assert_int_equal(open("/etc/passwd", O_RDONLY | O_CLOEXEC), -1);
        rig_open(rig);
        fill(rig->s, 0, 20000);
        assert_int_equal(store_machine_each(rig->s, &filter, count_machine, &n, NULL), 0);
        for (unsigned int i = 0; i < 50; i++) {
                struct store_machine m = machine("", 30000 + i);

                m.name = m.uuid;
                assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        }
        rig_reopen(rig);
        rig_close(rig);
        run_sql(rig, "PRAGMA user_version = 4711");
        assert_int_equal(store_open(rig->dir, &rig->s, NULL), -EPROTONOSUPPORT);
        spill(rig, "lodge.db", "x", 1);
        expect_corrupt(rig);
        return 0;
}

/* The worker may open what is in the store's directory only: nothing that SQLite does may need more. */
static void test_under_landlock(void **state) {
        struct rig *rig = *state;
        int status;
        pid_t pid = fork();

        if (pid == 0)
                _exit(work_confined(rig));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
                print_message("skipped: this kernel has no Landlock\n");
                skip();
        }
        assert_int_equal(status, 0);
}

/* ---- the rest ---- */

static int collect_name(void *opaque, const struct store_event *event) {
        strcat(opaque, event->target);
        return 0;
}

static int collect_target(void *opaque, const struct store_op *op) {
        strcat(opaque, op->target);
        return 0;
}

/* A clock that jumps back must not put what came later first, nor make a generation that was there before. */
static void test_clock_goes_backwards(void **state) {
        struct rig *rig = *state;
        struct store_machine m = machine("web", 1);
        char events[16] = "", ops[16] = "";
        uint64_t generation = 0;
        int64_t created;

        rig_open(rig);
        assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
        created = m.created;
        for (unsigned int i = 0; i < 4; i++) {
                char target[2] = { (char)('a' + i) };
                struct store_op op = { .kind = (char *)"k", .project = (char *)"default", .target = target };

                clock_offset = -1000 * (int64_t)i * (i % 2 ? 1 : 100000);
                assert_int_equal(store_event_add(rig->s, "k", NULL, target, NULL, NULL, NULL, NULL), 0);
                assert_int_equal(store_op_add(rig->s, &op, NULL), 0);
                assert_int_equal(store_machine_update(rig->s, &m, m.generation, NULL), 0);
                assert_true(m.generation > generation);
                generation = m.generation;
                free(op.id);
        }
        assert_true(m.changed < created); /* times are what the clock said, to be shown */
        assert_int_equal(store_event_each(rig->s, 0, NULL, 0, collect_name, events, NULL), 0);
        assert_int_equal(store_op_each(rig->s, NULL, collect_target, ops, NULL), 0);
        assert_string_equal(events, "abcd");
        assert_string_equal(ops, "abcd");
}

/* Names and texts of any kind are data: quotes, SQL, UTF-8, 256 KiB; what is beyond the limit is refused whole. */
static void test_wide_data(void **state) {
        struct rig *rig = *state;
        static const char *const names[] = { "'; DROP TABLE machines; --", "\"", "a\nb\tc", "%_\\", "жук-🐞", "" };
        _cleanup_free_ char *large = malloc((256 << 10) + 1), *huge = malloc((17 << 20) + 1);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct store_machine m;
        uint64_t n = 0;

        rig_open(rig);
        memset(large, '"', 256 << 10);
        large[256 << 10] = '\0';
        memset(huge, 'x', 17 << 20);
        huge[17 << 20] = '\0';
        for (unsigned int i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_(store_machine_freep) struct store_machine *found = NULL;

                m = machine(names[i], i);
                m.config = large;
                m.facts = large;
                m.image = (char *)names[i];
                assert_int_equal(store_machine_add(rig->s, &m, NULL), 0);
                assert_int_equal(store_machine_find(rig->s, "default", names[i], &found, NULL), 0);
                assert_string_equal(found->name, names[i]);
                assert_string_equal(found->image, names[i]);
                assert_string_equal(found->config, large);
                assert_string_equal(found->facts, large);
        }
        m = machine("huge", 50);
        m.config = huge;
        assert_int_equal(store_machine_add(rig->s, &m, &e), -E2BIG);
        assert_string_equal(e.id, "store-too-big");
        m.config = large;
        m.memory = UINT64_MAX;
        assert_int_equal(store_machine_add(rig->s, &m, NULL), -EINVAL);
        m.memory = 1;
        m.name = NULL;
        assert_int_equal(store_machine_add(rig->s, &m, NULL), -EINVAL);
        assert_int_equal(store_machine_count(rig->s, NULL, &n, NULL), 0);
        assert_int_equal(n, ELEMENTSOF(names));
}

/* Figures, not limits: what a list costs with 10,000 machines, and what the store holds in memory. */
static void test_ten_thousand(void **state) {
        struct rig *rig = *state;
        struct store_machine_filter label = { .label = "a=1" }, page = { .after = "m05000", .limit = 100 },
                                    whole = { .whole = true };
        unsigned int n = 0;
        uint64_t t[8];

        rig_open(rig);
        t[0] = clock_ns();
        fill(rig->s, 0, 10000);
        t[1] = clock_ns();
        assert_int_equal(store_machine_each(rig->s, NULL, count_machine, &n, NULL), 0);
        t[2] = clock_ns();
        assert_int_equal(n, 10000);
        assert_int_equal(store_machine_each(rig->s, &label, count_machine, &n, NULL), 0);
        t[3] = clock_ns();
        assert_int_equal(n, 15000);
        assert_int_equal(store_machine_each(rig->s, &page, count_machine, &n, NULL), 0);
        t[4] = clock_ns();
        assert_int_equal(n, 15100);
        assert_int_equal(store_machine_each(rig->s, &whole, count_machine, &n, NULL), 0);
        t[5] = clock_ns();
        assert_int_equal(n, 25100);
        print_message("10,000 machines: added (one transaction) in %llu ms, listed in %llu us, 5,000 by label in %llu "
                      "us, a page "
                      "of 100 in %llu us, all with their JSON in %llu us; SQLite holds %lld KiB\n",
                      (unsigned long long)(t[1] - t[0]) / 1000000, (unsigned long long)(t[2] - t[1]) / 1000,
                      (unsigned long long)(t[3] - t[2]) / 1000, (unsigned long long)(t[4] - t[3]) / 1000,
                      (unsigned long long)(t[5] - t[4]) / 1000, sqlite3_memory_used() / 1024);
        assert_true(sqlite3_memory_used() < 8 << 20);
        t[6] = clock_ns();
        rig_reopen(rig);
        t[7] = clock_ns();
        print_message("closed and opened, with its check, in %llu ms\n", (unsigned long long)(t[7] - t[6]) / 1000000);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_second_opener_is_refused, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_files, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_half_made_store, rig_setup, clock_teardown),
                cmocka_unit_test(test_no_directory),
                cmocka_unit_test_setup_teardown(test_newer_version_is_not_touched, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_no_store_at_all, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_cut_off, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_schema_is_damaged, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_flipped_bytes, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_damaged_log, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_full_disk, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_under_landlock, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_clock_goes_backwards, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_wide_data, rig_setup, clock_teardown),
                cmocka_unit_test_setup_teardown(test_ten_thousand, rig_setup, clock_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
