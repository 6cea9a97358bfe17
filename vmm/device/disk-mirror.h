// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-mirror: a machine's disk, mirrored to an image that control has handed in (vmm/block/mirror.h)
 *
 * A disk has one mirror at most. It ends when it is told to, when it fails, and with the machine. The machine stays with its own disk unless
 * it is told to pivot: then the guest goes on with the target, and the files that the disk was in until then are closed when the job ends.
 *
 * Threads: the machine's loop, under its lock.
 */
#pragma once

#include "base/error.h"
#include "vmm/machine/machine.h"

struct disk_mirror;

/**
 * disk_mirror_start() - begin, with a target that holds no more than an image of the right size
 *
 * Return: 0, and the machine's events tell how it goes on, also when the target is of no use ("mirror-backing": it names a backing image,
 * or as in mirror_result()); -ENOENT "disk-unknown", -EINVAL "mirror-own" (a disk of the machine's uses that file, or another mirror does), or
 * what mirror_new() refuses.
 */
int disk_mirror_start(struct machine *machine, unsigned int disk, const struct machine_mirror *options,
                      struct error *e);

/** disk_mirror_query() - how far it is; -ENOENT no such disk, -ESRCH it has none. */
int disk_mirror_query(struct machine *machine, unsigned int disk, struct machine_disk_job *ret_job);

/**
 * disk_mirror_end() - end it, soon
 * @complete: copy the rest first, and pivot if that was asked for, while the disk stands still; else it is cancelled
 *
 * Return: 0; -ENOENT "disk-unknown", -ESRCH "job-none", -EBUSY "job-not-ready", -ETIMEDOUT "disk-hung" (the disk's storage does not answer).
 */
int disk_mirror_end(struct machine *machine, unsigned int disk, bool complete, struct error *e);

/** disk_mirror_free() - its end, with the disk's; no queue tracks it any more. NULL is fine. */
void disk_mirror_free(struct disk_mirror *dm);
