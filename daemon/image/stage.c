// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stage: turn a finished stage into an image
 *
 * The order is what makes it safe: data is on the disk before image.json names it, image.json before the directory
 * gets its name, and the rename before we say that it is done.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/io.h"
#include "daemon/image/meta.h"
#include "daemon/image/store.h"

static int seal_file(struct stage *s, struct image_file *f, struct error *error) {
        _cleanup_close_ int fd = openat(s->fd, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        int r = fd < 0 ? -errno : sha256_fd(fd, f->sha256, &f->size);

        if (r == 0 && fchmod(fd, 0444) < 0)
                r = -errno;
        if (r == 0)
                r = s->store->sys->fdatasync(fd) < 0 ? -errno : 0;
        if (r < 0)
                return error_set(error, r, "image-write", NULL, "cannot finish %s of the new image", f->name);
        return 0;
}

static bool is_named(const struct image *image, const char *name) {
        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++)
                if (image->files[i].name && streq(image->files[i].name, name))
                        return true;
        return false;
}

static int remove_the_rest(struct stage *s, const struct image *image) {
        int fd = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        struct dirent *de;
        DIR *d;

        if (fd < 0 || !(d = fdopendir(fd))) {
                r = -errno;
                safe_close(fd);
                return r;
        }
        while (r == 0 && (de = readdir(d)))
                if (!streq(de->d_name, ".") && !streq(de->d_name, "..") && !is_named(image, de->d_name))
                        r = remove_tree(s->fd, de->d_name);
        closedir(d);
        return r;
}

static int write_meta(struct stage *s, struct image *image) {
        const struct sys *sys = s->store->sys;
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        time_t now = time(NULL);
        char created[32];
        struct tm tm;
        int r;

        strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
        r = image_set_string(&image->created, created);
        if (r < 0)
                return r;
        text = image_meta_format(image);
        if (!text)
                return -ENOMEM;
        fd = openat(s->fd, IMAGE_META_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
        if (fd < 0)
                return -errno;
        r = io_write_at(sys, fd, text, strlen(text), 0);
        if (r < 0)
                return r;
        if (sys->fdatasync(fd) < 0 || fsync(s->fd) < 0)
                return -errno;
        return 0;
}

/* Puts the stage where the image belongs; what was there is now the stage, and goes with it. */
static int swap(struct stage *s, const char *dir, const struct image *image, bool replace, struct error *error) {
        struct image_store *store = s->store;
        _cleanup_close_ int lock = -EBADF, in_use = -EBADF;
        _cleanup_free_ char *meta = NULL;
        int r = 0;

        if (asprintf(&meta, "%s/" IMAGE_META_FILE, dir) < 0)
                return -ENOMEM;
        lock = openat(store->fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (lock < 0 || flock(lock, LOCK_EX) < 0)
                return error_set(error, -errno, "image-store", NULL, "cannot lock the image store %s", store->root);
        if (renameat2(store->fd, s->dir, store->fd, dir, RENAME_NOREPLACE) == 0) {
                free(TAKE_PTR(s->dir));
                return 0;
        }
        if (errno != EEXIST)
                return error_set(error, -errno, "image-store", NULL, "cannot name the new image %s", image->name);
        if (!replace) {
                error_set(error, -EEXIST, "image-exists", NULL, "there is an image %s already", image->name);
                error_set_fix(error, "choose another name, or remove that one first: lodge image delete %s",
                              image->name);
                return -EEXIST;
        }
        in_use = openat(store->fd, meta, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (in_use >= 0 && flock(in_use, LOCK_EX | LOCK_NB) < 0)
                return error_set(error, -EBUSY, "image-in-use",
                                 "stop the machines that were started from it, then try again",
                                 "image %s is in use by a running machine and can't be replaced", image->name);
        r = renameat2(store->fd, s->dir, store->fd, dir, RENAME_EXCHANGE) < 0 ? -errno : 0;
        return r < 0 ? error_set(error, r, "image-store", NULL, "cannot replace image %s", image->name) : 0;
}

int stage_commit(struct stage *s, struct image *image, bool replace, struct error *error) {
        _cleanup_free_ char *dir = image_name_to_dir(image->name), *path = NULL;
        int r;

        if (!dir || asprintf(&path, "%s/%s", s->store->root, dir) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++) {
                if (!image->files[i].name)
                        continue;
                r = seal_file(s, &image->files[i], error);
                if (r < 0)
                        return r;
        }
        r = remove_the_rest(s, image);
        if (r == 0)
                r = write_meta(s, image);
        if (r < 0)
                return error_set(error, r, "image-write", "look for a full disk: df -h",
                                 "cannot write the new image's "
                                 "description");
        r = swap(s, dir, image, replace, error);
        if (r < 0)
                return r;
        (void)fsync(s->store->fd);
        free(image->dir);
        image->dir = TAKE_PTR(path);
        return 0;
}
