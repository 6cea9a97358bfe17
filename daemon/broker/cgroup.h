// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cgroup: a control group (version 2) for each machine, so that its limits hold and what it uses can be counted
 *
 *      BASE/daemon          the broker, the worker, the keepers
 *      BASE/machines/UUID   a machine's VMM and its helpers
 *
 * BASE is the group that --cgroup names, else the one that lodged was started in, or /sys/fs/cgroup/lodge where it was started in the root group. A group
 * that has processes of its own can't hand controllers down, hence the first line: whoever is in BASE is moved there.
 *
 * Under systemd BASE must not be lodged's own unit: machines outlive the daemon, so their groups with their controllers would still be there when it is started
 * again, and the kernel lets nobody into a group above such ones, not even the new daemon. So its unit names the group of another one, lodge-machines.service.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

/**
 * cgroup_base() - find, and prepare, the place for machines' groups
 * @dir:      BASE; NULL, or one that is not there: our own group
 * @ret_base: allocated; NULL where there is none: no version 2, or not ours to change. That is no error: machines run without limits.
 */
int cgroup_base(const char *dir, char **ret_base);

/**
 * cgroup_make() - a machine's group, with its limits
 * @base:     may be NULL
 * @ret_path: allocated; NULL without a base
 *
 * Return: 0, or -errno with @e, "cgroup-limit": the kernel refuses a limit, or a limit was asked for and there are no groups.
 */
int cgroup_make(const char *base, const char *uuid, const struct limits_config *limits, char **ret_path,
                struct error *e);

/**
 * cgroup_change() - other limits for a machine that runs
 * Return: 0, or -errno with @e: "cgroup-limit" as above; "memory-in-use": it has more memory now than it may have then.
 */
int cgroup_change(const char *base, const char *uuid, const struct limits_config *limits, struct error *e);

/** cgroup_remove() - when the machine has ended; a group that still has processes stays. */
void cgroup_remove(const char *base, const char *uuid);

/** cgroup_oom_kills() - how often the kernel ended a process of the machine for want of memory; 0 if that is not known. */
uint64_t cgroup_oom_kills(const char *base, const char *uuid);
