// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pull: a file on a server, as a new image
 *
 * What comes is written to ".part-CHECKSUM" in the store by lodge-fetch, which has nothing but its descriptor, and a note beside it. Whoever pulls holds a
 * flock on it, which lodge-fetch inherits: it is free only when both are gone, so a pull that follows a killed one waits for what is left of that. The part is content
 * that nobody believes before its checksum was compared, by lodge-fetch when it is whole. Then another lodge-fetch makes a raw disk of it on a stage, and that
 * becomes the image as every other does.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/cleanup.h"
#include "daemon/image/fetch.h"
#include "daemon/image/meta.h"
#include "daemon/image/store.h"

#define PART_PREFIX  ".part-"
#define DISK         "disk.raw"
#define KEEP_S       (7 * 24 * 3600)
#define LOCK_WAIT_MS 20000 /* longer than a killed pull's processes need to end */
#define LOCK_TICK_MS 100

struct pull {
        struct image_store *store;
        const struct image_pull *how;
        const struct image_progress *progress;
        char part[160], note[168];
        enum fetch_format format;
        int part_fd, note_fd;
};

/* ---- the part ------------------------------------------------------------------------------------------------------------ */

static bool is_cancelled(const struct image_progress *p, int wait_ms) {
        struct pollfd fd = { .fd = p ? p->cancel_fd : -1, .events = POLLIN };

        return poll(&fd, 1, wait_ms) > 0;
}

/* Somebody wanted the end: a byte is there. A pipe whose other end is only closed means that the daemon was killed, and will go on with this later. */
static bool is_unwanted(const struct image_progress *p) {
        struct pollfd fd = { .fd = p ? p->cancel_fd : -1, .events = POLLIN };

        return poll(&fd, 1, 0) > 0 && (fd.revents & POLLIN);
}

static int part_lock(struct pull *p, struct error *e) {
        for (int waited = 0; flock(p->part_fd, LOCK_EX | LOCK_NB) < 0; waited += LOCK_TICK_MS) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return error_set(e, -errno, "image-store", NULL, "cannot lock what is pulled");
                if (waited >= LOCK_WAIT_MS)
                        return error_set(e, -EBUSY, "image-pull-busy", "wait for it: lodge operation list",
                                         "%s is being pulled already", p->how->catalogue);
                if (is_cancelled(p->progress, LOCK_TICK_MS))
                        return error_set(e, -EINTR, "cancelled", NULL, "pulling %s was stopped", p->how->catalogue);
        }
        return 0;
}

static void part_remove(struct pull *p) {
        unlinkat(p->store->fd, p->note, 0);
        unlinkat(p->store->fd, p->part, 0);
}

