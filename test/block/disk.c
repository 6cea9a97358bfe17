// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk: see disk.h
 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR 512u

#include "base/cleanup.h"
#include "base/iov.h"

struct change {
        enum { WRITE, SIZE } kind;
        uint64_t offset, length; /* SIZE: the new one in @offset */
        uint8_t *data;           /* NULL: zeroes */
};

static struct {
        struct random *random;
        int fd, durable;
        struct change *log;
        size_t n, room;
        unsigned int one_in, calls;
        bool dead;
        uint64_t failed;
} disk = { .fd = -1, .durable = -1 };

uint64_t random_next(struct random *r) {
        uint64_t z = r->state += 0x9e3779b97f4a7c15ull;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return z ^ z >> 31;
}

uint64_t random_below(struct random *r, uint64_t n) {
        return random_next(r) % n;
}

static void must(bool ok, const char *what) {
        if (!ok) {
                perror(what);
                abort();
        }
}

static struct change *log_add(int kind, uint64_t offset, uint64_t length) {
        if (disk.n == disk.room) {
                disk.room = disk.room ? 2 * disk.room : 256;
                disk.log = reallocarray(disk.log, disk.room, sizeof *disk.log);
                must(disk.log, "log");
        }
        disk.log[disk.n] = (struct change){ .kind = kind, .offset = offset, .length = length };
        return &disk.log[disk.n++];
}

static void log_clear(void) {
        for (size_t i = 0; i < disk.n; i++)
                free(disk.log[i].data);
        disk.n = 0;
}

/* Fails now? Changes count towards the end of everything. */
static bool fails(bool change) {
        if (change && disk.calls > 0 && --disk.calls == 0)
                disk.dead = true;
        if (!disk.dead && (!disk.one_in || random_below(disk.random, disk.one_in) != 0))
                return false;
        disk.failed++;
        errno = !disk.dead && random_below(disk.random, 2) ? ENOSPC : EIO;
        return true;
}

static bool is_ours(int fd) {
        return fd == disk.fd;
}

static ssize_t disk_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        struct iovec one = iov[0];

        if (!is_ours(fd))
                return preadv(fd, iov, n, offset);
        if (fails(false))
                return -1;
        if (disk.one_in && one.iov_len > SECTOR && random_below(disk.random, 8) == 0) {
                one.iov_len = SECTOR;
                return preadv(fd, &one, 1, offset);
        }
        return preadv(fd, iov, n, offset);
}

static ssize_t disk_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        uint64_t length = iov_length(iov, (unsigned int)n);
        struct change *c;
        ssize_t done;

        if (!is_ours(fd))
                return pwritev(fd, iov, n, offset);
        if (fails(true)) {
                /* perhaps some of it arrived */
                if (disk.dead || random_below(disk.random, 2))
                        return -1;
                length = random_below(disk.random, length + 1);
                length -= MIN(length, ((uint64_t)offset + length) % SECTOR); /* sectors don't tear */
        } else if (disk.one_in && length > SECTOR && random_below(disk.random, 8) == 0) {
                length = SECTOR;
        }
        if (length == 0)
                return -1;
        c = log_add(WRITE, (uint64_t)offset, length);
        c->data = malloc(length);
        must(c->data, "data");
        iov_to_buf(iov, (unsigned int)n, 0, c->data, length);
        done = pwrite(fd, c->data, length, offset);
        must(done == (ssize_t)length, "pwrite");
        return done;
}

static int disk_fallocate(int fd, int mode, off_t offset, off_t length) {
        if (!is_ours(fd))
                return fallocate(fd, mode, offset, length);
        if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
                errno = EOPNOTSUPP;
                return -1;
        }
        if (fails(true))
                return -1;
        log_add(WRITE, (uint64_t)offset, (uint64_t)length);
        must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0, "fallocate");
        return 0;
}

static int disk_ftruncate(int fd, off_t size) {
        if (!is_ours(fd))
                return ftruncate(fd, size);
        if (fails(true))
                return -1;
        log_add(SIZE, (uint64_t)size, 0);
        return ftruncate(fd, size);
}

