// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-target: see disk-target.h */
#include "cli/disk-target.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "daemon/engine/parts.h"

static int exists(const char *path, struct error *e) {
        struct stat st;
        bool regular = stat(path, &st) < 0 || S_ISREG(st.st_mode);

        return error_set(e, -EEXIST, "disk-exists",
                         regular ? "choose another name, or remove that file first, if nobody needs it"
                                 : "choose the name of a new file: nothing else is written to",
                         "there is %s %s", regular ? "a file" : "something that is no file,", path);
}

static int cannot_write(int r, struct error *e) {
        return error_set(e, r, "disk-write", "check the file system's free space: df", "cannot write the disk image");
}

static char *directory_of(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash ? strndup(path, MAX((size_t)(slash - path), (size_t)1)) : strdup(".");
}

/* Beside @t->path. */
static int open_temporary(struct disk_target *t, const char *directory) {
        uint64_t number;
        int r;

        if (getrandom(&number, sizeof(number), 0) != sizeof(number))
                return -EIO;
        if (asprintf(&t->temporary, "%s/.lodge-%016" PRIx64, directory, number) < 0) {
                t->temporary = NULL;
                return -ENOMEM;
        }
        t->fd = open(t->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
        if (t->fd >= 0)
                return 0;
        r = -errno;
        free(TAKE_PTR(t->temporary)); /* not ours */
        return r;
}

static int open_unnamed(struct disk_target *t, struct error *e) {
        _cleanup_free_ char *directory = directory_of(t->path);
        int r = 0;

        if (!directory)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for a path");
        t->fd = open(directory, O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);
        if (t->fd < 0)
                r = open_temporary(t, directory);
        return r < 0 ? error_set(e, r, "disk-open", "check that the directory exists and that you may write to it",
                                 "cannot create disk image %s", t->path)
                     : 0;
}

int disk_target_open(struct disk_target *t, const char *path, enum machine_disk_format format,
                     const struct qcow2_create *create, struct file **ret_file, struct error *e) {
        _cleanup_(file_freep) struct file *file = NULL;
        struct file_options options = { 0 };
        struct stat st;
        int r;

        t->path = path;
        if (lstat(path, &st) == 0) /* before the work, which would be for nothing */
                return exists(path, e);
        r = open_unnamed(t, e);
        if (r == 0)
                r = disk_lock(t->fd, false, path, e);
        options.fd = t->fd;
        if (r == 0)
                r = file_open(&options, &file, e);
        if (r == 0 && format == MACHINE_DISK_FORMAT_QCOW2)
                r = qcow2_create(file, create, e);
        else if (r == 0 && (r = file_truncate(file, create->size)) < 0)
                cannot_write(r, e);
        if (r == 0)
                *ret_file = TAKE_PTR(file);
        return r;
}

/* linkat() and RENAME_NOREPLACE fail with -EEXIST where there is a file. */
static int give_name(struct disk_target *t) {
        char link[32];

        if (!t->temporary) {
                snprintf(link, sizeof(link), "/proc/self/fd/%d", t->fd);
                return linkat(AT_FDCWD, link, AT_FDCWD, t->path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
        }
        if (renameat2(AT_FDCWD, t->temporary, AT_FDCWD, t->path, RENAME_NOREPLACE) == 0) {
                free(TAKE_PTR(t->temporary));
                return 0;
        }
        if (errno != EINVAL && errno != ENOSYS)
                return -errno;
        /* NFS, 9p: a second name; the first one goes when @t is done. */
        return linkat(AT_FDCWD, t->temporary, AT_FDCWD, t->path, 0) < 0 ? -errno : 0;
}

static int sync_directory(const char *path) {
        _cleanup_free_ char *directory = directory_of(path);
        _cleanup_close_ int fd = -EBADF;

        if (!directory)
                return -ENOMEM;
        fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return 0; /* one that may be written, but not read */
        return fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
}

int disk_target_keep(struct disk_target *t, struct error *e) {
        int r = fsync(t->fd) < 0 ? -errno : 0;

        if (r == 0)
                r = give_name(t);
        if (r == -EEXIST)
                return exists(t->path, e);
        if (r < 0)
                return cannot_write(r, e);
        r = sync_directory(t->path);
        return r < 0 ? error_set(e, r, "disk-write", "write it to the disk: sync",
                                 "%s is whole, but a power cut may lose its name", t->path)
                     : 0;
}

void disk_target_done(struct disk_target *t) {
        if (t->temporary)
                unlink(t->temporary);
        free(TAKE_PTR(t->temporary));
        t->fd = safe_close(t->fd);
}
