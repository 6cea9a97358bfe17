// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpack: turn a compressed Linux kernel (bzImage whose payload is gzip, xz, zstd or lz4) into its vmlinux
 *
 * Done once by the parent or when an image is built, not by lodge-vmm: the VMM stays small and starts at once. The vmlinux starts by its
 * PVH note (elf.c). What it costs the guest: a kernel that doesn't unpack itself doesn't move itself either, so there is no KASLR; it runs at the address that it was
 * linked for. bench/boot has the times.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/**
 * kernel_unpack() - unpack @kernel_fd (a bzImage) into @out_fd
 * @out_fd: written from its current place on
 * @max: refuse to write more than this many bytes (a hostile file expands for ever)
 *
 * Return: 1 when a vmlinux ELF was written; 0 (and nothing written) when the file is no bzImage, or its payload isn't compressed or in a
 * format that isn't unpacked here (bzip2, lzma, lzo): then boot it as it is. Else -errno with "kernel-unpack" naming the format and the
 * place; @out_fd's content is rubbish then.
 */
int kernel_unpack(int kernel_fd, int out_fd, uint64_t max, struct error *e);
