// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * worker: the half of lodged that parses what clients send: HTTP, JSON, SQL
 *
 * Started by the broker with an open configuration. It becomes its own user, opens its store, shuts itself in (sandbox.h), and from then on has nothing but its
 * sockets and the store's directory.
 *
 * Exit status: 0 when it was asked to end; 1 when the broker is gone or the recovery failed, and starting again may help; 64 when it can't work and starting it again would not help (a damaged store, one from a newer version): it has said why.
 */
#pragma once

#include "base/error.h"

#define WORKER_HOPELESS 64

/** worker_run() - until the end; @config_fd holds a worker_config, and is closed. Returns the exit status. */
int worker_run(int config_fd);
