// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block: a disk, which is a chain of layers (layer.h), and its queues, through which it is read and written asynchronously
 *
 *      struct block            the layers, and the worker threads that do whatever may have to wait
 *      struct block_queue      one way in, for one event loop: requests, an engine, completions. Queues share nothing but the disk
 *
 * The caller (a disk model such as virtio-blk) owns its requests: it fills one in, hands it to block_queue_submit(), and gets it back in
 * request->done() with 0 or -errno. A request is done whole or not at all: short transfers are continued here, and a request that
 * failed half way reports the error. Buffers are the caller's (guest memory, as a rule) and are used in place.
 *
 * Batches. block_queue_submit() only queues; block_queue_kick() starts what was queued with as few system calls as the engine can. After a
 * run of completions the queue's `batch` callback comes once, so that the caller can publish and interrupt once. Both may
 * come from inside block_queue_kick() when the data was at hand, and done() from inside block_queue_submit().
 *
 * Durability. A completed write is in the host's cache until a BLOCK_FLUSH that was submitted later, through any queue, completes, or unless
 * it carries BLOCK_DURABLE. Requests in flight at the same time have no order among them.
 *
 * Threads. All calls and callbacks of a queue under the guard of the loop given to block_queue_new(); block_queue_new() and
 * block_queue_free() also while that loop stands still. Nothing blocks but block_queue_drain(), block_queue_free() and block_close().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/loop.h"
#include "vmm/block/pool.h"

#define BLOCK_SECTOR       512u
#define BLOCK_QUEUES_MAX   16u
#define BLOCK_REGION_PIECE (64u << 20) /* for memory whose pages are not larger than that */

struct block;
struct block_queue;
struct block_request;
struct dirty;
struct layer;
struct throttle_disk;
struct throttle_group;

/* ---- the disk ---------------------------------------------------------------------------------------------------- */

enum block_engine {
        BLOCK_ENGINE_AUTO,    /* io_uring where the kernel allows it, else threads */
        BLOCK_ENGINE_URING,   /* or fail */
        BLOCK_ENGINE_THREADS, /* preadv() and friends on worker threads */
};

struct block_options {
        struct layer *top; /* the chain, with every backing image in its place */
        bool borrowed; /* the chain stays open; else it is taken over on success, and closed by a worker in the end */
        enum block_engine engine;
        uint32_t logical_block, physical_block; /* bytes, powers of two; 0: the storage's */
        uint64_t discard_granularity;           /* likewise */
        bool no_discard;
        struct throttle_group *throttle;   /* whose limits it keeps; NULL: none. The disk takes a reference */
        int (*thread_start)(void *opaque); /* first thing on each worker thread (the sandbox), -errno; may be NULL */
        void *thread_opaque;
};

struct block_limits {
        uint64_t size;                /* bytes at the start, a multiple of @logical_block; see block_size() */
        uint32_t logical_block;       /* bytes: unit and alignment of offsets and lengths */
        uint32_t physical_block;      /* bytes: smaller writes cost a read */
        uint64_t discard_granularity; /* bytes: smaller discards free nothing */
        bool readonly, discard, write_zeroes;
};

/**
 * block_open() - a disk out of its layers
 *
 * Return: 0, or -errno with "disk-engine", "disk-block-size".
 */
int block_open(const struct block_options *options, struct block **ret_block, struct error *e);

/** block_close() - after its queues are gone: writes back what the layers keep, then releases. NULL is fine. */
void block_close(struct block *block);
DEFINE_CLEANUP(block, block_close);

const struct block_limits *block_limits(const struct block *block);

/** block_size() - bytes, a multiple of the logical block; from any thread. It only grows (block_resize()). */
uint64_t block_size(const struct block *block);

/* In done(): 0, or -errno with an error that stays the callee's. */
typedef void (*block_resized_fn)(void *opaque, int result, const struct error *e);

/**
 * block_resize() - make the disk larger while it is used; a worker does it
 * @size:   bytes, a multiple of the logical block, not below block_size()
 * @loop:   on which done() is called, once, with the disk as large as it says
 *
 * An image that is larger than the disk (block_replace()) never becomes smaller, and what it held there becomes zeroes.
 *
 * Return: 0; -EINVAL "disk-size"; -EROFS "disk-readonly"; -EBUSY "disk-busy" while another resize or a mirror is going on. block_close() must wait
 * for done().
 */
int block_resize(struct block *block, uint64_t size, struct loop *loop, block_resized_fn done, void *opaque,
                 struct error *e);

/**
 * block_replace() - go on with another image, which holds what the disk holds
 * @top: no backing image; nobody uses it, and it is at least block_size() bytes large, can be written unless the disk is read-only, and its
 *       logical block is not larger than the disk's; taken over
 *
 * All queues are drained, and nothing is submitted to any before block_queue_replaced() was called for it; no resize is going on, nor does a mirror
 * copy. Size, limits and the number of workers stay as they are.
 *
 * Return: the images until now, which are the caller's once block_queue_replaced() was called for all queues.
 */
struct layer *block_replace(struct block *block, struct layer *top);

/** block_uses() - is @fd's file, or block device, one that the disk's images are in? Not while they are replaced. */
bool block_uses(const struct block *block, int fd);

/** block_throttle() - its place in a group of throttle.h, which may be changed at any time. */
struct throttle_disk *block_throttle(struct block *block);

/* ---- a queue ----------------------------------------------------------------------------------------------------- */

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_OP_COUNT };

