// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio-blk: what the rest of this room may know of a disk; the model itself is in virtio-blk.c */
#pragma once

#include "vmm/block/block.h"
#include "vmm/machine/machine.h"

/** virtio_blk_block() - the image behind the machine's @index-th disk, or NULL when there is none (yet). */
struct block *virtio_blk_block(const struct machine *machine, unsigned int index);
