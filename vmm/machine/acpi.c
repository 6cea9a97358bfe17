// SPDX-License-Identifier: GPL-2.0-or-later
/* acpi: see acpi.h */
#include "vmm/machine/acpi.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/lodge-schema.h"
#include "vmm/machine/aml.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/machine.h"

#define PACKED __attribute__((packed))

struct acpi_header { /* §5.2.6 */
        char signature[4];
        uint32_t length;
        uint8_t revision, checksum;
        char oem_id[6], oem_table_id[8];
        uint32_t oem_revision;
        char creator_id[4];
        uint32_t creator_revision;
} PACKED;

struct acpi_rsdp { /* §5.2.5.3 */
        char signature[8];
        uint8_t checksum;
        char oem_id[6];
        uint8_t revision;
        uint32_t rsdt, length;
        uint64_t xsdt;
        uint8_t extended_checksum, reserved[3];
} PACKED;

struct acpi_address { /* §5.2.3.2 */
        uint8_t space, width, offset, access;
        uint64_t address;
} PACKED;

struct acpi_fadt { /* §5.2.9 */
        struct acpi_header h;
        uint32_t facs, dsdt;
        uint8_t reserved0, profile;
        uint16_t sci_int;
        uint32_t smi_cmd;
        uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
        uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
        uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
        uint16_t lvl2_lat, lvl3_lat, flush_size, flush_stride;
        uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
        uint16_t boot_arch;
        uint8_t reserved1;
        uint32_t flags;
        struct acpi_address reset_reg;
        uint8_t reset_value;
        uint16_t arm_boot_arch;
        uint8_t minor;
        uint64_t x_facs, x_dsdt;
        struct acpi_address x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
        struct acpi_address sleep_control, sleep_status;
        char hypervisor[8];
} PACKED;

struct acpi_facs { /* §5.2.10 */
        char signature[4];
        uint32_t length, hardware_signature, waking_vector, global_lock, flags;
        uint64_t x_waking_vector;
        uint8_t version, reserved[31];
} PACKED;

_Static_assert(sizeof(struct acpi_header) == 36, "ACPI §5.2.6");
_Static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI §5.2.5.3");
_Static_assert(sizeof(struct acpi_fadt) == 276, "ACPI §5.2.9, revision 6");
_Static_assert(sizeof(struct acpi_facs) == 64, "ACPI §5.2.10");

#define BOOT_LEGACY_DEVICES (1u << 0)
#define BOOT_NO_VGA         (1u << 2)
#define BOOT_NO_ASPM        (1u << 4)

#define FADT_WBINVD         (1u << 0)
#define FADT_C1             (1u << 2)
#define FADT_NO_SLEEP_BTN   (1u << 5) /* bit 4 clear: the power button is fixed hardware */
#define FADT_NO_FIXED_RTC   (1u << 6)
#define FADT_TIMER_32       (1u << 8)
#define FADT_RESET_REG      (1u << 10)

#define RESET_VALUE         0x0f /* bit 2 of port 0xcf9 going up resets */
#define SLP_TYP_S5          5    /* device/pm.h's PM_SLP_TYP_S5 */

#define MADT_PCAT           1u   /* two 8259s as well */
#define MADT_ACTIVE_HIGH    0x1u /* §5.2.12.5 */
#define MADT_LEVEL          0xcu

enum { SPACE_IO = 1 };
enum { ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

#define TABLES_MAX 8

struct builder {
        struct aml out; /* over the guest's memory at LAYOUT_ACPI */
        uint64_t tables[TABLES_MAX];
        size_t n_tables;
};

static uint8_t checksum(const void *data, size_t n) {
        const uint8_t *p = data;
        uint8_t sum = 0;

        while (n-- > 0)
                sum = (uint8_t)(sum + *p++);
        return (uint8_t)-sum;
}

static void align(struct builder *b, size_t to) {
        while (!b->out.failed && b->out.len % to != 0)
                aml_u8(&b->out, 0);
}

static struct acpi_header header_for(const char signature[static 4], uint8_t revision) {
        struct acpi_header h = {
                .revision = revision,
                .oem_id = { 'L', 'O', 'D', 'G', 'E', ' ' },
                .oem_table_id = { 'L', 'O', 'D', 'G', 'E', 'V', 'M', 'M' },
                .oem_revision = 1,
                .creator_id = { 'L', 'D', 'G', 'E' },
                .creator_revision = 1,
        };

