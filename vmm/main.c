// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lodge-vmm: one virtual machine in one process
 *
 * The parent opens everything (the kernel, disks, tap, sockets, /dev/kvm) and starts us with the descriptors in place and a JSON
 * object (schema: vmm) on one more. From then on nothing is opened by path. The order of the start is fixed:
 *
 *      configuration -> memory, VM, buses -> devices -> vCPU threads (parked) -> sandbox -> kernel into memory -> go
 *
 * Exit status: 0 the guest powered off, or was told to quit; (value<<1)|1 through the debug-exit port; 1 bad usage or configuration; 2 the
 * machine could not start or go on, or its kernel panicked.
 */
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/text.h"
#include "schema/lodge-schema.h"
#include "vmm/boot/boot.h"
#include "vmm/control/qmp.h"
#include "vmm/device/device.h"
#include "vmm/device/disk-limits.h"
#include "vmm/device/disk-mirror.h"
#include "vmm/device/virtio-blk.h"
#include "vmm/machine/acpi.h"
#include "vmm/machine/cpus.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/smbios.h"
#include "vmm/sandbox/sandbox.h"

static const char usage[] =
        "lodge-vmm runs one virtual machine; it is started by lodge or lodged, not by hand.\n"
        "\n"
        "  lodge-vmm --config-fd N   the machine as JSON on descriptor N; see lodge-vmm(8)\n"
        "      --startup-cost        say on stderr how much CPU time passed before the first guest instruction\n"
        "      --debug               log more\n"
        "      --version, --help\n"
        "\n"
        "To run a machine: lodge run --help\n";

struct options {
        int config_fd;
        bool startup_cost;
};

static int load(struct machine *machine, struct kvm_regs *regs, struct kvm_sregs *sregs, struct error *e) {
        const struct vmm_config *config = machine->config;
        struct boot_source source = {
                .kernel_fd = config->kernel_fd,
                .initrd_fd = config->initrd_fd,
                .append = config->append,
        };
        struct boot_entry entry;
        int r;

        r = acpi_build(machine, &source.rsdp, e);
        if (r < 0)
                return r;
        r = smbios_build(machine, e);
        if (r < 0)
                return r;
        r = boot_load(machine->memory, &source, sregs, &entry, e);
        if (r < 0)
                return r;
        *regs = entry.regs;
        *sregs = entry.sregs;
        return 0;
}

static int confine_vcpu(struct machine *machine) {
        return machine->config->sandbox ? sandbox_enter_thread(SANDBOX_ROLE_VCPU) : 0;
}

static int confine_block(struct machine *machine) {
        return machine->config->sandbox ? sandbox_enter_thread(SANDBOX_ROLE_BLOCK) : 0;
}

static int confine_io(struct machine *machine) {
        return machine->config->sandbox ? sandbox_enter_thread(SANDBOX_ROLE_IO) : 0;
}

static const struct machine_hooks hooks = {
        .reset_devices = devices_reset,
        .devices_busy = devices_busy,
        .pause_devices = devices_pause,
        .resume_devices = devices_resume,
        .power_button = devices_power_button,
        .set_disk_limits = disk_limits_set,
        .resize_disk = virtio_blk_resize,
        .mirror_disk = disk_mirror_start,
        .query_disk_job = disk_mirror_query,
        .query_disk_stats = virtio_blk_stats,
        .end_disk_job = disk_mirror_end,
        .load = load,
        .vcpu_thread_start = confine_vcpu,
        .block_thread_start = confine_block,
        .io_thread_start = confine_io,
};

static void on_signal(void *opaque, int signo) {
        machine_request_shutdown(opaque, SHUTDOWN_HOST_QUIT, 0);
}

static void print_startup_cost(void) {
        struct timespec t;

        if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0)
                fprintf(stderr, "lodge-vmm: %.3f ms of CPU before the first guest instruction\n",
                        (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6);
}

