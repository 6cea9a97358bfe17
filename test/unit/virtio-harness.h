// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-harness: a virtio device model without PCI, KVM or guest, driven from the driver's side
 *
 * A test includes this once. It stands in for virtio_pci_new() and for the machine's requests, so that a device is made by its class
 * with a configuration, as in lodge-vmm, and then sees a driver made of virtq-driver.h: one `struct driver` for each queue, rings
 * and buffers in guest memory of its own.
 *
 *      struct harness h;
 *      harness_init(&h, &config);
 *      harness_create(&h, &virtio_blk_class, 0);
 *      harness_start(&h, features, n_queues);
 *      head = harness_offer(&h, 0, segments, n);
 *      harness_kick(&h, 0);
 *      harness_used(&h, 0, &head, &len)
 */
#pragma once

#include <errno.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "schema/lodge-schema.h"
#include "test/unit/virtq-driver.h"
#include "vmm/device/device.h"
#include "vmm/machine/machine.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

#define HARNESS_RAM    (16u << 20)
#define HARNESS_QUEUES 8u
#define HARNESS_SIZE   64u       /* entries that the driver takes in each queue */
#define HARNESS_RINGS  0x1000u   /* 64 KiB of rings for each queue */
#define HARNESS_DATA   0x400000u /* buffers, for the tests to divide */
#define BIT(n)         (1ull << (n))

struct harness {
        struct machine machine;
        struct vmm_config *config;
        struct device *device;
        struct virtio_device *virtio;
        struct driver queue[HARNESS_QUEUES];
        uint16_t seen[HARNESS_QUEUES];      /* used entries taken */
        uint16_t next_desc[HARNESS_QUEUES]; /* descriptors go round */
        int doorbells[HARNESS_QUEUES];      /* eventfds of queues with a loop of their own */
        struct loop_source *sources[HARNESS_QUEUES];
        unsigned int interrupts[HARNESS_QUEUES], config_interrupts; /* from any thread: atomic */
        unsigned int shutdowns, resets_ready, disk_errors;
        bool no_pause; /* the machine can't */
        unsigned int job_events[MACHINE_EVENT_JOB_CANCELLED + 1];
};

struct segment {
        uint64_t gpa;
        uint32_t len;
        bool writable;
};

static inline void harness_notify_queue(struct virtio_device *device, unsigned int index) {
        __atomic_fetch_add(&((struct harness *)device->transport_data)->interrupts[index], 1, __ATOMIC_RELAXED);
}

static inline void harness_notify_config(struct virtio_device *device) {
        ((struct harness *)device->transport_data)->config_interrupts++;
}

static const struct virtio_transport_ops harness_transport = {
        .notify_queue = harness_notify_queue,
        .notify_config = harness_notify_config,
};

static inline void harness_doorbell(void *opaque, int fd, uint32_t events) {
        struct harness *h = opaque;
        uint64_t n;

        assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
        for (unsigned int i = 0; i < HARNESS_QUEUES; i++)
                if (h->sources[i] && h->doorbells[i] == fd)
                        virtio_device_kick(h->virtio, i);
}

int virtio_pci_new(struct machine *machine, struct virtio_device *device, unsigned int slot,
                   struct virtio_pci **ret_proxy, struct error *e) {
        struct harness *h = CONTAINER_OF(machine, struct harness, machine);

        h->virtio = device;
        device->transport = &harness_transport;
        device->transport_data = h;
        for (unsigned int i = 0; i < MIN(device->n_queues, HARNESS_QUEUES); i++) {
                struct loop *loop = device->ops->queue_loop ? device->ops->queue_loop(device, i) : NULL;

                if (!loop)
                        continue;
                h->doorbells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                assert_int_equal(loop_add_fd(loop, h->doorbells[i], EPOLLIN, harness_doorbell, h, &h->sources[i]), 0);
        }
        *ret_proxy = (struct virtio_pci *)h;
        return 0;
}

void virtio_pci_free(struct virtio_pci *proxy) {
        struct harness *h = (struct harness *)proxy;

        for (unsigned int i = 0; h && i < HARNESS_QUEUES; i++)
                if (h->sources[i]) {
                        loop_source_free(h->sources[i]);
                        close(h->doorbells[i]);
                }
}

void machine_reset_ready(struct machine *machine) {
        CONTAINER_OF(machine, struct harness, machine)->resets_ready++;
}

int machine_disk_failed(struct machine *machine, const struct machine_disk_error *error) {
        struct harness *h = CONTAINER_OF(machine, struct harness, machine);

        h->disk_errors++;
        machine->disk_error = *error;
        if (error->action != DISK_ERROR_PAUSE)
                return 0;
        return h->no_pause ? -EINVAL : h->device->class->pause(h->device);
}

void machine_disk_job(struct machine *machine, enum machine_event event, const struct machine_disk_job *job) {
        CONTAINER_OF(machine, struct harness, machine)->job_events[event]++;
        machine->disk_job = *job;
}

void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status) {
        CONTAINER_OF(machine, struct harness, machine)->shutdowns++;
}

