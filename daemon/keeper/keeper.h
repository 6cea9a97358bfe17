// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keeper: one machine's life in a process of its own, so that the machine outlives the daemon
 *
 *      broker --config--> lodge-keeper --parts, engine--> lodge-vmm or QEMU
 *        |                     |
 *        +-- keeper.sock ------+      at any time, by any broker that comes after the one that started it
 *
 * Theory of operation. Who starts a VMM must stay: the VMM dies with it, its console would stop when nobody reads it, its exit status is
 * told to its parent alone, and lodge-vmm asks it for connections to back ends. So the one that stays does that and nothing else. It parses
 * nothing but its configuration, small requests, and nothing at all from the guest; the daemon may be killed, upgraded and started again, and
 * asks for what it needs: the state, a new connection to the VMM's control socket, the guest agent's port, the console with what it
 * has shown (client.h has the calls, place.h the files).
 *
 * The other way round the machine ends with its keeper, by the kernel's death signal, so that there is never a VMM that
 * nobody holds. The keeper survives the broker's end, SIGHUP and closed sockets. SIGTERM means: end the machine.
 *
 * The end: the VMM's process ends, for whatever reason; the console's and the log's rest is read; console.last and exit.json are written, in that
 * order; then the event is told, the sockets go, and the keeper ends with status 0.
 *
 * Threads: one.
 */
#pragma once

#include "base/error.h"
#include "schema/lodge-schema.h"

/**
 * keeper_run() - start the machine and keep it until its end
 * @status_fd: how the start went is written there as one line (schema: keeper_ready), then it is closed; negative: nowhere
 *
 * Return: 0 when the machine ran and has ended, however; -errno with @e when it did not start: that was told on @status_fd, and
 * is in exit.json where there is a directory for it.
 */
int keeper_run(const struct keeper_config *config, int status_fd, struct error *e);

/** keeper_report_failure() - tell on @status_fd, if it is one, of a start that failed before keeper_run(); closes it. */
void keeper_report_failure(int status_fd, const struct error *e);
