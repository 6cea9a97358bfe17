// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mirror: copy a disk to another image while it is used
 *
 *      struct mirror *m;
 *
 *      mirror_new(&options, &m, e);
 *      for each queue of the disk: block_queue_track(queue, mirror_dirty(m))
 *      mirror_start(m);
 *      ... MIRROR_READY: all is copied, and what changes is copied again
 *      drain the queues and hold back what comes, mirror_finish(m)
 *      ... MIRROR_ENDED: mirror_result() is 0, and the target holds what the disk held since they were drained
 *      for each queue: block_queue_track(queue, NULL); let them go on
 *      mirror_free(m);
 *
 * Or the disk goes on with the copy (a pivot): mirror_options.replace() is called when all is copied and flushed. Whatever fails before it, or
 * in it, is the mirror's failure, and the disk stays with its images; afterwards nothing is, and MIRROR_ENDED comes when the old images are
 * closed.
 *
 * The target's image is as large as the disk, or larger: what lies behind the disk's end is left as it is. It is the mirror's alone meanwhile, and
 * so none of the disk's own files: see block_uses().
 * A mirror that fails, or is cancelled, leaves a target of no use. The disk, and whoever uses it, never notices either.
 *
 * Threads. All calls, and event(), on the thread of the loop given to mirror_new(), under its guard.
 */
#pragma once

#include "base/error.h"
#include "base/loop.h"
#include "vmm/block/block.h"
#include "vmm/block/dirty.h"

struct mirror;

enum mirror_event {
        MIRROR_READY, /* nothing is left to copy, for the first time */
        MIRROR_ENDED, /* see mirror_result(); the last one, and the mirror may be freed in it */
};

enum mirror_state {
        MIRROR_STATE_OPENING,
        MIRROR_STATE_COPYING,
        MIRROR_STATE_READY,
        MIRROR_STATE_FINISHING,
        MIRROR_STATE_FLUSHING, /* the target, for a pivot */
        MIRROR_STATE_CLOSING,  /* the target is flushed and closed; or the old images are */
        MIRROR_STATE_ENDED,
};

struct mirror_options {
        struct block *block; /* the source; must outlive the mirror, and does not grow meanwhile */
        struct loop *loop;
        uint64_t speed; /* bytes of data in a second, on average; 0: as fast as it goes, a few pieces at a time */
        /* Open the target's layer; on a worker thread, which closes it too. -errno with an error. */
        int (*open)(void *opaque, struct layer **ret_layer, struct error *e);
        /*
         * For a pivot, else NULL: let the disk go on with @target (block_replace()), and its queues too, which track no more; on the loop. From then on
         * @target is the disk's. -errno with an error: nothing has changed.
         */
        int (*replace)(void *opaque, struct layer *target, struct layer **ret_old, struct error *e);
        /* Then: flush and close the old images; on a worker, which may serve the guest meanwhile. */
        void (*close)(void *opaque, struct layer *old);
        void (*event)(void *opaque, enum mirror_event event);
        void *opaque;
};

struct mirror_progress {
        enum mirror_state state;
        bool stopping;         /* cancelled, or failed */
        uint64_t copied, left; /* bytes, whole pieces of DIRTY_PIECE; what is copied twice counts twice */
};

/**
 * mirror_new() - a mirror that does nothing yet but can be marked in
 *
 * Return: 0; -EBUSY "disk-busy" (one mirror at a time, and none while the disk grows), -ENOMEM "mirror-memory".
 */
int mirror_new(const struct mirror_options *options, struct mirror **ret_mirror, struct error *e);

/** mirror_free() - waits for pieces in flight, then releases; no queue tracks it any more. NULL is fine. */
void mirror_free(struct mirror *mirror);
DEFINE_CLEANUP(mirror, mirror_free);

/** mirror_dirty() - for block_queue_track(). */
struct dirty *mirror_dirty(struct mirror *mirror);

/** mirror_start() - begin, with every queue tracked; MIRROR_ENDED comes in any case. */
void mirror_start(struct mirror *mirror);

/**
 * mirror_finish() - copy what is left, flush the target, end
 *
 * The disk's queues are drained, and stay so until MIRROR_ENDED. Return: 0, or -EBUSY before MIRROR_READY and after the end has begun.
 */
int mirror_finish(struct mirror *mirror);

/** mirror_cancel() - end, soon; too late once a finished target is being flushed, or with a pivot: once it has happened. */
void mirror_cancel(struct mirror *mirror);

struct mirror_progress mirror_progress(const struct mirror *mirror);

/**
 * mirror_result() - after MIRROR_ENDED: how it went
 * @ret_write: on failure: was it the target that failed, rather than the source? May be NULL
 * @ret_error: what happened, in words; the mirror's. May be NULL
 *
 * Return: 0 the copy is whole and on stable storage, and with a pivot the disk's; -ECANCELED; else the host's errno, or -EINVAL with
 * "mirror-size" (the target is too small) or "mirror-block-size" (a pivot, and its logical blocks are larger than the disk's), -EROFS
 * "mirror-readonly", or as open() or replace() said.
 */
int mirror_result(const struct mirror *mirror, bool *ret_write, const struct error **ret_error);
