// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring: the io_uring engine
 *
 * One ring for each queue of a disk, its descriptor on the event loop: it is readable while completions wait. The submission ring is small and is
 * emptied by one io_uring_enter() for each batch of the guest's; the completion ring holds everything that can be in flight, so it cannot
 * overflow. The descriptor of the disk's first image is registered, which saves its lookup in each operation. Data that is in the host's page cache is
 * copied inside io_uring_enter(), so that such reads end in the same doorbell that started them. Transfers from or to memory that is
 * registered (registered.h) name it by number.
 *
 * Any thread that holds the loop's guard may submit, so none of the single-issuer modes is used: a vCPU thread resets a device.
 */
#include <liburing.h>

#include "vmm/block/engine.h"

#include <string.h>

#include "base/log.h"
#include "vmm/block/registered.h"

/* seccomp: main,io: io_uring_enter */
/* seccomp: vcpu: io_uring_enter (rare) -- a device reset cancels what is in flight */
/* seccomp: main: io_uring_register arg1=IORING_UNREGISTER_FILES (rare) -- a disk goes on with another image */
/* seccomp: main: io_uring_register arg1=IORING_REGISTER_FILES (rare) -- the same */

#define RING_SQ_ENTRIES 32u
#define RING_LATER_US   10000u

struct ring {
        struct engine engine;
        struct io_uring uring;
        int ring_fd;
        bool fixed; /* the descriptor is registered as file 0 */
        struct registered memory;
        bool stuck; /* the kernel refused a batch for lack of memory: tried again at the next kick, or a while later */
        struct loop_source *later;
};

static void ring_enter(struct ring *r) {
        for (unsigned int tries = 0; io_uring_sq_ready(&r->uring) > 0 && tries < 16; tries++) {
                int n = io_uring_submit(&r->uring);

                if (n < 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY) {
                        if (!r->stuck)
                                log_error("io_uring_enter: %s", strerror(-n));
                        r->stuck = true;
                        break;
                }
        }
        if (io_uring_sq_ready(&r->uring) > 0) /* nothing that ends may be in flight, and no doorbell may come */
                loop_timer_set(r->later, RING_LATER_US);
        else
                r->stuck = false;
}

static void ring_later(void *opaque) {
        struct ring *r = opaque;

        engine_kick(&r->engine);
}

static void prepare(const struct ring *r, struct io_uring_sqe *sqe, int fd, const struct block_io *io) {
        struct iovec whole;
        int number;

        if (io->kind == BLOCK_IO_SYNC) {
                io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
                return;
        }
        number = registered_find(&r->memory, io->iov, io->n_iov, &whole);
        if (number >= 0 && io->kind == BLOCK_IO_READ)
                io_uring_prep_read_fixed(sqe, fd, whole.iov_base, (unsigned int)whole.iov_len, io->offset, number);
        else if (number >= 0)
                io_uring_prep_write_fixed(sqe, fd, whole.iov_base, (unsigned int)whole.iov_len, io->offset, number);
        else if (io->kind == BLOCK_IO_READ)
                io_uring_prep_readv(sqe, fd, io->iov, io->n_iov, io->offset);
        else
                io_uring_prep_writev(sqe, fd, io->iov, io->n_iov, io->offset);
}

static void ring_submit(struct engine *engine, struct block_io *io) {
        struct ring *r = CONTAINER_OF(engine, struct ring, engine);
        bool fixed = r->fixed && io->fd == engine->options.fd;
        int fd = fixed ? 0 : io->fd;
        struct io_uring_sqe *sqe = io->kind != BLOCK_IO_CALL ? io_uring_get_sqe(&r->uring) : NULL;

        if (!sqe && io->kind != BLOCK_IO_CALL) { /* full: start what is there */
                ring_enter(r);
                sqe = io_uring_get_sqe(&r->uring);
        }
        if (!sqe) {
                engine_fail(engine, io, io->kind != BLOCK_IO_CALL ? -ENOMEM : -EOPNOTSUPP);
                return;
        }
        prepare(r, sqe, fd, io);
        io_uring_sqe_set_data(sqe, io);
        if (fixed)
                sqe->flags |= IOSQE_FIXED_FILE;
}

