// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dir: a pool that is a directory with a file for each volume
 *
 *      /var/lib/lodge/pools/default/web.raw      the suffix is the record of the format
 *                                   db.qcow2
 *                                   .lock        held while a name comes or goes
 *
 * Theory of operation. The directory is ours, and nobody else can write to it or to a directory above it: what is in it
 * was made here. A file is opened by its name below the directory's descriptor, never through a symbolic link (openat2),
 * and must be a regular file. New ones get their name once they are whole (base/new-file.h). Names of both suffixes are one
 * name space: under .lock, a name is given only when there is neither web.raw nor web.qcow2.
 *
 * A volume of an image is the image's disk by FICLONE, grown to its size, where the file system shares blocks and the
 * store is on the same one; else an overlay on the image's disk by its absolute path. A clone is a copy of the source's
 * file, by FICLONE or of its data: what an overlay stands on is in the file and is copied with it.
 */
#include "daemon/storage/dir.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/new-file.h"
#include "daemon/image/copy.h"
#include "vmm/block/chain/chain.h"
#include "vmm/block/qcow2/qcow2.h"

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
}

/* A failed step of making or changing volume @name that needed @need bytes. The error of a lower layer is kept unless the pool is full. */
static int failed(struct pool *pool, const char *name, int r, uint64_t need, struct error *lower, struct error *e) {
        struct pool_usage usage = { 0 };

        if (r == -ENOSPC || r == -EDQUOT) {
                (void)dir_space(pool, &usage);
                return pool_full(pool, name, need, MIN(usage.available, need), e);
        }
        if (r == -EINTR)
                return error_set(e, r, "volume-stopped", NULL, "volume %s: stopped", name);
        if (lower && lower->code != 0) {
                error_set(e, r, lower->id, lower->fix, "volume %s: %s", name, lower->message ?: "");
                return r;
        }
        error_set(e, r, "volume-io", NULL, "cannot write volume %s", name);
        error_set_fix(e, "look for errors of the storage below %s: dmesg", pool->path);
        return r;
}

/*
 * Gives a finished file its name, unless there is a volume of that name. With @again it is fine if that is what was wanted; the caller has
 * looked before, so here it is a race of two that do the same.
 */
static int keep(struct pool *pool, struct new_file *f, const struct volume_work *work, enum volume_format format,
                struct error *e) {
        _cleanup_close_ int lock = -EBADF;
        char name[DIR_NAME_SIZE];
        int r = dir_lock(pool, &lock, e);

        if (r < 0)
                return r;
        r = dir_lookup(pool, work->name, NULL);
        if (r == 0)
                return volume_exists(pool, work->name, e);
        if (r != -ENOENT)
                return failed(pool, work->name, r, 0, NULL, e);
        dir_file_name(work->name, format, name);
        r = new_file_keep(f, name, false);
        return r < 0 ? failed(pool, work->name, r, (uint64_t)1 << 20, NULL, e) : 0;
}

/*
 * Is there a volume of that name? Return: 0: no; 1: yes, and it is what @work asks for again; -EEXIST, -errno.
 * @base: path of the file that an overlay stands on; NULL: none
 */
static int exists(struct pool *pool, const struct volume_work *work, const enum volume_format *format, uint64_t size,
                  const char *base, struct error *e) {
        _cleanup_(volume_freep) struct volume *v = NULL;
        int r = dir_lookup(pool, work->name, NULL);

        if (r == -ENOENT)
                return 0;
        if (!work->again)
                return volume_exists(pool, work->name, e);
        r = dir_find(pool, work->name, &v, e);
        if (r < 0)
                return r;
        if (!v->broken && v->size == size && (!format || v->format == *format) && !base == !v->base &&
            (!base || streq(base, v->base)))
                return 1;
        return volume_exists(pool, work->name, e);
}

static int begin(struct pool *pool, struct new_file *f, const char *name, struct error *e) {
        int r = new_file_open(f, dir_fd(pool), 0600);

        return r < 0 ? failed(pool, name, r, 4096, NULL, e) : 0;
}

/* Writes an empty qcow2 image into @f. */
static int make_qcow2(struct pool *pool, struct new_file *f, const char *name, const struct qcow2_create *create,
                      struct error *e) {
        const struct file_options options = { .sys = pool->sys, .fd = f->fd };
        _cleanup_(file_freep) struct file *file = NULL;
        _cleanup_error_ struct error lower = ERROR_INIT;
        uint64_t need = 1 << 20, full;
        int r = file_open(&options, &file, &lower);

        if (r == 0)
                r = qcow2_create(file, create, &lower);
        if (r == 0)
                r = file_sync(file);
        if (r == 0)
                return 0;
        (void)qcow2_measure(create, 0, &need, &full, NULL);
        return failed(pool, name, r, need, &lower, e);
}

