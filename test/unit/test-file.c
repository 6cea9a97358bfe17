// SPDX-License-Identifier: GPL-2.0-or-later
/* file and raw: block devices, direct I/O and file systems that can't do everything are served as what they are, to the byte */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/block/layer/layer.h"
#include "vmm/block/qcow2/qcow2.h"

#define BLOCK 4096u
#define SIZE  (1u << 20)

/* What the kernel is like: a file in memory, or a block device of blocks of BLOCK bytes. */
static struct {
        bool device, no_punch, no_zero_range;
        int size_error, discard_error, read_error, write_error, sync_error, truncate_error;
        unsigned int smallest_read; /* bytes; anything less is misaligned */
        ssize_t at_most;            /* bytes at a time; -1: as many as there are */
        unsigned int calls, discards;
        uint64_t discarded[2];
        void (*while_reading)(void); /* called once */
} kernel;

static int result(int error) {
        kernel.calls++;
        errno = error;
        return error ? -1 : 0;
}

static int kernel_fstat(int fd, struct stat *st) {
        int r = fstat(fd, st);

        if (kernel.device)
                st->st_mode = S_IFBLK;
        return r;
}

static int kernel_ioctl(int fd, unsigned long request, ...) {
        va_list ap;
        void *arg;

        va_start(ap, request);
        arg = va_arg(ap, void *);
        va_end(ap);
        switch (request) {
        case BLKGETSIZE64:
                *(uint64_t *)arg = (uint64_t)lseek(fd, 0, SEEK_END);
                return result(kernel.size_error);
        case BLKSSZGET:
        case BLKPBSZGET:
                *(unsigned int *)arg = BLOCK;
                return 0;
        case BLKDISCARD:
                kernel.discards++;
                memcpy(kernel.discarded, arg, sizeof kernel.discarded);
                return result(kernel.discard_error);
        default:
                return result(ENOTTY);
        }
}

static int kernel_fallocate(int fd, int mode, off_t offset, off_t length) {
        assert_true(!kernel.device || (offset | length) % BLOCK == 0);
        if (mode & FALLOC_FL_PUNCH_HOLE ? kernel.no_punch : kernel.no_zero_range)
                return result(ENOSYS);
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

static ssize_t kernel_pread(int fd, void *buf, size_t n, off_t offset) {
        if (kernel.read_error)
                return result(kernel.read_error);
        return n < kernel.smallest_read ? result(EINVAL) : pread(fd, buf, n, offset);
}

static ssize_t kernel_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        if (kernel.read_error)
                return result(kernel.read_error);
        kernel.calls++;
        if (kernel.while_reading) {
                ssize_t done = preadv(fd, iov, n, offset);

                TAKE_PTR(kernel.while_reading)();
                return done;
        }
        return kernel.at_most < 0 ? preadv(fd, iov, n, offset)
                                  : pread(fd, iov->iov_base, MIN(iov->iov_len, (size_t)kernel.at_most), offset);
}

static ssize_t kernel_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        if (kernel.write_error)
                return result(kernel.write_error);
        kernel.calls++;
        return kernel.at_most < 0 ? pwritev(fd, iov, n, offset)
                                  : pwrite(fd, iov->iov_base, MIN(iov->iov_len, (size_t)kernel.at_most), offset);
}

static int kernel_fdatasync(int fd) {
        return result(kernel.sync_error);
}

static int kernel_ftruncate(int fd, off_t size) {
        return kernel.truncate_error ? result(kernel.truncate_error) : ftruncate(fd, size);
}

struct rig {
        struct sys sys;
        int fd;
        struct file *file;
        struct error e;
        uint8_t model[SIZE], seen[SIZE];
};

static int open_file(struct rig *t, bool readonly, bool direct) {
        const struct file_options o = { .sys = &t->sys, .fd = t->fd, .readonly = readonly, .direct = direct };

        file_close(TAKE_PTR(t->file));
        error_clear(&t->e);
        return file_open(&o, &t->file, &t->e);
}

