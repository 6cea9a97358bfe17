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
 * negotiate FLUSH, or switched the cache off by CONFIG_WCE, gets writes that are durable when they complete. A disk without write_cache offers
 * neither, so that nobody can switch a cache on.
 *
 * Queues. One for each vCPU, so that a request ends on the vCPU that it came from and guests need no interrupts between vCPUs; all on the
 * machine's loop, hence at most QUEUES_ON_LOOP. Or as many as the disk was given I/O threads, each queue with a thread of its own:
 * doorbells, requests and completions of a queue all happen on its thread, under that thread's lock, and queues share nothing but the
 * image. Each loop counts its requests, and so finds out whether to take the CPU from the guest at a doorbell (loop_set_pace()).
 * Before it sleeps, an I/O thread looks for new requests and completions for a moment (loop_set_idle()): a busy guest then rings no
 * doorbells, each of which is an exit of its vCPU and a wake-up here. Whoever else wants at a queue (activation, reset, pause: on the
 * machine's side) takes its lock. The rings are touched only between DRIVER_OK and reset (`active`), so neither side ever looks at the
 * other's. A rule that the driver broke is noted by the queue and told by the machine's loop, since the device's status is the machine's.
 *
 * Memory. What the machine has taken at the start anyway (preallocate) is registered with io_uring for disks that go past the host's page
 * cache: the kernel then pins no page for each request. doc/adr/0011 has what it brings and takes.
 *
 * Reset. Requests in flight are cancelled or waited for: after it, nothing may write into guest memory that now belongs to another
 * kernel. A moment (RESET_PATIENCE_MS) we wait on the spot; with slower storage the reset goes on while the driver waits, as it has to
 * (§4.1.4.3.2), and is over when the last queue has drained. Storage that hangs for longer than RESET_TIMEOUT_MS ends the machine
 * rather than breaking that promise.
 *
 * Errors of the host's storage. A request that is to be tried again (disk-errors.h) is kept in `failed`; the machine's loop tells of it
 * and pauses the machine, and what is kept goes on when the machine does. A reset drops it.
 *
 * Pause. Queues drain and take nothing more, and the image is flushed, so that its file is whole and still while the machine is paused.
 *
 * Mirror. The last part of a mirror (disk-mirror.h) is copied while the disk stands still: its queues are stopped as for a pause, but the
 * machine runs on. What has two reasons to stand still waits for the end of both. While it does, the disk may get another image: what waits
 * in the rings, or is kept to be tried again, goes on there.
 */
#include "vmm/device/virtio-blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/iov.h"
#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/block/chain/chain.h"
#include "vmm/block/throttle.h"
#include "vmm/device/device.h"
#include "vmm/device/disk-errors.h"
#include "vmm/device/disk-limits.h"
#include "vmm/device/disk-mirror.h"
#include "vmm/device/disk-stats.h"
#include "vmm/device/vhost-user-blk.h"
#include "vmm/machine/io-thread.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

#define BIT(n)            (1ull << (n))

#define BLK_QUEUE_SIZE    128u
#define BLK_SEG_MAX       (BLK_QUEUE_SIZE - 2) /* header and status take a descriptor each */
#define BLK_RANGE_MAX     (1u << 22)           /* sectors of one discard or write zeroes: 2 GiB */
#define QUEUES_ON_LOOP    4u                   /* each has some descriptors of its own, and a machine up to 20 disks */
#define REGISTERED_MAX    8u /* queues of a machine that its memory is registered for: each takes up to 0.4 % of it */
#define REGIONS_MAX       2u /* of memory.h */
#define RESET_PATIENCE_MS 100
#define RESET_TIMEOUT_MS  30000
#define PAUSE_TIMEOUT_MS  5000
#define LOOK_NS           32000 /* an I/O thread looks for so long, at most, before it sleeps */

enum blk_stop { BLK_PAUSED = 1 << 0, BLK_MIRRORED = 1 << 1 };

struct blk_request {
        struct block_request io; /* first: io.done() finds the rest */
        struct blk_queue *queue;
        struct blk_request *next; /* free, or failed */
        uint8_t *status;          /* in guest memory */
        uint32_t written;         /* bytes of the writable part, the status byte included */
        uint16_t head;
        struct iovec iov[BLK_QUEUE_SIZE];
};

struct blk_queue {
        struct blk *blk;
        struct virtq *ring;
        unsigned int index;
        struct io_thread *thread; /* whose lock guards what follows; NULL: on the machine's loop, under its lock */
        struct block_queue *io;
        struct loop_source *again; /* timer: more work is left in the ring */

        struct blk_request *requests; /* BLK_QUEUE_SIZE of them; pages that were never used cost nothing */
        struct blk_request *free;
        struct blk_request *failed;      /* to be tried again when the machine goes on */
        struct machine_disk_error error; /* one that the machine's loop has yet to tell of, if @untold */
        bool untold;
        unsigned int n_used;  /* requests[n_used...] were never taken */
        bool active;          /* enabled, between DRIVER_OK and reset: the ring may be touched */
        unsigned int stopped; /* BLK_*: why it takes nothing from the ring; 0: it does */
        bool stalled;         /* chains wait for a free request */
        bool broken;          /* the driver broke a rule, and the machine's side has yet to say so */
        bool draining;        /* a reset waits for the end of what is in flight */
        struct machine_disk_stats stats;
};

struct blk {
        struct device device;
        struct virtio_device virtio;
        struct virtio_pci *proxy;
        struct machine *machine;
        struct block *block;
        int fd; /* of the image that a mirror has left the disk with; -EBADF: those of the settings are in use */
        const struct vmm_disk_config *settings;
        unsigned int number;        /* which disk of the machine's */
        uint64_t told_ns;           /* when an error that does not pause the machine was told of last */
        struct loop_source *hung;   /* timer: a reset takes too long */
        struct block_request flush; /* of a pause */
        block_resized_fn resized;   /* who asked for a resize */
        void *resized_opaque;
        struct disk_mirror *mirror; /* NULL: none */

        struct virtio_blk_config config; /* wce: atomic */
        char serial[VIRTIO_BLK_ID_BYTES];

        struct blk_queue *queues;
        unsigned int n_queues;
};

static struct blk *blk_of(struct virtio_device *virtio) {
        return CONTAINER_OF(virtio, struct blk, virtio);
}

static void lock(struct blk_queue *q) {
        if (q->thread)
                io_thread_lock(q->thread);
}

static void unlock(struct blk_queue *q) {
        if (q->thread)
                io_thread_unlock(q->thread);
}

static struct blk_request *blk_take(struct blk_queue *q) {
        struct blk_request *r = q->free;

        if (r)
                q->free = r->next;
        else if (q->n_used < BLK_QUEUE_SIZE)
                r = &q->requests[q->n_used++];
        return r;
}

static void blk_give(struct blk_queue *q, struct blk_request *r) {
        r->next = q->free;
        q->free = r;
}

static void blk_answer(struct blk_queue *q, struct blk_request *r, uint8_t status) {
        if (q->active) {
                __atomic_store_n(r->status, status, __ATOMIC_RELAXED);
                virtq_push(q->ring, r->head, r->written);
        }
        blk_give(q, r);
}

static void blk_answer_failed(struct blk_queue *q) {
        struct blk_request *r;

        while ((r = q->failed)) {
                q->failed = r->next;
                blk_answer(q, r, VIRTIO_BLK_S_IOERR);
        }
}

static void blk_log_error(const struct machine_disk_error *e) {
        static const char *const actions[] = {
                [DISK_ERROR_REPORT] = "the guest is told",
                [DISK_ERROR_PAUSE] = "the machine pauses",
                [DISK_ERROR_IGNORE] = "ignored",
        };

        log_warning("disk%u: the host cannot %s: %s: %s", e->disk, e->write ? "write" : "read", strerror(e->error),
                    actions[e->action]);
}

/* A guest can make as many errors as it likes: one in a second is told of. But each pause is. */
static bool blk_worth_telling(struct blk *b, const struct machine_disk_error *e) {
        uint64_t now = clock_ns();

        if (e->action == DISK_ERROR_PAUSE)
                return true;
        if (b->told_ns > 0 && now - b->told_ns < 1000000000)
                return false;
        b->told_ns = now;
        return true;
}

/* The machine can't pause: what was kept for that is answered. */
static void blk_give_up(struct blk *b) {
        for (unsigned int i = 0; i < b->n_queues; i++) {
                struct blk_queue *q = &b->queues[i];

                lock(q);
                blk_answer_failed(q);
                q->stalled = false;
                if (q->active) {
                        virtio_device_notify_queue(&b->virtio, q->index);
                        loop_timer_set(q->again, 0);
                }
                unlock(q);
        }
}

/* On the machine's loop: a queue's storage has failed. */
static void blk_tell_failed(void *opaque) {
        struct blk *b = opaque;

        for (unsigned int i = 0; i < b->n_queues; i++) {
                struct blk_queue *q = &b->queues[i];
                struct machine_disk_error error;
                bool untold;

                lock(q);
                error = q->error;
                untold = q->untold;
                q->untold = false;
                unlock(q);
                if (!untold || !blk_worth_telling(b, &error))
                        continue;
                blk_log_error(&error);
                if (machine_disk_failed(b->machine, &error) < 0)
                        blk_give_up(b);
        }
}

/* Storage has failed @r: the status for the guest, or -1 when @r is kept. */
static int blk_failed(struct blk_queue *q, struct blk_request *r, int error) {
        struct blk *b = q->blk;
        enum disk_error_action action = disk_error_action(b->settings, &r->io, error);

        if (disk_error_is_guests(&r->io, error) || !q->active)
                return VIRTIO_BLK_S_IOERR;
        if (!q->untold || action == DISK_ERROR_PAUSE)
                q->error = (struct machine_disk_error){
                        .disk = b->number,
                        .write = r->io.op != BLOCK_READ,
                        .action = action,
                        .error = error,
                };
        if (!q->untold)
                q->untold = loop_post(b->machine->loop, blk_tell_failed, b) == 0;
        if (action == DISK_ERROR_PAUSE && q->untold) {
                r->next = q->failed;
                q->failed = r;
                return -1;
        }
        return action == DISK_ERROR_IGNORE ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

static void blk_done(struct block_request *io, int result) {
        struct blk_request *r = CONTAINER_OF(io, struct blk_request, io);
        int status = result < 0 ? blk_failed(r->queue, r, -result) : VIRTIO_BLK_S_OK;

        if (status < 0)
                return;
        if (r->queue->active)
                disk_stats_count(&r->queue->stats, io, status != VIRTIO_BLK_S_OK);
        blk_answer(r->queue, r, (uint8_t)status);
}

/* Writes are durable at once unless the driver knows of the cache (§5.2.6.2). */
static bool blk_write_through(const struct blk *b) {
        if (virtio_device_has(&b->virtio, VIRTIO_BLK_F_CONFIG_WCE))
                return !__atomic_load_n(&b->config.wce, __ATOMIC_RELAXED);
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
        if ((range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) && block_limits(b->block)->discard)
                r->io.flags = BLOCK_UNMAP;
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
        if (out)
                iov_slice(chain->iov, chain->n_readable, sizeof(struct virtio_blk_outhdr), r->io.length, r->iov,
                          BLK_QUEUE_SIZE, &r->io.n_iov);
        else
                iov_slice(chain->iov + chain->n_readable, chain->n_writable, 0, r->io.length, r->iov, BLK_QUEUE_SIZE,
                          &r->io.n_iov);
        return VIRTIO_BLK_S_OK;
}

/* Start the request in @chain, or answer it. -EPROTO when it has no place for an answer. */
static int blk_start(struct blk_queue *q, struct blk_request *r, struct virtq_chain *chain) {
        struct blk *b = q->blk;
        struct virtio_blk_outhdr header;
        const struct iovec *last;
        uint8_t status;

        if (chain->writable == 0 || chain->n_readable + chain->n_writable > BLK_QUEUE_SIZE ||
            virtq_chain_read(chain, 0, &header, sizeof(header)) < sizeof(header)) {
                blk_give(q, r);
                return -EPROTO;
        }
        last = &chain->iov[chain->n_readable + chain->n_writable - 1];
        r->queue = q;
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
                blk_answer(q, r, VIRTIO_BLK_S_OK);
                return 0;
        default:
                status = VIRTIO_BLK_S_UNSUPP;
                break;
        }
        if (status == VIRTIO_BLK_S_OK)
                block_queue_submit(q->io, &r->io);
        else
                blk_answer(q, r, status);
        return 0;
}

/* On the machine's loop: a queue has found that the driver broke a rule. */
static void blk_tell_broken(void *opaque) {
        struct blk *b = opaque;
        bool broken = false;

        for (unsigned int i = 0; i < b->n_queues; i++) {
                struct blk_queue *q = &b->queues[i];

                lock(q);
                broken |= q->broken;
                q->broken = false;
                unlock(q);
        }
        for (unsigned int i = 0; i < b->n_queues && broken; i++) {
                lock(&b->queues[i]);
                b->queues[i].active = false;
                unlock(&b->queues[i]);
        }
        if (broken)
                virtio_device_needs_reset(&b->virtio);
}

static void blk_broken(struct blk_queue *q) {
        q->active = false;
        q->broken = true;
        if (q->thread)
                (void)loop_post(q->blk->machine->loop, blk_tell_broken, q->blk);
        else
                blk_tell_broken(q->blk);
}

static struct loop *blk_loop(const struct blk_queue *q) {
        return q->thread ? io_thread_loop(q->thread) : q->blk->machine->loop;
}

/* On the queue's thread: true when there was something in the ring. */
static bool blk_process(struct blk_queue *q) {
        struct virtq_chain chain;
        unsigned int budget = BLK_QUEUE_SIZE, n = 0;

        while (q->active && !q->stopped) {
                struct blk_request *r;
                int k;

                if (budget-- == 0) {
                        loop_timer_set(q->again, 0);
                        break;
                }
                r = blk_take(q);
                if (!r) {
                        q->stalled = true;
                        break;
                }
                k = virtq_pop(q->ring, &chain);
                if (k <= 0)
                        blk_give(q, r);
                if (k == 0)
                        break;
                n++;
                if (k < 0 || blk_start(q, r, &chain) < 0)
                        blk_broken(q);
        }
        block_queue_kick(q->io);
        if (q->active)
                virtio_device_notify_queue(&q->blk->virtio, q->index);
        loop_did(blk_loop(q), n);
        return n > 0;
}

/* ---- what an I/O thread does before it sleeps -------------------------------------------------------------------- */

static void blk_look_begin(void *opaque) {
        struct blk_queue *q = opaque;

        if (q->active)
                virtq_disable_notify(q->ring);
}

static bool blk_look(void *opaque) {
        struct blk_queue *q = opaque;
        unsigned int before = block_queue_in_flight(q->io);

        return blk_process(q) || block_queue_in_flight(q->io) != before;
}

static bool blk_look_end(void *opaque) {
        struct blk_queue *q = opaque;

        return q->active && virtq_enable_notify(q->ring) && !q->stopped && !q->stalled;
}

static const struct loop_idle_ops blk_idle_ops = { blk_look_begin, blk_look, blk_look_end };

/* ------------------------------------------------------------------------------------------------------------------ */

static void blk_notify(struct virtio_device *virtio, unsigned int index) {
        struct blk_queue *q = &blk_of(virtio)->queues[index];

        if (!q->stalled)
                blk_process(q);
}

static void blk_again(void *opaque) {
        struct blk_queue *q = opaque;

        if (!q->stalled)
                blk_process(q);
}

static bool blk_busy(struct virtio_device *virtio) {
        struct blk *b = blk_of(virtio);
        bool busy = false;

        for (unsigned int i = 0; i < b->n_queues; i++) {
                lock(&b->queues[i]);
                busy |= b->queues[i].draining;
                unlock(&b->queues[i]);
        }
        return busy;
}

/* On the machine's loop: a queue has drained that a reset waits for. */
static void blk_drained(void *opaque) {
        struct blk *b = opaque;

        if (!b->virtio.resetting || blk_busy(&b->virtio))
                return;
        loop_timer_set(b->hung, UINT64_MAX);
        virtio_device_reset_done(&b->virtio);
        machine_reset_ready(b->machine);
}

/* The end of a round of completions, on the queue's thread. */
static void blk_batch(void *opaque) {
        struct blk_queue *q = opaque;

        if (q->draining && block_queue_in_flight(q->io) == 0) {
                q->draining = false;
                (void)loop_post(q->blk->machine->loop, blk_drained, q->blk);
        }
        if (!q->active)
                return;
        virtio_device_notify_queue(&q->blk->virtio, q->index);
        if (q->stalled) {
                q->stalled = false;
                loop_timer_set(q->again, 0);
        }
}

static void blk_activate(struct virtio_device *virtio) {
        struct blk *b = blk_of(virtio);

        for (unsigned int i = 0; i < b->n_queues; i++) {
                lock(&b->queues[i]);
                b->queues[i].active = virtio->queues[i].enabled;
                unlock(&b->queues[i]);
        }
}

static void blk_reset(struct virtio_device *virtio) {
        struct blk *b = blk_of(virtio);
        unsigned int patience = RESET_PATIENCE_MS;

        for (unsigned int i = 0; i < b->n_queues; i++) {
                struct blk_queue *q = &b->queues[i];

                lock(q);
                q->active = q->stalled = q->broken = q->untold = false;
                blk_answer_failed(q); /* to nobody */
                loop_timer_set(q->again, UINT64_MAX);
                q->draining = block_queue_drain(q->io, true, patience) < 0;
                if (q->draining)
                        patience = 0;
                unlock(q);
        }
        if (patience == 0)
                loop_timer_set(b->hung, RESET_TIMEOUT_MS * 1000ull);
        __atomic_store_n(&b->config.wce, b->settings->write_cache, __ATOMIC_RELAXED);
}

static void blk_hung(void *opaque) {
        struct blk *b = opaque;

        if (!b->virtio.resetting)
                return;
        log_error("disk %.*s: its storage does not answer, so the machine has to end", VIRTIO_BLK_ID_BYTES, b->serial);
        machine_request_shutdown(b->machine, SHUTDOWN_ERROR, 2);
}

static struct loop *blk_queue_loop(struct virtio_device *virtio, unsigned int index) {
        struct io_thread *thread = blk_of(virtio)->queues[index].thread;

        return thread ? io_thread_loop(thread) : NULL;
}

static void blk_config_write(struct virtio_device *virtio, unsigned int offset, const void *buf, unsigned int size) {
        struct blk *b = blk_of(virtio);
        unsigned int at = offsetof(struct virtio_blk_config, wce);

        if (offset <= at && at < offset + size && virtio_device_has(virtio, VIRTIO_BLK_F_CONFIG_WCE))
                __atomic_store_n(&b->config.wce, ((const uint8_t *)buf)[at - offset] & 1, __ATOMIC_RELAXED);
}

static const struct virtio_device_ops blk_ops = {
        .id = VIRTIO_ID_BLOCK,
        .name = "virtio-blk",
        .class_code = 0x018000, /* mass storage, other */
        .queue_size = BLK_QUEUE_SIZE,
        .activate = blk_activate,
        .reset = blk_reset,
        .busy = blk_busy,
        .queue_loop = blk_queue_loop,
        .notify = blk_notify,
        .config_write = blk_config_write,
};

/* Fills the configuration space (§5.2.4) and returns the features that go with it. */
static uint64_t blk_describe(struct blk *b) {
        const struct block_limits *l = block_limits(b->block);
        uint64_t features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY);

        b->config = (struct virtio_blk_config){
                .capacity = l->size / BLOCK_SECTOR,
                .seg_max = BLK_SEG_MAX,
                .blk_size = l->logical_block,
                .physical_block_exp = (uint8_t)__builtin_ctz(MAX(l->physical_block / l->logical_block, 1u)),
                .min_io_size = 1,
                .wce = b->settings->write_cache,
                .num_queues = (uint16_t)b->n_queues,
        };
        if (b->settings->write_cache)
                features |= BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
        if (b->n_queues > 1)
                features |= BIT(VIRTIO_BLK_F_MQ);
        if (l->readonly)
                features |= BIT(VIRTIO_BLK_F_RO);
        if (l->discard) {
                features |= BIT(VIRTIO_BLK_F_DISCARD);
                b->config.max_discard_sectors = BLK_RANGE_MAX;
                b->config.max_discard_seg = 1;
                b->config.discard_sector_alignment = (uint32_t)(l->discard_granularity / BLOCK_SECTOR);
        }
        if (l->write_zeroes) {
                features |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
                b->config.max_write_zeroes_sectors = BLK_RANGE_MAX;
                b->config.max_write_zeroes_seg = 1;
                b->config.write_zeroes_may_unmap = l->discard;
        }
        return features;
}

