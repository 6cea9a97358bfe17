// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * schema: each rule of lodge.yaml is broken once, and the message must name the field, the value and what is allowed
 *
 * The tests go through the typed functions and the real tables, so they also hold the generator to its word.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "schema/lodge-schema.h"

#define VMM_MIN "\"version\":1,\"name\":\"web\",\"memory\":536870912,\"kvm_fd\":3,\"kernel_fd\":4"

struct refusal {
        const char *json, *id, *message;
};

static void refuse_machine(const char *json, const char *id, const char *message) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct machine_config *m = (void *)1;

        assert_int_equal(machine_config_parse(json, strlen(json), &m, &e), -EINVAL);
        assert_string_equal(e.id, id);
        assert_string_equal(e.message, message);
        assert_ptr_equal(m, (void *)1); /* untouched on failure */
}

/* Without these messages a person doesn't learn which of thirty fields is wrong, nor what would be right. */
static void test_machine_refusals(void **state) {
        static const struct refusal refusals[] = {
                { "{\"image\":\"tiny\",\"cpus\":300}", "schema-range", "machine.cpus: 300 is out of range 1..254" },
                { "{\"image\":\"tiny\",\"cpus\":0}", "schema-range", "machine.cpus: 0 is out of range 1..254" },
                { "{\"image\":\"tiny\",\"cpus\":-1}", "schema-range", "machine.cpus: -1 is out of range 1..254" },
                { "{\"image\":\"tiny\",\"cpus\":4294967297}", "schema-range",
                  "machine.cpus: 4294967297 is out of range 1..254" },
                { "{\"image\":\"tiny\",\"cpus\":1.5}", "schema-type",
                  "machine.cpus: must be an integer, not a fraction" },
                { "{\"image\":\"tiny\",\"cpus\":null}", "schema-type", "machine.cpus: must be an integer, not null" },
                { "{\"image\":\"tiny\",\"threads\":0}", "schema-range", "machine.threads: 0 is out of range 1..254" },
                { "{\"image\":\"tiny\",\"memory\":\"1M\"}", "schema-range",
                  "machine.memory: 1M is out of range 4M..4T" },
                { "{\"image\":\"tiny\",\"memory\":4194305}", "schema-multiple",
                  "machine.memory: 4194305 is not a multiple of 1M" },
                { "{\"image\":\"tiny\",\"memory\":\"lots\"}", "schema-type", "machine.memory: \"lots\" is no size" },
                { "{\"image\":\"tiny\",\"engine\":\"quemu\"}", "schema-enum",
                  "machine.engine: \"quemu\" is none of auto, native, qemu; did you mean qemu?" },
                { "{\"image\":\"tiny\",\"preallocate\":1}", "schema-type",
                  "machine.preallocate: must be true or false, not an integer" },
                { "{\"image\":\"tiny\",\"disks\":[{\"path\":\"a\"},{\"path\":\"b\",\"formt\":\"raw\"}]}",
                  "schema-unknown-key", "machine.disks[1].formt: unknown key, did you mean format?" },
                { "{\"image\":\"tiny\",\"disks\":[{\"format\":\"raw\"}]}", "schema-required",
                  "machine.disks[0].path: is missing" },
                { "{\"image\":\"tiny\",\"disks\":{}}", "schema-type", "machine.disks: must be a list, not an object" },
                { "{\"image\":\"tiny\",\"disks\":[{\"path\":\"a\",\"serial\":\"012345678901234567890\"}]}",
                  "schema-too-long", "machine.disks[0].serial: 21 bytes are too long, at most 20 are allowed" },
                { "{\"image\":\"tiny\",\"nets\":[{\"type\":\"user\",\"mac\":\"01:00:00:00:00:00\"}]}", "schema-pattern",
                  "machine.nets[0].mac: \"01:00:00:00:00:00\" does not match "
                  "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$" },
                { "{\"image\":\"tiny\",\"nets\":[{\"type\":\"tap\"}]}", "schema-required",
                  "machine.nets[0].interface: a tap needs an interface" },
                { "{\"image\":\"tiny\",\"nets\":[{\"type\":\"network\"},{\"type\":\"network\",\"network\":\"default\"}]"
                  "}",
                  "schema-conflict",
                  "machine.nets[1]: is in network default, which another interface of it is in already" },
                { "{\"image\":\"tiny\",\"nets\":[{\"type\":\"user\",\"interface\":\"tap0\"}]}", "schema-conflict",
                  "machine.nets[0].interface: only a tap has an interface, not type user" },
                { "{\"image\":\"tiny\",\"nets\":[{\"type\":\"user\",\"mtu\":67}]}", "schema-range",
                  "machine.nets[0].mtu: 67 is out of range 68..65535" },
                { "{\"image\":\"tiny\",\"name\":\"-web\"}", "schema-pattern",
                  "machine.name: \"-web\" does not match ^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" },
                { "{\"image\":\"tiny\",\"name\":\"\"}", "schema-pattern", "machine.name: must not be empty" },
                { "{\"image\":\"tiny\",\"append\":\"a\\u001b[2J\"}", "schema-pattern",
                  "machine.append: control character 0x1b is not allowed here" },
                { "{\"image\":\"tiny\",\"append\":\"a\\u0000b\"}", "schema-nul",
                  "machine: line 1, column 35: a string must not hold the character NUL" },
                { "{\"image\":\"tiny\",\"cpus\":1,\"cpus\":2}", "schema-duplicate-key",
                  "machine: line 1, column 31: duplicate object key near '\"cpus\"'" },
                { "{}", "schema-required", "machine: has nothing to boot: neither image nor kernel nor firmware" },
                { "{\"firmware\":\"uefi\",\"kernel\":\"k\"}", "schema-conflict",
                  "machine.firmware: uefi starts what is on a disk, and the machine names a kernel of its own" },
                { "{\"firmware\":\"bios\",\"image\":\"i\",\"append\":\"quiet\"}", "schema-conflict",
                  "machine.firmware: bios starts what is on a disk, and the machine names a kernel command line of its "
                  "own" },
                { "{\"firmware\":\"uefi\",\"cdroms\":[\"a\",\"\"]}", "schema-required", "machine.cdroms[1]: is empty" },
                { "{\"firmware\":\"uefi\",\"cdroms\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "schema-too-many",
                  "machine.cdroms: 5 items are too many, at most 4 are allowed" },
                { "{\"image\":\"tiny\",\"initrd\":\"i\"}", "schema-conflict",
                  "machine: has an initrd without a kernel" },
                { "{\"image\":\"tiny\",\"cpus\":4,\"sockets\":3}", "schema-topology",
                  "machine: sockets 3 * cores 1 * threads 1 is not cpus 4" },
                { "{\"image\":\"tiny\",\"cpus\":2,\"numa\":[{\"cpus\":[0],\"memory\":\"512M\"}]}", "schema-numa",
                  "machine.numa: the nodes hold 1 CPUs, the machine has 2" },
                { "{\"image\":\"tiny\",\"numa\":[{\"cpus\":[0,0],\"memory\":\"512M\"}]}", "schema-numa",
                  "machine.numa[0]: CPU 0 is named twice" },
                { "{\"image\":\"tiny\",\"numa\":[{\"cpus\":[1],\"memory\":\"512M\"}]}", "schema-numa",
                  "machine.numa[0]: CPU 1 is not one of 0..0" },
                { "{\"image\":\"tiny\",\"numa\":[{\"cpus\":[0],\"memory\":\"256M\"}]}", "schema-numa",
                  "machine.numa: the nodes hold 256 MiB, the machine has 512 MiB" },
                { "[]", "schema-type", "machine: must be an object, not a list" },
                { "{", "schema-json", "machine: line 1, column 1: string or '}' expected near end of file" },
                { "", "schema-json", "machine: line 1, column 0: '[' or '{' expected near end of file" },
        };

        for (size_t i = 0; i < ELEMENTSOF(refusals); i++)
                refuse_machine(refusals[i].json, refusals[i].id, refusals[i].message);
}

