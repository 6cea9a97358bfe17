// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vhost-user-blk: a disk (virtio 1.2 §5.2) whose requests another process does, such as qemu-storage-daemon
 *
 *      guest's queue  --pop-->  header checked and copied  --shadow ring-->  back end: reads and writes guest memory
 *      guest's queue  <--push--------------------------------shadow ring---  used
 *
 * Theory of operation. Guest memory is shared with the back end, which finds the guest's data there; the rings that it works on are
 * ours (shadow-ring.h), so that we know what is in flight. Doorbells and the back end's interrupts both come through the machine's loop.
 * What the disk is like (size, features, limits) the back end says once, before the guest starts.
 *
 * A back end that hangs up, breaks a rule or does not answer within ANSWER_MS is dropped: it is logged, the guest's requests
 * wait, and the loop asks the parent for another connection, less and less often (we may not connect to anything ourselves). The
 * next one gets everything that was in flight. A request may so be done twice; nothing that depends on it has been done in
 * between, since the guest has not heard of its end.
 *
 * The protocol is spoken on the machine's loop only, where each exchange may hold everything up for ANSWER_MS at most. What a vCPU asks
 * for (DRIVER_OK, reset) only arms the timer `work`, which does whatever is to be done: ask, start the rings, take requests.
 *
 * Reset and pause wait until nothing is in flight, and stop the rings (GET_VRING_BASE). When a back end takes longer than RESET_MS for a
 * reset, the machine ends: it may still write into memory that belongs to another kernel by then. When it takes longer than PAUSE_MS for a
 * pause, that fails, and the machine runs on.
 *
 * Not offered to the guest: CONFIG_WCE. A driver without FLUSH is told to the back end, which then has to write through (§5.2.6.2).
 */
#include "vmm/device/vhost-user-blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/iov.h"
#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/vhost/shadow-ring.h"
#include "vmm/vhost/vhost-user.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

#define BIT(n)       (1ull << (n))

#define QUEUES_MAX   4u
#define SEG_MAX      (SHADOW_SIZE - 2) /* header and status take a descriptor each */
#define CONFIG_SIZE  offsetof(struct virtio_blk_config, max_secure_erase_sectors)
#define ANSWER_MS    3000u /* of a whole sequence of messages */
#define RESET_MS     30000u
#define PAUSE_MS     5000u
#define RETRY_MIN_MS 50u
#define RETRY_MAX_MS 1000u  /* nobody there: asking costs nothing */
#define RETRY_SHARE  10u    /* one that is slow to get going, and goes, holds up one part of so many */
#define RETRY_BAD_MS 10000u /* somebody who may cost ANSWER_MS each time */

/* What passes from the back end to the guest. */
#define FEATURES                                                                                                       \
        (BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_GEOMETRY) | BIT(VIRTIO_BLK_F_RO) |  \
         BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_MQ) |    \
         BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))
#define FEATURES_NEEDED (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC))

struct vblk_queue {
        struct vblk *blk;
        unsigned int index;
        struct shadow_ring *ring;
        struct loop_source *called;
};

struct vblk {
        struct device device;
        struct virtio_device virtio;
        struct virtio_pci *proxy;
        struct machine *machine;
        const struct vmm_disk_config *settings;
        unsigned int number;

        struct vhost_user backend;  /* fd < 0: gone */
        struct loop_source *heard;  /* something from it that nobody asked for: its end */
        struct loop_source *parent; /* answers: connections to other back ends */
        struct loop_source *work;   /* timer */
        struct loop_source *hung;   /* timer: a reset takes too long */
        unsigned int retry_ms;
        unsigned int exchange_ms; /* what the last back end took to get going, with everything held up */
        bool asked;               /* the parent, for a connection */
        bool started;             /* the back end has the rings */
        bool active;              /* between DRIVER_OK and reset */
        bool paused;              /* the rings stay stopped */
        bool draining;            /* a reset waits for the end of what is in flight */