static int setup(void **state) {
        struct rig *t = calloc(1, sizeof *t);
        char path[4096];

        assert_non_null(t);
        kernel = (typeof(kernel)){ .at_most = -1 };
        t->sys = sys_real;
        t->sys.fstat = kernel_fstat;
        t->sys.ioctl = kernel_ioctl;
        t->sys.fallocate = kernel_fallocate;
        t->sys.pread = kernel_pread;
        t->sys.preadv = kernel_preadv;
        t->sys.pwritev = kernel_pwritev;
        t->sys.fdatasync = kernel_fdatasync;
        t->sys.ftruncate = kernel_ftruncate;
        snprintf(path, sizeof path, "%s/lodge-test-file.XXXXXX", getenv("TMPDIR") ?: "/var/tmp");
        t->fd = mkostemp(path, O_CLOEXEC); /* not in memory: that has no direct I/O */
        assert_true(t->fd >= 0);
        unlink(path);
        for (size_t i = 0; i < SIZE; i++)
                t->model[i] = (uint8_t)(i * 131 + (i >> 9)) | 1;
        assert_int_equal(pwrite(t->fd, t->model, SIZE, 0), SIZE);
        *state = t;
        return 0;
}

static int teardown(void **state) {
        struct rig *t = *state;

        file_close(t->file);
        close(t->fd);
        error_clear(&t->e);
        free(t);
        return 0;
}

static void assert_content(struct rig *t) {
        assert_int_equal(pread(t->fd, t->seen, SIZE, 0), SIZE);
        assert_memory_equal(t->seen, t->model, SIZE);
}

/* A device says itself how large it and its blocks are, and does not change its size. */
static void test_device(void **state) {
        struct rig *t = *state;

        kernel.device = true;
        assert_int_equal(open_file(t, false, false), 0);
        assert_true(file_is_device(t->file));
        assert_int_equal(file_size(t->file), SIZE);
        assert_int_equal(file_logical_block(t->file), BLOCK);
        assert_int_equal(file_physical_block(t->file), BLOCK);
        assert_int_equal(file_truncate(t->file, SIZE), 0);
        assert_int_equal(file_truncate(t->file, SIZE + 512), -ENOTSUP);
        kernel.size_error = EIO;
        assert_int_equal(open_file(t, false, false), -EIO);
        assert_string_equal(t->e.id, "disk-size");
}

/* Zeroes reach exactly as far as they should, by whatever way the kernel has: a block too much is somebody's data. */
static void test_zero(void **state) {
        static const uint32_t ranges[][2] = {
                { 0, BLOCK }, { 100, 200 }, { 5000, 100000 }, { BLOCK - 1, 2 * BLOCK + 2 }
        };
        struct rig *t = *state;

        for (unsigned int how = 0; how < 16; how++) {
                kernel.device = how & 1;
                kernel.no_punch = how & 2;
                kernel.no_zero_range = how & 4;
                assert_int_equal(pwrite(t->fd, t->model, SIZE, 0), SIZE);
                assert_int_equal(open_file(t, false, false), 0);
                for (size_t i = 0; i < ELEMENTSOF(ranges); i++) {
                        uint64_t at = ranges[i][0] + 120000 * i, n = ranges[i][1];

                        memset(t->model + at, 0, n);
                        assert_int_equal(file_zero(t->file, at, n, how & 8), 0);
                        assert_content(t);
                        memset(t->model + at, 7, n);
                        assert_int_equal(file_write(t->file, t->model + at, n, at), 0);
                }
                assert_int_equal(file_zero(t->file, SIZE + 512, 512, true), 0); /* zeroes already */
                assert_int_equal(file_zero(t->file, 0, 0, true), 0);
                kernel.no_punch = kernel.no_zero_range = true;
                assert_int_equal(open_file(t, false, false), 0);
                kernel.write_error = ENOSPC;
                assert_int_equal(file_zero(t->file, 100, 3 * BLOCK, true), -ENOSPC);
                kernel.write_error = 0;
        }
}

/* A discard may do nothing, but never more than it was asked for; what the device can't do, it is not asked again. */
static void test_discard(void **state) {
        struct rig *t = *state;

        kernel.device = true;
        assert_int_equal(open_file(t, false, false), 0);
        assert_int_equal(file_discard(t->file, BLOCK - 1, 2 * BLOCK), 0);
        assert_int_equal(kernel.discarded[0], BLOCK);
        assert_int_equal(kernel.discarded[1], BLOCK);
        assert_int_equal(file_discard(t->file, 1, BLOCK), 0); /* no whole block */
        assert_int_equal(file_discard(t->file, SIZE, BLOCK), 0);
        assert_int_equal(file_discard(t->file, 0, 0), 0);
        assert_int_equal(kernel.discards, 1);
        kernel.discard_error = EIO;
        assert_int_equal(file_discard(t->file, 0, BLOCK), -EIO);
        kernel.discard_error = EOPNOTSUPP;
        assert_int_equal(file_discard(t->file, 0, BLOCK), 0);
        assert_int_equal(file_discard(t->file, 0, BLOCK), 0);
        assert_int_equal(kernel.discards, 3);
        assert_int_equal(file_punch(t->file, 512, BLOCK), -EOPNOTSUPP);
        assert_int_equal(file_punch(t->file, SIZE, BLOCK), 0);
        assert_content(t);
        kernel.device = false;
        kernel.no_punch = true;
        assert_int_equal(open_file(t, false, false), 0);
        for (unsigned int i = 0; i < 3; i++)
                assert_int_equal(file_discard(t->file, 0, BLOCK), 0);
        assert_int_equal(file_punch(t->file, 0, BLOCK), -EOPNOTSUPP);
        assert_content(t);
}

