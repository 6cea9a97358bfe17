// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layered: a disk that is a chain of layers (qcow2, or anything with a backing image)
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
 * Alignment. With O_DIRECT a piece that doesn't fit the file's blocks, or whose buffers don't, is a worker's too: file.c copies.
 *
 * Threads. As block.h says. A worker touches the request that it has in hand, and the layers, which look after themselves. Opening happens before the
 * sandbox closes, on the caller's thread; closing writes metadata back, and so is a worker's.
 */
#include <errno.h>
#include <string.h>

#include "base/iov.h"
#include "base/log.h"
#include "vmm/block/driver.h"
#include "vmm/block/engine.h"
#include "vmm/block/layer/layer.h"

#define LAYERED_WORKERS 4
#define LAYERED_RETRIES 32

struct layered {
        struct block block;
        struct layer *top;
        struct layer_user user; /* of the loop's thread, or whoever holds the machine lock */
        struct engine *ring;    /* moves data; may be @workers */
        struct engine *workers;
        bool cancelling, shared;
        struct block_io closing;
};

static struct layered *layered_of(const struct block *block) {
        return CONTAINER_OF(block, struct layered, block);
}

static struct block_request *request_of(struct block_io *io) {
        return CONTAINER_OF(io, struct block_request, io);
}

static bool moves_data(const struct block_request *request) {
        return request->op == BLOCK_READ || request->op == BLOCK_WRITE;
}

static void finish(struct layered *l, struct block_request *request, int result) {
        if (moves_data(request))
                layer_leave(&l->user, request->token);
        block_finish(request, result);
}

/* ---- what a worker does ------------------------------------------------------------------------------------------ */

static int64_t work(struct block_io *io) {
        struct block_request *request = request_of(io);
        struct layer *top = layered_of(request->block)->top;
        uint64_t offset = request->offset + request->progress, length = request->length - request->progress;

        if (io->kind == BLOCK_IO_SYNC)
                return layer_flush(top);
        switch (request->op) {
        case BLOCK_READ:
                return layer_readv(top, NULL, request->iov, request->n_iov, offset, length);
        case BLOCK_WRITE:
                return layer_writev(top, request->iov, request->n_iov, offset, length);
        case BLOCK_DISCARD:
                return layer_discard(top, offset, length);
        case BLOCK_WRITE_ZEROES:
                return layer_zero(top, offset, length, request->flags & BLOCK_UNMAP);
        case BLOCK_FLUSH:
        case BLOCK_OP_COUNT:
                break;
        }
        return layer_flush(top);
}