/* @config: what vmm_config holds but for the required descriptors; the harness owns it from here. */
static inline void harness_init(struct harness *h, struct vmm_config *config) {
        const struct memory_options options = { .size = HARNESS_RAM, .preallocate = config->preallocate };

        memset(h, 0, sizeof(*h));
        h->config = config;
        h->machine.config = config;
        assert_int_equal(loop_new(&h->machine.loop), 0);
        assert_int_equal(memory_new(&options, &h->machine.memory, NULL), 0);
}

static inline void harness_create(struct harness *h, const struct device_class *class, unsigned int index) {
        _cleanup_error_ struct error e = ERROR_INIT;
        int r = class->create(&h->machine, index, &h->device, &e);

        if (r < 0)
                print_message("%s: %s\n", class->name, e.message ?: "no message");
        assert_int_equal(r, 0);
}

static inline void harness_free(struct harness *h) {
        if (h->device)
                h->device->class->destroy(h->device);
        memory_free(h->machine.memory);
        loop_free(h->machine.loop);
        vmm_config_free(h->config);
}

/* Through the status steps of §3.1.1 with @features (VERSION_1 is added) and the first @n queues enabled. */
static inline void harness_start(struct harness *h, uint64_t features, unsigned int n) {
        struct virtio_device *v = h->virtio;
        uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

        features |= BIT(VIRTIO_F_VERSION_1);
        virtio_device_set_status(v, 0);
        virtio_device_set_status(v, status);
        virtio_device_set_features(v, 0, (uint32_t)features);
        virtio_device_set_features(v, 1, (uint32_t)(features >> 32));
        status |= VIRTIO_CONFIG_S_FEATURES_OK;
        virtio_device_set_status(v, status);
        assert_true(v->status & VIRTIO_CONFIG_S_FEATURES_OK);
        for (unsigned int i = 0; i < n; i++) {
                uint64_t base = HARNESS_RINGS + i * 0x10000ull;
                struct driver *d = &h->queue[i];

                *d = (struct driver){
                        .memory = h->machine.memory,
                        .size = HARNESS_SIZE,
                        .desc = base,
                        .avail = base + 0x4000,
                        .used = base + 0x6000,
                };
                memset(driver_at(d, base), 0, 0x10000);
                h->seen[i] = h->next_desc[i] = 0;
                v->queues[i].size = HARNESS_SIZE;
                v->queues[i].desc_gpa = d->desc;
                v->queues[i].avail_gpa = d->avail;
                v->queues[i].used_gpa = d->used;
                assert_int_equal(virtio_device_enable_queue(v, i), 0);
        }
        virtio_device_set_status(v, status | VIRTIO_CONFIG_S_DRIVER_OK);
        assert_true(v->running);
}

static inline bool harness_broken(const struct harness *h) {
        return h->virtio->status & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static inline void *harness_at(const struct harness *h, uint64_t gpa) {
        return memory_host(h->machine.memory, gpa, 0);
}

/* A chain of @n segments, available at once; returns its head. */
static inline uint16_t harness_offer(struct harness *h, unsigned int q, const struct segment *s, unsigned int n) {
        struct driver *d = &h->queue[q];
        uint16_t head = h->next_desc[q];

        for (unsigned int i = 0; i < n; i++) {
                uint16_t at = (uint16_t)((head + i) % HARNESS_SIZE), next = (uint16_t)((at + 1) % HARNESS_SIZE);
                uint16_t flags =
                        (uint16_t)((s[i].writable ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0));

                driver_set(d, at, s[i].gpa, s[i].len, flags, next);
        }
        h->next_desc[q] = (uint16_t)((head + n) % HARNESS_SIZE);
        driver_offer(d, head);
        return head;
}

static inline void harness_kick(struct harness *h, unsigned int q) {
        uint64_t one = 1;

        if (h->sources[q])
                assert_int_equal(write(h->doorbells[q], &one, sizeof(one)), sizeof(one));
        else
                virtio_device_kick(h->virtio, q);
}

/* The next used entry of queue @q, if there is one. */
static inline bool harness_take(struct harness *h, unsigned int q, uint16_t *ret_head, uint32_t *ret_len) {
        struct vring_used *used = driver_used(&h->queue[q]);
        const struct vring_used_elem *e = &used->ring[h->seen[q] % HARNESS_SIZE];

        if (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == h->seen[q])
                return false;
        h->seen[q]++;
        if (ret_head)
                *ret_head = (uint16_t)e->id;
        if (ret_len)
                *ret_len = e->len;
        return true;
}

/* Runs the loop until queue @q has a used entry; fails the test after some seconds. */
static inline void harness_used(struct harness *h, unsigned int q, uint16_t *ret_head, uint32_t *ret_len) {
        int rounds = h->sources[q] ? 10000 : 50; /* a queue with a loop of its own doesn't wake ours */

        for (int i = 0; i < rounds; i++) {
                if (harness_take(h, q, ret_head, ret_len))
                        return;
                assert_true(loop_run_once(h->machine.loop, h->sources[q] ? 1 : 100) >= 0);
        }
        fail_msg("queue %u: nothing was used", q);
}

/* Runs what the loop has to do now. */
static inline void harness_settle(struct harness *h) {
        for (int i = 0; i < 100 && loop_run_once(h->machine.loop, i == 0 ? 20 : 0) > 0; i++)
                ;
}
