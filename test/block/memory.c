// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * memory: every allocation of what stands around an image fails once: files, chains, disks and their queues
 *
 * The images themselves: faults.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/loop.h"
#include "test/block/fault.h"
#include "test/unit/qcow2-rig.h"
#include "vmm/block/block.h"
#include "vmm/block/chain/chain.h"

static char dir[64];

static int run_chain(const char *top) {
        const struct chain_options o = { 0 };
        _cleanup_(chain_freep) struct chain *c = NULL;
        char byte;
        int r = chain_open(top, "qcow2", &o, &c, NULL);

        return r < 0 ? r : layer_read(chain_top(c), NULL, &byte, 1000, 1);
}

static int run_direct(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
        const struct file_options o = { .fd = fd, .direct = true };
        _cleanup_(file_freep) struct file *file = NULL;
        char byte[3];
        int r = file_open(&o, &file, NULL);

        if (r == 0)
                r = file_write(file, "x", 1, 999);
        return r < 0 ? r : file_read(file, byte, 3, 998);
}

static void make(const char *name, const struct qcow2_create *o, char *path, size_t n) {
        struct rig t = { 0 };

        snprintf(path, n, "%s/%s", dir, name);
        t.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_true(t.fd >= 0);
        rig_open(&t, NULL);
        if (o)
                rig_create(&t, o);
        else
                assert_int_equal(file_truncate(t.file, 1 << 20), 0);
        rig_done(&t);
}

static struct loop *loop;

static int run_disk(const char *path, enum block_engine engine) {
        const struct block_queue_options qo = { .depth = 8, .loop = loop };
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
        const struct file_options fo = { .fd = fd };
        struct block_options o = { .engine = engine };
        struct block_queue *queue = NULL;
        struct block *block = NULL;
        int r = chain_open_layer(&fo, "raw", false, &o.top, NULL);

        if (r < 0)
                return r;
        r = block_open(&o, &block, NULL);
        if (r < 0) {
                layer_close(o.top);
                return r;
        }
        r = block_queue_new(block, &qo, &queue, NULL);
        block_queue_free(queue);
        block_close(block);
        return r;
}

static int run_threads(const char *path) {
        return run_disk(path, BLOCK_ENGINE_THREADS);
}

static int run_auto(const char *path) {
        return run_disk(path, BLOCK_ENGINE_AUTO);
}

/* Without memory half a chain would stay open, a byte of a block be written without its neighbours, a disk have
 * threads and no queue. */
static void test_paths(void **state) {
        const struct qcow2_create middle = { .size = 1 << 20, .backing_file = "raw", .backing_format = "raw" },
                                  top = { .size = 1 << 20, .backing_file = "middle", .backing_format = "qcow2" };
        int (*const runs[])(const char *path) = { run_direct, run_threads, run_auto, run_chain };
        char paths[3][128];

        snprintf(dir, sizeof dir, "/var/tmp/lodge-test-faults.XXXXXX");
        assert_non_null(mkdtemp(dir));
        assert_int_equal(loop_new(&loop), 0);
        make("raw", NULL, paths[0], sizeof paths[0]);
        make("top", &top, paths[1], sizeof paths[1]);
        make("middle", &middle, paths[2], sizeof paths[2]);
        for (size_t i = 0; i < ELEMENTSOF(runs); i++) {
                int before = dup(0), after, r;
                unsigned int n = 0;
                bool hit;

                close(before);
                do {
                        fault_arm(MEMORY, ++n);
                        r = runs[i](paths[runs[i] == run_chain]);
                        hit = fault_disarm();
                        /* io_uring without memory: threads will do */
                        assert_true(r == -ENOMEM ? hit : r == 0 && (!hit || runs[i] == run_auto));
                        after = dup(0);
                        close(after);
                        assert_int_equal(before, after);
                } while (hit);
                assert_in_range(n, 3, 100);
        }
        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                unlink(paths[i]);
        rmdir(dir);
        loop_free(loop);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_paths),
        };

        return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
