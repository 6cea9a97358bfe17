// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Units of daemon/storage: what every driver promises. A new driver adds a line to `kinds`: how a pool of its kind is made
 * in an empty directory; tests that look at a driver's own files are below its name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/io.h"
#include "base/sys.h"
#include "daemon/engine/parts.h"
#include "daemon/image/meta.h"
#include "daemon/image/store.h"
#include "daemon/storage/pool.h"
#include "vmm/block/chain/chain.h"
#include "vmm/block/qcow2/qcow2.h"

#define MIB (1ull << 20)

struct fixture {
        char dir[80], pool_dir[96];
        struct image_store *store;
        struct image *image; /* "base/1": 4 MiB whose sectors hold their numbers */
        struct pool_config *config;
};

/* What the lowest calls do in a test that wants them to fail. */
static int no_clone(int fd, unsigned long request, ...) {
        errno = EOPNOTSUPP;
        return -1;
}

static struct sys sys_no_clone(void) {
        struct sys s = sys_real;

        s.ioctl = no_clone;
        return s;
}

/* Some file systems (NFS, 9p) have no files without a name. */
static bool no_tmpfile;
int __real_openat64(int dir_fd, const char *path, int flags, ...);
int __wrap_openat64(int dir_fd, const char *path, int flags, ...);

int __wrap_openat64(int dir_fd, const char *path, int flags, ...) {
        mode_t mode = 0;

        if (no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
                errno = EOPNOTSUPP;
                return -1;
        }
        if (flags & (O_CREAT | O_TMPFILE)) {
                va_list ap;

                va_start(ap, flags);
                mode = va_arg(ap, mode_t);
                va_end(ap);
        }
        return __real_openat64(dir_fd, path, flags, mode);
}

static void fill(uint64_t *sector, uint64_t number) {
        for (size_t i = 0; i < 512 / sizeof(*sector); i++)
                sector[i] = number * 1000 + i + 1;
}

static void make_image(struct fixture *f, const char *name) {
        struct image_import import = { .name = name, .format = "raw" };
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        uint64_t sector[64];
        char path[128];

        snprintf(path, sizeof(path), "%s/source.raw", f->dir);
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, 4 * MIB), 0);
        for (uint64_t i = 0; i < 1024; i++) {
                fill(sector, i);
                assert_int_equal(io_write_at(&sys_real, fd, sector, 512, i * 512), 0);
        }
        assert_int_equal(image_import(f->store, path, &import, NULL, NULL, &e), 0);
        unlink(path);
}

static int setup(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));
        char root[128];

        snprintf(f->dir, sizeof(f->dir), "%s/lodge-test-pool-XXXXXX", getenv("TMPDIR") ?: "/var/tmp");
        assert_non_null(mkdtemp(f->dir));
        snprintf(f->pool_dir, sizeof(f->pool_dir), "%s/pool", f->dir);
        snprintf(root, sizeof(root), "%s/images", f->dir);
        assert_int_equal(image_store_open(root, NULL, &f->store, NULL), 0);
        make_image(f, "base/1");
        assert_int_equal(image_find(f->store, "base/1", &f->image, NULL), 0);
        assert_int_equal(pool_config_new(&f->config), 0);
        f->config->name = strdup("default");
        f->config->path = strdup(f->pool_dir);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        pool_config_free(f->config);
        image_free(f->image);
        image_store_free(f->store);
        assert_int_equal(remove_tree(AT_FDCWD, f->dir), 0);
        free(f);
        return 0;
}

static struct pool *open_pool(struct fixture *f, const struct sys *sys) {
        struct pool_options options = { .sys = sys, .images = f->store, .lock = disk_lock };
        _cleanup_error_ struct error e = ERROR_INIT;
        struct pool *pool = NULL;

        if (pool_open(f->config, &options, &pool, &e) < 0)
                fail_msg("%s: %s", e.id, e.message);
        return pool;
}

static void assert_error(struct error *e, int code, const char *id) {
        assert_int_equal(e->code, code);
        assert_string_equal(e->id, id);
        assert_non_null(e->message);
        error_clear(e);
}

/* Opens volume @name with what it stands on. */
static struct chain *open_chain(struct pool *pool, const char *name, bool write) {
        struct chain_options options = { .n_writable = write ? 1 : 0 };
        _cleanup_(volume_freep) struct volume *v = NULL;
        _cleanup_free_ char *path = NULL;
        struct chain *chain;

