// SPDX-License-Identifier: GPL-2.0-or-later
/* rules: see rules.h. Each field has passed its own check before a rule sees it. */
#include "schema/rules.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <string.h>

#include "base/cidr.h"
#include "schema/lodge-schema.h"
#include "schema/publish.h"

static int rule_iothread_cpus(uint32_t iothreads, const uint32_t *cpus, size_t n_cpus, const struct schema_path *path,
                              struct error *e) {
        const struct schema_path at = { .up = path, .name = "iothread_cpus", .index = -1 };
        bool seen[8192] = { false };

        if (n_cpus > 0 && iothreads == 0)
                return schema_fail(e, &at, "schema-conflict", "give it threads: iothreads=1",
                                   "is for I/O threads, and the disk has none");
        for (size_t i = 0; i < n_cpus; i++) {
                if (seen[cpus[i]])
                        return schema_fail(e, &at, "schema-conflict", NULL, "CPU %" PRIu32 " is named twice", cpus[i]);
                seen[cpus[i]] = true;
        }
        return 0;
}

/* Of a disk: powers of two that fit each other; 0 is the storage's. */
static int rule_blocks(uint64_t logical, uint64_t physical, uint64_t discard, const struct schema_path *path,
                       struct error *e) {
        const struct {
                const char *name;
                uint64_t value;
        } sizes[] = { { "logical_block_size", logical },
                      { "physical_block_size", physical },
                      { "discard_granularity", discard } };

        for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
                const struct schema_path at = { .up = path, .name = sizes[i].name, .index = -1 };
                uint64_t v = sizes[i].value;

                if (v != 0 && (v < 512 || (v & (v - 1)) != 0))
                        return schema_fail(e, &at, "schema-range", "512 or 4K fit nearly always",
                                           "%" PRIu64 " is not a power of two from 512 on", v);
                if (v != 0 && v < logical)
                        return schema_fail(e, &at, "schema-conflict", NULL,
                                           "%" PRIu64 " is smaller than logical_block_size, %" PRIu64, v, logical);
        }
        return 0;
}

int schema_rule_machine_disk(void *value, const struct schema_path *path, struct error *e) {
        const struct machine_disk_config *disk = value;
        const struct throttle_config *t = &disk->throttle;
        bool limited = t->group || t->bps || t->bps_read || t->bps_write || t->iops || t->iops_read || t->iops_write;
        bool shaped = disk->cache != DISK_CACHE_WRITEBACK || disk->discard != DISK_DISCARD_UNMAP ||
                      disk->logical_block_size || disk->physical_block_size || disk->discard_granularity;
        int r = rule_iothread_cpus(disk->iothreads, disk->iothread_cpus, disk->n_iothread_cpus, path, e);

        if (r < 0)
                return r;
        if (disk->type == MACHINE_DISK_TYPE_FILE)
                return rule_blocks(disk->logical_block_size, disk->physical_block_size, disk->discard_granularity, path,
                                   e);
        if (disk->format != MACHINE_DISK_FORMAT_RAW || disk->iothreads > 0 || limited || shaped ||
            disk->read_error != DISK_READ_ERROR_REPORT || disk->write_error != DISK_WRITE_ERROR_ENOSPC)
                return schema_fail(
                        e, path, "schema-conflict", "tell them to the back end",
                        "is a vhost-user disk: format, threads, limits, errors, cache and sizes are its back end's");
        return 0;
}

int schema_rule_vmm_disk(void *value, const struct schema_path *path, struct error *e) {
        const struct vmm_disk_config *disk = value;
        int r = rule_iothread_cpus(disk->iothreads, disk->iothread_cpus, disk->n_iothread_cpus, path, e);

        return r < 0 ? r
                     : rule_blocks(disk->logical_block_size, disk->physical_block_size, disk->discard_granularity, path,
                                   e);
}

int schema_rule_machine_net(void *value, const struct schema_path *path, struct error *e) {
        struct machine_net_config *net = value;
        const struct schema_path at = { .up = path, .name = "interface", .index = -1 };
        const struct schema_path network_at = { .up = path, .name = "network", .index = -1 };

        /* --net network=lab: what follows the '=' is called interface there. */
        if (net->type == MACHINE_NET_TYPE_NETWORK && net->interface && !net->network) {
                net->network = net->interface;
                net->interface = NULL;
        }
        if (net->type == MACHINE_NET_TYPE_TAP && !net->interface)
                return schema_fail(e, &at, "schema-required", "name it: --net tap=tap0", "a tap needs an interface");
        if (net->type != MACHINE_NET_TYPE_TAP && net->interface)
                return schema_fail(e, &at, "schema-conflict", NULL, "only a tap has an interface, not type %s",
                                   machine_net_type_to_string(net->type));
        if (net->type != MACHINE_NET_TYPE_NETWORK && net->network)
                return schema_fail(e, &network_at, "schema-conflict", "write type=network",
                                   "only type network has one, not type %s", machine_net_type_to_string(net->type));
        return 0;
}

