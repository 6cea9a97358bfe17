// SPDX-License-Identifier: GPL-2.0-or-later
/* run-image: see run-image.h */
#include "cli/run-image.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/rundir.h"
#include "daemon/engine/boot-image.h"
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
        return boot_image_add_disk(c, path, MACHINE_DISK_FORMAT_QCOW2, e);
}

int run_image_apply(struct machine_config *c, struct run_image **ret_image, struct error *e) {
        _cleanup_(run_image_freep) struct run_image *i = calloc(1, sizeof(*i));
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
        if (r == 0)
                r = boot_image_apply(i->image, c, e);
        if (r < 0)
                return r;
        *ret_image = TAKE_PTR(i);
        return 0;
}
