// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * smbios: SMBIOS 3 entry point and structures (DSP0134 3.x): system serial and UUID, OEM strings, memory, processor
 *
 * Theory of operation. The entry point lies on a 16-byte boundary between 0xF0000 and 0xFFFFF, where a guest without UEFI looks for
 * "_SM3_"; the structures follow it. Each structure is a formatted area and, behind it, its strings: a field that is a string
 * holds the string's number, 1.., or 0 for none.
 *
 * cloud-init reads `ds=nocloud...` from the system serial number; systemd reads credentials from the OEM strings.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "vmm/machine/cpuid.h"

struct machine;
struct memory;

struct smbios_options {
        struct cpu_topology topology;
        const char *uuid;               /* "xxxxxxxx-xxxx-...", or NULL: not set */
        const char *serial;             /* or NULL */
        const char *const *oem_strings; /* not empty: an empty one is left out */
        size_t n_oem_strings;
};

/** smbios_build() - write entry point and tables at LAYOUT_SMBIOS; "smbios-size" when the strings don't fit. */
int smbios_build(struct machine *machine, struct error *e);

/** smbios_write() - the same from what it depends on. */
int smbios_write(struct memory *memory, const struct smbios_options *options, struct error *e);
