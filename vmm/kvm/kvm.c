// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvm: the VM as a whole; see kvm.h
 *
 * Interrupt routing. KVM_SET_GSI_ROUTING replaces the whole table, so the table lives here: first the fixed routes of
 * pins 0..23 to PIC and IOAPIC (pin 0, the PIT, arrives at IOAPIC pin 2, as the MADT says), then one slot for each MSI
 * GSI. A GSI without a message has no entry in what the kernel gets.
 *
 * Reset. The kernel has no call that resets its interrupt controllers, so their states are read once after creation and
 * written back by kvm_irqchip_reset().
 */
#include "vmm/kvm/kvm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/kvm/internal.h"

/* seccomp: main,vcpu: ioctl arg1=KVM_IRQ_LINE */
/* seccomp: main,io: ioctl arg1=KVM_IRQFD -- MSI-X vectors come and go as the guest asks */
/* seccomp: main,io: ioctl arg1=KVM_SET_GSI_ROUTING */
/* seccomp: vcpu: ioctl arg1=KVM_IRQFD (rare) -- a message that waited goes out when the guest unmasks its vector */
/* seccomp: vcpu: ioctl arg1=KVM_SET_GSI_ROUTING (rare) */
/* seccomp: main,vcpu: ioctl arg1=KVM_IOEVENTFD -- BARs move */
/* seccomp: vcpu: ioctl arg1=KVM_REGISTER_COALESCED_MMIO (rare) -- a guest begins to poll its serial port */
/* seccomp: vcpu: ioctl arg1=KVM_UNREGISTER_COALESCED_MMIO (rare) -- and ends */
/* seccomp: main: ioctl arg1=KVM_REGISTER_COALESCED_MMIO (rare) */
/* seccomp: main: ioctl arg1=KVM_UNREGISTER_COALESCED_MMIO (rare) -- a reset while it polls */
/* seccomp: main: ioctl arg1=KVM_SET_IRQCHIP -- reset */
/* seccomp: main: ioctl arg1=KVM_SET_PIT2 -- reset */
/* seccomp: main: ioctl arg1=KVM_GET_CLOCK -- pause */
/* seccomp: main: ioctl arg1=KVM_SET_CLOCK -- resume */

#define KVM_MSI_MAX      1024u /* GSIs that MSI vectors can take */
#define KVM_MSI_FIRST    32u   /* of these, what there is room for at first */
#define KVM_FIXED_ROUTES 40u
#define RING_PAGE        4096u /* the coalesced ring's page, whatever the host's page size */

static const struct {
        int cap;
        const char *name;
} required[] = {
        { KVM_CAP_IRQCHIP, "irqchip" },
        { KVM_CAP_USER_MEMORY, "user memory" },
        { KVM_CAP_SET_TSS_ADDR, "TSS address" },
        { KVM_CAP_EXT_CPUID, "extended CPUID" },
        { KVM_CAP_IRQ_ROUTING, "interrupt routing" },
        { KVM_CAP_IRQFD, "irqfd" },
        { KVM_CAP_IOEVENTFD, "ioeventfd" },
        { KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
};

static int check_host(struct kvm *kvm, struct error *e) {
        int version = kvm->sys->ioctl(kvm->kvm_fd, KVM_GET_API_VERSION, 0);

        if (version < 0)
                return error_set(e, -errno, "kvm-api", "see what the host offers: lodge host probe",
                                 "cannot ask /dev/kvm for its version");
        if (version != KVM_API_VERSION)
                return error_set(e, -ENOTSUP, "kvm-api", "boot a kernel of version 2.6.22 or later",
                                 "KVM speaks API version %d, 12 is needed", version);
        for (size_t i = 0; i < ELEMENTSOF(required); i++)
                if (kvm->sys->ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, required[i].cap) <= 0)
                        return error_set(e, -ENOTSUP, "kvm-capability", "see what the host offers: lodge host probe",
                                         "this KVM has no %s (capability %d)", required[i].name, required[i].cap);
        return 0;
}

static int create_vm(struct kvm *kvm) {
        int r;

        do /* a signal that arrives during creation cancels it */
                r = kvm->sys->ioctl(kvm->kvm_fd, KVM_CREATE_VM, 0);
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return -errno;
        kvm->vm_fd = r;
        return 0;
}

int kvm_vm_ioctl(struct kvm *kvm, unsigned long request, const void *arg) {
        int r = kvm->sys->ioctl(kvm->vm_fd, request, arg);

        return r < 0 ? -errno : r;
}

