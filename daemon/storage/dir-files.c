// SPDX-License-Identifier: GPL-2.0-or-later
/* dir-files: open the directory of a pool, and look at what is in it; see dir.c */
#include "daemon/storage/dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/new-file.h"
#include "daemon/image/meta.h"
#include "vmm/block/qcow2/qcow2.h"

static const enum volume_format formats[] = { VOLUME_FORMAT_RAW, VOLUME_FORMAT_QCOW2 };
#define N_FORMATS (sizeof(formats) / sizeof(*formats))

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
}

/*
 * Whoever may rename a directory above the pool can put another one in its place. The owner of "/" may be a stranger to us
 * in a user namespace; everywhere it is somebody that has to be trusted anyway.
 */
static int check_above(const char *path, struct error *e) {
        _cleanup_free_ char *p = strdup(path);
        struct stat st, root;

        if (!p)
                return no_memory(e);
        if (stat("/", &root) < 0)
                return error_set(e, -errno, "pool-open", NULL, "cannot see /");
        for (char *slash; (slash = strrchr(p, '/')) && slash != p;) {
                *slash = '\0';
                if (lstat(p, &st) < 0)
                        return error_set(e, -errno, "pool-open", NULL, "cannot see %s", p);
                if ((st.st_uid == 0 || st.st_uid == geteuid() || st.st_uid == root.st_uid) &&
                    (!(st.st_mode & S_IWOTH) || (st.st_mode & S_ISVTX)))
                        continue;
                error_set(e, -EPERM, "pool-unsafe", NULL, "others can replace %s, which is above the pool's directory",
                          p);
                error_set_fix(e, "use another directory, or: chown %u %s; chmod o-w %s", geteuid(), p, p);
                return -EPERM;
        }
        return 0;
}

static int check_dir(const struct pool *pool, int fd, struct error *e) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return error_set(e, -errno, "pool-open", NULL, "cannot see %s", pool->path);
        if (st.st_uid != geteuid()) {
                error_set(e, -EPERM, "pool-unsafe", NULL, "the directory %s of pool %s belongs to user %u", pool->path,
                          pool->config->name, st.st_uid);
                error_set_fix(e, "use another directory, or: chown %u %s", geteuid(), pool->path);
                return -EPERM;
        }
        if (st.st_mode & (S_IWGRP | S_IWOTH)) {
                error_set(e, -EPERM, "pool-unsafe", NULL, "others can write to the directory %s of pool %s", pool->path,
                          pool->config->name);
                error_set_fix(e, "chmod go-w %s", pool->path);
                return -EPERM;
        }
        return check_above(pool->path, e);
}

