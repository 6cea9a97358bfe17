// SPDX-License-Identifier: GPL-2.0-or-later
/* network: see network.h. Here: what all types share around their driver's operations */
#include "daemon/network/network.h"

#include <fcntl.h>
#include <inttypes.h>
#include <netlink/netlink.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"
#include "daemon/network/conflict.h"
#include "daemon/network/dnsmasq.h"
#include "daemon/network/firewall.h"
#include "daemon/network/notes.h"
#include "daemon/network/state.h"
#include "daemon/network/subnet.h"
#include "daemon/network/sysctl.h"

#define TAP_NAME_ATTEMPTS 16

static const struct network_driver_ops *const drivers[] = {
        &network_driver_nat,
};

static const struct network_driver_ops *driver_of(const struct network_config *c) {
        for (size_t i = 0; i < ELEMENTSOF(drivers); i++)
                if (drivers[i]->type == c->type)
                        return drivers[i];
        return drivers[0]; /* the schema knows no others */
}

/* ---- the context -------------------------------------------------------------------------------------------------- */

void network_ctx_free(struct network_ctx *ctx) {
        if (!ctx)
                return;
        if (ctx->nft)
                nft_ctx_free(ctx->nft);
        nl_socket_free(ctx->netlink);
        safe_close(ctx->fd);
        free(ctx->state_dir);
        free(ctx);
}