        assert_int_equal(volume_find(pool, name, &v, NULL), 0);
        assert_int_equal(volume_path(pool, name, &path, NULL), 0);
        assert_int_equal(chain_open(path, volume_format_to_string(v->format), &options, &chain, NULL), 0);
        return chain;
}

static void write_sector(struct pool *pool, const char *name, uint64_t at, uint64_t number) {
        struct chain *chain = open_chain(pool, name, true);
        uint64_t sector[64];

        fill(sector, number);
        assert_int_equal(layer_write(chain_top(chain), sector, at * 512, 512), 0);
        assert_int_equal(chain_finish(chain, NULL), 0);
        chain_close(chain);
}

static void assert_sector(struct pool *pool, const char *name, uint64_t at, uint64_t number, bool zero) {
        struct chain *chain = open_chain(pool, name, false);
        uint64_t got[64], want[64] = { 0 };

        if (!zero)
                fill(want, number);
        assert_int_equal(layer_read(chain_top(chain), NULL, got, at * 512, 512), 0);
        assert_memory_equal(got, want, 512);
        chain_close(chain);
}

static uint64_t size_of(struct pool *pool, const char *name) {
        _cleanup_(volume_freep) struct volume *v = NULL;

        assert_int_equal(volume_find(pool, name, &v, NULL), 0);
        return v->size;
}

static size_t count_files(const char *dir) {
        DIR *d = opendir(dir);
        struct dirent *de;
        size_t n = 0;

        assert_non_null(d);
        while ((de = readdir(d)))
                n += strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 && strcmp(de->d_name, ".lock") != 0;
        closedir(d);
        return n;
}

/* ---- every driver -------------------------------------------------------------------------------------------------- */

/* Without this, a new disk would be of another size, show old data, or be lost. */
static void test_empty_volumes(void **state) {
        struct fixture *f = *state;
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, NULL);
        struct pool_usage usage;
        struct volume **volumes;
        size_t n;

        for (int i = 0; i < 2; i++) {
                enum volume_format format = i == 0 ? VOLUME_FORMAT_RAW : VOLUME_FORMAT_QCOW2;
                struct volume_request request = { .name = i == 0 ? "b" : "a", .size = 3 * MIB };

                assert_int_equal(volume_create_empty(pool, &request, format, NULL), 0);
                assert_int_equal(size_of(pool, request.name), 3 * MIB);
                assert_sector(pool, request.name, 7, 0, true);
                write_sector(pool, request.name, 7, 42);
                assert_sector(pool, request.name, 7, 42, false);
        }
        assert_int_equal(volume_list(pool, &volumes, &n, NULL), 0);
        assert_int_equal(n, 2);
        assert_string_equal(volumes[0]->name, "a");
        assert_int_equal(volumes[0]->format, VOLUME_FORMAT_QCOW2);
        assert_string_equal(volumes[1]->name, "b");
        assert_null(volumes[1]->base);
        assert_int_equal(pool_get_usage(pool, &usage, NULL), 0);
        assert_true(usage.available <= usage.capacity && usage.capacity > 0);
        assert_int_equal(usage.allocated, volumes[0]->allocated + volumes[1]->allocated);
        assert_true(usage.allocated >= 1024);
        volume_list_free(volumes, n);
}

/* A name that isn't one must not become a path; a size must not wrap. */
static void test_bad_requests(void **state) {
        static const char *const names[] = { "",
                                             "..",
                                             "a/b",
                                             "../x",
                                             "-a",
                                             "a-",
                                             "A",
                                             "a.b",
                                             "a b",
                                             "a\n",
                                             ".lock",
                                             "\xc3\xa4",
                                             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
        static const uint64_t sizes[] = { 0, 1, 511, 513, VOLUME_SIZE_MAX + 512, UINT64_MAX, UINT64_MAX - 511 };
        struct fixture *f = *state;
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, NULL);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct volume *v;
        char *path;
        int fd;

        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
                struct volume_request request = { .name = names[i], .size = MIB };

                assert_int_equal(volume_create_empty(pool, &request, VOLUME_FORMAT_RAW, &e), -EINVAL);
                assert_error(&e, -EINVAL, "volume-name");
                assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), -EINVAL);
                assert_int_equal(volume_clone(pool, names[i], &request, NULL), -EINVAL);
                assert_int_equal(volume_delete(pool, names[i], NULL), -EINVAL);
                assert_int_equal(volume_find(pool, names[i], &v, NULL), -EINVAL);
                assert_int_equal(volume_resize(pool, names[i], MIB, NULL), -EINVAL);
                assert_int_equal(volume_path(pool, names[i], &path, NULL), -EINVAL);
                assert_int_equal(volume_open(pool, names[i], true, &fd, NULL, NULL), -EINVAL);
        }
        for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
                struct volume_request request = { .name = "a", .size = sizes[i] };

                assert_int_equal(volume_create_empty(pool, &request, VOLUME_FORMAT_QCOW2, &e), -EINVAL);
                assert_error(&e, -EINVAL, "volume-size");
        }
        assert_int_equal(volume_find(pool, "a", &v, &e), -ENOENT);
        assert_error(&e, -ENOENT, "volume-not-found");
        assert_int_equal(volume_resize(pool, "a", MIB, &e), -ENOENT);
        assert_error(&e, -ENOENT, "volume-not-found");
        assert_int_equal(volume_clone(pool, "a", &(struct volume_request){ .name = "b" }, NULL), -ENOENT);
        assert_int_equal(count_files(f->pool_dir), 0);
}

