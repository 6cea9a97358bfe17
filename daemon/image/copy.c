// SPDX-License-Identifier: GPL-2.0-or-later
/* copy: see copy.h */
#include "daemon/image/copy.h"

#include <errno.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

#define CHUNK (1U << 20)
#define PIECE 4096U /* of a hole, at least */

static bool cancelled(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };

        return fd >= 0 && poll(&p, 1, 0) > 0;
}

static bool all_zero(const char *p, size_t n) {
        return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

int copy_write_sparse(const struct sys *sys, int to, const void *data, size_t n, uint64_t at) {
        const char *buf = data;

        for (size_t i = 0, len; i < n; i += len) {
                size_t end = i;
                int r;

                while (end < n && !all_zero(buf + end, MIN((size_t)PIECE, n - end)))
                        end += MIN((size_t)PIECE, n - end);
                len = end > i ? end - i : MIN((size_t)PIECE, n - i);
                r = end > i ? io_write_at(sys, to, buf + i, len, at + i) : 0;
                if (r < 0)
                        return r;
        }
        return 0;
}

/*
 * Copies [at, end) by reading and writing: across file systems and kernels that refuse copy_file_range(). Such file systems
 * often don't tell their holes either (9p, NFS before 4.2), hence the look for zeroes.
 */
static int copy_by_hand(const struct sys *sys, int from, int to, off_t at, off_t end, void *buf) {
        int r;

        while (at < end) {
                size_t n = MIN((off_t)CHUNK, end - at);

                r = io_read_at(sys, from, buf, n, at);
                if (r == 0)
                        r = copy_write_sparse(sys, to, buf, n, (uint64_t)at);
                if (r < 0)
                        return r;
                at += n;
        }
        return 0;
}

static int copy_range(const struct sys *sys, int from, int to, off_t at, off_t end, const struct copy_watch *watch,
                      off_t size, void *buf) {
        bool in_kernel = sys == &sys_real; /* a test's table must see every write */

        while (at < end) {
                size_t n = MIN((off_t)CHUNK * 16, end - at);
                off_t in = at, out = at;
                ssize_t k = -1;

                if (cancelled(watch->cancel_fd))
                        return -EINTR;
                if (watch->advance)
                        watch->advance(watch->opaque, (uint64_t)at, (uint64_t)size);
                if (in_kernel)
                        k = copy_file_range(from, &in, to, &out, n, 0);
                if (in_kernel && k < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO || errno == EFBIG))
                        return -errno;
                if (k <= 0) { /* EXDEV, EINVAL, ENOSYS ..., or nothing copied: some file systems say so */
                        int r = copy_by_hand(sys, from, to, at, at + n, buf);
                        if (r < 0)
                                return r;
                        in_kernel = false;
                        k = n;
                }
                at += k;
        }
        return 0;
}

int copy_sparse(const struct sys *sys, int from, int to, int cancel_fd) {
        return copy_sparse_watched(sys, from, to, &(struct copy_watch){ .cancel_fd = cancel_fd });
}

int copy_sparse_watched(const struct sys *sys, int from, int to, const struct copy_watch *watch) {
        _cleanup_free_ void *buf = NULL;
        off_t size, at = 0;

        size = lseek(from, 0, SEEK_END);
        if (size < 0)
                return -errno;
        if (sys->ioctl(to, FICLONE, from) == 0)
                return 0;
        if (sys->ftruncate(to, size) < 0)
                return -errno;
        buf = malloc(CHUNK);
        if (!buf)
                return -ENOMEM;
        while (at < size) {
                off_t data = lseek(from, at, SEEK_DATA), hole;
                int r;

                if (data < 0 && errno == ENXIO)
                        break; /* a hole up to the end */
                if (data < 0)
                        data = at;
                hole = lseek(from, data, SEEK_HOLE);
                if (hole < 0 || hole > size)
                        hole = size;
                if (hole <= data)
                        return -EIO; /* changed under us */
                r = copy_range(sys, from, to, data, hole, watch, size, buf);
                if (r < 0)
                        return r;
                at = hole;
        }
        return 0;
}

int copy_layer(const struct sys *sys, struct layer *from, int to, int cancel_fd) {
        uint64_t size = atomic_load(&from->size);
        _cleanup_free_ void *buf = malloc(CHUNK);

        if (!buf)
                return -ENOMEM;
        if (sys->ftruncate(to, (off_t)size) < 0)
                return -errno;
        for (uint64_t at = 0; at < size;) {
                struct layer *owner;
                struct extent extent;
                uint64_t n;
                int r = cancelled(cancel_fd) ? -EINTR : layer_status(from, NULL, NULL, at, size - at, &extent, &owner);

                if (r < 0)
                        return r;
                n = extent.length;
                if (extent.kind == EXTENT_DATA || extent.kind == EXTENT_COMPRESSED) {
                        n = MIN(n, (uint64_t)CHUNK - at % CHUNK);
                        r = layer_read(from, NULL, buf, at, n);
                        if (r == 0)
                                r = copy_write_sparse(sys, to, buf, n, at);
                        if (r < 0)
                                return r;
                }
                at += n;
        }
        return 0;
}
