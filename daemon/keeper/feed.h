// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * feed: a machine's console, kept and shown to any number of viewers
 *
 *      guest --> ring (the last 256 KiB) --> viewer, viewer, ...
 *      guest <-- one small buffer <-- whoever types
 *
 * Theory of operation. The guest's output is always read, so that a guest never waits for a reader. It lies in one ring, and each viewer is a
 * place in it: what lies between that place and the end is still to be sent. A viewer that does not read falls behind, and when the
 * ring overtakes it, it is dropped, which it sees as the end of its stream: nothing is copied or queued for it, and nobody
 * waits for it.
 *
 * What viewers type goes through one buffer. While the guest does not take it, nobody's typing is read: it waits in the viewers' sockets.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/loop.h"

#define FEED_RING_SIZE   262144u
#define FEED_VIEWERS_MAX 32

struct feed;

/**
 * feed_new() - begin to read
 * @fd: the console, a connected stream socket; borrowed
 */
int feed_new(struct loop *loop, int fd, struct feed **ret_feed);

/**
 * feed_view() - one more viewer
 * @history: it first gets up to this many bytes of what was shown before
 * @ret_fd:  its end, a stream socket: reading gives the output, writing types
 * Return: 0, -EUSERS when there are FEED_VIEWERS_MAX, or -errno.
 */
int feed_view(struct feed *feed, size_t history, int *ret_fd);

/** feed_total() - bytes that the console has shown. */
uint64_t feed_total(const struct feed *feed);

/** feed_end() - the machine has ended: take what is left, give the viewers what they take at once, and close them. */
void feed_end(struct feed *feed);

/** feed_dump() - write what is in the ring; 0 or -errno. */
int feed_dump(const struct feed *feed, int fd);

/** feed_free() - NULL is fine. */
void feed_free(struct feed *feed);
DEFINE_CLEANUP(feed, feed_free);