/* A step that is repeated after a crash must not fail; another machine's disk must not be taken over. */
static void test_again(void **state) {
        struct fixture *f = *state;
        const struct sys plain = sys_no_clone();
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, &plain);
        struct volume_request request = { .name = "a", .size = 8 * MIB };
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), 0);
        write_sector(pool, "a", 3, 99);
        assert_int_equal(volume_create_from_image(pool, &request, f->image, &e), -EEXIST);
        assert_error(&e, -EEXIST, "volume-exists");
        request.again = true;
        assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), 0);
        assert_sector(pool, "a", 3, 99, false);
        request.size = 9 * MIB;
        assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), -EEXIST);
        request.size = 8 * MIB;
        assert_int_equal(volume_create_empty(pool, &request, VOLUME_FORMAT_RAW, NULL), -EEXIST);
        assert_int_equal(volume_create_empty(pool, &request, VOLUME_FORMAT_QCOW2, NULL), -EEXIST);

        request = (struct volume_request){ .name = "b", .again = true };
        assert_int_equal(volume_clone(pool, "a", &request, NULL), 0);
        assert_int_equal(volume_clone(pool, "a", &request, NULL), 0);
        request.again = false;
        assert_int_equal(volume_clone(pool, "a", &request, NULL), -EEXIST);
        assert_int_equal(volume_delete(pool, "b", NULL), 0);
        assert_int_equal(volume_delete(pool, "b", NULL), 0);
        assert_int_equal(count_files(f->pool_dir), 1);
}

/* A machine's disk must begin as the image's, in full, and never write to it. */
static void test_from_image(void **state) {
        struct fixture *f = *state;
        const struct sys plain = sys_no_clone();
        _cleanup_error_ struct error e = ERROR_INIT;

        for (int i = 0; i < 2; i++) {
                _cleanup_(pool_freep) struct pool *pool = open_pool(f, i == 0 ? &plain : NULL);
                struct volume_request request = { .name = i == 0 ? "a" : "b" };
                _cleanup_(volume_freep) struct volume *v = NULL;

                assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), 0);
                assert_int_equal(volume_find(pool, request.name, &v, NULL), 0);
                assert_int_equal(v->size, 4 * MIB);
                if (v->format == VOLUME_FORMAT_QCOW2)
                        assert_string_equal(v->image, "base/1");
                else
                        assert_null(v->base);
                assert_true(i == 1 || v->format == VOLUME_FORMAT_QCOW2);
                if (i == 1 &&
                    getenv("LODGE_TEST_REFLINK")) { /* by test/system/pool.sh, on a file system that shares blocks */
                        assert_int_equal(v->format, VOLUME_FORMAT_RAW);
                        assert_int_equal(volume_check(pool, &(struct volume_config){ .name = v->name }, NULL), 0);
                }
                for (uint64_t at = 0; at < 1024; at += 31)
                        assert_sector(pool, request.name, at, at, false);
                write_sector(pool, request.name, 5, 77);
                assert_sector(pool, request.name, 5, 77, false);
                assert_int_equal(image_verify(f->image, NULL), 0);

                request = (struct volume_request){ .name = "large", .size = 64 * MIB };
                assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), 0);
                assert_int_equal(size_of(pool, "large"), 64 * MIB);
                assert_sector(pool, "large", 1023, 1023, false);
                assert_sector(pool, "large", 64 * 2048 - 1, 0, true);
                assert_int_equal(volume_delete(pool, "large", NULL), 0);

                request = (struct volume_request){ .name = "small", .size = MIB };
                assert_int_equal(volume_create_from_image(pool, &request, f->image, &e), -EINVAL);
                assert_error(&e, -EINVAL, "volume-size");
        }
}

