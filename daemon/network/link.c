// SPDX-License-Identifier: GPL-2.0-or-later
/* link: see link.h */
#include "daemon/network/link.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/bridge.h>
#include <netlink/route/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "daemon/network/notes.h"

DEFINE_CLEANUP(rtnl_link, rtnl_link_put);
DEFINE_CLEANUP(rtnl_addr, rtnl_addr_put);
/* What changes while the kernel lists it makes the list worthless; the kernel says so, and it is asked again. */
#define DUMP_TRIES 20
#define DUMPED(list)                                                                                                   \
        ({                                                                                                             \
                int tries = 0, result;                                                                                 \
                do                                                                                                     \
                        result = (list);                                                                               \
                while (result == -NLE_DUMP_INTR && ++tries < DUMP_TRIES);                                              \
                result;                                                                                                \
        })

DEFINE_CLEANUP(nl_cache, nl_cache_free);
DEFINE_CLEANUP(nl_addr, nl_addr_put);

/* libnl's own numbers, as far as callers tell them apart. */
static int errno_of(int nl_error) {
        switch (-nl_error) {
        case NLE_SUCCESS:
                return 0;
        case NLE_NOMEM:
                return -ENOMEM;
        case NLE_NODEV:
        case NLE_OBJ_NOTFOUND:
                return -ENODEV;
        case NLE_EXIST:
                return -EEXIST;
        case NLE_PERM:
        case NLE_NOACCESS:
                return -EPERM;
        case NLE_BUSY:
                return -EBUSY;
        case NLE_OPNOTSUPP:
                return -EOPNOTSUPP;
        case NLE_RANGE:
        case NLE_INVAL:
                return -EINVAL;
        default:
                return -EIO;
        }
}

static int fail(struct error *e, int nl_error, const char *what, const char *name) {
        int r = errno_of(nl_error);

        return error_set(e, r < 0 ? r : -EIO, "network-link",
                         r == -EPERM ? "networks need root's rights (CAP_NET_ADMIN)"
                                     : "see what the kernel says: dmesg | tail, and ip -details link",
                         "cannot %s %s: %s", what, name, nl_geterror(nl_error));
}

static int cidr_of(struct nl_addr *a, struct cidr *ret) {
        struct cidr c = { .family = nl_addr_get_family(a) };

        if ((c.family != AF_INET && c.family != AF_INET6) || nl_addr_get_len(a) > sizeof(c.address))
                return -EINVAL;
        memcpy(c.address, nl_addr_get_binary_addr(a), nl_addr_get_len(a));
        c.bits = nl_addr_get_prefixlen(a);
        *ret = c;
        return 0;
}

static struct nl_addr *nl_addr_of(const struct cidr *c) {
        struct nl_addr *a = nl_addr_build(c->family, c->address, c->family == AF_INET ? 4 : 16);

        if (a)
                nl_addr_set_prefixlen(a, (int)c->bits);
        return a;
}

/* ---- looking ------------------------------------------------------------------------------------------------------ */

static void info_of(struct rtnl_link *link, struct link_info *ret) {
        const char *kind = rtnl_link_get_type(link), *alias = rtnl_link_get_ifalias(link);
        struct nl_addr *mac = rtnl_link_get_addr(link);

        *ret = (struct link_info){ .index = rtnl_link_get_ifindex(link),
                                   .up = rtnl_link_get_flags(link) & IFF_UP,
                                   .master = rtnl_link_get_master(link),
                                   .mtu = rtnl_link_get_mtu(link),
                                   .counters = {
                                           .received_bytes = rtnl_link_get_stat(link, RTNL_LINK_RX_BYTES),
                                           .received_packets = rtnl_link_get_stat(link, RTNL_LINK_RX_PACKETS),
                                           .received_drops = rtnl_link_get_stat(link, RTNL_LINK_RX_DROPPED),
                                           .sent_bytes = rtnl_link_get_stat(link, RTNL_LINK_TX_BYTES),
                                           .sent_packets = rtnl_link_get_stat(link, RTNL_LINK_TX_PACKETS),
                                           .sent_drops = rtnl_link_get_stat(link, RTNL_LINK_TX_DROPPED),
                                   } };
        snprintf(ret->kind, sizeof(ret->kind), "%s", kind ?: "");
        snprintf(ret->alias, sizeof(ret->alias), "%s", alias ?: "");
        snprintf(ret->name, sizeof(ret->name), "%s", rtnl_link_get_name(link) ?: "");
        if (mac && nl_addr_get_len(mac) == sizeof(ret->mac))
                memcpy(ret->mac, nl_addr_get_binary_addr(mac), sizeof(ret->mac));
}

