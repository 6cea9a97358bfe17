// SPDX-License-Identifier: GPL-2.0-or-later
/* firewall: see firewall.h */
#include "daemon/network/firewall.h"

#include <fcntl.h>
#include <jansson.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "daemon/network/notes.h"
#include "daemon/network/rules.h"

struct chain {
        const char *family, *table, *name, *type, *hook, *policy; /* "" when there is none */
};

static const char *text_of(const json_t *chain, const char *key) {
        return json_string_value(json_object_get(chain, key)) ?: "";
}

/* Calls @fn with all chains but ours. */
static int each_chain(struct nft_ctx *nft, void (*fn)(void *opaque, const struct chain *c), void *opaque) {
        _cleanup_free_ char *text = NULL;
        json_t *root, *item;
        size_t i;
        int r;

        nft_ctx_output_set_flags(nft, NFT_CTX_OUTPUT_JSON);
        r = rules_run(nft, "list chains", &text, NULL);
        nft_ctx_output_set_flags(nft, 0);
        root = r < 0 ? NULL : json_loads(text, 0, NULL);
        if (!root)
                return r < 0 ? r : -EPROTO;
        json_array_foreach(json_object_get(root, "nftables"), i, item) {
                const json_t *j = json_object_get(item, "chain");
                const struct chain c = { text_of(j, "family"), text_of(j, "table"), text_of(j, "name"),
                                         text_of(j, "type"),   text_of(j, "hook"),  text_of(j, "policy") };

                if (j && strncmp(c.table, "lodge-", 6) != 0)
                        fn(opaque, &c);
        }
        json_decref(root);
        return 0;
}

static void note_router(void *opaque, const struct chain *c) {
        if (streq(c->hook, "forward") || (streq(c->type, "nat") && streq(c->hook, "postrouting")))
                *(bool *)opaque = true;
}

bool firewall_others_route(struct nft_ctx *nft) {
        bool found = false;

        return each_chain(nft, note_router, &found) < 0 || found;
}

/* A base chain that drops what nobody accepts. */
struct dropper {
        char family[16], table[64], name[64];
        bool input; /* else forward */
};

struct survey {
        struct dropper droppers[16];
        size_t n;
        bool docker, ufw, firewalld;
};

static void look_at(void *opaque, const struct chain *c) {
        struct survey *s = opaque;
        bool input = streq(c->hook, "input");
        struct dropper *d;

        s->docker |= streq(c->name, "DOCKER-USER");
        s->ufw |= streq(c->name, "ufw-before-input");
        s->firewalld |= streq(c->table, "firewalld");
        if (!streq(c->policy, "drop") || !streq(c->type, "filter") || (!input && !streq(c->hook, "forward")) ||
            s->n == ELEMENTSOF(s->droppers))
                return;
        d = &s->droppers[s->n++];
        d->input = input;
        snprintf(d->family, sizeof(d->family), "%s", c->family);
        snprintf(d->table, sizeof(d->table), "%s", c->table);
        snprintf(d->name, sizeof(d->name), "%s", c->name);
}

/* Does a line of the table name the bridge, in this direction, and accept (or hand it to a chain of its zone)? */
static bool accepts(struct nft_ctx *nft, const char *family, const char *table, const char *direction,
                    const char *bridge) {
        _cleanup_free_ char *text = NULL, *command = NULL, *want = NULL;
        char *save = NULL;

        if (asprintf(&command, "list table %s %s", family, table) < 0)
                return TAKE_PTR(command), false;
        if (asprintf(&want, "%s \"%s\"", direction, bridge) < 0)
                return TAKE_PTR(want), false;
        nft_ctx_output_set_flags(nft, NFT_CTX_OUTPUT_STATELESS);
        if (rules_run(nft, command, &text, NULL) < 0)
                return false;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                if (strstr(line, want) && (strstr(line, "accept") || strstr(line, "goto") || strstr(line, "jump")))
                        return true;
        return false;
}

