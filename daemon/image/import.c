// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * import: a disk that somebody brings, as a new image
 *
 * The format is what the person says. A guess is how a raw disk that a guest has written a qcow2 header into comes to
 * read the host's files; so we guess only to help with the question.
 *
 * The file is opened once, locked as a machine would lock it, and all is read through that descriptor by code that opens no other
 * file. So whatever its owner writes into it meanwhile, no name in it is ever followed: a qcow2 file that needs another one is refused, and
 * one that says so too late reads as zeroes there.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"
#include "daemon/image/copy.h"
#include "daemon/image/fetch.h"
#include "daemon/image/foreign.h"
#include "daemon/image/kernel.h"
#include "daemon/image/meta.h"

#define DISK "disk.raw"

static void step(const struct image_progress *p, const char *text) {
        if (p && p->step)
                p->step(p->opaque, text);
}

static int refuse(struct error *error, int code, const char *fix, const char *file, const char *what) {
        return error_set(error, code, "image-import", fix, "%s %s", file, what);
}

/* What the file looks like, for the person who did not say; never used to decide. */
static const char *looks_like(int fd) {
        static const struct {
                const char *magic;
                size_t len;
                uint64_t at;
                const char *what;
        } magics[] = {
                { "QFI\xfb", 4, 0, "qcow2" },
                { "KDMV", 4, 0, "vmdk" },
                { "vhdxfile", 8, 0, "vhdx" },
                { "conectix", 8, 0, "vpc" },
                { "<<< ", 4, 0, "vdi" },
                { "EFI PART", 8, 512, "raw" },
                { "\x55\xaa", 2, 510, "raw" },
                { "CD001", 5, 32769, "an ISO" },
                { "\x1f\x8b", 2, 0, "gzip" },
                { "\xfd"
                  "7zXZ",
                  5, 0, "xz" },
                { "\x28\xb5\x2f\xfd", 4, 0, "zstd" },
        };

        for (size_t i = 0; i < ELEMENTSOF(magics); i++) {
                char buf[8];

                if (io_read_at(&sys_real, fd, buf, magics[i].len, magics[i].at) == 0 &&
                    memcmp(buf, magics[i].magic, magics[i].len) == 0)
                        return magics[i].what;
        }
        return NULL;
}

static bool is_known(const char *format) {
        return streq(format, "raw") || streq(format, "qcow2") || streq(format, "vmdk") || streq(format, "vhdx");
}

static int check_format(const char *file, int fd, const struct image_import *import, struct error *error) {
        const char *looks = looks_like(fd);

        if (!import->format) {
                error_set(error, -EINVAL, "image-format", NULL, "the format of %s has to be said, it is never guessed",
                          file);
                if (looks && is_known(looks))
                        error_set_fix(error,
                                      "it looks like %s; if that is right: lodge image import --disk-format %s %s",
                                      looks, looks, file);
                else if (looks)
                        error_set_fix(error,
                                      "it looks like %s: turn it into raw first, then import with --disk-format raw",
                                      looks);
                else
                        error_set_fix(error,
                                      "say --disk-format raw for the plain content of a disk, qcow2 if QEMU made it");
                return -EINVAL;
        }
        if (!is_known(import->format)) {
                error_set(error, -EINVAL, "image-format", NULL, "format '%s' can't be imported", import->format);
                error_set_fix(error,
                              "raw, qcow2, vmdk and vhdx can; convert: qemu-img convert -f %s -O raw %s disk.raw",
                              import->format, file);
                return -EINVAL;
        }
        return 0;
}

/* @ret_need: bytes that the copy will take, about */
static int check_file(const char *file, int fd, const struct image_import *import, uint64_t *ret_need,
                      struct error *error) {
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return error_set(error, -errno, "image-import", NULL, "cannot look at %s", file);
        if (S_ISDIR(st.st_mode))
                return refuse(error, -EISDIR, "name the disk's file", file, "is a directory");
        if (!S_ISREG(st.st_mode))
                return refuse(error, -EINVAL, "copy it to a file first: dd if=DEVICE of=disk.raw bs=1M", file,
                              "is no regular file");
        r = import->lock ? import->lock(fd, true, file, error) : 0;
        if (r < 0)
                return r;
        if (st.st_size == 0)
                return refuse(error, -EUCLEAN, "copy it again", file, "is empty");
        r = check_format(file, fd, import, error);
        if (r < 0)
                return r;
        *ret_need = streq(import->format, "raw") ? (uint64_t)st.st_blocks * 512 : (uint64_t)st.st_size;
        if (!streq(import->format, "raw"))
                return 0;
        return foreign_check_raw(file, fd, (uint64_t)st.st_size, error);
}

/* Formats that only qemu-img reads: by lodge-fetch, which shuts it in. */
static int convert_disk(int from, int to, const struct image_import *import, const struct image_progress *progress,
                        const char *file, struct error *error) {
        struct fetch_job job = { .import = true,
                                 .reserve = STORE_RESERVE,
                                 .format = streq(import->format, "vmdk") ? FETCH_FORMAT_VMDK : FETCH_FORMAT_VHDX };
        int r = fetch_unpack(&job, from, to, progress, error);

        if (r < 0)
                error_prefix(error, "%s", file);
        return r;
}

