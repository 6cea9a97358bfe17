// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block: one disk image, read and written asynchronously
 *
 * The caller (a disk model such as virtio-blk) owns its requests: it fills one in, hands it to block_submit(), and gets it back in
 * request->done() with 0 or -errno. A request is done whole or not at all: short transfers are continued here, and a request that
 * failed half way reports the error. Buffers are the caller's (guest memory, as a rule) and are used in place.
 *
 * Batches. block_submit() only queues; block_kick() starts what was queued with as few system calls as the engine can. After a
 * run of completions the `batch` callback of block_open() comes once, so that the caller can publish and interrupt once. Both may
 * come from inside block_kick() when the data was at hand.
 *
 * Durability. A completed write is in the host's cache until a BLOCK_FLUSH that was submitted later completes, or unless
 * it carries BLOCK_DURABLE. Requests in flight at the same time have no order among them.
 *
 * Threads. All calls and callbacks under the machine lock (the guard of the loop given to block_open()); block_open() and
 * block_close() on the loop's own thread, since they add and remove its sources. Nothing blocks but block_drain() and block_close().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/sys.h"

#define BLOCK_SECTOR 512u

struct block;
struct block_request;

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_OP_COUNT };

enum {
        BLOCK_DURABLE = 1 << 0, /* writes: done only once the data is on stable storage */
        BLOCK_UNMAP = 1 << 1,   /* write zeroes: the space may be given back */
};

/* One operation of an engine (engine.h): a step of a request. Private to vmm/block. */
enum block_io_kind { BLOCK_IO_READ, BLOCK_IO_WRITE, BLOCK_IO_SYNC, BLOCK_IO_FALLOCATE, BLOCK_IO_DISCARD };
struct block_io {
        enum block_io_kind kind;
        int mode; /* fallocate() */
        unsigned int n_iov;
        const struct iovec *iov;
        uint64_t offset, length;
        int64_t result;
        int other_fd;                         /* 0: the engine's; else an open descriptor (standard input is no disk) */
        int64_t (*call)(struct block_io *io); /* workers: run this instead; what it returns is the result */
        struct block_io *next;
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
        struct block *block;
        struct block_request *next;
        struct block_io io;
        struct iovec piece, *cut;
        uint64_t progress;
        unsigned int token;
        uint8_t phase, retries;
};

enum block_engine {
        BLOCK_ENGINE_AUTO,    /* io_uring where the kernel allows it, else threads */
        BLOCK_ENGINE_URING,   /* or fail */
        BLOCK_ENGINE_THREADS, /* preadv() and friends on worker threads */
};

struct block_options {
        const struct sys *sys; /* NULL: the real one */
        int fd;                /* a regular file or block device; borrowed, must outlive the disk */
        bool readonly;
        bool direct;        /* bypass the host's page cache (O_DIRECT); also on when @fd has it already */
        unsigned int depth; /* requests that may be in flight, at most 1024 */
        enum block_engine engine;
        struct loop *loop;
        void (*batch)(void *opaque); /* after a run of completions; may be NULL */
        void *opaque;
        int (*thread_start)(void *opaque); /* first thing on each worker thread (the sandbox), -errno; may be NULL */
        void *thread_opaque;
};

struct block_limits {
        uint64_t size;           /* bytes, a multiple of @logical_block */
        uint32_t logical_block;  /* bytes: unit and alignment of offsets and lengths */
        uint32_t physical_block; /* bytes: smaller writes cost a read */
        bool readonly, discard, write_zeroes;
};

struct block_metrics {
        uint64_t requests[BLOCK_OP_COUNT], bytes[BLOCK_OP_COUNT], errors;
        uint64_t continued; /* short transfers that were continued */
        uint64_t bounced;   /* copied for the sake of O_DIRECT's alignment */
};

/**
 * block_open_raw() - a disk whose bytes are the file's bytes
 *
 * Return: 0, or -errno with "disk-type" (neither file nor block device), "disk-size" (no multiple of a sector, or empty), "disk-direct"
 * (O_DIRECT refused or misaligned), "disk-access" (@fd is not open for writing), "disk-engine".
 */
int block_open_raw(const struct block_options *options, struct block **ret_block, struct error *e);

/**
 * block_open_layers() - a disk that is a chain of layers
 * @options:    @fd, @readonly and @direct are the layers' business and not looked at
 * @top:        the chain, with every backing image in its place
 * @shared:     others serve the same chain (each on a loop of its own): it stays open. Else it is taken over on success, and closed by a
 *              worker in the end.
 *
 * Return: 0, or -errno with "disk-engine".
 */
struct layer;
int block_open_layers(const struct block_options *options, struct layer *top, bool shared, struct block **ret_block,
                      struct error *e);

/** block_close() - waits for what is in flight (its requests are cancelled, done() comes), then releases. NULL is fine. */
void block_close(struct block *block);
DEFINE_CLEANUP(block, block_close);

/** block_limits(), block_metrics(), block_engine_name() ("io_uring", "threads") - facts. */
const struct block_limits *block_limits(const struct block *block);
const struct block_metrics *block_metrics(const struct block *block);
const char *block_engine_name(const struct block *block);

/**
 * block_submit() - queue @request; done() always comes for it, maybe before this returns (errors)
 *
 * Results: -EINVAL misaligned, or buffers that do not add up; -ERANGE outside the disk; -EROFS; else the host's errno.
 */
void block_submit(struct block *block, struct block_request *request);

/** block_kick() - start what was queued. */
void block_kick(struct block *block);

/**
 * block_drain() - wait until nothing is in flight; done() comes for all
 * @cancel:     what has not started yet fails with -ECANCELED
 * @timeout_ms: give up after this long
 *
 * Return: 0, or -ETIMEDOUT: then the host still may write into the buffers of requests in flight.
 */
int block_drain(struct block *block, bool cancel, unsigned int timeout_ms);
