// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sandbox: what the worker may do once it runs
 *
 * Theory of operation. Three layers, each of which holds without the others:
 *
 *      user          in a system daemon its own; in a session daemon the person's, without capabilities
 *      Landlock      no file but those below the store's directory (Linux 5.13; without it, the next layer)
 *      seccomp       a list of the system calls that it needs; all others fail with EPERM. No exec, no ptrace, no new socket but unix
 *                    ones, no connect, no namespaces
 *
 * A worker that is taken over can still ask the broker for the operations in its table, which is what broker.h is about.
 */
#pragma once

#include "base/error.h"

/** sandbox_enter() - for the rest of the process's life. @store_dir: what stays open to it. */
int sandbox_enter(const char *store_dir, struct error *e);
