// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-console: byte streams between the guest and sockets of the host (virtio 1.2 §5.3)
 *
 *      port 0: queues 0 (to the guest), 1 (from it)      control: queues 2, 3      port n > 0: queues 2n+2, 2n+3
 *
 * Ports come from the configuration: a name and a connected stream socket each. The one named "console" is port 0, hvc0 in
 * Linux; the others are numbered from 1 and show up as /dev/virtio-ports/NAME. Without one named "console" there is no port 0.
 *
 * The handshake (§5.3.6): DEVICE_READY from the driver -> PORT_ADD for each port -> PORT_READY -> CONSOLE_PORT, PORT_NAME, PORT_OPEN. What
 * we still have to say about a port is a set of bits in it, sent as the driver supplies buffers; so messages need no queue that
 * could grow.
 *
 * Flow control. Nothing is buffered here. The socket is read only into buffers that the driver has supplied, and only while the port is
 * open in the guest: bytes that come too early wait in the socket. A chain from the guest that the socket does not take whole goes back to the
 * ring (virtq_unpop()) with the number of bytes that went out, until the socket is writable again. A socket that has nobody to wait for
 * is not watched, so a closed peer costs no busy loop.
 *
 * Hang-up. When the peer is gone and its last bytes have been delivered, the driver gets PORT_OPEN 0; what the guest sends after that is
 * dropped, as on a serial line without a cable.
 *
 * Threads. Sources are added and freed on the main loop only; a reset on a vCPU's thread just changes what they wait for.
 */
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "schema/lodge-schema.h"
#include "vmm/device/device.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

/* seccomp: main: recvmsg, sendmsg */
/* seccomp: main: recvfrom (rare) -- is there anything left of a peer that has gone? */
/* seccomp: vcpu: recvmsg (rare) -- DRIVER_OK from a driver without control queues opens the console */

#define BIT(n)             (1ull << (n))

#define CONSOLE_QUEUE_SIZE 64u
#define CONSOLE_PORTS_MAX  (VIRTIO_QUEUES_MAX / 2 - 1)
#define CONSOLE_BUDGET     CONSOLE_QUEUE_SIZE /* chains in one go; then others have their turn */
#define QUEUE_CONTROL_RX   2u
#define QUEUE_CONTROL_TX   3u

enum {
        SAY_ADD = 1 << 0,
        SAY_CONSOLE = 1 << 1,
        SAY_NAME = 1 << 2,
        SAY_OPEN = 1 << 3,
};

struct port {
        struct console *console;
        unsigned int id;
        const char *name;
        int fd;                     /* borrowed from the configuration */
        struct loop_source *source; /* NULL once the peer has hung up */
        uint32_t events;            /* what @source waits for */
        bool ready;                 /* the driver knows the port */
        bool guest_open;
        bool host_open;   /* the peer is there, or bytes of its are */
        bool hung_up;     /* nobody reads what we send */
        bool end_of_file; /* nothing more to read */
        uint8_t to_say;   /* SAY_* */
        uint64_t sent;    /* bytes of the first chain from the guest that went out already */
};

struct console {
        struct device device;
        struct virtio_device virtio;
        struct virtio_pci *proxy;
        struct loop_source *again; /* timer: more work is left in the queues */
        struct virtio_console_config config;
        unsigned int n_ports;
        struct port *by_id[CONSOLE_PORTS_MAX];
        struct port ports[];
};

static struct console *console_of(struct virtio_device *virtio) {
        return CONTAINER_OF(virtio, struct console, virtio);
}

static unsigned int port_queue(unsigned int id) {
        return id == 0 ? 0 : 2 * id + 2;
}

/* The port with queue @index, or NULL. */
static struct port *queue_port(struct console *c, unsigned int index) {
        unsigned int id = index < 2 ? 0 : index / 2 - 1;

        return id < CONSOLE_PORTS_MAX ? c->by_id[id] : NULL;
}

static void port_watch(struct port *p, uint32_t events, bool on) {
        uint32_t wanted = on ? p->events | events : p->events & ~events;

        if (!p->source || wanted == p->events)
                return;
        p->events = wanted;
        loop_source_set_events(p->source, wanted);
}

static void console_broken(struct console *c) {
        virtio_device_needs_reset(&c->virtio);
}

/* One control message (§5.3.6.2) into @chain; returns its length, 0 when it does not fit. */
static uint32_t control_write(struct virtq_chain *chain, const struct port *p, uint16_t event, uint16_t value,
                              const char *text) {
        struct virtio_console_control control = { .id = p->id, .event = event, .value = value };
        size_t length = text ? strlen(text) : 0;

        if (chain->writable < sizeof(control) + length)
                return 0;
        virtq_chain_write(chain, 0, &control, sizeof(control));
        virtq_chain_write(chain, sizeof(control), text, length);
        return (uint32_t)(sizeof(control) + length);
}

