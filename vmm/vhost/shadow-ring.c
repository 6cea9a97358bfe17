// SPDX-License-Identifier: GPL-2.0-or-later
/* shadow-ring: see shadow-ring.h */
#include "vmm/vhost/shadow-ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* seccomp: main: poll, write (rare) -- a vhost-user back end's doorbells */

/* Little-endian, as this host is. */
struct shared {
        struct vring_desc desc[SHADOW_SIZE];
        struct {
                uint16_t flags, idx, ring[SHADOW_SIZE], used_event;
        } avail;
        struct {
                _Alignas(VRING_USED_ALIGN_SIZE) uint16_t flags;
                uint16_t idx;
                struct vring_used_elem ring[SHADOW_SIZE];
                uint16_t avail_event;
        } used;
        struct {
                struct vring_desc table[SHADOW_TABLE_SIZE];
                uint8_t copy[SHADOW_COPY_MAX];
        } slots[SHADOW_SIZE];
};

struct shadow_ring {
        int memory_fd, kick_fd, call_fd;
        struct shared *shared;
        uint16_t next_avail, next_used;
        unsigned int n_free, n_in_flight;
        uint16_t free[SHADOW_SIZE];
        struct {
                bool in_flight;
                uint16_t tag, n;
                uint32_t writable;
                struct vring_desc
                        table[SHADOW_TABLE_SIZE]; /* what the shared one is made from, again if it has to be */
                uint8_t copy[SHADOW_COPY_MAX];
        } slots[SHADOW_SIZE];
};

void shadow_ring_forget(struct shadow_ring *r) {
        r->n_in_flight = 0;
        r->n_free = SHADOW_SIZE;
        for (uint16_t i = 0; i < SHADOW_SIZE; i++) {
                r->free[i] = (uint16_t)(SHADOW_SIZE - 1 - i);
                r->slots[i].in_flight = false;
        }
        shadow_ring_restart(r);
}

