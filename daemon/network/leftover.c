// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * leftover: what is ours on the host and nobody's, after a crash or a store that was put back (network.h)
 *
 * Found by what each thing says of itself: aliases of interfaces, names of tables, arguments of processes, names of directories. An interface
 * that was not even given its alias yet is not found; it is down, and the next start of its network or machine takes it over.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "daemon/network/dnsmasq.h"
#include "daemon/network/link.h"
#include "daemon/network/plan.h"
#include "daemon/network/rules.h"
#include "daemon/network/state.h"

static const char *const kinds[] = {
        [NETWORK_LEFTOVER_TAP] = "tap",     [NETWORK_LEFTOVER_DNSMASQ] = "dnsmasq",
        [NETWORK_LEFTOVER_TABLE] = "table", [NETWORK_LEFTOVER_BRIDGE] = "bridge",
        [NETWORK_LEFTOVER_STATE] = "state",
};

const char *network_leftover_kind_to_string(enum network_leftover_kind kind) {
        return (unsigned int)kind < ELEMENTSOF(kinds) ? kinds[kind] : "unknown";
}

void network_leftovers_free(struct network_leftover *items, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(items[i].network);
                free(items[i].machine);
                free(items[i].name);
        }
        free(items);
}

struct search {
        struct network_ctx *ctx;
        const struct network_known *known;
        size_t n_known;
        struct network_leftover *items;
        size_t n;
};

static bool is_known(const struct search *s, const char *network, const char *machine) {
        for (size_t i = 0; i < s->n_known; i++)
                if (streq(s->known[i].network, network) &&
                    (machine ? s->known[i].machine && streq(s->known[i].machine, machine) : !s->known[i].machine))
                        return true;
        return false;
}

/* Appends what is not known. */
static int found(struct search *s, enum network_leftover_kind kind, const char *network, const char *machine,
                 const char *name) {
        struct network_leftover *more, item = { .kind = kind };

        if (!state_name_ok(network) || (machine && !state_name_ok(machine)) || is_known(s, network, machine))
                return 0;
        more = reallocarray(s->items, s->n + 1, sizeof(*more));
        if (!more)
                return -ENOMEM;
        s->items = more;
        item.network = strdup(network);
        item.machine = machine ? strdup(machine) : NULL;
        item.name = strdup(name);
        more[s->n++] = item;
        return item.network && item.name && (item.machine || !machine) ? 0 : -ENOMEM;
}

/* "lodge NETWORK" of a bridge, "lodge NETWORK MACHINE" of a tap. */
static int found_link(struct search *s, const struct link_info *l) {
        char alias[LINK_ALIAS_MAX], *machine;

        snprintf(alias, sizeof(alias), "%s", l->alias);
        if (strncmp(alias, "lodge ", 6) != 0 || alias[6] == '\0')
                return 0;
        machine = strchr(alias + 6, ' ');
        if (machine)
                *machine++ = '\0';
        if (machine && streq(l->kind, "tun"))
                return found(s, NETWORK_LEFTOVER_TAP, alias + 6, machine, l->name);
        if (!machine && streq(l->kind, "bridge"))
                return found(s, NETWORK_LEFTOVER_BRIDGE, alias + 6, NULL, l->name);
        return 0;
}

static int search_links(struct search *s, const char *kind) {
        struct link_info *links;
        size_t n;
        int r = link_list(s->ctx->netlink, &links, &n);

        for (size_t i = 0; r == 0 && i < n; i++)
                if (streq(links[i].kind, kind))
                        r = found_link(s, &links[i]);
        if (r != -ENODEV)
                free(n > 0 ? links : NULL);
        return r;
}

static int search_process(void *opaque, const char *network, pid_t pid) {
        char text[16];

        snprintf(text, sizeof(text), "%d", (int)pid);
        return found(opaque, NETWORK_LEFTOVER_DNSMASQ, network, NULL, text);
}

