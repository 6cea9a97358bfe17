// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * listener: who has a port of the host
 */
#pragma once

#include "base/cidr.h"
#include "daemon/network/network.h"

/**
 * listener_find() - a process that would receive what a forward takes away
 * @host:     the forward's address; any for all of its family
 * @ret_who:  allocated: "nginx (process 812)", or "a process" when it can't be seen
 *
 * A socket bound to :: counts for IPv4 too, as it usually serves both. Return: 1 when there is one, 0 when not, -errno.
 */
int listener_find(enum network_protocol protocol, const struct cidr *host, unsigned int port, char **ret_who);
