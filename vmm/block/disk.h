// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk: what block.c and queue.c share
 */
#pragma once

#include <stdatomic.h>

#include "vmm/block/block.h"
#include "vmm/block/layer/layer.h"
#include "vmm/block/throttle.h"

struct block {
        struct layer *top;
        bool borrowed;
        bool plain; /* its bytes are a file's bytes: only discards and the like, and buffers that are not aligned, go to a worker */
        struct block_limits limits;
        enum block_engine engine;
        struct throttle_disk throttle;
        struct pool *pool;
        atomic_bool unregistered; /* memory could not be registered: further queues don't try */
        unsigned int n_users;
        struct layer_user users[POOL_THREADS_MAX]; /* one for each worker */
        struct pool_job closing;
        atomic_uint_fast64_t size; /* bytes */
        bool mirrored;             /* mirror.h; its size stays as it is */
        struct {
                struct pool_job job;
                bool busy; /* from block_resize() to done() */
                uint64_t size;
                struct loop *loop;
                block_resized_fn done;
                void *opaque;
                int result;
                struct error error;
        } resize;
};
