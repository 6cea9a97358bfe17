// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * networks: what machines are attached to, as the store keeps it: objects of kind "network", each a network_config in JSON
 *
 * A network comes into being when the first machine wants it: "default" by itself, others by name when a person has made them. What the broker chooses for it
 * (bridge, subnets) is kept here, so that it stays. Its forwards are those of the machines that run: a start adds a machine's published ports, its end takes
 * them away. A daemon may be killed between the store and the host, so the next one renews the forwards, and removes a network that was put up and is not in the store.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/machine/internal.h"
#include "schema/publish.h"

#define KIND "network"

/* A machine without interfaces gets one: of network default, or user networking in a session daemon. */
static int default_net(const struct machines *ms, struct machine_definition *d, struct error *e) {
        struct machine_net_config *net;

        if (d->base.n_nets > 0)
                return 0;
        if (machine_config_add_nets(&d->base, &net) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot add a network");
        net->type = ms->scope == API_SCOPE_SYSTEM ? MACHINE_NET_TYPE_NETWORK : MACHINE_NET_TYPE_USER;
        return 0;
}

int machine_network_load(struct machines *ms, const char *name, json_t **ret_config, struct error *e) {
        _cleanup_(store_object_freep) struct store_object *o = NULL;
        int r = store_object_find(ms->store, KIND, "", name, &o, NULL);

        if (r == -ENOENT && streq(name, "default")) {
                *ret_config = json_pack("{s:s}", "name", name);
                return *ret_config ? 0 : -ENOMEM;
        }
        if (r < 0)
                return error_set(e, r, "network-not-found", "lodge network list shows them", "there is no network %s",
                                 name);
        *ret_config = json_loads(o->config, 0, NULL);
        return *ret_config ? 0 : error_set(e, -EUCLEAN, "store-content", NULL, "network %s cannot be read", name);
}

int machine_network_keep(struct machines *ms, const json_t *config, struct error *e) {
        _cleanup_free_ char *text = json_dumps(config, JSON_COMPACT);
        const char *name = json_string_value(json_object_get(config, "name"));
        struct store_object o = { .kind = (char *)KIND, .project = (char *)"", .name = (char *)name, .config = text };
        int r;

        if (!text || !name)
                return -ENOMEM;
        r = store_object_update(ms->store, &o, 0, NULL);
        return r == -ENOENT ? store_object_add(ms->store, &o, e) : r;
}

struct search {
        struct machines *ms;
        const char *name;
        char *found;
};

static int attached(void *opaque, const struct store_machine *row) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        struct search *s = opaque;

        if (machine_definition_load(row, &d, NULL) < 0 || default_net(s->ms, d, NULL) < 0)
                return 0;
        for (size_t i = 0; i < d->base.n_nets; i++)
                if (d->base.nets[i].type == MACHINE_NET_TYPE_NETWORK &&
                    streq(d->base.nets[i].network ?: "default", s->name)) {
                        s->found = strdup(row->name);
                        return 1;
                }
        return 0;
}

int machine_network_unused(struct machines *ms, const char *name, struct error *e) {
        const struct store_machine_filter all = { .whole = true };
        struct search s = { ms, name, NULL };
        int r = store_machine_each(ms->store, &all, attached, &s, e);

        if (r >= 0 && s.found)
                r = error_set(e, -EBUSY, "network-in-use", "delete the machine, or give it another network",
                              "network %s is used by machine %s", name, s.found);
        free(s.found);
        return r < 0 ? r : 0;
}

/* Also by default: see default_net(). */
static bool in_a_network(const struct machines *ms, const struct machine_definition *d) {
        if (d->base.n_nets == 0)
                return ms->scope == API_SCOPE_SYSTEM;
        for (size_t i = 0; i < d->base.n_nets; i++)
                if (d->base.nets[i].type == MACHINE_NET_TYPE_NETWORK)
                        return true;
        return false;
}

struct namesake {
        struct machines *ms;
        const char *project, *name;
        bool found;
};

static int is_namesake(void *opaque, const struct store_machine *row) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        struct namesake *n = opaque;

        if (!streq(row->name, n->name) || streq(row->project, n->project))
                return 0;
        n->found = machine_definition_load(row, &d, NULL) < 0 || in_a_network(n->ms, d);
        return n->found;
}

