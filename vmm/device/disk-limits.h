// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-limits: which group of vmm/block/throttle.h a machine's disk belongs to, and with what limits
 *
 * A disk without a group's name has a group of its own, called as QMP calls the disk: "disk0", "disk1", ... Disks that name the same
 * group are in it together; the limits are the group's.
 */
#pragma once

#include "base/error.h"
#include "schema/lodge-schema.h"
#include "vmm/block/throttle.h"
#include "vmm/machine/machine.h"

/**
 * disk_limits_join() - the group for a disk that is about to be made
 *
 * Return: 0 with a reference, -ENOMEM, or -EINVAL with "disk-throttle": limits that contradict each other or, where the group is
 * there already, its own.
 */
int disk_limits_join(struct machine *machine, unsigned int index, const struct throttle_config *config,
                     struct throttle_group **ret_group, struct error *e);

/** disk_limits_set() - other limits, and maybe another group, for a disk at work; -ENOENT "disk-unknown", else as above. */
int disk_limits_set(struct machine *machine, unsigned int index, const struct throttle_config *config, struct error *e);