enum {
        BLOCK_DURABLE = 1 << 0, /* writes: done only once the data is on stable storage */
        BLOCK_UNMAP = 1 << 1,   /* write zeroes: the space may be given back */
};

/* One operation of an engine (engine.h): a step of a request. Private to vmm/block. */
enum block_io_kind { BLOCK_IO_READ, BLOCK_IO_WRITE, BLOCK_IO_SYNC, BLOCK_IO_CALL };
struct block_io {
        enum block_io_kind kind;
        int fd;
        unsigned int n_iov;
        const struct iovec *iov;
        uint64_t offset, length;
        int64_t result;
        int64_t (*call)(struct block_io *io, unsigned int worker); /* BLOCK_IO_CALL, threads only */
        struct block_io *next;
        struct pool_job job; /* threads */
};

struct block_request {
        /* the caller's */
        enum block_op op;
        unsigned int flags;
        uint64_t offset, length; /* bytes, multiples of the logical block; ignored by BLOCK_FLUSH */
        struct iovec *iov;  /* read and write: exactly @length bytes; the array is scratch and comes back changed */
        unsigned int n_iov; /* at most IOV_MAX (1024) */
        void (*done)(struct block_request *request, int result);

        /* vmm/block's, from submit to done */
        struct block_queue *queue;
        struct block_request *next; /* while it waits for its turn */
        struct block_io io;
        struct iovec piece, *cut; /* the buffer that @io ends in, as it was */
        uint64_t progress;
        unsigned int token; /* of layer_enter() */
        uint8_t retries;
        bool refused; /* in done() with an error: it broke a rule of the disk's, and storage was not asked */
        bool syncing; /* the data is through, the flush isn't; in done() with an error: it is the flush that failed */
};

struct block_queue_options {
        unsigned int depth; /* requests that may be in flight, at most 1024 */
        struct loop *loop;
        void (*batch)(void *opaque); /* after a run of completions; may be NULL */
        void *opaque;
        /* Memory that most buffers are in. It is registered with io_uring, which makes direct I/O from and to it cheaper, and locks it while the queue
         * lives (registered.h); it must stay mapped as it is. Looked at by block_queue_new() only. */
        const struct iovec *regions;
        unsigned int n_regions; /* at most 4; 0: none */
        uint64_t region_piece;  /* bytes, a power of two up to 1 GiB: transfers that lie inside one piece gain */
};

struct block_metrics {
        uint64_t requests[BLOCK_OP_COUNT], bytes[BLOCK_OP_COUNT], errors;
        uint64_t continued; /* short transfers that were continued */
        uint64_t bounced;   /* copied for the sake of O_DIRECT's alignment */
        uint64_t throttled; /* had to wait for the disk's limits */
        uint64_t
                waited; /* reads and writes, in whole or in part, of worker threads: copy on write, compressed, tables */
};

/**
 * block_queue_new() - a way into @block, at most BLOCK_QUEUES_MAX of them
 *
 * Memory that can't be registered is no error: one line in the log, once for each disk.
 *
 * Return: 0, or -errno with "disk-engine".
 */
int block_queue_new(struct block *block, const struct block_queue_options *options, struct block_queue **ret_queue,
                    struct error *e);

/** block_queue_free() - waits for what is in flight (its requests are cancelled, done() comes), then releases. NULL is fine. */
void block_queue_free(struct block_queue *queue);
DEFINE_CLEANUP(block_queue, block_queue_free);

/** block_queue_metrics(), block_queue_engine() ("io_uring", "threads") - facts. */
const struct block_metrics *block_queue_metrics(const struct block_queue *queue);
const char *block_queue_engine(const struct block_queue *queue);

/**
 * block_queue_submit() - queue @request; done() always comes for it, maybe before this returns
 *
 * Results: -EINVAL misaligned, or buffers that do not add up; -ERANGE outside the disk; -EROFS; else the host's errno.
 */
void block_queue_submit(struct block_queue *queue, struct block_request *request);

/**
 * block_queue_retry() - go on with a request that ended with an error, from where it stopped
 *
 * Not after a failed flush: the kernel has then forgotten what it could not write, and a second one would succeed.
 */
void block_queue_retry(struct block_queue *queue, struct block_request *request);

/** block_queue_kick() - start what was queued. */
void block_queue_kick(struct block_queue *queue);

/**
 * block_queue_drain() - wait until nothing is in flight; done() comes for all; what waits for the disk's limits waits no longer
 * @cancel:     what has not started yet fails with -ECANCELED
 * @timeout_ms: give up after this long
 *
 * Return: 0, or -ETIMEDOUT: then the host still may write into the buffers of requests in flight; they go no further than they must with
 * @cancel, and done() comes for them through the loop.
 */
int block_queue_drain(struct block_queue *queue, bool cancel, unsigned int timeout_ms);

/**
 * block_queue_track() - mark in @dirty what requests change from now on, also those in flight; NULL: no more
 *
 * Under the guard of the queue's loop, like all else: what ended before this call was whole before it, and what ends later is marked.
 */
void block_queue_track(struct block_queue *queue, struct dirty *dirty);

/** block_queue_replaced() - the second part of block_replace(), under the guard of the queue's loop; @old: what that returned. */
void block_queue_replaced(struct block_queue *queue, struct layer *old);

/** block_queue_in_flight() - how many steps of requests have not ended. */
unsigned int block_queue_in_flight(const struct block_queue *queue);
