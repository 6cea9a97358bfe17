// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine-stub: a machine without KVM, for the tests of one device: real port bus and event loop, and notes of what the
 * device asked for. Include it in one .c file of a test; it takes the place of machine/machine.c.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/loop.h"
#include "schema/lodge-schema.h"
#include "vmm/device/device.h"
#include "vmm/machine/machine.h"

struct stub {
        struct machine machine;
        struct vmm_config config;
        struct device *device;
        bool level[24];          /* of each interrupt pin */
        unsigned int raised[24]; /* times that it went up */
        unsigned int resets, shutdowns, panics;
        enum shutdown_reason reason;
        int status;
        bool gathering;        /* machine_gather_port() */
        unsigned int gathered; /* bytes 'g' that KVM holds at the serial port */
};

static inline struct stub *stub_of(struct machine *machine) {
        return CONTAINER_OF(machine, struct stub, machine);
}

void machine_set_irq(struct machine *machine, unsigned int gsi, bool level) {
        struct stub *s = stub_of(machine);

        assert_true(gsi < 24);
        s->raised[gsi] += level && !s->level[gsi];
        s->level[gsi] = level;
}

void machine_request_reset(struct machine *machine) {
        stub_of(machine)->resets++;
}

void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status) {
        struct stub *s = stub_of(machine);

        s->shutdowns++;
        s->reason = reason;
        s->status = exit_status;
}

void machine_report_panic(struct machine *machine) {
        stub_of(machine)->panics++;
}

int machine_gather_port(struct machine *machine, uint16_t port, bool on) {
        stub_of(machine)->gathering = on;
        return 0;
}

void machine_flush_coalesced(struct machine *machine) {
        struct stub *s = stub_of(machine);

        for (; s->gathered > 0; s->gathered--)
                bus_write(machine->ports, LAYOUT_PORT_SERIAL, 1, 'g');
}

static inline void stub_init(struct stub *s) {
        *s = (struct stub){ .config = { .serial = { .in_fd = -1, .out_fd = -1 }, .control_fd = -1 } };
        s->machine.config = &s->config;
        assert_int_equal(loop_new(&s->machine.loop), 0);
        assert_int_equal(bus_new(&s->machine.ports), 0);
}

static inline void stub_create(struct stub *s, const struct device_class *class) {
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(class->create(&s->machine, 0, &s->device, &e), 0);
        assert_ptr_equal(s->device->class, class);
        assert_int_equal(class->create(&s->machine, 1, &s->device, &e), -ENOENT); /* there is one */
}

static inline void stub_free(struct stub *s) {
        if (s->device)
                s->device->class->destroy(s->device);
        bus_free(s->machine.ports);
        loop_free(s->machine.loop);
}

static inline uint64_t in(struct stub *s, uint16_t port, unsigned int size) {
        return bus_read(s->machine.ports, port, size);
}

static inline void out(struct stub *s, uint16_t port, unsigned int size, uint64_t value) {
        bus_write(s->machine.ports, port, size, value);
}

/* Let the loop do all that it has to do within @ms. */
static inline void stub_run(struct stub *s, int ms) {
        assert_true(loop_run_once(s->machine.loop, ms) >= 0);
        while (loop_run_once(s->machine.loop, 0) > 0)
                ;
}
