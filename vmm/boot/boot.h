// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot: put a kernel into the guest's memory the way that firmware or a boot loader would, and say how the boot CPU starts
 *
 * Formats, told apart by their headers: Linux bzImage (64-bit boot protocol), ELF64 with a PVH note or a Linux vmlinux (64-bit protocol with our own
 * zero page), multiboot 1 (ELF32 or a.out kludge; one module). All numbers in the headers are hostile until checked against the
 * file's size and the guest's RAM.
 *
 * The loader runs again at each reset, from the same descriptors (pread only: their file offset is shared with other processes).
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/memory.h"

enum boot_format { BOOT_BZIMAGE, BOOT_ELF_LINUX, BOOT_ELF_PVH, BOOT_MULTIBOOT, BOOT_FORMAT_COUNT };

struct boot_source {
        int kernel_fd;      /* a regular file */
        int initrd_fd;      /* or -1; multiboot: the module */
        const char *append; /* command line, may be NULL */
        uint64_t rsdp;      /* guest physical address of the RSDP, or 0 */
};

/* How the boot CPU starts; everything else is as after INIT. */
struct boot_entry {
        enum boot_format format;
        struct kvm_regs regs;
        struct kvm_sregs sregs; /* starts as read from the vCPU; the loader changes segments, control registers, EFER */
};

/**
 * boot_load() - load and describe the entry
 * @sregs: the boot CPU's special registers as read from KVM
 *
 * Errors: "kernel-format" (no format fits: says what the file looks like), "kernel-truncated", "kernel-too-big" (RAM), "initrd-too-big",
 * "cmdline-too-long", "kernel-read".
 */
int boot_load(struct memory *memory, const struct boot_source *source, const struct kvm_sregs *sregs,
              struct boot_entry *ret_entry, struct error *e);
