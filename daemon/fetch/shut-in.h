// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shut-in: one step of lodge-fetch, in a process of its own that can do nothing but that step
 *
 *      NETWORK  connects to servers; reads what names and TLS need under /etc; no programs, no other files
 *      COMPUTE  reads and writes the descriptors that it has; no files, no sockets, no programs
 *      PROGRAM  runs one program of the distribution's, which may read its libraries and the files named; no sockets, no
 *               processes of its own, no signals to others
 *
 * By Landlock for files and seccomp for calls, on top of what the whole of lodge-fetch has given up (no new privileges, no capabilities, in a system
 * daemon a user of its own). A kernel without Landlock is good enough for COMPUTE, whose calls open nothing, and for NETWORK as a user of its own; else NETWORK could
 * read all that the person can, and send it away. PROGRAM needs it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum shut_in { SHUT_IN_NETWORK, SHUT_IN_COMPUTE, SHUT_IN_PROGRAM };

/* @e filled: becomes the step's error in the process that waits. */
typedef int (*shut_in_fn)(void *opaque, struct error *e);

struct shut_in_limits {
        uint64_t file_bytes;      /* no file gets longer than that; 0: nothing is written */
        unsigned int cpu_seconds; /* of processor time */
        bool own_user;            /* NETWORK: we have become a user that owns nothing */
        int room_fd;              /* a file: the step is ended when its file system has less than that free; */
        uint64_t room_bytes;      /* 0: it is not looked at */
        const int *read_files;    /* PROGRAM: descriptors whose files it may open again, by /proc/self/fd, to read */
        size_t n_read_files;
        const int *write_files; /* and those that it may write */
        size_t n_write_files;
};

/**
 * shut_in_run() - fork, shut the child in, call @fn there, wait for its end
 * @ret_status: exit status of a program that @fn has become (128 + n: by signal n), else 0; may be NULL
 *
 * Return: 0; -ENOSPC "image-no-space": it was ended, see room_fd; -errno with the child's error in @e, whose texts are hostile.
 */
int shut_in_run(enum shut_in how, const struct shut_in_limits *limits, shut_in_fn fn, void *opaque, int *ret_status,
                struct error *e);

/**
 * shut_in_seal() - a file in memory is not changed any more
 *
 * Every step has the descriptors of all files before it: what one has made and another has judged is no later one's to write. Return: 0 or -errno.
 */
int shut_in_seal(int fd);

/* A program, its descriptors 0, 1 and 2 (negative: /dev/null), and others that keep their numbers. */
struct shut_in_program {
        const char *path; /* absolute */
        const char *const *argv;
        int stdin_fd, stdout_fd, stderr_fd;
        const int *keep;
        size_t n_keep;
};

/** shut_in_program() - run one, see shut_in_run(). */
int shut_in_program(const struct shut_in_program *program, const struct shut_in_limits *limits, int *ret_status,
                    struct error *e);
