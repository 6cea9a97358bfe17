// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pool: a disk's worker threads, for calls that may wait
 *
 * The threads start with the disk, before the sandbox closes. They take jobs from one list, oldest first, and run them. A job says for
 * whom it is, so that what has not begun can be taken back.
 *
 * Threads. pool_submit() and pool_cancel() from any thread; run() is called on a worker, with no lock held.
 */
#pragma once

#include "base/cleanup.h"

#define POOL_THREADS_MAX 8

struct pool;

struct pool_job {
        void (*run)(struct pool_job *job, unsigned int worker); /* @worker: 0 ... n_threads - 1; may free the job */
        void *owner;
        struct pool_job *next; /* the pool's */
};

/**
 * pool_new() - start @n_threads threads, at most POOL_THREADS_MAX; all have said that they could start when this returns
 * @thread_start: first thing on each thread (the sandbox), -errno; may be NULL
 */
int pool_new(unsigned int n_threads, int (*thread_start)(void *opaque), void *opaque, struct pool **ret_pool);

/** pool_free() - runs what was submitted, then ends the threads. NULL is fine. */
void pool_free(struct pool *pool);
DEFINE_CLEANUP(pool, pool_free);

unsigned int pool_n_threads(const struct pool *pool);

/** pool_submit() - have @job run, soon. */
void pool_submit(struct pool *pool, struct pool_job *job);

/** pool_cancel() - the jobs of @owner that have not begun, linked by next: they are not going to. */
struct pool_job *pool_cancel(struct pool *pool, const void *owner);
