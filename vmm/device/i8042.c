// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * i8042: the keyboard controller's reset line, and nothing else of it
 *
 *      0x60  data     reads 0xff
 *      0x64  status (read), command (write): 0xfe and its relatives pulse the reset line
 *
 * Theory of operation. There is no keyboard. The FADT says so, but a kernel that does not read it probes the controller,
 * and every step that would wait for an answer waits for its time limit. So the status says "a byte is waiting" for the
 * first reads: a driver that tries to empty the buffer first (Linux: 16 bytes) gives up at once, and a loop that reads
 * until it is empty still ends. "Input buffer full" is never set, so that commands, the reset among them, go out without
 * a wait.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/device/device.h"

#define STATUS_OBF   0x01 /* a byte waits at port 0x60 */
#define STATUS_OTHER 0xf4 /* keyboard unlocked, self-test passed, and the error bits of a byte that never came */
#define STALE_BYTES  24   /* more than any driver's idea of the buffer */

struct i8042 {
        struct device device;
        struct machine *machine;
        struct bus_region *data, *command;
        unsigned int stale; /* bytes that still seem to wait */
};

static uint64_t data_read(void *opaque, uint64_t offset, unsigned int size) {
        struct i8042 *kbc = opaque;

        if (kbc->stale > 0)
                kbc->stale--;
        return 0xff;
}

static void data_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned int size) {
        struct i8042 *kbc = opaque;

        return STATUS_OTHER | (kbc->stale > 0 ? STATUS_OBF : 0);
}

/* Commands 0xf0..0xff pulse the output lines whose bit in the low nibble is 0; line 0 is the CPU's reset. */
static void command_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct i8042 *kbc = opaque;

        if ((value & 0xf1) == 0xf0)
                machine_request_reset(kbc->machine);
}

static void i8042_reset(struct device *device) {
        struct i8042 *kbc = CONTAINER_OF(device, struct i8042, device);

        kbc->stale = STALE_BYTES;
}

static void i8042_destroy(struct device *device) {
        struct i8042 *kbc = CONTAINER_OF(device, struct i8042, device);

        bus_remove(kbc->machine->ports, kbc->command);
        bus_remove(kbc->machine->ports, kbc->data);
        free(kbc);
}

static const struct bus_ops data_ops = { data_read, data_write };
static const struct bus_ops command_ops = { status_read, command_write };

static int i8042_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct i8042 *kbc;
        int r;

        if (index > 0)
                return -ENOENT;
        kbc = calloc(1, sizeof(*kbc));
        if (!kbc)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the keyboard controller");
        kbc->machine = machine;
        kbc->device.class = &i8042_class;
        kbc->stale = STALE_BYTES;
        r = bus_add(machine->ports, LAYOUT_PORT_I8042, 1, &data_ops, kbc, "i8042-data", &kbc->data);
        if (r >= 0)
                r = bus_add(machine->ports, LAYOUT_PORT_I8042 + 4, 1, &command_ops, kbc, "i8042-command",
                            &kbc->command);
        if (r < 0) {
                i8042_destroy(&kbc->device);
                return error_set(e, r, "device-create", NULL, "cannot make the keyboard controller");
        }
        *ret_device = &kbc->device;
        return 0;
}

const struct device_class i8042_class = {
        .name = "i8042",
        .create = i8042_create,
        .reset = i8042_reset,
        .destroy = i8042_destroy,
};
