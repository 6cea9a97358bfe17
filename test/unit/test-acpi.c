// SPDX-License-Identifier: GPL-2.0-or-later
/* acpi: the tables are well-formed for an independent reader (iasl), and say what the devices do */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "schema/lodge-schema.h"
#include "vmm/machine/acpi.h"
#include "vmm/machine/aml.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/memory.h"

#define RAM (4096ull << 20) /* 3 GiB below the hole, 1 GiB above: only touched where written */

static struct memory *memory;

static uint64_t rd(const uint8_t *p, size_t n) {
        uint64_t v = 0;

        memcpy(&v, p, n);
        return v;
}

static uint8_t sum(const uint8_t *p, size_t n) {
        uint8_t s = 0;

        while (n-- > 0)
                s = (uint8_t)(s + *p++);
        return s;
}

static const uint8_t *table_at(uint64_t gpa) {
        const uint8_t *p = memory_host(memory, gpa, 36);

        assert_non_null(p);
        assert_true(gpa >= LAYOUT_ACPI && gpa + rd(p + 4, 4) <= LAYOUT_ACPI + LAYOUT_ACPI_SIZE);
        if (memcmp(p, "FACS", 4) != 0)
                assert_int_equal(sum(p, rd(p + 4, 4)), 0);
        return p;
}

/* As an OS does: from the RSDP through the XSDT. */
static const uint8_t *find(const char *signature) {
        const uint8_t *rsdp = memory_host(memory, LAYOUT_ACPI, 36), *xsdt;

        assert_memory_equal(rsdp, "RSD PTR ", 8);
        assert_int_equal(sum(rsdp, 20), 0);
        assert_int_equal(sum(rsdp, 36), 0);
        assert_int_equal(rsdp[15], 2);
        xsdt = table_at(rd(rsdp + 24, 8));
        assert_memory_equal(xsdt, "XSDT", 4);
        for (size_t i = 36; i < rd(xsdt + 4, 4); i += 8) {
                const uint8_t *table = table_at(rd(xsdt + i, 8));

                if (memcmp(table, signature, 4) == 0)
                        return table;
        }
        return NULL;
}

static void build(const struct acpi_options *o) {
        _cleanup_error_ struct error e = ERROR_INIT;
        uint64_t rsdp = 0;

        assert_int_equal(acpi_write(memory, o, &rsdp, &e), 0);
        assert_int_equal(rsdp, LAYOUT_ACPI);
}

static struct acpi_options simple(unsigned int sockets, unsigned int cores, unsigned int threads) {
        return (struct acpi_options){
                .topology = { sockets, cores, threads },
                .mmio64_base = memory_mmio64_base(memory),
                .pvpanic = true,
        };
}

static int run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *format, ...) {
        char command[512];
        va_list ap;
        int r;

        va_start(ap, format);
        vsnprintf(command, sizeof(command), format, ap);
        va_end(ap);
        r = system(command);
        return WIFEXITED(r) ? WEXITSTATUS(r) : -1;
}

static void disassemble(const char *dir, const char *name, const uint8_t *table) {
        _cleanup_close_ int fd = -EBADF;
        char path[256];

        assert_non_null(table);
        snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(io_write_at(&sys_real, fd, table, rd(table + 4, 4), 0), 0);
        /* iasl says "Invalid", "Error", "Unknown" or warns where a length, a checksum or an opcode is wrong. */
        if (run("cd %s && iasl -d %s.aml >%s.log 2>&1 && ! grep -iE 'error|warning|invalid|unknown|exceeds' %s.log "
                "%s.dsl"
                " | grep -viE '0 (errors|warnings)|system type|unknown format|ACPI Error:? *$'",
                dir, name, name, name, name) != 0)
                fail_msg("iasl does not like %s", name);
}

