// SPDX-License-Identifier: GPL-2.0-or-later
/* Units of daemon/image: digests, metadata, the store's promises when things fail, imports, overlays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/sys.h"
#include "daemon/image/copy.h"
#include "daemon/image/image.h"
#include "daemon/image/meta.h"
#include "daemon/image/run.h"
#include "daemon/image/store.h"
#include "daemon/image/upload.h"
#include "vmm/block/qcow2/qcow2.h"

#define MIB (1U << 20)

struct fixture {
        char dir[64];
        char root[80];
};

static int setup(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        strcpy(f->dir, "/tmp/lodge-test-image-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        snprintf(f->root, sizeof(f->root), "%s/images", f->dir);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        assert_int_equal(remove_tree(AT_FDCWD, f->dir), 0);
        free(f);
        return 0;
}

static struct image_store *open_store(struct fixture *f, const struct sys *sys) {
        struct image_store *store = NULL;

        assert_int_equal(image_store_open(f->root, sys, &store, NULL), 0);
        return store;
}

/* How many entries of the store do not begin with '.': images; and how many are leftovers. */
static void count(struct fixture *f, unsigned *ret_images, unsigned *ret_stages) {
        DIR *d = opendir(f->root);
        struct dirent *de;

        *ret_images = *ret_stages = 0;
        assert_non_null(d);
        while ((de = readdir(d))) {
                *ret_images += de->d_name[0] != '.';
                *ret_stages += strncmp(de->d_name, ".tmp-", 5) == 0;
        }
        closedir(d);
}

static void assert_count(struct fixture *f, unsigned images, unsigned stages) {
        unsigned i, s;

        count(f, &i, &s);
        assert_int_equal(i, images);
        assert_int_equal(s, stages);
}

static void make_file(const char *path, const char *head, off_t size) {
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, size), 0);
        assert_int_equal(pwrite(fd, head, strlen(head), 0), (ssize_t)strlen(head));
        close(fd);
}

static int import_raw(struct fixture *f, struct image_store *store, const char *name, struct error *e) {
        const struct image_import import = { .name = name, .format = "raw" };
        char file[100];

        snprintf(file, sizeof(file), "%s/in.raw", f->dir);
        make_file(file, "content", 4 * MIB);
        return image_import(store, file, &import, NULL, NULL, e);
}

