// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * agent: answers the QEMU guest agent's protocol on a virtio-serial port, for the image tiny
 */
#pragma once

/**
 * agent_run() - serve the port for ever
 * @port_name: "org.qemu.guest_agent.0"; the port may appear later
 *
 * Only returns when it can't go on: -errno.
 */
int agent_run(const char *port_name);
