// SPDX-License-Identifier: GPL-2.0-or-later
/* boot-image: what a machine boots that is made from an image: the image's kernel, initial RAM disk and command line */
#pragma once

#include "base/error.h"
#include "daemon/image/image.h"
#include "schema/lodge-schema.h"

/**
 * boot_image_apply() - fill in what the person has not named: kernel, initrd (an own kernel needs an own one) and command line, to
 * which the person's is added
 *
 * Return: 0, -ENOMEM "memory", or -EINVAL "kernel-missing" or "firmware-no-disk" when there is nothing to boot.
 */
int boot_image_apply(const struct image *image, struct machine_config *c, struct error *e);

/** boot_image_add_disk() - make @path the machine's first disk, the one that it boots from. @path is taken over, also on failure. */
int boot_image_add_disk(struct machine_config *c, char *path, enum machine_disk_format format, struct error *e);