/* The digests in image.json are what tells a damaged image from a whole one: they must be SHA-256, whichever code path makes them. */
static void test_sha256_is_the_standard_one(void **state) {
        static const struct {
                const char *text, *digest;
        } known[] = {
                /* FIPS 180-4, and one message around each border of the padding */
                { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
                { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
                { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
        };
        uint8_t data[1000];

        for (size_t i = 0; i < ELEMENTSOF(known); i++) {
                char hex[SHA256_HEX_SIZE];
                struct sha256 s;

                sha256_init(&s);
                sha256_update(&s, known[i].text, strlen(known[i].text));
                sha256_final_hex(&s, hex);
                assert_string_equal(hex, known[i].digest);
        }
        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t)(i * 131 + (i >> 3));
        for (size_t n = 0; n < sizeof(data); n += 7) {
                char fast[SHA256_HEX_SIZE], plain[SHA256_HEX_SIZE];
                struct sha256 a, b;

                sha256_init(&a);
                sha256_init_portable(&b);
                sha256_update(&a, data, n / 3);
                sha256_update(&a, data + n / 3, n - n / 3);
                sha256_update(&b, data, n);
                sha256_final_hex(&a, fast);
                sha256_final_hex(&b, plain);
                assert_string_equal(fast, plain);
        }
}

/* A name becomes a directory in the store: one that climbs out of it, or hides in it, would be a way to any file. */
static void test_names(void **state) {
        static const char *const good[] = { "tiny", "debian/12", "a/b/c", "x86_64", "debian/12.5", "1" };
        static const char *const bad[] = { "",       "/", "a/",  "/a",  "a//b", "..", "a/..",
                                           ".tmp-1", "A", "a b", "a@b", "a\n",  "-a", "a/b/c/d" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                _cleanup_free_ char *dir = image_name_to_dir(good[i]), *back = image_dir_to_name(dir);

                assert_true(image_name_is_valid(good[i]));
                assert_null(strchr(dir, '/'));
                assert_string_equal(back, good[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(image_name_is_valid(bad[i]));
}

/* The way of an image through the store; without it nothing else is worth testing. */
static void test_import_find_list_delete(void **state) {
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct image **images;
        size_t n;

        assert_int_equal(import_raw(*state, store, "my/disk", NULL), 0);
        assert_int_equal(image_find(store, "my/disk", &image, NULL), 0);
        assert_string_equal(image->format, "raw");
        assert_int_equal(image->files[IMAGE_FILE_DISK].size, 4 * MIB);
        assert_int_equal(image_verify(image, NULL), 0);
        assert_int_equal(import_raw(*state, store, "my/disk", &e), -EEXIST);
        assert_string_equal(e.id, "image-exists");
        assert_int_equal(image_list(store, &images, &n, NULL), 0);
        assert_int_equal(n, 1);
        assert_string_equal(images[0]->name, "my/disk");
        image_list_free(images, n);
        assert_int_equal(image_delete(store, "my/disk", NULL), 0);
        assert_int_equal(image_delete(store, "my/disk", NULL), -ENOENT);
        assert_count(*state, 0, 0);
}

/* A machine that runs from an image must not lose it. */
static void test_image_in_use_stays(void **state) {
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        int lock = -EBADF, second = -EBADF;

        assert_int_equal(import_raw(*state, store, "a", NULL), 0);
        assert_int_equal(image_find(store, "a", &image, NULL), 0);
        assert_int_equal(image_lock(image, &lock, NULL), 0);
        assert_int_equal(image_lock(image, &second, NULL), 0); /* machines don't disturb each other */
        close(second);
        assert_int_equal(image_delete(store, "a", &e), -EBUSY);
        assert_string_equal(e.id, "image-in-use");
        assert_non_null(e.fix);
        close(lock);
        assert_int_equal(image_delete(store, "a", NULL), 0);
        assert_int_equal(image_lock(image, &lock, NULL), -ENOENT);
}

/* Which call of which kind fails next; a table has no room for state of its own. */
static struct { unsigned writes, syncs; } fail_at;

static ssize_t failing_pwrite(int fd, const void *buf, size_t n, off_t offset) {
        if (fail_at.writes > 0 && --fail_at.writes == 0) {
                errno = ENOSPC;
                return -1;
        }
        return pwrite(fd, buf, n, offset);
}

static int failing_fdatasync(int fd) {
        if (fail_at.syncs > 0 && --fail_at.syncs == 0) {
                errno = EIO;
                return -1;
        }
        return fdatasync(fd);
}

/* A full disk or a failing one, at whatever step: no image, no leftover, and the next try works. */
static void test_a_failed_import_leaves_nothing(void **state) {
        struct sys sys = sys_real;
        unsigned failures = 0;

        sys.pwrite = failing_pwrite;
        sys.fdatasync = failing_fdatasync;
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, &sys);
        for (unsigned i = 1; i <= 4; i++) {
                for (unsigned kind = 0; kind < 2; kind++) {
                        fail_at.writes = kind == 0 ? i : 0;
                        fail_at.syncs = kind == 1 ? i : 0;
                        if (import_raw(*state, store, "a", NULL) < 0) {
                                failures++;
                                assert_count(*state, 0, 0);
                        } else {
                                assert_count(*state, 1, 0);
                                assert_int_equal(image_delete(store, "a", NULL), 0);
                        }
                }
        }
        fail_at.writes = fail_at.syncs = 0;
        assert_in_range(failures, 4, 7); /* data, image.json; their syncs: each was hit */
        assert_int_equal(import_raw(*state, store, "a", NULL), 0);
}

/* kill -9 in the middle: the directory stays while its owner lives, and goes with the next command after that. */
static void test_leftovers_of_the_dead_are_swept(void **state) {
        struct fixture *f = *state;
        int ready[2], status;
        pid_t pid;
        char c;

        assert_int_equal(pipe(ready), 0);
        pid = fork();
        if (pid == 0) {
                struct image_store *store = open_store(f, NULL);
                struct stage *stage;

                if (stage_new(store, &stage, NULL) < 0 || mkdirat(stage->fd, "deep", 0755) < 0 ||
                    write(ready[1], "x", 1) != 1)
                        _exit(1);
                pause();
        }
        assert_int_equal(read(ready[0], &c, 1), 1);
        image_store_free(open_store(f, NULL));
        assert_count(f, 0, 1);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        image_store_free(open_store(f, NULL));
        assert_count(f, 0, 0);
        close(ready[0]);
        close(ready[1]);
}

static void write_meta(struct fixture *f, const char *text) {
        char path[160];
        int fd;

        snprintf(path, sizeof(path), "%s/a/" IMAGE_META_FILE, f->root);
        unlink(path);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        assert_true(fd >= 0);
        assert_int_equal(io_write_all(fd, text, strlen(text)), 0);
        close(fd);
}

/* Metadata that was edited or cut short must not lead anywhere: no path out of the image, no other format, no crash; and it can be deleted. */
static void test_bad_metadata(void **state) {
#define SHA  "\"0000000000000000000000000000000000000000000000000000000000000000\""
#define DISK "{\"name\":\"disk.raw\",\"size\":4194304,\"sha256\":" SHA "}"
        static const char *const bad[] = {
                "",
                "{",
                "[]",
                "{}",
                "{\"metadata-version\":1}",
                "{\"metadata-version\":2,\"format\":\"raw\",\"files\":{\"disk\":" DISK "}}",
                "{\"metadata-version\":1,\"format\":\"qcow2\",\"files\":{\"disk\":" DISK "}}",
                "{\"metadata-version\":1,\"files\":{\"disk\":" DISK "}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":{}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":[]}",
                "{\"metadata-version\":1,\"format\":7,\"files\":{\"disk\":" DISK "}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"format\":\"raw\",\"files\":{\"disk\":" DISK "}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":{\"disk\":{\"name\":\"../"
                "b\",\"size\":512,\"sha256\":" SHA "}}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":{\"disk\":{\"name\":\"none\",\"size\":512,"
                "\"sha256\":" SHA "}}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":{\"disk\":{\"name\":\"disk.raw\",\"size\":512,"
                "\"sha256\":" SHA "}}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":{\"disk\":{\"name\":\"disk.raw\",\"size\":"
                "4194304,\"sha256\":\"\"}}}",
                "{\"metadata-version\":1,\"format\":\"raw\",\"files\":{\"disk\":{\"name\":\"link\",\"size\":4194304,"
                "\"sha256\":" SHA "}}}",
        };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        struct fixture *f = *state;
        char path[160];

        assert_int_equal(import_raw(f, store, "a", NULL), 0);
        snprintf(path, sizeof(path), "%s/a/link", f->root);
        assert_int_equal(symlink("disk.raw", path), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                struct image *image = NULL, **images;
                size_t n;

                write_meta(f, bad[i]);
                if (image_find(store, "a", &image, &e) != -EUCLEAN)
                        fail_msg("accepted: %s", bad[i]);
                assert_non_null(e.fix);
                assert_int_equal(image_list(store, &images, &n, NULL), 0);
                assert_int_equal(n, 1);
                assert_non_null(images[0]->broken);
                image_list_free(images, n);
        }
        assert_int_equal(image_delete(store, "a", NULL), 0);
}

/* A byte that changed on the disk is found when somebody asks. */
static void test_verify_finds_damage(void **state) {
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *path = NULL;
        int fd;

        assert_int_equal(import_raw(*state, store, "a", NULL), 0);
        assert_int_equal(image_find(store, "a", &image, NULL), 0);
        assert_int_equal(image_file_path(image, IMAGE_FILE_DISK, &path), 0);
        assert_int_equal(chmod(path, 0644), 0);
        fd = open(path, O_RDWR);
        assert_int_equal(pwrite(fd, "C", 1, 0), 1);
        close(fd);
        assert_int_equal(image_verify(image, &e), -EUCLEAN);
        assert_string_equal(e.id, "image-damaged");
}

/* What must not come in: each of these has cost somebody a day. */
static void test_import_refusals(void **state) {
        static const struct {
                const char *head;
                off_t size;
                const char *format, *id;
        } cases[] = {
                { "content", 1000, "raw", "image-import" }, /* no whole number of sectors */
                { "", 0, "raw", "image-import" },           /* empty */
                { "content", MIB, NULL, "image-format" },   /* nobody said what it is */
                { "QFI\xfb", MIB, NULL, "image-format" },   /* not even when it seems clear */
                { "content", MIB, "vdi", "image-format" },  /* can't be read */
                { "content", MIB, "qcow2", "qcow2-magic" }, /* isn't */
                { "QFI\xfb", 8, "qcow2", "qcow2-magic" },   /* truncated header */
        };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        struct fixture *f = *state;
        char file[100];

        snprintf(file, sizeof(file), "%s/in", f->dir);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const struct image_import import = { .name = "a", .format = cases[i].format };
                _cleanup_error_ struct error e = ERROR_INIT;

                make_file(file, cases[i].head, cases[i].size);
                assert_true(image_import(store, file, &import, NULL, NULL, &e) < 0);
                assert_string_equal(e.id, cases[i].id);
                assert_non_null(e.fix);
                assert_count(f, 0, 0);
        }
        const struct image_import raw = { .name = "a", .format = "raw" };
        assert_int_equal(image_import(store, "/nonexistent/disk", &raw, NULL, NULL, NULL), -ENOENT);
        assert_int_equal(image_import(store, f->dir, &raw, NULL, NULL, NULL), -EISDIR);
        assert_int_equal(image_import(store, "/dev/null", &raw, NULL, NULL, NULL), -EINVAL);
        const struct image_import climbing = { .name = "../a", .format = "raw" };
        make_file(file, "content", MIB);
        assert_int_equal(image_import(store, file, &climbing, NULL, NULL, NULL), -EINVAL);
        assert_count(f, 0, 0);
}

/* A GPT disk that lost its tail boots nothing: say so at once, not at the first start. */
static void test_import_refuses_a_truncated_gpt(void **state) {
        static const uint8_t alternate_lba[8] = { 0xff, 0x1f }; /* the last sector of 4 MiB */
        const struct image_import import = { .name = "a", .format = "raw" };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct fixture *f = *state;
        char file[100];
        int fd;

        snprintf(file, sizeof(file), "%s/in", f->dir);
        make_file(file, "", 4 * MIB);
        fd = open(file, O_RDWR);
        assert_int_equal(pwrite(fd, "EFI PART", 8, 512), 8);
        assert_int_equal(pwrite(fd, alternate_lba, 8, 512 + 32), 8);
        assert_int_equal(ftruncate(fd, 4 * MIB - 512), 0);
        assert_int_equal(image_import(store, file, &import, NULL, NULL, &e), -EUCLEAN);
        assert_int_equal(ftruncate(fd, 4 * MIB), 0);
        assert_int_equal(image_import(store, file, &import, NULL, NULL, NULL), 0);
        close(fd);
}

/* A qcow2 file of 1 MiB with "data" at 0 and 600 KiB. */
static void make_qcow2(const char *path, const struct qcow2_create *create) {
        const struct qcow2_options options = { 0 };
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        struct file *file = NULL;
        struct layer *layer = NULL;

        assert_int_equal(file_open(&(struct file_options){ .fd = fd }, &file, NULL), 0);
        assert_int_equal(qcow2_create(file, create, NULL), 0);
        assert_int_equal(qcow2_open(file, &options, &layer, NULL), 0);
        assert_int_equal(layer_write(layer, "data", 0, 4), 0);
        assert_int_equal(layer_write(layer, "data", 600 << 10, 4), 0);
        assert_int_equal(layer_flush(layer), 0);
        layer_close(layer);
        close(fd);
}

static void patch(const char *path, const void *bytes, size_t n, off_t at) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);

        assert_int_equal(pwrite(fd, bytes, n, at), n);
        close(fd);
}

/* qcow2 can name other files, and a reader that follows these names is the way to the host's secrets. */
static void test_import_refuses_other_files(void **state) {
        const struct image_import import = { .name = "a", .format = "qcow2" };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        struct fixture *f = *state;
        char file[100];

        snprintf(file, sizeof(file), "%s/in", f->dir);
        for (int i = 0; i < 2; i++) {
                _cleanup_error_ struct error e = ERROR_INIT;

                make_qcow2(file, &(struct qcow2_create){ .size = MIB,
                                                         .backing_file = i == 0 ? "/etc/passwd" : NULL,
                                                         .backing_format = i == 0 ? "raw" : NULL });
                if (i == 1)
                        patch(file, "\x04", 1, 79); /* the low byte of the incompatible features: external data file */
                assert_int_equal(image_import(store, file, &import, NULL, NULL, &e), -ENOTSUP);
                assert_non_null(strstr(e.message, i == 0 ? "backing file" : "another file"));
                assert_count(f, 0, 0);
        }
}

struct swap {
        char file[100], secret[100];
};

/* The image's owner waits until the file was looked at, and then lets its header name a file that only root may read. */
static void name_the_secret(void *opaque, const char *text) {
        const struct swap *swap = opaque;
        const struct {
                uint64_t at;
                uint32_t size;
        } __attribute__((packed)) name = { htobe64(512), htobe32(strlen(swap->secret)) };

        if (!streq(text, "copying the disk"))
                return;
        patch(swap->file, swap->secret, strlen(swap->secret), 512);
        patch(swap->file, "\xe2\x79\x2a\xca\0\0\0\3raw\0\0\0\0\0", 16, 112); /* its format */
        patch(swap->file, &name, sizeof(name), 8);
}

static void test_import_reads_one_file_only(void **state) {
        const struct image_import import = { .name = "a", .format = "qcow2" };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_free_ char *path = NULL, *want = calloc(1, MIB), *got = calloc(1, MIB);
        struct fixture *f = *state;
        struct swap swap;
        struct stat st;
        int fd;

        snprintf(swap.file, sizeof(swap.file), "%s/in", f->dir);
        snprintf(swap.secret, sizeof(swap.secret), "%s/secret", f->dir);
        make_file(swap.secret, "the host's", MIB);
        patch(swap.secret, "secret", 6, 300 << 10);
        make_qcow2(swap.file, &(struct qcow2_create){ .size = MIB });
        const struct image_progress progress = { .step = name_the_secret, .opaque = &swap, .cancel_fd = -EBADF };
        assert_int_equal(image_import(store, swap.file, &import, &progress, NULL, NULL), 0);
        assert_int_equal(image_find(store, "a", &image, NULL), 0);
        assert_int_equal(image_file_path(image, IMAGE_FILE_DISK, &path), 0);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, MIB);
        assert_true(st.st_blocks * 512 < MIB);
        memcpy(want, "data", 4);
        memcpy(want + (600 << 10), "data", 4);
        assert_int_equal(pread(fd, got, MIB, 0), MIB);
        assert_memory_equal(got, want, MIB);
        close(fd);
}

/* What was cut short would read as zeroes at its end. */
static void test_import_refuses_a_truncated_qcow2(void **state) {
        const struct image_import import = { .name = "a", .format = "qcow2" };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct fixture *f = *state;
        char file[100];
        struct stat st;

        snprintf(file, sizeof(file), "%s/in", f->dir);
        make_qcow2(file, &(struct qcow2_create){ .size = MIB });
        assert_int_equal(stat(file, &st), 0);
        assert_int_equal(truncate(file, st.st_size - 65536), 0);
        assert_int_equal(image_import(store, file, &import, NULL, NULL, &e), -EUCLEAN);
        assert_string_equal(e.id, "image-import");
        assert_count(f, 0, 0);
}

/* Ctrl-C ends an import, and nothing of it stays. */
static void test_import_can_be_stopped(void **state) {
        const struct image_import import = { .name = "a", .format = "qcow2" };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_close_ int signalled = open("/dev/null", O_RDONLY | O_CLOEXEC); /* always readable */
        const struct image_progress progress = { .cancel_fd = signalled };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct fixture *f = *state;
        char file[100];

        snprintf(file, sizeof(file), "%s/in", f->dir);
        make_qcow2(file, &(struct qcow2_create){ .size = MIB });
        assert_int_equal(image_import(store, file, &import, &progress, NULL, &e), -EINTR);
        assert_string_equal(e.id, "cancelled");
        assert_count(f, 0, 0);
}

static int refuse_lock(int fd, bool readonly, const char *path, struct error *e) {
        assert_true(readonly);
        return error_set(e, -EBUSY, "disk-busy", NULL, "%s is in use", path);
}

/* Half of a write of a running machine is no disk. */
static void test_import_asks_for_the_lock(void **state) {
        static const char *const formats[] = { "raw", "qcow2" };
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        struct fixture *f = *state;
        char file[100];

        snprintf(file, sizeof(file), "%s/in", f->dir);
        make_qcow2(file, &(struct qcow2_create){ .size = MIB });
        for (size_t i = 0; i < ELEMENTSOF(formats); i++) {
                const struct image_import import = { .name = "a", .format = formats[i], .lock = refuse_lock };

                assert_int_equal(image_import(store, file, &import, NULL, NULL, NULL), -EBUSY);
                assert_count(f, 0, 0);
        }
}

/* A machine's disk has the image's content, is sparse like it, and what the machine writes stays there. */
static void test_overlay(void **state) {
        _cleanup_(image_store_freep) struct image_store *store = open_store(*state, NULL);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_free_ char *path = NULL, *strings = NULL, *base = NULL;
        struct fixture *f = *state;
        struct qcow2_info info;
        struct file *file;
        struct stat st;
        int fd;

        assert_int_equal(import_raw(f, store, "a", NULL), 0);
        assert_int_equal(image_find(store, "a", &image, NULL), 0);
        assert_int_equal(image_make_overlay(image, f->dir, &path, NULL), 0);
        fd = open(path, O_RDWR);
        assert_int_equal(fstat(fd, &st), 0);
        assert_true(st.st_blocks * 512 < MIB);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(file_open(&(struct file_options){ .fd = fd }, &file, NULL), 0);
        assert_int_equal(qcow2_peek(file, &info, &strings, NULL), 0);
        assert_int_equal(info.size, 4 * MIB);
        assert_int_equal(image_file_path(image, IMAGE_FILE_DISK, &base), 0);
        assert_string_equal(info.backing_file, base);
        assert_string_equal(info.backing_format, "raw");
        file_close(file);
        close(fd);
        assert_int_equal(image_verify(image, NULL), 0);
        assert_int_equal(image_make_overlay(image, f->dir, &path, NULL), -EEXIST); /* never over another machine's */
}

/* Data between holes, at the start, at the end, across chunks: each byte must come over, by every way of copying. */
static void test_copy_keeps_data_and_holes(void **state) {
        static const off_t data[] = { 0, 5 * MIB - 7, 20 * MIB + 1, 40 * MIB - 4 };
        struct fixture *f = *state;
        struct sys by_hand = sys_real; /* another table: no copy_file_range() */
        const struct sys *tables[] = { &sys_real, &by_hand };
        char from[100], to[100], a[SHA256_HEX_SIZE], b[SHA256_HEX_SIZE];
        int in;

        snprintf(from, sizeof(from), "%s/from", f->dir);
        snprintf(to, sizeof(to), "%s/to", f->dir);
        make_file(from, "", 40 * MIB);
        in = open(from, O_RDWR);
        for (size_t i = 0; i < ELEMENTSOF(data); i++)
                assert_int_equal(pwrite(in, "data", 4, data[i]), 4);
        assert_int_equal(sha256_fd(in, a, NULL), 0);
        for (size_t i = 0; i < ELEMENTSOF(tables); i++) {
                int out = open(to, O_RDWR | O_CREAT | O_TRUNC, 0644);

                assert_int_equal(copy_sparse(tables[i], in, out, -EBADF), 0);
                assert_int_equal(sha256_fd(out, b, NULL), 0);
                assert_string_equal(a, b);
                close(out);
        }
        close(in);
}

/* A file system that tells no holes (9p) makes an image look full: a copy that wrote its zeroes would fill the host's disk. */
static void test_copy_leaves_zeroes_out(void **state) {
        struct fixture *f = *state;
        struct sys by_hand = sys_real;
        char from[100], to[100], zeroes[4096] = { 0 };
        struct stat st;
        int in, out;

        snprintf(from, sizeof(from), "%s/zeroes", f->dir);
        snprintf(to, sizeof(to), "%s/zeroes-copy", f->dir);
        make_file(from, "", 4 * MIB);
        in = open(from, O_RDWR);
        for (off_t at = 0; at < 4 * MIB; at += (off_t)sizeof(zeroes))
                assert_int_equal(pwrite(in, zeroes, sizeof(zeroes), at), sizeof(zeroes));
        out = open(to, O_RDWR | O_CREAT | O_TRUNC, 0644);
        assert_int_equal(copy_sparse(&by_hand, in, out, -EBADF), 0);
        assert_int_equal(fstat(out, &st), 0);
        assert_int_equal(st.st_size, 4 * MIB);
        assert_in_range(st.st_blocks * 512, 0, 128 << 10);
        close(in);
        close(out);
}

static void no_line(void *opaque, char *text) {
        snprintf(opaque, 64, "%s", text);
}

/* Recipes speak to us through run_program(): its exit status, its lines, and its end when we want it to end. */
static void test_run_program(void **state) {
        struct fixture *f = *state;
        const char *argv[] = { "sh", "-c", "echo hello >&3; exit 7", NULL };
        const char *missing[] = { "lodge-no-such-program", NULL };
        const char *sleeps[] = { "sh", "-c", "sleep 100 & sleep 100", NULL };
        char text[64] = "";
        int p[2], cancel[2];

        assert_int_equal(pipe2(p, O_CLOEXEC), 0);
        const struct run_fd fds[] = { { p[1], 3 } };
        assert_int_equal(run_program(argv, fds, 1, f->dir, p[0], no_line, text, -EBADF), 7);
        assert_string_equal(text, "hello");
        assert_int_equal(run_program(missing, NULL, 0, f->dir, -EBADF, NULL, NULL, -EBADF), 127);
        assert_int_equal(pipe2(cancel, O_CLOEXEC), 0);
        assert_int_equal(write(cancel[1], "x", 1), 1);
        assert_int_equal(run_program(sleeps, NULL, 0, f->dir, -EBADF, NULL, NULL, cancel[0]), -EINTR);
        for (int i = 0; i < 2; i++) {
                close(p[i]);
                close(cancel[i]);
        }
}

/* How many uploads there are in the store. */
static unsigned count_uploads(struct fixture *f) {
        DIR *d = opendir(f->root);
        struct dirent *de;
        unsigned n = 0;

        assert_non_null(d);
        while ((de = readdir(d)))
                n += strncmp(de->d_name, ".upload-", 8) == 0;
        closedir(d);
        return n;
}

static void on_word(void *opaque, const char *text) {
        assert_string_equal(text, "ready");
}

static ssize_t fail_pwrite(int fd, const void *buf, size_t n, off_t at) {
        errno = ENOSPC;
        return -1;
}

static int little_room(int fd, struct statvfs *ret) {
        *ret = (struct statvfs){ .f_bavail = STORE_RESERVE / 4096, .f_frsize = 4096 };
        return 0;
}

/* @size bytes are announced and @sent come. */
static int receive(struct image_store *store, size_t size, size_t sent, const char *sha256, const char **ret_error_id,
                   char ret_id[static UPLOAD_ID_SIZE]) {
        static const char data[8192] = "something";
        const struct image_progress progress = { .step = on_word, .cancel_fd = -EBADF };
        _cleanup_error_ struct error e = ERROR_INIT;
        char sum[SHA256_HEX_SIZE];
        int p[2], r;

        assert_int_equal(pipe(p), 0);
        assert_int_equal(write(p[1], data, sent), sent);
        close(p[1]);
        r = upload_receive(store, p[0], size, sha256, &progress, ret_id, sum, &e);
        close(p[0]);
        *ret_error_id = e.id;
        return r;
}

/* What breaks off, is not what was said, or does not fit must not stay; what the journal does not know must not either, and what it knows must. */
static void test_uploads_stay_whole_or_go(void **state) {
        static const char zeroes[] = "0000000000000000000000000000000000000000000000000000000000000000";
        struct fixture *f = *state;
        struct sys full = sys_real, crowded = sys_real;
        struct image_store *store = open_store(f, NULL), *no_room, *reserve;
        char id[UPLOAD_ID_SIZE], other[UPLOAD_ID_SIZE], *keep[] = { id };
        const char *why;

        full.pwrite = fail_pwrite;
        no_room = open_store(f, &full);
        crowded.fstatvfs = little_room;
        reserve = open_store(f, &crowded);
        assert_int_equal(receive(store, 8192, 5000, NULL, &why, id), -EPIPE);
        assert_string_equal(why, "upload-short");
        assert_int_equal(receive(store, 8192, 8192, zeroes, &why, id), -EINVAL);
        assert_string_equal(why, "upload-digest");
        assert_int_equal(receive(no_room, 8192, 8192, NULL, &why, id), -ENOSPC);
        assert_string_equal(why, "image-no-space");
        assert_int_equal(receive(reserve, 8192, 8192, NULL, &why, id), -ENOSPC); /* what others live on is not filled */
        assert_string_equal(why, "image-no-space");
        assert_int_equal(count_uploads(f), 0);
        assert_int_equal(upload_check(store, "a/b", INT64_MAX / 2, NULL), -ENOSPC);
        assert_int_equal(upload_check(store, "../b", 512, NULL), -EINVAL);
        assert_int_equal(upload_check(store, "a/b", 0, NULL), -EINVAL);
        assert_int_equal(receive(store, 8192, 8192, NULL, &why, id), 0);
        assert_int_equal(receive(store, 8192, 8192, NULL, &why, other), 0);
        image_store_free(open_store(f, NULL)); /* another process of the user's: they are not its */
        assert_int_equal(count_uploads(f), 2);
        upload_sweep(store, keep, 1);
        assert_int_equal(count_uploads(f), 1);
        assert_int_equal(upload_remove(store, other), 0);
        assert_int_equal(upload_remove(store, id), 0);
        assert_int_equal(count_uploads(f), 0);
        image_store_free(reserve);
        image_store_free(no_room);
        image_store_free(store);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sha256_is_the_standard_one),
                cmocka_unit_test(test_names),
                cmocka_unit_test_setup_teardown(test_import_find_list_delete, setup, teardown),
                cmocka_unit_test_setup_teardown(test_image_in_use_stays, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_failed_import_leaves_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_leftovers_of_the_dead_are_swept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_metadata, setup, teardown),
                cmocka_unit_test_setup_teardown(test_verify_finds_damage, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_refusals, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_refuses_a_truncated_gpt, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_refuses_other_files, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_reads_one_file_only, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_refuses_a_truncated_qcow2, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_can_be_stopped, setup, teardown),
                cmocka_unit_test_setup_teardown(test_import_asks_for_the_lock, setup, teardown),
                cmocka_unit_test_setup_teardown(test_overlay, setup, teardown),
                cmocka_unit_test_setup_teardown(test_copy_keeps_data_and_holes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_copy_leaves_zeroes_out, setup, teardown),
                cmocka_unit_test_setup_teardown(test_run_program, setup, teardown),
                cmocka_unit_test_setup_teardown(test_uploads_stay_whole_or_go, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
