// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rtc: the clock and CMOS memory of a PC, an MC146818 (Motorola data sheet MC146818A)
 *
 *      0x70  index (bit 7, the NMI mask, is ignored)
 *      0x71  data: registers 0..9 time, alarm and date, A..D control, the rest memory; 0x32 is the century
 *
 * Theory of operation. Nothing ticks here. The time is the host's UTC clock plus an offset, which is 0 until the guest
 * sets the time, and is turned into registers when the guest reads one. While SET (register B) is on, the registers are
 * a frozen copy that the guest may change; clearing SET makes the copy the time. A date register written without SET counts at
 * once. "Update in progress" is true in the last 244 µs of each second, as the data sheet promises to a reader.
 *
 * Interrupts: update-ended and alarm, by a loop timer at the start of each second that runs only while one of them is
 * enabled. Not there: the periodic interrupt and square wave (PIE, SQWE are kept but do nothing), daylight saving, and
 * memory sizes in CMOS (they come by the boot protocols). Time and memory keep through a reset, as with a battery.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "vmm/device/device.h"

enum {
        REG_SECONDS = 0x00,
        REG_SECONDS_ALARM = 0x01,
        REG_MINUTES = 0x02,
        REG_MINUTES_ALARM = 0x03,
        REG_HOURS = 0x04,
        REG_HOURS_ALARM = 0x05,
        REG_WEEKDAY = 0x06,
        REG_DAY = 0x07,
        REG_MONTH = 0x08,
        REG_YEAR = 0x09,
        REG_A = 0x0a,
        REG_B = 0x0b,
        REG_C = 0x0c,
        REG_D = 0x0d,
        REG_CENTURY = 0x32,
        REG_COUNT = 0x80,
};

#define A_UIP      0x80
#define A_DEFAULT  0x26 /* 32768 Hz time base, 1024 Hz */
#define B_SET      0x80
#define B_PIE      0x40
#define B_AIE      0x20
#define B_UIE      0x10
#define B_BINARY   0x04
#define B_24H      0x02
#define C_IRQF     0x80
#define C_AF       0x20
#define C_UF       0x10
#define D_VRT      0x80

#define HOUR_PM    0x80
#define ALARM_ANY  0xc0 /* an alarm register with both bits set matches every value */
#define UIP_NS     244000
#define SECOND_NS  1000000000
#define SECOND_US  1000000
#define CATCH_UP_S 60 /* seconds that are looked through for a missed alarm */

struct rtc {
        struct device device;
        struct machine *machine;
        struct bus_region *region;
        struct loop_source *timer;
        int64_t offset; /* guest's seconds minus the host's */
        int64_t last;   /* the guest's second that flags were last set for */
        uint8_t index, c;
        bool irq;
        uint8_t regs[REG_COUNT]; /* memory, control, alarm; the time only while SET */
};

static int64_t guest_now(const struct rtc *rtc, long *ret_ns) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        if (ret_ns)
                *ret_ns = t.tv_nsec;
        return (int64_t)t.tv_sec + rtc->offset;
}

