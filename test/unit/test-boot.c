// SPDX-License-Identifier: GPL-2.0-or-later
/* boot: good kernels of each format land where their protocol says; every number in a header that lies is an error, never a write elsewhere */
#include <asm/bootparam.h>
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "vmm/boot/boot.h"
#include "vmm/machine/layout.h"

#define RAM          (64ull << 20)
#define SETUP_OFFSET 0x1f1
#define KERNEL_SIZE  0x3000u /* of the protected-mode part */
#define BZ_OFFSET    (5 * 512u)

struct fixture {
        struct memory *memory;
        uint8_t file[0x8000];
        size_t size; /* of the kernel file */
        uint8_t initrd[0x2345];
        size_t initrd_size; /* 0: none */
        const char *append;
        struct error e;
        struct boot_entry entry;
};

static int make_file(const void *data, size_t n, size_t size) {
        int fd = memfd_create("test", MFD_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(io_write_at(&sys_real, fd, data, n, 0), 0);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        return fd;
}

static int load(struct fixture *f) {
        _cleanup_close_ int kernel = make_file(f->file, MIN(f->size, sizeof(f->file)), f->size);
        _cleanup_close_ int initrd =
                f->initrd_size > 0 ? make_file(f->initrd, MIN(f->initrd_size, sizeof(f->initrd)), f->initrd_size)
                                   : -EBADF;
        const struct boot_source source = {
                .kernel_fd = kernel,
                .initrd_fd = initrd < 0 ? -1 : initrd,
                .append = f->append,
                .rsdp = LAYOUT_ACPI,
        };
        const struct kvm_sregs sregs = { .apic_base = 0xfee00900 };

        error_clear(&f->e);
        return boot_load(f->memory, &source, &sregs, &f->entry, &f->e);
}

static void fails(struct fixture *f, const char *id) {
        f->entry = (struct boot_entry){ .regs.rip = 0x1234 };
        assert_true(load(f) < 0);
        assert_non_null(f->e.id);
        assert_string_equal(f->e.id, id);
        assert_int_equal(f->entry.regs.rip, 0x1234); /* untouched */
}

static void *at(struct fixture *f, uint64_t gpa, size_t n) {
        void *p = memory_host(f->memory, gpa, n);

        assert_non_null(p);
        return p;
}

static int setup(void **state) {
        const struct memory_options options = { .size = RAM };
        struct fixture *f = calloc(1, sizeof(*f));

        if (!f || memory_new(&options, &f->memory, &f->e) < 0)
                return -1;
        for (size_t i = 0; i < sizeof(f->initrd); i++)
                f->initrd[i] = (uint8_t)(i * 7);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        memory_free(f->memory);
        error_clear(&f->e);
        free(f);
        return 0;
}

/* bzImage */

static struct setup_header *bz(struct fixture *f) {
        struct setup_header *h = (void *)(f->file + SETUP_OFFSET);

        *h = (struct setup_header){
                .setup_sects = 4,
                .syssize = KERNEL_SIZE / 16,
                .boot_flag = 0xaa55,
                .jump = 0xeb | (SETUP_OFFSET + sizeof(*h) - 0x202) << 8,
                .header = 0x53726448,
                .version = 0x20f,
                .loadflags = LOADED_HIGH,
                .initrd_addr_max = 0x7fffffff,
                .kernel_alignment = 0x200000,
                .relocatable_kernel = 1,
                .xloadflags = XLF_KERNEL_64,
                .cmdline_size = 2047,
                .pref_address = 0x1000000,
                .init_size = 0x100000,
                .setup_data = 0x41414141,
        };
        for (size_t i = 0; i < KERNEL_SIZE; i++)
                f->file[BZ_OFFSET + i] = (uint8_t)(i ^ i >> 8);
        f->size = BZ_OFFSET + KERNEL_SIZE;
        return h;
}

/* The whole contract of the 64-bit boot protocol, that a kernel relies on before it can say anything. */
static void test_bzimage(void **state) {
        struct fixture *f = *state;
        const struct boot_params *p;
        uint64_t initrd = (RAM - sizeof(f->initrd)) & ~0xfffull;

        bz(f);
        f->size += 100; /* a signature behind it */
        f->append = "console=ttyS0 quiet";
        f->initrd_size = sizeof(f->initrd);
        assert_int_equal(load(f), 0);
        assert_int_equal(f->entry.format, BOOT_BZIMAGE);
        assert_int_equal(f->entry.regs.rip, 0x1000200);
        assert_int_equal(f->entry.regs.rsi, LAYOUT_ZERO_PAGE);
        assert_int_equal(f->entry.regs.rflags, 2);
        assert_int_equal(f->entry.sregs.apic_base, 0xfee00900); /* what is not ours stays */
        assert_int_equal(f->entry.sregs.efer, 0x500);
        assert_int_equal(f->entry.sregs.cs.selector, 0x10);
        assert_int_equal(f->entry.sregs.cs.l, 1);
        assert_int_equal(f->entry.sregs.ds.selector, 0x18);
        assert_memory_equal(at(f, 0x1000000, KERNEL_SIZE), f->file + BZ_OFFSET, KERNEL_SIZE);

        p = at(f, LAYOUT_ZERO_PAGE, sizeof(*p));
        assert_int_equal(p->hdr.header, 0x53726448);
        assert_int_equal(p->hdr.type_of_loader, 0xff);
        assert_int_equal(p->hdr.setup_data, 0);
        assert_int_equal(p->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
        assert_int_equal(p->acpi_rsdp_addr, LAYOUT_ACPI);
        assert_int_equal(p->hdr.ramdisk_image, initrd);
        assert_int_equal(p->hdr.ramdisk_size, sizeof(f->initrd));
        assert_memory_equal(at(f, initrd, sizeof(f->initrd)), f->initrd, sizeof(f->initrd));
        assert_string_equal(at(f, LAYOUT_CMDLINE, 64), f->append);
        assert_int_equal(p->e820_entries, 5);
        assert_int_equal(p->e820_table[2].addr, 0x100000);
        assert_int_equal(p->e820_table[2].size, RAM - 0x100000);
        assert_int_equal(p->e820_table[2].type, 1);
        assert_int_equal(p->e820_table[1].type, 2); /* the tables below 1 MiB */
}

/* CR3 leads to 4 GiB mapped to themselves: anything else is a triple fault at the first instruction. */
static void test_page_tables(void **state) {
        struct fixture *f = *state;
        static const uint64_t places[] = { 0, 0x1000200, 0x3fffffff, 0x40000000, 0xffffffff };

        bz(f);
        assert_int_equal(load(f), 0);
        for (size_t i = 0; i < ELEMENTSOF(places); i++) {
                uint64_t v = places[i], *table = at(f, f->entry.sregs.cr3, 4096);

                table = at(f, table[v >> 39] & ~0xfffull, 4096);
                table = at(f, table[v >> 30 & 511] & ~0xfffull, 4096);
                assert_int_equal((table[v >> 21 & 511] & ~0xfffull) | (v & 0x1fffff), v);
                assert_int_equal(table[v >> 21 & 511] & 0x83, 0x83);
        }
}

/* The initrd must stay below the address that the kernel's header names, even if there is RAM above it. */
static void test_initrd_below_limit(void **state) {
        struct fixture *f = *state;
        struct setup_header *h = bz(f);

        h->initrd_addr_max = 0x2ffffff;
        f->initrd_size = 0x1800;
        assert_int_equal(load(f), 0);
        assert_int_equal(((struct boot_params *)at(f, LAYOUT_ZERO_PAGE, 4096))->hdr.ramdisk_image, 0x2ffe000);
}

static void test_bzimage_lies(void **state) {
        struct fixture *f = *state;
        struct setup_header *h = bz(f);

        f->size = BZ_OFFSET + KERNEL_SIZE - 1;
        fails(f, "kernel-truncated");
        f->size = BZ_OFFSET;
        fails(f, "kernel-truncated");
        f->size = 0x300;
        fails(f, "kernel-truncated");

        h = bz(f);
        h->setup_sects = 255; /* points behind the file */
        fails(f, "kernel-truncated");
        h = bz(f);
        h->syssize = UINT32_MAX; /* 64 GiB: also a 32-bit overflow when multiplied */
        fails(f, "kernel-truncated");
        h = bz(f);
        h->syssize = 0;
        fails(f, "kernel-format");
        h = bz(f);
        h->version = 0x204; /* no 64-bit entry */
        fails(f, "kernel-format");
        h = bz(f);
        h->xloadflags = 0;
        fails(f, "kernel-format");
        h = bz(f);
        h->loadflags = 0; /* zImage */
        fails(f, "kernel-format");
        h = bz(f);
        h->kernel_alignment = 0x1234567;
        fails(f, "kernel-format");
        h = bz(f);
        h->kernel_alignment = 0;
        fails(f, "kernel-format");
        h = bz(f);
        h->init_size = UINT32_MAX;
        fails(f, "kernel-too-big");
        h = bz(f);
        h->pref_address = UINT64_MAX - 0x1000;
        h->relocatable_kernel = 0;
        fails(f, "kernel-too-big");
        h = bz(f);
        h->pref_address = 0x9000; /* over our page tables */
        h->relocatable_kernel = 0;
        fails(f, "kernel-format");
        h = bz(f);
        h->pref_address = 0xff000; /* over the ACPI tables */
        h->relocatable_kernel = 0;
        fails(f, "kernel-format");
        h = bz(f);
        h->pref_address = RAM;
        h->relocatable_kernel = 0;
        fails(f, "kernel-too-big");
}

/* What the jump says is not header is not copied: it would be code taken for fields. */
static void test_short_header(void **state) {
        struct fixture *f = *state;
        struct setup_header *h = bz(f);

        h->jump = 0xeb | (0x264 - 0x202) << 8; /* ends before handover_offset */
        h->handover_offset = 0xdeadbeef;
        assert_int_equal(load(f), 0);
        assert_int_equal(((struct boot_params *)at(f, LAYOUT_ZERO_PAGE, 4096))->hdr.handover_offset, 0);
}

static void test_initrd_too_big(void **state) {
        struct fixture *f = *state;
        struct setup_header *h = bz(f);

        f->initrd_size = RAM + 1;
        fails(f, "initrd-too-big");
        f->initrd_size = RAM - 0x1000000; /* reaches into the kernel */
        fails(f, "initrd-too-big");
        f->initrd_size = 0x2000;
        h->initrd_addr_max = 0x1fff; /* only over the boot tables */
        fails(f, "initrd-too-big");
}

static void test_cmdline_too_long(void **state) {
        struct fixture *f = *state;
        struct setup_header *h = bz(f);
        char text[300];

        memset(text, 'x', sizeof(text));
        text[256] = 0;
        f->append = text;
        h->cmdline_size = 255;
        fails(f, "cmdline-too-long");
        text[255] = 0;
        assert_int_equal(load(f), 0);
        h->cmdline_size = 0; /* an old kernel's 255 */
        assert_int_equal(load(f), 0);
}

/* ELF */

struct elf64 {
        Elf64_Ehdr h;
        Elf64_Phdr p[4];
        struct {
                Elf64_Nhdr h;
                char name[4];
                uint32_t desc;
        } note;
};

static struct elf64 *elf(struct fixture *f, bool note) {
        struct elf64 *x = (void *)f->file;

        memset(f->file, 0, sizeof(f->file));
        memcpy(x->h.e_ident, ELFMAG, SELFMAG);
        x->h.e_ident[EI_CLASS] = ELFCLASS64;
        x->h.e_ident[EI_DATA] = ELFDATA2LSB;
        x->h.e_type = ET_EXEC;
        x->h.e_machine = EM_X86_64;
        x->h.e_phoff = offsetof(struct elf64, p);
        x->h.e_phentsize = sizeof(Elf64_Phdr);
        x->h.e_phnum = note ? 3 : 2;
        x->h.e_entry = 0x1000000;
        x->p[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
                                .p_offset = 0x1000,
                                .p_vaddr = 0xffffffff81000000,
                                .p_paddr = 0x1000000,
                                .p_filesz = 0x2000,
                                .p_memsz = 0x3000 };
        x->p[1] = (Elf64_Phdr){ .p_type = PT_LOAD,
                                .p_offset = 0x3000,
                                .p_vaddr = 0,
                                .p_paddr = 0x1200000,
                                .p_filesz = 0x100,
                                .p_memsz = 0x100 };
        x->p[2] = (Elf64_Phdr){ .p_type = PT_NOTE,
                                .p_offset = offsetof(struct elf64, note),
                                .p_filesz = sizeof(x->note),
                                .p_memsz = sizeof(x->note),
                                .p_align = 4 };
        x->note.h = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 4, .n_type = 18 };
        memcpy(x->note.name, "Xen", 4);
        x->note.desc = 0x1000040;
        memset(f->file + 0x1000, 0x5a, 0x2100);
        f->size = 0x3100;
        return x;
}

static void test_pvh(void **state) {
        struct fixture *f = *state;
        const uint32_t *info;
        const uint64_t *module;

        elf(f, true);
        f->append = "hello";
        f->initrd_size = sizeof(f->initrd);
        memset(at(f, 0x1002000, 0x1000), 0xff, 0x1000); /* as left by the guest before a reset */
        assert_int_equal(load(f), 0);
        assert_int_equal(f->entry.format, BOOT_ELF_PVH);
        assert_int_equal(f->entry.regs.rip, 0x1000040);
        assert_int_equal(f->entry.regs.rbx, LAYOUT_PVH_INFO);
        assert_int_equal(f->entry.sregs.cr0, 0x11);
        assert_int_equal(f->entry.sregs.efer, 0);
        assert_int_equal(f->entry.sregs.cs.l, 0);
        assert_int_equal(f->entry.sregs.cs.db, 1);
        assert_memory_equal(at(f, 0x1000000, 0x2000), f->file + 0x1000, 0x2000);
        for (size_t i = 0; i < 0x1000; i++)
                assert_int_equal(((uint8_t *)at(f, 0x1002000, 0x1000))[i], 0); /* bss */
        info = at(f, LAYOUT_PVH_INFO, 56);
        assert_int_equal(info[0], 0x336ec578);
        assert_int_equal(info[1], 1); /* version */
        assert_int_equal(info[3], 1); /* modules */
        module = at(f, *(const uint64_t *)(info + 4), 32);
        assert_memory_equal(at(f, module[0], module[1]), f->initrd, sizeof(f->initrd));
        assert_string_equal(at(f, *(const uint64_t *)(info + 6), 8), "hello");
        assert_int_equal(*(const uint64_t *)(info + 8), LAYOUT_ACPI);
        assert_int_equal(info[12], 5); /* memory map entries */
}

static void test_vmlinux(void **state) {
        struct fixture *f = *state;
        const struct boot_params *p;

        elf(f, false);
        assert_int_equal(load(f), 0);
        assert_int_equal(f->entry.format, BOOT_ELF_LINUX);
        assert_int_equal(f->entry.regs.rip, 0x1000000);
        assert_int_equal(f->entry.regs.rsi, LAYOUT_ZERO_PAGE);
        p = at(f, LAYOUT_ZERO_PAGE, sizeof(*p));
        assert_int_equal(p->hdr.boot_flag, 0xaa55);
        assert_int_equal(p->acpi_rsdp_addr, LAYOUT_ACPI);
}

static void test_elf_lies(void **state) {
        struct fixture *f = *state;
        struct elf64 *x;

        x = elf(f, true);
        x->h.e_phoff = UINT64_MAX - 8;
        fails(f, "kernel-truncated");
        x = elf(f, true);
        x->h.e_phnum = UINT16_MAX;
        fails(f, "kernel-format");
        x = elf(f, true);
        x->h.e_phentsize = 1;
        fails(f, "kernel-format");
        x = elf(f, true);
        x->p[0].p_offset = UINT64_MAX - 0xfff; /* + p_filesz overflows */
        fails(f, "kernel-truncated");
        x = elf(f, true);
        x->p[0].p_filesz = x->p[0].p_memsz = UINT64_MAX;
        fails(f, "kernel-truncated");
        x = elf(f, true);
        x->p[0].p_memsz = 0x1000; /* smaller than in the file */
        fails(f, "kernel-format");
        x = elf(f, true);
        x->p[0].p_memsz = UINT64_MAX; /* + p_paddr overflows */
        fails(f, "kernel-too-big");
        x = elf(f, true);
        x->p[0].p_paddr = RAM - 0x1000;
        fails(f, "kernel-too-big");
        x = elf(f, true);
        x->p[0].p_paddr = 0x7000; /* over the zero page */
        fails(f, "kernel-format");
        x = elf(f, true);
        x->p[1].p_paddr = 0x1002fff; /* over the first segment's bss */
        fails(f, "kernel-format");
        x = elf(f, true);
        x->note.desc = 0x2000000; /* starts outside itself */
        fails(f, "kernel-format");
        x = elf(f, true);
        x->p[2].p_offset = 0x30f0;
        fails(f, "kernel-truncated");
        x = elf(f, false);
        x->h.e_entry = 0x40;
        x->p[1].p_vaddr = 0x2000;
        fails(f, "kernel-format");
        x = elf(f, false);
        x->h.e_type = ET_DYN; /* a program, not a kernel */
        fails(f, "kernel-format");
        x = elf(f, false);
        x->h.e_machine = EM_AARCH64;
        fails(f, "kernel-format");
        x = elf(f, true);
        x->p[0].p_type = x->p[1].p_type = PT_NULL;
        fails(f, "kernel-format");
        x = elf(f, true);
        f->size = 0x30; /* inside the header */
        fails(f, "kernel-truncated");
}

/* A note whose sizes wrap around must end the search, not turn it into a loop. */
static void test_note_sizes(void **state) {
        struct fixture *f = *state;
        struct elf64 *x = elf(f, true);

        x->note.h.n_type = 1;
        x->note.h.n_namesz = UINT32_MAX;
        x->note.h.n_descsz = UINT32_MAX;
        assert_int_equal(load(f), 0);
        assert_int_equal(f->entry.format, BOOT_ELF_LINUX);
        x->note.h.n_namesz = x->note.h.n_descsz = 0;
        x->p[2].p_filesz = 0x2000; /* zeros: hundreds of empty notes */
        assert_int_equal(load(f), 0);
}

/* Multiboot */

#define MB_AT 0x1004u /* in the file; not at its start */

static uint32_t *multiboot(struct fixture *f, uint32_t flags) {
        uint32_t *h = (uint32_t *)(f->file + MB_AT);

        memset(f->file, 0, sizeof(f->file));
        memset(f->file + 0x1000, 0x33, 0x1000);
        h[0] = 0x1badb002;
        h[1] = flags;
        h[2] = -(h[0] + h[1]);
        h[3] = 0x100000 + MB_AT - 0x1000; /* header_addr */
        h[4] = 0x100000;                  /* load_addr */
        h[5] = 0x101000;                  /* load_end_addr */
        h[6] = 0x103000;                  /* bss_end_addr */
        h[7] = 0x100020;                  /* entry_addr */
        f->size = 0x2000;
        return h;
}

static void test_multiboot_addresses(void **state) {
        struct fixture *f = *state;
        const uint32_t *info, *module;

        multiboot(f, 0x10003);
        f->append = "test 1";
        f->initrd_size = sizeof(f->initrd);
        assert_int_equal(load(f), 0);
        assert_int_equal(f->entry.format, BOOT_MULTIBOOT);
        assert_int_equal(f->entry.regs.rip, 0x100020);
        assert_int_equal(f->entry.regs.rax, 0x2badb002);
        assert_memory_equal(at(f, 0x100000, 0x1000), f->file + 0x1000, 0x1000);
        info = at(f, f->entry.regs.rbx, 116);
        assert_int_equal(info[0], 0x24d); /* memory, command line, modules, map, loader's name */
        assert_int_equal(info[1], 639);
        assert_int_equal(info[2], (RAM - 0x100000) / 1024);
        assert_string_equal(at(f, info[4], 8), "test 1");
        assert_int_equal(info[5], 1);
        module = at(f, info[6], 16);
        assert_int_equal(module[0], 0x103000); /* behind the bss, page aligned */
        assert_int_equal(module[1] - module[0], sizeof(f->initrd));
        assert_memory_equal(at(f, module[0], sizeof(f->initrd)), f->initrd, sizeof(f->initrd));
        assert_int_equal(info[11], 5 * 24); /* the map */
        assert_int_equal(*(uint32_t *)at(f, info[12], 4), 20);
}

static void test_multiboot_elf32(void **state) {
        struct fixture *f = *state;
        Elf32_Ehdr *h = (void *)f->file;
        Elf32_Phdr *p = (void *)(f->file + sizeof(*h));

        multiboot(f, 0);
        memcpy(h->e_ident, ELFMAG, SELFMAG);
        h->e_ident[EI_CLASS] = ELFCLASS32;
        h->e_ident[EI_DATA] = ELFDATA2LSB;
        h->e_type = ET_EXEC;
        h->e_machine = EM_386;
        h->e_phoff = sizeof(*h);
        h->e_phentsize = sizeof(*p);
        h->e_phnum = 1;
        h->e_entry = 0xc0100010; /* virtual: a higher-half kernel */
        *p = (Elf32_Phdr){ .p_type = PT_LOAD,
                           .p_offset = 0x1000,
                           .p_vaddr = 0xc0100000,
                           .p_paddr = 0x100000,
                           .p_filesz = 0x1000,
                           .p_memsz = 0x2000 };
        assert_int_equal(load(f), 0);
        assert_int_equal(f->entry.format, BOOT_MULTIBOOT);
        assert_int_equal(f->entry.regs.rip, 0x100010);
        h->e_entry = 0x200000;
        fails(f, "kernel-format");
}

static void test_multiboot_lies(void **state) {
        struct fixture *f = *state;
        uint32_t *h;

        h = multiboot(f, 0x10000);
        h[3] = 0x100000 - 4; /* the header lies before what is loaded */
        fails(f, "kernel-format");
        h = multiboot(f, 0x10000);
        h[3] = 0x100000 + 0x8000; /* so what is loaded starts before the file */
        fails(f, "kernel-format");
        h = multiboot(f, 0x10000);
        h[5] = 0x900000; /* load end behind the file */
        h[6] = 0;
        fails(f, "kernel-truncated");
        h = multiboot(f, 0x10000);
        h[5] = 0xff000; /* load end before the start */
        fails(f, "kernel-format");
        h = multiboot(f, 0x10000);
        h[6] = 0x100800; /* bss ends inside the data */
        fails(f, "kernel-format");
        h = multiboot(f, 0x10000);
        h[6] = 0xfffff000;
        fails(f, "kernel-too-big");
        h = multiboot(f, 0x10000);
        h[3] -= 0xff000; /* loaded at 0x1000 */
        h[4] -= 0xff000;
        h[5] -= 0xff000;
        h[6] = 0;
        fails(f, "kernel-format");
        h = multiboot(f, 0x10000);
        h[7] = 0x103000; /* entry right behind the end */
        fails(f, "kernel-format");
        multiboot(f, 0x10008); /* an unknown requirement */
        fails(f, "kernel-format");
        multiboot(f, 0); /* neither ELF nor addresses */
        fails(f, "kernel-format");
        h = multiboot(f, 0x10000);
        h[2] ^= 1; /* checksum: so it's no header */
        fails(f, "kernel-format");
        multiboot(f, 0x10000);
        f->size = MB_AT + 20; /* header cut off */
        fails(f, "kernel-format");
        multiboot(f, 0x10000);
        f->initrd_size = RAM - 0x102000; /* one page too much */
        fails(f, "initrd-too-big");
}

/* What a person passes by mistake must be named. */
static void test_not_a_kernel(void **state) {
        struct fixture *f = *state;

        memset(f->file, 0, sizeof(f->file));
        f->size = 0;
        fails(f, "kernel-format");
        f->size = 1;
        fails(f, "kernel-format");
        f->size = sizeof(f->file);
        fails(f, "kernel-format");
        memcpy(f->file, "QFI\xfb", 4);
        fails(f, "kernel-format");
        assert_non_null(strstr(f->e.message, "qcow2"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_bzimage, setup, teardown),
                cmocka_unit_test_setup_teardown(test_page_tables, setup, teardown),
                cmocka_unit_test_setup_teardown(test_initrd_below_limit, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bzimage_lies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_short_header, setup, teardown),
                cmocka_unit_test_setup_teardown(test_initrd_too_big, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cmdline_too_long, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pvh, setup, teardown),
                cmocka_unit_test_setup_teardown(test_vmlinux, setup, teardown),
                cmocka_unit_test_setup_teardown(test_elf_lies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_note_sizes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_multiboot_addresses, setup, teardown),
                cmocka_unit_test_setup_teardown(test_multiboot_elf32, setup, teardown),
                cmocka_unit_test_setup_teardown(test_multiboot_lies, setup, teardown),
                cmocka_unit_test_setup_teardown(test_not_a_kernel, setup, teardown),
        };

        return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}
