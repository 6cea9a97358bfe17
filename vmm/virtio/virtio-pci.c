// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-pci: see virtio-pci.h
 *
 * BAR 0 (64-bit, 32 KiB), one page or more for each structure so that a guest could map them apart:
 *
 *      0x0000 common configuration     0x1000 ISR     0x2000 device configuration     0x4000 doorbells, 4 bytes for each queue
 *
 * BAR 2 holds MSI-X. Vendor capabilities in configuration space point into BAR 0 (§4.1.4), and one of them is a window through
 * which a driver without MMIO reaches the same registers (§4.1.4.9).
 *
 * The common configuration is a table of fields. A read takes its bytes from an image made for it; a write replaces bytes of the fields
 * that it touches and applies each in turn. Odd access widths thus do what a memory would do, and no width is special.
 *
 * Doorbells. Each queue has an eventfd on the main loop, or on a loop of the queue's own; a KVM doorbell is attached to it while the queue is enabled and the BAR is
 * mapped, so queues that the driver leaves alone cost no ioctl. Where the kernel refuses one, and for writes through the window, the write reaches us as
 * an access and goes to the same eventfd. A doorbell that is still in an eventfd when the device is reset finds no enabled queue.
 */
#include "vmm/virtio/virtio-pci.h"

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/loop.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/pci.h"

/* seccomp: main,io: read -- doorbells */
/* seccomp: vcpu: write (rare) -- doorbells that KVM does not take */

#define BAR_REGISTERS   0
#define BAR_MSIX        2

#define REGISTERS_SIZE  0x8000u
#define COMMON_OFFSET   0x0000u
#define COMMON_SIZE     0x40u /* with the fields of 1.2 behind those of 1.0 */
#define ISR_OFFSET      0x1000u
#define DEVICE_OFFSET   0x2000u
#define DEVICE_SIZE     0x1000u
#define DOORBELL_OFFSET 0x4000u
#define DOORBELL_STEP   4u

#define ISR_QUEUE       1u
#define ISR_CONFIG      2u

/* §4.1.2: vendor Red Hat's, modern device ids; subsystem ids mean nothing any more. */
#define VIRTIO_PCI_VENDOR    0x1af4
#define VIRTIO_PCI_DEVICE    0x1040
#define VIRTIO_PCI_SUBSYSTEM 0x1100

struct queue_link {
        struct virtio_pci *proxy;
        unsigned int index;
        int event_fd;
        struct loop_source *source;
        bool attached;             /* a KVM doorbell rings event_fd ... */
        uint64_t attached_address; /* ... from here */
        uint16_t vector;           /* atomic: queues are notified from any thread */
};

struct virtio_pci {
        struct machine *machine;
        struct virtio_device *device;
        struct pci_device *pci;
        unsigned int n_vectors, n_links, window_capability;
        struct queue_link *links;

        bool mapped;
        uint64_t address;

        uint32_t device_feature_select, driver_feature_select;
        uint16_t queue_select;
        uint16_t config_vector; /* atomic */
        uint8_t isr;            /* atomic */
};

_Static_assert(DOORBELL_OFFSET + VIRTIO_QUEUES_MAX * DOORBELL_STEP <= REGISTERS_SIZE, "a doorbell for each queue");

/* --- interrupts --- */

static void signal_vector(struct virtio_pci *p, const uint16_t *vector, uint8_t isr) {
        uint16_t v = __atomic_load_n(vector, __ATOMIC_RELAXED);

        bool sent = v != VIRTIO_MSI_NO_VECTOR && pci_msix_notify(p->pci, v);

        /* The ISR byte is for drivers that poll (§4.1.4.5): there is no interrupt line. */
        if (!sent || isr == ISR_CONFIG)
                __atomic_fetch_or(&p->isr, isr, __ATOMIC_RELEASE);
}

static void transport_notify_queue(struct virtio_device *device, unsigned int index) {
        struct virtio_pci *p = device->transport_data;

        signal_vector(p, &p->links[index].vector, ISR_QUEUE);
}

static void transport_notify_config(struct virtio_device *device) {
        struct virtio_pci *p = device->transport_data;

        signal_vector(p, &p->config_vector, ISR_CONFIG);
}

/* --- doorbells --- */

