// SPDX-License-Identifier: GPL-2.0-or-later
/* run-image: what an image adds to a machine: kernel, initrd, command line, and a disk of the machine's own */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"
#include "schema/lodge-schema.h"

struct run_image;

/**
 * run_image_apply() - look the image up and complete @config with what the person has not given
 * @config:    config->image names it
 * @ret_image: holds the image's lock and the disk's directory; free it when the machine has ended
 *
 * The image's disk becomes the machine's first. Return: 0, or -errno with @e: the image's ids, "run-directory".
 */
int run_image_apply(struct machine_config *config, struct run_image **ret_image, struct error *e);

/** run_image_opened() - the machine has its disk open: take its name away. */
void run_image_opened(struct run_image *image);

void run_image_free(struct run_image *image);
DEFINE_CLEANUP(run_image, run_image_free);
