// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * firewall: who else filters packets on this host, and stands in a network's way
 *
 * In nf_tables every base chain of a hook is asked, and one drop is final: an accept in a table of ours does not help against Docker's
 * FORWARD policy, firewalld, ufw, or an administrator's own rules. Others' rules are not ours to change, so what would be lost there is
 * said, with the commands that let it through. It is said again until they have been run: chains that name the bridge and accept are found.
 */
#pragma once

#include "daemon/network/driver.h"

/** firewall_warnings() - append to @warnings; -errno only for want of memory. */
int firewall_warnings(struct nft_ctx *nft, const struct network_config *c, struct network_notes *warnings);

/** firewall_others_route() - does a table that is not ours forward or translate? */
bool firewall_others_route(struct nft_ctx *nft);
