// SPDX-License-Identifier: GPL-2.0-or-later
/* block: every byte arrives where it belongs, whatever the kernel does half way; no request is lost or done twice */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "test/unit/temp-file.h"
#include "vmm/block/block.h"
#include "vmm/block/layer/layer.h"
#include "vmm/block/qcow2/qcow2.h"
#include "vmm/block/throttle.h"

#define SIZE (4u << 20)

/* Faults are counted down in these; the tests run one at a time, but the engine's threads count together. */
static struct {
        int short_by; /* transfers move at most so many bytes; 0: all */
        int error;
        _Atomic int error_in; /* the error_in-th call fails with error; 0: never */
        bool no_fallocate, no_uring;
        _Atomic int syncs, syncs_at_write_end, fallocates;
        int register_error, register_in; /* the register_in-th piece of memory is refused; 0: none */
        bool register_slowly;
        int tables, pieces, unregistered; /* calls about registered memory */
} fault;

/* Disks are opened with the shadow registered in pieces of so many bytes; 0: not at all. */
static uint64_t shadow_piece;

static bool fail_now(void) {
        if (fault.error_in > 0 && --fault.error_in == 0) {
                errno = fault.error;
                return true;
        }
        return false;
}

static ssize_t fault_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        struct iovec one = iov[0];

        if (fail_now())
                return -1;
        if (!fault.short_by)
                return preadv(fd, iov, n, offset);
        one.iov_len = MIN(one.iov_len, (size_t)fault.short_by);
        return preadv(fd, &one, 1, offset);
}

static ssize_t fault_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        struct iovec one = iov[0];

        if (fail_now())
                return -1;
        fault.syncs_at_write_end = fault.syncs;
        if (!fault.short_by)
                return pwritev(fd, iov, n, offset);
        one.iov_len = MIN(one.iov_len, (size_t)fault.short_by);
        return pwritev(fd, &one, 1, offset);
}

static int fault_fdatasync(int fd) {
        fault.syncs++;
        return fail_now() ? -1 : 0;
}

static int fault_fallocate(int fd, int mode, off_t offset, off_t len) {
        fault.fallocates++;
        if (fault.no_fallocate) {
                errno = EOPNOTSUPP;
                return -1;
        }
        return fallocate(fd, mode, offset, len);
}

static int fault_uring(unsigned int entries, struct io_uring_params *params) {
        if (fault.no_uring) {
                errno = EPERM;
                return -1;
        }
        return sys_real.io_uring_setup(entries, params);
}

static void burn_ms(unsigned int ms) {
        clock_t end = clock() + (clock_t)ms * (CLOCKS_PER_SEC / 1000);

        while (clock() < end)
                ;
}

static int fault_register(int fd, unsigned int opcode, void *arg, unsigned int n) {
        fault.tables += opcode == IORING_REGISTER_BUFFERS2;
        fault.unregistered += opcode == IORING_UNREGISTER_BUFFERS;
        if (opcode == IORING_REGISTER_BUFFERS_UPDATE) {
                if (++fault.pieces == fault.register_in) {
                        errno = fault.register_error;
                        return -1;
                }
                if (fault.register_slowly)
                        burn_ms(100);
        }
        return sys_real.io_uring_register(fd, opcode, arg, n);
}

struct fixture {
        struct sys sys;
        struct loop *loop;
        struct layer *top; /* the block's */
        struct block *block;
        struct block_queue *queue, *second;
        int fd, backing_fd; /* the disk's file; its backing image's, or -1 */
        unsigned int batches;
        uint8_t *shadow; /* what the disk should hold */
};

static void on_batch(void *opaque) {
        struct fixture *f = opaque;

        f->batches++;
}

static struct file_options options_of(struct fixture *f) {
        return (struct file_options){ .sys = &f->sys, .fd = f->fd };
}

static int open_queue(struct fixture *f, enum block_engine engine, struct layer *top, struct error *e) {
        struct block_options o = { .top = top, .engine = engine };
        struct iovec memory = { f->shadow, SIZE };
        struct block_queue_options qo = {
                .depth = 64,
                .loop = f->loop,
                .batch = on_batch,
                .opaque = f,
                .regions = &memory,
                .n_regions = shadow_piece > 0,
                .region_piece = shadow_piece,
        };
        int r = block_open(&o, &f->block, e);

        f->top = top;
        if (r < 0)
                layer_close(top);
        else
                r = block_queue_new(f->block, &qo, &f->queue, e);
        return r;
}

/* A raw disk with one queue. */
static int open_raw(struct fixture *f, enum block_engine engine, const struct file_options *o, struct error *e) {
        struct layer *top;
        struct file *file;
        int r = file_open(o, &file, e);

        if (r < 0)
                return r;
        r = raw_open(file, &top, e);
        if (r < 0) {
                file_close(file);
                return r;
        }
        return open_queue(f, engine, top, e);
}

static void close_disk(struct fixture *f) {
        block_queue_free(f->second);
        block_queue_free(f->queue);
        block_close(f->block);
        f->queue = f->second = NULL;
        f->block = NULL;
}

static struct fixture *fixture_new(void) {
        struct fixture *f = calloc(1, sizeof(*f));

        memset(&fault, 0, sizeof(fault));
        f->sys = sys_real;
        f->sys.preadv = fault_preadv;
        f->sys.pwritev = fault_pwritev;
        f->sys.fdatasync = fault_fdatasync;
        f->sys.fallocate = fault_fallocate;
        f->sys.io_uring_setup = fault_uring;
        f->sys.io_uring_register = fault_register;
        assert_int_equal(loop_new(&f->loop), 0);
        f->fd = temp_file(SIZE);
        f->backing_fd = -1;
        f->shadow = calloc(1, SIZE);
        return f;
}

static struct fixture *fixture_open(enum block_engine engine) {
        struct fixture *f = fixture_new();
        struct file_options o = options_of(f);
        int r = open_raw(f, engine, &o, NULL);

