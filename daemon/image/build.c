// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * build: run a recipe on a stage, and commit the result; see recipe.h for the contract with the scripts
 *
 * Two builds of one image at a time would do the work twice: the second waits for .build-NAME.lock, and then finds
 * that it is done.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "base/io.h"
#include "daemon/image/kernel.h"
#include "daemon/image/meta.h"
#include "daemon/image/recipe.h"
#include "daemon/image/run.h"
#include "daemon/image/store.h"

/* Part of every recipe's digest: raise it when the same recipe would give another image. */
#define BUILD_VERSION "lodge-image-1\n"

#define LINE_FD       3
#define SCRIPT_FD     4
#define INIT_FD       5

struct build {
        struct image_store *store;
        const struct recipe *recipe;
        const struct image_progress *progress;
        struct stage *stage;
        struct image *image;
        int log_fd;
        bool bad_line;
        char *fail; /* "FIX|MESSAGE" from the script */
        char digest[SHA256_HEX_SIZE];
};

const char *image_recipe_name(size_t i) {
        const struct recipe *r = recipe_get(i);

        return r ? r->name : NULL;
}

bool image_recipe_is(const char *name) {
        for (size_t i = 0; recipe_get(i); i++)
                if (streq(recipe_get(i)->name, name))
                        return true;
        return false;
}

const char *image_recipe_summary(size_t i) {
        const struct recipe *r = recipe_get(i);

        return r ? r->summary : NULL;
}

static void step(const struct build *b, const char *text) {
        if (b->progress && b->progress->step)
                b->progress->step(b->progress->opaque, text);
}

static int cancel_fd(const struct build *b) {
        return b->progress ? b->progress->cancel_fd : -EBADF;
}

static const struct recipe *find_recipe(const char *name, struct error *error) {
        char known[200] = "";

        for (size_t i = 0; recipe_get(i); i++) {
                size_t n = strlen(known);

                if (streq(recipe_get(i)->name, name))
                        return recipe_get(i);
                snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", recipe_get(i)->name);
        }
        error_set(error, -ENOENT, "image-no-recipe", NULL, "there is no recipe for '%s'", name);
        error_set_fix(error, "choose one of %s; a disk of your own comes in with: lodge image import FILE", known);
        return NULL;
}

/* One line from the script, on descriptor 3. */
static void script_line(void *opaque, char *text) {
        struct build *b = opaque;
        char *word = strsep(&text, " ");

        if (!text)
                return;
        if (streq(word, "step"))
                step(b, text);
        else if (streq(word, "fail")) {
                if (!b->fail)
                        b->fail = strdup(text);
        } else if (streq(word, "meta")) {
                char *key = strsep(&text, " ");
                char **field = streq(key, "version")   ? &b->image->version
                               : streq(key, "cmdline") ? &b->image->cmdline
                               : streq(key, "user")    ? &b->image->user
                               : streq(key, "login")   ? &b->image->login
                                                       : NULL;

                b->bad_line |= !field || !text || image_set_string(field, text) < 0;
        } else if (streq(word, "file")) {
                char *kind = strsep(&text, " ");
                bool known = false;

                for (size_t i = 0; text && i < _IMAGE_FILE_MAX; i++)
                        if (streq(image_file_kind_name(i), kind))
                                known = image_set_string(&b->image->files[i].name, text) == 0;
                b->bad_line |= !known;
        } else
                b->bad_line = true;
}

static int memfd_with(const char *name, const unsigned char *data, const unsigned char *end) {
        _cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC);
        int r;

        if (fd < 0)
                return -errno;
        r = io_write_all(fd, data, end - data);
        if (r < 0)
                return r;
        return lseek(fd, 0, SEEK_SET) < 0 ? -errno : TAKE_FD(fd);
}

/* Keeps what a failed script printed, since the stage is about to go; its path in the store, or NULL. */
static char *keep_log(struct build *b) {
        _cleanup_free_ char *dir = image_name_to_dir(b->recipe->name), *to = NULL;

        (void)mkdirat(b->store->fd, ".log", 0755);
        if (!dir || asprintf(&to, ".log/%s.log", dir) < 0)
                return NULL;
        return renameat(b->stage->fd, "build.log", b->store->fd, to) < 0 ? NULL : TAKE_PTR(to);
}

