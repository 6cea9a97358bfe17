// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sample: what was last seen of machines, networks, pools and projects
 *
 * Theory of operation. Once a minute a pass asks in turn: the broker for the CPU time and the memory of all machines' processes and what went through their
 * taps (one call); each machine's QMP for its disks; the broker for the pool (one call) and, in a system daemon, for each network; the store for what projects
 * have used this month. What they answer is kept here until the next pass. So whoever reads figures (/metrics) waits for nobody, least of all for a guest, and a pass
 * costs the same whether somebody reads or not.
 *
 * A machine that does not answer keeps its last figures and their time, and is not asked again until it has answered. What a VMM says is not trusted: numbers
 * that are none are 0, names are cut, and there are at most so many disks.
 */
#pragma once

#include "daemon/machine/machine.h"

#define SAMPLE_DISKS_MAX 24u
#define SAMPLE_NETS_MAX  8u

struct disk_sample {
        char name[16]; /* "disk0" */
        uint64_t read_bytes, written_bytes, discarded_bytes;
        uint64_t reads, writes, flushes, discards,
                errors; /* errors: operations of which the guest was told that they failed */
};

/* As the guest sees it. */
struct net_sample {
        char interface[16], network[64];
        uint64_t received_bytes, received_packets, received_drops;
        uint64_t sent_bytes, sent_packets, sent_drops;
};

/* Times are Unix microseconds; 0: never. */
struct machine_sample {
        int64_t time; /* of CPU time, memory and interfaces */
        uint64_t cpu_us, memory;
        struct net_sample nets[SAMPLE_NETS_MAX];
        unsigned int n_nets;
        int64_t disk_time;
        struct disk_sample disks[SAMPLE_DISKS_MAX];
        unsigned int n_disks;
};

/* A machine that runs; borrowed. */
struct machine_running {
        const char *uuid, *name, *project, *engine;
        bool paused, agent;
        const struct machine_sample *sample;
};

/** machine_running_find() - false when it does not run. */
bool machine_running_find(const struct machines *ms, const char *uuid, struct machine_running *ret);

/* What is no machine's. JSON values are borrowed; NULL: not known yet. */
struct samples {
        int64_t time;     /* of the end of the last pass (Unix microseconds); 0: none has ended */
        json_t *pool;     /* {name, capacity, available, allocated, volumes: {NAME: bytes}} */
        json_t *networks; /* [{name, state, leases}] */
        json_t *projects; /* {NAME: {cpu_us, memory_mib_s, storage_mib_s}}, of this month */
};

const struct samples *machines_samples(const struct machines *ms);
