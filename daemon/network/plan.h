// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * plan: what follows from a network's configuration: addresses in binary, and the names of what is made for it. Pure
 */
#pragma once

#include "base/cidr.h"
#include "daemon/network/link.h"

#define NETWORK_NAME_MAX  64                     /* with NUL */
#define NETWORK_TABLE_MAX (NETWORK_NAME_MAX + 6) /* "lodge-NAME" */

struct network_plan {
        struct cidr subnet, gateway; /* the gateway carries the subnet's length */
        bool has6;
        struct cidr subnet6, gateway6;
        uint8_t mac[6]; /* of the bridge */
        char alias[LINK_ALIAS_MAX];
        char table[NETWORK_TABLE_MAX];
};

/** plan_make() - @c is complete and checked; -EINVAL with "network-state" if it is not. */
int plan_make(const struct network_config *c, struct network_plan *ret, struct error *e);

/** plan_bridge_name() - the bridge's name when none was given: "lodge-NAME", shortened with a hash where it must be. */
void plan_bridge_name(const char *network, char ret_name[static LINK_NAME_MAX]);

/** plan_tap_name() - a tap's name: "lt", some of the machine's name, a hash; another one for each @attempt. */
void plan_tap_name(const char *network, const char *machine, unsigned int attempt, char ret_name[static LINK_NAME_MAX]);

/** plan_tap_alias() - "lodge NETWORK MACHINE" */
void plan_tap_alias(const char *network, const char *machine, char ret_alias[static LINK_ALIAS_MAX]);

/** plan_bridge_mac() - the bridge's MAC address, derived from the network's name. */
void plan_bridge_mac(const char *network, uint8_t ret_mac[static 6]);
