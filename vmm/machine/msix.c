// SPDX-License-Identifier: GPL-2.0-or-later
/* msix: see msix.h */
#include "vmm/machine/msix.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/pci.h"

/* seccomp: main,io: eventfd2 -- a vector's first message */
/* seccomp: vcpu: eventfd2 (rare) -- and when the guest unmasks a vector whose first message waited */
/* seccomp: main,io: write -- messages */
/* seccomp: vcpu: write (rare) -- messages that waited */
/* seccomp: main,vcpu,io: close (rare) -- a vector for which KVM has no GSI left */

_Static_assert(MSIX_TABLE + PCI_MSIX_MAX * 16 <= MSIX_PBA, "the table ends before the pending bits");
_Static_assert(PCI_MSIX_MAX <= 64, "pending bits are one word");

#define ENTRY_MASKED 1u /* vector control, bit 0 (§6.8.2.9) */

/* One entry of the table as the guest sees it, little-endian (§6.8.2). */
struct entry {
        uint32_t address_low, address_high, data, control;
};

/* The way of its messages into the kernel. */
struct path {
        int event_fd, gsi; /* -EBADF, -1 until the first message */
        bool routed, failed;
        uint64_t address;
        uint32_t data;
};

struct msix {
        struct kvm *kvm;
        const char *name;
        unsigned int n;
        pthread_mutex_t lock; /* guards all below */
        bool enabled, held;
        uint64_t pending;
        struct entry *entries;
        struct path *paths;
};

/* Make or bring up to date the way of a vector's messages; lock held. */
static int prepare(struct msix *msix, unsigned int vector) {
        const struct entry *entry = &msix->entries[vector];
        uint64_t address = (uint64_t)entry->address_high << 32 | entry->address_low;
        struct path *path = &msix->paths[vector];
        int r;

        if (path->routed && path->address == address && path->data == entry->data)
                return 0;
        if (path->failed)
                return -EIO; /* said already; until the guest programs the vector anew */
        if (path->gsi < 0) {
                _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

                r = fd < 0 ? -errno : kvm_msi_add(msix->kvm, fd);
                if (r < 0)
                        goto failed;
                path->gsi = r;
                path->event_fd = TAKE_FD(fd);
        }
        r = kvm_msi_set(msix->kvm, path->gsi, address, entry->data);
        if (r < 0)
                goto failed;
        path->routed = true;
        path->address = address;
        path->data = entry->data;
        return 0;
failed:
        path->failed = true;
        log_warning("%s: cannot route interrupt vector %u: %s", msix->name, vector, strerror(-r));
        return r;
}

static bool sendable(const struct msix *msix, unsigned int vector) {
        return msix->enabled && !msix->held && !(msix->entries[vector].control & ENTRY_MASKED);
}

static void send_message(struct msix *msix, unsigned int vector) {
        uint64_t one = 1;

        if (prepare(msix, vector) >= 0)
                (void)!write(msix->paths[vector].event_fd, &one, sizeof(one)); /* full: it is signalled anyway */
}

static void send_pending(struct msix *msix) {
        for (uint64_t left = msix->pending; left; left &= left - 1) {
                unsigned int vector = (unsigned int)__builtin_ctzll(left);

                if (!sendable(msix, vector))
                        continue;
                msix->pending &= ~(1ull << vector);
                send_message(msix, vector);
        }
}

static void clear_entries(struct msix *msix) {
        msix->enabled = msix->held = false;
        msix->pending = 0;
        for (unsigned int i = 0; i < msix->n; i++) {
                msix->entries[i] = (struct entry){ .control = ENTRY_MASKED };
                msix->paths[i].failed = false;
        }
}

