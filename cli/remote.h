// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * remote: daemons on other hosts, as this user's lodge knows them
 *
 *      ~/.config/lodge/remotes/NAME.json       addresses, the fingerprint of its certificate, what we may do there
 *      ~/.config/lodge/remotes/NAME.pem        our key and certificate for it
 *
 * Theory of operation. Each remote has a key of its own: who is let in no longer at one server makes another key for it, and no two servers can tell that they have the same
 * client. The key is there first, then the server lets it in, then the .json makes the remote exist: killed in between, `lodge remote add` with the same
 * token goes on where it was. Both files appear whole or not at all, with mode 0600.
 */
#pragma once

#include <jansson.h>

#include "cli/http.h"
#include "daemon/tls/identity.h"
#include "daemon/tls/token.h"
#include "schema/lodge-schema.h"

#define REMOTE_LOCAL "local" /* the name of no remote: this host */

struct remote {
        struct remote_config *config;
        struct identity *identity;
        uint8_t fingerprint[FINGERPRINT_SIZE]; /* the server's */
        size_t reached;                        /* which of its addresses answered last */
};

/** remote_load() - one that was added; -ENOENT "remote-unknown". */
int remote_load(const char *name, struct remote **ret_remote, struct error *e);

/** remote_new() - one that a token tells of, not yet kept; its key is made, or found. -EEXIST "remote-exists". */
int remote_new(const char *name, const struct token *token, struct remote **ret_remote, struct error *e);

/** remote_save() - keep it, the address that answered first. */
int remote_save(struct remote *remote, struct error *e);

/** remote_delete() - forget it and its key; -ENOENT "remote-unknown". */
int remote_delete(const char *name, struct error *e);

/** remote_list() - a remote_page, as JSON. */
int remote_list(json_t **ret_page, struct error *e);

void remote_free(struct remote *remote);
DEFINE_CLEANUP(remote, remote_free);

/**
 * remote_connect() - reach it at one of its addresses
 * @h: gets socket and TLS
 * Return: 0, -ECONNREFUSED "remote-connect": no address answers; -EKEYREJECTED "remote-certificate": it is another server; -EPROTO "remote-tls".
 */
int remote_connect(struct remote *remote, struct http *h, struct error *e);