static uint8_t encode(const struct rtc *rtc, unsigned int value) {
        return (uint8_t)(rtc->regs[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned int decode(const struct rtc *rtc, uint8_t value) {
        return rtc->regs[REG_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned int hour) {
        if (rtc->regs[REG_B] & B_24H)
                return encode(rtc, hour);
        return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned int decode_hour(const struct rtc *rtc, uint8_t value) {
        if (rtc->regs[REG_B] & B_24H)
                return decode(rtc, value);
        return decode(rtc, value & (uint8_t)~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

/*
 * The calendar (Gregorian, also before there was one). Not gmtime_r(): libc opens the time zone's file at the first call, which
 * the sandbox forbids.
 */
#define DAY_S      86400
#define EPOCH_DAYS 719528 /* from 0000-01-01 to 1970-01-01 */

static const uint16_t days_before_month[2][13] = {
        { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365 },
        { 0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335, 366 },
};

static bool is_leap(unsigned int year) {
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* Days from 0000-01-01 to the first of January of @year. */
static int64_t days_before_year(unsigned int year) {
        int64_t days = (int64_t)year * 365;

        if (year > 0) /* one for each leap year in [0, year) */
                days += (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 + 1;
        return days;
}

/* @time_regs: REG_COUNT bytes, of which those of time and date are set to @now, seconds since 1970. */
static void time_to_regs(const struct rtc *rtc, int64_t now, uint8_t *time_regs) {
        int64_t since_0000 = MAX(now + (int64_t)EPOCH_DAYS * DAY_S, (int64_t)0);
        unsigned int second = (unsigned int)(since_0000 % DAY_S), month = 0, year, day;
        int64_t days = since_0000 / DAY_S;

        year = (unsigned int)(days / 366); /* too small by one in 366, or less: at most a few steps */
        while (days_before_year(year + 1) <= days)
                year++;
        day = (unsigned int)(days - days_before_year(year));
        while (days_before_month[is_leap(year)][month + 1] <= day)
                month++;

        time_regs[REG_SECONDS] = encode(rtc, second % 60);
        time_regs[REG_MINUTES] = encode(rtc, second / 60 % 60);
        time_regs[REG_HOURS] = encode_hour(rtc, second / 3600);
        time_regs[REG_WEEKDAY] =
                encode(rtc, (unsigned int)((days + 6) % 7) + 1); /* Sunday is 1; 0000-01-01 a Saturday */
        time_regs[REG_DAY] = encode(rtc, day - days_before_month[is_leap(year)][month] + 1);
        time_regs[REG_MONTH] = encode(rtc, month + 1);
        time_regs[REG_YEAR] = encode(rtc, year % 100);
        time_regs[REG_CENTURY] = encode(rtc, year / 100 % 100);
}

/* The guest's registers become the time; a value that is too large carries over into the next unit. */
static void regs_to_time(struct rtc *rtc) {
        const uint8_t *regs = rtc->regs;
        unsigned int month = decode(rtc, regs[REG_MONTH]), day = decode(rtc, regs[REG_DAY]);
        unsigned int year = decode(rtc, regs[REG_CENTURY]) * 100 + decode(rtc, regs[REG_YEAR]);
        int64_t t;

        month = month > 0 ? month - 1 : 0;
        year += month / 12;
        t = days_before_year(year) - EPOCH_DAYS + days_before_month[is_leap(year)][month % 12] +
            (day > 0 ? day - 1 : 0);
        t = t * DAY_S + decode_hour(rtc, regs[REG_HOURS]) * 3600 + decode(rtc, regs[REG_MINUTES]) * 60 +
            decode(rtc, regs[REG_SECONDS]);
        rtc->offset += t - guest_now(rtc, NULL);
        rtc->last = guest_now(rtc, NULL);
}

static void update_irq(struct rtc *rtc) {
        bool level = rtc->c & rtc->regs[REG_B] & (B_AIE | B_UIE);

        if (level != rtc->irq) {
                rtc->irq = level;
                machine_set_irq(rtc->machine, LAYOUT_IRQ_RTC, level);
        }
}

static bool alarm_matches(const struct rtc *rtc, const uint8_t *time_regs) {
        for (unsigned int reg = REG_SECONDS; reg <= REG_HOURS; reg += 2) {
                uint8_t alarm = rtc->regs[reg + 1];

                if ((alarm & ALARM_ANY) != ALARM_ANY && alarm != time_regs[reg])
                        return false;
        }
        return true;
}

/* Set the flags for the seconds that began since the last look. */
static void catch_up(struct rtc *rtc) {
        int64_t now = guest_now(rtc, NULL), from;
        uint8_t time_regs[REG_COUNT];

        if ((rtc->regs[REG_B] & B_SET) || now == rtc->last)
                return;
        rtc->c |= C_UF;
        from = MIN(rtc->last, now - 1); /* the host's clock may have gone back */
        for (int64_t t = MAX(from, now - CATCH_UP_S) + 1; t <= now; t++) {
                time_to_regs(rtc, t, time_regs);
                if (alarm_matches(rtc, time_regs))
                        rtc->c |= C_AF;
        }
        rtc->last = now;
}

static void arm(struct rtc *rtc) {
        uint64_t usec = UINT64_MAX;
        long ns;

        if ((rtc->regs[REG_B] & (B_AIE | B_UIE)) && !(rtc->regs[REG_B] & B_SET)) {
                (void)guest_now(rtc, &ns);
                usec = (uint64_t)(SECOND_NS - ns) / 1000 + 1;
        }
        (void)loop_timer_set(rtc->timer, usec);
}

static void on_second(void *opaque) {
        struct rtc *rtc = opaque;

        catch_up(rtc);
        update_irq(rtc);
        arm(rtc);
}

static bool is_time(unsigned int reg) {
        return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
               (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == REG_CENTURY;
}

static uint8_t read_reg(struct rtc *rtc, unsigned int reg) {
        uint8_t time_regs[REG_COUNT], value;
        long ns;

        if (is_time(reg) && !(rtc->regs[REG_B] & B_SET)) {
                time_to_regs(rtc, guest_now(rtc, NULL), time_regs);
                return time_regs[reg];
        }
        switch (reg) {
        case REG_A:
                (void)guest_now(rtc, &ns);
                return rtc->regs[REG_A] | (!(rtc->regs[REG_B] & B_SET) && ns >= SECOND_NS - UIP_NS ? A_UIP : 0);
        case REG_C: /* reading takes the flags away */
                catch_up(rtc);
                value = rtc->c | (rtc->c & rtc->regs[REG_B] & (B_AIE | B_UIE) ? C_IRQF : 0);
                rtc->c = 0;
                update_irq(rtc);
                return value;
        case REG_D:
                return D_VRT;
        default:
                return rtc->regs[reg];
        }
}

static void write_b(struct rtc *rtc, uint8_t value) {
        uint8_t old = rtc->regs[REG_B];

        catch_up(rtc);
        if (!(old & B_SET))
                time_to_regs(rtc, guest_now(rtc, NULL), rtc->regs);
        if (value & B_SET)
                value &= (uint8_t)~B_UIE; /* the data sheet: SET clears UIE */
        rtc->regs[REG_B] = value;
        if ((old & B_SET) && !(value & B_SET))
                regs_to_time(rtc);
        else if (value & B_SET && !(old & B_SET))
                time_to_regs(rtc, guest_now(rtc, NULL), rtc->regs); /* in the form that B now asks for */
        update_irq(rtc);
        arm(rtc);
}

static void write_reg(struct rtc *rtc, unsigned int reg, uint8_t value) {
        switch (reg) {
        case REG_A:
                rtc->regs[REG_A] = value & (uint8_t)~A_UIP;
                break;
        case REG_B:
                write_b(rtc, value);
                break;
        case REG_C:
        case REG_D:
                break; /* read-only */
        default:
                if (is_time(reg) && !(rtc->regs[REG_B] & B_SET)) {
                        time_to_regs(rtc, guest_now(rtc, NULL), rtc->regs);
                        rtc->regs[reg] = value;
                        if (reg != REG_WEEKDAY)
                                regs_to_time(rtc);
                } else
                        rtc->regs[reg] = value;
                break;
        }
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned int size) {
        struct rtc *rtc = opaque;

        if (offset == 0)
                return size == 1 ? 0xff : 0xff | (uint64_t)read_reg(rtc, rtc->index) << 8; /* the index is write-only */
        return read_reg(rtc, rtc->index);
}

static void rtc_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct rtc *rtc = opaque;

        if (offset == 0) {
                rtc->index = value & 0x7f;
                if (size == 2)
                        write_reg(rtc, rtc->index, (uint8_t)(value >> 8));
        } else
                write_reg(rtc, rtc->index, (uint8_t)value);
}

static void rtc_reset(struct device *device) {
        struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);

        if (rtc->regs[REG_B] & B_SET)
                write_b(rtc,
                        rtc->regs[REG_B] & (uint8_t)~B_SET); /* a reset in the middle of setting: keep what is there */
        rtc->regs[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
        rtc->c = 0;
        rtc->index = 0;
        update_irq(rtc);
        arm(rtc);
}

static void rtc_destroy(struct device *device) {
        struct rtc *rtc = CONTAINER_OF(device, struct rtc, device);

        bus_remove(rtc->machine->ports, rtc->region);
        loop_source_free(rtc->timer);
        free(rtc);
}

static const struct bus_ops rtc_ops = { rtc_read, rtc_write };

static int rtc_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct rtc *rtc;
        int r;

        if (index > 0)
                return -ENOENT;
        rtc = calloc(1, sizeof(*rtc));
        if (!rtc)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the clock");
        rtc->machine = machine;
        rtc->device.class = &rtc_class;
        rtc->regs[REG_A] = A_DEFAULT;
        rtc->regs[REG_B] = B_24H;
        rtc->last = guest_now(rtc, NULL);
        r = loop_add_timer(machine->loop, on_second, rtc, &rtc->timer);
        if (r >= 0)
                r = bus_add(machine->ports, LAYOUT_PORT_CMOS, 2, &rtc_ops, rtc, "rtc", &rtc->region);
        if (r < 0) {
                rtc_destroy(&rtc->device);
                return error_set(e, r, "device-create", NULL, "cannot make the clock");
        }
        *ret_device = &rtc->device;
        return 0;
}

const struct device_class rtc_class = {
        .name = "rtc",
        .create = rtc_create,
        .reset = rtc_reset,
        .destroy = rtc_destroy,
};
