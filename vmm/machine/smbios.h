// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * smbios: SMBIOS 3 entry point and structures (DSP0134 3.x): system serial and UUID, OEM strings, memory, processor
 *
 * cloud-init reads `ds=nocloud...` from the system serial number.
 */
#pragma once

#include "base/error.h"

struct machine;

/** smbios_build() - write entry point and tables at LAYOUT_SMBIOS; "smbios-size" when the strings don't fit. */
int smbios_build(struct machine *machine, struct error *e);
