// SPDX-License-Identifier: GPL-2.0-or-later
/* mirror: the copy is what the disk was when its queues had drained, whatever was written meanwhile; and the disk never notices, unless it goes on there */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/loop.h"
#include "test/unit/temp-file.h"
#include "vmm/block/block.h"
#include "vmm/block/layer/layer.h"
#include "vmm/block/mirror.h"
#include "vmm/block/qcow2/qcow2.h"
#include "vmm/sandbox/sandbox.h"

#define SIZE    ((12u << 20) + 3 * 512) /* the last piece is a short one */
#define N_CALLS 16u
#define LEN_MAX (96u * 1024)

/* The engine's threads use these together; the tests run one at a time. */
static struct {
        _Atomic unsigned int source_us, target_us; /* a write takes so much longer, before it happens */
        _Atomic int target_error_in;               /* the so-manieth write of the target fails; 0: none */
        _Atomic unsigned int target_writes;
        atomic_bool target_slow; /* its next write takes a tenth of a second */
        bool target_sync_fails;
        _Atomic unsigned int close_us; /* so long it takes to close old images */
} fault;

static ssize_t source_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        if (fault.source_us)
                usleep(fault.source_us);
        return pwritev(fd, iov, n, offset);
}

static ssize_t target_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        unsigned int count = fault.target_writes++;

        if (fault.target_error_in > 0 && --fault.target_error_in == 0) {
                errno = ENOSPC;
                return -1;
        }
        if (count % 3 == 0 && fault.target_us)
                usleep(fault.target_us);
        if (atomic_exchange(&fault.target_slow, false))
                usleep(100000);
        return pwritev(fd, iov, n, offset);
}

static int target_fdatasync(int fd) {
        errno = EIO;
        return fault.target_sync_fails ? -1 : 0;
}

struct call {
        struct block_request request; /* first: done() finds the rest */
        struct iovec iov;
        uint8_t *buf; /* LEN_MAX bytes */
        bool busy;
};

struct fixture {
        struct sys source_sys, target_sys;
        struct loop *loop;
        struct block *block;
        struct block_queue *queues[2];
        struct mirror *mirror;
        int fd, backing_fd, target_fd;
        bool target_qcow2;
        uint64_t target_size;
        unsigned int n_ready, n_ended;
        bool pivot;
        int replace_error;
        uint32_t target_block; /* its logical block; 0: as it is */
        unsigned int n_replaced;
        int old_fd, old_backing_fd; /* of the images before a pivot: descriptors of the test's own */
        int old_number;             /* that the old image had */
        int closing[2];
        bool confined;   /* there is no dup() */
        uint8_t *shadow; /* what the disk should hold */
        struct call calls[N_CALLS];
        uint32_t random;
};

static uint32_t draw(struct fixture *f, uint32_t below) {
        f->random = f->random * 1664525 + 1013904223;
        return (f->random >> 8) % below;
}

static void fill(uint8_t *buf, size_t len, uint32_t seed) {
        for (size_t i = 0; i < len; i++) {
                seed = seed * 1664525 + 1013904223;
                buf[i] = (uint8_t)(seed >> 24);
        }
}

static struct layer *open_layer(const struct sys *sys, int fd, bool qcow2, bool create) {
        const struct file_options o = { .sys = sys, .fd = fd };
        struct layer *layer;
        struct file *file;

        assert_int_equal(file_open(&o, &file, NULL), 0);
        if (create)
                assert_int_equal(qcow2_create(file, &(struct qcow2_create){ .size = SIZE }, NULL), 0);
        if (qcow2)
                assert_int_equal(qcow2_open(file, &(struct qcow2_options){ 0 }, &layer, NULL), 0);
        else
                assert_int_equal(raw_open(file, &layer, NULL), 0);
        return layer;
}

/* A raw disk whose middle is a hole; or a qcow2 image on top of that. */
static struct fixture *fixture_new_with(enum block_engine engine, bool chain, int (*thread_start)(void *opaque)) {
        struct fixture *f = calloc(1, sizeof(*f));
        struct block_options o = { .engine = engine, .thread_start = thread_start };
        struct block_queue_options qo = { .depth = 64 };
        int bottom = temp_file(SIZE);