/* Images that volumes stand on must not go; a volume that was made to name another file must not be started. */
static void test_images_in_use(void **state) {
        struct fixture *f = *state;
        const struct sys plain = sys_no_clone();
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, &plain);
        struct volume_config recorded = { .name = (char *)"a",
                                          .format = VOLUME_FORMAT_QCOW2,
                                          .image = (char *)"base/1" };
        _cleanup_error_ struct error e = ERROR_INIT;
        char **images, name[8];
        size_t n;

        assert_int_equal(pool_check_image(&pool, 1, "base/1", NULL), 0);
        for (int i = 0; i < 5; i++) {
                snprintf(name, sizeof(name), "%c", 'a' + i);
                assert_int_equal(
                        volume_create_from_image(pool, &(struct volume_request){ .name = name }, f->image, NULL), 0);
        }
        assert_int_equal(volume_images(pool, &images, &n, NULL), 0);
        assert_int_equal(n, 1);
        assert_string_equal(images[0], "base/1");
        volume_images_free(images, n);
        assert_int_equal(pool_check_image(&pool, 1, "base/1", &e), -EBUSY);
        assert_non_null(strstr(e.message, "default/"));
        assert_non_null(strstr(e.message, "and 2 more"));
        assert_error(&e, -EBUSY, "image-in-use");
        assert_int_equal(pool_check_image(&pool, 1, "base/2", NULL), 0);

        assert_int_equal(volume_check(pool, &recorded, NULL), 0);
        recorded.image = NULL;
        assert_int_equal(volume_check(pool, &recorded, &e), -EUCLEAN);
        assert_error(&e, -EUCLEAN, "volume-base");
        recorded.image = (char *)"base/2";
        make_image(f, "base/2");
        assert_int_equal(volume_check(pool, &recorded, &e), -EUCLEAN);
        assert_error(&e, -EUCLEAN, "volume-base");
        recorded.image = (char *)"base/1";
        recorded.format = VOLUME_FORMAT_RAW;
        assert_int_equal(volume_check(pool, &recorded, &e), -EUCLEAN);
        assert_error(&e, -EUCLEAN, "volume-damaged");
}

/* A clone must hold what its source holds, and neither must see what the other writes later. */
static void test_clone(void **state) {
        struct fixture *f = *state;
        const struct sys plain = sys_no_clone();

        for (int i = 0; i < 4; i++) {
                _cleanup_(pool_freep) struct pool *pool = open_pool(f, i % 2 ? &plain : NULL);
                struct volume_request request = { .name = "source", .size = 6 * MIB };
                _cleanup_(volume_freep) struct volume *v = NULL, *w = NULL;

                if (i < 2)
                        assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), 0);
                else
                        assert_int_equal(volume_create_empty(pool, &request, VOLUME_FORMAT_RAW, NULL), 0);
                write_sector(pool, "source", 9, 1);
                request = (struct volume_request){ .name = "copy" };
                assert_int_equal(volume_clone(pool, "source", &request, NULL), 0);
                write_sector(pool, "source", 9, 2);
                write_sector(pool, "copy", 10, 3);
                assert_sector(pool, "copy", 9, 1, false);
                assert_sector(pool, "source", 9, 2, false);
                assert_sector(pool, "source", 10, 10, i >= 2);
                assert_sector(pool, "copy", 500, 500, i >= 2);
                assert_int_equal(volume_find(pool, "source", &v, NULL), 0);
                assert_int_equal(volume_find(pool, "copy", &w, NULL), 0);
                assert_int_equal(v->format, w->format);
                assert_true(!v->base == !w->base && (!v->base || strcmp(v->base, w->base) == 0));

                request = (struct volume_request){ .name = "large", .size = 20 * MIB };
                assert_int_equal(volume_clone(pool, "source", &request, NULL), 0);
                assert_int_equal(size_of(pool, "large"), 20 * MIB);
                assert_sector(pool, "large", 9, 2, false);
                request = (struct volume_request){ .name = "small", .size = MIB };
                assert_int_equal(volume_clone(pool, "source", &request, NULL), -EINVAL);
                assert_int_equal(volume_clone(pool, "source", &(struct volume_request){ .name = "source" }, NULL),
                                 -EINVAL);
                assert_int_equal(volume_delete(pool, "source", NULL), 0);
                assert_sector(pool, "copy", 9, 1, false);
                assert_int_equal(volume_delete(pool, "copy", NULL), 0);
                assert_int_equal(volume_delete(pool, "large", NULL), 0);
                assert_int_equal(count_files(f->pool_dir), 0);
        }
}

