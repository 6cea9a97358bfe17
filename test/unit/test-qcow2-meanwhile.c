// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What workers do to a qcow2 image while another one resizes or flushes it
 *
 * The others' part is done by the file: when its n-th write or sync comes, the guest's writes are made first, by a thread that is waited
 * for. So each moment is tried, and the same ones in every run.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/qcow2-rig.h"

/* The layer that is at work; [@at, @end) is written when @calls have reached the file, and the sync that it was may fail. One thread at
 * a time. */
static struct {
        struct layer *layer;
        uint64_t at, end;
        unsigned int calls;
        bool fails, written;
} meanwhile;

static void *write_all(void *opaque) {
        struct layer *layer = opaque;
        uint8_t buf[512];
        intptr_t r = 0;

        memset(buf, 7, sizeof buf);
        for (uint64_t at = meanwhile.at; r == 0 && at < meanwhile.end; at += sizeof buf)
                r = layer_write(layer, buf, at, sizeof buf);
        return (void *)r;
}

static int write_meanwhile(void) {
        struct layer *layer = meanwhile.layer;
        pthread_t guest;
        void *r;

        if (!layer || meanwhile.calls-- > 0)
                return 0;
        meanwhile.layer = NULL;
        meanwhile.written = true;
        assert_int_equal(pthread_create(&guest, NULL, write_all, layer), 0);
        assert_int_equal(pthread_join(guest, &r), 0);
        assert_null(r);
        errno = EIO;
        return meanwhile.fails ? -1 : 0;
}

static ssize_t meanwhile_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        ssize_t r = pwritev(fd, iov, n, offset);

        if (!meanwhile.fails)
                write_meanwhile();
        return r;
}

static int meanwhile_fdatasync(int fd) {
        return write_meanwhile() < 0 ? -1 : fdatasync(fd);
}

static struct layer *open_layer(struct rig *t, const struct qcow2_options *o) {
        struct layer *layer = NULL;

        assert_int_equal(qcow2_open(t->file, o, &layer, &t->e), 0);
        return layer;
}

/* Closes the layer and with it the file; another one follows. */
static void reopen(struct rig *t, struct layer *layer) {
        layer_close(layer);
        rig_open(t, NULL);
}

/* An image whose file writes meanwhile. */
static void meanwhile_init(struct rig *t, const struct qcow2_create *o) {
        static struct sys sys;

        sys = sys_real;
        sys.pwritev = meanwhile_pwritev;
        sys.fdatasync = meanwhile_fdatasync;
        meanwhile.layer = NULL;
        rig_init(t);
        rig_create(t, o);
        file_close(t->file);
        rig_open(t, &sys);
}

/* A worker makes an L2 table at any moment while another lets the disk grow. The new L1 table, if there is one, has to know it. */
static void test_write_while_growing(void **state) {
        static const uint64_t sizes[] = {
                (1072 << 10) + 512, /* the L1 table is long enough */
                1536 << 10,         /* it gets longer, and stays */
                64 << 20,           /* it moves */
        };
        const struct qcow2_options o = { .cache = 2048 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++)
                for (unsigned int calls = 0; calls == 0 || meanwhile.written; calls++) {
                        struct layer *layer;
                        uint8_t buf[512];
                        struct rig t;

                        meanwhile_init(&t, &(struct qcow2_create){ .size = 1072 << 10, .cluster = 512 });
                        layer = open_layer(&t, &o);
                        memset(buf, 1, sizeof buf);
                        assert_int_equal(layer_write(layer, buf, 0, sizeof buf), 0);
                        meanwhile.layer = layer;
                        meanwhile.at = 1 << 20;
                        meanwhile.end = meanwhile.at + 512;
                        meanwhile.calls = calls;
                        meanwhile.fails = meanwhile.written = false;
                        assert_int_equal(layer->ops->resize(layer, sizes[i], &t.e), 0);
                        meanwhile.layer = NULL;
                        for (uint64_t at = 64 << 10; at < 1 << 20; at += 32 << 10) /* tables that push others out */
                                assert_int_equal(layer_write(layer, buf, at, sizeof buf), 0);
                        assert_int_equal(layer_flush(layer), 0);
                        reopen(&t, layer);
                        assert_flawless(&t);
                        layer = open_layer(&t, &o);
                        assert_int_equal(layer_read(layer, NULL, buf, 1 << 20, sizeof buf), 0);
                        assert_int_equal(buf[0], meanwhile.written ? 7 : 0);
                        reopen(&t, layer);
                        rig_done(&t);
                }
}

/* The refcount table gets longer while a flush is about to name the place that it had, and that flush fails: nothing points at the place any
 * more, so the image has to be looked at when it is opened again. */
static void test_refcounts_grow_in_a_flush(void **state) {
        const struct qcow2_create o = { .size = 16 << 20, .cluster = 512, .refcount_bits = 64 };
        struct layer *layer;
        struct rig t;

        for (unsigned int syncs = 0; syncs < 3; syncs++) {
                uint64_t end = 0;

                meanwhile_init(&t, &o);
                layer = open_layer(&t, &(struct qcow2_options){ 0 });
                for (uint8_t buf[512] = { 7 }; end < 3 << 20; end += sizeof buf)
                        assert_int_equal(layer_write(layer, buf, end, sizeof buf), 0);
                meanwhile.layer = layer;
                meanwhile.at = end;
                meanwhile.end = 12 << 20;
                meanwhile.calls = syncs;
                meanwhile.fails = true;
                assert_int_equal(layer_flush(layer), -EIO);
                assert_int_equal(layer_flush(layer), -EIO); /* what a sync has lost stays lost (file_sync()) */
                reopen(&t, layer);
                assert_true(get64(&t, QCOW2_H_INCOMPATIBLE) & QCOW2_INCOMPAT_DIRTY);
                reopen(&t, open_layer(&t, &(struct qcow2_options){ .repair = true }));
                assert_flawless(&t);
                rig_done(&t);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_write_while_growing),
                cmocka_unit_test(test_refcounts_grow_in_a_flush),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
