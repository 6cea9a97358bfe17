// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * queue: see block.h; one way into a disk
 *
 * Theory of operation. A request goes forward piece by piece. layer_find() says, without waiting, where the next piece is:
 *
 *      data in a file             one operation of the engine on that file, into or from the guest's buffers
 *      zeroes                     cleared here and now (reads)
 *      anything else              all that is left of the request goes to a worker thread, which calls layer_readv() or layer_writev()
 *
 * Discard, write zeroes and flushes with metadata always go to a worker. A request that reads or writes is inside (layer_enter()) from its
 * first step to its end, whoever works on it, so that what it was told stays true.
 *
 * A raw disk is the plain case: all of a request is one piece, found by one call that takes no lock.
 *
 * A read of a raw disk that meets the end of its file (somebody truncated it) fails; it does not invent zeroes. In an image with a format
 * that can be as it should: layer_readv() knows.
 *
 * Alignment. With O_DIRECT a piece that doesn't fit the file's blocks, or whose buffers don't, is a worker's too: file.c copies.
 *
 * Threads. As block.h says. A worker touches the request that it has in hand, and the layers, which look after themselves.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/log.h"
#include "vmm/block/dirty.h"
#include "vmm/block/disk.h"
#include "vmm/block/engine.h"
#include "vmm/block/gate.h"

#define RETRIES    32
#define RANGE_STEP (64ull << 20) /* bytes of a discard, or of zeroes, in one call */

struct block_queue {
        struct block *block;
        struct block_metrics metrics;
        void (*batch)(void *opaque);
        void *opaque;
        struct layer_user user; /* of whoever holds the guard */
        bool is_user;
        struct engine *engine;  /* moves data; may be @workers */
        struct engine *workers; /* does what may wait */
        struct gate gate;       /* in front of both */
        struct dirty *dirty;    /* where changes are marked; NULL: nowhere */
        bool cancelling;        /* requests in flight go no further */
};

static struct block_request *request_of(struct block_io *io) {
        return CONTAINER_OF(io, struct block_request, io);
}

static bool moves_data(const struct block_request *request) {
        return request->op == BLOCK_READ || request->op == BLOCK_WRITE;
}

static void finish(struct block_queue *q, struct block_request *request, int result) {
        struct block_metrics *m = &q->metrics;

        if (request->op < BLOCK_OP_COUNT && result == 0) {
                m->requests[request->op]++;
                if (request->op != BLOCK_FLUSH)
                        m->bytes[request->op] += request->length;
        }
        if (result < 0 && result != -ECANCELED)
                m->errors++;
        request->done(request, result);
}

static void leave_and_finish(struct block_queue *q, struct block_request *request, int result) {
        if (moves_data(request))
                layer_leave(&q->user, request->token);
        if (q->dirty && request->op != BLOCK_READ && request->op != BLOCK_FLUSH)
                dirty_mark(q->dirty, request->offset, request->length); /* at the end, failed or not: see dirty.h */
        finish(q, request, result);
}

/* ---- what a worker does ------------------------------------------------------------------------------------------ */

/* How far one call goes: others wait for it, and a reset. */
static uint64_t range_step(const struct block_request *request) {
        return MIN(request->length - request->progress, RANGE_STEP);
}

static int64_t work(struct block_io *io, unsigned int worker) {
        struct block_request *request = request_of(io);
        struct block *b = request->queue->block;
        uint64_t offset = request->offset + request->progress, length = request->length - request->progress;

        if (request->syncing)
                return layer_flush(b->top);
        switch (request->op) {
        case BLOCK_READ:
                return layer_readv(b->top, &b->users[worker], request->iov, request->n_iov, offset, length);
        case BLOCK_WRITE:
                return layer_writev(b->top, request->iov, request->n_iov, offset, length);
        case BLOCK_DISCARD:
                return layer_discard(b->top, offset, range_step(request));
        case BLOCK_WRITE_ZEROES:
                return layer_zero(b->top, offset, range_step(request), request->flags & BLOCK_UNMAP);
        case BLOCK_FLUSH:
        case BLOCK_OP_COUNT:
                break;
        }
        return -EINVAL;
}

