// SPDX-License-Identifier: GPL-2.0-or-later
/* cpuid: guests see no feature that they can't use, and their own topology, not the host's */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vmm/machine/cpuid.h"

#define SUPPORTED_MAX 24

struct supported {
        struct kvm_cpuid2 c;
        struct kvm_cpuid_entry2 entries[SUPPORTED_MAX];
};

static void add(struct supported *s, uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
                uint32_t edx) {
        assert_true(s->c.nent < SUPPORTED_MAX);
        s->entries[s->c.nent++] = (struct kvm_cpuid_entry2){
                .function = function,
                .index = index,
                .flags = function == 4 || function == 7 || function == 0xd || function == 0x8000001d
                                 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                                 : 0,
                .eax = eax,
                .ebx = ebx,
                .ecx = ecx,
                .edx = edx,
        };
}

/* A host that supports everything there is, with a topology of its own in every field. */
static struct supported *host(bool amd) {
        struct supported *s = calloc(1, sizeof(*s));

        assert_non_null(s);
        if (amd)
                add(s, 0, 0, 0xd, 0x68747541, 0x444d4163, 0x69746e65);
        else
                add(s, 0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
        add(s, 1, 0, 0x306c1, 0x12340800, UINT32_MAX & ~(1u << 31), UINT32_MAX);
        if (!amd) {
                add(s, 4, 0, 0xfc01c121, 1, 2, 3);
                add(s, 4, 3, 0xfc1fc163, 4, 5, 6);
        }
        add(s, 5, 0, 64, 64, 3, 0);
        add(s, 6, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0);
        add(s, 7, 0, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX);
        add(s, 0xa, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
        add(s, 0xb, 0, 1, 2, 0x100, 77);
        add(s, 0xd, 0, 7, 0x340, 0x340, 0);
        add(s, 0x12, 0, UINT32_MAX, 0, 0, 0);
        add(s, 0x14, 0, UINT32_MAX, 0, 0, 0);
        add(s, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
        add(s, 0x40000001, 0, UINT32_MAX, 0, 0, UINT32_MAX);
        add(s, 0x80000000, 0, 0x80000021, 0, 0, 0);
        add(s, 0x80000001, 0, 0, 0, UINT32_MAX, UINT32_MAX);
        add(s, 0x80000008, 0, 0x3030, 0, 0x70ff, 0);
        if (amd) {
                add(s, 0x8000000a, 0, 1, 8, 0, UINT32_MAX);
                add(s, 0x8000001d, 3, 0xfffc163, 1, 1, 1);
                add(s, 0x8000001e, 0, 99, 99, 99, 99);
                add(s, 0x8000001f, 0, UINT32_MAX, 0, 0, 0);
        }
        return s;
}

static struct kvm_cpuid2 *build(bool amd, unsigned int sockets, unsigned int cores, unsigned int threads,
                                unsigned int index) {
        const struct cpu_topology t = { sockets, cores, threads };
        _cleanup_free_ struct supported *s = host(amd);
        struct kvm_cpuid2 *c = NULL;

        assert_int_equal(cpuid_build(&s->c, &t, cpuid_apic_id(&t, index), true, &c), 0);
        return c;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index) {
        const struct kvm_cpuid_entry2 *found = NULL;

        for (uint32_t i = 0; i < c->nent; i++)
                if (c->entries[i].function == function && c->entries[i].index == index) {
                        assert_null(found); /* KVM takes the first of two */
                        found = &c->entries[i];
                }
        return found;
}

static void test_filter(void **state) {
        _cleanup_free_ struct kvm_cpuid2 *c = build(false, 1, 1, 1, 0);
        const struct kvm_cpuid_entry2 *l;

        l = find(c, 1, 0);
        assert_non_null(l);
        assert_int_equal(l->ecx & (1u << 31 | 1u << 21 | 1u << 24),
                         1u << 31 | 1u << 21 | 1u << 24);             /* hypervisor, x2APIC, deadline */
        assert_int_equal(l->ecx & (1u << 3 | 1u << 5 | 1u << 15), 0); /* MONITOR, VMX, PDCM */
        assert_int_equal(l->edx & 1u << 28, 0);                       /* HTT: one CPU */
        assert_int_equal(l->ebx, 0x00010800);
        assert_int_equal(find(c, 6, 0)->eax, 4);
        assert_int_equal(find(c, 7, 0)->ebx & 1u << 2, 0); /* SGX */
        assert_null(find(c, 0xa, 0));                      /* PMU */
        assert_null(find(c, 5, 0));
        assert_null(find(c, 0x12, 0));
        assert_null(find(c, 0x14, 0));
        assert_int_equal(find(c, 0x40000001, 0)->eax & (1u << 3 | 1u << 24), 1u << 3 | 1u << 24); /* kvmclock, stable */
        assert_int_equal(find(c, 0x40000001, 0)->eax & (1u << 16 | 1u << 17), 0);                 /* need user space */
        assert_int_equal(find(c, 0x40000001, 0)->edx, 0);           /* no hint that vCPUs have CPUs of their own */
        assert_int_equal(find(c, 0x80000001, 0)->ecx & 1u << 2, 0); /* SVM */
        assert_int_equal(find(c, 0x80000008, 0)->eax, 0x3030);
}

/* Without the kernel's timer, a guest that arms the deadline waits for ever. */
static void test_no_deadline(void **state) {
        const struct cpu_topology t = { 1, 1, 1 };
        _cleanup_free_ struct supported *s = host(false);
        _cleanup_free_ struct kvm_cpuid2 *c = NULL;

        assert_int_equal(cpuid_build(&s->c, &t, 0, false, &c), 0);
        assert_int_equal(find(c, 1, 0)->ecx & 1u << 24, 0);
}

/* The highest leaf must cover those that we make, or the guest never reads them. */
static void test_limits(void **state) {
        _cleanup_free_ struct kvm_cpuid2 *c = build(true, 1, 4, 2, 0);

        assert_int_equal(find(c, 0, 0)->eax, 0x1f);
        assert_int_equal(find(c, 0x40000000, 0)->eax, 0x40000001);
        assert_int_equal(find(c, 0x80000000, 0)->eax, 0x8000001e);
}

static void test_apic_ids(void **state) {
        const struct cpu_topology odd = { 2, 3, 2 }, flat = { 1, 254, 1 }, sockets = { 254, 1, 1 };

        assert_int_equal(cpuid_apic_id(&odd, 5), 5);
        assert_int_equal(cpuid_apic_id(&odd, 6), 8); /* the next socket starts at a power of two */
        assert_int_equal(cpuid_apic_id(&odd, 11), 13);
        assert_int_equal(cpuid_apic_id(&flat, 253), 253);
        assert_int_equal(cpuid_apic_id(&sockets, 253), 253);
}

static void check_extended(const struct kvm_cpuid2 *c, uint32_t leaf, unsigned int thread_bits, unsigned int threads,
                           unsigned int all_bits, unsigned int all, unsigned int id) {
        const struct kvm_cpuid_entry2 *smt = find(c, leaf, 0), *core = find(c, leaf, 1), *last = find(c, leaf, 2);

        assert_true(smt && core && last);
        assert_int_equal(smt->eax, thread_bits);
        assert_int_equal(smt->ebx, threads);
        assert_int_equal(smt->ecx, 0x100);
        assert_int_equal(smt->edx, id);
        assert_int_equal(core->eax, all_bits);
        assert_int_equal(core->ebx, all);
        assert_int_equal(core->ecx, 0x201);
        assert_int_equal(core->edx, id);
        assert_int_equal(last->ebx, 0);
        assert_int_equal(smt->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
}

/* Sockets, cores and threads that are no powers of two, the last of 18 vCPUs: socket 1, core 2, thread 2. */
static void test_topology_intel(void **state) {
        _cleanup_free_ struct kvm_cpuid2 *c = build(false, 2, 3, 3, 17);

        check_extended(c, 0xb, 2, 3, 4, 9, 0x1a);
        check_extended(c, 0x1f, 2, 3, 4, 9, 0x1a);
        assert_int_equal(find(c, 1, 0)->ebx >> 24, 0x1a);
        assert_int_equal(find(c, 1, 0)->ebx >> 16 & 0xff, 16); /* ids that a package could have */
        assert_int_not_equal(find(c, 1, 0)->edx & 1u << 28, 0);
        assert_int_equal(find(c, 4, 0)->eax, 3u << 26 | 3u << 14 | 0x121);  /* L1: one core */
        assert_int_equal(find(c, 4, 3)->eax, 3u << 26 | 15u << 14 | 0x163); /* L3: one socket */
}

static void test_topology_amd(void **state) {
        _cleanup_free_ struct kvm_cpuid2 *c = build(true, 2, 3, 2, 11);
        const struct kvm_cpuid_entry2 *l;

        check_extended(c, 0xb, 1, 2, 3, 6, 13);
        assert_int_equal(find(c, 1, 0)->ebx >> 16 & 0xff, 6); /* threads that a package has */
        assert_int_equal(find(c, 0x80000008, 0)->ecx, 3u << 12 | 5);
        assert_int_not_equal(find(c, 0x80000001, 0)->ecx & 1u << 1, 0); /* CmpLegacy */
        l = find(c, 0x8000001e, 0);
        assert_non_null(l);
        assert_int_equal(l->eax, 13);
        assert_int_equal(l->ebx, 1u << 8 | 2);
        assert_int_equal(l->ecx, 1);
        assert_int_equal(find(c, 0x8000001d, 3)->eax, 7u << 14 | 0x163);
        assert_null(find(c, 0x8000000a, 0)); /* SVM */
        assert_null(find(c, 0x8000001f, 0)); /* SEV */
}

static void test_sizes(void **state) {
        _cleanup_free_ struct kvm_cpuid2 *eight = build(false, 1, 8, 1, 7), *most = build(false, 1, 127, 2, 253);
        const struct cpu_topology too_wide = { 1, 129, 2 }, none = { 0, 1, 1 };
        _cleanup_free_ struct supported *s = host(false);
        struct kvm_cpuid2 *c = NULL;

        check_extended(eight, 0xb, 0, 1, 3, 8, 7);
        assert_int_equal(find(eight, 1, 0)->ebx >> 16 & 0xff, 8);
        check_extended(most, 0xb, 1, 2, 8, 254, 253);
        assert_int_equal(find(most, 1, 0)->ebx >> 16 & 0xff, 255); /* 256 does not fit the field */
        assert_int_equal(find(most, 4, 0)->eax >> 26, 63);
        assert_int_equal(cpuid_build(&s->c, &too_wide, 0, true, &c), -E2BIG);
        assert_int_equal(cpuid_build(&s->c, &none, 0, true, &c), -EINVAL);
        assert_null(c);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_filter),         cmocka_unit_test(test_no_deadline),
                cmocka_unit_test(test_limits),         cmocka_unit_test(test_apic_ids),
                cmocka_unit_test(test_topology_intel), cmocka_unit_test(test_topology_amd),
                cmocka_unit_test(test_sizes),
        };

        return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
