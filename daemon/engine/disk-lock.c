// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-lock: see parts.h; the bytes and their meaning are QEMU's (its image locking, file-posix)
 *
 * Set first, look second: of two that come at once, both see the other and neither goes on, but never do both. Who holds
 * a lock the kernel doesn't tell for open-file-description locks, so the holder is found by looking for a process that
 * has the same file open with a lock on the byte in question listed in its fdinfo; it may be this process, by another descriptor.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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

/* A line reads "lock:\t1: OFDLCK ADVISORY  READ -1 00:2b:1234 100 100", the last two words are the range; its end may be "EOF". */
static bool fdinfo_locks(const char *pid, const char *fd, off_t byte) {
        char path[300], line[256], end[32];
        bool found = false;
        intmax_t start;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, fd);
        f = fopen(path, "re");
        while (f && !found && fgets(line, sizeof(line), f))
                found = sscanf(line, "lock: %*s %*s %*s %*s %*s %*s %jd %31s", &start, end) == 2 && start <= byte &&
                        (streq(end, "EOF") || byte <= strtoimax(end, NULL, 10));
        if (f)
                fclose(f);
        return found;
}

/* @but: a descriptor that doesn't count, the asker's own; -1: all do */
static bool process_holds(const char *pid, const struct stat *want, off_t byte, int but) {
        char path[300];
        struct dirent *entry;
        struct stat st;
        bool found = false;
        DIR *d;

        snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
        d = opendir(path);
        while (d && !found && (entry = readdir(d)))
                found = entry->d_name[0] != '.' && atoi(entry->d_name) != but &&
                        fstatat(dirfd(d), entry->d_name, &st, 0) == 0 && st.st_dev == want->st_dev &&
                        st.st_ino == want->st_ino && fdinfo_locks(pid, entry->d_name, byte);
        if (d)
                closedir(d);
        return found;
}

/* Return: the process, 0 when it can't be seen. */
static int find_holder(int fd, off_t byte) {
        struct dirent *entry;
        struct stat st;
        DIR *proc = NULL;
        int pid = 0;

        if (fstat(fd, &st) == 0)
                proc = opendir("/proc");
        while (proc && pid == 0 && (entry = readdir(proc)))
                if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
                    process_holds(entry->d_name, &st, byte, atoi(entry->d_name) == getpid() ? fd : -1))
                        pid = atoi(entry->d_name);
        if (proc)
                closedir(proc);
        return pid;
}

/* The machine's name, which engine_start() leaves in the environment of the process. */
static void machine_name_of(int pid, char *ret_name, size_t size) {
        static const char key[] = "LODGE_MACHINE=";
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        char path[300];
        size_t len;

        snprintf(path, sizeof(path), "/proc/%d/environ", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || io_read_all(fd, 1 << 20, &text, &len) < 0)
                return;
        for (size_t i = 0; i < len; i += strlen(text + i) + 1)
                if (strncmp(text + i, key, sizeof(key) - 1) == 0) {
                        snprintf(ret_name, size, "%.63s", text + i + sizeof(key) - 1);
                        return;
                }
}

static void command_of(int pid, char ret_comm[static 32]) {
        char path[64];
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/comm", pid);
        f = fopen(path, "re");
        if (!f || fscanf(f, "%31[^\n]", ret_comm) != 1)
                snprintf(ret_comm, 32, "a process");
        if (f)
                fclose(f);
}

static int busy(int fd, off_t byte, const char *path, struct error *e) {
        const char *fix = "end that machine first, or make both use the disk with readonly=on";
        int pid = find_holder(fd, byte), r;
        char name[64] = "", comm[32];

        if (pid == 0) {
                r = error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use by a process of another user", path);
        } else if (pid == getpid()) {
                fix = "name it once, or make both readonly=on";
                r = error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is given twice", path);
        } else {
                machine_name_of(pid, name, sizeof(name));
                command_of(pid, comm);
                r = name[0] ? error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use by machine %s (%s, pid %d)",
                                        path, name, comm, pid)
                            : error_set(e, -EBUSY, "disk-busy", NULL, "disk %s is in use by %s, pid %d", path, comm,
                                        pid);
        }
        error_set_fix(e, "%s", fix);
        return r;
}

int disk_lock_look(int fd, bool readonly, const char *path, struct error *e) {
        off_t byte = BYTE_USES + PERM_WRITE;
        int r = byte_held(fd, byte);

        if (r == 0 && !readonly) {
                byte = BYTE_UNSHARED + PERM_WRITE;
                r = byte_held(fd, byte);
        }
        if (r < 0)
                return error_set(e, r, "disk-lock", "use a file system that supports locks", "cannot lock disk %s",
                                 path);
        return r ? busy(fd, byte, path, e) : 0;
}

int disk_lock(int fd, bool readonly, const char *path, struct error *e) {
        int r;

        r = lock_byte(fd, BYTE_USES + (readonly ? PERM_READ : PERM_WRITE));
        if (r == 0)
                r = lock_byte(fd, BYTE_UNSHARED + PERM_WRITE);
        if (r < 0)
                return error_set(e, r, "disk-lock", "use a file system that supports locks", "cannot lock disk %s",
                                 path);
        return disk_lock_look(fd, readonly, path, e);
}
