// SPDX-License-Identifier: GPL-2.0-or-later
/* layer: a file's bytes arrive whole whatever the kernel does half way; a chain reads as one disk; epochs never let a reader down */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/iov.h"
#include "test/unit/temp-file.h"
#include "vmm/block/layer/layer.h"

static struct {
        size_t short_by;
        int interrupts;
        bool no_fallocate;
} fault;

static ssize_t fault_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        struct iovec one = iov[0];

        if (fault.interrupts > 0) {
                fault.interrupts--;
                errno = EINTR;
                return -1;
        }
        if (!fault.short_by)
                return preadv(fd, iov, n, offset);
        one.iov_len = MIN(one.iov_len, fault.short_by);
        return preadv(fd, &one, 1, offset);
}

static ssize_t fault_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        struct iovec one = iov[0];

        if (!fault.short_by)
                return pwritev(fd, iov, n, offset);
        one.iov_len = MIN(one.iov_len, fault.short_by);
        return pwritev(fd, &one, 1, offset);
}

static int fault_fallocate(int fd, int mode, off_t offset, off_t len) {
        if (fault.no_fallocate) {
                errno = EOPNOTSUPP;
                return -1;
        }
        return fallocate(fd, mode, offset, len);
}

struct disk {
        struct sys sys;
        int fd;
        struct file *file;
};

static void disk_make(struct disk *d, uint64_t size, bool readonly, bool direct) {
        struct file_options o;

        fault = (typeof(fault)){ 0 };
        d->sys = sys_real;
        d->sys.preadv = fault_preadv;
        d->sys.pwritev = fault_pwritev;
        d->sys.fallocate = fault_fallocate;
        d->fd = temp_file(size);
        o = (struct file_options){ .sys = &d->sys, .fd = d->fd, .readonly = readonly, .direct = direct };
        assert_int_equal(file_open(&o, &d->file, NULL), 0);
}

static void fill(uint8_t *buf, size_t n, unsigned int seed) {
        for (size_t i = 0; i < n; i++)
                buf[i] = (uint8_t)((i * 131 + seed * 7 + (i >> 8)) | 1);
}

/* Positions over pieces: an off-by-one here would put a guest's bytes at the wrong place. */
static void test_iov(void **state) {
        uint8_t a[3] = { 1, 2, 3 }, b[5] = { 4, 5, 6, 7, 8 }, out[8] = { 0 };
        struct iovec v[] = { { a, 3 }, { NULL, 0 }, { b, 5 } }, part[3];
        unsigned int n;

        assert_int_equal(iov_length(v, 3), 8);
        assert_int_equal(iov_slice(v, 3, 2, 4, part, 3, &n), 4);
        assert_int_equal(n, 2);
        assert_ptr_equal(part[0].iov_base, a + 2);
        assert_int_equal(part[1].iov_len, 3);
        assert_int_equal(iov_slice(v, 3, 2, 4, part, 1, &n), 1);
        assert_int_equal(iov_to_buf(v, 3, 1, out, 100), 7);
        assert_int_equal(out[0], 2);
        assert_int_equal(out[6], 8);
        assert_int_equal(iov_zero(v, 3, 2, 2), 2);
        assert_int_equal(a[2] + b[0], 0);
        assert_int_equal(b[1], 5);
        assert_int_equal(iov_from_buf(v, 3, 7, out, 4), 1);
        assert_int_equal(b[4], 2);
}

/* Short transfers and signals in the middle must not lose or repeat a byte; behind the end there are zeroes. */
static void test_file_whole(void **state) {
        static uint8_t in[100000], out[100000];
        struct disk d;

        disk_make(&d, 4096, false, false);
        fill(in, sizeof(in), 1);
        fault.short_by = 777;
        assert_int_equal(file_write(d.file, in, sizeof(in), 1000), 0);
        assert_int_equal(file_size(d.file), 101000);
        fault.interrupts = 3;
        assert_int_equal(file_read(d.file, out, sizeof(out), 1000), 0);
        assert_memory_equal(in, out, sizeof(in));
        memset(out, 9, sizeof(out));
        assert_int_equal(file_read(d.file, out, 2000, 100000), 0);
        assert_memory_equal(out, in + 99000, 1000);
        for (unsigned int i = 1000; i < 2000; i++)
                assert_int_equal(out[i], 0);
        file_close(d.file);
        close(d.fd);
}

