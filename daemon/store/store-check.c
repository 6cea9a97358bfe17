// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-check: what can be said of the file without SQLite, and the copy that is kept of a damaged one
 *
 * A store is made under another name and renamed when it is whole and in WAL mode. So an empty lodge.db, one that
 * begins otherwise than a database in WAL mode (https://sqlite.org/fileformat2.html §1.3), or a lodge.db-wal without it
 * is damage, and never taken for a new store: that would lose all machines without a word. SQLite itself would take an
 * empty file for a new database and remove its -wal.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/io.h"
#include "base/sys.h"
#include "daemon/store/internal.h"

#define HEADER_SIZE    100
#define PAGE_SIZE_AT   16 /* 2 bytes; 1: 65536 */
#define WRITE_VERSION  18 /* 2: WAL */
#define READ_VERSION   19
#define PAGES          28 /* the size of the database */
#define USER_VERSION   60
#define APPLICATION_ID 68
#define COPY_TEMP      "lodge.db.copying"

static uint32_t be32(const unsigned char *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/*
 * Is the file shorter than its header says? A page that is missing at the end is else read as zeros. While a log is
 * there that may be so: the first page is copied from it before the last.
 */
static bool is_cut_off(int dir_fd, const unsigned char *header, uint64_t size) {
        uint64_t page_size = (uint64_t)header[PAGE_SIZE_AT] << 8 | header[PAGE_SIZE_AT + 1];
        struct stat st;

        if (fstatat(dir_fd, "lodge.db-wal", &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0)
                return false;
        if (page_size == 1)
                page_size = 65536;
        return page_size < 512 || size / page_size < be32(header + PAGES);
}

static int report(char **ret_reason, const char *reason, struct error *e) {
        *ret_reason = strdup(reason);
        return *ret_reason ? -EUCLEAN : error_set(e, -ENOMEM, "store-memory", NULL, "cannot open the store");
}

int store_report_newer(const char *dir, int64_t version, struct error *e) {
        return error_set(e, -EPROTONOSUPPORT, "store-newer",
                         "install the lodged that made it, or a newer one; the file was not changed",
                         "%s/lodge.db has schema version %lld, and this lodged (" LODGE_VERSION ") knows up to %d", dir,
                         (long long)version, store_schema_version());
}

int store_check_header(int dir_fd, const char *dir, char **ret_reason, struct error *e) {
        _cleanup_close_ int fd = openat(dir_fd, "lodge.db", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        unsigned char header[HEADER_SIZE];
        struct stat st;
        int r;

        if (fd < 0 && errno == ENOENT) {
                if (fstatat(dir_fd, "lodge.db-wal", &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return 1;
                return report(ret_reason, "it is gone, but its lodge.db-wal is there", e);
        }
        if (fd < 0 || fstat(fd, &st) < 0)
                return error_set(e, -errno, "store-open", "look at the owner and mode of the file: ls -l",
                                 "cannot open %s/lodge.db", dir);
        if (!S_ISREG(st.st_mode))
                return error_set(e, -EINVAL, "store-open", "move it away", "%s/lodge.db is no regular file", dir);
        r = io_read_at(&sys_real, fd, header, sizeof(header), 0);
        if (r == -ENODATA)
                return report(ret_reason, st.st_size == 0 ? "it is empty" : "it is too short", e);
        if (r < 0)
                return error_set(e, r, "store-open", NULL, "cannot read %s/lodge.db", dir);
        if (memcmp(header, "SQLite format 3", 16) != 0)
                return report(ret_reason, "it is no SQLite database", e);
        if (be32(header + APPLICATION_ID) != STORE_APPLICATION_ID)
                return report(ret_reason, "it is a database of another program", e);
        if (be32(header + USER_VERSION) > (uint32_t)store_schema_version())
                return store_report_newer(dir, be32(header + USER_VERSION), e);
        if (header[WRITE_VERSION] != 2 || header[READ_VERSION] != 2)
                return report(ret_reason, "it is not in WAL mode", e);
        if (is_cut_off(dir_fd, header, (uint64_t)st.st_size))
                return report(ret_reason, "its end is missing", e);
        return 0;
}

static int copy_data(int from, int to) {
        _cleanup_free_ char *buf = malloc(1 << 16);
        ssize_t n;
        int r;

        if (!buf)
                return -ENOMEM;
        while ((n = read(from, buf, 1 << 16)) > 0) {
                r = io_write_all(to, buf, (size_t)n);
                if (r < 0)
                        return r;
        }
        if (n < 0 || fsync(to) < 0)
                return -errno;
        return 0;
}

/* Copy @from to @to, whole or not at all; what is there already stays. No @from: nothing to do. */
static int copy_file(int dir_fd, const char *from, const char *to) {
        _cleanup_close_ int in = openat(dir_fd, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        _cleanup_close_ int out = -EBADF;
        int r;

        if (in < 0)
                return errno == ENOENT ? 0 : -errno;
        if (faccessat(dir_fd, to, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return 0;
        (void)unlinkat(dir_fd, COPY_TEMP, 0);
        out = openat(dir_fd, COPY_TEMP, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (out < 0)
                return -errno;
        r = copy_data(in, out);
        if (r >= 0 && renameat(dir_fd, COPY_TEMP, dir_fd, to) < 0)
                r = -errno;
        if (r < 0)
                (void)unlinkat(dir_fd, COPY_TEMP, 0);
        return r;
}

/* When the store was last written: the later one of its two files. */
static struct timespec last_written(int dir_fd) {
        static const char *const names[] = { "lodge.db", "lodge.db-wal" };
        struct timespec last = { 0 };
        struct stat st;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                if (fstatat(dir_fd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue;
                if (st.st_mtim.tv_sec > last.tv_sec ||
                    (st.st_mtim.tv_sec == last.tv_sec && st.st_mtim.tv_nsec > last.tv_nsec))
                        last = st.st_mtim;
        }
        return last;
}

int store_report_corrupt(int dir_fd, const char *dir, const char *reason, struct error *e) {
        struct timespec when = last_written(dir_fd);
        char copy[96], copy_wal[112], stamp[32];
        struct tm tm;
        int r;

        if (!gmtime_r(&when.tv_sec, &tm))
                memset(&tm, 0, sizeof(tm));
        strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%S", &tm);
        snprintf(copy, sizeof(copy), "lodge.db.corrupt-%s.%06ldZ", stamp, when.tv_nsec / 1000);
        snprintf(copy_wal, sizeof(copy_wal), "%s-wal", copy);
        r = copy_file(dir_fd, "lodge.db-wal", copy_wal);
        if (r >= 0)
                r = copy_file(dir_fd, "lodge.db", copy);
        if (r >= 0 && fsync(dir_fd) < 0)
                r = -errno;
        if (r < 0)
                error_set(e, -EUCLEAN, "store-corrupt", NULL,
                          "%s/lodge.db is damaged (%s); no copy of it could be made (%s), it was not changed", dir,
                          reason, strerror(-r));
        else
                error_set(e, -EUCLEAN, "store-corrupt", NULL,
                          "%s/lodge.db is damaged (%s); it was not changed, and a copy is %s/%s", dir, reason, dir,
                          copy);
        error_set_fix(
                e,
                "put a backup in its place, or save what can be read: sqlite3 %s/lodge.db .recover | sqlite3 saved.db; "
                "or "
                "begin with an empty store: move lodge.db and lodge.db-wal away. Machines go on running meanwhile",
                dir);
        return -EUCLEAN;
}