        if (r < 0 && engine == BLOCK_ENGINE_URING) {
                print_message("skipped: io_uring is not available here (%s)\n", strerror(-r));
                skip();
        }
        assert_int_equal(r, 0);
        return f;
}

static void fixture_free(struct fixture *f) {
        close_disk(f);
        loop_free(f->loop);
        close(f->fd);
        if (f->backing_fd >= 0)
                close(f->backing_fd);
        free(f->shadow);
        free(f);
}

struct call {
        struct block_request request; /* first: done() finds the rest */
        struct iovec iov[8];
        int done, result;
};

static void on_done(struct block_request *request, int result) {
        struct call *c = (struct call *)request;

        c->done++;
        c->result = result;
}

static void wait_for(struct fixture *f, const int *done, int n) {
        for (int i = 0; i < 1000 && *done < n; i++)
                assert_true(loop_run_once(f->loop, 10000) >= 0);
        assert_int_equal(*done, n);
}

static int run(struct fixture *f, struct call *c) {
        c->request.done = on_done;
        c->done = 0;
        block_queue_submit(f->queue, &c->request);
        block_queue_kick(f->queue);
        wait_for(f, &c->done, 1);
        return c->result;
}

/* One request over @n buffers that together are [buf, buf+len). */
static int transfer(struct fixture *f, enum block_op op, unsigned int flags, void *buf, uint64_t offset, size_t len,
                    unsigned int n) {
        struct call c = { .request = { .op = op, .flags = flags, .offset = offset, .length = len, .n_iov = n } };
        size_t part = n ? len / n : 0;

        for (unsigned int i = 0; i < n; i++)
                c.iov[i] = (struct iovec){ (uint8_t *)buf + i * part, i == n - 1 ? len - i * part : part };
        c.request.iov = c.iov;
        return run(f, &c);
}

static void fill(uint8_t *buf, size_t len, uint32_t seed) {
        for (size_t i = 0; i < len; i++) {
                seed = seed * 1664525 + 1013904223;
                buf[i] = (uint8_t)(seed >> 24);
        }
}

static int write_pattern(struct fixture *f, uint64_t offset, size_t len, uint32_t seed, unsigned int flags,
                         unsigned int n) {
        fill(f->shadow + offset, len, seed);
        return transfer(f, BLOCK_WRITE, flags, f->shadow + offset, offset, len, n);
}

/* The disk holds the shadow, read through the block layer in awkward pieces, and (raw) read from the file itself. */
static void check_all(struct fixture *f) {
        uint8_t *buf = malloc(SIZE);

        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 0, SIZE, 7), 0);
        assert_memory_equal(buf, f->shadow, SIZE);
        if (f->backing_fd < 0) {
                assert_int_equal(pread(f->fd, buf, SIZE, 0), SIZE);
                assert_memory_equal(buf, f->shadow, SIZE);
        }
        free(buf);
}

static void exercise(struct fixture *f) {
        assert_int_equal(write_pattern(f, 0, 512, 1, 0, 1), 0);
        assert_int_equal(write_pattern(f, SIZE - 512, 512, 2, 0, 3), 0); /* the last sector */
        assert_int_equal(write_pattern(f, 1 << 20, 1 << 20, 3, 0, 8), 0);
        assert_int_equal(write_pattern(f, 4096 * 3 + 512, 4096 * 5, 4, BLOCK_DURABLE, 5), 0);
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), 0);
        check_all(f);

        memset(f->shadow + 4096 * 300, 0, 4096 * 10);
        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, BLOCK_UNMAP, NULL, 4096 * 300, 4096 * 10, 0), 0);
        memset(f->shadow + (1 << 20) + 512, 0, 1536);
        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, 0, NULL, (1 << 20) + 512, 1536, 0), 0);
        check_all(f);
        assert_int_equal(transfer(f, BLOCK_DISCARD, 0, NULL, 1 << 20, 1 << 19, 0), 0);
}

/* Both engines must give the same bytes; an engine that is only a fallback rots unseen otherwise. */
static void test_ring_moves_bytes(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_URING);

        assert_string_equal(block_queue_engine(f->queue), "io_uring");
        exercise(f);
        fixture_free(f);
}

static void test_threads_move_bytes(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_THREADS);

        assert_string_equal(block_queue_engine(f->queue), "threads");
        exercise(f);
        fixture_free(f);
}

/* The kernel may move less than asked: without continuation the guest would read stale memory as its file's tail. */
static void test_short_transfers_are_continued(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_THREADS);

        fault.short_by = 777;
        assert_int_equal(write_pattern(f, 8192, 16384, 5, 0, 3), 0);
        fault.short_by = 60000;
        check_all(f);
        assert_true(block_queue_metrics(f->queue)->continued > 20);
        fixture_free(f);
}

/* An error half way is the request's error, and the next request works. EINTR and EAGAIN are no errors. */
static void test_errors_come_through_once(void **state) {
        static const int errors[] = { EIO, ENOSPC };
        struct fixture *f = fixture_open(BLOCK_ENGINE_THREADS);
        uint8_t buf[4096] = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(errors); i++) {
                fault.short_by = 1024;
                fault.error = errors[i];
                fault.error_in = 2;
                assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, 0, 4096, 1), -errors[i]);
        }
        assert_int_equal(block_queue_metrics(f->queue)->errors, 2);
        fault.error = EINTR;
        fault.error_in = 2;
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, 0, 4096, 1), 0);
        fault.error = EAGAIN;
        fault.error_in = 2;
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 0, 4096, 1), 0);
        fault.error = EIO;
        fault.error_in = 1;
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), -EIO); /* a lost fdatasync error is lost data */
        fixture_free(f);
}

