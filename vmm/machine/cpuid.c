// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpuid: see cpuid.h
 *
 * Theory of operation. The guest gets the host's CPU, less what a guest here can't use. `leaves` is the whole policy: a leaf
 * that isn't in it is not shown (it reads as zeros), and each register of a leaf that is shown is (supported & pass) | force. What depends on the vCPU or the
 * topology is then written over by the make_* functions: no bit of the host's own topology gets through, for the guest's
 * scheduler would believe it.
 *
 * Hidden, and why: VMX, SVM and SGX (nesting and enclaves: not offered), MONITOR/MWAIT (idling in the guest would hold a host CPU), the PMU, PT, IBS and resource control
 * (host-wide state), and paravirtual features that need an answer from user space.
 *
 * Numbers: Intel SDM vol. 2A "CPUID", AMD APM vol. 3 appendix E, Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "vmm/machine/cpuid.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/lodge-schema.h"

#define BIT(n)        (1u << (n))
#define ALL           UINT32_MAX

#define ROOM_FOR_MADE 16 /* leaves that we add to the supported ones */

enum { EAX, EBX, ECX, EDX, N_REGS };

struct cpuid_leaf {
        uint32_t first, last; /* functions, all their subleaves */
        uint32_t pass[N_REGS];
        uint32_t force[N_REGS];
};

/* Leaf 1 */
#define F1_ECX_DTES64     BIT(2)
#define F1_ECX_MONITOR    BIT(3)
#define F1_ECX_DSCPL      BIT(4)
#define F1_ECX_VMX        BIT(5)
#define F1_ECX_SMX        BIT(6)
#define F1_ECX_EST        BIT(7)
#define F1_ECX_TM2        BIT(8)
#define F1_ECX_PDCM       BIT(15)
#define F1_ECX_X2APIC     BIT(21)
#define F1_ECX_DEADLINE   BIT(24)
#define F1_ECX_HYPERVISOR BIT(31)
#define F1_EDX_DS         BIT(21)
#define F1_EDX_ACPI       BIT(22)
#define F1_EDX_HTT        BIT(28)
#define F1_EDX_TM         BIT(29)
#define F1_EDX_PBE        BIT(31)
/* Leaf 6, 7 */
#define F6_EAX_ARAT   BIT(2)
#define F7_EBX_SGX    BIT(2)
#define F7_EBX_MPX    BIT(14)
#define F7_EBX_PQM    BIT(12)
#define F7_EBX_PQE    BIT(15)
#define F7_EBX_PT     BIT(25)
#define F7_ECX_SGX_LC BIT(30)
#define F7_EDX_LBR    BIT(19)
/* Leaf 0x80000001 */
#define FE1_ECX_CMP_LEGACY   BIT(1)
#define FE1_ECX_SVM          BIT(2)
#define FE1_ECX_IBS          BIT(10)
#define FE1_ECX_SKINIT       BIT(12)
#define FE1_ECX_WDT          BIT(13)
#define FE1_ECX_LWP          BIT(15)
#define FE1_ECX_TOPOEXT      BIT(22)
#define FE1_ECX_PERFCTR_CORE BIT(23)
#define FE1_ECX_PERFCTR_NB   BIT(24)
#define FE1_ECX_PERFCTR_L2I  BIT(28)
#define FE1_ECX_MWAITX       BIT(29)
#define FE7_EDX_INVARIANT    BIT(8)

/* What the kernel's KVM does alone; MAP_GPA_RANGE and MIGRATION_CONTROL want user space's help. */
#define KVM_FEATURES_ALONE                                                                                             \
        (BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) | BIT(KVM_FEATURE_CLOCKSOURCE2) |                \
         BIT(KVM_FEATURE_ASYNC_PF) | BIT(KVM_FEATURE_STEAL_TIME) | BIT(KVM_FEATURE_PV_EOI) |                           \
         BIT(KVM_FEATURE_PV_UNHALT) | BIT(KVM_FEATURE_PV_TLB_FLUSH) | BIT(KVM_FEATURE_ASYNC_PF_VMEXIT) |               \
         BIT(KVM_FEATURE_PV_SEND_IPI) | BIT(KVM_FEATURE_POLL_CONTROL) | BIT(KVM_FEATURE_PV_SCHED_YIELD) |              \
         BIT(KVM_FEATURE_ASYNC_PF_INT) | BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))

