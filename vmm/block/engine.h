// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine: how single operations on a descriptor reach the kernel without blocking us: io_uring, or worker threads
 *
 * An engine takes struct block_io (one system call's worth), runs them in any order, and reports each through engine->done() with
 * io->result as the call would have returned it (bytes, 0, -errno). Retrying, splitting and bounds are the queue's business (queue.c).
 *
 * Threads: all under the loop's guard, as in block.h; done() and round() are called from the loop, from kick() or from drain().
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/loop.h"
#include "base/sys.h"
#include "vmm/block/block.h"

struct engine;

struct engine_ops {
        const char *name;
        void (*submit)(struct engine *engine, struct block_io *io);
        void (*kick)(struct engine *engine);
        unsigned int (*reap)(struct engine *engine); /* done() for what has ended; how many */
        void (*cancel)(struct engine *engine);       /* best effort; the operations still end through reap() */
        void (*refile)(struct engine *engine);       /* options.fd is another one now; may be NULL */
        void (*free)(struct engine *engine);         /* nothing is in flight */
        /* as registered_add(); NULL: it would gain nothing */
        int (*register_memory)(struct engine *engine, const struct iovec *regions, unsigned int n, uint64_t piece);
};

struct engine_options {
        const struct sys *sys;
        int fd;             /* the one that most operations are on */
        unsigned int depth; /* operations that may be in flight */
        struct pool *pool;  /* threads: who does the work */
        struct loop *loop;
        void (*done)(void *opaque, struct block_io *io);
        void (*round)(void *opaque); /* after a run of done() */
        void *opaque;
};

struct engine {
        const struct engine_ops *ops;
        struct engine_options options;
        struct loop_source *source;
        int poll_fd; /* readable when something ended */
        unsigned int in_flight;
        struct block_io *failed; /* refused before they reached the kernel */
        bool reaping;
};

/** engine_new_ring() - io_uring; -ENOSYS, -EPERM, -ENOMEM where it is missing or forbidden. */
int engine_new_ring(const struct engine_options *options, struct engine **ret_engine);

/** engine_new_threads() - options->pool's threads make plain calls from options->sys, and BLOCK_IO_CALL's. */
int engine_new_threads(const struct engine_options *options, struct engine **ret_engine);

/** engine_attach() - for engines: watch @poll_fd on the loop. */
int engine_attach(struct engine *engine, int poll_fd);

/** engine_fail() - for engines: an operation can't even be started; done() comes in the next round. */
void engine_fail(struct engine *engine, struct block_io *io, int result);

void engine_submit(struct engine *engine, struct block_io *io);

/** engine_kick() - start what was submitted, and report what has ended meanwhile. */
void engine_kick(struct engine *engine);

/** engine_drain() - until nothing is in flight, at most until @deadline_ms on engine_now_ms()'s clock; -ETIMEDOUT. */
int engine_drain(struct engine *engine, bool cancel, uint64_t deadline_ms);
uint64_t engine_now_ms(void);

/** engine_refile() - most operations are on @fd from now on, and none will be on the one before; nothing is in flight. */
void engine_refile(struct engine *engine, const struct sys *sys, int fd);

/** engine_free() - drains without limit first. NULL is fine. */
void engine_free(struct engine *engine);
