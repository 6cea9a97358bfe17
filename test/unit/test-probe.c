// SPDX-License-Identifier: GPL-2.0-or-later
/* probe: facts to verdict; every verdict and cure, also those that the host which runs the test can't show */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/kvm.h>

#include "base/cleanup.h"
#include "daemon/host/probe-speed.h"
#include "daemon/host/probe.h"

static struct probe judged(struct probe_facts facts) {
        struct probe p = { .facts = facts };

        probe_judge(&p);
        return p;
}

static struct probe_facts working(double guest, double host) {
        return (struct probe_facts){ .step = PROBE_STEP_DONE, .guest_mips = guest, .host_mips = host };
}

static void assert_has(const char *text, const char *part) {
        if (!strstr(text, part))
                fail_msg("\"%s\" does not say \"%s\"", text, part);
}

/* If the two were mixed up, stock guests would crawl under native, or hardware would lie idle. */
static void test_speed_decides(void **state) {
        struct probe p = judged(working(900, 1000));

        assert_int_equal(p.verdict, PROBE_HARDWARE);
        assert_string_equal(p.cure, "");
        assert_has(p.evidence, "900 million");
        /* Nested, everything emulated, but the guest as fast as its host: hardware as far as software can tell. */
        assert_int_equal(judged(working(40, 60)).verdict, PROBE_HARDWARE);
        p = judged(working(4, 3000));
        assert_int_equal(p.verdict, PROBE_EMULATED);
        assert_has(p.cure, "--engine qemu");
        assert_int_equal(judged(working(51, 1000)).verdict, PROBE_HARDWARE);
        assert_int_equal(judged(working(49, 1000)).verdict, PROBE_EMULATED);
}

/*
 * A machine with other things to do: we run for a slice of 3 ms, then @load others do. The guest's loop runs at @guest MIPS, the host's
 * at @host, and each of the guest's rounds costs @exit_us besides. Return: the facts that the probe would gather.
 */
static struct probe_facts measured(double guest, double host, double exit_us, unsigned int load,
                                   unsigned int offset_us) {
        struct probe_speed s = PROBE_SPEED_INIT;
        double passed = 0, slice = offset_us;
        bool more;

        do {
                double instructions = (double)s.turns * SPEED_LOOP;
                double us[2] = { instructions / host, instructions / guest + exit_us };

                for (unsigned int i = 0; i < 2; i++) {
                        slice -= us[i];
                        for (; slice <= 0; slice += 3000)
                                us[i] += load * 3000;
                        passed += us[i];
                }
                more = probe_speed_next(&s, us[0], us[1], passed);
        } while (more);
        assert_true(passed < 600000);
        return working(s.guest_mips, s.host_mips);
}

/* On a busy machine one slow round was taken for an emulator; hardware lay idle until somebody asked again. */
static void test_load_does_not_decide(void **state) {
        static const unsigned int loads[] = { 0, 1, 5, 12, 40 };

        for (size_t i = 0; i < ELEMENTSOF(loads); i++)
                for (unsigned int at = 1; at < 3000; at += 7) {
                        assert_int_equal(judged(measured(5000, 5300, 3, loads[i], at)).verdict, PROBE_HARDWARE);
                        assert_int_equal(judged(measured(4500, 5300, 90, loads[i], at)).verdict,
                                         PROBE_HARDWARE); /* nested */
                        assert_int_equal(judged(measured(40, 60, 90, loads[i], at)).verdict, PROBE_HARDWARE);
                        assert_int_equal(judged(measured(50, 3000, 20, loads[i], at)).verdict, PROBE_EMULATED);
                        assert_int_equal(judged(measured(4, 3000, 20, loads[i], at)).verdict, PROBE_EMULATED);
                        assert_int_equal(judged(measured(0.5, 3000, 20, loads[i], at)).verdict, PROBE_EMULATED);
                }
}

/* Real hardware answers at once, and a round is long enough that exits don't make it look slow. */
static void test_fast_guest_needs_few_rounds(void **state) {
        struct probe_speed s = PROBE_SPEED_INIT;
        double passed = 0;
        bool more = true;

        for (unsigned int i = 0; i < 10 && more; i++) {
                double us = (double)s.turns * SPEED_LOOP / 3000;

                passed += 2 * us + 2;
                more = probe_speed_next(&s, us, us + 2, passed);
        }
        assert_false(more);
        assert_true(passed < 5000);
        assert_true(s.guest_mips > 0.7 * s.host_mips);
}

