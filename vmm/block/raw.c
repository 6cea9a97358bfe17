// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * raw: a disk whose bytes are the bytes of a file or block device
 *
 * Theory of operation. A request is a small state machine of steps, each one operation of an engine; raw_step() picks the next
 * one from what has been done so far, raw_io_done() takes its result:
 *
 *      read, write      transfer what is left, until nothing is; a durable write ends with fdatasync
 *      flush            fdatasync
 *      discard          file: punch a hole; device: BLKDISCARD. It is advice: "not supported" counts as done
 *      write zeroes     a hole where the space may go, else the zero range call; where the file system has neither, plain
 *                       writes of a page of zeroes that is mapped again and again
 *
 * The size is fixed at open. A read that meets the end of the file (somebody truncated it) fails; it does not invent zeroes.
 *
 * O_DIRECT wants buffers, offsets and lengths aligned to the logical block. We show that size to the guest, so offsets and lengths fit; a guest's
 * buffer that is not aligned goes through one bounce buffer, piece by piece, one request at a time: slow, correct, and rare.
 *
 * Engines. Everything goes through io_uring where it is allowed. A block device also has worker threads, since BLKDISCARD has no
 * io_uring operation in the kernels we support.
 */
#include "vmm/block/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/log.h"
#include "vmm/block/driver.h"
#include "vmm/block/engine.h"

#define RAW_ZERO_SIZE   (64u * 1024) /* one anonymous read-only mapping: the kernel's zero page, so it costs no memory */
#define RAW_ZERO_IOVS   16u          /* the mapping this many times in one write: 1 MiB */
#define RAW_BOUNCE_SIZE (256u * 1024) /* only with O_DIRECT */
#define RAW_DIRECT_MAX  4096u
#define RAW_RETRIES     32

enum raw_phase {
        RAW_MAIN,       /* the operation itself */
        RAW_ZERO_WRITE, /* write zeroes by writing */
        RAW_SYNC,       /* fdatasync at the end */
};

struct raw {
        struct block block;
        const struct sys *sys;
        int fd;
        bool is_device, direct;
        bool no_discard, no_zero_range, no_punch; /* learnt: the file system can't */
        struct engine *engine;
        struct engine *threads; /* block devices: for BLKDISCARD; NULL when @engine has threads itself */

        uint8_t *zeroes;
        struct iovec zero_iov[RAW_ZERO_IOVS];

        uint8_t *bounce;
        struct block_request *bouncing; /* owns the bounce buffer */
        struct block_request *bounce_first, **bounce_tail;
};

static void raw_step(struct raw *raw, struct block_request *request);

static struct raw *raw_of(const struct block *block) {
        return CONTAINER_OF(block, struct raw, block);
}

/* Moves @n bytes forward in the request's buffers. */
static void raw_advance(struct block_request *request, uint64_t n) {
        request->progress += n;
        while (request->n_iov > 0 && n >= request->iov->iov_len) {
                n -= request->iov->iov_len;
                request->iov++;
                request->n_iov--;
        }
        if (n > 0 && request->n_iov > 0) {
                request->iov->iov_base = (uint8_t *)request->iov->iov_base + n;
                request->iov->iov_len -= n;
        }
}

static bool raw_needs_bounce(const struct raw *raw, const struct block_request *request) {
        if (!raw->direct)
                return false;
        for (unsigned int i = 0; i < request->n_iov; i++) {
                const struct iovec *v = &request->iov[i];

                if (((uintptr_t)v->iov_base | v->iov_len) % raw->block.limits.logical_block != 0)
                        return true;
        }
        return false;
}

/* Copies between the bounce buffer and the request's buffers at its present place; @n bytes are there. */
static void raw_bounce_copy(struct raw *raw, const struct block_request *request, size_t n, bool to_request) {
        const struct iovec *v = request->iov;
        size_t at = 0;

        for (; at < n; v++) {
                size_t part = MIN(v->iov_len, n - at);

                if (to_request)
                        memcpy(v->iov_base, raw->bounce + at, part);
                else
                        memcpy(raw->bounce + at, v->iov_base, part);
                at += part;
        }
}

