// SPDX-License-Identifier: GPL-2.0-or-later
/* smbios: see smbios.h */
#include "vmm/machine/smbios.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "schema/lodge-schema.h"
#include "vmm/machine/aml.h" /* its byte writer */
#include "vmm/machine/layout.h"
#include "vmm/machine/machine.h"

#define ENTRY_SIZE     24u
#define STRUCTURES_OFF 32u /* structures behind the entry point */
#define MANUFACTURER   "Lodge"
#define UNKNOWN        2u /* in most of SMBIOS's enumerations */
#define STRINGS_MAX    64u

struct structure {
        struct aml *out;
        size_t start;
        const char *strings[STRINGS_MAX];
        uint8_t n_strings;
};

static void begin(struct structure *s, struct aml *out, uint8_t type, uint16_t handle) {
        *s = (struct structure){ .out = out, .start = out->len };
        aml_u8(out, type);
        aml_u8(out, 0); /* length: end() */
        aml_u16(out, handle);
}

static void string(struct structure *s, const char *text) {
        if (!text || !*text || s->n_strings == STRINGS_MAX) {
                aml_u8(s->out, 0);
                return;
        }
        s->strings[s->n_strings++] = text;
        aml_u8(s->out, s->n_strings);
}

static void end(struct structure *s) {
        if (!s->out->failed)
                s->out->data[s->start + 1] = (uint8_t)(s->out->len - s->start);
        for (uint8_t i = 0; i < s->n_strings; i++)
                aml_bytes(s->out, s->strings[i], strlen(s->strings[i]) + 1);
        if (s->n_strings == 0)
                aml_u8(s->out, 0);
        aml_u8(s->out, 0);
}

enum handle {
        HANDLE_BIOS = 0x0000,
        HANDLE_SYSTEM = 0x0100,
        HANDLE_CHASSIS = 0x0300,
        HANDLE_PROCESSOR = 0x0400, /* + socket */
        HANDLE_OEM = 0x0b00,
        HANDLE_ARRAY = 0x1000,
        HANDLE_MEMORY = 0x1100,
        HANDLE_MAPPED = 0x1300, /* + region */
        HANDLE_BOOT = 0x2000,
        HANDLE_END = 0x7f00,
        HANDLE_NONE = 0xfffe,
};

static void write_bios(struct aml *a) { /* type 0, §7.1 */
        struct structure s;

        begin(&s, a, 0, HANDLE_BIOS);
        string(&s, MANUFACTURER);
        string(&s, LODGE_VERSION);
        aml_u16(a, 0xe000); /* start segment */
        string(&s, "01/01/2026");
        aml_u8(a, 0);
        aml_u64(a, 1ull << 3); /* characteristics: not supported */
        aml_u8(a, 0);
        aml_u8(a, 1u << 4); /* this is a virtual machine */
        aml_u8(a, 0);       /* releases of the BIOS: not tracked here */
        aml_u8(a, 0);
        aml_u8(a, 0xff);
        aml_u8(a, 0xff);
        aml_u16(a, 0);
        end(&s);
}

/* The first three fields are little-endian (§7.2.1). All zeros: not present. */
static void write_uuid(struct aml *a, const char *text) {
        static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
        uint8_t bytes[16] = { 0 }, n = 0;

        for (const char *p = text ?: ""; *p && n < 32; p++) {
                int digit = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;

                if (digit < 0)
                        continue;
                bytes[n / 2] = (uint8_t)(bytes[n / 2] << 4 | digit);
                n++;
        }
        for (size_t i = 0; i < sizeof(bytes); i++)
                aml_u8(a, bytes[order[i]]);
}

static void write_system(struct aml *a, const struct smbios_options *o) { /* type 1, §7.2 */
        struct structure s;

        begin(&s, a, 1, HANDLE_SYSTEM);
        string(&s, MANUFACTURER);
        string(&s, "Virtual Machine");
        string(&s, LODGE_VERSION);
        string(&s, o->serial);
        write_uuid(a, o->uuid);
        aml_u8(a, 6); /* woken by the power switch */
        string(&s, NULL);
        string(&s, MANUFACTURER);
        end(&s);
}