int msix_new(struct kvm *kvm, const char *name, unsigned int vectors, struct msix **ret_msix) {
        struct msix *msix;

        if (vectors == 0 || vectors > PCI_MSIX_MAX)
                return -EINVAL;
        msix = calloc(1, sizeof(*msix));
        if (!msix)
                return -ENOMEM;
        msix->entries = calloc(vectors, sizeof(*msix->entries));
        msix->paths = calloc(vectors, sizeof(*msix->paths));
        if (!msix->entries || !msix->paths) {
                free(msix->entries);
                free(msix->paths);
                free(msix);
                return -ENOMEM;
        }
        msix->kvm = kvm;
        msix->name = name;
        msix->n = vectors;
        pthread_mutex_init(&msix->lock, NULL);
        for (unsigned int i = 0; i < vectors; i++)
                msix->paths[i] = (struct path){ .event_fd = -EBADF, .gsi = -1 };
        clear_entries(msix);
        *ret_msix = msix;
        return 0;
}

void msix_free(struct msix *msix) {
        if (!msix)
                return;
        for (unsigned int i = 0; i < msix->n; i++) {
                if (msix->paths[i].gsi >= 0)
                        kvm_msi_remove(msix->kvm, msix->paths[i].gsi, msix->paths[i].event_fd);
                safe_close(msix->paths[i].event_fd);
        }
        pthread_mutex_destroy(&msix->lock);
        free(msix->entries);
        free(msix->paths);
        free(msix);
}

void msix_reset(struct msix *msix) {
        pthread_mutex_lock(&msix->lock);
        clear_entries(msix);
        pthread_mutex_unlock(&msix->lock);
}

void msix_set_control(struct msix *msix, bool enabled, bool held) {
        pthread_mutex_lock(&msix->lock);
        msix->enabled = enabled;
        msix->held = held;
        if (!enabled)
                msix->pending = 0;
        send_pending(msix);
        pthread_mutex_unlock(&msix->lock);
}

bool msix_notify(struct msix *msix, unsigned int vector) {
        bool enabled;

        pthread_mutex_lock(&msix->lock);
        enabled = msix->enabled;
        if (vector < msix->n && enabled) {
                if (sendable(msix, vector))
                        send_message(msix, vector);
                else
                        msix->pending |= 1ull << vector;
        }
        pthread_mutex_unlock(&msix->lock);
        return enabled;
}

int msix_eventfd(struct msix *msix, unsigned int vector) {
        int fd = -1;

        pthread_mutex_lock(&msix->lock);
        if (vector < msix->n && sendable(msix, vector) && prepare(msix, vector) >= 0)
                fd = msix->paths[vector].event_fd;
        pthread_mutex_unlock(&msix->lock);
        return fd;
}

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned int size) {
        struct msix *msix = opaque;
        size_t n_table = msix->n * sizeof(*msix->entries);
        uint64_t value = 0;

        pthread_mutex_lock(&msix->lock);
        if (offset < n_table && size <= n_table - offset)
                memcpy(&value, (const uint8_t *)msix->entries + offset, size);
        else if (offset >= MSIX_PBA && offset + size <= MSIX_PBA + sizeof(msix->pending))
                memcpy(&value, (const uint8_t *)&msix->pending + (offset - MSIX_PBA), size);
        pthread_mutex_unlock(&msix->lock);
        return value;
}

/* §6.8.2: software writes aligned dwords or qwords; anything else does nothing. Pending bits are read-only. */
static void msix_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct msix *msix = opaque;
        unsigned int vector = (unsigned int)(offset / sizeof(struct entry));

        if ((size != 4 && size != 8) || offset % size != 0 || offset >= msix->n * sizeof(struct entry))
                return;
        pthread_mutex_lock(&msix->lock);
        memcpy((uint8_t *)msix->entries + offset, &value, size);
        msix->entries[vector].control &= ENTRY_MASKED;
        msix->paths[vector].failed = false;
        send_pending(msix);
        pthread_mutex_unlock(&msix->lock);
}

const struct bus_ops msix_bus_ops = { .read = msix_read, .write = msix_write };