        memcpy(h.signature, signature, sizeof(h.signature));
        return h;
}

/* A table is a header, what the caller writes next, and table_end(), which fills in length and checksum. */
static size_t table_begin(struct builder *b, const char signature[static 4], uint8_t revision) {
        struct acpi_header h = header_for(signature, revision);
        size_t start;

        align(b, 16);
        start = b->out.len;
        aml_bytes(&b->out, &h, sizeof(h));
        return start;
}

/* Return: the table's guest physical address. */
static uint64_t table_end(struct builder *b, size_t start) {
        struct acpi_header *h = (void *)(b->out.data + start);

        if (b->out.failed)
                return 0;
        h->length = (uint32_t)(b->out.len - start);
        h->checksum = checksum(h, h->length);
        return LAYOUT_ACPI + start;
}

/* The same, for a table that the XSDT lists. */
static void table_list(struct builder *b, size_t start) {
        b->tables[b->n_tables++] = table_end(b, start);
}

static void dsdt_device(struct aml *a, const char *name, const char *hid, unsigned int uid, uint16_t port,
                        uint8_t n_ports, int irq) {
        size_t device = aml_device_begin(a, name), resources;

        aml_name(a, "_HID");
        if (strncmp(hid, "PNP", 3) == 0)
                aml_eisa_id(a, hid);
        else
                aml_string(a, hid);
        aml_name_integer(a, "_UID", uid);
        aml_name_integer(a, "_STA", 0xf);
        resources = aml_resources_begin(a);
        aml_res_io(a, port, n_ports);
        if (irq >= 0)
                aml_res_irq(a, (unsigned int)irq);
        aml_resources_end(a, resources);
        aml_end(a, device);
}

static void dsdt_pci(struct aml *a, const struct acpi_options *o) {
        size_t device = aml_device_begin(a, "PCI0"), resources;

        aml_name(a, "_HID");
        aml_eisa_id(a, "PNP0A08");
        aml_name(a, "_CID");
        aml_eisa_id(a, "PNP0A03");
        aml_name_integer(a, "_UID", 0);
        aml_name_integer(a, "_SEG", 0);
        aml_name_integer(a, "_BBN", 0);
        resources = aml_resources_begin(a);
        aml_res_bus_window(a, 0, LAYOUT_ECAM_SIZE / 0x100000 - 1);
        aml_res_io(a, LAYOUT_PORT_PCI_CONFIG, 8);
        aml_res_io_window(a, 0, LAYOUT_PORT_PCI_CONFIG - 1);
        aml_res_io_window(a, LAYOUT_PORT_PCI_CONFIG + 8, 0xffff);
        aml_res_memory32_window(a, LAYOUT_MMIO32_BASE, LAYOUT_MMIO32_SIZE);
        aml_res_memory64_window(a, o->mmio64_base, LAYOUT_MMIO64_SIZE);
        aml_resources_end(a, resources);
        aml_end(a, device);
}

/* The ECAM belongs to no device's BAR: Linux believes the MCFG only if the range is reserved here (PCI Firmware 3.2 §4.1.2). */
static void dsdt_reserved(struct aml *a) {
        size_t device = aml_device_begin(a, "ECAM"), resources;

        aml_name(a, "_HID");
        aml_eisa_id(a, "PNP0C02");
        aml_name_integer(a, "_UID", 0);
        resources = aml_resources_begin(a);
        aml_res_fixed_memory32(a, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE);
        aml_res_io(a, LAYOUT_PORT_PM, 0x10);
        aml_resources_end(a, resources);
        aml_end(a, device);
}

static uint64_t write_dsdt(struct builder *b, const struct acpi_options *o) {
        struct aml *a = &b->out;
        size_t table = table_begin(b, "DSDT", 2), scope, package;

        scope = aml_scope_begin(a, "\\_SB");
        dsdt_pci(a, o);
        dsdt_reserved(a);
        dsdt_device(a, "COM1", "PNP0501", 1, LAYOUT_PORT_SERIAL, 8, LAYOUT_IRQ_SERIAL);
        dsdt_device(a, "RTC", "PNP0B00", 0, LAYOUT_PORT_CMOS, 2, LAYOUT_IRQ_RTC);
        if (o->pvpanic)
                dsdt_device(a, "PEVT", "QEMU0001", 0, LAYOUT_PORT_PVPANIC, 1, -1);
        aml_end(a, scope);

        aml_name(a, "\\_S5");
        package = aml_package_begin(a, 4);
        aml_integer(a, SLP_TYP_S5);
        aml_integer(a, SLP_TYP_S5);
        aml_integer(a, 0);
        aml_integer(a, 0);
        aml_end(a, package);
        return table_end(b, table);
}

static uint64_t write_facs(struct builder *b) {
        const struct acpi_facs facs = { .signature = { 'F', 'A', 'C', 'S' }, .length = sizeof(facs), .version = 2 };

        align(b, 64);
        aml_bytes(&b->out, &facs, sizeof(facs));
        return LAYOUT_ACPI + b->out.len - sizeof(facs);
}

static struct acpi_address port(uint64_t address, uint8_t bytes, uint8_t access) {
        return (struct acpi_address){ SPACE_IO, (uint8_t)(bytes * 8), 0, access, address };
}

static void write_fadt(struct builder *b, uint64_t dsdt, uint64_t facs) {
        const struct acpi_fadt f = {
                .facs = (uint32_t)facs,
                .dsdt = (uint32_t)dsdt,
                .sci_int = LAYOUT_IRQ_SCI,
                .pm1a_evt = LAYOUT_PORT_PM,
                .pm1a_cnt = LAYOUT_PORT_PM + 4,
                .pm_tmr = LAYOUT_PORT_PM + 8,
                .gpe0 = LAYOUT_PORT_PM + 0xc,
                .pm1_evt_len = 4,
                .pm1_cnt_len = 2,
                .pm_tmr_len = 4,
                .gpe0_len = 4,
                .lvl2_lat = 0xfff, /* no C2, no C3 */
                .lvl3_lat = 0xfff,
                .century = 0x32,
                .boot_arch = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_ASPM, /* bit 1 clear: no i8042 */
                .flags = FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BTN | FADT_NO_FIXED_RTC | FADT_TIMER_32 | FADT_RESET_REG,
                .reset_reg = port(LAYOUT_PORT_RESET, 1, ACCESS_BYTE),
                .reset_value = RESET_VALUE,
                .minor = 3,
                .x_facs = facs,
                .x_dsdt = dsdt,
                .x_pm1a_evt = port(LAYOUT_PORT_PM, 4, ACCESS_WORD),
                .x_pm1a_cnt = port(LAYOUT_PORT_PM + 4, 2, ACCESS_WORD),
                .x_pm_tmr = port(LAYOUT_PORT_PM + 8, 4, ACCESS_DWORD),
                .x_gpe0 = port(LAYOUT_PORT_PM + 0xc, 4, ACCESS_BYTE),
                .hypervisor = { 'L', 'o', 'd', 'g', 'e' },
        };
        size_t table = table_begin(b, "FACP", 6);

        aml_bytes(&b->out, &f.facs, sizeof(f) - sizeof(f.h));
        table_list(b, table);
}

static unsigned int n_cpus(const struct acpi_options *o) {
        return o->topology.sockets * o->topology.cores * o->topology.threads;
}

static void madt_override(struct aml *a, uint8_t irq, uint32_t gsi, uint16_t flags) {
        aml_u8(a, 2);
        aml_u8(a, 10);
        aml_u8(a, 0); /* bus: ISA */
        aml_u8(a, irq);
        aml_u32(a, gsi);
        aml_u16(a, flags);
}

static void write_madt(struct builder *b, const struct acpi_options *o) {
        struct aml *a = &b->out;
        size_t table = table_begin(b, "APIC", 5);

        aml_u32(a, LAYOUT_LAPIC_BASE);
        aml_u32(a, MADT_PCAT);
        for (unsigned int i = 0; i < n_cpus(o); i++) { /* local APICs, §5.2.12.2 */
                aml_u8(a, 0);
                aml_u8(a, 8);
                aml_u8(a, (uint8_t)i);
                aml_u8(a, (uint8_t)cpuid_apic_id(&o->topology, i));
                aml_u32(a, 1); /* enabled */
        }
        aml_u8(a, 1); /* IOAPIC, §5.2.12.3 */
        aml_u8(a, 12);
        aml_u8(a, 0);
        aml_u8(a, 0);
        aml_u32(a, LAYOUT_IOAPIC_BASE);
        aml_u32(a, 0);
        madt_override(a, 0, 2, 0); /* the PIT is wired to pin 2 */
        madt_override(a, LAYOUT_IRQ_SCI, LAYOUT_IRQ_SCI, MADT_ACTIVE_HIGH | MADT_LEVEL);
        aml_u8(a, 4); /* NMI: LINT1 of every CPU, §5.2.12.7 */
        aml_u8(a, 6);
        aml_u8(a, 0xff);
        aml_u16(a, 0);
        aml_u8(a, 1);
        table_list(b, table);
}

static void write_mcfg(struct builder *b) {
        struct aml *a = &b->out;
        size_t table = table_begin(b, "MCFG", 1);

        aml_u64(a, 0);
        aml_u64(a, LAYOUT_ECAM_BASE);
        aml_u16(a, 0); /* segment */
        aml_u8(a, 0);  /* first and last bus */
        aml_u8(a, LAYOUT_ECAM_SIZE / 0x100000 - 1);
        aml_u32(a, 0);
        table_list(b, table);
}

static void srat_memory(struct aml *a, uint32_t node, uint64_t base, uint64_t size) {
        aml_u8(a, 1);
        aml_u8(a, 40);
        aml_u32(a, node);
        aml_u16(a, 0);
        aml_u64(a, base);
        aml_u64(a, size);
        aml_u32(a, 0);
        aml_u32(a, 1); /* enabled */
        aml_u64(a, 0);
}

static void srat_cpu(struct aml *a, uint32_t node, unsigned int apic_id) {
        aml_u8(a, 0);
        aml_u8(a, 16);
        aml_u8(a, (uint8_t)node);
        aml_u8(a, (uint8_t)apic_id);
        aml_u32(a, 1); /* enabled */
        aml_u32(a, 0); /* local SAPIC id; bits 8.. of the node: there are at most 64 */
        aml_u32(a, 0); /* clock domain */
}

/* Nodes take the RAM in order, each its share, across the PCI hole. */
static void write_srat(struct builder *b, const struct memory *memory, const struct acpi_options *o) {
        struct aml *a = &b->out;
        const struct memory_region *regions;
        size_t n_regions = memory_regions(memory, &regions), region = 0;
        uint64_t used = 0;
        size_t table = table_begin(b, "SRAT", 3);

        aml_u32(a, 1);
        aml_u64(a, 0);
        for (uint32_t node = 0; node < o->n_numa; node++) {
                const struct numa_config *numa = &o->numa[node];
                uint64_t left = numa->memory;

                for (size_t i = 0; i < numa->n_cpus; i++)
                        if (numa->cpus[i] < n_cpus(o))
                                srat_cpu(a, node, cpuid_apic_id(&o->topology, numa->cpus[i]));
                while (left > 0 && region < n_regions) {
                        uint64_t part = MIN(left, regions[region].size - used);

                        if (part > 0)
                                srat_memory(a, node, regions[region].gpa + used, part);
                        left -= part;
                        used += part;
                        if (used == regions[region].size) {
                                region++;
                                used = 0;
                        }
                }
        }
        table_list(b, table);
}

static void write_slit(struct builder *b, const struct acpi_options *o) {
        size_t table = table_begin(b, "SLIT", 1);

        aml_u64(&b->out, o->n_numa);
        for (size_t i = 0; i < o->n_numa; i++)
                for (size_t j = 0; j < o->n_numa; j++)
                        aml_u8(&b->out, i == j ? 10 : 20);
        table_list(b, table);
}

static uint64_t write_xsdt(struct builder *b) {
        size_t table = table_begin(b, "XSDT", 1);

        for (size_t i = 0; i < b->n_tables; i++)
                aml_u64(&b->out, b->tables[i]);
        return table_end(b, table);
}

static struct acpi_rsdp make_rsdp(uint64_t xsdt) {
        struct acpi_rsdp rsdp = {
                .signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
                .oem_id = { 'L', 'O', 'D', 'G', 'E', ' ' },
                .revision = 2,
                .length = sizeof(rsdp),
                .xsdt = xsdt,
        };

