// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * identity: who one end of a TLS connection is: a key, and a certificate that it signed itself
 *
 * Theory of operation. Nobody vouches for anybody: each end knows the other by the SHA-256 of its certificate (DER), which it got by another way, a token or
 * an enrolment. So a certificate needs no authority, no name that is looked at, and no end: what counts is whether it is the one that is known
 * (doc/adr/0018-clients-are-known-by-their-certificate.md). The handshake proves that the other end has its key.
 *
 * Key and certificate lie in one file (PEM), which appears whole or not at all, with mode 0600.
 *
 *      TLS 1.3 only (RFC 8446), no session tickets: each connection shows its certificate
 *
 * GnuTLS reads files and system settings when it is used first: lodged's worker loads its identity before it shuts itself in.
 */
#pragma once

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

#define FINGERPRINT_SIZE      32 /* SHA-256 */
#define FINGERPRINT_TEXT_SIZE (2 * FINGERPRINT_SIZE + 1)

struct identity {
        gnutls_certificate_credentials_t credentials;
        gnutls_priority_t priority;
        uint8_t fingerprint[FINGERPRINT_SIZE]; /* of our certificate */
};

/**
 * identity_load() - read one, or make it
 * @dir_fd, @name: the file
 * @whose: what the certificate says as its name; for people who look at it
 *
 * A file that is there and can't be read is an error, and stays: clients know its certificate.
 *
 * Return: 0, or -errno with @e: "tls-identity".
 */
int identity_load(int dir_fd, const char *name, const char *whose, struct identity **ret_identity, struct error *e);
void identity_free(struct identity *identity);
DEFINE_CLEANUP(identity, identity_free);

/**
 * identity_session() - one end of a connection
 * @server: and ask for the client's certificate
 * @fd:     non-blocking; stays the caller's
 */
int identity_session(const struct identity *identity, bool server, int fd, gnutls_session_t *ret_session);

/** session_fingerprint() - of the other end's certificate; -ENOENT: it has shown none. */
int session_fingerprint(gnutls_session_t session, uint8_t ret_fingerprint[static FINGERPRINT_SIZE]);

/** fingerprint_format() - 64 hexadecimal digits; returns @text. */
const char *fingerprint_format(const uint8_t fingerprint[static FINGERPRINT_SIZE],
                               char text[static FINGERPRINT_TEXT_SIZE]);

/** fingerprint_parse() - exactly that; -EINVAL. */
int fingerprint_parse(const char *text, uint8_t ret_fingerprint[static FINGERPRINT_SIZE]);

/** digest_sha256() - of @n bytes. */
int digest_sha256(const void *data, size_t n, uint8_t ret_digest[static FINGERPRINT_SIZE]);
