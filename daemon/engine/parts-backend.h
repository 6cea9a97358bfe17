// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parts-backend: a disk that a vhost-user-blk back end serves: the parent connects, since lodge-vmm may not
 *
 * Between the parent and lodge-vmm there is a socket (SOCK_SEQPACKET) for each such disk. A message of one byte from lodge-vmm asks for a
 * connection; a message of one byte answers, with the connection's descriptor, or with none when nobody listens. The first one is
 * there before lodge-vmm starts. lodge-vmm's side is vhost_user_ask() and vhost_user_answer().
 */
#pragma once

#include "base/error.h"
#include "daemon/engine/parts.h"

/**
 * part_backend_open() - find the back end's socket; nothing is connected yet
 * Return: 0, or -errno with @e: "disk-backend". On failure parts_free() cleans up.
 */
int part_backend_open(const struct machine_disk_config *config, struct part_disk *disk, struct error *e);

/** part_backend_connect() - the first connection, for lodge-vmm to find; "disk-backend" when nobody listens. */
int part_backend_connect(const struct part_disk *disk, struct error *e);

/**
 * part_backend_answer() - lodge-vmm has asked on @disk->parent_fd: answer
 * Return: 0: it has a connection; -EAGAIN: it had not asked; -EPIPE: it is gone; another -errno: nobody listens, why.
 */
int part_backend_answer(const struct part_disk *disk);
