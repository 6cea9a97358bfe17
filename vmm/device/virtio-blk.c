// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-blk: a disk (virtio 1.2 §5.2)
 *
 * A request is one chain:
 *
 *      readable                                        writable
 *      header: type, sector (16 bytes) | data to write || data read, or the serial | status (the last byte)
 *
 * Theory of operation. A doorbell takes chains from the queue, each into a request from a pool that was allocated with the
 * device; the buffers go down to vmm/block as they are, pointing into guest memory. After the batch one kick starts them all. Completions
 * come in rounds: each writes its status byte and is pushed, and the end of the round publishes them with one interrupt.
 *
 * The pool is as large as the queue. A driver that hands the same descriptors in again while they are in flight finds it empty: it
 * waits until something completes. One doorbell does at most a queue's worth of work; the rest is left to the loop's next round, so that a
 * driver that never stops can't keep the other devices waiting.
 *
 * What breaks the frame of a request (no status byte, no whole header) sets DEVICE_NEEDS_RESET, since there is nowhere to report
 * it; what is wrong inside it (beyond the end, not whole sectors, unknown type) is answered in the status byte (§5.2.6).
 *
 * The write cache (§5.2.6.2). The host's page cache is volatile, so the disk says it has a cache that FLUSH empties. A driver that did not
 * negotiate FLUSH, or switched the cache off by CONFIG_WCE, gets writes that are durable when they complete.
 *
 * Reset. Requests in flight are cancelled or waited for: after it, nothing may write into guest memory that now belongs to another
 * kernel. Storage that hangs for longer than RESET_TIMEOUT_MS ends the machine rather than breaking that promise.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/block/block.h"
#include "vmm/block/layer/layer.h"
#include "vmm/block/qcow2/qcow2.h"
#include "vmm/device/device.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

#define BIT(n)           (1ull << (n))

#define BLK_QUEUE_SIZE   128u
#define BLK_SEG_MAX      (BLK_QUEUE_SIZE - 2) /* header and status take a descriptor each */
#define BLK_RANGE_MAX    (1u << 22)           /* sectors of one discard or write zeroes: 2 GiB */
#define RESET_TIMEOUT_MS 30000

struct blk_request {
        struct block_request io; /* first: io.done() finds the rest */
        struct blk *blk;
        struct blk_request *next; /* free */
        uint8_t *status;          /* in guest memory */
        uint32_t written;         /* bytes of the writable part, the status byte included */
        uint16_t head;
        struct iovec iov[BLK_QUEUE_SIZE];
};

struct blk {
        struct device device;
        struct virtio_device virtio;
        struct virtio_pci *proxy;
        struct machine *machine;
        struct block *block;
        struct block_queue *io;
        struct loop_source *again; /* timer: more work is left in the queue */

        struct virtio_blk_config config;
        char serial[VIRTIO_BLK_ID_BYTES];

        struct blk_request *requests; /* BLK_QUEUE_SIZE of them; pages that were never used cost nothing */
        struct blk_request *free;
        unsigned int n_used; /* requests[n_used...] were never taken */
        bool stalled;        /* chains wait for a free request */
        bool resetting;
};

static struct blk *blk_of(struct virtio_device *virtio) {
        return CONTAINER_OF(virtio, struct blk, virtio);
}

static struct blk_request *blk_take(struct blk *b) {
        struct blk_request *r = b->free;

        if (r)
                b->free = r->next;
        else if (b->n_used < BLK_QUEUE_SIZE)
                r = &b->requests[b->n_used++];
        return r;
}

static void blk_give(struct blk *b, struct blk_request *r) {
        r->next = b->free;
        b->free = r;
}

static void blk_answer(struct blk *b, struct blk_request *r, uint8_t status) {
        if (!b->resetting) {
                __atomic_store_n(r->status, status, __ATOMIC_RELAXED);
                virtq_push(&b->virtio.queues[0], r->head, r->written);
        }
        blk_give(b, r);
}