        struct virtio_blk_config config;
        struct vblk_queue queues[QUEUES_MAX];
        unsigned int n_queues;
};

static struct vblk *vblk_of(struct virtio_device *virtio) {
        return CONTAINER_OF(virtio, struct vblk, virtio);
}

static unsigned int vblk_in_flight(const struct vblk *b) {
        unsigned int n = 0;

        for (unsigned int i = 0; i < b->n_queues; i++)
                n += shadow_ring_in_flight(b->queues[i].ring);
        return n;
}

static void vblk_forget(struct vblk *b) {
        for (unsigned int i = 0; i < b->n_queues; i++)
                shadow_ring_forget(b->queues[i].ring);
}

static void vblk_do(struct vblk *b) {
        loop_timer_set(b->work, 0);
}

/* --- from the back end to the guest --- */

static int vblk_collect(struct vblk_queue *q) {
        struct vblk *b = q->blk;
        uint32_t written;
        uint16_t head;
        int k;

        while ((k = shadow_ring_take(q->ring, &head, &written)) == 1) {
                b->retry_ms = RETRY_MIN_MS; /* it is of use */
                if (b->active)
                        virtq_push(&b->virtio.queues[q->index], head, written);
        }
        if (b->active)
                virtio_device_notify_queue(&b->virtio, q->index);
        return k;
}

static void vblk_drained(struct vblk *b) {
        vblk_forget(b);
        b->draining = false;
        loop_timer_set(b->hung, UINT64_MAX);
        virtio_device_reset_done(&b->virtio);
        machine_reset_ready(b->machine);
}

/* The back end is not used any more. What it has finished counts; the rest is for the next one. */
static void vblk_drop(struct vblk *b, int r) {
        log_warning("disk%u: its back end is gone, requests wait: %s", b->number, vhost_user_reason(-r));
        for (unsigned int i = 0; i < b->n_queues && b->started; i++)
                (void)vblk_collect(&b->queues[i]);
        b->started = false;
        loop_source_free(TAKE_PTR(b->heard));
        vhost_user_close(&b->backend);
        if (b->draining)
                vblk_drained(b);
        loop_timer_set(b->work, MAX(b->retry_ms, b->exchange_ms * RETRY_SHARE) * 1000ull);
        if (b->retry_ms < RETRY_MAX_MS)
                b->retry_ms *= 2;
}

/* Return: false when the back end had to be dropped. */
static bool vblk_stop(struct vblk *b) {
        int r = 0;

        vhost_user_allow(&b->backend, ANSWER_MS);
        for (unsigned int i = 0; i < b->n_queues && b->started && r == 0; i++)
                r = vhost_user_stop_ring(&b->backend, i);
        if (r < 0)
                vblk_drop(b, r);
        b->started = false;
        return r == 0;
}

static void vblk_try_reset(struct vblk *b) {
        if (b->draining && vblk_in_flight(b) == 0 && vblk_stop(b))
                vblk_drained(b);
}

static void vblk_hung(void *opaque) {
        struct vblk *b = opaque;

        if (!b->draining)
                return;
        log_error("disk%u: its back end does not answer, so the machine has to end", b->number);
        machine_request_shutdown(b->machine, SHUTDOWN_ERROR, 2);
}

/* --- from the guest to the back end --- */

static void vblk_answer(struct vblk_queue *q, struct virtq_chain *chain, uint8_t status) {
        virtq_chain_write(chain, chain->writable - 1, &status, sizeof(status));
        virtq_push(&q->blk->virtio.queues[q->index], chain->head, (uint32_t)chain->writable);
}

static bool changes_disk(uint32_t type) {
        return type != VIRTIO_BLK_T_IN && type != VIRTIO_BLK_T_FLUSH && type != VIRTIO_BLK_T_GET_ID;
}

