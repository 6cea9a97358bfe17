// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-backend: see parts-backend.h */
#include "daemon/engine/parts-backend.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/io.h"

static const char start_fix[] = "start the back end first: qemu-storage-daemon --export type=vhost-user-blk,...";

/* Through the directory rather than the socket: a back end that is started anew makes another socket of the same name. */
int part_backend_open(const struct machine_disk_config *c, struct part_disk *d, struct error *e) {
        const char *slash = strrchr(c->path, '/'), *name = slash ? slash + 1 : c->path;
        _cleanup_free_ char *dir = slash == c->path ? strdup("/") : strndup(c->path, (size_t)(name - c->path));
        struct stat st;
        int pair[2];

        d->socket = strdup(name);
        if (!dir || !d->socket)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        if (strlen(name) > PART_SOCKET_MAX)
                return error_set(e, -ENAMETOOLONG, "disk-backend", "give it a shorter name",
                                 "the name of socket %s has more than %d bytes", c->path, PART_SOCKET_MAX);
        d->dir_fd = open(dir[0] ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (d->dir_fd < 0 || fstatat(d->dir_fd, name, &st, 0) < 0)
                return error_set(e, -errno, "disk-backend", start_fix, "cannot reach the vhost-user back end at %s",
                                 c->path);
        if (!S_ISSOCK(st.st_mode))
                return error_set(e, -ENOTSOCK, "disk-backend", "name its socket, or leave type=vhost-user out",
                                 "%s is no vhost-user back end", c->path);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return error_set(e, -errno, "disk-backend", NULL, "cannot make a socket for disk %s", c->path);
        d->fd = pair[0];
        d->parent_fd = pair[1];
        return 0;
}

/* Never waits. */
static int dial(const struct part_disk *d) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -EBADF;

        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", d->dir_fd, d->socket);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int hand_over(const struct part_disk *d) {
        _cleanup_close_ int fd = dial(d);
        int r = io_send_fds(d->parent_fd, "", 1, &fd, fd >= 0 ? 1 : 0);

        if (r < 0 && fd >= 0)
                (void)io_send_fds(d->parent_fd, "", 1, NULL, 0); /* it waits for an answer: none today, ask again */
        return r < 0 ? r : fd < 0 ? fd : 0;
}

int part_backend_connect(const struct part_disk *d, struct error *e) {
        int r = hand_over(d);

        return r < 0 ? error_set(e, r, "disk-backend", start_fix, "cannot connect to the vhost-user socket %s",
                                 d->socket)
                     : 0;
}

int part_backend_answer(const struct part_disk *d) {
        char byte;
        ssize_t n = recv(d->parent_fd, &byte, 1, 0);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return -EAGAIN;
        return n != 1 ? -EPIPE : hand_over(d);
}
