// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * link: bridges, taps, addresses and routes, by rtnetlink and /dev/net/tun
 *
 * An interface of ours carries an alias, "lodge NETWORK" or "lodge NETWORK MACHINE". It is given before the interface is first set up, so one without
 * an alias that is still down (and, of a bridge, has our MAC address) is what a killed predecessor left half made, and is taken over; any other is
 * somebody else's and refused.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cidr.h"
#include "base/error.h"
#include "daemon/network/network.h"

struct nl_sock;

#define LINK_NAME_MAX  16  /* IFNAMSIZ */
#define LINK_ALIAS_MAX 160 /* "lodge ", two names of 63 bytes, NUL */

/* Something that has addresses already. */
struct link_use {
        struct cidr net;
        bool direct;              /* an address, or a route without a gateway: hosts there are on the wire */
        char name[LINK_NAME_MAX]; /* the interface, "" when there is none (a blackhole) */
};

/** link_uses() - all addresses and routes of all tables, but those of interface @except (NULL: none) and multicast; -errno, "network-link". */
int link_uses(struct nl_sock *sock, const char *except, struct link_use **ret_uses, size_t *ret_n, struct error *e);

struct link_info {
        int index;
        bool up;
        char kind[16];              /* "bridge", "tun", ... or "" */
        char alias[LINK_ALIAS_MAX]; /* "" when there is none */
        char name[LINK_NAME_MAX];
        int master; /* index of the bridge that it is a port of, or 0 */
        unsigned int mtu;
        uint8_t mac[6];
        struct network_counters counters;
};

/** link_find() - look at one interface; -ENODEV when there is none. */
int link_find(struct nl_sock *sock, const char *name, struct link_info *ret);

/** link_list() - all interfaces; allocated. */
int link_list(struct nl_sock *sock, struct link_info **ret_links, size_t *ret_n);

/** link_is_ours() - does an interface carry this alias, or none yet (see above)? @mac: of a bridge; NULL for a tap. */
bool link_is_ours(const struct link_info *l, const char *alias, const uint8_t *mac);

struct link_bridge {
        const char *name, *alias;
        uint8_t mac[6];
        unsigned int mtu;
        const struct cidr *addresses; /* with the prefix of their subnet */
        size_t n_addresses;
};

/**
 * link_bridge_up() - make the bridge, or mend it; all but its addresses
 * @ret_made: it was not there; may be NULL
 * @changes:  what was not as it should be, in an existing one
 */
int link_bridge_up(struct nl_sock *sock, const struct link_bridge *b, bool *ret_made, struct network_notes *changes,
                   struct error *e);

/** link_bridge_addresses() - give it its addresses, and take others away. */
int link_bridge_addresses(struct nl_sock *sock, const struct link_bridge *b, struct network_notes *changes,
                          struct error *e);

/** link_bridge_check() - what link_bridge_up() would change (1 if it is there, 0 if not, -errno); changes nothing. */
int link_bridge_check(struct nl_sock *sock, const struct link_bridge *b, struct network_notes *problems);

/** link_tap_up() - make the tap, persistent, with virtio-net headers, for @uid, as a port of @bridge; or mend it. */
int link_tap_up(struct nl_sock *sock, const char *name, const char *alias, const char *bridge, unsigned int mtu,
                uint32_t uid, struct error *e);

/** link_tap_join() - make an existing tap a port of @bridge again; 1 if it was not, 0 if it was or is not there, -errno. */
int link_tap_join(struct nl_sock *sock, const char *name, const char *bridge);

/** link_delete() - remove an interface that link_is_ours(); 0 too when there is none, or it is another's. */
int link_delete(struct nl_sock *sock, const char *name, const char *alias, const uint8_t *mac, struct error *e);