/* A disk that a machine writes to must be neither copied half way, nor resized behind its back, nor deleted. */
static void test_in_use(void **state) {
        struct fixture *f = *state;
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, NULL);
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_close_ int fd = -EBADF;
        enum volume_format format;

        assert_int_equal(volume_create_empty(pool, &(struct volume_request){ .name = "a", .size = MIB },
                                             VOLUME_FORMAT_RAW, NULL),
                         0);
        assert_int_equal(volume_open(pool, "a", false, &fd, &format, NULL), 0);
        assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
        assert_int_equal(disk_lock(fd, false, "a", NULL), 0);
        assert_int_equal(volume_clone(pool, "a", &(struct volume_request){ .name = "b" }, &e), -EBUSY);
        assert_error(&e, -EBUSY, "disk-busy");
        assert_int_equal(volume_resize(pool, "a", 2 * MIB, &e), -EBUSY);
        assert_error(&e, -EBUSY, "disk-busy");
        assert_int_equal(volume_resize(pool, "a", MIB, NULL), 0); /* as it is: nothing to do */
        assert_int_equal(volume_delete(pool, "a", &e), -EBUSY);
        assert_error(&e, -EBUSY, "disk-busy");
        assert_int_equal(size_of(pool, "a"), MIB);
        fd = safe_close(fd);
        assert_int_equal(volume_delete(pool, "a", NULL), 0);
        assert_int_equal(count_files(f->pool_dir), 0);
}

/* Growing must keep what is there and add zeroes; shrinking would lose it. */
static void test_resize(void **state) {
        struct fixture *f = *state;
        const struct sys plain = sys_no_clone();
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, &plain);
        _cleanup_error_ struct error e = ERROR_INIT;

        for (int i = 0; i < 3; i++) {
                struct volume_request request = { .name = "a", .size = 5 * MIB };

                if (i == 0)
                        assert_int_equal(volume_create_from_image(pool, &request, f->image, NULL), 0);
                else
                        assert_int_equal(volume_create_empty(pool, &request,
                                                             i == 1 ? VOLUME_FORMAT_RAW : VOLUME_FORMAT_QCOW2, NULL),
                                         0);
                write_sector(pool, "a", 3, 8);
                assert_int_equal(volume_resize(pool, "a", 4 * MIB, &e), -EINVAL);
                assert_error(&e, -EINVAL, "volume-shrink");
                assert_int_equal(volume_resize(pool, "a", 2048 * MIB, NULL), 0);
                assert_int_equal(volume_resize(pool, "a", 2048 * MIB, NULL), 0);
                assert_int_equal(size_of(pool, "a"), 2048 * MIB);
                assert_sector(pool, "a", 3, 8, false);
                assert_sector(pool, "a", 2048 * 2048 - 1, 0, true);
                assert_int_equal(volume_delete(pool, "a", NULL), 0);
        }
}

struct seen {
        uint64_t done, all;
        unsigned int n;
};

static void see(void *opaque, uint64_t done, uint64_t all) {
        struct seen *s = opaque;

        assert_true(done >= s->done && done <= all);
        *s = (struct seen){ done, all, s->n + 1 };
}

/* A person waits for a long copy: it must tell how far it is, and end without a trace when it is stopped. */
static void test_progress_and_cancel(void **state) {
        struct fixture *f = *state;
        const struct sys plain = sys_no_clone();
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, &plain);
        struct seen seen = { 0 };
        struct pool_progress progress = { .advance = see, .opaque = &seen, .cancel_fd = -EBADF };
        struct volume_request request = { .name = "b", .progress = &progress };
        _cleanup_error_ struct error e = ERROR_INIT;
        int pipe_fds[2];

        assert_int_equal(volume_create_empty(pool, &(struct volume_request){ .name = "a", .size = 64 * MIB },
                                             VOLUME_FORMAT_RAW, NULL),
                         0);
        for (uint64_t i = 0; i < 4; i++)
                write_sector(pool, "a", i * 16 * 2048 + 1, i);
        assert_int_equal(volume_clone(pool, "a", &request, NULL), 0);
        assert_true(seen.n >= 4);
        assert_int_equal(seen.all, 64 * MIB);
        assert_int_equal(volume_delete(pool, "b", NULL), 0);

        assert_int_equal(pipe(pipe_fds), 0);
        assert_int_equal(write(pipe_fds[1], "x", 1), 1);
        progress.cancel_fd = pipe_fds[0];
        assert_int_equal(volume_clone(pool, "a", &request, &e), -EINTR);
        assert_error(&e, -EINTR, "volume-stopped");
        assert_int_equal(count_files(f->pool_dir), 1);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
}

