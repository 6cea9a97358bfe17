// SPDX-License-Identifier: GPL-2.0-or-later
/* plan: see plan.h */
#include "daemon/network/plan.h"

#include <stdio.h>
#include <string.h>

#include "daemon/network/subnet.h"

/* @n characters of a hash, five bits each. */
static void hash_letters(uint64_t h, char *ret, size_t n) {
        for (size_t i = 0; i < n; i++, h >>= 5)
                ret[i] = "0123456789abcdefghjkmnpqrstvwxyz"[h & 31];
        ret[n] = '\0';
}

void plan_bridge_name(const char *network, char ret_name[static LINK_NAME_MAX]) {
        char letters[6];

        if (snprintf(ret_name, LINK_NAME_MAX, "lodge-%s", network) < LINK_NAME_MAX)
                return;
        hash_letters(hash_text(network, 0), letters, 5);
        snprintf(ret_name, LINK_NAME_MAX, "lodge-%.3s-%s", network, letters);
}

void plan_tap_name(const char *network, const char *machine, unsigned int attempt,
                   char ret_name[static LINK_NAME_MAX]) {
        char letters[8];

        hash_letters(hash_text(machine, hash_text(network, attempt)), letters, 7);
        snprintf(ret_name, LINK_NAME_MAX, "lt%.5s-%s", machine, letters);
}

void plan_tap_alias(const char *network, const char *machine, char ret_alias[static LINK_ALIAS_MAX]) {
        snprintf(ret_alias, LINK_ALIAS_MAX, "lodge %s %s", network, machine);
}

void plan_bridge_mac(const char *network, uint8_t ret_mac[static 6]) {
        uint64_t h = hash_text(network, 0x6d6163); /* "mac" */

        ret_mac[0] = 0x52; /* locally administered, as the machines' own */
        ret_mac[1] = 0x55;
        for (unsigned int i = 2; i < 6; i++)
                ret_mac[i] = (uint8_t)(h >> 8 * i);
}

int plan_make(const struct network_config *c, struct network_plan *ret, struct error *e) {
        struct network_plan p = { .has6 = c->ipv6 };

        if (!c->bridge || !c->domain || !c->subnet || cidr_parse(c->subnet, &p.subnet) < 0 ||
            p.subnet.family != AF_INET || p.subnet.bits < 16 || p.subnet.bits > 28 ||
            (p.has6 && (!c->subnet6 || cidr_parse(c->subnet6, &p.subnet6) < 0 || p.subnet6.bits != 64 ||
                        p.subnet6.family != AF_INET6)))
                return error_set(e, -EINVAL, "network-state", NULL, "network %s has no bridge, subnet or domain yet",
                                 c->name);
        p.gateway = cidr_host(&p.subnet, 1);
        p.gateway.bits = p.subnet.bits;
        if (p.has6) {
                p.gateway6 = cidr_host(&p.subnet6, 1);
                p.gateway6.bits = p.subnet6.bits;
        }
        plan_bridge_mac(c->name, p.mac);
        snprintf(p.alias, sizeof(p.alias), "lodge %s", c->name);
        snprintf(p.table, sizeof(p.table), "lodge-%s", c->name);
        *ret = p;
        return 0;
}
