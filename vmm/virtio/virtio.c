// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio: see virtio.h
 *
 * The status byte is the driver's progress through §3.1.1; what a write means depends on which bits it adds:
 *
 *      0 -> ACKNOWLEDGE -> DRIVER -> (features) -> FEATURES_OK -> (queues) -> DRIVER_OK         0 from anywhere: reset
 *
 * FEATURES_OK freezes the features and hands the ring features to the queues; only then can a queue be enabled.
 */
#include "vmm/virtio/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define BIT(n) (1ull << (n))

/* The bits that a driver may set (§2.1). */
#define STATUS_DRIVER                                                                                                  \
        (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |                          \
         VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

int virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops, struct memory *memory,
                       unsigned int n_queues, uint64_t features, const void *config, unsigned int config_size) {
        struct virtq *queues;

        if (n_queues == 0 || n_queues > VIRTIO_QUEUES_MAX || ops->queue_size == 0 || ops->queue_size > VIRTQ_SIZE_MAX ||
            (ops->queue_size & (ops->queue_size - 1)) != 0)
                return -EINVAL;
        queues = calloc(n_queues, sizeof(*queues));
        if (!queues)
                return -ENOMEM;
        for (unsigned int i = 0; i < n_queues; i++) {
                queues[i] = (struct virtq){ .memory = memory, .index = i, .size_max = ops->queue_size };
                virtq_reset(&queues[i]);
        }
        *device = (struct virtio_device){
                .ops = ops,
                .queues = queues,
                .n_queues = n_queues,
                .device_features = features | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                                   BIT(VIRTIO_RING_F_EVENT_IDX),
                .config = config,
                .config_size = config_size,
        };
        return 0;
}

void virtio_device_destroy(struct virtio_device *device) {
        free(device->queues);
        device->queues = NULL;
        device->n_queues = 0;
        device->running = false;
}

void virtio_device_notify_queue(struct virtio_device *device, unsigned int index) {
        if (index < device->n_queues && virtq_flush(&device->queues[index]) && device->transport)
                device->transport->notify_queue(device, index);
}

/* §2.1.2, §2.4: no notification before DRIVER_OK. */
static void notify_config(struct virtio_device *device) {
        if ((device->status & VIRTIO_CONFIG_S_DRIVER_OK) && device->transport)
                device->transport->notify_config(device);
}

void virtio_device_config_changed(struct virtio_device *device) {
        device->config_generation++;
        notify_config(device);
}

void virtio_device_needs_reset(struct virtio_device *device) {
        if (device->status & VIRTIO_CONFIG_S_NEEDS_RESET)
                return;
        device->n_needs_reset++;
        device->running = false;
        for (unsigned int i = 0; i < device->n_queues; i++)
                virtq_break(&device->queues[i]);
        device->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        notify_config(device);
}

static void finish_reset(struct virtio_device *device) {
        device->resetting = false;
        for (unsigned int i = 0; i < device->n_queues; i++)
                virtq_reset(&device->queues[i]);
        device->driver_features = 0;
        device->status = 0;
        if (device->transport && device->transport->reset)
                device->transport->reset(device);
}

static void reset(struct virtio_device *device) {
        device->running = false;
        if (device->ops->reset)
                device->ops->reset(device); /* before the queues go: it ends the I/O that uses them */
        device->resetting = device->ops->busy && device->ops->busy(device);
        if (!device->resetting)
                finish_reset(device);
}

void virtio_device_reset_done(struct virtio_device *device) {
        if (device->resetting)
                finish_reset(device);
}

static bool features_fit(const struct virtio_device *device) {
        return (device->driver_features & ~device->device_features) == 0 &&
               virtio_device_has(device, VIRTIO_F_VERSION_1);
}

void virtio_device_set_status(struct virtio_device *device, uint8_t status) {
        uint8_t added = status & STATUS_DRIVER & ~device->status;

        if (device->resetting)
                return;
        if (status == 0) {
                reset(device);
                return;
        }
        device->status |= added & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED);
        if (added & VIRTIO_CONFIG_S_FAILED)
                device->running = false; /* the driver has given up: it rings for nothing now */
        if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && (device->status & VIRTIO_CONFIG_S_DRIVER) &&
            features_fit(device)) {
                device->status |= VIRTIO_CONFIG_S_FEATURES_OK;
                for (unsigned int i = 0; i < device->n_queues; i++) {
                        device->queues[i].indirect = virtio_device_has(device, VIRTIO_RING_F_INDIRECT_DESC);
                        device->queues[i].event_idx = virtio_device_has(device, VIRTIO_RING_F_EVENT_IDX);
                }
        }
        if (!(added & VIRTIO_CONFIG_S_DRIVER_OK))
                return;
        if (!(device->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
                virtio_device_needs_reset(device);
                return;
        }
        device->status |= VIRTIO_CONFIG_S_DRIVER_OK;
        if (device->status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED))
                return;
        device->running = true;
        if (device->ops->activate)
                device->ops->activate(device);
}

void virtio_device_set_features(struct virtio_device *device, unsigned int word, uint32_t bits) {
        unsigned int shift = word * 32;

        if (word > 1 || device->resetting || (device->status & VIRTIO_CONFIG_S_FEATURES_OK))
                return;
        device->driver_features = (device->driver_features & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)bits
                                                                                                         << shift;
}

int virtio_device_enable_queue(struct virtio_device *device, unsigned int index) {
        int r;

        if (index >= device->n_queues || device->resetting)
                return -EINVAL;
        if (device->queues[index].enabled)
                return 0;
        /* not before FEATURES_OK: until then nobody knows which kind of ring it is */
        r = (device->status & VIRTIO_CONFIG_S_FEATURES_OK) ? virtq_enable(&device->queues[index]) : -EINVAL;
        if (r < 0) {
                device->queues[index].n_bad++;
                virtio_device_needs_reset(device);
                return r;
        }
        if (device->status & VIRTIO_CONFIG_S_NEEDS_RESET)
                virtq_break(&device->queues[index]);
        return 0;
}

void virtio_device_kick(struct virtio_device *device, unsigned int index) {
        bool own;

        if (index >= device->n_queues || !device->ops->notify)
                return;
        own = device->ops->queue_loop && device->ops->queue_loop(device, index);
        if (own || (device->running && device->queues[index].enabled))
                device->ops->notify(device, index);
}

void virtio_device_read_config(struct virtio_device *device, uint64_t offset, void *buf, unsigned int size) {
        unsigned int inside;

        memset(buf, 0, size);
        if (offset >= device->config_size)
                return;
        inside = MIN(size, device->config_size - (unsigned int)offset);
        if (device->ops->config_read)
                device->ops->config_read(device, (unsigned int)offset, buf, inside);
        else if (device->config)
                memcpy(buf, (const uint8_t *)device->config + offset, inside);
}

void virtio_device_write_config(struct virtio_device *device, uint64_t offset, const void *buf, unsigned int size) {
        if (!device->ops->config_write || device->resetting || size > device->config_size ||
            offset > device->config_size - size)
                return;
        device->ops->config_write(device, (unsigned int)offset, buf, size);
}
