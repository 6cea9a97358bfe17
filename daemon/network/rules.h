// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rules: a network's packet filter rules, in tables of its own
 *
 * Theory of operation. A network has two tables of its name: inet lodge-NAME (addresses are translated, and what nobody asked for
 * is kept out) and bridge lodge-NAME (a machine sends as itself only). Both are replaced together in one transaction of the kernel, so there is
 * no moment without rules, and connections that are translated already go on. A table for each network, not one for all: what one
 * network does can't break another, and removing one is removing its tables.
 *
 * A rule of ours that accepts does not overrule a drop in somebody else's table: see firewall.h.
 */
#pragma once

#include "daemon/network/driver.h"
#include "daemon/network/plan.h"

/** rules_render() - the rules as text for nft, allocated; NULL when there is no memory. Pure. */
char *rules_render(const struct network_config *c, const struct network_plan *p, const struct network_ports *ports);

/** rules_apply() - replace the network's tables by these; -errno, "network-rules". */
int rules_apply(struct nft_ctx *nft, const char *text, struct error *e);

/** rules_found() - both tables as the kernel has them, allocated; "" when neither is there. -errno. */
int rules_found(struct nft_ctx *nft, const char *table, char **ret_text);

/** rules_delete() - remove both tables; 0 if there are none. */
int rules_delete(struct nft_ctx *nft, const char *table, struct error *e);

/** rules_run() - one command; *@ret_output (may be NULL) is what it prints, allocated. -EIO with the first line of what nft says in @e. */
int rules_run(struct nft_ctx *nft, const char *command, char **ret_output, struct error *e);