int networks_name_free(struct machines *ms, const char *project, const char *name, const struct machine_definition *d,
                       struct error *e) {
        const struct store_machine_filter filter = { .name_prefix = name, .whole = true };
        struct namesake n = { ms, project, name, false };
        int r = 0;

        if (ms->scope == API_SCOPE_SYSTEM && in_a_network(ms, d))
                r = store_machine_each(ms->store, &filter, is_namesake, &n, e);
        if (r >= 0 && n.found)
                r = error_set(e, -EEXIST, "network-name", "give it another name, or no interface in a network",
                              "another project has a machine %s, and networks know machines by their names", name);
        return r < 0 ? r : 0;
}

/* The machine's forwards in a network become @publish, or none. */
static int set_forwards(json_t *config, const char *machine, const struct machine_config *publish) {
        json_t *old = json_object_get(config, "forwards"), *forwards = json_array(), *item;
        size_t i;

        json_array_foreach(old, i, item) {
                const char *name = json_string_value(json_object_get(item, "machine"));

                if (name && !streq(name, machine))
                        json_array_append(forwards, item);
        }
        for (i = 0; publish && i < publish->n_publish; i++) {
                struct publish p;

                if (publish_parse(publish->publish[i], &p) == 0)
                        json_array_append_new(forwards,
                                              json_pack("{s:s, s:s*, s:i, s:s, s:i}", "protocol", p.udp ? "udp" : "tcp",
                                                        "host_address", p.address[0] ? p.address : NULL, "host_port",
                                                        p.host_port, "machine", machine, "machine_port", p.port));
        }
        return json_object_set_new(config, "forwards", forwards);
}

int machine_networks(struct machines *ms, struct machine_definition *d, json_t **ret_list, struct error *e) {
        json_auto_t *list = json_array();
        int r = default_net(ms, d, e);

        for (size_t i = 0; i < d->base.n_nets && r == 0; i++) {
                const struct machine_net_config *net = &d->base.nets[i];
                json_t *config;

                if (net->type != MACHINE_NET_TYPE_NETWORK)
                        continue;
                r = machine_network_load(ms, net->network ?: "default", &config, e);
                if (r == 0)
                        json_array_append_new(list, config);
        }
        if (r == 0)
                *ret_list = json_incref(list);
        return r;
}

int machine_networks_of(struct machines *ms, const struct store_machine *row, struct machine_definition **ret_d,
                        json_t **ret_list, struct error *e) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        int r = machine_definition_load(row, &d, e);

        if (r == 0)
                r = machine_networks(ms, d, ret_list, e);
        if (r == 0)
                *ret_d = TAKE_PTR(d);
        return r;
}

/* ---- a start's step --------------------------------------------------------------------------------------------------- */

static int up_next(struct operation *op, struct error *e);

/* What the broker has chosen for a network, with the forwards of now: another machine may have begun or ended while it was put up. */
static int keep_chosen(struct machines *ms, json_t *chosen, struct error *e) {
        json_auto_t *now = NULL;
        const char *name = json_string_value(json_object_get(chosen, "name"));
        json_t *forwards;

        if (!name)
                return error_set(e, -EPROTO, "broker-answer", NULL, "the broker's answer names no network");
        if (machine_network_load(ms, name, &now, NULL) == 0) {
                forwards = json_object_get(now, "forwards");
                json_object_set_new(chosen, "forwards", forwards ? json_incref(forwards) : json_array());
        }
        return machine_network_keep(ms, chosen, e);
}

