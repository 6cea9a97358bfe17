// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpack: payloads made by the real tools come out as they went in, and damaged ones fail in time
 *
 * With LODGE_TEST_KERNEL=FILE a real bzImage is unpacked as well.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "vmm/boot/unpack.h"

#define PLAIN_SIZE (9u << 20) /* more than one block of LZ4's */
#define OFFSET     (5 * 512u)
#define PAYLOAD_AT 0x400u
#define LIMIT      (64u << 20)

static const struct tool {
        const char *name, *command;
        bool own_size; /* the stream ends with the size anyway */
} tools[] = {
        { "gzip", "gzip -1", true },
        { "xz", "xz --check=crc32 --x86 --lzma2=preset=0", false },
        { "zstd", "zstd -q -1", false },
        { "lz4", "lz4 -q -l -1", false },
};

static char dir[] = "/tmp/test-unpack-XXXXXX";
static uint8_t *plain;

/* Compress @plain with a tool; the packed bytes, allocated. */
static uint8_t *compress(const struct tool *t, size_t *ret_size) {
        _cleanup_close_ int fd = -EBADF;
        char command[512], *packed = NULL;
        int r;

        snprintf(command, sizeof(command), "cd %s && %s <plain >packed", dir, t->command);
        r = system(command);
        if (!WIFEXITED(r) || WEXITSTATUS(r) != 0) {
                print_message("%s is not installed\n", t->name);
                return NULL;
        }
        snprintf(command, sizeof(command), "%s/packed", dir);
        fd = open(command, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(io_read_all(fd, LIMIT, &packed, ret_size), 0);
        return (uint8_t *)packed;
}

struct image {
        struct setup_header h;
        const uint8_t *payload;
        size_t size; /* of the payload's bytes in the file */
        uint32_t tail;
        bool has_tail;
};

static struct image image(const uint8_t *payload, size_t size, bool own_size) {
        size_t length = size + (own_size ? 0 : 4);

        return (struct image){
                .h = {
                        .setup_sects = 4,
                        .syssize = (uint32_t)((PAYLOAD_AT + length + 15) / 16),
                        .boot_flag = 0xaa55,
                        .header = 0x53726448,
                        .version = 0x20f,
                        .payload_offset = PAYLOAD_AT,
                        .payload_length = (uint32_t)length,
                },
                .payload = payload,
                .size = size,
                .tail = PLAIN_SIZE,
                .has_tail = !own_size,
        };
}

static int make(const struct image *i) {
        int fd = memfd_create("bzimage", MFD_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(io_write_at(&sys_real, fd, &i->h, sizeof(i->h), 0x1f1), 0);
        assert_int_equal(io_write_at(&sys_real, fd, i->payload, i->size, OFFSET + PAYLOAD_AT), 0);
        if (i->has_tail)
                assert_int_equal(io_write_at(&sys_real, fd, &i->tail, 4, OFFSET + PAYLOAD_AT + i->size), 0);
        return fd;
}

static int unpack(const struct image *i, uint64_t max, int *ret_out, struct error *e) {
        _cleanup_close_ int kernel = make(i);
        int out = memfd_create("vmlinux", MFD_CLOEXEC), r;

        assert_true(out >= 0);
        r = kernel_unpack(kernel, out, max, e);
        if (ret_out)
                *ret_out = out;
        else
                close(out);
        return r;
}

static void fails(const struct image *i, uint64_t max, int code) {
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(unpack(i, max, NULL, &e), code);
        assert_string_equal(e.id, "kernel-unpack");
}

static void test_round_trip(const struct tool *t) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ uint8_t *got = malloc(PLAIN_SIZE), *packed = NULL;
        _cleanup_close_ int out = -EBADF;
        size_t size;
        struct image i;
        struct stat st;

        packed = compress(t, &size);
        if (!packed)
                return;
        i = image(packed, size, t->own_size);
        assert_int_equal(unpack(&i, PLAIN_SIZE, &out, &e), 1);
        assert_int_equal(fstat(out, &st), 0);
        assert_int_equal(st.st_size, PLAIN_SIZE);
        assert_int_equal(io_read_at(&sys_real, out, got, PLAIN_SIZE, 0), 0);
        assert_memory_equal(got, plain, PLAIN_SIZE);

        fails(&i, PLAIN_SIZE - 1, -EFBIG); /* a file that expands for ever must end at the limit */
        i.size = size / 2;                 /* the file ends inside the payload */
        i.has_tail = false;
        fails(&i, LIMIT, -ENODATA);
        i = image(packed, size / 2, t->own_size); /* the payload's length is short */
        fails(&i, LIMIT, -ENODATA);
        i = image(packed, size, t->own_size);
        for (size_t at = size / 2; at < size / 2 + 4096 && at < size; at++)
                packed[at] ^= 0x5a;
        if (!streq(t->name, "lz4")) /* which has no checksum */
                assert_true(unpack(&i, LIMIT, NULL, &e) < 0);
}

/* Each format that kernels are packed in, made by the tool that the kernel's build calls. */
static void test_formats(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(tools); i++)
                test_round_trip(&tools[i]);
}

