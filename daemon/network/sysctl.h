// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sysctl: the kernel's switches that routing needs, of the host and of a bridge
 *
 * Two are the host's: ip_forward, and IPv6's forwarding, which makes the kernel deaf to router advertisements where accept_ra is 1; there it
 * becomes 2, else the host would lose its own IPv6 default route. What they were is kept in <state>/.sysctl and put back when
 * the last network goes down, unless somebody else's address translation is there by then, who may rely on them.
 */
#pragma once

#include "daemon/network/driver.h"

/** sysctl_set() - write "net/ipv4/ip_forward" and the like; 1 if it had another value, 0 if not, -errno. */
int sysctl_set(const char *name, const char *value);

/** sysctl_is() - has it this value? Not when it can't be read. */
bool sysctl_is(const char *name, const char *value);

/** sysctl_forwarding_up() - let the host route; what it was is kept first. */
int sysctl_forwarding_up(struct network_ctx *ctx, bool ipv6, struct network_notes *changes, struct error *e);

/** sysctl_forwarding_down() - put back what was kept, if anything; @others: leave the switches on. */
int sysctl_forwarding_down(struct network_ctx *ctx, bool others, struct error *e);

/** sysctl_bridge_up() - a bridge's own switches. */
int sysctl_bridge_up(const char *bridge, bool ipv6, struct error *e);