int shadow_ring_new(struct shadow_ring **ret_ring) {
        _cleanup_(shadow_ring_freep) struct shadow_ring *r = calloc(1, sizeof(*r));
        void *shared;

        if (!r)
                return -ENOMEM;
        r->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r->memory_fd = memfd_create("lodge-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (r->kick_fd < 0 || r->call_fd < 0 || r->memory_fd < 0 || ftruncate(r->memory_fd, sizeof(*r->shared)) < 0 ||
            fcntl(r->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return -errno; /* sealed: a back end that shortens it would end us by SIGBUS */
        shared = mmap(NULL, sizeof(*r->shared), PROT_READ | PROT_WRITE, MAP_SHARED, r->memory_fd, 0);
        if (shared == MAP_FAILED)
                return -errno;
        r->shared = shared;
        shadow_ring_forget(r);
        *ret_ring = TAKE_PTR(r);
        return 0;
}

void shadow_ring_free(struct shadow_ring *r) {
        if (!r)
                return;
        if (r->shared)
                munmap(r->shared, sizeof(*r->shared));
        safe_close(r->memory_fd);
        safe_close(r->kick_fd);
        safe_close(r->call_fd);
        free(r);
}

struct vhost_user_region shadow_ring_region(const struct shadow_ring *r) {
        return (struct vhost_user_region){ .address = r->shared, .size = sizeof(*r->shared), .fd = r->memory_fd };
}

struct vhost_user_ring shadow_ring_describe(const struct shadow_ring *r) {
        return (struct vhost_user_ring){
                .size = SHADOW_SIZE,
                .desc = r->shared->desc,
                .avail = &r->shared->avail,
                .used = &r->shared->used,
                .kick_fd = r->kick_fd,
                .call_fd = r->call_fd,
        };
}

int shadow_ring_call_fd(const struct shadow_ring *r) {
        return r->call_fd;
}

/*
 * The back end has the same open file, and can make it one whose writes wait: hence the look before. It would have to fill the counter right
 * between the two to hold us up.
 */
void shadow_ring_kick(const struct shadow_ring *r) {
        struct pollfd p = { .fd = r->kick_fd, .events = POLLOUT };
        uint64_t one = 1;

        if (poll(&p, 1, 0) == 1)
                (void)!write(r->kick_fd, &one, sizeof(one)); /* full: it is signalled anyway */
}

bool shadow_ring_full(const struct shadow_ring *r) {
        return r->n_free == 0;
}

unsigned int shadow_ring_in_flight(const struct shadow_ring *r) {
        return r->n_in_flight;
}

/* Show slot @i to the back end. */
static void offer(struct shadow_ring *r, uint16_t i) {
        struct shared *s = r->shared;

        memcpy(s->slots[i].table, r->slots[i].table, r->slots[i].n * sizeof(struct vring_desc));
        memcpy(s->slots[i].copy, r->slots[i].copy, SHADOW_COPY_MAX);
        s->desc[i] = (struct vring_desc){
                .addr = (uintptr_t)s->slots[i].table,
                .len = (uint32_t)(r->slots[i].n * sizeof(struct vring_desc)),
                .flags = VRING_DESC_F_INDIRECT,
        };
        s->avail.ring[r->next_avail++ % SHADOW_SIZE] = i;
        __atomic_store_n(&s->avail.idx, r->next_avail, __ATOMIC_RELEASE);
}

int shadow_ring_add(struct shadow_ring *r, const void *copy, uint32_t copy_size, const struct iovec *iov,
                    unsigned int n_readable, unsigned int n_writable, uint16_t tag, uint32_t writable) {
        unsigned int n = n_readable + n_writable;
        struct vring_desc *table;
        uint16_t i;

        if (shadow_ring_full(r))
                return -ENOSPC;
        if (copy_size > SHADOW_COPY_MAX || n >= SHADOW_TABLE_SIZE)
                return -E2BIG;
        i = r->free[--r->n_free];
        table = r->slots[i].table;
        memcpy(r->slots[i].copy, copy, copy_size);
        table[0] = (struct vring_desc){ .addr = (uintptr_t)r->shared->slots[i].copy, .len = copy_size };
        for (unsigned int k = 0; k < n; k++)
                table[k + 1] = (struct vring_desc){
                        .addr = (uintptr_t)iov[k].iov_base,
                        .len = (uint32_t)iov[k].iov_len,
                        .flags = k < n_readable ? 0 : VRING_DESC_F_WRITE,
                };
        for (unsigned int k = 0; k < n; k++) {
                table[k].flags |= VRING_DESC_F_NEXT;
                table[k].next = (uint16_t)(k + 1);
        }
        r->slots[i].in_flight = true;
        r->slots[i].tag = tag;
        r->slots[i].n = (uint16_t)(n + 1);
        r->slots[i].writable = writable;
        r->n_in_flight++;
        offer(r, i);
        return 0;
}

int shadow_ring_take(struct shadow_ring *r, uint16_t *ret_tag, uint32_t *ret_written) {
        uint16_t idx = __atomic_load_n(&r->shared->used.idx, __ATOMIC_ACQUIRE);
        const volatile struct vring_used_elem *e = &r->shared->used.ring[r->next_used % SHADOW_SIZE];
        uint32_t id, len;

        if (idx == r->next_used)
                return 0;
        id = e->id; /* once: the back end may change it under us */
        len = e->len;
        if ((uint16_t)(idx - r->next_used) > r->n_in_flight || id >= SHADOW_SIZE || !r->slots[id].in_flight)
                return -EPROTO;
        r->next_used++;
        r->n_in_flight--;
        r->slots[id].in_flight = false;
        r->free[r->n_free++] = (uint16_t)id;
        *ret_tag = r->slots[id].tag;
        *ret_written = MIN(len, r->slots[id].writable);
        return 1;
}

void shadow_ring_restart(struct shadow_ring *r) {
        memset(r->shared, 0, offsetof(struct shared, slots));
        r->next_avail = r->next_used = 0;
        for (uint16_t i = 0; i < SHADOW_SIZE; i++)
                if (r->slots[i].in_flight)
                        offer(r, i);
}
