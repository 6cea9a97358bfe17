// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * conflict: what else on the host, or in another network, has a network's subnet or its ports
 */
#pragma once

#include "base/cidr.h"
#include "daemon/network/driver.h"

/** conflict_used() - all that a new subnet must keep away from; allocated. */
int conflict_used(struct network_ctx *ctx, const struct network_config *c, struct cidr **ret_used, size_t *ret_n,
                  struct error *e);

/**
 * conflict_subnets() - is a subnet of @c in use by an interface, a route, or another network?
 * @status: NULL: -EADDRINUSE with "network-collision". Else this goes to its problems, and routes that the subnet only
 *          shadows a part of (a VPN's 10.0.0.0/8 by way of a gateway) to its warnings; 0 is returned.
 */
int conflict_subnets(struct network_ctx *ctx, const struct network_config *c, struct network_status *status,
                     struct error *e);

/**
 * conflict_ports() - are forwards of @c that are not in force yet taken by a process, or by another network's?
 * Return: 0, -EADDRINUSE with "port-busy", -errno.
 */
int conflict_ports(struct network_ctx *ctx, const struct network_config *c, struct error *e);

/** conflict_warnings() - forwards in force that hide a process by now, or that wait for a machine. */
int conflict_warnings(const struct network_config *c, const struct network_ports *ports,
                      struct network_notes *warnings);