#define PASS_ALL                                                                                                       \
        { ALL, ALL, ALL, ALL }

static const struct cpuid_leaf leaves[] = {
        { 0x0, 0x0, PASS_ALL }, /* vendor; EAX is made */
        { 0x1,
          0x1,
          { ALL, 0x0000ff00 /* CLFLUSH size; ids are made */,
            ~(F1_ECX_DTES64 | F1_ECX_MONITOR | F1_ECX_DSCPL | F1_ECX_VMX | F1_ECX_SMX | F1_ECX_EST | F1_ECX_TM2 |
              F1_ECX_PDCM | F1_ECX_DEADLINE),
            ~(F1_EDX_DS | F1_EDX_ACPI | F1_EDX_HTT | F1_EDX_TM | F1_EDX_PBE) },
          { 0, 0, F1_ECX_HYPERVISOR | F1_ECX_X2APIC, 0 } },
        { 0x2, 0x2, PASS_ALL },
        { 0x4, 0x4, { 0x3fff /* type, level, flags; sharing is made */, ALL, ALL, ALL } },
        { 0x6, 0x6, { F6_EAX_ARAT, 0, 0, 0 } },
        { 0x7,
          0x7,
          { ALL, ~(F7_EBX_SGX | F7_EBX_MPX | F7_EBX_PQM | F7_EBX_PQE | F7_EBX_PT), ~F7_ECX_SGX_LC, ~F7_EDX_LBR } },
        { 0xd, 0xd, PASS_ALL },   /* XSAVE: KVM limits it to what it switches */
        { 0x15, 0x16, PASS_ALL }, /* TSC and CPU frequency */
        { 0x1d, 0x1e, PASS_ALL }, /* AMX, when this process may use it */
        { 0x24, 0x24, PASS_ALL }, /* AVX10 */
        { 0x40000000, 0x40000000, PASS_ALL },
        { 0x40000001, 0x40000001, { KVM_FEATURES_ALONE, 0, 0, 0 } },
        { 0x80000000, 0x80000000, PASS_ALL },
        { 0x80000001,
          0x80000001,
          { ALL, ALL,
            ~(FE1_ECX_CMP_LEGACY | FE1_ECX_SVM | FE1_ECX_IBS | FE1_ECX_SKINIT | FE1_ECX_WDT | FE1_ECX_LWP |
              FE1_ECX_PERFCTR_CORE | FE1_ECX_PERFCTR_NB | FE1_ECX_PERFCTR_L2I | FE1_ECX_MWAITX),
            ALL } },
        { 0x80000002, 0x80000006, PASS_ALL }, /* brand string, caches */
        { 0x80000007, 0x80000007, { 0, 0, 0, FE7_EDX_INVARIANT } },
        { 0x80000008, 0x80000008, { ALL, ALL, 0, 0 } }, /* address bits as the host's; thread counts are made */
        { 0x80000019, 0x8000001a, PASS_ALL },
        { 0x8000001d, 0x8000001d, { 0x3fff, ALL, ALL, ALL } },
        { 0x80000021, 0x80000021, { ALL, 0, 0, 0 } },
};

struct topology_bits {
        unsigned int thread, core; /* widths of the fields of the APIC id */
};

static unsigned int bits_for(unsigned int n) {
        unsigned int bits = 0;

        while (bits < 31 && 1u << bits < n)
                bits++;
        return bits;
}

struct cpu_topology cpuid_topology(const struct vmm_config *config) {
        const struct cpu_topology t = { config->sockets, config->cores, config->threads };

        if ((uint64_t)t.sockets * t.cores * t.threads == config->cpus)
                return t;
        return (struct cpu_topology){ .sockets = 1, .cores = config->cpus, .threads = 1 };
}

