// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp: the machine's control socket, speaking the part of QMP that Lodge needs
 *
 * QMP is QEMU's machine protocol (qemu.org: QMP Reference Manual): JSON objects both ways over a stream socket, so that one
 * client serves both engines. Names, greeting, error shape and events are QEMU's; the greeting's package says
 * "lodge-vmm". Commands: the table in qmp-commands.c.
 *
 * Threads: the main loop's only, under the machine lock.
 */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"

struct machine;
struct qmp;

/**
 * qmp_new() - serve @fd
 * @fd: a listening or connected stream socket, or -1 for none (then *@ret_qmp is an object that does nothing).
 *      Owned from here on when the call succeeds.
 *
 * Errors: "control-fd" when @fd is no stream socket.
 */
int qmp_new(struct machine *machine, int fd, struct qmp **ret_qmp, struct error *e);

/** qmp_free() - send what can be sent within a fifth of a second, hang up on every client, release. NULL is fine. */
void qmp_free(struct qmp *qmp);
DEFINE_CLEANUP(qmp, qmp_free);