/* Length, nesting and list length are the bounds on what a hostile text may cost. */
static void test_bounds_on_text(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_free_ char *text = malloc(SCHEMA_TEXT_MAX + 1);
        struct machine_config *m;

        assert_non_null(text);
        memset(text, ' ', SCHEMA_TEXT_MAX + 1);
        assert_int_equal(machine_config_parse(text, SCHEMA_TEXT_MAX + 1, &m, &e), -EINVAL);
        assert_string_equal(e.id, "schema-too-long");
        error_clear(&e);

        memset(text, '[', SCHEMA_DEPTH_MAX + 1);
        assert_int_equal(machine_config_parse(text, SCHEMA_DEPTH_MAX + 1, &m, &e), -EINVAL);
        assert_string_equal(e.id, "schema-too-deep");
        error_clear(&e);

        snprintf(text, SCHEMA_TEXT_MAX, "{\"image\":\"tiny\",\"nets\":[");
        for (int i = 0; i < 9; i++)
                strcat(text, i > 0 ? ",{\"type\":\"none\"}" : "{\"type\":\"none\"}");
        strcat(text, "]}");
        assert_int_equal(machine_config_parse(text, strlen(text), &m, &e), -EINVAL);
        assert_string_equal(e.id, "schema-too-many");
        assert_string_equal(e.message, "machine.nets: 9 items are too many, at most 8 are allowed");
}

