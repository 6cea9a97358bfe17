// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * driver-nat: machines on a bridge, behind the host's addresses
 *
 *      machine -- tap --+
 *                       bridge (gateway, DHCP, DNS) -- routed and translated -- the host's other interfaces
 *      machine -- tap --+
 *
 * IPv4 leaves under the host's address. IPv6 does so too (NAT66): a machine's addresses are unique local ones, which nobody
 * outside can answer, and a host rarely has a prefix to give away; a network with a delegated prefix will be another type.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/network/dnsmasq.h"
#include "daemon/network/driver.h"
#include "daemon/network/firewall.h"
#include "daemon/network/notes.h"
#include "daemon/network/resolver.h"
#include "daemon/network/rules.h"
#include "daemon/network/state.h"
#include "daemon/network/sysctl.h"

static void bridge_of(const struct network_config *c, const struct network_plan *p, struct cidr addresses[static 2],
                      struct link_bridge *ret) {
        *ret = (struct link_bridge){ .name = c->bridge, .alias = p->alias, .mtu = c->mtu, .addresses = addresses };
        memcpy(ret->mac, p->mac, sizeof(ret->mac));
        addresses[ret->n_addresses++] = p->gateway;
        if (p->has6)
                addresses[ret->n_addresses++] = p->gateway6;
}

/* ---- rules: what was asked for and what the kernel then listed are kept, so that any change of either is seen ------- */

enum rules_state { RULES_FINE, RULES_OUTDATED, RULES_CHANGED, RULES_MISSING };

static int rules_compare(struct network_ctx *ctx, const char *table, int dir_fd, const char *wanted,
                         enum rules_state *ret) {
        _cleanup_free_ char *was_wanted = NULL, *was_found = NULL, *found = NULL;
        int r = rules_found(ctx->nft, table, &found);

        if (r < 0)
                return r;
        if (found[0] == '\0')
                *ret = RULES_MISSING;
        else if (state_read(dir_fd, "rules.found", &was_found) < 0 || !streq(found, was_found))
                *ret = RULES_CHANGED;
        else if (state_read(dir_fd, "rules.wanted", &was_wanted) < 0 || !streq(wanted, was_wanted))
                *ret = RULES_OUTDATED;
        else
                *ret = RULES_FINE;
        return 0;
}

static void rules_note(enum rules_state state, const char *table, struct network_notes *notes) {
        if (state == RULES_MISSING)
                note_add(notes, "rules-missing", NULL, "the packet filter's tables %s were missing", table);
        if (state == RULES_CHANGED)
                note_add(notes, "rules-changed", NULL, "somebody changed the packet filter's tables %s", table);
}

static int nat_rules(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                     const struct network_ports *ports, struct network_notes *changes, struct error *e) {
        _cleanup_close_ int dir_fd = state_open(ctx, c->name, true);
        _cleanup_free_ char *wanted = rules_render(c, p, ports), *found = NULL;
        enum rules_state state;
        int r = dir_fd < 0 ? dir_fd : !wanted ? -ENOMEM : 0;

        if (r == 0)
                r = rules_compare(ctx, p->table, dir_fd, wanted, &state);
        if (r < 0)
                return error_set(e, r, "network-rules", NULL, "cannot compare the rules of network %s", c->name);
        if (state == RULES_FINE)
                return 0;
        rules_note(state, p->table, changes);
        r = rules_apply(ctx->nft, wanted, e);
        if (r < 0)
                return r;
        r = rules_found(ctx->nft, p->table, &found);
        if (r == 0)
                r = state_write(dir_fd, "rules.found", found, 0600);
        if (r == 0)
                r = state_write(dir_fd, "rules.wanted", wanted, 0600);
        return r < 0 ? error_set(e, r, "network-state", NULL, "cannot keep the rules of network %s", c->name) : 0;
}

/* ---- up and down -------------------------------------------------------------------------------------------------- */

