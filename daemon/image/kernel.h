// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kernel: the unpacked kernel beside the packed one, so that a machine's start decompresses nothing
 */
#pragma once

#include "daemon/image/store.h"

/**
 * kernel_add_unpacked() - write "vmlinux" into the stage from the image's kernel, and name it in @image
 *
 * Does nothing when the image has no kernel, or has one that isn't compressed.
 */
int kernel_add_unpacked(struct stage *stage, struct image *image, struct error *error);
