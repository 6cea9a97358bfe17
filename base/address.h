// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * address: "192.0.2.1:8443", "[2001:db8::1]:8443", "host.example:8443"
 *
 * Only taken apart here; what a host is the resolver decides, or who listens.
 */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

/**
 * address_split() - host and port of a text
 * @ret_host: without brackets; allocated
 * @ret_port: digits, inside @text
 *
 * A host with a colon in it must stand in brackets. Return: 0, -EINVAL, -ENOMEM.
 */
int address_split(const char *text, char **ret_host, const char **ret_port);

/** address_join() - a socket's address as such a text; allocated. -EAFNOSUPPORT, -ENOMEM. */
int address_join(const struct sockaddr *address, char **ret_text);

/** address_is_any() - does it stand for all of the host's? */
bool address_is_any(const struct sockaddr *address);
