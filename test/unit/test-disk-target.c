// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-target: on file systems of each kind, a new image has its name once it is whole, and nothing else is left or lost. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "cli/disk-target.h"

/* What the file system can do: files without a name; or else a rename that replaces nothing; or only a second name. */
static enum kind { UNNAMED, RENAMED, LINKED } kind;

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_renameat2(int from, const char *old, int to, const char *new, unsigned int flags);
int __wrap_renameat2(int from, const char *old, int to, const char *new, unsigned int flags);

int __wrap_open64(const char *path, int flags, ...) {
        va_list ap;
        mode_t mode;

        va_start(ap, flags);
        mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
        va_end(ap);
        if (kind != UNNAMED && (flags & O_TMPFILE) == O_TMPFILE) {
                errno = EOPNOTSUPP;
                return -1;
        }
        return __real_open64(path, flags, mode);
}

int __wrap_renameat2(int from, const char *old, int to, const char *new, unsigned int flags) {
        if (kind == LINKED) {
                errno = EINVAL;
                return -1;
        }
        return __real_renameat2(from, old, to, new, flags);
}

static char directory[32], path[64];

static int setup(void **state) {
        strcpy(directory, "/tmp/disk-target.XXXXXX");
        if (!mkdtemp(directory))
                return -1;
        snprintf(path, sizeof(path), "%s/new.qcow2", directory);
        return 0;
}

static int teardown(void **state) {
        unlink(path);
        return rmdir(directory);
}

static unsigned int n_files(void) {
        struct dirent **list;
        int n = scandir(directory, &list, NULL, NULL);

        assert_true(n >= 2);
        for (int i = 0; i < n; i++)
                free(list[i]);
        free(list);
        return (unsigned int)n - 2;
}

/* Writes an empty image; it is to have its name, or not. */
static void make(struct disk_target *t, enum kind k) {
        const struct qcow2_create create = { .size = 1 << 20 };
        struct file *file = NULL;

        kind = k;
        assert_int_equal(disk_target_open(t, path, MACHINE_DISK_FORMAT_QCOW2, &create, &file, NULL), 0);
        file_close(file);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(n_files(), k == UNNAMED ? 0 : 1);
}

/* Without this, an interrupted command leaves something that looks like an image, or a good one is lost. */
static void test_whole_or_nothing(void **state) {
        for (enum kind k = UNNAMED; k <= LINKED; k++) {
                struct disk_target t = DISK_TARGET_INIT;
                mode_t mask = umask(027);
                struct stat st;

                make(&t, k);
                disk_target_done(&t);
                assert_int_equal(n_files(), 0);
                make(&t, k);
                assert_int_equal(disk_target_keep(&t, NULL), 0);
                disk_target_done(&t);
                umask(mask);
                assert_int_equal(n_files(), 1);
                assert_int_equal(stat(path, &st), 0);
                assert_int_equal(st.st_mode & 07777, 0640);
                assert_int_equal(st.st_nlink, 1);
                assert_int_equal(unlink(path), 0);
        }
}

/* Without this, a file that somebody else puts there meanwhile is overwritten, or removed when the command fails. */
static void test_another_file(void **state) {
        for (enum kind k = UNNAMED; k <= LINKED; k++) {
                struct disk_target t = DISK_TARGET_INIT;
                _cleanup_error_ struct error e = ERROR_INIT;
                int fd;

                make(&t, k);
                fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
                assert_true(fd >= 0);
                close(fd);
                assert_int_equal(disk_target_keep(&t, &e), -EEXIST);
                assert_string_equal(e.id, "disk-exists");
                disk_target_done(&t);
                assert_int_equal(n_files(), 1);
                assert_int_equal(unlink(path), 0);
        }
}

/* Without this, a long conversion is refused only at its end; a link that leads nowhere is a name that is taken, too. */
static void test_refused_at_once(void **state) {
        const struct qcow2_create create = { .size = 1 << 20 };
        _cleanup_disk_target_ struct disk_target t = DISK_TARGET_INIT;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct file *file = NULL;

        assert_int_equal(symlink("nowhere", path), 0);
        assert_int_equal(disk_target_open(&t, path, MACHINE_DISK_FORMAT_RAW, &create, &file, &e), -EEXIST);
        assert_string_equal(e.id, "disk-exists");
        assert_int_equal(unlink(path), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_whole_or_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_another_file, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused_at_once, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