int link_find(struct nl_sock *sock, const char *name, struct link_info *ret) {
        _cleanup_(rtnl_link_freep) struct rtnl_link *link = NULL;
        int r = rtnl_link_get_kernel(sock, 0, name, &link);

        if (r < 0)
                return errno_of(r);
        info_of(link, ret);
        return 0;
}

int link_list(struct nl_sock *sock, struct link_info **ret_links, size_t *ret_n) {
        _cleanup_(nl_cache_freep) struct nl_cache *cache = NULL;
        struct link_info *links;
        size_t n = 0;
        int r = DUMPED(rtnl_link_alloc_cache(sock, AF_UNSPEC, &cache));

        if (r < 0)
                return errno_of(r);
        links = calloc((size_t)nl_cache_nitems(cache) + 1, sizeof(*links));
        if (!links)
                return -ENOMEM;
        for (struct nl_object *o = nl_cache_get_first(cache); o; o = nl_cache_get_next(o))
                info_of((struct rtnl_link *)o, &links[n++]);
        *ret_links = links;
        *ret_n = n;
        return 0;
}

bool link_is_ours(const struct link_info *l, const char *alias, const uint8_t *mac) {
        if (!streq(l->kind, mac ? "bridge" : "tun"))
                return false;
        return streq(l->alias, alias) ||
               (l->alias[0] == '\0' && !l->up && (!mac || memcmp(l->mac, mac, sizeof(l->mac)) == 0));
}

struct uses {
        struct link_use *items;
        size_t n;
        int except; /* index */
};

static int use_add(struct uses *u, const struct cidr *net, bool direct, int index) {
        struct link_use *items = reallocarray(u->items, u->n + 1, sizeof(*items));

        if (!items)
                return -ENOMEM;
        u->items = items;
        items[u->n] = (struct link_use){ .net = *net, .direct = direct };
        if (index > 0 && !if_indextoname((unsigned int)index, items[u->n].name))
                items[u->n].name[0] = '\0';
        u->n++;
        return 0;
}

static int uses_of_addresses(struct uses *u, struct nl_sock *sock) {
        _cleanup_(nl_cache_freep) struct nl_cache *cache = NULL;
        int r = DUMPED(rtnl_addr_alloc_cache(sock, &cache));

        for (struct nl_object *o = r < 0 ? NULL : nl_cache_get_first(cache); o; o = nl_cache_get_next(o)) {
                struct rtnl_addr *a = (struct rtnl_addr *)o;
                struct cidr c;

                if (rtnl_addr_get_ifindex(a) == u->except || !rtnl_addr_get_local(a) ||
                    cidr_of(rtnl_addr_get_local(a), &c) < 0)
                        continue;
                c.bits = (unsigned int)rtnl_addr_get_prefixlen(a);
                if (use_add(u, &c, true, rtnl_addr_get_ifindex(a)) < 0)
                        return -ENOMEM;
        }
        return errno_of(r);
}

static int uses_of_routes(struct uses *u, struct nl_sock *sock, int family) {
        _cleanup_(nl_cache_freep) struct nl_cache *cache = NULL;
        int r = DUMPED(rtnl_route_alloc_cache(sock, family, 0, &cache));

        for (struct nl_object *o = r < 0 ? NULL : nl_cache_get_first(cache); o; o = nl_cache_get_next(o)) {
                struct rtnl_route *route = (struct rtnl_route *)o;
                struct rtnl_nexthop *hop = NULL;
                struct cidr c;
                int index;

                if (rtnl_route_get_type(route) == RTN_MULTICAST || !rtnl_route_get_dst(route) ||
                    (family == AF_INET6 && rtnl_route_get_type(route) != RTN_UNICAST) || /* those of addresses */
                    cidr_of(rtnl_route_get_dst(route), &c) < 0)
                        continue;
                if (rtnl_route_get_nnexthops(route) > 0)
                        hop = rtnl_route_nexthop_n(route, 0);
                index = hop ? rtnl_route_nh_get_ifindex(hop) : 0;
                if (u->except && index == u->except)
                        continue;
                if (use_add(u, &c, !hop || !rtnl_route_nh_get_gateway(hop), index) < 0)
                        return -ENOMEM;
        }
        return errno_of(r);
}

