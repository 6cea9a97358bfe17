// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2-rig: an image in memory for a cmocka test, with its metadata where the test can reach it, sound or not
 *
 * Included by the test programs of vmm/block/qcow2; cmocka.h and what it needs come first.
 */
#pragma once

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/block/qcow2/format.h"

#define K64 65536ull

/* An image in memory. 64 MiB, clusters of 64 KiB: header, refcount table at 1, its block at 2, L1 table at 3. */
struct rig {
        int fd;
        struct file *file;
        struct error e;
};

static inline void rig_open(struct rig *t, const struct sys *sys) {
        struct file_options o = { .fd = t->fd, .sys = sys };

        assert_int_equal(file_open(&o, &t->file, &t->e), 0);
}

static inline void rig_init(struct rig *t) {
        *t = (struct rig){ .fd = memfd_create("image", MFD_CLOEXEC) };
        assert_true(t->fd >= 0);
        rig_open(t, NULL);
}

static inline void rig_done(struct rig *t) {
        file_close(t->file);
        close(t->fd);
        error_clear(&t->e);
}

static inline void rig_create(struct rig *t, const struct qcow2_create *o) {
        assert_int_equal(qcow2_create(t->file, o, &t->e), 0);
}

static inline void rig_small(struct rig *t) {
        struct qcow2_create o = { .size = 64 << 20 };

        rig_init(t);
        rig_create(t, &o);
}

static inline void put64(struct rig *t, uint64_t offset, uint64_t value) {
        uint8_t b[8];

        be64_put(b, value);
        assert_int_equal(file_write(t->file, b, 8, offset), 0);
}

static inline uint64_t get64(struct rig *t, uint64_t offset) {
        uint8_t b[8];

        assert_int_equal(file_read(t->file, b, 8, offset), 0);
        return be64_get(b);
}

static inline void put_refcount(struct rig *t, uint64_t cluster, unsigned int n) {
        uint8_t b[2];

        be16_put(b, (uint16_t)n);
        assert_int_equal(file_write(t->file, b, 2, 2 * K64 + 2 * cluster), 0);
}

static inline struct qcow2_check check(struct rig *t, unsigned int repair) {
        struct qcow2_check c = { 0 };

        assert_int_equal(qcow2_check(t->file, repair, &c, &t->e), 0);
        return c;
}

/* An L2 table at cluster 4 with @n data clusters from 5 on, all counted. */
static inline void add_data(struct rig *t, unsigned int n) {
        put64(t, 3 * K64, 4 * K64 | QCOW2_COPIED);
        put_refcount(t, 4, 1);
        for (unsigned int i = 0; i < n; i++) {
                put64(t, 4 * K64 + 8 * i, (5 + i) * K64 | QCOW2_COPIED);
                put_refcount(t, 5 + i, 1);
        }
        assert_int_equal(file_truncate(t->file, (5 + n) * K64), 0);
}

static inline void assert_flawless(struct rig *t) {
        struct qcow2_check c = check(t, 0);

        assert_int_equal(c.corruptions, 0);
        assert_int_equal(c.leaks, 0);
        assert_int_equal(c.errors, 0);
}

/* Damaged, it is found; mended, nothing is left to find. */
static inline void assert_mends(struct rig *t, uint64_t corruptions, uint64_t leaks) {
        struct qcow2_check c = check(t, 0);

        assert_int_equal(c.corruptions, corruptions);
        assert_int_equal(c.leaks, leaks);
        assert_int_equal(c.corruptions_fixed + c.leaks_fixed, 0);
        c = check(t, QCOW2_REPAIR_ALL);
        assert_int_equal(c.corruptions_fixed, c.corruptions);
        assert_int_equal(c.leaks_fixed, c.leaks);
        assert_flawless(t);
}
