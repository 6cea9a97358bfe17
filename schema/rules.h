// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rules: what an object's fields must be to each other; lodge.yaml names these functions under `rules`
 */
#pragma once

#include "schema/schema.h"

/** What a vhost-user disk's back end decides must not be set here. */
int schema_rule_machine_disk(void *value, const struct schema_path *path, struct error *e);

/** CPUs are given only to I/O threads that there are, each once; block sizes are powers of two that fit each other. Also of a machine_disk. */
int schema_rule_vmm_disk(void *value, const struct schema_path *path, struct error *e);

/** A tap needs an interface, the others must not have one; only a network has a name. */
int schema_rule_machine_net(void *value, const struct schema_path *path, struct error *e);

/** Published ports are written as publish.h has it. */
int schema_rule_machine_nets(void *value, const struct schema_path *path, struct error *e);
int schema_rule_machine_publish(void *value, const struct schema_path *path, struct error *e);

/** Something to boot; no initrd without a kernel. */
int schema_rule_machine_boot(void *value, const struct schema_path *path, struct error *e);

/** Firmware starts what is on a disk, so there is no kernel beside it. */
int schema_rule_machine_firmware(void *value, const struct schema_path *path, struct error *e);

/** sockets * cores * threads is cpus; those not given are filled in, so that all four are set afterwards. */
int schema_rule_machine_topology(void *value, const struct schema_path *path, struct error *e);
int schema_rule_vmm_topology(void *value, const struct schema_path *path, struct error *e);

/** Every CPU is in one NUMA node, and the nodes' memory adds up. */
int schema_rule_machine_numa(void *value, const struct schema_path *path, struct error *e);
int schema_rule_vmm_numa(void *value, const struct schema_path *path, struct error *e);

/** A new raw file has nothing of what only qcow2 has. */
int schema_rule_disk_file(void *value, const struct schema_path *path, struct error *e);

/** A forward's host address is an address. */
int schema_rule_network_forward(void *value, const struct schema_path *path, struct error *e);

/** Subnets are written with their first address, in sizes that work; subnet6 is unique local; no port is forwarded twice. */
int schema_rule_network(void *value, const struct schema_path *path, struct error *e);

/** The addresses that a port keeps are addresses. */
int schema_rule_network_port(void *value, const struct schema_path *path, struct error *e);

/** A server of images has a key, or is said to need none. */
int schema_rule_image_source(void *value, const struct schema_path *path, struct error *e);
