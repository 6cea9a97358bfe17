// SPDX-License-Identifier: GPL-2.0-or-later
/* rules: see rules.h */
#include "daemon/network/rules.h"

#include <inttypes.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>

/* ---- as text ------------------------------------------------------------------------------------------------------ */

static const char *forward_target(const struct network_ports *ports, const struct network_forward_config *f,
                                  int family) {
        const struct network_port *port = NULL;

        for (size_t i = 0; i < ports->n; i++)
                if (streq(ports->items[i]->machine, f->machine))
                        port = ports->items[i];
        return !port ? NULL : family == AF_INET ? port->address4 : port->address6;
}

static void render_forward(FILE *f, const struct network_forward_config *forward, const struct network_ports *ports) {
        struct cidr host = { .family = AF_INET };
        const char *target, *protocol = network_protocol_to_string(forward->protocol);
        char text[CIDR_TEXT_MAX];

        if (forward->host_address && cidr_parse_address(forward->host_address, &host) < 0)
                return;
        target = forward_target(ports, forward, host.family);
        if (!target)
                return; /* it waits for the machine */
        if (cidr_is_any(&host))
                fprintf(f, "                meta nfproto ipv%c", host.family == AF_INET ? '4' : '6');
        else
                fprintf(f, "                %s daddr %s", host.family == AF_INET ? "ip" : "ip6",
                        cidr_format_address(&host, text));
        fprintf(f, " %s dport %" PRIu32, protocol, forward->host_port);
        if (host.family == AF_INET)
                fprintf(f, " dnat ip to %s:%" PRIu32 "\n", target, forward->machine_port);
        else
                fprintf(f, " dnat ip6 to [%s]:%" PRIu32 "\n", target, forward->machine_port);
}

/*
 * Translation. The host's own connections to 127.0.0.1 leave by the bridge after translation (hence route_localnet there, and a source that
 * the machine can answer); machines must not use that way in the other direction, which "guard" sees to before anything is translated
 * back.
 */
static void render_nat(FILE *f, const struct network_config *c, const char *subnet, const char *subnet6,
                       const struct network_ports *ports) {
        const char *br = c->bridge;

        fprintf(f,
                "        chain guard {\n"
                "                type filter hook prerouting priority -300; policy accept\n"
                "                iifname \"%s\" ip saddr 127.0.0.0/8 drop\n"
                "                iifname \"%s\" ip daddr 127.0.0.0/8 drop\n"
                "        }\n",
                br, br);
        fprintf(f, "        chain forwards {\n");
        for (size_t i = 0; i < c->n_forwards; i++)
                render_forward(f, &c->forwards[i], ports);
        fprintf(f, "        }\n"
                   "        chain prerouting {\n"
                   "                type nat hook prerouting priority -100; policy accept\n"
                   "                fib daddr type local jump forwards\n"
                   "        }\n"
                   "        chain output {\n"
                   "                type nat hook output priority -100; policy accept\n"
                   "                fib daddr type local jump forwards\n"
                   "        }\n"
                   "        chain postrouting {\n"
                   "                type nat hook postrouting priority 100; policy accept\n");
        fprintf(f, "                ip saddr %s oifname != \"%s\" ip daddr != %s masquerade\n", subnet, br, subnet);
        fprintf(f, "                oifname \"%s\" ip saddr 127.0.0.0/8 masquerade\n", br);
        fprintf(f, "                oifname \"%s\" ip saddr %s ct status dnat masquerade\n", br, subnet);
        if (subnet6) {
                fprintf(f, "                ip6 saddr %s oifname != \"%s\" ip6 daddr != %s masquerade\n", subnet6, br,
                        subnet6);
                fprintf(f, "                oifname \"%s\" ip6 saddr %s ct status dnat masquerade\n", br, subnet6);
        }
        fprintf(f, "        }\n");
}