static void raw_finish(struct raw *raw, struct block_request *request, int result) {
        struct block_request *next = NULL;

        if (raw->bouncing == request) {
                raw->bouncing = NULL;
                next = raw->bounce_first;
                if (next) {
                        raw->bounce_first = next->next;
                        if (!raw->bounce_first)
                                raw->bounce_tail = &raw->bounce_first;
                }
        }
        block_finish(request, result);
        if (next)
                raw_step(raw, next);
}

static void raw_issue(struct raw *raw, struct block_request *request, enum block_io_kind kind, int mode,
                      const struct iovec *iov, unsigned int n_iov) {
        request->io = (struct block_io){
                .kind = kind,
                .mode = mode,
                .iov = iov,
                .n_iov = n_iov,
                .offset = request->offset + request->progress,
                .length = request->length - request->progress,
        };
        if (kind == BLOCK_IO_DISCARD && raw->threads)
                engine_submit(raw->threads, &request->io);
        else
                engine_submit(raw->engine, &request->io);
}

static void raw_step_transfer(struct raw *raw, struct block_request *request) {
        enum block_io_kind kind = request->op == BLOCK_READ ? BLOCK_IO_READ : BLOCK_IO_WRITE;

        if (raw->bouncing != request && !raw_needs_bounce(raw, request)) {
                raw_issue(raw, request, kind, 0, request->iov, request->n_iov);
                return;
        }
        if (raw->bouncing && raw->bouncing != request) {
                request->next = NULL;
                *raw->bounce_tail = request;
                raw->bounce_tail = &request->next;
                return;
        }
        if (!raw->bouncing) {
                raw->bouncing = request;
                raw->block.metrics.bounced++;
        }
        request->piece = (struct iovec){
                .iov_base = raw->bounce,
                .iov_len = MIN(request->length - request->progress, (uint64_t)RAW_BOUNCE_SIZE),
        };
        if (kind == BLOCK_IO_WRITE)
                raw_bounce_copy(raw, request, request->piece.iov_len, false);
        raw_issue(raw, request, kind, 0, &request->piece, 1);
}

static void raw_step_zero_write(struct raw *raw, struct block_request *request) {
        uint64_t left = request->length - request->progress;

        if (left >= RAW_ZERO_SIZE) {
                raw_issue(raw, request, BLOCK_IO_WRITE, 0, raw->zero_iov,
                          (unsigned int)MIN(left / RAW_ZERO_SIZE, (uint64_t)RAW_ZERO_IOVS));
                return;
        }
        request->piece = (struct iovec){ .iov_base = raw->zeroes, .iov_len = left };
        raw_issue(raw, request, BLOCK_IO_WRITE, 0, &request->piece, 1);
}

static void raw_step_main(struct raw *raw, struct block_request *request) {
        bool punch;

        switch (request->op) {
        case BLOCK_READ:
        case BLOCK_WRITE:
                raw_step_transfer(raw, request);
                break;
        case BLOCK_DISCARD:
                if (raw->no_discard)
                        raw_finish(raw, request, 0);
                else
                        raw_issue(raw, request, raw->is_device ? BLOCK_IO_DISCARD : BLOCK_IO_FALLOCATE,
                                  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, NULL, 0);
                break;
        case BLOCK_WRITE_ZEROES:
                punch = (request->flags & BLOCK_UNMAP) && !raw->no_punch;
                if (!punch && raw->no_zero_range) {
                        request->phase = RAW_ZERO_WRITE;
                        raw_step_zero_write(raw, request);
                        break;
                }
                raw_issue(raw, request, BLOCK_IO_FALLOCATE,
                          FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE), NULL, 0);
                break;
        case BLOCK_FLUSH:
        case BLOCK_OP_COUNT:
                raw_issue(raw, request, BLOCK_IO_SYNC, 0, NULL, 0);
                break;
        }
}

