// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cgroup: a control group (version 2) for each machine, so that its limits hold and what it uses can be counted
 *
 *      BASE/daemon          the broker, the worker, the keepers
 *      BASE/machines/UUID   a machine's VMM and its helpers
 *
 * BASE is the group that lodged was started in (systemd: Delegate=yes gives it to us), or /sys/fs/cgroup/lodge where it was started in the root group. A group
 * that has processes of its own can't hand controllers down, hence the first line.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

/**
 * cgroup_base() - find, and prepare, the place for machines' groups
 * @ret_base: allocated; NULL where there is none: no version 2, or not ours to change. That is no error: machines run without limits.
 */
int cgroup_base(char **ret_base);

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