static int dir_create_empty(struct pool *pool, const struct volume_work *work, enum volume_format format,
                            struct error *e) {
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        int r = exists(pool, work, &format, work->size, NULL, e);

        if (r != 0)
                return MIN(r, 0);
        r = begin(pool, &f, work->name, e);
        if (r < 0)
                return r;
        if (format == VOLUME_FORMAT_QCOW2)
                r = make_qcow2(pool, &f, work->name, &(struct qcow2_create){ .size = work->size }, e);
        else if (pool->sys->ftruncate(f.fd, (off_t)work->size) < 0)
                r = failed(pool, work->name, -errno, 4096, NULL, e);
        return r < 0 ? r : keep(pool, &f, work, format, e);
}

/* Return: 1: an equal volume is there; 0: there is none; -errno. It may be of either kind: the file system decides, and may change. */
static int exists_from_image(struct pool *pool, const struct volume_work *work, const char *base, struct error *e) {
        const enum volume_format raw = VOLUME_FORMAT_RAW, qcow2 = VOLUME_FORMAT_QCOW2;
        struct dir_entry entry;

        if (dir_lookup(pool, work->name, &entry) == 0 && entry.format == VOLUME_FORMAT_RAW)
                return exists(pool, work, &raw, work->size, NULL, e);
        return exists(pool, work, &qcow2, work->size, base, e);
}

