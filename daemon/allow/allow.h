// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * allow: the directories whose files machines may use, beside the pools
 *
 *      /etc/lodge/allow                        of the system daemon: root's
 *      ${XDG_CONFIG_HOME:-~/.config}/lodge/allow       of a person's own daemon
 *
 * Theory of operation. A daemon that opened whatever path a machine's definition names would read any file for who may define machines, or for a worker that
 * was taken over. So the one who owns the daemon says which directories are for that, and says so past the daemon: `lodge path allow` writes this file with the
 * person's own rights, the broker reads it at each start of a machine, and the worker has no way to either.
 *
 * The file is text: a directory on each line, absolute and without links; blank lines and those that begin with # mean nothing. It appears whole or not at all. One
 * that others can write to is refused.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/error.h"

#define ALLOW_MAX 40u /* directories */

struct allow {
        char *path;  /* of the file, which may not be there */
        char **dirs; /* NULL-terminated */
        size_t n;
};

/**
 * allow_load() - what the file says; nothing, when there is none
 * @session: of the caller's own daemon, else of the system's
 *
 * Return: 0, or -errno with @e: "allow-file", which names the file, "memory".
 */
int allow_load(bool session, struct allow **ret_allow, struct error *e);

/**
 * allow_change() - take a directory in, or take it out
 * @dir:      to take one in: any name of it; to take one out: as it stands in the file, or any name of it
 * @ret_real: the name that stands in the file; allocated
 *
 * One that is in already, or taken out already: nothing is done. Return: 0, or -errno with @e: "allow-dir" when it can't be taken in,
 * -ENOENT "allow-unknown" when it can't be taken out, "allow-file", "memory".
 */
int allow_change(bool session, const char *dir, bool in, char **ret_real, struct error *e);

void allow_free(struct allow *allow);
DEFINE_CLEANUP(allow, allow_free);
