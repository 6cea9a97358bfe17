// SPDX-License-Identifier: GPL-2.0-or-later
/* throttle: see throttle.h */
#include "vmm/block/throttle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define NS_PER_SECOND 1000000000ull
#define SLACK_NS      (NS_PER_SECOND / 10) /* what a bucket without a burst holds */
#define TIME_MAX      (UINT64_MAX / 4)     /* as good as never */

__extension__ typedef unsigned __int128 wide;

/* One leak: when it will have run empty, and the part of a nanosecond that is still owed (in 1/rate). */
struct leak {
        uint64_t empty_at, owed;
};

struct bucket {
        struct leak average, burst;
        uint64_t holds_ns; /* of @average */
};

struct throttle_group {
        atomic_uint refs;
        char name[THROTTLE_NAME_MAX];
        pthread_mutex_t lock;
        struct throttle_limits limits;
        struct bucket buckets[THROTTLE_BUCKET_COUNT];
        struct throttle_disk *disks;
        struct throttle_metrics metrics;
};

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static const char *const bucket_names[] = {
        [THROTTLE_BYTES] = "bps", [THROTTLE_BYTES_READ] = "bps_rd", [THROTTLE_BYTES_WRITE] = "bps_wr",
        [THROTTLE_OPS] = "iops",  [THROTTLE_OPS_READ] = "iops_rd",  [THROTTLE_OPS_WRITE] = "iops_wr",
};
_Static_assert(ELEMENTSOF(bucket_names) == THROTTLE_BUCKET_COUNT, "each limit has a name");

bool throttle_any(const struct throttle_limits *limits) {
        for (unsigned int i = 0; i < THROTTLE_BUCKET_COUNT; i++)
                if (limits->v[i].rate > 0)
                        return true;
        return false;
}

static int check_one(const struct throttle_limit *l, const char *name, struct error *e) {
        uint64_t seconds = l->seconds ?: 1;

        if (l->rate > THROTTLE_VALUE_MAX || l->burst > THROTTLE_VALUE_MAX || seconds > THROTTLE_VALUE_MAX ||
            (l->burst > 0 && seconds > THROTTLE_VALUE_MAX / l->burst))
                return error_set(e, -EINVAL, "disk-throttle", "ask for less", "the limit %s is too large", name);
        if (l->burst > 0 && l->rate == 0)
                return error_set(e, -EINVAL, "disk-throttle", "set the limit too, which the burst may exceed",
                                 "a burst of %s needs the limit itself", name);
        if (l->burst > 0 && l->burst < l->rate)
                return error_set(e, -EINVAL, "disk-throttle", "make the burst at least the limit",
                                 "the burst of %s is below the limit", name);
        if (seconds > 1 && l->burst == 0)
                return error_set(e, -EINVAL, "disk-throttle", "set the burst's rate too",
                                 "the burst of %s has a length but no rate", name);
        return 0;
}