static void give_to_worker(struct layered *l, struct block_request *request, enum block_io_kind kind) {
        request->io = (struct block_io){ .kind = kind, .call = work };
        engine_submit(l->workers, &request->io);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void flush(struct layered *l, struct block_request *request) {
        request->phase = true;
        if (l->top->ops->needs_flush(l->top)) {
                give_to_worker(l, request, BLOCK_IO_SYNC);
                return;
        }
        request->io = (struct block_io){ .kind = BLOCK_IO_SYNC, .other_fd = file_fd(l->top->file) };
        engine_submit(l->ring, &request->io);
}

static void complete(struct layered *l, struct block_request *request) {
        if ((request->flags & BLOCK_DURABLE) && !request->phase &&
            (request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES))
                flush(l, request);
        else
                finish(l, request, 0);
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
static void move(struct layered *l, struct block_request *request, struct file *file, uint64_t host, uint64_t length) {
        uint64_t left = length;
        unsigned int n = 0;

        while (left > request->iov[n].iov_len)
                left -= request->iov[n++].iov_len;
        request->cut = &request->iov[n];
        request->piece = request->iov[n++];
        request->cut->iov_len = left;
        if (!is_aligned(file, request->iov, n, host)) {
                *request->cut = request->piece;
                l->block.metrics.bounced++;
                give_to_worker(l, request, BLOCK_IO_READ);
                return;
        }
        request->io = (struct block_io){
                .kind = request->op == BLOCK_READ ? BLOCK_IO_READ : BLOCK_IO_WRITE,
                .other_fd = file_fd(file),
                .iov = request->iov,
                .n_iov = n,
                .offset = host,
                .length = length,
        };
        engine_submit(l->ring, &request->io);
}

static void step(struct layered *l, struct block_request *request) {
        bool write = request->op == BLOCK_WRITE;

        while (request->progress < request->length) {
                uint64_t offset = request->offset + request->progress, length = request->length - request->progress;
                struct layer *owner = l->top;
                struct extent extent;
                int r = write ? layer_map(l->top, &l->user, offset, length, LAYER_WRITE, &extent)
                              : layer_find(l->top, &l->user, NULL, offset, length, LAYER_NOWAIT, &extent, &owner);

                if (r == 0 && extent.kind == EXTENT_DATA) {
                        move(l, request, owner->file, extent.host, extent.length);
                        return;
                }
                if (r < 0 || write || extent.kind == EXTENT_COMPRESSED) {
                        give_to_worker(l, request, BLOCK_IO_READ);
                        return;
                }
                iov_zero(request->iov, request->n_iov, 0, extent.length);
                advance(request, extent.length);
        }
        complete(l, request);
}

static void again(struct layered *l, struct block_request *request) {
        if (l->cancelling)
                finish(l, request, -ECANCELED);
        else if (request->phase)
                flush(l, request);
        else
                step(l, request);
}

static void io_done(void *opaque, struct block_io *io) {
        struct layered *l = opaque;
        struct block_request *request = request_of(io);

        if (io == &l->closing)
                return;
        if (io->call || io->kind == BLOCK_IO_SYNC) {
                if (io->result < 0)
                        finish(l, request, (int)io->result);
                else
                        complete(l, request);
                return;
        }
        *request->cut = request->piece;
        if ((io->result == -EINTR || io->result == -EAGAIN) && request->retries++ < LAYERED_RETRIES) {
                again(l, request);
        } else if (io->result <= 0) {
                finish(l, request, io->result < 0 ? (int)io->result : -EIO);
        } else {
                if ((uint64_t)io->result < io->length)
                        l->block.metrics.continued++;
                advance(request, MIN((uint64_t)io->result, io->length));
                again(l, request);
        }
}

static void round_done(void *opaque) {
        struct layered *l = opaque;

        engine_kick(l->ring); /* what a worker's end has started */
        if (l->block.batch)
                l->block.batch(l->block.opaque);
}

static void layered_start(struct block *block, struct block_request *request) {
        struct layered *l = layered_of(block);

        request->phase = false;
        if (request->op == BLOCK_FLUSH) {
                flush(l, request);
        } else if (moves_data(request)) {
                request->token = layer_enter(l->top, &l->user);
                step(l, request);
        } else {
                give_to_worker(l, request, BLOCK_IO_FALLOCATE);
        }
}

static void layered_kick(struct block *block) {
        engine_kick(layered_of(block)->ring);
}

static int layered_drain(struct block *block, bool cancel, uint64_t deadline_ms) {
        struct layered *l = layered_of(block);
        int r;

        l->cancelling = cancel;
        do {
                r = engine_drain(l->ring, cancel, deadline_ms);
                if (r == 0 && l->workers != l->ring)
                        r = engine_drain(l->workers, cancel, deadline_ms);
        } while (r == 0 && l->ring->in_flight > 0);
        l->cancelling = false;
        return r;
}

static const char *layered_engine(const struct block *block) {
        return layered_of(block)->ring->ops->name;
}

static int64_t close_layers(struct block_io *io) {
        layer_close(CONTAINER_OF(io, struct layered, closing)->top);
        return 0;
}

static void layered_free(struct layered *l) {
        if (!l)
                return;
        if (l->ring != l->workers)
                engine_free(l->ring);
        engine_free(l->workers);
        free(l);
}
DEFINE_CLEANUP(layered, layered_free);

static void layered_close(struct block *block) {
        struct layered *l = layered_of(block);

        (void)layered_drain(block, true, UINT64_MAX);
        layer_user_remove(l->top, &l->user);
        if (!l->shared) {
                l->closing = (struct block_io){ .kind = BLOCK_IO_SYNC, .call = close_layers };
                engine_submit(l->workers, &l->closing);
                (void)engine_drain(l->workers, false, UINT64_MAX);
        }
        layered_free(l);
}

static const struct block_driver layered_driver = {
        .name = "layers",
        .start = layered_start,
        .kick = layered_kick,
        .drain = layered_drain,
        .engine = layered_engine,
        .close = layered_close,
};

static int start_engines(struct layered *l, const struct block_options *options, struct error *e) {
        struct engine_options eo = {
                .sys = options->sys ?: &sys_real,
                .fd = file_fd(l->top->file),
                .depth = options->depth,
                .n_threads = LAYERED_WORKERS,
                .loop = options->loop,
                .done = io_done,
                .round = round_done,
                .opaque = l,
                .thread_start = options->thread_start,
                .thread_opaque = options->thread_opaque,
        };
        int r = engine_new_threads(&eo, &l->workers);

        if (r == 0 && options->engine != BLOCK_ENGINE_THREADS) {
                r = engine_new_ring(&eo, &l->ring);
                if (r < 0 && options->engine == BLOCK_ENGINE_AUTO) {
                        log_info("disk: io_uring is not available (%s): worker threads do its I/O", strerror(-r));
                        r = 0;
                }
        }
        if (r < 0)
                return error_set(e, r, "disk-engine",
                                 "allow io_uring (sysctl kernel.io_uring_disabled) or more threads",
                                 "cannot start the disk's I/O engine");
        l->ring = l->ring ?: l->workers;
        return 0;
}

int block_open_layers(const struct block_options *options, struct layer *top, bool shared, struct block **ret_block,
                      struct error *e) {
        _cleanup_(layered_freep) struct layered *l = calloc(1, sizeof(*l));
        struct block_limits *limits;
        int r;

        if (!l)
                return error_set(e, -ENOMEM, "disk-engine", NULL, "no memory for a disk");
        l->top = top;
        l->shared = shared;
        l->block.driver = &layered_driver;
        l->block.batch = options->batch;
        l->block.opaque = options->opaque;
        limits = &l->block.limits;
        limits->size = atomic_load(&top->size);
        limits->logical_block = BLOCK_SECTOR;
        limits->physical_block = MAX(file_physical_block(top->file), 4096u);
        limits->readonly = top->readonly;
        limits->discard = limits->write_zeroes = !top->readonly;
        r = start_engines(l, options, e);
        if (r < 0)
                return r;
        r = layer_user_add(top, &l->user);
        if (r < 0)
                return error_set(e, r, "disk-engine", NULL, "too many users of a disk");
        *ret_block = &TAKE_PTR(l)->block;
        return 0;
}
