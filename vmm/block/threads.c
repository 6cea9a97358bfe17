// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * threads: the engine for hosts that forbid io_uring, and for the calls that io_uring lacks (BLKDISCARD)
 *
 * Theory of operation. A few worker threads with small stacks take operations from one list and make the plain system call. An
 * operation that has ended goes to a second list, and an eventfd wakes the loop when that list was empty before. The threads
 * start with the disk, before the sandbox closes, and touch nothing but the operation in hand, so they need no lock but the list's own,
 * which is never held around a call. They block all signals: kicks and SIGTERM are for others.
 */
#include "vmm/block/engine.h"

#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

/* seccomp: block: preadv, pwritev, fdatasync, fallocate */
/* seccomp: block: ftruncate (rare) -- an image's end is cut when it is closed */
/* seccomp: block: brk, munmap, mremap (rare) -- an image's tables, bounce buffers */
/* seccomp: block: mmap arg2&PROT_EXEC=0 (rare) -- the same */
/* seccomp: block: mprotect arg2&PROT_EXEC=0 (rare) -- the same */
/* seccomp: vcpu: read (rare) -- a device reset waits for the end of what is in flight */
/* seccomp: block: ioctl arg1=BLKDISCARD (rare) -- a block device */

#define THREADS       2
#define THREADS_MAX   8
#define THREADS_STACK (128 * 1024)

struct io_list {
        struct block_io *first, **tail;
};

struct threads {
        struct engine engine;
        int event_fd;
        unsigned int n_threads;
        pthread_t ids[THREADS_MAX];

        pthread_mutex_t lock; /* the rest */
        pthread_cond_t work, started;
        struct io_list queue, ended;
        unsigned int n_started; /* threads that have said whether they could start */
        int start_error;
        bool quit;
};

static void io_list_init(struct io_list *l) {
        *l = (struct io_list){ .tail = &l->first };
}

static void io_list_push(struct io_list *l, struct block_io *io) {
        io->next = NULL;
        *l->tail = io;
        l->tail = &io->next;
}

static struct block_io *io_list_pop(struct io_list *l) {
        struct block_io *io = l->first;

        if (io) {
                l->first = io->next;
                if (!l->first)
                        l->tail = &l->first;
        }
        return io;
}

static int64_t threads_call(const struct sys *sys, int fd, const struct block_io *io) {
        uint64_t range[2] = { io->offset, io->length };
        ssize_t r = -1;

        switch (io->kind) {
        case BLOCK_IO_READ:
                r = sys->preadv(fd, io->iov, (int)io->n_iov, (off_t)io->offset);
                break;
        case BLOCK_IO_WRITE:
                r = sys->pwritev(fd, io->iov, (int)io->n_iov, (off_t)io->offset);
                break;
        case BLOCK_IO_SYNC:
                r = sys->fdatasync(fd);
                break;
        case BLOCK_IO_FALLOCATE:
                r = sys->fallocate(fd, io->mode, (off_t)io->offset, (off_t)io->length);
                break;
        case BLOCK_IO_DISCARD:
                r = sys->ioctl(fd, BLKDISCARD, range);
                break;
        }
        return r < 0 ? -errno : r;
}

static void *threads_main(void *opaque) {
        struct threads *t = opaque;
        const struct engine_options *o = &t->engine.options;
        int k = o->thread_start ? o->thread_start(o->thread_opaque) : 0;

        pthread_mutex_lock(&t->lock);
        t->n_started++;
        if (k < 0)
                t->start_error = k;
        pthread_cond_broadcast(&t->started);
        while (k >= 0) {
                struct block_io *io = io_list_pop(&t->queue);
                uint64_t one = 1;
                bool wake;

                if (!io) {
                        if (t->quit)
                                break;
                        pthread_cond_wait(&t->work, &t->lock);
                        continue;
                }
                pthread_mutex_unlock(&t->lock);
                io->result = io->call ? io->call(io) : threads_call(o->sys, io->other_fd ?: o->fd, io);
                pthread_mutex_lock(&t->lock);
                wake = !t->ended.first;
                io_list_push(&t->ended, io);
                if (wake)
                        (void)!write(t->event_fd, &one, sizeof(one));
        }
        pthread_mutex_unlock(&t->lock);
        return NULL;
}

static void threads_submit(struct engine *engine, struct block_io *io) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);

        pthread_mutex_lock(&t->lock);
        io_list_push(&t->queue, io);
        pthread_cond_signal(&t->work);
        pthread_mutex_unlock(&t->lock);
}

static void threads_kick(struct engine *engine) {
}

static unsigned int threads_reap(struct engine *engine) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);
        struct block_io *io;
        unsigned int n = 0;
        uint64_t count;

        pthread_mutex_lock(&t->lock);
        io = t->ended.first;
        if (io) {
                io_list_init(&t->ended);
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
        struct block_io *io;
        uint64_t one = 1;

        pthread_mutex_lock(&t->lock);
        while ((io = io_list_pop(&t->queue))) {
                if (!t->ended.first)
                        (void)!write(t->event_fd, &one, sizeof(one));
                io->result = -ECANCELED;
                io_list_push(&t->ended, io);
        }
        pthread_mutex_unlock(&t->lock);
}

static void threads_free(struct engine *engine) {
        struct threads *t = CONTAINER_OF(engine, struct threads, engine);

        pthread_mutex_lock(&t->lock);
        t->quit = true;
        pthread_cond_broadcast(&t->work);
        pthread_mutex_unlock(&t->lock);
        for (unsigned int i = 0; i < t->n_threads; i++)
                pthread_join(t->ids[i], NULL);
        pthread_cond_destroy(&t->work);
        pthread_cond_destroy(&t->started);
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

static int threads_start(struct threads *t) {
        pthread_attr_t attr;
        sigset_t all, saved;
        unsigned int wanted = MIN(t->engine.options.n_threads ?: THREADS, (unsigned int)THREADS_MAX);
        int k = 0;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, THREADS_STACK);
        sigfillset(&all);
        sigdelset(&all, SIGSYS); /* the sandbox says what was forbidden */
        pthread_sigmask(SIG_BLOCK, &all, &saved);
        for (; t->n_threads < wanted && k == 0; t->n_threads += k == 0)
                k = pthread_create(&t->ids[t->n_threads], &attr, threads_main, t);
        pthread_sigmask(SIG_SETMASK, &saved, NULL);
        pthread_attr_destroy(&attr);
        if (t->n_threads == 0)
                return -k;
        pthread_mutex_lock(&t->lock);
        while (t->n_started < t->n_threads)
                pthread_cond_wait(&t->started, &t->lock);
        k = t->start_error;
        pthread_mutex_unlock(&t->lock);
        return k;
}

int engine_new_threads(const struct engine_options *options, struct engine **ret_engine) {
        struct threads *t = calloc(1, sizeof(*t));
        int k;

        if (!t)
                return -ENOMEM;
        t->engine.ops = &threads_ops;
        t->engine.options = *options;
        pthread_mutex_init(&t->lock, NULL);
        pthread_cond_init(&t->work, NULL);
        pthread_cond_init(&t->started, NULL);
        io_list_init(&t->queue);
        io_list_init(&t->ended);
        t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        k = t->event_fd < 0 ? -errno : engine_attach(&t->engine, t->event_fd);
        if (k == 0)
                k = threads_start(t);
        if (k < 0) {
                loop_source_free(t->engine.source);
                threads_free(&t->engine);
                return k;
        }
        *ret_engine = &t->engine;
        return 0;
}