        memset(&fault, 0, sizeof(fault));
        f->source_sys = f->target_sys = sys_real;
        f->source_sys.pwritev = source_pwritev;
        f->target_sys.pwritev = target_pwritev;
        f->target_sys.fdatasync = target_fdatasync;
        f->target_size = SIZE;
        f->shadow = calloc(1, SIZE);
        fill(f->shadow, SIZE / 3, 1);
        fill(f->shadow + SIZE - 100000, 100000, 2);
        assert_int_equal(pwrite(bottom, f->shadow, SIZE / 3, 0), SIZE / 3);
        assert_int_equal(pwrite(bottom, f->shadow + SIZE - 100000, 100000, SIZE - 100000), 100000);
        assert_int_equal(loop_new(&f->loop), 0);
        f->fd = chain ? temp_file(0) : bottom;
        f->backing_fd = chain ? bottom : -1;
        o.top = open_layer(&f->source_sys, f->fd, chain, chain);
        if (chain)
                o.top->backing = open_layer(&f->source_sys, bottom, false, false);
        assert_int_equal(block_open(&o, &f->block, NULL), 0);
        qo.loop = f->loop;
        for (unsigned int i = 0; i < ELEMENTSOF(f->queues); i++)
                assert_int_equal(block_queue_new(f->block, &qo, &f->queues[i], NULL), 0);
        for (unsigned int i = 0; i < N_CALLS; i++)
                f->calls[i].buf = malloc(LEN_MAX);
        f->target_fd = f->old_fd = f->old_backing_fd = -1;
        return f;
}

static struct fixture *fixture_new(enum block_engine engine, bool chain) {
        return fixture_new_with(engine, chain, NULL);
}

static void track(struct fixture *f, struct dirty *dirty) {
        for (unsigned int i = 0; i < ELEMENTSOF(f->queues); i++)
                block_queue_track(f->queues[i], dirty);
}

static void drain(struct fixture *f) {
        for (unsigned int i = 0; i < ELEMENTSOF(f->queues); i++)
                assert_int_equal(block_queue_drain(f->queues[i], false, 10000), 0);
}

static void mirror_end(struct fixture *f) {
        track(f, NULL);
        mirror_free(f->mirror);
        f->mirror = NULL;
        f->target_fd = safe_close(f->target_fd);
}

static void disk_close(struct fixture *f) {
        mirror_end(f);
        for (unsigned int i = 0; i < ELEMENTSOF(f->queues); i++)
                block_queue_free(TAKE_PTR(f->queues[i]));
        block_close(TAKE_PTR(f->block));
}

static void fixture_free(struct fixture *f) {
        if (f->block)
                disk_close(f);
        loop_free(f->loop);
        close(f->fd);
        safe_close(f->backing_fd);
        safe_close(f->old_fd);
        safe_close(f->old_backing_fd);
        for (unsigned int i = 0; i < N_CALLS; i++)
                free(f->calls[i].buf);
        free(f->shadow);
        free(f);
}

static int open_target(void *opaque, struct layer **ret_layer, struct error *e) {
        struct fixture *f = opaque;

        if (f->target_fd == -ENXIO)
                return error_set(e, -ENXIO, "disk-type", NULL, "no such thing");
        *ret_layer = open_layer(&f->target_sys, f->target_fd, f->target_qcow2, f->target_qcow2);
        if (f->target_block)
                (*ret_layer)->logical_block = f->target_block;
        return 0;
}

/* The disk owns its descriptors, as a machine's does; to look at what was in the old ones there are copies. */
static int replace(void *opaque, struct layer *target, struct layer **ret_old, struct error *e) {
        struct fixture *f = opaque;

        unsigned int n_users = 0;

        if (f->replace_error)
                return error_set(e, f->replace_error, "disk-hung", NULL, "not now");
        *ret_old = block_replace(f->block, target);
        n_users = (*ret_old)->n_users + target->n_users;
        for (unsigned int i = 0; i < ELEMENTSOF(f->queues); i++)
                block_queue_replaced(f->queues[i], *ret_old);
        assert_int_equal((*ret_old)->n_users, 0); /* it goes away */
        assert_int_equal(target->n_users, n_users);
        track(f, NULL);
        safe_close(f->old_fd);
        safe_close(f->old_backing_fd);
        f->old_fd = f->confined ? -1 : dup(f->fd);
        f->old_backing_fd = f->confined || f->backing_fd < 0 ? -1 : dup(f->backing_fd);
        f->closing[0] = f->old_number = f->fd;
        f->closing[1] = f->backing_fd;
        f->fd = f->target_fd;
        f->target_fd = f->backing_fd = -1;
        f->n_replaced++;
        return 0;
}