static int full_after; /* writes that still work */

static ssize_t full_pwrite(int fd, const void *buf, size_t n, off_t offset) {
        if (full_after-- > 0)
                return pwrite(fd, buf, n, offset);
        errno = ENOSPC;
        return -1;
}

static ssize_t full_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        if (full_after-- > 0)
                return pwritev(fd, iov, n, offset);
        errno = ENOSPC;
        return -1;
}

/* A full pool is a person's everyday trouble: it must be called that, and leave nothing. */
static void test_full(void **state) {
        struct fixture *f = *state;
        struct sys sys = sys_no_clone();
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_(pool_freep) struct pool *pool = NULL;

        sys.pwrite = full_pwrite;
        sys.pwritev = full_pwritev;
        full_after = 1000000;
        pool = open_pool(f, &sys);
        assert_int_equal(volume_create_from_image(pool, &(struct volume_request){ .name = "a" }, f->image, NULL), 0);
        write_sector(pool, "a", 5, 5);
        for (int i = 0; i < 4; i++) {
                struct volume_request request = { .name = "b", .size = 8 * MIB };
                int r;

                full_after = i % 2;
                r = i < 2 ? volume_create_from_image(pool, &request, f->image, &e)
                          : volume_clone(pool, "a", &request, &e);
                assert_int_equal(r, -ENOSPC);
                assert_non_null(strstr(e.message, "missing"));
                assert_non_null(e.fix);
                assert_error(&e, -ENOSPC, "pool-full");
                assert_int_equal(count_files(f->pool_dir), 1);
        }
}

/* kill -9 at any moment of any call must leave whole volumes and nothing else. */
static void kill_often(struct fixture *f) {
        const struct sys plain = sys_no_clone();

        for (unsigned int i = 0; i < 60; i++) {
                struct pool *pool;
                struct volume **volumes;
                size_t n;
                pid_t pid = fork();

                assert_true(pid >= 0);
                if (pid == 0) {
                        pool = open_pool(f, &plain);
                        for (;;) {
                                volume_create_from_image(
                                        pool, &(struct volume_request){ .name = "a", .again = true, .size = 8 * MIB },
                                        f->image, NULL);
                                volume_clone(pool, "a", &(struct volume_request){ .name = "b", .again = true }, NULL);
                                volume_resize(pool, "b", 16 * MIB, NULL);
                                volume_delete(pool, "a", NULL);
                                volume_delete(pool, "b", NULL);
                        }
                }
                usleep(2000 + i * 300);
                kill(pid, SIGKILL);
                assert_int_equal(waitpid(pid, NULL, 0), pid);
                pool = open_pool(f, &plain);
                assert_int_equal(volume_list(pool, &volumes, &n, NULL), 0);
                assert_int_equal(count_files(f->pool_dir), n);
                for (size_t k = 0; k < n; k++) {
                        assert_null(volumes[k]->broken);
                        assert_true(volumes[k]->size == 8 * MIB || volumes[k]->size == 16 * MIB);
                        assert_sector(pool, volumes[k]->name, 700, 700, false);
                        assert_int_equal(volume_delete(pool, volumes[k]->name, NULL), 0);
                }
                volume_list_free(volumes, n);
                pool_close(pool);
        }
}

static void test_kill(void **state) {
        kill_often(*state);
}

static void test_kill_without_tmpfile(void **state) {
        no_tmpfile = true;
        kill_often(*state);
        no_tmpfile = false;
}

