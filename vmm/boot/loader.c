// SPDX-License-Identifier: GPL-2.0-or-later
/* loader: see loader.h */
#include "vmm/boot/loader.h"

#include <asm/bootparam.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "base/text.h"
#include "vmm/machine/layout.h"

/* seccomp: main: pread64 -- the kernel and initrd, again at each reset */
/* seccomp: main: newfstatat arg3=AT_EMPTY_PATH -- their sizes */

#define FOUR_GIB 0x100000000ull
#define MIB      0x100000ull

/* Where vmm/kvm keeps KVM's identity map and TSS, and the rest up to 4 GiB, where a PC has its flash memory. */
#define KVM_PAGES_BASE 0xfffbc000ull
#define KVM_PAGES_SIZE (FOUR_GIB - KVM_PAGES_BASE)

/* What may never be loaded over. The kernel's own pieces are appended behind these. */
static const struct loader_range fixed_ranges[] = {
        { 0, LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX, "the loader's tables and the command line" },
        { LAYOUT_EBDA, MIB, "the firmware tables below 1 MiB" },
};

static int file_size(int fd, const char *what, uint64_t *ret_size, struct error *e) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return error_set(e, -errno, "kernel-read", NULL, "cannot look at the %s", what);
        if (!S_ISREG(st.st_mode))
                return error_set(e, -EINVAL, "kernel-read", "give the path of a file", "the %s is not a regular file",
                                 what);
        *ret_size = (uint64_t)st.st_size;
        return 0;
}

int loader_init(struct loader *l, struct memory *memory, const struct boot_source *source, struct error *e) {
        const struct memory_region *regions;
        size_t n;
        int r;

        *l = (struct loader){ .memory = memory, .source = source, .kernel_start = UINT64_MAX };
        r = file_size(source->kernel_fd, "kernel", &l->kernel_size, e);
        if (r < 0)
                return r;
        if (source->initrd_fd >= 0) {
                r = file_size(source->initrd_fd, "initrd", &l->initrd_size, e);
                if (r < 0)
                        return r;
        }
        n = memory_regions(memory, &regions);
        for (size_t i = 0; i < n; i++)
                if (regions[i].gpa == 0)
                        l->low_ram = regions[i].size;
                else {
                        l->high_base = regions[i].gpa;
                        l->high_size = regions[i].size;
                }
        memcpy(l->ranges, fixed_ranges, sizeof(fixed_ranges));
        l->n_ranges = ELEMENTSOF(fixed_ranges);
        if (l->low_ram < 2 * MIB)
                return error_set(e, -EFBIG, "kernel-too-big", "give the machine more memory: --memory 256M",
                                 "the machine has less than 2 MiB of memory");
        return 0;
}

int loader_read(struct loader *l, void *buf, size_t n, uint64_t offset, struct error *e) {
        int r = offset > l->kernel_size || n > l->kernel_size - offset
                        ? -ENODATA
                        : io_read_at(&sys_real, l->source->kernel_fd, buf, n, offset);

        if (r == -ENODATA)
                return error_set(e, -ENOEXEC, "kernel-truncated", "copy or download the kernel again",
                                 "the kernel ends at byte %" PRIu64 ", but its headers speak of %zu bytes at %" PRIu64,
                                 l->kernel_size, n, offset);
        if (r < 0)
                return error_set(e, r, "kernel-read", NULL, "cannot read the kernel at byte %" PRIu64, offset);
        return 0;
}

int loader_claim(struct loader *l, uint64_t gpa, uint64_t size, const char *what, struct error *e) {
        char need[TEXT_SIZE_MAX], have[TEXT_SIZE_MAX];
        uint64_t end;

        if (__builtin_add_overflow(gpa, size, &end) || !memory_host(l->memory, gpa, size))
                return error_set(e, -EFBIG, "kernel-too-big", "give the machine more memory: --memory SIZE",
                                 "%s needs %s at 0x%" PRIx64 ", the machine has %s of memory", what,
                                 text_format_size(size, need), gpa, text_format_size(memory_size(l->memory), have));
        for (size_t i = 0; i < l->n_ranges; i++)
                if (gpa < l->ranges[i].end && l->ranges[i].start < end)
                        return error_set(e, -EINVAL, "kernel-format", NULL,
                                         "%s at 0x%" PRIx64 "..0x%" PRIx64 " would overwrite %s", what, gpa, end,
                                         l->ranges[i].what);
        if (l->n_ranges == LOADER_RANGES_MAX)
                return error_set(e, -E2BIG, "kernel-format", NULL, "the kernel has too many segments");
        l->ranges[l->n_ranges++] = (struct loader_range){ gpa, end, what };
        return 0;
}

int loader_fill(struct loader *l, uint64_t gpa, uint64_t offset, uint64_t size, struct error *e) {
        void *host = memory_host(l->memory, gpa, size);

        if (!host)
                return error_set(e, -EFBIG, "kernel-too-big", NULL, "the kernel does not fit");
        return loader_read(l, host, size, offset, e);
}

