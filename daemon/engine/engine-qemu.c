// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine-qemu: the machine as a command line of QEMU 7.2 or later
 *
 * Theory of operation. QEMU's q35 with everything removed that we do not name (-nodefaults, no SATA, no SMBus, no USB), and then the same
 * virtio devices at the same slots as lodge-vmm has them (vmm/machine/layout.h), and what only QEMU has (engine-qemu-pc.c): a guest that moves from one engine to the other finds
 * its disks and interfaces where they were. Files arrive as descriptors: disks through -add-fd, since block nodes name files
 * (/dev/fdset/N), the rest by number. The kernel is read by QEMU itself from /proc/self/fd.
 *
 * A qcow2 image names the image below it, and QEMU would open that by its name. It is never asked to: each image of a chain is a node of
 * its own on a descriptor that parts.h has checked, and the last one is told that nothing is below it.
 *
 * Locks were taken by parts.h on the same open files, so QEMU's own locking is off: it would only find us.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "base/spawn.h"
#include "base/text.h"
#include "daemon/engine/engine-qemu.h"

#define ARGS_MAX     2048
#define BACKING_SETS 100 /* descriptor sets of images below disks; those of disks are 1..LAYOUT_DISKS_MAX */

void qemu_add(struct qemu_args *a, const char *format, ...) {
        va_list ap;

        if (a->r < 0)
                return;
        if (a->n + 1 >= ARGS_MAX) {
                a->r = -E2BIG;
                return;
        }
        va_start(ap, format);
        if (vasprintf(&a->v[a->n], format, ap) < 0) {
                a->v[a->n] = NULL;
                a->r = -ENOMEM;
        } else
                a->n++;
        va_end(ap);
}

/* In QEMU's option syntax a comma inside a value is doubled. Return: allocated text, never NULL but without memory. */
static char *quote(const char *text) {
        char *quoted = malloc(2 * strlen(text) + 1), *to = quoted;

        if (!quoted)
                return NULL;
        for (; *text; text++) {
                if (*text == ',')
                        *to++ = ',';
                *to++ = *text;
        }
        *to = '\0';
        return quoted;
}

