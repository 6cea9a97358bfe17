// SPDX-License-Identifier: GPL-2.0-or-later
/* address: see address.h */
#include "base/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define HOST_MAX 255

int address_split(const char *text, char **ret_host, const char **ret_port) {
        const char *colon = strrchr(text, ':'), *host = text;
        size_t n = colon ? (size_t)(colon - text) : 0;
        uint64_t port;
        char *own;

        if (n == 0 || text_parse_uint(colon + 1, 65535, &port) < 0)
                return -EINVAL;
        if (host[0] == '[' && host[n - 1] == ']') {
                host++;
                n -= 2;
        } else if (memchr(host, ':', n))
                return -EINVAL;
        if (n == 0 || n > HOST_MAX)
                return -EINVAL;
        for (size_t i = 0; i < n; i++)
                if (host[i] <= ' ' || host[i] > '~' || strchr("[]/,", host[i]))
                        return -EINVAL;
        own = strndup(host, n);
        if (!own)
                return -ENOMEM;
        *ret_host = own;
        *ret_port = colon + 1;
        return 0;
}

int address_join(const struct sockaddr *address, char **ret_text) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        char host[INET6_ADDRSTRLEN];
        char *text = NULL;
        int n;

        if (address->sa_family == AF_INET && inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host)))
                n = asprintf(&text, "%s:%u", host, ntohs(v4->sin_port));
        else if (address->sa_family == AF_INET6 && inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host)))
                n = asprintf(&text, "[%s]:%u", host, ntohs(v6->sin6_port));
        else
                return -EAFNOSUPPORT;
        if (n < 0)
                return -ENOMEM;
        *ret_text = text;
        return 0;
}

bool address_is_any(const struct sockaddr *address) {
        if (address->sa_family == AF_INET)
                return ((const struct sockaddr_in *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
        return address->sa_family == AF_INET6 &&
               IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
}
