// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-errors: what becomes of a disk's request that the host's storage has failed
 *
 *      report   the guest is told, as by a real disk
 *      pause    the request is kept, the machine pauses, and when it goes on the request is tried again: the guest notices nothing
 *      ignore   the guest is told that all is well
 *
 * The disk's configuration says which (read_error, write_error). A failed flush is always reported, whatever it says: once fsync() has
 * failed, Linux has forgotten the data that it could not write, and to try again would only make the loss look like a success. From then on
 * each flush of the image fails (file_sync()), until it is opened anew.
 */
#pragma once

#include "schema/lodge-schema.h"
#include "vmm/block/block.h"
#include "vmm/machine/machine.h"

/** disk_error_is_guests() - it was a mistake of the guest's, or its reset, and no failure of storage: report it to nobody else. */
bool disk_error_is_guests(const struct block_request *request, int error);

/** disk_error_action() - for @request, which ended with @error (an errno). */
enum disk_error_action disk_error_action(const struct vmm_disk_config *config, const struct block_request *request,
                                         int error);
