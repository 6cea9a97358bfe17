// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mirror: see mirror.h
 *
 * Theory of operation. Copiers take what is marked (dirty.h) and copy it, until nothing is; then they rest until there is something again. A
 * copier is a job of the disk's own workers (pool.h), who also serve the guest: there are at most half as many copiers as workers, each
 * has one buffer, and after each word (DIRTY_WORD) it goes to the end of the line. That bounds memory, and what a guest has to wait for.
 *
 * Two copiers never have the same word. Else one could read it before a change and the other after it, and the old bytes be the last ones
 * that are written. A word that is marked while a copier has it waits for that one to be back.
 *
 * What is going on decides a timer on the loop (step()), which looks at how far the workers are: it starts copiers that rest, gives out
 * what `speed` allows, and goes from state to state. Workers thus never have to reach the loop, and all that must be said to
 * the owner is said there. While somebody waits for the end it looks more often.
 *
 * Zeroes of the source, and holes of its file, become zeroes of the target without being read. The target is opened, flushed and closed by
 * a worker, too: each may take a while.
 *
 * A pivot is a moment between two jobs: the one before has flushed the target, and the one after closes the old images. The disk's queues are
 * drained and no copier is at work, so that nobody is inside either.
 */
#include "vmm/block/mirror.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/block/disk.h"

/* seccomp: block: newfstatat arg3=AT_EMPTY_PATH (rare) -- opening a mirror's target */
/* seccomp: block: fcntl arg1=F_GETFL (rare) -- the same */
/* seccomp: block: fcntl arg1=F_SETFL (rare) -- the same */
/* seccomp: block: pread64 (rare) -- the same, with O_DIRECT */
/* seccomp: block: ioctl arg1=BLKGETSIZE64 (rare) -- the same, a block device */
/* seccomp: block: ioctl arg1=BLKSSZGET (rare) -- the same */
/* seccomp: block: ioctl arg1=BLKPBSZGET (rare) -- the same */
/* seccomp: block: lseek (rare) -- holes of a mirror's source */
/* seccomp: main: timerfd_create (rare) -- a mirror is begun */

#define COPIERS_MAX (POOL_THREADS_MAX / 2)
#define BUFFER      (1u << 20)
#define ALIGNMENT   4096u
#define TICK_US     20000u
#define HURRY_US    1000u
#define NO_WORD     UINT64_MAX

struct copier {
        struct mirror *mirror;
        struct pool_job job;
        uint8_t *buf;  /* BUFFER bytes */
        bool busy;     /* its job is submitted */
        uint64_t word; /* that it has; NO_WORD */
        uint64_t marks;
};

struct mirror {
        struct mirror_options options;
        struct block *block;
        struct loop_source *timer;
        struct dirty *dirty;
        struct layer *target; /* of the workers, from open to close; or to a pivot */
        struct layer *old;    /* after it: to be closed */
        enum mirror_state state;
        atomic_bool stop; /* cancelled, or failed */
        _Atomic uint64_t copied;
        _Atomic int64_t allowance; /* bytes that may be copied before the next tick, when there is a speed to keep */
        struct copier copiers[COPIERS_MAX];
        unsigned int n_copiers;

        pthread_mutex_t lock; /* the rest, and what copiers have and are */
        pthread_cond_t rested;
        unsigned int n_busy;
        uint64_t cursor; /* the word to look at first */
        int result;      /* the first failure */
        bool failed_write;
        struct error error;
};

/* ---- on a worker ------------------------------------------------------------------------------------------------- */

/* The first failure stops the mirror; @e is taken over; without one, @what happened. */
static void fail(struct mirror *m, int r, bool write, const char *what, struct error *e) {
        pthread_mutex_lock(&m->lock);
        if (m->result == 0) {
                m->result = r;
                m->failed_write = write;
                if (e)
                        m->error = *e;
                else
                        error_set(&m->error, r, "mirror-io", NULL, "%s", what);
        } else if (e) {
                error_clear(e);
        }
        pthread_mutex_unlock(&m->lock);
        atomic_store(&m->stop, true);
}

static void rest(struct copier *c) {
        struct mirror *m = c->mirror;

        pthread_mutex_lock(&m->lock);
        c->busy = false;
        c->word = NO_WORD;
        m->n_busy--;
        pthread_cond_signal(&m->rested);
        pthread_mutex_unlock(&m->lock); /* from here on the mirror may be freed */
}

