// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge image: the images that machines start from
 *
 * list, show, build and delete ask the daemon, if one runs or is named: the system's images are its. Without one they work on the user's own store, which is where the
 * user's daemon would have looked; but a delete starts that daemon if it has ever kept machines, since only it knows which need the image. import reads
 * a file of the user's, so it works on the user's store; only to a daemon that was named is the file sent.
 *
 * Steps are shown on a terminal only. Ctrl-C, SIGTERM and a terminal that goes away stop a build or an import, which then cleans up, unless they are ignored.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "cli/ask.h"
#include "cli/disk-work.h"
#include "daemon/image/image.h"
#include "daemon/image/view.h"

#define LIST_COLUMNS "name,version,disk_size,agent,catalogue,created,broken"
#define SHOW_COLUMNS                                                                                                   \
        "name,version,created,source,catalogue,checksum,trust,recipe,arch,format,disk_size,kernel,agent,login,"        \
        "cmdline,"                                                                                                     \
        "directory,broken"

#define BAR            24
#define SHOW_EVERY_NS  200000000ull
#define SEND_TIMEOUT_S 3600 /* the daemon may have to write much of it to its disk before it takes more, or answers */

struct context {
        struct image_store *store;
        struct image_progress progress;
        struct timespec start;
};

static void show_step(void *opaque, const char *text) {
        struct context *c = opaque;
        struct timespec now;

        if (!isatty(STDERR_FILENO))
                return;
        clock_gettime(CLOCK_MONOTONIC, &now);
        fprintf(stderr, "[%3jd s] %s\n", (intmax_t)(now.tv_sec - c->start.tv_sec), text);
}

/* Signals that should end a long operation become a descriptor; the caller's mask is back when the process ends. */
static int watch_signals(void) {
        sigset_t set;

        disk_stop_signals(&set);
        sigprocmask(SIG_BLOCK, &set, NULL);
        return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int begin(struct context *c, struct error *e) {
        *c = (struct context){ .progress = { .step = show_step, .opaque = c, .cancel_fd = -EBADF } };
        clock_gettime(CLOCK_MONOTONIC, &c->start);
        return image_store_open(NULL, NULL, &c->store, e);
}

static double seconds(const struct context *c) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)(now.tv_sec - c->start.tv_sec) + (double)(now.tv_nsec - c->start.tv_nsec) / 1e9;
}

/* ---- list, show ---------------------------------------------------------------------------------------------------------- */

static int get_list(struct ask *a, json_t **ret_page, struct error *e) {
        struct context c;
        int r;

        if (a->client)
                return ask_list(a, ROUTE_IMAGE_LIST, NULL, ret_page, e);
        r = begin(&c, e);
        if (r == 0)
                r = image_page_json(c.store, ret_page, e);
        image_store_free(c.store);
        return r;
}

int ask_image_list(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        int r = get_list(a, &page, e);

        if (r == 0)
                r = ask_print_list(a, page, NULL, &image_view_schema, LIST_COLUMNS, e);
        if (r == 0 && ask_is_people(a) && json_array_size(json_object_get(page, "items")) == 0)
                fputs("there is none yet: lodge image build debian/12; lodge image available lists more\n", stderr);
        return r;
}

static int get_one(struct ask *a, json_t **ret_image, struct error *e) {
        const struct image_query *how = ask_object(a, &image_query_schema);
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_free_ char *query = NULL;
        struct context c;
        int r;

        if (a->client) {
                r = client_query_object(&query, &image_query_schema, how);
                return r < 0 ? r
                             : client_call(a->client,
                                           &(const struct client_call){ .route = ROUTE_IMAGE_SHOW,
                                                                        .parameter = a->request->name,
                                                                        .query = query,
                                                                        .timeout_s = 3600 },
                                           ret_image, e);
        }
        r = begin(&c, e);
        if (r == 0)
                r = image_find(c.store, a->request->name, &image, e);
        if (r == 0 && how->verify)
                r = image_verify(image, e);
        image_store_free(c.store);
        if (r < 0)
                return r;
        *ret_image = image_view_json(image);
        return *ret_image ? 0 : -ENOMEM;
}

