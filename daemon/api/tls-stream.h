// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tls-stream: a TLS session as a stream of GIO's, for libsoup
 *
 * Theory of operation. GnuTLS works on the socket without ever waiting, from the one thread that everything here runs on: GIO's own TLS streams do a handshake
 * in a thread of a small pool, where a few clients who stall would keep all others out. The handshake is over when a stream is made (network.c). What GnuTLS has
 * decrypted and nobody has taken yet makes the stream readable, whatever the socket says.
 *
 * A write that could not go out whole has been encrypted already: the next one sends the rest of that, and says how much of what its caller gives again has
 * gone. GIO's contract is that callers do give the same again.
 */
#pragma once

#include <gio/gio.h>
#include <gnutls/gnutls.h>

/**
 * tls_stream_new() - a stream over a session whose handshake is done
 * @base:    its connection; a reference is taken
 * @session: taken over, and ended with the stream
 */
GIOStream *tls_stream_new(GSocketConnection *base, gnutls_session_t session);
