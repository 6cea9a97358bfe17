// SPDX-License-Identifier: GPL-2.0-or-later
/* unpack: make a raw disk of a file of any format that we take, in a process that is shut in */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

/**
 * unpack_run() - make @to (empty) read like the disk in @from
 * @reserve: bytes of @to's file system that it leaves free, else -ENOSPC "image-no-space"; 0: as many as there are
 *
 * raw, qcow2 and xz by code of ours that opens nothing; vmdk and vhdx by qemu-img, after a look at their headers: one that says
 * that the disk is in other files is refused, and qemu-img could not open them. img: raw or qcow2, by its first bytes, of a file that a checksum covers.
 */
int unpack_run(enum fetch_format format, int from, int to, uint64_t reserve, struct error *e);
