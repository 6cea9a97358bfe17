// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * acpi: the tables by which the guest finds its hardware, made here (ACPI 6.5 §5.2)
 *
 * RSDP, XSDT, FADT (fixed hardware of device/pm.c; no legacy devices that are not there), FACS, MADT, MCFG, DSDT, and SRAT/SLIT when NUMA is asked for. They are
 * written at LAYOUT_ACPI, in the reserved part of the first MiB.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

struct machine;

/** acpi_build() - write all tables into guest memory; returns 0 with the RSDP's address, "acpi-size" when they don't fit. */
int acpi_build(struct machine *machine, uint64_t *ret_rsdp, struct error *e);
