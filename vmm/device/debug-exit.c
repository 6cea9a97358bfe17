// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * debug-exit: a port by which a test guest ends the machine with a status of its choice
 *
 * Writing V to port 0xf4 makes lodge-vmm exit with (V << 1) | 1, so never with 0, which stands for a clean power-off. Only
 * there when the configuration asks for it. The status is an exit status, so 7 bits of V count.
 */
#include <errno.h>
#include <stdlib.h>

#include "schema/lodge-schema.h"
#include "vmm/device/device.h"

#define PORTS 4 /* byte, word and dword writes at the base */

struct debug_exit {
        struct device device;
        struct machine *machine;
        struct bus_region *region;
};

static uint64_t debug_exit_read(void *opaque, uint64_t offset, unsigned int size) {
        return UINT64_MAX;
}

static void debug_exit_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct debug_exit *d = opaque;

        if (offset == 0)
                machine_request_shutdown(d->machine, SHUTDOWN_DEBUG_EXIT, (int)((value & 0x7f) << 1 | 1));
}

static void debug_exit_destroy(struct device *device) {
        struct debug_exit *d = CONTAINER_OF(device, struct debug_exit, device);

        bus_remove(d->machine->ports, d->region);
        free(d);
}

static const struct bus_ops debug_exit_ops = { debug_exit_read, debug_exit_write };

static int debug_exit_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct debug_exit *d;
        int r;

        if (index > 0 || !machine->config->debug_exit)
                return -ENOENT;
        d = calloc(1, sizeof(*d));
        if (!d)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the debug exit port");
        d->machine = machine;
        d->device.class = &debug_exit_class;
        r = bus_add(machine->ports, LAYOUT_PORT_DEBUG_EXIT, PORTS, &debug_exit_ops, d, "debug-exit", &d->region);
        if (r < 0) {
                debug_exit_destroy(&d->device);
                return error_set(e, r, "device-create", NULL, "cannot make the debug exit port");
        }
        *ret_device = &d->device;
        return 0;
}

const struct device_class debug_exit_class = {
        .name = "debug-exit",
        .create = debug_exit_create,
        .destroy = debug_exit_destroy,
};