static void blk_track(struct blk *b, struct dirty *dirty) {
        for (unsigned int i = 0; i < b->n_queues; i++) {
                lock(&b->queues[i]);
                block_queue_track(b->queues[i].io, dirty);
                unlock(&b->queues[i]);
        }
}

static void blk_destroy(struct device *device) {
        struct blk *b = CONTAINER_OF(device, struct blk, device);

        for (unsigned int i = 0; i < b->n_queues; i++) {
                io_thread_stop(b->queues[i].thread);
                b->queues[i].active = b->queues[i].draining = false; /* guest memory is left alone from here on */
        }
        if (b->mirror)
                blk_track(b, NULL);
        disk_mirror_free(b->mirror);
        virtio_pci_free(b->proxy);
        for (unsigned int i = 0; i < b->n_queues; i++) {
                struct blk_queue *q = &b->queues[i];

                block_queue_free(q->io);
                loop_source_free(q->again);
                io_thread_free(q->thread);
                free(q->requests);
        }
        block_close(b->block);
        safe_close(b->fd);
        loop_source_free(b->hung);
        virtio_device_destroy(&b->virtio);
        free(b->queues);
        free(b);
}

static int blk_thread_start(void *opaque) {
        struct machine *machine = opaque;

        return machine->hooks && machine->hooks->block_thread_start ? machine->hooks->block_thread_start(machine) : 0;
}