static void test_machine_defaults(void **state) {
        static const char json[] = "{\"image\":\"debian/12\",\"cpus\":8,\"threads\":2}";
        _cleanup_(machine_config_freep) struct machine_config *m = NULL;

        assert_int_equal(machine_config_parse(json, strlen(json), &m, NULL), 0);
        assert_string_equal(m->image, "debian/12");
        assert_int_equal(m->memory, 512 << 20);
        assert_int_equal(m->engine, MACHINE_ENGINE_AUTO);
        assert_null(m->name);
        assert_int_equal(m->n_disks, 0);
        /* what was not given is completed: nobody else computes a topology */
        assert_int_equal(m->sockets, 1);
        assert_int_equal(m->cores, 4);
        assert_int_equal(m->threads, 2);
}

/* The parent formats, lodge-vmm parses: a field lost on the way would be a device that is silently missing. */
static void test_vmm_round_trip(void **state) {
        _cleanup_(vmm_config_freep) struct vmm_config *a = NULL, *b = NULL;
        _cleanup_free_ char *first = NULL, *second = NULL;
        struct vmm_disk_config *disk;
        struct vmm_net_config *net;
        struct vmm_port_config *port;

        assert_int_equal(vmm_config_new(&a), 0);
        a->version = 1;
        a->name = strdup("web");
        a->cpus = 4;
        a->memory = 1ull << 30;
        a->kvm_fd = 3;
        a->kernel_fd = 4;
        a->append = strdup("console=ttyS0 \"quoted\"");
        a->serial.out_fd = 1;
        assert_int_equal(vmm_config_add_disks(a, &disk), 0);
        disk->fd = 7;
        disk->serial = strdup("root");
        assert_int_equal(vmm_config_add_nets(a, &net), 0);
        net->type = VMM_NET_TYPE_PASST;
        net->fd = 8;
        net->mac = strdup("52:54:00:12:34:56");
        assert_int_equal(vmm_config_add_ports(a, &port), 0);
        port->name = strdup("org.qemu.guest_agent.0");
        port->fd = 9;
        assert_int_equal(vmm_config_check(a, NULL), 0);
        first = vmm_config_format(a);
        assert_non_null(first);

        assert_int_equal(vmm_config_parse(first, strlen(first), &b, NULL), 0);
        assert_int_equal(b->n_disks, 1);
        assert_int_equal(b->disks[0].fd, 7);
        assert_int_equal(b->nets[0].mtu, 1500);
        assert_int_equal(b->serial.in_fd, -1);
        assert_int_equal(b->initrd_fd, -1);
        assert_true(b->pvpanic && b->pit && b->sandbox && !b->debug_exit);
        second = vmm_config_format(b);
        assert_string_equal(first, second);
}

static void test_vmm_refusals(void **state) {
        static const struct refusal refusals[] = {
                { "{" VMM_MIN ",\"control_fd\":-2}", "schema-range", "vmm.control_fd: -2 is out of range -1..1048575" },
                { "{" VMM_MIN ",\"initrd_fd\":1048576}", "schema-range",
                  "vmm.initrd_fd: 1048576 is out of range -1..1048575" },
                { "{" VMM_MIN ",\"disks\":[{\"fd\":-1}]}", "schema-range",
                  "vmm.disks[0].fd: -1 is out of range 0..1048575" },
                { "{" VMM_MIN ",\"disks\":[{\"fd\":5,\"iothread_cpus\":[0]}]}", "schema-conflict",
                  "vmm.disks[0].iothread_cpus: is for I/O threads, and the disk has none" },
                { "{" VMM_MIN ",\"disks\":[{\"fd\":5,\"format\":\"vmdk\"}]}", "schema-enum",
                  "vmm.disks[0].format: \"vmdk\" is none of raw, qcow2" },
                { "{" VMM_MIN ",\"oem_strings\":[\"\\u00e9\"]}", "schema-pattern",
                  "vmm.oem_strings[0]: only printable ASCII is allowed here" },
                { "{\"version\":2}", "schema-range", "vmm.version: 2 is not 1" },
                { "{\"version\":1,\"name\":\"web\",\"memory\":536870912,\"kvm_fd\":3}", "schema-required",
                  "vmm.kernel_fd: is missing" },
        };

        for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                struct vmm_config *v;

                assert_int_equal(vmm_config_parse(refusals[i].json, strlen(refusals[i].json), &v, &e), -EINVAL);
                assert_string_equal(e.id, refusals[i].id);
                assert_string_equal(e.message, refusals[i].message);
        }
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

