// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * device: the list of all device models, and how a machine gets its instances
 *
 * registry.c holds one array of `struct device_class`; for each, create() makes every instance that the machine's configuration
 * asks for (0, 1 or many). There are no constructors or linker sets: what is not in the array does not exist.
 */
#pragma once

#include "base/error.h"
#include "vmm/machine/machine.h"

struct device {
        const struct device_class *class;
        struct device *next;
};

struct device_class {
        const char *name;
        /* Make the @index-th instance for @machine->config. 0 with *ret_device, -ENOENT when there are no more, or an error. */
        int (*create)(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e);
        void (*reset)(struct device *device); /* back to power-on; may be NULL */
        /* After reset(): not there yet. machine_reset_ready() is called when it may be. May be NULL: never. */
        bool (*busy)(struct device *device);
        /* The vCPUs are parked: end what is in flight, begin nothing. -errno: can't, and goes on. Both may be NULL. */
        int (*pause)(struct device *device);
        void (*resume)(struct device *device);
        void (*power_button)(struct device *device); /* may be NULL */
        void (*destroy)(struct device *device);      /* releases all, removes its bus regions */
};

/** devices_create() - walk the array; on failure nothing is left. */
int devices_create(struct machine *machine, struct error *e);
void devices_reset(struct machine *machine);
void devices_power_button(struct machine *machine);
/** devices_busy() - is a device's reset not over? devices_pause() - all of them or, with -errno, none; devices_resume(). */
bool devices_busy(struct machine *machine);
int devices_pause(struct machine *machine);
void devices_resume(struct machine *machine);
void devices_destroy(struct machine *machine);

/* The classes, one per file of this folder; registry.c lists them. */
extern const struct device_class serial_class;     /* 16550A at 0x3f8 */
extern const struct device_class rtc_class;        /* MC146818 at 0x70 */
extern const struct device_class i8042_class;      /* reset only */
extern const struct device_class pm_class;         /* ACPI PM1, timer, GPE0, reset register, power button, port 0x92 */
extern const struct device_class pvpanic_class;    /* 0x505 */
extern const struct device_class debug_exit_class; /* 0xf4 */
extern const struct device_class virtio_console_class;
extern const struct device_class virtio_rng_class;
extern const struct device_class virtio_net_class;
extern const struct device_class virtio_blk_class;