/* Queues the next operation of @request. */
static void raw_step(struct raw *raw, struct block_request *request) {
        switch ((enum raw_phase)request->phase) {
        case RAW_MAIN:
                raw_step_main(raw, request);
                break;
        case RAW_ZERO_WRITE:
                raw_step_zero_write(raw, request);
                break;
        case RAW_SYNC:
                raw_issue(raw, request, BLOCK_IO_SYNC, 0, NULL, 0);
                break;
        }
}

/* The operation itself is through. */
static void raw_complete(struct raw *raw, struct block_request *request) {
        if ((request->flags & BLOCK_DURABLE) && (request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES) &&
            request->phase != RAW_SYNC) {
                request->phase = RAW_SYNC;
                request->retries = 0;
                raw_step(raw, request);
                return;
        }
        raw_finish(raw, request, 0);
}

static void raw_transferred(struct raw *raw, struct block_request *request, uint64_t n) {
        if (raw->direct)
                n -= n % raw->block.limits.logical_block; /* what is left must stay aligned */
        if (n == 0 || n > request->length - request->progress) {
                raw_finish(raw, request, -EIO);
                return;
        }
        if (raw->bouncing == request && request->op == BLOCK_READ)
                raw_bounce_copy(raw, request, n, true);
        if (request->phase == RAW_ZERO_WRITE)
                request->progress += n;
        else
                raw_advance(request, n);
        request->retries = 0;
        if (request->progress == request->length) {
                raw_complete(raw, request);
                return;
        }
        if (request->phase == RAW_MAIN && raw->bouncing != request)
                raw->block.metrics.continued++;
        raw_step(raw, request);
}

/* @request's fallocate() or ioctl() is not to be had here: true when there is another way. */
static bool raw_unsupported(struct raw *raw, struct block_request *request) {
        if (request->op == BLOCK_DISCARD) {
                raw->no_discard = true;
                return true;
        }
        if (request->op != BLOCK_WRITE_ZEROES || request->io.kind != BLOCK_IO_FALLOCATE)
                return false;
        if (request->io.mode & FALLOC_FL_PUNCH_HOLE)
                raw->no_punch = true;
        else
                raw->no_zero_range = true;
        return true;
}

static void raw_io_done(void *opaque, struct block_io *io) {
        struct block_request *request = CONTAINER_OF(io, struct block_request, io);
        struct raw *raw = opaque;

        if (io->result == -EOPNOTSUPP && raw_unsupported(raw, request)) {
                raw_step(raw, request);
                return;
        }
        if ((io->result == -EINTR || io->result == -EAGAIN) && request->retries++ < RAW_RETRIES) {
                raw_step(raw, request);
                return;
        }
        if (io->result < 0)
                raw_finish(raw, request, (int)io->result);
        else if (io->kind == BLOCK_IO_READ || io->kind == BLOCK_IO_WRITE)
                raw_transferred(raw, request, (uint64_t)io->result);
        else
                raw_complete(raw, request);
}

static void raw_round(void *opaque) {
        struct raw *raw = opaque;

        if (raw->block.batch)
                raw->block.batch(raw->block.opaque);
}

static void raw_start(struct block *block, struct block_request *request) {
        raw_step(raw_of(block), request);
}

static void raw_kick(struct block *block) {
        engine_kick(raw_of(block)->engine);
}

static int raw_drain(struct block *block, bool cancel, uint64_t deadline_ms) {
        struct raw *raw = raw_of(block);
        struct block_request *waiting;
        int r;

        while (cancel && (waiting = raw->bounce_first)) {
                raw->bounce_first = waiting->next;
                block_finish(waiting, -ECANCELED);
        }
        if (cancel)
                raw->bounce_tail = &raw->bounce_first;
        /* A finished request may start one that waits for the bounce buffer, on either engine. */
        do {
                r = engine_drain(raw->engine, cancel, deadline_ms);
                if (r == 0 && raw->threads)
                        r = engine_drain(raw->threads, cancel, deadline_ms);
        } while (r == 0 && raw->engine->in_flight > 0);
        return r;
}

