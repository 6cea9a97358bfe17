// SPDX-License-Identifier: GPL-2.0-or-later
/* place: see place.h */
#include "daemon/keeper/place.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define LOCK_TRIES   30 /* a keeper that has told of its end is gone within that */
#define LOCK_WAIT_NS 100000000
#define BACKLOG      16

static int lock(int fd) {
        static const struct timespec pause = { .tv_nsec = LOCK_WAIT_NS };

        for (int i = 0; i < LOCK_TRIES; i++) {
                if (flock(fd, LOCK_EX | LOCK_NB) == 0)
                        return 0;
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                nanosleep(&pause, NULL);
        }
        return -EBUSY;
}

static int remove_file(int dir_fd, const char *name) {
        return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int place_lock(const char *path, int *ret_fd) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int place_open(const char *path, int locked_fd, int *ret_fd, struct error *e) {
        static const char *const left[] = { PLACE_SOCKET, PLACE_CONTROL, PLACE_EXIT, PLACE_CONSOLE };
        _cleanup_close_ int fd =
                locked_fd < 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : locked_fd;
        struct stat st;
        int r = 0;

        if (path[0] != '/')
                return error_set(e, -EINVAL, "keeper-run-dir", NULL, "the runtime directory %s is no absolute path",
                                 path);
        if (fd < 0 || fstat(fd, &st) < 0)
                return error_set(e, -errno, "keeper-run-dir", NULL, "cannot open the runtime directory %s", path);
        if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
                return error_set(e, -EPERM, "keeper-run-dir", "it must be the keeper's own, of mode 0700",
                                 "the runtime directory %s is open to others", path);
        r = lock(fd);
        if (r < 0)
                return error_set(e, r, "keeper-busy", "stop the machine first",
                                 "another keeper holds the machine of %s", path);
        for (size_t i = 0; i < ELEMENTSOF(left) && r == 0; i++)
                r = remove_file(fd, left[i]);
        if (r < 0)
                return error_set(e, r, "keeper-run-dir", NULL, "cannot clear the runtime directory %s", path);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int make_address(int dir_fd, const char *name, struct sockaddr_un *ret_address) {
        int n;

        *ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
        n = snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
        return n < 0 || (size_t)n >= sizeof(ret_address->sun_path) ? -ENAMETOOLONG : 0;
}

int place_listen(int dir_fd, const char *name, int type, int *ret_fd) {
        _cleanup_close_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        struct sockaddr_un address;
        mode_t mask;
        int r = make_address(dir_fd, name, &address);

        if (fd < 0 || r < 0)
                return fd < 0 ? -errno : r;
        mask = umask(0177);
        r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
        umask(mask);
        if (r == 0 && listen(fd, BACKLOG) < 0)
                r = -errno;
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int place_connect(int dir_fd, const char *name, int type, int *ret_fd) {
        _cleanup_close_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un address;
        int r = make_address(dir_fd, name, &address);

        if (fd < 0 || r < 0)
                return fd < 0 ? -errno : r;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int place_write(int dir_fd, const char *name, int (*fn)(int fd, const void *opaque), const void *opaque) {
        _cleanup_close_ int fd = -EBADF;
        char temporary[64];
        int r;

        snprintf(temporary, sizeof(temporary), "%s.new", name);
        fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        r = fn(fd, opaque);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
                r = -errno;
        if (r < 0) {
                remove_file(dir_fd, temporary);
                return r;
        }
        return fsync(dir_fd) < 0 ? -errno : 0;
}

void place_clear(int dir_fd) {
        remove_file(dir_fd, PLACE_SOCKET);
        remove_file(dir_fd, PLACE_CONTROL);
}
