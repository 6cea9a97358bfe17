// SPDX-License-Identifier: GPL-2.0-or-later
/* chain: names out of images lead nowhere but to files, formats are those recorded, and every chain ends */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/block/chain/chain.h"
#include "vmm/block/qcow2/qcow2.h"

#define SIZE (1u << 20)

struct rig {
        char dir[64];
        char path[256];
        struct error e;
        struct chain *chain;
};

static int setup(void **state) {
        struct rig *t = calloc(1, sizeof(*t));

        assert_non_null(t);
        snprintf(t->dir, sizeof(t->dir), "/tmp/lodge-test-chain.XXXXXX");
        assert_non_null(mkdtemp(t->dir));
        *state = t;
        return 0;
}

static int teardown(void **state) {
        struct rig *t = *state;
        char command[128];

        chain_close(t->chain);
        error_clear(&t->e);
        snprintf(command, sizeof(command), "rm -rf %s", t->dir);
        assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
        free(t);
        return 0;
}

static const char *at(struct rig *t, const char *name) {
        snprintf(t->path, sizeof(t->path), "%s/%s", t->dir, name);
        return t->path;
}

static void make_raw(struct rig *t, const char *name, size_t size, char fill) {
        FILE *f = fopen(at(t, name), "we");

        assert_non_null(f);
        for (size_t i = 0; i < size; i++)
                putc(fill, f);
        fclose(f);
}