/* Linux tells of what it could not write back once. Without this, another queue's flush, or a durable write, claims that its data is safe. */
static void test_a_lost_sync_is_no_success_later(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_THREADS);
        struct block_queue_options o = { .depth = 64, .loop = f->loop };
        uint8_t buf[4096] = { 0 };

        assert_int_equal(block_queue_new(f->block, &o, &f->second, NULL), 0);
        fault.error = EIO;
        fault.error_in = 1;
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), -EIO);
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, 0, 4096, 1), 0);
        assert_int_equal(transfer(f, BLOCK_WRITE, BLOCK_DURABLE, buf, 0, 4096, 1), -EIO);
        block_queue_free(f->queue);
        f->queue = TAKE_PTR(f->second);
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), -EIO);
        fixture_free(f);
}

/* One call for 2 GiB would hold up a reset, and the disk's other workers, for as long as slow storage takes for it. */
static void test_large_ranges_go_in_steps(void **state) {
        struct fixture *f = fixture_new();
        struct file_options o = options_of(f);

        assert_int_equal(ftruncate(f->fd, 1 << 30), 0);
        assert_int_equal(open_raw(f, BLOCK_ENGINE_THREADS, &o, NULL), 0);
        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, BLOCK_UNMAP, NULL, 512, 200 << 20, 0), 0);
        assert_int_equal(fault.fallocates, 4);
        assert_int_equal(transfer(f, BLOCK_DISCARD, 0, NULL, 0, 128 << 20, 0), 0);
        assert_int_equal(fault.fallocates, 6);
        fixture_free(f);
}

/* A durable write is done after fdatasync, not before; others don't pay for one. */
static void test_durable_writes_sync_after_the_data(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_THREADS);

        assert_int_equal(write_pattern(f, 0, 4096, 6, 0, 1), 0);
        assert_int_equal(fault.syncs, 0);
        assert_int_equal(write_pattern(f, 0, 4096, 7, BLOCK_DURABLE, 1), 0);
        assert_int_equal(fault.syncs, 1);
        assert_int_equal(fault.syncs_at_write_end, 0);
        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, BLOCK_DURABLE, NULL, 0, 4096, 0), 0);
        assert_int_equal(fault.syncs, 2);
        fixture_free(f);
}

/* File systems without hole punching (NFS 3, 9p): zeroes are written, discards are taken as advice. */
static void test_zeroes_are_written_where_fallocate_is_missing(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_THREADS);

        assert_int_equal(write_pattern(f, 0, 3 << 20, 8, 0, 1), 0);
        fault.no_fallocate = true;
        memset(f->shadow + 512, 0, (2 << 20) + 70144);
        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, BLOCK_UNMAP, NULL, 512, (2 << 20) + 70144, 0), 0);
        check_all(f);
        assert_int_equal(fault.fallocates, 2); /* hole, then range; learnt */
        memset(f->shadow, 0, 512);
        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, 0, NULL, 0, 512, 0), 0);
        assert_int_equal(fault.fallocates, 2);
        assert_int_equal(transfer(f, BLOCK_DISCARD, 0, NULL, 0, 4096, 0), 0);
        check_all(f); /* advice not taken: the data stays */
        fixture_free(f);
}

/* A hole gives the space back: without it a guest's fstrim does nothing. */
static void test_discard_frees_space(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_AUTO);
        struct stat before, after;

        assert_int_equal(write_pattern(f, 0, 2 << 20, 9, 0, 1), 0);
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), 0);
        assert_int_equal(fsync(f->fd), 0);
        fstat(f->fd, &before);
        assert_int_equal(transfer(f, BLOCK_DISCARD, 0, NULL, 0, 1 << 20, 0), 0);
        fstat(f->fd, &after);
        assert_int_equal(before.st_size, after.st_size);
        assert_true(after.st_blocks <= before.st_blocks);
        if (after.st_blocks == before.st_blocks)
                print_message("note: no hole: %ld blocks before and after\n", (long)before.st_blocks);
        fixture_free(f);
}

/* What a guest asks for beyond its disk, off its grid or on a read-only disk never reaches the file. */
static void test_bad_requests_are_refused(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_AUTO);
        struct file_options o = options_of(f);
        uint8_t buf[1024] = { 0 };
        struct iovec iov[2] = { { buf, 512 }, { buf, SIZE_MAX - 256 } };
        struct call c = { .request = { .op = BLOCK_READ, .length = 256, .iov = iov, .n_iov = 2 } };

        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, SIZE, 512, 1), -ERANGE);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, UINT64_MAX - 511, 1024, 1), -ERANGE);
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, SIZE - 512, 1024, 1), -ERANGE);
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, 256, 512, 1), -EINVAL);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 0, 100, 1), -EINVAL);
        assert_int_equal(transfer(f, BLOCK_DISCARD, 0, NULL, 0, UINT64_MAX - 511, 0), -ERANGE);
        c.request.length = 512; /* buffers that overflow when added up, and then match */
        iov[0].iov_len = 1024;
        iov[1].iov_len = UINT64_MAX - 511;
        assert_int_equal(run(f, &c), -EINVAL);

        close_disk(f);
        o.readonly = true;
        assert_int_equal(open_raw(f, BLOCK_ENGINE_AUTO, &o, NULL), 0);
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, 0, 512, 1), -EROFS);
        assert_int_equal(transfer(f, BLOCK_DISCARD, 0, NULL, 0, 512, 0), -EROFS);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 0, 512, 1), 0);
        fixture_free(f);
}

/* A file truncated behind our back: an error, not zeroes that the guest takes for its data. */
static void test_truncated_file_is_an_error(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_AUTO);
        uint8_t buf[4096];

        assert_int_equal(ftruncate(f->fd, 2048), 0);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 0, 4096, 1), -EIO);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 8192, 4096, 1), -EIO);
        fixture_free(f);
}