static const char *network_of(const struct machine_net_config *net) {
        return net->type != MACHINE_NET_TYPE_NETWORK ? NULL : net->network ?: "default";
}

/* A network knows a machine by its name, with one address: a second interface would have none of its own. */
int schema_rule_machine_nets(void *value, const struct schema_path *path, struct error *e) {
        const struct machine_config *c = value;

        for (size_t i = 0; i < c->n_nets; i++)
                for (size_t k = 0; network_of(&c->nets[i]) && k < i; k++) {
                        const struct schema_path list = { .up = path, .name = "nets", .index = -1 };
                        const struct schema_path at = { .up = &list, .index = (int)i };

                        if (network_of(&c->nets[k]) && strcmp(network_of(&c->nets[i]), network_of(&c->nets[k])) == 0)
                                return schema_fail(e, &at, "schema-conflict",
                                                   "name another network: --net network=OTHER; lodge network list",
                                                   "is in network %.63s, which another interface of it is in already",
                                                   network_of(&c->nets[i]));
                }
        return 0;
}

int schema_rule_machine_publish(void *value, const struct schema_path *path, struct error *e) {
        const struct machine_config *c = value;

        for (size_t i = 0; i < c->n_publish; i++) {
                const struct schema_path list = { .up = path, .name = "publish", .index = -1 };
                const struct schema_path at = { .up = &list, .index = (int)i };
                struct publish p;

                if (publish_parse(c->publish[i], &p) < 0)
                        return schema_fail(e, &at, "schema-pattern",
                                           "write HOSTPORT:PORT, as 8080:80; 127.0.0.1:8080:80; 5353:53/udp",
                                           "'%.80s' is no published port", c->publish[i]);
        }
        return 0;
}

int schema_rule_machine_boot(void *value, const struct schema_path *path, struct error *e) {
        const struct machine_config *m = value;

        if (!m->image && !m->kernel && m->firmware == MACHINE_FIRMWARE_NONE)
                return schema_fail(e, path, "schema-required",
                                   "name an image, such as tiny, or give --kernel FILE, or --firmware uefi and a disk",
                                   "has nothing to boot: neither image nor kernel nor firmware");
        if (m->initrd && !m->kernel)
                return schema_fail(e, path, "schema-conflict", "add --kernel FILE", "has an initrd without a kernel");
        return 0;
}

/* Firmware starts what is on a disk; a kernel from outside would be started past it. */
int schema_rule_machine_firmware(void *value, const struct schema_path *path, struct error *e) {
        const struct machine_config *m = value;
        const struct schema_path at = { .up = path, .name = "firmware", .index = -1 };
        const struct schema_path cdroms = { .up = path, .name = "cdroms", .index = -1 };

        for (size_t i = 0; i < m->n_cdroms; i++) {
                const struct schema_path cdrom = { .up = &cdroms, .index = (int)i };

                if (m->cdroms[i][0] == '\0')
                        return schema_fail(e, &cdrom, "schema-required", "name an ISO file", "is empty");
        }
        if (m->firmware == MACHINE_FIRMWARE_NONE)
                return 0;
        if (m->kernel || m->append)
                return schema_fail(
                        e, &at, "schema-conflict",
                        m->kernel ? "leave --kernel and --initrd out, or --firmware"
                                  : "leave --append out: the boot loader on the disk has the kernel's command line",
                        "%s starts what is on a disk, and the machine names a kernel%s of its own",
                        machine_firmware_to_string(m->firmware), m->kernel ? "" : " command line");
        return 0;
}

static int rule_topology(uint32_t cpus, uint32_t *sockets, uint32_t *cores, uint32_t *threads,
                         const struct schema_path *path, struct error *e) {
        uint32_t s = *sockets, c = *cores, t = *threads;

        if (t == 0)
                t = 1;
        if (s == 0)
                s = c == 0 || cpus % (c * t) != 0 ? 1 : cpus / (c * t);
        if (c == 0)
                c = cpus % (s * t) != 0 ? 1 : cpus / (s * t);
        if ((uint64_t)s * c * t != cpus)
                return schema_fail(e, path, "schema-topology", "let their product be the number of CPUs",
                                   "sockets %" PRIu32 " * cores %" PRIu32 " * threads %" PRIu32 " is not cpus %" PRIu32,
                                   s, c, t, cpus);
        *sockets = s;
        *cores = c;
        *threads = t;
        return 0;
}

