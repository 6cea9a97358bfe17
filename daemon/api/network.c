// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * network: clients that come by TLS: their handshakes, and how many there may be
 *
 * Theory of operation. A handshake is done here, on the event loop and without waiting; when it is over the connection goes to libsoup as those of the unix socket do
 * (server.c), with the fingerprint of the certificate that it has shown. All limits of server.c hold for it from then on, and before that these:
 *
 *      handshakes under way   HANDSHAKES_MAX in all, PLACE_MAX from one place (an IPv4 address, or an IPv6 /64), HANDSHAKE_NS for each: the oldest goes
 *      not known here         UNKNOWN_MAX connections: the oldest goes, whatever it does
 *      known                  KNOWN_MAX connections, CLIENT_MAX of one client: the one that waits for longest with its request goes
 *
 * So who is not known cannot keep out who is, and who comes over the network cannot keep out the host's own users. What begins with a letter is no TLS, but
 * perhaps a person who typed http: it is told so.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/api/internal.h"
#include "daemon/api/tls-stream.h"

#define HANDSHAKES_MAX  256u
#define PLACE_MAX       64u
#define HANDSHAKE_NS    10000000000ull
#define UNKNOWN_MAX     128u
#define KNOWN_MAX       1000u
#define CLIENT_MAX      500u
#define ACCEPTS_AT_ONCE 64
#define SOCKETS_MAX     16u

struct handshake {
        struct handshake *next;
        struct api *api;
        gnutls_session_t session;
        int fd;
        struct loop_source *source;
        uint64_t since, place;
        bool begun; /* a byte has come */
};

struct api_network {
        struct loop_source *listeners[SOCKETS_MAX];
        struct handshake *handshakes; /* the newest first */
        unsigned int n_handshakes;
};

/* ---- room -------------------------------------------------------------------------------------------------------------- */

static void handshake_free(struct handshake *h) {
        struct api_network *network = h->api->network;
        struct handshake **at = &network->handshakes;

        while (*at && *at != h)
                at = &(*at)->next;
        if (*at) {
                *at = h->next;
                network->n_handshakes--;
        }
        loop_source_free(h->source);
        if (h->session)
                gnutls_deinit(h->session);
        safe_close(h->fd);
        free(h);
}

static void make_room_for_handshake(struct api_network *network, uint64_t place) {
        struct handshake *oldest = NULL, *oldest_here = NULL;
        unsigned int n_here = 0;

        for (struct handshake *h = network->handshakes; h; h = h->next) {
                oldest = h;
                if (h->place == place) {
                        oldest_here = h;
                        n_here++;
                }
        }
        if (n_here >= PLACE_MAX)
                handshake_free(oldest_here);
        else if (network->n_handshakes >= HANDSHAKES_MAX)
                handshake_free(oldest);
}

/* Close the oldest of the connections that @c would be one too many of; false: none can go. */
static bool make_room_among(struct api *api, const struct api_connection *c, unsigned int max, bool same) {
        struct api_connection *oldest = NULL;
        unsigned int n = 0;

        for (struct api_connection *other = api->connections; other; other = other->next) {
                if (!other->network || other->known != c->known || other->since == UINT64_MAX ||
                    (same && memcmp(other->fingerprint, c->fingerprint, sizeof(c->fingerprint)) != 0))
                        continue;
                n++;
                if ((!c->known || (other->phase == API_FRESH && !other->lasting)) &&
                    (!oldest || other->since < oldest->since))
                        oldest = other;
        }
        if (n < max)
                return true;
        if (!oldest)
                return false;
        oldest->since = UINT64_MAX; /* not twice */
        connection_close(oldest);
        return true;
}

static bool make_room(struct api *api, const struct api_connection *c) {
        return c->known ? make_room_among(api, c, CLIENT_MAX, true) && make_room_among(api, c, KNOWN_MAX, false)
                        : make_room_among(api, c, UNKNOWN_MAX, false);
}

/* ---- handshakes -------------------------------------------------------------------------------------------------------- */

static void handshake_done(struct handshake *h) {
        struct api *api = h->api;
        struct api_connection *c = calloc(1, sizeof(*c));
        GSocket *socket = c ? g_socket_new_from_fd(h->fd, NULL) : NULL;
        struct access a;

        if (!socket) {
                free(c);
                handshake_free(h);
                return;
        }
        *c = (struct api_connection){ .uid = (uid_t)-1, .network = true, .place = h->place };
        h->fd = -EBADF; /* the socket's */
        c->certified = session_fingerprint(h->session, c->fingerprint) == 0;
        request_peer(api, c, &a);
        c->known = a.role > SCHEMA_ROLE_NONE;
        if (make_room(api, c)) {
                c->stream = g_socket_connection_factory_create_connection(socket);
                loop_source_free(TAKE_PTR(h->source));
                connection_add(api, c, tls_stream_new(c->stream, TAKE_PTR(h->session)));
        } else
                free(c);
        handshake_free(h);
        g_object_unref(socket);
}