static void fix_forward(const struct survey *s, const struct dropper *d, const char *bridge, char *fix, size_t size) {
        const char *iptables = streq(d->family, "ip6") ? "ip6tables" : "iptables";
        bool is_iptables = streq(d->table, "filter") && streq(d->name, "FORWARD");
        const char *chain = s->docker ? "DOCKER-USER" : "FORWARD";

        if (is_iptables && s->ufw)
                snprintf(fix, size, "ufw route allow in on %s && ufw route allow out on %s", bridge, bridge);
        else if (is_iptables)
                snprintf(fix, size, "%s -I %s -i %s -j ACCEPT && %s -I %s -o %s -j ACCEPT", iptables, chain, bridge,
                         iptables, chain, bridge);
        else
                snprintf(fix, size,
                         "nft insert rule %s %s %s iifname \"%s\" accept && nft insert rule %s %s %s oifname \"%s\" "
                         "accept",
                         d->family, d->table, d->name, bridge, d->family, d->table, d->name, bridge);
}

static void fix_input(const struct survey *s, const struct dropper *d, const char *bridge, char *fix, size_t size) {
        const char *iptables = streq(d->family, "ip6") ? "ip6tables" : "iptables";

        if (streq(d->table, "filter") && s->ufw)
                snprintf(fix, size, "ufw allow in on %s to any port 53 && ufw allow in on %s to any port 67 proto udp",
                         bridge, bridge);
        else if (streq(d->table, "filter") && streq(d->name, "INPUT"))
                snprintf(fix, size,
                         "%s -I INPUT -i %s -p udp -m multiport --dports 53,67,547 -j ACCEPT && "
                         "%s -I INPUT -i %s -p tcp --dport 53 -j ACCEPT",
                         iptables, bridge, iptables, bridge);
        else
                snprintf(fix, size,
                         "nft insert rule %s %s %s iifname \"%s\" meta l4proto { tcp, udp } th dport { 53, 67, 547 } "
                         "accept",
                         d->family, d->table, d->name, bridge);
}

/* Rules of the old kernel interface, which nft does not show. */
static bool has_legacy(void) {
        _cleanup_close_ int fd = open("/proc/net/ip_tables_names", O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        size_t n;

        return fd >= 0 && io_read_all(fd, 4096, &text, &n) == 0 && strstr(text, "filter");
}

int firewall_warnings(struct nft_ctx *nft, const struct network_config *c, struct network_notes *warnings) {
        struct survey s = { .n = 0 };
        char fix[512];
        int r = each_chain(nft, look_at, &s);

        if (r < 0)
                return note_add(warnings, "firewall-unknown", "see: nft list ruleset",
                                "other packet filters can't be examined");
        for (size_t i = 0; i < s.n && r >= 0; i++) {
                const struct dropper *d = &s.droppers[i];

                if ((streq(d->family, "ip6") && !c->ipv6) ||
                    (accepts(nft, d->family, d->table, "iifname", c->bridge) &&
                     (d->input || accepts(nft, d->family, d->table, "oifname", c->bridge))))
                        continue;
                (d->input ? fix_input : fix_forward)(&s, d, c->bridge, fix, sizeof(fix));
                r = note_add(warnings, d->input ? "firewall-input" : "firewall-forward", fix,
                             d->input ? "chain %s of table %s %s drops what machines ask the host for: DHCP and DNS"
                                      : "chain %s of table %s %s drops what machines send and receive",
                             d->name, d->family, d->table);
        }
        if (s.firewalld && !accepts(nft, "inet", "firewalld", "iifname", c->bridge) && r >= 0) {
                snprintf(fix, sizeof(fix),
                         "firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload",
                         c->bridge);
                r = note_add(warnings, "firewall-firewalld", fix,
                             "firewalld does not know %s and rejects what machines send", c->bridge);
        }
        if (has_legacy() && r >= 0) {
                snprintf(fix, sizeof(fix),
                         "see: iptables-legacy -S FORWARD; if it says DROP: iptables-legacy -I FORWARD -i %s -j ACCEPT "
                         "&& "
                         "iptables-legacy -I FORWARD -o %s -j ACCEPT",
                         c->bridge, c->bridge);
                r = note_add(warnings, "firewall-legacy", fix,
                             "there are rules of iptables-legacy, which may drop what machines send");
        }
        return r;
}
