// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * elf: ELF kernels, by their PVH note or as a Linux vmlinux
 *
 * An ELF kernel with a Xen note of type 18 (XEN_ELFNOTE_PHYS32_ENTRY) starts by the PVH protocol: 32-bit protected mode without
 * paging, EBX = address of a start_info structure with the memory map, the modules and the RSDP (Xen's public/arch-x86/hvm/start_info.h).
 * The note is an explicit contract, and Linux, FreeBSD, NetBSD and unikernels have it, so it wins. Without it, an x86-64 ELF is taken for
 * a Linux vmlinux: its e_entry follows the 64-bit boot protocol once it is unpacked, with a zero page that we make up.
 *
 * An unpacked kernel runs at the address that it was linked for: KASLR is done by the code that unpacks a bzImage, and there is none here.
 */
#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/layout.h"

#define NOTE_PHYS32_ENTRY 18u
#define NOTE_BYTES_MAX    0x10000u /* of one PT_NOTE that we look at */
#define NOTES_MAX         256u

#define PVH_MAGIC         0x336ec578u

struct pvh_start_info {
        uint32_t magic, version, flags, nr_modules;
        uint64_t modlist, cmdline, rsdp, memmap;
        uint32_t memmap_entries, reserved;
};

struct pvh_module {
        uint64_t gpa, size, cmdline, reserved;
};

struct pvh_memmap {
        uint64_t gpa, size;
        uint32_t type, reserved;
};

struct pvh_page {
        struct pvh_start_info info;
        struct pvh_module module;
        struct pvh_memmap map[LOADER_MAP_MAX];
};

static int parse_headers(struct loader *l, uint64_t phoff, unsigned int phnum, unsigned int phentsize,
                         struct elf_image *image, struct error *e) {
        size_t size = image->is_64bit ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
        union {
                Elf32_Phdr p32[ELF_SEGMENTS_MAX];
                Elf64_Phdr p64[ELF_SEGMENTS_MAX];
        } u;
        int r;

        if (phnum == 0 || phnum > ELF_SEGMENTS_MAX || phentsize != size)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the kernel is an ELF file with %u program headers of %u bytes", phnum, phentsize);
        r = loader_read(l, &u, phnum * size, phoff, e);
        if (r < 0)
                return r;
        for (unsigned int i = 0; i < phnum; i++) {
                const Elf32_Phdr *a = &u.p32[i];
                const Elf64_Phdr *b = &u.p64[i];

                image->segments[i] = image->is_64bit
                                             ? (struct elf_segment){ b->p_type,   b->p_offset, b->p_vaddr, b->p_paddr,
                                                                     b->p_filesz, b->p_memsz,  b->p_align }
                                             : (struct elf_segment){ a->p_type,   a->p_offset, a->p_vaddr, a->p_paddr,
                                                                     a->p_filesz, a->p_memsz,  a->p_align };
        }
        image->n_segments = phnum;
        return 1;
}

int elf_parse(struct loader *l, struct elf_image *ret_image, struct error *e) {
        struct elf_image image = { 0 };
        union {
                unsigned char ident[EI_NIDENT];
                Elf32_Ehdr e32;
                Elf64_Ehdr e64;
        } h = { 0 };
        size_t size;
        int r;

        if (l->kernel_size < EI_NIDENT || loader_read(l, h.ident, EI_NIDENT, 0, NULL) < 0 ||
            memcmp(h.ident, ELFMAG, SELFMAG) != 0)
                return 0;
        image.is_64bit = h.ident[EI_CLASS] == ELFCLASS64;
        if ((!image.is_64bit && h.ident[EI_CLASS] != ELFCLASS32) || h.ident[EI_DATA] != ELFDATA2LSB)
                return 0;
        size = image.is_64bit ? sizeof(h.e64) : sizeof(h.e32);
        r = loader_read(l, &h, size, 0, e);
        if (r < 0)
                return r;
        /* Type and machine lie at the same place in both. */
        image.machine = h.e32.e_machine;
        if (h.e32.e_type != ET_EXEC || (image.machine != EM_X86_64 && image.machine != EM_386))
                return 0;
        image.entry = image.is_64bit ? h.e64.e_entry : h.e32.e_entry;
        r = image.is_64bit ? parse_headers(l, h.e64.e_phoff, h.e64.e_phnum, h.e64.e_phentsize, &image, e)
                           : parse_headers(l, h.e32.e_phoff, h.e32.e_phnum, h.e32.e_phentsize, &image, e);
        if (r > 0)
                *ret_image = image;
        return r;
}

int elf_place(struct loader *l, const struct elf_image *image, struct error *e) {
        for (size_t i = 0; i < image->n_segments; i++) {
                const struct elf_segment *s = &image->segments[i];
                int r;

                if (s->type != PT_LOAD)
                        continue;
                r = loader_segment(l, s->paddr, s->memsz, s->offset, s->filesz, e);
                if (r < 0)
                        return r;
        }
        if (l->kernel_end == 0)
                return error_set(e, -ENOEXEC, "kernel-format", NULL, "the kernel is an ELF file with nothing to load");
        return 0;
}

int elf_entry(const struct elf_image *image, uint64_t *ret_gpa, struct error *e) {
        for (size_t i = 0; i < image->n_segments; i++) {
                const struct elf_segment *s = &image->segments[i];

                if (s->type == PT_LOAD && image->entry >= s->paddr && image->entry - s->paddr < s->memsz) {
                        *ret_gpa = image->entry;
                        return 0;
                }
        }
        for (size_t i = 0; i < image->n_segments; i++) {
                const struct elf_segment *s = &image->segments[i];

                if (s->type == PT_LOAD && image->entry >= s->vaddr && image->entry - s->vaddr < s->memsz) {
                        *ret_gpa = image->entry - s->vaddr + s->paddr;
                        return 0;
                }
        }
        return error_set(e, -ENOEXEC, "kernel-format", NULL,
                         "the kernel's entry point 0x%" PRIx64 " lies in no segment", image->entry);
}

/* Look through one PT_NOTE: 1 with the entry, 0 when it isn't there. */
static int note_find(struct loader *l, const struct elf_segment *s, uint32_t *ret_entry, struct error *e) {
        uint64_t align = s->align == 8 ? 8 : 4, size = MIN(s->filesz, NOTE_BYTES_MAX), at = 0;

        if (s->offset > l->kernel_size || size > l->kernel_size - s->offset)
                return error_set(e, -ENOEXEC, "kernel-truncated", "copy or download the kernel again",
                                 "the kernel ends inside its notes");
        for (unsigned int i = 0; i < NOTES_MAX && size - at >= sizeof(Elf32_Nhdr) + 8; i++) {
                struct {
                        Elf32_Nhdr h;
                        char name[4];
                        uint32_t desc;
                } n;
                uint64_t next;
                int r = loader_read(l, &n, sizeof(n), s->offset + at, e);

                if (r < 0)
                        return r;
                if (n.h.n_type == NOTE_PHYS32_ENTRY && n.h.n_namesz == 4 && memcmp(n.name, "Xen", 4) == 0 &&
                    (n.h.n_descsz == 4 || n.h.n_descsz == 8)) {
                        *ret_entry = n.desc;
                        return 1;
                }
                /* 32-bit lengths in 64-bit sums: no overflow */
                next = sizeof(Elf32_Nhdr) + n.h.n_namesz;
                next = (next + align - 1) & ~(align - 1);
                next = (next + n.h.n_descsz + align - 1) & ~(align - 1);
                if (next > size - at)
                        break;
                at += next;
        }
        return 0;
}

static int pvh_entry(struct loader *l, const struct elf_image *image, uint32_t *ret_entry, struct error *e) {
        for (size_t i = 0; i < image->n_segments; i++)
                if (image->segments[i].type == PT_NOTE) {
                        int r = note_find(l, &image->segments[i], ret_entry, e);

                        if (r != 0)
                                return r;
                }
        return 0;
}

static int pvh_write_info(struct loader *l, uint64_t initrd, struct error *e) {
        struct loader_map_entry map[LOADER_MAP_MAX];
        size_t n = loader_map(l, map);
        struct pvh_page p = {
                .info = {
                        .magic = PVH_MAGIC,
                        .version = 1,
                        .cmdline = LAYOUT_CMDLINE,
                        .rsdp = l->source->rsdp,
                        .memmap = LAYOUT_PVH_INFO + offsetof(struct pvh_page, map),
                        .memmap_entries = (uint32_t)n,
                },
        };

        static_assert(sizeof(p) <= LAYOUT_PAGE, "one page");
        if (l->source->initrd_fd >= 0) {
                p.info.nr_modules = 1;
                p.info.modlist = LAYOUT_PVH_INFO + offsetof(struct pvh_page, module);
                p.module = (struct pvh_module){ .gpa = initrd, .size = l->initrd_size };
        }
        for (size_t i = 0; i < n; i++)
                p.map[i] = (struct pvh_memmap){ map[i].gpa, map[i].size, map[i].type, 0 };
        if (memory_write(l->memory, LAYOUT_PVH_INFO, &p, sizeof(p)) < 0)
                return error_set(e, -EFBIG, "kernel-too-big", NULL, "no memory for the boot parameters");
        return 0;
}

static int load_pvh(struct loader *l, const struct elf_image *image, uint32_t eip, struct boot_entry *entry,
                    struct error *e) {
        uint64_t initrd = 0;
        int r;

        r = elf_place(l, image, e);
        if (r < 0)
                return r;
        if (eip < l->kernel_start || eip >= l->kernel_end)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the kernel's PVH entry point 0x%x lies outside it", eip);
        r = loader_initrd(l, LAYOUT_LOW_RAM_MAX, false, &initrd, e);
        if (r < 0)
                return r;
        r = loader_cmdline(l, LAYOUT_CMDLINE_MAX - 1, e);
        if (r < 0)
                return r;
        r = pvh_write_info(l, initrd, e);
        if (r < 0)
                return r;
        r = entry_protected_mode(l, eip, entry, e);
        if (r < 0)
                return r;
        entry->regs.rbx = LAYOUT_PVH_INFO;
        entry->format = BOOT_ELF_PVH;
        return 1;
}

static int load_linux(struct loader *l, const struct elf_image *image, struct boot_entry *entry, struct error *e) {
        uint64_t rip, initrd = 0;
        int r;

        r = elf_entry(image, &rip, e);
        if (r < 0)
                return r;
        r = elf_place(l, image, e);
        if (r < 0)
                return r;
        if (rip >= LAYOUT_LOW_RAM_MAX)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the kernel's entry point 0x%" PRIx64 " lies above 3 GiB", rip);
        r = loader_initrd(l, 0x80000000, false, &initrd, e);
        if (r < 0)
                return r;
        r = loader_cmdline(l, 2047, e); /* COMMAND_LINE_SIZE of x86 */
        if (r < 0)
                return r;
        r = loader_zero_page(l, NULL, initrd, e);
        if (r < 0)
                return r;
        r = entry_long_mode(l, rip, entry, e);
        if (r < 0)
                return r;
        entry->regs.rsi = LAYOUT_ZERO_PAGE;
        entry->format = BOOT_ELF_LINUX;
        return 1;
}

int elf_load(struct loader *l, struct boot_entry *entry, struct error *e) {
        struct elf_image image;
        uint32_t eip = 0;
        int r;

        r = elf_parse(l, &image, e);
        if (r <= 0)
                return r;
        r = pvh_entry(l, &image, &eip, e);
        if (r < 0)
                return r;
        if (r > 0)
                return load_pvh(l, &image, eip, entry, e);
        if (!image.is_64bit || image.machine != EM_X86_64 || multiboot_present(l))
                return 0;
        return load_linux(l, &image, entry, e);
}