int link_uses(struct nl_sock *sock, const char *except, struct link_use **ret_uses, size_t *ret_n, struct error *e) {
        struct uses u = { .except = except ? (int)if_nametoindex(except) : 0 };
        int r = uses_of_addresses(&u, sock);

        if (r == 0)
                r = uses_of_routes(&u, sock, AF_INET);
        if (r == 0)
                r = uses_of_routes(&u, sock, AF_INET6);
        if (r < 0) {
                free(u.items);
                return error_set(e, r, "network-link", NULL, "cannot read the host's addresses and routes");
        }
        *ret_uses = u.items;
        *ret_n = u.n;
        return 0;
}

/* ---- the bridge --------------------------------------------------------------------------------------------------- */

/* Is @want among the addresses of an interface? Others that are not wanted are appended to @extra, which may be NULL. */
static int addresses_compare(struct nl_sock *sock, int index, const struct link_bridge *b, bool *ret_missing,
                             struct cidr *extra, size_t max_extra, size_t *ret_n_extra) {
        _cleanup_(nl_cache_freep) struct nl_cache *cache = NULL;
        size_t n_extra = 0;
        int r = DUMPED(rtnl_addr_alloc_cache(sock, &cache));

        if (r < 0)
                return errno_of(r);
        for (size_t i = 0; i < b->n_addresses; i++)
                ret_missing[i] = true;
        for (struct nl_object *o = nl_cache_get_first(cache); o; o = nl_cache_get_next(o)) {
                struct rtnl_addr *a = (struct rtnl_addr *)o;
                struct cidr c;
                bool wanted = false;

                if (rtnl_addr_get_ifindex(a) != index || !rtnl_addr_get_local(a) ||
                    cidr_of(rtnl_addr_get_local(a), &c) < 0)
                        continue;
                c.bits = (unsigned int)rtnl_addr_get_prefixlen(a);
                for (size_t i = 0; i < b->n_addresses; i++)
                        if (memcmp(&c, &b->addresses[i], sizeof(c)) == 0) {
                                ret_missing[i] = false;
                                wanted = true;
                        }
                if (!wanted && !(c.family == AF_INET6 && c.address[0] == 0xfe) && n_extra < max_extra)
                        extra[n_extra++] = c;
        }
        *ret_n_extra = n_extra;
        return 0;
}

static int address_change(struct nl_sock *sock, int index, const struct cidr *c, bool add) {
        _cleanup_(rtnl_addr_freep) struct rtnl_addr *a = rtnl_addr_alloc();
        _cleanup_(nl_addr_freep) struct nl_addr *local = nl_addr_of(c);
        int r;

        if (!a || !local)
                return -NLE_NOMEM;
        rtnl_addr_set_ifindex(a, index);
        if (add && c->family == AF_INET6)
                rtnl_addr_set_flags(a, IFA_F_NODAD); /* it has nobody to ask before a machine is there */
        r = rtnl_addr_set_local(a, local);
        if (r < 0)
                return r;
        r = add ? rtnl_addr_add(sock, a, 0) : rtnl_addr_delete(sock, a, 0);
        return r == -NLE_EXIST && add ? 0 : r;
}

#define BRIDGE_ADDRESSES 8

int link_bridge_addresses(struct nl_sock *sock, const struct link_bridge *b, struct network_notes *changes,
                          struct error *e) {
        int index = (int)if_nametoindex(b->name);
        bool missing[BRIDGE_ADDRESSES];
        struct cidr extra[BRIDGE_ADDRESSES];
        char text[CIDR_TEXT_MAX];
        size_t n_extra = 0;
        int r = addresses_compare(sock, index, b, missing, extra, BRIDGE_ADDRESSES, &n_extra);

        if (r < 0)
                return error_set(e, r, "network-link", NULL, "cannot read the addresses of %s", b->name);
        for (size_t i = 0; i < n_extra; i++) {
                r = address_change(sock, index, &extra[i], false);
                if (r < 0)
                        return fail(e, r, "take an address from", b->name);
                note_add(changes, "bridge-address", NULL, "address %s was on %s and is removed",
                         cidr_format(&extra[i], text), b->name);
        }
        for (size_t i = 0; i < b->n_addresses; i++) {
                if (!missing[i])
                        continue;
                r = address_change(sock, index, &b->addresses[i], true);
                if (r < 0)
                        return fail(e, r, "give an address to", b->name);
                note_add(changes, "bridge-address", NULL, "address %s was missing on %s",
                         cidr_format(&b->addresses[i], text), b->name);
        }
        return 0;
}