/* "table inet lodge-NAME" */
static int search_tables(struct search *s) {
        _cleanup_free_ char *text = NULL;
        char *save = NULL;
        int r = rules_run(s->ctx->nft, "list tables", &text, NULL);

        for (char *line = r < 0 ? NULL : strtok_r(text, "\n", &save); line && r == 0;
             line = strtok_r(NULL, "\n", &save)) {
                const char *name = strstr(line, " lodge-");

                if ((strncmp(line, "table inet ", 11) == 0 || strncmp(line, "table bridge ", 13) == 0) && name)
                        r = found(s, NETWORK_LEFTOVER_TABLE, name + 7, NULL, line + 6);
        }
        return r;
}

static int search_state(struct search *s) {
        char **names;
        int r = state_networks(s->ctx, &names);

        if (r < 0)
                return r;
        for (size_t i = 0; names[i] && r == 0; i++) {
                _cleanup_ports_ struct network_ports ports = { 0 };
                _cleanup_free_ char *path = state_path(s->ctx, names[i], NULL);

                r = path ? found(s, NETWORK_LEFTOVER_STATE, names[i], NULL, path) : -ENOMEM;
                if (r < 0 || !is_known(s, names[i], NULL) || state_ports_load(s->ctx, names[i], &ports, NULL) < 0)
                        continue;
                for (size_t k = 0; k < ports.n && r == 0; k++) {
                        char name[NETWORK_NAME_MAX + 16];
                        _cleanup_free_ char *file = NULL;

                        snprintf(name, sizeof(name), "ports/%s", ports.items[k]->machine);
                        file = state_path(s->ctx, names[i], name);
                        r = file ? found(s, NETWORK_LEFTOVER_STATE, names[i], ports.items[k]->machine, file) : -ENOMEM;
                }
        }
        state_names_free(names);
        return r;
}

int network_leftovers(struct network_ctx *ctx, const struct network_known *known, size_t n_known,
                      struct network_leftover **ret_items, size_t *ret_n, struct error *e) {
        struct search s = { .ctx = ctx, .known = known, .n_known = n_known };
        int r = search_links(&s, "tun");

        if (r == 0)
                r = dnsmasq_scan(ctx, search_process, &s);
        if (r == 0)
                r = search_links(&s, "bridge");
        if (r == 0)
                r = search_tables(&s);
        if (r == 0)
                r = search_state(&s);
        if (r < 0) {
                network_leftovers_free(s.items, s.n);
                return error_set(e, r, "network-state", NULL, "cannot find out what is left over of networks");
        }
        *ret_items = s.items;
        *ret_n = s.n;
        return 0;
}

int network_leftover_remove(struct network_ctx *ctx, const struct network_leftover *item, struct error *e) {
        char text[LINK_ALIAS_MAX];
        uint8_t mac[6];
        int r = 0;

        switch (item->kind) {
        case NETWORK_LEFTOVER_TAP:
                plan_tap_alias(item->network, item->machine, text);
                return link_delete(ctx->netlink, item->name, text, NULL, e);
        case NETWORK_LEFTOVER_DNSMASQ:
                return dnsmasq_down(ctx, item->network, e);
        case NETWORK_LEFTOVER_TABLE:
                snprintf(text, sizeof(text), "lodge-%s", item->network);
                return rules_delete(ctx->nft, text, e);
        case NETWORK_LEFTOVER_BRIDGE:
                snprintf(text, sizeof(text), "lodge %s", item->network);
                plan_bridge_mac(item->network, mac);
                return link_delete(ctx->netlink, item->name, text, mac, e);
        case NETWORK_LEFTOVER_STATE:
                if (!item->machine) {
                        network_down(ctx, item->network,
                                     NULL); /* fails when its files make no sense; what there was is removed by now */
                        return state_delete(ctx, item->network, e);
                }
                r = dnsmasq_release(ctx, item->network, item->machine, e);
                return r < 0 ? r : state_port_remove(ctx, item->network, item->machine, e);
        }
        return -EINVAL;
}
