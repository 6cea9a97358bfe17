// SPDX-License-Identifier: GPL-2.0-or-later
/* download: see download.h */
#include "daemon/fetch/download.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/sys.h"
#include "base/text.h"
#include "daemon/fetch/shut-in.h"
#include "daemon/image/fetch.h"

#define REDIRECTS_MAX  5
#define CONNECT_S      20
#define STALL_S        30
#define STALL_BYTES    1024 /* a second */
#define TRIES_MAX      100
#define IDLE_TRIES_MAX 3 /* in a row that brought nothing */
#define TOTAL_S        (24 * 3600)
#define CPU_S          (6 * 3600)
#define VALIDATOR_MAX  200
#define NOTE_MAX       4096
#define REPORT_NS      500000000ull
#define HEADERS_MAX    (256u << 10)

struct transfer {
        const struct download *d;
        CURL *curl;
        uint64_t at;      /* where the next byte goes */
        uint64_t resumed; /* where this try began; 0: at the beginning */
        size_t headers;   /* bytes of them */
        char etag[VALIDATOR_MAX], modified[VALIDATOR_MAX], range[VALIDATOR_MAX];
        long code; /* of the answer whose headers come */
        bool judged;
        uint64_t begun_ns, reported_ns, begun_at;
        uint64_t deadline_ns; /* for all tries */
        const char *refused;  /* why we ended it: an id */
        int refused_code;
        char message[CURL_ERROR_SIZE];
};

/* ---- the note ------------------------------------------------------------------------------------------------------------ */

/* What the server called the state of what has come of that URL; "" when it can't be gone on with. */
static void note_load(const struct download *d, char ret_validator[static VALIDATOR_MAX]) {
        char text[NOTE_MAX + 1] = "", *validator, *end;
        ssize_t n = d->note_fd >= 0 ? pread(d->note_fd, text, NOTE_MAX, 0) : -1;

        ret_validator[0] = 0;
        if (n <= 0)
                return;
        text[n] = 0;
        validator = strchr(text, '\n');
        end = validator ? strchr(validator + 1, '\n') : NULL;
        if (!end)
                return; /* cut off in the middle */
        *validator++ = 0;
        *end = 0;
        if (streq(text, d->url) && strlen(validator) < VALIDATOR_MAX)
                memcpy(ret_validator, validator, strlen(validator) + 1);
}

static int note_keep(const struct transfer *t) {
        _cleanup_free_ char *text = NULL;
        bool strong = t->etag[0] == '"'; /* a weak one says nothing about bytes (RFC 9110 §13.1.5) */

        if (t->d->note_fd < 0)
                return 0;
        if (asprintf(&text, "%s\n%s\n", t->d->url, strong ? t->etag : t->modified) < 0) {
                text = NULL;
                return -ENOMEM;
        }
        if (ftruncate(t->d->note_fd, 0) < 0)
                return -errno;
        return io_write_at(&sys_real, t->d->note_fd, text, strlen(text), 0);
}

/* ---- what comes ---------------------------------------------------------------------------------------------------------- */

static int refuse(struct transfer *t, int code, const char *id) {
        if (!t->refused) {
                t->refused = id;
                t->refused_code = code;
        }
        return -1;
}

static void take(const char *line, size_t n, const char *name, char ret[static VALIDATOR_MAX]) {
        size_t length = strlen(name);

        if (n <= length || strncasecmp(line, name, length) != 0)
                return;
        line += length;
        n -= length;
        while (n > 0 && (*line == ' ' || *line == '\t'))
                line++, n--;
        while (n > 0 && (unsigned char)line[n - 1] <= ' ')
                n--;
        if (n >= VALIDATOR_MAX)
                n = 0; /* not one that we keep */
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)line[i] < ' ' || (unsigned char)line[i] > '~')
                        n = 0;
        memcpy(ret, line, n);
        ret[n] = 0;
}

