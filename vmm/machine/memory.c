// SPDX-License-Identifier: GPL-2.0-or-later
/* memory: see memory.h */
#include "vmm/machine/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "base/text.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/layout.h"

struct memory {
        int fd;
        uint8_t *host;
        uint64_t size, page_size;
        bool preallocated;
        struct memory_region regions[2];
        size_t n_regions;
};

static int check_host(uint64_t size, struct error *e) {
        char wanted[TEXT_SIZE_MAX], there[TEXT_SIZE_MAX];
        struct sysinfo info;
        uint64_t total;

        if (sysinfo(&info) < 0)
                return 0; /* then allocation will tell */
        total = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
        if (size <= total)
                return 0;
        return error_set(e, -ENOMEM, "memory-host", "ask for less: --memory",
                         "the machine wants %s of memory, the host has %s", text_format_size(size, wanted),
                         text_format_size(total, there));
}

static int open_memfd(const struct memory_options *options, struct error *e) {
        unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
        int fd;

        if (options->page_size)
                flags |= MFD_HUGETLB | (options->page_size == 1ull << 30 ? MFD_HUGE_1GB : MFD_HUGE_2MB);
        fd = memfd_create("guest-ram", flags);
        if (fd < 0)
                return error_set(e, -errno, "memory-alloc",
                                 options->page_size
                                         ? "reserve huge pages: sysctl vm.nr_hugepages=N, or leave --hugepages out"
                                         : NULL,
                                 "cannot make the guest's memory");
        return fd;
}

static void add_region(struct memory *m, uint64_t gpa, uint64_t offset, uint64_t size) {
        m->regions[m->n_regions++] = (struct memory_region){ .gpa = gpa, .size = size, .host = m->host + offset };
}

/* KVM maps guest memory by large pages only where its address here and the guest's agree in their lower bits, which mmap() alone leaves to
 * chance: so it begins at a multiple of the largest page that fits in it. MAP_FAILED and errno on failure. */
static void *map_aligned(uint64_t size, int flags, int fd) {
        uint64_t align = size >= 1ull << 30 ? 1ull << 30 : 2ull << 20, begin, end;
        uint8_t *area = mmap(NULL, size + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        void *host;

        if (area == MAP_FAILED)
                return MAP_FAILED;
        begin = ((uintptr_t)area + align - 1) & ~(align - 1);
        end = begin + size;
        host = mmap((void *)begin, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd, 0);
        if (host == MAP_FAILED) {
                munmap(area, size + align);
                return MAP_FAILED;
        }
        if (begin > (uintptr_t)area)
                munmap(area, begin - (uintptr_t)area);
        munmap((void *)end, (uintptr_t)area + size + align - end);
        return host;
}

int memory_new(const struct memory_options *options, struct memory **ret_memory, struct error *e) {
        _cleanup_(memory_freep) struct memory *m = calloc(1, sizeof(*m));
        uint64_t low = MIN(options->size, (uint64_t)LAYOUT_LOW_RAM_MAX);
        char text[TEXT_SIZE_MAX];
        void *host;
        int r;

        if (!m)
                return error_set(e, -ENOMEM, "memory-alloc", NULL, "cannot make the guest's memory");
        m->fd = -EBADF;
        r = check_host(options->size, e);
        if (r < 0)
                return r;
        if (options->size == 0 || options->size % (options->page_size ?: LAYOUT_PAGE) != 0)
                return error_set(e, -EINVAL, "memory-size", "use a multiple of the page size",
                                 "%s is no whole number of pages", text_format_size(options->size, text));
        if (options->shared || options->page_size) {
                m->fd = open_memfd(options, e);
                if (m->fd < 0)
                        return m->fd;
        }
        if (m->fd >= 0 && (ftruncate(m->fd, (off_t)options->size) < 0 ||
                           fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0))
                return error_set(e, -errno, "memory-alloc", "ask for less: --memory", "cannot make %s of guest memory",
                                 text_format_size(options->size, text));
        host = map_aligned(options->size, m->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, m->fd);
        if (host == MAP_FAILED)
                return error_set(e, -errno, "memory-alloc",
                                 options->page_size
                                         ? "reserve huge pages: sysctl vm.nr_hugepages=N, or leave --hugepages out"
                                         : "ask for less: --memory",
                                 "cannot map %s of guest memory", text_format_size(options->size, text));
        m->host = host;
        m->size = options->size;
        if (!options->page_size)
                (void)madvise(host, m->size, MADV_HUGEPAGE); /* a hint; not every host has them for shared memory */
        (void)madvise(host, m->size, MADV_DONTDUMP);
        if (options->preallocate && madvise(host, m->size, MADV_POPULATE_WRITE) < 0)
                return error_set(e, -errno, "memory-alloc", "ask for less, or do not preallocate",
                                 "cannot preallocate %s of guest memory", text_format_size(options->size, text));
        m->preallocated = options->preallocate;
        m->page_size = options->page_size;
        add_region(m, 0, 0, low);
        if (m->size > low)
                add_region(m, LAYOUT_HIGH_RAM_BASE, low, m->size - low);
        *ret_memory = TAKE_PTR(m);
        return 0;
}

void memory_free(struct memory *m) {
        if (!m)
                return;
        if (m->host)
                munmap(m->host, m->size);
        safe_close(m->fd);
        free(m);
}

int memory_register(struct memory *m, struct kvm *kvm) {
        for (size_t i = 0; i < m->n_regions; i++) {
                const struct memory_region *region = &m->regions[i];
                int r = kvm_set_memory(kvm, (unsigned int)i, region->gpa, region->size, region->host, false);

                if (r < 0)
                        return r;
        }
        return 0;
}

uint64_t memory_size(const struct memory *m) {
        return m->size;
}

bool memory_is_preallocated(const struct memory *m) {
        return m->preallocated;
}

uint64_t memory_page_size(const struct memory *m) {
        return m->page_size;
}

size_t memory_regions(const struct memory *m, const struct memory_region **ret_regions) {
        *ret_regions = m->regions;
        return m->n_regions;
}

uint64_t memory_mmio64_base(const struct memory *m) {
        const struct memory_region *last = &m->regions[m->n_regions - 1];
        uint64_t end = MAX(last->gpa + last->size, (uint64_t)LAYOUT_HIGH_RAM_BASE);

        return (end + (1ull << 30) - 1) & ~((1ull << 30) - 1);
}

int memory_fd(const struct memory *m) {
        return m->fd;
}

void *memory_host(const struct memory *m, uint64_t gpa, uint64_t len) {
        for (size_t i = 0; i < m->n_regions; i++) {
                const struct memory_region *region = &m->regions[i];

                if (gpa >= region->gpa && gpa - region->gpa < region->size && len <= region->size - (gpa - region->gpa))
                        return region->host + (gpa - region->gpa);
        }
        return NULL;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, size_t len) {
        const void *host = memory_host(m, gpa, len);

        if (!host)
                return -EFAULT;
        memcpy(buf, host, len);
        return 0;
}

int memory_write(struct memory *m, uint64_t gpa, const void *buf, size_t len) {
        void *host = memory_host(m, gpa, len);

        if (!host)
                return -EFAULT;
        memcpy(host, buf, len);
        return 0;
}
