// SPDX-License-Identifier: GPL-2.0-or-later
/* pm, i8042, pvpanic, debug-exit: what the guest writes to a port becomes the request that it means, and only that */
#include <time.h>

#include "machine-stub.h"
#include "vmm/device/pm.h"

#define PM1_STS (LAYOUT_PORT_PM + 0)
#define PM1_EN  (LAYOUT_PORT_PM + 2)
#define PM1_CNT (LAYOUT_PORT_PM + 4)
#define PM_TMR  (LAYOUT_PORT_PM + 8)
#define GPE0    (LAYOUT_PORT_PM + 12)

#define PWRBTN  0x100
#define SLP_EN  0x2000
#define SCI     LAYOUT_IRQ_SCI

static int setup(void **state) {
        static struct stub s;

        stub_init(&s);
        s.config.pvpanic = s.config.debug_exit = true;
        *state = &s;
        return 0;
}

static int teardown(void **state) {
        stub_free(*state);
        return 0;
}

/* Power off must come from S5's SLP_TYP with SLP_EN and from nothing else, or a guest that goes to S1 would lose its state. */
static void test_only_s5_powers_off(void **state) {
        struct stub *s = *state;

        stub_create(s, &pm_class);
        assert_int_equal(in(s, PM1_CNT, 2), 1); /* SCI_EN: in ACPI mode from the start */
        out(s, PM1_CNT, 2, PM_SLP_TYP_S5 << 10);
        out(s, PM1_CNT, 2, 1 << 10 | SLP_EN);
        out(s, PM1_CNT, 2, SLP_EN);
        assert_int_equal(s->shutdowns, 0);
        out(s, PM1_CNT, 2, PM_SLP_TYP_S5 << 10 | SLP_EN);
        assert_int_equal(s->shutdowns, 1);
        assert_int_equal(s->reason, SHUTDOWN_GUEST);
        assert_int_equal(s->status, 0);
        assert_int_equal(in(s, PM1_CNT, 2) & SLP_EN, 0); /* write-only */
}

/* SLP_TYP and SLP_EN may arrive in two byte writes, as ACPI lets an OS do (low byte, then high). */
static void test_byte_writes(void **state) {
        struct stub *s = *state;

        stub_create(s, &pm_class);
        out(s, PM1_CNT, 1, 0);
        out(s, PM1_CNT + 1, 1, PM_SLP_TYP_S5 << 2 | SLP_EN >> 8);
        assert_int_equal(s->shutdowns, 1);
        out(s, PM1_STS, 4, (uint64_t)PWRBTN << 16); /* STS and EN in one go */
        assert_int_equal(in(s, PM1_EN, 2), PWRBTN);
        assert_int_equal(in(s, PM1_EN + 1, 1), PWRBTN >> 8);
}

/* Without a level-triggered SCI that follows status and enable, "power down" does nothing in the guest. */
static void test_power_button_raises_sci(void **state) {
        struct stub *s = *state;

        stub_create(s, &pm_class);
        pm_class.power_button(s->device);
        assert_int_equal(in(s, PM1_STS, 2), PWRBTN);
        assert_false(s->level[SCI]); /* not enabled */
        out(s, PM1_EN, 2, PWRBTN);
        assert_true(s->level[SCI]);
        out(s, PM1_STS, 2, 0xfeff); /* other bits: nothing is acknowledged */
        assert_true(s->level[SCI]);
        out(s, PM1_STS, 2, PWRBTN);
        assert_false(s->level[SCI]);
        assert_int_equal(in(s, PM1_STS, 2), 0);
        pm_class.power_button(s->device);
        assert_true(s->level[SCI]);
        pm_class.reset(s->device);
        assert_false(s->level[SCI]);
        assert_int_equal(in(s, PM1_EN, 2), 0);
}

/* Linux calibrates its TSC by this timer: a wrong rate is a wrong clock. */
static void test_timer_rate(void **state) {
        struct stub *s = *state;
        struct timespec before, after;
        uint32_t a, b;
        double seconds;

        stub_create(s, &pm_class);
        clock_gettime(CLOCK_MONOTONIC, &before);
        a = (uint32_t)in(s, PM_TMR, 4);
        nanosleep(&(struct timespec){ .tv_nsec = 30000000 }, NULL);
        b = (uint32_t)in(s, PM_TMR, 4);
        clock_gettime(CLOCK_MONOTONIC, &after);
        seconds = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
        assert_true(b - a >= 0.03 * 3579545);
        assert_true(b - a <= seconds * 3579545 + 1);
        out(s, PM_TMR, 4, 0); /* read-only */
        assert_true((uint32_t)in(s, PM_TMR, 4) >= b);
}