int throttle_check(const struct throttle_limits *limits, struct error *e) {
        static const enum throttle_bucket totals[] = { THROTTLE_BYTES, THROTTLE_OPS };

        for (unsigned int i = 0; i < ELEMENTSOF(totals); i++) {
                const struct throttle_limit *total = &limits->v[totals[i]];

                for (unsigned int k = 1; k <= 2; k++) /* reads and writes come behind their total */
                        if ((total->rate > 0 && total[k].rate > 0) || (total->burst > 0 && total[k].burst > 0))
                                return error_set(e, -EINVAL, "disk-throttle",
                                                 "give either the total or the two directions",
                                                 "the limits %s and %s exclude each other", bucket_names[totals[i]],
                                                 bucket_names[totals[i] + k]);
        }
        for (unsigned int i = 0; i < THROTTLE_BUCKET_COUNT; i++) {
                int r = check_one(&limits->v[i], bucket_names[i], e);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* ---- buckets ----------------------------------------------------------------------------------------------------- */

static uint64_t scale(uint64_t units, uint64_t by, uint64_t rate) {
        wide ns = (wide)units * by / rate;

        return ns > TIME_MAX ? TIME_MAX : (uint64_t)ns;
}

static void bucket_reset(struct bucket *b, const struct throttle_limit *l) {
        *b = (struct bucket){ .holds_ns = SLACK_NS };
        if (l->burst > 0)
                b->holds_ns = scale(l->burst * (l->seconds ?: 1), NS_PER_SECOND, l->rate);
}

static bool limits_bursts(const struct throttle_limit *l) {
        return l->burst > 0 && l->seconds > 1;
}

/* When may the next request start, as far as this bucket is concerned? */
static uint64_t bucket_ready(const struct bucket *b, const struct throttle_limit *l) {
        uint64_t at = b->average.empty_at > b->holds_ns ? b->average.empty_at - b->holds_ns : 0;

        if (limits_bursts(l) && b->burst.empty_at > SLACK_NS)
                at = MAX(at, b->burst.empty_at - SLACK_NS);
        return at;
}

static void leak_fill(struct leak *l, uint64_t units, uint64_t rate, uint64_t now) {
        wide cost;

        if (l->empty_at <= now)
                *l = (struct leak){ .empty_at = now };
        cost = (wide)units * NS_PER_SECOND + l->owed;
        l->owed = (uint64_t)(cost % rate);
        cost = cost / rate + l->empty_at;
        l->empty_at = cost > TIME_MAX ? TIME_MAX : (uint64_t)cost;
}

static void leak_drain(struct leak *l, uint64_t units, uint64_t rate) {
        uint64_t ns = scale(units, NS_PER_SECOND, rate);

        l->empty_at = l->empty_at > ns ? l->empty_at - ns : 0;
}

/* The buckets that a request in this direction goes through, one after the other: -1 at the end. */
static int next_bucket(bool write, int after) {
        static const int8_t walk[2][5] = {
                { THROTTLE_BYTES, THROTTLE_BYTES_READ, THROTTLE_OPS, THROTTLE_OPS_READ, -1 },
                { THROTTLE_BYTES, THROTTLE_BYTES_WRITE, THROTTLE_OPS, THROTTLE_OPS_WRITE, -1 },
        };
        const int8_t *w = walk[write];

        if (after < 0)
                return w[0];
        while (*w != after)
                w++;
        return w[1];
}

/* What a request costs in bucket @i: so many units, of which @ret_factor make one of the limit's. */
static void price(const struct throttle_group *g, int i, uint64_t bytes, uint64_t *ret_units, uint64_t *ret_factor) {
        *ret_units = bytes;
        *ret_factor = 1;
        if (i < THROTTLE_OPS)
                return;
        *ret_factor = g->limits.op_size ?: 1;
        *ret_units = g->limits.op_size ? MAX(bytes, g->limits.op_size) : 1;
}

static uint64_t multiply(uint64_t a, uint64_t b) {
        uint64_t product;

        return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

/* Fills all buckets for the request; returns when it may start. */
static uint64_t group_charge(struct throttle_group *g, bool write, uint64_t bytes, uint64_t now) {
        uint64_t start = now;

        for (int i = next_bucket(write, -1); i >= 0; i = next_bucket(write, i)) {
                const struct throttle_limit *l = &g->limits.v[i];
                struct bucket *b = &g->buckets[i];
                uint64_t units, factor;

                if (l->rate == 0)
                        continue;
                start = MAX(start, bucket_ready(b, l));
                price(g, i, bytes, &units, &factor);
                leak_fill(&b->average, units, multiply(l->rate, factor), now);
                if (limits_bursts(l))
                        leak_fill(&b->burst, units, multiply(l->burst, factor), now);
        }
        return start;
}

static void group_refund(struct throttle_group *g, bool write, uint64_t bytes) {
        for (int i = next_bucket(write, -1); i >= 0; i = next_bucket(write, i)) {
                const struct throttle_limit *l = &g->limits.v[i];
                struct bucket *b = &g->buckets[i];
                uint64_t units, factor;

                if (l->rate == 0)
                        continue;
                price(g, i, bytes, &units, &factor);
                leak_drain(&b->average, units, multiply(l->rate, factor));
                if (limits_bursts(l))
                        leak_drain(&b->burst, units, multiply(l->burst, factor));
        }
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

int throttle_group_new(const char *name, struct throttle_group **ret_group) {
        struct throttle_group *g = calloc(1, sizeof(*g));

        if (!g)
                return -ENOMEM;
        atomic_init(&g->refs, 1);
        snprintf(g->name, sizeof(g->name), "%s", name);
        pthread_mutex_init(&g->lock, NULL);
        *ret_group = g;
        return 0;
}

struct throttle_group *throttle_group_ref(struct throttle_group *g) {
        atomic_fetch_add(&g->refs, 1);
        return g;
}

void throttle_group_unref(struct throttle_group *g) {
        if (!g || atomic_fetch_sub(&g->refs, 1) > 1)
                return;
        pthread_mutex_destroy(&g->lock);
        free(g);
}

const char *throttle_group_name(const struct throttle_group *g) {
        return g->name;
}

static void line_clear(struct throttle_line *line) {
        line->head = line->tail = NULL;
        line->taken = 0;
}

/* All places and lines of @disk are void; who waited asks anew. */
static void disk_restart(struct throttle_disk *disk) {
        atomic_store_explicit(&disk->limited, throttle_any(&disk->group->limits), memory_order_release);
        line_clear(&disk->lines[0]);
        line_clear(&disk->lines[1]);
        for (struct throttle_waiter *w = disk->waiters; w; w = w->next_disk) {
                bool waited = w->state != THROTTLE_IDLE;

                w->state = THROTTLE_IDLE;
                if (waited)
                        w->wake(w);
        }
}

void throttle_group_set(struct throttle_group *g, const struct throttle_limits *limits) {
        pthread_mutex_lock(&g->lock);
        g->limits = *limits;
        for (unsigned int i = 0; i < THROTTLE_BUCKET_COUNT; i++)
                bucket_reset(&g->buckets[i], &limits->v[i]);
        for (struct throttle_disk *d = g->disks; d; d = d->next)
                disk_restart(d);
        pthread_mutex_unlock(&g->lock);
}

void throttle_group_get(struct throttle_group *g, struct throttle_limits *ret_limits) {
        pthread_mutex_lock(&g->lock);
        *ret_limits = g->limits;
        pthread_mutex_unlock(&g->lock);
}

void throttle_group_metrics(struct throttle_group *g, struct throttle_metrics *ret_metrics) {
        pthread_mutex_lock(&g->lock);
        *ret_metrics = g->metrics;
        pthread_mutex_unlock(&g->lock);
}

/* ---- disks ------------------------------------------------------------------------------------------------------- */

/* Both with the disk's lock held. */
static void disk_join(struct throttle_disk *disk, struct throttle_group *g) {
        disk->group = throttle_group_ref(g);
        pthread_mutex_lock(&g->lock);
        disk->next = g->disks;
        g->disks = disk;
        disk_restart(disk);
        pthread_mutex_unlock(&g->lock);
}

static void disk_leave(struct throttle_disk *disk) {
        struct throttle_group *g = disk->group;

        pthread_mutex_lock(&g->lock);
        for (struct throttle_disk **p = &g->disks; *p; p = &(*p)->next)
                if (*p == disk) {
                        *p = disk->next;
                        break;
                }
        for (struct throttle_waiter *w = disk->waiters; w; w = w->next_disk)
                if (w->state == THROTTLE_PLACED)
                        group_refund(g, w->write, w->bytes);
        pthread_mutex_unlock(&g->lock);
        disk->group = NULL;
        throttle_group_unref(g);
}

void throttle_disk_init(struct throttle_disk *disk, struct throttle_group *g) {
        *disk = (struct throttle_disk){ 0 };
        pthread_mutex_init(&disk->lock, NULL);
        disk_join(disk, g);
}

void throttle_disk_destroy(struct throttle_disk *disk) {
        if (!disk->group)
                return;
        disk_leave(disk);
        pthread_mutex_destroy(&disk->lock);
}

void throttle_disk_move(struct throttle_disk *disk, struct throttle_group *g) {
        pthread_mutex_lock(&disk->lock);
        if (disk->group != g) {
                disk_leave(disk);
                disk_join(disk, g);
        }
        pthread_mutex_unlock(&disk->lock);
}

struct throttle_group *throttle_disk_group(struct throttle_disk *disk) {
        struct throttle_group *g;

        pthread_mutex_lock(&disk->lock);
        g = throttle_group_ref(disk->group);
        pthread_mutex_unlock(&disk->lock);
        return g;
}

static struct throttle_group *lock_both(struct throttle_disk *disk) {
        pthread_mutex_lock(&disk->lock);
        pthread_mutex_lock(&disk->group->lock);
        return disk->group;
}

static void unlock_both(struct throttle_disk *disk) {
        pthread_mutex_unlock(&disk->group->lock);
        pthread_mutex_unlock(&disk->lock);
}

/* ---- waiters ----------------------------------------------------------------------------------------------------- */

static void line_append(struct throttle_line *line, struct throttle_waiter *w) {
        w->next = NULL;
        if (line->head)
                line->tail->next = w;
        else
                line->head = w;
        line->tail = w;
        w->state = THROTTLE_IN_LINE;
}

static void line_remove(struct throttle_line *line, struct throttle_waiter *w) {
        struct throttle_waiter *before = NULL;

        for (struct throttle_waiter *i = line->head; i && i != w; i = i->next)
                before = i;
        if (before)
                before->next = w->next;
        else
                line->head = w->next;
        if (line->tail == w)
                line->tail = before;
}

/* A place in time for whoever is first in line, once the place that was given last has come. */
static void line_advance(struct throttle_group *g, struct throttle_line *line, uint64_t now) {
        while (line->head && line->taken <= now) {
                struct throttle_waiter *w = line->head;

                line->head = w->next;
                w->state = THROTTLE_PLACED;
                w->at = line->taken = group_charge(g, w->write, w->bytes, now);
                if (w->at > now) {
                        g->metrics.waited++;
                        g->metrics.waited_ns += w->at - now;
                }
        }
}

/* Both locks are held. */
static void forget(struct throttle_group *g, struct throttle_waiter *w) {
        struct throttle_line *line = &w->disk->lines[w->write];

        if (w->state == THROTTLE_IN_LINE)
                line_remove(line, w);
        if (w->state == THROTTLE_PLACED) {
                group_refund(g, w->write, w->bytes);
                if (line->taken == w->at) {
                        line->taken = 0;
                        if (line->head)
                                line->head->wake(line->head);
                }
        }
        w->state = THROTTLE_IDLE;
}

void throttle_waiter_init(struct throttle_waiter *w, struct throttle_disk *disk, bool write,
                          void (*wake)(struct throttle_waiter *waiter)) {
        *w = (struct throttle_waiter){ .disk = disk, .write = write, .wake = wake };
        lock_both(disk);
        w->next_disk = disk->waiters;
        disk->waiters = w;
        unlock_both(disk);
}

void throttle_waiter_destroy(struct throttle_waiter *w) {
        struct throttle_disk *disk = w->disk;

        if (!disk)
                return;
        forget(lock_both(disk), w);
        for (struct throttle_waiter **p = &disk->waiters; *p; p = &(*p)->next_disk)
                if (*p == w) {
                        *p = w->next_disk;
                        break;
                }
        unlock_both(disk);
        w->disk = NULL;
}

uint64_t throttle_ask(struct throttle_waiter *w, uint64_t bytes, uint64_t now) {
        struct throttle_disk *disk = w->disk;
        struct throttle_line *line = &disk->lines[w->write];
        struct throttle_group *g;
        uint64_t at = 0;

        if (!throttle_disk_limited(disk))
                return 0; /* limits that went away have made this waiter idle */
        g = lock_both(disk);
        if (w->state == THROTTLE_IDLE && throttle_any(&g->limits)) {
                w->bytes = bytes;
                line_append(line, w);
        }
        line_advance(g, line, now);
        if (w->state == THROTTLE_IN_LINE)
                at = line->taken;
        else if (w->state == THROTTLE_PLACED && w->at > now)
                at = w->at;
        else
                w->state = THROTTLE_IDLE;
        unlock_both(disk);
        return at;
}

void throttle_forget(struct throttle_waiter *w) {
        forget(lock_both(w->disk), w);
        unlock_both(w->disk);
}
