// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fault: see fault.h
 */
#include "test/block/fault.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

static _Thread_local struct {
        enum fault kind;
        unsigned int left; /* until it happens */
        bool hit;
} fault;

void fault_arm(enum fault kind, unsigned int n) {
        fault.kind = kind;
        fault.left = n;
        fault.hit = false;
}

bool fault_disarm(void) {
        fault.kind = NOTHING;
        return fault.hit;
}

static bool fails(enum fault kind, int error) {
        if (fault.kind != kind || (fault.left > 0 && --fault.left > 0) || (fault.hit && kind != NO_SPACE))
                return false;
        fault.hit = true;
        errno = error;
        return true;
}

/* The linker's --wrap leads the block layer's allocations here. */
#define ALLOCATOR(type, name, parameters, ...)                                                                         \
        type __real_##name parameters;                                                                                 \
        type __wrap_##name parameters;                                                                                 \
        type __wrap_##name parameters {                                                                                \
                return fails(MEMORY, ENOMEM) ? NULL : __real_##name(__VA_ARGS__);                                      \
        }                                                                                                              \
        struct swallow_semicolon

ALLOCATOR(void *, malloc, (size_t n), n);
ALLOCATOR(void *, calloc, (size_t n, size_t size), n, size);
ALLOCATOR(void *, realloc, (void *p, size_t n), p, n);
ALLOCATOR(void *, reallocarray, (void *p, size_t n, size_t size), p, n, size);
ALLOCATOR(void *, aligned_alloc, (size_t align, size_t n), align, n);
ALLOCATOR(char *, strdup, (const char *s), s);
ALLOCATOR(char *, strndup, (const char *s, size_t n), s, n);

static bool change_fails(void) {
        return fails(WRITE_ERROR, EIO) || fails(NO_SPACE, ENOSPC);
}

static ssize_t bad_preadv(int fd, const struct iovec *iov, int n, off_t offset) {
        return fails(READ_ERROR, EIO) ? -1 : preadv(fd, iov, n, offset);
}

static ssize_t bad_pwritev(int fd, const struct iovec *iov, int n, off_t offset) {
        if (change_fails())
                return -1;
        if (!fails(LATE_ERROR, EIO))
                return pwritev(fd, iov, n, offset);
        (void)!pwritev(fd, iov, n, offset);
        errno = EIO;
        return -1;
}

static int bad_fdatasync(int fd) {
        return change_fails() ? -1 : fdatasync(fd);
}

static int bad_fallocate(int fd, int mode, off_t offset, off_t length) {
        return change_fails() ? -1 : fallocate(fd, mode, offset, length);
}

static int bad_ftruncate(int fd, off_t size) {
        return change_fails() ? -1 : ftruncate(fd, size);
}

struct sys fault_sys(void) {
        struct sys sys = sys_real;

        sys.preadv = bad_preadv;
        sys.pwritev = bad_pwritev;
        sys.fdatasync = bad_fdatasync;
        sys.fallocate = bad_fallocate;
        sys.ftruncate = bad_ftruncate;
        return sys;
}
