// SPDX-License-Identifier: GPL-2.0-or-later
/* run-image: see run-image.h */
#include "cli/run-image.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/rundir.h"
#include "daemon/image/image.h"

struct run_image {
        struct image_store *store;
        struct image *image;
        struct rundir *rundir;
        int lock_fd;
};

void run_image_free(struct run_image *i) {
        if (!i)
                return;
        rundir_free(i->rundir);
        safe_close(i->lock_fd);
        image_free(i->image);
        image_store_free(i->store);
        free(i);
}

void run_image_opened(struct run_image *i) {
        if (i)
                rundir_free(TAKE_PTR(i->rundir));
}

/* Beside the store, where there is room for disks; else where big temporary files go. */
static int make_rundir(struct run_image *i, struct error *e) {
        const char *tmp = getenv("TMPDIR");
        _cleanup_free_ char *beside = NULL, *fallback = NULL;

        if (asprintf(&beside, "%s/.run", image_store_root(i->store)) < 0) {
                beside = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        }
        if (rundir_new(beside, &i->rundir, NULL) == 0)
                return 0;
        if (asprintf(&fallback, "%s/lodge-%u", tmp && tmp[0] == '/' ? tmp : "/var/tmp", geteuid()) < 0) {
                fallback = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        }
        return rundir_new(fallback, &i->rundir, e);
}

/* The image's disk goes to the front: it is the one that the machine boots from. */
static int add_disk(struct run_image *i, struct machine_config *c, struct error *e) {
        struct machine_disk_config *last, disk;
        char *path;
        int r;

        if (!i->image->files[IMAGE_FILE_DISK].name)
                return 0;
        r = make_rundir(i, e);
        if (r < 0)
                return r;
        r = image_make_overlay(i->image, rundir_path(i->rundir), &path, e);
        if (r < 0)
                return r;
        r = machine_config_add_disks(c, &last);
        if (r < 0) {
                free(path);
                return error_set(e, r, "too-many-devices", NULL,
                                 "there is no room for the image's disk: a machine has at most 20");
        }
        last->path = path;
        last->format = MACHINE_DISK_FORMAT_QCOW2;
        disk = *last;
        memmove(&c->disks[1], &c->disks[0], (c->n_disks - 1) * sizeof(*c->disks));
        c->disks[0] = disk;
        return 0;
}

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

int run_image_apply(struct machine_config *c, struct run_image **ret_image, struct error *e) {
        _cleanup_(run_image_freep) struct run_image *i = calloc(1, sizeof(*i));
        bool own_kernel = c->kernel;
        int r;

        if (!i)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        i->lock_fd = -EBADF;
        r = image_store_open(NULL, NULL, &i->store, e);
        if (r == 0)
                r = image_find(i->store, c->image, &i->image, e);
        if (r == 0)
                r = image_lock(i->image, &i->lock_fd, e);
        if (r == 0)
                r = add_disk(i, c, e);
        if (r < 0)
                return r;
        r = take_file(i->image, IMAGE_FILE_VMLINUX, &c->kernel);
        if (r == 0)
                r = take_file(i->image, IMAGE_FILE_KERNEL, &c->kernel);
        if (r == 0 && !own_kernel) /* another kernel's modules are of no use to this one */
                r = take_file(i->image, IMAGE_FILE_INITRD, &c->initrd);
        if (r == 0)
                r = add_append(i->image, c);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot prepare the machine");
        if (!c->kernel)
                return error_set(e, -EINVAL, "kernel-missing",
                                 "name one: --kernel FILE --initrd FILE --append 'root=/dev/vda1 ...'",
                                 "image %s has no kernel beside it, and this version boots no firmware", c->image);
        *ret_image = TAKE_PTR(i);
        return 0;
}
