// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store: open, migrate, close
 *
 * Theory of operation. The directory is locked (flock), so that one lodged has it; SQLite's own locks are then kept for
 * good (locking_mode=EXCLUSIVE), which also spares the -shm file: the index of the WAL is in memory. After store_open()
 * SQLite needs no other file than lodge.db and lodge.db-wal: nothing temporary goes to disk, nothing is mapped.
 *
 * Nothing is written until everything has been looked at: the header (store-check.c), the version as the WAL has it,
 * and PRAGMA integrity_check. Closing would write, too (a checkpoint), which is therefore off until then.
 *
 * A new store is made as lodge.db.new, closed, and renamed: lodge.db is never half a store. A migration is one
 * transaction, which also sets user_version: a kill leaves the version before it or the one after.
 */
#include "daemon/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "daemon/store/internal.h"

#define STORE_NAME "lodge.db"
#define NEW_NAME   "lodge.db.new"

/* What every connection is set to. cache_size is in KiB when negative. */
static const char settings[] = "PRAGMA locking_mode = EXCLUSIVE;"
                               "PRAGMA temp_store = MEMORY;"
                               "PRAGMA mmap_size = 0;"
                               "PRAGMA cache_size = -2048;"
                               "PRAGMA synchronous = FULL;"
                               "PRAGMA foreign_keys = ON;"
                               "PRAGMA trusted_schema = OFF;"
                               "PRAGMA cell_size_check = ON;"
                               "PRAGMA journal_size_limit = 4194304;"
                               "PRAGMA wal_autocheckpoint = 1000;";

/* Run constant text; @text never comes from outside. */
static int run_text(struct store *s, const char *text, const char *what, struct error *e) {
        int rc = sqlite3_exec(s->db, text, NULL, NULL, NULL);

        if (rc == SQLITE_ERROR) /* our own text: then the tables are not what they should be */
                return error_set(e, -EUCLEAN, "store-corrupt", NULL, "cannot %s: %s", what, sqlite3_errmsg(s->db));
        return rc == SQLITE_OK ? 0 : store_error(s, rc, what, e);
}

/* The first column of the first row; @ret_text (may be NULL) is allocated. */
static int ask(struct store *s, const char *sql, int64_t *ret_number, char **ret_text, struct error *e) {
        sqlite3_stmt *stmt = NULL;
        int rc = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL), r = 0;

        if (rc == SQLITE_OK)
                rc = sqlite3_step(stmt);
        if (rc == SQLITE_ROW) {
                *ret_number = sqlite3_column_int64(stmt, 0);
                if (ret_text)
                        *ret_text = strdup((const char *)sqlite3_column_text(stmt, 0) ?: "");
        } else {
                r = store_error(s, rc == SQLITE_OK || rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, "open the store", e);
        }
        sqlite3_finalize(stmt);
        return r;
}

/* Connect to a file that exists. */
static int connect_file(struct store *s, const char *name, struct error *e) {
        char path[PATH_MAX];
        int rc, on;

        if (snprintf(path, sizeof(path), "%s/%s", s->dir, name) >= (int)sizeof(path))
                return error_set(e, -ENAMETOOLONG, "store-open", NULL, "the path of the store is too long");
        rc = sqlite3_open_v2(path, &s->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
                                     SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE,
                             NULL);
        if (rc != SQLITE_OK)
                return store_error(s, rc, "open the store", e);
        sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, STORE_LENGTH_MAX);
        sqlite3_limit(s->db, SQLITE_LIMIT_ATTACHED, 0);
        if (sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, &on) != SQLITE_OK ||
            sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, &on) != SQLITE_OK ||
            sqlite3_db_config(s->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, &on) != SQLITE_OK ||
            sqlite3_db_config(s->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, &on) != SQLITE_OK)
                return error_set(e, -ENOSYS, "store-open", "install SQLite 3.40 or newer",
                                 "this SQLite lacks a setting");
        return run_text(s, settings, "open the store", e);
}

