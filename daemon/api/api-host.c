// SPDX-License-Identifier: GPL-2.0-or-later
/* api-host: requests about what the host has for machines: images, pools, networks. Most are the broker's to answer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api/internal.h"

/* ---- passing on ------------------------------------------------------------------------------------------------------ */

struct pass {
        struct api_request *q;
        api_handler then;
};

static int answer_reply(struct api_request *q, const json_t *json, struct error *e) {
        _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);
        const struct schema_object *schema = q->route->answer;
        void *object;
        int r = text ? schema_parse(schema, text, strlen(text), &object, NULL) : -ENOMEM;

        if (r < 0)
                return error_set(e, r == -EINVAL ? -EIO : r, "broker-answer", NULL,
                                 "the broker's answer cannot be understood");
        r = api_answer(q, object);
        schema_free(schema, object);
        return r;
}

static void on_passed(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct pass *p = opaque;
        struct api_request *q = p->q;
        int r;

        if (!e) {
                r = p->then ? p->then(q, &own) : answer_reply(q, reply->json, &own);
                if (r < 0)
                        e = &own;
        }
        free(p);
        if (e)
                api_answer_error(q, e);
}

int api_pass_then(struct api_request *q, const char *op, json_t *args, api_handler then, struct error *e) {
        struct pass *p = calloc(1, sizeof(*p));

        if (!p) {
                json_decref(args);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the broker");
        }
        *p = (struct pass){ q, then };
        if (broker_call(q->api->o.broker, op, args, NULL, on_passed, p, NULL) < 0) {
                free(p);
                return broker_gone(e);
        }
        return 1;
}

int api_pass(struct api_request *q, const char *op, json_t *args, struct error *e) {
        return api_pass_then(q, op, args, NULL, e);
}

/* ---- images ---------------------------------------------------------------------------------------------------------- */

int api_image_list(struct api_request *q, struct error *e) {
        return api_pass(q, "image-list", NULL, e);
}

int api_image_show(struct api_request *q, struct error *e) {
        const struct image_query *how = q->query;

        return api_pass(q, "image-find", json_pack("{s:s, s:b}", "name", q->parameters[0], "verify", how->verify), e);
}

int api_image_delete(struct api_request *q, struct error *e) {
        int r = machine_image_unused(q->api->o.machines, q->parameters[0], e);

        if (r < 0)
                return r;
        return api_pass_then(q, "image-delete", json_pack("{s:s}", "name", q->parameters[0]), api_image_list, e);
}

int api_image_build(struct api_request *q, struct error *e) {
        const struct image_build_request *how = q->body;
        char *id;
        int r = machine_image_build(q->api->o.machines, how, &q->caller, &id, e);

        return r < 0 ? r : api_answer_operation(q, id, e);
}

/* ---- pools ----------------------------------------------------------------------------------------------------------- */

int api_pool_show(struct api_request *q, struct error *e) {
        return api_pass(q, "volume-list", json_pack("{s:s}", "pool", q->parameters[0]), e);
}

int api_volume_delete(struct api_request *q, struct error *e) {
        _cleanup_free_ char *owner = NULL;
        int r = machine_volume_owner(q->api->o.machines, q->parameters[1], &owner, e);

        if (r < 0)
                return r;
        if (owner) {
                error_set(e, -EBUSY, "volume-in-use", NULL, "volume %s is the disk of machine %s", q->parameters[1],
                          owner);
                error_set_fix(e, "delete the machine with its disks: lodge delete %s --disks", owner);
                return -EBUSY;
        }
        return api_pass_then(q, "volume-delete",
                             json_pack("{s:s, s:s}", "pool", q->parameters[0], "name", q->parameters[1]), api_pool_show,
                             e);
}

/* ---- networks -------------------------------------------------------------------------------------------------------- */

static int list_network(void *opaque, const struct store_object *o) {
        struct network_page *page = opaque;
        struct network_config *c, *item;

        if (network_config_parse(o->config, strlen(o->config), &c, NULL) < 0)
                return 0;
        if (network_page_add_items(page, &item) < 0) {
                network_config_free(c);
                return -ENOMEM;
        }
        schema_clear(&network_config_schema, item);
        *item = *c;
        free(c);
        return 0;
}

int api_network_list(struct api_request *q, struct error *e) {
        _cleanup_(network_page_freep) struct network_page *page = NULL;
        int r;

        if (network_page_new(&page) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot list the networks");
        r = store_object_each(q->api->o.store, "network", "", list_network, page, e);
        return r < 0 ? r : api_answer(q, page);
}

static int network_args(struct api_request *q, json_t **ret_args, struct error *e) {
        json_t *config;
        int r = machine_network_load(q->api->o.machines, q->parameters[0], &config, e);

        if (r < 0)
                return r;
        *ret_args = json_pack("{s:o}", "network", config);
        return *ret_args ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot look at the network");
}

int api_network_show(struct api_request *q, struct error *e) {
        json_t *args;
        int r = network_args(q, &args, e);

        return r < 0 ? r : api_pass(q, "network-status", args, e);
}

static void on_network(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct api_request *q = opaque;

        if (!e && (machine_network_keep(q->api->o.machines, json_object_get(reply->json, "network"), &own) < 0 ||
                   api_network_list(q, &own) < 0))
                e = &own;
        if (e)
                api_answer_error(q, e);
}

int api_network_define(struct api_request *q, struct error *e) {
        struct network_config *c = q->body;
        _cleanup_free_ char *text = network_config_format(c);
        json_t *config = text ? json_loads(text, 0, NULL) : NULL;
        json_auto_t *now = NULL;

        /* The ports of machines that run stay theirs, unless others are named. */
        if (c->n_forwards == 0 && machine_network_load(q->api->o.machines, c->name, &now, NULL) == 0 &&
            json_object_get(now, "forwards"))
                json_object_set(config, "forwards", json_object_get(now, "forwards"));
        if (broker_call(q->api->o.broker, "network-up", json_pack("{s:o}", "network", config), NULL, on_network, q,
                        NULL) < 0)
                return broker_gone(e);
        return 1;
}

static int network_forget(struct api_request *q, struct error *e) {
        int r = store_object_delete(q->api->o.store, "network", "", q->parameters[0], 0, e);

        return r < 0 ? r : api_network_list(q, e);
}

int api_network_delete(struct api_request *q, struct error *e) {
        json_t *args;
        int r = machine_network_unused(q->api->o.machines, q->parameters[0], e);

        if (r == 0)
                r = network_args(q, &args, e);
        return r < 0 ? r : api_pass_then(q, "network-delete", args, network_forget, e);
}
