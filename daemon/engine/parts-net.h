// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-net: a machine's network interfaces, open: a tap that exists on the host, or a passt of its own */
#pragma once

#include "base/error.h"
#include "daemon/engine/parts.h"

/**
 * part_net_open() - open interface @index of a machine
 * @name: the machine's; its first interface of type user publishes the machine's ports
 * @jail: for passt, or NULL
 * Return: 0, or -errno with @e: "net-unknown", "net-tap", "net-passt", "net-network" (only lodged has networks), "port-busy". On failure
 * @ret_net is as it was.
 */
int part_net_open(const struct machine_config *machine, const char *name, unsigned int index,
                  const struct spawn_jail *jail, struct part_net *ret_net, struct error *e);

/** part_net_close() - close it; a passt whose socket is closed ends by itself and is reaped, a stuck one is ended. */
void part_net_close(struct part_net *net);