/* The headers of the answer that counts are there: where does its body go? Return: 0 or -1. */
static int judge(struct transfer *t) {
        const struct download *d = t->d;
        curl_off_t length = -1;
        unsigned long long first;
        int r;

        if (t->judged)
                return 0;
        t->judged = true;
        curl_easy_getinfo(t->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
        if (t->code == 206) {
                if (t->resumed == 0 || sscanf(t->range, "bytes %llu-", &first) != 1 || first != t->resumed)
                        return refuse(t, -EPROTO, "fetch-range");
        } else {
                t->at = t->resumed = t->begun_at = 0;
                if (ftruncate(d->fd, 0) < 0)
                        return refuse(t, -errno, "fetch-write");
        }
        if (length >= 0 && d->size > 0 && t->at + (uint64_t)length != d->size)
                return refuse(t, -EPROTO, "fetch-size");
        if (length >= 0 && t->at + (uint64_t)length > d->size_max)
                return refuse(t, -EFBIG, "fetch-size");
        r = note_keep(t);
        return r < 0 ? refuse(t, r, "fetch-write") : 0;
}

static size_t on_header(char *line, size_t one, size_t n, void *opaque) {
        struct transfer *t = opaque;

        t->headers += n;
        if (t->headers > HEADERS_MAX) {
                refuse(t, -EPROTO, "fetch-headers");
                return 0;
        }
        if (n > 5 && strncasecmp(line, "HTTP/", 5) == 0) {
                t->etag[0] = t->modified[0] = t->range[0] = 0;
                t->judged = false;
        }
        take(line, n, "ETag:", t->etag);
        take(line, n, "Last-Modified:", t->modified);
        take(line, n, "Content-Range:", t->range);
        return n;
}

static void report(struct transfer *t, bool last) {
        uint64_t now = clock_ns(), ns = now - t->begun_ns;
        char at[TEXT_SIZE_MAX], size[TEXT_SIZE_MAX], rate[TEXT_SIZE_MAX];

        if (t->d->quiet || (!last && now - t->reported_ns < REPORT_NS))
                return;
        t->reported_ns = now;
        text_format_size(t->at, at);
        text_format_size(ns > 0 ? (uint64_t)((double)(t->at - t->begun_at) * 1e9 / (double)ns) : 0, rate);
        if (t->d->size > 0)
                dprintf(FETCH_FD_PROGRESS, "%s of %s (%u%%), %s/s\n", at, text_format_size(t->d->size, size),
                        (unsigned int)(t->at * 100 / t->d->size), rate);
        else
                dprintf(FETCH_FD_PROGRESS, "%s, %s/s\n", at, rate);
}

static size_t on_body(char *data, size_t one, size_t n, void *opaque) {
        struct transfer *t = opaque;
        int r;

        if (n == 0)
                return 0;
        curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->code);
        if (judge(t) < 0)
                return 0;
        if (t->at + n > (t->d->size > 0 ? t->d->size : t->d->size_max)) {
                refuse(t, -EFBIG, "fetch-size");
                return 0;
        }
        r = io_write_at(&sys_real, t->d->fd, data, n, t->at);
        if (r < 0) {
                refuse(t, r, "fetch-write");
                return 0;
        }
        t->at += n;
        report(t, false);
        return n;
}

/* ---- one try ------------------------------------------------------------------------------------------------------------- */

static unsigned int stall_seconds(void) {
        const char *text = getenv("LODGE_FETCH_STALL_S");
        uint64_t s;

        return text && text_parse_uint(text, 3600, &s) == 0 && s > 0 ? (unsigned int)s : STALL_S;
}

static void set_up(struct transfer *t) {
        CURL *c = t->curl;
        bool tls = strncmp(t->d->url, "https:", 6) == 0;

        curl_easy_setopt(c, CURLOPT_URL, t->d->url);
        curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, tls ? "https" : "http,https");
        curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
        curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
        curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)STALL_BYTES);
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)stall_seconds());
        curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
        curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
        curl_easy_setopt(c, CURLOPT_USERAGENT, "lodge/" LODGE_VERSION);
        curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->message);
        curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
        curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
}

/* What has come before, if it can be gone on with. */
static int resume(struct transfer *t, struct curl_slist **headers) {
        char validator[VALIDATOR_MAX], text[VALIDATOR_MAX + 32];
        struct stat st;

        if (fstat(t->d->fd, &st) < 0)
                return -errno;
        note_load(t->d, validator);
        if (st.st_size == 0 || !validator[0] || (t->d->size > 0 && (uint64_t)st.st_size > t->d->size)) {
                t->at = t->resumed = t->begun_at = 0;
                curl_easy_setopt(t->curl, CURLOPT_RANGE, NULL);
                return st.st_size > 0 && ftruncate(t->d->fd, 0) < 0 ? -errno : 0;
        }
        t->at = t->resumed = t->begun_at = (uint64_t)st.st_size;
        snprintf(text, sizeof(text), "%llu-", (unsigned long long)t->at);
        curl_easy_setopt(t->curl, CURLOPT_RANGE, text);
        snprintf(text, sizeof(text), "If-Range: %s", validator);
        *headers = curl_slist_append(NULL, text);
        return *headers ? 0 : -ENOMEM;
}