static void close_old(void *opaque, struct layer *old) {
        struct fixture *f = opaque;

        if (fault.close_us)
                usleep(fault.close_us);
        assert_int_equal(layer_flush(old), 0);
        layer_close(old);
        safe_close(f->closing[0]);
        safe_close(f->closing[1]);
}

static void on_event(void *opaque, enum mirror_event event) {
        struct fixture *f = opaque;

        if (event == MIRROR_READY)
                f->n_ready++;
        else
                f->n_ended++;
}

static void start(struct fixture *f, uint64_t speed) {
        const struct mirror_options o = {
                .replace = f->pivot ? replace : NULL,
                .close = close_old,
                .block = f->block,
                .loop = f->loop,
                .speed = speed,
                .open = open_target,
                .event = on_event,
                .opaque = f,
        };

        f->n_ready = f->n_ended = f->n_replaced = 0;
        assert_int_equal(mirror_new(&o, &f->mirror, NULL), 0);
        track(f, mirror_dirty(f->mirror));
        mirror_start(f->mirror);
}

/* A target full of something else: what isn't copied is seen. */
static void start_to_file(struct fixture *f, bool qcow2, uint64_t speed) {
        uint8_t *junk = memset(malloc(SIZE), 0xee, SIZE);

        f->target_qcow2 = qcow2;
        f->target_fd = temp_file(qcow2 ? 0 : f->target_size);
        if (!qcow2)
                assert_int_equal(pwrite(f->target_fd, junk, MIN(SIZE, f->target_size), 0), MIN(SIZE, f->target_size));
        free(junk);
        start(f, speed);
}

static void wait_for(struct fixture *f, const unsigned int *n) {
        uint64_t end = clock_ns() + 10000000000;

        while (*n == 0 && clock_ns() < end)
                assert_true(loop_run_once(f->loop, 100) >= 0);
        assert_int_equal(*n, 1);
}

static void on_done(struct block_request *request, int result) {
        struct call *c = (struct call *)request;

        assert_int_equal(result, 0);
        c->busy = false;
}

/* Ranges in flight at the same time have no order, so they must not overlap. */
static bool overlaps(const struct fixture *f, uint64_t offset, uint64_t length) {
        for (unsigned int i = 0; i < N_CALLS; i++) {
                const struct block_request *r = &f->calls[i].request;

                if (f->calls[i].busy && offset < r->offset + r->length && r->offset < offset + length)
                        return true;
        }
        return false;
}

static void submit(struct fixture *f, unsigned int i, enum block_op op, uint64_t offset, uint64_t length) {
        struct call *c = &f->calls[i];

        c->busy = true;
        c->iov = (struct iovec){ c->buf, length };
        c->request = (struct block_request){ .op = op, .offset = offset, .length = length, .done = on_done };
        if (op == BLOCK_WRITE) {
                fill(c->buf, length, f->random);
                memcpy(f->shadow + offset, c->buf, length);
                c->request.iov = &c->iov;
                c->request.n_iov = 1;
        } else {
                memset(f->shadow + offset, 0, length);
                c->request.flags = draw(f, 2) ? BLOCK_UNMAP : 0;
        }
        block_queue_submit(f->queues[i % 2], &c->request);
        block_queue_kick(f->queues[i % 2]);
}

/* One more random change below @area, through one of the queues, if there is room for it. */
static void change(struct fixture *f, uint32_t area) {
        uint64_t length = (draw(f, LEN_MAX / 512) + 1) * 512ull, offset = draw(f, area / 512) * 512ull;
        enum block_op op = draw(f, 8) == 0 ? BLOCK_WRITE_ZEROES : BLOCK_WRITE;
        unsigned int i = 0;

        length = MIN(length, area - offset);
        while (i < N_CALLS && f->calls[i].busy)
                i++;
        if (i < N_CALLS && !overlaps(f, offset, length))
                submit(f, i, op, offset, length);
}