int schema_rule_machine_topology(void *value, const struct schema_path *path, struct error *e) {
        struct machine_config *m = value;

        return rule_topology(m->cpus, &m->sockets, &m->cores, &m->threads, path, e);
}

int schema_rule_vmm_topology(void *value, const struct schema_path *path, struct error *e) {
        struct vmm_config *v = value;

        return rule_topology(v->cpus, &v->sockets, &v->cores, &v->threads, path, e);
}

static int rule_numa(uint32_t cpus, uint64_t memory, const struct numa_config *nodes, size_t n_nodes,
                     const struct schema_path *path, struct error *e) {
        const struct schema_path at = { .up = path, .name = "numa", .index = -1 };
        bool seen[254] = { false };
        uint64_t sum = 0;
        uint32_t n_seen = 0;

        if (n_nodes == 0)
                return 0;
        for (size_t i = 0; i < n_nodes; i++) {
                const struct schema_path node = { .up = &at, .index = (int)i };

                for (size_t k = 0; k < nodes[i].n_cpus; k++) {
                        uint32_t cpu = nodes[i].cpus[k];

                        if (cpu >= cpus)
                                return schema_fail(e, &node, "schema-numa", NULL,
                                                   "CPU %" PRIu32 " is not one of 0..%" PRIu32, cpu, cpus - 1);
                        if (seen[cpu])
                                return schema_fail(e, &node, "schema-numa", NULL, "CPU %" PRIu32 " is named twice",
                                                   cpu);
                        seen[cpu] = true;
                        n_seen++;
                }
                sum += nodes[i].memory;
        }
        if (n_seen != cpus)
                return schema_fail(e, &at, "schema-numa", NULL,
                                   "the nodes hold %" PRIu32 " CPUs, the machine has %" PRIu32, n_seen, cpus);
        if (sum != memory)
                return schema_fail(e, &at, "schema-numa", NULL,
                                   "the nodes hold %" PRIu64 " MiB, the machine has %" PRIu64 " MiB", sum >> 20,
                                   memory >> 20);
        return 0;
}

int schema_rule_machine_numa(void *value, const struct schema_path *path, struct error *e) {
        const struct machine_config *m = value;

        return rule_numa(m->cpus, m->memory, m->numa, m->n_numa, path, e);
}

int schema_rule_vmm_numa(void *value, const struct schema_path *path, struct error *e) {
        const struct vmm_config *v = value;

        return rule_numa(v->cpus, v->memory, v->numa, v->n_numa, path, e);
}

/* What a raw file can't have is not left out silently. A default, said or not, asks for nothing. */
int schema_rule_disk_file(void *value, const struct schema_path *path, struct error *e) {
        const struct disk_file_options *o = value;
        const struct {
                const char *name;
                bool asked;
        } options[] = { { "--version", o->version != 3 },
                        { "--cluster", o->cluster != 64 << 10 },
                        { "--refcount-bits", o->refcount_bits != 16 },
                        { "--compression", o->compression != DISK_FILE_COMPRESSION_ZLIB },
                        { "--extended-l2", o->extended_l2 },
                        { "--lazy-refcounts", o->lazy_refcounts },
                        { "--preallocate", o->preallocate } };

        for (size_t i = 0; i < sizeof(options) / sizeof(*options) && o->to == MACHINE_DISK_FORMAT_RAW; i++)
                if (options[i].asked)
                        return error_set(e, -EINVAL, "schema-conflict", "leave it out, or use --to qcow2",
                                         "%s is for qcow2 files, and the new one is raw", options[i].name);
        return 0;
}

int schema_rule_network_forward(void *value, const struct schema_path *path, struct error *e) {
        const struct network_forward_config *f = value;
        const struct schema_path at = { .up = path, .name = "host_address", .index = -1 };
        struct cidr address;

        if (f->host_address && cidr_parse_address(f->host_address, &address) < 0)
                return schema_fail(e, &at, "schema-pattern", "write it as 192.0.2.1 or 2001:db8::1",
                                   "\"%s\" is no IP address", f->host_address);
        return 0;
}

