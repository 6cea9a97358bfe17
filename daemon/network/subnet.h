// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * subnet: which addresses a network and its machines get. Pure functions: no system calls but for randomness
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cidr.h"

/** hash_text() - FNV-1a of 64 bits, mixed; for names that must be the same again, never against an attacker. */
uint64_t hash_text(const char *text, uint64_t seed);

/**
 * subnet_choose() - a /24 that overlaps none of @used
 * @used: addresses with their prefix, routes, other networks, of any family; default routes (/0) are passed over
 * @seed: where to begin: the same seed and the same @used give the same subnet
 *
 * 10/8 comes first, then 172.16/12, then 192.168/16, each in an order that jumps about; what home routers, containers and other
 * hypervisors like to use comes last. Return: 0, or -EADDRNOTAVAIL.
 */
int subnet_choose(const struct cidr *used, size_t n_used, uint64_t seed, struct cidr *ret);

/** subnet_random6() - a /64 of fd00::/8: 40 random bits, subnet 0 (RFC 4193 §3.2). Return: 0 or -errno. */
int subnet_random6(struct cidr *ret);

/**
 * subnet_place() - the number of a machine's address in a subnet: 2 .. 2^(32-bits)-2, derived from its name
 * @taken: numbers that others have
 * Return: 0, or -ENOSPC.
 */
int subnet_place(const struct cidr *subnet, const char *machine, const uint32_t *taken, size_t n_taken,
                 uint32_t *ret_number);