/* A part of a change, in the file that survives. Zeroes don't make it longer. */
static void apply(const struct change *c, uint64_t from, uint64_t length) {
        if (c->kind == SIZE)
                must(ftruncate(disk.durable, (off_t)c->offset) == 0, "ftruncate");
        else if (c->data)
                must(pwrite(disk.durable, c->data + from, length, (off_t)(c->offset + from)) == (ssize_t)length,
                     "pwrite");
        else
                must(fallocate(disk.durable, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(c->offset + from),
                               (off_t)length) == 0,
                     "fallocate");
}

static void apply_all(void) {
        for (size_t i = 0; i < disk.n; i++)
                apply(&disk.log[i], 0, disk.log[i].length);
        log_clear();
}

static int disk_fdatasync(int fd) {
        if (!is_ours(fd))
                return fdatasync(fd);
        if (fails(true))
                return -1;
        apply_all();
        return 0;
}

struct sys disk_sys;

int disk_start(struct random *r) {
        disk_sys = sys_real;
        disk_sys.preadv = disk_preadv;
        disk_sys.pwritev = disk_pwritev;
        disk_sys.fallocate = disk_fallocate;
        disk_sys.ftruncate = disk_ftruncate;
        disk_sys.fdatasync = disk_fdatasync;
        disk.random = r;
        disk.fd = memfd_create("disk", MFD_CLOEXEC);
        disk.durable = memfd_create("durable", MFD_CLOEXEC);
        must(disk.fd >= 0 && disk.durable >= 0, "memfd_create");
        disk_faults(0, 0);
        disk.failed = 0;
        return disk.fd;
}

void disk_end(void) {
        log_clear();
        close(disk.fd);
        close(disk.durable);
        disk.fd = disk.durable = -1;
}

void disk_faults(unsigned int one_in, unsigned int calls) {
        disk.one_in = one_in;
        disk.calls = calls;
        disk.dead = false;
}

bool disk_is_dead(void) {
        return disk.dead;
}

uint64_t disk_n_failed(void) {
        return disk.failed;
}

/* Some of what was not synced: each write's sectors one by one, the writes in any order, the last word on the size perhaps. */
static void apply_some(void) {
        unsigned int keep = (unsigned int)random_below(disk.random, 5); /* of 4 */

        for (size_t i = disk.n; i > 1; i--) {
                size_t k = random_below(disk.random, 4) ? i - 1 : random_below(disk.random, i);
                struct change swap = disk.log[i - 1];

                disk.log[i - 1] = disk.log[k];
                disk.log[k] = swap;
        }
        for (size_t i = 0; i < disk.n; i++) {
                struct change *c = &disk.log[i];

                if (c->kind == SIZE) {
                        if (random_below(disk.random, 4) < keep)
                                apply(c, 0, 0);
                        continue;
                }
                for (uint64_t at = 0; at < c->length;) {
                        uint64_t n = MIN(c->length - at, SECTOR - (c->offset + at) % SECTOR);

                        if (random_below(disk.random, 4) < keep)
                                apply(c, at, n);
                        at += n;
                }
        }
        log_clear();
}

void disk_cut(bool kill) {
        uint8_t buf[65536];
        struct stat st;
        ssize_t n;

        disk_faults(0, 0);
        disk.failed = 0;
        if (kill)
                apply_all();
        else
                apply_some();
        must(fstat(disk.durable, &st) == 0 && ftruncate(disk.fd, 0) == 0 && ftruncate(disk.fd, st.st_size) == 0,
             "size");
        for (off_t at = 0; (n = pread(disk.durable, buf, sizeof buf, at)) > 0; at += n)
                must(pwrite(disk.fd, buf, (size_t)n, at) == n, "copy");
}

int disk_check_qemu(int fd, bool quiet) {
        char name[192];
        int status;
        pid_t pid;

        snprintf(name, sizeof name,
                 "json:{\"driver\": \"qcow2\", \"backing\": null, "
                 "\"file\": {\"driver\": \"file\", \"filename\": \"/proc/%d/fd/%d\"}}",
                 (int)getpid(), fd);
        pid = fork();
        if (pid == 0) {
                int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

                dup2(null, 1);
                if (quiet)
                        dup2(null, 2);
                execlp("qemu-img", "qemu-img", "check", "-q", "-U", name, (char *)NULL);
                _exit(127);
        }
        return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
