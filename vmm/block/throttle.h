// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * throttle: how many operations and bytes a disk, or a group of disks, may move in a second
 *
 * Theory of operation. Each limit is a leaky bucket, kept as one number: the time at which it will have run empty (the generic cell rate
 * algorithm, ITU-T I.371). A request fills it by its cost, (units / rate) seconds; it may start once what was in the bucket before is
 * no more than the bucket holds. So no timer ticks, an idle bucket costs nothing, and the average is exact however large a request is:
 * what was too much is paid back by whoever comes next.
 *
 *      rate only             the bucket holds a tenth of a second's worth
 *      rate and burst        it holds burst * seconds units, so a disk that was idle may go faster for a while; when @seconds is more
 *                            than 1, a second bucket that leaks at the burst rate keeps it from going faster than that
 *
 * These are the meanings (and, in QMP, the names) of QEMU's throttle groups.
 *
 * A request asks, by throttle_ask(). If it can't go, it is given a place in time then and there: the buckets are filled for it, and it
 * is told when to ask again. It is the asker who waits (a timer of its own loop): nobody depends on another thread's being awake.
 *
 * Fairness. A queue of a disk has one waiter for each direction, which asks for the request at its head only; and of all waiters of a
 * disk, one in each direction holds a place in time, the others stand in line. So a group that is at its limit serves its disks in
 * turn, request by request, however many queues and requests each of them has.
 *
 * Threads. All calls from any thread. A disk without limits pays for one atomic load. Else two locks, held for some arithmetic: the
 * disk's (which group is it in?), inside it the group's. A wake() is called with both held: it may only signal.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

#define THROTTLE_NAME_MAX  64                  /* bytes of a group's name, with its NUL */
#define THROTTLE_VALUE_MAX 1000000000000000ull /* units per second, and units in a burst */

enum throttle_bucket {
        THROTTLE_BYTES,
        THROTTLE_BYTES_READ,
        THROTTLE_BYTES_WRITE,
        THROTTLE_OPS,
        THROTTLE_OPS_READ,
        THROTTLE_OPS_WRITE,
        THROTTLE_BUCKET_COUNT,
};

struct throttle_limit {
        uint64_t rate;    /* bytes or operations per second; 0: no limit */
        uint64_t burst;   /* the rate of a burst, at least @rate; 0: none */
        uint64_t seconds; /* how long a burst may last; 0 means 1 */
};

struct throttle_limits {
        struct throttle_limit v[THROTTLE_BUCKET_COUNT];
        uint64_t op_size; /* bytes: a request counts as one operation for each so many; 0: as one, whatever its size */
};

struct throttle_group;
struct throttle_disk;

/* A queue's asker for one direction. Lies in the queue; private to throttle.c but for what throttle_waiter_init() takes. */
struct throttle_waiter {
        struct throttle_disk *disk;
        void (*wake)(
                struct throttle_waiter *waiter); /* the answer may have changed: ask again, soon; from any thread */
        bool write;

        struct throttle_waiter *next;      /* in line */
        struct throttle_waiter *next_disk; /* all of the disk's */
        enum { THROTTLE_IDLE, THROTTLE_IN_LINE, THROTTLE_PLACED } state;
        uint64_t at, bytes; /* PLACED: when it may start; what was charged for it */
};

/* A disk's place in its group. Lies in the disk; private to throttle.c. */
struct throttle_disk {
        pthread_mutex_t lock; /* guards @group */
        struct throttle_group *group;
        atomic_bool limited;
        /* guarded by the group's lock */
        struct throttle_disk *next;
        struct throttle_waiter *waiters;
        struct throttle_line {
                struct throttle_waiter *head, *tail;
                uint64_t taken; /* the last place given to a waiter of this disk */
        } lines[2];             /* read, write */
};

struct throttle_metrics {
        uint64_t waited;    /* requests that had to */
        uint64_t waited_ns; /* in all */
};

/**
 * throttle_check() - do the limits make sense together?
 *
 * Return: 0, or -EINVAL with "disk-throttle": a total together with a limit for one direction, a burst without a rate or below it, a
 * length without a burst, values beyond THROTTLE_VALUE_MAX.
 */
int throttle_check(const struct throttle_limits *limits, struct error *e);

/** throttle_any() - is there a limit at all? */
bool throttle_any(const struct throttle_limits *limits);

/** throttle_group_new() - no limits, one reference. @name is copied, and cut at THROTTLE_NAME_MAX. -ENOMEM. */
int throttle_group_new(const char *name, struct throttle_group **ret_group);
struct throttle_group *throttle_group_ref(struct throttle_group *group);
void throttle_group_unref(struct throttle_group *group); /* NULL is fine */
DEFINE_CLEANUP(throttle_group, throttle_group_unref);

const char *throttle_group_name(const struct throttle_group *group);

/** throttle_group_set() - new limits, checked ones, from now on; buckets start empty, and all who wait are woken to ask again. */
void throttle_group_set(struct throttle_group *group, const struct throttle_limits *limits);
void throttle_group_get(struct throttle_group *group, struct throttle_limits *ret_limits);
void throttle_group_metrics(struct throttle_group *group, struct throttle_metrics *ret_metrics);

/** throttle_disk_init(), throttle_disk_destroy() - takes a reference to @group. At the end no waiter may be left. */
void throttle_disk_init(struct throttle_disk *disk, struct throttle_group *group);
void throttle_disk_destroy(struct throttle_disk *disk);

/** throttle_disk_limited() - is there any limit at this moment? Without one, throttle_ask() would say yes. */
static inline bool throttle_disk_limited(const struct throttle_disk *disk) {
        return atomic_load_explicit(&disk->limited, memory_order_acquire);
}

/** throttle_disk_move() - into another group, while it runs; who waits is woken. */
void throttle_disk_move(struct throttle_disk *disk, struct throttle_group *group);

/** throttle_disk_group() - a new reference. */
struct throttle_group *throttle_disk_group(struct throttle_disk *disk);

/** throttle_waiter_init(), throttle_waiter_destroy() - for each queue, and each direction. */
void throttle_waiter_init(struct throttle_waiter *waiter, struct throttle_disk *disk, bool write,
                          void (*wake)(struct throttle_waiter *waiter));
void throttle_waiter_destroy(struct throttle_waiter *waiter);

/**
 * throttle_ask() - may the request at the head start now?
 * @bytes:  of the request; the same request until the answer is yes, or throttle_forget()
 * @now_ns: on any clock that doesn't go back; the same one for all of the group
 *
 * Return: 0: yes, and it is paid for; else the time on that clock, behind @now_ns, at which to ask again (a wake() comes before it
 * if that changes).
 */
uint64_t throttle_ask(struct throttle_waiter *waiter, uint64_t bytes, uint64_t now_ns);

/** throttle_forget() - the request that asked last goes away unserved: what it paid is given back. */
void throttle_forget(struct throttle_waiter *waiter);