/* Hosts that forbid io_uring (containers, hardened kernels) still run machines. */
static void test_falls_back_when_uring_is_forbidden(void **state) {
        struct fixture *f = fixture_new();
        struct file_options o = options_of(f);
        _cleanup_error_ struct error e = ERROR_INIT;

        fault.no_uring = true;
        assert_int_equal(open_raw(f, BLOCK_ENGINE_URING, &o, &e), -EPERM);
        assert_string_equal(e.id, "disk-engine");
        close_disk(f);
        assert_int_equal(open_raw(f, BLOCK_ENGINE_AUTO, &o, NULL), 0);
        assert_string_equal(block_queue_engine(f->queue), "threads");
        exercise(f);
        fixture_free(f);
}

/* A size that is no multiple of a sector would lose the tail in silence; a pipe is no disk. */
static void test_open_refuses_what_is_no_disk(void **state) {
        struct fixture *f = fixture_new();
        struct file_options o = options_of(f);
        _cleanup_error_ struct error e = ERROR_INIT;
        char path[64];
        int fds[2];

        assert_int_equal(ftruncate(f->fd, 1000), 0);
        assert_int_equal(open_raw(f, BLOCK_ENGINE_AUTO, &o, &e), -EUCLEAN);
        assert_string_equal(e.id, "disk-size");
        error_clear(&e);
        assert_int_equal(ftruncate(f->fd, 0), 0);
        assert_int_equal(open_raw(f, BLOCK_ENGINE_AUTO, &o, &e), -EUCLEAN);
        assert_string_equal(e.id, "disk-size");
        error_clear(&e);
        assert_int_equal(pipe(fds), 0);
        o.fd = fds[1];
        assert_int_equal(open_raw(f, BLOCK_ENGINE_AUTO, &o, &e), -EINVAL);
        assert_string_equal(e.id, "disk-type");
        error_clear(&e);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
        assert_int_equal(ftruncate(f->fd, 4096), 0);
        o.fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(o.fd >= 0);
        assert_int_equal(open_raw(f, BLOCK_ENGINE_AUTO, &o, &e), -EBADF);
        assert_string_equal(e.id, "disk-access");
        close(o.fd);
        close(fds[0]);
        close(fds[1]);
        fixture_free(f);
}

/* More requests than ring entries, all at once, each done exactly once; drain returns only when they are. */
static void many(enum block_engine engine, bool cancel) {
        struct fixture *f = fixture_open(engine);
        enum { N = 64, LEN = 8192 };
        static struct call calls[N];

        fill(f->shadow, N * LEN, 11);
        for (unsigned int i = 0; i < N; i++) {
                calls[i] =
                        (struct call){ .request = { .op = BLOCK_WRITE, .length = LEN, .n_iov = 1, .done = on_done } };
                calls[i].request.offset = (uint64_t)i * LEN;
                calls[i].iov[0] = (struct iovec){ f->shadow + i * LEN, LEN };
                calls[i].request.iov = calls[i].iov;
                block_queue_submit(f->queue, &calls[i].request);
        }
        assert_int_equal(block_queue_drain(f->queue, cancel, 10000), 0);
        for (unsigned int i = 0; i < N; i++) {
                assert_int_equal(calls[i].done, 1);
                if (!cancel)
                        assert_int_equal(calls[i].result, 0);
                else
                        assert_true(calls[i].result == 0 || calls[i].result == -ECANCELED);
        }
        if (!cancel)
                check_all(f);
        fixture_free(f);
}

static void test_many_in_flight(void **state) {
        many(BLOCK_ENGINE_AUTO, false);
        many(BLOCK_ENGINE_AUTO, true);
        many(BLOCK_ENGINE_THREADS, false);
        many(BLOCK_ENGINE_THREADS, true);
}

/* With O_DIRECT, a guest's buffer at an odd address is bounced, not refused; several at once take turns. */
static void test_direct_bounces_misaligned_buffers(void **state) {
        struct fixture *f = fixture_new();
        struct file_options o = options_of(f);
        _cleanup_error_ struct error e = ERROR_INIT;
        static struct call calls[4];
        enum { LEN = 600 * 1024 }; /* more than two bounce buffers */
        uint8_t *raw;
        int done = 0;

        o.direct = true;
        if (open_raw(f, BLOCK_ENGINE_AUTO, &o, &e) < 0) {
                print_message("skipped: no direct I/O on this file system (%s)\n", e.message);
                fixture_free(f);
                skip();
        }
        raw = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        fill(f->shadow, SIZE, 12);
        for (unsigned int i = 0; i < 4; i++) {
                uint8_t *at = raw + (size_t)i * (LEN + 4096) + 10;

                memcpy(at, f->shadow + (size_t)i * 1024 * 1024, LEN);
                calls[i] =
                        (struct call){ .request = { .op = BLOCK_WRITE, .length = LEN, .n_iov = 2, .done = on_done } };
                calls[i].request.offset = (uint64_t)i * 1024 * 1024;
                calls[i].iov[0] = (struct iovec){ at, 1001 };
                calls[i].iov[1] = (struct iovec){ at + 1001, LEN - 1001 };
                calls[i].request.iov = calls[i].iov;
                block_queue_submit(f->queue, &calls[i].request);
        }
        block_queue_kick(f->queue);
        for (int rounds = 0; rounds < 1000 && done < 4; rounds++) {
                loop_run_once(f->loop, 1000);
                done = 0;
                for (unsigned int i = 0; i < 4; i++)
                        done += calls[i].done;
        }
        assert_int_equal(done, 4);
        assert_int_equal(block_queue_metrics(f->queue)->bounced, 4);
        for (unsigned int i = 0; i < 4; i++) {
                uint64_t offset = (uint64_t)i * 1024 * 1024;

                assert_int_equal(calls[i].result, 0);
                memset(raw, 0, LEN + 64);
                assert_int_equal(transfer(f, BLOCK_READ, 0, raw + 3, offset, LEN, 3), 0);
                assert_memory_equal(raw + 3, f->shadow + offset, LEN);
                memset(raw, 0, LEN);
                assert_int_equal(transfer(f, BLOCK_READ, 0, raw, offset, LEN / 4096 * 4096, 1), 0);
                assert_memory_equal(raw, f->shadow + offset, LEN / 4096 * 4096);
        }
        munmap(raw, SIZE);
        fixture_free(f);
}

