// SPDX-License-Identifier: GPL-2.0-or-later
/* engine-qemu: what the files that make QEMU's command line share */
#pragma once

#include "daemon/engine/engine.h"

/* Arguments as they grow; the first failure sticks. */
struct qemu_args {
        char **v;
        size_t n;
        int r;
};

/** qemu_add() - append one argument. */
void qemu_add(struct qemu_args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- engine-qemu-pc.c: what lodge-vmm has nothing of -------------------------------------------------------------- */

/* Descriptor sets: those of disks are 1..LAYOUT_DISKS_MAX, those of images below them begin at 100. */
#define QEMU_SETS_FIRMWARE 50
#define QEMU_SETS_CDROM    60

/** qemu_pc_machine() - what the firmware adds to -machine, with the comma in front, or "". */
const char *qemu_pc_machine(const struct parts *p);

/** qemu_pc_cpu() - what -cpu is told of Hyper-V, with the comma in front, or "". */
const char *qemu_pc_cpu(const struct parts *p, bool kvm);

/** qemu_pc_add() - firmware, TPM, CD drives, display adapter, clock. */
void qemu_pc_add(struct qemu_args *a, const struct parts *p);
