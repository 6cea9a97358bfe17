// SPDX-License-Identifier: GPL-2.0-or-later
/* rundir: see rundir.h */
#include "cli/rundir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define PREFIX "run-"

struct rundir {
        char *path;
        int fd; /* holds the lock */
};

/* The files of a directory and the directory; it holds no other directories. */
static void remove_directory(int base_fd, const char *name) {
        int fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *d;

        if (!dir) {
                safe_close(fd);
                return;
        }
        while ((d = readdir(dir)))
                if (!streq(d->d_name, ".") && !streq(d->d_name, ".."))
                        unlinkat(fd, d->d_name, 0);
        closedir(dir);
        unlinkat(base_fd, name, AT_REMOVEDIR);
}

static void sweep(int base_fd) {
        int fd = openat(base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *d;

        if (!dir) {
                safe_close(fd);
                return;
        }
        while ((d = readdir(dir))) {
                _cleanup_close_ int entry = -EBADF;

                if (strncmp(d->d_name, PREFIX, strlen(PREFIX)) != 0)
                        continue;
                entry = openat(base_fd, d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
                if (entry >= 0 && flock(entry, LOCK_EX | LOCK_NB) == 0)
                        remove_directory(base_fd, d->d_name);
        }
        closedir(dir);
}

static int fail(int code, const char *path, struct error *e) {
        return error_set(e, code, "run-directory", "it must be a directory that you may write to, with room on it",
                         "cannot make a directory in %s", path);
}

/* Everyone who makes or sweeps does so under the lock of @base, so that no directory is seen before it is locked. */
int rundir_new(const char *base, struct rundir **ret_rundir, struct error *e) {
        _cleanup_(rundir_freep) struct rundir *d = NULL;
        _cleanup_close_ int base_fd = -EBADF;

        if (mkdir(base, 0700) < 0 && errno != EEXIST)
                return fail(-errno, base, e);
        base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (base_fd < 0 || flock(base_fd, LOCK_EX) < 0)
                return fail(-errno, base, e);
        sweep(base_fd);
        d = calloc(1, sizeof(*d));
        if (!d)
                return fail(-ENOMEM, base, e);
        d->fd = -EBADF;
        if (asprintf(&d->path, "%s/" PREFIX "XXXXXX", base) < 0) {
                d->path = NULL;
                return fail(-ENOMEM, base, e);
        }
        if (!mkdtemp(d->path)) {
                int code = -errno;

                free(TAKE_PTR(d->path));
                return fail(code, base, e);
        }
        d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (d->fd < 0 || flock(d->fd, LOCK_EX | LOCK_NB) < 0)
                return fail(-errno, base, e);
        *ret_rundir = TAKE_PTR(d);
        return 0;
}

const char *rundir_path(const struct rundir *d) {
        return d->path;
}

void rundir_free(struct rundir *d) {
        if (!d)
                return;
        if (d->path)
                remove_directory(AT_FDCWD, d->path);
        safe_close(d->fd);
        free(d->path);
        free(d);
}