/* Random changes for @ms. */
static void use(struct fixture *f, uint32_t area, unsigned int ms) {
        uint64_t end = clock_ns() + ms * 1000000ull;

        while (clock_ns() < end) {
                for (unsigned int i = 0; i < 4; i++)
                        change(f, area);
                assert_true(loop_run_once(f->loop, 1) >= 0);
        }
}

static void check_image(int fd, bool qcow2, int backing_fd, const uint8_t *want) {
        struct layer *layer = open_layer(NULL, fd, qcow2, false);
        uint8_t *buf = malloc(SIZE);

        if (backing_fd >= 0)
                layer->backing = open_layer(NULL, backing_fd, false, false);
        assert_int_equal(layer_read(layer, NULL, buf, 0, SIZE), 0);
        assert_memory_equal(buf, want, SIZE);
        layer_close(layer);
        free(buf);
}

static void check_target(struct fixture *f) {
        check_image(f->target_fd, f->target_qcow2, -1, f->shadow);
}

static void check_source(struct fixture *f) {
        uint8_t *buf = malloc(SIZE);
        struct call c = { .busy = true, .iov = { buf, SIZE } };

        c.request =
                (struct block_request){ .op = BLOCK_READ, .length = SIZE, .iov = &c.iov, .n_iov = 1, .done = on_done };
        block_queue_submit(f->queues[0], &c.request);
        block_queue_kick(f->queues[0]);
        assert_int_equal(block_queue_drain(f->queues[0], false, 10000), 0);
        assert_false(c.busy);
        assert_memory_equal(buf, f->shadow, SIZE);
        free(buf);
}

static void finish(struct fixture *f) {
        drain(f);
        assert_int_equal(mirror_finish(f->mirror), 0);
        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, NULL, NULL), 0);
        assert_int_equal(mirror_progress(f->mirror).left, 0);
        check_target(f);
        check_source(f);
}

static void mirror_in_use(enum block_engine engine, bool chain, bool qcow2, uint32_t area) {
        struct fixture *f = fixture_new(engine, chain);

        fault.source_us = 3000;
        fault.target_us = 5000;
        start_to_file(f, qcow2, 0);
        assert_int_equal(mirror_progress(f->mirror).left, SIZE);
        assert_int_equal(mirror_finish(f->mirror), -EBUSY); /* not before it is ready */
        use(f, area, 300);
        drain(f);
        wait_for(f, &f->n_ready);
        use(f, area, 200);
        finish(f);
        assert_int_equal(f->n_ready, 1);
        assert_true(mirror_progress(f->mirror).copied >= SIZE);
        fixture_free(f);
}

/*
 * What is written while it is copied has to arrive: marks must not be taken by a copier that reads too early, nor old data be written over
 * new. The slow writes make both likely, the small area even more so.
 */
static void test_raw_to_raw(void **state) {
        mirror_in_use(BLOCK_ENGINE_THREADS, false, false, SIZE);
        mirror_in_use(BLOCK_ENGINE_AUTO, false, false, SIZE);
}

static void test_raw_to_qcow2(void **state) {
        mirror_in_use(BLOCK_ENGINE_AUTO, false, true, SIZE);
}

static void test_chain_to_raw(void **state) {
        mirror_in_use(BLOCK_ENGINE_THREADS, true, false, 1u << 20);
        mirror_in_use(BLOCK_ENGINE_THREADS, true, false, 1u << 20);
}

static void test_chain_to_qcow2(void **state) {
        mirror_in_use(BLOCK_ENGINE_AUTO, true, true, 2u << 20);
}

/* A write that is in flight when the mirror begins belongs to it. */
static void test_writes_in_flight_at_the_start(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_THREADS, true);

        fault.source_us = 100000;
        for (unsigned int i = 0; i < 3; i++)
                change(f, SIZE);
        start_to_file(f, false, 0);
        wait_for(f, &f->n_ready);
        finish(f);
        fixture_free(f);
}

/*
 * While one copier is slow to write what it has read, the same place changes again. Another copier must not be quicker with the new
 * data, which the first one would then write over.
 */
