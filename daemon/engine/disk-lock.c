// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-lock: see parts.h; the bytes and their meaning are QEMU's (its image locking, file-posix)
 *
 * Set first, look second: of two that come at once, both see the other and neither goes on, but never do both. Who holds
 * a lock the kernel doesn't tell for open-file-description locks, so the holder is found by looking for a process that
 * has the same file open with a lock listed in its fdinfo.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"
#include "daemon/engine/parts.h"

#define BYTE_USES     100
#define BYTE_UNSHARED 200
#define PERM_READ     0
#define PERM_WRITE    1

static int lock_byte(int fd, off_t byte) {
        struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

        return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

/* Return: 1 if somebody else holds @byte, 0 if not, -errno. */
static int byte_held(int fd, off_t byte) {
        struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

        if (fcntl(fd, F_OFD_GETLK, &l) < 0)
                return -errno;
        return l.l_type != F_UNLCK;
}

static bool fdinfo_has_lock(const char *pid, const char *fd) {
        char path[300], line[256];
        bool found = false;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, fd);
        f = fopen(path, "re");
        while (f && !found && fgets(line, sizeof(line), f))
                found = strncmp(line, "lock:", 5) == 0;
        if (f)
                fclose(f);
        return found;
}

static bool process_holds(const char *pid, const struct stat *want) {
        char path[300];
        struct dirent *entry;
        struct stat st;
        bool found = false;
        DIR *d;

        snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
        d = opendir(path);
        while (d && !found && (entry = readdir(d)))
                found = entry->d_name[0] != '.' && fstatat(dirfd(d), entry->d_name, &st, 0) == 0 &&
                        st.st_dev == want->st_dev && st.st_ino == want->st_ino && fdinfo_has_lock(pid, entry->d_name);
        if (d)
                closedir(d);
        return found;
}

/* The machine's name, which engine_start() leaves in the environment of the process. */
static void machine_name_of(const char *pid, char *ret_name, size_t size) {
        static const char key[] = "LODGE_MACHINE=";
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        char path[300];
        size_t len;

        snprintf(path, sizeof(path), "/proc/%.20s/environ", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || io_read_all(fd, 1 << 20, &text, &len) < 0)
                return;
        for (size_t i = 0; i < len; i += strlen(text + i) + 1)
                if (strncmp(text + i, key, sizeof(key) - 1) == 0) {
                        snprintf(ret_name, size, "%.63s", text + i + sizeof(key) - 1);
                        return;
                }
}

static int busy(int fd, const char *path, struct error *e) {
        char name[64] = "", comm[32] = "a process";
        struct dirent *entry;
        struct stat st;
        DIR *proc = NULL;
        int pid = 0, r;

        if (fstat(fd, &st) == 0)
                proc = opendir("/proc");
        while (proc && pid == 0 && (entry = readdir(proc)))
                if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && process_holds(entry->d_name, &st)) {
                        _cleanup_free_ char *file = NULL;
                        FILE *f;

                        pid = atoi(entry->d_name);
                        machine_name_of(entry->d_name, name, sizeof(name));
                        if (asprintf(&file, "/proc/%d/comm", pid) < 0)
                                file = NULL;
                        f = file ? fopen(file, "re") : NULL;
                        if (f && fscanf(f, "%31[^\n]", comm) != 1)
                                snprintf(comm, sizeof(comm), "a process");
                        if (f)
                                fclose(f);
                }
        if (proc)
                closedir(proc);
        if (pid == 0)
                r = error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use by a process of another user", path);
        else if (name[0])
                r = error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use by machine %s (%s, pid %d)", path, name,
                              comm, pid);
        else
                r = error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use by %s, pid %d", path, comm, pid);
        error_set_fix(e, "end that machine first, or make both use the disk with readonly=on");
        return r;
}

int disk_lock(int fd, bool readonly, const char *path, struct error *e) {
        int r;

        r = lock_byte(fd, BYTE_USES + (readonly ? PERM_READ : PERM_WRITE));
        if (r == 0)
                r = lock_byte(fd, BYTE_UNSHARED + PERM_WRITE);
        if (r < 0)
                return error_set(e, r, "disk-lock", "use a file system that supports locks", "cannot lock disk %s",
                                 path);

        r = byte_held(fd, BYTE_USES + PERM_WRITE);
        if (r == 0 && !readonly)
                r = byte_held(fd, BYTE_UNSHARED + PERM_WRITE);
        if (r < 0)
                return error_set(e, r, "disk-lock", "use a file system that supports locks", "cannot lock disk %s",
                                 path);
        return r ? busy(fd, path, e) : 0;
}