static bool is_whole(const struct download *d) {
        char validator[VALIDATOR_MAX];
        struct stat st;

        note_load(d, validator);
        return d->size > 0 && validator[0] && fstat(d->fd, &st) == 0 && (uint64_t)st.st_size == d->size;
}

static CURLcode try_once(struct transfer *t, int *ret_code) {
        struct curl_slist *headers = NULL;
        CURLcode c;

        t->refused = NULL;
        t->headers = 0;
        t->judged = false;
        t->begun_ns = clock_ns();
        if (t->begun_ns >= t->deadline_ns) {
                *ret_code = 0;
                return CURLE_OPERATION_TIMEDOUT;
        }
        curl_easy_setopt(t->curl, CURLOPT_TIMEOUT_MS, (long)((t->deadline_ns - t->begun_ns) / 1000000 + 1));
        *ret_code = resume(t, &headers);
        if (*ret_code < 0)
                return CURLE_WRITE_ERROR;
        curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
        c = curl_easy_perform(t->curl);
        curl_slist_free_all(headers);
        t->code = 0;
        curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->code);
        if (c == CURLE_OK && judge(t) < 0) /* an empty body */
                c = CURLE_WRITE_ERROR;
        return c;
}

/* ---- why not ------------------------------------------------------------------------------------------------------------- */

static int explain_refusal(const struct transfer *t, struct error *e) {
        const char *url = t->d->url;
        char size[TEXT_SIZE_MAX];

        if (t->refused_code == -ENOSPC || t->refused_code == -EDQUOT)
                return error_set(e, -ENOSPC, "image-no-space",
                                 "delete images that you don't use (lodge image list), or make room: df -h",
                                 "the disk is full: %s is not complete", url);
        if (streq(t->refused, "fetch-size") && t->d->size > 0)
                return error_set(e, -EPROTO, "fetch-size", "try later, or tell the server's owner",
                                 "%s has another size than its index says, %s", url,
                                 text_format_size(t->d->size, size));
        if (streq(t->refused, "fetch-size"))
                return error_set(e, -EFBIG, "fetch-size", "check the source's URL: lodge image source list",
                                 "%s is larger than it may be, %s", url, text_format_size(t->d->size_max, size));
        if (streq(t->refused, "fetch-write"))
                return error_set(e, t->refused_code, "fetch-write", "look at the disk: df -h",
                                 "cannot keep what comes");
        return error_set(e, t->refused_code, "fetch-answer", "tell the server's owner",
                         "%s: the server breaks the rules of HTTP", url);
}

static int explain(const struct transfer *t, CURLcode c, struct error *e) {
        const char *url = t->d->url, *text = t->message[0] ? t->message : curl_easy_strerror(c);

        switch (c) {
        case CURLE_HTTP_RETURNED_ERROR:
                if (t->code == 404 || t->code == 410)
                        return error_set(e, -ENOENT, "fetch-missing-file",
                                         "check the source's URL and type: lodge image source list",
                                         "the server has no %s", url);
                return error_set(e, -EIO, "fetch-http", "check the source's URL, or try later",
                                 "the server refuses %s with status %ld", url, t->code);
        case CURLE_UNSUPPORTED_PROTOCOL:
        case CURLE_TOO_MANY_REDIRECTS:
                return error_set(e, -ELOOP, "fetch-redirect", "use the URL that the file really has",
                                 "%s leads elsewhere than it may: %s", url, text);
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_SSL_CACERT_BADFILE:
                return error_set(e, -EPROTO, "fetch-tls",
                                 "check the clock, and install the certificates: apt-get install ca-certificates",
                                 "cannot be sure to talk to the server of %s: %s", url, text);
        case CURLE_OPERATION_TIMEDOUT:
                return error_set(e, -ETIMEDOUT, "fetch-slow", "try again: what has come is kept",
                                 "the server of %s hardly sends anything: %s", url, text);
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_RESOLVE_PROXY:
        case CURLE_COULDNT_CONNECT:
                return error_set(e, -EHOSTUNREACH, "fetch-connect",
                                 "check the network and the URL: lodge image source list",
                                 "cannot reach the server of %s: %s", url, text);
        default:
                return error_set(e, -EIO, "fetch-broken", "try again: what has come is kept", "%s breaks off: %s", url,
                                 text);
        }
}

