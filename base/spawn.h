// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spawn: start a child that gets exactly the descriptors named, and that does not outlive us
 *
 * The child keeps the numbers its descriptors have here, so nothing has to be renumbered and no order of dup2() calls can
 * overwrite one that is still needed. Everything else is closed by close_range() before exec. Signal mask and
 * dispositions are the defaults again, and it leads a session of its own. Unless told otherwise the kernel sends the child a signal when the thread that
 * started it ends, even by SIGKILL; a child that changes its uid by itself loses that tie and needs another one (passt: its
 * socket).
 *
 * A jail is what such a child is put into on its way: control groups, empty namespaces, another uid without any
 * capability. The order matters. Groups come first, so that all it takes is counted; namespaces need privileges; the
 * tie to us is made last, since a change of uid undoes it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

#define SPAWN_CGROUPS_MAX 16

/* All zero: nothing changes. */
struct spawn_jail {
        const char *const
                *cgroups; /* directories of control groups: one of version 2, or one for each hierarchy of version 1 */
        size_t n_cgroups;
        bool identity; /* run as uid and gid: no capabilities, no way to gain any, no other groups than these */
        uid_t uid;
        gid_t gid;
        const gid_t *groups;
        size_t n_groups;
        bool alone; /* an empty network namespace and an IPC namespace of its own; left out where that is not allowed */
};

struct spawn {
        const char *path;        /* what to execute: with a slash, or a name that is looked up in PATH */
        int exec_fd;             /* above 0: that file, open, in place of what has the name by now */
        const char *const *argv; /* NULL-terminated */
        const char *const *env;  /* NULL-terminated "NAME=value" that come in front of ours, or NULL */
        const int *fds;          /* these stay open, by their numbers; negative ones are skipped */
        size_t n_fds;
        int stdin_fd, stdout_fd, stderr_fd; /* negative: /dev/null */
        int death_signal;                   /* sent to the child when we end; 0: none */
        const struct spawn_jail *jail;      /* NULL: none */
};

/**
 * spawn_child() - start it
 * @ret_pid:   the child; wait for it by spawn_wait()
 * @ret_pidfd: becomes readable when it ends; close-on-exec
 *
 * Returns once the child has executed. Return: 0, or -errno with @e filled: "spawn-missing" when there is no such
 * program, "spawn-cgroup" when a control group can't be opened, else "spawn".
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
 * spawn_find_beside() - where is a program that came with ours?
 * @places:   directories relative to that of our own executable, the first ones first; NULL-terminated
 * @ret_path: allocated. Return: 0, -ENOENT, -ENOMEM.
 */
int spawn_find_beside(const char *name, const char *const *places, char **ret_path);

/**
 * spawn_find() - where is a program? @name with a slash is taken as it is, else PATH and the sbin directories are searched
 * @ret_path: allocated. Return: 0, -ENOENT, -ENOMEM.
 */
int spawn_find(const char *name, char **ret_path);
