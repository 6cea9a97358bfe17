// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-net: a network interface (virtio 1.2 §5.1)
 *
 *      queue 0: frames to the driver      queue 1: frames from it      queue 2: commands
 *
 * Theory of operation. A frame goes between the driver's buffers and the backend (vmm/net) without a stop; the 12-byte header in front
 * is the backend's to fill and to read.
 *
 * To the driver. Nobody knows how long the next frame is before it is read, and with MRG_RXBUF it may take many of the driver's
 * buffers. So buffers are taken from the ring ahead of time and held in `held`, in their order: enough for the largest frame if the driver has
 * so many. One read fills them from the front; those it reached are handed back, with their number in the first one's header, and the rest
 * stays for the next frame. What does not fit goes into `spill`: with MRG_RXBUF the frame waits there for more buffers, otherwise it is
 * dropped and counted. Without any buffer, the backend is not watched until the driver brings some.
 *
 * From the driver. Chains are sent until the backend says "not now"; that chain goes back to the ring and the backend is watched.
 *
 * Both directions stop after NET_BUDGET frames and continue in the loop's next round, so that a busy link leaves the disks their turn.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/lodge-schema.h"
#include "vmm/device/device.h"
#include "vmm/net/net.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

#define BIT(n)         (1ull << (n))

#define NET_QUEUE_SIZE 256u
#define NET_BUDGET     64u
#define HELD_MAX       64u  /* chains for one frame */
#define HELD_IOVS      256u /* buffers in them */
#define SPILL_SIZE     (NET_HEADER_SIZE + NET_FRAME_MAX)

enum { QUEUE_RX, QUEUE_TX, QUEUE_CONTROL, QUEUE_COUNT };

_Static_assert(sizeof(struct virtio_net_hdr_v1) == NET_HEADER_SIZE, "virtio 1.2 §5.1.6");

struct held {
        uint16_t head;
        uint16_t n_iov;
        uint32_t size; /* bytes in its buffers */
};

struct nic {
        struct device device;
        struct virtio_device virtio;
        struct virtio_pci *proxy;
        struct net *net;
        struct loop_source *again; /* timer: more work is left */
        struct virtio_net_config config;

        struct held held[HELD_MAX];
        unsigned int n_held, n_iov;
        size_t held_size;
        struct iovec iov[HELD_IOVS + 1]; /* of the held chains, one after the other; one more for the spill */
        uint8_t *spill;                  /* SPILL_SIZE; touched only when used */
        size_t waiting;                  /* length of the frame whose end is in the spill, or 0 */
        size_t in_held;                  /* bytes of it that are in the held buffers already */

        bool rx_starved;  /* the backend is not watched: no buffers */
        bool tx_blocked;  /* the backend is watched for writing */
        uint64_t dropped; /* too long for the driver's buffers */
};

static struct nic *nic_of(struct virtio_device *virtio) {
        return CONTAINER_OF(virtio, struct nic, virtio);
}

static void nic_watch(struct nic *n) {
        net_watch(n->net, n->virtio.running && !n->rx_starved, n->virtio.running && n->tx_blocked);
}

static bool nic_mergeable(const struct nic *n) {
        return virtio_device_has(&n->virtio, VIRTIO_NET_F_MRG_RXBUF);
}

/* How many bytes of buffers are worth holding: the largest frame that the backend may give. */
static size_t nic_wanted(const struct nic *n) {
        uint64_t large = BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_UFO);

        if (!nic_mergeable(n))
                return 1; /* one chain */
        if (n->virtio.driver_features & large)
                return SPILL_SIZE;
        return NET_HEADER_SIZE + NET_FRAME_MIN + 4u + n->config.mtu;
}

/* Take one more chain from the ring into `held`: 1, 0 when there is none, -ENOBUFS when there is no place for it, -EPROTO. */
static int hold_one(struct nic *n) {
        struct virtq *q = &n->virtio.queues[QUEUE_RX];
        struct virtq_chain chain;
        int r;

        if (n->n_held == HELD_MAX)
                return -ENOBUFS;
        r = virtq_pop(q, &chain);
        if (r <= 0)
                return r;
        if (chain.n_writable > HELD_IOVS - n->n_iov && n->n_held > 0) {
                virtq_unpop(q);
                return -ENOBUFS;
        }
        if (chain.n_writable > HELD_IOVS || chain.writable < NET_HEADER_SIZE)
                return -EPROTO; /* §5.1.6.3.1: room for the header at least */
        memcpy(n->iov + n->n_iov, chain.iov + chain.n_readable, chain.n_writable * sizeof(struct iovec));
        n->held[n->n_held++] = (struct held){
                .head = chain.head,
                .n_iov = (uint16_t)chain.n_writable,
                .size = (uint32_t)chain.writable,
        };
        n->n_iov += chain.n_writable;
        n->held_size += chain.writable;
        return 1;
}