static int open_layer(const struct sys *sys, int fd, enum vmm_disk_format format, bool readonly, bool direct,
                      struct layer **ret, struct error *e) {
        const struct file_options options = { .sys = sys, .fd = fd, .readonly = readonly, .direct = direct };

        return chain_open_layer(&options, vmm_disk_format_to_string(format), true, ret, e);
}

/* The disk's image on top of the images that it stands on. On error *@ret_top is what was open by then. */
static int open_layers(const struct sys *sys, const struct vmm_disk_config *config, struct layer **ret_top,
                       struct error *e) {
        struct layer *layer;
        int r;

        for (size_t i = config->n_backing; i > 0; i--) {
                const struct vmm_backing_config *c = &config->backing[i - 1];
                r = open_layer(sys, c->fd, c->format, true, config->direct, &layer, e);

                if (r < 0) {
                        error_prefix(e, "backing image %zu", i);
                        return r;
                }
                layer->backing = *ret_top;
                *ret_top = layer;
        }
        r = open_layer(sys, config->fd, config->format, config->readonly, config->direct, &layer, e);
        if (r < 0)
                return r;
        layer->backing = *ret_top;
        *ret_top = layer;
        return 0;
}

static int open_block(struct blk *b, struct error *e) {
        _cleanup_(throttle_group_freep) struct throttle_group *group = NULL;
        struct block_options options = {
                .logical_block = (uint32_t)b->settings->logical_block_size,
                .physical_block = (uint32_t)b->settings->physical_block_size,
                .discard_granularity = b->settings->discard_granularity,
                .no_discard = !b->settings->discard,
                .thread_start = blk_thread_start,
                .thread_opaque = b->machine,
        };
        int r = disk_limits_join(b->machine, b->number, &b->settings->throttle, &group, e);

        options.throttle = group;
        if (r == 0)
                r = open_layers(b->machine->sys, b->settings, &options.top, e);
        if (r == 0)
                r = block_open(&options, &b->block, e);
        if (r < 0)
                layer_close(options.top);
        return r;
}

