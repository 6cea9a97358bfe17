// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pm: what the ACPI tables must agree on with the power management hardware (device/pm.c); ports are in machine/layout.h
 */
#pragma once

#define PM_SLP_TYP_S5 5 /* \_S5 in the DSDT: Package () { 5, 5, 0, 0 } */
