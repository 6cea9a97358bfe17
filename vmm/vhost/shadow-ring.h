// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shadow-ring: a split virtqueue seen from the driver, in memory shared with a vhost-user back end (virtio 1.2 §2.7)
 *
 * Theory of operation. The guest's virtqueue is not handed to the back end: the device takes chains from it and puts them on a
 * ring of its own, whose buffers are the guest's. So it knows at any time which requests are in flight, whatever the back end
 * offers (INFLIGHT_SHMFD is rarely offered; the rings alone don't tell once requests end out of order): when the back end dies,
 * the ring is begun anew with exactly those; a reset and a pause know when nothing is in flight; and neither side can spoil
 * the other's ring. doc/adr/0009 has the reasons.
 *
 *      descriptor i  ->  table i (indirect)  ->  the chain's buffers
 *
 * Slot i is one chain, from shadow_ring_add() to shadow_ring_take(). The first buffer is a copy of the chain's first bytes, so
 * that what was checked is what the back end sees.
 *
 * The back end can write all of the shared memory. Nothing that matters is read from there but the used ring, and each entry of that is
 * checked against what is in flight.
 *
 * Threads: one at a time; the caller sees to it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/vhost/vhost-user.h"

#define SHADOW_SIZE       128u /* entries, and so chains in flight */
#define SHADOW_TABLE_SIZE 130u /* buffers of one chain */
#define SHADOW_COPY_MAX   16u  /* bytes */

struct shadow_ring;

/** shadow_ring_new() - make one, with its eventfds; -errno. */
int shadow_ring_new(struct shadow_ring **ret_ring);
void shadow_ring_free(struct shadow_ring *r);
DEFINE_CLEANUP(shadow_ring, shadow_ring_free);

/** shadow_ring_region() - its memory, and shadow_ring_describe() the rest: what a back end must be told. */
struct vhost_user_region shadow_ring_region(const struct shadow_ring *r);
struct vhost_user_ring shadow_ring_describe(const struct shadow_ring *r);

/** shadow_ring_call_fd() - an edge each time that the back end has used something (EPOLLET). Not to be read: the back end can make that wait. */
int shadow_ring_call_fd(const struct shadow_ring *r);

/**
 * shadow_ring_add() - put a chain on the ring; shadow_ring_kick() tells the back end of it
 * @copy:       a first readable buffer, copied: at most SHADOW_COPY_MAX bytes
 * @iov:        in memory that the back end has, @n_readable buffers and then @n_writable; SHADOW_TABLE_SIZE - 1 in all
 * @tag:        comes back from shadow_ring_take()
 * @writable:   bytes in the writable buffers
 *
 * Return: 0; -ENOSPC when SHADOW_SIZE chains are in flight (ask shadow_ring_full() before), -E2BIG.
 */
int shadow_ring_add(struct shadow_ring *r, const void *copy, uint32_t copy_size, const struct iovec *iov,
                    unsigned int n_readable, unsigned int n_writable, uint16_t tag, uint32_t writable);
void shadow_ring_kick(const struct shadow_ring *r);

/**
 * shadow_ring_take() - the next chain that the back end is done with
 * @ret_written: bytes that it says it wrote, at most what was writable
 *
 * Return: 1; 0: none; -EPROTO: it used what is not in flight.
 */
int shadow_ring_take(struct shadow_ring *r, uint16_t *ret_tag, uint32_t *ret_written);

bool shadow_ring_full(const struct shadow_ring *r);
/** shadow_ring_in_flight() - chains between shadow_ring_add() and shadow_ring_take(). */
unsigned int shadow_ring_in_flight(const struct shadow_ring *r);

/** shadow_ring_restart() - begin at the first entry, for a back end that knows nothing: what is in flight is available again. */
void shadow_ring_restart(struct shadow_ring *r);

/** shadow_ring_forget() - nothing is in flight any more. */
void shadow_ring_forget(struct shadow_ring *r);