/* @layer: of a qcow2 file; NULL: @from is raw, or import->format's */
static int copy_disk(struct stage *stage, int from, struct layer *layer, const struct image_import *import,
                     const struct image_progress *progress, const char *file, struct error *error) {
        _cleanup_close_ int to = openat(stage->fd, DISK, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        int cancel_fd = progress ? progress->cancel_fd : -EBADF, r = to < 0 ? -errno : 0;

        if (r == 0 && (streq(import->format, "vmdk") || streq(import->format, "vhdx")))
                return convert_disk(from, to, import, progress, file, error);
        if (r == 0)
                r = layer ? copy_layer(stage->store->sys, layer, to, cancel_fd)
                          : copy_sparse(stage->store->sys, from, to, cancel_fd);
        if (r == -EINTR)
                return error_set(error, r, "cancelled", NULL, "importing %s was stopped", file);
        return r < 0 ? error_set(error, r, "image-import", "look for a full disk: df -h", "cannot copy %s", file) : 0;
}

/* A kernel or initrd that comes with the disk. */
static int copy_beside(struct stage *stage, struct image *image, const char *file, enum image_file_kind kind,
                       const char *name, struct error *error) {
        _cleanup_close_ int from = -EBADF, to = -EBADF;
        struct stat st;
        int r;

        if (!file)
                return 0;
        from = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (from < 0 || fstat(from, &st) < 0)
                return error_set(error, -errno, "image-import", "check the path", "cannot open %s", file);
        if (!S_ISREG(st.st_mode) || st.st_size == 0)
                return refuse(error, -EINVAL, "name a file", file, "is no regular file, or empty");
        to = openat(stage->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        r = to < 0 ? -errno : copy_sparse(stage->store->sys, from, to, -EBADF);
        if (r < 0)
                return error_set(error, r, "image-import", "look for a full disk: df -h", "cannot copy %s", file);
        return image_set_string(&image->files[kind].name, name);
}

char *image_name_from_file(const char *file) {
        const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
        char *name = strdup(base), *dot = name ? strrchr(name, '.') : NULL;

        if (dot && dot != name)
                *dot = '\0';
        for (char *p = name; p && *p; p++) {
                if (*p >= 'A' && *p <= 'Z')
                        *p += 'a' - 'A';
                else if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '.' || *p == '_'))
                        *p = '-';
        }
        return name;
}

static int describe(struct image *image, const char *file, const struct image_import *import) {
        _cleanup_free_ char *source = NULL;
        const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
        int r;

        if (asprintf(&source, "%s (%s)", base, import->format) < 0)
                return -ENOMEM;
        image->agent = import->agent;
        r = image_set_string(&image->source, source);
        if (r == 0)
                r = image_set_string(&image->format, "raw");
        if (r == 0)
                r = image_set_string(&image->arch, "x86_64");
        if (r == 0)
                r = image_set_string(&image->cmdline, import->cmdline);
        return r < 0 ? r : image_set_string(&image->files[IMAGE_FILE_DISK].name, DISK);
}

int image_import_open(const char *file, const struct image_import *import, int *ret_fd, uint64_t *ret_need,
                      struct error *error) {
        _cleanup_close_ int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        int r;

        if (fd < 0)
                return error_set(error, -errno, "image-import", "check the path, and that you may read it: ls -l",
                                 "cannot open %s", file);
        r = check_file(file, fd, import, ret_need, error);
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

int image_import(struct image_store *store, const char *file, const struct image_import *import,
                 const struct image_progress *progress, char **ret_name, struct error *error) {
        _cleanup_(stage_freep) struct stage *stage = NULL;
        _cleanup_(image_freep) struct image *image = calloc(1, sizeof(*image));
        _cleanup_close_ int from = -EBADF;
        _cleanup_(layer_freep) struct layer *layer = NULL;
        uint64_t need = 0;
        int r;

        if (!image || !(image->name = import->name ? strdup(import->name) : image_name_from_file(file)))
                return -ENOMEM;
        r = image_import_open(file, import, &from, &need, error);
        if (r == 0 && streq(import->format, "qcow2"))
                r = foreign_open_qcow2(file, from, &layer, error);
        if (r == 0)
                r = store_check_free(store, image->name, error);
        if (r == 0)
                r = store_check_space(store->root, need, error);
        if (r == 0)
                r = stage_new(store, &stage, error);
        if (r < 0)
                return r;
        step(progress, "copying the disk");
        r = copy_disk(stage, from, layer, import, progress, file, error);
        if (r == 0)
                r = copy_beside(stage, image, import->kernel, IMAGE_FILE_KERNEL, "vmlinuz", error);
        if (r == 0)
                r = copy_beside(stage, image, import->initrd, IMAGE_FILE_INITRD, "initrd", error);
        if (r == 0)
                r = kernel_add_unpacked(stage, image, error);
        if (r == 0)
                r = describe(image, file, import);
        if (r < 0)
                return r;
        step(progress, "writing it to the disk");
        r = stage_commit(stage, image, false, error);
        if (r == 0 && ret_name)
                *ret_name = TAKE_PTR(image->name);
        return r;
}
