// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * texts: the files of a seed; see seed.h
 *
 * user-data is our #cloud-config alone, or a MIME multi-part message with the person's part first. cloud-init merges the parts in their
 * order, by what the later one asks for in merge_how: ours adds to lists (the default user to users, keys to keys), and leaves
 * alone what is there.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/cleanup.h"
#include "daemon/seed/user-data.h"

#define MERGE "dict(recurse_array,no_replace)+list(append)"

/* Takes @root over; NULL is what packing it without memory gave. */
static char *dump(json_t *root) {
        char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;

        json_decref(root);
        return text;
}

char *seed_meta_data(const struct cloud_config *config, const struct seed_machine *machine) {
        return dump(json_pack("{s:s, s:s}", "instance-id", machine->instance_id, "local-hostname",
                              config->hostname ?: machine->name));
}

/* cloud-init's default user: that of the image under another name, with what the image gives it (groups, sudo, shell). */
static json_t *pack_user(const struct cloud_config *config) {
        json_t *user = json_pack("{s:s, s:s, s:s, s:s}", "name", config->user, "gecos", config->user, "sudo",
                                 "ALL=(ALL) NOPASSWD:ALL", "shell", "/bin/bash");

        if (user && config->password_hash &&
            (json_object_set_new(user, "hashed_passwd", json_string(config->password_hash)) < 0 ||
             json_object_set_new(user, "lock_passwd", json_false()) < 0)) {
                json_decref(user);
                return NULL;
        }
        return user;
}

static char *our_part(const struct cloud_config *config) {
        json_t *root = json_pack("{s:o, s:[s], s:s, s:s}", "user", pack_user(config), "users", "default",
                                 "manage_etc_hosts", "localhost", "merge_how", MERGE);
        json_t *keys = json_array();
        _cleanup_free_ char *json = NULL;
        char *text = NULL;
        int r = root && keys ? 0 : -1;

        for (size_t i = 0; r == 0 && i < config->n_ssh_keys; i++)
                r = json_array_append_new(keys, json_string(config->ssh_keys[i]));
        if (r == 0 && config->n_ssh_keys > 0)
                r = json_object_set(root, "ssh_authorized_keys", keys);
        /* Who gives a password and no key wants to log in by it. */
        if (r == 0 && config->password_hash && config->n_ssh_keys == 0)
                r = json_object_set_new(root, "ssh_pwauth", json_true());
        json_decref(keys);
        if (r < 0) {
                json_decref(root);
                return NULL;
        }
        json = dump(root);
        return json && asprintf(&text, "#cloud-config\n%s\n", json) >= 0 ? text : NULL;
}

static int make_boundary(char ret_boundary[static 48]) {
        uint64_t random[2];

        if (getentropy(random, sizeof(random)) < 0)
                return -errno;
        snprintf(ret_boundary, 48, "lodge-%016" PRIx64 "%016" PRIx64, random[0], random[1]);
        return 0;
}

/* A part of a multi-part message; the person's own message is one as it is: its header is the part's. */
static char *make_part(const char *text, const char *type) {
        _cleanup_free_ char *body = NULL;
        char *part;

        if (!type)
                return strdup(text);
        body = base64_encode(text, strlen(text));
        if (!body || asprintf(&part,
                              "Content-Type: %s; charset=\"utf-8\"\nMIME-Version: 1.0\n"
                              "Content-Transfer-Encoding: base64\n\n%s\n",
                              type, body) < 0)
                return NULL;
        return part;
}

char *seed_user_data(const struct cloud_config *config) {
        _cleanup_free_ char *ours = our_part(config), *part = NULL, *our = NULL;
        enum user_data_kind kind;
        char boundary[48], *text;

        if (!ours || user_data_kind(config->user_data, &kind, NULL) < 0)
                return NULL;
        if (kind == USER_DATA_NONE)
                return TAKE_PTR(ours);
        part = make_part(config->user_data, kind == USER_DATA_MIME     ? NULL
                                            : kind == USER_DATA_SCRIPT ? "text/x-shellscript"
                                                                       : "text/cloud-config");
        our = make_part(ours, "text/cloud-config");
        if (!part || !our || make_boundary(boundary) < 0)
                return NULL;
        if (asprintf(&text,
                     "Content-Type: multipart/mixed; boundary=\"%s\"\nMIME-Version: 1.0\n\n"
                     "--%s\n%s\n--%s\n%s\n--%s--\n",
                     boundary, boundary, part, boundary, our, boundary) < 0)
                return NULL;
        return text;
}

/* An interface that asks for addresses. The lease belongs to the MAC address, not to what a clone has in common with its source. */
static json_t *pack_nic(const char *mac, bool waited_for) {
        return json_pack("{s:{s:s}, s:b, s:b, s:s, s:b}", "match", mac ? "macaddress" : "name", mac ?: "e*", "dhcp4", 1,
                         "dhcp6", 1, "dhcp-identifier", "mac", "optional", !waited_for);
}

char *seed_network_config(const struct cloud_config *config, const struct seed_machine *machine) {
        json_t *nics;
        char name[32];
        int r;

        if (config->network == CLOUD_NETWORK_NONE)
                return NULL;
        nics = json_object();
        r = nics ? 0 : -1;
        for (size_t i = 0; r == 0 && i < MAX(machine->n_macs, (size_t)1); i++) {
                snprintf(name, sizeof(name), "nic%zu", i);
                r = json_object_set_new(nics, name, pack_nic(machine->n_macs ? machine->macs[i] : NULL, i == 0));
        }
        if (r < 0) {
                json_decref(nics);
                return NULL;
        }
        return dump(json_pack("{s:i, s:o}", "version", 2, "ethernets", nics));
}
