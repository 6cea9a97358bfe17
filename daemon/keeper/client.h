// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * client: start a keeper, and talk to one (keeper.h says what it is)
 *
 *      first time                        after the daemon's own start
 *      keeper_spawn()                    keeper_connect(run_dir)
 *        status fd readable:               -ENOENT, -ECONNREFUSED: no keeper, so no machine:
 *      keeper_started()                      keeper_exit_read(run_dir) says how it ended, -ENOENT: with its keeper
 *      keeper_connect(run_dir)
 *
 * Calls wait for the answer, at most KEEPER_TIMEOUT_MS: a keeper answers at once, but for the time of the start, in which it opens
 * the machine's files. Use one connection for calls and another for events: an event that comes between a call and its answer
 * is dropped.
 *
 * A keeper that is told of by a connection's end has ended, and the machine with it.
 */
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

#define KEEPER_TIMEOUT_MS       2000
#define KEEPER_START_TIMEOUT_MS 30000

/** keeper_path() - where is lodge-keeper, as engine_vmm_path(); allocated. -ENOENT. */
int keeper_path(char **ret_path);

/**
 * keeper_spawn() - start a keeper with its machine, without waiting for it
 * @ret_pid, @ret_pidfd: the keeper; it is our child until we end, and should be reaped when the pidfd is readable
 * @ret_status_fd:       readable when the start is over: keeper_started()
 *
 * Return: 0, or -errno with @e: "keeper-missing", "spawn", "memory".
 */
int keeper_spawn(const struct keeper_config *config, pid_t *ret_pid, int *ret_pidfd, int *ret_status_fd,
                 struct error *e);

/**
 * keeper_started() - how did the start go?
 * @status_fd: readable; stays the caller's
 *
 * Return: 0: the machine runs; -EAGAIN without @e: not over; -errno with @e, the keeper's own error: the machine does not run, the
 * keeper ends.
 */
int keeper_started(int status_fd, struct error *e);

/** keeper_start() - both, waiting up to KEEPER_START_TIMEOUT_MS. On failure the keeper is gone. */
int keeper_start(const struct keeper_config *config, pid_t *ret_pid, int *ret_pidfd, struct error *e);

/**
 * keeper_connect() - connect to the keeper of a machine
 * @ret_fd: a socket, close-on-exec; close() it
 * Return: 0, or -errno with @e, "keeper-gone": -ENOENT, -ECONNREFUSED: there is none.
 */
int keeper_connect(const char *run_dir, int *ret_fd, struct error *e);

/** keeper_get_status() - how is the machine? keeper_status_free() the answer. "keeper-call" when there is none. */
int keeper_get_status(int fd, struct keeper_status **ret_status, struct error *e);

/**
 * keeper_control() - a new connection to the VMM's QMP socket, non-blocking: the greeting comes first
 *
 * QEMU serves one connection at a time: close the one before.
 */
int keeper_control(int fd, int *ret_control_fd, struct error *e);

/** keeper_agent() - the guest agent's port, a socket that is shared with the keeper: one user at a time. */
int keeper_agent(int fd, int *ret_agent_fd, struct error *e);

/** keeper_console() - the console, as feed_view() gives it, from up to @history bytes back. */
int keeper_console(int fd, size_t history, int *ret_console_fd, struct error *e);

/** keeper_kill() - SIGKILL to the VMM; its end comes as an event. */
int keeper_kill(int fd, struct error *e);

/** keeper_events() - have events sent to this connection: watch it, and keeper_event_read(). */
int keeper_events(int fd, struct error *e);

/**
 * keeper_event_read() - the next event
 * @ret_event: keeper_event_free() it
 * Return: 1; 0 when there is none yet; -EPIPE at the keeper's end; -EPROTO, -errno.
 */
int keeper_event_read(int fd, struct keeper_event **ret_event);

/**
 * keeper_exit_read() - how a machine ended
 * @ret_exit: keeper_exit_free() it
 * Return: 0; -ENOENT without @e: nothing is recorded; -errno with @e: the record is damaged.
 */
int keeper_exit_read(const char *run_dir, struct keeper_exit **ret_exit, struct error *e);
