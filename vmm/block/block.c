// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block: see block.h. Here: the disk, its limits and its workers; queue.c has the rest.
 *
 * Opening happens before the sandbox closes, on the caller's thread; closing writes metadata back, and so is a worker's last job.
 */
#include "vmm/block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/block/disk.h"

#define WORKERS       4
#define WORKERS_PLAIN 2

const struct block_limits *block_limits(const struct block *block) {
        return &block->limits;
}

static int describe(struct block *b, const struct block_options *options, struct error *e) {
        const struct layer *top = b->top;
        uint64_t size = atomic_load(&top->size);
        uint32_t logical = options->logical_block ?: top->logical_block;
        uint32_t physical = options->physical_block, unit = MIN(top->cluster, 4096u);
        uint64_t granularity = options->discard_granularity;

        if (logical < top->logical_block)
                return error_set(e, -EINVAL, "disk-block-size", "name that, or leave it out",
                                 "the storage's own blocks are larger than %u bytes: %u", logical, top->logical_block);
        if (size % logical != 0)
                return error_set(e, -EINVAL, "disk-block-size", "give it another size, or name 512",
                                 "the disk's %llu bytes are no multiple of logical blocks of %u",
                                 (unsigned long long)size, logical);
        if (physical == 0)
                physical = MAX(file_physical_block(top->file), unit);
        if (granularity == 0)
                granularity = physical;
        b->limits = (struct block_limits){
                .size = size,
                .logical_block = logical,
                .physical_block = MAX(physical, logical),
                .discard_granularity = MAX(granularity, logical),
                .readonly = top->readonly,
                .discard = !top->readonly && !options->no_discard,
                .write_zeroes = !top->readonly,
        };
        atomic_init(&b->size, size);
        return 0;
}

static int add_users(struct block *b) {
        for (; b->n_users < pool_n_threads(b->pool); b->n_users++) {
                int r = layer_user_add(b->top, &b->users[b->n_users]);

                if (r < 0)
                        return r;
        }
        return 0;
}

static void remove_users(struct block *b) {
        while (b->n_users > 0)
                layer_user_remove(b->top, &b->users[--b->n_users]);
}

/* Without the layers. */
static void release(struct block *b) {
        pool_free(b->pool);
        throttle_disk_destroy(&b->throttle);
        free(b);
}

static int join_group(struct block *b, struct throttle_group *group) {
        _cleanup_(throttle_group_freep) struct throttle_group *own = NULL;
        int r = group ? 0 : throttle_group_new("", &own);

        if (r == 0)
                throttle_disk_init(&b->throttle, group ?: own);
        return r;
}

struct throttle_disk *block_throttle(struct block *b) {
        return &b->throttle;
}

bool block_uses(const struct block *b, int fd) {
        for (const struct layer *l = b->top; l; l = l->backing)
                if (file_is_same(fd, file_fd(l->file)))
                        return true;
        return false;
}

uint64_t block_size(const struct block *b) {
        return atomic_load_explicit(&b->size, memory_order_acquire);
}

/* On the loop of whoever asked. */
static void resize_done(void *opaque) {
        struct block *b = opaque;

        b->resize.busy = false;
        if (b->resize.result == 0)
                atomic_store_explicit(&b->size, b->resize.size, memory_order_release);
        b->resize.done(b->resize.opaque, b->resize.result, &b->resize.error);
        error_clear(&b->resize.error);
}

static int grow(struct block *b, uint64_t size, struct error *e) {
        uint64_t before = block_size(b), image = atomic_load(&b->top->size);
        int r = layer_zero(b->top, before, MIN(image, size) - before, true);

        if (r < 0)
                return error_set(e, r, "disk-size", NULL, "cannot clear the new part of the disk");
        return size > image ? b->top->ops->resize(b->top, size, e) : 0;
}

static void run_resize(struct pool_job *job, unsigned int worker) {
        struct block *b = CONTAINER_OF(job, struct block, resize.job);

        b->resize.result = grow(b, b->resize.size, &b->resize.error);
        while (loop_post(b->resize.loop, resize_done, b) < 0)
                ; /* its queue is full for an instant; the sandbox knows no way to sleep */
}

int block_resize(struct block *b, uint64_t size, struct loop *loop, block_resized_fn done, void *opaque,
                 struct error *e) {
        if (b->limits.readonly)
                return error_set(e, -EROFS, "disk-readonly", NULL, "the disk is read-only");
        if (size % b->limits.logical_block != 0 || size < block_size(b))
                return error_set(e, -EINVAL, "disk-size", "to make it smaller, power off: lodge image resize --shrink",
                                 "a disk in use can only grow, by whole sectors of %u bytes", b->limits.logical_block);
        if (b->resize.busy)
                return error_set(e, -EBUSY, "disk-busy", "wait for its end", "the disk is being resized already");
        if (b->mirrored)
                return error_set(e, -EBUSY, "disk-busy", "wait for its end, or cancel it",
                                 "the disk is being mirrored");
        b->resize.busy = true;
        b->resize.job = (struct pool_job){ .run = run_resize };
        b->resize.size = size;
        b->resize.loop = loop;
        b->resize.done = done;
        b->resize.opaque = opaque;
        pool_submit(b->pool, &b->resize.job);
        return 0;
}

static bool is_plain(const struct layer *top) {
        return !top->backing && !top->ops->read_compressed;
}

struct layer *block_replace(struct block *b, struct layer *top) {
        struct layer *old = b->top;

        remove_users(b);
        b->top = top;
        b->borrowed = false;
        b->plain = is_plain(top);
        (void)add_users(b); /* where the old images had room, the new one has */
        return old;
}

int block_open(const struct block_options *options, struct block **ret_block, struct error *e) {
        struct block *b = calloc(1, sizeof(*b));
        int r;

        if (!b)
                return error_set(e, -ENOMEM, "disk-engine", NULL, "no memory for a disk");
        b->top = options->top;
        b->borrowed = options->borrowed;
        b->engine = options->engine;
        b->plain = is_plain(b->top);
        r = describe(b, options, e);
        if (r < 0) {
                free(b);
                return r;
        }
        r = pool_new(b->plain ? WORKERS_PLAIN : WORKERS, options->thread_start, options->thread_opaque, &b->pool);
        if (r == 0)
                r = add_users(b);
        if (r == 0)
                r = join_group(b, options->throttle);
        if (r < 0) {
                remove_users(b);
                release(b);
                return error_set(e, r, "disk-engine", "allow more threads",
                                 "cannot start the worker threads of a disk");
        }
        *ret_block = b;
        return 0;
}

static void run_close(struct pool_job *job, unsigned int worker) {
        layer_close(CONTAINER_OF(job, struct block, closing)->top);
}

void block_close(struct block *b) {
        if (!b)
                return;
        remove_users(b);
        b->closing = (struct pool_job){ .run = run_close };
        if (!b->borrowed)
                pool_submit(b->pool, &b->closing);
        release(b);
}
