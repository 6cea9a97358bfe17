// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bzimage: Linux by the 64-bit boot protocol (Documentation/arch/x86/boot.rst)
 *
 *      file:   boot sector | setup header at 0x1f1 | (setup_sects + 1) * 512: the rest of the real-mode code ends
 *              protected-mode kernel, syssize * 16 bytes: 32-bit entry at +0, 64-bit entry at +0x200 | signatures, padding
 *      memory: the protected-mode part at pref_address, with init_size bytes for it to unpack itself in; initrd at the top
 *
 * The real-mode code is never run: what it would have asked the BIOS is in the zero page. We need a kernel with a 64-bit entry
 * (protocol 2.12, Linux 3.8, XLF_KERNEL_64).
 *
 * The kernel unpacks itself and, unless told "nokaslr", moves itself to a random address. A vmlinux unpacked on the host (unpack.h) starts without
 * that work, and without that protection.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/layout.h"

#define HEADER_OFFSET  0x1f1u
#define HEADER_MAGIC   0x53726448u /* "HdrS" */
#define ENTRY64        0x200u
#define INITRD_DEFAULT 0x37ffffffu
#define ALIGN_MAX      0x40000000u

struct bzimage {
        struct setup_header hdr;
        uint64_t offset, size; /* the protected-mode part, in the file */
        uint64_t load, init_size;
};

/* Read the header: 1, or 0 when this is no Linux setup header. */
static int read_header(struct loader *l, struct setup_header *ret, struct error *e) {
        struct setup_header h = { 0 };
        size_t size;
        int r;

        if (l->kernel_size < HEADER_OFFSET + sizeof(h))
                return 0;
        r = loader_read(l, &h, sizeof(h), HEADER_OFFSET, e);
        if (r < 0)
                return r;
        if (h.boot_flag != 0xaa55 || h.header != HEADER_MAGIC)
                return 0;
        /* The header ends where the jump at 0x200 leads to; what lies behind its end is code, not fields. */
        size = 0x202 + (h.jump >> 8) - HEADER_OFFSET;
        if (size < sizeof(h))
                memset((uint8_t *)&h + size, 0, sizeof(h) - size);
        *ret = h;
        return 1;
}

static int check_header(struct loader *l, struct bzimage *b, struct error *e) {
        const struct setup_header *h = &b->hdr;

        if (h->version < 0x20c || !(h->loadflags & LOADED_HIGH) || !(h->xloadflags & XLF_KERNEL_64))
                return error_set(e, -ENOEXEC, "kernel-format", "use a 64-bit kernel, Linux 3.8 or newer",
                                 "the kernel has no 64-bit entry point (boot protocol %u.%02u)", h->version >> 8,
                                 h->version & 0xffu);
        b->offset = ((h->setup_sects ?: 4u) + 1u) * 512u;
        b->size = (uint64_t)h->syssize * 16;
        if (b->offset >= l->kernel_size || b->size > l->kernel_size - b->offset)
                return error_set(e, -ENOEXEC, "kernel-truncated", "copy or download the kernel again",
                                 "the kernel should have %" PRIu64 " bytes behind byte %" PRIu64
                                 ", the file has %" PRIu64 " bytes in all",
                                 b->size, b->offset, l->kernel_size);
        if (b->size <= ENTRY64)
                return error_set(e, -ENOEXEC, "kernel-format", NULL, "the kernel is too small to hold its entry point");
        return 0;
}

/* Where it goes: its preferred address, or the next address that its alignment allows when that lies below 1 MiB. */
static int choose_address(struct bzimage *b, struct error *e) {
        const struct setup_header *h = &b->hdr;
        uint64_t align = h->kernel_alignment;

        b->load = h->pref_address ?: LAYOUT_KERNEL;
        b->init_size = MAX((uint64_t)h->init_size, b->size);
        if (h->relocatable_kernel && (align < LAYOUT_PAGE || align > ALIGN_MAX || (align & (align - 1)) != 0))
                return error_set(e, -ENOEXEC, "kernel-format", NULL, "the kernel asks for an alignment of 0x%" PRIx64,
                                 align);
        if (h->relocatable_kernel && (b->load < 0x100000 || (b->load & (align - 1)) != 0))
                b->load = (LAYOUT_KERNEL + align - 1) & ~(align - 1);
        /* The boot page tables map 4 GiB, and loading below 3 GiB is all that RAM allows anyway. */
        if (b->load >= LAYOUT_LOW_RAM_MAX)
                return error_set(e, -EFBIG, "kernel-too-big", NULL, "the kernel wants to be loaded at 0x%" PRIx64,
                                 b->load);
        return 0;
}

static int load_parts(struct loader *l, struct bzimage *b, struct error *e) {
        uint64_t initrd = 0, limit = b->hdr.initrd_addr_max ?: INITRD_DEFAULT;
        int r;

        r = loader_claim(l, b->load, b->init_size, "the kernel", e);
        if (r < 0)
                return r;
        r = loader_fill(l, b->load, b->offset, b->size, e);
        if (r < 0)
                return r;
        l->kernel_start = b->load;
        l->kernel_end = b->load + b->init_size;
        r = loader_initrd(l, limit + 1, false, &initrd, e);
        if (r < 0)
                return r;
        r = loader_cmdline(l, b->hdr.cmdline_size ?: 255, e);
        if (r < 0)
                return r;
        b->hdr.code32_start = (uint32_t)b->load;
        return loader_zero_page(l, &b->hdr, initrd, e);
}

int bzimage_load(struct loader *l, struct boot_entry *entry, struct error *e) {
        struct bzimage b = { 0 };
        int r;

        r = read_header(l, &b.hdr, e);
        if (r <= 0)
                return r;
        r = check_header(l, &b, e);
        if (r < 0)
                return r;
        r = choose_address(&b, e);
        if (r < 0)
                return r;
        r = load_parts(l, &b, e);
        if (r < 0)
                return r;
        r = entry_long_mode(l, b.load + ENTRY64, entry, e);
        if (r < 0)
                return r;
        entry->regs.rsi = LAYOUT_ZERO_PAGE;
        entry->format = BOOT_BZIMAGE;
        return 1;
}
