// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-mirror: see disk-mirror.h */
#include "vmm/device/disk-mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/block/chain/chain.h"
#include "vmm/block/mirror.h"
#include "vmm/block/qcow2/qcow2.h"
#include "vmm/device/virtio-blk.h"

struct disk_mirror {
        struct machine *machine;
        unsigned int disk;
        struct machine_mirror options;
        struct mirror *mirror;
        bool holding;                     /* the disk stands still */
        int old_fds[LAYER_CHAIN_MAX + 1]; /* after a pivot: of the images that are being closed */
        unsigned int n_old_fds;
};

static int unknown(unsigned int disk, struct error *e) {
        return error_set(e, -ENOENT, "disk-unknown", "disks are disk0, disk1, ... in the machine's order",
                         "there is no disk %u", disk);
}

/* What is below the image would show where the disk has zeroes. */
static int refuse_backing(const struct layer *layer, struct error *e) {
        _cleanup_free_ char *strings = NULL;
        struct qcow2_info info;
        int r = qcow2_peek(layer->file, &info, &strings, e);

        if (r == 0 && info.backing_file)
                r = error_set(e, -EINVAL, "mirror-backing", "create it without one",
                              "the mirror's target stands on a backing image");
        return r;
}

/* On a worker. */
static int open_target(void *opaque, struct layer **ret_layer, struct error *e) {
        const struct disk_mirror *dm = opaque;
        const struct file_options o = {
                .sys = dm->machine->sys,
                .fd = dm->options.fd,
                .direct = dm->options.pivot && dm->machine->config->disks[dm->disk].direct,
        };
        struct layer *layer;
        int r = chain_open_layer(&o, dm->options.format, true, &layer, e);

        if (r == 0 && streq(dm->options.format, "qcow2")) {
                r = refuse_backing(layer, e);
                if (r < 0)
                        layer_close(layer);
        }
        if (r == 0)
                *ret_layer = layer;
        return r;
}

/* seccomp: block: close (rare) -- an image that a disk was moved away from */

/* On a worker. The guest goes on with the target, which has it all: what fails here is no longer its business. */
static void close_old(void *opaque, struct layer *old) {
        struct disk_mirror *dm = opaque;
        int r = layer_flush(old);

        if (r < 0)
                log_warning("disk%u: its old image cannot be flushed: %s", dm->disk, strerror(-r));
        layer_close(old);
        for (unsigned int i = 0; i < dm->n_old_fds; i++)
                safe_close(dm->old_fds[i]);
}

static void let_go(struct disk_mirror *dm) {
        virtio_blk_track(dm->machine, dm->disk, NULL);
        if (dm->holding)
                virtio_blk_release(dm->machine, dm->disk);
        dm->holding = false;
}

static int replace(void *opaque, struct layer *target, struct layer **ret_old, struct error *e) {
        struct disk_mirror *dm = opaque;
        int r = virtio_blk_replace(dm->machine, dm->disk, target, ret_old);

        if (r < 0)
                return error_set(e, r, "disk-hung", NULL, "the storage of disk%u does not answer", dm->disk);
        dm->options.fd = -EBADF; /* the disk's */
        for (const struct layer *l = *ret_old; l; l = l->backing)
                dm->old_fds[dm->n_old_fds++] = file_fd(l->file);
        let_go(dm);
        log_info("disk%u goes on with its mirror's target", dm->disk);
        return 0;
}

static struct machine_disk_job job_of(const struct disk_mirror *dm) {
        static const enum machine_job_state states[] = {
                [MIRROR_STATE_OPENING] = MACHINE_JOB_CREATED,  [MIRROR_STATE_COPYING] = MACHINE_JOB_RUNNING,
                [MIRROR_STATE_READY] = MACHINE_JOB_READY,      [MIRROR_STATE_FINISHING] = MACHINE_JOB_PENDING,
                [MIRROR_STATE_FLUSHING] = MACHINE_JOB_PENDING, [MIRROR_STATE_CLOSING] = MACHINE_JOB_PENDING,
                [MIRROR_STATE_ENDED] = MACHINE_JOB_PENDING,
        };
        struct mirror_progress p = mirror_progress(dm->mirror);

        return (struct machine_disk_job){
                .disk = dm->disk,
                .state = p.stopping ? MACHINE_JOB_ABORTING : states[p.state],
                .done = p.copied,
                .left = p.left,
                .speed = dm->options.speed,
        };
}

