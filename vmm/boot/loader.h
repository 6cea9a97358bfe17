// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * loader: what the formats of this folder share; private to vmm/boot
 *
 * Theory of operation. A format (bzimage.c, elf.c, multiboot.c) reads the kernel's headers into small buffers, checks them, and puts
 * each piece with loader_segment() straight from the file into guest memory. Each place in guest memory that is taken is a range in a
 * short list: what our own structures need is in it from the start, so one check finds a kernel that would overwrite its command line, its
 * own other half, or the ACPI tables. All arithmetic on header fields is in 64 bits on values of at most 64 bits, so every sum is checked.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/boot/boot.h"

#define LOADER_RANGES_MAX 40

struct loader_range {
        uint64_t start, end; /* [start, end) */
        const char *what;
};

struct loader {
        struct memory *memory;
        const struct boot_source *source;
        uint64_t kernel_size;              /* bytes in the file */
        uint64_t initrd_size;              /* 0: none */
        uint64_t low_ram;                  /* end of the RAM below 4 GiB */
        uint64_t high_base, high_size;     /* RAM above 4 GiB, size 0: none */
        uint64_t kernel_start, kernel_end; /* of all segments so far */
        struct loader_range ranges[LOADER_RANGES_MAX];
        size_t n_ranges;
};

/** loader_init() - sizes of the files, ends of the RAM, the ranges that are ours. */
int loader_init(struct loader *l, struct memory *memory, const struct boot_source *source, struct error *e);

/** loader_read() - read exactly @n header bytes at @offset of the kernel; "kernel-truncated", "kernel-read". */
int loader_read(struct loader *l, void *buf, size_t n, uint64_t offset, struct error *e);

/**
 * loader_claim() - take [@gpa, @gpa+@size) of guest memory for @what (a string constant)
 * Return: 0; -EFBIG "kernel-too-big" outside RAM, -EINVAL "kernel-format" when something else is there.
 */
int loader_claim(struct loader *l, uint64_t gpa, uint64_t size, const char *what, struct error *e);

/**
 * loader_segment() - claim @mem_size bytes at @gpa, fill them with @file_size bytes at @offset of the kernel, the rest with zeros
 */
int loader_segment(struct loader *l, uint64_t gpa, uint64_t mem_size, uint64_t offset, uint64_t file_size,
                   struct error *e);

/** loader_fill() - read @size bytes at @offset of the kernel to @gpa, which the caller has claimed. */
int loader_fill(struct loader *l, uint64_t gpa, uint64_t offset, uint64_t size, struct error *e);

/**
 * loader_initrd() - put the initrd page-aligned, as high as fits below @limit and the end of low RAM, clear of the kernel
 * @above_kernel: right behind the kernel instead
 * @ret_gpa: untouched when there is no initrd
 */
int loader_initrd(struct loader *l, uint64_t limit, bool above_kernel, uint64_t *ret_gpa, struct error *e);

/** loader_cmdline() - write the command line and its NUL at LAYOUT_CMDLINE; @max: bytes without the NUL that the kernel takes. */
int loader_cmdline(struct loader *l, uint64_t max, struct error *e);

/** The machine's memory map, for e820, PVH and multiboot, which number the types alike. */
#define LOADER_RAM      1u
#define LOADER_RESERVED 2u
struct loader_map_entry {
        uint64_t gpa, size;
        uint32_t type;
};
#define LOADER_MAP_MAX 8

/** loader_map() - by rising address; returns how many. */
size_t loader_map(const struct loader *l, struct loader_map_entry map[static LOADER_MAP_MAX]);

/** loader_zero_page() - write Linux's boot parameters at LAYOUT_ZERO_PAGE around @header (the kernel's own, or NULL), with the initrd's place. */
struct setup_header;
int loader_zero_page(struct loader *l, const struct setup_header *header, uint64_t initrd, struct error *e);

/** entry_long_mode(), entry_protected_mode() - tables in guest memory and the register state: flat segments, interrupts off. */
int entry_long_mode(struct loader *l, uint64_t rip, struct boot_entry *entry, struct error *e);
int entry_protected_mode(struct loader *l, uint64_t eip, struct boot_entry *entry, struct error *e);

/* The formats. Each returns 1 when it loaded the kernel, 0 when the file is not its own, or -errno. */
int bzimage_load(struct loader *l, struct boot_entry *entry, struct error *e);
int elf_load(struct loader *l, struct boot_entry *entry, struct error *e); /* PVH or Linux */
int multiboot_load(struct loader *l, struct boot_entry *entry, struct error *e);

/** multiboot_present() - is there a multiboot 1 header? */
bool multiboot_present(struct loader *l);

/* ELF32 and ELF64 in one form. */
#define ELF_SEGMENTS_MAX 32
struct elf_segment {
        uint32_t type;
        uint64_t offset, vaddr, paddr, filesz, memsz, align;
};
struct elf_image {
        bool is_64bit;
        uint16_t machine;
        uint64_t entry;
        size_t n_segments;
        struct elf_segment segments[ELF_SEGMENTS_MAX];
};

/** elf_parse() - 1 with the headers of a little-endian x86 executable, 0 when it is no ELF, or an error. */
int elf_parse(struct loader *l, struct elf_image *ret_image, struct error *e);
/** elf_place() - load every PT_LOAD at its physical address. */
int elf_place(struct loader *l, const struct elf_image *image, struct error *e);
/** elf_entry() - the physical entry address: e_entry itself, or translated where it is virtual; "kernel-format" when it is in no segment. */
int elf_entry(const struct elf_image *image, uint64_t *ret_gpa, struct error *e);
