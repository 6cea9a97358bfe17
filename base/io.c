// SPDX-License-Identifier: GPL-2.0-or-later
/* io: see io.h */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/sys.h"

#define IO_FDS_MAX 32

int io_read_at(const struct sys *sys, int fd, void *buf, size_t n, uint64_t offset) {
        while (n > 0) {
                ssize_t r = sys->pread(fd, buf, n, (off_t)offset);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return -errno;
                if (r == 0)
                        return -ENODATA;
                buf = (char *)buf + r;
                n -= (size_t)r;
                offset += (uint64_t)r;
        }
        return 0;
}

int io_write_at(const struct sys *sys, int fd, const void *buf, size_t n, uint64_t offset) {
        while (n > 0) {
                ssize_t r = sys->pwrite(fd, buf, n, (off_t)offset);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r <= 0)
                        return r < 0 ? -errno : -EIO;
                buf = (const char *)buf + r;
                n -= (size_t)r;
                offset += (uint64_t)r;
        }
        return 0;
}

int io_write_all(int fd, const void *buf, size_t n) {
        while (n > 0) {
                ssize_t r = write(fd, buf, n);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0 && errno == EAGAIN) {
                        struct pollfd p = { .fd = fd, .events = POLLOUT };

                        if (poll(&p, 1, -1) < 0 && errno != EINTR)
                                return -errno;
                        continue;
                }
                if (r < 0)
                        return -errno;
                buf = (const char *)buf + r;
                n -= (size_t)r;
        }
        return 0;
}

int io_read_all(int fd, size_t max, char **ret_buf, size_t *ret_len) {
        _cleanup_free_ char *buf = NULL;
        size_t len = 0, room = 0;

        for (;;) {
                ssize_t r;

                if (len + 1 >= room) {
                        char *bigger;

                        room = room ? room * 2 : 4096;
                        bigger = realloc(buf, room);
                        if (!bigger)
                                return -ENOMEM;
                        buf = bigger;
                }
                r = read(fd, buf + len, room - len - 1);
                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return -errno;
                if (r == 0)
                        break;
                len += (size_t)r;
                if (len > max)
                        return -EFBIG;
        }
        buf[len] = '\0';
        *ret_buf = TAKE_PTR(buf);
        *ret_len = len;
        return 0;
}

int io_make_dirs(const char *path, mode_t above, mode_t mode) {
        _cleanup_free_ char *p = strdup(path);

        if (!p)
                return -ENOMEM;
        for (char *slash = p + 1; (slash = strchr(slash, '/')); slash++) {
                *slash = '\0';
                if (mkdir(p, above) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return mkdir(p, mode) < 0 && errno != EEXIST ? -errno : 0;
}

static int change_flag(int fd, int get, int set, int flag, int on) {
        int flags = fcntl(fd, get);

        if (flags < 0)
                return -errno;
        if (fcntl(fd, set, on ? flags | flag : flags & ~flag) < 0)
                return -errno;
        return 0;
}

int io_set_nonblock(int fd, int on) {
        return change_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on);
}

int io_set_cloexec(int fd, int on) {
        return change_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on);
}

int io_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds) {
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * IO_FDS_MAX)] = { 0 };
        struct iovec iov = { .iov_base = (void *)buf, .iov_len = n };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t r;

        if (n_fds > IO_FDS_MAX)
                return -EINVAL;
        if (n_fds > 0) {
                struct cmsghdr *c;

                msg.msg_control = control;
                msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c = CMSG_FIRSTHDR(&msg);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
        }
        do
                r = sendmsg(sock, &msg, MSG_NOSIGNAL);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;
        return (size_t)r == n ? 0 : -EMSGSIZE;
}

ssize_t io_recv_fds(int sock, void *buf, size_t n, int *fds, size_t *n_fds) {
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * IO_FDS_MAX)];
        struct iovec iov = { .iov_base = buf, .iov_len = n };
        struct msghdr msg = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = control,
                .msg_controllen = sizeof(control),
        };
        size_t got = 0, room = *n_fds;
        bool overflow;
        ssize_t r;

        do
                r = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;

        overflow = msg.msg_flags & MSG_CTRUNC;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
                size_t count;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (got < room) {
                                fds[got++] = fd;
                        } else {
                                safe_close(fd);
                                overflow = true;
                        }
                }
        }
        if (overflow) {
                for (size_t i = 0; i < got; i++)
                        safe_close(fds[i]);
                return -EMSGSIZE;
        }
        *n_fds = got;
        return r;
}