/* The tables are read by other people's parsers: iasl's disassembler stands for them, and its compiler must accept what came out. */
static void test_iasl(void **state) {
        static const char *const names[] = { "FACP", "APIC", "MCFG", "SRAT", "SLIT" };
        struct acpi_options o = simple(2, 2, 2);
        uint32_t cpus[2][4] = { { 0, 1, 2, 3 }, { 4, 5, 6, 7 } };
        const struct numa_config numa[2] = { { cpus[0], 4, RAM / 4 }, { cpus[1], 4, RAM / 4 * 3 } };
        char dir[] = "/tmp/test-acpi-XXXXXX";

        if (run("iasl -v >/dev/null 2>&1") != 0) {
                print_message("iasl (acpica-tools) is not installed\n");
                skip();
        }
        o.numa = numa;
        o.n_numa = 2;
        build(&o);
        assert_non_null(mkdtemp(dir));
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                disassemble(dir, names[i], find(names[i]));
        disassemble(dir, "DSDT", table_at(rd(find("FACP") + 140, 8)));
        if (run("cd %s && iasl -vs DSDT.dsl >compile.log 2>&1", dir) != 0)
                fail_msg("iasl does not compile the disassembled DSDT");
        assert_int_equal(run("grep -q 'PNP0A08' %s/DSDT.dsl && grep -q 'QEMU0001' %s/DSDT.dsl", dir, dir), 0);
        assert_int_equal(run("grep -A5 '_S5' %s/DSDT.dsl | grep -q 0x05", dir), 0);
        /* resource templates that iasl can't read come out as plain buffers */
        assert_int_equal(run("grep -q 'Buffer (' %s/DSDT.dsl", dir), 1);
        assert_int_equal(run("rm -r %s", dir), 0);
}

/* A wrong port here is a machine that can't be turned off. */
static void test_fadt(void **state) {
        const struct acpi_options o = simple(1, 1, 1);
        const uint8_t *f, *facs;

        build(&o);
        f = find("FACP");
        assert_non_null(f);
        assert_int_equal(rd(f + 4, 4), 276);
        assert_int_equal(f[8], 6);
        assert_int_equal(rd(f + 46, 2), LAYOUT_IRQ_SCI);
        assert_int_equal(rd(f + 48, 4), 0); /* no SMI command port: ACPI mode from the start */
        assert_int_equal(rd(f + 56, 4), LAYOUT_PORT_PM);
        assert_int_equal(rd(f + 64, 4), LAYOUT_PORT_PM + 4);
        assert_int_equal(rd(f + 76, 4), LAYOUT_PORT_PM + 8);
        assert_int_equal(rd(f + 80, 4), LAYOUT_PORT_PM + 12);
        assert_int_equal(rd(f + 109, 2) & 0x27, 0x5);        /* legacy devices, no 8042, no VGA, RTC is there */
        assert_int_equal(rd(f + 112, 4) & (1 << 4), 0);      /* the power button is fixed hardware */
        assert_int_equal(rd(f + 112, 4) & (1 << 20), 0);     /* not hardware-reduced */
        assert_int_not_equal(rd(f + 112, 4) & (1 << 10), 0); /* the reset register works */
        assert_int_equal(f[116], 1);                         /* I/O space */
        assert_int_equal(rd(f + 120, 8), 0xcf9);
        assert_int_equal(f[128], 0x0f);
        facs = table_at(rd(f + 132, 8));
        assert_memory_equal(facs, "FACS", 4);
        assert_int_equal(rd(f + 132, 8) % 64, 0);
}

/* APIC ids come from the topology, so they have gaps where cores aren't a power of two; a CPU that isn't listed never starts. */
static void test_madt(void **state) {
        const struct acpi_options o = simple(2, 3, 2);
        static const uint8_t ids[] = { 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13 };
        const uint8_t *m, *p;
        size_t n = 0, sci = 0, pit = 0;

        build(&o);
        m = find("APIC");
        assert_non_null(m);
        assert_int_equal(rd(m + 36, 4), LAYOUT_LAPIC_BASE);
        for (p = m + 44; p < m + rd(m + 4, 4); p += p[1]) {
                assert_true(p[1] >= 2);
                if (p[0] == 0) {
                        assert_true(n < ELEMENTSOF(ids));
                        assert_int_equal(p[2], n);
                        assert_int_equal(p[3], ids[n++]);
                        assert_int_equal(rd(p + 4, 4), 1);
                } else if (p[0] == 1)
                        assert_int_equal(rd(p + 4, 4), LAYOUT_IOAPIC_BASE);
                else if (p[0] == 2 && p[3] == 0)
                        pit = rd(p + 4, 4);
                else if (p[0] == 2 && p[3] == LAYOUT_IRQ_SCI) {
                        sci = rd(p + 4, 4);
                        assert_int_equal(rd(p + 8, 2), 0xd); /* active high, level */
                }
        }
        assert_int_equal(n, 12);
        assert_int_equal(pit, 2);
        assert_int_equal(sci, LAYOUT_IRQ_SCI);
}