static int dir_create_from_image(struct pool *pool, const struct volume_work *work, const struct image *image,
                                 struct error *e) {
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        enum volume_format format = VOLUME_FORMAT_RAW;
        _cleanup_close_ int from = -EBADF;
        _cleanup_free_ char *base = NULL;
        int r;

        if (image_file_path(image, IMAGE_FILE_DISK, &base) < 0)
                return no_memory(e);
        r = exists_from_image(pool, work, base, e);
        if (r != 0)
                return MIN(r, 0);
        from = open(base, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (from < 0)
                return error_set(e, -errno, "image-damaged", NULL, "cannot open %s", base);
        r = begin(pool, &f, work->name, e);
        if (r < 0)
                return r;
        if (pool->sys->ioctl(f.fd, FICLONE, from) == 0) {
                if (pool->sys->ftruncate(f.fd, (off_t)work->size) < 0)
                        return failed(pool, work->name, -errno, 4096, NULL, e);
        } else if (errno == ENOSPC || errno == EDQUOT || errno == EIO) {
                return failed(pool, work->name, -errno, 1 << 20, NULL, e);
        } else {
                const struct qcow2_create create = { .size = work->size,
                                                     .backing_file = base,
                                                     .backing_format = "raw" };

                format = VOLUME_FORMAT_QCOW2;
                r = make_qcow2(pool, &f, work->name, &create, e);
                if (r < 0)
                        return r;
        }
        return keep(pool, &f, work, format, e);
}

/* Grows the disk in an open file to @size. */
static int grow(struct pool *pool, const char *name, int fd, enum volume_format format, uint64_t size,
                struct error *e) {
        const struct file_options options = { .sys = pool->sys, .fd = fd };
        _cleanup_(layer_freep) struct layer *layer = NULL;
        _cleanup_error_ struct error lower = ERROR_INIT;
        int r = chain_open_layer(&options, volume_format_to_string(format), true, &layer, &lower);

        if (r < 0)
                return failed(pool, name, r, 1 << 20, &lower, e);
        if (size < atomic_load(&layer->size))
                return error_set(e, -EINVAL, "volume-shrink",
                                 "make a new volume of that size and copy what is to stay, in the guest",
                                 "volume %s has %ju bytes: it can only become larger", name,
                                 (uintmax_t)atomic_load(&layer->size));
        if (size > atomic_load(&layer->size))
                r = layer->ops->resize(layer, size, &lower);
        if (r == 0)
                r = layer_finish(layer, &lower);
        if (r == 0)
                r = fsync(fd) < 0 ? -errno : 0;
        return r < 0 ? failed(pool, name, r, 1 << 20, &lower, e) : 0;
}

/* Copies a file's content: at once where the file system shares blocks, else its data, after a look whether that fits. */
static int copy(struct pool *pool, const struct volume_work *work, int from, int to, struct error *e) {
        const struct copy_watch watch = { .advance = work->progress.advance,
                                          .opaque = work->progress.opaque,
                                          .cancel_fd = work->progress.cancel_fd };
        struct pool_usage usage;
        uint64_t need;
        struct stat st;
        int r;

        if (pool->sys->ioctl(to, FICLONE, from) == 0)
                return 0;
        if (fstat(from, &st) < 0)
                return failed(pool, work->name, -errno, 0, NULL, e);
        need = (uint64_t)st.st_blocks * 512;
        r = dir_space(pool, &usage);
        if (r == 0 && usage.available < need)
                return pool_full(pool, work->name, need, usage.available, e);
        r = copy_sparse_watched(pool->sys, from, to, &watch);
        if (r < 0)
                (void)ftruncate(to, 0); /* so that what is missing is counted without it */
        return r < 0 ? failed(pool, work->name, r, need, NULL, e) : 0;
}

static int dir_clone(struct pool *pool, const char *source, const struct volume_work *work, struct error *e) {
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        _cleanup_(volume_freep) struct volume *v = NULL;
        _cleanup_close_ int from = -EBADF;
        enum volume_format format;
        uint64_t size;
        int r;

        r = dir_find_good(pool, source, &v, e);
        if (r < 0)
                return r;
        size = work->size ?: v->size;
        if (size < v->size)
                return error_set(e, -EINVAL, "volume-size", "ask for its size or more, or for none",
                                 "volume %s has %ju bytes, which do not fit %ju", source, (uintmax_t)v->size,
                                 (uintmax_t)size);
        r = exists(pool, work, &v->format, size, v->base, e);
        if (r != 0)
                return MIN(r, 0);
        r = dir_open_claimed(pool, source, true, &from, &format, e);
        if (r == 0)
                r = begin(pool, &f, work->name, e);
        if (r == 0)
                r = copy(pool, work, from, f.fd, e);
        if (r == 0 && size > v->size)
                r = grow(pool, work->name, f.fd, format, size, e);
        return r < 0 ? r : keep(pool, &f, work, format, e);
}

static int dir_resize(struct pool *pool, const char *name, uint64_t size, struct error *e) {
        _cleanup_(volume_freep) struct volume *v = NULL;
        _cleanup_close_ int fd = -EBADF;
        enum volume_format format;
        int r = dir_find_good(pool, name, &v, e);

        if (r < 0 || v->size == size)
                return r;
        r = dir_open_claimed(pool, name, false, &fd, &format, e);
        return r < 0 ? r : grow(pool, name, fd, format, size, e);
}

/* The volume may be there in both formats, by whoever's hand: all go. */
static int dir_remove(struct pool *pool, const char *name, struct error *e) {
        _cleanup_close_ int lock = -EBADF;
        int r = dir_lock(pool, &lock, e);

        if (r < 0)
                return r;
        for (int i = 0; i < 2; i++) {
                const enum volume_format format = i == 0 ? VOLUME_FORMAT_RAW : VOLUME_FORMAT_QCOW2;
                _cleanup_close_ int fd = -EBADF;
                char file[DIR_NAME_SIZE];

                dir_file_name(name, format, file);
                fd = dir_open_file(pool, file, O_RDWR);
                if (fd >= 0 && pool->lock) {
                        _cleanup_free_ char *path = dir_path_of(pool, file);

                        r = path ? pool->lock(fd, false, path, e) : no_memory(e);
                        if (r < 0)
                                return r;
                }
                if (unlinkat(dir_fd(pool), file, 0) < 0 && errno != ENOENT)
                        return error_set(e, -errno, "volume-io", NULL, "cannot remove volume %s", name);
        }
        if (fsync(dir_fd(pool)) < 0)
                return error_set(e, -errno, "volume-io", NULL, "cannot remove volume %s", name);
        return 0;
}

static int dir_open_volume(struct pool *pool, const char *name, bool readonly, int *ret_fd,
                           enum volume_format *ret_format, struct error *e) {
        struct dir_entry entry;
        int r = dir_lookup(pool, name, &entry), fd = -EBADF;

        if (r == 0) {
                fd = dir_open_file(pool, entry.file, readonly ? O_RDONLY : O_RDWR);
                r = MIN(fd, 0);
        }
        if (r < 0)
                return dir_lookup_failed(pool, name, r, e);
        *ret_fd = fd;
        if (ret_format)
                *ret_format = entry.format;
        return 0;
}

int dir_open_claimed(struct pool *pool, const char *name, bool readonly, int *ret_fd, enum volume_format *ret_format,
                     struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *path = NULL;
        int r = dir_open_volume(pool, name, readonly, &fd, ret_format, e);

        if (r == 0 && pool->lock) {
                r = dir_path(pool, name, &path, e);
                if (r == 0)
                        r = pool->lock(fd, readonly, path, e);
        }
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

const struct pool_driver_ops pool_dir_ops = {
        .type = POOL_TYPE_DIR,
        .size = sizeof(struct dir_pool),
        .open = dir_open,
        .close = dir_close,
        .usage = dir_usage,
        .create_empty = dir_create_empty,
        .create_from_image = dir_create_from_image,
        .clone = dir_clone,
        .resize = dir_resize,
        .remove = dir_remove,
        .find = dir_find,
        .list = dir_list,
        .each_allocated = dir_each_allocated,
        .open_volume = dir_open_volume,
        .path = dir_path,
};
