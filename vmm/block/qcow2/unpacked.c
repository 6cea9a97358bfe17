// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpacked: see unpacked.h
 */
#include "vmm/block/qcow2/unpacked.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

void unpacked_init(struct unpacked *u, uint64_t cluster) {
        *u = (struct unpacked){ .n = 1 };
        while (u->n < UNPACKED_MAX && (u->n + 1) * cluster <= UNPACKED_BYTES)
                u->n++;
        pthread_mutex_init(&u->lock, NULL);
}

void unpacked_done(struct unpacked *u) {
        for (unsigned int i = 0; i < u->n; i++)
                free(u->kept[i].data);
        if (u->n)
                pthread_mutex_destroy(&u->lock);
}

void unpacked_forget(struct unpacked *u) {
        atomic_fetch_add(&u->number, 1);
}

uint64_t unpacked_number(const struct unpacked *u) {
        return atomic_load(&u->number);
}

bool unpacked_get(struct unpacked *u, uint64_t entry, uint64_t number, uint64_t in, uint64_t n, void *buf) {
        bool found = false;

        pthread_mutex_lock(&u->lock);
        for (unsigned int i = 0; i < u->n && !found; i++) {
                found = u->kept[i].data && u->kept[i].entry == entry && u->kept[i].number == number;
                if (found)
                        memcpy(buf, u->kept[i].data + in, n);
        }
        pthread_mutex_unlock(&u->lock);
        return found;
}

void unpacked_put(struct unpacked *u, uint64_t entry, uint64_t number, uint8_t *data) {
        uint8_t *old;

        pthread_mutex_lock(&u->lock);
        old = u->kept[u->next].data;
        u->kept[u->next].data = data;
        u->kept[u->next].entry = entry;
        u->kept[u->next].number = number;
        u->next = (u->next + 1) % u->n;
        pthread_mutex_unlock(&u->lock);
        free(old);
}