static int nat_taps(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                    const struct network_ports *ports, struct network_notes *changes, struct error *e) {
        for (size_t i = 0; i < ports->n; i++) {
                const struct network_port *port = ports->items[i];
                int r;

                if (!port->attached)
                        continue;
                r = link_tap_join(ctx->netlink, port->tap, c->bridge);
                if (r < 0)
                        return error_set(e, r, "network-port", NULL, "cannot put tap %s onto bridge %s", port->tap,
                                         c->bridge);
                if (r > 0)
                        note_add(changes, "tap-alone", NULL, "tap %s of machine %s was not on bridge %s", port->tap,
                                 port->machine, c->bridge);
                r = dnsmasq_reserve(ctx, c, p, port, e);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int nat_up(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                  struct network_notes *repairs, struct error *e) {
        struct network_plan p;
        struct link_bridge bridge;
        struct cidr addresses[2];
        bool made = false;
        int r = plan_make(c, &p, e);

        if (r < 0)
                return r;
        bridge_of(c, &p, addresses, &bridge);
        r = sysctl_forwarding_up(ctx, c->ipv6, repairs, e);
        if (r == 0)
                r = link_bridge_up(ctx->netlink, &bridge, &made, repairs, e);
        if (r == 0 && made)
                note_add(repairs, "bridge-missing", NULL, "bridge %s was missing", c->bridge);
        if (r == 0)
                r = nat_rules(ctx, c, &p, ports, repairs, e); /* before the bridge can be reached by its address */
        if (r == 0)
                r = sysctl_bridge_up(c->bridge, c->ipv6, e);
        if (r == 0)
                r = link_bridge_addresses(ctx->netlink, &bridge, made ? NULL : repairs, e);
        if (r == 0)
                r = nat_taps(ctx, c, &p, ports, repairs, e);
        if (r == 0)
                r = dnsmasq_up(ctx, c, &p, made, repairs, e);
        if (r == 0)
                resolver_register(c, &p);
        return r;
}

static int nat_down(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                    struct error *e) {
        struct network_plan p;
        int r = plan_make(c, &p, e);

        if (r == 0)
                r = dnsmasq_down(ctx, c->name, e);
        for (size_t i = 0; i < ports->n && r == 0; i++) {
                char alias[LINK_ALIAS_MAX];

                if (!ports->items[i]->tap)
                        continue;
                plan_tap_alias(c->name, ports->items[i]->machine, alias);
                r = link_delete(ctx->netlink, ports->items[i]->tap, alias, NULL, e);
        }
        if (r == 0)
                r = link_delete(ctx->netlink, c->bridge, p.alias, p.mac, e);
        if (r == 0)
                r = rules_delete(ctx->nft, p.table, e); /* last: what is still there stays guarded */
        return r;
}

static int nat_set_forwards(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                            struct error *e) {
        struct network_plan p;
        int r = plan_make(c, &p, e);

        return r < 0 ? r : nat_rules(ctx, c, &p, ports, NULL, e);
}

/* ---- ports -------------------------------------------------------------------------------------------------------- */

/* The rules and the reservation are there before the tap is. */
static int nat_attach(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                      struct network_port *port, struct error *e) {
        char alias[LINK_ALIAS_MAX], name[128];
        struct network_plan p;
        int r = plan_make(c, &p, e);

        plan_tap_alias(c->name, port->machine, alias);
        if (r == 0)
                r = nat_rules(ctx, c, &p, ports, NULL, e);
        if (r == 0)
                r = dnsmasq_reserve(ctx, c, &p, port, e);
        if (r == 0)
                r = link_tap_up(ctx->netlink, port->tap, alias, c->bridge, c->mtu, port->uid, e);
        if (r == 0) { /* the host has no business on a port of a bridge; without IPv6 there is no such switch */
                snprintf(name, sizeof(name), "net/ipv6/conf/%s/disable_ipv6", port->tap);
                sysctl_set(name, "1");
        }
        return r;
}

/* @port is not attached any more by what @ports say. */
static int nat_detach(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                      const struct network_port *port, struct error *e) {
        char alias[LINK_ALIAS_MAX];
        struct network_plan p;
        int r = plan_make(c, &p, e);

        plan_tap_alias(c->name, port->machine, alias);
        if (r == 0 && port->tap)
                r = link_delete(ctx->netlink, port->tap, alias, NULL, e);
        if (r == 0)
                r = dnsmasq_release(ctx, c->name, port->machine, e);
        return r == 0 ? nat_rules(ctx, c, &p, ports, NULL, e) : r;
}

/* ---- looking ------------------------------------------------------------------------------------------------------ */

static int status_taps(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                       struct network_status *status) {
        int pieces = 0;

        for (size_t i = 0; i < ports->n; i++) {
                const struct network_port *port = ports->items[i];
                struct link_info l, bridge;

                if (!port->attached)
                        continue;
                if (link_find(ctx->netlink, port->tap, &l) < 0) {
                        note_add(&status->problems, "tap-missing", "start the machine again",
                                 "tap %s of machine %s is missing", port->tap, port->machine);
                        continue;
                }
                pieces++;
                if (link_find(ctx->netlink, c->bridge, &bridge) == 0 && l.master != bridge.index)
                        note_add(&status->problems, "tap-alone", NULL, "tap %s of machine %s is not on bridge %s",
                                 port->tap, port->machine, c->bridge);
        }
        return pieces;
}

static int nat_status(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                      struct network_status *status, unsigned int *ret_pieces, struct error *e) {
        _cleanup_close_ int dir_fd = state_open(ctx, c->name, false);
        _cleanup_free_ char *wanted = NULL;
        enum rules_state rules = RULES_MISSING;
        enum dnsmasq_state dnsmasq;
        struct network_plan p;
        struct link_bridge bridge;
        struct cidr addresses[2];
        unsigned int pieces = 0;
        int r = plan_make(c, &p, e);

        if (r < 0)
                return r;
        bridge_of(c, &p, addresses, &bridge);
        r = link_bridge_check(ctx->netlink, &bridge, &status->problems);
        if (r < 0)
                return error_set(e, r, "network-link", NULL, "cannot look at bridge %s", c->bridge);
        pieces += (unsigned int)r;
        wanted = rules_render(c, &p, ports);
        r = wanted ? rules_compare(ctx, p.table, dir_fd, wanted, &rules) : -ENOMEM;
        if (r < 0)
                return error_set(e, r, "network-rules", NULL, "cannot read the rules of network %s", c->name);
        pieces += rules != RULES_MISSING;
        rules_note(rules, p.table, &status->problems);
        if (rules == RULES_OUTDATED)
                note_add(&status->problems, "rules-outdated", NULL,
                         "the packet filter's tables %s are an older configuration's", p.table);
        dnsmasq = dnsmasq_look(ctx, c, &p);
        pieces += dnsmasq != DNSMASQ_MISSING;
        if (dnsmasq != DNSMASQ_RUNNING)
                note_add(&status->problems, dnsmasq == DNSMASQ_MISSING ? "dnsmasq-missing" : "dnsmasq-outdated", NULL,
                         dnsmasq == DNSMASQ_MISSING ? "dnsmasq of network %s does not run"
                                                    : "dnsmasq of network %s runs with other arguments",
                         c->name);
        pieces += (unsigned int)status_taps(ctx, c, ports, status);
        if (!sysctl_is("net/ipv4/ip_forward", "1"))
                note_add(&status->problems, "forwarding", NULL, "the host does not forward IPv4");
        if (c->ipv6 && !sysctl_is("net/ipv6/conf/all/forwarding", "1"))
                note_add(&status->problems, "forwarding", NULL, "the host does not forward IPv6");
        firewall_warnings(ctx->nft, c, &status->warnings);
        resolver_warnings(c, &p, &status->warnings);
        *ret_pieces = pieces;
        return 0;
}

const struct network_driver_ops network_driver_nat = {
        .type = NETWORK_TYPE_NAT,
        .up = nat_up,
        .down = nat_down,
        .status = nat_status,
        .attach = nat_attach,
        .detach = nat_detach,
        .set_forwards = nat_set_forwards,
};