static void test_lies(void **state) {
        uint8_t junk[64] = { 0x1f, 0x8b, 8 };
        struct image i = image(junk, sizeof(junk), true);

        i.h.payload_offset = UINT32_MAX;
        fails(&i, LIMIT, -EBADMSG);
        i = image(junk, sizeof(junk), true);
        i.h.payload_length = UINT32_MAX;
        fails(&i, LIMIT, -EBADMSG);
        i = image(junk, sizeof(junk), true);
        i.h.payload_offset = 0x10000000;
        i.h.syssize = UINT32_MAX; /* behind the file, though inside what the header claims */
        fails(&i, LIMIT, -ENODATA);
        i = image(junk, sizeof(junk), true);
        fails(&i, LIMIT, -EBADMSG);
        memcpy(junk, "\x02\x21\x4c\x18\xff\xff\xff\x7f", 8); /* an LZ4 block of 2 GiB */
        fails(&i, LIMIT, -EBADMSG);
}

/* What isn't packed, or isn't Linux, is not an error: it boots as it is. */
static void test_not_packed(void **state) {
        uint8_t junk[64] = "\177ELF";
        struct image i = image(junk, sizeof(junk), true);
        _cleanup_close_ int empty = memfd_create("empty", MFD_CLOEXEC);

        assert_int_equal(unpack(&i, LIMIT, NULL, NULL), 0);
        i.h.header = 0;
        assert_int_equal(unpack(&i, LIMIT, NULL, NULL), 0);
        i = image(junk, sizeof(junk), true);
        i.h.version = 0x207; /* no payload fields yet */
        assert_int_equal(unpack(&i, LIMIT, NULL, NULL), 0);
        assert_int_equal(kernel_unpack(empty, empty, LIMIT, NULL), 0);
}

/* A payload that unpacks well, but to something else than a kernel. */
static void test_not_elf(void **state) {
        static const uint8_t gz[] = {
                0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 4, 0, 0x43, 0xbe, 0xb7, 0xe8, 1, 0, 0, 0
        }; /* "a" */
        struct image i = image(gz, sizeof(gz), true);

        fails(&i, LIMIT, -EBADMSG);
}

static void test_real_kernel(void **state) {
        _cleanup_close_ int kernel = -EBADF, out = memfd_create("vmlinux", MFD_CLOEXEC);
        const char *path = getenv("LODGE_TEST_KERNEL");

        if (!path)
                skip();
        kernel = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(kernel >= 0);
        assert_int_equal(kernel_unpack(kernel, out, 512u << 20, NULL), 1);
}

static int setup(void **state) {
        char path[64];
        uint32_t x = 1;
        int fd;

        plain = malloc(PLAIN_SIZE);
        if (!plain || !mkdtemp(dir))
                return -1;
        for (size_t i = 0; i < PLAIN_SIZE; i++) { /* some of it compresses, some doesn't */
                x = x * 1664525 + 1013904223;
                plain[i] = i & 1 << 12 ? (uint8_t)(x >> 24) : (uint8_t)(i >> 4);
        }
        memcpy(plain, "\177ELF", 4);
        snprintf(path, sizeof(path), "%s/plain", dir);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || io_write_at(&sys_real, fd, plain, PLAIN_SIZE, 0) < 0)
                return -1;
        close(fd);
        return 0;
}

static int teardown(void **state) {
        char command[80];

        free(plain);
        snprintf(command, sizeof(command), "rm -r %s", dir);
        return system(command);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_formats), cmocka_unit_test(test_lies),        cmocka_unit_test(test_not_packed),
                cmocka_unit_test(test_not_elf), cmocka_unit_test(test_real_kernel),
        };

        return cmocka_run_group_tests_name("unpack", tests, setup, teardown);
}