/* All accesses of any size and place stay inside the block. */
static void test_every_access(void **state) {
        struct stub *s = *state;

        stub_create(s, &pm_class);
        for (unsigned int size = 1; size <= 8; size *= 2)
                for (unsigned int offset = 0; offset + size <= 16; offset++) {
                        out(s, (uint16_t)(LAYOUT_PORT_PM + offset), size, 0);
                        (void)in(s, (uint16_t)(LAYOUT_PORT_PM + offset), size);
                        out(s, (uint16_t)(LAYOUT_PORT_PM + offset), size, UINT64_MAX);
                }
        assert_int_equal(in(s, GPE0, 4), 0xffff0000); /* enables can be kept; no status appears by itself */
}

/* Rebooting by 0xcf9 takes a 0 to 1 transition of bit 2; a read-modify-write of other bits must not reset. */
static void test_reset_ports(void **state) {
        struct stub *s = *state;

        stub_create(s, &pm_class);
        out(s, LAYOUT_PORT_RESET, 1, 0x02);
        assert_int_equal(s->resets, 0);
        out(s, LAYOUT_PORT_RESET, 1, 0x06);
        assert_int_equal(s->resets, 1);
        out(s, LAYOUT_PORT_RESET, 1, 0x06);
        assert_int_equal(s->resets, 1);
        pm_class.reset(s->device);
        out(s, LAYOUT_PORT_RESET, 1, 0x04);
        assert_int_equal(s->resets, 2);

        assert_int_equal(in(s, LAYOUT_PORT_SYSCTL_A, 1), 2); /* A20 is open */
        out(s, LAYOUT_PORT_SYSCTL_A, 1, 2);
        assert_int_equal(s->resets, 2);
        out(s, LAYOUT_PORT_SYSCTL_A, 1, 3);
        assert_int_equal(s->resets, 3);
}

/* A probing driver must see a byte for long enough to give up, and a loop that empties the buffer must end. */
static void test_i8042(void **state) {
        struct stub *s = *state;
        unsigned int bytes = 0;

        stub_create(s, &i8042_class);
        while (in(s, 0x64, 1) & 1) {
                assert_int_equal(in(s, 0x60, 1), 0xff);
                assert_true(++bytes < 100);
        }
        assert_true(bytes > 16);
        assert_int_equal(in(s, 0x64, 1) & 2, 0); /* commands go out without a wait */
        out(s, 0x64, 1, 0xae);
        out(s, 0x60, 1, 0xfe);
        assert_int_equal(s->resets, 0);
        out(s, 0x64, 1, 0xfe);
        assert_int_equal(s->resets, 1);
        out(s, 0x64, 1, 0xff); /* pulses no line */
        assert_int_equal(s->resets, 1);
}

/* A panic ends the guest; a crash kernel that takes over must be left alone to write its dump. */
static void test_pvpanic(void **state) {
        struct stub *s = *state;

        stub_create(s, &pvpanic_class);
        assert_int_equal(in(s, LAYOUT_PORT_PVPANIC, 1), 3);
        out(s, LAYOUT_PORT_PVPANIC, 1, 2);
        out(s, LAYOUT_PORT_PVPANIC, 1, 0);
        assert_int_equal(s->panics, 0);
        out(s, LAYOUT_PORT_PVPANIC, 1, 1);
        assert_int_equal(s->panics, 1);
}

/* Test guests report by this status; 0 must stay the mark of a clean power-off. */
static void test_debug_exit(void **state) {
        struct stub *s = *state;

        stub_create(s, &debug_exit_class);
        out(s, LAYOUT_PORT_DEBUG_EXIT, 4, 0x10);
        assert_int_equal(s->reason, SHUTDOWN_DEBUG_EXIT);
        assert_int_equal(s->status, 0x21);
        out(s, LAYOUT_PORT_DEBUG_EXIT, 1, 0);
        assert_int_equal(s->status, 1);
        out(s, LAYOUT_PORT_DEBUG_EXIT, 4, UINT64_MAX);
        assert_int_equal(s->status, 255);
}

/* Ports that nobody asked for must not exist: 0xf4 would let any guest choose our exit status. */
static void test_optional_ports(void **state) {
        struct stub *s = *state;

        s->config.debug_exit = s->config.pvpanic = false;
        assert_int_equal(debug_exit_class.create(&s->machine, 0, &s->device, NULL), -ENOENT);
        assert_int_equal(pvpanic_class.create(&s->machine, 0, &s->device, NULL), -ENOENT);
        assert_null(s->device);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_only_s5_powers_off),
                TEST(test_byte_writes),
                TEST(test_power_button_raises_sci),
                TEST(test_timer_rate),
                TEST(test_every_access),
                TEST(test_reset_ports),
                TEST(test_i8042),
                TEST(test_pvpanic),
                TEST(test_debug_exit),
                TEST(test_optional_ports),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
