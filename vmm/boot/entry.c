// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * entry: the state in which the boot CPU meets the kernel's first instruction
 *
 * Two forms. Long mode, for Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit boot protocol"): paging on, the low
 * 4 GiB mapped to themselves by 2 MiB pages, CS 0x10 and data segments 0x18. Protected mode, for PVH and multiboot: paging off, flat 32-bit segments. Both
 * use one GDT, which lies at LAYOUT_GDT until the kernel loads its own. Interrupts are off, and the IDT is empty: a fault before the
 * kernel has one is a triple fault, so a reset.
 */
#include <errno.h>

#include "base/cleanup.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/layout.h"

#define CR0_PE      0x1u
#define CR0_ET      0x10u
#define CR0_PG      0x80000000u
#define CR4_PAE     0x20u
#define EFER_LME    0x100u
#define EFER_LMA    0x400u

#define PTE_PRESENT 0x1ull
#define PTE_WRITE   0x2ull
#define PTE_LARGE   0x80ull

#define GIBS_MAPPED 4u

enum { SEL_CODE32 = 0x08, SEL_CODE64 = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20 };

/* Present, ring 0, base 0, limit 4 GiB (SDM vol. 3, §3.4.5). The TSS is for PVH, which asks for one in TR; nothing ever uses it. */
static const uint64_t gdt[] = {
        [SEL_CODE32 / 8] = 0x00cf9b000000ffffull,
        [SEL_CODE64 / 8] = 0x00af9b000000ffffull,
        [SEL_DATA / 8] = 0x00cf93000000ffffull,
        [SEL_TSS / 8] = 0x00008b0000000067ull,
};

static int write_gdt(struct loader *l, struct kvm_sregs *s) {
        s->gdt = (struct kvm_dtable){ .base = LAYOUT_GDT, .limit = sizeof(gdt) - 1 };
        s->idt = (struct kvm_dtable){ 0 };
        return memory_write(l->memory, LAYOUT_GDT, gdt, sizeof(gdt));
}

static void set_segments(struct kvm_sregs *s, bool long_mode) {
        const struct kvm_segment data = {
                .limit = UINT32_MAX,
                .selector = SEL_DATA,
                .type = 3,
                .present = 1,
                .s = 1,
                .db = 1,
                .g = 1,
        };

        s->cs = (struct kvm_segment){
                .limit = UINT32_MAX,
                .selector = long_mode ? SEL_CODE64 : SEL_CODE32,
                .type = 11, /* execute, read, accessed */
                .present = 1,
                .s = 1,
                .l = long_mode,
                .db = !long_mode,
                .g = 1,
        };
        s->ds = s->es = s->fs = s->gs = s->ss = data;
        s->tr = (struct kvm_segment){ .limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1 }; /* busy TSS */
        s->ldt = (struct kvm_segment){ .type = 2, .unusable = 1 };
}

static int write_page_tables(struct loader *l) {
        uint64_t *t = memory_host(l->memory, LAYOUT_PAGE_TABLES, (2 + GIBS_MAPPED) * LAYOUT_PAGE);
        uint64_t *pml4 = t, *pdpt = t + 512, *pd = t + 1024;

        if (!t)
                return -EFAULT;
        for (size_t i = 0; i < 1024; i++)
                t[i] = 0;
        pml4[0] = (LAYOUT_PAGE_TABLES + LAYOUT_PAGE) | PTE_PRESENT | PTE_WRITE;
        for (uint64_t i = 0; i < GIBS_MAPPED; i++)
                pdpt[i] = (LAYOUT_PAGE_TABLES + (2 + i) * LAYOUT_PAGE) | PTE_PRESENT | PTE_WRITE;
        for (uint64_t i = 0; i < GIBS_MAPPED * 512; i++)
                pd[i] = i << 21 | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
        return 0;
}

int entry_long_mode(struct loader *l, uint64_t rip, struct boot_entry *entry, struct error *e) {
        struct kvm_sregs *s = &entry->sregs;
        int r;

        r = write_page_tables(l);
        if (r == 0)
                r = write_gdt(l, s);
        if (r < 0)
                return error_set(e, r, "kernel-too-big", NULL, "no memory for the boot tables");
        set_segments(s, true);
        s->cr3 = LAYOUT_PAGE_TABLES;
        s->cr4 = CR4_PAE;
        s->cr0 = CR0_PE | CR0_ET | CR0_PG;
        s->efer = EFER_LME | EFER_LMA;
        entry->regs = (struct kvm_regs){ .rip = rip, .rsp = LAYOUT_BOOT_STACK, .rflags = 2 };
        return 0;
}

int entry_protected_mode(struct loader *l, uint64_t eip, struct boot_entry *entry, struct error *e) {
        struct kvm_sregs *s = &entry->sregs;
        int r = write_gdt(l, s);

        if (r < 0)
                return error_set(e, r, "kernel-too-big", NULL, "no memory for the boot tables");
        set_segments(s, false);
        s->cr3 = 0;
        s->cr4 = 0;
        s->cr0 = CR0_PE | CR0_ET;
        s->efer = 0;
        entry->regs = (struct kvm_regs){ .rip = eip, .rsp = LAYOUT_BOOT_STACK, .rflags = 2 };
        return 0;
}
