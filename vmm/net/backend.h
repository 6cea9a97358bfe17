// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * backend: what a kind of network provides to net.c
 */
#pragma once

#include "vmm/net/net.h"

struct net_ops {
        const char *name;
        ssize_t (*receive)(struct net *net, const struct iovec *iov, unsigned int n);
        int (*send)(struct net *net, const struct iovec *iov, unsigned int n, size_t length);
        void (*set_features)(struct net *net, uint64_t features); /* may be NULL */
        int (*flush)(struct net *net); /* send what was kept; -EAGAIN while some is left; may be NULL */
        void (*free)(struct net *net);
};

/* A backend's own structure begins with this. */
struct net {
        const struct net_ops *ops;
        const struct sys *sys;
        int fd;
        uint64_t features;
        struct loop_source *source; /* NULL after a hang-up */
        uint32_t events;
        bool want_readable, want_writable;
        bool unsent; /* flush() has work */
        const struct net_callbacks *callbacks;
        void *opaque;
        struct net_metrics metrics;
};

/** net_init() - the common part of an instance: non-blocking, on the loop. */
int net_init(struct net *net, const struct net_ops *ops, const struct net_options *options);

/** net_update() - wait for what is wanted and unsent now. */
void net_update(struct net *net);
