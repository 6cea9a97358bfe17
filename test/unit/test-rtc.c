// SPDX-License-Identifier: GPL-2.0-or-later
/* rtc: the guest reads UTC in whatever form it asks for, and can set it */
#include <time.h>

#include "machine-stub.h"

#define IRQ LAYOUT_IRQ_RTC

static int setup(void **state) {
        static struct stub s;

        stub_init(&s);
        stub_create(&s, &rtc_class);
        *state = &s;
        return 0;
}

static int teardown(void **state) {
        stub_free(*state);
        return 0;
}

static unsigned int get(struct stub *s, unsigned int reg) {
        out(s, 0x70, 1, reg);
        return (unsigned int)in(s, 0x71, 1);
}

static void set(struct stub *s, unsigned int reg, unsigned int value) {
        out(s, 0x70, 1, reg);
        out(s, 0x71, 1, value);
}

static unsigned int bcd(unsigned int v) {
        return (v >> 4) * 10 + (v & 15);
}

static time_t read_time(struct stub *s, bool binary) {
        unsigned int (*plain)(unsigned int) = bcd;
        unsigned int r[10], century;
        struct tm tm = { 0 };

        do { /* as a driver does: again when the second changed while reading */
                for (unsigned int i = 0; i < 10; i++)
                        r[i] = get(s, i);
                century = get(s, 0x32);
        } while (r[0] != get(s, 0));
        if (!binary)
                for (unsigned int i = 0; i < 10; i++)
                        r[i] = plain(r[i]);
        if (!binary)
                century = plain(century);
        tm = (struct tm){
                .tm_sec = (int)r[0],
                .tm_min = (int)r[2],
                .tm_hour = (int)r[4],
                .tm_mday = (int)r[7],
                .tm_mon = (int)r[8] - 1,
                .tm_year = (int)(century * 100 + r[9]) - 1900,
        };
        return timegm(&tm);
}

/* A guest that boots with a wrong year rejects every certificate. */
static void test_reads_utc(void **state) {
        struct stub *s = *state;
        time_t now = time(NULL), seen = read_time(s, false);

        assert_true(seen >= now && seen <= time(NULL) + 1);
        assert_int_equal(get(s, 0x0d), 0x80);                   /* the battery is good */
        assert_int_equal(get(s, 6), (now / 86400 + 4) % 7 + 1); /* 1970-01-01 was a Thursday */
        set(s, 0x0b, 0x06);                                     /* binary, 24 hours */
        seen = read_time(s, true);
        assert_true(seen >= now && seen <= time(NULL) + 1);
}

/* Setting by the book: SET on, registers, SET off; and it must stay set through a reset. */
static void test_set_time(void **state) {
        static const unsigned int regs[][2] = {
                { 0, 0x58 }, { 2, 0x59 }, { 4, 0x23 }, { 7, 0x31 }, { 8, 0x12 }, { 9, 0x99 }, { 0x32, 0x19 },
        };
        struct stub *s = *state;
        time_t t;

        set(s, 0x0b, 0x82);
        for (size_t i = 0; i < ELEMENTSOF(regs); i++)
                set(s, regs[i][0], regs[i][1]);
        assert_int_equal(get(s, 0), 0x58); /* frozen */
        set(s, 0x0b, 0x02);
        t = read_time(s, false);
        assert_in_range(t, 946684798, 946684800); /* 1999-12-31 23:59:58 and a little */
        rtc_class.reset(s->device);
        assert_in_range(read_time(s, false), 946684798, 946684801);
        assert_in_range(get(s, 6), 1, 7);
}

/* 12-hour mode counts 12, 1 .. 11 twice; midnight is 12 AM. */
static void test_twelve_hours(void **state) {
        struct stub *s = *state;

        set(s, 0x0b, 0x82);
        set(s, 4, 0x00);
        set(s, 2, 0x10);
        set(s, 0x0b, 0x02);
        set(s, 0x0b, 0x00);
        assert_int_equal(get(s, 4), 0x12);
        set(s, 0x0b, 0x80);
        set(s, 4, 0x92); /* 12 PM */
        set(s, 0x0b, 0x00);
        assert_int_equal(get(s, 4), 0x92);
        set(s, 0x0b, 0x02);
        assert_int_equal(get(s, 4), 0x12);
        set(s, 4, 0x23);
        set(s, 0x0b, 0x00);
        assert_int_equal(get(s, 4), 0x91);
}

/* hwclock waits for the update interrupt; without it, it gives up after ten seconds. Nothing may tick when nobody asked. */
static void test_update_and_alarm_interrupts(void **state) {
        struct stub *s = *state;

        stub_run(s, 0);
        assert_int_equal(s->raised[IRQ], 0);
        (void)get(s, 0x0c);
        set(s, 1, 0xc0); /* alarm: every second */
        set(s, 3, 0xc0);
        set(s, 5, 0xc0);
        set(s, 0x0b, 0x32); /* AIE, UIE */
        for (unsigned int i = 0; i < 30 && !s->level[IRQ]; i++)
                stub_run(s, 100);
        assert_true(s->level[IRQ]);
        assert_int_equal(get(s, 0x0c), 0xb0);
        assert_false(s->level[IRQ]);
        set(s, 0x0b, 0x02);
        assert_int_equal(loop_run_once(s->machine.loop, 1200), 0); /* the timer is off again */
}

/* Any byte in any register: no crash, no hang, and the time can still be read. Run under sanitizers. */
static void test_hostile_writes(void **state) {
        struct stub *s = *state;

        for (unsigned int reg = 0; reg < 256; reg++)
                for (unsigned int value = 0; value < 256; value++) {
                        set(s, reg, value);
                        (void)get(s, reg);
                }
        set(s, 0x0b, 0x02);
        assert_true(bcd(get(s, 0)) < 60);
}

/* CMOS memory is memory: kernels leave notes to themselves there across a reboot. */
static void test_memory_keeps(void **state) {
        struct stub *s = *state;

        set(s, 0x0f, 0x0a);
        set(s, 0x7f, 0x55);
        rtc_class.reset(s->device);
        assert_int_equal(get(s, 0x0f), 0x0a);
        assert_int_equal(get(s, 0xff), 0x55); /* bit 7 of the index is the NMI mask */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_reads_utc),      TEST(test_set_time),
                TEST(test_twelve_hours),   TEST(test_update_and_alarm_interrupts),
                TEST(test_hostile_writes), TEST(test_memory_keeps),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