static void test_copiers_keep_their_order(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);

        start_to_file(f, false, 0);
        wait_for(f, &f->n_ready);
        for (unsigned int i = 0; i < 2; i++) {
                unsigned int before = fault.target_writes;

                fault.target_slow = i == 0;
                f->random++;
                submit(f, 0, BLOCK_WRITE, 65536, 4096);
                drain(f);
                for (int tries = 0; fault.target_writes == before && tries < 20; tries++)
                        loop_run_once(f->loop, 100);
        }
        use(f, 512, 150);
        finish(f);
        fixture_free(f);
}

/* Holes cost neither data nor space, and what the target held there before is gone. */
static void test_zeroes_are_not_written(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, false);
        struct stat st;

        start_to_file(f, false, 0);
        wait_for(f, &f->n_ready);
        finish(f);
        assert_int_equal(fstat(f->target_fd, &st), 0);
        assert_true((uint64_t)st.st_blocks * 512 < SIZE / 2);
        assert_true(fault.target_writes < 12);
        fixture_free(f);
}

/* A speed is kept, so that a copy doesn't take all that the storage can do. */
static void test_speed_is_kept(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, false);
        uint64_t before = clock_ns();

        start_to_file(f, false, 8 << 20); /* 4 MiB of data, of which the first word is free */
        wait_for(f, &f->n_ready);
        assert_true(clock_ns() - before > 50000000);
        finish(f);
        fixture_free(f);
}

/* A mirror can be given up at any time; the disk goes on, and can be mirrored again. */
static void test_cancel(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);

        for (unsigned int i = 0; i < 6; i++) {
                fault.target_us = 2000;
                start_to_file(f, i % 2, 0);
                use(f, SIZE, i * 10);
                mirror_cancel(f->mirror);
                use(f, SIZE, 10);
                wait_for(f, &f->n_ended);
                assert_int_equal(mirror_result(f->mirror, NULL, NULL), -ECANCELED);
                drain(f);
                check_source(f);
                mirror_end(f);
        }
        start_to_file(f, false, 0);
        wait_for(f, &f->n_ready);
        drain(f);
        assert_int_equal(mirror_finish(f->mirror), 0);
        mirror_cancel(f->mirror); /* also while it finishes */
        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, NULL, NULL), -ECANCELED);
        mirror_end(f);
        start_to_file(f, true, 0);
        use(f, SIZE, 10);
        drain(f);
        mirror_end(f); /* without a word: the machine ends */
        fixture_free(f);
}

/* The target's errors are the mirror's: it ends, and nobody who uses the disk hears of them. */
static void test_target_fails(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);
        const struct error *e;
        bool write = false;

        for (unsigned int i = 0; i < 2; i++) {
                fault.target_error_in = 3 + 10 * (int)i;
                start_to_file(f, i == 1, 0);
                use(f, SIZE, 20);
                wait_for(f, &f->n_ended);
                assert_int_equal(mirror_result(f->mirror, &write, &e), -ENOSPC);
                assert_true(write);
                assert_string_equal(e->id, "mirror-io");
                assert_int_equal(mirror_finish(f->mirror), -EBUSY);
                use(f, SIZE, 10);
                drain(f);
                check_source(f);
                mirror_end(f);
        }
        start_to_file(f, false, 0);
        wait_for(f, &f->n_ready);
        fault.target_sync_fails = true; /* the last thing that can go wrong */
        assert_int_equal(mirror_finish(f->mirror), 0);
        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, &write, NULL), -EIO);
        check_source(f);
        fixture_free(f);
}

static void expect_refused(struct fixture *f, int result, const char *id) {
        const struct error *e;

        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, NULL, &e), result);
        assert_string_equal(e->id, id);
        assert_int_equal(f->n_ready, 0);
        mirror_end(f);
}

