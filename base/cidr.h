// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cidr: IP addresses with the length of a prefix, of both families in one type
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct cidr {
        int family;          /* AF_INET or AF_INET6 */
        uint8_t address[16]; /* in network order; of IPv4 the first four bytes, the rest 0 */
        unsigned int bits;   /* of the prefix: 0..32 or 0..128 */
};

#define CIDR_TEXT_MAX 52 /* an address, "/128" and a NUL */

/** cidr_parse() - "10.91.7.0/24", "fd12::/64"; the length must be there; -EINVAL. */
int cidr_parse(const char *text, struct cidr *ret);

/** cidr_parse_address() - "10.91.7.1", "fd12::1": bits are 32 or 128; -EINVAL. */
int cidr_parse_address(const char *text, struct cidr *ret);

/** cidr_format() - as cidr_parse() reads it; returns @buf. */
const char *cidr_format(const struct cidr *c, char buf[static CIDR_TEXT_MAX]);

/** cidr_format_address() - the address alone; returns @buf. */
const char *cidr_format_address(const struct cidr *c, char buf[static CIDR_TEXT_MAX]);

/** cidr_network() - the same with the bits behind the prefix cleared. */
struct cidr cidr_network(const struct cidr *c);

/** cidr_host() - address number @n of a network whose low 32 bits are free to be added to; bits are 32 or 128. */
struct cidr cidr_host(const struct cidr *network, uint32_t n);

/** cidr_contains() - does @outer's prefix hold all of @inner? */
bool cidr_contains(const struct cidr *outer, const struct cidr *inner);

/** cidr_overlaps() - is there an address in both? */
bool cidr_overlaps(const struct cidr *a, const struct cidr *b);

/** cidr_is_any() - 0.0.0.0 or ::, whatever the length. */
bool cidr_is_any(const struct cidr *c);

/** cidr_same_listener() - of one family, and the same address or one of them any: would both want the same packets? */
bool cidr_same_listener(const struct cidr *a, const struct cidr *b);
