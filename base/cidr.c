// SPDX-License-Identifier: GPL-2.0-or-later
/* cidr: see cidr.h */
#include "base/cidr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

static unsigned int family_bits(int family) {
        return family == AF_INET ? 32 : 128;
}

int cidr_parse_address(const char *text, struct cidr *ret) {
        struct cidr c = { .family = strchr(text, ':') ? AF_INET6 : AF_INET };

        if (inet_pton(c.family, text, c.address) != 1)
                return -EINVAL;
        c.bits = family_bits(c.family);
        *ret = c;
        return 0;
}

int cidr_parse(const char *text, struct cidr *ret) {
        const char *slash = strchr(text, '/');
        char address[CIDR_TEXT_MAX];
        struct cidr c;
        uint64_t bits;

        if (!slash || (size_t)(slash - text) >= sizeof(address) || strlen(slash + 1) > 3)
                return -EINVAL;
        memcpy(address, text, (size_t)(slash - text));
        address[slash - text] = '\0';
        if (cidr_parse_address(address, &c) < 0 || text_parse_uint(slash + 1, family_bits(c.family), &bits) < 0)
                return -EINVAL;
        c.bits = (unsigned int)bits;
        *ret = c;
        return 0;
}

const char *cidr_format_address(const struct cidr *c, char buf[static CIDR_TEXT_MAX]) {
        if (!inet_ntop(c->family, c->address, buf, CIDR_TEXT_MAX))
                buf[0] = '\0';
        return buf;
}

const char *cidr_format(const struct cidr *c, char buf[static CIDR_TEXT_MAX]) {
        size_t n = strlen(cidr_format_address(c, buf));

        snprintf(buf + n, CIDR_TEXT_MAX - n, "/%u", c->bits);
        return buf;
}

struct cidr cidr_network(const struct cidr *c) {
        struct cidr n = *c;

        for (unsigned int i = c->bits; i < family_bits(c->family); i++)
                n.address[i / 8] &= (uint8_t) ~(0x80u >> i % 8);
        return n;
}

struct cidr cidr_host(const struct cidr *network, uint32_t n) {
        struct cidr host = *network;
        uint8_t *low = host.address + family_bits(host.family) / 8 - 4;

        for (unsigned int i = 0; i < 4; i++)
                low[3 - i] |= (uint8_t)(n >> 8 * i);
        host.bits = family_bits(host.family);
        return host;
}

bool cidr_contains(const struct cidr *outer, const struct cidr *inner) {
        struct cidr cut = *inner;

        if (outer->family != inner->family || inner->bits < outer->bits)
                return false;
        cut.bits = outer->bits;
        cut = cidr_network(&cut);
        return memcmp(cut.address, cidr_network(outer).address, sizeof(cut.address)) == 0;
}

bool cidr_overlaps(const struct cidr *a, const struct cidr *b) {
        return cidr_contains(a, b) || cidr_contains(b, a);
}

bool cidr_is_any(const struct cidr *c) {
        static const uint8_t zero[16] = { 0 };

        return memcmp(c->address, zero, sizeof(zero)) == 0;
}

bool cidr_same_listener(const struct cidr *a, const struct cidr *b) {
        return a->family == b->family &&
               (cidr_is_any(a) || cidr_is_any(b) || memcmp(a->address, b->address, sizeof(a->address)) == 0);
}