static void update_doorbell(struct virtio_pci *p, struct queue_link *link) {
        bool wanted = p->mapped && p->device->queues[link->index].enabled;
        uint64_t address = p->address + DOORBELL_OFFSET + DOORBELL_STEP * link->index;

        if (link->attached && !wanted) { /* a BAR that moves is unmapped first */
                (void)kvm_doorbell(p->machine->kvm, link->event_fd, false, link->attached_address, 0, NULL, false);
                link->attached = false;
        }
        if (wanted && !link->attached &&
            kvm_doorbell(p->machine->kvm, link->event_fd, false, address, 0, NULL, true) >= 0) {
                link->attached = true;
                link->attached_address = address;
        }
}

static void update_doorbells(struct virtio_pci *p) {
        for (unsigned int i = 0; i < p->n_links; i++)
                update_doorbell(p, &p->links[i]);
}

static void on_doorbell(void *opaque, int fd, uint32_t events) {
        struct queue_link *link = opaque;

        virtio_device_kick(link->proxy->device, link->index);
}

static void ring(struct virtio_pci *p, unsigned int index) {
        uint64_t one = 1;

        if (index < p->n_links && p->device->queues[index].enabled)
                (void)!write(p->links[index].event_fd, &one, sizeof(one));
}

static void on_bar_mapped(void *opaque, unsigned int bar, uint64_t address, bool mapped) {
        struct virtio_pci *p = opaque;

        if (bar != BAR_REGISTERS)
                return;
        p->mapped = mapped;
        p->address = address;
        update_doorbells(p);
}

static void transport_reset(struct virtio_device *device) {
        struct virtio_pci *p = device->transport_data;

        update_doorbells(p); /* no queue is enabled: they all go */
        for (unsigned int i = 0; i < p->n_links; i++)
                __atomic_store_n(&p->links[i].vector, VIRTIO_MSI_NO_VECTOR, __ATOMIC_RELAXED);
        __atomic_store_n(&p->config_vector, VIRTIO_MSI_NO_VECTOR, __ATOMIC_RELAXED);
        __atomic_store_n(&p->isr, 0, __ATOMIC_RELAXED);
        p->device_feature_select = p->driver_feature_select = 0;
        p->queue_select = 0;
}

static const struct virtio_transport_ops transport_ops = {
        .notify_queue = transport_notify_queue,
        .notify_config = transport_notify_config,
        .reset = transport_reset,
};

/* --- common configuration (§4.1.4.3) --- */

static struct virtq *selected(const struct virtio_pci *p) {
        return p->queue_select < p->device->n_queues ? &p->device->queues[p->queue_select] : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t word) {
        return word > 1 ? 0 : (uint32_t)(features >> 32 * word);
}

static void put(uint8_t *image, unsigned int offset, unsigned int size, uint64_t value) {
        for (unsigned int i = 0; i < size; i++)
                image[offset + i] = (uint8_t)(value >> 8 * i);
}

static void common_image(const struct virtio_pci *p, uint8_t image[static COMMON_SIZE]) {
        const struct virtio_device *device = p->device;
        const struct virtq *q = selected(p);

        memset(image, 0, COMMON_SIZE);
        put(image, VIRTIO_PCI_COMMON_DFSELECT, 4, p->device_feature_select);
        put(image, VIRTIO_PCI_COMMON_DF, 4, feature_word(device->device_features, p->device_feature_select));
        put(image, VIRTIO_PCI_COMMON_GFSELECT, 4, p->driver_feature_select);
        put(image, VIRTIO_PCI_COMMON_GF, 4, feature_word(device->driver_features, p->driver_feature_select));
        put(image, VIRTIO_PCI_COMMON_MSIX, 2, p->config_vector);
        put(image, VIRTIO_PCI_COMMON_NUMQ, 2, device->n_queues);
        put(image, VIRTIO_PCI_COMMON_STATUS, 1, device->status);
        put(image, VIRTIO_PCI_COMMON_CFGGENERATION, 1, device->config_generation);
        put(image, VIRTIO_PCI_COMMON_Q_SELECT, 2, p->queue_select);
        put(image, VIRTIO_PCI_COMMON_Q_MSIX, 2, q ? p->links[q->index].vector : VIRTIO_MSI_NO_VECTOR);
        if (!q)
                return; /* size 0: there is no such queue */
        put(image, VIRTIO_PCI_COMMON_Q_SIZE, 2, q->size);
        put(image, VIRTIO_PCI_COMMON_Q_ENABLE, 2, q->enabled);
        put(image, VIRTIO_PCI_COMMON_Q_NOFF, 2, q->index);
        put(image, VIRTIO_PCI_COMMON_Q_DESCLO, 8, q->desc_gpa);
        put(image, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, q->avail_gpa);
        put(image, VIRTIO_PCI_COMMON_Q_USEDLO, 8, q->used_gpa);
        /* queue_notify_data and queue_reset stay 0: their features are not offered */
}