int ask_image_show(struct ask *a, struct error *e) {
        const struct image_query *how = ask_object(a, &image_query_schema);
        json_auto_t *image = NULL;
        json_t *file;
        size_t i;
        int r = get_one(a, &image, e);

        if (r == 0)
                r = ask_print_object(a, image, &image_view_schema, SHOW_COLUMNS, e);
        if (r < 0 || !ask_is_people(a) || a->view->columns)
                return r;
        json_array_foreach(json_object_get(image, "files"), i, file) {
                char size[TEXT_SIZE_MAX];

                printf("%-10s ", json_string_value(json_object_get(file, "kind")) ?: "?");
                render_text(stdout, json_string_value(json_object_get(file, "name")) ?: "?");
                printf(", %s, sha256 ",
                       text_format_size((uint64_t)json_integer_value(json_object_get(file, "size")), size));
                render_text(stdout, json_string_value(json_object_get(file, "sha256")) ?: "?");
                putchar('\n');
        }
        if (how->verify)
                puts("Every file is what was recorded.");
        return 0;
}

/* ---- build, delete ------------------------------------------------------------------------------------------------------- */

/* The image that there is now: for programs all of it, for people @said and what comes next. */
static int print_ready(struct ask *a, struct context *c, const char *name, const char *said, struct error *e) {
        _cleanup_(image_freep) struct image *image = NULL;
        json_auto_t *json = NULL;
        int r = image_find(c->store, name, &image, e);

        if (r < 0)
                return r;
        json = image_view_json(image);
        if (!ask_is_people(a))
                return ask_print_object(a, json, &image_view_schema, "all", e);
        if (said)
                printf("Image %s %s\n", name, said);
        else
                printf("Image %s is ready, after %.1f s. Start a machine: lodge run %s\n", name, seconds(c), name);
        return 0;
}

static int build_alone(struct ask *a, const struct image_build_request *how, struct error *e) {
        struct context c;
        bool cached = false;
        int r = begin(&c, e);

        if (r == 0) {
                c.progress.cancel_fd = watch_signals();
                r = image_build(c.store, how->name, how->rebuild, &c.progress, &cached, e);
        }
        if (r == 0)
                r = print_ready(
                        a, &c, how->name,
                        cached ? "is up to date: the same packages and recipe. (--rebuild builds it all the same.)"
                               : NULL,
                        e);
        safe_close(c.progress.cancel_fd);
        image_store_free(c.store);
        return r;
}

int ask_image_build(struct ask *a, struct error *e) {
        struct image_build_request *how = ask_object(a, &image_build_request_schema);
        json_auto_t *operation = NULL, *end = NULL;
        int r = image_build_request_check(how, e);

        if (r == 0 && !a->client)
                return build_alone(a, how, e);
        if (r == 0)
                r = ask_send(a, ROUTE_IMAGE_BUILD, NULL, &image_build_request_schema, &operation, e);
        return r < 0 ? r : follow_print(a, operation, &end, e);
}

/* Has the user's own daemon ever kept machines, which may need an image? Its store lies beside the images. */
static bool daemon_has_store(const struct image_store *store) {
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/../store/lodge.db", image_store_root(store)) < 0)
                path = NULL;
        return path && access(path, F_OK) == 0;
}

static int delete_alone(struct ask *a, bool *ret_ask, struct error *e) {
        struct context c;
        int r = begin(&c, e);

        *ret_ask = r == 0 && daemon_has_store(c.store);
        if (r == 0 && !*ret_ask)
                r = image_delete(c.store, a->request->name, e);
        image_store_free(c.store);
        return r;
}

int ask_image_delete(struct ask *a, struct error *e) {
        json_auto_t *page = NULL;
        bool daemon = a->client;
        int r = daemon ? 0 : delete_alone(a, &daemon, e);

        if (r == 0 && daemon && !a->client)
                r = client_open(a->options, true, &a->client, e);
        if (r == 0 && daemon)
                r = ask_send(a, ROUTE_IMAGE_DELETE, a->request->name, NULL, &page, e);
        if (r == 0 && !page)
                r = get_list(a, &page, e);
        if (r < 0)
                return r;
        if (!ask_is_people(a))
                return ask_print_object(a, page, &image_page_schema, "all", e);
        printf("Deleted image %s.\n", a->request->name);
        return 0;
}

/* ---- import -------------------------------------------------------------------------------------------------------------- */

struct sending {
        const char *name;
        uint64_t size, began_ns, shown_ns;
        bool shown;
};