static int run_parse(struct machine_config *m, struct run_options *run, struct error *e, const char *line) {
        _cleanup_free_ char *copy = strdup(line);
        char *argv[32], *rest = copy, *word;
        int argc = 0;

        while ((word = strsep(&rest, " ")) && argc < 32)
                argv[argc++] = word;
        return schema_command_parse(&schema_command_run, argc, argv, (void *[]){ m, run }, e);
}

static void test_run_options(void **state) {
        _cleanup_(machine_config_freep) struct machine_config *m = NULL;
        _cleanup_(run_options_freep) struct run_options *run = NULL;

        assert_int_equal(machine_config_new(&m), 0);
        assert_int_equal(run_options_new(&run), 0);
        assert_int_equal(run_parse(m, run, NULL,
                                   "debian/12 --cpus=4 --memory 1.5G --disk a,,b,format=qcow2,readonly --disk c "
                                   "--disk a.b=c,throttle.iops=500,throttle.bps=100M,throttle.group=slow "
                                   "--net tap=tap0,mtu=9000 --net user --engine native --explain --format json "
                                   "--numa 0-1+3,memory=1G --numa cpus=2,memory=512M --append root=/dev/vda1"),
                         0);
        assert_int_equal(machine_config_check(m, NULL), 0);
        assert_string_equal(m->image, "debian/12");
        assert_int_equal(m->cpus, 4);
        assert_int_equal(m->memory, 3ull << 29);
        assert_int_equal(m->n_disks, 3);
        assert_string_equal(m->disks[0].path, "a,b");
        assert_int_equal(m->disks[0].format, MACHINE_DISK_FORMAT_QCOW2);
        assert_true(m->disks[0].readonly);
        assert_false(m->disks[1].readonly);
        assert_string_equal(m->disks[2].path, "a.b=c");
        assert_int_equal(m->disks[2].throttle.iops, 500);
        assert_int_equal(m->disks[2].throttle.bps, 100 << 20);
        assert_int_equal(m->disks[2].throttle.burst_seconds, 1);
        assert_string_equal(m->disks[2].throttle.group, "slow");
        assert_int_equal(m->nets[0].type, MACHINE_NET_TYPE_TAP);
        assert_string_equal(m->nets[0].interface, "tap0");
        assert_int_equal(m->nets[0].mtu, 9000);
        assert_int_equal(m->nets[1].type, MACHINE_NET_TYPE_USER);
        assert_int_equal(m->numa[0].n_cpus, 3);
        assert_int_equal(m->numa[0].cpus[2], 3);
        assert_string_equal(m->append, "root=/dev/vda1");
        assert_true(run->explain);
        assert_int_equal(run->format, OUTPUT_FORMAT_JSON);
}

