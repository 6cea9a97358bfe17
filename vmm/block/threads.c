// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * threads: the engine whose operations are calls on a disk's worker threads: what may wait, and everything where io_uring is forbidden
 *
 * An operation that has ended goes to a list, and an eventfd wakes the loop when that list was empty before.
 */
#include "vmm/block/engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* seccomp: vcpu: read (rare) -- a device reset waits for the end of what is in flight */

struct threads {
        struct engine engine;
        int event_fd;
        pthread_mutex_t lock; /* the rest */
        struct block_io *ended, **ended_tail;
};

static int64_t run_call(const struct sys *sys, struct block_io *io, unsigned int worker) {
        ssize_t r = -1;

        switch (io->kind) {
        case BLOCK_IO_READ:
                r = sys->preadv(io->fd, io->iov, (int)io->n_iov, (off_t)io->offset);
                break;
        case BLOCK_IO_WRITE:
                r = sys->pwritev(io->fd, io->iov, (int)io->n_iov, (off_t)io->offset);
                break;
        case BLOCK_IO_SYNC:
                r = sys->fdatasync(io->fd);
                break;
        case BLOCK_IO_CALL:
                return io->call(io, worker);
        }
        return r < 0 ? -errno : r;
}

static void end(struct threads *t, struct block_io *io) {
        uint64_t one = 1;

        io->next = NULL;
        pthread_mutex_lock(&t->lock);
        if (!t->ended)
                (void)!write(t->event_fd, &one, sizeof(one));
        *t->ended_tail = io;
        t->ended_tail = &io->next;
        pthread_mutex_unlock(&t->lock); /* from here on the engine may be freed */
}

static void run(struct pool_job *job, unsigned int worker) {
        struct block_io *io = CONTAINER_OF(job, struct block_io, job);
        struct threads *t = job->owner;

        io->result = run_call(t->engine.options.sys, io, worker);
        end(t, io);
}

static void threads_submit(struct engine *engine, struct block_io *io) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);

        io->job = (struct pool_job){ .run = run, .owner = t };
        pool_submit(engine->options.pool, &io->job);
}

static void threads_kick(struct engine *engine) {
}

static unsigned int threads_reap(struct engine *engine) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);
        struct block_io *io;
        unsigned int n = 0;
        uint64_t count;

        pthread_mutex_lock(&t->lock);
        io = t->ended;
        if (io) {
                t->ended = NULL;
                t->ended_tail = &t->ended;
                (void)!read(t->event_fd, &count, sizeof(count));
        }
        pthread_mutex_unlock(&t->lock);
        while (io) {
                struct block_io *next = io->next; /* done() may submit it again */

                n++;
                engine->options.done(engine->options.opaque, io);
                io = next;
        }
        return n;
}

static void threads_cancel(struct engine *engine) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);
        struct pool_job *job = pool_cancel(engine->options.pool, t);

        while (job) {
                struct block_io *io = CONTAINER_OF(job, struct block_io, job);

                job = job->next;
                io->result = -ECANCELED;
                end(t, io);
        }
}

static void threads_free(struct engine *engine) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);

        pthread_mutex_destroy(&t->lock);
        safe_close(t->event_fd);
        free(t);
}

static const struct engine_ops threads_ops = {
        .name = "threads",
        .submit = threads_submit,
        .kick = threads_kick,
        .reap = threads_reap,
        .cancel = threads_cancel,
        .free = threads_free,
};

int engine_new_threads(const struct engine_options *options, struct engine **ret_engine) {
        struct threads *t = calloc(1, sizeof(*t));
        int r;

        if (!t)
                return -ENOMEM;
        t->engine.ops = &threads_ops;
        t->engine.options = *options;
        t->ended_tail = &t->ended;
        pthread_mutex_init(&t->lock, NULL);
        t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = t->event_fd < 0 ? -errno : engine_attach(&t->engine, t->event_fd);
        if (r < 0) {
                threads_free(&t->engine);
                return r;
        }
        *ret_engine = &t->engine;
        return 0;
}