int loader_segment(struct loader *l, uint64_t gpa, uint64_t mem_size, uint64_t offset, uint64_t file_size_,
                   struct error *e) {
        uint8_t *host;
        int r;

        if (mem_size == 0)
                return 0;
        if (file_size_ > mem_size)
                return error_set(e, -ENOEXEC, "kernel-format", NULL,
                                 "a segment of the kernel is larger in the file than in memory");
        if (offset > l->kernel_size || file_size_ > l->kernel_size - offset)
                return error_set(e, -ENOEXEC, "kernel-truncated", "copy or download the kernel again",
                                 "the kernel ends at byte %" PRIu64 ", but its headers speak of %" PRIu64
                                 " bytes at %" PRIu64,
                                 l->kernel_size, file_size_, offset);
        r = loader_claim(l, gpa, mem_size, "the kernel", e);
        if (r < 0)
                return r;
        r = loader_fill(l, gpa, offset, file_size_, e);
        if (r < 0)
                return r;
        host = memory_host(l->memory, gpa, mem_size);
        memset(host + file_size_, 0, mem_size - file_size_);
        l->kernel_start = MIN(l->kernel_start, gpa);
        l->kernel_end = MAX(l->kernel_end, gpa + mem_size);
        return 0;
}

static bool range_free(const struct loader *l, uint64_t start, uint64_t end) {
        for (size_t i = 0; i < l->n_ranges; i++)
                if (start < l->ranges[i].end && l->ranges[i].start < end)
                        return false;
        return true;
}

int loader_initrd(struct loader *l, uint64_t limit, bool above_kernel, uint64_t *ret_gpa, struct error *e) {
        uint64_t top = MIN(limit, l->low_ram), gpa = UINT64_MAX, end;
        char size[TEXT_SIZE_MAX];
        int r;

        if (l->source->initrd_fd < 0)
                return 0;
        if (above_kernel)
                gpa = (l->kernel_end + LAYOUT_PAGE - 1) & ~(LAYOUT_PAGE - 1);
        else if (l->initrd_size <= top)
                gpa = (top - l->initrd_size) & ~(LAYOUT_PAGE - 1);
        if (__builtin_add_overflow(gpa, l->initrd_size, &end) || end > top || !range_free(l, gpa, end))
                return error_set(e, -EFBIG, "initrd-too-big", "give the machine more memory: --memory SIZE",
                                 "the initrd of %s does not fit beside the kernel",
                                 text_format_size(l->initrd_size, size));
        r = io_read_at(&sys_real, l->source->initrd_fd, memory_host(l->memory, gpa, l->initrd_size), l->initrd_size, 0);
        if (r < 0)
                return error_set(e, r, "kernel-read", NULL, "cannot read the initrd");
        r = loader_claim(l, gpa, l->initrd_size, "the initrd", e);
        if (r < 0)
                return r;
        *ret_gpa = gpa;
        return 0;
}

int loader_cmdline(struct loader *l, uint64_t max, struct error *e) {
        const char *text = l->source->append ?: "";
        size_t n = strlen(text);

        max = MIN(max, LAYOUT_CMDLINE_MAX - 1);
        if (n > max)
                return error_set(e, -E2BIG, "cmdline-too-long", "shorten --append",
                                 "the kernel command line has %zu bytes, this kernel takes %" PRIu64, n, max);
        return memory_write(l->memory, LAYOUT_CMDLINE, text, n + 1);
}

size_t loader_map(const struct loader *l, struct loader_map_entry map[static LOADER_MAP_MAX]) {
        size_t n = 0;

        map[n++] = (struct loader_map_entry){ 0, LAYOUT_EBDA, LOADER_RAM };
        map[n++] = (struct loader_map_entry){ LAYOUT_EBDA, MIB - LAYOUT_EBDA, LOADER_RESERVED };
        map[n++] = (struct loader_map_entry){ MIB, l->low_ram - MIB, LOADER_RAM };
        map[n++] = (struct loader_map_entry){ LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE, LOADER_RESERVED };
        map[n++] = (struct loader_map_entry){ KVM_PAGES_BASE, KVM_PAGES_SIZE, LOADER_RESERVED };
        if (l->high_size > 0)
                map[n++] = (struct loader_map_entry){ l->high_base, l->high_size, LOADER_RAM };
        return n;
}

int loader_zero_page(struct loader *l, const struct setup_header *header, uint64_t initrd, struct error *e) {
        struct loader_map_entry map[LOADER_MAP_MAX];
        struct boot_params p = { 0 };
        size_t n = loader_map(l, map);

        static_assert(sizeof(struct boot_params) == LAYOUT_PAGE, "the zero page is a page");
        if (header)
                p.hdr = *header;
        else
                p.hdr = (struct setup_header){
                        .boot_flag = 0xaa55,
                        .header = 0x53726448, /* "HdrS" */
                        .version = 0x20f,
                        .kernel_alignment = 0x200000,
                        .loadflags = LOADED_HIGH,
                };
        p.hdr.type_of_loader = 0xff; /* a loader without a registered number */
        p.hdr.setup_data = 0;
        p.hdr.cmd_line_ptr = LAYOUT_CMDLINE;
        p.ext_cmd_line_ptr = 0;
        p.hdr.ramdisk_image = (uint32_t)initrd;
        p.ext_ramdisk_image = (uint32_t)(initrd >> 32);
        p.hdr.ramdisk_size = (uint32_t)l->initrd_size;
        p.ext_ramdisk_size = (uint32_t)(l->initrd_size >> 32);
        p.acpi_rsdp_addr = l->source->rsdp;
        for (size_t i = 0; i < n; i++)
                p.e820_table[i] = (struct boot_e820_entry){ map[i].gpa, map[i].size, map[i].type };
        p.e820_entries = (uint8_t)n;
        if (memory_write(l->memory, LAYOUT_ZERO_PAGE, &p, sizeof(p)) < 0)
                return error_set(e, -EFBIG, "kernel-too-big", NULL, "no memory for the boot parameters");
        return 0;
}
