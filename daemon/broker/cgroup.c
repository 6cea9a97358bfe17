// SPDX-License-Identifier: GPL-2.0-or-later
/* cgroup: see cgroup.h; the files are those of Documentation/admin-guide/cgroup-v2.rst */
#include "daemon/broker/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define ROOT      "/sys/fs/cgroup"
#define PERIOD_US 100000u

static int write_file(const char *dir, const char *name, const char *text) {
        char path[4096];
        _cleanup_close_ int fd = -EBADF;
        size_t n = strlen(text);

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return write(fd, text, n) == (ssize_t)n ? 0 : -errno;
}

static int make_dir(const char *dir) {
        return mkdir(dir, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* The controllers that there are, one by one: what the kernel lacks is left out. */
static void hand_down(const char *dir) {
        static const char *const controllers[] = { "+cpu", "+cpuset", "+memory", "+io", "+pids" };

        for (size_t i = 0; i < ELEMENTSOF(controllers); i++)
                write_file(dir, "cgroup.subtree_control", controllers[i]);
}

/* "0::/system.slice/lodged.service" of /proc/self/cgroup. */
static int own_group(char **ret_path) {
        FILE *f = fopen("/proc/self/cgroup", "re");
        char line[4096];
        int r = -ENOENT;

        while (f && r == -ENOENT && fgets(line, sizeof(line), f))
                if (strncmp(line, "0::/", 4) == 0) {
                        line[strcspn(line, "\n")] = 0;
                        *ret_path = strdup(line + 3);
                        r = *ret_path ? 0 : -ENOMEM;
                }
        if (f)
                fclose(f);
        return r;
}

/* BASE of a daemon that was not told one. */
static int base_of_own(char **ret_base) {
        _cleanup_free_ char *own = NULL;
        char *last;
        int r = own_group(&own);

        if (r < 0)
                return r;
        last = strrchr(own, '/');
        if (last && streq(last, "/daemon")) /* a broker that was started by one of ours */
                *last = 0;
        if (streq(own, "/"))
                hand_down(ROOT);
        return asprintf(ret_base, "%s%s", ROOT, streq(own, "/") || !*own ? "/lodge" : own) < 0 ? -ENOMEM : 0;
}

/* Whoever is in @from, and we. */
static int move_processes(const char *from, const char *to) {
        char path[4096], pid[32];
        FILE *f;

        snprintf(path, sizeof(path), "%s/cgroup.procs", from);
        f = fopen(path, "re");
        while (f && fgets(pid, sizeof(pid), f))
                write_file(to, "cgroup.procs",
                           pid); /* one that has ended is no loss; one that stays is found by hand_down() */
        if (f)
                fclose(f);
        snprintf(pid, sizeof(pid), "%d", getpid());
        return write_file(to, "cgroup.procs", pid);
}

int cgroup_base(const char *dir, char **ret_base) {
        _cleanup_free_ char *base = NULL, *daemon = NULL, *machines = NULL;
        int r;

        *ret_base = NULL;
        if (access(ROOT "/cgroup.controllers", R_OK) < 0)
                return 0;
        if (dir && strncmp(dir, ROOT "/", sizeof(ROOT)) == 0 && access(dir, W_OK) == 0)
                r = (base = strdup(dir)) ? 0 : -ENOMEM;
        else {
                if (dir)
                        log_warning("there is no control group %s: machines get theirs below the daemon's own", dir);
                r = base_of_own(&base);
        }
        if (r < 0)
                return r == -ENOMEM ? r : 0;
        if (asprintf(&daemon, "%s/daemon", base) < 0 || asprintf(&machines, "%s/machines", base) < 0)
                return -ENOMEM;
        r = make_dir(base);
        if (r == 0)
                r = make_dir(daemon);
        if (r == 0)
                r = move_processes(base, daemon);
        if (r == 0)
                r = make_dir(machines);
        if (r < 0) {
                log_info("machines get no control groups: %s: %s", base, strerror(-r));
                return 0;
        }
        hand_down(base);
        hand_down(machines);
        *ret_base = TAKE_PTR(machines);
        return 0;
}

static bool asks_for_limits(const struct limits_config *l) {
        return l->cpu_quota || l->n_cpus || l->memory_max || l->cpu_weight != 100 || l->io_weight != 100;
}

static int set(const char *dir, const char *name, bool wanted, const char *text, struct error *e) {
        int r = write_file(dir, name, text);

        if (r == 0 || !wanted)
                return 0;
        return error_set(e, r, "cgroup-limit",
                         r == -ENOENT ? "the kernel lacks this controller, or whoever started lodged keeps it: "
                                        "Delegate=yes in its unit"
                                      : "give it another value",
                         "cannot limit the machine by %s", name);
}

static void cpus_text(const struct limits_config *l, char *text, size_t size) {
        size_t n = 0;

        text[0] = 0;
        for (size_t i = 0; i < l->n_cpus && n < size; i++)
                n += (size_t)snprintf(text + n, size - n, "%s%" PRIu32, i ? "," : "", l->cpus[i]);
}

static int set_all(const char *dir, const struct limits_config *l, struct error *e) {
        char text[4096];
        int r;

        snprintf(text, sizeof(text), "%" PRIu32, l->cpu_weight);
        r = set(dir, "cpu.weight", l->cpu_weight != 100, text, e);
        snprintf(text, sizeof(text), l->cpu_quota ? "%" PRIu64 " %u" : "max", l->cpu_quota * (uint64_t)PERIOD_US / 100,
                 PERIOD_US);
        if (r == 0)
                r = set(dir, "cpu.max", l->cpu_quota, text, e);
        snprintf(text, sizeof(text), l->memory_max ? "%" PRIu64 : "max", l->memory_max);
        if (r == 0)
                r = set(dir, "memory.max", l->memory_max, text, e);
        snprintf(text, sizeof(text), "default %" PRIu32, l->io_weight);
        if (r == 0)
                r = set(dir, "io.weight", l->io_weight != 100, text, e);
        snprintf(text, sizeof(text), "%" PRIu32, l->pids);
        if (r == 0)
                r = set(dir, "pids.max", false, text, e);
        cpus_text(l, text, sizeof(text));
        if (r == 0 && l->n_cpus)
                r = set(dir, "cpuset.cpus", true, text, e);
        return r;
}

static int no_groups(const struct limits_config *limits, struct error *e) {
        if (!asks_for_limits(limits))
                return 0;
        return error_set(e, -ENOTSUP, "cgroup-limit",
                         "take the limits away, or run lodged as a system daemon with cgroup v2",
                         "this daemon has no control groups, so the machine's limits would not hold");
}

int cgroup_make(const char *base, const char *uuid, const struct limits_config *limits, char **ret_path,
                struct error *e) {
        _cleanup_free_ char *path = NULL;
        int r;

        if (!base) {
                *ret_path = NULL;
                return no_groups(limits, e);
        }
        if (asprintf(&path, "%s/%s", base, uuid) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot make the machine's control group");
        r = make_dir(path);
        r = r < 0 ? error_set(e, r, "cgroup-limit", NULL, "cannot make control group %s", path)
                  : set_all(path, limits, e);
        if (r == 0)
                *ret_path = TAKE_PTR(path);
        return r;
}

static ssize_t read_text(const char *dir, const char *name, char *text, size_t size) {
        char path[4096];
        _cleanup_close_ int fd = -EBADF;
        ssize_t n;

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, size - 1);
        text[n > 0 ? n : 0] = '\0';
        return n;
}

int cgroup_change(const char *base, const char *uuid, const struct limits_config *limits, struct error *e) {
        char dir[2048], cpus[1024], used_text[32];
        uint64_t used = 0;

        if (!base)
                return no_groups(limits, e);
        snprintf(dir, sizeof(dir), "%s/%s", base, uuid);
        if (read_text(dir, "memory.current", used_text, sizeof(used_text)) > 0)
                used = strtoull(used_text, NULL, 10);
        /* A limit below what it has makes the kernel end it. */
        if (limits->memory_max && used > limits->memory_max)
                return error_set(e, -EBUSY, "memory-in-use", "give it a higher limit, or stop it first",
                                 "the machine has %" PRIu64 " MiB of the host's memory now", used >> 20);
        if (!limits->n_cpus && read_text(base, "cpuset.cpus.effective", cpus, sizeof(cpus)) > 0)
                write_file(dir, "cpuset.cpus", cpus); /* all that there are: a group with processes can't have none */
        return set_all(dir, limits, e);
}

void cgroup_remove(const char *base, const char *uuid) {
        char path[4096];

        if (!base)
                return;
        snprintf(path, sizeof(path), "%s/%s", base, uuid);
        rmdir(path);
}

uint64_t cgroup_oom_kills(const char *base, const char *uuid) {
        char path[4096], line[128];
        uint64_t n = 0;
        FILE *f;

        if (!base)
                return 0;
        snprintf(path, sizeof(path), "%s/%s/memory.events", base, uuid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "oom_kill %" SCNu64, &n) == 1)
                        break;
        if (f)
                fclose(f);
        return n;
}
