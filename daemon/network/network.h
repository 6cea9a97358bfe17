// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * network: what machines are attached to, on this host
 *
 * Theory of operation. A network is a bridge with an address, a table of packet filter rules, and a dnsmasq. None of them is kept by a
 * process of ours: the kernel keeps bridge, taps and rules, and dnsmasq runs on when the daemon ends. So nothing here remembers what
 * it did. Each call looks at what there is, compares it with what the configuration asks for, and changes the difference; it can
 * be called again at any time, after a kill -9 at any point, and after somebody else took a piece away.
 *
 * What must outlive a start is in a directory for each network, <state>/NAME:
 *
 *      config.json   the configuration as it was last put in force
 *      ports/        a file for each machine: MAC, tap, addresses. The addresses stay with the machine until network_forget()
 *      dhcp/, dns/   what dnsmasq reads: reservations and names, a file for each machine
 *      leases, dnsmasq.pid
 *      rules.wanted, rules.found   the rules as they were asked for, and as the kernel lists them: how a change is noticed
 *
 * and in <state>/.sysctl what the host-wide switches were before the first network. dnsmasq reads dhcp/ and dns/ as its own user:
 * each directory above must let others pass (mode 0711 is enough), and network_up() says so if one does not.
 *
 * What is ours in the kernel carries its name: bridges and taps an alias "lodge NETWORK" and "lodge NETWORK MACHINE" (ip link shows
 * it), tables the name lodge-NETWORK. Nothing else is touched, and a bridge of that name without that alias is refused.
 *
 * Drivers. A network's type chooses a row of one table (driver.h). What types share lies in files beside it (link, rules, dnsmasq, ...).
 *
 * Threads: any one at a time for a context. Calls block: typically some tens of milliseconds, up to about a second when dnsmasq
 * is started or ended.
 *
 * Errors carry these ids: network-collision, network-bridge, network-state, network-state-dir, network-subnets, network-full,
 * network-port, network-link, network-rules, network-dnsmasq, network-sysctl, port-busy, and those of spawn.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "schema/lodge-schema.h"

struct network_ctx;

/* Something that a person should know: a stable id, a line, and what to do about it (NULL: nothing). */
struct network_note {
        const char *id;
        char *message, *fix;
};

struct network_notes {
        struct network_note *items;
        size_t n;
};

void network_notes_clear(struct network_notes *notes);
#define _cleanup_notes_ _cleanup_(network_notes_clear)

/**
 * network_ctx_new() - what the calls below work with; opens nothing but @state_dir, which is made if need be
 * @state_dir: absolute; one for all networks. Of the daemon alone: another directory is another set of networks.
 * Return: 0 or -errno with @e filled
 */
int network_ctx_new(const char *state_dir, struct network_ctx **ret_ctx, struct error *e);
void network_ctx_free(struct network_ctx *ctx);
DEFINE_CLEANUP(network_ctx, network_ctx_free);

/**
 * network_choose() - fill in what a checked configuration leaves open: bridge, subnet, subnet6, domain
 *
 * The subnet overlaps no address, no route of any table (but default routes) and no other network. Which one is free is tried in an
 * order that depends on the network's name and the host's machine-id, so that it is the same again on this host and rarely that of the next.
 * Keep the result: it is chosen once. Return: 0, or -EADDRNOTAVAIL ("network-subnets": all taken), -errno.
 */
int network_choose(struct network_ctx *ctx, struct network_config *c, struct error *e);

/**
 * network_up() - make the network work, or work again
 * @c:       complete (network_choose()); its forwards are put in force as well
 * @repairs: what was missing though the network had been up, one note each; may be NULL
 *
 * Fails with "network-collision" and changes nothing when something else on the host has come to use the subnet; "network-bridge" when an
 * interface of that name is not ours; "port-busy" as network_set_forwards().
 */
int network_up(struct network_ctx *ctx, const struct network_config *c, struct network_notes *repairs, struct error *e);

/** network_down() - remove all of it from the host, taps too; keeps the ports' addresses. Idempotent. */
int network_down(struct network_ctx *ctx, const char *name, struct error *e);

/** network_delete() - network_down(), and forget addresses, leases and all else that was kept. Idempotent. */
int network_delete(struct network_ctx *ctx, const char *name, struct error *e);

enum network_state {
        NETWORK_DOWN,     /* nothing of it is there */
        NETWORK_UP,       /* all of it is there */
        NETWORK_DEGRADED, /* some of it is: network_up() repairs that */
};