/* A qcow2 image on a raw one that is shorter than it, and full. */
static struct fixture *fixture_open_chain(enum block_engine engine, uint32_t cluster) {
        struct fixture *f = fixture_new();
        struct file_options o = options_of(f), backing = o;
        struct qcow2_create create = { .size = SIZE, .cluster = cluster };
        struct layer *top, *bottom;
        struct file *file;
        int r;

        f->backing_fd = backing.fd = temp_file(SIZE / 2);
        fill(f->shadow, SIZE / 2, 20);
        assert_int_equal(pwrite(f->backing_fd, f->shadow, SIZE / 2, 0), SIZE / 2);
        backing.readonly = true;
        assert_int_equal(file_open(&backing, &file, NULL), 0);
        assert_int_equal(raw_open(file, &bottom, NULL), 0);
        assert_int_equal(file_open(&o, &file, NULL), 0);
        assert_int_equal(qcow2_create(file, &create, NULL), 0);
        assert_int_equal(qcow2_open(file, &(struct qcow2_options){ 0 }, &top, NULL), 0);
        top->backing = bottom;
        r = open_queue(f, engine, top, NULL);
        if (r < 0 && engine == BLOCK_ENGINE_URING) {
                print_message("skipped: io_uring is not available here (%s)\n", strerror(-r));
                skip();
        }
        assert_int_equal(r, 0);
        return f;
}

/* Every way that a piece can take: found in either file, zeroes, copy on write, tables that are not there yet. */
static void exercise_chain(enum block_engine engine, uint32_t cluster) {
        struct fixture *f = fixture_open_chain(engine, cluster);
        const struct block_metrics *m = block_queue_metrics(f->queue);
        uint32_t random = 4711;

        check_all(f);
        exercise(f);
        memset(f->shadow + (1 << 20), 0, 1 << 19); /* what exercise() has discarded reads as zeroes */
        for (unsigned int i = 0; i < 300; i++) {
                uint64_t offset, length;

                random = random * 1664525 + 1013904223;
                offset = (random >> 8) % (SIZE / 512) * 512;
                random = random * 1664525 + 1013904223;
                length = MIN(((random >> 8) % 200 + 1) * 512, SIZE - offset);
                if (random >> 30 == 0) {
                        memset(f->shadow + offset, 0, length);
                        assert_int_equal(transfer(f, BLOCK_WRITE_ZEROES, random >> 29 & 1 ? BLOCK_UNMAP : 0, NULL,
                                                  offset, length, 0),
                                         0);
                } else {
                        assert_int_equal(write_pattern(f, offset, length, random, 0, 1 + (random >> 28) % 8), 0);
                }
                if (i % 50 == 0)
                        check_all(f);
        }
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), 0);
        check_all(f);
        assert_true(m->waited > 0 && m->errors == 0);
        close_disk(f);
        fixture_free(f);
}

static void test_ring_serves_a_chain(void **state) {
        exercise_chain(BLOCK_ENGINE_URING, 512);
        exercise_chain(BLOCK_ENGINE_URING, 65536);
}

static void test_threads_serve_a_chain(void **state) {
        exercise_chain(BLOCK_ENGINE_THREADS, 4096);
        exercise_chain(BLOCK_ENGINE_THREADS, 65536);
}

/* An error in a worker is the request's own, whatever it was about: data, a table, a flush; then the disk works on. */
static void test_errors_in_a_chain_come_through(void **state) {
        struct fixture *f = fixture_open_chain(BLOCK_ENGINE_THREADS, 65536);
        uint8_t *buf = calloc(1, 1 << 20);
        unsigned int failed = 0;

        for (int n = 1; n < 40; n++) {
                int r;

                fault.error = n % 2 ? EIO : ENOSPC;
                fault.error_in = n;
                r = transfer(f, BLOCK_WRITE, BLOCK_DURABLE, buf, (uint64_t)(n % 4) << 20, 1 << 20, 3);
                assert_true(r == -fault.error || r == file_sync_lost(f->top->file));
                failed += r < 0;
                fault.error_in = 0;
                assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, (uint64_t)(n % 4) << 20, 1 << 20, 1), 0);
        }
        assert_true(failed > 0);
        assert_int_equal(block_queue_metrics(f->queue)->errors, failed);
        memset(f->shadow, 0, SIZE);
        check_all(f);
        free(buf);
        fixture_free(f);
}

/* Queues of one disk share its image and nothing else: each gets its own completions back, and none but its own. */
static void test_two_queues(void **state) {
        struct fixture *f = fixture_open_chain(BLOCK_ENGINE_AUTO, 65536);
        struct block_queue_options o = { .depth = 64, .loop = f->loop };
        enum { N = 60, LEN = 24576 };
        static struct call calls[N];
        int done = 0;

        assert_int_equal(block_queue_new(f->block, &o, &f->second, NULL), 0);
        fill(f->shadow, N * LEN, 21);
        for (unsigned int i = 0; i < N; i++) {
                struct block_queue *q = i % 2 ? f->queue : f->second;

                calls[i] =
                        (struct call){ .request = { .op = BLOCK_WRITE, .length = LEN, .n_iov = 1, .done = on_done } };
                calls[i].request.offset = (uint64_t)i * LEN;
                calls[i].iov[0] = (struct iovec){ f->shadow + i * LEN, LEN };
                calls[i].request.iov = calls[i].iov;
                block_queue_submit(q, &calls[i].request);
                block_queue_kick(q);
        }
        (void)block_queue_drain(f->second, true, 0);
        assert_int_equal(block_queue_drain(f->queue, false, 10000), 0);
        for (unsigned int i = 1; i < N; i += 2)
                assert_true(calls[i].done == 1 && calls[i].result == 0);
        assert_int_equal(block_queue_in_flight(f->queue), 0);
        for (int rounds = 0; rounds < 1000 && done < N; rounds++) {
                if (block_queue_in_flight(f->second) > 0)
                        loop_run_once(f->loop, 1000);
                done = 0;
                for (unsigned int i = 0; i < N; i++)
                        done += calls[i].done;
        }
        assert_int_equal(done, N);
        for (unsigned int i = 0; i < N; i += 2)
                if (calls[i].result != 0) {
                        assert_int_equal(calls[i].result, -ECANCELED);
                        assert_int_equal(write_pattern(f, (uint64_t)i * LEN, LEN, i, 0, 1), 0);
                }
        check_all(f);
        fixture_free(f);
}

