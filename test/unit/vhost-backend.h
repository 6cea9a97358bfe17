// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vhost-backend: a vhost-user-blk back end on a thread of its own, for tests: a disk in memory, and ways to break the protocol
 *
 * It listens in a directory of its own, serves one front end after the other, and reaches memory only through the regions that
 * it was given. Numbers of requests and layouts are written out here once more, so that a slip in vhost-user.c meets another opinion.
 */
#pragma once

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"

#define BACKEND_DISK    (1u << 20)
#define BACKEND_QUEUES  2u
#define BACKEND_SECTORS (BACKEND_DISK / 512)
#define HOLD_NOTHING    (-1)
#define HOLD_ALL        (-2)

enum misbehaviour {
        BACKEND_GOOD,
        BACKEND_SHORT,         /* half an answer, then gone */
        BACKEND_LONG,          /* an answer with more than was asked for */
        BACKEND_OTHER_REQUEST, /* an answer to something else */
        BACKEND_NO_REPLY_FLAG,
        BACKEND_SILENT,
        BACKEND_HANGS_UP,
        BACKEND_REFUSES, /* acknowledges with an error */
        BACKEND_MANY_QUEUES,
        BACKEND_NO_QUEUES,
        BACKEND_NO_CONFIG,    /* no such protocol feature */
        BACKEND_BAD_CONFIG,   /* blocks of 3 bytes */
        BACKEND_OTHER_BLOCKS, /* of another size than before */
        BACKEND_BAD_USED,     /* uses an entry that there is not */
        BACKEND_USED_TWICE,
        BACKEND_NO_CALL, /* ends requests, and says nothing */
};

struct backend_message {
        uint32_t request, flags, size;
        union {
                uint64_t u64;
                uint32_t u32[2];
                uint64_t u64s[40];
                uint8_t bytes[320];
        } u;
} __attribute__((packed));

struct backend_ring {
        uint32_t size;
        uint64_t desc, used, avail;
        int kick, call;
        uint16_t next_avail;
        unsigned int n_pending;
        uint16_t pending[128];
};

struct backend {
        char dir[32], path[64];
        int listener, wake, conn;
        pthread_t thread;
        _Atomic bool quit, die;
        _Atomic int misbehaviour;
        _Atomic int held; /* the sector whose requests are kept, or HOLD_* */
        _Atomic unsigned int n_taken, n_done, n_connections, n_stopped, n_writes[BACKEND_SECTORS];
        struct {
                uint64_t gpa, size;
                uint8_t *host;
        } regions[8];
        unsigned int n_regions;
        struct backend_ring rings[BACKEND_QUEUES];
        pthread_mutex_t
                lock; /* what ThreadSanitizer sees of the order: it does not know that the rings are mapped twice */
        uint8_t disk[BACKEND_DISK];
};

/* The byte at @at of the disk. */
static inline uint8_t backend_peek(struct backend *b, size_t at) {
        uint8_t byte;

        pthread_mutex_lock(&b->lock);
        byte = b->disk[at];
        pthread_mutex_unlock(&b->lock);
        return byte;
}

static inline void backend_fill(struct backend *b, size_t at, int c, size_t n) {
        pthread_mutex_lock(&b->lock);
        memset(b->disk + at, c, n);
        pthread_mutex_unlock(&b->lock);
}

static inline void *backend_at(struct backend *b, uint64_t gpa, uint64_t size) {
        for (unsigned int i = 0; i < b->n_regions; i++)
                if (gpa >= b->regions[i].gpa && gpa + size <= b->regions[i].gpa + b->regions[i].size)
                        return b->regions[i].host + (gpa - b->regions[i].gpa);
        return NULL;
}

static inline void backend_unmap(struct backend *b) {
        while (b->n_regions > 0) {
                b->n_regions--;
                munmap(b->regions[b->n_regions].host, b->regions[b->n_regions].size);
        }
}

/* One request: a copied header, data, a status byte; returns the bytes written. */
static inline uint32_t backend_execute(struct backend *b, const struct vring_desc *table, unsigned int n) {
        const struct virtio_blk_outhdr *header = backend_at(b, table[0].addr, sizeof(*header));
        uint8_t *status = backend_at(b, table[n - 1].addr + table[n - 1].len - 1, 1);
        uint64_t at = header->sector * 512;
        uint32_t written = 1;

        if (header->type == VIRTIO_BLK_T_OUT)
                b->n_writes[header->sector]++;
        pthread_mutex_lock(&b->lock);
        for (unsigned int i = 1; i + 1 < n; i++) {
                uint8_t *data = backend_at(b, table[i].addr, table[i].len);

                if (!data || at + table[i].len > BACKEND_DISK)
                        continue;
                if (header->type == VIRTIO_BLK_T_OUT)
                        memcpy(b->disk + at, data, table[i].len);
                else if (header->type == VIRTIO_BLK_T_IN) {
                        memcpy(data, b->disk + at, table[i].len);
                        written += table[i].len;
                }
                at += table[i].len;
        }
        pthread_mutex_unlock(&b->lock);
        *status = VIRTIO_BLK_S_OK;
        return written;
}