static bool is_taken(const struct mirror *m, uint64_t word) {
        for (unsigned int i = 0; i < m->n_copiers; i++)
                if (m->copiers[i].word == word)
                        return true;
        return false;
}

/* The next word with marks that nobody else has. */
static bool take(struct copier *c) {
        struct mirror *m = c->mirror;
        uint64_t n = m->dirty->n_words;

        pthread_mutex_lock(&m->lock);
        c->word = NO_WORD;
        for (uint64_t i = 0; i < n && c->word == NO_WORD; i++) {
                uint64_t word = (m->cursor + i) % n;

                c->marks = is_taken(m, word) ? 0 : dirty_take(m->dirty, word);
                if (c->marks)
                        c->word = word;
        }
        if (c->word != NO_WORD)
                m->cursor = c->word + 1;
        pthread_mutex_unlock(&m->lock);
        return c->word != NO_WORD;
}

/* Copies the first bytes of a range, at least one: how many, or -errno. */
static int64_t copy_some(struct copier *c, unsigned int worker, uint64_t offset, uint64_t length, bool *ret_write) {
        struct mirror *m = c->mirror;
        struct layer_user *user = &m->block->users[worker];
        struct layer *owner;
        struct extent extent;
        int r = layer_status(m->block->top, user, NULL, offset, length, &extent, &owner);

        *ret_write = false;
        if (r < 0)
                return r;
        if (extent.kind == EXTENT_ZERO || extent.kind == EXTENT_UNALLOCATED) {
                *ret_write = true;
                r = layer_zero(m->target, offset, extent.length, true);
                return r < 0 ? r : (int64_t)extent.length;
        }
        length = MIN(extent.length, (uint64_t)BUFFER);
        r = layer_read(m->block->top, user, c->buf, offset, length);
        if (r == 0) {
                *ret_write = true;
                r = layer_write(m->target, c->buf, offset, length);
        }
        atomic_fetch_sub(&m->allowance, (int64_t)length);
        return r < 0 ? r : (int64_t)length;
}

static void copy_range(struct copier *c, unsigned int worker, uint64_t offset, uint64_t end) {
        struct mirror *m = c->mirror;

        while (offset < end && !atomic_load(&m->stop)) {
                bool write;
                int64_t n = copy_some(c, worker, offset, end - offset, &write);

                if (n < 0) {
                        fail(m, (int)n, write, write ? "cannot write the mirror's target" : "cannot read the disk",
                             NULL);
                        return;
                }
                offset += (uint64_t)n;
                atomic_fetch_add(&m->copied, (uint64_t)n);
        }
}

static void copy_word(struct copier *c, unsigned int worker) {
        struct dirty *d = c->mirror->dirty;
        uint64_t left = c->marks;

        while (left) {
                unsigned int first = (unsigned int)__builtin_ctzll(left), n = 0;
                uint64_t offset = c->word * DIRTY_WORD + first * (uint64_t)DIRTY_PIECE;

                while (first + n < 64 && left >> (first + n) & 1)
                        left &= ~(1ull << (first + n++));
                copy_range(c, worker, offset, MIN(offset + n * (uint64_t)DIRTY_PIECE, d->size));
        }
        if (!atomic_load(&c->mirror->stop))
                dirty_settle(d, c->marks);
}

static bool may_copy(const struct mirror *m) {
        return !atomic_load(&m->stop) && (m->options.speed == 0 || atomic_load(&m->allowance) > 0);
}

static void run_copy(struct pool_job *job, unsigned int worker) {
        struct copier *c = CONTAINER_OF(job, struct copier, job);

        if (may_copy(c->mirror) && take(c)) {
                copy_word(c, worker);
                pool_submit(c->mirror->block->pool, job);
        } else {
                rest(c);
        }
}

static int check_target(const struct mirror *m, struct error *e) {
        uint64_t size = atomic_load(&m->target->size);

        if (m->target->readonly)
                return error_set(e, -EROFS, "mirror-readonly", NULL, "the mirror's target is read-only");
        if (size < m->dirty->size)
                return error_set(e, -EINVAL, "mirror-size", "make it as large as the disk",
                                 "the mirror's target is too small: %llu bytes of %llu", (unsigned long long)size,
                                 (unsigned long long)m->dirty->size);
        if (m->options.replace && m->target->logical_block > m->block->limits.logical_block)
                return error_set(e, -EINVAL, "mirror-block-size", "take another one, or restart the machine on it",
                                 "the guest knows blocks of %u bytes, and those of the mirror's target are larger: %u",
                                 m->block->limits.logical_block, m->target->logical_block);
        return 0;
}