/* A vector that we don't have reads back as none (§4.1.5.1.2.1). */
static uint16_t checked_vector(const struct virtio_pci *p, uint64_t value) {
        return value < p->n_vectors ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

static void set_queue_field(struct virtio_pci *p, unsigned int offset, uint64_t value) {
        struct virtq *q = selected(p);

        if (!q)
                return;
        if (offset == VIRTIO_PCI_COMMON_Q_MSIX)
                __atomic_store_n(&p->links[q->index].vector, checked_vector(p, value), __ATOMIC_RELAXED);
        if (q->enabled)
                return; /* §4.1.4.3.2: set up first, then enabled, then left alone */
        switch (offset) {
        case VIRTIO_PCI_COMMON_Q_SIZE:
                q->size = (uint16_t)value; /* checked when it is enabled */
                break;
        case VIRTIO_PCI_COMMON_Q_DESCLO:
                q->desc_gpa = value;
                break;
        case VIRTIO_PCI_COMMON_Q_AVAILLO:
                q->avail_gpa = value;
                break;
        case VIRTIO_PCI_COMMON_Q_USEDLO:
                q->used_gpa = value;
                break;
        case VIRTIO_PCI_COMMON_Q_ENABLE:
                if (value == 1 && virtio_device_enable_queue(p->device, q->index) >= 0)
                        update_doorbell(p, &p->links[q->index]);
                break;
        }
}

static void set_field(struct virtio_pci *p, unsigned int offset, uint64_t value) {
        switch (offset) {
        case VIRTIO_PCI_COMMON_DFSELECT:
                p->device_feature_select = (uint32_t)value;
                break;
        case VIRTIO_PCI_COMMON_GFSELECT:
                p->driver_feature_select = (uint32_t)value;
                break;
        case VIRTIO_PCI_COMMON_GF:
                virtio_device_set_features(p->device, p->driver_feature_select, (uint32_t)value);
                break;
        case VIRTIO_PCI_COMMON_MSIX:
                __atomic_store_n(&p->config_vector, checked_vector(p, value), __ATOMIC_RELAXED);
                break;
        case VIRTIO_PCI_COMMON_STATUS:
                virtio_device_set_status(p->device, (uint8_t)value);
                break;
        case VIRTIO_PCI_COMMON_Q_SELECT:
                p->queue_select = (uint16_t)value;
                break;
        default:
                set_queue_field(p, offset, value);
        }
}

/* What a driver may write, in the order of addresses. */
static const struct field {
        uint8_t offset, size;
} writable_fields[] = {
        { VIRTIO_PCI_COMMON_DFSELECT, 4 }, { VIRTIO_PCI_COMMON_GFSELECT, 4 },  { VIRTIO_PCI_COMMON_GF, 4 },
        { VIRTIO_PCI_COMMON_MSIX, 2 },     { VIRTIO_PCI_COMMON_STATUS, 1 },    { VIRTIO_PCI_COMMON_Q_SELECT, 2 },
        { VIRTIO_PCI_COMMON_Q_SIZE, 2 },   { VIRTIO_PCI_COMMON_Q_MSIX, 2 },    { VIRTIO_PCI_COMMON_Q_ENABLE, 2 },
        { VIRTIO_PCI_COMMON_Q_DESCLO, 8 }, { VIRTIO_PCI_COMMON_Q_AVAILLO, 8 }, { VIRTIO_PCI_COMMON_Q_USEDLO, 8 },
};

static void common_write(struct virtio_pci *p, unsigned int offset, unsigned int size, uint64_t value) {
        for (size_t i = 0; i < ELEMENTSOF(writable_fields); i++) {
                const struct field *f = &writable_fields[i];
                uint8_t image[COMMON_SIZE];
                uint64_t field = 0;

                if (offset >= f->offset + f->size || offset + size <= f->offset)
                        continue;
                common_image(p, image); /* as it is after the fields in front of this one were set */
                put(image, offset, size, value);
                for (unsigned int b = f->size; b-- > 0;)
                        field = field << 8 | image[f->offset + b];
                set_field(p, f->offset, field);
        }
}

/* --- the registers' BAR --- */

static uint64_t registers_read(void *opaque, uint64_t offset, unsigned int size) {
        struct virtio_pci *p = opaque;
        uint64_t value = 0;

        if (offset + size <= COMMON_OFFSET + COMMON_SIZE) {
                uint8_t image[COMMON_SIZE];

                common_image(p, image);
                memcpy(&value, image + offset, size);
        } else if (offset == ISR_OFFSET)
                value = __atomic_exchange_n(&p->isr, 0, __ATOMIC_ACQUIRE); /* reading clears (§4.1.4.5) */
        else if (offset >= DEVICE_OFFSET && offset + size <= DEVICE_OFFSET + DEVICE_SIZE)
                virtio_device_read_config(p->device, offset - DEVICE_OFFSET, &value, size);
        return le64toh(value);
}

static void registers_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct virtio_pci *p = opaque;

        if (offset + size <= COMMON_OFFSET + COMMON_SIZE)
                common_write(p, (unsigned int)offset, size, value);
        else if (offset >= DEVICE_OFFSET && offset + size <= DEVICE_OFFSET + DEVICE_SIZE) {
                value = htole64(value);
                virtio_device_write_config(p->device, offset - DEVICE_OFFSET, &value, size);
        } else if (offset >= DOORBELL_OFFSET && (offset - DOORBELL_OFFSET) % DOORBELL_STEP == 0)
                ring(p, (unsigned int)(offset - DOORBELL_OFFSET) / DOORBELL_STEP); /* the place says which queue */
}