int dir_open(struct pool *pool, struct error *e) {
        struct dir_pool *d = (struct dir_pool *)pool;
        int r;

        d->fd = -EBADF;
        if (!pool->config->path || pool->config->path[0] != '/')
                return error_set(e, -EINVAL, "pool-open", "give a path that begins with /",
                                 "the directory of pool %s is not absolute", pool->config->name);
        r = io_make_dirs(pool->config->path, 0755, 0700);
        pool->path = realpath(pool->config->path, NULL);
        if (!pool->path && r == 0)
                r = -errno;
        if (pool->path) {
                d->fd = open(pool->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                r = d->fd < 0 ? -errno : 0;
        }
        if (r < 0) {
                error_set(e, r, "pool-open", NULL, "cannot open the directory %s of pool %s", pool->config->path,
                          pool->config->name);
                error_set_fix(e, "make it, owned by user %u: mkdir -p -m 700 %s", geteuid(), pool->config->path);
                return r;
        }
        r = check_dir(pool, d->fd, e);
        if (r < 0)
                return r;
        r = new_file_sweep(d->fd);
        if (r > 0)
                log_info("pool %s: removed %d unfinished files", pool->config->name, r);
        return 0;
}

void dir_close(struct pool *pool) {
        struct dir_pool *d = (struct dir_pool *)pool;

        if (pool->path) /* open() was called */
                d->fd = safe_close(d->fd);
}

int dir_lock(struct pool *pool, int *ret_lock, struct error *e) {
        _cleanup_close_ int fd = openat(dir_fd(pool), ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r = fd < 0 ? -1 : 0;

        while (fd >= 0 && (r = flock(fd, LOCK_EX)) < 0 && errno == EINTR)
                ;
        if (r < 0)
                return error_set(e, -errno, "pool-lock", NULL, "cannot lock pool %s in %s", pool->config->name,
                                 pool->path);
        *ret_lock = TAKE_FD(fd);
        return 0;
}

int dir_space(struct pool *pool, struct pool_usage *ret_usage) {
        struct statvfs fs;

        if (fstatvfs(dir_fd(pool), &fs) < 0)
                return -errno;
        ret_usage->capacity = (uint64_t)fs.f_blocks * fs.f_frsize;
        ret_usage->available = (uint64_t)fs.f_bavail * fs.f_frsize;
        return 0;
}

void dir_file_name(const char *name, enum volume_format format, char ret_file[static DIR_NAME_SIZE]) {
        snprintf(ret_file, DIR_NAME_SIZE, "%.63s.%s", name, volume_format_to_string(format));
}

/* Which volume is that file? The way back from dir_file_name(). */
static bool parse_file_name(const char *file, char ret_name[static DIR_NAME_SIZE], enum volume_format *ret_format) {
        const char *dot = strrchr(file, '.');

        if (!dot || !volume_name_is_valid(file, (size_t)(dot - file)))
                return false;
        for (size_t i = 0; i < N_FORMATS; i++)
                if (streq(dot + 1, volume_format_to_string(formats[i]))) {
                        snprintf(ret_name, DIR_NAME_SIZE, "%.*s", (int)(dot - file), file);
                        *ret_format = formats[i];
                        return true;
                }
        return false;
}

char *dir_path_of(const struct pool *pool, const char *file) {
        char *path;

        return asprintf(&path, "%s/%s", pool->path, file) < 0 ? NULL : path;
}

int dir_open_file(struct pool *pool, const char *file, int flags) {
        struct open_how how = { .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK),
                                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        int r;

        fd = (int)syscall(SYS_openat2, dir_fd(pool), file, &how, sizeof(how));
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EMEDIUMTYPE;
        /* It kept the call from waiting for a FIFO's other end; io_uring would fail requests that have to wait. */
        r = io_set_nonblock(fd, 0);
        return r < 0 ? r : TAKE_FD(fd);
}

int dir_lookup(struct pool *pool, const char *name, struct dir_entry *ret_entry) {
        struct dir_entry entry = { 0 };
        char file[DIR_NAME_SIZE];
        unsigned int n = 0;
        struct stat st;

        for (size_t i = 0; i < N_FORMATS; i++) {
                dir_file_name(name, formats[i], file);
                if (fstatat(dir_fd(pool), file, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                        if (errno != ENOENT)
                                return -errno;
                        continue;
                }
                entry.format = formats[i];
                memcpy(entry.file, file, sizeof(file));
                n++;
        }
        if (n != 1)
                return n == 0 ? -ENOENT : -ENOTUNIQ;
        if (ret_entry)
                *ret_entry = entry;
        return 0;
}

int dir_lookup_failed(struct pool *pool, const char *name, int code, struct error *e) {
        if (code == -ENOENT)
                return volume_not_found(pool, name, e);
        if (code == -ENOTUNIQ)
                error_set(e, -EUCLEAN, "volume-damaged", NULL, "volume %s is there twice: %s/%s.raw and %s.qcow2", name,
                          pool->path, name, name);
        else if (code == -ELOOP || code == -EMEDIUMTYPE)
                error_set(e, -EUCLEAN, "volume-damaged", NULL, "volume %s in %s is not a regular file", name,
                          pool->path);
        else
                return error_set(e, code, "volume-io", NULL, "cannot open volume %s in %s", name, pool->path);
        error_set_fix(e, "somebody has put it there: look at it, and move it away: ls -l %s", pool->path);
        return -EUCLEAN;
}

int dir_path(struct pool *pool, const char *name, char **ret_path, struct error *e) {
        struct dir_entry entry;
        int r = dir_lookup(pool, name, &entry);
        char *path;

        if (r < 0)
                return dir_lookup_failed(pool, name, r, e);
        path = dir_path_of(pool, entry.file);
        if (!path)
                return no_memory(e);
        *ret_path = path;
        return 0;
}

/* The name of the image whose disk lies at @base; NULL in *@ret_image when it is none's. */
static int image_of(const struct pool *pool, const char *base, char **ret_image) {
        const char *root = pool->images ? image_store_root(pool->images) : NULL, *slash;
        _cleanup_free_ char *dir = NULL;

        if (!root || strncmp(base, root, strlen(root)) != 0 || base[strlen(root)] != '/')
                return 0;
        base += strlen(root) + 1;
        slash = strchr(base, '/');
        if (!slash || strchr(slash + 1, '/'))
                return 0;
        dir = strndup(base, (size_t)(slash - base));
        if (!dir)
                return -ENOMEM;
        *ret_image = image_dir_to_name(dir);
        return 0;
}

/* What a qcow2 file says of itself. Whoever served it to a guest may have written that: only forms that we make are taken. */
static int look_at_qcow2(const struct pool *pool, int fd, struct volume *v, struct error *e) {
        const struct file_options options = { .sys = pool->sys, .fd = fd, .readonly = true };
        _cleanup_(file_freep) struct file *file = NULL;
        _cleanup_free_ char *strings = NULL;
        struct qcow2_info info = { 0 };
        int r = file_open(&options, &file, e);

        if (r == 0)
                r = qcow2_peek(file, &info, &strings, e);
        if (r < 0)
                return r;
        v->size = info.size;
        if (info.data_file)
                return error_set(e, -EUCLEAN, "volume-damaged", NULL, "it names a data file, %s", info.data_file);
        if (info.encrypted)
                return error_set(e, -EUCLEAN, "volume-damaged", NULL, "it is encrypted by qcow2's own means");
        if (!info.backing_file)
                return 0;
        v->base = strdup(info.backing_file);
        if (!v->base)
                return no_memory(e);
        if (!info.backing_format || !streq(info.backing_format, "raw"))
                return error_set(e, -EUCLEAN, "volume-damaged", NULL, "the format of what it stands on is not raw");
        return image_of(pool, v->base, &v->image) < 0 ? no_memory(e) : 0;
}

static int look_at(const struct pool *pool, int fd, struct volume *v, struct error *e) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return error_set(e, -errno, "volume-io", NULL, "cannot see it");
        v->allocated = (uint64_t)st.st_blocks * 512;
        if (v->format == VOLUME_FORMAT_QCOW2)
                return look_at_qcow2(pool, fd, v, e);
        v->size = (uint64_t)st.st_size;
        if (v->size == 0 || v->size % 512 != 0)
                return error_set(e, -EUCLEAN, "volume-damaged", NULL, "it has %ju bytes, no whole number of sectors",
                                 (uintmax_t)v->size);
        return 0;
}

/* Fills in a volume from its file. -ENOENT: it is not there any more; a broken one is returned. */
static int load(struct pool *pool, const char *name, const struct dir_entry *entry, struct volume **ret_volume,
                struct error *e) {
        _cleanup_(volume_freep) struct volume *v = calloc(1, sizeof(*v));
        _cleanup_error_ struct error why = ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (!v || !(v->name = strdup(name)))
                return no_memory(e);
        v->format = entry->format;
        fd = dir_open_file(pool, entry->file, O_RDONLY);
        if (fd == -ENOENT)
                return -ENOENT;
        r = fd < 0 ? dir_lookup_failed(pool, name, fd, &why) : look_at(pool, fd, v, &why);
        if (r == -ENOMEM)
                return no_memory(e);
        if (r < 0 && !(v->broken = strdup(why.message ?: "out of memory")))
                return no_memory(e);
        *ret_volume = TAKE_PTR(v);
        return 0;
}

int dir_find(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e) {
        struct dir_entry entry;
        int r = dir_lookup(pool, name, &entry);

        if (r < 0)
                return dir_lookup_failed(pool, name, r, e);
        r = load(pool, name, &entry, ret_volume, e);
        return r == -ENOENT ? volume_not_found(pool, name, e) : r;
}

int dir_find_good(struct pool *pool, const char *name, struct volume **ret_volume, struct error *e) {
        _cleanup_(volume_freep) struct volume *v = NULL;
        int r = dir_find(pool, name, &v, e);

        if (r < 0)
                return r;
        if (v->broken)
                return volume_broken(pool, v, e);
        *ret_volume = TAKE_PTR(v);
        return 0;
}

int dir_list(struct pool *pool, struct volume ***ret_volumes, size_t *ret_n, struct error *e) {
        int fd = openat(dir_fd(pool), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        struct volume **volumes = NULL;
        struct dirent *de;
        size_t n = 0;
        DIR *d;

        if (fd < 0 || !(d = fdopendir(fd))) {
                r = -errno;
                safe_close(fd);
                return error_set(e, r, "pool-open", NULL, "cannot read %s", pool->path);
        }
        while (r == 0 && (de = readdir(d))) {
                struct volume *v = NULL, **more;
                char name[DIR_NAME_SIZE];
                struct dir_entry entry;

                if (!parse_file_name(de->d_name, name, &entry.format))
                        continue;
                dir_file_name(name, entry.format, entry.file);
                r = load(pool, name, &entry, &v, e);
                if (r == -ENOENT) { /* deleted meanwhile */
                        r = 0;
                        continue;
                }
                more = r == 0 ? reallocarray(volumes, n + 1, sizeof(*volumes)) : NULL;
                if (!more) {
                        volume_free(v);
                        r = r < 0 ? r : no_memory(e);
                        break;
                }
                volumes = more;
                volumes[n++] = v;
        }
        closedir(d);
        if (r < 0) {
                volume_list_free(volumes, n);
                return r;
        }
        *ret_volumes = volumes;
        *ret_n = n;
        return 0;
}

int dir_each_allocated(struct pool *pool, volume_allocated_fn fn, void *opaque, struct error *e) {
        int fd = openat(dir_fd(pool), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        const struct dirent *de;
        DIR *d;

        if (fd < 0 || !(d = fdopendir(fd))) {
                r = -errno;
                safe_close(fd);
                return error_set(e, r, "pool-open", NULL, "cannot read %s", pool->path);
        }
        while (r == 0 && (de = readdir(d))) {
                char name[DIR_NAME_SIZE];
                enum volume_format format;
                struct stat st;

                if (parse_file_name(de->d_name, name, &format) &&
                    fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
                        r = fn(opaque, name, (uint64_t)st.st_blocks * 512);
        }
        closedir(d);
        return r;
}

static int add_allocated(void *opaque, const char *name, uint64_t allocated) {
        *(uint64_t *)opaque += allocated;
        return 0;
}

int dir_usage(struct pool *pool, struct pool_usage *ret_usage, struct error *e) {
        struct pool_usage usage = { 0 };
        int r = dir_space(pool, &usage);

        if (r < 0)
                return error_set(e, r, "pool-open", NULL, "cannot see the free space of %s", pool->path);
        r = dir_each_allocated(pool, add_allocated, &usage.allocated, e);
        if (r < 0)
                return r;
        *ret_usage = usage;
        return 0;
}
