// SPDX-License-Identifier: GPL-2.0-or-later
/* vhost-user-blk: a disk whose requests another process does; the model is in vhost-user-blk.c */
#pragma once

#include "vmm/device/device.h"

/**
 * vhost_user_blk_create() - make the disk @index of the machine's configuration, with vhost_user; see device_class.create
 *
 * The machine's memory must be shared. Return: 0; "disk-backend" when the back end is not there or can't be used; -errno.
 */
int vhost_user_blk_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e);

/* Not in the registry: virtio_blk_class makes these disks too, so that all are numbered and placed in one order. */
extern const struct device_class vhost_user_blk_class;