static const struct bus_ops registers_ops = { .read = registers_read, .write = registers_write };

/* --- the window in configuration space (§4.1.4.9) --- */

#define WINDOW_DATA sizeof(struct virtio_pci_cap)

/* What the driver has aimed the window at; false when it is nothing that we serve, or when the access misses the data. */
static bool window_target(struct virtio_pci *p, unsigned int offset, unsigned int size, uint32_t *ret_offset,
                          uint32_t *ret_length, uint8_t **ret_data) {
        uint8_t *raw = pci_config(p->pci) + p->window_capability;
        unsigned int data = p->window_capability + WINDOW_DATA;
        struct virtio_pci_cap cap;
        uint32_t at, length;

        if (p->window_capability == 0 || offset >= data + 4 || offset + size <= data)
                return false;
        memcpy(&cap, raw, sizeof(cap));
        at = le32toh(cap.offset);
        length = le32toh(cap.length);
        if (cap.bar != BAR_REGISTERS || (length != 1 && length != 2 && length != 4) || at % length != 0 ||
            at >= REGISTERS_SIZE)
                return false;
        *ret_offset = at;
        *ret_length = length;
        *ret_data = raw + WINDOW_DATA;
        return true;
}

static void on_config_read(void *opaque, unsigned int offset, unsigned int size) {
        struct virtio_pci *p = opaque;
        uint32_t at, length;
        uint8_t *data;

        if (window_target(p, offset, size, &at, &length, &data))
                put(data, 0, length, registers_read(p, at, length));
}

static void on_config_write(void *opaque, unsigned int offset, unsigned int size) {
        struct virtio_pci *p = opaque;
        uint32_t at, length, value = 0;
        uint8_t *data;

        if (!window_target(p, offset, size, &at, &length, &data))
                return;
        memcpy(&value, data, length);
        registers_write(p, at, length, le32toh(value));
}

static const struct pci_device_ops pci_ops = {
        .config_read = on_config_read,
        .config_write = on_config_write,
        .bar_mapped = on_bar_mapped,
};

/* --- construction --- */

static int add_capability(struct virtio_pci *p, uint8_t type, uint32_t offset, uint32_t length) {
        struct {
                struct virtio_pci_cap cap;
                uint32_t more; /* doorbells: the multiplier; window: the data */
        } c = {
                .cap = { .cfg_type = type, .bar = BAR_REGISTERS, .offset = htole32(offset), .length = htole32(length) },
        }, writable = { 0 };
        bool has_more = type == VIRTIO_PCI_CAP_NOTIFY_CFG || type == VIRTIO_PCI_CAP_PCI_CFG;

        c.cap.cap_len = (uint8_t)(sizeof(c.cap) + (has_more ? sizeof(c.more) : 0));
        if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
                c.more = htole32(DOORBELL_STEP);
        if (type == VIRTIO_PCI_CAP_PCI_CFG) {
                writable.cap.bar = 0xff;
                writable.cap.offset = writable.cap.length = writable.more = UINT32_MAX;
        }
        return pci_add_capability(p->pci, PCI_CAP_ID_VNDR, c.cap.cap_len, (const uint8_t *)&c + 2,
                                  (const uint8_t *)&writable + 2);
}

