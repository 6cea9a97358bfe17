// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtq: see virtq.h for the theory
 *
 * The three areas lie in guest memory, which other CPUs change while we look. Hence these habits, kept by the small
 * accessors below and by nothing else in this file touching the areas:
 *
 * - Each field is read once, into a local, and only the local is checked and used. Indices and flags are atomics; descriptors
 *   are read through a volatile packed struct, since an indirect table may start at any address (§2.7.5.3).
 * - The available index is read with acquire: the ring entries and descriptors that it announces are read after it. The used index
 *   is written with release: the used entries and the buffers are there before it.
 * - Where we write one index and then read the other side's (§2.7.10: event indices, §2.7.7: flags), a full fence stands between
 *   (publish16()), or both sides could miss each other.
 *
 * A chain costs at most size_max descriptor reads, so a loop in the table ends there.
 */
#include "vmm/virtio/virtq.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/machine/memory.h"

struct desc {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
} __attribute__((packed));

_Static_assert(sizeof(struct desc) == 16, "§2.7.5");
_Static_assert(VIRTQ_SIZE_MAX <= VIRTQ_CHAIN_MAX, "a chain of every descriptor fits");

/* le16 fields of the rings, as offsets into them */
static uint16_t load16(const void *base, size_t offset, int order) {
        const uint16_t *p = (const void *)((const uint8_t *)base + offset);

        switch (order) {
        case __ATOMIC_SEQ_CST:
                return le16toh(__atomic_load_n(p, __ATOMIC_SEQ_CST));
        case __ATOMIC_ACQUIRE:
                return le16toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
        default:
                return le16toh(__atomic_load_n(p, __ATOMIC_RELAXED));
        }
}

/*
 * Write one of our fields, with a full fence behind it: a load16(..., __ATOMIC_SEQ_CST) that follows sees the driver's side as it is
 * after the write. An exchange does that in one instruction, and ThreadSanitizer understands it.
 */
static void publish16(void *base, size_t offset, uint16_t value) {
        uint16_t *p = (void *)((uint8_t *)base + offset);

        (void)__atomic_exchange_n(p, htole16(value), __ATOMIC_SEQ_CST);
}

static void store32(void *base, size_t offset, uint32_t value) {
        uint32_t *p = (void *)((uint8_t *)base + offset);

        __atomic_store_n(p, htole32(value), __ATOMIC_RELAXED);
}

/* struct virtq_avail: flags, idx, ring[size], used_event (§2.7.6) */
#define AVAIL_FLAGS         0
#define AVAIL_IDX           2
#define AVAIL_RING(i)       (4 + 2 * (size_t)(i))
#define AVAIL_USED_EVENT(q) AVAIL_RING((q)->size)
#define AVAIL_BYTES(q)      (AVAIL_USED_EVENT(q) + 2)

/* struct virtq_used: flags, idx, ring[size] of { id, len }, avail_event (§2.7.8) */
#define USED_FLAGS          0
#define USED_IDX            2
#define USED_RING(i)        (4 + 8 * (size_t)(i))
#define USED_AVAIL_EVENT(q) USED_RING((q)->size)
#define USED_BYTES(q)       (USED_AVAIL_EVENT(q) + 2)

/* Broken from any thread (needs reset), looked at on the queue's. */
static bool is_broken(const struct virtq *q) {
        return __atomic_load_n(&q->broken, __ATOMIC_RELAXED);
}

static void set_broken(struct virtq *q, bool broken) {
        __atomic_store_n(&q->broken, broken, __ATOMIC_RELAXED);
}

static int broken_rule(struct virtq *q) {
        q->n_bad++;
        set_broken(q, true);
        return -EPROTO;
}

