// SPDX-License-Identifier: GPL-2.0-or-later
/* upload: see upload.h */
#include "daemon/image/upload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "daemon/image/copy.h"
#include "daemon/image/fetch.h"
#include "daemon/image/meta.h"
#include "daemon/image/store.h"

#define PREFIX ".upload-"
#define DISK   "disk.raw"
#define CHUNK  (1u << 20)
#define PIECE  (64u << 20) /* synced at a time: no sync, which a kill has to wait for, is long */

static void file_name(const char *id, char ret_name[static sizeof(PREFIX) + UPLOAD_ID_SIZE]) {
        snprintf(ret_name, sizeof(PREFIX) + UPLOAD_ID_SIZE, PREFIX "%.16s", id);
}

int upload_check(struct image_store *store, const char *name, uint64_t size, struct error *error) {
        int r = size == 0 ? error_set(error, -EINVAL, "image-import", "send a disk image", "nothing is to come")
                          : store_require_writable(store, error);

        if (r == 0)
                r = store_check_free(store, name, error);
        return r < 0 ? r : store_check_space(store->root, size + STORE_RESERVE, error);
}

/* ---- the bytes ----------------------------------------------------------------------------------------------------------- */

static int new_file(struct image_store *store, char ret_id[static UPLOAD_ID_SIZE], int *ret_fd, struct error *error) {
        char name[sizeof(PREFIX) + UPLOAD_ID_SIZE];
        uint64_t random = 0;
        int fd = -1;

        if (getentropy(&random, sizeof(random)) == 0) {
                snprintf(ret_id, UPLOAD_ID_SIZE, "%016llx", (unsigned long long)random);
                file_name(ret_id, name);
                fd = openat(store->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        }
        if (fd < 0)
                return error_set(error, -errno, "image-store", NULL, "cannot write to the image store %s", store->root);
        *ret_fd = fd;
        return 0;
}

/* Return: bytes, 0 at the end, -EINTR when it is not wanted any more. */
static ssize_t next_bytes(int from, uint8_t *buf, size_t n, int cancel_fd) {
        struct pollfd fds[] = { { .fd = from, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };
        ssize_t got;

        do {
                while (poll(fds, ELEMENTSOF(fds), -1) < 0)
                        if (errno != EINTR)
                                return -errno;
                if (fds[1].revents)
                        return -EINTR;
                got = read(from, buf, n);
        } while (got < 0 && (errno == EINTR || errno == EAGAIN));
        return got < 0 ? -errno : got;
}

static int fill(uint8_t *buf, size_t n, int from, int cancel_fd) {
        for (size_t have = 0; have < n;) {
                ssize_t got = next_bytes(from, buf + have, n - have, cancel_fd);

                if (got <= 0)
                        return got < 0 ? (int)got : -EPIPE;
                have += (size_t)got;
        }
        return 0;
}

static int check_room(const struct sys *sys, int fd, size_t n) {
        struct statvfs fs;

        if (sys->fstatvfs(fd, &fs) < 0)
                return -errno;
        return (uint64_t)fs.f_bavail * fs.f_frsize < STORE_RESERVE + n ? -ENOSPC : 0;
}

static int take(struct image_store *store, int from, int to, uint64_t size, int cancel_fd,
                char ret_sha256[static SHA256_HEX_SIZE]) {
        _cleanup_free_ uint8_t *buf = malloc(CHUNK);
        struct sha256 sum;
        int r = buf ? 0 : -ENOMEM;

        sha256_init(&sum);
        for (uint64_t at = 0; r == 0 && at < size;) {
                size_t n = (size_t)MIN((uint64_t)CHUNK, size - at);

                r = fill(buf, n, from, cancel_fd);
                if (r == 0)
                        r = check_room(store->sys, to, n);
                if (r == 0) {
                        sha256_update(&sum, buf, n);
                        r = copy_write_sparse(store->sys, to, buf, n, at);
                }
                at += n;
                if (r == 0 && at % PIECE == 0 && store->sys->fdatasync(to) < 0)
                        r = -errno;
        }
        if (r == 0 && store->sys->ftruncate(to, (off_t)size) < 0)
                r = -errno;
        if (r == 0 && (store->sys->fdatasync(to) < 0 || fsync(store->fd) < 0))
                r = -errno;
        if (r == 0)
                sha256_final_hex(&sum, ret_sha256);
        return r;
}

static int take_failed(int r, struct error *error) {
        switch (r) {
        case -EINTR:
                return error_set(error, r, "cancelled", NULL, "the upload was stopped");
        case -EPIPE:
                return error_set(error, r, "upload-short", "send it again", "the upload broke off");
        case -ENOSPC:
        case -EDQUOT:
                return error_set(error, -ENOSPC, "image-no-space",
                                 "delete images that you don't use (lodge image list), or make room: df -h",
                                 "the disk is full: what is uploaded does not fit");
        default:
                return error_set(error, r, "image-write", "look at the disk of the image store: df -h",
                                 "cannot keep what is uploaded");
        }
}

int upload_receive(struct image_store *store, int from, uint64_t size, const char *sha256,
                   const struct image_progress *progress, char ret_id[static UPLOAD_ID_SIZE],
                   char ret_sha256[static SHA256_HEX_SIZE], struct error *error) {
        char id[UPLOAD_ID_SIZE], sum[SHA256_HEX_SIZE];
        _cleanup_close_ int to = -EBADF;
        int r = new_file(store, id, &to, error);

        if (r < 0)
                return r;
        progress->step(progress->opaque, "ready");
        r = take(store, from, to, size, progress->cancel_fd, sum);
        if (r < 0)
                take_failed(r, error);
        else if (sha256 && !streq(sha256, sum)) {
                error_set(error, -EINVAL, "upload-digest", NULL, "what came is not what was announced");
                error_set_fix(error,
                              "its SHA-256 is %s, and %s was expected: compare with the file's, and send it again", sum,
                              sha256);
                r = -EINVAL;
        }
        if (r < 0) {
                (void)upload_remove(store, id);
                return r;
        }
        memcpy(ret_id, id, sizeof(id));
        memcpy(ret_sha256, sum, sizeof(sum));
        return 0;
}

/* ---- the image ----------------------------------------------------------------------------------------------------------- */

static int describe(const struct image_upload *u, struct image *image) {
        _cleanup_free_ char *source = NULL, *checksum = NULL;
        int r;

        if (asprintf(&source, "an upload (%s)", u->format) < 0)
                source = NULL;
        if (asprintf(&checksum, "sha256:%s", u->sha256) < 0)
                checksum = NULL;
        if (!source || !checksum)
                return -ENOMEM;
        image->agent = u->agent;
        r = image_set_string(&image->source, source);
        if (r == 0)
                r = image_set_string(&image->checksum, checksum);
        if (r == 0)
                r = image_set_string(&image->format, "raw");
        if (r == 0)
                r = image_set_string(&image->arch, "x86_64");
        if (r == 0)
                r = image_set_string(&image->cmdline, u->cmdline);
        return r < 0 ? r : image_set_string(&image->files[IMAGE_FILE_DISK].name, DISK);
}

/* Was it made before a kill? Return: 1 yes, 0 no, -EEXIST: another one has the name. */
static int is_made(struct image_store *store, const struct image_upload *u, struct error *error) {
        _cleanup_(image_freep) struct image *there = NULL;

        if (image_find(store, u->name, &there, NULL) == 0 && there->checksum &&
            strncmp(there->checksum, "sha256:", 7) == 0 && streq(there->checksum + 7, u->sha256))
                return 1;
        return store_check_free(store, u->name, error);
}

static int unpack(struct image_store *store, const struct image_upload *u, struct stage *stage,
                  const struct image_progress *progress, struct error *error) {
        char name[sizeof(PREFIX) + UPLOAD_ID_SIZE];
        int format = fetch_format_from_string(u->format);
        struct fetch_job job = {
                .import = true, .own_files = true, .reserve = STORE_RESERVE, .format = (enum fetch_format)format
        };
        _cleanup_close_ int from = -EBADF, to = -EBADF;

        file_name(u->id, name);
        from = openat(store->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (from < 0 || format < 0)
                return error_set(error, from < 0 ? -errno : -EINVAL, "upload-gone", "send it again",
                                 "what was uploaded is not there");
        to = openat(stage->fd, DISK, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (to < 0)
                return error_set(error, -errno, "image-write", "look for a full disk: df -h", "cannot begin to unpack");
        progress->step(progress->opaque, "unpacking the disk");
        return fetch_unpack(&job, from, to, progress, error);
}

int upload_import(struct image_store *store, const struct image_upload *upload, const struct image_progress *progress,
                  struct error *error) {
        _cleanup_(stage_freep) struct stage *stage = NULL;
        _cleanup_(image_freep) struct image *image = calloc(1, sizeof(*image));
        int r = image ? image_set_string(&image->name, upload->name) : -ENOMEM;

        if (r == 0)
                r = is_made(store, upload, error);
        if (r == 0) {
                r = stage_new(store, &stage, error);
                if (r == 0)
                        r = unpack(store, upload, stage, progress, error);
                if (r == 0)
                        r = describe(upload, image);
                if (r == 0) {
                        progress->step(progress->opaque, "writing it to the disk");
                        r = stage_commit(stage, image, false, error);
                }
        }
        return r < 0 ? r : upload_remove(store, upload->id);
}

/* ---- what is left -------------------------------------------------------------------------------------------------------- */

int upload_remove(struct image_store *store, const char *id) {
        char name[sizeof(PREFIX) + UPLOAD_ID_SIZE];

        file_name(id, name);
        return unlinkat(store->fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static bool is_kept(const char *id, char *const *keep, size_t n_keep) {
        for (size_t i = 0; i < n_keep; i++)
                if (streq(keep[i], id))
                        return true;
        return false;
}

void upload_sweep(struct image_store *store, char *const *keep, size_t n_keep) {
        int fd = openat(store->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *de;

        store_sweep(store); /* a task that was ended in the middle has left one */
        if (!d) {
                safe_close(fd);
                return;
        }
        while ((de = readdir(d))) {
                const char *id = de->d_name + sizeof(PREFIX) - 1;

                if (strncmp(de->d_name, PREFIX, sizeof(PREFIX) - 1) != 0 || is_kept(id, keep, n_keep))
                        continue;
                log_info("removing %s, which was not uploaded to its end", de->d_name);
                if (unlinkat(store->fd, de->d_name, 0) < 0)
                        log_warning("cannot remove %s/%s: %s", store->root, de->d_name, strerror(errno));
        }
        closedir(d);
}