/* -EPROTO when there is no whole header or no place for the status. */
static int vblk_start_request(struct vblk_queue *q, struct virtq_chain *chain) {
        const struct vmm_disk_config *settings = q->blk->settings;
        struct virtio_blk_outhdr header;
        struct iovec iov[SHADOW_TABLE_SIZE - 1];
        unsigned int n;

        if (chain->writable == 0 || chain->n_readable + chain->n_writable > SHADOW_SIZE ||
            virtq_chain_read(chain, 0, &header, sizeof(header)) < sizeof(header))
                return -EPROTO;
        if (header.type == VIRTIO_BLK_T_GET_ID && settings->serial) {
                char id[VIRTIO_BLK_ID_BYTES] = { 0 };

                memcpy(id, settings->serial, strnlen(settings->serial, sizeof(id)));
                virtq_chain_write(chain, 0, id, MIN(sizeof(id), (size_t)chain->writable - 1));
                vblk_answer(q, chain, VIRTIO_BLK_S_OK);
                return 0;
        }
        if (settings->readonly && changes_disk(header.type)) {
                vblk_answer(q, chain, VIRTIO_BLK_S_IOERR);
                return 0;
        }
        iov_slice(chain->iov, chain->n_readable, sizeof(header), chain->readable - sizeof(header), iov, SHADOW_SIZE,
                  &n);
        memcpy(iov + n, chain->iov + chain->n_readable, chain->n_writable * sizeof(*iov));
        return shadow_ring_add(q->ring, &header, sizeof(header), iov, n, chain->n_writable, chain->head,
                               (uint32_t)chain->writable);
}

static void vblk_process(struct vblk_queue *q) {
        struct vblk *b = q->blk;
        struct virtq_chain chain;
        unsigned int budget = SHADOW_SIZE, before = shadow_ring_in_flight(q->ring);
        int k = 0;

        while (b->started && b->active && !shadow_ring_full(q->ring)) {
                if (budget-- == 0) {
                        vblk_do(b);
                        break;
                }
                k = virtq_pop(&b->virtio.queues[q->index], &chain);
                if (k > 0)
                        k = vblk_start_request(q, &chain) < 0 ? -EPROTO : 1;
                if (k <= 0)
                        break;
        }
        if (shadow_ring_in_flight(q->ring) > before)
                shadow_ring_kick(q->ring); /* also what stood before a chain that breaks a rule: a reset waits for it */
        if (k < 0) {
                b->active = false;
                virtio_device_needs_reset(&b->virtio);
        }
        if (b->active)
                virtio_device_notify_queue(&b->virtio, q->index);
}

static void vblk_called(void *opaque, int fd, uint32_t events) {
        struct vblk_queue *q = opaque;

        if (!q->blk->started)
                return;
        if (vblk_collect(q) < 0)
                vblk_drop(q->blk, -EPROTO);
        else
                vblk_process(q);
        vblk_try_reset(q->blk);
}

static void vblk_notify(struct virtio_device *virtio, unsigned int index) {
        vblk_process(&vblk_of(virtio)->queues[index]);
}

/* --- the back end comes and goes --- */

static void vblk_heard(void *opaque, int fd, uint32_t events) {
        vblk_drop(opaque, events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) ? -EPIPE : -EPROTO);
}

static int check_config(const struct virtio_blk_config *c, uint64_t features) {
        uint32_t block = features & BIT(VIRTIO_BLK_F_BLK_SIZE) ? c->blk_size : 512;

        if (c->capacity > INT64_MAX / 512 || block < 512 || block > 65536 || (block & (block - 1)) != 0)
                return -EPROTO;
        if ((features & BIT(VIRTIO_BLK_F_SEG_MAX)) && c->seg_max == 0)
                return -EPROTO;
        return (features & BIT(VIRTIO_BLK_F_MQ)) && c->num_queues == 0 ? -EPROTO : 0;
}