static int add_capabilities(struct virtio_pci *p) {
        unsigned int config_size = p->device->config_size;
        int r;

        r = add_capability(p, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_SIZE);
        if (r >= 0)
                r = add_capability(p, VIRTIO_PCI_CAP_NOTIFY_CFG, DOORBELL_OFFSET, p->n_links * DOORBELL_STEP);
        if (r >= 0)
                r = add_capability(p, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, 1);
        if (r >= 0 && config_size > 0)
                r = add_capability(p, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET, config_size);
        if (r >= 0)
                r = add_capability(p, VIRTIO_PCI_CAP_PCI_CFG, 0, 0);
        if (r < 0)
                return r;
        p->window_capability = (unsigned int)r;
        return 0;
}

static int add_links(struct virtio_pci *p) {
        p->links = calloc(p->device->n_queues, sizeof(*p->links));
        if (!p->links)
                return -ENOMEM;
        for (unsigned int i = 0; i < p->device->n_queues; i++) {
                const struct virtio_device_ops *ops = p->device->ops;
                struct loop *own = ops->queue_loop ? ops->queue_loop(p->device, i) : NULL;
                struct queue_link *link = &p->links[i];
                int r;

                *link = (struct queue_link){ .proxy = p, .index = i, .vector = VIRTIO_MSI_NO_VECTOR };
                p->n_links++;
                link->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                if (link->event_fd < 0)
                        return -errno;
                /* Edge-triggered: each ring comes once and nobody has to drain the counter, which no guest lives to fill. */
                r = loop_add_fd(own ?: p->machine->loop, link->event_fd, EPOLLIN | EPOLLET, on_doorbell, link,
                                &link->source);
                if (r < 0)
                        return r;
        }
        return 0;
}

int virtio_pci_new(struct machine *machine, struct virtio_device *device, unsigned int slot,
                   struct virtio_pci **ret_proxy, struct error *e) {
        const struct pci_identity identity = {
                .name = device->ops->name,
                .vendor = VIRTIO_PCI_VENDOR,
                .device = (uint16_t)(VIRTIO_PCI_DEVICE + device->ops->id),
                .subsystem_vendor = VIRTIO_PCI_VENDOR,
                .subsystem = VIRTIO_PCI_SUBSYSTEM,
                .revision = 1,
                .class_code = device->ops->class_code,
        };
        _cleanup_(virtio_pci_freep) struct virtio_pci *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for %s", device->ops->name);
        p->machine = machine;
        p->device = device;
        p->config_vector = VIRTIO_MSI_NO_VECTOR;
        p->n_vectors = MIN(device->n_queues + 1, (unsigned int)PCI_MSIX_MAX);
        r = pci_device_new(machine->pci, slot, 0, &identity, &pci_ops, p, &p->pci, e);
        if (r < 0)
                return r;
        r = device->config_size > DEVICE_SIZE ? -EINVAL : add_links(p);
        if (r >= 0)
                r = pci_add_msix(p->pci, BAR_MSIX, p->n_vectors);
        if (r >= 0)
                r = pci_add_bar(p->pci, BAR_REGISTERS, REGISTERS_SIZE, true, false, &registers_ops, p);
        if (r >= 0)
                r = add_capabilities(p);
        if (r < 0)
                return error_set(e, r, "virtio-pci", NULL, "cannot put %s on the PCI bus", device->ops->name);
        device->transport = &transport_ops;
        device->transport_data = p;
        *ret_proxy = TAKE_PTR(p);
        return 0;
}

void virtio_pci_free(struct virtio_pci *p) {
        if (!p)
                return;
        pci_device_free(p->pci); /* takes the BAR off, and so the doorbells */
        if (p->device->transport_data == p) {
                p->device->transport = NULL;
                p->device->transport_data = NULL;
        }
        for (unsigned int i = 0; i < p->n_links; i++) {
                loop_source_free(p->links[i].source);
                safe_close(p->links[i].event_fd);
        }
        free(p->links);
        free(p);
}