/* A target that can't hold the disk would be a copy of nothing; two mirrors and a resize would fight for the marks. */
static void test_refused(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);
        struct mirror_options o = { .block = f->block, .loop = f->loop };
        struct mirror *second;

        assert_true(block_uses(f->block, f->fd) && block_uses(f->block, f->backing_fd));
        f->target_size = SIZE - 512;
        start_to_file(f, false, 0);
        expect_refused(f, -EINVAL, "mirror-size");
        f->target_fd = -ENXIO;
        start(f, 0);
        expect_refused(f, -ENXIO, "disk-type");
        f->target_size = SIZE + 4096;
        start_to_file(f, false, 0);
        assert_false(block_uses(f->block, f->target_fd));
        assert_int_equal(mirror_new(&o, &second, NULL), -EBUSY);
        assert_int_equal(block_resize(f->block, SIZE + 512, f->loop, NULL, NULL, NULL), -EBUSY);
        wait_for(f, &f->n_ready);
        finish(f);
        fixture_free(f);
}

/* ---- pivots ------------------------------------------------------------------------------------------------------ */

static uint64_t digest(int fd) {
        uint8_t *buf = malloc(2 * SIZE);
        ssize_t n = fd < 0 ? 0 : pread(fd, buf, 2 * SIZE, 0);
        uint64_t sum = (uint64_t)n;

        assert_true(n >= 0);
        for (ssize_t i = 0; i < n; i++)
                sum = (sum ^ buf[i]) * 0x100000001b3ull;
        free(buf);
        return sum;
}

/* From where the mirror has started: the disk was what it should at the switch, and all that comes later goes to the target alone. */
static void pivot(struct fixture *f, uint32_t area, bool qcow2) {
        uint8_t *then = malloc(SIZE);
        uint64_t old, backing;

        use(f, area, 100);
        drain(f);
        wait_for(f, &f->n_ready);
        use(f, area, 50);
        drain(f);
        memcpy(then, f->shadow, SIZE);
        assert_int_equal(mirror_finish(f->mirror), 0);
        wait_for(f, &f->n_replaced);
        assert_int_equal(f->n_ended, 0);
        mirror_cancel(f->mirror); /* too late */
        check_source(f);
        use(f, area, 50); /* while the old image is being closed */
        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, NULL, NULL), 0);
        mirror_end(f);
        assert_int_equal(fcntl(f->old_number, F_GETFD), -1);
        check_image(f->old_fd, qcow2, f->old_backing_fd, then);
        old = digest(f->old_fd);
        backing = digest(f->old_backing_fd);
        use(f, area, 100);
        drain(f);
        check_source(f);
        assert_true(digest(f->old_fd) == old && digest(f->old_backing_fd) == backing);
        free(then);
}

static void pivot_in_use(enum block_engine engine, bool chain, bool qcow2, uint32_t area) {
        struct fixture *f = fixture_new(engine, chain);

        fault.source_us = 3000;
        fault.target_us = 5000;
        fault.close_us = 10000;
        f->pivot = true;
        start_to_file(f, qcow2, 0);
        pivot(f, area, chain);
        disk_close(f);
        check_image(f->fd, qcow2, -1, f->shadow);
        fixture_free(f);
}

/* What is written after the switch belongs into the target, all of it, and not a byte into the old image, whatever way each of them is written. */
static void test_pivot(void **state) {
        pivot_in_use(BLOCK_ENGINE_AUTO, false, false, SIZE);
        pivot_in_use(BLOCK_ENGINE_THREADS, false, false, 1u << 20);
        pivot_in_use(BLOCK_ENGINE_AUTO, false, true, SIZE);
        pivot_in_use(BLOCK_ENGINE_AUTO, true, false, SIZE);
        pivot_in_use(BLOCK_ENGINE_THREADS, true, true, 2u << 20);
}

/*
 * A disk goes there and back and there again. Each target has the number that the image before had: who knows a file by its number (io_uring's
 * registered one) would write to the wrong one.
 */
static void test_pivot_back(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, false);

        f->pivot = true;
        start_to_file(f, true, 0);
        pivot(f, SIZE, false);
        for (unsigned int i = 0; i < 3; i++) {
                bool qcow2 = i % 2;

                assert_false(block_uses(f->block, f->old_fd));
                assert_int_equal(dup2(f->old_fd, f->old_number), f->old_number);
                f->target_fd = f->old_number;
                f->target_qcow2 = qcow2;
                if (qcow2)
                        assert_int_equal(ftruncate(f->target_fd, 0), 0);
                start(f, 0);
                pivot(f, SIZE, !qcow2);
        }
        disk_close(f);
        check_image(f->fd, false, -1, f->shadow);
        fixture_free(f);
}