static void run_open(struct pool_job *job, unsigned int worker) {
        struct copier *c = CONTAINER_OF(job, struct copier, job);
        struct mirror *m = c->mirror;
        struct error e = ERROR_INIT;
        int r = m->options.open(m->options.opaque, &m->target, &e);

        if (r == 0)
                r = check_target(m, &e);
        if (r < 0)
                fail(m, r, true, NULL, &e);
        rest(c);
}

static void flush_target(struct mirror *m) {
        int r = m->target && !atomic_load(&m->stop) ? layer_flush(m->target) : 0;

        if (r < 0)
                fail(m, r, true, "cannot flush the mirror's target", NULL);
}

static void run_flush(struct pool_job *job, unsigned int worker) {
        struct copier *c = CONTAINER_OF(job, struct copier, job);

        flush_target(c->mirror);
        rest(c);
}

static void run_close(struct pool_job *job, unsigned int worker) {
        struct copier *c = CONTAINER_OF(job, struct copier, job);
        struct mirror *m = c->mirror;

        if (m->old) {
                m->options.close(m->options.opaque, TAKE_PTR(m->old));
        } else {
                flush_target(m);
                layer_close(TAKE_PTR(m->target));
        }
        rest(c);
}

/* ---- on the loop ------------------------------------------------------------------------------------------------- */

static void submit(struct copier *c, void (*run)(struct pool_job *job, unsigned int worker)) {
        struct mirror *m = c->mirror;
        bool busy;

        pthread_mutex_lock(&m->lock);
        busy = c->busy;
        if (!busy) {
                c->busy = true;
                m->n_busy++;
        }
        pthread_mutex_unlock(&m->lock);
        if (busy)
                return;
        c->job = (struct pool_job){ .run = run };
        pool_submit(m->block->pool, &c->job);
}

static bool is_resting(struct mirror *m) {
        bool resting;

        pthread_mutex_lock(&m->lock);
        resting = m->n_busy == 0;
        pthread_mutex_unlock(&m->lock);
        return resting;
}

/* What one tick is worth is never saved up for later: bursts stay short. A finish can't wait. */
static void allow(struct mirror *m) {
        int64_t tick = (int64_t)MIN(m->options.speed / (1000000 / TICK_US) + 1, (uint64_t)INT64_MAX / 4);
        int64_t now = atomic_load(&m->allowance);

        if (m->state == MIRROR_STATE_FINISHING)
                atomic_store(&m->allowance, INT64_MAX / 2);
        else if (now < tick)
                atomic_fetch_add(&m->allowance, MIN(tick, tick - now));
}

static void go_on(struct mirror *m) {
        allow(m);
        if (dirty_left(m->dirty) > 0)
                for (unsigned int i = 0; i < m->n_copiers; i++)
                        submit(&m->copiers[i], run_copy);
        else if (m->state == MIRROR_STATE_COPYING) {
                m->state = MIRROR_STATE_READY;
                m->options.event(m->options.opaque, MIRROR_READY);
        }
}

/* The target holds all, safely. From here on there is only one disk that counts: on success the new one. */
static void pivot(struct mirror *m) {
        struct error e = ERROR_INIT;
        int r = m->options.replace(m->options.opaque, m->target, &m->old, &e);

        if (r < 0)
                fail(m, r, true, NULL, &e);
        else
                m->target = NULL;
}

static void step(void *opaque) {
        struct mirror *m = opaque;
        bool stop = atomic_load(&m->stop), resting = is_resting(m);

        if (m->state == MIRROR_STATE_CLOSING && resting) {
                m->state = MIRROR_STATE_ENDED;
                m->options.event(m->options.opaque, MIRROR_ENDED);
                return;
        }
        if (m->state == MIRROR_STATE_OPENING && resting)
                m->state = MIRROR_STATE_COPYING;
        if (m->state == MIRROR_STATE_FLUSHING && resting) {
                if (!stop)
                        pivot(m);
                m->state = MIRROR_STATE_CLOSING;
                submit(&m->copiers[0], run_close);
        }
        if (m->state > MIRROR_STATE_OPENING && m->state < MIRROR_STATE_FLUSHING) {
                bool over = stop || (m->state == MIRROR_STATE_FINISHING && dirty_left(m->dirty) == 0);

                if (!over) {
                        go_on(m);
                } else if (resting) {
                        bool flush = m->options.replace && !stop;

                        m->state = flush ? MIRROR_STATE_FLUSHING : MIRROR_STATE_CLOSING;
                        submit(&m->copiers[0], flush ? run_flush : run_close);
                }
        }
        loop_timer_set(m->timer, stop || m->state >= MIRROR_STATE_FINISHING ? HURRY_US : TICK_US);
}