/* Nothing is changed through a file that was opened for reading, and nothing lies behind the last byte that a file can have. */
static void test_limits(void **state) {
        struct rig *t = *state;
        struct iovec v = { t->seen, 512 };
        uint64_t n;
        bool data;

        assert_int_equal(open_file(t, true, false), 0);
        assert_int_equal(file_write(t->file, "x", 1, 0), -EROFS);
        assert_int_equal(file_zero(t->file, 0, 1, true), -EROFS);
        assert_int_equal(file_punch(t->file, 0, 1), -EROFS);
        assert_int_equal(file_discard(t->file, 0, 1), -EROFS);
        assert_int_equal(file_truncate(t->file, 0), -EROFS);
        assert_content(t);
        assert_int_equal(open_file(t, false, false), 0);
        assert_int_equal(file_read(t->file, t->seen, 1, UINT64_MAX), -EFBIG);
        assert_int_equal(file_write(t->file, t->seen, 2, INT64_MAX), -EFBIG);
        assert_int_equal(file_truncate(t->file, 1ull << 63), -EFBIG);
        assert_int_equal(file_read(t->file, t->seen, 0, 0), 0);
        assert_int_equal(file_read_part(t->file, &v, 1, 256, 257, 0), -EINVAL);
        assert_int_equal(file_write_part(t->file, &v, 1, 0, 513, SIZE - 512), -EINVAL);
        assert_int_equal(file_next(t->file, SIZE, &data, &n), -ERANGE);
        kernel.truncate_error = ENOSPC;
        assert_int_equal(file_truncate(t->file, SIZE * 2), -ENOSPC);
        assert_int_equal(file_size(t->file), SIZE);
}

/* Somebody else cuts the file: what is behind its end reads as zeroes, and is not an error that stops a guest. */
static void test_shrunk(void **state) {
        struct rig *t = *state;

        assert_int_equal(open_file(t, false, false), 0);
        assert_int_equal(ftruncate(t->fd, SIZE / 2 + 100), 0);
        memset(t->seen, 7, SIZE);
        assert_int_equal(file_read(t->file, t->seen, SIZE, 0), 0);
        memset(t->model + SIZE / 2 + 100, 0, SIZE / 2 - 100);
        assert_memory_equal(t->seen, t->model, SIZE);
}

/* A kernel that never gets on must not hold a thread for ever; one that is interrupted now and then must not be an error. */
static void test_retries_end(void **state) {
        static const int errors[] = { EINTR, EAGAIN };
        struct rig *t = *state;

        assert_int_equal(open_file(t, false, false), 0);
        for (size_t i = 0; i < ELEMENTSOF(errors); i++) {
                kernel.calls = 0;
                kernel.read_error = kernel.write_error = errors[i];
                assert_int_equal(file_read(t->file, t->seen, 512, 0), -errors[i]);
                assert_int_equal(file_write(t->file, t->seen, 512, 0), -errors[i]);
                assert_in_range(kernel.calls, 4, 1000);
        }
        kernel.read_error = kernel.write_error = 0;
        kernel.sync_error = kernel.truncate_error = EINTR;
        assert_int_equal(file_sync(t->file), -EINTR);
        assert_int_equal(file_truncate(t->file, SIZE), -EINTR);
        kernel.sync_error = EIO; /* what was not written is forgotten: a second try would lie */
        kernel.calls = 0;
        assert_int_equal(file_sync(t->file), -EIO);
        assert_int_equal(kernel.calls, 1);
        kernel.sync_error = 0; /* and so would everybody's next one, which the kernel would let succeed */
        assert_int_equal(file_sync(t->file), -EIO);
        assert_int_equal(file_sync_lost(t->file), -EIO);
        kernel.at_most = 0;
        assert_int_equal(file_write(t->file, t->seen, 512, 0), -EIO);
}