/* A typing mistake in a command must not start a machine that is not the one that was asked for. */
static void test_run_refusals(void **state) {
        static const struct refusal refusals[] = {
                { "tiny --cpus 300", "schema-range", "--cpus: 300 is out of range 1..254" },
                { "tiny --cpus four", "schema-type", "--cpus: \"four\" is no number" },
                { "tiny --cpus", "option-argument", "--cpus: needs a value: --cpus N" },
                { "tiny --cpus 1 --cpus 2", "option-twice", "--cpus: given twice" },
                { "tiny --cpu 2", "option-unknown", "--cpu: unknown option, did you mean --cpus?" },
                { "tiny --memory 5M5", "schema-type",
                  "--memory: \"5M5\" is no size (bytes, or a number with K, M, G or T)" },
                { "tiny --disk a,formt=raw", "schema-unknown-key", "--disk.formt: unknown key, did you mean format?" },
                { "tiny --disk a,readonly=maybe", "schema-type", "--disk.readonly: \"maybe\" is neither on nor off" },
                { "tiny --disk a,throttle.iop=1", "schema-unknown-key",
                  "--disk.throttle.iop: unknown key, did you mean iops?" },
                { "tiny --disk a,throttle=1", "option-argument",
                  "--disk.throttle: is set by its parts: throttle.group=..." },
                { "tiny --disk a,throttle.iops=x", "schema-type",
                  "--disk.throttle.iops: \"x\" is no size (bytes, or a number with K, M, G or T)" },
                { "tiny --disk a,format.raw=1", "schema-unknown-key",
                  "--disk.format.raw: unknown key; known are: path, type, format, readonly, serial, iothreads, "
                  "iothread_cpus, read_error, write_error, throttle, cache, discard, logical_block_size, "
                  "physical_block_size, discard_granularity" },
                { "tiny --disk a,iothread_cpus=1-2", "schema-conflict",
                  "--disk.iothread_cpus: is for I/O threads, and the disk has none" },
                { "tiny --disk a,iothreads=2,iothread_cpus=1-3+2", "schema-conflict",
                  "--disk.iothread_cpus: CPU 2 is named twice" },
                { "tiny --disk a,iothreads=2,iothread_cpus=8192", "schema-range",
                  "--disk.iothread_cpus: 8192 is out of range 0..8191" },
                { "tiny --disk a,iothreads=2,iothread_cpus=", "schema-type",
                  "--disk.iothread_cpus: \"\" is no number" },
                { "tiny --disk a,logical_block_size=1000", "schema-range",
                  "--disk.logical_block_size: 1000 is not a power of two from 512 on" },
                { "tiny --disk a,logical_block_size=4K,physical_block_size=512", "schema-conflict",
                  "--disk.physical_block_size: 512 is smaller than logical_block_size, 4096" },
                { "tiny --disk a,type=vhost-user,cache=none", "schema-conflict",
                  "--disk: is a vhost-user disk: format, threads, limits, errors, cache and sizes are its back end's" },
                { "tiny --disk a,type=vhost-user,iothreads=2", "schema-conflict",
                  "--disk: is a vhost-user disk: format, threads, limits, errors, cache and sizes are its back end's" },
                { "tiny --disk a,type=vhost-user,throttle.iops=2", "schema-conflict",
                  "--disk: is a vhost-user disk: format, threads, limits, errors, cache and sizes are its back end's" },
                { "tiny --disk readonly=on", "schema-required", "--disk.path: is missing" },
                { "tiny --net tap", "schema-required", "--net.interface: a tap needs an interface" },
                { "tiny --net user=x", "schema-conflict",
                  "--net.interface: only a tap has an interface, not type user" },
                { "tiny --net tap=abcdefghijklmnop", "schema-too-long",
                  "--net.interface: 16 bytes are too long, at most 15 are allowed" },
                { "tiny --net brige", "schema-enum", "--net.type: \"brige\" is none of none, user, tap, network" },
                { "tiny --explain=perhaps", "schema-type", "--explain: \"perhaps\" is neither on nor off" },
                { "tiny --numa 3-1,memory=1G", "schema-range", "--numa.cpus: 3-1 runs backwards" },
                { "tiny other", "argument-unexpected", "unexpected argument \"other\"" },
                { "tiny -x", "option-unknown", "--x: unknown option" },
        };

        for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
                _cleanup_(machine_config_freep) struct machine_config *m = NULL;
                _cleanup_(run_options_freep) struct run_options *run = NULL;
                _cleanup_error_ struct error e = ERROR_INIT;

                assert_int_equal(machine_config_new(&m), 0);
                assert_int_equal(run_options_new(&run), 0);
                assert_int_equal(run_parse(m, run, &e, refusals[i].json), -EINVAL);
                assert_string_equal(e.message, refusals[i].message);
                assert_string_equal(e.id, refusals[i].id);
        }
}