/* Close the connection; with a checkpoint if that was allowed. */
static void disconnect(struct store *s) {
        for (size_t i = 0; i < ELEMENTSOF(s->statements); i++) {
                sqlite3_finalize(s->statements[i]);
                s->statements[i] = NULL;
        }
        for (size_t i = 0; i < ELEMENTSOF(s->lists); i++) {
                sqlite3_finalize(s->lists[i]);
                s->lists[i] = NULL;
        }
        sqlite3_close(s->db);
        s->db = NULL;
}

static void allow_checkpoint_on_close(struct store *s) {
        int on;

        (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, &on);
}

static int migrate_step(struct store *s, int from, struct error *e) {
        char version[64];
        int r;

        snprintf(version, sizeof(version), "PRAGMA user_version = %d;", from + 1);
        r = run_text(s, "BEGIN IMMEDIATE;", "migrate the store", e);
        if (r >= 0)
                r = run_text(s, migration_sql(from), "migrate the store", e);
        if (r >= 0)
                r = run_text(s, version, "migrate the store", e);
        if (r >= 0)
                r = run_text(s, "COMMIT;", "migrate the store", e);
        if (r < 0) {
                if (!sqlite3_get_autocommit(s->db))
                        (void)sqlite3_exec(s->db, "ROLLBACK;", NULL, NULL, NULL);
                error_prefix(e, "migration %d", from + 1);
        }
        return r;
}

/* Bring the schema from @version to the newest, and the new version into the file's header. */
static int migrate(struct store *s, int64_t version, struct error *e) {
        int r;

        if (version == store_schema_version())
                return 0;
        for (int i = (int)version; i < store_schema_version(); i++) {
                r = migrate_step(s, i, e);
                if (r < 0)
                        return r;
        }
        return run_text(s, "PRAGMA wal_checkpoint(TRUNCATE);", "migrate the store", e);
}