static inline bool backend_holds(struct backend *b, const struct vring_desc *desc) {
        const struct vring_desc *table = backend_at(b, desc->addr, desc->len);
        const struct virtio_blk_outhdr *header = backend_at(b, table[0].addr, sizeof(*header));

        return b->held == HOLD_ALL || (b->held >= 0 && header->sector == (uint64_t)b->held);
}

static inline void backend_use(struct backend *b, struct backend_ring *r, uint32_t id, uint32_t len) {
        struct vring_used *used = backend_at(b, r->used, sizeof(*used));

        used->ring[used->idx % r->size] = (struct vring_used_elem){ .id = id, .len = len };
        __atomic_store_n(&used->idx, used->idx + 1, __ATOMIC_RELEASE);
}

static inline void backend_serve(struct backend *b, struct backend_ring *r) {
        const struct vring_avail *avail = backend_at(b, r->avail, sizeof(*avail));
        const struct vring_desc *desc = backend_at(b, r->desc, r->size * sizeof(*desc));
        unsigned int kept = 0;
        uint64_t one = 1;

        while (r->next_avail != __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE)) {
                r->pending[r->n_pending++] = avail->ring[r->next_avail++ % r->size];
                b->n_taken++;
        }
        for (unsigned int i = 0; i < r->n_pending; i++) {
                const struct vring_desc *d = &desc[r->pending[i]];
                const struct vring_desc *table = backend_at(b, d->addr, d->len);

                if (backend_holds(b, d)) {
                        r->pending[kept++] = r->pending[i];
                        continue;
                }
                if (b->misbehaviour == BACKEND_BAD_USED)
                        backend_use(b, r, 7777, 1);
                else
                        backend_use(b, r, r->pending[i], backend_execute(b, table, d->len / sizeof(*table)));
                if (b->misbehaviour == BACKEND_USED_TWICE)
                        backend_use(b, r, r->pending[i], 1);
                b->n_done++;
        }
        r->n_pending = kept;
        if (b->misbehaviour != BACKEND_NO_CALL)
                (void)!write(r->call, &one, sizeof(one));
}

static inline void backend_answer(struct backend *b, struct backend_message *m, uint32_t size) {
        size_t n = 12 + size;

        m->flags = 5;
        m->size = size;
        if (b->misbehaviour == BACKEND_SILENT)
                return;
        if (b->misbehaviour == BACKEND_LONG) {
                m->size += 8;
                n += 8;
        }
        if (b->misbehaviour == BACKEND_OTHER_REQUEST)
                m->request++;
        if (b->misbehaviour == BACKEND_NO_REPLY_FLAG)
                m->flags = 1;
        if (b->misbehaviour == BACKEND_SHORT)
                n /= 2;
        if (b->misbehaviour != BACKEND_HANGS_UP)
                (void)!send(b->conn, m, n, MSG_NOSIGNAL);
        if (b->misbehaviour == BACKEND_HANGS_UP || b->misbehaviour == BACKEND_SHORT)
                shutdown(b->conn, SHUT_RDWR);
}

static inline void backend_set_memory(struct backend *b, const struct backend_message *m, const int *fds) {
        backend_unmap(b);
        for (unsigned int i = 0; i < m->u.u32[0]; i++) {
                uint64_t r[4]; /* guest address, size, user address, offset */

                memcpy(r, m->u.bytes + 8 + i * sizeof(r), sizeof(r));
                b->regions[i].gpa = r[0];
                b->regions[i].size = r[1];
                b->regions[i].host = mmap(NULL, r[1], PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], (off_t)r[3]);
                close(fds[i]);
                b->n_regions++;
        }
}

static inline void backend_config(struct backend *b, struct backend_message *m) {
        struct virtio_blk_config c = {
                .capacity = BACKEND_SECTORS,
                .seg_max = 126,
                .blk_size = b->misbehaviour == BACKEND_BAD_CONFIG     ? 3
                            : b->misbehaviour == BACKEND_OTHER_BLOCKS ? 4096
                                                                      : 512,
                .num_queues = BACKEND_QUEUES,
        };

        memcpy(m->u.bytes + 12, &c, m->u.u32[1]);
        backend_answer(b, m, m->size);
}

/* True when @m had an answer of its own. */
static inline bool backend_question(struct backend *b, struct backend_message *m) {
        struct backend_ring *ring = &b->rings[m->u.u32[0] % BACKEND_QUEUES];

        switch (m->request) {
        case 1:
                m->u.u64 = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << 30 |
                           1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
                           1ull << VIRTIO_BLK_F_MQ;
                break;
        case 11:
                b->n_stopped++;
                m->u.u32[1] = ring->next_avail;
                close(ring->kick);
                ring->kick = -1;
                break;
        case 15:
                m->u.u64 = b->misbehaviour == BACKEND_NO_CONFIG ? 9 : 1 | 1 << 3 | 1 << 9;
                break;
        case 17:
                m->u.u64 = b->misbehaviour == BACKEND_MANY_QUEUES ? 1ull << 40
                           : b->misbehaviour == BACKEND_NO_QUEUES ? 0
                                                                  : BACKEND_QUEUES;
                break;
        case 24:
                backend_config(b, m);
                return true;
        default:
                return false;
        }
        backend_answer(b, m, 8);
        return true;
}

