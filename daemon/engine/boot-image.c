// SPDX-License-Identifier: GPL-2.0-or-later
/* boot-image: see boot-image.h */
#include "daemon/engine/boot-image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of the image's where the person has named none. */
static int take_file(const struct image *image, enum image_file_kind kind, char **path) {
        int r;

        if (*path)
                return 0;
        r = image_file_path(image, kind, path);
        return r == -ENOENT ? 0 : r;
}

static int add_append(const struct image *image, struct machine_config *c) {
        char *joined;

        if (!image->cmdline)
                return 0;
        if (asprintf(&joined, "%s%s%s", image->cmdline, c->append ? " " : "", c->append ?: "") < 0)
                return -ENOMEM;
        free(c->append);
        c->append = joined;
        return 0;
}

int boot_image_apply(const struct image *image, struct machine_config *c, struct error *e) {
        bool own_kernel = c->kernel;
        int r;

        if (c->firmware != MACHINE_FIRMWARE_NONE) {
                if (image->files[IMAGE_FILE_DISK].name)
                        return 0;
                return error_set(e, -EINVAL, "firmware-no-disk",
                                 "leave --firmware out: the image has a kernel, which is booted directly",
                                 "image %s has no disk that firmware could start", image->name);
        }
        r = take_file(image, IMAGE_FILE_VMLINUX, &c->kernel);
        if (r == 0)
                r = take_file(image, IMAGE_FILE_KERNEL, &c->kernel);
        if (r == 0 && !own_kernel) /* another kernel's modules are of no use to this one */
                r = take_file(image, IMAGE_FILE_INITRD, &c->initrd);
        if (r == 0 && c->kernel)
                r = add_append(image, c);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot prepare the machine");
        if (c->kernel)
                return 0;
        if (c->append)
                return error_set(e, -EINVAL, "firmware-append",
                                 "leave --append out: the disk's boot loader has the command line",
                                 "image %s has no kernel that a command line could be for", image->name);
        if (!image->files[IMAGE_FILE_DISK].name)
                return error_set(e, -EINVAL, "kernel-missing",
                                 "name a kernel: --kernel FILE --initrd FILE --append 'root=/dev/vda1 ...'",
                                 "image %s has neither a kernel nor a disk", image->name);
        c->firmware = MACHINE_FIRMWARE_BIOS; /* nothing else boots it, but for what a person asks for */
        return 0;
}

int boot_image_add_disk(struct machine_config *c, char *path, enum machine_disk_format format, struct error *e) {
        struct machine_disk_config *last, disk;
        int r = machine_config_add_disks(c, &last);

        if (r < 0) {
                free(path);
                return error_set(e, r, "too-many-devices", NULL,
                                 "there is no room for the image's disk: a machine has at most 20");
        }
        last->path = path;
        last->format = format;
        disk = *last;
        memmove(&c->disks[1], &c->disks[0], (c->n_disks - 1) * sizeof(*c->disks));
        c->disks[0] = disk;
        return 0;
}