/* Greets whoever is at the other end of @fd; on failure the back end is closed. */
static int vblk_connect(struct vblk *b, int fd, struct virtio_blk_config *ret_config) {
        int r;

        memset(ret_config, 0, sizeof(*ret_config));
        r = vhost_user_greet(&b->backend, fd, ANSWER_MS);
        if (r == 0 && (FEATURES_NEEDED & ~b->backend.features))
                r = -ENOTSUP;
        if (r == 0)
                r = vhost_user_get_config(&b->backend, ret_config, CONFIG_SIZE);
        if (r == 0)
                r = check_config(ret_config, b->backend.features);
        if (r == 0)
                r = loop_add_fd(b->machine->loop, b->backend.fd, EPOLLIN | EPOLLRDHUP, vblk_heard, b, &b->heard);
        if (r < 0)
                vhost_user_close(&b->backend);
        return r;
}

/* Does another back end than the first do what the guest was promised? */
static bool vblk_fits(const struct vblk *b, const struct virtio_blk_config *c) {
        uint64_t promised = b->virtio.device_features & FEATURES & ~BIT(VIRTIO_BLK_F_MQ);

        if (b->settings->readonly)
                promised &= ~BIT(VIRTIO_BLK_F_RO);
        return (promised & ~b->backend.features) == 0 && b->backend.n_queues >= b->n_queues &&
               c->blk_size == b->config.blk_size && c->seg_max >= b->config.seg_max &&
               c->size_max >= b->config.size_max;
}

static int vblk_reconnect(struct vblk *b, int fd) {
        struct virtio_blk_config config;
        uint64_t since = clock_ns();
        int r = vblk_connect(b, fd, &config);

        b->exchange_ms = (unsigned int)((clock_ns() - since) / 1000000);
        if (r < 0)
                return r;
        if (!vblk_fits(b, &config)) {
                loop_source_free(TAKE_PTR(b->heard));
                vhost_user_close(&b->backend);
                return -ENOTSUP;
        }
        log_info("disk%u: its back end is there again", b->number);
        if (config.capacity != b->config.capacity) {
                b->config.capacity = config.capacity;
                virtio_device_config_changed(&b->virtio);
        }
        return 0;
}

static void vblk_start(struct vblk *b) {
        struct vhost_user_region regions[1 + QUEUES_MAX];
        const struct memory_region *ram;
        uint64_t since = clock_ns();
        int r;

        memory_regions(b->machine->memory, &ram); /* one mapping, the first region at its beginning */
        regions[0] = (struct vhost_user_region){
                .address = ram[0].host,
                .size = memory_size(b->machine->memory),
                .fd = memory_fd(b->machine->memory),
        };
        for (unsigned int i = 0; i < b->n_queues; i++) {
                shadow_ring_restart(b->queues[i].ring);
                regions[1 + i] = shadow_ring_region(b->queues[i].ring);
        }
        vhost_user_allow(&b->backend, ANSWER_MS);
        r = vhost_user_set_features(&b->backend,
                                    (b->virtio.driver_features & FEATURES & b->backend.features) | FEATURES_NEEDED);
        if (r == 0)
                r = vhost_user_set_memory(&b->backend, regions, 1 + b->n_queues);
        for (unsigned int i = 0; i < b->n_queues && r == 0; i++) {
                const struct vhost_user_ring ring = shadow_ring_describe(b->queues[i].ring);

                r = vhost_user_start_ring(&b->backend, i, &ring);
        }
        b->exchange_ms += (unsigned int)((clock_ns() - since) / 1000000);
        if (r < 0) {
                if (r != -EPIPE)
                        b->retry_ms = RETRY_BAD_MS;
                vblk_drop(b, r);
                return;
        }
        b->started = true;
        for (unsigned int i = 0; i < b->n_queues; i++)
                shadow_ring_kick(b->queues[i].ring); /* what the last one had in flight */
}

/* Nobody there costs nothing; somebody who is not of use may cost ANSWER_MS each time. */
static void vblk_retry_later(struct vblk *b, int r) {
        bool nobody = r == -ENOTCONN || r == -EPIPE;

        if (!nobody)
                log_warning("disk%u: its back end can't be used: %s", b->number, vhost_user_reason(-r));
        b->retry_ms = nobody ? MIN(b->retry_ms * 2, RETRY_MAX_MS) : RETRY_BAD_MS;
        loop_timer_set(b->work, b->retry_ms * 1000ull);
}

