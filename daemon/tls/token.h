// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * token: what a person carries from a server to a client, so that each knows the other
 *
 *      lodge1_BASE64URL of {"secret": 64 hex digits, "fingerprint": 64 hex digits, "addresses": ["192.0.2.1:8443", ...]}
 *
 * One word of letters, digits, "-" and "_": a double click takes all of it, and no shell changes it. The fingerprint is the server's: the client looks at it
 * before it says anything. The secret lets one client in, once; the server keeps its SHA-256 only.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/tls/identity.h"

#define TOKEN_SECRET_SIZE   32
#define TOKEN_ADDRESSES_MAX 16
#define TOKEN_TEXT_MAX      8192

struct token {
        uint8_t secret[TOKEN_SECRET_SIZE], fingerprint[FINGERPRINT_SIZE];
        char **addresses;
        size_t n_addresses;
};

/** token_format() - the word; allocated. -ENOMEM, -EIO. */
int token_format(const struct token *token, char **ret_text);

/** token_parse() - what a person has given us; blanks around it are fine. -EINVAL "token", -ENOMEM. */
int token_parse(const char *text, struct token **ret_token, struct error *e);

void token_free(struct token *token);
DEFINE_CLEANUP(token, token_free);
