// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus: see bus.h
 *
 * Regions are kept sorted by base in one array of pointers; a machine has a few dozen.
 */
#include "vmm/machine/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct bus_region {
        uint64_t base, length;
        const struct bus_ops *ops;
        void *opaque;
        const char *name;
};

struct bus {
        struct bus_region **regions;
        size_t n, room;
};

int bus_new(struct bus **ret_bus) {
        struct bus *bus = calloc(1, sizeof(*bus));

        if (!bus)
                return -ENOMEM;
        *ret_bus = bus;
        return 0;
}

void bus_free(struct bus *bus) {
        if (!bus)
                return;
        for (size_t i = 0; i < bus->n; i++)
                free(bus->regions[i]);
        free(bus->regions);
        free(bus);
}

/* The first region whose end lies beyond @address, as an index; bus->n when there is none. */
static size_t find(const struct bus *bus, uint64_t address) {
        size_t low = 0, high = bus->n;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (bus->regions[middle]->base + (bus->regions[middle]->length - 1) < address)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t length, const struct bus_ops *ops, void *opaque, const char *name,
            struct bus_region **ret_region) {
        struct bus_region *region;
        size_t at;

        if (length == 0 || base + (length - 1) < base)
                return -EINVAL;
        at = find(bus, base);
        if (at < bus->n && bus->regions[at]->base <= base + (length - 1))
                return -EEXIST;
        if (bus->n == bus->room) {
                size_t room = bus->room ? bus->room * 2 : 32;
                struct bus_region **bigger = realloc(bus->regions, room * sizeof(*bigger));

                if (!bigger)
                        return -ENOMEM;
                bus->regions = bigger;
                bus->room = room;
        }
        region = malloc(sizeof(*region));
        if (!region)
                return -ENOMEM;
        *region = (struct bus_region){ base, length, ops, opaque, name };
        memmove(&bus->regions[at + 1], &bus->regions[at], (bus->n - at) * sizeof(*bus->regions));
        bus->regions[at] = region;
        bus->n++;
        if (ret_region)
                *ret_region = region;
        return 0;
}

void bus_remove(struct bus *bus, struct bus_region *region) {
        size_t at;

        if (!region)
                return;
        at = find(bus, region->base);
        if (at == bus->n || bus->regions[at] != region)
                return;
        bus->n--;
        memmove(&bus->regions[at], &bus->regions[at + 1], (bus->n - at) * sizeof(*bus->regions));
        free(region);
}

static struct bus_region *lookup(const struct bus *bus, uint64_t address, unsigned int size) {
        size_t at = find(bus, address);
        struct bus_region *region = at < bus->n ? bus->regions[at] : NULL;

        if (!region || address < region->base || size > region->length ||
            address - region->base > region->length - size)
                return NULL;
        return region;
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned int size) {
        struct bus_region *region = lookup(bus, address, size);
        uint64_t mask = size >= 8 ? UINT64_MAX : (1ull << size * 8) - 1;

        return (region ? region->ops->read(region->opaque, address - region->base, size) : UINT64_MAX) & mask;
}

void bus_write(struct bus *bus, uint64_t address, unsigned int size, uint64_t value) {
        struct bus_region *region = lookup(bus, address, size);

        if (region)
                region->ops->write(region->opaque, address - region->base, size, value);
}