static void test_mcfg(void **state) {
        const struct acpi_options o = simple(1, 1, 1);
        const uint8_t *m;

        build(&o);
        m = find("MCFG");
        assert_non_null(m);
        assert_int_equal(rd(m + 44, 8), LAYOUT_ECAM_BASE);
        assert_int_equal(m[54], 0);
        assert_int_equal((m[55] + 1) * 0x100000, LAYOUT_ECAM_SIZE);
        assert_null(find("SRAT")); /* only when asked for */
}

/* Memory of a node that reaches over the PCI hole is two ranges; both together are all of the RAM, once. */
static void test_srat(void **state) {
        struct acpi_options o = simple(1, 4, 1);
        uint32_t cpus[2][2] = { { 0, 2 }, { 1, 3 } };
        const struct numa_config numa[2] = { { cpus[0], 2, 2048ull << 20 }, { cpus[1], 2, 2048ull << 20 } };
        const uint8_t *s;
        uint64_t total = 0;
        unsigned int node_of[4] = { 9, 9, 9, 9 }, ranges = 0;

        o.numa = numa;
        o.n_numa = 2;
        build(&o);
        s = find("SRAT");
        assert_non_null(s);
        for (const uint8_t *p = s + 48; p < s + rd(s + 4, 4); p += p[1]) {
                assert_true(p[1] >= 2);
                if (p[0] == 0)
                        node_of[p[3]] = p[2];
                else {
                        ranges++;
                        total += rd(p + 16, 8);
                        assert_non_null(memory_host(memory, rd(p + 8, 8), rd(p + 16, 8)));
                        if (ranges == 3)
                                assert_int_equal(rd(p + 8, 8), LAYOUT_HIGH_RAM_BASE);
                }
        }
        assert_int_equal(ranges, 3);
        assert_int_equal(total, RAM);
        assert_int_equal(node_of[0], 0);
        assert_int_equal(node_of[1], 1);
        assert_int_equal(node_of[2], 0);
        assert_int_equal(node_of[3], 1);
        s = find("SLIT");
        assert_non_null(s);
        assert_int_equal(s[44], 10);
        assert_int_equal(s[45], 20);
}

/* 254 CPUs on 64 nodes, the most that the schema allows, still fit. */
static void test_largest(void **state) {
        struct acpi_options o = simple(1, 127, 2);
        struct numa_config numa[64] = { 0 };

        for (size_t i = 0; i < 64; i++)
                numa[i].memory = RAM / 64;
        o.numa = numa;
        o.n_numa = 64;
        build(&o);
        assert_non_null(find("SLIT"));
}

/* Lengths around the places where AML's length field grows by a byte; a wrong one makes the rest of the DSDT unreadable. */
static void test_aml_lengths(void **state) {
        static const size_t sizes[] = { 0, 57, 58, 59, 60, 4088, 4089, 4090, 4091, 60000 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                static uint8_t buf[70000];
                struct aml a = { .data = buf, .size = sizeof(buf) };
                size_t mark = aml_scope_begin(&a, "ABCD"), n, length;

                for (size_t j = 0; j < sizes[i]; j++)
                        aml_u8(&a, 0xa3);
                aml_end(&a, mark);
                assert_false(a.failed);
                n = buf[1] >> 6;
                length = n == 0 ? buf[1] & 0x3f : buf[1] & 0xf;
                for (size_t j = 0; j < n; j++)
                        length |= (size_t)buf[2 + j] << (4 + 8 * j);
                assert_int_equal(length, a.len - 1);
                assert_memory_equal(buf + 2 + n, "ABCD", 4);
        }
}

/* Running out of room must be remembered, never written past. */
static void test_aml_full(void **state) {
        uint8_t buf[8] = { 0 };
        struct aml a = { .data = buf, .size = 6 };
        size_t mark = aml_scope_begin(&a, "\\_SB");

        assert_false(a.failed);
        aml_end(&a, mark);
        assert_true(a.failed);
        assert_int_equal(buf[6] | buf[7], 0);
        a = (struct aml){ .data = buf, .size = 8 };
        aml_path(&a, "TOOLONG");
        assert_true(a.failed);
}

static int setup(void **state) {
        const struct memory_options options = { .size = RAM };

        return memory_new(&options, &memory, NULL);
}

static int teardown(void **state) {
        memory_free(memory);
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_fadt),        cmocka_unit_test(test_madt),     cmocka_unit_test(test_mcfg),
                cmocka_unit_test(test_srat),        cmocka_unit_test(test_largest),  cmocka_unit_test(test_iasl),
                cmocka_unit_test(test_aml_lengths), cmocka_unit_test(test_aml_full),
        };

        return cmocka_run_group_tests_name("acpi", tests, setup, teardown);
}
