// SPDX-License-Identifier: GPL-2.0-or-later
/* overlay: a machine's own disk from an image's; see image.h */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "daemon/image/store.h"
#include "vmm/block/qcow2/qcow2.h"

int image_make_overlay(const struct image *image, const char *dir, char **ret_path, struct error *error) {
        _cleanup_close_ int from = -EBADF, to = -EBADF, dir_fd = -EBADF;
        _cleanup_free_ char *base = NULL, *path = NULL;
        _cleanup_(file_freep) struct file *file = NULL;
        struct qcow2_create create;
        struct stat st;
        int r;

        r = image_file_path(image, IMAGE_FILE_DISK, &base);
        if (r == -ENOENT)
                return error_set(error, -ENOENT, "image-no-disk", "start it without a disk, or choose another image",
                                 "image %s has no disk", image->name);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/disk.qcow2", dir) < 0)
                return -ENOMEM;
        from = open(base, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (from < 0 || fstat(from, &st) < 0)
                return error_set(error, -errno, "image-damaged", NULL, "cannot open %s", base);
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        to = dir_fd < 0 ? -1 : openat(dir_fd, "disk.qcow2", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (to < 0) {
                r = -errno;
                error_set(error, r, "image-overlay", NULL, "cannot make the machine's disk %s", path);
                error_set_fix(error, "check that the directory is yours: ls -ld %s", dir);
                return r;
        }
        create = (struct qcow2_create){ .size = (uint64_t)st.st_size, .backing_file = base, .backing_format = "raw" };
        r = file_open(&(struct file_options){ .fd = to }, &file, error);
        if (r == 0)
                r = qcow2_create(file, &create, error);
        if (r < 0) {
                unlinkat(dir_fd, "disk.qcow2", 0);
                error_prefix(error, "the machine's disk %s", path);
                return r;
        }
        *ret_path = TAKE_PTR(path);
        return 0;
}