static int rule_subnet(const char *text, int family, unsigned int min, unsigned int max, const struct schema_path *at,
                       struct error *e) {
        struct cidr subnet, first;
        char want[CIDR_TEXT_MAX];

        if (cidr_parse(text, &subnet) < 0 || subnet.family != family)
                return schema_fail(e, at, "schema-pattern",
                                   family == AF_INET ? "write it as 10.91.7.0/24" : "write it as fd12:3456:789a::/64",
                                   "\"%s\" is no IPv%c subnet", text, family == AF_INET ? '4' : '6');
        if (subnet.bits < min || subnet.bits > max)
                return schema_fail(e, at, "schema-range", NULL, "/%u is out of range /%u../%u", subnet.bits, min, max);
        first = cidr_network(&subnet);
        if (memcmp(first.address, subnet.address, sizeof(first.address)) != 0)
                return schema_fail(e, at, "schema-pattern", NULL, "\"%s\" is an address within %s: write that", text,
                                   cidr_format(&first, want));
        if (family == AF_INET6 && subnet.address[0] != 0xfd)
                return schema_fail(e, at, "schema-range", "leave it out to get a random one",
                                   "\"%s\" is not within fd00::/8, the unique local addresses", text);
        if (family == AF_INET && (subnet.address[0] == 0 || subnet.address[0] == 127 || subnet.address[0] >= 224))
                return schema_fail(e, at, "schema-range", "leave it out to get one that is free",
                                   "\"%s\" holds no addresses that a machine can have", text);
        return 0;
}

/* Without an address: all of IPv4; "::": all of IPv6. */
static bool same_host_port(const struct network_forward_config *a, const struct network_forward_config *b) {
        struct cidr x = { .family = AF_INET }, y = { .family = AF_INET };

        if (a->protocol != b->protocol || a->host_port != b->host_port)
                return false;
        if ((a->host_address && cidr_parse_address(a->host_address, &x) < 0) ||
            (b->host_address && cidr_parse_address(b->host_address, &y) < 0))
                return false;
        return cidr_same_listener(&x, &y);
}

int schema_rule_network(void *value, const struct schema_path *path, struct error *e) {
        const struct network_config *n = value;
        const struct schema_path subnet = { .up = path, .name = "subnet", .index = -1 };
        const struct schema_path subnet6 = { .up = path, .name = "subnet6", .index = -1 };
        const struct schema_path forwards = { .up = path, .name = "forwards", .index = -1 };
        int r = 0;

        if (n->subnet)
                r = rule_subnet(n->subnet, AF_INET, 16, 28, &subnet, e);
        if (r == 0 && n->subnet6 && !n->ipv6)
                r = schema_fail(e, &subnet6, "schema-conflict", NULL, "is for IPv6, which is off");
        if (r == 0 && n->subnet6)
                r = rule_subnet(n->subnet6, AF_INET6, 64, 64, &subnet6, e);
        for (size_t i = 0; i < n->n_forwards && r == 0; i++) {
                const struct schema_path at = { .up = &forwards, .index = (int)i };
                struct cidr host;

                if (!n->ipv6 && n->forwards[i].host_address &&
                    cidr_parse_address(n->forwards[i].host_address, &host) == 0 && host.family == AF_INET6)
                        r = schema_fail(e, &at, "schema-conflict", NULL, "is for IPv6, which is off");
                for (size_t k = 0; k < i && r == 0; k++)
                        if (same_host_port(&n->forwards[i], &n->forwards[k]))
                                r = schema_fail(e, &at, "schema-conflict", "choose another host port",
                                                "host port %" PRIu32 " leads to %s already", n->forwards[i].host_port,
                                                n->forwards[k].machine);
        }
        return r;
}

int schema_rule_network_port(void *value, const struct schema_path *path, struct error *e) {
        const struct network_port *p = value;
        struct cidr address;

        if ((p->address4 && (cidr_parse_address(p->address4, &address) < 0 || address.family != AF_INET)) ||
            (p->address6 && (cidr_parse_address(p->address6, &address) < 0 || address.family != AF_INET6)))
                return schema_fail(e, path, "schema-pattern", NULL, "holds an address that is none");
        return 0;
}

/* Whoever wants an index without a signature has to say so: forgetting the key must not be the same. */
int schema_rule_image_source(void *value, const struct schema_path *path, struct error *e) {
        const struct image_source_config *source = value;
        const struct schema_path at = { .up = path, .name = "key", .index = -1 };

        if (!source->key && !source->unsigned_index)
                return schema_fail(e, &at, "source-trust",
                                   "give the key that signs the index: --key FILE; or say --insecure-unsigned",
                                   "without a key nobody can tell whether the index is the server's own");
        if (source->key && source->unsigned_index)
                return schema_fail(e, &at, "source-trust", "leave one of them out",
                                   "a key and unsigned contradict each other");
        return 0;
}
