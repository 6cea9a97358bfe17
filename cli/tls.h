// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tls: the client's side of a TLS connection to a daemon whose certificate is known
 *
 * It lies below http.c, which does the waiting. The server's certificate is compared with the one that is known before anything of ours is sent, our own
 * certificate too.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "daemon/tls/identity.h"

struct tls;

/**
 * tls_open() - do the handshake
 * @fd:          a connected socket, non-blocking; stays the caller's
 * @fingerprint: of the server's certificate
 * @stop_fd:     readable when waiting should end, or -EBADF
 *
 * Return: 0, -EKEYREJECTED: it is another server, or one that took its place; -EPROTO with the reason in *@ret_reason (static): the other side
 * does not do it as it should; -ETIMEDOUT, -ECANCELED, -errno.
 */
int tls_open(const struct identity *identity, int fd, const uint8_t fingerprint[static FINGERPRINT_SIZE],
             int timeout_ms, int stop_fd, struct tls **ret_tls, const char **ret_reason);

/** tls_close() - say goodbye; NULL is fine. */
void tls_close(struct tls *tls);
DEFINE_CLEANUP(tls, tls_close);

/** tls_read(), tls_write() - bytes, 0 at the end, -EAGAIN: wait for the socket and try the same again; -errno. */
ssize_t tls_read(struct tls *tls, void *buf, size_t n);
ssize_t tls_write(struct tls *tls, const void *buf, size_t n);

/** tls_pending() - is something there to be read, whatever the socket says? */
bool tls_pending(const struct tls *tls);
