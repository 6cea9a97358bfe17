// SPDX-License-Identifier: GPL-2.0-or-later
/* vhost-user: see vhost-user.h */
#include "vmm/vhost/vhost-user.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/io.h"

/* seccomp: main: sendmsg, recvmsg, recvfrom, poll, close (rare) -- a back end that was started anew, and its answers */

#define BIT(n) (1ull << (n))

enum request { /* "Front-end message types" */
               GET_FEATURES = 1,
               SET_FEATURES = 2,
               SET_OWNER = 3,
               SET_MEM_TABLE = 5,
               SET_VRING_NUM = 8,
               SET_VRING_ADDR = 9,
               SET_VRING_BASE = 10,
               GET_VRING_BASE = 11,
               SET_VRING_KICK = 12,
               SET_VRING_CALL = 13,
               GET_PROTOCOL_FEATURES = 15,
               SET_PROTOCOL_FEATURES = 16,
               GET_QUEUE_NUM = 17,
               SET_VRING_ENABLE = 18,
               GET_CONFIG = 24,
};

#define FLAG_VERSION      0x1u
#define FLAG_VERSION_MASK 0x3u
#define FLAG_REPLY        0x4u
#define FLAG_NEED_REPLY   0x8u

struct header {
        uint32_t request, flags, size;
};

struct ring_state {
        uint32_t index, num;
};

struct ring_address {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
};

struct memory_table {
        uint32_t n, padding;
        struct {
                uint64_t guest_address, size, user_address, offset;
        } regions[VHOST_USER_REGIONS_MAX];
};

struct config {
        uint32_t offset, size, flags;
        uint8_t data[VHOST_USER_CONFIG_MAX];
};

union payload {
        uint64_t u64;
        struct ring_state state;
        struct ring_address address;
        struct memory_table memory;
        struct config config;
};

struct message {
        struct header header;
        union payload payload;
} __attribute__((packed));

_Static_assert(sizeof(struct header) == 12 && sizeof(struct ring_address) == 40 && sizeof(struct config) == 268,
               "as the protocol has them");

int vhost_user_ask(int parent_fd) {
        return io_send_fds(parent_fd, "", 1, NULL, 0);
}

int vhost_user_answer(int parent_fd) {
        size_t n_fds = 1;
        char byte;
        int fd = -ENOTCONN;
        ssize_t n = io_recv_fds(parent_fd, &byte, 1, &fd, &n_fds);

        if (n < 0)
                return n == -ECONNRESET ? -EPIPE : (int)n;
        return n == 0 ? -EPIPE : n_fds == 1 ? fd : -ENOTCONN;
}

void vhost_user_allow(struct vhost_user *v, unsigned int ms) {
        v->deadline_ns = clock_ns() + ms * 1000000ull;
}

/* Wait until there is something to read; what was read before the deadline always counts. */
static int wait_answer(const struct vhost_user *v) {
        uint64_t now = clock_ns();
        struct pollfd p = { .fd = v->fd, .events = POLLIN };
        int r;

        if (now >= v->deadline_ns)
                return -ETIMEDOUT;
        r = poll(&p, 1, (int)((v->deadline_ns - now) / 1000000 + 1));
        return r < 0 && errno != EINTR ? -errno : 0;
}

/* Descriptors that come along go: there is no room for them. */
static int receive(const struct vhost_user *v, void *buf, size_t size) {
        for (size_t done = 0; done < size;) {
                ssize_t n = recv(v->fd, (uint8_t *)buf + done, size - done, 0);
                int r = 0;

                if (n == 0)
                        return -EPIPE;
                if (n > 0)
                        done += (size_t)n;
                else if (errno == EAGAIN)
                        r = wait_answer(v);
                else if (errno != EINTR)
                        r = errno == ECONNRESET ? -EPIPE : -errno;
                if (r < 0)
                        return r;
        }
        return 0;
}

