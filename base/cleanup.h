// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cleanup: attributes that release what a scope owns, so that no return path can leak
 *
 * A variable marked _cleanup_free_ or _cleanup_close_ is released when its scope ends. To hand it on, use TAKE_PTR or
 * TAKE_FD: they return the value and leave NULL or -EBADF behind, so that the release does nothing.
 */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void freep(void *p) {
        free(*(void **)p);
}

/** safe_close() - close @fd if it is one, keep errno; return -EBADF so that `fd = safe_close(fd)` forgets it. */
static inline int safe_close(int fd) {
        if (fd >= 0) {
                int saved = errno;
                close(fd);
                errno = saved;
        }
        return -EBADF;
}

static inline void closep(int *fd) {
        *fd = safe_close(*fd);
}

#define _cleanup_free_  _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)

/* Defines `void type_freep(struct type **)` for use with _cleanup_(), from a destructor that accepts NULL. */
#define DEFINE_CLEANUP(type, destructor)                                                                               \
        static inline void type##_freep(struct type **p) {                                                             \
                destructor(*p);                                                                                        \
        }                                                                                                              \
        struct __swallow_semicolon

#define TAKE(var, nothing)                                                                                             \
        ({                                                                                                             \
                typeof(var) *_p_ = &(var);                                                                             \
                typeof(var) _v_ = *_p_;                                                                                \
                *_p_ = (nothing);                                                                                      \
                _v_;                                                                                                   \
        })
#define TAKE_PTR(ptr) TAKE(ptr, NULL)
#define TAKE_FD(fd)   TAKE(fd, -EBADF)

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))
#undef MIN /* GLib has them, too, and evaluates twice */
#undef MAX
#define MIN(a, b)                                                                                                      \
        ({                                                                                                             \
                typeof(a) _a_ = (a);                                                                                   \
                typeof(b) _b_ = (b);                                                                                   \
                _a_ < _b_ ? _a_ : _b_;                                                                                 \
        })
#define MAX(a, b)                                                                                                      \
        ({                                                                                                             \
                typeof(a) _a_ = (a);                                                                                   \
                typeof(b) _b_ = (b);                                                                                   \
                _a_ > _b_ ? _a_ : _b_;                                                                                 \
        })
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/** streq() - are two strings equal? Neither may be NULL. */
#define streq(a, b) (__builtin_strcmp((a), (b)) == 0)