static void make(struct rig *t, const char *name, const char *backing, const char *format) {
        struct qcow2_create create = { .size = SIZE, .backing_file = backing, .backing_format = format };
        _cleanup_close_ int fd = open(at(t, name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        struct file_options o = { .fd = fd };
        struct file *file;

        assert_int_equal(file_open(&o, &file, NULL), 0);
        assert_int_equal(qcow2_create(file, &create, NULL), 0);
        file_close(file);
}

/* As images of old programs are: the name is there, its format is not. */
static void forget_format(struct rig *t, const char *name) {
        static const uint8_t type[] = { 0xe2, 0x79, 0x2a, 0xca };
        uint8_t header[512], *found;
        _cleanup_close_ int fd = open(at(t, name), O_RDWR | O_CLOEXEC);

        assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
        found = memmem(header, sizeof(header), type, sizeof(type));
        assert_non_null(found);
        found[0] = 0x7f;
        assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
}

static int open_chain(struct rig *t, const char *name, const struct chain_options *options) {
        struct chain_options o = { 0 };

        chain_close(TAKE_PTR(t->chain));
        error_clear(&t->e);
        return chain_open(at(t, name), "qcow2", options ?: &o, &t->chain, &t->e);
}

static void refused(struct rig *t, const char *name, int code, const char *id) {
        assert_int_equal(open_chain(t, name, NULL), code);
        assert_string_equal(t->e.id, id);
        assert_non_null(t->e.fix);
        assert_null(t->chain);
}

/* A name is relative to the image that holds it, not to where the program runs. */
static void test_reads_through(void **state) {
        struct rig *t = *state;
        char byte;

        assert_int_equal(mkdir(at(t, "sub"), 0700), 0);
        make_raw(t, "base.raw", SIZE / 2, 'b');
        make(t, "sub/middle", "../base.raw", "raw");
        make(t, "top", "sub/middle", "qcow2");
        assert_int_equal(open_chain(t, "top", NULL), 0);
        assert_int_equal(t->chain->n, 3);
        assert_string_equal(t->chain->images[2].format, "raw");
        assert_int_equal(layer_read(chain_top(t->chain), NULL, &byte, 1000, 1), 0);
        assert_int_equal(byte, 'b');
        assert_int_equal(layer_read(chain_top(t->chain), NULL, &byte, SIZE / 2, 1), 0);
        assert_int_equal(byte, 0); /* behind the base's end */
        for (unsigned int i = 0; i < t->chain->n; i++)
                assert_true(t->chain->images[i].layer->readonly);
}

/* Absolute names are taken as they are. */
static void test_absolute_name(void **state) {
        struct rig *t = *state;
        char base[256];

        make_raw(t, "base.raw", SIZE, 'b');
        snprintf(base, sizeof(base), "%s", at(t, "base.raw"));
        assert_int_equal(mkdir(at(t, "sub"), 0700), 0);
        make(t, "sub/top", base, "raw");
        assert_int_equal(open_chain(t, "sub/top", NULL), 0);
        assert_int_equal(t->chain->n, 2);
}

/* A guest that owns a raw disk may write a qcow2 header into it: what is recorded as raw is read as raw, what isn't recorded not at all. */
static void test_formats_are_never_guessed(void **state) {
        struct rig *t = *state;
        char magic[4];

        make(t, "guest", "/etc/passwd", "raw");
        make(t, "top", "guest", "raw");
        assert_int_equal(open_chain(t, "top", NULL), 0);
        assert_int_equal(t->chain->n, 2);
        assert_int_equal(layer_read(chain_top(t->chain), NULL, magic, 0, 4), 0);
        assert_memory_equal(magic, "QFI\xfb", 4);
        forget_format(t, "top");
        refused(t, "top", -EUCLEAN, "chain-format");
        make(t, "top", "guest", "vmdk");
        refused(t, "top", -ENOTSUP, "chain-format");
        make(t, "top", "guest", "RAW");
        refused(t, "top", -ENOTSUP, "chain-format");
}

/* What another program would take for an address is not opened as a file of that name. */
static void test_addresses_are_refused(void **state) {
        static const char *const names[] = {
                "nbd://localhost/x", "json:{\"driver\": \"raw\"}", "file:base.raw", "x:y", ":", "fat:rw:/tmp"
        };
        struct rig *t = *state;

        make_raw(t, "x:y", SIZE, 'x');
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                make(t, "top", names[i], "raw");
                refused(t, "top", -EINVAL, "chain-protocol");
        }
        make(t, "top", "./x:y", "raw"); /* but a file with a colon in its name has a way */
        assert_int_equal(open_chain(t, "top", NULL), 0);
}

/* Opening a FIFO waits for ever, opening some devices does something: neither is opened. */
static void test_only_files(void **state) {
        struct rig *t = *state;

        assert_int_equal(mkfifo(at(t, "fifo"), 0600), 0);
        make(t, "top", "fifo", "raw");
        refused(t, "top", -EINVAL, "disk-type");
        make(t, "top", "/dev/zero", "raw");
        refused(t, "top", -EINVAL, "disk-type");
        make(t, "top", ".", "raw");
        refused(t, "top", -EINVAL, "disk-type");
        make(t, "top", "missing\n\033[31m", "raw");
        refused(t, "top", -ENOENT, "chain-open");
        refused(t, "nothing", -ENOENT, "disk-open");
        make_raw(t, "cut", 100, 'x'); /* by whom ever: no longer an image */
        refused(t, "cut", -EUCLEAN, "qcow2-magic");
        assert_int_equal(chain_open(at(t, "cut"), "vmdk", &(struct chain_options){ 0 }, &t->chain, NULL), -EINVAL);
        make(t, "top", "cut", "raw");
        refused(t, "top", -EUCLEAN, "disk-size");
}

/* Each file once, under whatever names. */
static void test_loops(void **state) {
        struct rig *t = *state;

        make(t, "self", "self", "qcow2");
        refused(t, "self", -ELOOP, "chain-loop");
        make(t, "self", "self", "raw");
        refused(t, "self", -ELOOP, "chain-loop");
        make(t, "a", "b", "qcow2");
        make(t, "b", "./link", "qcow2");
        {
                char target[256];

                snprintf(target, sizeof(target), "%s", at(t, "a"));
                assert_int_equal(symlink(target, at(t, "link")), 0);
        }
        refused(t, "a", -ELOOP, "chain-loop");
        refused(t, "link", -ELOOP, "chain-loop");
}

static void test_depth(void **state) {
        struct rig *t = *state;
        char name[16], below[16];

        make(t, "0", NULL, NULL);
        for (int i = 1; i <= LAYER_CHAIN_MAX; i++) {
                snprintf(name, sizeof(name), "%d", i);
                snprintf(below, sizeof(below), "%d", i - 1);
                make(t, name, below, "qcow2");
        }
        snprintf(name, sizeof(name), "%d", LAYER_CHAIN_MAX - 1);
        assert_int_equal(open_chain(t, name, NULL), 0);
        assert_int_equal(t->chain->n, LAYER_CHAIN_MAX);
        snprintf(name, sizeof(name), "%d", LAYER_CHAIN_MAX);
        refused(t, name, -ELOOP, "chain-depth");
}

/* Below an image that is open already, a chain must neither be too deep nor hold it. */
static void test_below_another(void **state) {
        struct chain_options alone = { .alone = true, .n_writable = 1 }, o = { 0 };
        struct rig *t = *state;
        struct chain *top;

        make(t, "top", "missing", "qcow2");
        assert_int_equal(open_chain(t, "top", NULL), -ENOENT);
        assert_int_equal(open_chain(t, "top", &alone), 0); /* whatever it says of others */
        assert_int_equal(t->chain->n, 1);
        assert_false(chain_top(t->chain)->readonly);
        top = TAKE_PTR(t->chain);
        o.above = &top->images[0];
        assert_int_equal(open_chain(t, "top", &o), -ELOOP);
        assert_string_equal(t->e.id, "chain-loop");
        make(t, "new", "top", "qcow2");
        assert_int_equal(open_chain(t, "new", &o), -ELOOP);
        chain_close(top);
}

static int lock_and_note(int fd, bool readonly, const char *path, struct error *e) {
        return readonly ? error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use", path) : 0;
}

/* Locked before it is read, each as it is used; and what was open is closed when the last one fails. */
static void test_lock(void **state) {
        struct chain_options o = { .n_writable = 2, .lock = lock_and_note };
        struct rig *t = *state;
        int before, after;

        make(t, "base", NULL, NULL);
        make(t, "middle", "base", "qcow2");
        make(t, "top", "middle", "qcow2");
        before = dup(0);
        close(before);
        assert_int_equal(open_chain(t, "top", &o), -EBUSY);
        assert_string_equal(t->e.id, "disk-busy");
        after = dup(0);
        close(after);
        assert_int_equal(before, after);
        o.n_writable = 3;
        assert_int_equal(open_chain(t, "top", &o), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_reads_through, setup, teardown),
                cmocka_unit_test_setup_teardown(test_absolute_name, setup, teardown),
                cmocka_unit_test_setup_teardown(test_formats_are_never_guessed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_addresses_are_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_only_files, setup, teardown),
                cmocka_unit_test_setup_teardown(test_loops, setup, teardown),
                cmocka_unit_test_setup_teardown(test_depth, setup, teardown),
                cmocka_unit_test_setup_teardown(test_below_another, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        };

        return cmocka_run_group_tests_name("chain", tests, NULL, NULL);
}