static void write_chassis(struct aml *a) { /* type 3, §7.4 */
        struct structure s;

        begin(&s, a, 3, HANDLE_CHASSIS);
        string(&s, MANUFACTURER);
        aml_u8(a, 1); /* other */
        string(&s, NULL);
        string(&s, NULL);
        string(&s, NULL);
        aml_u8(a, 3); /* boot-up, power supply, thermal: safe */
        aml_u8(a, 3);
        aml_u8(a, 3);
        aml_u8(a, UNKNOWN); /* security */
        aml_u32(a, 0);
        aml_u8(a, 0);
        aml_u8(a, 0);
        aml_u8(a, 0);
        aml_u8(a, 0);
        string(&s, NULL);
        end(&s);
}

static void write_processor(struct aml *a, const struct smbios_options *o, unsigned int socket) { /* type 4, §7.5 */
        unsigned int cores = o->topology.cores, threads = cores * o->topology.threads;
        char name[16];
        struct structure s;

        snprintf(name, sizeof(name), "CPU %u", socket);
        begin(&s, a, 4, (uint16_t)(HANDLE_PROCESSOR + socket));
        string(&s, name);
        aml_u8(a, 3); /* central processor */
        aml_u8(a, UNKNOWN);
        string(&s, MANUFACTURER);
        aml_u64(a, 0); /* id: CPUID says it */
        string(&s, NULL);
        aml_u8(a, 0);
        aml_u16(a, 0); /* external clock, maximum and current speed: unknown */
        aml_u16(a, 0);
        aml_u16(a, 0);
        aml_u8(a, 0x41); /* populated, enabled */
        aml_u8(a, 1);    /* upgrade: other */
        aml_u16(a, 0xffff);
        aml_u16(a, 0xffff);
        aml_u16(a, 0xffff);
        string(&s, NULL);
        string(&s, NULL);
        string(&s, NULL);
        aml_u8(a, (uint8_t)MIN(cores, 255u)); /* 255: see the words below */
        aml_u8(a, (uint8_t)MIN(cores, 255u));
        aml_u8(a, (uint8_t)MIN(threads, 255u));
        aml_u16(a, 1u << 2); /* 64-bit */
        aml_u16(a, UNKNOWN); /* family */
        aml_u16(a, (uint16_t)cores);
        aml_u16(a, (uint16_t)cores);
        aml_u16(a, (uint16_t)threads);
        end(&s);
}

static void write_oem_strings(struct aml *a, const struct smbios_options *o) { /* type 11, §7.12 */
        struct structure s;

        begin(&s, a, 11, HANDLE_OEM);
        aml_u8(a, 0);
        for (size_t i = 0; i < o->n_oem_strings; i++)
                if (*o->oem_strings[i] && s.n_strings < STRINGS_MAX)
                        s.strings[s.n_strings++] = o->oem_strings[i];
        if (!a->failed)
                a->data[a->len - 1] = s.n_strings;
        end(&s);
}

