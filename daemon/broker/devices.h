// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * devices: what machines' devices remember: UEFI's variables and the TPM (daemon/engine/parts-firmware.h), in devices/UUID of the state directory
 *
 * The directory is made by the machine's first start, what is in it by the keeper, and all is removed with the machine. It goes by the UUID: a machine that is
 * renamed keeps it.
 */
#pragma once

#include "daemon/broker/broker.h"

/** devices_dir() - the machine's directory, made when it is missing; *@ret_path stays NULL for a machine whose devices remember nothing. -errno with @e. */
int devices_dir(const struct broker *b, const char *uuid, const struct machine_config *machine, char **ret_path,
                struct error *e);

/** devices_remove() - with all that is in it; nothing there is fine. -errno with @e. */
int devices_remove(const struct broker *b, const char *uuid, struct error *e);

/**
 * devices_copy() - a clone boots as the other machine does: it gets the variables; its TPM is a new one, since a TPM is who the machine is
 * Return: 0, also when there is nothing to copy; -errno with @e ("disk-busy": the other one runs).
 */
int devices_copy(const struct broker *b, const char *uuid, const char *source, struct error *e);