static void held_write(struct nic *n, size_t at, const void *from, size_t length) {
        size_t done = 0;

        for (unsigned int i = 0; i < n->n_iov && done < length; i++) {
                size_t part;

                if (at >= n->iov[i].iov_len) {
                        at -= n->iov[i].iov_len;
                        continue;
                }
                part = MIN(n->iov[i].iov_len - at, length - done);
                memcpy((uint8_t *)n->iov[i].iov_base + at, (const uint8_t *)from + done, part);
                done += part;
                at = 0;
        }
}

/* The first @length bytes of the held buffers are a frame: give those buffers to the driver. */
static void held_deliver(struct nic *n, size_t length) {
        unsigned int used = 0, n_iov = 0;
        size_t size = 0;
        uint16_t count;

        for (; size < length; used++) {
                size += n->held[used].size;
                n_iov += n->held[used].n_iov;
        }
        count = (uint16_t)used; /* little-endian, as the host */
        held_write(n, offsetof(struct virtio_net_hdr_v1, num_buffers), &count, sizeof(count));
        for (unsigned int i = 0; i < used; i++) {
                uint32_t part = (uint32_t)MIN((size_t)n->held[i].size, length);

                virtq_push(&n->virtio.queues[QUEUE_RX], n->held[i].head, part);
                length -= part;
        }
        n->n_held -= used;
        n->n_iov -= n_iov;
        n->held_size -= size;
        memmove(n->held, n->held + used, n->n_held * sizeof(n->held[0]));
        memmove(n->iov, n->iov + n_iov, n->n_iov * sizeof(n->iov[0]));
}

/* Move the waiting frame's end from the spill into buffers that have come since. True when no frame waits any more. */
static bool spill_empty(struct nic *n) {
        if (n->held_size > n->in_held) {
                size_t part = MIN(n->held_size, n->waiting) - n->in_held;

                held_write(n, n->in_held, n->spill, part);
                n->in_held += part;
                if (n->in_held < n->waiting)
                        memmove(n->spill, n->spill + part, n->waiting - n->in_held);
        }
        if (n->in_held < n->waiting)
                return false;
        held_deliver(n, n->waiting);
        n->waiting = 0;
        return true;
}

/* One frame from the backend: 1, 0 when there was none, -EPIPE when there will be none. */
static int receive_one(struct nic *n) {
        ssize_t length;

        n->iov[n->n_iov] = (struct iovec){ .iov_base = n->spill, .iov_len = SPILL_SIZE };
        length = net_receive(n->net, n->iov, n->n_iov + 1);
        if (length < 0)
                return length == -EPIPE ? -EPIPE : 0;
        if ((size_t)length < NET_HEADER_SIZE + NET_FRAME_MIN)
                return 1; /* runt */
        if ((size_t)length <= n->held_size) {
                held_deliver(n, (size_t)length);
        } else if (nic_mergeable(n) && (size_t)length <= n->held_size + SPILL_SIZE) {
                n->waiting = (size_t)length;
                n->in_held = n->held_size;
        } else {
                n->dropped++;
        }
        return 1;
}

static void nic_link_down(struct nic *n) {
        if (!(n->config.status & VIRTIO_NET_S_LINK_UP))
                return;
        n->config.status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
        if (virtio_device_has(&n->virtio, VIRTIO_NET_F_STATUS))
                virtio_device_config_changed(&n->virtio);
}

static void nic_rx(struct nic *n) {
        bool starved = false;
        unsigned int budget = NET_BUDGET;
        int r = 1;

        while (n->virtio.running && r > 0) {
                int more = 1;

                if (budget-- == 0) {
                        loop_timer_set(n->again, 0);
                        break;
                }
                while (more > 0 && n->held_size < MAX(nic_wanted(n), n->waiting))
                        more = hold_one(n);
                if (more == -EPROTO) {
                        virtio_device_needs_reset(&n->virtio);
                        break;
                }
                if (more == -ENOBUFS && n->waiting > n->held_size) { /* it will never fit */
                        n->waiting = 0;
                        n->dropped++;
                }
                if (n->n_held == 0 || (n->waiting && !spill_empty(n))) {
                        starved = true;
                        break;
                }
                if (n->n_held > 0)
                        r = receive_one(n);
        }
        virtio_device_notify_queue(&n->virtio, QUEUE_RX);
        n->rx_starved = starved || r == -EPIPE;
        if (r == -EPIPE)
                nic_link_down(n);
        nic_watch(n);
}

