// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layout: where everything is in guest physical address space, port space and on the interrupt pins
 *
 *      0x0000_0000  low RAM, up to 3 GiB (EBDA, ACPI tables and boot data below 1 MiB)
 *      0xC000_0000  32-bit window for PCI BARs
 *      0xE000_0000  ECAM: 1 MiB for each bus, one bus
 *      0xFEC0_0000  IOAPIC        0xFED0_0000 reserved (no HPET)        0xFEE0_0000  LAPIC
 *      0x1_0000_0000 high RAM
 *      above it, aligned to 1 GiB: 64-bit window for PCI BARs
 *
 * Both engines give a device the same PCI address: slots come from here for the QEMU command line too.
 */
#pragma once

#define LAYOUT_PAGE          4096ull
#define LAYOUT_LOW_RAM_MAX   0xC0000000ull
#define LAYOUT_MMIO32_BASE   0xC0000000ull
#define LAYOUT_MMIO32_SIZE   0x20000000ull
#define LAYOUT_ECAM_BASE     0xE0000000ull
#define LAYOUT_ECAM_SIZE     0x00100000ull
#define LAYOUT_IOAPIC_BASE   0xFEC00000ull
#define LAYOUT_LAPIC_BASE    0xFEE00000ull
#define LAYOUT_HIGH_RAM_BASE 0x100000000ull
#define LAYOUT_MMIO64_SIZE   0x1000000000ull /* 64 GiB */

/* Low memory that the loader fills. The guest may reuse all but the ACPI/SMBIOS part once it has read it. */
#define LAYOUT_GDT         0x00000500ull
#define LAYOUT_PVH_INFO    0x00006000ull
#define LAYOUT_ZERO_PAGE   0x00007000ull
#define LAYOUT_BOOT_STACK  0x00008ff0ull
#define LAYOUT_PAGE_TABLES 0x00009000ull /* 6 pages */
#define LAYOUT_CMDLINE     0x00020000ull
#define LAYOUT_CMDLINE_MAX 0x00010000ull
#define LAYOUT_EBDA        0x0009fc00ull
#define LAYOUT_ACPI        0x000e0000ull /* RSDP first, on a 16-byte boundary: found by scanning */
#define LAYOUT_ACPI_SIZE   0x00010000ull
#define LAYOUT_SMBIOS      0x000f0000ull /* entry point, found by scanning the last 64 KiB, and tables behind it */
#define LAYOUT_SMBIOS_SIZE 0x00010000ull
#define LAYOUT_KERNEL      0x01000000ull

/* I/O ports */
#define LAYOUT_PORT_CMOS       0x70
#define LAYOUT_PORT_I8042      0x60 /* and 0x64 */
#define LAYOUT_PORT_SYSCTL_A   0x92
#define LAYOUT_PORT_DEBUG_EXIT 0xf4
#define LAYOUT_PORT_SERIAL     0x3f8
#define LAYOUT_PORT_PVPANIC    0x505
#define LAYOUT_PORT_PM         0x600 /* PM1a_EVT 4, PM1a_CNT 2 at +4, PM_TMR 4 at +8, GPE0 4 at +0xc, reset at 0xcf9 */
#define LAYOUT_PORT_PCI_CONFIG 0xcf8
#define LAYOUT_PORT_RESET      0xcf9

/* Interrupt pins (GSIs of the IOAPIC) */
#define LAYOUT_IRQ_SERIAL 4
#define LAYOUT_IRQ_RTC    8
#define LAYOUT_IRQ_SCI    9

/* PCI slots on bus 0. Slot 0 is the host bridge; 31 is left free, since QEMU's q35 has its LPC bridge there. */
#define LAYOUT_SLOT_CONSOLE 1
#define LAYOUT_SLOT_RNG     2
#define LAYOUT_SLOT_NET     3 /* .. 10: 8 NICs */
#define LAYOUT_NETS_MAX     8
#define LAYOUT_SLOT_DISK    11 /* .. 30: 20 disks */
#define LAYOUT_DISKS_MAX    20