static bool may_pass(const struct transfer *t, CURLcode c) {
        if (c == CURLE_HTTP_RETURNED_ERROR)
                return t->code == 408 || t->code == 429 || t->code >= 500;
        return c == CURLE_PARTIAL_FILE || c == CURLE_RECV_ERROR || c == CURLE_SEND_ERROR || c == CURLE_GOT_NOTHING ||
               c == CURLE_COULDNT_CONNECT || c == CURLE_OPERATION_TIMEDOUT || c == CURLE_HTTP2_STREAM;
}

/* Try until it is whole, or tries bring nothing. */
static int run(struct transfer *t, struct error *e) {
        unsigned int idle = 0;

        for (unsigned int tries = 0;; tries++) {
                uint64_t before;
                CURLcode c;
                int r;

                if (is_whole(t->d))
                        return 0;
                c = try_once(t, &r);
                if (r < 0)
                        return error_set(e, r, "fetch-write", NULL, "cannot keep what comes");
                before = t->begun_at;
                if (c == CURLE_OK && (t->d->size == 0 || t->at == t->d->size)) {
                        report(t, true);
                        return 0;
                }
                if (c == CURLE_OK)
                        c = CURLE_PARTIAL_FILE;
                if (t->refused)
                        return explain_refusal(t, e);
                if (c == CURLE_HTTP_RETURNED_ERROR && t->code == 416 && t->resumed > 0) { /* it is shorter now */
                        if (ftruncate(t->d->fd, 0) < 0)
                                return error_set(e, -errno, "fetch-write", NULL, "cannot keep what comes");
                        continue;
                }
                if (c == CURLE_HTTP_RETURNED_ERROR && (t->code == 404 || t->code == 410) && t->d->ret_missing) {
                        *t->d->ret_missing = true;
                        return 0;
                }
                idle = t->at > before ? 0 : idle + 1;
                if (!may_pass(t, c) || clock_ns() >= t->deadline_ns || idle >= IDLE_TRIES_MAX || tries >= TRIES_MAX)
                        return explain(t, c, e);
                nanosleep(&(const struct timespec){ .tv_nsec = 300000000l << MIN(idle, 1u) }, NULL);
        }
}

static int run_shut_in(void *opaque, struct error *e) {
        struct transfer t = { .d = opaque };
        int r;

        t.deadline_ns = clock_ns() + (t.d->seconds > 0 ? t.d->seconds : TOTAL_S) * 1000000000ull;
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(t.curl = curl_easy_init()))
                return error_set(e, -ENOMEM, "memory", NULL, "cannot begin to download");
        set_up(&t);
        r = run(&t, e);
        curl_easy_cleanup(t.curl);
        return r == 0 && t.d->ret_missing && *t.d->ret_missing
                       ? error_set(e, -ENOENT, "fetch-missing-file", NULL, "%s", t.d->url)
                       : r;
}

int download_run(const struct download *d, struct error *e) {
        const struct shut_in_limits limits = { .file_bytes = d->size_max > NOTE_MAX ? d->size_max : NOTE_MAX,
                                               .cpu_seconds = CPU_S,
                                               .own_user = d->own_user,
                                               .room_fd = d->fd,
                                               .room_bytes = d->reserve };
        _cleanup_error_ struct error own = ERROR_INIT;
        int r = shut_in_run(SHUT_IN_NETWORK, &limits, run_shut_in, (void *)(uintptr_t)d, NULL, &own);

        if (d->ret_missing) {
                *d->ret_missing = r == -ENOENT && own.id && streq(own.id, "fetch-missing-file");
                if (*d->ret_missing)
                        return 0;
        }
        return r < 0 ? error_set_foreign(e, r, own.id, own.fix, own.message ?: "the download failed") : 0;
}