static void add_machine(struct qemu_args *a, const struct parts *p, bool kvm) {
        const struct machine_config *c = p->config;

        qemu_add(a, "-nodefaults");
        qemu_add(a, "-no-user-config");
        qemu_add(a, "-display");
        qemu_add(a, "none");
        qemu_add(a, "-sandbox");
        qemu_add(a, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        qemu_add(a, "-name");
        qemu_add(a, "guest=%s,process=lodge-qemu", p->name);
        qemu_add(a, "-uuid");
        qemu_add(a, "%s", p->uuid);
        qemu_add(a, "-machine");
        qemu_add(a, "q35,accel=%s,sata=off,smbus=off,usb=off,vmport=off%s", kvm ? "kvm" : "tcg", qemu_pc_machine(p));
        qemu_add(a, "-cpu");
        qemu_add(a, "%s%s", kvm ? "host,migratable=off" : "max", qemu_pc_cpu(p, kvm));
        qemu_add(a, "-m");
        qemu_add(a, "%lluM", (unsigned long long)(c->memory >> 20));
        qemu_add(a, "-smp");
        if (c->sockets && c->cores && c->threads)
                qemu_add(a, "%u,sockets=%u,cores=%u,threads=%u", c->cpus, c->sockets, c->cores, c->threads);
        else
                qemu_add(a, "%u", c->cpus);
        if (c->preallocate)
                qemu_add(a, "-mem-prealloc");
        qemu_add(a, "-smbios");
        qemu_add(a, "type=1,manufacturer=Lodge,product=lodge,uuid=%s", p->uuid);
        qemu_add(a, "-action");
        qemu_add(a, "panic=shutdown");
        qemu_add(a, "-device");
        qemu_add(a, "pvpanic,ioport=0x%x", LAYOUT_PORT_PVPANIC);
}

/* A vhost-user disk's back end reads and writes guest memory. */
static bool shares_memory(const struct parts *p) {
        for (size_t i = 0; i < p->n_disks; i++)
                if (p->disks[i].socket)
                        return true;
        return false;
}

/* One piece of guest memory, in huge pages where they are asked for. */
static void add_backend(struct qemu_args *a, const struct parts *p, size_t id, uint64_t size) {
        enum machine_hugepages pages = p->config->hugepages;
        unsigned long long mib = size >> 20;

        qemu_add(a, "-object");
        if (pages != MACHINE_HUGEPAGES_NONE)
                qemu_add(a, "memory-backend-memfd,id=memory%zu,size=%lluM,hugetlb=on,hugetlbsize=%s", id, mib,
                         machine_hugepages_to_string(pages));
        else
                qemu_add(a, "memory-backend-%s,id=memory%zu,size=%lluM", shares_memory(p) ? "memfd" : "ram", id, mib);
}

/* CPUs by index, as the schema names them; all of a node's have to be in one argument. */
static void add_node(struct qemu_args *a, const struct numa_config *n, size_t id) {
        _cleanup_free_ char *cpus = strdup("");

        for (size_t i = 0; cpus && i < n->n_cpus; i++) {
                char *longer = NULL;

                if (asprintf(&longer, "%s,cpus=%u", cpus, n->cpus[i]) < 0)
                        longer = NULL;
                free(cpus);
                cpus = longer;
        }
        if (!cpus) {
                a->r = -ENOMEM;
                return;
        }
        qemu_add(a, "-numa");
        qemu_add(a, "node,nodeid=%zu,memdev=memory%zu%s", id, id, cpus);
}

static void add_memory(struct qemu_args *a, const struct parts *p) {
        const struct machine_config *c = p->config;

        if (c->n_numa == 0 && (c->hugepages != MACHINE_HUGEPAGES_NONE || shares_memory(p))) {
                add_backend(a, p, 0, c->memory);
                qemu_add(a, "-machine");
                qemu_add(a, "memory-backend=memory0");
        }
        for (size_t i = 0; i < c->n_numa; i++) {
                add_backend(a, p, i, c->numa[i].memory);
                add_node(a, &c->numa[i], i);
        }
}

static void add_boot(struct qemu_args *a, const struct parts *p) {
        if (p->config->firmware != MACHINE_FIRMWARE_NONE)
                return;
        qemu_add(a, "-kernel");
        qemu_add(a, "/proc/self/fd/%d", p->kernel_fd);
        if (p->initrd_fd >= 0) {
                qemu_add(a, "-initrd");
                qemu_add(a, "/proc/self/fd/%d", p->initrd_fd);
        }
        if (p->append[0]) {
                qemu_add(a, "-append");
                qemu_add(a, "%s", p->append);
        }
}

static void add_consoles(struct qemu_args *a, const struct engine_ends *ends) {
        qemu_add(a, "-chardev");
        qemu_add(a, "socket,id=control,fd=%d%s", ends->control_fd, ends->control_listens ? ",server=on,wait=off" : "");
        qemu_add(a, "-mon");
        qemu_add(a, "chardev=control,mode=control");
        qemu_add(a, "-chardev");
        qemu_add(a, "socket,id=serial,fd=%d", ends->console_fd);
        qemu_add(a, "-serial");
        qemu_add(a, "chardev:serial");
        qemu_add(a, "-device");
        qemu_add(a, "virtio-serial-pci-non-transitional,id=console,bus=pcie.0,addr=0x%x", LAYOUT_SLOT_CONSOLE);
        qemu_add(a, "-chardev");
        qemu_add(a, "socket,id=agent,fd=%d", ends->agent_fd);
        qemu_add(a, "-device");
        qemu_add(a, "virtserialport,bus=console.0,nr=1,chardev=agent,name=%s", ENGINE_AGENT_PORT);
        qemu_add(a, "-object");
        qemu_add(a, "rng-random,id=entropy,filename=/dev/urandom");
        qemu_add(a, "-device");
        qemu_add(a, "virtio-rng-pci-non-transitional,rng=entropy,bus=pcie.0,addr=0x%x", LAYOUT_SLOT_RNG);
}

static bool is_limited(const struct throttle_config *t) {
        return t->bps || t->bps_read || t->bps_write || t->iops || t->iops_read || t->iops_write;
}

static bool same_group(const struct throttle_config *a, const struct throttle_config *b) {
        return a == b || (a->group && b->group && streq(a->group, b->group));
}

/* The first disk of the group that disk @index is in: itself, when it is alone. */
static size_t group_of(const struct parts *p, size_t index) {
        size_t i = 0;

        while (!same_group(&p->disks[i].config->throttle, &p->disks[index].config->throttle))
                i++;
        return i;
}

/* The limits of a group whose first disk is @index: those of the first disk in it that has any. */
static const struct throttle_config *group_limits(const struct parts *p, size_t index) {
        const struct throttle_config *t = &p->disks[index].config->throttle;

        for (size_t i = index; i < p->n_disks && !is_limited(t); i++)
                if (same_group(&p->disks[i].config->throttle, &p->disks[index].config->throttle))
                        t = &p->disks[i].config->throttle;
        return t;
}

/* The group whose first disk is @index, under QEMU's names. */
static void add_throttle(struct qemu_args *a, const struct parts *p, size_t index) {
        const struct throttle_config *t = group_limits(p, index);
        const struct {
                const char *name;
                uint64_t rate, burst;
        } limits[] = {
                { "bps-total", t->bps, t->bps_burst },
                { "bps-read", t->bps_read, t->bps_read_burst },
                { "bps-write", t->bps_write, t->bps_write_burst },
                { "iops-total", t->iops, t->iops_burst },
                { "iops-read", t->iops_read, t->iops_read_burst },
                { "iops-write", t->iops_write, t->iops_write_burst },
        };
        char text[1024];
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
                if (limits[i].rate > 0)
                        n += (size_t)snprintf(text + n, sizeof(text) - n, ",x-%s=%" PRIu64, limits[i].name,
                                              limits[i].rate);
                if (limits[i].burst > 0)
                        n += (size_t)snprintf(text + n, sizeof(text) - n,
                                              ",x-%s-max=%" PRIu64 ",x-%s-max-length=%" PRIu32, limits[i].name,
                                              limits[i].burst, limits[i].name, t->burst_seconds);
        }
        if (t->iops_size > 0)
                n += (size_t)snprintf(text + n, sizeof(text) - n, ",x-iops-size=%" PRIu64, t->iops_size);
        qemu_add(a, "-object");
        qemu_add(a, "throttle-group,id=throttle%zu%.*s", index, (int)n, text);
}

