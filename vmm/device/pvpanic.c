// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pvpanic: a port by which the guest says that its kernel panicked (QEMU's docs/specs/pvpanic; ACPI device QEMU0001)
 *
 * Reading gives the events that are understood; writing reports some of them. PANICKED ends the guest's life as far as
 * control is concerned (GUEST_PANICKED). CRASH_LOADED says that a crash kernel takes over to write a dump: the machine must go
 * on, so it is only logged.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "schema/lodge-schema.h"
#include "vmm/device/device.h"

#define EVENT_PANICKED     (1u << 0)
#define EVENT_CRASH_LOADED (1u << 1)

struct pvpanic {
        struct device device;
        struct machine *machine;
        struct bus_region *region;
        bool crash_logged; /* once for each boot: the guest must not be able to fill the log */
};

static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned int size) {
        return EVENT_PANICKED | EVENT_CRASH_LOADED;
}

static void pvpanic_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct pvpanic *p = opaque;

        if (value & EVENT_PANICKED)
                machine_report_panic(p->machine);
        else if ((value & EVENT_CRASH_LOADED) && !p->crash_logged) {
                p->crash_logged = true;
                log_warning("the guest's kernel panicked; its crash kernel takes over");
        }
}

static void pvpanic_reset(struct device *device) {
        CONTAINER_OF(device, struct pvpanic, device)->crash_logged = false;
}

static void pvpanic_destroy(struct device *device) {
        struct pvpanic *p = CONTAINER_OF(device, struct pvpanic, device);

        bus_remove(p->machine->ports, p->region);
        free(p);
}

static const struct bus_ops pvpanic_ops = { pvpanic_read, pvpanic_write };

static int pvpanic_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct pvpanic *p;
        int r;

        if (index > 0 || !machine->config->pvpanic)
                return -ENOENT;
        p = calloc(1, sizeof(*p));
        if (!p)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for pvpanic");
        p->machine = machine;
        p->device.class = &pvpanic_class;
        r = bus_add(machine->ports, LAYOUT_PORT_PVPANIC, 1, &pvpanic_ops, p, "pvpanic", &p->region);
        if (r < 0) {
                pvpanic_destroy(&p->device);
                return error_set(e, r, "device-create", NULL, "cannot make pvpanic");
        }
        *ret_device = &p->device;
        return 0;
}

const struct device_class pvpanic_class = {
        .name = "pvpanic",
        .create = pvpanic_create,
        .reset = pvpanic_reset,
        .destroy = pvpanic_destroy,
};
