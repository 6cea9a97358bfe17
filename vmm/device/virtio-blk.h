// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-blk: what the rest of this room may know of a disk; the model itself is in virtio-blk.c */
#pragma once

#include "vmm/block/block.h"
#include "vmm/machine/machine.h"

struct dirty;
struct disk_mirror;
struct layer;

/**
 * virtio_blk_resize() - make a disk larger, and tell its driver (virtio 1.2 §5.2.5.2); see block_resize()
 *
 * Return: 0, and @done comes on the machine's loop; -ENOENT "disk-unknown", or what block_resize() refuses.
 */
int virtio_blk_resize(struct machine *machine, unsigned int index, uint64_t size, block_resized_fn done, void *opaque,
                      struct error *e);

/** virtio_blk_block() - the image behind the machine's @index-th disk, or NULL when there is none (yet, or it is a vhost-user disk). */
struct block *virtio_blk_block(const struct machine *machine, unsigned int index);

/**
 * virtio_blk_stats() - what a disk has done, its queues added up; on the machine's loop
 *
 * Return: 0; -ENOENT: the machine has no such disk; -ESRCH: it is a vhost-user disk, whose requests do not come here.
 */
int virtio_blk_stats(struct machine *machine, unsigned int index, struct machine_disk_stats *ret_stats);

/** virtio_blk_mirror() - where the disk's mirror is kept, which is freed with it; NULL when there is no such disk. */
struct disk_mirror **virtio_blk_mirror(const struct machine *machine, unsigned int index);

/* For a disk that there is, on the machine's loop: */

/** virtio_blk_track() - block_queue_track() for all queues of a disk. */
void virtio_blk_track(struct machine *machine, unsigned int index, struct dirty *dirty);

/**
 * virtio_blk_hold(), virtio_blk_release() - let a disk's queues drain and take nothing more, until they are released; nothing is flushed
 *
 * Return: 0; -ETIMEDOUT: its storage does not answer, and they go on.
 */
int virtio_blk_hold(struct machine *machine, unsigned int index);
void virtio_blk_release(struct machine *machine, unsigned int index);

/**
 * virtio_blk_replace() - block_replace() and block_queue_replaced(), for a disk that is held
 * @top: taken over on success, with its descriptor
 *
 * Return: 0, and *@ret_old is the caller's, with its descriptors; -ETIMEDOUT: something is still in flight (a pause's flush).
 */
int virtio_blk_replace(struct machine *machine, unsigned int index, struct layer *top, struct layer **ret_old);
