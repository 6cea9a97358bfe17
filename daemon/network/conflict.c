// SPDX-License-Identifier: GPL-2.0-or-later
/* conflict: see conflict.h */
#include "daemon/network/conflict.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/network/link.h"
#include "daemon/network/listener.h"
#include "daemon/network/notes.h"
#include "daemon/network/state.h"

/* ---- subnets ------------------------------------------------------------------------------------------------------ */

static int used_add(struct cidr **used, size_t *n, const struct cidr *c) {
        struct cidr *more = reallocarray(*used, *n + 1, sizeof(*more));

        if (!more)
                return -ENOMEM;
        more[(*n)++] = *c;
        *used = more;
        return 0;
}

/* Calls @fn with the kept configuration of each other network; one that can't be read is passed over: it was never up. */
static int each_other(struct network_ctx *ctx, const char *name,
                      int (*fn)(void *opaque, const struct network_config *other), void *opaque) {
        char **names;
        int r = state_networks(ctx, &names);

        if (r < 0)
                return r;
        for (size_t i = 0; names[i] && r >= 0; i++) {
                _cleanup_(network_config_freep) struct network_config *other = NULL;

                if (!streq(names[i], name) && state_config_load(ctx, names[i], &other, NULL) == 0)
                        r = fn(opaque, other);
        }
        state_names_free(names);
        return r;
}

struct used {
        struct cidr *items;
        size_t n;
};

static int used_of(void *opaque, const struct network_config *other) {
        struct used *u = opaque;
        struct cidr c;

        return other->subnet && cidr_parse(other->subnet, &c) == 0 ? used_add(&u->items, &u->n, &c) : 0;
}

int conflict_used(struct network_ctx *ctx, const struct network_config *c, struct cidr **ret_used, size_t *ret_n,
                  struct error *e) {
        _cleanup_free_ struct link_use *uses = NULL;
        struct used u = { 0 };
        size_t n_uses;
        int r = link_uses(ctx->netlink, c->bridge, &uses, &n_uses, e);

        for (size_t i = 0; r == 0 && i < n_uses; i++)
                r = used_add(&u.items, &u.n, &uses[i].net);
        if (r == 0)
                r = each_other(ctx, c->name, used_of, &u);
        if (r < 0) {
                free(u.items);
                return error_set(e, r, "network-state", NULL, "cannot read what other networks use");
        }
        *ret_used = u.items;
        *ret_n = u.n;
        return 0;
}

static const char collision_fix[] = "take the subnet out of the network's configuration, so that a free one is chosen, "
                                    "or see what uses it and change that: "
                                    "ip address; ip route show table all";

static int collide(struct network_status *status, struct error *e, const char *name, const char *subnet,
                   const struct cidr *net, const char *who) {
        char text[CIDR_TEXT_MAX];

        if (status)
                return note_add(&status->problems, "network-collision", collision_fix, "subnet %s is in use: %s on %s",
                                subnet, cidr_format(net, text), who);
        error_set(e, -EADDRINUSE, "network-collision", NULL, "subnet %s of network %s is in use: %s on %s", subnet,
                  name, cidr_format(net, text), who);
        error_set_fix(e, "%s", collision_fix);
        return -EADDRINUSE;
}

static int collide_uses(const struct network_config *c, const char *text, const struct link_use *uses, size_t n,
                        struct network_status *status, struct error *e) {
        struct cidr subnet;

        if (!text || cidr_parse(text, &subnet) < 0)
                return 0;
        for (size_t i = 0; i < n; i++) {
                const struct link_use *u = &uses[i];
                char net[CIDR_TEXT_MAX];

                if (u->net.bits == 0 || !cidr_overlaps(&u->net, &subnet))
                        continue;
                if (u->direct || u->net.bits >= subnet.bits) /* one is enough: an address comes with routes */
                        return collide(status, e, c->name, text, &u->net,
                                       u->name[0] ? u->name : "no interface (a route that drops)");
                if (status && note_add(&status->warnings, "network-shadow", NULL,
                                       "subnet %s hides a part of the route to %s by %s", text,
                                       cidr_format(&u->net, net), u->name) < 0)
                        return -ENOMEM;
        }
        return 0;
}

struct collision {
        const struct network_config *c;
        struct network_status *status;
        struct error *e;
};

static int collide_other(void *opaque, const struct network_config *other) {
        const struct collision *k = opaque;
        struct cidr a, b;
        char who[80];

        if (!other->subnet || !k->c->subnet || cidr_parse(other->subnet, &a) < 0 || cidr_parse(k->c->subnet, &b) < 0 ||
            !cidr_overlaps(&a, &b))
                return 0;
        snprintf(who, sizeof(who), "network %s", other->name);
        return collide(k->status, k->e, k->c->name, k->c->subnet, &a, who);
}