        rsdp.checksum = checksum(&rsdp, 20); /* the part of ACPI 1.0 */
        rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
        return rsdp;
}

int acpi_write(struct memory *memory, const struct acpi_options *o, uint64_t *ret_rsdp, struct error *e) {
        struct builder b = { .out = { .data = memory_host(memory, LAYOUT_ACPI, LAYOUT_ACPI_SIZE),
                                      .size = LAYOUT_ACPI_SIZE } };
        struct acpi_rsdp rsdp = { 0 };
        uint64_t dsdt, facs;

        if (!b.out.data)
                return error_set(e, -ENOSPC, "acpi-size", "give the machine more memory",
                                 "no memory for the ACPI tables");
        aml_bytes(&b.out, &rsdp, sizeof(rsdp));
        dsdt = write_dsdt(&b, o);
        facs = write_facs(&b);
        write_fadt(&b, dsdt, facs);
        write_madt(&b, o);
        write_mcfg(&b);
        if (o->n_numa > 0) {
                write_srat(&b, memory, o);
                write_slit(&b, o);
        }
        rsdp = make_rsdp(write_xsdt(&b));
        if (b.out.failed)
                return error_set(e, -ENOSPC, "acpi-size", "ask for fewer CPUs or NUMA nodes",
                                 "the ACPI tables need more than %llu bytes", LAYOUT_ACPI_SIZE);
        memcpy(b.out.data, &rsdp, sizeof(rsdp));
        *ret_rsdp = LAYOUT_ACPI;
        return 0;
}

int acpi_build(struct machine *machine, uint64_t *ret_rsdp, struct error *e) {
        const struct vmm_config *config = machine->config;
        const struct acpi_options options = {
                .topology = cpuid_topology(config),
                .mmio64_base = memory_mmio64_base(machine->memory),
                .numa = config->numa,
                .n_numa = config->n_numa,
                .pvpanic = config->pvpanic,
        };

        return acpi_write(machine->memory, &options, ret_rsdp, e);
}