/* Direct I/O at odd offsets must not damage the neighbours that share the block. */
static void test_file_direct_unaligned(void **state) {
        static uint8_t model[1 << 20], out[1 << 20];
        struct disk d;

        disk_make(&d, sizeof(model), false, true);
        assert_true(file_is_direct(d.file));
        srand(1);
        for (unsigned int i = 0; i < 200; i++) {
                uint64_t at = (uint64_t)rand() % (sizeof(model) - 1), len = (uint64_t)rand() % 600000 + 1;

                len = MIN(len, sizeof(model) - at);
                fill(model + at, len, i);
                fault.short_by = i % 3 == 0 ? 8192 : 0;
                assert_int_equal(file_write(d.file, model + at, len, at), 0);
                at = (uint64_t)rand() % (sizeof(model) - 1);
                len = MIN((uint64_t)rand() % 300000 + 1, sizeof(model) - at);
                assert_int_equal(file_read(d.file, out, len, at), 0);
                assert_memory_equal(out, model + at, len);
        }
        file_close(d.file);
        close(d.fd);
}

/* Zeroing must zero exactly the range, with and without the file system's help; a punch that can't be done does nothing. */
static void test_file_zero(void **state) {
        for (unsigned int i = 0; i < 4; i++) {
                static uint8_t in[300000], out[300000];
                struct disk d;
                bool data;
                uint64_t n;

                disk_make(&d, 0, false, false);
                fill(in, sizeof(in), i);
                assert_int_equal(file_write(d.file, in, sizeof(in), 0), 0);
                fault.no_fallocate = i & 1;
                assert_int_equal(file_zero(d.file, 4097, 200000, i & 2), 0);
                memset(in + 4097, 0, 200000);
                assert_int_equal(file_read(d.file, out, sizeof(out), 0), 0);
                assert_memory_equal(in, out, sizeof(in));
                assert_int_equal(file_punch(d.file, 0, 4096), i & 1 ? -EOPNOTSUPP : 0);
                assert_int_equal(file_discard(d.file, 0, 4096), 0);
                if (!(i & 1)) {
                        assert_int_equal(file_next(d.file, 0, &data, &n), 0);
                        assert_false(data);
                        assert_int_equal(n, 4096);
                }
                file_close(d.file);
                close(d.fd);
        }
}

/* A layer with a hole from the middle on: what a chain needs from a format. */
static int half_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
                    struct extent *ret_extent) {
        uint64_t half = layer->size / 2;

        if (offset < half)
                *ret_extent = (struct extent){ EXTENT_DATA, MIN(length, half - offset), offset, false };
        else
                *ret_extent = (struct extent){ EXTENT_UNALLOCATED, length, 0, false };
        return 0;
}

static void half_close(struct layer *layer) {
        layer_destroy(layer);
}

static const struct layer_ops half_ops = { .name = "half", .map = half_map, .close = half_close };

/* Reading through the chain, past a backing image's end, and never writing to what is read only. */
static void test_chain(void **state) {
        static uint8_t low[8192], high[16384], out[16384];
        struct layer top = { 0 }, *raw = NULL, *owner;
        struct layer_user user;
        struct extent extent;
        struct disk d1, d2;

        disk_make(&d1, sizeof(low), false, false);
        fill(low, sizeof(low), 1);
        assert_int_equal(file_write(d1.file, low, sizeof(low), 0), 0);
        disk_make(&d2, sizeof(high), false, false);
        fill(high, sizeof(high), 2);
        assert_int_equal(file_write(d2.file, high, sizeof(high), 0), 0);
        assert_int_equal(raw_open(d1.file, &raw, NULL), 0);
        layer_init(&top, &half_ops, d2.file);
        top.size = 12288;
        top.backing = raw;
        assert_int_equal(layer_user_add(&top, &user), 0);
        assert_int_equal(raw->n_users, 1);

        memset(out, 7, sizeof(out));
        assert_int_equal(layer_read(&top, &user, out, 0, 12288), 0);
        assert_memory_equal(out, high, 6144);
        assert_memory_equal(out + 6144, low + 6144, 2048);
        for (unsigned int i = 8192; i < 12288; i++)
                assert_int_equal(out[i], 0);
        assert_int_equal(layer_read(&top, NULL, out, 12000, 512), -ERANGE);

        assert_int_equal(layer_status(&top, &user, NULL, 6144, 6144, &extent, &owner), 0);
        assert_ptr_equal(owner, raw);
        assert_int_equal(extent.length, 2048);
        assert_int_equal(layer_status(&top, &user, raw, 6144, 6144, &extent, &owner), 0);
        assert_null(owner);
        assert_int_equal(extent.kind, EXTENT_UNALLOCATED);

        top.readonly = true;
        assert_int_equal(layer_write(&top, out, 0, 512), -EROFS);
        assert_int_equal(layer_discard(&top, 0, 512), -EROFS);
        assert_int_equal(layer_write(raw, high, 512, 1024), 0);
        assert_int_equal(layer_write(raw, high, 8000, 1024), -ERANGE);
        assert_int_equal(layer_read(raw, NULL, out, 512, 1024), 0);
        assert_memory_equal(out, high, 1024);
        layer_user_remove(&top, &user);
        assert_int_equal(raw->n_users, 0);
        layer_close(&top);
        close(d1.fd);
        close(d2.fd);
}

