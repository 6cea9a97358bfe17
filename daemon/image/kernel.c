// SPDX-License-Identifier: GPL-2.0-or-later
/* kernel: see kernel.h */
#include "daemon/image/kernel.h"

#include <fcntl.h>

#include "daemon/image/meta.h"
#include "vmm/boot/unpack.h"

#define VMLINUX     "vmlinux"
#define VMLINUX_MAX (512ULL << 20)

int kernel_add_unpacked(struct stage *stage, struct image *image, struct error *error) {
        _cleanup_close_ int from = -EBADF, to = -EBADF;
        int r;

        if (!image->files[IMAGE_FILE_KERNEL].name)
                return 0;
        from = openat(stage->fd, image->files[IMAGE_FILE_KERNEL].name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        to = openat(stage->fd, VMLINUX, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (from < 0 || to < 0)
                return error_set(error, -errno, "image-write", NULL, "cannot unpack the kernel of the new image");
        r = kernel_unpack(from, to, VMLINUX_MAX, error);
        if (r < 0)
                return r;
        if (r == 0) { /* nothing to unpack; the commit would refuse an empty file */
                (void)unlinkat(stage->fd, VMLINUX, 0);
                return 0;
        }
        return image_set_string(&image->files[IMAGE_FILE_VMLINUX].name, VMLINUX);
}
