// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spawn: start a child that gets exactly the descriptors named, and that does not outlive us
 *
 * The child keeps the numbers its descriptors have here, so nothing has to be renumbered and no order of dup2() calls can
 * overwrite one that is still needed. Everything else is closed by close_range() before exec. Signal mask and
 * dispositions are the defaults again, and it leads a session of its own. Unless told otherwise the kernel sends the child a signal when the thread that
 * started it ends, even by SIGKILL; a child that changes its uid loses that tie and needs another one (passt: its
 * socket).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

struct spawn {
        const char *path;        /* what to execute: with a slash, or a name that is looked up in PATH */
        const char *const *argv; /* NULL-terminated */
        const char *const *env;  /* NULL-terminated "NAME=value" that come in front of ours, or NULL */
        const int *fds;          /* these stay open, by their numbers; negative ones are skipped */
        size_t n_fds;
        int stdin_fd, stdout_fd, stderr_fd; /* negative: /dev/null */
        int death_signal;                   /* sent to the child when we end; 0: none */
};

/**
 * spawn_child() - start it
 * @ret_pid:   the child; wait for it by spawn_wait()
 * @ret_pidfd: becomes readable when it ends; close-on-exec
 *
 * Returns once the child has executed. Return: 0, or -errno with @e filled: "spawn-missing" when there is no such
 * program, else "spawn".
 */
int spawn_child(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct error *e);

/**
 * spawn_wait() - wait for a child to end, and reap it
 * @timeout_ms: 0 only looks, -1 waits for ever
 * @ret_status: its exit status, or 128+n if signal n ended it
 * Return: 0, -ETIMEDOUT, or -errno.
 */
int spawn_wait(pid_t pid, int pidfd, int timeout_ms, int *ret_status);

/** spawn_end() - SIGTERM, up to @grace_ms, SIGKILL; reaps it. Returns the status as spawn_wait() gives it, or -errno. */
int spawn_end(pid_t pid, int pidfd, int grace_ms);

/**
 * spawn_find() - where is a program? @name with a slash is taken as it is, else PATH and the sbin directories are searched
 * @ret_path: allocated. Return: 0, -ENOENT, -ENOMEM.
 */
int spawn_find(const char *name, char **ret_path);
