// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * io-thread: a thread with an event loop, on which a device serves a queue
 *
 * The loop's guard is the thread's own lock: whoever else wants at what the loop's callbacks use takes it, for a moment, and may hold the
 * machine lock; the thread itself never takes the machine lock. What needs that, it posts to the machine's loop.
 *
 * Life. io_thread_new(), then sources are added to its loop; io_thread_start(); io_thread_stop(), then the sources are freed, then
 * io_thread_free(). All of these on the main thread.
 */
#pragma once

#include "base/cleanup.h"
#include "base/loop.h"

struct machine;
struct io_thread;

int io_thread_new(struct machine *machine, struct io_thread **ret_thread);

/** io_thread_start() - the thread runs, and is confined (machine_hooks.io_thread_start), when this returns; -errno. */
int io_thread_start(struct io_thread *thread);

/** io_thread_stop() - returns when the thread has ended. NULL, and one that never started, are fine. */
void io_thread_stop(struct io_thread *thread);

/** io_thread_free() - stops first. NULL is fine. */
void io_thread_free(struct io_thread *thread);
DEFINE_CLEANUP(io_thread, io_thread_free);

struct loop *io_thread_loop(struct io_thread *thread);
void io_thread_lock(struct io_thread *thread);
void io_thread_unlock(struct io_thread *thread);
