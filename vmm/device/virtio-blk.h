// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-blk: what the rest of this room may know of a disk; the model itself is in virtio-blk.c */
#pragma once

#include "vmm/block/block.h"
#include "vmm/machine/machine.h"

/**
 * virtio_blk_resize() - make a disk larger, and tell its driver (virtio 1.2 §5.2.5.2); see block_resize()
 *
 * Return: 0, and @done comes on the machine's loop; -ENOENT "disk-unknown", or what block_resize() refuses.
 */
int virtio_blk_resize(struct machine *machine, unsigned int index, uint64_t size, block_resized_fn done, void *opaque,
                      struct error *e);

/** virtio_blk_block() - the image behind the machine's @index-th disk, or NULL when there is none (yet). */
struct block *virtio_blk_block(const struct machine *machine, unsigned int index);
