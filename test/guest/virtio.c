// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio: see virtio.h */
#include "virtio.h"

/* struct virtio_pci_common_cfg */
#define DEVICE_FEATURE_SELECT 0x00
#define DEVICE_FEATURE        0x04
#define DRIVER_FEATURE_SELECT 0x08
#define DRIVER_FEATURE        0x0c
#define DEVICE_STATUS         0x14
#define QUEUE_SELECT          0x16
#define QUEUE_SIZE            0x18
#define QUEUE_MSIX_VECTOR     0x1a
#define QUEUE_ENABLE          0x1c
#define QUEUE_NOTIFY_OFF      0x1e
#define QUEUE_DESC            0x20
#define QUEUE_DRIVER          0x28
#define QUEUE_DEVICE          0x30

enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE };

static void place_bars(struct virtio *v, uint32_t base) {
        v->next_bar = base;
        for (unsigned int bar = 0; bar < 6; bar++) {
                uint32_t reg = v->config + 0x10 + bar * 4, old = rd32(reg), size;

                wr16(v->config + 4, (uint16_t)(rd16(v->config + 4) & ~3u));
                wr32(reg, 0xffffffff);
                size = ~(rd32(reg) & ~0xfu) + 1;
                wr32(reg, old);
                if (rd32(reg) == 0 || old & 1 || size == 0)
                        continue;
                v->next_bar = (v->next_bar + size - 1) & ~(size - 1);
                pci_place_bar(v->config, bar, v->next_bar);
                v->next_bar += size;
                if ((old & 6) == 4)
                        bar++;
        }
        wr16(v->config + 4, (uint16_t)(rd16(v->config + 4) | 6));
}

bool virtio_open(struct virtio *v, uint16_t id, uint32_t bar_base) {
        uint32_t cap = 0;

        *v = (struct virtio){ .config = pci_find(0x1af4, id) };
        if (!v->config)
                return false;
        place_bars(v, bar_base);
        while ((cap = pci_capability(v->config, 0x09, cap)) != 0) {
                uint32_t at = (rd32(v->config + 0x10 + rd8(cap + 4) * 4u) & ~0xfu) + rd32(cap + 8);

                switch (rd8(cap + 3)) {
                case CAP_COMMON:
                        v->common = at;
                        break;
                case CAP_NOTIFY:
                        v->notify = at;
                        v->notify_multiplier = rd32(cap + 16);
                        break;
                case CAP_ISR:
                        v->isr = at;
                        break;
                case CAP_DEVICE:
                        v->device = at;
                        break;
                default:
                        break;
                }
                cap = (cap & ~0xffu) | (cap & 0xff);
        }
        return v->common && v->notify && v->isr;
}

uint8_t virtio_status(struct virtio *v) {
        return rd8(v->common + DEVICE_STATUS);
}

bool virtio_reset(struct virtio *v) {
        wr8(v->common + DEVICE_STATUS, 0);
        for (unsigned int i = 0; i < 1000; i++) {
                if (virtio_status(v) == 0)
                        return true;
                wait_us(100);
        }
        return false;
}

static void set_address(struct virtio *v, unsigned int reg, const volatile void *p) {
        wr32(v->common + reg, (uint32_t)(uintptr_t)p);
        wr32(v->common + reg + 4, 0);
}

bool virtio_start(struct virtio *v, struct vq *q, uint64_t features, uint16_t vector) {
        memset(q, 0, sizeof(*q));
        if (!virtio_reset(v))
                return false;
        wr8(v->common + DEVICE_STATUS, 1);
        wr8(v->common + DEVICE_STATUS, 3);
        v->features = 0;
        for (uint32_t i = 0; i < 2; i++) {
                wr32(v->common + DEVICE_FEATURE_SELECT, i);
                v->features |= (uint64_t)rd32(v->common + DEVICE_FEATURE) << (i * 32);
                wr32(v->common + DRIVER_FEATURE_SELECT, i);
                wr32(v->common + DRIVER_FEATURE, i == 0 ? (uint32_t)features : 1); /* VERSION_1 */
        }
        wr8(v->common + DEVICE_STATUS, 0xb);
        if (!(virtio_status(v) & 8))
                return false;
        wr16(v->common + QUEUE_SELECT, 0);
        wr16(v->common + QUEUE_SIZE, VQ_SIZE);
        wr16(v->common + QUEUE_MSIX_VECTOR, vector);
        set_address(v, QUEUE_DESC, &q->desc);
        set_address(v, QUEUE_DRIVER, &q->avail);
        set_address(v, QUEUE_DEVICE, &q->used);
        v->notify_off = rd16(v->common + QUEUE_NOTIFY_OFF);
        wr16(v->common + QUEUE_ENABLE, 1);
        wr8(v->common + DEVICE_STATUS, 0xf);
        return virtio_status(v) == 0xf && rd16(v->common + QUEUE_MSIX_VECTOR) == vector;
}

void virtio_kick(struct virtio *v, struct vq *q, uint16_t head) {
        q->avail.ring[q->avail.idx % VQ_SIZE] = head;
        barrier();
        q->avail.idx++;
        barrier();
        wr16(v->notify + v->notify_off * v->notify_multiplier, 0);
}

bool virtio_wait(struct vq *q, uint16_t idx) {
        volatile uint16_t *used = &q->used.idx;

        for (unsigned int i = 0; i < 2000; i++) {
                if (*used == idx)
                        return true;
                wait_us(1000);
        }
        return false;
}