static void vblk_answered(void *opaque, int parent_fd, uint32_t events) {
        struct vblk *b = opaque;
        int fd = vhost_user_answer(parent_fd), r;

        if (fd == -EAGAIN)
                return;
        if (fd == -EPIPE) {
                log_warning("disk%u: the parent is gone: no other back end will come", b->number);
                loop_source_free(TAKE_PTR(b->parent));
                return;
        }
        b->asked = false;
        r = fd < 0 ? fd : vblk_reconnect(b, fd);
        if (r < 0)
                vblk_retry_later(b, r);
        else
                vblk_do(b);
}

static void vblk_ask(struct vblk *b) {
        int r = vhost_user_ask(b->settings->fd);

        b->asked = r >= 0;
        if (r < 0 && r != -EPIPE)
                vblk_retry_later(b, r);
}

static void vblk_work(void *opaque) {
        struct vblk *b = opaque;

        if (b->backend.fd < 0) {
                if (!b->asked)
                        vblk_ask(b);
                return;
        }
        vblk_try_reset(b);
        if (b->active && !b->paused && !b->started)
                vblk_start(b);
        for (unsigned int i = 0; i < b->n_queues; i++)
                vblk_process(&b->queues[i]);
}

/* --- the device --- */

static void vblk_activate(struct virtio_device *virtio) {
        struct vblk *b = vblk_of(virtio);

        b->active = true;
        vblk_do(b);
}

static void vblk_reset(struct virtio_device *virtio) {
        struct vblk *b = vblk_of(virtio);

        b->active = false;
        b->draining = b->started;
        if (!b->draining) {
                vblk_forget(b);
                return;
        }
        loop_timer_set(b->hung, RESET_MS * 1000ull);
        vblk_do(b);
}

static bool vblk_busy(struct virtio_device *virtio) {
        return vblk_of(virtio)->draining;
}

static const struct virtio_device_ops vblk_ops = {
        .id = VIRTIO_ID_BLOCK,
        .name = "vhost-user-blk",
        .class_code = 0x018000, /* mass storage, other */
        .queue_size = SHADOW_SIZE,
        .activate = vblk_activate,
        .reset = vblk_reset,
        .busy = vblk_busy,
        .notify = vblk_notify,
};

static void vblk_destroy(struct device *device) {
        struct vblk *b = CONTAINER_OF(device, struct vblk, device);

        b->active = false;
        virtio_pci_free(b->proxy);
        loop_source_free(b->heard);
        loop_source_free(b->parent);
        loop_source_free(b->work);
        loop_source_free(b->hung);
        vhost_user_close(&b->backend);
        for (unsigned int i = 0; i < b->n_queues; i++) {
                loop_source_free(b->queues[i].called);
                shadow_ring_free(b->queues[i].ring);
        }
        virtio_device_destroy(&b->virtio);
        free(b);
}

static int add_queues(struct vblk *b) {
        unsigned int n = MAX((unsigned int)b->machine->config->cpus, 1u);
        int r = 0;

        n = MIN(n, QUEUES_MAX);
        n = MIN(n, b->backend.n_queues);
        n = b->backend.features & BIT(VIRTIO_BLK_F_MQ) ? MIN(n, (unsigned int)b->config.num_queues) : 1;
        while (b->n_queues < n && r >= 0) {
                struct vblk_queue *q = &b->queues[b->n_queues];

                *q = (struct vblk_queue){ .blk = b, .index = b->n_queues };
                r = shadow_ring_new(&q->ring);
                if (r < 0)
                        break;
                b->n_queues++;
                r = loop_add_fd(b->machine->loop, shadow_ring_call_fd(q->ring), EPOLLIN | EPOLLET, vblk_called, q,
                                &q->called);
        }
        return r;
}