/* A short form must be the long one; several names must all be kept; a guest's command keeps its own options. */
static void test_short_forms_and_lists(void **state) {
        char *list[] = { (char *)"machine", (char *)"start" },
             *names[] = { (char *)"a", (char *)"--detach", (char *)"b" };
        char *exec[] = { (char *)"--timeout", (char *)"5", (char *)"web", (char *)"ls", (char *)"--all", (char *)"-l" };
        _cleanup_(request_options_freep) struct request_options *request = NULL, *request2 = NULL;
        _cleanup_(machine_exec_request_freep) struct machine_exec_request *how = NULL;
        _cleanup_(client_options_freep) struct client_options *client = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        int words = 0;

        assert_ptr_equal(schema_command_find(2, list, &words), &schema_command_machine_start);
        assert_int_equal(words, 2);
        assert_ptr_equal(schema_command_find(1, list + 1, &words), &schema_command_machine_start);
        assert_int_equal(words, 1);
        assert_int_equal(request_options_new(&request), 0);
        assert_int_equal(request_options_new(&request2), 0);
        assert_int_equal(machine_exec_request_new(&how), 0);
        assert_int_equal(client_options_new(&client), 0);
        assert_int_equal(
                schema_command_parse(&schema_command_machine_start, 3, names, (void *[]){ request, client }, &e), 0);
        assert_int_equal(request->n_names, 2);
        assert_string_equal(request->names[1], "b");
        assert_true(request->detach);
        assert_int_equal(
                schema_command_parse(&schema_command_machine_exec, 6, exec, (void *[]){ request2, how, client }, &e),
                0);
        assert_int_equal(how->timeout, 5);
        assert_int_equal(request2->n_words, 3);
        assert_string_equal(request2->words[1], "--all");
        assert_int_equal(schema_command_parse(&schema_command_machine_exec, 1, exec + 2,
                                              (void *[]){ request2, how, client }, &e),
                         -EINVAL);
}

/* One field from FIELD=VALUE, nested ones too, with the checks of every other way in. */
static void test_set_text(void **state) {
        _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
        static const char *const wrong[] = { "memory",     "memry=1G", "cpus=0", "limits=x",
                                             "limits.x=1", "name.x=1", "=",      "" };

        assert_int_equal(machine_definition_new(&d), 0);
        assert_int_equal(schema_set_text(&machine_definition_schema, d, "machine", "memory=2G", NULL), 0);
        assert_int_equal(schema_set_text(&machine_definition_schema, d, "machine", "limits.cpus=1-2", NULL), 0);
        assert_int_equal(d->base.memory, 2ull << 30);
        assert_int_equal(d->limits.n_cpus, 2);
        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;

                assert_int_equal(schema_set_text(&machine_definition_schema, d, "machine", wrong[i], &e), -EINVAL);
                assert_non_null(e.message);
        }
}

static void test_commands(void **state) {
        char *argv[] = { (char *)"image", (char *)"build", (char *)"debian/12" };
        _cleanup_(image_build_request_freep) struct image_build_request *image = NULL;
        _cleanup_(request_options_freep) struct request_options *request = NULL;
        _cleanup_(client_options_freep) struct client_options *client = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        int words = 0;

        assert_ptr_equal(schema_command_find(3, argv, &words), &schema_command_image_build);
        assert_int_equal(words, 2);
        assert_null(schema_command_find(1, argv, &words));
        assert_int_equal(image_build_request_new(&image), 0);
        assert_int_equal(request_options_new(&request), 0);
        assert_int_equal(client_options_new(&client), 0);
        void *objects[] = { image, request, client };
        assert_int_equal(schema_command_parse(&schema_command_image_build, 0, NULL, objects, &e), -EINVAL);
        assert_string_equal(e.id, "argument-missing");
        assert_int_equal(schema_command_parse(&schema_command_image_build, 1, argv + 2, objects, NULL), 0);
        assert_string_equal(image->name, "debian/12");
}

/* Bytes that are no UTF-8 could not be written as JSON again. */
static void test_not_utf8(void **state) {
        static const char *const bad[] = {
                "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "a\x80"
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(machine_config_freep) struct machine_config *m = NULL;
                _cleanup_error_ struct error e = ERROR_INIT;

                assert_int_equal(machine_config_new(&m), 0);
                m->image = strdup("tiny");
                m->append = strdup("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
                assert_int_equal(machine_config_check(m, NULL), 0);
                m->exec = strdup(bad[i]);
                assert_int_equal(machine_config_check(m, &e), -EINVAL);
                assert_string_equal(e.message, "machine.exec: is not UTF-8");
        }
}

/* A struct filled by hand passes through the same checks as JSON: its callers rely on it before they act. */
static void test_check_by_hand(void **state) {
        _cleanup_(machine_config_freep) struct machine_config *m = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(machine_config_new(&m), 0);
        m->kernel = strdup("/boot/vmlinuz");
        m->engine = (enum machine_engine)7;
        assert_int_equal(machine_config_check(m, &e), -EINVAL);
        assert_string_equal(e.message, "machine.engine: 7 is no value of this field");
        assert_null(machine_config_format(m));
        m->engine = MACHINE_ENGINE_QEMU;
        assert_int_equal(machine_config_check(m, NULL), 0);
        assert_int_equal(machine_engine_from_string("native"), MACHINE_ENGINE_NATIVE);
        assert_int_equal(machine_engine_from_string("nativ"), -EINVAL);
        assert_null(machine_engine_to_string((enum machine_engine)7));
}

static void test_help(void **state) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        schema_command_help(&schema_command_run, f);
        fclose(f);
        assert_non_null(strstr(text, "usage: lodge run [IMAGE] [OPTION]..."));
        assert_non_null(strstr(text, "virtual CPUs (1..254, default 1)"));
        assert_non_null(strstr(text, "memory (4M..4T, default 512M)"));
        free(text);
}