/* The states that the controllers have at power-on. */
static int save_irqchip(struct kvm *kvm) {
        for (unsigned int i = 0; i < ELEMENTSOF(kvm->initial_chips); i++) {
                int r;

                kvm->initial_chips[i].chip_id = i;
                r = kvm_vm_ioctl(kvm, KVM_GET_IRQCHIP, &kvm->initial_chips[i]);
                if (r < 0)
                        return r;
        }
        return kvm->pit ? kvm_vm_ioctl(kvm, KVM_GET_PIT2, &kvm->initial_pit) : 0;
}

static int create_irqchip(struct kvm *kvm) {
        struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
        uint64_t identity = LAYOUT_IDENTITY_MAP;
        int r;

        r = kvm_vm_ioctl(kvm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
        if (r < 0)
                return r;
        if (kvm->sys->ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_TSS) < 0)
                return -errno;
        if (kvm->sys->ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
                return -errno;
        if (kvm->pit) {
                r = kvm_vm_ioctl(kvm, KVM_CREATE_PIT2, &pit);
                if (r < 0)
                        return r;
        }
        return save_irqchip(kvm);
}

static void add_chip_route(struct kvm *kvm, unsigned int gsi, unsigned int chip, unsigned int pin) {
        kvm->routes->entries[kvm->n_fixed++] = (struct kvm_irq_routing_entry){
                .gsi = gsi,
                .type = KVM_IRQ_ROUTING_IRQCHIP,
                .u.irqchip = { .irqchip = chip, .pin = pin },
        };
}

/* Room for twice as many vectors (at first for a few), in the slots and in the table of routes. Under routing_lock. */
static int grow_msis(struct kvm *kvm) {
        unsigned int n = kvm->n_msis > 0 ? MIN(2 * kvm->n_msis, KVM_MSI_MAX) : KVM_MSI_FIRST;
        struct kvm_irq_routing *routes;
        struct kvm_msi_slot *msis;

        if (n == kvm->n_msis)
                return -ENOSPC;
        routes = realloc(kvm->routes, sizeof(*routes) + (KVM_FIXED_ROUTES + n) * sizeof(routes->entries[0]));
        if (!routes)
                return -ENOMEM;
        if (kvm->n_msis == 0)
                *routes = (struct kvm_irq_routing){ 0 };
        kvm->routes = routes;
        msis = realloc(kvm->msis, n * sizeof(*msis));
        if (!msis)
                return -ENOMEM;
        memset(msis + kvm->n_msis, 0, (n - kvm->n_msis) * sizeof(*msis));
        kvm->msis = msis;
        kvm->n_msis = n;
        return 0;
}

static int init_routes(struct kvm *kvm) {
        int r = grow_msis(kvm);

        if (r < 0)
                return r;
        for (unsigned int gsi = 0; gsi < KVM_GSI_IRQCHIP; gsi++) {
                if (gsi < 16)
                        add_chip_route(kvm, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8);
                if (gsi == 0)
                        add_chip_route(kvm, gsi, KVM_IRQCHIP_IOAPIC, 2);
                else if (gsi != 2)
                        add_chip_route(kvm, gsi, KVM_IRQCHIP_IOAPIC, gsi);
        }
        kvm->routes->nr = kvm->n_fixed;
        return kvm_vm_ioctl(kvm, KVM_SET_GSI_ROUTING, kvm->routes);
}

int kvm_open(const struct sys *sys, int kvm_fd, bool pit, struct kvm **ret_kvm, struct error *e) {
        _cleanup_(kvm_freep) struct kvm *kvm = calloc(1, sizeof(*kvm));
        int r;

        if (!kvm)
                return error_set(e, -ENOMEM, "kvm-create", NULL, "cannot create a VM");
        *kvm = (struct kvm){ .sys = sys, .kvm_fd = kvm_fd, .vm_fd = -EBADF, .pit = pit };
        pthread_mutex_init(&kvm->routing_lock, NULL);

        r = check_host(kvm, e);
        if (r < 0)
                return r;
        r = create_vm(kvm);
        if (r < 0)
                return error_set(e, r, "kvm-create", "see what stands in the way: lodge host probe",
                                 "cannot create a VM");
        r = create_irqchip(kvm);
        if (r < 0)
                return error_set(e, r, "kvm-irqchip", "see what the host offers: lodge host probe",
                                 "cannot create the interrupt controllers");
        r = init_routes(kvm);
        if (r < 0)
                return error_set(e, r, "kvm-routing", NULL, "cannot set the interrupt routes");
        r = sys->ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
        if (r < (int)sizeof(struct kvm_run))
                return error_set(e, r < 0 ? -errno : -EIO, "kvm-create", NULL,
                                 "cannot find out how large KVM's vCPU run area is");
        kvm->run_size = (size_t)r;
        *ret_kvm = TAKE_PTR(kvm);
        return 0;
}

void kvm_close(struct kvm *kvm) {
        if (!kvm)
                return;
        safe_close(kvm->vm_fd);
        pthread_mutex_destroy(&kvm->routing_lock);
        free(kvm->routes);
        free(kvm->msis);
        free(kvm);
}

int kvm_has_cap(const struct kvm *kvm, unsigned int cap) {
        int r = kvm->sys->ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

        return r < 0 ? 0 : r;
}

unsigned int kvm_max_vcpus(const struct kvm *kvm) {
        int r = kvm_has_cap(kvm, KVM_CAP_MAX_VCPUS);

        if (r <= 0)
                r = kvm_has_cap(kvm, KVM_CAP_NR_VCPUS);
        return r > 0 ? (unsigned int)r : 1;
}

unsigned int kvm_vcpu_id_limit(const struct kvm *kvm) {
        int r = kvm_has_cap(kvm, KVM_CAP_MAX_VCPU_ID);

        return r > 0 ? (unsigned int)r : kvm_max_vcpus(kvm);
}

int kvm_set_memory(struct kvm *kvm, unsigned int slot, uint64_t gpa, uint64_t size, void *host, bool readonly) {
        struct kvm_userspace_memory_region region = {
                .slot = slot,
                .flags = readonly ? KVM_MEM_READONLY : 0,
                .guest_phys_addr = gpa,
                .memory_size = size,
                .userspace_addr = (uintptr_t)host,
        };

        return kvm_vm_ioctl(kvm, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_irq_line(struct kvm *kvm, unsigned int gsi, bool level) {
        struct kvm_irq_level line = { .irq = gsi, .level = level };

        return kvm_vm_ioctl(kvm, KVM_IRQ_LINE, &line);
}

static int set_irqfd(struct kvm *kvm, unsigned int gsi, int event_fd, unsigned int flags) {
        struct kvm_irqfd irqfd = { .fd = (unsigned int)event_fd, .gsi = gsi, .flags = flags };

        return kvm_vm_ioctl(kvm, KVM_IRQFD, &irqfd);
}

/* Under routing_lock. */
static int commit_routes(struct kvm *kvm) {
        unsigned int n = kvm->n_fixed;

        for (unsigned int i = 0; i < kvm->n_msis; i++) {
                const struct kvm_msi_slot *m = &kvm->msis[i];

                if (!m->routed)
                        continue;
                kvm->routes->entries[n++] = (struct kvm_irq_routing_entry){
                        .gsi = KVM_GSI_IRQCHIP + i,
                        .type = KVM_IRQ_ROUTING_MSI,
                        .u.msi = {
                                .address_lo = (uint32_t)m->address,
                                .address_hi = (uint32_t)(m->address >> 32),
                                .data = m->data,
                        },
                };
        }
        kvm->routes->nr = n;
        return kvm_vm_ioctl(kvm, KVM_SET_GSI_ROUTING, kvm->routes);
}

int kvm_msi_add(struct kvm *kvm, int event_fd) {
        unsigned int i;
        int r = 0;

        pthread_mutex_lock(&kvm->routing_lock);
        for (i = 0; i < kvm->n_msis && kvm->msis[i].used; i++)
                ;
        if (i == kvm->n_msis)
                r = grow_msis(kvm);
        if (r >= 0)
                r = set_irqfd(kvm, KVM_GSI_IRQCHIP + i, event_fd, 0);
        if (r >= 0) {
                kvm->msis[i] = (struct kvm_msi_slot){ .used = true };
                r = (int)(KVM_GSI_IRQCHIP + i);
        }
        pthread_mutex_unlock(&kvm->routing_lock);
        return r;
}

int kvm_msi_set(struct kvm *kvm, int gsi, uint64_t address, uint32_t data) {
        struct kvm_msi_slot *m;
        int r = 0;

        pthread_mutex_lock(&kvm->routing_lock);
        m = &kvm->msis[gsi - KVM_GSI_IRQCHIP];
        if (!m->routed || m->address != address || m->data != data) {
                struct kvm_msi_slot before = *m;

                *m = (struct kvm_msi_slot){ .used = true, .routed = true, .address = address, .data = data };
                r = commit_routes(kvm);
                if (r < 0)
                        *m = before;
        }
        pthread_mutex_unlock(&kvm->routing_lock);
        return r < 0 ? r : 0;
}

void kvm_msi_remove(struct kvm *kvm, int gsi, int event_fd) {
        pthread_mutex_lock(&kvm->routing_lock);
        (void)set_irqfd(kvm, (unsigned int)gsi, event_fd, KVM_IRQFD_FLAG_DEASSIGN);
        kvm->msis[gsi - KVM_GSI_IRQCHIP] = (struct kvm_msi_slot){ 0 };
        (void)commit_routes(kvm);
        pthread_mutex_unlock(&kvm->routing_lock);
}

int kvm_doorbell(struct kvm *kvm, int event_fd, bool pio, uint64_t address, unsigned int len, const uint64_t *match,
                 bool assign) {
        struct kvm_ioeventfd doorbell = {
                .fd = event_fd,
                .addr = address,
                .len = len,
                .datamatch = match ? *match : 0,
                .flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0u) | (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
                         (assign ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
        };

        return kvm_vm_ioctl(kvm, KVM_IOEVENTFD, &doorbell);
}

void kvm_forget_coalesced(struct kvm *kvm, void *run) {
        char *ring = (char *)kvm->coalesced, *area = run;

        if (ring && ring >= area && ring < area + kvm->run_size)
                kvm->coalesced = NULL;
}

void kvm_find_coalesced(struct kvm *kvm, void *run) {
        int page = kvm_has_cap(kvm, KVM_CAP_COALESCED_MMIO);

        if (!kvm->coalesced && page > 0 && kvm_has_cap(kvm, KVM_CAP_COALESCED_PIO) > 0)
                kvm->coalesced = (void *)((char *)run + (size_t)page * RING_PAGE);
}

int kvm_coalesce(struct kvm *kvm, uint16_t port, unsigned int len, bool on) {
        struct kvm_coalesced_mmio_zone zone = { .addr = port, .size = len, .pio = 1 };

        if (!kvm->coalesced)
                return -ENOTSUP;
        return kvm_vm_ioctl(kvm, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &zone);
}

/*
 * The ring is one page that the kernel shares with every vCPU's mapping: the kernel moves `last`, we move `first`. It is the
 * kernel's memory, so what it says is believed but for the index, which costs nothing to bound.
 */
bool kvm_coalesced_next(struct kvm *kvm, uint16_t *ret_port, unsigned int *ret_size, uint32_t *ret_value) {
        const unsigned int n = (RING_PAGE - sizeof(*kvm->coalesced)) / sizeof(kvm->coalesced->coalesced_mmio[0]);
        const struct kvm_coalesced_mmio *entry;
        uint32_t first;

        if (!kvm->coalesced)
                return false;
        first = kvm->coalesced->first;
        if (first >= n || first == __atomic_load_n(&kvm->coalesced->last, __ATOMIC_ACQUIRE))
                return false;
        entry = &kvm->coalesced->coalesced_mmio[first];
        *ret_port = (uint16_t)entry->phys_addr;
        *ret_size = MIN(entry->len, 4u);
        memcpy(ret_value, entry->data, sizeof(*ret_value));
        __atomic_store_n(&kvm->coalesced->first, (first + 1) % n, __ATOMIC_RELEASE);
        return true;
}

int kvm_set_boot_cpu(struct kvm *kvm, unsigned int apic_id) {
        return kvm->sys->ioctl(kvm->vm_fd, KVM_SET_BOOT_CPU_ID, (unsigned long)apic_id) < 0 ? -errno : 0;
}

int kvm_irqchip_reset(struct kvm *kvm) {
        for (unsigned int i = 0; i < ELEMENTSOF(kvm->initial_chips); i++) {
                int r = kvm_vm_ioctl(kvm, KVM_SET_IRQCHIP, &kvm->initial_chips[i]);

                if (r < 0)
                        return r;
        }
        return kvm->pit ? kvm_vm_ioctl(kvm, KVM_SET_PIT2, &kvm->initial_pit) : 0;
}

int kvm_clock_get(struct kvm *kvm, struct kvm_clock_data *ret_clock) {
        return kvm_vm_ioctl(kvm, KVM_GET_CLOCK, ret_clock);
}

int kvm_clock_set(struct kvm *kvm, const struct kvm_clock_data *clock) {
        return kvm_vm_ioctl(kvm, KVM_SET_CLOCK, clock);
}

int kvm_supported_cpuid(int kvm_fd, const struct sys *sys, struct kvm_cpuid2 **ret_cpuid) {
        /* The kernel answers -E2BIG when there is too little room, up to 256 entries today. */
        for (unsigned int n = 128; n <= 4096; n *= 2) {
                _cleanup_free_ struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + n * sizeof(cpuid->entries[0]));

                if (!cpuid)
                        return -ENOMEM;
                cpuid->nent = n;
                if (sys->ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) == 0) {
                        *ret_cpuid = TAKE_PTR(cpuid);
                        return 0;
                }
                if (errno != E2BIG)
                        return -errno;
        }
        return -E2BIG;
}
