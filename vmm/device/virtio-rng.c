// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-rng: the host's random numbers for the guest (virtio 1.2 §5.4)
 *
 * One queue of writable buffers, filled from getrandom(). A guest may offer any number of large buffers at once, and filling them
 * takes the main loop's time; so one round fills at most ROUND_MAX bytes, then gives way by a timer that fires at once.
 * A buffer may come back partly filled (§5.4.6.2 asks for at least one byte), so a huge one costs no more than its share.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "vmm/device/device.h"
#include "vmm/virtio/virtio-pci.h"

/* seccomp: main: getrandom */
/* seccomp: vcpu: getrandom (rare) -- a doorbell that no ioeventfd took */

#define ROUND_MAX   65536u /* bytes in one go */
#define ROUND_CHAIN 16u    /* chains in one go: empty-handed work counts as well */
#define RETRY_USEC  10000u /* when the host has no entropy yet (early boot) */

/* seccomp: main: getrandom */

struct rng {
        struct device device;
        struct virtio_device virtio;
        struct virtio_pci *proxy;
        struct loop_source *again;
        struct virtq_chain chain;
};

/* Fill the chain's buffers up to @max bytes; how many there are now, or -EAGAIN when the host has none at all. */
static ssize_t fill(const struct virtq_chain *chain, size_t max) {
        size_t done = 0;

        for (unsigned int i = 0; i < chain->n_writable && done < max; i++) {
                const struct iovec *iov = &chain->iov[chain->n_readable + i];
                size_t want = MIN(iov->iov_len, max - done);
                ssize_t n = getrandom(iov->iov_base, want, GRND_NONBLOCK);

                if (n > 0)
                        done += (size_t)n;
                if (n < (ssize_t)want)
                        break; /* interrupted, or not yet: the driver asks again */
        }
        return done > 0 ? (ssize_t)done : -EAGAIN;
}

static void serve(struct rng *rng) {
        struct virtq *q = &rng->virtio.queues[0];
        size_t left = ROUND_MAX;
        int r = 0;

        for (unsigned int i = 0; i < ROUND_CHAIN && left > 0; i++) {
                ssize_t n;

                r = virtq_pop(q, &rng->chain);
                if (r <= 0)
                        break;
                if (rng->chain.n_readable > 0 || rng->chain.n_writable == 0) { /* §5.4.6.1 */
                        r = -EPROTO;
                        break;
                }
                n = fill(&rng->chain, left);
                if (n < 0) {
                        virtq_unpop(q);
                        (void)loop_timer_set(rng->again, RETRY_USEC);
                        r = 0;
                        break;
                }
                left -= (size_t)n;
                virtq_push(q, rng->chain.head, (uint32_t)n);
        }
        virtio_device_notify_queue(&rng->virtio, 0);
        if (r < 0)
                virtio_device_needs_reset(&rng->virtio);
        else if (r > 0)
                (void)loop_timer_set(rng->again, 0); /* there may be more */
}

static void on_again(void *opaque) {
        struct rng *rng = opaque;

        if (rng->virtio.running)
                serve(rng);
}

static void rng_notify(struct virtio_device *virtio, unsigned int index) {
        serve(CONTAINER_OF(virtio, struct rng, virtio));
}

static void rng_stop(struct virtio_device *virtio) {
        struct rng *rng = CONTAINER_OF(virtio, struct rng, virtio);

        (void)loop_timer_set(rng->again, UINT64_MAX);
}

static const struct virtio_device_ops rng_ops = {
        .id = VIRTIO_ID_RNG,
        .name = "virtio-rng",
        .class_code = 0x00ff00, /* no class fits */
        .queue_size = 64,
        .notify = rng_notify,
        .reset = rng_stop,
};

static void rng_reset(struct device *device) {
        virtio_device_set_status(&CONTAINER_OF(device, struct rng, device)->virtio, 0);
}

static void rng_destroy(struct device *device) {
        struct rng *rng = CONTAINER_OF(device, struct rng, device);

        virtio_pci_free(rng->proxy);
        loop_source_free(rng->again);
        virtio_device_destroy(&rng->virtio);
        free(rng);
}

static int rng_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct rng *rng;
        int r;

        if (index > 0)
                return -ENOENT;
        rng = calloc(1, sizeof(*rng));
        if (!rng)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for virtio-rng");
        rng->device.class = &virtio_rng_class;
        r = virtio_device_init(&rng->virtio, &rng_ops, machine->memory, 1, 0, NULL, 0);
        if (r >= 0)
                r = loop_add_timer(machine->loop, on_again, rng, &rng->again);
        if (r >= 0)
                r = virtio_pci_new(machine, &rng->virtio, LAYOUT_SLOT_RNG, &rng->proxy, e);
        if (r < 0) {
                rng_destroy(&rng->device);
                return error_set(e, r, "device-create", NULL, "cannot make virtio-rng");
        }
        *ret_device = &rng->device;
        return 0;
}

const struct device_class virtio_rng_class = {
        .name = "virtio-rng",
        .create = rng_create,
        .reset = rng_reset,
        .destroy = rng_destroy,
};
