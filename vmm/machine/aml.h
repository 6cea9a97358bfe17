// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * aml: write ACPI Machine Language: names, objects and resource descriptors (ACPI 6.5 §20.2, §6.4)
 *
 * A block (scope, device, method, package, resource template) is opened by a *_begin() that returns a mark, and closed by
 * aml_end() with it: the length in front of the block, whose own size depends on it, is put in then. Blocks nest.
 *
 *      mark = aml_scope_begin(&a, "\\_SB_");
 *      ...
 *      aml_end(&a, mark);
 *
 * Running out of room, or a name that is none, is remembered in `failed` and checked once at the end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
        uint8_t *data;
        size_t size, len;
        bool failed;
};

/** aml_bytes(), aml_u8() ... - raw, little-endian. */
void aml_bytes(struct aml *a, const void *data, size_t n);
void aml_u8(struct aml *a, uint8_t value);
void aml_u16(struct aml *a, uint16_t value);
void aml_u32(struct aml *a, uint32_t value);
void aml_u64(struct aml *a, uint64_t value);

/** aml_path() - NameString: "\\_SB_.PCI0", "COM1"; segments shorter than four are filled up with '_'. */
void aml_path(struct aml *a, const char *path);

/** aml_integer() - in its shortest form. */
void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text); /* ASCII */

/** aml_eisa_id() - a compressed id such as "PNP0A08" (§19.6.36). */
void aml_eisa_id(struct aml *a, const char *id);

/** aml_name() - Name(@name, ...): the object is what is written next. */
void aml_name(struct aml *a, const char *name);
void aml_name_integer(struct aml *a, const char *name, uint64_t value);

size_t aml_scope_begin(struct aml *a, const char *path);
size_t aml_device_begin(struct aml *a, const char *name);
/** @n_args 0..7 */
size_t aml_method_begin(struct aml *a, const char *name, unsigned int n_args, bool serialized);
size_t aml_package_begin(struct aml *a, uint8_t n_elements);
void aml_end(struct aml *a, size_t mark);

/** aml_resources_begin() - Name(_CRS, ResourceTemplate); aml_resources_end() writes the end tag. */
size_t aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a, size_t mark);

/* Small and large descriptors (§6.4.2, §6.4.3); ranges are [@base, @base + @length). */
void aml_res_io(struct aml *a, uint16_t base, uint8_t length);
void aml_res_irq(struct aml *a, unsigned int irq); /* edge, active high, exclusive; 0..15 */
void aml_res_fixed_memory32(struct aml *a, uint32_t base, uint32_t length);
void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t length);
void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t length);