/* As many as threads; without any, as vCPUs. */
static unsigned int queues_wanted(const struct vmm_config *machine, const struct vmm_disk_config *disk) {
        unsigned int cpus = MAX((unsigned int)machine->cpus, 1u);

        return disk->iothreads > 0 ? (unsigned int)disk->iothreads : MIN(cpus, QUEUES_ON_LOOP);
}

/* Is the guest's memory registered for this disk? The machine's REGISTERED_MAX queues go to the disks that gain by it, in their order. */
static bool registers(const struct blk *b) {
        const struct vmm_config *config = b->machine->config;
        unsigned int n = 0;

        if (!b->settings->direct || !memory_is_preallocated(b->machine->memory))
                return false;
        for (unsigned int i = 0; i < b->number; i++) {
                const struct vmm_disk_config *other = &config->disks[i];

                if (other->direct && !other->vhost_user && n + queues_wanted(config, other) <= REGISTERED_MAX)
                        n += queues_wanted(config, other);
        }
        return n + queues_wanted(config, b->settings) <= REGISTERED_MAX;
}

static unsigned int guest_memory(const struct blk *b, struct iovec regions[static REGIONS_MAX]) {
        const struct memory_region *r;
        size_t n = memory_regions(b->machine->memory, &r);

        for (size_t i = 0; i < n; i++)
                regions[i] = (struct iovec){ r[i].host, r[i].size };
        return (unsigned int)n;
}