/* The alignment that direct I/O wants is found by trying, and taken to be the largest where there is nothing to read. */
static void test_direct(void **state) {
        struct rig *t = *state;

        for (kernel.smallest_read = 512; kernel.smallest_read <= 4096; kernel.smallest_read *= 2) {
                assert_int_equal(open_file(t, false, true), 0);
                assert_true(file_is_direct(t->file));
                assert_in_range(file_logical_block(t->file), kernel.smallest_read, 4096);
        }
        kernel.smallest_read = 8192;
        assert_int_equal(open_file(t, false, true), -EINVAL);
        assert_string_equal(t->e.id, "disk-direct");
        kernel.smallest_read = 0;
        kernel.read_error = EIO;
        assert_int_equal(open_file(t, false, true), -EIO);
        assert_string_equal(t->e.id, "disk-direct");
        kernel.read_error = 0;
        kernel.smallest_read = 4096;
        assert_int_equal(open_file(t, false, true), 0);
        kernel.at_most = 512; /* never a whole block: what is left would not be aligned */
        assert_int_equal(file_read(t->file, t->seen, 2 * BLOCK, 0), -EIO);
        kernel.at_most = -1;
        kernel.read_error = EIO; /* a block that is changed in part can't be read: nothing is written */
        assert_int_equal(file_write(t->file, "x", 1, 1), -EIO);
        assert_int_equal(file_read(t->file, t->seen, 1, 1), -EIO);
        kernel.read_error = 0;
        assert_int_equal(fcntl(t->fd, F_SETFL, 0), 0);
        assert_content(t);
        assert_int_equal(ftruncate(t->fd, 0), 0);
        assert_int_equal(open_file(t, false, true), 0);
        assert_int_equal(file_logical_block(t->file), 4096);
}

static struct {
        struct file *file;
        pthread_t thread;
} neighbour;

static void *zero_neighbour(void *opaque) {
        assert_int_equal(file_zero(neighbour.file, 512, 512, true), 0);
        return NULL;
}

static void start_neighbour(void) {
        assert_int_equal(pthread_create(&neighbour.thread, NULL, zero_neighbour, NULL), 0);
        usleep(50000); /* time enough to punch the hole, if nothing keeps it waiting */
}

/* A cluster can be smaller than a block: one that is zeroed while its neighbour is written must not come back with what it held. */
static void test_hole_beside_a_write(void **state) {
        struct rig *t = *state;

        kernel.smallest_read = BLOCK;
        assert_int_equal(open_file(t, false, true), 0);
        neighbour.file = t->file;
        kernel.while_reading = start_neighbour;
        assert_int_equal(file_write(t->file, t->model, 512, 0), 0);
        assert_int_equal(pthread_join(neighbour.thread, NULL), 0);
        memset(t->model + 512, 0, 512);
        assert_int_equal(fcntl(t->fd, F_SETFL, 0), 0);
        assert_content(t);
}

static void *no_mmap(void *addr, size_t n, int protection, int flags, int fd, off_t offset) {
        errno = ENOMEM;
        return MAP_FAILED;
}

/* What isn't a disk, or can't be used as asked, is said before a machine starts on it. */
static void test_refusals(void **state) {
        struct rig *t = *state;
        int fd = t->fd, pipes[2];

        t->sys.mmap = no_mmap;
        assert_int_equal(open_file(t, false, true), -ENOMEM);
        assert_string_equal(t->e.id, "disk-direct");
        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        t->fd = pipes[0];
        assert_int_equal(open_file(t, false, false), -EINVAL);
        assert_string_equal(t->e.id, "disk-type");
        t->fd = -1;
        assert_int_equal(open_file(t, false, false), -EBADF);
        assert_string_equal(t->e.id, "disk-type");
        t->fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        assert_int_equal(open_file(t, false, false), -EBADF);
        assert_string_equal(t->e.id, "disk-access");
        close(t->fd);
        close(pipes[0]);
        close(pipes[1]);
        t->fd = fd;
}