/* A file system that is full in earnest: test/system/pool.sh gives one of 64 MiB. What failed must leave room as before. */
static void test_really_full(void **state) {
        struct fixture *f = *state;
        _cleanup_(pool_freep) struct pool *pool = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct pool_usage before, after;
        struct chain *chain;
        char *data;
        int n = 0;

        if (!getenv("LODGE_TEST_SMALL")) {
                print_message(
                        "skipped: it needs a small file system (LODGE_TEST_SMALL; test/system/pool.sh has one)\n");
                skip();
        }
        pool = open_pool(f, NULL);
        assert_int_equal(volume_create_empty(pool, &(struct volume_request){ .name = "a", .size = 20 * MIB },
                                             VOLUME_FORMAT_QCOW2, NULL),
                         0);
        data = malloc(20 * MIB);
        memset(data, 'x', 20 * MIB);
        chain = open_chain(pool, "a", true);
        assert_int_equal(layer_write(chain_top(chain), data, 0, 20 * MIB), 0);
        assert_int_equal(chain_finish(chain, NULL), 0);
        chain_close(chain);
        free(data);
        for (int r = 0; r == 0; n++) {
                char name[16];

                assert_true(n < 4);
                snprintf(name, sizeof(name), "c%d", n);
                assert_int_equal(pool_get_usage(pool, &before, NULL), 0);
                r = volume_clone(pool, "a", &(struct volume_request){ .name = name }, &e);
        }
        assert_error(&e, -ENOSPC, "pool-full");
        assert_int_equal(pool_get_usage(pool, &after, NULL), 0);
        assert_int_equal(before.available, after.available);
        assert_int_equal(count_files(f->pool_dir), n);
}

/* ---- the driver dir ------------------------------------------------------------------------------------------------ */

static void path_in(struct fixture *f, const char *name, char ret_path[static 256]) {
        snprintf(ret_path, 256, "%s/%s", f->pool_dir, name);
}

static void put(struct fixture *f, const char *name, const void *data, size_t len) {
        _cleanup_close_ int fd = -EBADF;
        char path[256];

        path_in(f, name, path);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(io_write_all(fd, data, len), 0);
}

/* Whoever can write to the directory could put a link to any file of the host there: refused when the pool is opened. */
static void test_dir_safe(void **state) {
        struct fixture *f = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct pool *pool = open_pool(f, NULL);
        struct stat st;

        assert_int_equal(stat(f->pool_dir, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        pool_close(pool);
        for (int i = 0; i < 2; i++) {
                assert_int_equal(chmod(f->pool_dir, i == 0 ? 0770 : 0702), 0);
                assert_int_equal(pool_open(f->config, NULL, &pool, &e), -EPERM);
                assert_non_null(strstr(e.fix, "chmod"));
                assert_error(&e, -EPERM, "pool-unsafe");
        }
        assert_int_equal(chmod(f->pool_dir, 0755), 0);
        assert_int_equal(chmod(f->dir, 0777), 0);
        assert_int_equal(pool_open(f->config, NULL, &pool, &e), -EPERM);
        assert_error(&e, -EPERM, "pool-unsafe");
        assert_int_equal(chmod(f->dir, 0700), 0);
        if (geteuid() == 0) {
                assert_int_equal(chown(f->pool_dir, 12345, 12345), 0);
                assert_int_equal(pool_open(f->config, NULL, &pool, &e), -EPERM);
                assert_error(&e, -EPERM, "pool-unsafe");
                assert_int_equal(chown(f->pool_dir, 0, 0), 0);
        }
        free(f->config->path);
        f->config->path = strdup("relative/pool");
        assert_int_equal(pool_open(f->config, NULL, &pool, &e), -EINVAL);
        assert_error(&e, -EINVAL, "pool-open");
        f->config->path[0] = '/';
        free(f->config->path);
        f->config->path = strdup("/proc/lodge/pool");
        assert_int_equal(pool_open(f->config, NULL, &pool, &e), -ENOENT);
        assert_error(&e, -ENOENT, "pool-open");
}

/* What is no file of ours must not be followed, waited for, or listed as if it were fine. */
static void test_dir_strangers(void **state) {
        static const char *const ignored[] = {
                "README", "a.vmdk", ".raw", "A.raw", "a.raw.bak", "-a.raw", "b", "a..raw"
        };
        struct fixture *f = *state;
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, NULL);
        _cleanup_error_ struct error e = ERROR_INIT;
        struct volume **volumes, *v;
        char path[256], file[256];
        size_t n;
        int fd;

        for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
                put(f, ignored[i], "x", 1);
        snprintf(path, sizeof(path), "%s/secret", f->dir);
        fd = open(path, O_WRONLY | O_CREAT, 0600);
        assert_int_equal(ftruncate(fd, MIB), 0);
        close(fd);
        path_in(f, "link.raw", file);
        assert_int_equal(symlink(path, file), 0);
        path_in(f, "fifo.raw", file);
        assert_int_equal(mkfifo(file, 0600), 0);
        path_in(f, "directory.qcow2", file);
        assert_int_equal(mkdir(file, 0700), 0);
        put(f, "short.raw", "abc", 3);
        put(f, "garbage.qcow2", "this is no image", 16);
        put(f, "twice.raw", path, 200);
        put(f, "twice.qcow2", path, 200);

        assert_int_equal(volume_list(pool, &volumes, &n, NULL), 0);
        assert_int_equal(n, 7);
        for (size_t i = 0; i < n; i++)
                assert_non_null(volumes[i]->broken);
        volume_list_free(volumes, n);
        static const char *const names[] = { "link", "fifo", "directory", "short", "garbage", "twice" };
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
                assert_int_equal(volume_find(pool, names[i], &v, &e), -EUCLEAN);
                assert_error(&e, -EUCLEAN, "volume-damaged");
                assert_int_not_equal(volume_resize(pool, names[i], 2 * MIB, NULL), 0);
                assert_int_not_equal(volume_clone(pool, names[i], &(struct volume_request){ .name = "new" }, NULL), 0);
                if (i < 3 || i == 5)
                        assert_true(volume_open(pool, names[i], false, &fd, NULL, NULL) < 0);
        }
        assert_int_equal(volume_delete(pool, "link", NULL), 0);
        assert_int_equal(access(path, F_OK), 0);
        assert_int_equal(volume_create_empty(pool, &(struct volume_request){ .name = "garbage", .size = MIB },
                                             VOLUME_FORMAT_RAW, NULL),
                         -EEXIST);
}

