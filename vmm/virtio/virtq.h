// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtq: one split virtqueue, seen from the device (virtio 1.2 §2.7)
 *
 * The driver (in the guest) and the device (here) share three areas of guest memory:
 *
 *      descriptor table          available ring              used ring
 *      addr len flags next       driver -> device            device -> driver
 *
 * Theory of operation. The guest can rewrite all three while we read them, so nothing is read twice: virtq_pop() copies
 * each descriptor once, checks it, and returns a chain whose buffers are host pointers inside one memory slot, whose total is
 * bounded, and which can no longer change under us. A chain that breaks a rule is not an error of ours: the queue is
 * marked broken, the device sets DEVICE_NEEDS_RESET, and the machine goes on.
 *
 * Used buffers are written by virtq_push() and shown to the driver by virtq_flush(), which publishes the index and says
 * whether the driver wants an interrupt (flags, or the event index of §2.7.10).
 *
 * Doorbells. A queue starts with doorbells on, and a virtq_pop() that finds the ring empty asks for the next one by itself (event
 * index), looking once more at the ring afterwards: a device that pops until 0 at each doorbell never loses one and
 * needs neither call below. virtq_disable_notify() is for devices that poll; virtq_enable_notify() asks for doorbells again and must be followed by
 * one more look at the ring: its return value says whether something came in between.
 *
 * Threads. A queue belongs to exactly one thread between enable and reset. Nothing here locks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQ_SIZE_MAX 1024 /* entries; what we offer, a driver may take less */
#define VIRTQ_CHAIN_MAX                                                                                                \
        1024 /* buffers in one chain, indirect ones included; one longer than the queue is refused anyway (§2.7.5.3.1) */

struct memory;

struct virtq_chain {
        uint16_t head;                       /* descriptor index, names the chain in the used ring */
        unsigned int n_readable, n_writable; /* buffers: readable ones first */
        uint64_t readable, writable;         /* bytes in them */
        struct iovec iov[VIRTQ_CHAIN_MAX];   /* [0, n_readable) are the driver's data; the rest is ours to fill */
};

struct virtq {
        /* set by the transport before enable */
        const struct memory *memory;
        unsigned int index; /* which queue of the device */
        uint16_t size_max;  /* the queue size that we offered, or 0; bounds a chain with an indirect table */
        uint16_t size;      /* entries, a power of two up to VIRTQ_SIZE_MAX and @size_max */
        uint64_t desc_gpa, avail_gpa, used_gpa;
        bool indirect, event_idx; /* negotiated features */

        /* owned by virtq.c */
        bool enabled;
        bool broken;        /* atomic */
        bool doorbells_off; /* virtq_disable_notify() */
        uint16_t next_avail, next_used, signalled_used;
        bool signalled_used_valid; /* false: signal at the next flush whatever the event index says */
        void *desc, *avail, *used; /* host addresses, checked once at enable */
        uint64_t n_bad;            /* rules that the driver broke */
};

/** virtq_enable() - check the three areas (size, alignment §2.7, inside RAM) and start; -EINVAL else. */
int virtq_enable(struct virtq *q);

/** virtq_reset() - forget everything but @memory, @index, @size_max (the size is that one again) and the count of broken rules. */
void virtq_reset(struct virtq *q);

/** virtq_break() - stop the queue until virtq_reset(): pop says -EPROTO, push and flush do nothing. */
void virtq_break(struct virtq *q);

/**
 * virtq_pop() - take the next available chain
 * @q:         an enabled queue, owned by the calling thread
 * @ret_chain: filled on success: at most VIRTQ_CHAIN_MAX buffers, readable ones first, 2^32-1 bytes in all. Buffers of length 0
 *             are checked and left out. Otherwise only its iov may have changed (16 KiB: not worth a copy).
 *
 * Return: 1 with a chain, 0 when the ring is empty (or the queue is not enabled), -EPROTO when the guest broke a rule (the
 * queue is broken until reset: virtio 1.2 §2.1.2; later calls say -EPROTO again without counting).
 */
int virtq_pop(struct virtq *q, struct virtq_chain *ret_chain);

/**
 * virtq_unpop() - give the chain that was popped last back, as if it had never been taken
 *
 * The next virtq_pop() reads the ring anew, so the guest may have changed it: nothing of the old chain may be kept.
 */
void virtq_unpop(struct virtq *q);

/** virtq_push() - hand chain @head back with @written bytes filled in its writable part; not visible before virtq_flush(). */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);

/** virtq_flush() - publish what was pushed; true when the driver wants an interrupt for it. */
bool virtq_flush(struct virtq *q);

/** virtq_disable_notify() - doorbells are not needed for now (a hint). */
void virtq_disable_notify(struct virtq *q);

/** virtq_enable_notify() - ask for doorbells; true when chains are available already: look again. */
bool virtq_enable_notify(struct virtq *q);

/** virtq_chain_read() - copy @len bytes out of the readable part from @offset; returns how many there were. */
size_t virtq_chain_read(const struct virtq_chain *chain, size_t offset, void *buf, size_t len);

/** virtq_chain_write() - copy into the writable part at @offset; returns how many fit. */
size_t virtq_chain_write(struct virtq_chain *chain, size_t offset, const void *buf, size_t len);