/* The one that has the name, locked: another pull may have removed the one that we had opened. */
static int part_open(struct pull *p, struct error *e) {
        struct stat ours, named;
        int r;

        snprintf(p->part, sizeof(p->part), PART_PREFIX "%.128s", p->how->digest);
        snprintf(p->note, sizeof(p->note), "%s.note", p->part);
        for (;;) {
                p->part_fd = safe_close(p->part_fd);
                p->part_fd = openat(p->store->fd, p->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
                if (p->part_fd < 0)
                        return error_set(e, -errno, "image-store", NULL, "cannot write to the image store");
                r = part_lock(p, e);
                if (r < 0)
                        return r;
                if (fstat(p->part_fd, &ours) == 0 && fstatat(p->store->fd, p->part, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                    ours.st_ino == named.st_ino)
                        break;
        }
        p->note_fd = openat(p->store->fd, p->note, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        return p->note_fd < 0 ? error_set(e, -errno, "image-store", NULL, "cannot write to the image store") : 0;
}

void part_sweep(struct image_store *store) {
        int fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dirent *de;
        DIR *d = fd < 0 ? NULL : fdopendir(fd);

        if (!d) {
                safe_close(fd);
                return;
        }
        while ((de = readdir(d))) {
                _cleanup_close_ int part = -EBADF;
                struct stat st;

                if (strncmp(de->d_name, PART_PREFIX, sizeof(PART_PREFIX) - 1) != 0)
                        continue;
                part = openat(store->fd, de->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
                if (part < 0 || fstat(part, &st) < 0 || st.st_mtime > time(NULL) - KEEP_S ||
                    flock(part, LOCK_EX | LOCK_NB) < 0)
                        continue;
                unlinkat(store->fd, de->d_name, 0);
        }
        closedir(d);
}

/* ---- an image that is there ---------------------------------------------------------------------------------------------- */

static int make_checksum(const struct image_pull *how, char **ret) {
        return asprintf(ret, "%s:%s", strlen(how->digest) == SHA256_HEX_SIZE - 1 ? "sha256" : "sha512", how->digest) < 0
                       ? -ENOMEM
                       : 0;
}

/* Return: 1: it is what is asked for; 0: there is none of that name; -EEXIST. */
static int look(struct pull *p, const char *checksum, struct error *e) {
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_error_ struct error own = ERROR_INIT;
        int r = image_find(p->store, p->how->name, &image, &own);

        if (r == -ENOENT && image_name_is_valid(p->how->name))
                return 0;
        if (r == -EINVAL || r == -ENOENT)
                return error_set(e, -EINVAL, "image-name",
                                 "choose a name by --as: lower-case letters, digits, '.', '-', '_' and '/'",
                                 "'%s' can't be an image's name", p->how->name);
        if (r == 0 && image->checksum && streq(image->checksum, checksum))
                return 1;
        error_set(e, -EEXIST, "image-exists", NULL, "there is an image %s already", p->how->name);
        error_set_fix(e, "choose another name with --as, or remove that one first: lodge image delete %s",
                      p->how->name);
        return -EEXIST;
}

/* ---- the work ------------------------------------------------------------------------------------------------------------ */

/* What may come at most: what fits. */
static uint64_t size_limit(const struct image_store *store) {
        struct statvfs fs;
        uint64_t have;

        if (fstatvfs(store->fd, &fs) < 0)
                return 0;
        have = (uint64_t)fs.f_bavail * fs.f_frsize;
        return have > STORE_RESERVE ? have - STORE_RESERVE : 0;
}

static int download(struct pull *p, struct error *e) {
        struct stat st = { 0 };
        struct fetch_job job = { .task = FETCH_TASK_DOWNLOAD,
                                 .url = (char *)(uintptr_t)p->how->url,
                                 .size = p->how->size,
                                 .reserve = STORE_RESERVE,
                                 .digest = (char *)(uintptr_t)p->how->digest };
        _cleanup_close_ int result = fetch_result_file();
        const struct fetch_files files = { .result = result, .file = p->part_fd, .note = p->note_fd, .disk = -EBADF };
        int r;

        if (result < 0)
                return result;
        if (fstat(p->part_fd, &st) == 0 && p->how->size > (uint64_t)st.st_size) {
                r = store_check_space(p->store->root, p->how->size - (uint64_t)st.st_size + STORE_RESERVE, e);
                if (r < 0)
                        return r;
        }
        job.size_max = size_limit(p->store) + (uint64_t)st.st_size;
        r = fetch_run(&job, &files, p->progress, e);
        /* What is not what it should be is of no use to the next one. A connection that broke off is another matter. */
        if ((r == -EINTR && is_unwanted(p->progress)) || r == -EBADMSG || r == -EPROTO || r == -EFBIG || r == -ENOENT ||
            r == -ELOOP)
                part_remove(p);
        return r;
}

static int unpack(struct pull *p, struct stage *stage, struct error *e) {
        _cleanup_close_ int disk = openat(stage->fd, DISK, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        struct fetch_job job = { .format = p->format, .reserve = STORE_RESERVE };

        if (disk < 0)
                return error_set(e, -errno, "image-write", "look for a full disk: df -h", "cannot begin to unpack");
        return fetch_unpack(&job, p->part_fd, disk, p->progress, e);
}

static int describe(const struct image_pull *how, const char *checksum, struct image *image) {
        int r = image_set_string(&image->name, how->name);

        if (r == 0)
                r = image_set_string(&image->version, how->version);
        if (r == 0)
                r = image_set_string(&image->arch, "x86_64");
        if (r == 0)
                r = image_set_string(&image->format, "raw");
        if (r == 0)
                r = image_set_string(&image->source, how->url);
        if (r == 0)
                r = image_set_string(&image->catalogue, how->catalogue);
        if (r == 0)
                r = image_set_string(&image->checksum, checksum);
        if (r == 0)
                r = image_set_string(&image->trust, how->trust);
        return r < 0 ? r : image_set_string(&image->files[IMAGE_FILE_DISK].name, DISK);
}

static int run(struct pull *p, const char *checksum, struct error *e) {
        _cleanup_(stage_freep) struct stage *stage = NULL;
        _cleanup_(image_freep) struct image *image = calloc(1, sizeof(*image));
        int r = image ? part_open(p, e) : -ENOMEM;

        if (r == 0)
                r = look(p, checksum, e); /* once more: whoever held the lock may have made it */
        if (r == 0)
                r = download(p, e);
        else if (r > 0)
                part_remove(p);
        if (r != 0)
                return r;
        r = stage_new(p->store, &stage, e);
        if (r == 0)
                r = unpack(p, stage, e);
        if (r == 0)
                r = describe(p->how, checksum, image);
        if (r == 0 && p->progress && p->progress->step)
                p->progress->step(p->progress->opaque, "writing it to the disk");
        if (r == 0)
                r = stage_commit(stage, image, false, e);
        if (r == 0 || (r == -EINTR && is_unwanted(p->progress)) || r == -EUCLEAN || r == -ENOTSUP || r == -EEXIST ||
            r == -ENOSPC || r == -EFBIG)
                part_remove(p);
        return r;
}

/* vmdk and vhdx are for people who bring a file: qemu-img reads them with its caller's user, which is root here. */
static int check_format(struct pull *p, struct error *e) {
        const char *text = p->how->format ?: "raw";
        int format = fetch_format_from_string(text);

        if (pull_format_from_string(text) < 0 || format < 0)
                return error_set(e, -EINVAL, "image-format", "download it, look at it, and: lodge image import",
                                 "an image of format '%s' can't be pulled", text);
        p->format = (enum fetch_format)format;
        return 0;
}

int image_pull(struct image_store *store, const struct image_pull *how, const struct image_progress *progress,
               struct error *e) {
        struct pull p = { .store = store, .how = how, .progress = progress, .part_fd = -EBADF, .note_fd = -EBADF };
        _cleanup_free_ char *checksum = NULL;
        int r = check_format(&p, e);

        if (r == 0)
                r = store_require_writable(store, e);
        if (r == 0)
                part_sweep(store); /* a daemon's store is opened once, and stays open for months */
        if (r == 0)
                r = make_checksum(how, &checksum);
        if (r == 0)
                r = look(&p, checksum, e);
        if (r == 0)
                r = run(&p, checksum, e);
        safe_close(p.note_fd);
        safe_close(p.part_fd);
        return r < 0 ? r : 0;
}
