// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dnsmasq: DHCP, DNS and router advertisements for a network, by a process that outlives us
 *
 * It is told everything by its command line, which therefore also says whose it is: the process named in dnsmasq.pid is ours when its
 * arguments name that file, and up to date when they are exactly what we would give it now. A process is only signalled through a
 * descriptor (pidfd) that was open when its arguments were compared, so a number that the kernel has given to somebody else is safe.
 *
 * Only machines with a port get an address (--dhcp-range=...,static), and only under the machine's name: what a guest calls itself in DHCP
 * is ignored, so it can neither take another's name nor exhaust the addresses. A new reservation is a new file in dhcp/, which dnsmasq
 * notices by itself; when one changes or goes, SIGHUP makes it read them all again. Leases stay throughout.
 */
#pragma once

#include <sys/types.h>

#include "daemon/network/driver.h"
#include "daemon/network/plan.h"

/**
 * dnsmasq_up() - let it run, with these arguments
 * @restart: even if it does (its interface was made anew)
 * @changes: notes what was wrong, but not a wanted restart
 */
int dnsmasq_up(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p, bool restart,
               struct network_notes *changes, struct error *e);

/** dnsmasq_down() - end it, and wait until it is gone. */
int dnsmasq_down(struct network_ctx *ctx, const char *network, struct error *e);

enum dnsmasq_state {
        DNSMASQ_MISSING,
        DNSMASQ_OUTDATED, /* it runs with other arguments */
        DNSMASQ_RUNNING,
};

enum dnsmasq_state dnsmasq_look(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p);

/** dnsmasq_reserve() - a port's reservation and name; another MAC address's lease of its addresses ends. */
int dnsmasq_reserve(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                    const struct network_port *port, struct error *e);

/**
 * dnsmasq_evict() - end the leases of a port's addresses
 *
 * Without that dnsmasq refuses them to whoever has them next, until the lease would have ended by itself. There is no way to tell a running one, so
 * it is ended, its file is changed, and it is started again; all other leases stay.
 */
int dnsmasq_evict(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                  const struct network_port *port, struct error *e);

/** dnsmasq_release() - take them back. */
int dnsmasq_release(struct network_ctx *ctx, const char *network, const char *machine, struct error *e);

/** dnsmasq_leases() - what it has given out; @ret_leases is allocated. */
int dnsmasq_leases(struct network_ctx *ctx, const char *network, struct network_lease **ret_leases, size_t *ret_n);

/** dnsmasq_scan() - calls @fn with each network of ours for which one runs. */
int dnsmasq_scan(struct network_ctx *ctx, int (*fn)(void *opaque, const char *network, pid_t pid), void *opaque);
