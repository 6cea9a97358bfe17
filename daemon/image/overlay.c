// SPDX-License-Identifier: GPL-2.0-or-later
/* overlay: a machine's own disk from an image's; see image.h */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "daemon/image/copy.h"
#include "daemon/image/store.h"

int image_make_overlay(const struct image *image, const char *dir, char **ret_path, struct error *error) {
        _cleanup_close_ int from = -EBADF, to = -EBADF, dir_fd = -EBADF;
        _cleanup_free_ char *base = NULL, *path = NULL;
        struct stat st;
        int r;

        r = image_file_path(image, IMAGE_FILE_DISK, &base);
        if (r == -ENOENT)
                return error_set(error, -ENOENT, "image-no-disk", "start it without a disk, or choose another image",
                                 "image %s has no disk", image->name);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/disk.raw", dir) < 0)
                return -ENOMEM;
        from = open(base, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (from < 0 || fstat(from, &st) < 0)
                return error_set(error, -errno, "image-damaged", NULL, "cannot open %s", base);
        r = store_check_space(dir, (uint64_t)st.st_blocks * 512 / 16, error); /* a clone needs hardly any */
        if (r < 0)
                return r;
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        to = dir_fd < 0 ? -1 : openat(dir_fd, "disk.raw", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (to < 0) {
                r = -errno;
                error_set(error, r, "image-overlay", NULL, "cannot make the machine's disk %s", path);
                error_set_fix(error, "check that the directory is yours: ls -ld %s", dir);
                return r;
        }
        r = copy_sparse(&sys_real, from, to, -EBADF);
        if (r < 0) {
                unlinkat(dir_fd, "disk.raw", 0);
                error_set(error, r, "image-overlay", NULL, "cannot copy the disk of image %s to %s", image->name, path);
                error_set_fix(error, "make room: df -h %s", dir);
                return r;
        }
        *ret_path = TAKE_PTR(path);
        return 0;
}
