// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * source: see source.h
 *
 * Each step is a shut-in process of its own: download (NETWORK), gpgv (PROGRAM), parse (COMPUTE). Between them stand files in memory, sealed before the
 * next step, whose content this process never looks at but for the few paths of product files, checked once more.
 *
 * A file has three minutes and all of them have ten, however slowly a server sends: somebody waits for the list.
 *
 *      simplestreams, with a key      index.sjson, else index.json with index.json.gpg; so with each file of products
 *      simplestreams, without         index.json
 *      plain, with a key              SHA256SUMS, signed inline, or with SHA256SUMS.gpg, .sign or .asc; else SHA512SUMS
 *      plain, without                 SHA256SUMS, else SHA512SUMS
 */
#include "daemon/fetch/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/text.h"
#include "daemon/fetch/download.h"
#include "daemon/fetch/index.h"
#include "daemon/fetch/shut-in.h"
#include "daemon/fetch/verify.h"
#include "daemon/image/fetch.h"

#define SIGNATURE_MAX (1u << 20)
#define PATHS_MAX     (16u << 10)
#define PARSE_CPU_S   120
#define FILE_S        180 /* for a file of an index */
#define ALL_S         600 /* for all of them */
#define INLINE_BEGIN  "-----BEGIN PGP SIGNED MESSAGE-----"

/* ---- getting ------------------------------------------------------------------------------------------------------------- */

struct reading {
        const struct fetch_job *job;
        uint64_t deadline_ns; /* for all of its files */
};

/* Seconds that are left for a file; 0: none. */
static unsigned int seconds_left(const struct reading *in) {
        uint64_t now = clock_ns(), left = in->deadline_ns > now ? (in->deadline_ns - now) / 1000000000ull : 0;

        return (unsigned int)MIN(left, (uint64_t)FILE_S);
}