static int send_message(const struct vhost_user *v, struct message *m, enum request request, uint32_t flags,
                        size_t size, const int *fds, size_t n_fds) {
        int r;

        m->header = (struct header){ request, FLAG_VERSION | flags, (uint32_t)size };
        r = io_send_fds(v->fd, m, sizeof(m->header) + size, fds, n_fds);
        return r == -EAGAIN ? -ETIMEDOUT : r == -ECONNRESET ? -EPIPE : r;
}

/* The answer to @request, whose payload has exactly @size bytes. */
static int receive_answer(const struct vhost_user *v, struct message *m, enum request request, size_t size) {
        int r = receive(v, &m->header, sizeof(m->header));

        if (r < 0)
                return r;
        if (m->header.request != request || (m->header.flags & FLAG_VERSION_MASK) != FLAG_VERSION ||
            !(m->header.flags & FLAG_REPLY) || m->header.size != size)
                return -EPROTO;
        return receive(v, &m->payload, size);
}

/* A request whose answer has the size of the question. */
static int ask(const struct vhost_user *v, struct message *m, enum request request, size_t size, size_t answer_size) {
        int r = send_message(v, m, request, 0, size, NULL, 0);

        return r < 0 ? r : receive_answer(v, m, request, answer_size);
}

/* A request without an answer of its own. */
static int tell(const struct vhost_user *v, struct message *m, enum request request, size_t size, const int *fds,
                size_t n_fds) {
        bool acked = v->protocol_features & BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
        int r = send_message(v, m, request, acked ? FLAG_NEED_REPLY : 0, size, fds, n_fds);

        if (r < 0 || !acked)
                return r;
        r = receive_answer(v, m, request, sizeof(m->payload.u64));
        return r < 0 ? r : m->payload.u64 != 0 ? -EREMOTEIO : 0;
}

static int ask_u64(const struct vhost_user *v, enum request request, uint64_t *ret) {
        struct message m;
        int r = ask(v, &m, request, 0, sizeof(m.payload.u64));

        if (r == 0)
                *ret = m.payload.u64;
        return r;
}

static int tell_u64(const struct vhost_user *v, enum request request, uint64_t value, const int *fd) {
        struct message m = { .payload.u64 = value };

        return tell(v, &m, request, sizeof(m.payload.u64), fd, fd ? 1 : 0);
}

static int tell_state(const struct vhost_user *v, enum request request, unsigned int index, unsigned int num) {
        struct message m = { .payload.state = { index, num } };

        return tell(v, &m, request, sizeof(m.payload.state), NULL, 0);
}

int vhost_user_greet(struct vhost_user *v, int socket_fd, unsigned int ms) {
        const uint64_t wanted = BIT(VHOST_USER_PROTOCOL_F_MQ) | BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
                                BIT(VHOST_USER_PROTOCOL_F_CONFIG);
        uint64_t offered = 0, n_queues = 1;
        struct message m;
        int r;

        *v = (struct vhost_user){ .fd = socket_fd };
        vhost_user_allow(v, ms);
        r = tell(v, &m, SET_OWNER, 0, NULL, 0);
        if (r == 0)
                r = ask_u64(v, GET_FEATURES, &v->features);
        if (r == 0 && !(v->features & BIT(VHOST_USER_F_PROTOCOL_FEATURES)))
                r = -ENOTSUP;
        if (r == 0)
                r = ask_u64(v, GET_PROTOCOL_FEATURES, &offered);
        if (r == 0 && !(offered & BIT(VHOST_USER_PROTOCOL_F_CONFIG)))
                r = -ENOTSUP;
        if (r == 0)
                r = tell_u64(v, SET_PROTOCOL_FEATURES, offered & wanted, NULL);
        if (r < 0)
                return r;
        v->protocol_features = offered & wanted;
        if (offered & BIT(VHOST_USER_PROTOCOL_F_MQ))
                r = ask_u64(v, GET_QUEUE_NUM, &n_queues);
        if (r == 0 && (n_queues == 0 || n_queues > UINT16_MAX))
                r = -EPROTO;
        v->n_queues = (unsigned int)n_queues;
        return r;
}

