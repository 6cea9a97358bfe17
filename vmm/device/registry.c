// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * registry: the list of all device models
 *
 * The order is that of creation and of reset: what the machine itself is made of first, then what hangs on the PCI bus, by slot.
 * Devices are destroyed in the opposite order.
 */
#include <errno.h>

#include "vmm/device/device.h"

static const struct device_class *const classes[] = {
        &serial_class,     &rtc_class,        &i8042_class,          &pm_class,
        &pvpanic_class,    &debug_exit_class, &virtio_console_class, &virtio_rng_class,
        &virtio_net_class, &virtio_blk_class,
};

static int create_all(struct machine *machine, const struct device_class *class, struct device ***tail,
                      struct error *e) {
        for (unsigned int i = 0;; i++) {
                struct device *device;
                int r = class->create(machine, i, &device, e);

                if (r == -ENOENT && !(e && e->code))
                        return 0; /* no more; with an error it is something that was not found */
                if (r < 0)
                        return error_set(e, r, "device-create", NULL, "cannot make device %s", class->name);
                device->next = NULL;
                **tail = device;
                *tail = &device->next;
        }
}

int devices_create(struct machine *machine, struct error *e) {
        struct device **tail = &machine->devices;

        machine->devices = NULL;
        for (size_t i = 0; i < ELEMENTSOF(classes); i++) {
                int r = create_all(machine, classes[i], &tail, e);

                if (r < 0) {
                        devices_destroy(machine);
                        return r;
                }
        }
        return 0;
}

void devices_reset(struct machine *machine) {
        for (struct device *d = machine->devices; d; d = d->next)
                if (d->class->reset)
                        d->class->reset(d);
}

bool devices_busy(struct machine *machine) {
        bool busy = false;

        for (struct device *d = machine->devices; d && !busy; d = d->next)
                busy = d->class->busy && d->class->busy(d);
        return busy;
}

static void resume_until(struct machine *machine, const struct device *end) {
        for (struct device *d = machine->devices; d != end; d = d->next)
                if (d->class->resume)
                        d->class->resume(d);
}

int devices_pause(struct machine *machine) {
        for (struct device *d = machine->devices; d; d = d->next) {
                int r = d->class->pause ? d->class->pause(d) : 0;

                if (r < 0) {
                        resume_until(machine, d);
                        return r;
                }
        }
        return 0;
}

void devices_resume(struct machine *machine) {
        resume_until(machine, NULL);
}

void devices_power_button(struct machine *machine) {
        for (struct device *d = machine->devices; d; d = d->next)
                if (d->class->power_button)
                        d->class->power_button(d);
}

void devices_destroy(struct machine *machine) {
        struct device *last_first = NULL;

        while (machine->devices) {
                struct device *d = machine->devices;

                machine->devices = d->next;
                d->next = last_first;
                last_first = d;
        }
        while (last_first) {
                struct device *d = last_first;

                last_first = d->next;
                d->class->destroy(d);
        }
}
