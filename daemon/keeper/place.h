// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * place: a machine's runtime directory, as its keeper and the keeper's clients use it
 *
 *      keeper.sock    the keeper's socket (server.h), while there is a keeper
 *      control.sock   the VMM's QMP socket, while there is a VMM
 *      exit.json      how the machine ended (schema: keeper_exit), after its end
 *      console.last   the last 256 KiB that its console showed, after its end
 *
 * The directory itself is locked while a keeper lives (flock), so there is one at a time, and a socket that a killed keeper left is known to be
 * stale by whoever gets the lock. Files appear whole: another name first, fsync, rename. All goes through a descriptor of the
 * directory, and sockets through /proc/self/fd, so that a path may be longer than an address.
 */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"

#define PLACE_SOCKET  "keeper.sock"
#define PLACE_CONTROL "control.sock"
#define PLACE_EXIT    "exit.json"
#define PLACE_CONSOLE "console.last"

/**
 * place_lock() - lock the directory on behalf of a keeper that is about to be started, so that there is no moment at which the keeper is on its way and unseen
 * Return: 0; -EWOULDBLOCK: a keeper has it; -errno.
 */
int place_lock(const char *path, int *ret_fd);

/**
 * place_open() - take the directory for a keeper, and clear away what an earlier one left
 * @locked_fd: from place_lock(), taken over, also on failure; negative: none
 * @ret_fd: holds the lock while it is open
 * Return: 0, or -errno with "keeper-run-dir" (not there, not ours, open to others) or "keeper-busy".
 */
int place_open(const char *path, int locked_fd, int *ret_fd, struct error *e);

/**
 * place_listen() - make a listening socket, for us alone
 * @type: SOCK_STREAM or SOCK_SEQPACKET
 * Return: 0 or -errno.
 */
int place_listen(int dir_fd, const char *name, int type, int *ret_fd);

/** place_connect() - connect to a socket there, without waiting; -ENOENT, -ECONNREFUSED: nobody is there; -EAGAIN: too many wait. */
int place_connect(int dir_fd, const char *name, int type, int *ret_fd);

/**
 * place_write() - let a file appear with what @fn writes
 * Return: 0 or -errno, also of @fn.
 */
int place_write(int dir_fd, const char *name, int (*fn)(int fd, const void *opaque), const void *opaque);

/** place_clear() - remove the sockets. */
void place_clear(int dir_fd);
