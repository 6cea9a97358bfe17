// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * verify: is that signed by one of these keys?
 *
 * gpgv, shut in (PROGRAM), with a keyring that holds the source's keys and nothing else: no user's keyring is looked at. It must say VALIDSIG and
 * GOODSIG, and nothing about a key or a signature that has expired or was revoked.
 */
#pragma once

#include "base/error.h"

/** verify_detached() - @signature_fd: of @data_fd, both whole files, that nobody else writes (shut_in_seal()). Return: 0, -EBADMSG "fetch-signature", -errno. */
int verify_detached(const char *keys, int data_fd, int signature_fd, struct error *e);

/**
 * verify_inline() - of a text that carries its signature (RFC 4880 §7)
 * @ret_fd: what the signature covers, and nothing that stands before or behind it; a file in memory, sealed
 */
int verify_inline(const char *keys, int data_fd, int *ret_fd, struct error *e);

/** keyring_of_armour() - the bytes in blocks of ASCII armour, allocated; -EINVAL where there is no key. */
int keyring_of_armour(const char *text, unsigned char **ret_data, size_t *ret_n);