static void give_to_worker(struct block_queue *q, struct block_request *request) {
        request->io = (struct block_io){ .kind = BLOCK_IO_CALL, .call = work };
        engine_submit(q->workers, &request->io);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void flush(struct block_queue *q, struct block_request *request) {
        struct layer *top = q->block->top;
        int r = file_sync_lost(top->file);

        request->syncing = true;
        if (r < 0) {
                leave_and_finish(q, request, r);
                return;
        }
        if (top->ops->needs_flush(top)) {
                give_to_worker(q, request);
                return;
        }
        request->io = (struct block_io){ .kind = BLOCK_IO_SYNC, .fd = file_fd(top->file) };
        engine_submit(q->engine, &request->io);
}

static void complete(struct block_queue *q, struct block_request *request) {
        if ((request->flags & BLOCK_DURABLE) && !request->syncing &&
            (request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES))
                flush(q, request);
        else
                leave_and_finish(q, request, 0);
}

/* @n bytes are through: what is left of the buffers. */
static void advance(struct block_request *request, uint64_t n) {
        request->progress += n;
        request->retries = 0;
        while (request->n_iov > 0 && n >= request->iov->iov_len) {
                n -= request->iov->iov_len;
                request->iov++;
                request->n_iov--;
        }
        if (n > 0) {
                request->iov->iov_base = (uint8_t *)request->iov->iov_base + n;
                request->iov->iov_len -= n;
        }
}

static bool is_aligned(const struct file *file, const struct iovec *iov, unsigned int n_iov, uint64_t host) {
        uint64_t bits = host;

        if (!file_is_direct(file))
                return true;
        for (unsigned int i = 0; i < n_iov; i++)
                bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
        return bits % file_logical_block(file) == 0;
}

/* Starts the operation for a piece of @length bytes at @host of @file. The buffer that it ends in is cut for its time. */
static void move(struct block_queue *q, struct block_request *request, struct file *file, uint64_t host,
                 uint64_t length) {
        uint64_t left = length;
        unsigned int n = 0;

        while (left > request->iov[n].iov_len)
                left -= request->iov[n++].iov_len;
        request->cut = &request->iov[n];
        request->piece = request->iov[n++];
        request->cut->iov_len = left;
        if (!is_aligned(file, request->iov, n, host)) {
                *request->cut = request->piece;
                q->metrics.bounced++;
                give_to_worker(q, request);
                return;
        }
        request->io = (struct block_io){
                .kind = request->op == BLOCK_READ ? BLOCK_IO_READ : BLOCK_IO_WRITE,
                .fd = file_fd(file),
                .iov = request->iov,
                .n_iov = n,
                .offset = host,
                .length = length,
        };
        engine_submit(q->engine, &request->io);
}

static void step(struct block_queue *q, struct block_request *request) {
        struct layer *top = q->block->top;
        bool write = request->op == BLOCK_WRITE;

        while (request->progress < request->length) {
                uint64_t offset = request->offset + request->progress, length = request->length - request->progress;
                struct layer *owner = top;
                struct extent extent;
                int r = write ? layer_map(top, &q->user, offset, length, LAYER_WRITE, &extent)
                              : layer_find(top, &q->user, NULL, offset, length, LAYER_NOWAIT, &extent, &owner);

                if (r == 0 && extent.kind == EXTENT_DATA) {
                        move(q, request, owner->file, extent.host, extent.length);
                        return;
                }
                if (r < 0 || write || extent.kind == EXTENT_COMPRESSED) {
                        q->metrics.waited++;
                        give_to_worker(q, request);
                        return;
                }
                iov_zero(request->iov, request->n_iov, 0, extent.length);
                advance(request, extent.length);
        }
        complete(q, request);
}

static void again(struct block_queue *q, struct block_request *request) {
        if (q->cancelling)
                leave_and_finish(q, request, -ECANCELED);
        else if (request->syncing)
                flush(q, request);
        else if (moves_data(request))
                step(q, request);
        else
                give_to_worker(q, request);
}

/* A call has ended well: all of a read, a write or a flush, one step of a range. */
static void called(struct block_queue *q, struct block_request *request) {
        if (!request->syncing && !moves_data(request)) {
                request->progress += range_step(request);
                if (request->progress < request->length) {
                        again(q, request);
                        return;
                }
        }
        complete(q, request);
}

/* The file's own answer is not enough: what it lost may have been told to somebody else. */
static int64_t synced(struct block_queue *q, int64_t result) {
        struct file *file = q->block->top->file;

        if (result < 0)
                file_sync_fail(file, (int)result);
        return file_sync_lost(file);
}

static void io_done(void *opaque, struct block_io *io) {
        struct block_queue *q = opaque;
        struct block_request *request = request_of(io);
        bool moved = io->kind == BLOCK_IO_READ || io->kind == BLOCK_IO_WRITE;

        if (moved)
                *request->cut = request->piece;
        if (io->kind != BLOCK_IO_CALL && (io->result == -EINTR || io->result == -EAGAIN) &&
            request->retries++ < RETRIES) {
                again(q, request);
                return;
        }
        if (io->kind == BLOCK_IO_SYNC)
                io->result = synced(q, io->result);
        if (io->result < 0) {
                leave_and_finish(q, request, (int)io->result);
        } else if (!moved) {
                called(q, request);
        } else if (io->result == 0 && io->kind == BLOCK_IO_READ && !q->block->plain) {
                give_to_worker(q, request);
        } else if (io->result == 0) {
                leave_and_finish(q, request, -EIO);
        } else {
                if ((uint64_t)io->result < io->length)
                        q->metrics.continued++;
                advance(request, MIN((uint64_t)io->result, io->length));
                again(q, request);
        }
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static int check_iov(const struct block_request *request) {
        uint64_t sum = 0;

        if (request->n_iov > IOV_MAX)
                return -EINVAL;
        for (unsigned int i = 0; i < request->n_iov; i++)
                if (__builtin_add_overflow(sum, (uint64_t)request->iov[i].iov_len, &sum))
                        return -EINVAL;
        return sum == request->length ? 0 : -EINVAL;
}

static int check(const struct block *block, const struct block_request *request) {
        const struct block_limits *l = &block->limits;
        uint64_t size = block_size(block);

        if (request->op >= BLOCK_OP_COUNT)
                return -EINVAL;
        if (request->op == BLOCK_FLUSH)
                return 0;
        if (request->op != BLOCK_READ && l->readonly)
                return -EROFS;
        if (request->length > size || request->offset > size - request->length)
                return -ERANGE;
        if ((request->offset | request->length) % l->logical_block != 0)
                return -EINVAL;
        return moves_data(request) ? check_iov(request) : 0;
}

static void start(struct block_request *request) {
        struct block_queue *q = request->queue;

        if (moves_data(request)) {
                request->token = layer_enter(q->block->top, &q->user);
                step(q, request);
        } else {
                give_to_worker(q, request);
        }
}

void block_queue_submit(struct block_queue *q, struct block_request *request) {
        int r = check(q->block, request);

        request->queue = q;
        request->progress = 0;
        request->retries = 0;
        request->syncing = false;
        request->refused = r < 0;
        if (r < 0 || (request->op != BLOCK_FLUSH && request->length == 0)) {
                finish(q, request, r);
        } else if (request->op == BLOCK_FLUSH) {
                flush(q, request);
        } else if (gate_enter(&q->gate, request)) {
                start(request);
        } else {
                q->metrics.throttled++;
        }
}

void block_queue_retry(struct block_queue *q, struct block_request *request) {
        request->retries = 0;
        start(request);
}

void block_queue_kick(struct block_queue *q) {
        engine_kick(q->engine);
}

/* ---- the queue --------------------------------------------------------------------------------------------------- */

unsigned int block_queue_in_flight(const struct block_queue *q) {
        return q->engine->in_flight + (q->workers != q->engine ? q->workers->in_flight : 0);
}

static void round_done(void *opaque) {
        struct block_queue *q = opaque;

        engine_kick(q->engine); /* what a worker's end has started */
        if (block_queue_in_flight(q) == 0)
                q->cancelling = false;
        if (q->batch)
                q->batch(q->opaque);
}

int block_queue_drain(struct block_queue *q, bool cancel, unsigned int timeout_ms) {
        uint64_t deadline_ms = engine_now_ms() + timeout_ms;
        struct block_request *waiting;
        int r;

        while ((waiting = gate_take(&q->gate))) {
                if (cancel)
                        finish(q, waiting, -ECANCELED);
                else
                        start(waiting);
        }
        q->cancelling |= cancel;
        do {
                r = engine_drain(q->engine, cancel, deadline_ms);
                if (r == 0 && q->workers != q->engine)
                        r = engine_drain(q->workers, cancel, deadline_ms);
        } while (r == 0 && block_queue_in_flight(q) > 0);
        if (r == 0)
                q->cancelling = false;
        return r;
}

void block_queue_track(struct block_queue *q, struct dirty *dirty) {
        q->dirty = dirty;
}

void block_queue_replaced(struct block_queue *q, struct layer *old) {
        struct layer *top = q->block->top;

        layer_user_remove(old, &q->user);
        (void)layer_user_add(top, &q->user); /* where the old images had room, the new one has */
        engine_refile(q->engine, file_sys(top->file), file_fd(top->file));
        if (q->workers != q->engine)
                engine_refile(q->workers, file_sys(top->file), file_fd(top->file));
}

const struct block_metrics *block_queue_metrics(const struct block_queue *q) {
        return &q->metrics;
}

const char *block_queue_engine(const struct block_queue *q) {
        return q->engine->ops->name;
}

static void register_memory(struct block_queue *q, const struct block_queue_options *options) {
        bool locked;
        int r;

        if (options->n_regions == 0 || !q->engine->ops->register_memory || atomic_load(&q->block->unregistered))
                return;
        r = q->engine->ops->register_memory(q->engine, options->regions, options->n_regions, options->region_piece);
        if (r == 0 || atomic_exchange(&q->block->unregistered, true))
                return;
        locked = r == -ENOMEM || r == -EPERM;
        log_info("disk: memory is not registered with io_uring (%s), so direct I/O takes some CPU more%s",
                 r == -ETIME ? "it would take too long" : strerror(-r),
                 locked ? ": raise the limit on locked memory (ulimit -l, or LimitMEMLOCK= in a unit)" : "");
}

static int start_engines(struct block_queue *q, const struct block_queue_options *options, struct error *e) {
        const struct file *file = q->block->top->file;
        const struct engine_options eo = {
                .sys = file_sys(file),
                .fd = file_fd(file),
                .depth = options->depth,
                .pool = q->block->pool,
                .loop = options->loop,
                .done = io_done,
                .round = round_done,
                .opaque = q,
        };
        int r = engine_new_threads(&eo, &q->workers);

        if (r == 0 && q->block->engine != BLOCK_ENGINE_THREADS) {
                r = engine_new_ring(&eo, &q->engine);
                if (r < 0 && q->block->engine == BLOCK_ENGINE_AUTO) {
                        log_info("disk: io_uring is not available (%s): worker threads do its I/O", strerror(-r));
                        r = 0;
                }
        }
        if (r < 0)
                return error_set(e, r, "disk-engine",
                                 "allow io_uring (sysctl kernel.io_uring_disabled) or more threads",
                                 "cannot start the disk's I/O engine");
        q->engine = q->engine ?: q->workers;
        register_memory(q, options);
        return 0;
}

int block_queue_new(struct block *block, const struct block_queue_options *options, struct block_queue **ret_queue,
                    struct error *e) {
        _cleanup_(block_queue_freep) struct block_queue *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return error_set(e, -ENOMEM, "disk-engine", NULL, "no memory for a disk's queue");
        q->block = block;
        q->batch = options->batch;
        q->opaque = options->opaque;
        r = start_engines(q, options, e);
        if (r < 0)
                return r;
        r = gate_init(&q->gate, &block->throttle, options->loop, start, round_done, q);
        if (r < 0)
                return error_set(e, r, "disk-engine", NULL, "cannot make a disk's queue");
        r = layer_user_add(block->top, &q->user);
        if (r < 0)
                return error_set(e, r, "disk-engine", NULL, "too many queues on a disk");
        q->is_user = true;
        *ret_queue = TAKE_PTR(q);
        return 0;
}

void block_queue_free(struct block_queue *q) {
        if (!q)
                return;
        if (q->is_user) {
                while (block_queue_drain(q, true, UINT32_MAX) < 0)
                        ;
                layer_user_remove(q->block->top, &q->user);
        }
        gate_destroy(&q->gate);
        if (q->engine != q->workers)
                engine_free(q->engine);
        engine_free(q->workers);
        free(q);
}
