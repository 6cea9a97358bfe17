// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * resize: the steps on disk by which an image's size changes; whoever has it open calls them in the order that resize.c describes
 */
#pragma once

#include "vmm/block/qcow2/format.h"

/* Where new tables go: see bitmap.h. */
struct qcow2_bitmap_space;

/**
 * qcow2_resize_check() - may the image get @size bytes?
 * Return: 0, -EINVAL ("qcow2-resize": no multiple of 512, or too large for the format), -ENOTSUP (snapshots or bitmaps, which would
 * not follow)
 */
int qcow2_resize_check(const struct qcow2_header *h, uint64_t size, struct error *e);

/**
 * qcow2_resize_l1() - give the image an L1 table for @size bytes, if it has none that is large enough; the size itself stays
 * @h: follows when the header on disk has changed
 * @space: for the new table; the old one is freed
 * @ret_unsure: set when it failed and the header on disk may name the new table all the same: qcow2_resize_store_l1(), before the table of @h
 *         is written again, and the new one's clusters are lost until a repair
 *
 * The new table holds what the old one holds in the file, and is durable before the header points at it. The caller keeps flushes away until it
 * writes to the new place; what has changed only in memory follows then.
 */
int qcow2_resize_l1(struct file *file, struct qcow2_header *h, uint64_t size, const struct qcow2_bitmap_space *space,
                    bool *ret_unsure, struct error *e);

/** qcow2_resize_store_l1() - write where @h's L1 table is, durably. 0 or -errno */
int qcow2_resize_store_l1(struct file *file, const struct qcow2_header *h);

/** qcow2_resize_store() - write the size, durably. */
int qcow2_resize_store(struct file *file, struct qcow2_header *h, uint64_t size, struct error *e);