int virtq_enable(struct virtq *q) {
        void *desc, *avail, *used;

        if (q->enabled || q->size == 0 || q->size > VIRTQ_SIZE_MAX || (q->size & (q->size - 1)) != 0 ||
            q->size_max > VIRTQ_SIZE_MAX || (q->size_max && q->size > q->size_max))
                return -EINVAL;
        if (q->desc_gpa % 16 != 0 || q->avail_gpa % 2 != 0 || q->used_gpa % 4 != 0)
                return -EINVAL;
        desc = memory_host(q->memory, q->desc_gpa, sizeof(struct desc) * q->size);
        avail = memory_host(q->memory, q->avail_gpa, AVAIL_BYTES(q));
        used = memory_host(q->memory, q->used_gpa, USED_BYTES(q));
        if (!desc || !avail || !used)
                return -EINVAL;
        q->desc = desc;
        q->avail = avail;
        q->used = used;
        q->next_avail = q->next_used = q->signalled_used = 0;
        q->signalled_used_valid = true;
        q->doorbells_off = false;
        set_broken(q, false);
        q->enabled = true;
        return 0;
}

void virtq_reset(struct virtq *q) {
        *q = (struct virtq){
                .memory = q->memory,
                .index = q->index,
                .size_max = q->size_max,
                .size = q->size_max,
                .n_bad = q->n_bad,
        };
}

void virtq_break(struct virtq *q) {
        set_broken(q, true);
}

/* The one place where descriptors leave guest memory: each field is loaded once. */
static struct desc load_desc(const void *table, size_t index) {
        const volatile struct desc *from = (const volatile struct desc *)table + index;
        struct desc d = { .addr = le64toh(from->addr), .len = le32toh(from->len) };

        d.flags = le16toh(from->flags);
        d.next = le16toh(from->next);
        return d;
}

/* What walk() has found so far; goes into the caller's chain only when all of it is right. */
struct walk {
        struct iovec *iov;
        unsigned int n_readable, n_writable, n_seen;
        uint64_t readable, writable;
};

static int add_buffer(const struct virtq *q, struct walk *w, const struct desc *d) {
        bool writable = d->flags & VRING_DESC_F_WRITE;
        void *host = memory_host(q->memory, d->addr, d->len);

        if (!host)
                return -EFAULT;
        if (!writable && w->n_writable > 0)
                return -EPROTO; /* §2.7.4.2: readable ones first */
        if (d->len == 0)
                return 0;
        if (w->readable + w->writable + d->len > UINT32_MAX)
                return -EPROTO; /* §2.7.5.2; the used length could not say more either */
        w->iov[w->n_readable + w->n_writable] = (struct iovec){ .iov_base = host, .iov_len = d->len };
        if (writable) {
                w->n_writable++;
                w->writable += d->len;
        } else {
                w->n_readable++;
                w->readable += d->len;
        }
        return 0;
}

/* Follow the chain from @index of the table; an indirect descriptor continues, once, in the table that it names. */
static int walk(const struct virtq *q, uint16_t index, struct walk *w) {
        unsigned int limit = MAX(q->size, q->size_max); /* at most VIRTQ_CHAIN_MAX: see virtq_enable() */
        const void *table = q->desc;
        size_t n_table = q->size;
        bool in_indirect = false;

        for (;;) {
                struct desc d;
                int r;

                if (index >= n_table)
                        return -EPROTO;
                d = load_desc(table, index);
                if (d.flags & VRING_DESC_F_INDIRECT) {
                        /* §2.7.5.3.1: negotiated, not nested, the last of the chain; WRITE is to be ignored */
                        if (!q->indirect || in_indirect || (d.flags & VRING_DESC_F_NEXT))
                                return -EPROTO;
                        if (d.len == 0 || d.len % sizeof(struct desc) != 0)
                                return -EPROTO;
                        table = memory_host(q->memory, d.addr, d.len);
                        if (!table)
                                return -EFAULT;
                        n_table = d.len / sizeof(struct desc);
                        in_indirect = true;
                        index = 0;
                        continue;
                }
                if (++w->n_seen > limit)
                        return -EPROTO; /* §2.7.5.3.1, and loops */
                r = add_buffer(q, w, &d);
                if (r < 0)
                        return r;
                if (!(d.flags & VRING_DESC_F_NEXT))
                        return 0;
                index = d.next;
        }
}

/* How many chains the driver has made available; negative when its index is impossible. */
static int available(const struct virtq *q) {
        uint16_t n = (uint16_t)(load16(q->avail, AVAIL_IDX, __ATOMIC_ACQUIRE) - q->next_avail);

        return n <= q->size ? n : -EPROTO;
}

