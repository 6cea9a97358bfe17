// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block-queue: how many requests vmm/block serves in a second, and what they cost, without a guest
 *
 * The jobs of block-job.h, whose way into the disk is a struct block_queue on a loop of the job's own, as virtio-blk with I/O threads has it.
 * All is in this process, so its CPU is that of the load too.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "bench/block-job.h"
#include "vmm/block/block.h"
#include "vmm/block/chain/chain.h"

#define LARGE_PAGE (2u << 20)

struct request {
        struct block_request block; /* first: done() casts */
        struct block_job *job;
        unsigned int slot;
};

struct queue {
        struct loop *loop;
        struct block_queue *block;
        struct request requests[BLOCK_JOB_DEPTH_MAX];
};

static struct {
        const char *format;
        bool cached, registered, large_pages;
        enum block_engine engine;
        struct chain *chain;
        struct block *disk; /* all jobs' */
} this;

static void request_done(struct block_request *block, int result) {
        struct request *r = (struct request *)block;

        block_job_done(r->job, r->slot, result);
}

static void queue_submit(struct block_job *j, unsigned int i) {
        static const enum block_op ops[] = {
                [BLOCK_JOB_READ] = BLOCK_READ, [BLOCK_JOB_WRITE] = BLOCK_WRITE, [BLOCK_JOB_FLUSH] = BLOCK_FLUSH
        };
        struct queue *q = j->queue;
        struct block_job_slot *s = &j->slots[i];
        struct block_request *r = &q->requests[i].block;

        *r = (struct block_request){ .op = ops[s->op], .done = request_done };
        if (s->op != BLOCK_JOB_FLUSH) {
                r->offset = s->offset;
                r->length = s->iov.iov_len;
                r->iov = &s->iov;
                r->n_iov = 1;
        }
        block_queue_submit(q->block, r);
}

static void queue_kick(struct block_job *j) {
        struct queue *q = j->queue;

        block_queue_kick(q->block);
}

static int queue_wait(struct block_job *j) {
        struct queue *q = j->queue;

        (void)loop_run_once(q->loop, -1);
        return 0;
}

/* Memory that is there already, in pages of the host's, or in large ones as a guest's is. */
static uint8_t *new_memory(size_t size) {
        size_t page = this.large_pages ? LARGE_PAGE : 4096;
        uint8_t *p;

        size = (size + page - 1) / page * page;
        p = aligned_alloc(page, size);
        if (p && this.large_pages)
                (void)madvise(p, size, MADV_HUGEPAGE);
        if (p)
                memset(p, 0, size);
        return p;
}

static int queue_open(struct block_job *j) {
        const struct block_job_config *c = j->config;
        struct iovec memory = { NULL, (size_t)c->depth * c->block };
        struct block_queue_options options = {
                .depth = c->depth,
                .regions = &memory,
                .n_regions = this.registered,
                .region_piece = BLOCK_REGION_PIECE,
        };
        struct queue *q = calloc(1, sizeof(*q));
        struct error e = { 0 };
        int r;

        j->queue = q;
        r = q ? loop_new(&q->loop) : -ENOMEM;
        if (r < 0)
                return r;
        j->memory = new_memory(memory.iov_len);
        if (!j->memory)
                return -ENOMEM;
        memory.iov_base = j->memory;
        options.loop = q->loop;
        r = block_queue_new(this.disk, &options, &q->block, &e);
        if (r < 0) {
                fprintf(stderr, "block-queue: %s: %s\n", c->path, e.message);
                return r;
        }
        for (unsigned int i = 0; i < c->depth; i++) {
                q->requests[i].job = j;
                q->requests[i].slot = i;
        }
        return 0;
}

static void queue_close(struct block_job *j) {
        struct queue *q = j->queue;

        if (q) {
                block_queue_free(q->block);
                loop_free(q->loop);
        }
        free(q);
}

static int disk_open(struct block_job_config *c, uint64_t *ret_size) {
        const struct chain_options options = { .n_writable = c->read_percent < 100,
                                               .direct = !this.cached,
                                               .repair = true };
        struct block_options block = { .borrowed = true, .engine = this.engine };
        struct error e = { 0 };
        int r = chain_open(c->path, this.format ?: "raw", &options, &this.chain, &e);

        if (r == 0) {
                block.top = chain_top(this.chain);
                r = block_open(&block, &this.disk, &e);
        }
        if (r < 0) {
                fprintf(stderr, "block-queue: %s: %s\n", c->path, e.message);
                return r;
        }
        c->engine = this.engine == BLOCK_ENGINE_THREADS ? "threads" : "io_uring";
        *ret_size = block_limits(this.disk)->size;
        return 0;
}

static void disk_close(void) {
        block_close(this.disk);
        chain_close(this.chain);
}

static int parse_option(int option, const char *value) {
        switch (option) {
        case 'F':
                this.format = value;
                return 0;
        case 'c':
                this.cached = true;
                return 0;
        case 'R':
                this.registered = true;
                log_set_level(LOG_LEVEL_INFO); /* refused: one line tells */
                return 0;
        case 'L':
                this.large_pages = true;
                return 0;
        case 'e':
                this.engine = strcmp(value, "threads") == 0 ? BLOCK_ENGINE_THREADS
                              : strcmp(value, "uring") == 0 ? BLOCK_ENGINE_URING
                                                            : BLOCK_ENGINE_AUTO;
                return 0;
        default:
                return -EINVAL;
        }
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "cached", no_argument, NULL, 'c' },       { "engine", required_argument, NULL, 'e' },
                { "format", required_argument, NULL, 'F' }, { "large-pages", no_argument, NULL, 'L' },
                { "registered", no_argument, NULL, 'R' },   { 0 },
        };
        static const struct block_job_driver driver = {
                .name = "block-queue",
                .file = "FILE",
                .usage = "  --cached        through the host's page cache (default: direct)\n"
                         "  --format F      raw, qcow2 (default raw)\n"
                         "  --engine E      auto, uring, threads (default auto)\n"
                         "  --registered    buffers are registered with io_uring\n"
                         "  --large-pages   buffers are in large pages, as a guest's memory is\n"
                         "FILE is written to by the kinds that write. One line of JSON comes out.\n",
                .depth_max = BLOCK_JOB_DEPTH_MAX,
                .jobs_max = BLOCK_QUEUES_MAX,
                .options = options,
                .option = parse_option,
                .open = disk_open,
                .close = disk_close,
                .open_queue = queue_open,
                .close_queue = queue_close,
                .submit = queue_submit,
                .kick = queue_kick,
                .wait = queue_wait,
        };

        return block_job_main(&driver, argc, argv);
}