unsigned int cpuid_apic_id(const struct cpu_topology *t, unsigned int index) {
        unsigned int thread_bits = bits_for(t->threads), core_bits = bits_for(t->cores);
        unsigned int thread = index % t->threads, core = index / t->threads % t->cores;
        unsigned int socket = index / t->threads / t->cores;

        return socket << (thread_bits + core_bits) | core << thread_bits | thread;
}

static void reg_set(struct kvm_cpuid_entry2 *entry, const uint32_t reg[static N_REGS]) {
        entry->eax = reg[EAX];
        entry->ebx = reg[EBX];
        entry->ecx = reg[ECX];
        entry->edx = reg[EDX];
}

static struct kvm_cpuid_entry2 *leaf_find(struct kvm_cpuid2 *c, uint32_t function, uint32_t index) {
        for (uint32_t i = 0; i < c->nent; i++)
                if (c->entries[i].function == function && c->entries[i].index == index)
                        return &c->entries[i];
        return NULL;
}

/* The leaf, appended when it isn't there; ROOM_FOR_MADE bounds what callers may add. */
static struct kvm_cpuid_entry2 *leaf_make(struct kvm_cpuid2 *c, uint32_t function, uint32_t index, bool indexed) {
        struct kvm_cpuid_entry2 *entry = leaf_find(c, function, index);

        if (!entry) {
                entry = &c->entries[c->nent++];
                *entry = (struct kvm_cpuid_entry2){ .function = function, .index = index };
        }
        entry->flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
        return entry;
}

static void filter(struct kvm_cpuid2 *out, const struct kvm_cpuid2 *supported) {
        for (uint32_t i = 0; i < supported->nent; i++) {
                const struct kvm_cpuid_entry2 *s = &supported->entries[i];

                for (size_t j = 0; j < ELEMENTSOF(leaves); j++) {
                        const struct cpuid_leaf *leaf = &leaves[j];
                        struct kvm_cpuid_entry2 *entry;
                        const uint32_t reg[N_REGS] = {
                                (s->eax & leaf->pass[EAX]) | leaf->force[EAX],
                                (s->ebx & leaf->pass[EBX]) | leaf->force[EBX],
                                (s->ecx & leaf->pass[ECX]) | leaf->force[ECX],
                                (s->edx & leaf->pass[EDX]) | leaf->force[EDX],
                        };

                        if (s->function < leaf->first || s->function > leaf->last)
                                continue;
                        entry = &out->entries[out->nent++];
                        *entry = *s;
                        reg_set(entry, reg);
                        break;
                }
        }
}

static bool is_amd(struct kvm_cpuid2 *c) {
        const struct kvm_cpuid_entry2 *v = leaf_find(c, 0, 0);

        return v && ((v->ebx == 0x68747541 && v->edx == 0x69746e65 && v->ecx == 0x444d4163) || /* AuthenticAMD */
                     (v->ebx == 0x6f677948 && v->edx == 0x6e65476e && v->ecx == 0x656e6975));  /* HygonGenuine */
}

/* Intel counts the ids that a package could have, AMD the threads that it has (APM vol. 3 E.3.2). */
static void make_leaf1(struct kvm_cpuid2 *c, const struct cpu_topology *t, const struct topology_bits *b,
                       unsigned int apic_id, bool deadline) {
        struct kvm_cpuid_entry2 *one = leaf_find(c, 1, 0), *ext = leaf_find(c, 0x80000001, 0);
        unsigned int logical = t->cores * t->threads;

        if (!one)
                return;
        one->ebx |= apic_id << 24 | MIN(is_amd(c) ? logical : 1u << (b->core + b->thread), 255u) << 16;
        if (deadline)
                one->ecx |= F1_ECX_DEADLINE;
        if (logical > 1) {
                one->edx |= F1_EDX_HTT;
                if (ext && is_amd(c))
                        ext->ecx |= FE1_ECX_CMP_LEGACY;
        }
}