static struct extent mistake; /* what the next format answers */

static int wrong_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
                     struct extent *ret_extent) {
        *ret_extent = mistake;
        return 0;
}

static const struct layer_ops wrong_ops = { .name = "wrong", .map = wrong_map, .close = half_close };

/* A format that makes a mistake must not become an endless loop, a read outside, or a call of what isn't there. */
static void test_format_mistakes(void **state) {
        static const struct extent mistakes[] = { { EXTENT_DATA, 0, 0, false },
                                                  { EXTENT_ZERO, 513, 0, false },
                                                  { EXTENT_COMPRESSED, 512, 0, false } };
        struct layer top = { 0 };
        uint8_t buf[512];
        struct disk d;

        disk_make(&d, 4096, false, false);
        layer_init(&top, &wrong_ops, d.file);
        top.size = 4096;
        for (size_t i = 0; i < ELEMENTSOF(mistakes); i++) {
                mistake = mistakes[i];
                top.cluster = 4096;
                assert_int_equal(layer_read(&top, NULL, buf, 0, 512), -EIO);
        }
        layer_close(&top);
        close(d.fd);
}

/* Ranges that leave the disk, or wrap around, and buffers that are too short never reach a format. */
static void test_ranges(void **state) {
        static const uint64_t bad[][2] = {
                { 4097, 1 }, { 4096, 1 }, { 0, 4097 }, { UINT64_MAX, 2 }, { 2, UINT64_MAX }
        };
        struct extent extent;
        struct layer *raw = NULL, *owner;
        uint8_t buf[512] = { 1 };
        struct iovec v = { buf, sizeof buf };
        struct disk d;

        disk_make(&d, 4096, false, false);
        assert_int_equal(raw_open(d.file, &raw, NULL), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                uint64_t at = bad[i][0], n = bad[i][1];

                assert_int_equal(layer_read(raw, NULL, buf, at, n), -ERANGE);
                assert_int_equal(layer_write(raw, buf, at, n), -ERANGE);
                assert_int_equal(layer_zero(raw, at, n, true), -ERANGE);
                assert_int_equal(layer_discard(raw, at, n), -ERANGE);
                assert_int_equal(layer_map(raw, NULL, at, n, 0, &extent), -ERANGE);
                assert_int_equal(layer_status(raw, NULL, NULL, at, n, &extent, &owner), -ERANGE);
        }
        assert_int_equal(layer_map(raw, NULL, 0, 0, 0, &extent), -ERANGE);
        assert_int_equal(layer_status(raw, NULL, NULL, 0, 0, &extent, &owner), -ERANGE);
        assert_int_equal(layer_readv(raw, NULL, &v, 1, 0, 1024), -EINVAL);
        assert_int_equal(layer_writev(raw, &v, 1, 0, 1024), -EINVAL);
        assert_int_equal(layer_write(raw, buf, 4096, 0), 0);
        assert_int_equal(layer_zero(raw, 4096, 0, false), 0);
        assert_int_equal(layer_discard(raw, 4096, 0), 0);
        raw->readonly = true;
        assert_int_equal(layer_map(raw, NULL, 0, 512, LAYER_WRITE, &extent), -EROFS);
        assert_int_equal(layer_flush(raw), 0);
        layer_close(raw);
        close(d.fd);
}