static int add_queue(struct blk *b, bool own_thread, struct error *e) {
        struct blk_queue *q = &b->queues[b->n_queues];
        struct iovec regions[REGIONS_MAX];
        struct block_queue_options options = {
                .depth = BLK_QUEUE_SIZE,
                .batch = blk_batch,
                .opaque = q,
                .regions = regions,
                .n_regions = registers(b) ? guest_memory(b, regions) : 0,
                .region_piece = MAX(memory_page_size(b->machine->memory), (uint64_t)BLOCK_REGION_PIECE),
        };
        int r = 0;

        *q = (struct blk_queue){ .blk = b, .index = b->n_queues };
        b->n_queues++;
        if (own_thread)
                r = io_thread_new(b->machine, &q->thread);
        options.loop = blk_loop(q);
        if (q->thread)
                loop_set_idle(options.loop, &blk_idle_ops, q, LOOK_NS);
        q->requests = calloc(BLK_QUEUE_SIZE, sizeof(*q->requests));
        if (r == 0)
                r = q->requests ? loop_add_timer(options.loop, blk_again, q, &q->again) : -ENOMEM;
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make a disk's queue");
        return block_queue_new(b->block, &options, &q->io, e);
}

static int add_queues(struct blk *b, struct error *e) {
        unsigned int n = queues_wanted(b->machine->config, b->settings);

        b->queues = calloc(n, sizeof(*b->queues));
        if (!b->queues)
                return error_set(e, -ENOMEM, "device-create", NULL, "no memory for a disk");
        for (unsigned int i = 0; i < n; i++) {
                int r = add_queue(b, b->settings->iothreads > 0, e);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* As many CPUs as threads: each thread has its own. Else all threads may use them all. */
static int place_thread(struct blk *b, unsigned int index, struct error *e) {
        const struct vmm_disk_config *c = b->settings;
        bool own = c->n_iothread_cpus == b->n_queues;
        int r = 0;

        if (c->n_iothread_cpus > 0)
                r = io_thread_place(b->queues[index].thread, c->iothread_cpus + (own ? index : 0),
                                    own ? 1 : c->n_iothread_cpus);
        if (r == -EINVAL)
                return error_set(e, r, "disk-cpus", "lscpu -e=CPU,ONLINE lists the host's; a cpuset may allow fewer",
                                 "I/O thread %u has no CPU: none that iothread_cpus gives it can be used here", index);
        return r < 0 ? error_set(e, r, "disk-cpus", NULL, "cannot place I/O thread %u", index) : 0;
}

static int start_threads(struct blk *b, struct error *e) {
        int r = 0;

        for (unsigned int i = 0; i < b->n_queues && r == 0; i++) {
                if (!b->queues[i].thread)
                        continue;
                r = io_thread_start(b->queues[i].thread);
                if (r < 0)
                        return error_set(e, r, "device-create", "allow more threads",
                                         "cannot start a disk's I/O threads");
                r = place_thread(b, i, e);
        }
        return r;
}

static int blk_setup(struct blk *b, struct machine *machine, unsigned int index, struct error *e) {
        const struct vmm_disk_config *config = &machine->config->disks[index];
        uint64_t features;
        int r;

        b->settings = config;
        b->number = index;
        if (config->serial)
                memcpy(b->serial, config->serial, strnlen(config->serial, sizeof(b->serial)));
        r = open_block(b, e);
        if (r == 0)
                r = add_queues(b, e);
        if (r < 0)
                return r;
        features = blk_describe(b);
        r = loop_add_timer(machine->loop, blk_hung, b, &b->hung);
        if (r >= 0)
                r = virtio_device_init(&b->virtio, &blk_ops, machine->memory, b->n_queues, features, &b->config,
                                       offsetof(struct virtio_blk_config, max_secure_erase_sectors));
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make a disk");
        for (unsigned int i = 0; i < b->n_queues; i++)
                b->queues[i].ring = &b->virtio.queues[i];
        r = virtio_pci_new(machine, &b->virtio, LAYOUT_SLOT_DISK + index, &b->proxy, e);
        return r < 0 ? r : start_threads(b, e);
}

static int blk_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct blk *b;
        int r;

        if (index >= machine->config->n_disks)
                return -ENOENT;
        if (index >= LAYOUT_DISKS_MAX)
                return error_set(e, -ENOSPC, "disk-count", NULL, "more than %u disks", LAYOUT_DISKS_MAX);
        if (machine->config->disks[index].vhost_user)
                return vhost_user_blk_create(machine, index, ret_device, e);
        b = calloc(1, sizeof(*b));
        if (!b)
                return error_set(e, -ENOMEM, "device-create", NULL, "no memory for a disk");
        b->device.class = &virtio_blk_class;
        b->machine = machine;
        b->fd = -EBADF;
        r = blk_setup(b, machine, index, e);
        if (r < 0) {
                error_prefix(e, "disk %u", index);
                blk_destroy(&b->device);
                return r;
        }
        *ret_device = &b->device;
        return 0;
}

static struct blk *blk_of_device(struct device *device) {
        return CONTAINER_OF(device, struct blk, device);
}

static struct blk *blk_find(const struct machine *machine, unsigned int index) {
        for (struct device *d = machine->devices; d; d = d->next)
                if (d->class == &virtio_blk_class && blk_of_device(d)->number == index)
                        return blk_of_device(d);
        return NULL;
}

struct block *virtio_blk_block(const struct machine *machine, unsigned int index) {
        struct blk *b = blk_find(machine, index);

        return b ? b->block : NULL;
}

int virtio_blk_stats(struct machine *machine, unsigned int index, struct machine_disk_stats *ret_stats) {
        struct machine_disk_stats sum = { 0 };
        struct blk *b = blk_find(machine, index);

        if (!b)
                return index < machine->config->n_disks ? -ESRCH : -ENOENT;
        for (unsigned int i = 0; i < b->n_queues; i++)
                disk_stats_sum(&sum, &b->queues[i].stats);
        *ret_stats = sum;
        return 0;
}

static void blk_resized(void *opaque, int result, const struct error *e) {
        struct blk *b = opaque;

        if (result == 0) {
                b->config.capacity = block_size(b->block) / BLOCK_SECTOR;
                virtio_device_config_changed(&b->virtio);
        }
        b->resized(b->resized_opaque, result, e);
}

int virtio_blk_resize(struct machine *machine, unsigned int index, uint64_t size, block_resized_fn done, void *opaque,
                      struct error *e) {
        struct blk *b = blk_find(machine, index);
        int r;

        if (!b)
                return error_set(e, -ENOENT, "disk-unknown", "disks are disk0, disk1, ... in the machine's order",
                                 "there is no disk %u", index);
        r = block_resize(b->block, size, machine->loop, blk_resized, b, e);
        if (r == 0) {
                b->resized = done;
                b->resized_opaque = opaque;
        }
        return r;
}

static void blk_class_reset(struct device *device) {
        virtio_device_set_status(&blk_of_device(device)->virtio, 0);
}

static bool blk_class_busy(struct device *device) {
        return blk_of_device(device)->virtio.resetting;
}

static void blk_retry(struct blk_queue *q) {
        struct blk_request *r, *list = TAKE_PTR(q->failed);

        while ((r = list)) {
                list = r->next;
                block_queue_retry(q->io, &r->io);
        }
        block_queue_kick(q->io);
}

static void blk_go_on(struct blk *b, enum blk_stop reason) {
        for (unsigned int i = 0; i < b->n_queues; i++) {
                struct blk_queue *q = &b->queues[i];

                lock(q);
                q->stopped &= ~(unsigned int)reason;
                if (!q->stopped)
                        blk_retry(q);
                if (q->active)
                        loop_timer_set(q->again, 0); /* what was offered meanwhile */
                unlock(q);
        }
}

/* On failure they have all gone on. All stop taking requests before the first is waited for, so that the waits are one. */
static int blk_stop(struct blk *b, enum blk_stop reason) {
        uint64_t deadline_ms = clock_ns() / 1000000 + PAUSE_TIMEOUT_MS, now_ms;
        int r = 0;

        for (unsigned int i = 0; i < b->n_queues; i++) {
                lock(&b->queues[i]);
                b->queues[i].stopped |= reason;
                unlock(&b->queues[i]);
        }
        for (unsigned int i = 0; i < b->n_queues && r == 0; i++) {
                struct blk_queue *q = &b->queues[i];

                lock(q);
                now_ms = clock_ns() / 1000000;
                r = block_queue_drain(q->io, false, now_ms < deadline_ms ? (unsigned int)(deadline_ms - now_ms) : 0);
                unlock(q);
        }
        if (r < 0)
                blk_go_on(b, reason);
        return r;
}

static void blk_resume(struct device *device) {
        blk_go_on(blk_of_device(device), BLK_PAUSED);
}

static void blk_flushed(struct block_request *request, int result) {
        struct blk *b = CONTAINER_OF(request, struct blk, flush);

        /* The guest will learn of it by its next flush, which fails too: no reason not to pause. */
        if (result >= 0 || result == -ECANCELED)
                return;
        log_warning("disk %.*s: cannot be flushed for the pause: %s", VIRTIO_BLK_ID_BYTES, b->serial,
                    strerror(-result));
}

static int blk_pause(struct device *device) {
        struct blk *b = blk_of_device(device);
        int r = blk_stop(b, BLK_PAUSED);

        if (r == 0 && !block_limits(b->block)->readonly) {
                struct blk_queue *q = &b->queues[0];

                lock(q);
                b->flush = (struct block_request){ .op = BLOCK_FLUSH, .done = blk_flushed };
                block_queue_submit(q->io, &b->flush);
                r = block_queue_drain(q->io, false, PAUSE_TIMEOUT_MS);
                unlock(q);
                if (r < 0)
                        blk_resume(device);
        }
        return r;
}

struct disk_mirror **virtio_blk_mirror(const struct machine *machine, unsigned int index) {
        struct blk *b = blk_find(machine, index);

        return b ? &b->mirror : NULL;
}

void virtio_blk_track(struct machine *machine, unsigned int index, struct dirty *dirty) {
        blk_track(blk_find(machine, index), dirty);
}

int virtio_blk_hold(struct machine *machine, unsigned int index) {
        return blk_stop(blk_find(machine, index), BLK_MIRRORED);
}

void virtio_blk_release(struct machine *machine, unsigned int index) {
        blk_go_on(blk_find(machine, index), BLK_MIRRORED);
}

int virtio_blk_replace(struct machine *machine, unsigned int index, struct layer *top, struct layer **ret_old) {
        struct blk *b = blk_find(machine, index);
        unsigned int in_flight = 0;

        for (unsigned int i = 0; i < b->n_queues; i++) {
                lock(&b->queues[i]);
                in_flight += block_queue_in_flight(b->queues[i].io);
                unlock(&b->queues[i]);
        }
        if (in_flight > 0)
                return -ETIMEDOUT;
        *ret_old = block_replace(b->block, top);
        for (unsigned int i = 0; i < b->n_queues; i++) {
                lock(&b->queues[i]);
                block_queue_replaced(b->queues[i].io, *ret_old);
                unlock(&b->queues[i]);
        }
        b->fd = file_fd(top->file); /* the one before is among the old image's */
        return 0;
}

const struct device_class virtio_blk_class = {
        .name = "virtio-blk",
        .create = blk_create,
        .reset = blk_class_reset,
        .busy = blk_class_busy,
        .pause = blk_pause,
        .resume = blk_resume,
        .destroy = blk_destroy,
};
