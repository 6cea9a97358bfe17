// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * memory: the guest's RAM
 *
 * One mapping holds all of it, shown to KVM as two slots around the PCI hole (see layout.h). The guest writes it at any time from
 * any vCPU: whoever reads it copies first and checks the copy.
 *
 * Private or shared. Memory that another process must see (vhost-user) or that comes in huge pages is a memfd. Else it is
 * anonymous, because only that gets transparent huge pages on a stock host (shmem_enabled is "never"): a guest's start then costs a
 * few hundred page faults rather than tens of thousands. doc/adr has the figures. The memfd's size is sealed: a process that it is
 * given to can't take pages away under us.
 *
 * Threads: the mapping never changes after memory_new(), so lookups need no lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

struct memory;
struct kvm;

struct memory_options {
        uint64_t size; /* bytes, a multiple of the page size in use */
        uint64_t
                page_size; /* 0: normal pages (transparent huge pages where the host allows), else 2 MiB or 1 GiB: hugetlbfs */
        bool shared;      /* a memfd, for other processes to map */
        bool preallocate; /* touch every page now, so that the host can't run out later */
};

struct memory_region {
        uint64_t gpa, size;
        uint8_t *host;
};

/** memory_new() - allocate; "memory-alloc" with the figures of the host when it can't. */
int memory_new(const struct memory_options *options, struct memory **ret_memory, struct error *e);
void memory_free(struct memory *memory);
DEFINE_CLEANUP(memory, memory_free);

/** memory_register() - tell @kvm of the slots. */
int memory_register(struct memory *memory, struct kvm *kvm);

/** memory_size() - bytes in all. memory_regions() - the one or two slots, by address. */
uint64_t memory_size(const struct memory *memory);
size_t memory_regions(const struct memory *memory, const struct memory_region **ret_regions);

/** memory_mmio64_base() - where the 64-bit window for BARs begins: above all RAM, on a GiB boundary. */
uint64_t memory_mmio64_base(const struct memory *memory);

/** memory_is_preallocated() - was all of it taken from the host at the start? memory_page_size() - 0: normal pages; as in the options. */
bool memory_is_preallocated(const struct memory *memory);
uint64_t memory_page_size(const struct memory *memory);

/** memory_fd() - the memfd, for vhost-user; borrowed; -1 when the memory is private. */
int memory_fd(const struct memory *memory);

/**
 * memory_host() - where guest physical [@gpa, @gpa+@len) lies here, or NULL unless all of it is in one slot
 *
 * @len 0 is fine for any address inside a slot. Overflow is checked.
 */
void *memory_host(const struct memory *memory, uint64_t gpa, uint64_t len);

/** memory_read(), memory_write() - copy; -EFAULT outside RAM. */
int memory_read(const struct memory *memory, uint64_t gpa, void *buf, size_t len);
int memory_write(struct memory *memory, uint64_t gpa, const void *buf, size_t len);
