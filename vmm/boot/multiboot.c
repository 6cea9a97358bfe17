// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * multiboot: kernels by the Multiboot Specification 0.6.96 (version 1): ELF32, or anything with address fields in its header
 *
 * The 12-byte header lies on a 4-byte boundary in the first 8 KiB. With flag 16 set, 20 more bytes say which part of the file goes where
 * (the "a.out kludge"); else the file is an ELF32 executable. The kernel starts in 32-bit protected mode, EAX = 0x2BADB002,
 * EBX = address of the information structure. The one module (the initrd) goes right behind the kernel, where kernels
 * with small early page tables can reach it.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/layout.h"

#define SEARCH_BYTES 8192u
#define HEADER_MAGIC 0x1badb002u
#define ENTRY_MAGIC  0x2badb002u

/* Flags in the header: what the kernel wants (§3.1.2); an unknown one among the low 16 must be refused. */
#define WANT_PAGE_ALIGN (1u << 0) /* modules are always page aligned here */
#define WANT_MEMORY     (1u << 1) /* always given */
#define WANT_VIDEO      (1u << 2) /* there is no display: the kernel has to look at what it got */
#define WANT_ADDRESSES  (1u << 16)
#define WANT_KNOWN      (WANT_PAGE_ALIGN | WANT_MEMORY | WANT_VIDEO)

/* Flags in the information: what the kernel gets (§3.3). */
#define INFO_MEMORY  (1u << 0)
#define INFO_CMDLINE (1u << 2)
#define INFO_MODULES (1u << 3)
#define INFO_MMAP    (1u << 6)
#define INFO_LOADER  (1u << 9)

struct multiboot_header {
        uint32_t magic, flags, checksum;
        uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; /* with WANT_ADDRESSES */
};

struct multiboot_info {
        uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length,
                mmap_addr;
        uint32_t drives_length, drives_addr, config_table, boot_loader_name, apm_table, vbe[4];
};

struct multiboot_mmap {
        uint32_t size; /* of what follows */
        uint64_t gpa, length;
        uint32_t type;
} __attribute__((packed));

struct multiboot_module {
        uint32_t start, end, string, reserved;
};

struct multiboot_page {
        struct multiboot_info info;
        struct multiboot_module module;
        struct multiboot_mmap map[LOADER_MAP_MAX];
        char name[16], nothing[4];
};

/* Find the header: 1 with it and its place in the file, 0 when there is none. */
static int find_header(struct loader *l, struct multiboot_header *ret, uint64_t *ret_offset, struct error *e) {
        uint32_t words[SEARCH_BYTES / 4];
        size_t n = MIN(l->kernel_size, SEARCH_BYTES) / 4;
        int r;

        r = loader_read(l, words, n * 4, 0, e);
        if (r < 0)
                return r;
        for (size_t i = 0; i + 3 <= n; i++) {
                struct multiboot_header h = { 0 };

                if (words[i] != HEADER_MAGIC || words[i] + words[i + 1] + words[i + 2] != 0)
                        continue;
                if ((words[i + 1] & WANT_ADDRESSES) && n - i < sizeof(h) / 4)
                        continue;
                memcpy(&h, words + i, words[i + 1] & WANT_ADDRESSES ? sizeof(h) : 12);
                *ret = h;
                *ret_offset = i * 4;
                return 1;
        }
        return 0;
}

bool multiboot_present(struct loader *l) {
        struct multiboot_header h;
        uint64_t offset;

        return find_header(l, &h, &offset, NULL) > 0;
}

/* §3.1.3: the header lies at header_addr once load_addr..load_end_addr are loaded. 0 for an end means "all" and "no bss". */
static int place_by_addresses(struct loader *l, const struct multiboot_header *h, uint64_t at, uint64_t *ret_entry,
                              struct error *e) {
        uint64_t offset, file, memory;
        int r;

        if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > at)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the multiboot header at byte %" PRIu64 " says that it lies %" PRIu32
                                 " bytes behind what is loaded",
                                 at, h->header_addr - h->load_addr);
        offset = at - (h->header_addr - h->load_addr);
        if (h->load_end_addr != 0 && h->load_end_addr < h->load_addr)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the multiboot header's load addresses run backwards");
        file = h->load_end_addr != 0 ? h->load_end_addr - h->load_addr : l->kernel_size - offset;
        memory = file;
        if (h->bss_end_addr != 0) {
                if (h->bss_end_addr < h->load_addr || h->bss_end_addr - h->load_addr < file)
                        return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                         "the multiboot header's bss ends inside its data");
                memory = h->bss_end_addr - h->load_addr;
        }
        r = loader_segment(l, h->load_addr, memory, offset, file, e);
        if (r < 0)
                return r;
        *ret_entry = h->entry_addr;
        return 0;
}