static void show_sent(void *opaque, uint64_t done) {
        char sent[TEXT_SIZE_MAX], all[TEXT_SIZE_MAX], rate[TEXT_SIZE_MAX];
        struct sending *s = opaque;
        uint64_t now = clock_ns(), ms = (now - s->began_ns) / 1000000;
        unsigned int bar = (unsigned int)((double)done / (double)s->size * BAR);

        if (done < s->size && now - s->shown_ns < SHOW_EVERY_NS)
                return;
        s->shown_ns = now;
        s->shown = true;
        fputs("\r\033[K", stderr);
        render_text(stderr, s->name);
        fprintf(stderr, "  [%.*s%*s] %s of %s, %s/s", (int)bar, "########################", (int)(BAR - bar), "",
                text_format_size(done, sent), text_format_size(s->size, all),
                text_format_size((uint64_t)((double)done * 1000 / (double)(ms ?: 1)), rate));
        if (done == s->size)
                fputs("; it is written to the disk there", stderr);
        fflush(stderr);
}

static int send_image(struct ask *a, int fd, const char *name, const struct image_upload_request *how,
                      json_t **ret_operation, struct error *e) {
        struct sending sending = { .name = name, .began_ns = clock_ns() };
        struct http_file file = { .fd = fd, .opaque = &sending };
        struct client_call call = {
                .route = ROUTE_IMAGE_UPLOAD, .parameter = name, .file = &file, .timeout_s = SEND_TIMEOUT_S
        };
        _cleanup_free_ char *query = NULL;
        struct stat st;
        int r = fstat(fd, &st) < 0 ? -errno : client_query_object(&query, &image_upload_request_schema, how);

        if (r < 0)
                return error_set(e, r, "image-import", NULL, "cannot send the image");
        file.size = sending.size = (uint64_t)st.st_size;
        if (isatty(STDERR_FILENO) && ask_is_people(a))
                file.sent = show_sent;
        call.query = query;
        a->client->stop_fd = watch_signals();
        r = client_call(a->client, &call, ret_operation, e);
        a->client->stop_fd = safe_close(a->client->stop_fd);
        if (sending.shown)
                fputs("\r\033[K", stderr);
        return r == -ECANCELED ? error_set(e, -EPROTO, "interrupted", NULL, "stopped: nothing of it is kept there") : r;
}

/* To a daemon that was named: it can't open our file. What can be told from here is told before anything is sent. */
static int upload(struct ask *a, const char *path, const struct image_import *import, struct error *e) {
        struct image_upload_request how = { .append = (char *)(uintptr_t)import->cmdline, .agent = import->agent };
        _cleanup_free_ char *name = import->name ? strdup(import->name) : image_name_from_file(path);
        json_auto_t *operation = NULL, *end = NULL;
        _cleanup_close_ int fd = -EBADF;
        uint64_t need;
        int r;

        if (!name)
                return -ENOMEM;
        if (import->kernel || import->initrd)
                return error_set(e, -EINVAL, "image-upload", "import it on that host: lodge image import --kernel FILE",
                                 "a kernel or initrd beside the disk can't be sent");
        r = image_import_open(path, import, &fd, &need, e);
        if (r < 0)
                return r;
        how.disk_format = (enum image_upload_format)image_upload_format_from_string(import->format);
        r = send_image(a, fd, name, &how, &operation, e);
        return r < 0 ? r : follow_print(a, operation, &end, e);
}

int ask_image_import(struct ask *a, struct error *e) {
        const struct image_options *o = ask_object(a, &image_options_schema);
        const struct image_import import = {
                .name = o->name,
                .format = o->disk_format == IMAGE_IMPORT_FORMAT_UNKNOWN ? NULL
                                                                        : image_import_format_to_string(o->disk_format),
                .kernel = o->kernel,
                .initrd = o->initrd,
                .cmdline = o->append,
                .agent = o->agent,
                .lock = disk_claim,
        };
        _cleanup_free_ char *name = NULL;
        struct context c;
        int r;

        if (a->client)
                return upload(a, o->file, &import, e);
        r = begin(&c, e);
        if (r == 0) {
                c.progress.cancel_fd = watch_signals();
                r = image_import(c.store, o->file, &import, &c.progress, &name, e);
        }
        if (r == 0)
                r = print_ready(a, &c, name, NULL, e);
        safe_close(c.progress.cancel_fd);
        image_store_free(c.store);
        return r;
}
