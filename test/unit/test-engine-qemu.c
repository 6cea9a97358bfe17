// SPDX-License-Identifier: GPL-2.0-or-later
/* engine-qemu, engine-native, engine-auto: what both engines are told, and which one is taken */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/parts-firmware.h"

static const struct engine_ends ends = { .control_fd = 20, .console_fd = 21, .agent_fd = 22, .log_fd = -1 };

static void fill(struct parts *p, struct machine_config *c) {
        struct machine_disk_config *disk;

        *p = (struct parts){ .config = c, .kernel_fd = 30, .initrd_fd = 31 };
        snprintf(p->name, sizeof(p->name), "web");
        snprintf(p->uuid, sizeof(p->uuid), "11111111-2222-4333-8444-555555555555");
        p->append = (char *)"console=ttyS0 quiet,odd";
        p->n_disks = LAYOUT_DISKS_MAX;
        for (size_t i = 0; i < p->n_disks; i++)
                assert_int_equal(machine_config_add_disks(c, &disk), 0);
        for (size_t i = 0; i < p->n_disks; i++)
                p->disks[i] = (struct part_disk){ .fd = 40 + (int)i, .config = &c->disks[i] };
        c->disks[1].readonly = true;
        c->disks[2].serial = strdup("a,b");
        p->n_nets = LAYOUT_NETS_MAX;
        for (size_t i = 0; i < p->n_nets; i++) {
                p->nets[i] = (struct part_net){ .type = i == 1 ? MACHINE_NET_TYPE_TAP : MACHINE_NET_TYPE_USER,
                                                .fd = 70 + (int)i,
                                                .mtu = 1500 };
                parts_mac("web", (unsigned int)i, p->nets[i].mac);
        }
}

static bool has(char **argv, const char *text) {
        for (; *argv; argv++)
                if (strcmp(*argv, text) == 0)
                        return true;
        return false;
}

/* @prefix...@suffix in one argument. */
static bool has_parts(char **argv, const char *prefix, const char *suffix) {
        for (; *argv; argv++)
                if (strncmp(*argv, prefix, strlen(prefix)) == 0 && strstr(*argv, suffix))
                        return true;
        return false;
}

/* A guest that changes engines must find its devices at the same addresses: every one, the last included. */
static void test_addresses_equal_the_layout(void **state) {
        struct machine_config *c = NULL;
        struct parts p;
        char **argv, text[64], fd[64];

        assert_int_equal(machine_config_new(&c), 0);
        fill(&p, c);
        assert_int_equal(engine_qemu_arguments(&p, &ends, false, &argv), 0);
        snprintf(text, sizeof(text), "bus=pcie.0,addr=0x%x", LAYOUT_SLOT_CONSOLE);
        assert_true(has_parts(argv, "virtio-serial-pci-non-transitional,", text));
        snprintf(text, sizeof(text), "bus=pcie.0,addr=0x%x", LAYOUT_SLOT_RNG);
        assert_true(has_parts(argv, "virtio-rng-pci-non-transitional,", text));
        for (unsigned int i = 0; i < LAYOUT_DISKS_MAX; i++) {
                snprintf(fd, sizeof(fd), "virtio-blk-pci-non-transitional,drive=disk%u,", i);
                snprintf(text, sizeof(text), "addr=0x%x", LAYOUT_SLOT_DISK + i);
                assert_true(has_parts(argv, fd, text));
                snprintf(fd, sizeof(fd), "fd=%u,set=%u", 40 + i, i + 1);
                assert_true(has(argv, fd));
        }
        for (unsigned int i = 0; i < LAYOUT_NETS_MAX; i++) {
                snprintf(fd, sizeof(fd), "virtio-net-pci-non-transitional,netdev=net%u,", i);
                snprintf(text, sizeof(text), "addr=0x%x", LAYOUT_SLOT_NET + i);
                assert_true(has_parts(argv, fd, text));
        }
        snprintf(text, sizeof(text), "pvpanic,ioport=0x%x", LAYOUT_PORT_PVPANIC);
        assert_true(has(argv, text));
        engine_free_arguments(argv);
        machine_config_free(c);
}