static const char *policy_name(const char *ours) {
        return streq(ours, "pause") ? "stop" : ours;
}

/* What the guest is told of a disk, as properties of its device. */
static void format_shape(const struct machine_disk_config *c, char *text, size_t size) {
        size_t n = (size_t)snprintf(text, size, ",write-cache=%s", disk_has_write_cache(c) ? "on" : "off");

        if (c->logical_block_size > 0)
                n += (size_t)snprintf(text + n, size - n, ",logical_block_size=%" PRIu64, c->logical_block_size);
        if (c->physical_block_size > 0)
                n += (size_t)snprintf(text + n, size - n, ",physical_block_size=%" PRIu64, c->physical_block_size);
        if (c->discard_granularity > 0)
                snprintf(text + n, size - n, ",discard_granularity=%" PRIu64, c->discard_granularity);
}

/* An image on file node @file, as node @name, above node @backing; NULL: above nothing, whatever its header says. */
static void add_format(struct qemu_args *a, enum machine_disk_format format, const char *name, const char *file,
                       const char *backing, bool readonly, const char *discard) {
        const char *driver = machine_disk_format_to_string(format);

        qemu_add(a, "-blockdev");
        if (format == MACHINE_DISK_FORMAT_QCOW2 && !backing)
                qemu_add(a,
                         "{\"driver\":\"%s\",\"node-name\":\"%s\",\"file\":\"%s\",\"backing\":null,"
                         "\"read-only\":%s,\"discard\":\"%s\"}",
                         driver, name, file, readonly ? "true" : "false", discard);
        else
                qemu_add(a, "driver=%s,node-name=%s,file=%s%s%s,read-only=%s,discard=%s", driver, name, file,
                         backing ? ",backing=" : "", backing ?: "", readonly ? "on" : "off", discard);
}

