// SPDX-License-Identifier: GPL-2.0-or-later
/* kernel-cache: see kernel-cache.h */
#include "daemon/engine/kernel-cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/xdg.h"
#include "vmm/boot/unpack.h"

#define KERNEL_MAX (1ull << 30)
#define KEPT       8

static int open_cache(int *ret_fd) {
        _cleanup_free_ char *path = NULL;
        int r = xdg_path(XDG_CACHE, "lodge/kernels", &path);

        if (r == 0)
                r = io_make_dirs(path, 0700, 0700);
        if (r < 0)
                return r;
        r = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (r < 0)
                return -errno;
        *ret_fd = r;
        return 0;
}

/* The oldest entry, if there are more than KEPT; else an empty name. */
static void find_surplus(int dir_fd, char *ret_name, size_t size) {
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct timespec oldest = { 0 };
        unsigned int n = 0;
        struct dirent *d;
        DIR *dir;

        ret_name[0] = '\0';
        dir = fd >= 0 ? fdopendir(fd) : NULL;
        if (!dir) {
                safe_close(fd);
                return;
        }
        while ((d = readdir(dir))) {
                struct stat st;

                if (!strstr(d->d_name, ".elf") || fstatat(dir_fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue;
                if (n++ == 0 || st.st_mtim.tv_sec < oldest.tv_sec) {
                        oldest = st.st_mtim;
                        snprintf(ret_name, size, "%s", d->d_name);
                }
        }
        closedir(dir);
        if (n <= KEPT)
                ret_name[0] = '\0';
}

static void prune(int dir_fd) {
        char name[256];

        for (int i = 0; i < KEPT; i++) {
                find_surplus(dir_fd, name, sizeof(name));
                if (!name[0] || unlinkat(dir_fd, name, 0) < 0)
                        return;
        }
}

/* Only files of our own: a cache in a place that others may write to must not choose our kernel. */
static int open_entry(int dir_fd, const char *name, int *ret_fd) {
        _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        struct stat st;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
                return -EPERM;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Could not be written rather than could not be read: the kernel may be all right. */
static bool is_shortage(int code) {
        return code == -ENOSPC || code == -EDQUOT || code == -EIO || code == -ENOMEM || code == -EROFS;
}

static int reopen_readonly(int fd, int *ret_fd) {
        char path[64];
        int r;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = open(path, O_RDONLY | O_CLOEXEC);
        if (r < 0)
                return -errno;
        *ret_fd = r;
        return 0;
}

/* @dir_fd negative: no cache, the kernel goes to memory. */
static int unpack(int kernel_fd, int dir_fd, const char *name, int *ret_fd, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        char path[64];
        int r;

        if (dir_fd >= 0)
                fd = openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644); /* the directory is ours alone */
        if (fd < 0) {
                fd = memfd_create("lodge-kernel", MFD_CLOEXEC);
                dir_fd = -EBADF;
        }
        if (fd < 0)
                return 0;
        r = kernel_unpack(kernel_fd, fd, KERNEL_MAX, e);
        if (r < 0 && is_shortage(r)) {
                log_info("no room to unpack the kernel: the guest does it (%s)", strerror(-r));
                error_clear(e);
                return 0;
        }
        if (r <= 0)
                return r;
        if (dir_fd >= 0) {
                snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                if (linkat(AT_FDCWD, path, dir_fd, name, AT_SYMLINK_FOLLOW) == 0)
                        prune(dir_fd);
                else if (errno != EEXIST)
                        log_info("cannot keep the unpacked kernel: %s", strerror(errno));
        }
        return reopen_readonly(fd, ret_fd) < 0 ? 0 : 1;
}

int kernel_cache_unpack(int kernel_fd, int *ret_fd, struct error *e) {
        _cleanup_close_ int dir_fd = -EBADF;
        struct stat st;
        char name[160];

        if (fstat(kernel_fd, &st) < 0)
                return 0;
        snprintf(name, sizeof(name), "%llx-%llx-%llx-%llx.%09ld-%llx.%09ld.elf", (unsigned long long)st.st_dev,
                 (unsigned long long)st.st_ino, (unsigned long long)st.st_size, (unsigned long long)st.st_mtim.tv_sec,
                 st.st_mtim.tv_nsec, (unsigned long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
        if (open_cache(&dir_fd) == 0 && open_entry(dir_fd, name, ret_fd) == 0)
                return 1;
        return unpack(kernel_fd, dir_fd, name, ret_fd, e);
}