static int bridge_make(struct nl_sock *sock, const struct link_bridge *b) {
        _cleanup_(rtnl_link_freep) struct rtnl_link *link = rtnl_link_bridge_alloc();
        _cleanup_(nl_addr_freep) struct nl_addr *mac = nl_addr_build(AF_LLC, b->mac, sizeof(b->mac));

        if (!link || !mac)
                return -NLE_NOMEM;
        rtnl_link_set_name(link, b->name);
        rtnl_link_set_addr(link, mac); /* else it changes with each tap that comes and goes */
        return rtnl_link_add(sock, link, NLM_F_CREATE | NLM_F_EXCL);
}

/* Alias and MTU, and up; the alias goes first and alone (see link.h). */
static int link_set(struct nl_sock *sock, int index, const char *alias, unsigned int mtu, int master) {
        _cleanup_(rtnl_link_freep) struct rtnl_link *have = NULL;
        int r = rtnl_link_get_kernel(sock, index, NULL, &have);

        for (int step = 0; step < 2 && r >= 0; step++) {
                _cleanup_(rtnl_link_freep) struct rtnl_link *change = rtnl_link_alloc();

                if (!change)
                        return -NLE_NOMEM;
                if (step == 0) {
                        rtnl_link_set_ifalias(change, alias);
                } else {
                        rtnl_link_set_mtu(change, mtu);
                        if (master > 0)
                                rtnl_link_set_master(change, master);
                        rtnl_link_set_flags(change, IFF_UP);
                }
                r = rtnl_link_change(sock, have, change, 0);
        }
        return r;
}

/* What differs from what it should be, in the interface itself. */
static int bridge_compare(const struct link_info *l, const struct link_bridge *b, struct network_notes *notes) {
        int n = 0;

        if (!l->up) {
                note_add(notes, "bridge-down", NULL, "bridge %s was down", b->name);
                n++;
        }
        if (l->mtu != b->mtu && l->mtu > 0) {
                note_add(notes, "bridge-mtu", NULL, "bridge %s had an MTU of %u, not %u", b->name, l->mtu, b->mtu);
                n++;
        }
        if (memcmp(l->mac, b->mac, sizeof(l->mac)) != 0) {
                note_add(notes, "bridge-mac", NULL, "bridge %s had another MAC address", b->name);
                n++;
        }
        return n;
}

static int bridge_set_mac(struct nl_sock *sock, int index, const uint8_t mac[static 6]) {
        _cleanup_(rtnl_link_freep) struct rtnl_link *have = NULL, *change = rtnl_link_alloc();
        _cleanup_(nl_addr_freep) struct nl_addr *addr = nl_addr_build(AF_LLC, mac, 6);
        int r = rtnl_link_get_kernel(sock, index, NULL, &have);

        if (r < 0 || !change || !addr)
                return r < 0 ? r : -NLE_NOMEM;
        rtnl_link_set_addr(change, addr);
        return rtnl_link_change(sock, have, change, 0);
}

int link_bridge_up(struct nl_sock *sock, const struct link_bridge *b, bool *ret_made, struct network_notes *changes,
                   struct error *e) {
        struct link_info l;
        int r = link_find(sock, b->name, &l);
        bool made = r == -ENODEV;

        if (made) {
                r = bridge_make(sock, b);
                if (r < 0)
                        return fail(e, r, "make bridge", b->name);
                r = link_find(sock, b->name, &l);
        }
        if (r < 0)
                return error_set(e, r, "network-link", NULL, "cannot look at interface %s", b->name);
        if (!link_is_ours(&l, b->alias, b->mac)) {
                error_set(e, -EEXIST, "network-bridge", NULL, "interface %s exists and is not this network's", b->name);
                error_set_fix(e, "give the network another bridge name, or remove that interface: ip link delete %s",
                              b->name);
                return -EEXIST;
        }
        if (made || bridge_compare(&l, b, changes) > 0 || l.alias[0] == '\0') {
                r = memcmp(l.mac, b->mac, sizeof(l.mac)) != 0 ? bridge_set_mac(sock, l.index, b->mac) : 0;
                if (r >= 0)
                        r = link_set(sock, l.index, b->alias, b->mtu, 0);
                if (r < 0)
                        return fail(e, r, "set up bridge", b->name);
        }
        if (ret_made)
                *ret_made = made;
        return 0;
}

