// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * foreign: a disk that somebody has made, judged by code of ours that opens no file
 */
#pragma once

#include "base/error.h"
#include "vmm/block/layer/layer.h"

#define FOREIGN_DISK_MAX (1ULL << 46) /* bytes: a header can claim more than can be digested */

/** foreign_open_qcow2() - a qcow2 file that is sound and complete in itself, for reading. @name: for messages. */
int foreign_open_qcow2(const char *name, int fd, struct layer **ret_layer, struct error *e);

/** foreign_check_raw() - whole sectors, and not cut short as far as its partition table tells. */
int foreign_check_raw(const char *name, int fd, uint64_t size, struct error *e);