static const char *raw_engine(const struct block *block) {
        return raw_of(block)->engine->ops->name;
}

static void raw_free(struct raw *raw) {
        if (!raw)
                return;
        engine_free(raw->engine);
        engine_free(raw->threads);
        if (raw->zeroes)
                munmap(raw->zeroes, RAW_ZERO_SIZE);
        if (raw->bounce)
                munmap(raw->bounce, RAW_BOUNCE_SIZE);
        free(raw);
}
DEFINE_CLEANUP(raw, raw_free);

static void raw_close(struct block *block) {
        (void)raw_drain(block, true, UINT64_MAX);
        raw_free(raw_of(block));
}

static const struct block_driver raw_driver = {
        .name = "raw",
        .start = raw_start,
        .kick = raw_kick,
        .drain = raw_drain,
        .engine = raw_engine,
        .close = raw_close,
};

/* Size and block sizes from the descriptor. */
static int raw_measure(struct raw *raw, struct error *e) {
        struct block_limits *l = &raw->block.limits;
        struct stat st;
        unsigned int physical = 0;
        int logical = 0;

        if (fstat(raw->fd, &st) < 0)
                return error_set(e, -errno, "disk-type", NULL, "cannot examine the disk's descriptor");
        l->logical_block = l->physical_block = BLOCK_SECTOR;
        if (S_ISREG(st.st_mode)) {
                l->size = (uint64_t)st.st_size;
                l->physical_block = 4096;
        } else if (S_ISBLK(st.st_mode)) {
                raw->is_device = true;
                if (raw->sys->ioctl(raw->fd, BLKGETSIZE64, &l->size) < 0)
                        return error_set(e, -errno, "disk-size", NULL, "cannot read the block device's size");
                if (raw->sys->ioctl(raw->fd, BLKSSZGET, &logical) == 0 && logical > 0)
                        l->logical_block = (uint32_t)logical;
                if (raw->sys->ioctl(raw->fd, BLKPBSZGET, &physical) == 0)
                        l->physical_block = physical;
                l->physical_block = MAX(l->physical_block, l->logical_block);
        } else {
                return error_set(e, -EINVAL, "disk-type", "give a regular file or a block device",
                                 "a disk is neither a regular file nor a block device");
        }
        if (l->size == 0 || l->size % BLOCK_SECTOR != 0)
                return error_set(e, -EINVAL, "disk-size", "extend it: truncate -s %%512 FILE",
                                 "the disk's size of %llu bytes is not a multiple of 512, or zero",
                                 (unsigned long long)l->size);
        return 0;
}