/* The images below disk @i, from the lowest up; @ret_name: the node of the nearest one. */
static void add_backing(struct qemu_args *a, const struct parts *p, size_t i, char *ret_name, size_t size) {
        const struct part_disk *d = &p->disks[i];
        const char *direct = disk_is_direct(d->config) ? "on" : "off";
        char name[32], file[48], below[32] = "";

        for (size_t k = d->n_backing; k-- > 0;) {
                size_t set = BACKING_SETS + i * PART_BACKING_MAX + k;

                snprintf(name, sizeof(name), "backing%zu-%zu", i, k);
                snprintf(file, sizeof(file), "backing%zu-%zu-file", i, k);
                qemu_add(a, "-add-fd");
                qemu_add(a, "fd=%d,set=%zu", d->backing[k].fd, set);
                qemu_add(a, "-blockdev");
                qemu_add(a,
                         "driver=file,node-name=%s,filename=/dev/fdset/%zu,locking=off,read-only=on,aio=threads,"
                         "cache.direct=%s",
                         file, set, direct);
                add_format(a, d->backing[k].format, name, file, below[0] ? below : NULL, true, "ignore");
                snprintf(below, sizeof(below), "%s", name);
        }
        snprintf(ret_name, size, "%s", below);
}

static void add_file(struct qemu_args *a, const struct parts *p, size_t i) {
        const struct machine_disk_config *d = p->disks[i].config;
        int fd = p->disks[i].fd;
        const char *readonly = d->readonly ? "on" : "off";
        const char *discard = disk_discard_to_string(d->discard);
        _cleanup_free_ char *serial = d->serial ? quote(d->serial) : NULL;
        bool throttled = is_limited(&d->throttle) || d->throttle.group;
        char queues[32] = "", boot[32] = "", shape[160], name[32], file[32], backing[32];

        format_shape(d, shape, sizeof(shape));
        if (d->iothreads > 0)
                snprintf(queues, sizeof(queues), ",num-queues=%u", d->iothreads);
        if (p->config->firmware != MACHINE_FIRMWARE_NONE)
                snprintf(boot, sizeof(boot), ",bootindex=%zu", i + 1);
        qemu_add(a, "-add-fd");
        qemu_add(a, "fd=%d,set=%zu", fd, i + 1);
        qemu_add(a, "-blockdev");
        qemu_add(a,
                 "driver=file,node-name=file%zu,filename=/dev/fdset/"
                 "%zu,locking=off,read-only=%s,discard=%s,aio=threads,cache.direct=%s",
                 i, i + 1, readonly, discard, disk_is_direct(d) ? "on" : "off");
        snprintf(name, sizeof(name), "%s%zu", throttled ? "format" : "disk", i);
        snprintf(file, sizeof(file), "file%zu", i);
        add_backing(a, p, i, backing, sizeof(backing));
        add_format(a, d->format, name, file, backing[0] ? backing : NULL, d->readonly, discard);
        if (throttled) {
                if (group_of(p, i) == i)
                        add_throttle(a, p, i);
                qemu_add(a, "-blockdev");
                qemu_add(a, "driver=throttle,node-name=disk%zu,throttle-group=throttle%zu,file=format%zu", i,
                         group_of(p, i), i);
        }
        qemu_add(a, "-device");
        qemu_add(a, "virtio-blk-pci-non-transitional,drive=disk%zu,bus=pcie.0,addr=0x%zx,rerror=%s,werror=%s%s%s%s%s%s",
                 i, LAYOUT_SLOT_DISK + i, policy_name(disk_read_error_to_string(d->read_error)),
                 policy_name(disk_write_error_to_string(d->write_error)), serial ? ",serial=" : "", serial ?: "",
                 queues, shape, boot);
}