#define N_CALLS 12
static void submit_sectors(struct fixture *f, struct call *calls, enum block_op op) {
        for (unsigned int i = 0; i < N_CALLS; i++) {
                calls[i] = (struct call){ .request = { .op = op, .length = 512, .n_iov = 1, .done = on_done } };
                calls[i].request.offset = (uint64_t)i * 512;
                calls[i].iov[0] = (struct iovec){ f->shadow + i * 512, 512 };
                calls[i].request.iov = calls[i].iov;
                block_queue_submit(f->queue, &calls[i].request);
        }
        block_queue_kick(f->queue);
}

static unsigned int count_done(const struct call *calls, int result) {
        unsigned int n = 0;

        for (unsigned int i = 0; i < N_CALLS; i++)
                n += calls[i].done == 1 && calls[i].result == result;
        return n;
}

static void on_resized(void *opaque, int result, const struct error *e) {
        int *ret = opaque;

        assert_int_equal(result, 0);
        ++*ret;
}

/* A disk grows under load: what is in flight arrives, the new part reads as zeroes and takes data, and not before it is there. */
static void test_grows_while_it_is_used(void **state) {
        struct fixture *f = fixture_open_chain(BLOCK_ENGINE_AUTO, 65536);
        struct call calls[N_CALLS];
        uint8_t buf[512], zeroes[512] = { 0 };
        int done = 0;

        fill(f->shadow, N_CALLS * 512, 41);
        memset(buf, 1, sizeof(buf));
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, SIZE, 512, 1), -ERANGE);
        assert_int_equal(block_resize(f->block, SIZE - 512, f->loop, on_resized, &done, NULL), -EINVAL);
        submit_sectors(f, calls, BLOCK_WRITE);
        assert_int_equal(block_resize(f->block, 512ull << 20, f->loop, on_resized, &done, NULL), 0);
        assert_int_equal(block_resize(f->block, 512ull << 20, f->loop, on_resized, &done, NULL), -EBUSY);
        for (unsigned int i = 0; i < N_CALLS; i++)
                wait_for(f, &calls[i].done, 1);
        wait_for(f, &done, 1);
        assert_int_equal(count_done(calls, 0), N_CALLS);
        assert_int_equal(block_size(f->block), 512 << 20);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, SIZE, 512, 1), 0);
        assert_memory_equal(buf, zeroes, 512);
        memset(buf, 7, sizeof(buf));
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, buf, (512 << 20) - 512, 512, 1), 0);
        memset(buf, 0, sizeof(buf));
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, (512 << 20) - 512, 512, 1), 0);
        assert_int_equal(buf[511], 7);
        check_all(f);
        fixture_free(f);
}

static void limit(struct fixture *f, enum throttle_bucket i, uint64_t rate) {
        struct throttle_group *g = throttle_disk_group(block_throttle(f->block));
        struct throttle_limits limits = { 0 };

        limits.v[i].rate = rate;
        throttle_group_set(g, &limits);
        throttle_group_unref(g);
}

static uint64_t now_ms(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A limit that can be outrun, that loses requests, or that also slows down what it is not about, is none. */
static void test_limits_hold_requests_back(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_AUTO);
        struct call calls[N_CALLS];
        uint8_t buf[512];
        uint64_t start = now_ms();

        fill(f->shadow, N_CALLS * 512, 31);
        limit(f, THROTTLE_OPS_WRITE, 20);
        submit_sectors(f, calls, BLOCK_WRITE);
        assert_int_equal(transfer(f, BLOCK_READ, 0, buf, 1 << 20, 512, 1), 0); /* reads have no limit */
        assert_int_equal(transfer(f, BLOCK_FLUSH, 0, NULL, 0, 0, 0), 0);
        assert_true(count_done(calls, 0) < N_CALLS);
        for (unsigned int i = 0; i < N_CALLS; i++) {
                wait_for(f, &calls[i].done, 1);
                assert_int_equal(calls[i].result, 0);
        }
        /* Of twelve, a tenth of a second's worth (2, and the one that fills the bucket) may go at once. */
        assert_true(now_ms() - start >= (N_CALLS - 3) * 50);
        assert_true(block_queue_metrics(f->queue)->throttled >= N_CALLS - 3);
        limit(f, THROTTLE_OPS_WRITE, 0);
        check_all(f);
        fixture_free(f);
}

