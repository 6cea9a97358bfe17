// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-target: a new disk image file, which has its name once it is whole
 *
 *      disk_target_open()  a file without a name, in the directory where it is to be
 *      ...                 the caller fills it, and closes it in order
 *      disk_target_keep()  it is on stable storage, then it gets its name, which is, too
 *      disk_target_done()  without keep: nothing is left
 *
 * Theory of operation. Whatever stops a command (an error, kill -9, a power cut), under the name there is the whole image or none, so
 * the command can be given again, and nothing has to be removed by a name that may be somebody else's by then. The file system does that: O_TMPFILE, and
 * linkat(), which never replaces what somebody has put there meanwhile. File systems that can't (9p, NFS) get a temporary name beside it, which
 * only a kill leaves behind: ".lodge-" and 16 digits.
 */
#pragma once

#include "schema/lodge-schema.h"
#include "vmm/block/qcow2/qcow2.h"

struct disk_target {
        const char *path; /* borrowed */
        char *temporary;  /* its name until it is whole; NULL: it has none */
        int fd;           /* locked */
};

#define DISK_TARGET_INIT      ((struct disk_target){ .fd = -EBADF })
#define _cleanup_disk_target_ __attribute__((cleanup(disk_target_done)))

/**
 * disk_target_open() - a new file with an empty image in it
 * @t:        DISK_TARGET_INIT; disk_target_done() it, also on failure
 * @ret_file: borrows the target's descriptor
 *
 * Return: 0, or -errno ("disk-exists", "disk-open", "qcow2-create" ...).
 */
int disk_target_open(struct disk_target *t, const char *path, enum machine_disk_format format,
                     const struct qcow2_create *create, struct file **ret_file, struct error *e);

/** disk_target_keep() - give it its name. -errno with "disk-exists" (there is another file now), "disk-write". */
int disk_target_keep(struct disk_target *t, struct error *e);

void disk_target_done(struct disk_target *t);