/* QEMU connects by itself, through the directory's descriptor, and comes back every second. */
static void add_backend_disk(struct qemu_args *a, const struct part_disk *d, size_t i) {
        _cleanup_free_ char *name = quote(d->socket);

        qemu_add(a, "-chardev");
        qemu_add(a, "socket,id=backend%zu,path=/proc/self/fd/%d/%s,reconnect=1", i, d->dir_fd, name ?: "");
        qemu_add(a, "-device");
        qemu_add(a, "vhost-user-blk-pci-non-transitional,chardev=backend%zu,num-queues=1,bus=pcie.0,addr=0x%zx", i,
                 LAYOUT_SLOT_DISK + i);
}

static void add_disks(struct qemu_args *a, const struct parts *p) {
        for (size_t i = 0; i < p->n_disks; i++)
                if (p->disks[i].socket)
                        add_backend_disk(a, &p->disks[i], i);
                else
                        add_file(a, p, i);
}

static void add_nets(struct qemu_args *a, const struct parts *p) {
        for (size_t i = 0; i < p->n_nets; i++) {
                const struct part_net *n = &p->nets[i];

                qemu_add(a, "-netdev");
                if (n->type == MACHINE_NET_TYPE_TAP)
                        qemu_add(a, "tap,id=net%zu,fd=%d", i, n->fd);
                else
                        qemu_add(a, "stream,id=net%zu,server=off,addr.type=fd,addr.str=%d", i, n->fd);
                qemu_add(a, "-device");
                qemu_add(a,
                         "virtio-net-pci-non-transitional,netdev=net%zu,mac=%s,host_mtu=%u,romfile=,bus=pcie.0,addr=0x%"
                         "zx",
                         i, n->mac, n->mtu, LAYOUT_SLOT_NET + i);
        }
}

int engine_qemu_arguments(const struct parts *p, const struct engine_ends *ends, bool kvm, char ***ret_argv) {
        struct qemu_args a = { .v = calloc(ARGS_MAX, sizeof(char *)) };

        if (!a.v)
                return -ENOMEM;
        qemu_add(&a, "qemu-system-x86_64");
        add_machine(&a, p, kvm);
        add_memory(&a, p);
        add_boot(&a, p);
        add_consoles(&a, ends);
        add_disks(&a, p);
        add_nets(&a, p);
        qemu_pc_add(&a, p);
        if (a.r < 0) {
                engine_free_arguments(a.v);
                return a.r;
        }
        *ret_argv = a.v;
        return 0;
}

void engine_free_arguments(char **argv) {
        for (size_t i = 0; argv && argv[i]; i++)
                free(argv[i]);
        free(argv);
}

static void free_argvp(char ***argv) {
        engine_free_arguments(*argv);
}

/* What QEMU's front end can't do, and its back end would have to. */
static int check_backends(const struct parts *p, struct error *e) {
        for (size_t i = 0; i < p->n_disks; i++)
                if (p->disks[i].socket && (p->disks[i].config->readonly || p->disks[i].config->serial))
                        return error_set(e, -ENOTSUP, "disk-backend", "tell the back end, or use --engine native",
                                         "engine qemu gives a vhost-user disk no serial number, and readonly neither");
        return 0;
}

/* A disk of QEMU's is served by its main loop, which has no thread to place. */
static int check_threads(const struct parts *p, struct error *e) {
        for (size_t i = 0; i < p->n_disks; i++)
                if (p->disks[i].config->n_iothread_cpus > 0)
                        return error_set(e, -ENOTSUP, "disk-cpus", "leave iothread_cpus out, or use --engine native",
                                         "engine qemu cannot place the threads of disk %zu", i);
        return 0;
}

