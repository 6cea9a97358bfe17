// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vhost-user: the front end's side of the vhost-user protocol, over a connected unix socket
 *
 * The front end (we) owns guest memory and the device that the guest sees; the back end (another process) works on virtqueues in
 * memory that we share with it. A message is a header of three 32-bit words (request, flags, size) and a payload, in host byte
 * order; descriptors travel beside it. The specification is QEMU's docs/interop/vhost-user.rst, "the protocol" below.
 *
 * Theory of operation. The back end is not trusted. Every call sends one message and, where the protocol has an answer to it, waits
 * for that answer until the peer's deadline, which vhost_user_allow() sets for a whole sequence of calls. The answer must be of the kind, size
 * and version that was asked for; anything else is -EPROTO. After any error the stream can't be relied on: close it. With
 * REPLY_ACK, requests without an answer of their own are acknowledged, so that a back end that refuses one is found at once.
 *
 * Threads: one at a time; the caller sees to it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define VHOST_USER_REGIONS_MAX         8 /* "Memory regions description" */
#define VHOST_USER_CONFIG_MAX          256

#define VHOST_USER_F_PROTOCOL_FEATURES 30 /* a bit of the device's features */

enum vhost_user_protocol_feature {
        VHOST_USER_PROTOCOL_F_MQ = 0,
        VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
        VHOST_USER_PROTOCOL_F_CONFIG = 9,
};

struct vhost_user {
        int fd;                     /* -EBADF: not connected */
        uint64_t features;          /* what the device offers: VIRTIO_*_F_* */
        uint64_t protocol_features; /* what both sides have */
        unsigned int n_queues;      /* the most that the back end can serve, at least 1 */
        uint64_t deadline_ns;       /* clock_ns() at which it counts as dead */
};

/* A piece of memory that the back end may map. Descriptors' addresses are @address too: the front end's own. */
struct vhost_user_region {
        void *address;
        uint64_t size, offset; /* bytes; offset in @fd */
        int fd;                /* borrowed */
};

struct vhost_user_ring {
        unsigned int size; /* entries */
        const void *desc, *avail, *used;
        int kick_fd, call_fd; /* eventfds, borrowed */
};

/**
 * vhost_user_ask() - ask the parent for a connection to the back end; see vhost_user_answer()
 * @parent_fd: a SOCK_SEQPACKET socket, non-blocking. We may not connect to anything (vmm/sandbox), the parent may.
 *
 * Return: 0; -EPIPE when the parent is gone, or another -errno.
 */
int vhost_user_ask(int parent_fd);

/** vhost_user_answer() - a descriptor, non-blocking; -EAGAIN: not yet; -ENOTCONN: nobody listens; -EPIPE: the parent is gone. */
int vhost_user_answer(int parent_fd);

/** vhost_user_allow() - from now on, answers may take @ms milliseconds in all. */
void vhost_user_allow(struct vhost_user *v, unsigned int ms);

/**
 * vhost_user_greet() - become the owner and negotiate protocol features ("Starting and stopping rings", "Protocol features")
 * @socket_fd:          from vhost_user_answer(); the peer owns it from here, whatever happens
 * @ms:                 as for vhost_user_allow()
 *
 * Return: 0; -ENOTSUP when the back end has no protocol features or not CONFIG among them, and like every call below -EPROTO (an answer
 * that breaks the rules), -EREMOTEIO (it refused), -ETIMEDOUT (silence), -EPIPE (it hung up), or another -errno.
 */
int vhost_user_greet(struct vhost_user *v, int socket_fd, unsigned int ms);

/** vhost_user_close() - hang up; closing again is fine. */
void vhost_user_close(struct vhost_user *v);

/** vhost_user_reason() - what one of these errors (an errno, positive) means, for a message about the back end: "it hung up". */
const char *vhost_user_reason(int error);

/** vhost_user_get_config() - read the first @size bytes (1..VHOST_USER_CONFIG_MAX) of the device's configuration space. */
int vhost_user_get_config(struct vhost_user *v, void *buf, size_t size);

/** vhost_user_set_features() - what was negotiated; PROTOCOL_FEATURES is added. */
int vhost_user_set_features(struct vhost_user *v, uint64_t features);

/** vhost_user_set_memory() - all that the back end may map: 1..VHOST_USER_REGIONS_MAX regions. */
int vhost_user_set_memory(struct vhost_user *v, const struct vhost_user_region *regions, size_t n);

/** vhost_user_start_ring() - ring @index (below n_queues) begins at its first entry, and is enabled. */
int vhost_user_start_ring(struct vhost_user *v, unsigned int index, const struct vhost_user_ring *ring);

/** vhost_user_stop_ring() - GET_VRING_BASE: the back end takes nothing more from the ring. */
int vhost_user_stop_ring(struct vhost_user *v, unsigned int index);
