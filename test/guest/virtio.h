// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio: the driver's side of one queue of a modern virtio-pci device (virtio 1.2 §2.7, §4.1), with nothing hidden: tests break its rules */
#pragma once

#include "guest.h"

#define VQ_SIZE            8

#define STATUS_NEEDS_RESET 0x40
#define DESC_NEXT          1
#define DESC_WRITE         2
#define DESC_INDIRECT      4

#define FEATURE_INDIRECT   28
#define FEATURE_EVENT_IDX  29

struct vq_desc {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
};

struct vq {
        struct vq_desc desc[VQ_SIZE];
        struct {
                uint16_t flags, idx, ring[VQ_SIZE], used_event;
        } avail;
        struct {
                uint16_t flags, idx;
                struct {
                        uint32_t id, len;
                } ring[VQ_SIZE];
                uint16_t avail_event;
        } used __attribute__((aligned(4)));
} __attribute__((aligned(4096)));

struct virtio {
        uint32_t config;                      /* PCI configuration space */
        uint32_t common, notify, isr, device; /* structures, in memory */
        uint32_t notify_multiplier, notify_off;
        uint32_t next_bar; /* free address for BARs */
        uint64_t features; /* offered */
};

/** virtio_open() - find device @id (0x1040 + type), place its BARs from @bar_base on and its structures; false when there is none. */
bool virtio_open(struct virtio *v, uint16_t id, uint32_t bar_base);
/** virtio_reset() - write 0, wait for 0. */
bool virtio_reset(struct virtio *v);
/** virtio_start() - reset to DRIVER_OK with queue 0 in @q and VERSION_1 plus @features; @vector for the queue, 0xffff: none. */
bool virtio_start(struct virtio *v, struct vq *q, uint64_t features, uint16_t vector);
uint8_t virtio_status(struct virtio *v);
/** virtio_kick() - make @head available and ring. */
void virtio_kick(struct virtio *v, struct vq *q, uint16_t head);
/** virtio_wait() - until the used index is @idx, at most 2 s. */
bool virtio_wait(struct vq *q, uint16_t idx);
