// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine-native: the machine as lodge-vmm gets it: JSON (schema: vmm) in a memory file, and the descriptors it names
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/io.h"
#include "base/spawn.h"
#include "base/text.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/parts-backend.h"

static enum vmm_disk_format format_of(enum machine_disk_format format) {
        return format == MACHINE_DISK_FORMAT_QCOW2 ? VMM_DISK_FORMAT_QCOW2 : VMM_DISK_FORMAT_RAW;
}

static int copy_throttle(struct throttle_config *to, const struct throttle_config *from) {
        *to = *from;
        to->group = text_copy(from->group);
        return from->group && !to->group ? -ENOMEM : 0;
}

static int copy_numbers(const uint32_t *from, size_t n, uint32_t **ret_to, size_t *ret_n) {
        uint32_t *to;

        if (n == 0)
                return 0;
        to = calloc(n, sizeof(*to));
        if (!to)
                return -ENOMEM;
        memcpy(to, from, n * sizeof(*to));
        *ret_to = to;
        *ret_n = n;
        return 0;
}

static int describe_disk(struct vmm_disk_config *d, const struct machine_disk_config *c) {
        d->format = format_of(c->format);
        d->readonly = c->readonly;
        d->iothreads = c->iothreads;
        d->read_error = c->read_error;
        d->write_error = c->write_error;
        d->direct = disk_is_direct(c);
        d->write_cache = disk_has_write_cache(c);
        d->discard = c->discard == DISK_DISCARD_UNMAP;
        d->logical_block_size = c->logical_block_size;
        d->physical_block_size = c->physical_block_size;
        d->discard_granularity = c->discard_granularity;
        d->serial = text_copy(c->serial);
        if (c->serial && !d->serial)
                return -ENOMEM;
        if (copy_numbers(c->iothread_cpus, c->n_iothread_cpus, &d->iothread_cpus, &d->n_iothread_cpus) < 0)
                return -ENOMEM;
        return copy_throttle(&d->throttle, &c->throttle);
}

static int add_disks(struct vmm_config *v, const struct parts *p) {
        for (size_t i = 0; i < p->n_disks; i++) {
                struct vmm_disk_config *d;

                if (vmm_config_add_disks(v, &d) < 0)
                        return -ENOMEM;
                d->fd = p->disks[i].fd;
                d->vhost_user = p->disks[i].socket;
                if (describe_disk(d, p->disks[i].config) < 0)
                        return -ENOMEM;
                for (size_t k = 0; k < p->disks[i].n_backing; k++) {
                        struct vmm_backing_config *b;

                        if (vmm_disk_config_add_backing(d, &b) < 0)
                                return -ENOMEM;
                        b->fd = p->disks[i].backing[k].fd;
                        b->format = format_of(p->disks[i].backing[k].format);
                }
        }
        return 0;
}

static int add_nets(struct vmm_config *v, const struct parts *p) {
        for (size_t i = 0; i < p->n_nets; i++) {
                const struct part_net *n = &p->nets[i];
                struct vmm_net_config *c;

                if (vmm_config_add_nets(v, &c) < 0)
                        return -ENOMEM;
                c->fd = n->fd;
                c->type = n->type == MACHINE_NET_TYPE_TAP ? VMM_NET_TYPE_TAP : VMM_NET_TYPE_PASST;
                c->offloads = n->type == MACHINE_NET_TYPE_TAP;
                c->mac = text_copy(n->mac);
                c->mtu = n->mtu;
                if (!c->mac)
                        return -ENOMEM;
        }
        return 0;
}

