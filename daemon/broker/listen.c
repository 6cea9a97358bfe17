// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * listen: the sockets that listen on the network (--listen): opened once, here, before there is a worker, which has no right to make any
 *
 * What is accepted from them the worker speaks TLS with. A socket for all addresses of the host can be reached at each of them, so these are
 * looked up, for tokens to say where the server is.
 */
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/log.h"
#include "daemon/broker/broker.h"

#define BACKLOG 1024

static int address_add(struct broker *b, const struct sockaddr *address) {
        char *text;
        int r;

        if (b->n_addresses == BROKER_ADDRESSES_MAX)
                return 0;
        r = address_join(address, &text);
        if (r == 0)
                b->addresses[b->n_addresses++] = text;
        return r;
}

/* An address of the host that others may reach it by: not of this host or this link only. */
static bool is_far(const struct ifaddrs *i, int family) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP) ||
            (i->ifa_flags & IFF_LOOPBACK))
                return false;
        return family != AF_INET6 || !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)i->ifa_addr)->sin6_addr);
}

/* Both kinds of socket address have the port at the same place. */
static int addresses_of_all(struct broker *b, int family, in_port_t port) {
        const size_t before = b->n_addresses;
        struct ifaddrs *list;
        int r = getifaddrs(&list) < 0 ? -errno : 0;

        if (r < 0)
                return r;
        for (const struct ifaddrs *i = list; i && r == 0; i = i->ifa_next)
                if (is_far(i, family)) {
                        ((struct sockaddr_in *)i->ifa_addr)->sin_port = port;
                        r = address_add(b, i->ifa_addr);
                }
        /* A host without a network is reached by itself only. */
        for (const struct ifaddrs *i = list; i && r == 0 && b->n_addresses == before; i = i->ifa_next)
                if (i->ifa_addr && i->ifa_addr->sa_family == family) {
                        ((struct sockaddr_in *)i->ifa_addr)->sin_port = port;
                        r = address_add(b, i->ifa_addr);
                }
        freeifaddrs(list);
        return r;
}

static int addresses_note(struct broker *b, int fd) {
        struct sockaddr_storage own;
        struct sockaddr *address = (struct sockaddr *)&own;
        socklen_t n = sizeof(own);

        if (getsockname(fd, address, &n) < 0)
                return -errno;
        return address_is_any(address)
                       ? addresses_of_all(b, address->sa_family, ((struct sockaddr_in *)address)->sin_port)
                       : address_add(b, address);
}

static int socket_open(const struct addrinfo *a) {
        _cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const int on = 1;

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
            (a->ai_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
            bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int listen_one(struct broker *b, const char *text, struct error *e) {
        const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                        .ai_socktype = SOCK_STREAM };
        _cleanup_free_ char *host = NULL;
        struct addrinfo *found;
        const char *port;
        int fd, r = address_split(text, &host, &port);

        if (r < 0 || getaddrinfo(host, port, &hints, &found) != 0)
                return error_set(e, r < 0 ? r : -EINVAL, "listen", "as 192.0.2.1:8443, 0.0.0.0:8443 or [::]:8443",
                                 "--listen %s is no address of a host with a port", text);
        fd = socket_open(found);
        freeaddrinfo(found);
        if (fd < 0)
                return error_set(e, fd, "listen",
                                 "ip address lists the host's addresses, ss -ltnp what listens already",
                                 "cannot listen on %s", text);
        b->network_fds[b->n_network_fds++] = fd;
        r = addresses_note(b, fd);
        return r < 0 ? error_set(e, r, "listen", NULL, "cannot tell where %s can be reached", text) : 0;
}

int broker_listen(struct broker *b, struct error *e) {
        int r = 0;

        for (size_t i = 0; i < b->options->n_listen && i < BROKER_NETWORK_FDS_MAX && r == 0; i++)
                r = listen_one(b, b->options->listen[i], e);
        for (size_t i = 0; i < b->n_addresses && r == 0; i++)
                log_info("lodged listens on %s, with TLS", b->addresses[i]);
        return r;
}

void broker_listen_end(struct broker *b) {
        while (b->n_network_fds > 0)
                safe_close(b->network_fds[--b->n_network_fds]);
        while (b->n_addresses > 0)
                free(b->addresses[--b->n_addresses]);
}