/* QEMU opens these two anew, as who it is then. Return: 0 with a descriptor, -EBADF when @fd will do; or -errno. */
static int readable_copy(int fd, int *ret_fd) {
        _cleanup_close_ int copy = -EBADF;
        off_t at = 0;
        struct stat st;

        *ret_fd = -EBADF;
        if (fd < 0)
                return 0;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_mode & S_IROTH)
                return 0;
        copy = memfd_create("lodge-boot", MFD_CLOEXEC);
        if (copy < 0 || fchmod(copy, 0444) < 0)
                return -errno;
        while (at < st.st_size) {
                ssize_t n = sendfile(copy, fd, &at, (size_t)(st.st_size - at));

                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
        }
        *ret_fd = TAKE_FD(copy);
        return 0;
}

/* Descriptors that QEMU gets in place of some of the parts'. */
struct copies {
        int kernel_fd, initrd_fd;
};

static void copies_close(struct copies *c) {
        safe_close(c->kernel_fd);
        safe_close(c->initrd_fd);
}

static int make_readable(struct parts *p, const struct spawn_jail *jail, struct copies *copies, struct error *e) {
        int r;

        if (!jail || !jail->identity)
                return 0;
        r = readable_copy(p->kernel_fd, &copies->kernel_fd);
        if (r == 0)
                r = readable_copy(p->initrd_fd, &copies->initrd_fd);
        if (r < 0)
                return error_set(e, r, "engine-boot-copy", NULL, "cannot copy the kernel for QEMU");
        if (copies->kernel_fd >= 0)
                p->kernel_fd = copies->kernel_fd;
        if (copies->initrd_fd >= 0)
                p->initrd_fd = copies->initrd_fd;
        return 0;
}

static size_t list_fds(const struct parts *p, const struct engine_ends *ends, int *fds) {
        size_t n = parts_fds(p, fds);

        fds[n++] = ends->control_fd;
        fds[n++] = ends->console_fd;
        fds[n++] = ends->agent_fd;
        for (size_t i = 0; i < p->n_disks; i++)
                if (p->disks[i].socket)
                        fds[n++] = p->disks[i].dir_fd;
        return n;
}

int engine_qemu_start(const struct parts *parts, const struct engine_ends *ends, bool kvm,
                      const struct spawn_jail *jail, struct engine *engine, struct error *e) {
        __attribute__((cleanup(copies_close))) struct copies copies = { -EBADF, -EBADF };
        _cleanup_(free_argvp) char **argv = NULL;
        struct parts p = *parts; /* its descriptors stay the caller's */
        int fds[PARTS_FDS_MAX + 3 + LAYOUT_DISKS_MAX], r;
        char name[96];
        const char *env[] = { name, NULL };
        struct spawn s = {
                .path = "qemu-system-x86_64",
                .env = env,
                .fds = fds,
                .stdin_fd = -1,
                .stdout_fd = ends->log_fd,
                .stderr_fd = ends->log_fd,
                .death_signal = SIGKILL,
                .jail = jail,
        };

        r = check_backends(parts, e);
        if (r == 0)
                r = check_threads(parts, e);
        if (r == 0)
                r = make_readable(&p, jail, &copies, e);
        if (r < 0)
                return r;
        r = engine_qemu_arguments(&p, ends, kvm, &argv);
        if (r < 0)
                return error_set(e, r, "engine-config", NULL, "cannot make QEMU's command line");
        s.argv = (const char *const *)argv;
        s.n_fds = list_fds(&p, ends, fds);
        snprintf(name, sizeof(name), "LODGE_MACHINE=%s", p.name);
        r = spawn_child(&s, &engine->pid, &engine->pidfd, e);
        if (r == -ENOENT)
                error_set_fix(e, "install it: apt install qemu-system-x86");
        return r;
}