static void on_up(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct operation *op = opaque;
        struct machines *ms = op->context;
        json_t *note;
        size_t i;
        int r;

        if (e) {
                operation_step_done(op, e);
                return;
        }
        r = keep_chosen(ms, json_object_get(reply->json, "network"), &own);
        json_array_foreach(json_object_get(reply->json, "warnings"), i, note) {
                const char *id = json_string_value(json_object_get(note, "id"));

                if (id && streq(id, "forward-waits")) /* for this very start, as a rule */
                        continue;
                operation_warn(op, "network: %s; fix: %s", json_string_value(json_object_get(note, "message")) ?: "",
                               json_string_value(json_object_get(note, "fix")) ?: "none known");
        }
        json_array_foreach(json_object_get(reply->json, "repairs"), i, note) {
                operation_warn(op, "network: repaired: %s", json_string_value(json_object_get(note, "message")) ?: "");
        }
        json_object_set_new(op->args, "networks_up",
                            json_integer(json_integer_value(json_object_get(op->args, "networks_up")) + 1));
        op->call = 0;
        if (r == 0)
                r = up_next(op, &own);
        if (r <= 0)
                operation_step_done(op, r < 0 ? &own : NULL);
}

/* Return: 1 when a network is being put up, 0 when all are, -errno. */
static int up_next(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *list = NULL;
        json_t *config;
        int r = store_machine_find(ms->store, NULL, op->row->target_uuid, &row, e);

        if (r == 0)
                r = machine_networks_of(ms, row, &d, &list, e);
        if (r < 0)
                return r;
        config = json_array_get(list, (size_t)json_integer_value(json_object_get(op->args, "networks_up")));
        if (!config)
                return 0;
        /* Published ports go to the machine's first network. */
        if (config == json_array_get(list, 0) && d->base.n_publish > 0) {
                set_forwards(config, row->name, &d->base);
                r = machine_network_keep(ms, config, e); /* for others that start now */
                if (r < 0)
                        return r;
        }
        if (broker_call(ms->broker, "network-up", json_pack("{s:O}", "network", config), NULL, on_up, op, &op->call) <
            0)
                return broker_gone(e);
        return 1;
}

int networks_run(struct operation *op, struct error *e) {
        json_object_set_new(op->args, "networks_up", json_integer(0));
        return up_next(op, e);
}

static void on_ignored(void *opaque, const struct error *e, struct wire_message *reply) {
        if (e)
                log_warning("published ports are not withdrawn: %s", e->message ?: "?");
}

/* Kept is what may be in force, which may be more than what the machine was started with. */
static bool has_forwards(const json_t *config, const char *machine) {
        json_t *item;
        size_t i;

        json_array_foreach(json_object_get(config, "forwards"), i, item) {
                const char *name = json_string_value(json_object_get(item, "machine"));

                if (name && streq(name, machine))
                        return true;
        }
        return false;
}

void networks_withdraw(struct machines *ms, const struct store_machine *row) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *list = NULL;
        json_t *config;
        size_t i;

        if (machine_definition_parse(row->running ?: row->config, strlen(row->running ?: row->config), &d, NULL) < 0 ||
            machine_networks(ms, d, &list, NULL) < 0)
                return;
        json_array_foreach(list, i, config) {
                if (!has_forwards(config, row->name) || set_forwards(config, row->name, NULL) < 0 ||
                    machine_network_keep(ms, config, NULL) < 0 || !json_object_get(config, "subnet"))
                        continue;
                broker_call(ms->broker, "network-forwards", json_pack("{s:O}", "network", config), NULL, on_ignored,
                            NULL, NULL);
        }
}

/* The machine's first network, with the ports that its definition publishes now; NULL: it is attached to none of ours. */
static int republished(struct machines *ms, const char *uuid, json_t **ret_config) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *list = NULL;
        json_t *config;
        int r = store_machine_find(ms->store, NULL, uuid, &row, NULL);

        if (r == 0)
                r = machine_networks_of(ms, row, &d, &list, NULL);
        config = r == 0 ? json_array_get(list, 0) : NULL;
        *ret_config = NULL;
        if (!config || !json_object_get(config, "subnet"))
                return r;
        r = set_forwards(config, row->name, &d->base);
        if (r == 0)
                *ret_config = json_incref(config);
        return r;
}

int networks_republish(struct machines *ms, const char *uuid, broker_reply_fn fn, void *opaque, uint64_t *ret_call) {
        json_auto_t *config = NULL;
        int r = republished(ms, uuid, &config);

        if (r < 0 || !config)
                return r;
        r = broker_call(ms->broker, "network-forwards", json_pack("{s:O}", "network", config), NULL, fn, opaque,
                        ret_call);
        return r < 0 ? r : 1;
}