/* An option that the new file can't have is not dropped: who asked for space to be allocated would believe that it is. */
static void test_raw_files_have_no_qcow2_options(void **state) {
        struct disk_file_options *o;
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(disk_file_options_new(&o), 0);
        o->file = strdup("disk");
        o->preallocate = true;
        assert_int_equal(disk_file_options_check(o, &e), 0);
        o->to = MACHINE_DISK_FORMAT_RAW;
        assert_int_equal(disk_file_options_check(o, &e), -EINVAL);
        assert_string_equal(e.id, "schema-conflict");
        assert_non_null(strstr(e.message, "--preallocate"));
        o->preallocate = false;
        assert_int_equal(disk_file_options_check(o, NULL), 0);
        disk_file_options_free(o);
}

/* A subnet that is none, or one that takes the host's loopback away, must not get as far as the kernel. */
static void test_network_refusals(void **state) {
        static const struct refusal refusals[] = {
                { "{}", "schema-required", "network.name: is missing" },
                { "{\"name\":\"../x\"}", "schema-pattern",
                  "network.name: \"../x\" does not match ^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" },
                { "{\"name\":\"n\",\"bridge\":\"a/b\"}", "schema-pattern",
                  "network.bridge: \"a/b\" does not match ^[A-Za-z0-9][A-Za-z0-9_.-]*$" },
                { "{\"name\":\"n\",\"subnet\":\"10.1.2.3\"}", "schema-pattern",
                  "network.subnet: \"10.1.2.3\" is no IPv4 subnet" },
                { "{\"name\":\"n\",\"subnet\":\"10.1.2.3/24\"}", "schema-pattern",
                  "network.subnet: \"10.1.2.3/24\" is an address within 10.1.2.0/24: write that" },
                { "{\"name\":\"n\",\"subnet\":\"10.1.2.0/29\"}", "schema-range",
                  "network.subnet: /29 is out of range /16../28" },
                { "{\"name\":\"n\",\"subnet\":\"127.1.2.0/24\"}", "schema-range",
                  "network.subnet: \"127.1.2.0/24\" holds no addresses that a machine can have" },
                { "{\"name\":\"n\",\"subnet6\":\"2001:db8::/64\"}", "schema-range",
                  "network.subnet6: \"2001:db8::/64\" is not within fd00::/8, the unique local addresses" },
                { "{\"name\":\"n\",\"ipv6\":false,\"subnet6\":\"fd00::/64\"}", "schema-conflict",
                  "network.subnet6: is for IPv6, which is off" },
                { "{\"name\":\"n\",\"domain\":\"a..b\"}", "schema-pattern",
                  "network.domain: \"a..b\" does not match "
                  "^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$" },
                { "{\"name\":\"n\",\"forwards\":[{\"host_port\":0,\"machine\":\"m\",\"machine_port\":1}]}",
                  "schema-range", "network.forwards[0].host_port: 0 is out of range 1..65535" },
                { "{\"name\":\"n\",\"forwards\":[{\"host_port\":1,\"machine\":\"m\",\"machine_port\":1,"
                  "\"host_address\":\"1.2.3\"}]}",
                  "schema-pattern", "network.forwards[0].host_address: \"1.2.3\" is no IP address" },
                { "{\"name\":\"n\",\"forwards\":[{\"host_port\":1,\"machine\":\"m\",\"machine_port\":1},"
                  "{\"host_port\":1,\"machine\":\"x\",\"machine_port\":2,\"host_address\":\"192.0.2.1\"}]}",
                  "schema-conflict", "network.forwards[1]: host port 1 leads to m already" },
        };

        for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
                _cleanup_error_ struct error e = ERROR_INIT;
                struct network_config *c = (void *)1;

                assert_int_equal(network_config_parse(refusals[i].json, strlen(refusals[i].json), &c, &e), -EINVAL);
                assert_string_equal(e.id, refusals[i].id);
                assert_string_equal(e.message, refusals[i].message);
                assert_ptr_equal(c, (void *)1);
        }
}

