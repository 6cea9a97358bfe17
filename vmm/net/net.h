// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * net: the host's end of a network interface: frames out and frames in, over a tap or a socket to passt
 *
 * A frame travels with struct virtio_net_hdr_v1 (12 bytes, virtio 1.2 §5.1.6) in front, in the caller's buffers. A backend that knows no
 * offloads reads and writes it as zeroes. Neither direction waits: "not now" is -EAGAIN, and net_watch() says what to be called for.
 *
 * Threads. All calls and callbacks under the machine lock; opening and closing on the loop's own thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/sys.h"

#define NET_HEADER_SIZE 12u
#define NET_FRAME_MIN   14u
#define NET_FRAME_MAX   (65535u + 14u + 4u) /* the largest IP packet behind an Ethernet header with a VLAN tag */

struct net;

struct net_callbacks {
        void (*readable)(void *opaque);
        void (*writable)(void *opaque);
        void (*hangup)(void *opaque); /* the other side is gone for good; comes once */
};

struct net_options {
        const struct sys *sys; /* NULL: the real one */
        int fd;                /* borrowed, must outlive the backend; becomes non-blocking */
        bool offloads;         /* tap: checksum and segmentation offloads, as far as the kernel has them */
        struct loop *loop;
        const struct net_callbacks *callbacks;
        void *opaque;
};

struct net_metrics {
        uint64_t rx_frames, rx_bytes, rx_dropped; /* from the network */
        uint64_t tx_frames, tx_bytes, tx_dropped;
};

/** net_open_tap() - a tap device, attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; "net-tap". */
int net_open_tap(const struct net_options *options, struct net **ret_net, struct error *e);

/** net_open_passt() - a connected stream socket on which each frame follows its length (32 bits, big-endian); "net-socket". */
int net_open_passt(const struct net_options *options, struct net **ret_net, struct error *e);

void net_close(struct net *net);
DEFINE_CLEANUP(net, net_close);

/** net_features() - the VIRTIO_NET_F_* offload bits that the backend can serve. */
uint64_t net_features(const struct net *net);

/** net_set_features() - what the driver negotiated: which offloads may be used towards it. 0 after a reset. */
void net_set_features(struct net *net, uint64_t features);

/** net_watch() - which callbacks are wanted from now on (level-triggered). */
void net_watch(struct net *net, bool readable, bool writable);

/**
 * net_receive() - the next frame, with its header, into @iov
 * @n: at most 1024 buffers
 *
 * Return: bytes (header included; what did not fit is cut off, and then it equals the buffers' size), -EAGAIN when there is none
 * now, -EPIPE when there will be none any more.
 */
ssize_t net_receive(struct net *net, const struct iovec *iov, unsigned int n);

/**
 * net_send() - send the frame behind the header in @iov
 * @length: bytes in all, NET_HEADER_SIZE + NET_FRAME_MIN .. NET_HEADER_SIZE + NET_FRAME_MAX
 *
 * Return: 0; -EAGAIN: not taken, try again when writable; another error: dropped, and counted.
 */
int net_send(struct net *net, const struct iovec *iov, unsigned int n, size_t length);

const struct net_metrics *net_metrics(const struct net *net);