static int place_elf(struct loader *l, uint64_t *ret_entry, struct error *e) {
        struct elf_image image;
        int r;

        r = elf_parse(l, &image, e);
        if (r < 0)
                return r;
        if (r == 0 || image.is_64bit)
                return error_set(e, -ENOEXEC, "kernel-format",
                                 "build the kernel as 32-bit ELF, or give its multiboot header addresses",
                                 "the kernel has a multiboot header without addresses, but is no 32-bit x86 ELF file");
        r = elf_place(l, &image, e);
        if (r < 0)
                return r;
        return elf_entry(&image, ret_entry, e);
}

static int write_info(struct loader *l, uint64_t module, struct error *e) {
        struct loader_map_entry map[LOADER_MAP_MAX];
        size_t n = loader_map(l, map);
        struct multiboot_page p = {
                .info = {
                        .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER,
                        .mem_lower = LAYOUT_EBDA / 1024,
                        .mem_upper = (uint32_t)((l->low_ram - 0x100000) / 1024),
                        .cmdline = LAYOUT_CMDLINE,
                        .mods_addr = LAYOUT_PVH_INFO + offsetof(struct multiboot_page, module),
                        .mmap_addr = LAYOUT_PVH_INFO + offsetof(struct multiboot_page, map),
                        .mmap_length = (uint32_t)(n * sizeof(struct multiboot_mmap)),
                        .boot_loader_name = LAYOUT_PVH_INFO + offsetof(struct multiboot_page, name),
                },
                .name = "lodge-vmm",
        };

        static_assert(sizeof(p) <= LAYOUT_PAGE, "one page");
        if (l->source->initrd_fd >= 0) {
                p.info.mods_count = 1;
                p.module = (struct multiboot_module){
                        .start = (uint32_t)module,
                        .end = (uint32_t)(module + l->initrd_size),
                        .string = LAYOUT_PVH_INFO + offsetof(struct multiboot_page, nothing),
                };
        }
        for (size_t i = 0; i < n; i++)
                p.map[i] = (struct multiboot_mmap){ sizeof(p.map[i]) - 4, map[i].gpa, map[i].size, map[i].type };
        if (memory_write(l->memory, LAYOUT_PVH_INFO, &p, sizeof(p)) < 0)
                return error_set(e, -EFBIG, "kernel-too-big", NULL, "no memory for the boot information");
        return 0;
}

int multiboot_load(struct loader *l, struct boot_entry *entry, struct error *e) {
        struct multiboot_header h;
        uint64_t at, eip, module = 0;
        int r;

        r = find_header(l, &h, &at, e);
        if (r <= 0)
                return r;
        if (h.flags & 0xffffu & ~WANT_KNOWN)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the multiboot kernel asks for features that are unknown (flags 0x%" PRIx32 ")",
                                 h.flags);
        if (h.flags & WANT_VIDEO)
                log_info("the multiboot kernel asks for a video mode: there is none");
        r = h.flags & WANT_ADDRESSES ? place_by_addresses(l, &h, at, &eip, e) : place_elf(l, &eip, e);
        if (r < 0)
                return r;
        if (eip < l->kernel_start || eip >= l->kernel_end || eip > UINT32_MAX)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "the kernel's entry point 0x%" PRIx64 " lies outside it", eip);
        r = loader_initrd(l, LAYOUT_LOW_RAM_MAX, true, &module, e);
        if (r < 0)
                return r;
        r = loader_cmdline(l, LAYOUT_CMDLINE_MAX - 1, e);
        if (r < 0)
                return r;
        r = write_info(l, module, e);
        if (r < 0)
                return r;
        r = entry_protected_mode(l, eip, entry, e);
        if (r < 0)
                return r;
        entry->regs.rax = ENTRY_MAGIC;
        entry->regs.rbx = LAYOUT_PVH_INFO;
        entry->format = BOOT_MULTIBOOT;
        return 1;
}