/* With O_DIRECT on, finds the alignment by trying: the smallest block that can be read. */
static int raw_direct(struct raw *raw, bool wanted, struct error *e) {
        struct block_limits *l = &raw->block.limits;
        int flags = fcntl(raw->fd, F_GETFL);
        ssize_t n = -1;

        if (flags < 0)
                return error_set(e, -errno, "disk-type", NULL, "cannot examine the disk's descriptor");
        if (wanted && !(flags & O_DIRECT)) {
                flags |= O_DIRECT;
                if (fcntl(raw->fd, F_SETFL, flags) < 0)
                        return error_set(e, -errno, "disk-direct", "leave direct off for this disk",
                                         "the disk's file system has no direct I/O");
        }
        raw->direct = flags & O_DIRECT;
        if (!raw->direct)
                return 0;
        raw->bounce = raw->sys->mmap(NULL, RAW_BOUNCE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (raw->bounce == MAP_FAILED) {
                raw->bounce = NULL;
                return error_set(e, -errno, "disk-direct", NULL, "no memory for a bounce buffer");
        }
        for (; l->logical_block <= RAW_DIRECT_MAX; l->logical_block *= 2) {
                /* At an address that is aligned to this block only, not to the next larger one. */
                n = raw->sys->pread(raw->fd, raw->bounce + l->logical_block, l->logical_block, 0);
                if (n == (ssize_t)l->logical_block || (n < 0 && errno != EINVAL))
                        break;
        }
        /* The block was at least 512 bytes, and doubling it stopped at RAW_DIRECT_MAX: it is not 0. */
        if (n != (ssize_t)l->logical_block || l->size % l->logical_block != 0) // NOLINT(clang-analyzer-core.DivideZero)
                return error_set(e, n < 0 ? -errno : -EINVAL, "disk-direct", "leave direct off for this disk",
                                 "direct I/O needs blocks of %u bytes, which do not fit the disk", l->logical_block);
        l->physical_block = MAX(l->physical_block, l->logical_block);
        return 0;
}

static int raw_start_engines(struct raw *raw, const struct block_options *options, struct error *e) {
        const struct engine_options eo = {
                .sys = raw->sys,
                .fd = raw->fd,
                .depth = options->depth,
                .loop = options->loop,
                .done = raw_io_done,
                .round = raw_round,
                .opaque = raw,
                .thread_start = options->thread_start,
                .thread_opaque = options->thread_opaque,
        };
        int r = -ENOSYS;

        if (options->engine != BLOCK_ENGINE_THREADS)
                r = engine_new_ring(&eo, &raw->engine);
        if (r < 0 && options->engine != BLOCK_ENGINE_URING) {
                if (options->engine == BLOCK_ENGINE_AUTO)
                        log_info("disk: io_uring is not available (%s): worker threads do its I/O", strerror(-r));
                r = engine_new_threads(&eo, &raw->engine);
        } else if (r == 0 && raw->is_device && !raw->block.limits.readonly) {
                r = engine_new_threads(&eo, &raw->threads);
        }
        if (r < 0)
                return error_set(e, r, "disk-engine",
                                 "allow io_uring (sysctl kernel.io_uring_disabled) or more threads",
                                 "cannot start the disk's I/O engine");
        log_debug("disk: %s engine, %llu bytes", raw->engine->ops->name, (unsigned long long)raw->block.limits.size);
        return 0;
}

int block_open_raw(const struct block_options *options, struct block **ret_block, struct error *e) {
        _cleanup_(raw_freep) struct raw *raw = calloc(1, sizeof(*raw));
        int flags, r;

        if (!raw)
                return error_set(e, -ENOMEM, "disk-engine", NULL, "no memory for a disk");
        raw->block.driver = &raw_driver;
        raw->block.batch = options->batch;
        raw->block.opaque = options->opaque;
        raw->sys = options->sys ?: &sys_real;
        raw->fd = options->fd;
        raw->bounce_tail = &raw->bounce_first;

        r = raw_measure(raw, e);
        if (r < 0)
                return r;
        flags = fcntl(raw->fd, F_GETFL);
        if (flags < 0 || (!options->readonly && (flags & O_ACCMODE) != O_RDWR))
                return error_set(e, flags < 0 ? -errno : -EBADF, "disk-access", "mark the disk readonly",
                                 "the disk is not open for writing");
        r = raw_direct(raw, options->direct, e);
        if (r < 0)
                return r;
        raw->zeroes = raw->sys->mmap(NULL, RAW_ZERO_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (raw->zeroes == MAP_FAILED) {
                raw->zeroes = NULL;
                return error_set(e, -errno, "disk-engine", NULL, "no memory for a disk");
        }
        for (unsigned int i = 0; i < RAW_ZERO_IOVS; i++)
                raw->zero_iov[i] = (struct iovec){ .iov_base = raw->zeroes, .iov_len = RAW_ZERO_SIZE };

        raw->block.limits.readonly = options->readonly;
        raw->block.limits.discard = raw->block.limits.write_zeroes = !options->readonly;
        r = raw_start_engines(raw, options, e);
        if (r < 0)
                return r;
        *ret_block = &TAKE_PTR(raw)->block;
        return 0;
}