static void blk_done(struct block_request *io, int result) {
        struct blk_request *r = CONTAINER_OF(io, struct blk_request, io);

        blk_answer(r->blk, r, result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

/* Buffers of [@skip, @skip + @len) of @in; the caller knows that so much is there. Returns how many. */
static unsigned int slice(const struct iovec *in, uint64_t skip, uint64_t len, struct iovec *out) {
        unsigned int n = 0;

        for (; len > 0; in++) {
                size_t part;

                if (skip >= in->iov_len) {
                        skip -= in->iov_len;
                        continue;
                }
                part = (size_t)MIN((uint64_t)in->iov_len - skip, len);
                out[n++] = (struct iovec){ .iov_base = (uint8_t *)in->iov_base + skip, .iov_len = part };
                len -= part;
                skip = 0;
        }
        return n;
}

/* Writes are durable at once unless the driver knows of the cache (§5.2.6.2). */
static bool blk_write_through(const struct blk *b) {
        if (virtio_device_has(&b->virtio, VIRTIO_BLK_F_CONFIG_WCE))
                return !b->config.wce;
        return !virtio_device_has(&b->virtio, VIRTIO_BLK_F_FLUSH);
}

/* Discard and write zeroes: one range (max_*_seg is 1) with known flags; a status, or VIRTIO_BLK_S_OK with the request filled in. */
static uint8_t blk_range(struct blk *b, struct blk_request *r, const struct virtq_chain *chain, bool zeroes) {
        struct virtio_blk_discard_write_zeroes range;
        unsigned int feature = zeroes ? VIRTIO_BLK_F_WRITE_ZEROES : VIRTIO_BLK_F_DISCARD;
        uint32_t known = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;

        if (!virtio_device_has(&b->virtio, feature))
                return VIRTIO_BLK_S_UNSUPP;
        if (chain->readable != sizeof(struct virtio_blk_outhdr) + sizeof(range))
                return VIRTIO_BLK_S_IOERR;
        virtq_chain_read(chain, sizeof(struct virtio_blk_outhdr), &range, sizeof(range));
        if (range.flags & ~known)
                return VIRTIO_BLK_S_UNSUPP;
        if (range.num_sectors > BLK_RANGE_MAX || range.sector > UINT64_MAX / BLOCK_SECTOR)
                return VIRTIO_BLK_S_IOERR;
        r->io.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
        r->io.flags = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? BLOCK_UNMAP : 0;
        if (zeroes && blk_write_through(b))
                r->io.flags |= BLOCK_DURABLE;
        r->io.offset = range.sector * BLOCK_SECTOR;
        r->io.length = (uint64_t)range.num_sectors * BLOCK_SECTOR;
        return VIRTIO_BLK_S_OK;
}

static uint8_t blk_transfer(struct blk *b, struct blk_request *r, const struct virtq_chain *chain, uint64_t sector,
                            bool out) {
        if (sector > UINT64_MAX / BLOCK_SECTOR)
                return VIRTIO_BLK_S_IOERR;
        r->io.op = out ? BLOCK_WRITE : BLOCK_READ;
        r->io.flags = out && blk_write_through(b) ? BLOCK_DURABLE : 0;
        r->io.offset = sector * BLOCK_SECTOR;
        r->io.length = out ? chain->readable - sizeof(struct virtio_blk_outhdr) : chain->writable - 1;
        r->io.iov = r->iov;
        r->io.n_iov = out ? slice(chain->iov, sizeof(struct virtio_blk_outhdr), r->io.length, r->iov)
                          : slice(chain->iov + chain->n_readable, 0, r->io.length, r->iov);
        return VIRTIO_BLK_S_OK;
}

/* Start the request in @chain, or answer it. -EPROTO when it has no place for an answer. */
static int blk_start(struct blk *b, struct blk_request *r, struct virtq_chain *chain) {
        struct virtio_blk_outhdr header;
        const struct iovec *last;
        uint8_t status;

        if (chain->writable == 0 || chain->n_readable + chain->n_writable > BLK_QUEUE_SIZE ||
            virtq_chain_read(chain, 0, &header, sizeof(header)) < sizeof(header)) {
                blk_give(b, r);
                return -EPROTO;
        }
        last = &chain->iov[chain->n_readable + chain->n_writable - 1];
        r->blk = b;
        r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
        r->head = chain->head;
        r->written = (uint32_t)chain->writable;
        r->io = (struct block_request){ .done = blk_done };

        switch (header.type) {
        case VIRTIO_BLK_T_IN:
        case VIRTIO_BLK_T_OUT:
                status = blk_transfer(b, r, chain, header.sector, header.type == VIRTIO_BLK_T_OUT);
                break;
        case VIRTIO_BLK_T_FLUSH:
                r->io.op = BLOCK_FLUSH;
                status = VIRTIO_BLK_S_OK;
                break;
        case VIRTIO_BLK_T_DISCARD:
        case VIRTIO_BLK_T_WRITE_ZEROES:
                status = blk_range(b, r, chain, header.type == VIRTIO_BLK_T_WRITE_ZEROES);
                break;
        case VIRTIO_BLK_T_GET_ID:
                virtq_chain_write(chain, 0, b->serial, MIN(sizeof(b->serial), (size_t)chain->writable - 1));
                blk_answer(b, r, VIRTIO_BLK_S_OK);
                return 0;
        default:
                status = VIRTIO_BLK_S_UNSUPP;
                break;
        }
        if (status == VIRTIO_BLK_S_OK)
                block_queue_submit(b->io, &r->io);
        else
                blk_answer(b, r, status);
        return 0;
}

static void blk_process(struct blk *b) {
        struct virtq *q = &b->virtio.queues[0];
        struct virtq_chain chain;
        unsigned int budget = BLK_QUEUE_SIZE;

        while (b->virtio.running) {
                struct blk_request *r;
                int k;

                if (budget-- == 0) {
                        loop_timer_set(b->again, 0);
                        break;
                }
                r = blk_take(b);
                if (!r) {
                        b->stalled = true;
                        break;
                }
                k = virtq_pop(q, &chain);
                if (k <= 0)
                        blk_give(b, r);
                if (k == 0)
                        break;
                if (k < 0 || blk_start(b, r, &chain) < 0)
                        virtio_device_needs_reset(&b->virtio);
        }
        block_queue_kick(b->io);
        virtio_device_notify_queue(&b->virtio, 0);
}

static void blk_notify(struct virtio_device *virtio, unsigned int index) {
        struct blk *b = blk_of(virtio);

        if (!b->stalled)
                blk_process(b);
}

static void blk_again(void *opaque) {
        struct blk *b = opaque;

        if (b->virtio.running)
                blk_notify(&b->virtio, 0);
}

/* The end of a round of completions. */
static void blk_batch(void *opaque) {
        struct blk *b = opaque;

        if (b->resetting)
                return;
        virtio_device_notify_queue(&b->virtio, 0);
        if (b->stalled) {
                b->stalled = false;
                loop_timer_set(b->again, 0);
        }
}

static void blk_reset(struct virtio_device *virtio) {
        struct blk *b = blk_of(virtio);

        b->stalled = false;
        loop_timer_set(b->again, UINT64_MAX);
        b->resetting = true;
        if (block_queue_drain(b->io, true, RESET_TIMEOUT_MS) < 0) {
                log_error("disk %.*s: its storage does not answer, so the machine has to end", VIRTIO_BLK_ID_BYTES,
                          b->serial);
                machine_request_shutdown(b->machine, SHUTDOWN_ERROR, 2);
        } else {
                b->resetting = false;
        }
        b->config.wce = 1;
}

static void blk_config_write(struct virtio_device *virtio, unsigned int offset, const void *buf, unsigned int size) {
        struct blk *b = blk_of(virtio);
        unsigned int at = offsetof(struct virtio_blk_config, wce);

        if (offset <= at && at < offset + size && virtio_device_has(virtio, VIRTIO_BLK_F_CONFIG_WCE))
                b->config.wce = ((const uint8_t *)buf)[at - offset] & 1;
}

static const struct virtio_device_ops blk_ops = {
        .id = VIRTIO_ID_BLOCK,
        .name = "virtio-blk",
        .class_code = 0x018000, /* mass storage, other */
        .queue_size = BLK_QUEUE_SIZE,
        .reset = blk_reset,
        .notify = blk_notify,
        .config_write = blk_config_write,
};

/* Fills the configuration space (§5.2.4) and returns the features that go with it. */
static uint64_t blk_describe(struct blk *b) {
        const struct block_limits *l = block_limits(b->block);
        uint32_t sectors = l->logical_block / BLOCK_SECTOR;
        uint64_t features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                            BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);

        b->config = (struct virtio_blk_config){
                .capacity = l->size / BLOCK_SECTOR,
                .seg_max = BLK_SEG_MAX,
                .blk_size = l->logical_block,
                .physical_block_exp = (uint8_t)__builtin_ctz(MAX(l->physical_block / l->logical_block, 1u)),
                .min_io_size = 1,
                .wce = 1,
                .num_queues = 1,
        };
        if (l->readonly)
                features |= BIT(VIRTIO_BLK_F_RO);
        if (l->discard) {
                features |= BIT(VIRTIO_BLK_F_DISCARD);
                b->config.max_discard_sectors = BLK_RANGE_MAX;
                b->config.max_discard_seg = 1;
                b->config.discard_sector_alignment = MAX(l->physical_block / BLOCK_SECTOR, sectors);
        }
        if (l->write_zeroes) {
                features |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
                b->config.max_write_zeroes_sectors = BLK_RANGE_MAX;
                b->config.max_write_zeroes_seg = 1;
                b->config.write_zeroes_may_unmap = 1;
        }
        return features;
}

static void blk_destroy(struct device *device) {
        struct blk *b = CONTAINER_OF(device, struct blk, device);

        virtio_pci_free(b->proxy);
        b->virtio.running = false;
        b->resetting = true; /* guest memory is left alone from here on */
        block_queue_free(b->io);
        block_close(b->block);
        loop_source_free(b->again);
        virtio_device_destroy(&b->virtio);
        free(b->requests);
        free(b);
}

static int blk_thread_start(void *opaque) {
        struct machine *machine = opaque;

        return machine->hooks && machine->hooks->block_thread_start ? machine->hooks->block_thread_start(machine) : 0;
}

static int open_layer(int fd, enum vmm_disk_format format, bool readonly, bool direct, struct layer **ret,
                      struct error *e) {
        const struct file_options options = { .fd = fd, .readonly = readonly, .direct = direct };
        const struct qcow2_options qcow2 = { .readonly = readonly, .repair = true };
        struct file *file;
        int r = file_open(&options, &file, e);

        if (r < 0)
                return r;
        r = format == VMM_DISK_FORMAT_QCOW2 ? qcow2_open(file, &qcow2, ret, e) : raw_open(file, ret, e);
        if (r < 0)
                file_close(file);
        return r;
}

/* The disk's image on top of the images that it stands on. On error *@ret_top is what was open by then. */
static int open_layers(const struct vmm_disk_config *config, struct layer **ret_top, struct error *e) {
        struct layer *layer;
        int r;

        for (size_t i = config->n_backing; i > 0; i--) {
                const struct vmm_backing_config *c = &config->backing[i - 1];
                r = open_layer(c->fd, c->format, true, config->direct, &layer, e);

                if (r < 0) {
                        error_prefix(e, "backing image %zu", i);
                        return r;
                }
                layer->backing = *ret_top;
                *ret_top = layer;
        }
        r = open_layer(config->fd, config->format, config->readonly, config->direct, &layer, e);
        if (r < 0)
                return r;
        layer->backing = *ret_top;
        *ret_top = layer;
        return 0;
}

static int open_block(struct machine *machine, const struct vmm_disk_config *config, struct block **ret_block,
                      struct error *e) {
        struct block_options options = { .thread_start = blk_thread_start, .thread_opaque = machine };
        int r = open_layers(config, &options.top, e);

        if (r == 0)
                r = block_open(&options, ret_block, e);
        if (r < 0)
                layer_close(options.top);
        return r;
}

static int blk_setup(struct blk *b, struct machine *machine, const struct vmm_disk_config *config, unsigned int slot,
                     struct error *e) {
        const struct block_queue_options options = {
                .depth = BLK_QUEUE_SIZE,
                .loop = machine->loop,
                .batch = blk_batch,
                .opaque = b,
        };
        uint64_t features;
        int r;

        if (config->serial)
                memcpy(b->serial, config->serial, strnlen(config->serial, sizeof(b->serial)));
        r = open_block(machine, config, &b->block, e);
        if (r == 0)
                r = block_queue_new(b->block, &options, &b->io, e);
        if (r < 0)
                return r;
        features = blk_describe(b);
        b->requests = calloc(BLK_QUEUE_SIZE, sizeof(*b->requests));
        r = b->requests ? loop_add_timer(machine->loop, blk_again, b, &b->again) : -ENOMEM;
        if (r >= 0)
                r = virtio_device_init(&b->virtio, &blk_ops, machine->memory, 1, features, &b->config,
                                       offsetof(struct virtio_blk_config, max_secure_erase_sectors));
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make a disk");
        return virtio_pci_new(machine, &b->virtio, slot, &b->proxy, e);
}

static int blk_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct blk *b;
        int r;

        if (index >= machine->config->n_disks)
                return -ENOENT;
        if (index >= LAYOUT_DISKS_MAX)
                return error_set(e, -ENOSPC, "disk-count", NULL, "more than %u disks", LAYOUT_DISKS_MAX);
        b = calloc(1, sizeof(*b));
        if (!b)
                return error_set(e, -ENOMEM, "device-create", NULL, "no memory for a disk");
        b->device.class = &virtio_blk_class;
        b->machine = machine;
        r = blk_setup(b, machine, &machine->config->disks[index], LAYOUT_SLOT_DISK + index, e);
        if (r < 0) {
                error_prefix(e, "disk %u", index);
                blk_destroy(&b->device);
                return r;
        }
        *ret_device = &b->device;
        return 0;
}

static void blk_class_reset(struct device *device) {
        virtio_device_set_status(&CONTAINER_OF(device, struct blk, device)->virtio, 0);
}

const struct device_class virtio_blk_class = {
        .name = "virtio-blk",
        .create = blk_create,
        .reset = blk_class_reset,
        .destroy = blk_destroy,
};