/* A raw disk has whole sectors, at any time; a failed resize leaves the size that it had. */
static void test_raw_size(void **state) {
        static const uint64_t bad[] = { 0, 511, SIZE + 1 };
        struct rig *t = *state;
        struct layer *layer = NULL;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                assert_int_equal(ftruncate(t->fd, (off_t)bad[i]), 0);
                assert_int_equal(open_file(t, false, false), 0);
                assert_int_equal(raw_open(t->file, &layer, &t->e), -EUCLEAN);
                assert_string_equal(t->e.id, "disk-size");
        }
        assert_int_equal(ftruncate(t->fd, 512 * 3), 0);
        kernel.smallest_read = 4096;
        assert_int_equal(open_file(t, false, true), 0);
        assert_int_equal(raw_open(t->file, &layer, &t->e), -EINVAL);
        assert_string_equal(t->e.id, "disk-direct");
        assert_int_equal(fcntl(t->fd, F_SETFL, 0), 0);
        assert_int_equal(open_file(t, false, false), 0);
        assert_int_equal(raw_open(t->file, &layer, &t->e), 0);
        t->file = NULL;
        assert_int_equal(layer->ops->resize(layer, 513, &t->e), -EINVAL);
        error_clear(&t->e);
        kernel.truncate_error = ENOSPC;
        assert_int_equal(layer->ops->resize(layer, SIZE, &t->e), -ENOSPC);
        assert_string_equal(t->e.id, "disk-resize");
        assert_int_equal(atomic_load(&layer->size), 512 * 3);
        kernel.truncate_error = 0;
        assert_int_equal(layer->ops->resize(layer, SIZE, NULL), 0);
        assert_int_equal(atomic_load(&layer->size), SIZE);
        layer_close(layer);
}

/* On a file system without holes a raw disk still discards (to no effect) and still zeroes. */
static void test_raw_without_holes(void **state) {
        struct rig *t = *state;
        struct layer *layer = NULL;
        struct extent x;

        kernel.no_punch = kernel.no_zero_range = true;
        assert_int_equal(open_file(t, false, false), 0);
        assert_int_equal(raw_open(TAKE_PTR(t->file), &layer, &t->e), 0);
        assert_int_equal(layer_discard(layer, 0, SIZE / 2), 0);
        assert_content(t);
        assert_int_equal(layer_zero(layer, 512, 1024, true), 0);
        memset(t->model + 512, 0, 1024);
        assert_content(t);
        assert_int_equal(ftruncate(t->fd, SIZE / 2), 0); /* by somebody else: no data there, and no way to tell */
        assert_int_equal(layer_map(layer, NULL, SIZE - 512, 512, LAYER_HOLES, &x), 0);
        assert_int_equal(x.kind, EXTENT_ZERO);
        assert_int_equal(layer_flush(layer), 0);
        layer_close(layer);
}

/* An image on a device ends where the device ends: what does not fit is refused, and what is there stays sound. */
static void test_qcow2_on_a_device(void **state) {
        struct qcow2_create create = { .size = 8 << 20, .cluster = 4096 };
        struct qcow2_check c = { 0 };
        struct rig *t = *state;
        struct layer *layer = NULL;
        int r = 0;

        kernel.device = true;
        assert_int_equal(open_file(t, false, false), 0);
        create.preallocate_metadata = true;
        assert_int_equal(qcow2_create(t->file, &create, &t->e), -ENOSPC);
        assert_content(t);
        error_clear(&t->e);
        create.size = 512 << 10;
        assert_int_equal(qcow2_create(t->file, &create, &t->e), 0);
        create = (struct qcow2_create){ .size = 8 << 20, .cluster = 4096 };
        assert_int_equal(qcow2_create(t->file, &create, &t->e), 0);
        assert_int_equal(qcow2_open(TAKE_PTR(t->file), &(struct qcow2_options){ 0 }, &layer, &t->e), 0);
        for (uint64_t at = 0; r == 0 && at < create.size; at += 64 << 10)
                r = layer_write(layer, t->model, at, 64 << 10);
        assert_int_equal(r, -ENOSPC);
        assert_int_equal(layer_read(layer, NULL, t->seen, 0, 64 << 10), 0);
        assert_memory_equal(t->seen, t->model, 64 << 10);
        layer_close(layer);
        assert_int_equal(open_file(t, false, false), 0);
        assert_int_equal(qcow2_check(t->file, 0, &c, &t->e), 0);
        assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
        assert_int_equal(file_zero(t->file, 4096, 4096, true),
                         0); /* the refcount table is lost, and there is no room for another */
        assert_int_equal(qcow2_check(t->file, QCOW2_REPAIR_ALL, &c, &t->e), -ENOSPC);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_device),
                TEST(test_zero),
                TEST(test_discard),
                TEST(test_limits),
                TEST(test_shrunk),
                TEST(test_retries_end),
                TEST(test_direct),
                TEST(test_hole_beside_a_write),
                TEST(test_refusals),
                TEST(test_raw_size),
                TEST(test_raw_without_holes),
                TEST(test_qcow2_on_a_device),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