static inline void backend_command(struct backend *b, const struct backend_message *m, const int *fds) {
        struct backend_ring *ring = &b->rings[m->u.u32[0] % BACKEND_QUEUES];

        switch (m->request) {
        case 5:
                backend_set_memory(b, m, fds);
                break;
        case 8:
                ring->size = m->u.u32[1];
                break;
        case 9:
                ring->desc = m->u.u64s[1];
                ring->used = m->u.u64s[2];
                ring->avail = m->u.u64s[3];
                break;
        case 10:
                ring->next_avail = (uint16_t)m->u.u32[1];
                ring->n_pending = 0;
                break;
        case 12:
                ring->kick = fds[0];
                break;
        case 13:
                if (ring->call >= 0)
                        close(ring->call);
                ring->call = fds[0];
                break;
        }
}

/* False at the end of the connection. */
static inline bool backend_message(struct backend *b) {
        struct backend_message m = { 0 };
        int fds[8];
        size_t n_fds = 8;
        bool acked;

        if (io_recv_fds(b->conn, &m, 12, fds, &n_fds) != 12 ||
            (m.size > 0 && recv(b->conn, &m.u, m.size, MSG_WAITALL) != (ssize_t)m.size))
                return false;
        acked = m.flags & 8;
        if (backend_question(b, &m))
                return true;
        backend_command(b, &m, fds);
        m.u.u64 = b->misbehaviour == BACKEND_REFUSES;
        if (acked)
                backend_answer(b, &m, 8);
        return true;
}

static inline void backend_connection(struct backend *b) {
        for (unsigned int i = 0; i < BACKEND_QUEUES; i++)
                b->rings[i] = (struct backend_ring){ .kick = -1, .call = -1 };
        b->die = false;
        while (!b->quit && !b->die) {
                struct pollfd p[2 + BACKEND_QUEUES] = { { .fd = b->conn, .events = POLLIN },
                                                        { .fd = b->wake, .events = POLLIN } };
                uint64_t n;

                for (unsigned int i = 0; i < BACKEND_QUEUES; i++)
                        p[2 + i] = (struct pollfd){ .fd = b->rings[i].kick, .events = POLLIN };
                poll(p, 2 + BACKEND_QUEUES, -1);
                if (p[0].revents && !backend_message(b))
                        break;
                if (p[1].revents)
                        (void)!read(b->wake, &n, sizeof(n));
                if (b->quit || b->die)
                        break;
                for (unsigned int i = 0; i < BACKEND_QUEUES; i++)
                        if (b->rings[i].kick >= 0 && (p[1].revents || p[2 + i].revents)) {
                                (void)!read(b->rings[i].kick, &n, sizeof(n));
                                backend_serve(b, &b->rings[i]);
                        }
        }
        for (unsigned int i = 0; i < BACKEND_QUEUES; i++) {
                safe_close(b->rings[i].kick);
                safe_close(b->rings[i].call);
        }
        backend_unmap(b);
}

static inline void *backend_main(void *opaque) {
        struct backend *b = opaque;

        while (!b->quit) {
                b->conn = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC);
                if (b->conn < 0)
                        break;
                b->n_connections++;
                backend_connection(b);
                close(b->conn);
        }
        return NULL;
}

static inline struct backend *backend_new(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct backend *b = calloc(1, sizeof(*b));

        assert_non_null(b);
        snprintf(b->dir, sizeof(b->dir), "/tmp/vhost-XXXXXX");
        assert_non_null(mkdtemp(b->dir));
        snprintf(b->path, sizeof(b->path), "%s/blk", b->dir);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", b->path);
        b->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        b->held = HOLD_NOTHING;
        pthread_mutex_init(&b->lock, NULL);
        assert_int_equal(bind(b->listener, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(b->listener, 4), 0);
        assert_int_equal(pthread_create(&b->thread, NULL, backend_main, b), 0);
        return b;
}

/* A connection to it, or -errno. */
static inline int backend_dial(const struct backend *b) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", b->path);
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                close(fd);
                return -ENOENT;
        }
        return fd;
}

static inline void backend_wake(struct backend *b) {
        uint64_t one = 1;

        assert_int_equal(write(b->wake, &one, sizeof(one)), sizeof(one));
}

/* The connection ends, as if the process were killed; the next one begins with nothing. */
static inline void backend_die(struct backend *b) {
        b->die = true;
        backend_wake(b);
}

static inline void backend_free(struct backend *b) {
        b->quit = true;
        backend_wake(b);
        shutdown(b->listener, SHUT_RDWR);
        pthread_join(b->thread, NULL);
        pthread_mutex_destroy(&b->lock);
        close(b->listener);
        close(b->wake);
        unlink(b->path);
        rmdir(b->dir);
        free(b);
}
