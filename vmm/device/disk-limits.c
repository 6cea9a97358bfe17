// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-limits: see disk-limits.h */
#include "vmm/device/disk-limits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/block/block.h"
#include "vmm/device/virtio-blk.h"

static struct throttle_limits limits_of(const struct throttle_config *c) {
        struct throttle_limits l = {
                .v = {
                        [THROTTLE_BYTES] = { c->bps, c->bps_burst },
                        [THROTTLE_BYTES_READ] = { c->bps_read, c->bps_read_burst },
                        [THROTTLE_BYTES_WRITE] = { c->bps_write, c->bps_write_burst },
                        [THROTTLE_OPS] = { c->iops, c->iops_burst },
                        [THROTTLE_OPS_READ] = { c->iops_read, c->iops_read_burst },
                        [THROTTLE_OPS_WRITE] = { c->iops_write, c->iops_write_burst },
                },
                .op_size = c->iops_size,
        };

        for (unsigned int i = 0; i < THROTTLE_BUCKET_COUNT; i++)
                if (l.v[i].burst > 0)
                        l.v[i].seconds = c->burst_seconds;
        return l;
}

static void group_name(unsigned int index, const struct throttle_config *c, char name[static THROTTLE_NAME_MAX]) {
        if (c->group)
                snprintf(name, THROTTLE_NAME_MAX, "%s", c->group);
        else
                snprintf(name, THROTTLE_NAME_MAX, "disk%u", index);
}

/* The group of that name, if a disk is in it: a new reference, or NULL. */
static struct throttle_group *find_group(struct machine *machine, const char *name) {
        for (unsigned int i = 0; i < machine->config->n_disks; i++) {
                struct block *block = virtio_blk_block(machine, i);
                struct throttle_group *g = block ? throttle_disk_group(block_throttle(block)) : NULL;

                if (!g)
                        continue;
                if (streq(throttle_group_name(g), name))
                        return g;
                throttle_group_unref(g);
        }
        return NULL;
}

int disk_limits_join(struct machine *machine, unsigned int index, const struct throttle_config *config,
                     struct throttle_group **ret_group, struct error *e) {
        struct throttle_limits limits = limits_of(config), has;
        _cleanup_(throttle_group_freep) struct throttle_group *g = NULL;
        char name[THROTTLE_NAME_MAX];
        int r = throttle_check(&limits, e);

        if (r < 0)
                return r;
        group_name(index, config, name);
        g = find_group(machine, name);
        if (g) {
                throttle_group_get(g, &has);
                if (throttle_any(&limits) && throttle_any(&has) && memcmp(&has, &limits, sizeof(has)) != 0)
                        return error_set(e, -EINVAL, "disk-throttle", "give them with one of the group's disks only",
                                         "the limits of group %s are other ones", name);
        } else {
                r = throttle_group_new(name, &g);
                if (r < 0)
                        return error_set(e, r, "device-create", NULL, "no memory for a disk");
        }
        if (throttle_any(&limits))
                throttle_group_set(g, &limits);
        *ret_group = TAKE_PTR(g);
        return 0;
}

int disk_limits_set(struct machine *machine, unsigned int index, const struct throttle_config *config,
                    struct error *e) {
        struct block *block = virtio_blk_block(machine, index);
        struct throttle_limits limits = limits_of(config);
        _cleanup_(throttle_group_freep) struct throttle_group *g = NULL;
        char name[THROTTLE_NAME_MAX];
        int r = throttle_check(&limits, e);

        if (r < 0)
                return r;
        if (!block)
                return error_set(e, -ENOENT, "disk-unknown", "disks are disk0, disk1, ... in the machine's order",
                                 "there is no disk %u", index);
        group_name(index, config, name);
        g = find_group(machine, name);
        if (!g)
                r = throttle_group_new(name, &g);
        if (r < 0)
                return error_set(e, r, "device-create", NULL, "no memory for a group of disks");
        throttle_group_set(g, &limits);
        throttle_disk_move(block_throttle(block), g);
        return 0;
}