/* 0711: dnsmasq's user passes through. Only the last directory is made. */
static int ctx_open(struct network_ctx *ctx, const char *state_dir, struct error *e) {
        size_t n = strlen(state_dir);

        if (state_dir[0] != '/' || n > 512 || strpbrk(state_dir, " \n,"))
                return error_set(e, -EINVAL, "network-state", NULL, "state directory %s is not absolute, or too long",
                                 state_dir);
        ctx->state_dir = strdup(state_dir);
        if (!ctx->state_dir)
                return error_set(e, -ENOMEM, "network-state", NULL, "cannot open %s", state_dir);
        while (n > 1 && ctx->state_dir[n - 1] == '/')
                ctx->state_dir[--n] = '\0';
        if (mkdir(ctx->state_dir, 0711) == 0)
                chmod(ctx->state_dir, 0711);
        else if (errno != EEXIST)
                return error_set(e, -errno, "network-state", NULL, "cannot make directory %s", state_dir);
        ctx->fd = open(ctx->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return ctx->fd < 0 ? error_set(e, -errno, "network-state", NULL, "cannot open %s", state_dir) : 0;
}

int network_ctx_new(const char *state_dir, struct network_ctx **ret_ctx, struct error *e) {
        _cleanup_(network_ctx_freep) struct network_ctx *ctx = calloc(1, sizeof(*ctx));
        int r;

        if (!ctx)
                return error_set(e, -ENOMEM, "network-state", NULL, "cannot open %s", state_dir);
        ctx->fd = -EBADF;
        r = ctx_open(ctx, state_dir, e);
        if (r < 0)
                return r;
        ctx->netlink = nl_socket_alloc();
        if (!ctx->netlink || nl_connect(ctx->netlink, NETLINK_ROUTE) < 0)
                return error_set(e, -EIO, "network-link", NULL,
                                 "cannot talk to the kernel about its interfaces (rtnetlink)");
        ctx->nft = nft_ctx_new(NFT_CTX_DEFAULT);
        if (!ctx->nft || nft_ctx_buffer_output(ctx->nft) != 0 || nft_ctx_buffer_error(ctx->nft) != 0)
                return error_set(e, -EIO, "network-rules", NULL,
                                 "cannot talk to the kernel about packet filters (nf_tables)");
        *ret_ctx = TAKE_PTR(ctx);
        return 0;
}

/* ---- choosing ----------------------------------------------------------------------------------------------------- */

static uint64_t host_seed(const char *network) {
        _cleanup_close_ int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *id = NULL;
        size_t n;

        if (fd < 0 || io_read_all(fd, 4096, &id, &n) < 0)
                return hash_text(network, 0);
        return hash_text(network, hash_text(id, 0));
}

static int choose_subnet(struct network_ctx *ctx, struct network_config *c, struct error *e) {
        _cleanup_free_ struct cidr *used = NULL;
        char text[CIDR_TEXT_MAX];
        struct cidr chosen;
        size_t n;
        int r = conflict_used(ctx, c, &used, &n, e);

        if (r < 0)
                return r;
        r = subnet_choose(used, n, host_seed(c->name), &chosen);
        if (r < 0)
                return error_set(e, r, "network-subnets", "give the network a subnet that may be used all the same",
                                 "no private IPv4 subnet is free on this host: its routes cover them all");
        c->subnet = strdup(cidr_format(&chosen, text));
        return c->subnet ? 0 : -ENOMEM;
}

static int choose_subnet6(struct network_config *c, struct error *e) {
        char text[CIDR_TEXT_MAX];
        struct cidr chosen;
        int r = subnet_random6(&chosen);

        if (r < 0)
                return error_set(e, r, "network-subnets", NULL, "cannot choose an IPv6 subnet");
        c->subnet6 = strdup(cidr_format(&chosen, text));
        return c->subnet6 ? 0 : -ENOMEM;
}

int network_choose(struct network_ctx *ctx, struct network_config *c, struct error *e) {
        char bridge[LINK_NAME_MAX];
        int r = 0;

        if (!c->bridge) {
                plan_bridge_name(c->name, bridge);
                c->bridge = strdup(bridge);
        }
        if (!c->domain && asprintf(&c->domain, "%s%slodge.internal", streq(c->name, "default") ? "" : c->name,
                                   streq(c->name, "default") ? "" : ".") < 0)
                c->domain = NULL;
        if (!c->bridge || !c->domain)
                return error_set(e, -ENOMEM, "network-state", NULL, "cannot choose for network %s", c->name);
        if (!c->subnet)
                r = choose_subnet(ctx, c, e);
        if (r == 0 && c->ipv6 && !c->subnet6)
                r = choose_subnet6(c, e);
        return r;
}

/* ---- up and down -------------------------------------------------------------------------------------------------- */

/* Says of which boot of the host the network is up: what is missing then has been taken away by somebody. */
#define UP_FILE "up"

static bool was_up(int dir_fd) {
        _cleanup_free_ char *now = state_boot_id(), *then = NULL;

        return now && state_read(dir_fd, UP_FILE, &then) == 0 && streq(now, then);
}

/* After a boot there are no taps; machines that start get theirs by network_attach(). */
static int forget_taps(struct network_ctx *ctx, const struct network_config *c, struct network_ports *ports,
                       struct error *e) {
        for (size_t i = 0; i < ports->n; i++) {
                struct network_port *port = ports->items[i];
                struct link_info l;
                int r;

                if (!port->attached || link_find(ctx->netlink, port->tap, &l) != -ENODEV)
                        continue;
                port->attached = false;
                r = state_port_save(ctx, c->name, port, e);
                if (r == 0)
                        r = dnsmasq_release(ctx, c->name, port->machine, e);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The number of an address within its subnet; 0: of another subnet. */
static uint32_t number_of(const struct cidr *subnet, const char *address) {
        struct cidr a;
        uint32_t n = 0;

        if (!address || cidr_parse_address(address, &a) < 0 || !cidr_contains(subnet, &a))
                return 0;
        for (unsigned int i = 0; i < 4; i++)
                n = n << 8 | (uint32_t)(a.address[i] ^ subnet->address[i]);
        return n;
}

/* Its addresses, if it has none of this subnet yet. */
static int port_addresses(const struct network_config *c, const struct network_ports *ports, struct network_port *port,
                          struct error *e) {
        _cleanup_free_ uint32_t *taken = calloc(ports->n + 1, sizeof(*taken));
        char text[CIDR_TEXT_MAX];
        struct network_plan p;
        struct cidr address;
        uint32_t number;
        int r = plan_make(c, &p, e);

        if (r < 0 || !taken)
                return error_set(e, r < 0 ? r : -ENOMEM, "network-state", NULL, "cannot choose an address");
        number = number_of(&p.subnet, port->address4);
        if (number == 0) {
                for (size_t i = 0; i < ports->n; i++)
                        taken[i] = number_of(&p.subnet, ports->items[i]->address4);
                r = subnet_place(&p.subnet, port->machine, taken, ports->n, &number);
                if (r < 0)
                        return error_set(e, r, "network-full",
                                         "delete machines that are not needed any more, or make another network",
                                         "network %s has no address left in %s for %s", c->name, c->subnet,
                                         port->machine);
                address = cidr_host(&p.subnet, number);
                free(port->address4);
                port->address4 = strdup(cidr_format_address(&address, text));
        }
        address = cidr_host(&p.subnet6, number);
        free(port->address6);
        port->address6 = p.has6 ? strdup(cidr_format_address(&address, text)) : NULL;
        return port->address4 && (port->address6 || !p.has6)
                       ? 0
                       : error_set(e, -ENOMEM, "network-state", NULL, "cannot choose an address");
}

/* A network that got another subnet gives its ports other addresses; one that got another bridge has to be down in between. */
static int follow_config(struct network_ctx *ctx, const struct network_config *c, const struct network_ports *ports,
                         bool again, struct error *e) {
        _cleanup_(network_config_freep) struct network_config *old = NULL;
        int r = state_config_load(ctx, c->name, &old, NULL);

        if (r == 0 && again && (old->type != c->type || !streq(old->bridge ?: "", c->bridge ?: "")))
                return error_set(e, -EBUSY, "network-bridge", "take the network down first",
                                 "network %s is up on bridge %s, as type %s", c->name, old->bridge,
                                 network_type_to_string(old->type));
        r = 0;
        for (size_t i = 0; i < ports->n && r == 0; i++) {
                r = port_addresses(c, ports, ports->items[i], e);
                if (r == 0)
                        r = state_port_save(ctx, c->name, ports->items[i], e);
        }
        return r;
}

int network_up(struct network_ctx *ctx, const struct network_config *c, struct network_notes *repairs,
               struct error *e) {
        _cleanup_ports_ struct network_ports ports = { 0 };
        _cleanup_close_ int dir_fd = -EBADF;
        _cleanup_free_ char *now = state_boot_id();
        bool again = false;
        int r = conflict_subnets(ctx, c, NULL, e);

        if (r == 0)
                r = conflict_ports(ctx, c, e);
        if (r == 0)
                r = state_ports_load(ctx, c->name, &ports, e);
        if (r < 0)
                return r;
        dir_fd = state_open(ctx, c->name, true);
        if (dir_fd < 0)
                return error_set(e, dir_fd, "network-state", NULL, "cannot open the directory of network %s", c->name);
        again = was_up(dir_fd);
        r = follow_config(ctx, c, &ports, again, e);
        if (r == 0)
                r = state_config_save(ctx, c, e);
        if (r == 0 && !again)
                r = forget_taps(ctx, c, &ports, e);
        if (r == 0)
                r = driver_of(c)->up(ctx, c, &ports, again ? repairs : NULL, e);
        if (r == 0 && !again && now && state_write(dir_fd, UP_FILE, now, 0600) < 0)
                r = error_set(e, -EIO, "network-state", NULL, "cannot write into the directory of network %s", c->name);
        return r;
}

/* Is any network but @name up? */
static bool others_up(struct network_ctx *ctx, const char *name) {
        char **names;
        bool found = false;

        if (state_networks(ctx, &names) < 0)
                return true;
        for (size_t i = 0; names[i] && !found; i++) {
                _cleanup_close_ int fd = streq(names[i], name) ? -EBADF : state_open(ctx, names[i], false);

                found = fd >= 0 && was_up(fd);
        }
        state_names_free(names);
        return found;
}

int network_down(struct network_ctx *ctx, const char *name, struct error *e) {
        static const char *const files[] = { "rules.wanted", "rules.found", "dnsmasq.pid", UP_FILE };
        _cleanup_(network_config_freep) struct network_config *c = NULL;
        _cleanup_ports_ struct network_ports ports = { 0 };
        _cleanup_close_ int dir_fd = state_open(ctx, name, false);
        int r = state_config_load(ctx, name, &c, e);

        if (r == -ENOENT || dir_fd == -ENOENT)
                return 0; /* it was never up */
        if (r == 0)
                r = state_ports_load(ctx, name, &ports, e);
        if (r == 0)
                r = driver_of(c)->down(ctx, c, &ports, e);
        for (size_t i = 0; i < ports.n && r == 0; i++) {
                ports.items[i]->attached = false;
                r = state_port_save(ctx, name, ports.items[i], e);
                if (r == 0)
                        r = dnsmasq_release(ctx, name, ports.items[i]->machine, e);
        }
        for (size_t i = 0; i < ELEMENTSOF(files) && r == 0; i++)
                if (state_remove(dir_fd, files[i]) < 0)
                        r = error_set(e, -EIO, "network-state", NULL, "cannot remove %s/%s/%s", ctx->state_dir, name,
                                      files[i]);
        if (r == 0 && !others_up(ctx, name))
                r = sysctl_forwarding_down(ctx, firewall_others_route(ctx->nft), e);
        return r;
}

int network_delete(struct network_ctx *ctx, const char *name, struct error *e) {
        int r = network_down(ctx, name, e);

        return r < 0 ? r : state_delete(ctx, name, e);
}

/* ---- status ------------------------------------------------------------------------------------------------------- */

void network_status_clear(struct network_status *s) {
        network_notes_clear(&s->problems);
        network_notes_clear(&s->warnings);
        for (size_t i = 0; i < s->n_leases; i++) {
                free(s->leases[i].mac);
                free(s->leases[i].address);
                free(s->leases[i].name);
        }
        free(s->leases);
        *s = (struct network_status){ 0 };
}

int network_status(struct network_ctx *ctx, const struct network_config *c, struct network_status *ret_status,
                   struct error *e) {
        _cleanup_(network_status_clear) struct network_status s = { 0 };
        _cleanup_ports_ struct network_ports ports = { 0 };
        unsigned int pieces = 0;
        int r = state_ports_load(ctx, c->name, &ports, e);

        if (r == 0)
                r = driver_of(c)->status(ctx, c, &ports, &s, &pieces, e);
        if (r == 0)
                r = conflict_subnets(ctx, c, &s, e);
        if (r == 0)
                r = conflict_warnings(c, &ports, &s.warnings);
        if (r == 0)
                r = dnsmasq_leases(ctx, c->name, &s.leases, &s.n_leases) == -ENOMEM ? -ENOMEM : 0;
        if (r < 0)
                return error_set(e, r, "network-state", NULL, "cannot look at network %s", c->name);
        s.state = pieces == 0 ? NETWORK_DOWN : s.problems.n > 0 ? NETWORK_DEGRADED : NETWORK_UP;
        *ret_status = s;
        s = (struct network_status){ 0 };
        return 0;
}

/* ---- ports -------------------------------------------------------------------------------------------------------- */

/* A tap's name that no interface of anybody else has. */
static int port_tap(struct network_ctx *ctx, const struct network_config *c, struct network_port *port,
                    struct error *e) {
        char name[LINK_NAME_MAX], alias[LINK_ALIAS_MAX];
        struct link_info l;

        if (port->tap)
                return 0;
        plan_tap_alias(c->name, port->machine, alias);
        for (unsigned int i = 0; i < TAP_NAME_ATTEMPTS; i++) {
                int r;

                plan_tap_name(c->name, port->machine, i, name);
                r = link_find(ctx->netlink, name, &l);
                if (r != -ENODEV && !(r == 0 && link_is_ours(&l, alias, NULL)))
                        continue;
                port->tap = strdup(name);
                return port->tap ? 0 : -ENOMEM;
        }
        return error_set(e, -EEXIST, "network-port", NULL, "no interface name is free for machine %s", port->machine);
}

static int set_text(char **text, const char *value) {
        char *copy = strdup(value);

        if (!copy)
                return -ENOMEM;
        free(*text);
        *text = copy;
        return 0;
}

/* The machine's port in @ports, made if need be; checked as all that is read from a file. */
static int port_get(struct network_ports *ports, const char *machine, const char *mac, uint32_t uid,
                    struct network_port **ret, struct error *e) {
        struct network_port *port = state_port_find(ports, machine);
        int r = 0;

        for (size_t i = 0; i < ports->n; i++)
                if (ports->items[i] != port && strcasecmp(ports->items[i]->mac, mac) == 0)
                        return error_set(e, -EEXIST, "network-port", "give one of them another MAC address",
                                         "machine %s has MAC address %s already", ports->items[i]->machine, mac);
        if (!port) {
                r = network_port_new(&port);
                if (r == 0)
                        r = set_text(&port->machine, machine);
                if (r == 0)
                        r = set_text(&port->mac, mac);
                if (r == 0)
                        r = network_port_check(port, e);
                if (r < 0) {
                        network_port_free(port);
                        return error_set(e, r, "network-port", NULL, "cannot attach machine %s", machine);
                }
                r = state_port_add(ports, port);
        } else {
                r = set_text(&port->mac, mac);
                if (r == 0)
                        r = network_port_check(port, e);
        }
        if (r < 0)
                return error_set(e, r, "network-port", NULL, "cannot attach machine %s", machine);
        port->uid = uid;
        *ret = port;
        return 0;
}

/* A copy for the caller, by way of the text form. */
static int port_copy(const struct network_port *port, struct network_port **ret, struct error *e) {
        _cleanup_free_ char *text = network_port_format(port);

        return text ? network_port_parse(text, strlen(text), ret, e) : -ENOMEM;
}

int network_attach(struct network_ctx *ctx, const struct network_config *c, const char *machine, const char *mac,
                   uint32_t uid, struct network_port **ret_port, struct error *e) {
        _cleanup_ports_ struct network_ports ports = { 0 };
        _cleanup_close_ int dir_fd = state_open(ctx, c->name, false);
        struct network_port *port = NULL;
        int r;

        if (dir_fd < 0 || !was_up(dir_fd))
                return error_set(e, -ENETDOWN, "network-port", "start it first", "network %s is not up", c->name);
        r = state_ports_load(ctx, c->name, &ports, e);
        if (r == 0)
                r = port_get(&ports, machine, mac, uid, &port, e);
        if (r == 0)
                r = port_addresses(c, &ports, port, e);
        if (r == 0)
                r = port_tap(ctx, c, port, e);
        if (r < 0)
                return error_set(e, r, "network-port", NULL, "cannot attach machine %s", machine);
        port->attached = true;
        r = state_port_save(ctx, c->name, port, e); /* first: whatever is made from here on is known */
        if (r == 0)
                r = driver_of(c)->attach(ctx, c, &ports, port, e);
        return r < 0 ? r : port_copy(port, ret_port, e);
}

int network_detach(struct network_ctx *ctx, const struct network_config *c, const char *machine, struct error *e) {
        _cleanup_ports_ struct network_ports ports = { 0 };
        _cleanup_close_ int dir_fd = state_open(ctx, c->name, false);
        struct network_port *port;
        int r = state_ports_load(ctx, c->name, &ports, e);

        if (r < 0)
                return r;
        port = state_port_find(&ports, machine);
        if (!port || !port->attached)
                return 0;
        port->attached = false;
        r = was_up(dir_fd) ? driver_of(c)->detach(ctx, c, &ports, port, e) : 0;
        return r < 0 ? r : state_port_save(ctx, c->name, port, e); /* last: a killed detach is done again */
}

int network_forget(struct network_ctx *ctx, const struct network_config *c, const char *machine, struct error *e) {
        _cleanup_ports_ struct network_ports ports = { 0 };
        const struct network_port *port;
        struct network_plan p;
        int r = network_detach(ctx, c, machine, e);

        if (r == 0)
                r = plan_make(c, &p, e);
        if (r == 0)
                r = state_ports_load(ctx, c->name, &ports, e);
        port = r < 0 ? NULL : state_port_find(&ports, machine);
        if (!port)
                return r;
        r = dnsmasq_evict(ctx, c, &p, port, e);
        return r < 0 ? r : state_port_remove(ctx, c->name, machine, e);
}

int network_set_forwards(struct network_ctx *ctx, const struct network_config *c, struct error *e) {
        _cleanup_ports_ struct network_ports ports = { 0 };
        int r = conflict_ports(ctx, c, e);

        if (r == 0)
                r = state_ports_load(ctx, c->name, &ports, e);
        if (r == 0)
                r = driver_of(c)->set_forwards(ctx, c, &ports, e);
        return r < 0 ? r : state_config_save(ctx, c, e);
}
