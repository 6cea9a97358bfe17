// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * resolver: the host's own resolver asks the network's dnsmasq for the names of machines
 *
 * systemd-resolved keeps servers for each interface, and forgets them with the interface: it is told at each start. Any other
 * resolver is configured by a person; the warning says how, until /etc/resolv.conf names the network.
 */
#pragma once

#include "daemon/network/driver.h"
#include "daemon/network/plan.h"

/** resolver_register() - tell systemd-resolved, where it runs; what goes wrong is only a warning. */
void resolver_register(const struct network_config *c, const struct network_plan *p);

/** resolver_warnings() - how to make the host resolve machines' names, if it does not. */
int resolver_warnings(const struct network_config *c, const struct network_plan *p, struct network_notes *warnings);
