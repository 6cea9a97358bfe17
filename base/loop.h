// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * loop: one thread's event loop over epoll: descriptors, timers, signals, and work posted by other threads
 *
 * A loop belongs to the thread that runs it. Everything here may be called only from that thread, but for loop_post(),
 * which any thread may call, and loop_timer_set() and loop_source_set_events(), which are one system call each and may be
 * called by any thread that holds the guard (see loop_set_guard()). A source may be freed from any callback, its own included: its memory goes when the
 * dispatch round ends, and its callback is not called again.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct loop;
struct loop_source;

typedef void (*loop_fd_fn)(void *opaque, int fd, uint32_t events);
typedef void (*loop_timer_fn)(void *opaque);
typedef void (*loop_signal_fn)(void *opaque, int signo);
typedef void (*loop_post_fn)(void *opaque);

/** loop_new() - make a loop; -errno. */
int loop_new(struct loop **ret_loop);

/** loop_free() - release the loop and every source left on it. NULL is fine. */
void loop_free(struct loop *loop);
DEFINE_CLEANUP(loop, loop_free);

/**
 * loop_add_fd() - call @fn whenever @fd is ready
 * @events:     EPOLLIN, EPOLLOUT ..., level-triggered; EPOLLERR and EPOLLHUP always come
 * @ret_source: may be NULL: then the source lives as long as the loop
 *
 * The loop does not own @fd. Free the source before closing it. Return: 0 or -errno (-EPERM: a regular file).
 */
int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *opaque,
                struct loop_source **ret_source);

/** loop_source_set_events() - change what an fd source waits for; 0 waits for errors only; -errno. */
int loop_source_set_events(struct loop_source *source, uint32_t events);

/** loop_add_timer() - make a timer, not armed; -errno. */
int loop_add_timer(struct loop *loop, loop_timer_fn fn, void *opaque, struct loop_source **ret_source);

/** loop_timer_set() - fire once, @usec from now (monotonic); 0 fires at the next round; UINT64_MAX disarms. */
int loop_timer_set(struct loop_source *source, uint64_t usec);

/** loop_add_signal() - block @signo in this thread and call @fn when it comes; add signals before starting threads. */
int loop_add_signal(struct loop *loop, int signo, loop_signal_fn fn, void *opaque);

/**
 * loop_post() - run @fn(@opaque) on the loop's thread, in order of posting; from any thread
 * Return: 0, or -EAGAIN when the queue (1024 entries) is full.
 */
int loop_post(struct loop *loop, loop_post_fn fn, void *opaque);

/** loop_source_free() - stop watching. NULL is fine. */
void loop_source_free(struct loop_source *source);
DEFINE_CLEANUP(loop_source, loop_source_free);

/** loop_set_guard() - hold @mutex while callbacks run (not while waiting); NULL: none. */
void loop_set_guard(struct loop *loop, pthread_mutex_t *mutex);

/* What a loop may do in place of sleeping, for as long as that pays. All under the guard. */
struct loop_idle_ops {
        void (*begin)(void *opaque); /* looking begins: whoever makes work need not ring from now on */
        bool (*look)(void *opaque);  /* do what work there is; false when there was none. Called over and over */
        bool (*end)(void *opaque);   /* looking ends, whoever makes work rings again; true when there is work by now */
};

/**
 * loop_set_idle() - look for work for a moment before sleeping, so that neither side pays for a wake-up
 * @ops: how; NULL: sleep at once
 * @max_ns: never look for longer than that without finding anything. How long is learned: longer while sleeps turn out to be short, not at
 *          all while they are long
 *
 * Descriptors are still watched between looks, at the latest after LOOP_LOOKS of them. For loop_run() only.
 */
void loop_set_idle(struct loop *loop, const struct loop_idle_ops *ops, void *opaque, uint64_t max_ns);

/**
 * loop_set_pace() - let the thread of loop_run() be patient while that gets more done (base/pace.h)
 *
 * For a thread whose scheduling policy is SCHED_OTHER; one that somebody gave another keeps that.
 */
void loop_set_pace(struct loop *loop);

/** loop_did() - @n pieces of work were done in this round, such as requests taken from a queue: what loop_set_pace() counts. */
void loop_did(struct loop *loop, unsigned int n);

/** loop_run() - dispatch until loop_quit(); returns the status given to it, or -errno. */
int loop_run(struct loop *loop);

/** loop_run_once() - wait at most @timeout_ms (-1: for ever) and dispatch one round; 1 if something ran, 0 if not, -errno. */
int loop_run_once(struct loop *loop, int timeout_ms);

/** loop_fd() - readable when loop_run_once() has something to do: for a loop that hangs in another one. */
int loop_fd(const struct loop *loop);

/** loop_quit() - make loop_run() return @status once the current round is over. */
void loop_quit(struct loop *loop, int status);