/* A template whose values do not parse, or that overwrites what was said, would make machines that nobody asked for. */
static void test_templates(void **state) {
        assert_true(schema_n_templates > 0);
        for (unsigned int i = 0; i < schema_n_templates; i++) {
                const struct schema_template *t = &schema_templates[i];
                _cleanup_(machine_definition_freep) struct machine_definition *d = NULL;
                _cleanup_error_ struct error e = ERROR_INIT;
                _cleanup_free_ char *text = NULL;
                json_auto_t *body = json_pack("{s:s, s:s, s:i, s:s}", "template", t->name, "image", "i", "cpus", 3,
                                              "video", "none");

                assert_ptr_equal(schema_template_find(t->name), t);
                assert_int_equal(schema_template_apply(body, &e), 0);
                text = json_dumps(body, JSON_COMPACT);
                if (machine_definition_parse(text, strlen(text), &d, &e) < 0)
                        fail_msg("%s: %s", t->name, e.message);
                assert_int_equal(d->base.cpus, 3);
                assert_int_equal(d->base.video, MACHINE_VIDEO_NONE);
                assert_string_equal(d->template, t->name);
                for (unsigned int k = 0; k < t->n_fields; k++) {
                        assert_non_null(json_object_get(body, t->fields[k].field));
                        assert_true(strlen(t->fields[k].why) > 10);
                }
        }
}

static void test_templates_that_are_none(void **state) {
        static const char *const others[] = { "\"nothing\"", "\"\"", "\"windows-12\"", "5", "null", "[\"tiny\"]" };
        _cleanup_error_ struct error e = ERROR_INIT;
        json_auto_t *none = json_pack("{s:s}", "image", "i");

        assert_int_equal(schema_template_apply(none, &e), 0);
        assert_int_equal(json_object_size(none), 1);
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                json_auto_t *body = json_object();
                int r;

                error_clear(&e);
                json_object_set_new(body, "template", json_loads(others[i], JSON_DECODE_ANY, NULL));
                r = schema_template_apply(body, &e);
                assert_int_equal(r, others[i][0] == '"' ? -EINVAL : 0); /* what is no text, the schema refuses */
                assert_int_equal(json_object_size(body), 1);
                if (r < 0)
                        assert_string_equal(e.id, "template-unknown");
        }
}

/* Which options were among the words is what tells a default that was said from one that was not. */
static void test_given_options(void **state) {
        char *words[] = { (char *)"--cpus", (char *)"1", (char *)"--net=none", (char *)"--tpm=off" };
        const struct schema_command *cmd = &schema_command_machine_define;
        void *objects[SCHEMA_OBJECTS_MAX] = { NULL };
        uint64_t given = 0;
        unsigned int n = 0;

        for (size_t i = 0; i < SCHEMA_OBJECTS_MAX && cmd->objects[i]; i++)
                assert_int_equal(schema_new(cmd->objects[i], &objects[i]), 0);
        assert_int_equal(schema_command_parse_given(cmd, 4, words, objects, &given, NULL), 0);
        for (unsigned int i = 0; i < cmd->n_options; i++)
                if (given & 1ull << i) {
                        n++;
                        assert_true(strcmp(cmd->options[i].name, "cpus") == 0 ||
                                    strcmp(cmd->options[i].name, "net") == 0 ||
                                    strcmp(cmd->options[i].name, "tpm") == 0);
                }
        assert_int_equal(n, 3);
        for (size_t i = 0; i < SCHEMA_OBJECTS_MAX && cmd->objects[i]; i++)
                schema_free(cmd->objects[i], objects[i]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_network_refusals),
                cmocka_unit_test(test_machine_refusals),
                cmocka_unit_test(test_bounds_on_text),
                cmocka_unit_test(test_machine_defaults),
                cmocka_unit_test(test_vmm_round_trip),
                cmocka_unit_test(test_vmm_refusals),
                cmocka_unit_test(test_run_options),
                cmocka_unit_test(test_run_refusals),
                cmocka_unit_test(test_commands),
                cmocka_unit_test(test_short_forms_and_lists),
                cmocka_unit_test(test_set_text),
                cmocka_unit_test(test_not_utf8),
                cmocka_unit_test(test_check_by_hand),
                cmocka_unit_test(test_raw_files_have_no_qcow2_options),
                cmocka_unit_test(test_help),
                cmocka_unit_test(test_templates),
                cmocka_unit_test(test_templates_that_are_none),
                cmocka_unit_test(test_given_options),
        };

        return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
