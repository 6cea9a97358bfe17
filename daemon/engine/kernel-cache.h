// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kernel-cache: unpacked kernels, so that no guest has to decompress its own at each start
 *
 * The cache is $XDG_CACHE_HOME/lodge/kernels (~/.cache by default), one ELF file for each kernel, named by what tells one content from
 * another without reading it: device, inode, size and the times of the last change of content and of the inode. A kernel that is
 * replaced gets another name; the eight youngest are kept. A file appears complete or not at all (O_TMPFILE, linkat).
 */
#pragma once

#include "base/error.h"

/**
 * kernel_cache_unpack() - the unpacked form of a kernel
 * @kernel_fd: any kernel, at its beginning
 * @ret_fd:    an ELF file, opened for reading
 *
 * Return: 1 with @ret_fd; 0 when the kernel is to be booted as it is (not compressed, an unknown compression, or no room to unpack it
 * in); -EUCLEAN or the like with @e, "kernel-unpack", when it is damaged.
 */
int kernel_cache_unpack(int kernel_fd, int *ret_fd, struct error *e);