/* With devices, vCPUs and control in place: confine, load, run until the loop ends. */
static int run(struct machine *machine, const struct options *options, struct error *e) {
        int r;

        r = loop_add_signal(machine->loop, SIGTERM, on_signal, machine);
        if (r >= 0)
                r = loop_add_signal(machine->loop, SIGINT, on_signal, machine);
        if (r < 0)
                return error_set(e, r, "vmm-signals", NULL, "cannot watch signals");
        r = cpus_new(machine, &machine->cpus, e);
        if (r < 0)
                return r;
        if (machine->config->sandbox) {
                r = sandbox_enter_thread(SANDBOX_ROLE_MAIN);
                if (r < 0)
                        return error_set(e, r, "vmm-sandbox", "use a kernel with seccomp filters",
                                         "cannot enter the sandbox");
        }
        r = machine_start(machine, e);
        if (r < 0)
                return r;
        if (options->startup_cost)
                print_startup_cost();
        return loop_run(machine->loop);
}

static int run_devices(struct machine *machine, const struct options *options, struct error *e) {
        struct qmp *qmp = NULL;
        int r;

        r = devices_create(machine, e);
        if (r < 0)
                return r;
        r = qmp_new(machine, machine->config->control_fd, &qmp, e);
        if (r >= 0)
                r = run(machine, options, e);
        cpus_free(machine->cpus);
        machine->cpus = NULL;
        qmp_free(qmp);
        devices_destroy(machine);
        return r;
}

static int read_config(int fd, struct vmm_config **ret_config, struct error *e) {
        _cleanup_free_ char *json = NULL;
        size_t len;
        int r;

        r = io_read_all(fd, SCHEMA_TEXT_MAX, &json, &len);
        if (r < 0)
                return error_set(e, r, "vmm-config", "hand it in with --config-fd N", "cannot read the configuration");
        return vmm_config_parse(json, len, ret_config, e);
}

static int run_machine(const struct options *options, struct error *e) {
        _cleanup_(vmm_config_freep) struct vmm_config *config = NULL;
        _cleanup_(loop_freep) struct loop *loop = NULL;
        _cleanup_(machine_freep) struct machine *machine = NULL;
        int r;

        r = read_config(options->config_fd, &config, e);
        if (r < 0)
                return r;
        if (config->sandbox) {
                r = sandbox_prepare();
                if (r < 0)
                        return error_set(e, r, "vmm-sandbox", NULL, "cannot drop privileges");
        }
        r = loop_new(&loop);
        if (r < 0)
                return error_set(e, r, "vmm-loop", NULL, "cannot make the event loop");
        loop_set_pace(loop);
        r = machine_new(config, &hooks, loop, &machine, e);
        return r < 0 ? r : run_devices(machine, options, e);
}

static int parse_options(int argc, char **argv, struct options *options) {
        static const struct option table[] = {
                { "config-fd", required_argument, NULL, 'c' }, { "startup-cost", no_argument, NULL, 's' },
                { "debug", no_argument, NULL, 'd' },           { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'v' },         { 0 },
        };
        uint64_t fd;
        int c;

        while ((c = getopt_long(argc, argv, "hv", table, NULL)) != -1) {
                switch (c) {
                case 'c':
                        if (text_parse_uint(optarg, INT_MAX, &fd) < 0)
                                return -EINVAL;
                        options->config_fd = (int)fd;
                        break;
                case 's':
                        options->startup_cost = true;
                        break;
                case 'd':
                        log_set_level(LOG_LEVEL_DEBUG);
                        break;
                case 'h':
                        fputs(usage, stdout);
                        exit(0);
                case 'v':
                        puts("lodge-vmm " LODGE_VERSION);
                        exit(0);
                default:
                        return -EINVAL;
                }
        }
        return optind == argc && options->config_fd >= 0 ? 0 : -EINVAL;
}

int main(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct options options = { .config_fd = -1 };
        int r;

        if (parse_options(argc, argv, &options) < 0) {
                fputs(usage, stderr);
                return 1;
        }
        signal(SIGPIPE, SIG_IGN); /* whoever reads the console may go away */
        r = run_machine(&options, &e);
        if (e.code < 0) {
                error_print(&e, "lodge-vmm", stderr);
                return e.code == -EINVAL ? 1 : 2;
        }
        return r < 0 ? 2 : r;
}