/* A back end's process needs the guest's memory, and both engines must find its socket anew each time. */
static void test_a_disk_of_a_back_end(void **state) {
        _cleanup_(vmm_config_freep) struct vmm_config *v = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_free_ char *json = NULL;
        struct engine engine = ENGINE_INIT;
        struct machine_config *c = NULL;
        struct parts p;
        char **argv;

        assert_int_equal(machine_config_new(&c), 0);
        fill(&p, c);
        p.disks[3].socket = (char *)"a,sock";
        p.disks[3].dir_fd = 90;
        assert_int_equal(engine_qemu_arguments(&p, &ends, true, &argv), 0);
        assert_true(has(argv, "socket,id=backend3,path=/proc/self/fd/90/a,,sock,reconnect=1"));
        assert_true(has_parts(argv, "vhost-user-blk-pci-non-transitional,chardev=backend3,", ",addr=0xe"));
        assert_true(has_parts(argv, "memory-backend-memfd,id=memory0,size=512M", ""));
        assert_true(has(argv, "memory-backend=memory0"));
        assert_false(has_parts(argv, "driver=file,node-name=file3,", ""));
        engine_free_arguments(argv);
        json = engine_native_config(&p, &ends, 5);
        assert_int_equal(vmm_config_parse(json, strlen(json), &v, &error), 0);
        assert_true(v->disks[3].vhost_user);
        assert_int_equal(v->disks[3].fd, 43);
        assert_false(v->disks[2].vhost_user);
        c->disks[3].readonly = true; /* QEMU would let the guest write */
        assert_int_equal(engine_qemu_start(&p, &ends, true, NULL, &engine, &error), -ENOTSUP);
        assert_string_equal(error.id, "disk-backend");
        machine_config_free(c);
}

/* QEMU must open no image by the name in another one's header, and a daemon's socket must not wait for the daemon. */
static void test_a_chain_and_a_listening_socket(void **state) {
        struct engine_ends listening = ends;
        struct machine_config *c = NULL;
        struct parts p;
        char **argv;

        assert_int_equal(machine_config_new(&c), 0);
        fill(&p, c);
        for (size_t i = 3; i < 5; i++) {
                c->disks[i].format = MACHINE_DISK_FORMAT_QCOW2;
                p.disks[i].backing[0] = (struct part_backing){ 80 + (int)i, MACHINE_DISK_FORMAT_QCOW2 };
                p.disks[i].n_backing = 1;
        }
        p.disks[4].backing[1] = (struct part_backing){ 90, MACHINE_DISK_FORMAT_RAW };
        p.disks[4].n_backing = 2;
        listening.control_listens = true;
        assert_int_equal(engine_qemu_arguments(&p, &listening, true, &argv), 0);
        assert_true(has(argv, "socket,id=control,fd=20,server=on,wait=off"));
        assert_true(has_parts(argv, "driver=qcow2,node-name=disk3,file=file3,backing=backing3-0,", "read-only=off"));
        assert_true(has_parts(argv, "{\"driver\":\"qcow2\",\"node-name\":\"backing3-0\",", "\"backing\":null,"));
        assert_true(has_parts(argv, "driver=qcow2,node-name=disk4,", ",backing=backing4-0,"));
        assert_true(has_parts(argv, "driver=qcow2,node-name=backing4-0,", ",backing=backing4-1,read-only=on"));
        assert_true(has_parts(argv, "driver=raw,node-name=backing4-1,file=backing4-1-file,read-only=on", ""));
        assert_true(has_parts(argv, "driver=file,node-name=backing4-1-file,", ",read-only=on"));
        assert_true(has_parts(argv, "fd=90,set=", ""));
        engine_free_arguments(argv);
        machine_config_free(c);
}

/* Threads that were to be placed must arrive so, or be refused: not run anywhere in silence. */
static void test_places_of_threads(void **state) {
        uint32_t *cpus = calloc(2, sizeof(*cpus));
        _cleanup_(vmm_config_freep) struct vmm_config *v = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_free_ char *json = NULL;
        struct engine engine = ENGINE_INIT;
        struct machine_config *c = NULL;
        struct parts p;

        assert_int_equal(machine_config_new(&c), 0);
        fill(&p, c);
        c->disks[2].iothreads = 2;
        cpus[0] = 5;
        cpus[1] = 3;
        c->disks[2].iothread_cpus = cpus;
        c->disks[2].n_iothread_cpus = 2;
        json = engine_native_config(&p, &ends, 5);
        assert_int_equal(vmm_config_parse(json, strlen(json), &v, &error), 0);
        assert_int_equal(v->disks[1].n_iothread_cpus, 0);
        assert_int_equal(v->disks[2].n_iothread_cpus, 2);
        assert_int_equal(v->disks[2].iothread_cpus[0], 5);
        assert_int_equal(v->disks[2].iothread_cpus[1], 3);
        assert_int_equal(engine_qemu_start(&p, &ends, true, NULL, &engine, &error), -ENOTSUP);
        assert_string_equal(error.id, "disk-cpus");
        machine_config_free(c);
}