int virtq_pop(struct virtq *q, struct virtq_chain *ret_chain) {
        struct walk w = { .iov = ret_chain->iov };
        uint16_t head;
        int r;

        if (!q->enabled)
                return 0;
        if (is_broken(q))
                return -EPROTO;
        r = available(q);
        if (r == 0 && q->event_idx && !q->doorbells_off && virtq_enable_notify(q))
                r = available(q);
        if (r == 0)
                return 0;
        if (r < 0)
                return broken_rule(q);
        head = load16(q->avail, AVAIL_RING(q->next_avail & (q->size - 1)), __ATOMIC_RELAXED);
        if (walk(q, head, &w) < 0)
                return broken_rule(q);
        q->next_avail++;
        ret_chain->head = head;
        ret_chain->n_readable = w.n_readable;
        ret_chain->n_writable = w.n_writable;
        ret_chain->readable = w.readable;
        ret_chain->writable = w.writable;
        return 1;
}

void virtq_unpop(struct virtq *q) {
        if (q->enabled && !is_broken(q))
                q->next_avail--;
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t written) {
        size_t slot;

        if (!q->enabled || is_broken(q))
                return;
        slot = USED_RING(q->next_used & (q->size - 1));
        store32(q->used, slot, head);
        store32(q->used, slot + 4, written);
        q->next_used++;
}

bool virtq_flush(struct virtq *q) {
        uint16_t before = q->signalled_used, now = q->next_used, event;
        bool valid = q->signalled_used_valid;

        if (!q->enabled || is_broken(q) || (before == now && valid))
                return false;
        q->signalled_used = now;
        q->signalled_used_valid = true;
        publish16(q->used, USED_IDX, now);
        if (!q->event_idx)
                return !(load16(q->avail, AVAIL_FLAGS, __ATOMIC_SEQ_CST) & VRING_AVAIL_F_NO_INTERRUPT);
        event = load16(q->avail, AVAIL_USED_EVENT(q), __ATOMIC_SEQ_CST);
        /* §2.7.7.2: the driver wants to hear when the entry with index @event is used, that is, if @event is in [before, now) */
        return !valid || (uint16_t)(event - before) < (uint16_t)(now - before);
}

void virtq_disable_notify(struct virtq *q) {
        if (!q->enabled || is_broken(q))
                return;
        q->doorbells_off = true;
        if (!q->event_idx)
                publish16(q->used, USED_FLAGS, VRING_USED_F_NO_NOTIFY);
}

bool virtq_enable_notify(struct virtq *q) {
        if (!q->enabled || is_broken(q))
                return false;
        q->doorbells_off = false;
        if (q->event_idx)
                publish16(q->used, USED_AVAIL_EVENT(q), q->next_avail);
        else
                publish16(q->used, USED_FLAGS, 0);
        return load16(q->avail, AVAIL_IDX, __ATOMIC_SEQ_CST) != q->next_avail;
}

/* Copy between @buf and @n buffers, from @offset of their concatenation. */
static size_t copy(const struct iovec *iov, unsigned int n, size_t offset, void *to, const void *from, size_t len) {
        size_t done = 0;

        for (unsigned int i = 0; i < n && done < len; i++) {
                size_t part;

                if (offset >= iov[i].iov_len) {
                        offset -= iov[i].iov_len;
                        continue;
                }
                part = MIN(iov[i].iov_len - offset, len - done);
                if (to)
                        memcpy((uint8_t *)to + done, (const uint8_t *)iov[i].iov_base + offset, part);
                else
                        memcpy((uint8_t *)iov[i].iov_base + offset, (const uint8_t *)from + done, part);
                done += part;
                offset = 0;
        }
        return done;
}

size_t virtq_chain_read(const struct virtq_chain *chain, size_t offset, void *buf, size_t len) {
        return copy(chain->iov, chain->n_readable, offset, buf, NULL, len);
}

size_t virtq_chain_write(struct virtq_chain *chain, size_t offset, const void *buf, size_t len) {
        return copy(chain->iov + chain->n_readable, chain->n_writable, offset, NULL, buf, len);
}
