// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parts-firmware: what a machine has that boots from a disk of its own: UEFI and its variables, a TPM, CD drives
 *
 * UEFI is the distribution's OVMF: a file with the code, the same for all machines, and one with the variables (boot entries, keys of Secure Boot), of
 * which each machine has a copy. The TPM is a process of the machine's own, swtpm, which ends with it.
 *
 * What must outlive a start lies in the directory that parts_options names:
 *
 *      uefi.vars, uefi-secure.vars     the variables; made at the first start
 *      tpm/                            what swtpm keeps
 *
 * Without a directory (lodge run) both are in memory, and gone with the machine. Neither process gets a path of it, only descriptors.
 */
#pragma once

#include "base/error.h"
#include "daemon/engine/parts.h"

#define PART_TPM_DIR  "tpm"
#define PART_VARS_MAX 32 /* bytes of the name below */

/** part_vars_name() - the file that holds the variables of such a firmware; false: it has none. */
bool part_vars_name(enum machine_firmware firmware, char ret_name[static PART_VARS_MAX]);

/** part_vars_make() - let a file of variables appear in a directory, whole, as a copy of an open one; -errno. */
int part_vars_make(int dir_fd, const char *name, int from_fd);

/**
 * part_firmware_check() - is what the machine needs for its firmware and TPM installed?
 * Return: 0, or -ENOENT with @e: "firmware-missing", "tpm-missing".
 */
int part_firmware_check(const struct machine_config *config, struct error *e);

/** part_drivers_path() - where the drivers' CD is, or NULL when the machine wants none; @ret_there: is it? */
const char *part_drivers_path(const struct machine_config *config, bool *ret_there);

/**
 * part_firmware_open() - open code and variables, into p->code_fd and p->vars_fd
 * Return: 0, or -errno with @e: "firmware-missing", "firmware-vars" (they can't be opened, or are none).
 */
int part_firmware_open(struct parts *p, const struct parts_options *options, struct error *e);

/** part_tpm_open() - start swtpm, into p->tpm. Return: 0, or -errno with @e: "tpm-missing", "tpm". */
int part_tpm_open(struct parts *p, const struct parts_options *options, struct error *e);

/** part_tpm_close() - swtpm ends with its connection; one that does not is ended. */
void part_tpm_close(struct part_tpm *tpm);