static void refuse_plain(int fd) {
        static const char body[] =
                "{\"error\":{\"id\":\"tls\",\"message\":\"this port speaks TLS\",\"fix\":\"ask it by https\"}}";
        char answer[512], rest[4096];
        int n = snprintf(answer, sizeof(answer),
                         "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
                         "Content-Length: %zu\r\n\r\n%s",
                         sizeof(body) - 1, body);

        (void)!recv(fd, rest, sizeof(rest), MSG_DONTWAIT); /* what was not read would have the answer thrown away */
        (void)!send(fd, answer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Return: 1 it may be TLS, 0 it is not. */
static int looks_like_tls(struct handshake *h) {
        char first;

        if (h->begun || recv(h->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
                return 1;
        h->begun = true;
        if (first < 'A' || first > 'Z')
                return 1;
        refuse_plain(h->fd);
        return 0;
}

static void on_handshake(void *opaque, int fd, uint32_t events) {
        struct handshake *h = opaque;
        int r;

        if (!looks_like_tls(h)) {
                handshake_free(h);
                return;
        }
        r = gnutls_handshake(h->session);
        if (r == GNUTLS_E_SUCCESS)
                handshake_done(h);
        else if (gnutls_error_is_fatal(r)) {
                log_debug("a handshake failed: %s", gnutls_strerror(r));
                gnutls_alert_send_appropriate(h->session, r);
                handshake_free(h);
        } else
                loop_source_set_events(h->source, gnutls_record_get_direction(h->session) ? EPOLLOUT : EPOLLIN);
}

static uint64_t place_of(const struct sockaddr_storage *from) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
        uint64_t place = 0;

        if (from->ss_family == AF_INET)
                return v4->sin_addr.s_addr;
        memcpy(&place, &v6->sin6_addr, sizeof(place));
        return place;
}

/* A key and its echo are small, and people wait for them; a host that has vanished is noticed within two minutes. */
static void socket_tune(int fd) {
        static const struct {
                int level, option, value;
        } options[] = {
                { IPPROTO_TCP, TCP_NODELAY, 1 },    { SOL_SOCKET, SO_KEEPALIVE, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 60 },
                { IPPROTO_TCP, TCP_KEEPINTVL, 15 }, { IPPROTO_TCP, TCP_KEEPCNT, 4 },
        };

        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                setsockopt(fd, options[i].level, options[i].option, &options[i].value, sizeof(options[i].value));
}

static void handshake_begin(struct api *api, int fd, uint64_t place) {
        struct api_network *network = api->network;
        struct handshake *h = calloc(1, sizeof(*h));

        if (!h) {
                close(fd);
                return;
        }
        make_room_for_handshake(network, place);
        *h = (struct handshake){ .api = api, .fd = fd, .since = clock_ns(), .place = place };
        h->next = network->handshakes;
        network->handshakes = h;
        network->n_handshakes++;
        socket_tune(fd);
        if (identity_session(api->o.identity, true, fd, &h->session) < 0 ||
            loop_add_fd(api->o.loop, fd, EPOLLIN, on_handshake, h, &h->source) < 0)
                handshake_free(h);
}

static void on_accept(void *opaque, int listen_fd, uint32_t events) {
        struct api *api = opaque;

        for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
                struct sockaddr_storage from;
                socklen_t n = sizeof(from);
                int fd = accept4(listen_fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0)
                        handshake_begin(api, fd, place_of(&from));
                else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                        for (size_t k = 0; k < SOCKETS_MAX && api->network->listeners[k]; k++)
                                loop_source_set_events(api->network->listeners[k], 0); /* until the next sweep */
                        return;
                } else if (errno == EAGAIN)
                        return;
        }
}

/* ---- begin and end ------------------------------------------------------------------------------------------------------ */

void network_sweep(struct api *api) {
        struct api_network *network = api->network;
        uint64_t now = clock_ns();

        if (!network)
                return;
        for (struct handshake *h = network->handshakes, *next; h; h = next) {
                next = h->next;
                if (now - h->since > HANDSHAKE_NS)
                        handshake_free(h);
        }
        for (size_t i = 0; i < SOCKETS_MAX && network->listeners[i]; i++)
                loop_source_set_events(network->listeners[i], EPOLLIN);
}

int network_begin(struct api *api, struct error *e) {
        const struct worker_config *c = api->o.config;
        int r = 0;

        if (!api->o.identity)
                return 0;
        api->network = calloc(1, sizeof(*api->network));
        if (!api->network)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot answer requests");
        for (size_t i = 0; i < c->n_network_fds && i < SOCKETS_MAX && r == 0; i++)
                r = loop_add_fd(api->o.loop, (int)c->network_fds[i], EPOLLIN, on_accept, api,
                                &api->network->listeners[i]);
        return r;
}

void network_end(struct api *api) {
        struct api_network *network = api->network;

        if (!network)
                return;
        while (network->handshakes)
                handshake_free(network->handshakes);
        for (size_t i = 0; i < SOCKETS_MAX; i++)
                loop_source_free(network->listeners[i]);
        free(network);
        api->network = NULL;
}
