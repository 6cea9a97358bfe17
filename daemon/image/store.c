// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store: find, list, lock and delete images; see image.h for the layout
 *
 * Locks, in the order in which they are taken: .build-NAME.lock (build.c), .lock, a stage's directory, image.json.
 * Only the first may be waited for while work is done under another lock.
 */
#include "daemon/image/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/io.h"
#include "base/log.h"
#include "base/text.h"
#include "base/xdg.h"
#include "daemon/image/meta.h"

#define SYSTEM_STORE "/var/lib/lodge/images"

static int remove_tree_on(int dir_fd, const char *name, dev_t dev) {
        _cleanup_close_ int fd = -EBADF;
        struct dirent *de;
        struct stat st;
        int r = 0;
        DIR *d;

        if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR && errno != EPERM)
                return -errno;
        fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_dev != dev)
                return -EXDEV;
        (void)fchmod(fd, 0700);
        d = fdopendir(fd);
        if (!d)
                return -errno;
        TAKE_FD(fd);
        while ((de = readdir(d))) {
                if (streq(de->d_name, ".") || streq(de->d_name, ".."))
                        continue;
                int k = remove_tree_on(dirfd(d), de->d_name, dev);
                if (k < 0 && r == 0)
                        r = k;
        }
        closedir(d);
        if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && r == 0)
                r = -errno;
        return r;
}

int remove_tree(int dir_fd, const char *name) {
        struct stat st;

        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        return remove_tree_on(dir_fd, name, st.st_dev);
}

static int default_root(char **ret_root) {
        if (geteuid() == 0 && access(SYSTEM_STORE, W_OK) == 0)
                return (*ret_root = strdup(SYSTEM_STORE)) ? 0 : -ENOMEM;
        return xdg_path(XDG_DATA, "lodge/images", ret_root);
}