/* Leaves 4 and 0x8000001D: level 1 and 2 caches belong to a core, level 3 to a socket; counted in APIC ids, less one. */
static void make_caches(struct kvm_cpuid2 *c, const struct topology_bits *b) {
        for (uint32_t i = 0; i < c->nent; i++) {
                struct kvm_cpuid_entry2 *entry = &c->entries[i];
                uint32_t level = entry->eax >> 5 & 7, sharing;

                if ((entry->function != 4 && entry->function != 0x8000001d) || (entry->eax & 0x1f) == 0)
                        continue;
                sharing = (level >= 3 ? 1u << (b->core + b->thread) : 1u << b->thread) - 1;
                entry->eax |= MIN(sharing, 0xfffu) << 14;
                if (entry->function == 4)
                        entry->eax |= MIN((1u << b->core) - 1, 0x3fu) << 26;
        }
}

/* Leaves 0xB and 0x1F: a level for threads and one for cores, then the end. */
static void make_extended_topology(struct kvm_cpuid2 *c, const struct cpu_topology *t, const struct topology_bits *b,
                                   unsigned int apic_id) {
        const uint32_t levels[][N_REGS] = {
                { b->thread, t->threads, 1u << 8, apic_id },
                { b->thread + b->core, t->threads * t->cores, 2u << 8 | 1, apic_id },
                { 0, 0, 2, apic_id },
        };
        static const uint32_t functions[] = { 0xb, 0x1f };

        for (size_t f = 0; f < ELEMENTSOF(functions); f++)
                for (uint32_t i = 0; i < ELEMENTSOF(levels); i++)
                        reg_set(leaf_make(c, functions[f], i, true), levels[i]);
}

static void make_amd_topology(struct kvm_cpuid2 *c, const struct cpu_topology *t, const struct topology_bits *b,
                              unsigned int apic_id) {
        const struct kvm_cpuid_entry2 *ext = leaf_find(c, 0x80000001, 0);
        struct kvm_cpuid_entry2 *sizes = leaf_find(c, 0x80000008, 0);

        if (!is_amd(c))
                return;
        if (sizes)
                sizes->ecx = (b->core + b->thread) << 12 | MIN(t->cores * t->threads - 1, 255u);
        if (ext && ext->ecx & FE1_ECX_TOPOEXT) {
                const uint32_t ids[N_REGS] = {
                        apic_id,
                        (t->threads - 1) << 8 | (apic_id >> b->thread & ((1u << b->core) - 1)),
                        apic_id >> (b->core + b->thread),
                        0,
                };

                reg_set(leaf_make(c, 0x8000001e, 0, false), ids);
        }
}

/* The highest leaf of each range, from what is really there. */
static void make_limits(struct kvm_cpuid2 *c) {
        static const uint32_t ranges[] = { 0, 0x40000000, 0x80000000 };

        for (size_t r = 0; r < ELEMENTSOF(ranges); r++) {
                struct kvm_cpuid_entry2 *limit = leaf_find(c, ranges[r], 0);

                if (!limit)
                        continue;
                limit->eax = ranges[r];
                for (uint32_t i = 0; i < c->nent; i++)
                        if (c->entries[i].function >> 24 == ranges[r] >> 24)
                                limit->eax = MAX(limit->eax, c->entries[i].function);
        }
}

int cpuid_build(const struct kvm_cpuid2 *supported, const struct cpu_topology *t, unsigned int apic_id,
                bool tsc_deadline, struct kvm_cpuid2 **ret_cpuid) {
        struct topology_bits bits;
        struct kvm_cpuid2 *c;

        if (t->sockets == 0 || t->cores == 0 || t->threads == 0)
                return -EINVAL;
        bits = (struct topology_bits){ .thread = bits_for(t->threads), .core = bits_for(t->cores) };
        if (apic_id > 255 || bits.thread + bits.core > 8)
                return -E2BIG;
        c = calloc(1, sizeof(*c) + (supported->nent + (size_t)ROOM_FOR_MADE) * sizeof(c->entries[0]));
        if (!c)
                return -ENOMEM;
        filter(c, supported);
        make_leaf1(c, t, &bits, apic_id, tsc_deadline);
        make_caches(c, &bits);
        make_extended_topology(c, t, &bits, apic_id);
        make_amd_topology(c, t, &bits, apic_id);
        make_limits(c);
        *ret_cpuid = c;
        return 0;
}