/* Into the network comes what was asked for, and what is forwarded. */
static void render_filter(FILE *f, const struct network_config *c, const char *subnet, const char *subnet6) {
        const char *br = c->bridge;

        fprintf(f,
                "        chain forward {\n"
                "                type filter hook forward priority 0; policy accept\n"
                "                iifname \"%s\" oifname \"%s\" accept\n"
                "                oifname \"%s\" ct state established,related accept\n"
                "                oifname \"%s\" ct status dnat accept\n"
                "                oifname \"%s\" reject with icmpx type admin-prohibited\n"
                "                iifname \"%s\" meta nfproto ipv4 ip saddr != %s drop\n",
                br, br, br, br, br, br, subnet);
        if (subnet6)
                fprintf(f, "                iifname \"%s\" meta nfproto ipv6 ip6 saddr != %s drop\n", br, subnet6);
        else
                fprintf(f, "                iifname \"%s\" meta nfproto ipv6 drop\n", br);
        fprintf(f, "        }\n");
}

/* What a machine may send: frames from its MAC, IPv4 from its address, IPv6 from the network, and nothing that only a host says. */
static void render_port(FILE *f, const struct network_port *p, const char *subnet6) {
        fprintf(f, "        chain port-%s {\n", p->tap);
        fprintf(f, "                ether saddr != %s drop\n", p->mac);
        fprintf(f, "                ether type arp arp saddr ether != %s drop\n", p->mac);
        fprintf(f, "                ether type arp arp saddr ip != { %s, 0.0.0.0 } drop\n", p->address4);
        fprintf(f, "                ip saddr 0.0.0.0 udp sport 68 udp dport 67 return\n");
        fprintf(f, "                ether type ip ip saddr != %s drop\n", p->address4);
        fprintf(f, "                ether type ip udp sport 67 drop\n");
        if (subnet6)
                fprintf(f,
                        "                ether type ip6 ip6 saddr != { ::, fe80::/10, %s } drop\n"
                        "                ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop\n"
                        "                ether type ip6 udp sport 547 drop\n",
                        subnet6);
        fprintf(f, "                ether type != { ip, arp%s } drop\n", subnet6 ? ", ip6" : "");
        fprintf(f, "        }\n");
}

/* The taps as a list, with commas: where each one's rules are, or @twice for what comes from it and goes to it. */
static void render_taps(FILE *f, const struct network_ports *ports, bool twice) {
        const char *comma = "";

        for (size_t i = 0; i < ports->n; i++) {
                const char *tap = ports->items[i]->tap;

                if (!ports->items[i]->attached)
                        continue;
                fprintf(f, twice ? "%s\"%s\" . \"%s\"" : "%s\"%s\" : jump port-%s", comma, tap, tap);
                comma = ", ";
        }
}

/*
 * Where br_netfilter is loaded (Docker does that), frames to the host's ports are translated while they are still on the bridge, and
 * one for a machine's own port has to leave by the tap that it came by. So taps reflect (hairpin mode), but nothing else: a machine that
 * hears its own broadcasts takes them for a second one that has its address.
 */
static void render_bridge(FILE *f, const char *subnet6, const struct network_ports *ports) {
        bool any = false;

        for (size_t i = 0; i < ports->n; i++)
                if (ports->items[i]->attached) {
                        render_port(f, ports->items[i], subnet6);
                        any = true;
                }
        fprintf(f, "        chain prerouting {\n"
                   "                type filter hook prerouting priority -300; policy accept\n");
        if (any) {
                fprintf(f, "                iifname vmap { ");
                render_taps(f, ports, false);
                fprintf(f, " }\n");
        }
        fprintf(f, "        }\n"
                   "        chain reflected {\n"
                   "                type filter hook forward priority -300; policy accept\n");
        if (any) {
                fprintf(f, "                ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 iifname . oifname { ");
                render_taps(f, ports, true);
                fprintf(f, " } drop\n");
        }
        fprintf(f, "        }\n");
}