/* What the back end says of the disk, as the guest gets to see it. */
static uint64_t vblk_describe(struct vblk *b) {
        uint64_t features = b->backend.features & FEATURES;

        if (b->n_queues == 1)
                features &= ~BIT(VIRTIO_BLK_F_MQ);
        if (b->settings->readonly)
                features |= BIT(VIRTIO_BLK_F_RO);
        b->config.num_queues = (uint16_t)b->n_queues;
        b->config.seg_max = MIN(b->config.seg_max, SEG_MAX);
        return features;
}

static int vblk_setup(struct vblk *b, struct error *e) {
        int fd = memory_fd(b->machine->memory) < 0 ? -EINVAL : vhost_user_answer(b->settings->fd);
        int r = fd < 0 ? fd : vblk_connect(b, fd, &b->config);

        if (r < 0)
                return error_set(e, r, "disk-backend", "see what the back end says, or start it anew",
                                 "the vhost-user back end can't be used: %s", vhost_user_reason(-r));
        r = add_queues(b);
        if (r >= 0)
                r = loop_add_fd(b->machine->loop, b->settings->fd, EPOLLIN, vblk_answered, b, &b->parent);
        if (r >= 0)
                r = loop_add_timer(b->machine->loop, vblk_work, b, &b->work);
        if (r >= 0)
                r = loop_add_timer(b->machine->loop, vblk_hung, b, &b->hung);
        if (r >= 0)
                r = virtio_device_init(&b->virtio, &vblk_ops, b->machine->memory, b->n_queues, vblk_describe(b),
                                       &b->config, CONFIG_SIZE);
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make a disk");
        return virtio_pci_new(b->machine, &b->virtio, LAYOUT_SLOT_DISK + b->number, &b->proxy, e);
}

int vhost_user_blk_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct vblk *b = calloc(1, sizeof(*b));
        int r;

        if (!b)
                return error_set(e, -ENOMEM, "device-create", NULL, "no memory for a disk");
        b->device.class = &vhost_user_blk_class;
        b->machine = machine;
        b->settings = &machine->config->disks[index];
        b->number = index;
        b->backend.fd = -EBADF;
        b->retry_ms = RETRY_MIN_MS;
        r = vblk_setup(b, e);
        if (r < 0) {
                error_prefix(e, "disk %u", index);
                vblk_destroy(&b->device);
                return r;
        }
        *ret_device = &b->device;
        return 0;
}

static struct vblk *vblk_of_device(struct device *device) {
        return CONTAINER_OF(device, struct vblk, device);
}

static void vblk_class_reset(struct device *device) {
        virtio_device_set_status(&vblk_of_device(device)->virtio, 0);
}

static bool vblk_class_busy(struct device *device) {
        return vblk_of_device(device)->virtio.resetting;
}

static void vblk_resume(struct device *device) {
        struct vblk *b = vblk_of_device(device);

        b->paused = false;
        vblk_do(b);
}

/* Without a back end nothing is being done: what is in flight waits for the next one, after the pause. */
static int vblk_pause(struct device *device) {
        struct vblk *b = vblk_of_device(device);

        b->paused = true;
        for (unsigned int ms = 0; b->started && vblk_in_flight(b) > 0; ms++) {
                struct pollfd p = { .fd = b->backend.fd, .events = POLLIN };
                int r = poll(&p, 1, 1) > 0 ? -EPIPE : 0;

                for (unsigned int i = 0; i < b->n_queues && r == 0; i++)
                        r = vblk_collect(&b->queues[i]);
                if (r < 0)
                        vblk_drop(b, r);
                else if (ms >= PAUSE_MS) {
                        vblk_resume(device);
                        return -ETIMEDOUT;
                }
        }
        vblk_try_reset(b);
        if (b->started)
                (void)vblk_stop(b);
        return 0;
}

const struct device_class vhost_user_blk_class = {
        .name = "vhost-user-blk",
        .create = vhost_user_blk_create,
        .reset = vblk_class_reset,
        .busy = vblk_class_busy,
        .pause = vblk_pause,
        .resume = vblk_resume,
        .destroy = vblk_destroy,
};