/* Limits that go up must set free at once what waited for hours; a pause must not wait for them, and a reset drops what waits. */
static void test_limits_change_and_end(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_AUTO);
        struct call calls[N_CALLS];

        fill(f->shadow, N_CALLS * 512, 32);
        limit(f, THROTTLE_BYTES, 1);
        submit_sectors(f, calls, BLOCK_WRITE);
        assert_true(count_done(calls, 0) <= 1);
        limit(f, THROTTLE_BYTES, 0);
        for (unsigned int i = 0; i < N_CALLS; i++)
                wait_for(f, &calls[i].done, 1);
        assert_int_equal(count_done(calls, 0), N_CALLS);

        limit(f, THROTTLE_OPS, 1);
        fill(f->shadow, N_CALLS * 512, 33);
        submit_sectors(f, calls, BLOCK_WRITE);
        assert_int_equal(block_queue_drain(f->queue, false, 10000), 0);
        assert_int_equal(count_done(calls, 0), N_CALLS);

        submit_sectors(f, calls, BLOCK_READ);
        assert_int_equal(block_queue_drain(f->queue, true, 10000), 0);
        assert_true(count_done(calls, -ECANCELED) >= N_CALLS - 2);
        limit(f, THROTTLE_OPS, 0);
        fill(f->shadow, N_CALLS * 512, 33);
        check_all(f);

        limit(f, THROTTLE_OPS, 1);
        submit_sectors(f, calls, BLOCK_READ); /* freed while they wait: each still ends, once */
        close_disk(f);
        for (unsigned int i = 0; i < N_CALLS; i++)
                assert_int_equal(calls[i].done, 1);
        fixture_free(f);
}

/* ---- registered memory ------------------------------------------------------------------------------------------- */

/* @n regions of one mapping, for a queue of its own. */
static void open_registered(struct fixture *f, const struct iovec *regions, unsigned int n, uint64_t piece) {
        struct block_queue_options o = {
                .depth = 64, .loop = f->loop, .regions = regions, .n_regions = n, .region_piece = piece
        };

        block_queue_free(f->queue);
        f->queue = NULL;
        assert_int_equal(block_queue_new(f->block, &o, &f->queue, NULL), 0);
}

#define KIB    1024u
#define PIECE  (128 * KIB)
#define MEMORY (1024 * KIB)
/* Registered: pieces of 128, 128 and 44 KiB, then of 128 and 128. */
#define FIRST_END (300 * KIB)
#define SECOND    (512 * KIB)
#define END       (768 * KIB)

/* Memory that is registered, and its pages: other ones are mapped at its addresses since. So it shows who was asked for what. */
struct views {
        uint8_t *at;    /* what a transfer gets that names an address */
        uint8_t *pages; /* what one gets that names a registered piece */
};

static struct views views_register(struct fixture *f) {
        int fd = memfd_create("memory", MFD_CLOEXEC);
        struct iovec regions[2];
        struct views v;

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, MEMORY), 0);
        v.at = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        v.pages = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        assert_true(v.at != MAP_FAILED && v.pages != MAP_FAILED);
        regions[0] = (struct iovec){ v.at, FIRST_END };
        regions[1] = (struct iovec){ v.at + SECOND, END - SECOND };
        open_registered(f, regions, 2, PIECE);
        if (fault.unregistered > 0) {
                print_message("skipped: the kernel registers no memory here\n");
                skip();
        }
        assert_int_equal(fault.pieces, 5);
        assert_ptr_equal(mmap(v.at, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                         v.at);
        return v;
}

static void views_free(struct views v) {
        munmap(v.at, MEMORY);
        munmap(v.pages, MEMORY);
}

static bool is_in_one_piece(size_t offset, size_t len) {
        if (offset / PIECE != (offset + len - 1) / PIECE)
                return false;
        return offset + len <= FIRST_END || (offset >= SECOND && offset + len <= END);
}

/* A read, then a write, of @len bytes of the memory. What it must not touch stays. */
static void check_transfer(struct fixture *f, struct views v, size_t offset, size_t len, unsigned int n) {
        bool registered = is_in_one_piece(offset, len);
        uint8_t *meant = registered ? v.pages : v.at, *other = registered ? v.at : v.pages;
        _cleanup_free_ uint8_t *old = malloc(MEMORY);
        _cleanup_free_ uint8_t *expect = malloc(MEMORY);
        uint64_t where = (offset + len) % 7 * 512;

        memcpy(old, other, MEMORY);
        memcpy(expect, meant, MEMORY);
        fill(expect + offset, len, (uint32_t)(offset ^ len));
        assert_int_equal(pwrite(f->fd, expect + offset, len, (off_t)where), len);
        assert_int_equal(transfer(f, BLOCK_READ, 0, v.at + offset, where, len, n), 0);
        assert_memory_equal(meant, expect, MEMORY);
        assert_memory_equal(other, old, MEMORY);

        fill(expect + offset, len, (uint32_t)(offset + len));
        memcpy(meant, expect, MEMORY);
        assert_int_equal(transfer(f, BLOCK_WRITE, 0, v.at + offset, where + 512, len, n), 0);
        assert_memory_equal(meant, expect, MEMORY);
        assert_memory_equal(other, old, MEMORY);
        assert_int_equal(pread(f->fd, old, len, (off_t)where + 512), len);
        assert_memory_equal(old, expect + offset, len);
}