static void ring_kick(struct engine *engine) {
        ring_enter(CONTAINER_OF(engine, struct ring, engine));
}

static unsigned int ring_reap(struct engine *engine) {
        struct ring *r = CONTAINER_OF(engine, struct ring, engine);
        unsigned int n = 0;

        /* Bounded by what was in flight at the start: continuations end in a later round. */
        for (unsigned int limit = engine->in_flight + 1; limit > 0; limit--) {
                struct io_uring_cqe *cqe;
                struct block_io *io;

                if (io_uring_peek_cqe(&r->uring, &cqe) != 0)
                        break;
                io = io_uring_cqe_get_data(cqe);
                if (io)
                        io->result = cqe->res;
                io_uring_cqe_seen(&r->uring, cqe);
                if (!io)
                        continue; /* a cancellation's own answer, or a no-op's */
                n++;
                engine->options.done(engine->options.opaque, io);
        }
        return n;
}

static void ring_cancel(struct engine *engine) {
        struct ring *r = CONTAINER_OF(engine, struct ring, engine);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

        if (!sqe)
                return;
        /* Kernels before 5.19 answer EINVAL: then we just wait. */
        io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
        io_uring_sqe_set_data(sqe, NULL);
        ring_enter(r);
}

static int ring_register_memory(struct engine *engine, const struct iovec *regions, unsigned int n, uint64_t piece) {
        struct ring *r = CONTAINER_OF(engine, struct ring, engine);

        return registered_add(&r->memory, engine->options.sys, r->ring_fd, regions, n, piece);
}

/* Not one call that exchanges them: older kernels then keep the old file, and the mount that it is on, for a second more. */
static void ring_refile(struct engine *engine) {
        struct ring *r = CONTAINER_OF(engine, struct ring, engine);
        int k;

        if (!r->fixed)
                return;
        k = io_uring_unregister_files(&r->uring);
        if (k < 0)
                log_warning("io_uring: a disk's old file stays open: %s", strerror(-k));
        r->fixed = k == 0 && io_uring_register_files(&r->uring, &engine->options.fd, 1) == 0;
}

static void ring_free(struct engine *engine) {
        struct ring *r = CONTAINER_OF(engine, struct ring, engine);

        loop_source_free(r->later);
        if (r->ring_fd >= 0)
                io_uring_queue_exit(&r->uring); /* closes ring_fd */
        free(r);
}

static const struct engine_ops ring_ops = {
        .name = "io_uring",
        .submit = ring_submit,
        .kick = ring_kick,
        .reap = ring_reap,
        .cancel = ring_cancel,
        .register_memory = ring_register_memory,
        .refile = ring_refile,
        .free = ring_free,
};

int engine_new_ring(const struct engine_options *options, struct engine **ret_engine) {
        struct io_uring_params params = {
                .flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                .cq_entries = options->depth + RING_SQ_ENTRIES,
        };
        _cleanup_close_ int fd = -EBADF;
        struct ring *r;
        int k;

        r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        r->engine.ops = &ring_ops;
        r->engine.options = *options;
        r->ring_fd = -EBADF;

        fd = options->sys->io_uring_setup(MIN(RING_SQ_ENTRIES, options->depth), &params);
        k = fd < 0 ? -errno : io_uring_queue_mmap(fd, &params, &r->uring);
        if (k < 0) {
                free(r);
                return k;
        }
        r->uring.ring_fd = r->ring_fd = TAKE_FD(fd);
        r->uring.enter_ring_fd = r->ring_fd;
        for (unsigned int i = 0; i < params.sq_entries; i++)
                r->uring.sq.array[i] = i; /* slot i of the submission ring is entry i, for good */
        r->fixed = io_uring_register_files(&r->uring, &options->fd, 1) == 0;
        k = loop_add_timer(options->loop, ring_later, r, &r->later);
        if (k >= 0)
                k = engine_attach(&r->engine, r->ring_fd);
        if (k < 0) {
                ring_free(&r->engine);
                return k;
        }
        *ret_engine = &r->engine;
        return 0;
}
