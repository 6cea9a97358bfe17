// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pool: see pool.h
 *
 * The stacks are small and the threads touch nothing but the job in hand, so they need no lock but the list's own, which is never held
 * around a job. They block all signals: kicks and SIGTERM are for others.
 */
#include "vmm/block/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/thread.h"

/* seccomp: block: preadv, pwritev, fdatasync, fallocate */
/* seccomp: block: ftruncate (rare) -- an image's end is cut when it is closed */
/* seccomp: block: brk, munmap, mremap (rare) -- an image's tables, bounce buffers */
/* seccomp: block: mmap arg2&PROT_EXEC=0 (rare) -- the same */
/* seccomp: block: mprotect arg2&PROT_EXEC=0 (rare) -- the same */
/* seccomp: block: ioctl arg1=BLKDISCARD (rare) -- a block device */

#define POOL_STACK (128 * 1024)

struct worker {
        struct pool *pool;
        unsigned int index;
        pthread_t id;
};

struct pool {
        struct worker workers[POOL_THREADS_MAX];
        unsigned int n_threads;
        int (*thread_start)(void *opaque);
        void *opaque;

        pthread_mutex_t lock; /* the rest */
        pthread_cond_t work, started;
        struct pool_job *first, **tail;
        unsigned int n_started; /* threads that have said whether they could start */
        int start_error;
        bool quit;
};

static void *worker_main(void *opaque) {
        struct worker *w = opaque;
        struct pool *p = w->pool;
        int r = p->thread_start ? p->thread_start(p->opaque) : 0;

        pthread_mutex_lock(&p->lock);
        p->n_started++;
        if (r < 0)
                p->start_error = r;
        pthread_cond_broadcast(&p->started);
        while (r >= 0) {
                struct pool_job *job = p->first;

                if (!job) {
                        if (p->quit)
                                break;
                        pthread_cond_wait(&p->work, &p->lock);
                        continue;
                }
                p->first = job->next;
                if (!p->first)
                        p->tail = &p->first;
                pthread_mutex_unlock(&p->lock);
                job->run(job, w->index);
                pthread_mutex_lock(&p->lock);
        }
        pthread_mutex_unlock(&p->lock);
        return NULL;
}

static int start(struct pool *p, unsigned int n_threads) {
        int k = 0;

        while (p->n_threads < n_threads && k == 0) {
                struct worker *w = &p->workers[p->n_threads];

                *w = (struct worker){ .pool = p, .index = p->n_threads };
                k = thread_spawn(&w->id, POOL_STACK, worker_main, w);
                p->n_threads += k == 0;
        }
        if (p->n_threads == 0)
                return k;
        pthread_mutex_lock(&p->lock);
        while (p->n_started < p->n_threads)
                pthread_cond_wait(&p->started, &p->lock);
        k = p->start_error;
        pthread_mutex_unlock(&p->lock);
        return k;
}

int pool_new(unsigned int n_threads, int (*thread_start)(void *opaque), void *opaque, struct pool **ret_pool) {
        struct pool *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        p->thread_start = thread_start;
        p->opaque = opaque;
        p->tail = &p->first;
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->work, NULL);
        pthread_cond_init(&p->started, NULL);
        r = start(p, MIN(n_threads, (unsigned int)POOL_THREADS_MAX));
        if (r < 0) {
                pool_free(p);
                return r;
        }
        *ret_pool = p;
        return 0;
}

void pool_free(struct pool *p) {
        if (!p)
                return;
        pthread_mutex_lock(&p->lock);
        p->quit = true;
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
        for (unsigned int i = 0; i < p->n_threads; i++)
                pthread_join(p->workers[i].id, NULL);
        pthread_cond_destroy(&p->work);
        pthread_cond_destroy(&p->started);
        pthread_mutex_destroy(&p->lock);
        free(p);
}

unsigned int pool_n_threads(const struct pool *p) {
        return p->n_threads;
}

void pool_submit(struct pool *p, struct pool_job *job) {
        job->next = NULL;
        pthread_mutex_lock(&p->lock);
        *p->tail = job;
        p->tail = &job->next;
        pthread_cond_signal(&p->work);
        pthread_mutex_unlock(&p->lock);
}

struct pool_job *pool_cancel(struct pool *p, const void *owner) {
        struct pool_job *taken = NULL, **taken_tail = &taken;

        pthread_mutex_lock(&p->lock);
        p->tail = &p->first;
        for (struct pool_job *job = p->first; job; job = job->next) {
                struct pool_job ***tail = job->owner == owner ? &taken_tail : &p->tail;

                **tail = job;
                *tail = &job->next;
        }
        *p->tail = *taken_tail = NULL;
        pthread_mutex_unlock(&p->lock);
        return taken;
}
