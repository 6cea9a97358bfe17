// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtq-driver: the driver's side of a split virtqueue, for tests: builds rings in guest memory and can break every rule
 */
#pragma once

#include <linux/virtio_ring.h>
#include <stdint.h>
#include <string.h>

#include "vmm/machine/memory.h"
#include "vmm/virtio/virtq.h"

/* Guest physical addresses inside the first MiB */
#define DRIVER_DESC     0x1000u
#define DRIVER_AVAIL    0x6000u
#define DRIVER_USED     0x8000u
#define DRIVER_INDIRECT 0x10000u
#define DRIVER_DATA     0x20000u
#define DRIVER_RAM      0x100000u

struct driver {
        struct memory *memory;
        uint16_t size;
        uint64_t desc, avail, used;
        uint16_t next; /* available index */
};

static inline void *driver_at(const struct driver *d, uint64_t gpa) {
        return memory_host(d->memory, gpa, 0);
}

static inline struct vring_desc *driver_desc(const struct driver *d, unsigned int i) {
        return (struct vring_desc *)driver_at(d, d->desc) + i;
}

static inline struct vring_avail *driver_avail(const struct driver *d) {
        return driver_at(d, d->avail);
}

static inline struct vring_used *driver_used(const struct driver *d) {
        return driver_at(d, d->used);
}

static inline uint16_t *driver_used_event(const struct driver *d) {
        return &driver_avail(d)->ring[d->size];
}

static inline uint16_t *driver_avail_event(const struct driver *d) {
        return (uint16_t *)&driver_used(d)->ring[d->size];
}

static inline void driver_set(const struct driver *d, unsigned int i, uint64_t addr, uint32_t len, uint16_t flags,
                              uint16_t next) {
        *driver_desc(d, i) = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

/* Make chain @head available. */
static inline void driver_offer(struct driver *d, uint16_t head) {
        __atomic_store_n(&driver_avail(d)->ring[d->next++ % d->size], head, __ATOMIC_RELAXED);
        __atomic_store_n(&driver_avail(d)->idx, d->next, __ATOMIC_RELEASE);
}