int networks_keep_published(struct machines *ms, const char *uuid) {
        json_auto_t *config = NULL;
        int r = republished(ms, uuid, &config);

        return r < 0 || !config ? r : machine_network_keep(ms, config, NULL);
}

int networks_undo(struct operation *op, struct error *e) {
        struct machines *ms = op->context;
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;

        if (store_machine_find(ms->store, NULL, op->row->target_uuid, &row, NULL) == 0)
                networks_withdraw(ms, row);
        return 0;
}

/* ---- what a daemon that was killed left -------------------------------------------------------------------------------- */

static int add_name(void *opaque, const struct store_object *o) {
        return json_array_append_new(opaque, json_string(o->name));
}

int network_names(struct machines *ms, json_t **ret_names) {
        json_auto_t *names = json_array();
        int r = store_object_each(ms->store, KIND, "", add_name, names, NULL);

        if (r == 0)
                *ret_names = json_incref(names);
        return r;
}

/* The ports that machines publish in a network: those that run, and those that a reboot is about to start again. */
struct published {
        struct machines *ms;
        json_t *config;
};

static int add_published(void *opaque, const struct store_machine *row) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        struct published *p = opaque;
        const struct operation *op = operation_of_target(p->ms->operations, row->uuid);
        const char *text = live_find(p->ms, row->uuid)      ? row->running
                           : op && op->kind == &reboot_kind ? row->config
                                                            : NULL;
        json_auto_t *list = NULL;
        const char *first;

        if (!text || machine_definition_parse(text, strlen(text), &d, NULL) < 0 || d->base.n_publish == 0 ||
            machine_networks(p->ms, d, &list, NULL) < 0)
                return 0;
        first = json_string_value(json_object_get(json_array_get(list, 0), "name"));
        if (first && streq(first, json_string_value(json_object_get(p->config, "name"))))
                set_forwards(p->config, row->name, &d->base);
        return 0;
}

static void on_forwards(void *opaque, const struct error *e, struct wire_message *reply) {
        if (e) /* it is down, as after a boot of the host: its next machine puts it up */
                log_debug("a network's forwards are not renewed: %s", e->message ?: "?");
}

static void on_swept(void *opaque, const struct error *e, struct wire_message *reply) {
        if (e)
                log_warning("networks that nobody knows cannot be removed: %s", e->message ?: "?");
}

void networks_sweep(struct machines *ms) {
        json_t *names;

        if (ms->scope == API_SCOPE_SYSTEM && network_names(ms, &names) == 0)
                broker_call(ms->broker, "networks-keep", json_pack("{s:o}", "names", names), NULL, on_swept, NULL,
                            NULL);
}

void networks_renew(struct machines *ms) {
        const struct store_machine_filter whole = { .whole = true };
        json_auto_t *names = NULL;
        json_t *name;
        size_t i;

        if (ms->scope != API_SCOPE_SYSTEM || network_names(ms, &names) < 0)
                return;
        json_array_foreach(names, i, name) {
                json_auto_t *config = NULL, *before = NULL;
                struct published p = { .ms = ms };

                if (machine_network_load(ms, json_string_value(name), &config, NULL) < 0 ||
                    !json_object_get(config, "subnet"))
                        continue;
                before = json_incref(json_object_get(config, "forwards"));
                p.config = config;
                json_object_set_new(config, "forwards", json_array());
                if (store_machine_each(ms->store, &whole, add_published, &p, NULL) < 0)
                        continue;
                if (!json_equal(before, json_object_get(config, "forwards")))
                        machine_network_keep(ms, config, NULL);
                broker_call(ms->broker, "network-forwards", json_pack("{s:O}", "network", config), NULL, on_forwards,
                            NULL, NULL);
        }
}

json_t *machine_end_args(struct machines *ms, const struct store_machine *row) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        json_auto_t *list = NULL;

        if (machine_networks_of(ms, row, &d, &list, NULL) < 0)
                list = json_array();
        return json_pack("{s:s, s:s, s:O}", "uuid", row->uuid, "name", row->name, "networks", list);
}
