// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * driver: what an image format provides to block.c, and what it gets from it
 */
#pragma once

#include "vmm/block/block.h"

struct block_driver {
        const char *name;                                                  /* "raw" */
        void (*start)(struct block *block, struct block_request *request); /* checked already */
        void (*kick)(struct block *block);
        int (*drain)(struct block *block, bool cancel, uint64_t deadline_ms);
        const char *(*engine)(const struct block *block);
        void (*close)(struct block *block); /* drains without limit, releases @block */
};

/* A format's own structure begins with this. */
struct block {
        const struct block_driver *driver;
        struct block_limits limits;
        struct block_metrics metrics;
        void (*batch)(void *opaque);
        void *opaque;
};

/** block_finish() - give @request back with its result. */
void block_finish(struct block_request *request, int result);