void vhost_user_close(struct vhost_user *v) {
        v->fd = safe_close(v->fd);
}

const char *vhost_user_reason(int error) {
        switch (error) {
        case EPIPE:
                return "it hung up";
        case EPROTO:
                return "it broke the protocol";
        case ETIMEDOUT:
                return "it does not answer";
        case EREMOTEIO:
                return "it refused a request";
        case ENOTCONN:
                return "nobody listens";
        case ENOTSUP:
                return "it can't do what is needed: CONFIG, VERSION_1, INDIRECT_DESC and what the guest was promised";
        default:
                return strerror(error);
        }
}

int vhost_user_get_config(struct vhost_user *v, void *buf, size_t size) {
        struct message m = { .payload.config.size = (uint32_t)size };
        size_t total = offsetof(struct config, data) + size;
        int r;

        if (size == 0 || size > VHOST_USER_CONFIG_MAX)
                return -EINVAL;
        r = ask(v, &m, GET_CONFIG, total, total);
        if (r == 0 && (m.payload.config.offset != 0 || m.payload.config.size != size))
                r = -EPROTO;
        if (r == 0)
                memcpy(buf, m.payload.config.data, size);
        return r;
}

int vhost_user_set_features(struct vhost_user *v, uint64_t features) {
        return tell_u64(v, SET_FEATURES, features | BIT(VHOST_USER_F_PROTOCOL_FEATURES), NULL);
}

int vhost_user_set_memory(struct vhost_user *v, const struct vhost_user_region *regions, size_t n) {
        struct message m = { .payload.memory.n = (uint32_t)n };
        int fds[VHOST_USER_REGIONS_MAX];

        if (n == 0 || n > VHOST_USER_REGIONS_MAX)
                return -EINVAL;
        for (size_t i = 0; i < n; i++) {
                uint64_t address = (uintptr_t)regions[i].address;

                m.payload.memory.regions[i].guest_address = m.payload.memory.regions[i].user_address = address;
                m.payload.memory.regions[i].size = regions[i].size;
                m.payload.memory.regions[i].offset = regions[i].offset;
                fds[i] = regions[i].fd;
        }
        return tell(v, &m, SET_MEM_TABLE, offsetof(struct memory_table, regions) + n * 4 * sizeof(uint64_t), fds, n);
}

int vhost_user_start_ring(struct vhost_user *v, unsigned int index, const struct vhost_user_ring *ring) {
        struct message m = {
                .payload.address = {
                        .index = index,
                        .desc = (uintptr_t)ring->desc,
                        .used = (uintptr_t)ring->used,
                        .avail = (uintptr_t)ring->avail,
                },
        };
        int r;

        if (index >= v->n_queues)
                return -EINVAL;
        r = tell_state(v, SET_VRING_NUM, index, ring->size);
        if (r == 0)
                r = tell_state(v, SET_VRING_BASE, index, 0);
        if (r == 0)
                r = tell(v, &m, SET_VRING_ADDR, sizeof(m.payload.address), NULL, 0);
        if (r == 0)
                r = tell_u64(v, SET_VRING_CALL, index, &ring->call_fd);
        if (r == 0)
                r = tell_u64(v, SET_VRING_KICK, index, &ring->kick_fd);
        if (r == 0)
                r = tell_state(v, SET_VRING_ENABLE, index, 1);
        return r;
}

int vhost_user_stop_ring(struct vhost_user *v, unsigned int index) {
        struct message m = { .payload.state.index = index };
        int r = ask(v, &m, GET_VRING_BASE, sizeof(m.payload.state), sizeof(m.payload.state));

        return r < 0 ? r : m.payload.state.index != index ? -EPROTO : 0;
}
