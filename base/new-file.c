// SPDX-License-Identifier: GPL-2.0-or-later
/* new-file: see new-file.h */
#include "base/new-file.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TRIES 16

static int make_name(char ret_name[static 32]) {
        uint64_t random;

        if (getentropy(&random, sizeof(random)) < 0)
                return -errno;
        snprintf(ret_name, 32, NEW_FILE_PREFIX "%016" PRIx64, random);
        return 0;
}

/* Return: 1: opened; 0: a sweep was faster, try again; -errno. */
static int open_named(struct new_file *f, mode_t mode) {
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        char name[32];
        int r = make_name(name);

        if (r < 0)
                return r;
        fd = openat(f->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        if (fd < 0)
                return errno == EEXIST ? 0 : -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? 0 : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_nlink == 0)
                return 0;
        f->fd = TAKE_FD(fd);
        memcpy(f->name, name, sizeof(name));
        return 1;
}

int new_file_open(struct new_file *f, int dir_fd, mode_t mode) {
        int r = 0;

        *f = (struct new_file){ .dir_fd = dir_fd, .fd = openat(dir_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, mode) };
        if (f->fd >= 0)
                return flock(f->fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
                return -errno;
        for (unsigned int i = 0; r == 0 && i < TRIES; i++)
                r = open_named(f, mode);
        return r == 0 ? -EAGAIN : r < 0 ? r : 0;
}

/* Gives a file without a name one. Naming it by its descriptor takes CAP_DAC_READ_SEARCH; by /proc it takes nothing. */
static int link_file(const struct new_file *f, const char *name) {
        char proc[48];

        snprintf(proc, sizeof(proc), "/proc/self/fd/%d", f->fd);
        if (linkat(AT_FDCWD, proc, f->dir_fd, name, AT_SYMLINK_FOLLOW) == 0)
                return 0;
        if (errno != ENOENT)
                return -errno;
        return linkat(f->fd, "", f->dir_fd, name, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int new_file_keep(struct new_file *f, const char *name, bool replace) {
        int r;

        if (fsync(f->fd) < 0)
                return -errno;
        if (!f->name[0] && !replace) {
                r = link_file(f, name);
                if (r < 0)
                        return r;
        } else {
                if (!f->name[0]) {
                        char temp[32];

                        r = make_name(temp);
                        if (r == 0)
                                r = link_file(f, temp);
                        if (r < 0)
                                return r;
                        memcpy(f->name, temp, sizeof(temp));
                }
                r = renameat2(f->dir_fd, f->name, f->dir_fd, name, replace ? 0 : RENAME_NOREPLACE) < 0 ? -errno : 0;
                /* A file system that can't do that (NFS): link(2) doesn't replace either. */
                if (r == -EINVAL && !replace) {
                        if (linkat(f->dir_fd, f->name, f->dir_fd, name, 0) < 0)
                                return -errno;
                        r = unlinkat(f->dir_fd, f->name, 0) < 0 ? -errno : 0;
                }
                if (r < 0)
                        return r;
                f->name[0] = '\0';
        }
        return fsync(f->dir_fd) < 0 ? -errno : 0;
}

void new_file_drop(struct new_file *f) {
        int saved = errno;

        if (f->fd >= 0 && f->name[0])
                (void)unlinkat(f->dir_fd, f->name, 0);
        f->fd = safe_close(f->fd);
        f->name[0] = '\0';
        errno = saved;
}

static int sweep_one(int dir_fd, const char *name) {
        _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || flock(fd, LOCK_EX | LOCK_NB) < 0)
                return 0;
        return unlinkat(dir_fd, name, 0) < 0 ? 0 : 1;
}

int new_file_sweep(int dir_fd) {
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
        struct dirent *de;
        DIR *d;

        if (fd < 0 || !(d = fdopendir(fd))) {
                int r = -errno;

                safe_close(fd);
                return r;
        }
        while ((de = readdir(d)))
                if (strncmp(de->d_name, NEW_FILE_PREFIX, strlen(NEW_FILE_PREFIX)) == 0)
                        n += sweep_one(dir_fd, de->d_name);
        closedir(d);
        return n;
}
