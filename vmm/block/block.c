// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block: see block.h. Here: the checks that hold for every format, and the counting.
 */
#include "vmm/block/block.h"

#include <errno.h>
#include <limits.h>

#include "vmm/block/driver.h"
#include "vmm/block/engine.h"

const struct block_limits *block_limits(const struct block *block) {
        return &block->limits;
}

const struct block_metrics *block_metrics(const struct block *block) {
        return &block->metrics;
}

const char *block_engine_name(const struct block *block) {
        return block->driver->engine(block);
}

static int block_check_iov(const struct block_request *request) {
        uint64_t sum = 0;

        if (request->n_iov > IOV_MAX)
                return -EINVAL;
        for (unsigned int i = 0; i < request->n_iov; i++)
                if (__builtin_add_overflow(sum, (uint64_t)request->iov[i].iov_len, &sum))
                        return -EINVAL;
        return sum == request->length ? 0 : -EINVAL;
}

static int block_check(const struct block *block, const struct block_request *request) {
        const struct block_limits *l = &block->limits;

        if (request->op >= BLOCK_OP_COUNT)
                return -EINVAL;
        if (request->op == BLOCK_FLUSH)
                return 0;
        if (request->op != BLOCK_READ && l->readonly)
                return -EROFS;
        if (request->length > l->size || request->offset > l->size - request->length)
                return -ERANGE;
        if ((request->offset | request->length) % l->logical_block != 0)
                return -EINVAL;
        if (request->op == BLOCK_READ || request->op == BLOCK_WRITE)
                return block_check_iov(request);
        return 0;
}

void block_submit(struct block *block, struct block_request *request) {
        int r = block_check(block, request);

        request->block = block;
        request->next = NULL;
        request->progress = 0;
        request->phase = request->retries = 0;
        if (r < 0 || (request->op != BLOCK_FLUSH && request->length == 0)) {
                block_finish(request, r);
                return;
        }
        block->driver->start(block, request);
}

void block_finish(struct block_request *request, int result) {
        struct block_metrics *m = &request->block->metrics;

        if (request->op < BLOCK_OP_COUNT && result == 0) {
                m->requests[request->op]++;
                if (request->op != BLOCK_FLUSH)
                        m->bytes[request->op] += request->length;
        }
        if (result < 0 && result != -ECANCELED)
                m->errors++;
        request->done(request, result);
}

void block_kick(struct block *block) {
        block->driver->kick(block);
}

int block_drain(struct block *block, bool cancel, unsigned int timeout_ms) {
        return block->driver->drain(block, cancel, engine_now_ms() + timeout_ms);
}

void block_close(struct block *block) {
        if (block)
                block->driver->close(block);
}
