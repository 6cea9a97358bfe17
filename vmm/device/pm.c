// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pm: the power management hardware that the FADT describes (ACPI 6.5 §4.8), and the ways to reset a PC by a port
 *
 *      0x600  PM1a_STS  2    what happened: timer carry, power button          (write 1 to clear)
 *      0x602  PM1a_EN   2    which of it raises the SCI
 *      0x604  PM1a_CNT  2    SCI_EN (always 1), SLP_TYP, SLP_EN
 *      0x608  PM_TMR    4    3.579545 MHz, 32 bits (FADT flag TMR_VAL_EXT)
 *      0x60c  GPE0      2+2  status and enable; nothing raises one yet
 *      0x092  system control port A: bit 0 resets, bit 1 is the A20 gate (always open here)
 *      0xcf9  reset control: bit 2 going from 0 to 1 resets (the FADT's RESET_REG)
 *
 * Theory of operation. The FADT gives no SMI command port, so the machine is in ACPI mode from the start (§4.8.3.2) and
 * SCI_EN reads as 1. The SCI is a level: it is on while any status bit meets its enable bit. Writing SLP_EN with the
 * SLP_TYP that the DSDT's \_S5 names powers off; there is no other sleep state, so other values do nothing.
 *
 * The timer counts CLOCK_MONOTONIC since the last reset and so goes on while the machine is paused. Its carry (bit 31
 * changes, every ten minutes) sets TMR_STS; a loop timer exists to see that in time only while TMR_EN is on.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "vmm/device/device.h"
#include "vmm/device/pm.h"

#define PM1_STS           0x0
#define PM1_EN            0x2
#define PM1_CNT           0x4
#define PM_TMR            0x8
#define GPE0_STS          0xc
#define GPE0_EN           0xe
#define PM_SIZE           0x10

#define PM1_TMR           (1u << 0) /* same place in STS and EN */
#define PM1_GBL           (1u << 5)
#define PM1_PWRBTN        (1u << 8)
#define PM1_STS_WC        (PM1_TMR | PM1_GBL | PM1_PWRBTN)
#define PM1_RTC           (1u << 10) /* kept, but never raised: Linux checks that the bit sticks */
#define PM1_EN_RW         (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC)

#define CNT_SCI_EN        (1u << 0)
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_TYP       (7u << CNT_SLP_TYP_SHIFT)
#define CNT_SLP_EN        (1u << 13)

#define PM_TIMER_HZ       3579545ull

#define SYSCTL_A_RESET    (1u << 0)
#define SYSCTL_A_A20      (1u << 1)
#define RESET_CPU         (1u << 2)
#define RESET_RW          0x0eu /* full reset, reset CPU, system reset: the bits that are kept */

struct pm {
        struct device device;
        struct machine *machine;
        struct bus_region *block, *sysctl_a, *reset;
        struct loop_source *timer; /* to see the carry in time; armed only while it is enabled */
        uint64_t start_ns;         /* CLOCK_MONOTONIC when the timer was 0 */
        uint64_t carries_seen;
        uint16_t sts, en, cnt, gpe_sts, gpe_en;
        uint8_t sysctl, reset_control;
        bool sci;
};

static uint64_t ticks(const struct pm *pm) {
        return (uint64_t)((unsigned __int128)(clock_ns() - pm->start_ns) * PM_TIMER_HZ / 1000000000ull);
}

static void update_sci(struct pm *pm) {
        bool level = (pm->sts & pm->en) || (pm->gpe_sts & pm->gpe_en);

        if (level != pm->sci) {
                pm->sci = level;
                machine_set_irq(pm->machine, LAYOUT_IRQ_SCI, level);
        }
}

/* Note a carry that happened since the last look, and be woken for the next one if the guest wants it. */
static void check_carry(struct pm *pm) {
        uint64_t now = ticks(pm), carries = now >> 31;

        if (carries != pm->carries_seen) {
                pm->carries_seen = carries;
                pm->sts |= PM1_TMR;
        }
        if (pm->en & PM1_TMR) {
                uint64_t left = ((carries + 1) << 31) - now;

                (void)loop_timer_set(pm->timer, left * 1000000 / PM_TIMER_HZ + 1);
        }
}

static void on_carry(void *opaque) {
        struct pm *pm = opaque;

        check_carry(pm);
        update_sci(pm);
}

/* The 16 bytes of the block as they read now. */
static void snapshot(struct pm *pm, unsigned int offset, uint8_t image[static PM_SIZE]) {
        uint32_t timer = offset >= PM_TMR && offset < GPE0_STS ? (uint32_t)ticks(pm) : 0;
        uint16_t halves[PM_SIZE / 2] = {
                [PM1_STS / 2] = pm->sts,
                [PM1_EN / 2] = pm->en,
                [PM1_CNT / 2] = pm->cnt | CNT_SCI_EN,
                [PM_TMR / 2] = (uint16_t)timer,
                [PM_TMR / 2 + 1] = (uint16_t)(timer >> 16),
                [GPE0_STS / 2] = pm->gpe_sts,
                [GPE0_EN / 2] = pm->gpe_en,
        };

        for (unsigned int i = 0; i < PM_SIZE / 2; i++) {
                image[i * 2] = (uint8_t)halves[i];
                image[i * 2 + 1] = (uint8_t)(halves[i] >> 8);
        }
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned int size) {
        struct pm *pm = opaque;
        uint8_t image[PM_SIZE];
        uint64_t value = 0;

        if (offset < PM1_EN)
                check_carry(pm);
        snapshot(pm, (unsigned int)offset, image);
        for (unsigned int i = 0; i < size && offset + i < PM_SIZE; i++)
                value |= (uint64_t)image[offset + i] << i * 8;
        return value;
}

static void sleep_now(struct pm *pm) {
        unsigned int type = (pm->cnt & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT;

        if (type == PM_SLP_TYP_S5)
                machine_request_shutdown(pm->machine, SHUTDOWN_GUEST, 0);
}

/* One 16-bit register: @mask says which of its bits the access covers, @value holds them in place. */
static void write_half(struct pm *pm, unsigned int reg, uint16_t value, uint16_t mask) {
        switch (reg) {
        case PM1_STS:
                check_carry(pm);
                pm->sts &= (uint16_t) ~(value & mask & PM1_STS_WC);
                break;
        case PM1_EN:
                pm->en = (uint16_t)((pm->en & ~mask) | (value & mask)) & PM1_EN_RW;
                check_carry(pm);
                break;
        case PM1_CNT:
                pm->cnt = (uint16_t)((pm->cnt & ~mask) | (value & mask)) & CNT_SLP_TYP;
                if (value & mask & CNT_SLP_EN)
                        sleep_now(pm);
                break;
        case GPE0_STS:
                pm->gpe_sts &= (uint16_t) ~(value & mask);
                break;
        case GPE0_EN:
                pm->gpe_en = (uint16_t)((pm->gpe_en & ~mask) | (value & mask));
                break;
        default: /* the timer is read-only */
                break;
        }
}

static void pm_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct pm *pm = opaque;

        for (uint64_t reg = offset & ~1ull; reg < offset + size && reg < PM_SIZE; reg += 2) {
                uint16_t half = 0, mask = 0;

                for (unsigned int i = 0; i < 2; i++) {
                        uint64_t at = reg + i;

                        if (at < offset || at >= offset + size)
                                continue;
                        mask |= (uint16_t)(0xff << i * 8);
                        half |= (uint16_t)((value >> (at - offset) * 8 & 0xff) << i * 8);
                }
                write_half(pm, (unsigned int)reg, half, mask);
        }
        update_sci(pm);
}

static uint64_t sysctl_a_read(void *opaque, uint64_t offset, unsigned int size) {
        struct pm *pm = opaque;

        return pm->sysctl | SYSCTL_A_A20;
}

static void sysctl_a_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct pm *pm = opaque;

        if (value & ~pm->sysctl & SYSCTL_A_RESET)
                machine_request_reset(pm->machine);
        pm->sysctl = (uint8_t)value & (SYSCTL_A_RESET | SYSCTL_A_A20);
}

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned int size) {
        struct pm *pm = opaque;

        return pm->reset_control;
}