char *rules_render(const struct network_config *c, const struct network_plan *p, const struct network_ports *ports) {
        char subnet[CIDR_TEXT_MAX], subnet6[CIDR_TEXT_MAX];
        char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return NULL;
        cidr_format(&p->subnet, subnet);
        if (p->has6)
                cidr_format(&p->subnet6, subnet6);
        /* "add" first, so that "delete" finds one: together they are "replace". */
        fprintf(f, "add table inet %s\ndelete table inet %s\ntable inet %s {\n", p->table, p->table, p->table);
        render_nat(f, c, subnet, p->has6 ? subnet6 : NULL, ports);
        render_filter(f, c, subnet, p->has6 ? subnet6 : NULL);
        fprintf(f, "}\nadd table bridge %s\ndelete table bridge %s\ntable bridge %s {\n", p->table, p->table, p->table);
        render_bridge(f, p->has6 ? subnet6 : NULL, ports);
        fprintf(f, "}\n");
        if (ferror(f) | fclose(f)) {
                free(text);
                return NULL;
        }
        return text;
}

/* ---- in the kernel ------------------------------------------------------------------------------------------------ */

static int failed(struct nft_ctx *nft, struct error *e) {
        const char *said = nft_ctx_get_error_buffer(nft) ?: "";

        return error_set(e, -EIO, "network-rules",
                         "check that the kernel has nf_tables: nft list ruleset; modprobe nf_tables",
                         "the packet filter refuses the network's rules: %.*s", (int)strcspn(said, "\n"), said);
}

static int output_of(struct nft_ctx *nft, char **ret_output, struct error *e) {
        if (!ret_output)
                return 0;
        *ret_output = strdup(nft_ctx_get_output_buffer(nft) ?: "");
        return *ret_output ? 0 : error_set(e, -ENOMEM, "network-rules", NULL, "cannot read the rules");
}

/*
 * The library's socket may hold an answer to an earlier question that was broken off, and from then on takes each answer for a wrong one ("cache initialization
 * failed: Protocol error"). A fresh one has nothing to confuse.
 */
static int run_afresh(struct nft_ctx *nft, const char *command, char **ret_output, struct error *e) {
        struct nft_ctx *fresh = nft_ctx_new(NFT_CTX_DEFAULT);
        int r;

        if (!fresh || nft_ctx_buffer_output(fresh) != 0 || nft_ctx_buffer_error(fresh) != 0) {
                if (fresh)
                        nft_ctx_free(fresh);
                return failed(nft, e);
        }
        nft_ctx_output_set_flags(fresh, nft_ctx_output_get_flags(nft));
        r = nft_run_cmd_from_buffer(fresh, command) != 0 ? failed(fresh, e) : output_of(fresh, ret_output, e);
        nft_ctx_free(fresh);
        return r;
}

int rules_run(struct nft_ctx *nft, const char *command, char **ret_output, struct error *e) {
        if (nft_run_cmd_from_buffer(nft, command) == 0)
                return output_of(nft, ret_output, e);
        if (strstr(nft_ctx_get_error_buffer(nft) ?: "", "cache initialization failed"))
                return run_afresh(nft, command, ret_output, e);
        return failed(nft, e);
}

int rules_apply(struct nft_ctx *nft, const char *text, struct error *e) {
        return rules_run(nft, text, NULL, e);
}

int rules_found(struct nft_ctx *nft, const char *table, char **ret_text) {
        static const char *const families[] = { "inet", "bridge" };
        _cleanup_free_ char *texts[2] = { NULL };
        char command[NETWORK_TABLE_MAX + 32];
        int r = 0;

        nft_ctx_output_set_flags(nft, NFT_CTX_OUTPUT_STATELESS);
        for (size_t i = 0; i < ELEMENTSOF(families); i++) {
                snprintf(command, sizeof(command), "list table %s %s", families[i], table);
                rules_run(nft, command, &texts[i], NULL); /* fails when there is none */
        }
        if (asprintf(ret_text, "%s%s", texts[0] ?: "", texts[1] ?: "") < 0)
                r = -ENOMEM;
        free(TAKE_PTR(texts[1]));
        return r;
}

int rules_delete(struct nft_ctx *nft, const char *table, struct error *e) {
        char command[4 * (NETWORK_TABLE_MAX + 32)];

        snprintf(command, sizeof(command),
                 "add table inet %s\ndelete table inet %s\nadd table bridge %s\ndelete table bridge %s\n", table, table,
                 table, table);
        return rules_run(nft, command, NULL, e);
}