static int add_copiers(struct mirror *m) {
        unsigned int n = MAX(pool_n_threads(m->block->pool) / 2, 1u);

        for (; m->n_copiers < n; m->n_copiers++) {
                struct copier *c = &m->copiers[m->n_copiers];

                *c = (struct copier){ .mirror = m, .word = NO_WORD, .buf = aligned_alloc(ALIGNMENT, BUFFER) };
                if (!c->buf)
                        return -ENOMEM;
        }
        return 0;
}

int mirror_new(const struct mirror_options *options, struct mirror **ret_mirror, struct error *e) {
        _cleanup_(mirror_freep) struct mirror *m = NULL;
        struct block *b = options->block;
        int r;

        if (b->mirrored || b->resize.busy)
                return error_set(e, -EBUSY, "disk-busy", "wait for its end", "the disk is being %s already",
                                 b->mirrored ? "mirrored" : "resized");
        m = calloc(1, sizeof(*m));
        if (!m)
                return error_set(e, -ENOMEM, "mirror-memory", NULL, "no memory for a mirror");
        m->options = *options;
        m->block = b;
        b->mirrored = true;
        pthread_mutex_init(&m->lock, NULL);
        pthread_cond_init(&m->rested, NULL);
        r = dirty_new(block_size(b), &m->dirty);
        if (r == 0)
                r = add_copiers(m);
        if (r == 0)
                r = loop_add_timer(options->loop, step, m, &m->timer);
        if (r < 0)
                return error_set(e, r, "mirror-memory", NULL, "no memory for a mirror");
        *ret_mirror = TAKE_PTR(m);
        return 0;
}

static void wait_for_rest(struct mirror *m) {
        pthread_mutex_lock(&m->lock);
        while (m->n_busy > 0)
                pthread_cond_wait(&m->rested, &m->lock);
        pthread_mutex_unlock(&m->lock);
}

void mirror_free(struct mirror *m) {
        if (!m)
                return;
        atomic_store(&m->stop, true);
        wait_for_rest(m);
        if (m->target) {
                submit(&m->copiers[0], run_close);
                wait_for_rest(m);
        }
        loop_source_free(m->timer);
        for (unsigned int i = 0; i < m->n_copiers; i++)
                free(m->copiers[i].buf);
        pthread_cond_destroy(&m->rested);
        pthread_mutex_destroy(&m->lock);
        error_clear(&m->error);
        dirty_free(m->dirty);
        m->block->mirrored = false;
        free(m);
}

struct dirty *mirror_dirty(struct mirror *m) {
        return m->dirty;
}

void mirror_start(struct mirror *m) {
        submit(&m->copiers[0], run_open);
        loop_timer_set(m->timer, HURRY_US);
}

int mirror_finish(struct mirror *m) {
        if (m->state != MIRROR_STATE_READY || atomic_load(&m->stop))
                return -EBUSY;
        m->state = MIRROR_STATE_FINISHING;
        loop_timer_set(m->timer, 0);
        return 0;
}

void mirror_cancel(struct mirror *m) {
        if (m->state >= MIRROR_STATE_CLOSING)
                return;
        atomic_store(&m->stop, true);
        loop_timer_set(m->timer, 0);
}

struct mirror_progress mirror_progress(const struct mirror *m) {
        return (struct mirror_progress){
                .state = m->state,
                .stopping = atomic_load(&m->stop),
                .copied = atomic_load(&m->copied),
                .left = dirty_left(m->dirty),
        };
}

int mirror_result(const struct mirror *m, bool *ret_write, const struct error **ret_error) {
        if (ret_write)
                *ret_write = m->failed_write;
        if (ret_error)
                *ret_error = &m->error;
        if (m->result < 0)
                return m->result;
        return atomic_load(&m->stop) ? -ECANCELED : 0;
}
