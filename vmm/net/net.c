// SPDX-License-Identifier: GPL-2.0-or-later
/* net: see net.h. Here: readiness and counting. */
#include "vmm/net/net.h"

#include <errno.h>
#include <sys/epoll.h>

#include "base/io.h"
#include "vmm/net/backend.h"

static void net_ready(void *opaque, int fd, uint32_t events) {
        struct net *net = opaque;

        if (events & (EPOLLERR | EPOLLHUP)) {
                loop_source_free(net->source);
                net->source = NULL;
                net->callbacks->hangup(net->opaque);
                return;
        }
        if (events & EPOLLOUT) {
                if (net->unsent)
                        net->unsent = net->ops->flush(net) == -EAGAIN;
                if (!net->unsent && net->want_writable)
                        net->callbacks->writable(net->opaque);
                net_update(net);
        }
        if ((events & EPOLLIN) && net->want_readable)
                net->callbacks->readable(net->opaque);
}

int net_init(struct net *net, const struct net_ops *ops, const struct net_options *options) {
        int r = io_set_nonblock(options->fd, 1);

        net->ops = ops;
        net->sys = options->sys ?: &sys_real;
        net->fd = options->fd;
        net->callbacks = options->callbacks;
        net->opaque = options->opaque;
        return r < 0 ? r : loop_add_fd(options->loop, net->fd, 0, net_ready, net, &net->source);
}

void net_update(struct net *net) {
        uint32_t events = (net->want_readable ? EPOLLIN : 0) | (net->want_writable || net->unsent ? EPOLLOUT : 0);

        if (!net->source || events == net->events)
                return;
        net->events = events;
        loop_source_set_events(net->source, events);
}

void net_close(struct net *net) {
        if (!net)
                return;
        loop_source_free(net->source);
        net->ops->free(net);
}

uint64_t net_features(const struct net *net) {
        return net->features;
}

void net_set_features(struct net *net, uint64_t features) {
        if (net->ops->set_features)
                net->ops->set_features(net, features & net->features);
}

void net_watch(struct net *net, bool readable, bool writable) {
        net->want_readable = readable;
        net->want_writable = writable;
        net_update(net);
}

ssize_t net_receive(struct net *net, const struct iovec *iov, unsigned int n) {
        ssize_t r = net->ops->receive(net, iov, n);

        if (r > 0) {
                net->metrics.rx_frames++;
                net->metrics.rx_bytes += (uint64_t)r - MIN((uint64_t)r, (uint64_t)NET_HEADER_SIZE);
        }
        return r;
}

int net_send(struct net *net, const struct iovec *iov, unsigned int n, size_t length) {
        int r = net->ops->send(net, iov, n, length);

        net_update(net);
        if (r == 0) {
                net->metrics.tx_frames++;
                net->metrics.tx_bytes += length - NET_HEADER_SIZE;
        } else if (r != -EAGAIN) {
                net->metrics.tx_dropped++;
        }
        return r;
}

const struct net_metrics *net_metrics(const struct net *net) {
        return &net->metrics;
}
