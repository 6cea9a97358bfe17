// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * passt: frames over a stream socket, each behind its length in 32 bits, big-endian: what passt and `-netdev stream` speak
 *
 * From the network: one buffer takes what the socket gives, often many frames at once; each is copied out of it with a zero header
 * in front. A frame's beginning that is left over moves to the front before the next read. The buffer holds any legal frame
 * whole; a length that is not legal means that we have lost our place in the stream, and the link goes down.
 *
 * To the network: length and frame go out in one call, from guest memory. When the socket takes only a part, the rest must follow before
 * anything else, whatever the guest does meanwhile: it is copied aside, and until it is gone further frames are told to wait.
 *
 * No offloads: passt wants whole frames with checksums, and sends such.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "vmm/net/backend.h"

/* seccomp: main: recvfrom, sendmsg */
/* seccomp: main: sendto (rare) -- the rest of a frame that the socket took only in part */

#define PASST_LENGTH 4u
#define PASST_IN     (96u * 1024)
#define PASST_IOVS   1024u

_Static_assert(PASST_IN > PASST_LENGTH + NET_FRAME_MAX, "any legal frame fits");

struct passt {
        struct net net;
        bool lost; /* the stream makes no sense any more */
        size_t in_start, in_end;
        size_t out_start, out_end;
        uint8_t out[PASST_LENGTH + NET_FRAME_MAX]; /* both are touched only as far as used */
        uint8_t in[PASST_IN];
};

static struct passt *passt_of(struct net *net) {
        return CONTAINER_OF(net, struct passt, net);
}

static ssize_t passt_fill(struct passt *p) {
        ssize_t n;

        if (p->in_start > 0) {
                memmove(p->in, p->in + p->in_start, p->in_end - p->in_start);
                p->in_end -= p->in_start;
                p->in_start = 0;
        }
        do
                n = recv(p->net.fd, p->in + p->in_end, sizeof(p->in) - p->in_end, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n > 0) {
                p->in_end += (size_t)n;
                return n;
        }
        return n < 0 && errno == EAGAIN ? -EAGAIN : -EPIPE;
}

static size_t scatter(const struct iovec *iov, unsigned int n, size_t at, const void *from, size_t length) {
        size_t done = 0;

        for (unsigned int i = 0; i < n && done < length; i++) {
                size_t part;

                if (at >= iov[i].iov_len) {
                        at -= iov[i].iov_len;
                        continue;
                }
                part = MIN(iov[i].iov_len - at, length - done);
                memcpy((uint8_t *)iov[i].iov_base + at, (const uint8_t *)from + done, part);
                done += part;
                at = 0;
        }
        return done;
}

static ssize_t passt_receive(struct net *net, const struct iovec *iov, unsigned int n) {
        static const uint8_t header[NET_HEADER_SIZE] = { 0 };
        struct passt *p = passt_of(net);

        while (!p->lost) {
                size_t have = p->in_end - p->in_start, done;
                uint32_t length;
                ssize_t r;

                if (have >= PASST_LENGTH) {
                        memcpy(&length, p->in + p->in_start, sizeof(length));
                        length = ntohl(length);
                        if (length < NET_FRAME_MIN || length > NET_FRAME_MAX) {
                                log_error("net: a frame of %u bytes from passt: the link goes down", length);
                                p->lost = true;
                                break;
                        }
                        if (have >= PASST_LENGTH + length) {
                                done = scatter(iov, n, 0, header, sizeof(header));
                                done += scatter(iov, n, sizeof(header), p->in + p->in_start + PASST_LENGTH, length);
                                p->in_start += PASST_LENGTH + length;
                                return (ssize_t)done;
                        }
                }
                r = passt_fill(p);
                if (r < 0)
                        return r;
        }
        return -EPIPE;
}

static int passt_flush(struct net *net) {
        struct passt *p = passt_of(net);

        while (p->out_start < p->out_end) {
                ssize_t n =
                        send(net->fd, p->out + p->out_start, p->out_end - p->out_start, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return -EAGAIN;
                if (n < 0)
                        break; /* hung up: the loop tells */
                p->out_start += (size_t)n;
        }
        p->out_start = p->out_end = 0;
        return 0;
}

/* Copies what is behind @skip bytes of @iov aside; it fits, since the frame as a whole does. */
static void passt_keep(struct passt *p, const struct iovec *iov, size_t n, size_t skip) {
        for (size_t i = 0; i < n; i++) {
                size_t part;

                if (skip >= iov[i].iov_len) {
                        skip -= iov[i].iov_len;
                        continue;
                }
                part = MIN(iov[i].iov_len - skip, sizeof(p->out) - p->out_end);
                memcpy(p->out + p->out_end, (const uint8_t *)iov[i].iov_base + skip, part);
                p->out_end += part;
                skip = 0;
        }
}

static int passt_send(struct net *net, const struct iovec *iov, unsigned int n, size_t length) {
        struct passt *p = passt_of(net);
        uint32_t prefix = htonl((uint32_t)(length - NET_HEADER_SIZE));
        struct iovec out[PASST_IOVS + 1];
        struct msghdr msg = { .msg_iov = out, .msg_iovlen = 1 };
        size_t skip = NET_HEADER_SIZE;
        ssize_t r;

        if (n > PASST_IOVS || length - NET_HEADER_SIZE > NET_FRAME_MAX)
                return -EMSGSIZE;
        if (p->net.unsent && passt_flush(net) < 0)
                return -EAGAIN;
        p->net.unsent = false;
        out[0] = (struct iovec){ &prefix, sizeof(prefix) };
        for (unsigned int i = 0; i < n; i++) {
                if (skip >= iov[i].iov_len) {
                        skip -= iov[i].iov_len;
                        continue;
                }
                out[msg.msg_iovlen++] = (struct iovec){ (uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip };
                skip = 0;
        }
        do
                r = sendmsg(net->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;
        if ((size_t)r < PASST_LENGTH + length - NET_HEADER_SIZE) {
                passt_keep(p, out, msg.msg_iovlen, (size_t)r);
                p->net.unsent = true;
        }
        return 0;
}

static void passt_free(struct net *net) {
        free(passt_of(net));
}

static const struct net_ops passt_ops = {
        .name = "passt",
        .receive = passt_receive,
        .send = passt_send,
        .flush = passt_flush,
        .free = passt_free,
};

int net_open_passt(const struct net_options *options, struct net **ret_net, struct error *e) {
        struct passt *p;
        int type = 0, r;
        socklen_t size = sizeof(type);

        if (getsockopt(options->fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
                return error_set(e, -EINVAL, "net-socket", NULL, "the network's descriptor is no stream socket");
        p = calloc(1, sizeof(*p)); /* large enough to be mapped: pages that no frame reaches cost nothing */
        if (!p)
                return error_set(e, -ENOMEM, "net-socket", NULL, "no memory for a network interface");
        p->net.ops = &passt_ops;
        r = net_init(&p->net, &passt_ops, options);
        if (r < 0) {
                net_close(&p->net);
                return error_set(e, r, "net-socket", NULL, "cannot watch the network's socket");
        }
        *ret_net = &p->net;
        return 0;
}