static void nic_tx(struct nic *n) {
        struct virtq *q = &n->virtio.queues[QUEUE_TX];
        struct virtq_chain chain;

        n->tx_blocked = false;
        for (unsigned int budget = NET_BUDGET; n->virtio.running; budget--) {
                int r;

                if (budget == 0) {
                        loop_timer_set(n->again, 0);
                        break;
                }
                r = virtq_pop(q, &chain);
                if (r == 0)
                        break;
                if (r < 0 || chain.readable < NET_HEADER_SIZE) {
                        virtio_device_needs_reset(&n->virtio);
                        break;
                }
                if (chain.readable < NET_HEADER_SIZE + NET_FRAME_MIN ||
                    chain.readable > NET_HEADER_SIZE + NET_FRAME_MAX || !(n->config.status & VIRTIO_NET_S_LINK_UP)) {
                        n->dropped++;
                } else if (net_send(n->net, chain.iov, chain.n_readable, (size_t)chain.readable) == -EAGAIN) {
                        virtq_unpop(q);
                        n->tx_blocked = true;
                        break;
                }
                virtq_push(q, chain.head, 0);
        }
        virtio_device_notify_queue(&n->virtio, QUEUE_TX);
        nic_watch(n);
}

/* One command (§5.1.6.5): class, command, data; the answer is the last byte. */
static uint8_t control_command(struct nic *n, const struct virtq_chain *chain) {
        struct virtio_net_ctrl_hdr header;
        uint8_t mac[ETH_ALEN], mode;
        size_t at = sizeof(header);

        if (virtq_chain_read(chain, 0, &header, sizeof(header)) < sizeof(header))
                return VIRTIO_NET_ERR;
        switch (header.class) {
        case VIRTIO_NET_CTRL_RX: /* we filter nothing, so every mode is right (§5.1.6.5.1) */
                if (!virtio_device_has(&n->virtio, VIRTIO_NET_F_CTRL_RX) || header.cmd > VIRTIO_NET_CTRL_RX_ALLMULTI ||
                    virtq_chain_read(chain, at, &mode, 1) < 1)
                        return VIRTIO_NET_ERR;
                return VIRTIO_NET_OK;
        case VIRTIO_NET_CTRL_MAC:
                if (header.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
                        return virtio_device_has(&n->virtio, VIRTIO_NET_F_CTRL_RX) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
                if (header.cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET ||
                    !virtio_device_has(&n->virtio, VIRTIO_NET_F_CTRL_MAC_ADDR) || chain->readable != at + sizeof(mac))
                        return VIRTIO_NET_ERR;
                virtq_chain_read(chain, at, mac, sizeof(mac));
                memcpy(n->config.mac, mac, sizeof(mac));
                return VIRTIO_NET_OK;
        default:
                return VIRTIO_NET_ERR;
        }
}

static void nic_control(struct nic *n) {
        struct virtq *q = &n->virtio.queues[QUEUE_CONTROL];
        struct virtq_chain chain;

        for (unsigned int budget = NET_BUDGET; n->virtio.running; budget--) {
                uint8_t ack;
                int r;

                if (budget == 0) {
                        loop_timer_set(n->again, 0);
                        break;
                }
                r = virtq_pop(q, &chain);
                if (r == 0)
                        break;
                if (r < 0 || chain.writable < sizeof(ack)) {
                        virtio_device_needs_reset(&n->virtio);
                        break;
                }
                ack = control_command(n, &chain);
                virtq_chain_write(&chain, 0, &ack, sizeof(ack));
                virtq_push(q, chain.head, sizeof(ack));
        }
        virtio_device_notify_queue(&n->virtio, QUEUE_CONTROL);
}

static void nic_notify(struct virtio_device *virtio, unsigned int index) {
        struct nic *n = nic_of(virtio);

        if (index == QUEUE_RX && n->rx_starved)
                nic_rx(n);
        else if (index == QUEUE_TX && !n->tx_blocked)
                nic_tx(n);
        else if (index == QUEUE_CONTROL && virtio_device_has(virtio, VIRTIO_NET_F_CTRL_VQ))
                nic_control(n);
}

static void nic_readable(void *opaque) {
        nic_rx(opaque);
}

static void nic_writable(void *opaque) {
        nic_tx(opaque);
}

static void nic_hangup(void *opaque) {
        struct nic *n = opaque;

        nic_link_down(n);
        nic_tx(n); /* drop what waits */
}

static const struct net_callbacks nic_callbacks = {
        .readable = nic_readable,
        .writable = nic_writable,
        .hangup = nic_hangup,
};

static void nic_again(void *opaque) {
        struct nic *n = opaque;

        if (!n->virtio.running)
                return;
        nic_rx(n);
        if (!n->tx_blocked)
                nic_tx(n);
        virtio_device_kick(&n->virtio, QUEUE_CONTROL);
}

static void nic_activate(struct virtio_device *virtio) {
        struct nic *n = nic_of(virtio);

        net_set_features(n->net, virtio->driver_features);
        n->rx_starved = false;
        nic_watch(n);
}

static void nic_reset(struct virtio_device *virtio) {
        struct nic *n = nic_of(virtio);

        n->n_held = n->n_iov = 0;
        n->held_size = n->waiting = n->in_held = 0;
        n->rx_starved = n->tx_blocked = false;
        loop_timer_set(n->again, UINT64_MAX);
        net_set_features(n->net, 0);
        nic_watch(n);
}

static const struct virtio_device_ops nic_ops = {
        .id = VIRTIO_ID_NET,
        .name = "virtio-net",
        .class_code = 0x020000, /* network controller, Ethernet */
        .queue_size = NET_QUEUE_SIZE,
        .activate = nic_activate,
        .reset = nic_reset,
        .notify = nic_notify,
};

static void nic_destroy(struct device *device) {
        struct nic *n = CONTAINER_OF(device, struct nic, device);

        virtio_pci_free(n->proxy);
        net_close(n->net);
        loop_source_free(n->again);
        virtio_device_destroy(&n->virtio);
        free(n->spill);
        free(n);
}

static int parse_mac(const char *text, uint8_t mac[static ETH_ALEN]) {
        char end;

        if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
                   &end) != ETH_ALEN)
                return -EINVAL;
        return mac[0] & 1 ? -EINVAL : 0;
}