/* Types 16, 17 and 19 (§7.17, §7.18, §7.20): one array with one module, mapped around the PCI hole. */
static void write_memory(struct aml *a, const struct memory *memory) {
        uint64_t size = memory_size(memory), mib = size >> 20;
        const struct memory_region *regions;
        size_t n = memory_regions(memory, &regions);
        struct structure s;

        begin(&s, a, 16, HANDLE_ARRAY);
        aml_u8(a, 1); /* location: other; use: system memory; no error correction */
        aml_u8(a, 3);
        aml_u8(a, 3);
        aml_u32(a, 0x80000000); /* the capacity is in the 64-bit field */
        aml_u16(a, HANDLE_NONE);
        aml_u16(a, 1);
        aml_u64(a, size);
        end(&s);

        begin(&s, a, 17, HANDLE_MEMORY);
        aml_u16(a, HANDLE_ARRAY);
        aml_u16(a, HANDLE_NONE);
        aml_u16(a, 64); /* widths */
        aml_u16(a, 64);
        aml_u16(a, mib < 0x7fff ? (uint16_t)mib : 0x7fff); /* 0x7fff: see the extended size */
        aml_u8(a, 9);                                      /* DIMM */
        aml_u8(a, 0);
        string(&s, "DIMM 0");
        string(&s, NULL);
        aml_u8(a, 7); /* RAM */
        aml_u16(a, 1u << 1);
        aml_u16(a, 0); /* speed */
        string(&s, MANUFACTURER);
        string(&s, NULL);
        string(&s, NULL);
        string(&s, NULL);
        aml_u8(a, 0);
        aml_u32(a, mib < 0x7fff ? 0 : (uint32_t)mib);
        aml_u16(a, 0); /* configured speed, voltages */
        aml_u16(a, 0);
        aml_u16(a, 0);
        aml_u16(a, 0);
        end(&s);

        for (size_t i = 0; i < n; i++) {
                uint64_t last = regions[i].gpa + regions[i].size - 1;
                bool wide = last >> 10 >= UINT32_MAX;

                begin(&s, a, 19, (uint16_t)(HANDLE_MAPPED + i));
                aml_u32(a, wide ? UINT32_MAX : (uint32_t)(regions[i].gpa >> 10));
                aml_u32(a, wide ? UINT32_MAX : (uint32_t)(last >> 10));
                aml_u16(a, HANDLE_ARRAY);
                aml_u8(a, 1);
                aml_u64(a, wide ? regions[i].gpa : 0);
                aml_u64(a, wide ? last : 0);
                end(&s);
        }
}

static void write_ends(struct aml *a) { /* types 32 and 127, §7.33, §7.45 */
        struct structure s;

        begin(&s, a, 32, HANDLE_BOOT);
        for (int i = 0; i < 6; i++)
                aml_u8(a, 0);
        aml_u8(a, 0); /* no errors */
        end(&s);
        begin(&s, a, 127, HANDLE_END);
        end(&s);
}

/* §5.2.2 */
static void write_entry(uint8_t *at, size_t structures) {
        uint32_t length = (uint32_t)structures;
        uint64_t address = LAYOUT_SMBIOS + STRUCTURES_OFF;
        uint8_t sum = 0;

        memset(at, 0, STRUCTURES_OFF);
        memcpy(at, "_SM3_", 5);
        at[6] = ENTRY_SIZE;
        at[7] = 3; /* version 3.2.0 */
        at[8] = 2;
        at[10] = 1; /* revision of the entry point */
        memcpy(at + 12, &length, sizeof(length));
        memcpy(at + 16, &address, sizeof(address));
        for (size_t i = 0; i < ENTRY_SIZE; i++)
                sum = (uint8_t)(sum + at[i]);
        at[5] = (uint8_t)-sum;
}

int smbios_write(struct memory *memory, const struct smbios_options *o, struct error *e) {
        uint8_t *at = memory_host(memory, LAYOUT_SMBIOS, LAYOUT_SMBIOS_SIZE);
        struct aml a;

        if (!at)
                return error_set(e, -ENOSPC, "smbios-size", "give the machine more memory", "no memory for SMBIOS");
        a = (struct aml){ .data = at + STRUCTURES_OFF, .size = LAYOUT_SMBIOS_SIZE - STRUCTURES_OFF };
        write_bios(&a);
        write_system(&a, o);
        write_chassis(&a);
        for (unsigned int i = 0; i < o->topology.sockets; i++)
                write_processor(&a, o, i);
        if (o->n_oem_strings > 0)
                write_oem_strings(&a, o);
        write_memory(&a, memory);
        write_ends(&a);
        if (a.failed)
                return error_set(e, -ENOSPC, "smbios-size", "shorten the OEM strings",
                                 "the SMBIOS strings need more than %llu bytes", LAYOUT_SMBIOS_SIZE);
        write_entry(at, a.len);
        return 0;
}

int smbios_build(struct machine *machine, struct error *e) {
        const struct vmm_config *config = machine->config;
        const struct smbios_options options = {
                .topology = cpuid_topology(config),
                .uuid = config->uuid,
                .serial = config->serial_number,
                .oem_strings = (const char *const *)config->oem_strings,
                .n_oem_strings = config->n_oem_strings,
        };

        return smbios_write(machine->memory, &options, e);
}