/* Nobody maps in half a chain: where one layer has no place for another thread, none keeps it. */
static void test_users_are_full(void **state) {
        static struct layer_user users[LAYER_USERS_MAX], one, other;
        struct layer top = { 0 }, *raw = NULL;
        struct disk d1, d2;

        disk_make(&d1, 4096, false, false);
        disk_make(&d2, 4096, false, false);
        assert_int_equal(raw_open(d1.file, &raw, NULL), 0);
        layer_init(&top, &half_ops, d2.file);
        top.backing = raw;
        for (unsigned int i = 0; i < LAYER_USERS_MAX; i++)
                assert_int_equal(layer_user_add(raw, &users[i]), 0);
        assert_int_equal(layer_user_add(&top, &one), -ENOSPC);
        assert_int_equal(top.n_users, 0);
        layer_user_remove(raw, &users[0]);
        assert_int_equal(layer_user_add(&top, &other), 0);
        layer_user_remove(&top, &other);
        for (unsigned int i = 1; i < LAYER_USERS_MAX; i++)
                layer_user_remove(raw, &users[i]);
        assert_int_equal(raw->n_users, 0);
        layer_close(&top);
        close(d1.fd);
        close(d2.fd);
}

/* Space must not be reused while somebody is inside who may know it; and must be once he has left. */
static void test_epochs(void **state) {
        struct layer top = { 0 };
        struct layer_user a, b;
        unsigned int ta, tb;
        uint64_t stamp;
        struct disk d;

        disk_make(&d, 4096, false, false);
        layer_init(&top, &half_ops, d.file);
        layer_user_add(&top, &a);
        layer_user_add(&top, &b);
        ta = layer_enter(&top, &a);
        stamp = layer_epoch(&top);
        assert_false(layer_passed(&top, stamp));
        assert_false(layer_passed(&top, stamp));
        tb = layer_enter(&top, &b); /* later: does not hold it up for ever */
        assert_false(layer_passed(&top, stamp));
        layer_leave(&a, ta);
        assert_true(layer_passed(&top, stamp));
        stamp = layer_epoch(&top);
        assert_false(layer_passed(&top, stamp));
        layer_leave(&b, tb);
        assert_true(layer_passed(&top, stamp));
        layer_user_remove(&top, &a);
        layer_user_remove(&top, &b);
        layer_close(&top);
        close(d.fd);
}

struct race {
        struct layer top;
        struct layer_user user;
        _Atomic uint64_t space; /* odd: in use by somebody else */
        _Atomic bool stop;
        _Atomic unsigned int caught;
};

static void *race_reader(void *opaque) {
        struct race *race = opaque;

        for (unsigned int i = 0; i < 200000; i++) {
                unsigned int token = layer_enter(&race->top, &race->user);
                uint64_t seen = race->space;

                /* From here on @seen's space must stay until we leave: the writer frees seen - 1 only when it has passed. */
                if (race->space > seen + 1)
                        race->caught++;
                layer_leave(&race->user, token);
        }
        race->stop = true;
        return NULL;
}

/* The same with threads: the writer goes on to the next but one space only when the last but one has passed. */
static void test_epochs_race(void **state) {
        static struct race race;
        pthread_t thread;
        struct disk d;

        disk_make(&d, 4096, false, false);
        layer_init(&race.top, &half_ops, d.file);
        layer_user_add(&race.top, &race.user);
        assert_int_equal(pthread_create(&thread, NULL, race_reader, &race), 0);
        while (!race.stop) {
                uint64_t stamp;

                race.space++; /* unmapped */
                stamp = layer_epoch(&race.top);
                while (!layer_passed(&race.top, stamp) && !race.stop)
                        sched_yield();
        }
        pthread_join(thread, NULL);
        assert_int_equal(race.caught, 0);
        layer_user_remove(&race.top, &race.user);
        layer_close(&race.top);
        close(d.fd);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_iov),
                cmocka_unit_test(test_file_whole),
                cmocka_unit_test(test_file_direct_unaligned),
                cmocka_unit_test(test_file_zero),
                cmocka_unit_test(test_chain),
                cmocka_unit_test(test_format_mistakes),
                cmocka_unit_test(test_ranges),
                cmocka_unit_test(test_users_are_full),
                cmocka_unit_test(test_epochs),
                cmocka_unit_test(test_epochs_race),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