/* The wrong piece, or one that ends too early, would be an error or another request's data; none at all, the CPU's time. */
static void test_registered_memory_is_named_by_number(void **state) {
        static const struct {
                size_t offset, len;
                unsigned int n;
        } cases[] = {
                { 0, 512, 1 },
                { 0, PIECE, 1 },
                { 0, PIECE, 8 }, /* buffers in a row are one */
                { PIECE - 512, 512, 1 },
                { PIECE - 512, 1024, 1 },
                { PIECE, 4096, 1 },
                { PIECE + 512, 4096, 3 },
                { PIECE, 2 * PIECE, 1 },
                { FIRST_END - 512, 512, 1 },
                { FIRST_END - 512, 1024, 1 },
                { FIRST_END, 512, 1 },
                { SECOND - 512, 512, 1 },
                { SECOND - 512, 1024, 1 },
                { SECOND, 512, 1 },
                { END - 4096, 4096, 1 },
                { END - 4096, 8192, 2 },
                { END, 512, 1 },
                { 0, MEMORY, 1 },
        };
        struct fixture *f = fixture_open(BLOCK_ENGINE_URING);
        struct views v = views_register(f);
        struct iovec apart[2] = { { v.at, 512 }, { v.at + 1024, 512 } };
        struct call c = { .request = { .op = BLOCK_READ, .length = 1024, .iov = apart, .n_iov = 2 } };
        uint32_t random = 99;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                check_transfer(f, v, cases[i].offset, cases[i].len, cases[i].n);
        for (unsigned int i = 0; i < 60; i++) {
                size_t offset, len;

                random = random * 1664525 + 1013904223;
                offset = (random >> 8) % (MEMORY / 512) * 512;
                random = random * 1664525 + 1013904223;
                len = MIN(((random >> 8) % 128 + 1) * 512, MEMORY - offset);
                check_transfer(f, v, offset, len, 1 + random % 4);
        }
        /* Buffers with a gap between them are no piece. */
        assert_int_equal(pread(f->fd, f->shadow, 1024, 0), 1024);
        assert_int_equal(run(f, &c), 0);
        assert_memory_equal(v.at, f->shadow, 512);
        assert_memory_equal(v.at + 1024, f->shadow + 512, 512);
        views_free(v);
        fixture_free(f);
}

/* A transfer that ends early goes on in the piece where it stopped, or the rest of the buffer keeps what it had. */
static void test_registered_memory_is_continued(void **state) {
        struct fixture *f = fixture_open(BLOCK_ENGINE_URING);
        struct views v = views_register(f);

        fill(f->shadow, SIZE, 51);
        assert_int_equal(pwrite(f->fd, f->shadow, SIZE, 0), SIZE);
        assert_int_equal(ftruncate(f->fd, 3 * 4096), 0);
        memset(v.pages, 1, MEMORY);
        assert_int_equal(transfer(f, BLOCK_READ, 0, v.at + 512, 0, 16384, 1), -EIO);
        assert_memory_equal(v.pages + 512, f->shadow, 3 * 4096);
        assert_int_equal(v.pages[511], 1);
        assert_int_equal(v.pages[512 + 3 * 4096], 1);
        assert_int_equal(block_queue_metrics(f->queue)->continued, 1);
        views_free(v);
        fixture_free(f);

        for (shadow_piece = 64 * KIB; shadow_piece <= 1 << 20; shadow_piece *= 4) {
                f = fixture_open(BLOCK_ENGINE_URING);
                exercise(f);
                fixture_free(f);
                exercise_chain(BLOCK_ENGINE_URING, 4096); /* many steps to a request */
        }
        shadow_piece = 0;
}

/* Users may lock little memory, some memory can't be registered, and it may take for ever: disks work all the same. */
static void test_memory_that_cannot_be_registered(void **state) {
        static const struct {
                int error, in;
                bool slowly;
        } cases[] = { { ENOMEM, 1, false }, { ENOMEM, 3, false }, { EPERM, 4, false }, { 0, 0, true } };
        struct iovec region = { NULL, SIZE };
        struct fixture *f;
        int fd;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                f = fixture_open(BLOCK_ENGINE_URING);
                fault.register_error = cases[i].error;
                fault.register_in = cases[i].in;
                fault.register_slowly = cases[i].slowly;
                region.iov_base = f->shadow;
                open_registered(f, &region, 1, 1 << 20);
                assert_int_equal(fault.unregistered, 1); /* what it had is free again */
                exercise(f);
                open_registered(f, &region, 1, 1 << 20);
                assert_int_equal(fault.tables, 1); /* one refusal is enough */
                fixture_free(f);
        }
        f = fixture_open(BLOCK_ENGINE_THREADS); /* which has no use for it */
        region.iov_base = f->shadow;
        open_registered(f, &region, 1, 1 << 20);
        assert_int_equal(fault.tables, 0);
        exercise(f);
        fixture_free(f);

        f = fixture_open(BLOCK_ENGINE_URING);
        fd = temp_file(SIZE); /* on most file systems the kernel does not pin a file's pages for long */
        free(f->shadow);
        f->shadow = region.iov_base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(f->shadow, MAP_FAILED);
        open_registered(f, &region, 1, 1 << 20);
        exercise(f);
        munmap(f->shadow, SIZE);
        f->shadow = NULL;
        close(fd);
        fixture_free(f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ring_moves_bytes),
                cmocka_unit_test(test_threads_move_bytes),
                cmocka_unit_test(test_short_transfers_are_continued),
                cmocka_unit_test(test_errors_come_through_once),
                cmocka_unit_test(test_durable_writes_sync_after_the_data),
                cmocka_unit_test(test_zeroes_are_written_where_fallocate_is_missing),
                cmocka_unit_test(test_a_lost_sync_is_no_success_later),
                cmocka_unit_test(test_large_ranges_go_in_steps),
                cmocka_unit_test(test_discard_frees_space),
                cmocka_unit_test(test_bad_requests_are_refused),
                cmocka_unit_test(test_truncated_file_is_an_error),
                cmocka_unit_test(test_falls_back_when_uring_is_forbidden),
                cmocka_unit_test(test_open_refuses_what_is_no_disk),
                cmocka_unit_test(test_many_in_flight),
                cmocka_unit_test(test_direct_bounces_misaligned_buffers),
                cmocka_unit_test(test_ring_serves_a_chain),
                cmocka_unit_test(test_threads_serve_a_chain),
                cmocka_unit_test(test_errors_in_a_chain_come_through),
                cmocka_unit_test(test_two_queues),
                cmocka_unit_test(test_grows_while_it_is_used),
                cmocka_unit_test(test_limits_hold_requests_back),
                cmocka_unit_test(test_limits_change_and_end),
                cmocka_unit_test(test_registered_memory_is_named_by_number),
                cmocka_unit_test(test_registered_memory_is_continued),
                cmocka_unit_test(test_memory_that_cannot_be_registered),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