/* Values of the person's must not turn into options of QEMU's; formats and modes must arrive. */
static void test_values_arrive_as_they_are(void **state) {
        struct machine_config *c = NULL;
        struct parts p;
        char **argv;

        assert_int_equal(machine_config_new(&c), 0);
        c->cpus = 3;
        fill(&p, c);
        c->disks[3].format = MACHINE_DISK_FORMAT_QCOW2;
        c->disks[4].iothreads = 3;
        c->disks[4].read_error = DISK_READ_ERROR_PAUSE;
        c->disks[4].write_error = DISK_WRITE_ERROR_IGNORE;
        c->disks[5].throttle = (struct throttle_config){ .group = strdup("g") };
        c->disks[6].throttle = (struct throttle_config){
                .group = strdup("g"), .iops = 50, .bps_write = 4096, .bps_write_burst = 8192, .burst_seconds = 3
        };
        c->disks[7].throttle = (struct throttle_config){ .iops_read = 9, .burst_seconds = 1 };
        c->disks[8].throttle = (struct throttle_config){ .burst_seconds = 1 };
        c->disks[9].cache = DISK_CACHE_DIRECTSYNC;
        c->disks[9].discard = DISK_DISCARD_IGNORE;
        c->disks[9].logical_block_size = 4096;
        c->disks[9].physical_block_size = 8192;
        c->disks[9].discard_granularity = 65536;
        assert_int_equal(engine_qemu_arguments(&p, &ends, true, &argv), 0);
        assert_true(has(argv, "throttle-group,id=throttle5,x-bps-write=4096,x-bps-write-max=8192,"
                              "x-bps-write-max-length=3,x-iops-total=50"));
        assert_true(has(argv, "throttle-group,id=throttle7,x-iops-read=9"));
        assert_true(has(argv, "driver=throttle,node-name=disk5,throttle-group=throttle5,file=format5"));
        assert_true(has(argv, "driver=throttle,node-name=disk6,throttle-group=throttle5,file=format6"));
        assert_true(has_parts(argv, "driver=raw,node-name=format6,", "file=file6"));
        assert_true(has_parts(argv, "driver=raw,node-name=disk8,", "file=file8"));
        assert_false(has_parts(argv, "throttle-group,id=throttle6", ""));
        assert_true(has(argv, "console=ttyS0 quiet,odd"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk2,", ",serial=a,,b"));
        assert_true(has_parts(argv, "{\"driver\":\"qcow2\",\"node-name\":\"disk3\",", "\"backing\":null"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk4,", ",num-queues=3"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk4,", ",rerror=stop,werror=ignore"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk5,", ",rerror=report,werror=enospc"));
        assert_false(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk5,", ",num-queues"));
        assert_true(has_parts(argv, "driver=raw,node-name=disk1,", "read-only=on"));
        assert_true(has_parts(argv, "driver=file,node-name=file8,", "discard=unmap,aio=threads,cache.direct=off"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk8,", ",write-cache=on"));
        assert_true(has_parts(argv, "driver=file,node-name=file9,", "discard=ignore,aio=threads,cache.direct=on"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk9,",
                              ",write-cache=off,logical_block_size=4096,physical_block_size=8192,"
                              "discard_granularity=65536"));
        assert_true(has(argv, "tap,id=net1,fd=71"));
        assert_true(has_parts(argv, "q35,accel=kvm,", ""));
        assert_true(has(argv, "-nodefaults"));
        assert_true(has(argv, "/proc/self/fd/30"));
        assert_true(has(argv, "3"));
        assert_true(has_parts(argv, "on,obsolete=deny", "spawn=deny"));
        engine_free_arguments(argv);
        machine_config_free(c);
}

/* QEMU takes a node's CPUs in one argument only; huge pages that silently stay away would be paid for and not had. */
static void test_memory_is_laid_out_as_asked(void **state) {
        struct machine_config *c = NULL;
        struct numa_config *n;
        struct parts p;
        char **argv;

        assert_int_equal(machine_config_new(&c), 0);
        c->hugepages = MACHINE_HUGEPAGES_2M;
        fill(&p, c);
        assert_int_equal(engine_qemu_arguments(&p, &ends, true, &argv), 0);
        assert_true(has_parts(argv, "memory-backend-memfd,id=memory0,size=512M,", "hugetlb=on,hugetlbsize=2M"));
        assert_true(has(argv, "memory-backend=memory0"));
        engine_free_arguments(argv);

        assert_int_equal(machine_config_add_numa(c, &n), 0);
        n->cpus = calloc(2, sizeof(*n->cpus));
        n->n_cpus = 2;
        n->cpus[1] = 1;
        n->memory = 512ull << 20;
        assert_int_equal(engine_qemu_arguments(&p, &ends, true, &argv), 0);
        assert_true(has(argv, "node,nodeid=0,memdev=memory0,cpus=0,cpus=1"));
        assert_true(has_parts(argv, "memory-backend-memfd,id=memory0,size=512M,", "hugetlbsize=2M"));
        assert_false(has(argv, "memory-backend=memory0"));
        engine_free_arguments(argv);
        machine_config_free(c);
}

/* What native gets must be a valid vmm object, or lodge-vmm refuses to start. */
static void test_native_config_is_valid(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct machine_config *c = NULL;
        struct vmm_config *v = NULL;
        struct parts p;
        char *json;

        assert_int_equal(machine_config_new(&c), 0);
        fill(&p, c);
        c->disks[4].cache = DISK_CACHE_NONE;
        c->disks[5].cache = DISK_CACHE_WRITETHROUGH;
        c->disks[5].discard = DISK_DISCARD_IGNORE;
        c->disks[5].logical_block_size = 4096;
        c->disks[5].discard_granularity = 65536;
        json = engine_native_config(&p, &ends, 19);
        assert_non_null(json);
        assert_int_equal(vmm_config_parse(json, strlen(json), &v, &e), 0);
        assert_int_equal(v->kvm_fd, 19);
        assert_int_equal(v->initrd_fd, 31);
        assert_int_equal(v->n_disks, LAYOUT_DISKS_MAX);
        assert_int_equal(v->disks[1].readonly, true);
        assert_string_equal(v->disks[2].serial, "a,b");
        assert_true(v->disks[3].write_cache && v->disks[3].discard && !v->disks[3].direct);
        assert_true(v->disks[4].write_cache && v->disks[4].direct);
        assert_false(v->disks[5].write_cache || v->disks[5].discard || v->disks[5].direct);
        assert_int_equal(v->disks[5].logical_block_size, 4096);
        assert_int_equal(v->disks[5].discard_granularity, 65536);
        assert_int_equal(v->nets[1].type, VMM_NET_TYPE_TAP);
        assert_string_equal(v->ports[0].name, "org.qemu.guest_agent.0");
        assert_int_equal(v->control_fd, 20);
        assert_int_equal(v->serial.in_fd, 21);
        vmm_config_free(v);
        free(json);
        machine_config_free(c);
}

/* Two machines on one network with the same address take each other down; a machine's own must not change. */
static void test_mac(void **state) {
        char a[18], b[18], other[18];

        parts_mac("web", 0, a);
        parts_mac("web", 0, b);
        parts_mac("web", 1, other);
        assert_string_equal(a, b);
        assert_string_not_equal(a, other);
        parts_mac("db", 0, other);
        assert_string_not_equal(a, other);
        assert_int_equal(strtol(a, NULL, 16) & 3, 2); /* locally administered, unicast */
}

/* native that can't be had is an error that says why; auto falls back and says so. */
static void test_native_without_kvm(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct probe probe = { .verdict = PROBE_MISSING, .evidence = "no device", .cure = "load it" };
        struct machine_config *c = NULL;
        struct engine_choice choice;

        assert_int_equal(machine_config_new(&c), 0);
        c->engine = MACHINE_ENGINE_NATIVE;
        assert_int_equal(engine_decide(c, &probe, &choice, &e), -ENOTSUP);
        assert_string_equal(e.id, "engine-native");
        assert_string_equal(e.fix, "load it");
        assert_non_null(strstr(e.message, "no device"));
        error_clear(&e);
        c->engine = MACHINE_ENGINE_AUTO;
        if (engine_decide(c, &probe, &choice, &e) == 0) {
                assert_int_equal(choice.kind, ENGINE_QEMU);
                assert_true(choice.fallback);
                assert_false(choice.kvm);
                assert_non_null(strstr(choice.reason, "no device"));
        } else /* a host without QEMU */
                assert_string_equal(e.id, "engine-qemu");
        machine_config_free(c);
}

/* A guest with a boot loader needs all of a PC: what is asked for must arrive, and nothing else, nor may a kernel be started past it. */
static void test_a_pc_with_firmware(void **state) {
        struct machine_config *c = NULL;
        struct parts p;
        char **argv;

        assert_int_equal(machine_config_new(&c), 0);
        fill(&p, c);
        assert_int_equal(engine_qemu_arguments(&p, &ends, true, &argv), 0);
        assert_false(has_parts(argv, "", "pflash"));
        assert_false(has_parts(argv, "", "tpm"));
        assert_false(has_parts(argv, "", "hv-"));
        assert_false(has_parts(argv, "", "bootindex"));
        assert_false(has(argv, "-rtc"));
        engine_free_arguments(argv);

        c->firmware = MACHINE_FIRMWARE_UEFI_SECURE;
        c->tpm = c->hyperv = true;
        c->video = MACHINE_VIDEO_VGA;
        c->rtc = MACHINE_RTC_LOCALTIME;
        p.code_fd = 91;
        p.vars_fd = 92;
        p.tpm.fd = 93;
        p.cdrom_fds[0] = 94;
        p.cdrom_fds[1] = 95;
        p.n_cdroms = 2;
        assert_int_equal(engine_qemu_arguments(&p, &ends, true, &argv), 0);
        assert_true(has(argv, "q35,accel=kvm,sata=off,smbus=off,usb=off,vmport=off,pflash0=firmware,"
                              "pflash1=variables,smm=on"));
        assert_true(has(argv, "driver=cfi.pflash01,property=secure,value=on"));
        assert_true(has_parts(argv, "driver=file,node-name=firmware-file,filename=/dev/fdset/50,", "read-only=on"));
        assert_true(has_parts(argv, "driver=file,node-name=variables-file,filename=/dev/fdset/51,", "read-only=off"));
        assert_true(has(argv, "fd=91,set=50"));
        assert_true(has(argv, "fd=92,set=51"));
        assert_true(has(argv, "socket,id=swtpm,fd=93"));
        assert_true(has(argv, "tpm-crb,tpmdev=tpm0"));
        assert_true(has(argv, "fd=95,set=61"));
        assert_true(has(argv, "ide-cd,bus=sata.1,drive=cdrom1,bootindex=101"));
        assert_true(has_parts(argv, "driver=raw,node-name=cdrom1,", "read-only=on"));
        assert_true(has_parts(argv, "virtio-blk-pci-non-transitional,drive=disk0,", ",bootindex=1"));
        assert_true(has_parts(argv, "VGA,", "addr=0x1f.1"));
        assert_true(has(argv, "base=localtime"));
        assert_true(has_parts(argv, "host,migratable=off,hv-relaxed=on,", "hv-stimer=on"));
        assert_false(has(argv, "-kernel"));
        assert_false(has(argv, "-append"));
        engine_free_arguments(argv);

        /* The firmware without Secure Boot runs no code in SMM; an emulator has no enlightenments. */
        c->firmware = MACHINE_FIRMWARE_UEFI;
        assert_int_equal(engine_qemu_arguments(&p, &ends, false, &argv), 0);
        assert_false(has_parts(argv, "", "smm=on"));
        assert_false(has_parts(argv, "", "hv-"));
        assert_false(has_parts(argv, "", "property=secure"));
        engine_free_arguments(argv);

        c->firmware = MACHINE_FIRMWARE_BIOS; /* QEMU's own */
        assert_int_equal(engine_qemu_arguments(&p, &ends, false, &argv), 0);
        assert_false(has_parts(argv, "", "pflash"));
        assert_false(has(argv, "-kernel"));
        engine_free_arguments(argv);
        machine_config_free(c);
}

/* What lodge-vmm has nothing of must lead to QEMU, with that reason, and what QEMU leaves out must be said. */
static void test_what_only_qemu_has(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct probe probe = { .verdict = PROBE_HARDWARE, .evidence = "a guest ran", .cure = "none is needed" };
        struct machine_config *c = NULL;
        struct engine_choice choice;

        assert_int_equal(machine_config_new(&c), 0);
        c->video = MACHINE_VIDEO_VGA;
        c->engine = MACHINE_ENGINE_NATIVE;
        assert_int_equal(engine_decide(c, &probe, &choice, &e), -ENOTSUP);
        assert_string_equal(e.id, "engine-native");
        assert_non_null(strstr(e.message, "video vga: lodge-vmm does not have it yet"));
        assert_non_null(strstr(e.fix, "--engine auto")); /* KVM's cure is none for this */
        error_clear(&e);

        c->engine = MACHINE_ENGINE_AUTO;
        c->hyperv = true;
        probe.verdict = PROBE_MISSING;
        if (engine_decide(c, &probe, &choice, &e) == 0) {
                assert_int_equal(choice.kind, ENGINE_QEMU);
                assert_true(choice.fallback);
                assert_non_null(strstr(choice.reason, "hyperv: lodge-vmm"));
                assert_non_null(strstr(choice.warning, "hyperv is left out"));
                probe.verdict = PROBE_HARDWARE;
                assert_int_equal(engine_decide(c, &probe, &choice, &e), 0);
                assert_string_equal(choice.warning, "");
        } else /* a host without QEMU */
                assert_string_equal(e.id, "engine-qemu");
        machine_config_free(c);
}

static void write_file(const char *dir, const char *name, size_t size) {
        char path[128];
        int fd;

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        unlink(path);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        close(fd);
}

/* Variables are made once and kept; a file that is none must be refused with its name, not given to the guest, and not be overwritten. */
static void test_uefi_variables(void **state) {
        char dir[] = "/tmp/test-variables.XXXXXX", path[64];
        struct parts_options options = { .devices_dir = dir };
        struct machine_config *c = NULL;
        struct stat st, again;
        static const size_t wrong[] = { 0, 1000, 64 << 20 };

        assert_int_equal(machine_config_new(&c), 0);
        c->firmware = MACHINE_FIRMWARE_UEFI;
        if (part_firmware_check(c, NULL) < 0) {
                machine_config_free(c);
                skip();
        }
        assert_non_null(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/uefi.vars", dir);
        for (int i = 0; i < 2; i++) {
                struct parts p = { .config = c, .code_fd = -1, .vars_fd = -1 };

                assert_int_equal(part_firmware_open(&p, &options, NULL), 0);
                assert_int_equal(fstat(p.vars_fd, i ? &again : &st), 0);
                assert_true(fcntl(p.vars_fd, F_GETFL) & O_RDWR);
                assert_false(fcntl(p.code_fd, F_GETFL) & O_RDWR);
                close(p.vars_fd);
                close(p.code_fd);
        }
        assert_int_equal(st.st_ino, again.st_ino);
        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                struct parts p = { .config = c, .code_fd = -1, .vars_fd = -1 };
                _cleanup_error_ struct error e = ERROR_INIT;

                write_file(dir, "uefi.vars", wrong[i]);
                assert_int_equal(part_firmware_open(&p, &options, &e), -EUCLEAN);
                assert_string_equal(e.id, "firmware-vars");
                assert_non_null(strstr(e.fix, path));
                assert_int_equal(p.vars_fd, -1);
                close(p.code_fd);
        }
        unlink(path);
        assert_int_equal(symlink("/etc/hostname", path), 0);
        for (int i = 0; i < 2; i++) { /* a link, a directory */
                struct parts p = { .config = c, .code_fd = -1, .vars_fd = -1 };

                assert_true(part_firmware_open(&p, &options, NULL) < 0);
                close(p.code_fd);
                unlink(path);
                if (i == 0)
                        assert_int_equal(mkdir(path, 0700), 0);
        }
        rmdir(path);
        assert_int_equal(rmdir(dir), 0);
        machine_config_free(c);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_addresses_equal_the_layout),
                cmocka_unit_test(test_a_disk_of_a_back_end),
                cmocka_unit_test(test_a_chain_and_a_listening_socket),
                cmocka_unit_test(test_places_of_threads),
                cmocka_unit_test(test_values_arrive_as_they_are),
                cmocka_unit_test(test_memory_is_laid_out_as_asked),
                cmocka_unit_test(test_native_config_is_valid),
                cmocka_unit_test(test_mac),
                cmocka_unit_test(test_native_without_kvm),
                cmocka_unit_test(test_a_pc_with_firmware),
                cmocka_unit_test(test_what_only_qemu_has),
                cmocka_unit_test(test_uefi_variables),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