static void expect_no_pivot(struct fixture *f, int result) {
        uint64_t before;

        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, NULL, NULL), result);
        assert_int_equal(f->n_replaced, 0);
        before = digest(f->target_fd);
        use(f, SIZE, 30);
        drain(f);
        check_source(f);
        assert_int_equal(digest(f->target_fd), before);
        check_image(f->fd, false, -1, f->shadow);
        mirror_end(f);
}

/* Whatever fails before the switch must leave the disk whole, on its old image; and the next try may succeed. */
static void test_pivot_that_fails(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, false);
        const struct error *e;

        f->pivot = true;
        fault.target_sync_fails = true;
        for (unsigned int i = 0; i < 3; i++) {
                start_to_file(f, false, 0);
                wait_for(f, &f->n_ready);
                drain(f);
                assert_int_equal(mirror_finish(f->mirror), 0);
                if (i == 2)
                        mirror_cancel(f->mirror);
                expect_no_pivot(f, (int[]){ -EIO, -ETIMEDOUT, -ECANCELED }[i]);
                fault.target_sync_fails = false;
                f->replace_error = -ETIMEDOUT;
        }
        f->replace_error = 0;
        f->target_block = 4096;
        start_to_file(f, false, 0);
        wait_for(f, &f->n_ended);
        assert_int_equal(mirror_result(f->mirror, NULL, &e), -EINVAL);
        assert_string_equal(e->id, "mirror-block-size");
        expect_no_pivot(f, -EINVAL);
        f->pivot = false; /* for a copy that does not matter */
        start_to_file(f, false, 0);
        wait_for(f, &f->n_ready);
        finish(f);
        mirror_end(f);
        f->pivot = true;
        f->target_block = 0;
        start_to_file(f, false, 0);
        pivot(f, SIZE, false);
        fixture_free(f);
}

/* A machine may end at any moment of a pivot: all is closed, once. */
static void test_pivot_at_the_end(void **state) {
        for (unsigned int i = 0; i < 3; i++) {
                struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);

                f->pivot = true;
                fault.close_us = 20000;
                start_to_file(f, i == 1, 0);
                wait_for(f, &f->n_ready);
                drain(f);
                assert_int_equal(mirror_finish(f->mirror), 0);
                if (i > 0)
                        wait_for(f, &f->n_replaced);
                disk_close(f);
                if (i > 0)
                        check_image(f->fd, i == 1, -1, f->shadow);
                fixture_free(f);
        }
}

struct resized {
        int result;
        bool done;
};

static void on_resized(void *opaque, int result, const struct error *e) {
        *(struct resized *)opaque = (struct resized){ result, true };
}

static void resize(struct fixture *f, uint64_t size) {
        struct resized r = { 0 };

        assert_int_equal(block_resize(f->block, size, f->loop, on_resized, &r, NULL), 0);
        while (!r.done)
                assert_true(loop_run_once(f->loop, 100) >= 0);
        assert_int_equal(r.result, 0);
        assert_int_equal(block_size(f->block), size);
}

/* The disk keeps its size on a larger target. What that held behind it is neither shown to the guest when the disk grows, nor cut off. */
static void test_resize_after_a_pivot(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);
        uint8_t junk[4096], got[4096];
        struct stat st;

        memset(junk, 0xee, sizeof(junk));
        f->pivot = true;
        f->target_size = SIZE + 65536;
        f->target_fd = temp_file(f->target_size);
        for (unsigned int i = 0; i < 65536; i += sizeof(junk))
                assert_int_equal(pwrite(f->target_fd, junk, sizeof(junk), SIZE + i), sizeof(junk));
        start(f, 0);
        pivot(f, SIZE, true);
        assert_int_equal(block_size(f->block), SIZE);
        resize(f, SIZE + 8192);
        assert_int_equal(fstat(f->fd, &st), 0);
        assert_int_equal(st.st_size, f->target_size);
        memset(junk, 0, sizeof(junk));
        assert_int_equal(pread(f->fd, got, sizeof(got), SIZE), sizeof(got));
        assert_memory_equal(got, junk, sizeof(got));
        assert_int_equal(pread(f->fd, got, sizeof(got), SIZE + 8192), sizeof(got));
        assert_int_equal(got[0], 0xee);
        check_source(f);
        resize(f, SIZE + 131072);
        assert_int_equal(fstat(f->fd, &st), 0);
        assert_int_equal(st.st_size, SIZE + 131072);
        assert_int_equal(pread(f->fd, got, sizeof(got), SIZE + 61440), sizeof(got));
        assert_memory_equal(got, junk, sizeof(got));
        check_source(f);
        fixture_free(f);
}