static void ended(struct disk_mirror *dm) {
        struct machine *machine = dm->machine;
        struct machine_disk_job job = job_of(dm);
        const struct error *e;
        int r = mirror_result(dm->mirror, &job.write, &e);

        let_go(dm);
        *virtio_blk_mirror(machine, dm->disk) = NULL;
        if (r < 0 && r != -ECANCELED) {
                job.error = -r;
                job.message = e->message;
                log_warning("disk%u: its mirror has failed: %s: %s", dm->disk, e->message ?: "", strerror(-r));
                machine_disk_job(machine, MACHINE_EVENT_JOB_ERROR, &job);
        }
        machine_disk_job(machine, r == -ECANCELED ? MACHINE_EVENT_JOB_CANCELLED : MACHINE_EVENT_JOB_COMPLETED, &job);
        disk_mirror_free(dm);
}

static void on_event(void *opaque, enum mirror_event event) {
        struct disk_mirror *dm = opaque;
        struct machine_disk_job job;

        if (event == MIRROR_ENDED) {
                ended(dm);
                return;
        }
        job = job_of(dm);
        machine_disk_job(dm->machine, MACHINE_EVENT_JOB_READY, &job);
}

static bool mirror_uses(const struct disk_mirror *dm, int fd) {
        for (unsigned int i = 0; i < dm->n_old_fds; i++)
                if (file_is_same(dm->old_fds[i], fd))
                        return true;
        return file_is_same(dm->options.fd, fd);
}

/* Opening an image for writing changes it: one that a disk of the machine's stands on, or another mirror has, must not even be opened. */
static int refuse_own(const struct machine *machine, int fd, struct error *e) {
        for (unsigned int i = 0; i < machine->config->n_disks; i++) {
                const struct block *block = virtio_blk_block(machine, i);

                if (block && block_uses(block, fd))
                        return error_set(e, -EINVAL, "mirror-own", "hand in another one",
                                         "the mirror's target is the image of disk%u", i);
                if (block && *virtio_blk_mirror(machine, i) && mirror_uses(*virtio_blk_mirror(machine, i), fd))
                        return error_set(e, -EINVAL, "mirror-own", "hand in another one, or wait for its end",
                                         "the mirror of disk%u has that target, or its image", i);
        }
        return 0;
}

int disk_mirror_start(struct machine *machine, unsigned int disk, const struct machine_mirror *options,
                      struct error *e) {
        struct disk_mirror **place = virtio_blk_mirror(machine, disk);
        struct disk_mirror *dm;
        struct mirror_options mo = {
                .loop = machine->loop,
                .speed = options->speed,
                .open = open_target,
                .event = on_event,
        };
        int r;

        if (!place)
                return unknown(disk, e);
        r = refuse_own(machine, options->fd, e);
        if (r < 0)
                return r;
        dm = calloc(1, sizeof(*dm));
        if (!dm)
                return error_set(e, -ENOMEM, "mirror-memory", NULL, "no memory for a mirror");
        *dm = (struct disk_mirror){ .machine = machine, .disk = disk, .options = *options };
        mo.block = virtio_blk_block(machine, disk);
        mo.opaque = dm;
        if (options->pivot) {
                mo.replace = replace;
                mo.close = close_old;
        }
        r = mirror_new(&mo, &dm->mirror, e);
        if (r < 0) {
                free(dm);
                return r;
        }
        *place = dm;
        virtio_blk_track(machine, disk, mirror_dirty(dm->mirror));
        mirror_start(dm->mirror);
        return 0;
}

int disk_mirror_query(struct machine *machine, unsigned int disk, struct machine_disk_job *ret_job) {
        struct disk_mirror **place = virtio_blk_mirror(machine, disk);

        if (!place || !*place)
                return disk < machine->config->n_disks ? -ESRCH : -ENOENT;
        *ret_job = job_of(*place);
        return 0;
}

static int finish(struct disk_mirror *dm, struct error *e) {
        int r;

        if (job_of(dm).state != MACHINE_JOB_READY)
                return error_set(e, -EBUSY, "job-not-ready", "wait for BLOCK_JOB_READY",
                                 "the mirror of disk%u can't be completed yet, or has been", dm->disk);
        r = virtio_blk_hold(dm->machine, dm->disk);
        if (r < 0)
                return error_set(e, r, "disk-hung", NULL, "the storage of disk%u does not answer", dm->disk);
        dm->holding = true;
        (void)mirror_finish(dm->mirror); /* unless it has just failed, which ends it too */
        return 0;
}

int disk_mirror_end(struct machine *machine, unsigned int disk, bool complete, struct error *e) {
        struct disk_mirror **place = virtio_blk_mirror(machine, disk);

        if (!place)
                return unknown(disk, e);
        if (!*place)
                return error_set(e, -ESRCH, "job-none", NULL, "disk%u is not being mirrored", disk);
        if (complete)
                return finish(*place, e);
        mirror_cancel((*place)->mirror);
        return 0;
}

void disk_mirror_free(struct disk_mirror *dm) {
        if (!dm)
                return;
        mirror_free(dm->mirror);
        safe_close(dm->options.fd);
        free(dm);
}
