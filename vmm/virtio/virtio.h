// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio: what every virtio device has in common (virtio 1.2 §2), between the device models and the transport
 *
 * A device model (vmm/device/virtio-*.c) is a const table of operations and an instance that begins with struct
 * virtio_device. The transport (virtio-pci.c) moves status, features, queues and configuration between the guest and the device, and
 * signals the guest for it. The model never sees the transport but through the calls below.
 *
 * Life: virtio_device_init() -> (guest: ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, DRIVER_OK) -> ops->activate()
 * -> ops->notify() for every doorbell -> ops->reset() -> ... A rule broken by the driver sets DEVICE_NEEDS_RESET
 * (§2.1.2) and stops the queues until the driver resets the device. A virtio device's device_class->reset (machine reset) is
 * virtio_device_set_status(device, 0).
 *
 * Threads. All of it runs under the machine lock (vmm/machine/machine.h): doorbells arrive as eventfds on the main loop, other
 * accesses from vCPU threads. virtio_device_notify_queue() may be called from any thread. A queue with a loop of its own (ops->queue_loop)
 * gets its doorbells on that loop's thread, without the machine lock; when its rings may be touched is then the device's business.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/virtio/virtq.h"

#define VIRTIO_QUEUES_MAX 64

struct loop;
struct virtio_device;

struct virtio_device_ops {
        uint16_t id;         /* VIRTIO_ID_*: virtio 1.2 §5 */
        const char *name;    /* "virtio-rng" */
        uint32_t class_code; /* PCI class, base << 16 | sub << 8 | interface */
        uint16_t queue_size; /* entries that we offer for each queue */

        /* The driver set DRIVER_OK: queues are enabled, @device->driver_features is final. */
        void (*activate)(struct virtio_device *device);
        /* Back to power-on: forget negotiated state, cancel I/O in flight (after this returns no guest memory is touched for it, unless busy()). */
        void (*reset)(struct virtio_device *device);
        /* After reset(): is I/O still in flight? The reset then goes on, and is over with virtio_device_reset_done(). NULL: never. */
        bool (*busy)(struct virtio_device *device);
        /* The loop of a thread of its own that queue @index belongs to: its doorbells ring there, whether the device runs or not. NULL: the machine's. */
        struct loop *(*queue_loop)(struct virtio_device *device, unsigned int index);
        /* The driver rang the doorbell of queue @index. */
        void (*notify)(struct virtio_device *device, unsigned int index);
        /* Configuration space: @offset + @size lie inside device->config_size. NULL write: read-only. The default read (NULL) copies from device->config. */
        void (*config_read)(struct virtio_device *device, unsigned int offset, void *buf, unsigned int size);
        void (*config_write)(struct virtio_device *device, unsigned int offset, const void *buf, unsigned int size);
};

/* What a transport does for a device. */
struct virtio_transport_ops {
        void (*notify_queue)(struct virtio_device *device, unsigned int index); /* used buffers: §4.1.4.5 or MSI-X */
        void (*notify_config)(struct virtio_device *device);
        void (*reset)(struct virtio_device *device); /* the device went back to power-on: so do vectors and selectors */
};

struct virtio_device {
        const struct virtio_device_ops *ops;
        const struct virtio_transport_ops *transport;
        void *transport_data;

        struct virtq *queues;
        unsigned int n_queues;
        uint64_t
                device_features; /* offered; the core adds VERSION_1, INDIRECT_DESC, EVENT_IDX, RING_RESET is not offered */
        uint64_t driver_features; /* negotiated */
        uint8_t status;           /* VIRTIO_CONFIG_S_* */
        uint8_t config_generation;
        bool running;   /* DRIVER_OK and not broken: ops->notify may be called */
        bool resetting; /* until the I/O in flight has ended: the driver sees the old status and waits (§4.1.4.3.2) */

        const void *config; /* the device's configuration space for the default config_read */
        unsigned int config_size;

        uint64_t n_needs_reset; /* metrics */
};

_Static_assert(VIRTIO_QUEUES_MAX <= UINT16_MAX, "queue numbers are 16 bits");

/**
 * virtio_device_init() - set up the common part of an instance
 * @n_queues: 1..VIRTIO_QUEUES_MAX; @features: device-specific bits offered
 */
int virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops, struct memory *memory,
                       unsigned int n_queues, uint64_t features, const void *config, unsigned int config_size);
void virtio_device_destroy(struct virtio_device *device);

/** virtio_device_has() - was feature @bit negotiated? */
static inline bool virtio_device_has(const struct virtio_device *device, unsigned int bit) {
        return device->driver_features >> bit & 1;
}

/** virtio_device_notify_queue() - flush queue @index and interrupt the driver if it wants that. */
void virtio_device_notify_queue(struct virtio_device *device, unsigned int index);

/** virtio_device_config_changed() - the configuration space changed: new generation (§2.5), configuration interrupt. */
void virtio_device_config_changed(struct virtio_device *device);

/** virtio_device_needs_reset() - the driver broke a rule (§2.1.2): stop the queues, tell the driver, count. Calling it again is fine. */
void virtio_device_needs_reset(struct virtio_device *device);

/** virtio_device_reset_done() - ops->busy() no longer: the reset that was begun is over. */
void virtio_device_reset_done(struct virtio_device *device);

/* The rest is for transports. */

/**
 * virtio_device_set_status() - the driver wrote the status byte: transitions of §3.1.1, 0 resets
 *
 * Bits are only ever added, and nothing is while a reset goes on. FEATURES_OK stays clear when the features don't fit (unknown bits, no VERSION_1) or the driver has not
 * said DRIVER before; DRIVER_OK without FEATURES_OK breaks a rule. DEVICE_NEEDS_RESET is ours and ignored here.
 */
void virtio_device_set_status(struct virtio_device *device, uint8_t status);

/** virtio_device_set_features() - the driver wrote 32 bits of features, @word 0 or 1; ignored after FEATURES_OK. */
void virtio_device_set_features(struct virtio_device *device, unsigned int word, uint32_t bits);

/** virtio_device_enable_queue() - the driver has set queue @index up (size, areas) and enables it; -EINVAL (and needs reset) if it can't be. */
int virtio_device_enable_queue(struct virtio_device *device, unsigned int index);

/** virtio_device_kick() - the driver rang the doorbell of queue @index, any number: calls ops->notify if there is such a queue and it runs. */
void virtio_device_kick(struct virtio_device *device, unsigned int index);

/** virtio_device_read_config() - any @offset and @size; bytes beyond the device's configuration are 0. */
void virtio_device_read_config(struct virtio_device *device, uint64_t offset, void *buf, unsigned int size);

/** virtio_device_write_config() - any @offset and @size; a write that is not wholly inside does nothing. */
void virtio_device_write_config(struct virtio_device *device, uint64_t offset, const void *buf, unsigned int size);