struct read {
        struct block_request request; /* first */
        struct iovec iov;
        uint8_t buf[512];
        int result;
};

static void on_read(struct block_request *request, int result) {
        ((struct read *)request)->result = result;
}

/* A raw file that somebody cuts is an error, which an image can't have: the disk has to know what it is now. */
static void test_cut_after_a_pivot(void **state) {
        struct fixture *f = fixture_new(BLOCK_ENGINE_AUTO, true);
        struct read r = { .iov = { r.buf, sizeof(r.buf) } };

        f->pivot = true;
        start_to_file(f, false, 0);
        pivot(f, SIZE, true);
        assert_int_equal(ftruncate(f->fd, SIZE / 2), 0);
        r.request = (struct block_request){
                .op = BLOCK_READ, .offset = SIZE - 512, .length = 512, .iov = &r.iov, .n_iov = 1, .done = on_read
        };
        block_queue_submit(f->queues[0], &r.request);
        drain(f);
        assert_int_equal(r.result, -EIO);
        fixture_free(f);
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int confine(void *opaque) {
        return sandbox_enter_thread(SANDBOX_ROLE_BLOCK);
}

/* In a process of its own, which a call that is not allowed ends. */
static int mirror_confined(void) {
        struct fixture *f;
        int r = sandbox_prepare();

        f = fixture_new_with(BLOCK_ENGINE_AUTO, true, confine);
        f->target_fd = temp_file(SIZE);
        f->confined = true;
        if (r == 0)
                r = sandbox_enter_thread(SANDBOX_ROLE_MAIN);
        for (unsigned int i = 0; i < 2 && r == 0; i++) {
                start(f, 0);
                wait_for(f, &f->n_ready);
                drain(f);
                r = mirror_finish(f->mirror);
                wait_for(f, &f->n_ended);
                if (r == 0)
                        r = mirror_result(f->mirror, NULL, NULL);
                track(f, NULL);
                mirror_free(TAKE_PTR(f->mirror));
        }
        start(f, 0);
        track(f, NULL);
        mirror_free(TAKE_PTR(f->mirror));
        f->pivot = true;
        start(f, 0);
        wait_for(f, &f->n_ready);
        drain(f);
        r = r < 0 ? r : mirror_finish(f->mirror);
        wait_for(f, &f->n_ended);
        use(f, SIZE, 20);
        drain(f);
        mirror_end(f);
        return r < 0 || f->n_replaced != 1 ? -EINVAL : 0;
}

/* A mirror begins when the filters are long in place: a call that they lack would end the machine, and no other test has them. */
static void test_filters_allow_it(void **state) {
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0)
                _exit(mirror_confined() == 0 ? 0 : 1);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_raw_to_raw),
                cmocka_unit_test(test_raw_to_qcow2),
                cmocka_unit_test(test_chain_to_raw),
                cmocka_unit_test(test_chain_to_qcow2),
                cmocka_unit_test(test_writes_in_flight_at_the_start),
                cmocka_unit_test(test_copiers_keep_their_order),
                cmocka_unit_test(test_zeroes_are_not_written),
                cmocka_unit_test(test_speed_is_kept),
                cmocka_unit_test(test_cancel),
                cmocka_unit_test(test_target_fails),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_pivot),
                cmocka_unit_test(test_pivot_back),
                cmocka_unit_test(test_pivot_that_fails),
                cmocka_unit_test(test_pivot_at_the_end),
                cmocka_unit_test(test_resize_after_a_pivot),
                cmocka_unit_test(test_cut_after_a_pivot),
                cmocka_unit_test(test_filters_allow_it),
        };

        return cmocka_run_group_tests_name("mirror", tests, NULL, NULL);
}
