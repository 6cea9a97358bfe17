// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * acpi: the tables by which the guest finds its hardware, made here (ACPI 6.3 §5.2)
 *
 *      RSDP -> XSDT -> FADT -> DSDT (the devices, \_S5), FACS
 *                   -> MADT (LAPICs, IOAPIC, interrupt overrides)
 *                   -> MCFG (ECAM)
 *                   -> SRAT, SLIT when NUMA is asked for
 *
 * The fixed hardware of the FADT is device/pm.c's; ports, pins and addresses come from layout.h, so that tables and devices can't
 * disagree. Not "hardware-reduced": the power button and the sleep registers are the fixed ones that every OS knows. The flags say what isn't there
 * (no i8042, no VGA, no ASPM), which spares the guest from looking. All of it lies at LAYOUT_ACPI, in the reserved part of the first MiB.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/machine/cpuid.h"

struct machine;
struct memory;
struct numa_config; /* schema */

struct acpi_options {
        struct cpu_topology topology; /* APIC ids follow from it */
        uint64_t mmio64_base;         /* of the 64-bit PCI window, LAYOUT_MMIO64_SIZE long */
        const struct numa_config *numa;
        size_t n_numa;
        bool pvpanic;
};

/** acpi_build() - write all tables into guest memory; returns 0 with the RSDP's address, "acpi-size" when they don't fit. */
int acpi_build(struct machine *machine, uint64_t *ret_rsdp, struct error *e);

/** acpi_write() - the same from what it depends on. */
int acpi_write(struct memory *memory, const struct acpi_options *options, uint64_t *ret_rsdp, struct error *e);
