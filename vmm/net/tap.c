// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tap: a network interface of the host whose other end is this descriptor
 *
 * The parent opens /dev/net/tun and attaches it; we only read and write. With IFF_VNET_HDR the kernel speaks the guest's own header, so
 * frames pass between guest memory and the kernel as they are: checksums that the guest left out are computed by the NIC or by nobody,
 * and a 64 KiB segment is one read or write. TUNSETOFFLOAD says what we may be given; it follows what the driver negotiated.
 *
 * A frame that the kernel refuses (a bad header, an interface that is down) is dropped, as a cable would.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "vmm/net/backend.h"

/* seccomp: main: readv, writev */
/* seccomp: main,vcpu: ioctl arg1=TUNSETOFFLOAD -- follows what the driver negotiates, and a reset */

#define BIT(n) (1ull << (n))

static const struct {
        unsigned int guest; /* may be given to the driver */
        unsigned int host;  /* the driver may give us */
        unsigned int flag;
} offloads[] = {
        { VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM, TUN_F_CSUM },
        { VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4 },
        { VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6 },
        { VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN, TUN_F_TSO_ECN },
        { VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO, TUN_F_UFO },
};

static ssize_t tap_receive(struct net *net, const struct iovec *iov, unsigned int n) {
        ssize_t r;

        do
                r = readv(net->fd, iov, (int)n);
        while (r < 0 && errno == EINTR);
        if (r > 0)
                return r;
        return r < 0 && errno == EAGAIN ? -EAGAIN : -EPIPE;
}

static int tap_send(struct net *net, const struct iovec *iov, unsigned int n, size_t length) {
        ssize_t r;

        do
                r = writev(net->fd, iov, (int)n);
        while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : 0;
}

static void tap_set_features(struct net *net, uint64_t features) {
        unsigned int flags = 0;

        /* Everything stands on checksums (virtio 1.2 §5.1.3.1). */
        for (size_t i = 0; i < ELEMENTSOF(offloads) && (features & BIT(VIRTIO_NET_F_GUEST_CSUM)); i++)
                if (features & BIT(offloads[i].guest))
                        flags |= offloads[i].flag;
        if (net->sys->ioctl(net->fd, TUNSETOFFLOAD, (unsigned long)flags) < 0)
                (void)net->sys->ioctl(net->fd, TUNSETOFFLOAD, 0ul);
}

static void tap_free(struct net *net) {
        free(net);
}

static const struct net_ops tap_ops = {
        .name = "tap",
        .receive = tap_receive,
        .send = tap_send,
        .set_features = tap_set_features,
        .free = tap_free,
};

/* Which offloads has this kernel? Without UFO on some. */
static uint64_t tap_probe(struct net *net) {
        unsigned int all = 0, left;
        uint64_t features = 0;

        for (size_t i = 0; i < ELEMENTSOF(offloads); i++)
                all |= offloads[i].flag;
        left = all;
        if (net->sys->ioctl(net->fd, TUNSETOFFLOAD, (unsigned long)left) < 0) {
                left &= ~(unsigned int)TUN_F_UFO;
                if (net->sys->ioctl(net->fd, TUNSETOFFLOAD, (unsigned long)left) < 0)
                        left = 0;
        }
        for (size_t i = 0; i < ELEMENTSOF(offloads); i++)
                if (left & offloads[i].flag)
                        features |= BIT(offloads[i].guest) | BIT(offloads[i].host);
        return features;
}

static int tap_setup(struct net *net, const struct net_options *options, struct error *e) {
        struct ifreq ifr = { 0 };
        int size = NET_HEADER_SIZE, r;

        r = net_init(net, &tap_ops, options);
        if (r < 0)
                return error_set(e, r, "net-tap", NULL, "cannot watch the tap");
        if (net->sys->ioctl(net->fd, TUNGETIFF, &ifr) < 0)
                return error_set(e, -errno, "net-tap", "attach it with TUNSETIFF first", "the descriptor is no tap");
        if ((ifr.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) != (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
                return error_set(e, -EINVAL, "net-tap", "attach it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR",
                                 "tap %.*s has the wrong mode", IFNAMSIZ, ifr.ifr_name);
        if (net->sys->ioctl(net->fd, TUNSETVNETHDRSZ, &size) < 0)
                return error_set(e, -errno, "net-tap", NULL, "cannot set the header's size of tap %.*s", IFNAMSIZ,
                                 ifr.ifr_name);
        if (options->offloads)
                net->features = tap_probe(net);
        tap_set_features(net, 0);
        log_debug("net: tap %.*s, offloads %#llx", IFNAMSIZ, ifr.ifr_name, (unsigned long long)net->features);
        return 0;
}

int net_open_tap(const struct net_options *options, struct net **ret_net, struct error *e) {
        struct net *net = calloc(1, sizeof(*net));
        int r;

        if (!net)
                return error_set(e, -ENOMEM, "net-tap", NULL, "no memory for a tap");
        net->ops = &tap_ops;
        r = tap_setup(net, options, e);
        if (r < 0) {
                net_close(net);
                return r;
        }
        *ret_net = net;
        return 0;
}