/* A qcow2 header is written by whoever serves the disk: what it names must not be opened as our own doing. */
static void test_dir_hostile_header(void **state) {
        struct fixture *f = *state;
        _cleanup_(pool_freep) struct pool *pool = open_pool(f, NULL);
        struct volume_config recorded = { .name = (char *)"a", .format = VOLUME_FORMAT_QCOW2 };
        _cleanup_error_ struct error e = ERROR_INIT;
        static const struct {
                const char *file, *format;
        } backing[] = { { "/etc/shadow", "raw" }, { "/etc/shadow", "qcow2" }, { "../images/base@1/disk.raw", "raw" } };

        for (size_t i = 0; i < 3; i++) {
                struct qcow2_create create = { .size = MIB,
                                               .backing_file = backing[i].file,
                                               .backing_format = backing[i].format };
                struct file *file;
                char path[256];
                int fd;

                path_in(f, "a.qcow2", path);
                fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
                assert_int_equal(file_open(&(struct file_options){ .fd = fd }, &file, NULL), 0);
                assert_int_equal(qcow2_create(file, &create, NULL), 0);
                file_close(file);
                close(fd);
                assert_int_equal(volume_check(pool, &recorded, &e), -EUCLEAN);
                error_clear(&e);
                recorded.image = (char *)"base/1";
                assert_int_equal(volume_check(pool, &recorded, &e), -EUCLEAN);
                error_clear(&e);
                recorded.image = NULL;
                assert_int_equal(pool_check_image(&pool, 1, "base/1", NULL), 0);
        }
}

/* Leftovers fill a disk for ever; work of another process must stay. */
static void test_dir_sweep(void **state) {
        struct fixture *f = *state;
        struct pool *pool = open_pool(f, NULL);
        char path[256];
        int fd;

        pool_close(pool);
        put(f, ".tmp-0123456789abcdef", "x", 1);
        put(f, ".tmp-work", "x", 1);
        path_in(f, ".tmp-work", path);
        fd = open(path, O_RDONLY);
        assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
        pool = open_pool(f, NULL);
        assert_int_equal(count_files(f->pool_dir), 1);
        assert_int_equal(access(path, F_OK), 0);
        close(fd);
        pool_close(pool);
        pool = open_pool(f, NULL);
        assert_int_equal(count_files(f->pool_dir), 0);
        pool_close(pool);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_empty_volumes),
                TEST(test_bad_requests),
                TEST(test_again),
                TEST(test_from_image),
                TEST(test_images_in_use),
                TEST(test_clone),
                TEST(test_in_use),
                TEST(test_resize),
                TEST(test_progress_and_cancel),
                TEST(test_full),
                TEST(test_kill),
                TEST(test_kill_without_tmpfile),
                TEST(test_really_full),
                TEST(test_dir_safe),
                TEST(test_dir_strangers),
                TEST(test_dir_hostile_header),
                TEST(test_dir_sweep),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