static int script_failed(struct build *b, int status, struct error *error) {
        char *message = b->fail ? strchr(b->fail, '|') : NULL;
        _cleanup_free_ char *log = NULL;

        if (status == -EINTR)
                return error_set(error, -EINTR, "cancelled", NULL, "building image %s was stopped", b->recipe->name);
        if (status < 0)
                return error_set(error, status, "image-build", NULL, "cannot run the recipe of image %s",
                                 b->recipe->name);
        if (message) {
                *message++ = '\0';
                log = keep_log(b);
                return error_set(error, -EINVAL, "image-build", b->fail, "building image %s: %s", b->recipe->name,
                                 message);
        }
        error_set(error, -EIO, "image-build", NULL, "building image %s failed with status %d", b->recipe->name, status);
        log = keep_log(b);
        if (log)
                error_set_fix(error, "read what it printed: less %s/%s", b->store->root, log);
        return -EIO;
}

/* Runs the script with @verb; what it prints goes to @out_fd, errors to the log. */
static int run_script(struct build *b, const char *verb, int out_fd, struct error *error) {
        _cleanup_close_ int script = -EBADF, init = -EBADF, line_read = -EBADF, line_write = -EBADF;
        const char *argv[] = { "bash", "/proc/self/fd/4", verb, NULL };
        int r, p[2];

        script = memfd_with("recipe", recipe_common, recipe_common_end);
        init = memfd_with("init", recipe_init, recipe_init_end);
        if (script < 0 || init < 0)
                return script < 0 ? script : init;
        if (lseek(script, 0, SEEK_END) < 0)
                return -errno;
        r = io_write_all(script, b->recipe->script, b->recipe->script_end - b->recipe->script);
        if (r < 0)
                return r;
        if (pipe2(p, O_CLOEXEC) < 0)
                return -errno;
        line_read = p[0], line_write = p[1];

        const struct run_fd fds[] = {
                { out_fd, 1 }, { b->log_fd, 2 }, { line_write, LINE_FD }, { script, SCRIPT_FD }, { init, INIT_FD },
        };
        r = run_program(argv, fds, ELEMENTSOF(fds), b->stage->path, line_read, script_line, b, cancel_fd(b));
        if (r != 0)
                return script_failed(b, r, error);
        if (b->bad_line)
                return error_set(error, -EPROTO, "image-build", NULL,
                                 "the recipe of image %s said something that we don't know", b->recipe->name);
        return 0;
}

/* The digest of everything that decides what comes out. */
static int make_digest(struct build *b, struct error *error) {
        _cleanup_close_ int plan = memfd_create("plan", MFD_CLOEXEC);
        char plan_hex[SHA256_HEX_SIZE];
        struct sha256 s;
        int r;

        if (plan < 0)
                return -errno;
        r = run_script(b, "plan", plan, error);
        if (r < 0)
                return r;
        r = sha256_fd(plan, plan_hex, NULL);
        if (r < 0)
                return r;
        sha256_init(&s);
        sha256_update(&s, BUILD_VERSION, strlen(BUILD_VERSION));
        sha256_update(&s, recipe_common, recipe_common_end - recipe_common);
        sha256_update(&s, b->recipe->script, b->recipe->script_end - b->recipe->script);
        sha256_update(&s, recipe_init, recipe_init_end - recipe_init);
        sha256_update(&s, plan_hex, sizeof(plan_hex));
        sha256_final_hex(&s, b->digest);
        return 0;
}