static int add_numa(struct vmm_config *v, const struct machine_config *c) {
        for (size_t i = 0; i < c->n_numa; i++) {
                struct numa_config *n;

                if (vmm_config_add_numa(v, &n) < 0)
                        return -ENOMEM;
                n->memory = c->numa[i].memory;
                if (copy_numbers(c->numa[i].cpus, c->numa[i].n_cpus, &n->cpus, &n->n_cpus) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int add_agent_port(struct vmm_config *v, int fd) {
        struct vmm_port_config *port;

        if (vmm_config_add_ports(v, &port) < 0)
                return -ENOMEM;
        port->fd = fd;
        port->name = strdup(ENGINE_AGENT_PORT);
        return port->name ? 0 : -ENOMEM;
}

char *engine_native_config(const struct parts *p, const struct engine_ends *ends, int kvm_fd) {
        _cleanup_(vmm_config_freep) struct vmm_config *v = NULL;
        const struct machine_config *c = p->config;

        if (vmm_config_new(&v) < 0)
                return NULL;
        v->version = 1;
        v->name = text_copy(p->name);
        v->uuid = text_copy(p->uuid);
        v->append = text_copy(p->append);
        if (!v->name || !v->uuid || !v->append)
                return NULL;
        v->cpus = c->cpus;
        v->sockets = c->sockets;
        v->cores = c->cores;
        v->threads = c->threads;
        v->memory = c->memory;
        v->hugepages = c->hugepages;
        v->preallocate = c->preallocate;
        v->kvm_fd = kvm_fd;
        v->kernel_fd = p->kernel_fd;
        v->initrd_fd = p->initrd_fd >= 0 ? p->initrd_fd : -1;
        v->serial.in_fd = v->serial.out_fd = ends->console_fd;
        v->control_fd = ends->control_fd;
        if (add_disks(v, p) < 0 || add_nets(v, p) < 0 || add_numa(v, c) < 0 || add_agent_port(v, ends->agent_fd) < 0)
                return NULL;
        return vmm_config_format(v);
}

static int write_config(const char *json, int *ret_fd) {
        _cleanup_close_ int fd = memfd_create("lodge-config", MFD_CLOEXEC);
        int r;

        if (fd < 0)
                return -errno;
        r = io_write_all(fd, json, strlen(json));
        if (r < 0)
                return r;
        if (lseek(fd, 0, SEEK_SET) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int connect_backends(const struct parts *p, struct error *e) {
        int r = 0;

        for (size_t i = 0; i < p->n_disks && r == 0; i++)
                if (p->disks[i].socket)
                        r = part_backend_connect(&p->disks[i], e);
        return r;
}

int engine_native_start(const struct parts *p, const struct engine_ends *ends, const struct spawn_jail *jail,
                        struct engine *engine, struct error *e) {
        _cleanup_close_ int kvm_fd = -EBADF, config_fd = -EBADF;
        _cleanup_free_ char *json = NULL, *path = NULL;
        char fd_text[16], name[96];
        const char *argv[] = { "lodge-vmm", "--config-fd", fd_text, NULL };
        const char *env[] = { name, NULL };
        int fds[PARTS_FDS_MAX + 5], r;
        struct spawn s = {
                .argv = argv,
                .env = env,
                .fds = fds,
                .stdin_fd = -1,
                .stdout_fd = -1,
                .stderr_fd = ends->log_fd,
                .death_signal = SIGKILL,
                .jail = jail,
        };

        r = engine_vmm_path(&path);
        if (r < 0)
                return error_set(e, r, "engine-native", "build or install lodge-vmm, or use --engine qemu",
                                 "cannot find lodge-vmm");
        kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        if (kvm_fd < 0)
                return error_set(e, -errno, "kvm-open", "lodge host probe says why and what to do",
                                 "cannot open /dev/kvm");
        r = connect_backends(p, e);
        if (r < 0)
                return r;
        json = engine_native_config(p, ends, kvm_fd);
        if (!json)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        r = write_config(json, &config_fd);
        if (r < 0)
                return error_set(e, r, "engine-config", NULL, "cannot hand the configuration to lodge-vmm");

        s.path = path;
        s.n_fds = parts_fds(p, fds);
        fds[s.n_fds++] = kvm_fd;
        fds[s.n_fds++] = config_fd;
        fds[s.n_fds++] = ends->control_fd;
        fds[s.n_fds++] = ends->console_fd;
        fds[s.n_fds++] = ends->agent_fd;
        snprintf(fd_text, sizeof(fd_text), "%d", config_fd);
        snprintf(name, sizeof(name), "LODGE_MACHINE=%s", p->name);
        return spawn_child(&s, &engine->pid, &engine->pidfd, e);
}