static void reset_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct pm *pm = opaque;

        if (value & ~pm->reset_control & RESET_CPU)
                machine_request_reset(pm->machine);
        pm->reset_control = (uint8_t)value & RESET_RW;
}

static void pm_reset(struct device *device) {
        struct pm *pm = CONTAINER_OF(device, struct pm, device);

        pm->sts = pm->en = pm->cnt = pm->gpe_sts = pm->gpe_en = 0;
        pm->sysctl = pm->reset_control = 0;
        pm->start_ns = clock_ns();
        pm->carries_seen = 0;
        (void)loop_timer_set(pm->timer, UINT64_MAX);
        update_sci(pm);
}

static void pm_power_button(struct device *device) {
        struct pm *pm = CONTAINER_OF(device, struct pm, device);

        pm->sts |= PM1_PWRBTN;
        update_sci(pm);
}

static void pm_destroy(struct device *device) {
        struct pm *pm = CONTAINER_OF(device, struct pm, device);

        if (pm->machine->pci)
                pci_bus_set_reset_port(pm->machine->pci, NULL, NULL);
        if (pm->machine->pci)
                pci_bus_set_reset_port(pm->machine->pci, NULL, NULL);
        bus_remove(pm->machine->ports, pm->reset);
        bus_remove(pm->machine->ports, pm->sysctl_a);
        bus_remove(pm->machine->ports, pm->block);
        loop_source_free(pm->timer);
        free(pm);
}

static const struct bus_ops block_ops = { pm_read, pm_write };
static const struct bus_ops sysctl_a_ops = { sysctl_a_read, sysctl_a_write };
static const struct bus_ops reset_ops = { reset_read, reset_write };

static int pm_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct pm *pm;
        int r;

        if (index > 0)
                return -ENOENT;
        pm = calloc(1, sizeof(*pm));
        if (!pm)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the power management device");
        pm->machine = machine;
        pm->device.class = &pm_class;
        pm->start_ns = clock_ns();
        r = loop_add_timer(machine->loop, on_carry, pm, &pm->timer);
        if (r >= 0)
                r = bus_add(machine->ports, LAYOUT_PORT_PM, PM_SIZE, &block_ops, pm, "pm", &pm->block);
        if (r >= 0)
                r = bus_add(machine->ports, LAYOUT_PORT_SYSCTL_A, 1, &sysctl_a_ops, pm, "port92", &pm->sysctl_a);
        if (r >= 0 && !machine->pci)
                r = bus_add(machine->ports, LAYOUT_PORT_RESET, 1, &reset_ops, pm, "reset", &pm->reset);
        if (r < 0) {
                pm_destroy(&pm->device);
                return error_set(e, r, "device-create", NULL, "cannot make the power management device");
        }
        if (machine->pci) /* the port lies inside the PCI address register */
                pci_bus_set_reset_port(machine->pci, &reset_ops, pm);
        *ret_device = &pm->device;
        return 0;
}

const struct device_class pm_class = {
        .name = "pm",
        .create = pm_create,
        .reset = pm_reset,
        .power_button = pm_power_button,
        .destroy = pm_destroy,
};