/* A KVM that stops at an instruction must be named for what it is, with the bytes, however fast it was until then. */
static void test_emulator_that_gives_up(void **state) {
        struct probe p = judged((struct probe_facts){
                .step = PROBE_STEP_CX16,
                .guest_mips = 800,
                .host_mips = 1000,
                .exit_reason = KVM_EXIT_INTERNAL_ERROR,
                .exit_detail = KVM_INTERNAL_ERROR_EMULATION,
                .instruction = { 0xf0, 0x48, 0x0f, 0xc7, 0x0f },
                .instruction_len = 5,
        });

        assert_int_equal(p.verdict, PROBE_EMULATED);
        assert_has(p.evidence, "cmpxchg16b failed");
        assert_has(p.evidence, "f0 48 0f c7 0f");
}

/* A broken KVM is neither hardware nor an emulator: its cure is elsewhere. */
static void test_broken(void **state) {
        struct probe_facts triple_fault = { .step = PROBE_STEP_START, .exit_reason = KVM_EXIT_SHUTDOWN };
        struct probe_facts hang = { .step = PROBE_STEP_SPEED, .exit_reason = UINT32_MAX };
        struct probe_facts memory = { .step = PROBE_STEP_CREATE,
                                      .step_errno = ENOMEM,
                                      .step_message = "cannot make a VM" };
        struct probe_facts odd = { .open_errno = EIO };

        assert_int_equal(judged(triple_fault).verdict, PROBE_BROKEN);
        assert_has(judged(triple_fault).evidence, "64-bit mode failed: triple fault");
        assert_has(judged(hang).evidence, "no answer within the time limit");
        assert_int_equal(judged(memory).verdict, PROBE_BROKEN);
        assert_has(judged(memory).cure, "free memory");
        assert_int_equal(judged(odd).verdict, PROBE_BROKEN);
}

/* Each reason for a missing device has another cure; the wrong one sends people to the firmware for nothing. */
static void test_missing(void **state) {
        static const struct {
                struct probe_facts facts;
                const char *cure;
        } cases[] = {
                { { .cpu_svm = true, .module_available = true }, "modprobe kvm_amd" },
                { { .cpu_vmx = true, .module_available = true }, "modprobe kvm_intel" },
                { { .cpu_vmx = true }, "install the full kernel package" },
                { { .cpu_vmx = true, .module_loaded = true }, "firmware setup" },
                { { .container = true, .module_loaded = true, .cpu_vmx = true }, "--device /dev/kvm" },
                { { .container = true, .cpu_svm = true }, "modprobe kvm_amd" },
                { { .cpu_hypervisor = true }, "nested virtualization" },
                { { 0 }, "firmware setup" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                struct probe_facts f = cases[i].facts;
                struct probe p;

                f.open_errno = ENOENT;
                p = judged(f);
                assert_int_equal(p.verdict, PROBE_MISSING);
                assert_has(p.cure, cases[i].cure);
        }
}

/* In the group but not in this session, and not in the group: adduser does nothing for the first. */
static void test_forbidden(void **state) {
        struct probe_facts f = { .open_errno = EACCES, .device_mode = 0660, .device_group = "kvm", .user = "ann" };
        struct probe p = judged(f);

        assert_int_equal(p.verdict, PROBE_FORBIDDEN);
        assert_has(p.cure, "adduser ann kvm");
        f.in_group_database = true;
        p = judged(f);
        assert_has(p.cure, "log out and in again");
        assert_null(strstr(p.cure, "adduser"));
        f.in_group_session = true;
        assert_has(judged(f).cure, "policy");
}

static void test_busy(void **state) {
        struct probe_facts f = { .step = PROBE_STEP_CREATE, .step_errno = EBUSY, .vbox_loaded = true };
        struct probe p = judged(f);

        assert_int_equal(p.verdict, PROBE_BUSY);
        assert_has(p.cure, "VirtualBox");
        f = (struct probe_facts){ .open_errno = EBUSY };
        assert_int_equal(judged(f).verdict, PROBE_BUSY);
}

/* Whatever this host is, asking it must end, and soon. */
static void test_this_host_answers(void **state) {
        struct probe p;

        probe_run(&p);
        assert_true(p.verdict < PROBE_VERDICT_COUNT);
        assert_true(p.evidence[0] != '\0');
        assert_true((p.verdict == PROBE_HARDWARE) == (p.cure[0] == '\0'));
        assert_true(p.ms < 10000); /* under a sanitizer on a loaded host; without, one second */
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_speed_decides),
                cmocka_unit_test(test_load_does_not_decide),
                cmocka_unit_test(test_fast_guest_needs_few_rounds),
                cmocka_unit_test(test_emulator_that_gives_up),
                cmocka_unit_test(test_broken),
                cmocka_unit_test(test_missing),
                cmocka_unit_test(test_forbidden),
                cmocka_unit_test(test_busy),
                cmocka_unit_test(test_this_host_answers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
