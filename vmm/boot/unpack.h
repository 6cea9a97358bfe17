// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpack: turn a compressed Linux kernel (bzImage whose payload is gzip, xz, zstd or lz4) into its vmlinux
 *
 * Done once by the parent or when an image is built, not by lodge-vmm: the VMM stays small and starts at once.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/**
 * kernel_unpack() - unpack @kernel_fd (a bzImage) into @out_fd
 * @max: refuse to write more than this many bytes (a hostile file expands for ever)
 *
 * Return: 1 when a vmlinux ELF was written, 0 when the kernel is not compressed or not a bzImage (nothing written), else -errno with
 * "kernel-unpack" naming the format and the place.
 */
int kernel_unpack(int kernel_fd, int out_fd, uint64_t max, struct error *e);