int link_bridge_check(struct nl_sock *sock, const struct link_bridge *b, struct network_notes *problems) {
        bool missing[BRIDGE_ADDRESSES];
        char text[CIDR_TEXT_MAX];
        struct link_info l;
        size_t n_extra;
        int r = link_find(sock, b->name, &l);

        if (r == -ENODEV || (r == 0 && !link_is_ours(&l, b->alias, b->mac))) {
                note_add(problems, "bridge-missing", NULL, "bridge %s is missing", b->name);
                return 0;
        }
        if (r == 0)
                r = addresses_compare(sock, l.index, b, missing, NULL, 0, &n_extra);
        if (r < 0)
                return r;
        bridge_compare(&l, b, problems);
        for (size_t i = 0; i < b->n_addresses; i++)
                if (missing[i])
                        note_add(problems, "bridge-address", NULL, "address %s is missing on %s",
                                 cidr_format(&b->addresses[i], text), b->name);
        return 1;
}

/* ---- taps --------------------------------------------------------------------------------------------------------- */

/* Opens, and so makes, the tap. -EBUSY: a machine has it open. */
static int tap_make(const char *name, uint32_t uid) {
        _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
        struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

        if (fd < 0)
                return -errno;
        snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
        if (ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETOWNER, (unsigned long)uid) < 0 ||
            ioctl(fd, TUNSETPERSIST, 1UL) < 0)
                return -errno;
        return 0;
}

/* A frame may leave by the port that it came by: see rules.c, "reflected". */
static int port_set_hairpin(struct nl_sock *sock, int index) {
        const struct ifinfomsg info = { .ifi_family = AF_BRIDGE, .ifi_index = index };
        struct nl_msg *msg = nlmsg_alloc_simple(RTM_SETLINK, NLM_F_REQUEST);
        struct nlattr *port;

        if (!msg)
                return -NLE_NOMEM;
        if (nlmsg_append(msg, (void *)&info, sizeof(info), NLMSG_ALIGNTO) < 0 ||
            !(port = nla_nest_start(msg, IFLA_PROTINFO | NLA_F_NESTED)) || nla_put_u8(msg, IFLA_BRPORT_MODE, 1) < 0) {
                nlmsg_free(msg);
                return -NLE_NOMEM;
        }
        nla_nest_end(msg, port);
        return nl_send_sync(sock, msg); /* which frees it */
}

int link_tap_up(struct nl_sock *sock, const char *name, const char *alias, const char *bridge, unsigned int mtu,
                uint32_t uid, struct error *e) {
        struct link_info l, master;
        int r = link_find(sock, name, &l);

        if (r == 0 && !link_is_ours(&l, alias, NULL))
                return error_set(e, -EEXIST, "network-port", "remove or rename that interface",
                                 "interface %s exists and is not this machine's", name);
        r = tap_make(name, uid);
        if (r < 0 && r != -EBUSY)
                return error_set(e, r, "network-port",
                                 r == -ENOENT ? "load the driver: modprobe tun" : "networks need root's rights",
                                 "cannot make tap %s", name);
        r = link_find(sock, bridge, &master);
        if (r < 0)
                return error_set(e, r, "network-port", "start the network", "bridge %s is missing", bridge);
        r = link_find(sock, name, &l);
        if (r < 0)
                return error_set(e, r, "network-port", NULL, "tap %s is gone as soon as it was made", name);
        r = link_set(sock, l.index, alias, mtu, master.index);
        if (r >= 0)
                r = port_set_hairpin(sock, l.index);
        return r < 0 ? fail(e, r, "set up tap", name) : 0;
}

int link_tap_join(struct nl_sock *sock, const char *name, const char *bridge) {
        struct link_info l, master;
        int r = link_find(sock, name, &l);

        if (r == -ENODEV)
                return 0;
        if (r == 0)
                r = link_find(sock, bridge, &master);
        if (r < 0)
                return r;
        if (l.master == master.index && l.up)
                return 0;
        r = link_set(sock, l.index, l.alias, master.mtu, master.index);
        if (r >= 0)
                r = port_set_hairpin(sock, l.index);
        return r < 0 ? errno_of(r) : 1;
}

int link_delete(struct nl_sock *sock, const char *name, const char *alias, const uint8_t *mac, struct error *e) {
        _cleanup_(rtnl_link_freep) struct rtnl_link *link = NULL;
        struct link_info l;
        int r = rtnl_link_get_kernel(sock, 0, name, &link);

        if (r < 0)
                return errno_of(r) == -ENODEV ? 0 : fail(e, r, "look at interface", name);
        info_of(link, &l);
        if (!link_is_ours(&l, alias, mac))
                return 0;
        r = rtnl_link_delete(sock, link);
        return r < 0 && errno_of(r) != -ENODEV ? fail(e, r, "remove interface", name) : 0;
}