/* Return: a file in memory; -ENOENT when the server has none, without an error; else -errno with @e. */
static int get(const struct reading *in, const char *path, uint64_t max, struct error *e) {
        _cleanup_close_ int fd = memfd_create("lodge-fetch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        _cleanup_free_ char *url = NULL;
        unsigned int seconds = seconds_left(in);
        bool missing = false;
        size_t n = strlen(in->job->url);
        int r;

        if (fd < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot keep the index");
        if (seconds == 0)
                return error_set(e, -ETIMEDOUT, "fetch-slow", "try later, or tell the server's owner",
                                 "the index at %s does not come in time", in->job->url);
        if (asprintf(&url, "%s%s%s", in->job->url, in->job->url[n - 1] == '/' ? "" : "/", path) < 0) {
                url = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the index");
        }
        r = download_run(&(const struct download){ .url = url,
                                                   .fd = fd,
                                                   .note_fd = -EBADF,
                                                   .size_max = max,
                                                   .seconds = seconds,
                                                   .own_user = in->job->become,
                                                   .quiet = true,
                                                   .ret_missing = &missing },
                         e);
        if (r < 0 || missing)
                return r < 0 ? r : -ENOENT;
        r = shut_in_seal(fd); /* before a signature is compared, and before the next file comes */
        return r < 0 ? error_set(e, r, "fetch", NULL, "cannot keep the index") : TAKE_FD(fd);
}

static int nothing_there(const struct reading *in, const char *what, struct error *e) {
        return error_set(e, -ENOENT, "fetch-index", "check the source's URL and type: lodge image source list",
                         "there is no %s at %s", what, in->job->url);
}

static bool is_inline(int fd) {
        char text[sizeof(INLINE_BEGIN)] = "";

        return pread(fd, text, sizeof(text) - 1, 0) == sizeof(text) - 1 && streq(text, INLINE_BEGIN);
}

/* @path with its signature in another file, by one of these suffixes. Return: as get(); without a signature an error. */
static int get_detached(const struct reading *in, const char *path, struct error *e) {
        static const char *const suffixes[] = { ".gpg", ".sign", ".asc" };
        _cleanup_close_ int data = get(in, path, INDEX_BYTES_MAX, e);
        int signed_fd, r;

        if (data < 0)
                return data;
        if (!in->job->key)
                return TAKE_FD(data);
        if (is_inline(data)) {
                r = verify_inline(in->job->key, data, &signed_fd, e);
                return r < 0 ? r : signed_fd;
        }
        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                _cleanup_free_ char *name = NULL;
                _cleanup_close_ int signature = -EBADF;

                if (asprintf(&name, "%s%s", path, suffixes[i]) < 0) {
                        name = NULL;
                        return error_set(e, -ENOMEM, "memory", NULL, "cannot read the index");
                }
                signature = get(in, name, SIGNATURE_MAX, e);
                if (signature == -ENOENT && (!e || e->code == 0))
                        continue;
                r = signature < 0 ? signature : verify_detached(in->job->key, data, signature, e);
                return r < 0 ? r : TAKE_FD(data);
        }
        return error_set(e, -EBADMSG, "fetch-signature",
                         "ask the server's owner; or add the source anew with --insecure-unsigned",
                         "the source has a key, but %s%s is not signed", in->job->url, path);
}

/* @path ends with ".json". */
static int get_json(const struct reading *in, const char *path, struct error *e) {
        _cleanup_close_ int data = -EBADF;
        _cleanup_free_ char *sjson = NULL;
        int r, signed_fd;

        if (!in->job->key)
                return get(in, path, INDEX_BYTES_MAX, e);
        if (asprintf(&sjson, "%.*ssjson", (int)strlen(path) - 4, path) < 0) {
                sjson = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the index");
        }
        data = get(in, sjson, INDEX_BYTES_MAX, e);
        if (data == -ENOENT && (!e || e->code == 0))
                return get_detached(in, path, e);
        if (data < 0)
                return data;
        r = verify_inline(in->job->key, data, &signed_fd, e);
        return r < 0 ? r : signed_fd;
}

/* ---- parsing ------------------------------------------------------------------------------------------------------------- */

struct parse {
        int in_fds[INDEX_PRODUCTS_MAX];
        size_t n;
        int out_fd;
        enum image_source_type type;
};

static int map_file(int fd, const char **ret_text, size_t *ret_n, struct error *e) {
        struct stat st;
        void *p;

        if (fstat(fd, &st) < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot read the index");
        if (st.st_size == 0)
                return error_set(e, -EPROTO, "fetch-index", "check the source's URL: lodge image source list",
                                 "the source's index is empty");
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
                return error_set(e, -errno, "fetch", NULL, "cannot read the index");
        *ret_text = p;
        *ret_n = (size_t)st.st_size;
        return 0;
}

/* In a process of its own: which files of products there are, a line each. */
static int parse_index(void *opaque, struct error *e) {
        const struct parse *p = opaque;
        char *paths[INDEX_PRODUCTS_MAX];
        const char *text;
        size_t n;
        int r = map_file(p->in_fds[0], &text, &n, e);

        if (r == 0)
                r = index_products(text, n, paths, e);
        for (int i = 0; i < r; i++)
                if (dprintf(p->out_fd, "%s\n", paths[i]) < 0)
                        return error_set(e, -EIO, "fetch", NULL, "cannot keep the index");
        return r < 0 ? r : 0;
}

static int parse_images(void *opaque, struct error *e) {
        _cleanup_(fetch_result_freep) struct fetch_result *result = NULL;
        _cleanup_free_ char *json = NULL;
        const struct parse *p = opaque;
        int r = fetch_result_new(&result);

        for (size_t i = 0; i < p->n && r == 0; i++) {
                const char *text;
                size_t n;

                r = map_file(p->in_fds[i], &text, &n, e);
                if (r == 0 && p->type == IMAGE_SOURCE_TYPE_PLAIN)
                        r = index_plain(text, n, result, e);
                else if (r == 0)
                        r = index_simplestreams(text, n, result, e);
        }
        if (r == 0 && !(json = fetch_result_format(result)))
                r = -ENOMEM;
        if (r == 0)
                r = io_write_all(p->out_fd, json, strlen(json));
        return r < 0 ? error_set(e, r, "memory", NULL, "cannot read the index") : 0;
}

static int parse_shut_in(shut_in_fn fn, struct parse *p, struct error *e) {
        const struct shut_in_limits limits = { .file_bytes = FETCH_RESULT_MAX, .cpu_seconds = PARSE_CPU_S };

        /* Those who have downloaded had this file, too: whatever they have written there, or done to its offset, is no more. */
        if (ftruncate(p->out_fd, 0) < 0 || lseek(p->out_fd, 0, SEEK_SET) < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot keep the index");
        return shut_in_run(SHUT_IN_COMPUTE, &limits, fn, p, NULL, e);
}

/* ---- the two forms ------------------------------------------------------------------------------------------------------- */

static int list_products(int index_fd, char **ret_text, struct error *e) {
        struct parse p = { .in_fds = { index_fd }, .n = 1 };
        size_t n;
        int r;

        p.out_fd = memfd_create("lodge-products", MFD_CLOEXEC);
        if (p.out_fd < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot keep the index");
        r = parse_shut_in(parse_index, &p, e);
        if (r == 0)
                r = lseek(p.out_fd, 0, SEEK_SET) < 0 ? -errno : io_read_all(p.out_fd, PATHS_MAX, ret_text, &n);
        close(p.out_fd);
        return r < 0 ? error_set(e, r, "fetch", NULL, "cannot read the index") : 0;
}

static int read_simplestreams(const struct reading *in, int out_fd, struct error *e) {
        _cleanup_close_ int index = get_json(in, "streams/v1/index.json", e);
        struct parse p = { .out_fd = out_fd, .type = in->job->type };
        _cleanup_free_ char *paths = NULL;
        char *rest, *path;
        int r = index;

        if (index == -ENOENT)
                return nothing_there(in, "streams/v1/index.json", e);
        if (index >= 0)
                r = list_products(index, &paths, e);
        rest = paths;
        while (r >= 0 && (path = strsep(&rest, "\n")) && p.n < INDEX_PRODUCTS_MAX) {
                size_t n = strlen(path);

                if (n < 6 || !streq(path + n - 5, ".json") || !index_path_is_good(path))
                        continue;
                r = get_json(in, path, e);
                if (r == -ENOENT)
                        r = nothing_there(in, path, e);
                if (r >= 0)
                        p.in_fds[p.n++] = r;
        }
        if (r >= 0)
                r = parse_shut_in(parse_images, &p, e);
        while (p.n > 0)
                close(p.in_fds[--p.n]);
        return r < 0 ? r : 0;
}

static int read_plain(const struct reading *in, int out_fd, struct error *e) {
        static const char *const names[] = { "SHA256SUMS", "SHA512SUMS" };
        struct parse p = { .n = 1, .out_fd = out_fd, .type = in->job->type };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_close_ int fd = get_detached(in, names[i], e);

                if (fd == -ENOENT && (!e || e->code == 0))
                        continue;
                if (fd < 0)
                        return fd;
                p.in_fds[0] = fd;
                return parse_shut_in(parse_images, &p, e);
        }
        return nothing_there(in, "SHA256SUMS or SHA512SUMS", e);
}

/* $LODGE_FETCH_INDEX_S: other seconds for all files, for tests. */
static uint64_t deadline(void) {
        const char *text = getenv("LODGE_FETCH_INDEX_S");
        uint64_t s;

        if (!text || text_parse_uint(text, 3600, &s) < 0)
                s = ALL_S;
        return clock_ns() + s * 1000000000ull;
}

int source_read(const struct fetch_job *job, int out_fd, struct error *e) {
        const struct reading in = { job, deadline() };

        return job->type == IMAGE_SOURCE_TYPE_PLAIN ? read_plain(&in, out_fd, e) : read_simplestreams(&in, out_fd, e);
}