static void remove_leftovers(int dir_fd) {
        static const char *const names[] = { NEW_NAME, NEW_NAME "-wal", NEW_NAME "-journal", NEW_NAME "-shm" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                (void)unlinkat(dir_fd, names[i], 0);
}

/* Make an empty store under its final name. */
static int make_new(struct store *s, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        int r;

        remove_leftovers(s->dir_fd);
        fd = openat(s->dir_fd, NEW_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
                return error_set(e, -errno, errno == ENOSPC || errno == EDQUOT ? "store-full" : "store-open",
                                 "the directory has to belong to the user that lodged runs as, and have room",
                                 "cannot make %s/" NEW_NAME, s->dir);
        fd = safe_close(fd);
        r = connect_file(s, NEW_NAME, e);
        if (r >= 0)
                r = run_text(s, "PRAGMA journal_mode = WAL; PRAGMA application_id = 0x4c6f6467;", "make the store", e);
        if (r >= 0)
                r = migrate(s, 0, e);
        if (r >= 0)
                allow_checkpoint_on_close(s);
        disconnect(s);
        if (r < 0)
                goto fail;
        if (fstatat(s->dir_fd, NEW_NAME "-wal", &st, AT_SYMLINK_NOFOLLOW) == 0) {
                r = error_set(e, -EIO, "store-io", NULL, "cannot make the store: SQLite left a log behind");
                goto fail;
        }
        if (renameat(s->dir_fd, NEW_NAME, s->dir_fd, STORE_NAME) < 0 || fsync(s->dir_fd) < 0) {
                r = error_set(e, -errno, "store-open", NULL, "cannot make %s/" STORE_NAME, s->dir);
                goto fail;
        }
        return 0;

fail:
        remove_leftovers(s->dir_fd);
        return r;
}

/* All that can be known before the first write. @ret_reason is set when the file turns out to be damaged. */
static int examine(struct store *s, int64_t *ret_version, char **ret_reason, struct error *e) {
        _cleanup_free_ char *verdict = NULL;
        int64_t version = 0, ignored;
        int r;

        r = ask(s, "PRAGMA user_version", &version, NULL, e);
        if (r < 0)
                return r;
        if (version > store_schema_version())
                return store_report_newer(s->dir, version, e);
        r = ask(s, "PRAGMA integrity_check(1)", &ignored, &verdict, e);
        if (r < 0)
                return r;
        if (!verdict)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot open the store");
        if (version < 1 || !streq(verdict, "ok")) {
                *ret_reason = version < 1 ? strdup("its version is missing") : TAKE_PTR(verdict);
                return -EUCLEAN;
        }
        *ret_version = version;
        return 0;
}

static int prepare_all(struct store *s, struct error *e) {
        for (int i = 0; i < STMT_MAX; i++) {
                int r = store_prepare(s, statement_sql((enum statement)i), &s->statements[i], e);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* Open the file that is there. -EUCLEAN: the caller reports it, after the connection is closed. */
static int open_existing(struct store *s, char **ret_reason, struct error *e) {
        int64_t version = 0;
        int r;

        r = connect_file(s, STORE_NAME, e);
        if (r >= 0)
                r = examine(s, &version, ret_reason, e);
        if (r >= 0)
                r = migrate(s, version, e);
        if (r >= 0)
                r = prepare_all(s, e);
        if (r >= 0)
                allow_checkpoint_on_close(s);
        return r;
}

/* SQLite makes an empty log when it opens a database. A store that is refused is left as it was found: without it. */
static void remove_empty_log(struct store *s, bool was_there) {
        struct stat st;

        if (!was_there && fstatat(s->dir_fd, STORE_NAME "-wal", &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size == 0)
                (void)unlinkat(s->dir_fd, STORE_NAME "-wal", 0);
}

/* The directory: without symbolic links, and ours alone. */
static int lock_dir(struct store *s, const char *dir, struct error *e) {
        s->dir = realpath(dir, NULL);
        if (!s->dir)
                return error_set(e, -errno, "store-open", "make it, owned by the user that lodged runs as",
                                 "cannot open the store's directory %s", dir);
        s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (s->dir_fd < 0)
                return error_set(e, -errno, "store-open", "look at its owner and mode: ls -ld",
                                 "cannot open the store's directory %s", dir);
        if (flock(s->dir_fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return error_set(e, -errno, "store-open", NULL, "cannot lock the store's directory %s", dir);
                return error_set(e, -EBUSY, "store-busy",
                                 "end the other lodged, or give this one a directory of its own",
                                 "another lodged has the store in %s", dir);
        }
        return 0;
}

int store_open(const char *dir, struct store **ret_store, struct error *e) {
        _cleanup_(store_freep) struct store *s = calloc(1, sizeof(*s));
        _cleanup_free_ char *reason = NULL;
        _cleanup_error_ struct error damage = ERROR_INIT;
        struct stat st;
        bool had_log;
        int r;

        if (!s)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot open the store");
        s->dir_fd = -EBADF;
        r = lock_dir(s, dir, e);
        if (r < 0)
                return r;
        had_log = fstatat(s->dir_fd, STORE_NAME "-wal", &st, AT_SYMLINK_NOFOLLOW) == 0;
        r = store_check_header(s->dir_fd, s->dir, &reason, e);
        if (r > 0)
                r = make_new(s, e);
        if (r < 0 && r != -EUCLEAN)
                return r;
        if (r == 0)
                r = open_existing(s, &reason, &damage);
        if (r < 0) {
                disconnect(s);
                remove_empty_log(s, had_log);
        }
        if (r == -EUCLEAN)
                return store_report_corrupt(s->dir_fd, s->dir, reason ?: damage.message ?: "damaged", e);
        if (r < 0) {
                error_set(e, r, damage.id ?: "store-open", damage.fix, "%s", damage.message ?: "cannot open the store");
                return r;
        }
        *ret_store = TAKE_PTR(s);
        return 0;
}

void store_free(struct store *s) {
        if (!s)
                return;
        store_rollback(s);
        disconnect(s);
        safe_close(s->dir_fd);
        free(s->dir);
        free(s);
}