int conflict_subnets(struct network_ctx *ctx, const struct network_config *c, struct network_status *status,
                     struct error *e) {
        _cleanup_free_ struct link_use *uses = NULL;
        struct collision k = { c, status, e };
        size_t n;
        int r = link_uses(ctx->netlink, c->bridge, &uses, &n, e);

        if (r == 0)
                r = collide_uses(c, c->subnet, uses, n, status, e);
        if (r == 0)
                r = collide_uses(c, c->subnet6, uses, n, status, e);
        return r == 0 ? each_other(ctx, c->name, collide_other, &k) : r;
}

/* ---- ports of the host -------------------------------------------------------------------------------------------- */

static int host_of(const struct network_forward_config *f, struct cidr *ret) {
        *ret = (struct cidr){ .family = AF_INET, .bits = 32 };
        return f->host_address ? cidr_parse_address(f->host_address, ret) : 0;
}

static bool same_port(const struct network_forward_config *a, const struct network_forward_config *b) {
        struct cidr x, y;

        return a->protocol == b->protocol && a->host_port == b->host_port && host_of(a, &x) == 0 &&
               host_of(b, &y) == 0 && cidr_same_listener(&x, &y);
}

static bool in_force(const struct network_config *old, const struct network_forward_config *f) {
        for (size_t i = 0; old && i < old->n_forwards; i++)
                if (same_port(&old->forwards[i], f))
                        return true;
        return false;
}

static int ports_other(void *opaque, const struct network_config *other) {
        const struct collision *k = opaque;

        for (size_t i = 0; i < k->c->n_forwards; i++)
                for (size_t j = 0; j < other->n_forwards; j++) {
                        if (!same_port(&k->c->forwards[i], &other->forwards[j]))
                                continue;
                        return error_set(k->e, -EADDRINUSE, "port-busy", "choose another host port",
                                         "host port %" PRIu32 "/%s leads to machine %s of network %s already",
                                         k->c->forwards[i].host_port,
                                         network_protocol_to_string(k->c->forwards[i].protocol),
                                         other->forwards[j].machine, other->name);
                }
        return 0;
}

int conflict_ports(struct network_ctx *ctx, const struct network_config *c, struct error *e) {
        _cleanup_(network_config_freep) struct network_config *old = NULL;
        struct collision k = { c, NULL, e };
        int r = state_config_load(ctx, c->name, &old, NULL);

        if (r < 0 && r != -ENOENT)
                old = NULL; /* unreadable: nothing counts as in force */
        r = each_other(ctx, c->name, ports_other, &k);
        if (r < 0)
                return error_set(e, r, "network-state", NULL, "cannot read what other networks use");
        for (size_t i = 0; i < c->n_forwards; i++) {
                const struct network_forward_config *f = &c->forwards[i];
                _cleanup_free_ char *who = NULL;
                struct cidr host;

                if (in_force(old, f) || host_of(f, &host) < 0)
                        continue;
                r = listener_find(f->protocol, &host, f->host_port, &who);
                if (r <= 0)
                        continue;
                error_set(e, -EADDRINUSE, "port-busy", NULL, "host port %" PRIu32 "/%s is in use by %s", f->host_port,
                          network_protocol_to_string(f->protocol), who);
                error_set_fix(e, "choose another host port, or end that program");
                return -EADDRINUSE;
        }
        return 0;
}

int conflict_warnings(const struct network_config *c, const struct network_ports *ports,
                      struct network_notes *warnings) {
        int r = 0;

        for (size_t i = 0; i < c->n_forwards && r >= 0; i++) {
                const struct network_forward_config *f = &c->forwards[i];
                const char *protocol = network_protocol_to_string(f->protocol);
                _cleanup_free_ char *who = NULL;
                struct cidr host;

                if (!state_port_find(ports, f->machine))
                        r = note_add(warnings, "forward-waits", "attach the machine to the network",
                                     "host port %" PRIu32 "/%s waits for machine %s", f->host_port, protocol,
                                     f->machine);
                if (r >= 0 && host_of(f, &host) == 0 && listener_find(f->protocol, &host, f->host_port, &who) > 0)
                        r = note_add(warnings, "port-busy", "choose another host port, or end that program",
                                     "host port %" PRIu32 "/%s leads to machine %s, and hides %s", f->host_port,
                                     protocol, f->machine, who);
        }
        return r;
}
