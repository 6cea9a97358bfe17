// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * gate: where the requests of a queue wait while their disk is at its limits (throttle.h)
 *
 * One line for each direction, first come first served, so that a limit on writes holds up no reads. What gives space back or writes
 * zeroes is a write: by its bytes where bytes move, else as an operation only. Flushes never wait: what they are about has started.
 *
 * Threads. As the queue's (block.h); only the wake-up of throttle.h comes from elsewhere, and it does no more than set the timer.
 */
#pragma once

#include <stdatomic.h>

#include "vmm/block/block.h"
#include "vmm/block/throttle.h"

struct gate;

struct gate_line {
        struct throttle_waiter waiter;
        struct gate *gate;
        struct block_request *head, *tail;
};

struct gate {
        struct gate_line lines[2]; /* read, write */
        struct loop_source *timer;
        atomic_bool woken; /* since the limits were asked last */
        void (*go)(struct block_request *request);
        void (*round)(void *opaque);
        void *opaque;
};

/**
 * gate_init() - for one queue of @disk
 * @go:    a request that waited may start
 * @round: after a run of go()
 *
 * Return: 0 or -errno. gate_destroy(): nothing waits any more; a gate of zeroes is fine.
 */
int gate_init(struct gate *gate, struct throttle_disk *disk, struct loop *loop,
              void (*go)(struct block_request *request), void (*round)(void *opaque), void *opaque);
void gate_destroy(struct gate *gate);

/** gate_enter() - true: @request may start now. False: it waits, and go() comes for it. */
bool gate_enter(struct gate *gate, struct block_request *request);

/** gate_take() - a request that waits, which now waits no longer, whatever the limits say; NULL: none is left. */
struct block_request *gate_take(struct gate *gate);