static int nic_setup(struct nic *n, struct machine *machine, const struct vmm_net_config *config, unsigned int slot,
                     struct error *e) {
        const struct net_options options = {
                .fd = config->fd,
                .offloads = config->offloads,
                .loop = machine->loop,
                .callbacks = &nic_callbacks,
                .opaque = n,
        };
        uint64_t features = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MTU) |
                            BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |
                            BIT(VIRTIO_NET_F_CTRL_MAC_ADDR);
        int r;

        n->config = (struct virtio_net_config){ .status = VIRTIO_NET_S_LINK_UP, .mtu = (uint16_t)config->mtu };
        if (!config->mac || parse_mac(config->mac, n->config.mac) < 0)
                return error_set(e, -EINVAL, "net-mac", "six pairs of hexadecimal digits, the first pair even",
                                 "no unicast MAC address");
        r = loop_add_timer(machine->loop, nic_again, n, &n->again);
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make a network interface");
        if (config->type == VMM_NET_TYPE_TAP)
                r = net_open_tap(&options, &n->net, e);
        else
                r = net_open_passt(&options, &n->net, e);
        if (r < 0)
                return r;
        n->spill = malloc(SPILL_SIZE);
        r = n->spill ? virtio_device_init(&n->virtio, &nic_ops, machine->memory, QUEUE_COUNT,
                                          features | net_features(n->net), &n->config,
                                          offsetof(struct virtio_net_config, speed))
                     : -ENOMEM;
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make a network interface");
        return virtio_pci_new(machine, &n->virtio, slot, &n->proxy, e);
}

static int nic_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct nic *n;
        int r;

        if (index >= machine->config->n_nets)
                return -ENOENT;
        if (index >= LAYOUT_NETS_MAX)
                return error_set(e, -ENOSPC, "net-count", NULL, "more than %u network interfaces", LAYOUT_NETS_MAX);
        n = calloc(1, sizeof(*n));
        if (!n)
                return error_set(e, -ENOMEM, "device-create", NULL, "no memory for a network interface");
        n->device.class = &virtio_net_class;
        r = nic_setup(n, machine, &machine->config->nets[index], LAYOUT_SLOT_NET + index, e);
        if (r < 0) {
                error_prefix(e, "network interface %u", index);
                nic_destroy(&n->device);
                return r;
        }
        *ret_device = &n->device;
        return 0;
}

static void nic_class_reset(struct device *device) {
        virtio_device_set_status(&CONTAINER_OF(device, struct nic, device)->virtio, 0);
}

const struct device_class virtio_net_class = {
        .name = "virtio-net",
        .create = nic_create,
        .reset = nic_class_reset,
        .destroy = nic_destroy,
};