struct network_lease {
        uint64_t expires;     /* seconds since 1970; 0: never */
        char *mac;            /* of an IPv6 lease: the client's identifier (DUID) */
        char *address, *name; /* name: NULL when it has none */
};

struct network_status {
        enum network_state state;
        struct network_notes problems; /* what is wrong with what is ours */
        struct network_notes
                warnings; /* what else on the host is in its way, or is left to do: firewalls, the resolver */
        struct network_lease *leases;
        size_t n_leases;
};

/** network_status() - look, change nothing. Clear @ret_status by network_status_clear(). */
int network_status(struct network_ctx *ctx, const struct network_config *c, struct network_status *ret_status,
                   struct error *e);
void network_status_clear(struct network_status *s);

/**
 * network_attach() - a tap for a machine, on the bridge, with an address reserved for it
 * @machine, @mac, @uid: one port for each machine in a network; the uid may open the tap
 * @ret_port:            allocated: tap, address4 and address6 (NULL without IPv6) are set; network_port_free()
 *
 * The network must be up. The same again gives the same; another MAC or uid changes the port. Return: 0, -ENOSPC ("network-full"), -errno.
 */
int network_attach(struct network_ctx *ctx, const struct network_config *c, const char *machine, const char *mac,
                   uint32_t uid, struct network_port **ret_port, struct error *e);

/** network_detach() - take the tap away; the addresses stay reserved. Idempotent. */
int network_detach(struct network_ctx *ctx, const struct network_config *c, const char *machine, struct error *e);

/** network_forget() - network_detach(), and let others have the addresses: when the machine is deleted. Idempotent. */
int network_forget(struct network_ctx *ctx, const struct network_config *c, const char *machine, struct error *e);

/**
 * network_set_forwards() - put c->forwards in force, all at once
 *
 * A connection to the host's port, from outside, from machines, or from the host itself (127.0.0.1 too, not ::1), reaches the machine. A forward to a machine without
 * an address waits for its network_attach(). Fails with -EADDRINUSE, "port-busy" when a process listens there or another network has the
 * port, and changes nothing then.
 */
int network_set_forwards(struct network_ctx *ctx, const struct network_config *c, struct error *e);

/* What went through an interface since it was made, as the host sees it: what it received the guest has sent. */
struct network_counters {
        uint64_t received_bytes, received_packets, received_drops;
        uint64_t sent_bytes, sent_packets, sent_drops;
};

struct network_tap {
        char interface[16], network[64], machine[64];
        struct network_counters counters;
};

/** network_taps() - the taps of all machines, found by their aliases, in one question to the kernel; @ret_taps is allocated. */
int network_taps(struct network_ctx *ctx, struct network_tap **ret_taps, size_t *ret_n, struct error *e);

/* What the daemon knows of: a network (machine NULL), or a machine's port in it. */
struct network_known {
        const char *network, *machine;
};

enum network_leftover_kind {
        NETWORK_LEFTOVER_TAP,
        NETWORK_LEFTOVER_DNSMASQ,
        NETWORK_LEFTOVER_TABLE,
        NETWORK_LEFTOVER_BRIDGE,
        NETWORK_LEFTOVER_STATE, /* a directory, or a machine's port in one */
};

struct network_leftover {
        enum network_leftover_kind kind;
        char *network, *machine; /* whose it was; machine NULL if of the network as such */
        char *name;              /* interface, "inet lodge-x", process id, or path */
};

/**
 * network_leftovers() - what is ours and on the host, but not of anything known; in an order in which it can be removed
 *
 * lodged removes only networks whose directory lies in its own state: what else has our names may be another daemon's.
 * Return: 0 or -errno; free by network_leftovers_free()
 */
int network_leftovers(struct network_ctx *ctx, const struct network_known *known, size_t n_known,
                      struct network_leftover **ret_items, size_t *ret_n, struct error *e);
void network_leftovers_free(struct network_leftover *items, size_t n);

/** network_leftover_remove() - remove one; nothing is wrong if it is gone by now. */
int network_leftover_remove(struct network_ctx *ctx, const struct network_leftover *item, struct error *e);

/** network_leftover_kind_to_string() - "tap", "dnsmasq", "table", "bridge", "state". */
const char *network_leftover_kind_to_string(enum network_leftover_kind kind);
