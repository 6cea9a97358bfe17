// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * download: one file by HTTP, that goes on where it stopped
 *
 * Theory of operation. What has come is in the file; beside it lies a note: the URL, and what the server called the object's state (its ETag, or else
 * Last-Modified). Before the first byte of a body is kept, the note is written. To go on, the rest is asked for by Range with If-Range: a server whose object
 * is another by now answers with all of it (200), and the file begins anew. Without a note that fits it begins anew, too.
 *
 * A server is hostile: it may lie about the length, send without end or hardly at all, or send us elsewhere. So the size is known before or has a limit; a
 * transfer below a kilobyte a second for half a minute is ended ($LODGE_FETCH_STALL_S: other seconds, for tests); redirects are few, and to http and https only,
 * never from https to http. What breaks off is tried again as long as each try brings something.
 *
 * In a shut-in process of its own (NETWORK): TLS, HTTP and names are parsed where nothing else is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct download {
        const char *url;
        int fd;               /* read and write; what is in it already has come before */
        int note_fd;          /* -EBADF: nothing goes on later */
        uint64_t size;        /* bytes; 0: not known */
        uint64_t size_max;    /* at most */
        uint64_t reserve;     /* of the file system to leave free; 0: nothing */
        unsigned int seconds; /* for all tries; 0: as long as something comes */
        bool own_user;        /* see struct shut_in_limits */
        bool quiet;           /* no lines about progress */
        bool *ret_missing;    /* not NULL: that the server has no such file is told here, and no error */
};

/** download_run() - until the file is whole. Return: 0, or -errno with @e. */
int download_run(const struct download *d, struct error *e);