/* Takes .lock, which guards renames and sweeping. Held for an instant only, so it is waited for. */
static int store_lock(struct image_store *store) {
        _cleanup_close_ int fd = openat(store->fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        int r;

        if (fd < 0)
                return -errno;
        do
                r = flock(fd, LOCK_EX);
        while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : TAKE_FD(fd);
}

/* Removes every stage whose owner is gone: its lock can be had. */
void store_sweep(struct image_store *store) {
        _cleanup_close_ int lock = store_lock(store);
        int fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dirent *de;
        DIR *d;

        if (lock < 0 || fd < 0 || !(d = fdopendir(fd))) {
                safe_close(fd);
                return;
        }
        while ((de = readdir(d))) {
                _cleanup_close_ int stage = -EBADF;

                if (strncmp(de->d_name, ".tmp-", 5) != 0)
                        continue;
                stage = openat(store->fd, de->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (stage < 0 || flock(stage, LOCK_EX | LOCK_NB) < 0)
                        continue;
                int r = remove_tree(store->fd, de->d_name);
                if (r < 0)
                        log_warning("cannot remove the leftover %s/%s: %s", store->root, de->d_name, strerror(-r));
        }
        closedir(d);
}

int image_store_open(const char *root, const struct sys *sys, struct image_store **ret_store, struct error *error) {
        _cleanup_(image_store_freep) struct image_store *store = calloc(1, sizeof(*store));
        int r;

        if (!store)
                return -ENOMEM;
        store->fd = -EBADF;
        store->sys = sys ?: &sys_real;
        if (root)
                r = (store->root = realpath(root, NULL)) || (store->root = strdup(root)) ? 0 : -ENOMEM;
        else
                r = default_root(&store->root);
        if (r < 0)
                return error_set(error, r, "image-store", "set HOME or XDG_DATA_HOME", "no directory for images");
        r = io_make_dirs(store->root, 0755, 0755);
        store->fd = open(store->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->fd < 0) {
                if (r == 0)
                        r = -errno;
                error_set(error, r, "image-store", NULL, "cannot open the image store %s", store->root);
                error_set_fix(error, "make it, owned by you: mkdir -p %s", store->root);
                return r;
        }
        store->writable = faccessat(store->fd, ".", W_OK, AT_EACCESS) == 0;
        if (store->writable) {
                store_sweep(store);
                part_sweep(store);
        }
        *ret_store = TAKE_PTR(store);
        return 0;
}

void image_store_free(struct image_store *store) {
        if (!store)
                return;
        safe_close(store->fd);
        free(store->root);
        free(store);
}

const char *image_store_root(const struct image_store *store) {
        return store->root;
}

int store_require_writable(const struct image_store *store, struct error *error) {
        if (store->writable)
                return 0;
        error_set(error, -EROFS, "image-store", NULL, "the image store %s is not writable for you", store->root);
        error_set_fix(error, "become its owner, or use a store of your own by setting XDG_DATA_HOME: ls -ld %s",
                      store->root);
        return -EROFS;
}

int store_check_space(const char *path, uint64_t bytes, struct error *error) {
        char need[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];
        struct statvfs fs;
        uint64_t avail;

        if (statvfs(path, &fs) < 0)
                return error_set(error, -errno, "image-store", NULL, "cannot see the free space of %s", path);
        avail = (uint64_t)fs.f_bavail * fs.f_frsize;
        if (avail >= bytes)
                return 0;
        error_set(error, -ENOSPC, "image-no-space", NULL, "%s has %s free, %s are needed", path,
                  text_format_size(avail, have), text_format_size(bytes, need));
        error_set_fix(error, "delete images that you don't use (lodge image list), or make room: df -h %s", path);
        return -ENOSPC;
}

static int not_found(const char *name, struct error *error) {
        error_set(error, -ENOENT, "image-not-found",
                  "see what is there: lodge image list; what could be had: lodge image available", "no image %s", name);
        if (image_recipe_is(name))
                error_set_fix(error, "build it: lodge image build %s", name);
        return -ENOENT;
}

/* Fills in an image from its directory; a broken one is returned with ->broken set and the reason in @error. */
static int load(struct image_store *store, const char *name, const char *dir, struct image **ret_image,
                struct error *error) {
        _cleanup_(image_freep) struct image *image = calloc(1, sizeof(*image));
        _cleanup_close_ int fd = -EBADF;
        _cleanup_error_ struct error e = ERROR_INIT;
        int r;

        if (!image || image_set_string(&image->name, name) < 0 || asprintf(&image->dir, "%s/%s", store->root, dir) < 0)
                return -ENOMEM;
        fd = openat(store->fd, dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
                               ? not_found(name, error)
                               : error_set(error, -errno, "image-store", NULL, "cannot open image %s", name);
        r = image_meta_load(fd, image, &e);
        if (r < 0) {
                image->broken = strdup(e.message ?: "no memory");
                error_set(error, e.code, e.id, NULL, "image %s: %s", name, e.message);
                if (e.fix && strstr(e.fix, "delete NAME"))
                        error_set_fix(error, "remove it and build or import it again: lodge image delete %s", name);
                else if (e.fix)
                        error_set_fix(error, "%s", e.fix);
        }
        *ret_image = TAKE_PTR(image);
        return r;
}

static int check_name(const char *name, struct error *error) {
        if (image_name_is_valid(name))
                return 0;
        if (strchr(name, ':') && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-_/:") == strlen(name)) {
                error_set(error, -ENOENT, "image-not-found", NULL,
                          "'%s' is not an image here, but one that a server may have", name);
                error_set_fix(error, "pull it, then name the image that this makes: lodge image pull %s", name);
                return -ENOENT;
        }
        return error_set(
                error, -EINVAL, "image-name",
                "use lower-case letters, digits, '.', '-', '_', and '/' between at most three parts: debian/12",
                "'%s' can't be an image's name", name);
}

int image_find(struct image_store *store, const char *name, struct image **ret_image, struct error *error) {
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_free_ char *dir = NULL;
        int r;

        r = check_name(name, error);
        if (r < 0)
                return r;
        dir = image_name_to_dir(name);
        if (!dir)
                return -ENOMEM;
        r = load(store, name, dir, &image, error);
        if (r < 0)
                return r;
        *ret_image = TAKE_PTR(image);
        return 0;
}

static int by_name(const void *a, const void *b) {
        return strcmp((*(struct image *const *)a)->name, (*(struct image *const *)b)->name);
}

int image_list(struct image_store *store, struct image ***ret_images, size_t *ret_n, struct error *error) {
        int fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct image **images = NULL;
        struct dirent *de;
        size_t n = 0;
        int r = 0;
        DIR *d;

        if (fd < 0 || !(d = fdopendir(fd))) {
                r = -errno;
                safe_close(fd);
                return error_set(error, r, "image-store", NULL, "cannot read the image store %s", store->root);
        }
        while ((de = readdir(d))) {
                _cleanup_free_ char *name = image_dir_to_name(de->d_name);
                struct image *image = NULL, **more;

                if (!name || de->d_type == DT_REG)
                        continue;
                load(store, name, de->d_name, &image, NULL);
                if (!image)
                        continue; /* no directory, or deleted meanwhile */
                more = reallocarray(images, n + 1, sizeof(*images));
                if (!more) {
                        image_free(image);
                        r = -ENOMEM;
                        break;
                }
                images = more;
                images[n++] = image;
        }
        closedir(d);
        if (r < 0) {
                image_list_free(images, n);
                return r;
        }
        if (n > 1)
                qsort(images, n, sizeof(*images), by_name);
        *ret_images = images;
        *ret_n = n;
        return 0;
}

void image_list_free(struct image **images, size_t n) {
        for (size_t i = 0; i < n; i++)
                image_free(images[i]);
        free(images);
}

int image_file_path(const struct image *image, enum image_file_kind kind, char **ret_path) {
        char *path;

        if (!image->files[kind].name)
                return -ENOENT;
        if (asprintf(&path, "%s/%s", image->dir, image->files[kind].name) < 0)
                return -ENOMEM;
        *ret_path = path;
        return 0;
}

int image_verify(const struct image *image, struct error *error) {
        for (size_t i = 0; i < _IMAGE_FILE_MAX; i++) {
                _cleanup_free_ char *path = NULL;
                _cleanup_close_ int fd = -EBADF;
                char hex[SHA256_HEX_SIZE];
                int r;

                r = image_file_path(image, i, &path);
                if (r == -ENOENT)
                        continue;
                if (r < 0)
                        return r;
                fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
                r = fd < 0 ? -errno : sha256_fd(fd, hex, NULL);
                if (r < 0)
                        return error_set(error, r, "image-damaged", NULL, "cannot read %s", path);
                if (!streq(hex, image->files[i].sha256)) {
                        error_set(error, -EUCLEAN, "image-damaged", NULL, "%s is not what was recorded", path);
                        error_set_fix(error, "build or import it again: lodge image delete %s", image->name);
                        return -EUCLEAN;
                }
        }
        return 0;
}

int image_lock(const struct image *image, int *ret_fd, struct error *error) {
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -EBADF;
        struct stat held, there;

        if (asprintf(&path, "%s/" IMAGE_META_FILE, image->dir) < 0)
                return -ENOMEM;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return errno == ENOENT ? not_found(image->name, error)
                                       : error_set(error, -errno, "image-store", NULL, "cannot open %s", path);
        if (flock(fd, LOCK_SH | LOCK_NB) < 0)
                return error_set(error, errno == EWOULDBLOCK ? -EBUSY : -errno, "image-busy", "try again in a moment",
                                 "image %s is being deleted or replaced", image->name);
        if (fstat(fd, &held) < 0 || stat(path, &there) < 0 || held.st_ino != there.st_ino ||
            held.st_dev != there.st_dev)
                return error_set(error, -EBUSY, "image-busy", "try again in a moment",
                                 "image %s has just been deleted or replaced", image->name);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Takes the lock that keeps machines off; -EBUSY when one is on. *@ret_fd is -1 without metadata to lock. */
static int lock_exclusively(struct image_store *store, const char *name, const char *dir, int *ret_fd,
                            struct error *error) {
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -EBADF;

        if (asprintf(&path, "%s/" IMAGE_META_FILE, dir) < 0)
                return -ENOMEM;
        fd = openat(store->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
                return error_set(error, -EBUSY, "image-in-use",
                                 "stop the machines that were started from it, then try again",
                                 "image %s is in use by a running machine", name);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int store_check_free(struct image_store *store, const char *name, struct error *error) {
        _cleanup_(image_freep) struct image *there = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        int r = image_find(store, name, &there, &e);

        if (r == -ENOENT && image_name_is_valid(name))
                return 0;
        if (r == -EINVAL || r == -ENOENT)
                return error_set(error, -EINVAL, "image-name",
                                 "use lower-case letters, digits, '.', '-', '_', and '/' between at most three parts",
                                 "'%s' can't be an image's name", name);
        error_set(error, -EEXIST, "image-exists", NULL, "there is an image %s already", name);
        error_set_fix(error, "choose another name with --name, or remove that one first: lodge image delete %s", name);
        return -EEXIST;
}

static char *stage_name(void) {
        char *name;
        uint64_t random = 0;

        if (getentropy(&random, sizeof(random)) < 0 || asprintf(&name, ".tmp-%016jx", (uintmax_t)random) < 0)
                return NULL;
        return name;
}

int image_delete(struct image_store *store, const char *name, struct error *error) {
        _cleanup_free_ char *dir = NULL, *gone = stage_name(), *meta = NULL;
        _cleanup_close_ int lock = -EBADF, in_use = -EBADF;
        struct stat st;
        int r;

        r = check_name(name, error);
        if (r == 0)
                r = store_require_writable(store, error);
        if (r < 0)
                return r;
        dir = image_name_to_dir(name);
        if (!dir || !gone || asprintf(&meta, "%s/" IMAGE_META_FILE, dir) < 0)
                return -ENOMEM;
        lock = store_lock(store);
        if (lock < 0)
                return error_set(error, lock, "image-store", NULL, "cannot lock the image store %s", store->root);
        if (fstatat(store->fd, dir, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
                return not_found(name, error);
        r = lock_exclusively(store, name, dir, &in_use, error);
        if (r < 0)
                return r;
        r = renameat(store->fd, dir, store->fd, gone) < 0 ? -errno : 0;
        if (r == -EXDEV) { /* the lower layer of an overlay: can't be renamed, but without metadata it is no image */
                (void)unlinkat(store->fd, meta, 0);
                r = remove_tree(store->fd, dir);
        } else if (r == 0) {
                (void)fsync(store->fd);
                r = remove_tree(store->fd, gone); /* under .lock: a sweep would do the same */
        }
        return r < 0 ? error_set(error, r, "image-store", NULL, "cannot remove image %s", name) : 0;
}

int stage_new(struct image_store *store, struct stage **ret_stage, struct error *error) {
        _cleanup_(stage_freep) struct stage *s = calloc(1, sizeof(*s));
        _cleanup_free_ char *dir = stage_name();
        _cleanup_close_ int lock = -EBADF;
        int r;

        r = store_require_writable(store, error);
        if (r < 0)
                return r;
        if (!s || !dir)
                return -ENOMEM;
        s->store = store;
        s->fd = -EBADF;
        if (asprintf(&s->path, "%s/%s", store->root, dir) < 0) {
                s->path = NULL;
                return -ENOMEM;
        }
        lock = store_lock(store); /* a sweep must not see the directory before it is locked */
        if (lock < 0)
                return error_set(error, lock, "image-store", NULL, "cannot lock the image store %s", store->root);
        if (mkdirat(store->fd, dir, 0755) < 0)
                return error_set(error, -errno, "image-store", NULL, "cannot write to the image store %s", store->root);
        s->dir = TAKE_PTR(dir);
        s->fd = openat(store->fd, s->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (s->fd < 0 || flock(s->fd, LOCK_EX | LOCK_NB) < 0)
                return error_set(error, -errno, "image-store", NULL, "cannot lock %s", s->path);
        *ret_stage = TAKE_PTR(s);
        return 0;
}

void stage_free(struct stage *s) {
        if (!s)
                return;
        if (s->dir) {
                int r = remove_tree(s->store->fd, s->dir);
                if (r < 0)
                        log_warning("cannot remove %s: %s", s->path, strerror(-r));
        }
        safe_close(s->fd);
        free(s->dir);
        free(s->path);
        free(s);
}
