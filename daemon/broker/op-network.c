// SPDX-License-Identifier: GPL-2.0-or-later
/* op-network: networks, in a system daemon: put them up, look at them, attach machines */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/broker/broker.h"
#include "daemon/engine/parts.h"
#include "daemon/network/network.h"

static json_t *notes_json(const struct network_notes *notes) {
        json_t *list = json_array();

        for (size_t i = 0; i < notes->n; i++)
                json_array_append_new(list, json_pack("{s:s, s:s, s:s*}", "id", notes->items[i].id, "message",
                                                      notes->items[i].message, "fix", notes->items[i].fix));
        return list;
}

static json_t *config_json(const struct network_config *c) {
        _cleanup_free_ char *text = network_config_format(c);

        return text ? json_loads(text, 0, NULL) : NULL;
}

static int need_networks(const struct broker *b, struct error *e) {
        if (b->networks)
                return 0;
        return error_set(e, -ENOTSUP, "network-session",
                         "take --net user, which needs no root; or the system daemon: systemctl start lodged",
                         "a session daemon has no networks: bridges and rules are root's");
}

static int network_begin(struct broker_call *call, void *args, struct error *e) {
        struct broker_network_args *a = args;
        struct broker *b = call->broker;
        struct network_notes repairs = { 0 };
        struct network_status status = { 0 };
        int r = need_networks(b, e);

        if (r == 0)
                r = network_choose(b->networks, &a->network, e);
        if (r == 0)
                r = network_up(b->networks, &a->network, &repairs, e);
        if (r == 0)
                r = network_status(b->networks, &a->network, &status, e);
        if (r == 0)
                call->result = json_pack("{s:o, s:o, s:o}", "network", config_json(&a->network), "repairs",
                                         notes_json(&repairs), "warnings", notes_json(&status.warnings));
        network_notes_clear(&repairs);
        network_status_clear(&status);
        return r == 0 && !call->result ? -ENOMEM : r;
}

static int network_look(struct broker_call *call, void *args, struct error *e) {
        static const char *const states[] = { "down", "up", "degraded" };
        const struct broker_network_args *a = args;
        struct network_status status = { 0 };
        json_t *leases = json_array();
        int r = need_networks(call->broker, e);

        if (r == 0)
                r = network_status(call->broker->networks, &a->network, &status, e);
        for (size_t i = 0; r == 0 && i < status.n_leases; i++)
                json_array_append_new(leases, json_pack("{s:s, s:s, s:s*, s:I}", "mac", status.leases[i].mac, "address",
                                                        status.leases[i].address, "name", status.leases[i].name,
                                                        "expires", (json_int_t)status.leases[i].expires));
        if (r == 0)
                call->result = json_pack("{s:s, s:o, s:o, s:O}", "state", states[status.state], "problems",
                                         notes_json(&status.problems), "warnings", notes_json(&status.warnings),
                                         "leases", leases);
        json_decref(leases);
        network_status_clear(&status);
        return r == 0 && !call->result ? -ENOMEM : r;
}

static int network_remove(struct broker_call *call, void *args, struct error *e) {
        const struct broker_network_args *a = args;
        int r = need_networks(call->broker, e);

        return r < 0 ? r : network_delete(call->broker->networks, a->network.name, e);
}

static int network_ports(struct broker_call *call, void *args, struct error *e) {
        const struct broker_network_args *a = args;
        int r = need_networks(call->broker, e);

        return r < 0 ? r : network_set_forwards(call->broker->networks, &a->network, e);
}

/* Networks that this daemon once put up, by their directories in its state, and that the store does not know: it was killed before it could write them down. */
static int networks_keep(struct broker_call *call, void *args, struct error *e) {
        const struct broker_networks_args *a = args;
        struct broker *b = call->broker;
        struct network_known known[256];
        struct network_leftover *items = NULL;
        size_t n = 0;
        int r = need_networks(b, e);

        for (size_t i = 0; r == 0 && i < a->n_names && i < ELEMENTSOF(known); i++)
                known[i] = (struct network_known){ .network = a->names[i] };
        if (r == 0)
                r = network_leftovers(b->networks, known, a->n_names, &items, &n, e);
        for (size_t i = 0; r == 0 && i < n; i++)
                if (items[i].kind == NETWORK_LEFTOVER_STATE && !items[i].machine)
                        r = network_delete(b->networks, items[i].network, e);
        network_leftovers_free(items, n);
        return r;
}

const struct broker_op broker_network_ops[] = {
        { "network-up", &broker_network_args_schema, network_begin },
        { "network-status", &broker_network_args_schema, network_look },
        { "network-delete", &broker_network_args_schema, network_remove },
        { "networks-keep", &broker_networks_args_schema, networks_keep },
        { "network-forwards", &broker_network_args_schema, network_ports },
        { 0 },
};

/* ---- machines ------------------------------------------------------------------------------------------------------- */

int broker_networks_attach(struct broker *b, struct machine_config *c, const struct network_config *networks, size_t n,
                           uint32_t uid, json_t *addresses, struct error *e) {
        for (size_t i = 0; i < c->n_nets; i++) {
                struct machine_net_config *net = &c->nets[i];
                const struct network_config *network = NULL;
                struct network_port *port;
                char mac[18];
                int r;

                if (net->type != MACHINE_NET_TYPE_NETWORK)
                        continue;
                r = need_networks(b, e);
                for (size_t k = 0; r == 0 && k < n && !network; k++)
                        if (streq(networks[k].name, net->network ?: "default"))
                                network = &networks[k];
                if (r == 0 && !network)
                        r = error_set(e, -ENOENT, "network-not-found", NULL, "there is no network %s",
                                      net->network ?: "default");
                if (r < 0)
                        return r;
                /* Made from the UUID, so that it stays when the name changes, and a clone has another one. */
                parts_mac(c->uuid ?: c->name, (unsigned int)i, mac);
                r = network_attach(b->networks, network, c->name, net->mac ?: mac, uid, &port, e);
                if (r < 0)
                        return r;
                if (!net->mac)
                        net->mac = strdup(mac);
                free(net->network);
                net->network = NULL;
                net->type = MACHINE_NET_TYPE_TAP;
                net->interface = TAKE_PTR(port->tap);
                if (port->address4)
                        json_array_append_new(addresses, json_string(port->address4));
                if (port->address6)
                        json_array_append_new(addresses, json_string(port->address6));
                network_port_free(port);
                if (!net->mac || !net->interface)
                        return error_set(e, -ENOMEM, "memory", NULL, "cannot attach the machine");
        }
        return 0;
}

void broker_networks_detach(struct broker *b, const char *machine, const struct network_config *networks, size_t n,
                            bool forget) {
        for (size_t i = 0; b->networks && machine && i < n; i++) {
                if (forget)
                        network_forget(b->networks, &networks[i], machine, NULL);
                else
                        network_detach(b->networks, &networks[i], machine, NULL);
        }
}