static int build_lock(struct build *b, struct error *error) {
        _cleanup_free_ char *dir = image_name_to_dir(b->recipe->name), *path = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r = 0;

        if (!dir || asprintf(&path, ".build-%s.lock", dir) < 0)
                return -ENOMEM;
        fd = openat(b->store->fd, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
                return error_set(error, -errno, "image-store", NULL, "cannot lock the image store %s", b->store->root);
        for (bool told = false; (r = flock(fd, LOCK_EX | LOCK_NB)) < 0 && errno == EWOULDBLOCK; told = true) {
                struct timespec tick = { .tv_nsec = 200 * 1000 * 1000 };
                struct pollfd p = { .fd = cancel_fd(b), .events = POLLIN };

                if (!told)
                        step(b, "waiting for another build of this image");
                if (ppoll(&p, 1, &tick, NULL) > 0)
                        return script_failed(b, -EINTR, error);
        }
        return r < 0 ? error_set(error, -errno, "image-store", NULL, "cannot lock the image store") : TAKE_FD(fd);
}

static bool is_cached(struct build *b) {
        _cleanup_(image_freep) struct image *there = NULL;

        return image_find(b->store, b->recipe->name, &there, NULL) == 0 && there->recipe &&
               streq(there->recipe, b->digest);
}

/* Fails before the work, not after it, when the image that would be replaced is in use. */
static int check_replaceable(struct build *b, struct error *error) {
        _cleanup_(image_freep) struct image *there = NULL;
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -EBADF;

        if (image_find(b->store, b->recipe->name, &there, NULL) < 0)
                return 0;
        if (asprintf(&path, "%s/" IMAGE_META_FILE, there->dir) < 0)
                return -ENOMEM;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
                return 0;
        return error_set(error, -EBUSY, "image-in-use", "stop the machines that were started from it, then try again",
                         "image %s is in use by a running machine and can't be replaced", b->recipe->name);
}

static int run_recipe(struct build *b, struct error *error) {
        int r;

        r = check_replaceable(b, error);
        if (r == 0)
                r = store_check_space(b->store->root, b->recipe->space, error);
        if (r == 0)
                r = run_script(b, "build", b->log_fd, error);
        if (r < 0)
                return r;
        r = kernel_add_unpacked(b->stage, b->image, error);
        if (r < 0)
                return r;
        if (b->image->files[IMAGE_FILE_DISK].name) {
                r = image_set_string(&b->image->format, "raw");
                if (r < 0)
                        return r;
        }
        step(b, "writing it to the disk");
        return stage_commit(b->stage, b->image, true, error);
}

static int do_build(struct build *b, bool force, bool *ret_cached, struct error *error) {
        _cleanup_close_ int lock = -EBADF, log = -EBADF;
        int r;

        lock = build_lock(b, error);
        if (lock < 0)
                return lock;
        r = stage_new(b->store, &b->stage, error);
        if (r < 0)
                return r;
        log = openat(b->stage->fd, "build.log", O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
        if (log < 0)
                return error_set(error, -errno, "image-write", NULL, "cannot write to %s", b->stage->path);
        b->log_fd = log;
        step(b, "asking apt which packages it takes");
        r = make_digest(b, error);
        if (r < 0)
                return r;
        *ret_cached = !force && is_cached(b);
        if (*ret_cached)
                return 0;
        r = image_set_string(&b->image->recipe, b->digest);
        return r < 0 ? r : run_recipe(b, error);
}

int image_build(struct image_store *store, const char *name, bool force, const struct image_progress *progress,
                bool *ret_cached, struct error *error) {
        struct build b = { .store = store, .progress = progress, .log_fd = -EBADF };
        bool cached = false;
        int r;

        b.recipe = find_recipe(name, error);
        if (!b.recipe)
                return -ENOENT;
        r = store_require_writable(store, error);
        if (r < 0)
                return r;
        b.image = calloc(1, sizeof(*b.image));
        if (!b.image || image_set_string(&b.image->name, name) < 0 || image_set_string(&b.image->arch, "x86_64") < 0)
                r = -ENOMEM;
        else {
                b.image->agent = true;
                r = do_build(&b, force, &cached, error);
        }
        stage_free(b.stage);
        image_free(b.image);
        free(b.fail);
        if (r == 0 && ret_cached)
                *ret_cached = cached;
        return r;
}
