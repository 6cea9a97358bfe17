// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus: which device answers at an I/O port or a guest physical address
 *
 * A machine has two: ports and MMIO. Regions never overlap. Access is little-endian, 1, 2, 4 or 8 bytes, in one value.
 * A region sees only accesses that lie wholly inside it; one that straddles a border, or that nobody answers, reads as all ones and
 * writes nothing, as on a PC.
 *
 * Threads: all calls under the machine lock (see machine.h). Lookup is a binary search.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct bus;
struct bus_region;

struct bus_ops {
        /* @offset from the region's base; @size 1, 2, 4, 8, and offset + size <= the region's length. */
        uint64_t (*read)(void *opaque, uint64_t offset, unsigned int size);
        void (*write)(void *opaque, uint64_t offset, unsigned int size, uint64_t value);
};

int bus_new(struct bus **ret_bus);
void bus_free(struct bus *bus);
DEFINE_CLEANUP(bus, bus_free);

/**
 * bus_add() - let @ops answer at [@base, @base+@length)
 * @ret_region: for bus_remove(); may be NULL when the region stays for good
 * Return: 0, -EEXIST on an overlap, -EINVAL on length 0 or overflow, -ENOMEM.
 */
int bus_add(struct bus *bus, uint64_t base, uint64_t length, const struct bus_ops *ops, void *opaque, const char *name,
            struct bus_region **ret_region);
void bus_remove(struct bus *bus, struct bus_region *region);

/** bus_read() - all ones in @size bytes where nobody answers. bus_write() - nothing happens there. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned int size);
void bus_write(struct bus *bus, uint64_t address, unsigned int size, uint64_t value);
