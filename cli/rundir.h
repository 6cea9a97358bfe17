// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rundir: a directory of our own for the short time in which a machine's files have names
 *
 * A machine's disk is made there, opened, and unlinked at once: while the machine runs it has no name, and whatever ends the machine
 * frees it. Should lodge be killed in between, the directory stays, without the lock that its owner holds: the next start removes it.
 */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"

struct rundir;

/**
 * rundir_new() - sweep what others left in @base, and make a directory in it
 * @base: made if need be, 0700; on the file system where the files are wanted
 * Return: 0, or -errno with @e, "run-directory".
 */
int rundir_new(const char *base, struct rundir **ret_rundir, struct error *e);

/** rundir_path() - its absolute path. */
const char *rundir_path(const struct rundir *d);

/** rundir_free() - remove it and what is in it. NULL is fine. */
void rundir_free(struct rundir *d);
DEFINE_CLEANUP(rundir, rundir_free);