static uint32_t control_say(struct virtq_chain *chain, struct port *p) {
        uint8_t bit = p->to_say & -p->to_say; /* the lowest: the order of the handshake */

        p->to_say &= (uint8_t)~bit;
        switch (bit) {
        case SAY_ADD:
                return control_write(chain, p, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
        case SAY_CONSOLE:
                return control_write(chain, p, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL);
        case SAY_NAME:
                return control_write(chain, p, VIRTIO_CONSOLE_PORT_NAME, 1, p->name);
        default:
                return control_write(chain, p, VIRTIO_CONSOLE_PORT_OPEN, p->host_open, NULL);
        }
}

/* Say what is to be said, as far as the driver has supplied buffers. */
static void control_flush(struct console *c) {
        struct virtq *q = &c->virtio.queues[QUEUE_CONTROL_RX];
        struct virtq_chain chain;

        for (unsigned int i = 0; i < c->n_ports && c->virtio.running; i++) {
                struct port *p = &c->ports[i];

                while (p->to_say && c->virtio.running) {
                        uint32_t length;
                        int r = virtq_pop(q, &chain);

                        if (r == 0)
                                goto out;
                        length = r < 0 ? 0 : control_say(&chain, p);
                        if (length == 0)
                                console_broken(c);
                        else
                                virtq_push(q, chain.head, length);
                }
        }
out:
        virtio_device_notify_queue(&c->virtio, QUEUE_CONTROL_RX);
}

static void port_say(struct port *p, uint8_t what) {
        p->to_say |= what;
        if (p->console->virtio.running && virtio_device_has(&p->console->virtio, VIRTIO_CONSOLE_F_MULTIPORT))
                control_flush(p->console);
}

/* The peer is gone and all that it sent has been delivered. */
static void port_closed(struct port *p) {
        p->hung_up = p->end_of_file = true;
        if (!p->host_open)
                return;
        p->host_open = false;
        if (p->ready)
                port_say(p, SAY_OPEN);
}

static ssize_t port_receive(struct port *p, struct virtq_chain *chain) {
        struct msghdr msg = { .msg_iov = chain->iov + chain->n_readable, .msg_iovlen = chain->n_writable };
        ssize_t n;

        do
                n = recvmsg(p->fd, &msg, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

/* From the socket to the guest. */
static void port_rx(struct port *p) {
        struct console *c = p->console;
        unsigned int index = port_queue(p->id);
        struct virtq *q = &c->virtio.queues[index];
        struct virtq_chain chain;
        bool wait = false, ended = false;

        for (unsigned int budget = CONSOLE_BUDGET; c->virtio.running && p->guest_open && !p->end_of_file; budget--) {
                ssize_t n;
                int r;

                if (budget == 0) {
                        wait = true; /* level-triggered: the loop comes back at once */
                        if (!p->source)
                                loop_timer_set(c->again, 0);
                        break;
                }
                r = virtq_pop(q, &chain);
                if (r < 0)
                        console_broken(c);
                if (r <= 0)
                        break;
                n = chain.writable > 0 ? port_receive(p, &chain) : 0;
                if (n > 0 || chain.writable == 0) {
                        virtq_push(q, chain.head, (uint32_t)n);
                        continue;
                }
                virtq_unpop(q);
                wait = n == -EAGAIN;
                ended = !wait;
                break;
        }
        port_watch(p, EPOLLIN, wait);
        virtio_device_notify_queue(&c->virtio, index);
        if (ended) {
                p->end_of_file = true;
                if (p->hung_up || !p->source)
                        port_closed(p);
        }
}

static ssize_t port_send(struct port *p, const struct virtq_chain *chain) {
        struct iovec iov[CONSOLE_QUEUE_SIZE];
        struct msghdr msg = { .msg_iov = iov };
        uint64_t skip = p->sent;
        ssize_t n;

        for (unsigned int i = 0; i < chain->n_readable && msg.msg_iovlen < CONSOLE_QUEUE_SIZE; i++) {
                const struct iovec *v = &chain->iov[i];

                if (skip >= v->iov_len) {
                        skip -= v->iov_len;
                        continue;
                }
                iov[msg.msg_iovlen++] = (struct iovec){ (uint8_t *)v->iov_base + skip, v->iov_len - skip };
                skip = 0;
        }
        if (msg.msg_iovlen == 0)
                return 0;
        do
                n = sendmsg(p->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

/* From the guest to the socket; @p is NULL for the queues of a port that isn't there: dropped. */
static void port_tx(struct console *c, struct port *p, unsigned int index) {
        struct virtq *q = &c->virtio.queues[index];
        struct virtq_chain chain;
        bool wait = false;

        for (unsigned int budget = CONSOLE_BUDGET; c->virtio.running; budget--) {
                ssize_t n = 0;
                int r;

                if (budget == 0) {
                        loop_timer_set(c->again, 0);
                        break;
                }
                r = virtq_pop(q, &chain);
                if (r < 0)
                        console_broken(c);
                if (r <= 0)
                        break;
                if (p && !p->hung_up) {
                        n = port_send(p, &chain);
                        if (n < 0 && n != -EAGAIN)
                                p->hung_up = true; /* EPIPE, ECONNRESET: the loop will hear of it as well */
                        else
                                p->sent += n > 0 ? (uint64_t)n : 0;
                        if (n == -EAGAIN || (n > 0 && p->sent < chain.readable)) {
                                virtq_unpop(q);
                                wait = true;
                                break;
                        }
                }
                if (p)
                        p->sent = 0;
                virtq_push(q, chain.head, 0);
        }
        if (p)
                port_watch(p, EPOLLOUT, wait);
        virtio_device_notify_queue(&c->virtio, index);
}

static void port_ready(void *opaque, int fd, uint32_t events) {
        struct port *p = opaque;
        char peek;

        if (events & EPOLLOUT)
                port_tx(p->console, p, port_queue(p->id) + 1);
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                port_rx(p);
        if (!(events & (EPOLLHUP | EPOLLERR)))
                return;
        /* Nothing more will happen on it: stop watching, or it would wake us for ever. What it still holds is read when there is room. */
        loop_source_free(p->source);
        p->source = NULL;
        p->events = 0;
        p->hung_up = true;
        port_tx(p->console, p, port_queue(p->id) + 1); /* drop what waited for it */
        if (p->end_of_file || recv(fd, &peek, 1, MSG_DONTWAIT | MSG_PEEK) <= 0)
                port_closed(p);
        else
                port_rx(p);
}

static void port_set_open(struct port *p, bool open) {
        p->guest_open = open;
        if (open)
                port_rx(p);
        else
                port_watch(p, EPOLLIN, false);
}

static void control_handle(struct console *c, const struct virtio_console_control *control) {
        struct port *p = control->id < CONSOLE_PORTS_MAX ? c->by_id[control->id] : NULL;

        switch (control->event) {
        case VIRTIO_CONSOLE_DEVICE_READY:
                for (unsigned int i = 0; i < c->n_ports && control->value; i++)
                        c->ports[i].to_say |= SAY_ADD;
                break;
        case VIRTIO_CONSOLE_PORT_READY:
                if (!p || !control->value)
                        break;
                p->ready = true;
                p->to_say |= SAY_NAME | SAY_OPEN;
                if (p->id == 0) { /* a console is open as long as it exists: the driver sends no PORT_OPEN for it */
                        p->to_say |= SAY_CONSOLE;
                        port_set_open(p, true);
                }
                break;
        case VIRTIO_CONSOLE_PORT_OPEN:
                if (p)
                        port_set_open(p, control->value);
                break;
        default:
                break; /* nothing else is the driver's to send */
        }
}

static void control_receive(struct console *c) {
        struct virtq *q = &c->virtio.queues[QUEUE_CONTROL_TX];
        struct virtq_chain chain;

        for (unsigned int budget = CONSOLE_BUDGET; c->virtio.running; budget--) {
                struct virtio_console_control control;
                int r;

                if (budget == 0) {
                        loop_timer_set(c->again, 0);
                        break;
                }
                r = virtq_pop(q, &chain);
                if (r < 0)
                        console_broken(c);
                if (r <= 0)
                        break;
                if (virtq_chain_read(&chain, 0, &control, sizeof(control)) == sizeof(control))
                        control_handle(c, &control);
                virtq_push(q, chain.head, 0);
        }
        virtio_device_notify_queue(&c->virtio, QUEUE_CONTROL_TX);
        control_flush(c);
}

static void console_notify(struct virtio_device *virtio, unsigned int index) {
        struct console *c = console_of(virtio);
        bool multiport = virtio_device_has(virtio, VIRTIO_CONSOLE_F_MULTIPORT);
        struct port *p;

        if (!multiport && index > 1)
                return;
        if (index == QUEUE_CONTROL_RX) {
                control_flush(c);
        } else if (index == QUEUE_CONTROL_TX) {
                control_receive(c);
        } else {
                p = queue_port(c, index);
                if (index & 1)
                        port_tx(c, p, index);
                else if (p)
                        port_rx(p);
        }
}

static void console_again(void *opaque) {
        struct console *c = opaque;

        for (unsigned int i = 0; i < c->virtio.n_queues; i++)
                virtio_device_kick(&c->virtio, i);
}

static void console_activate(struct virtio_device *virtio) {
        struct console *c = console_of(virtio);

        /* Without multiport there is one port, open from the start (§5.3.5). */
        if (!virtio_device_has(virtio, VIRTIO_CONSOLE_F_MULTIPORT) && c->by_id[0])
                port_set_open(c->by_id[0], true);
}

static void console_reset(struct virtio_device *virtio) {
        struct console *c = console_of(virtio);

        loop_timer_set(c->again, UINT64_MAX);
        for (unsigned int i = 0; i < c->n_ports; i++) {
                struct port *p = &c->ports[i];

                p->ready = p->guest_open = false;
                p->to_say = 0;
                p->sent = 0;
                port_watch(p, EPOLLIN | EPOLLOUT, false);
        }
}

static const struct virtio_device_ops console_ops = {
        .id = VIRTIO_ID_CONSOLE,
        .name = "virtio-console",
        .class_code = 0x078000, /* communication controller, other */
        .queue_size = CONSOLE_QUEUE_SIZE,
        .activate = console_activate,
        .reset = console_reset,
        .notify = console_notify,
};

static void console_destroy(struct device *device) {
        struct console *c = CONTAINER_OF(device, struct console, device);

        virtio_pci_free(c->proxy);
        for (unsigned int i = 0; i < c->n_ports; i++)
                loop_source_free(c->ports[i].source);
        loop_source_free(c->again);
        virtio_device_destroy(&c->virtio);
        free(c);
}

static int port_setup(struct console *c, struct port *p, unsigned int id, const struct vmm_port_config *config,
                      struct loop *loop, struct error *e) {
        int type = 0;
        socklen_t length = sizeof(type);
        int r;

        if (id >= CONSOLE_PORTS_MAX)
                return error_set(e, -ENOSPC, "port-count", NULL, "more than %u ports", CONSOLE_PORTS_MAX - 1);
        if (c->by_id[id])
                return error_set(e, -EEXIST, "port-name", NULL, "port %s is there twice", config->name);
        if (getsockopt(config->fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_STREAM)
                return error_set(e, -EINVAL, "port-type", NULL, "port %s is not a stream socket", config->name);
        *p = (struct port){ .console = c, .id = id, .name = config->name, .fd = config->fd, .host_open = true };
        c->by_id[id] = p;
        c->config.max_nr_ports = MAX(c->config.max_nr_ports, id + 1);
        r = loop_add_fd(loop, p->fd, 0, port_ready, p, &p->source);
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot watch port %s", config->name);
        return 0;
}

static int console_setup(struct console *c, struct machine *machine, struct error *e) {
        const struct vmm_config *config = machine->config;
        unsigned int id = 1;
        int r;

        c->config.max_nr_ports = 1;
        for (; c->n_ports < config->n_ports; c->n_ports++) {
                const struct vmm_port_config *port = &config->ports[c->n_ports];

                r = port_setup(c, &c->ports[c->n_ports], streq(port->name, "console") ? 0 : id++, port, machine->loop,
                               e);
                if (r < 0)
                        return r;
        }
        r = loop_add_timer(machine->loop, console_again, c, &c->again);
        if (r >= 0)
                r = virtio_device_init(&c->virtio, &console_ops, machine->memory, 2 * c->config.max_nr_ports + 2,
                                       BIT(VIRTIO_CONSOLE_F_MULTIPORT), &c->config, sizeof(c->config));
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "cannot make the virtio console");
        return virtio_pci_new(machine, &c->virtio, LAYOUT_SLOT_CONSOLE, &c->proxy, e);
}

static int console_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        size_t n = machine->config->n_ports;
        struct console *c;
        int r;

        if (index > 0 || n == 0)
                return -ENOENT;
        c = calloc(1, sizeof(*c) + n * sizeof(struct port));
        if (!c)
                return error_set(e, -ENOMEM, "device-create", NULL, "no memory for the virtio console");
        c->device.class = &virtio_console_class;
        r = console_setup(c, machine, e);
        if (r < 0) {
                console_destroy(&c->device);
                return r;
        }
        *ret_device = &c->device;
        return 0;
}

static void console_class_reset(struct device *device) {
        virtio_device_set_status(&CONTAINER_OF(device, struct console, device)->virtio, 0);
}

const struct device_class virtio_console_class = {
        .name = "virtio-console",
        .create = console_create,
        .reset = console_class_reset,
        .destroy = console_destroy,
};
