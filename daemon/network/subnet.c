// SPDX-License-Identifier: GPL-2.0-or-later
/* subnet: see subnet.h */
#include "daemon/network/subnet.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"

uint64_t hash_text(const char *text, uint64_t seed) {
        uint64_t h = 14695981039346656037u ^ seed;

        for (const char *p = text; *p; p++)
                h = (h ^ (uint8_t)*p) * 1099511628211u;
        h = (h ^ h >> 33) * 0xff51afd7ed558ccdu; /* short names differ in few bits: let all of them count */
        h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
        return h ^ h >> 33;
}

/* Usual elsewhere, so that a VPN or a container network is likely to come up there some day. */
static const struct cidr usual[] = {
        { AF_INET, { 10, 0 }, 14 },      /* QEMU's user network, VPNs, the first subnets of every office */
        { AF_INET, { 10, 42 }, 15 },     /* k3s: pods and services */
        { AF_INET, { 10, 88 }, 15 },     /* Podman */
        { AF_INET, { 10, 96 }, 12 },     /* Kubernetes services */
        { AF_INET, { 10, 244 }, 16 },    /* Flannel */
        { AF_INET, { 172, 16 }, 12 },    /* Docker */
        { AF_INET, { 192, 168, 0 }, 16 } /* home routers, libvirt */
};

static bool overlaps_any(const struct cidr *c, const struct cidr *list, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (list[i].bits > 0 && cidr_overlaps(c, &list[i]))
                        return true;
        return false;
}

int subnet_choose(const struct cidr *used, size_t n_used, uint64_t seed, struct cidr *ret) {
        static const struct cidr ranges[] = {
                { AF_INET, { 10 }, 8 },
                { AF_INET, { 172, 16 }, 12 },
                { AF_INET, { 192, 168 }, 16 },
        };

        for (int pass = 0; pass < 2; pass++)
                for (size_t k = 0; k < ELEMENTSOF(ranges); k++) {
                        uint32_t n = 1u << (24 - ranges[k].bits);

                        /* An odd step visits each of 2^k numbers once; this one is far from any simple fraction of them. */
                        for (uint32_t i = 0; i < n; i++) {
                                uint32_t number = ((uint32_t)seed + i * 40503u) & (n - 1);
                                struct cidr c = cidr_host(&ranges[k], number << 8);

                                c.bits = 24;
                                if (overlaps_any(&c, used, n_used) ||
                                    (pass == 0 && overlaps_any(&c, usual, ELEMENTSOF(usual))))
                                        continue;
                                *ret = c;
                                return 0;
                        }
                }
        return -EADDRNOTAVAIL;
}

int subnet_random6(struct cidr *ret) {
        struct cidr c = { .family = AF_INET6, .address = { 0xfd }, .bits = 64 };

        if (getrandom(c.address + 1, 5, 0) != 5)
                return -EIO;
        *ret = c;
        return 0;
}

int subnet_place(const struct cidr *subnet, const char *machine, const uint32_t *taken, size_t n_taken,
                 uint32_t *ret_number) {
        uint32_t n = (1u << (32 - subnet->bits)) - 3, start = (uint32_t)(hash_text(machine, 0) % n);

        for (uint32_t i = 0; i < n; i++) {
                uint32_t number = 2 + (start + i) % n;
                bool is_taken = false;

                for (size_t k = 0; k < n_taken && !is_taken; k++)
                        is_taken = taken[k] == number;
                if (!is_taken) {
                        *ret_number = number;
                        return 0;
                }
        }
        return -ENOSPC;
}
