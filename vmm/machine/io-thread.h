// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * io-thread: a thread with an event loop, on which a device serves a queue
 *
 * The loop's guard is the thread's own lock: whoever else wants at what the loop's callbacks use takes it, for a moment, and may hold the
 * machine lock; the thread itself never takes the machine lock. What needs that, it posts to the machine's loop.
 *
 * Life. io_thread_new(), then sources are added to its loop; io_thread_start() and perhaps io_thread_place(); io_thread_stop(), then the
 * sources are freed, then io_thread_free(). All of these on the main thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/loop.h"

#define IO_THREAD_CPUS_MAX 8192u /* as many as Linux on x86 can be built for: the schema's limit */

struct machine;
struct io_thread;

int io_thread_new(struct machine *machine, struct io_thread **ret_thread);

/** io_thread_start() - the thread runs, and is confined (machine_hooks.io_thread_start), when this returns; -errno. */
int io_thread_start(struct io_thread *thread);

/**
 * io_thread_place() - which of the host's CPUs the running thread may use; those that the host lacks are passed over
 * @cpus: @n_cpus numbers below IO_THREAD_CPUS_MAX, at least one
 *
 * For a caller that is not confined itself: no role's filter lets a thread be moved.
 *
 * Return: 0, -EINVAL when none of them is online and allowed for this process, or another -errno.
 */
int io_thread_place(struct io_thread *thread, const uint32_t *cpus, size_t n_cpus);

/** io_thread_stop() - returns when the thread has ended. NULL, and one that never started, are fine. */
void io_thread_stop(struct io_thread *thread);

/** io_thread_free() - stops first. NULL is fine. */
void io_thread_free(struct io_thread *thread);
DEFINE_CLEANUP(io_thread, io_thread_free);

struct loop *io_thread_loop(struct io_thread *thread);
void io_thread_lock(struct io_thread *thread);
void io_thread_unlock(struct io_thread *thread);
