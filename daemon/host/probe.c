// SPDX-License-Identifier: GPL-2.0-or-later
/* probe: see probe.h; the guest is in probe-guest.c */
#include "daemon/host/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/kvm.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "daemon/host/probe-guest.h"

static const char *const names[] = {
        [PROBE_HARDWARE] = "hardware", [PROBE_EMULATED] = "emulated", [PROBE_FORBIDDEN] = "forbidden",
        [PROBE_MISSING] = "missing",   [PROBE_BUSY] = "busy",         [PROBE_BROKEN] = "broken",
};
_Static_assert(ELEMENTSOF(names) == PROBE_VERDICT_COUNT, "every verdict has a name");

static const char *const step_names[] = {
        [PROBE_STEP_OPEN] = "opening /dev/kvm",
        [PROBE_STEP_CREATE] = "making a virtual machine",
        [PROBE_STEP_START] = "64-bit mode",
        [PROBE_STEP_SPEED] = "the timed loop",
        [PROBE_STEP_SSE2] = "SSE2 (paddq)",
        [PROBE_STEP_CX16] = "lock cmpxchg16b",
        [PROBE_STEP_DONE] = "all",
};

const char *probe_verdict_name(enum probe_verdict verdict) {
        return names[verdict];
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static bool exists(const char *path) {
        return access(path, F_OK) == 0;
}

static void gather_cpu(struct probe_facts *f) {
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
        char *flags, *end;
        size_t len;

        if (fd < 0 || io_read_all(fd, 16 << 20, &text, &len) < 0)
                return;
        flags = strstr(text, "\nflags");
        end = flags ? strchr(flags + 1, '\n') : NULL;
        if (!end)
                return;
        *end = ' '; /* so that the last flag is followed by a space, too */
        end[1] = '\0';
        f->cpu_vmx = strstr(flags, " vmx ");
        f->cpu_svm = strstr(flags, " svm ");
        f->cpu_hypervisor = strstr(flags, " hypervisor ");
}

static void gather_module(struct probe_facts *f) {
        static const char *const files[] = { "kvm-intel.ko", "kvm-intel.ko.xz", "kvm-intel.ko.zst",
                                             "kvm-amd.ko",   "kvm-amd.ko.xz",   "kvm-amd.ko.zst" };
        struct utsname u;
        char path[400];

        f->module_loaded = exists("/sys/module/kvm_intel") || exists("/sys/module/kvm_amd");
        f->vbox_loaded = exists("/sys/module/vboxdrv");
        f->vmware_loaded = exists("/sys/module/vmmon");
        if (uname(&u) < 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(files) && !f->module_available; i++) {
                snprintf(path, sizeof(path), "/lib/modules/%s/kernel/arch/x86/kvm/%s", u.release, files[i]);
                f->module_available = exists(path);
        }
}

static bool in_session(gid_t gid) {
        gid_t groups[1024];
        int n = getgroups(ELEMENTSOF(groups), groups);

        for (int i = 0; i < n; i++)
                if (groups[i] == gid)
                        return true;
        return getegid() == gid;
}

static void gather_access(const char *device, struct probe_facts *f) {
        struct group *group;
        struct passwd *user = getpwuid(getuid());
        struct stat st;

        if (user)
                snprintf(f->user, sizeof(f->user), "%.31s", user->pw_name);
        else
                snprintf(f->user, sizeof(f->user), "uid %u", getuid());
        if (stat(device, &st) < 0)
                return;
        f->device_mode = st.st_mode & 0777;
        f->in_group_session = in_session(st.st_gid);
        group = getgrgid(st.st_gid);
        if (!group) {
                snprintf(f->device_group, sizeof(f->device_group), "%u", st.st_gid);
                return;
        }
        snprintf(f->device_group, sizeof(f->device_group), "%.31s", group->gr_name);
        f->in_group_database = user && user->pw_gid == st.st_gid;
        for (char **m = group->gr_mem; user && *m; m++)
                f->in_group_database |= streq(*m, f->user);
}

void probe_gather(const char *device, struct probe_facts *ret_facts) {
        struct probe_facts f = { 0 };
        _cleanup_close_ int fd = open(device, O_RDWR | O_CLOEXEC);

        f.open_errno = fd < 0 ? errno : 0;
        gather_cpu(&f);
        gather_module(&f);
        gather_access(device, &f);
        f.container = exists("/.dockerenv") || exists("/run/.containerenv") || exists("/run/systemd/container");
        if (fd >= 0)
                probe_guest_run(fd, &f);
        *ret_facts = f;
}

/* ---- verdict ----------------------------------------------------------------------------------------------------- */

static void say(char *to, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say(char *to, size_t size, const char *format, ...) {
        size_t at = strlen(to);
        va_list ap;

        va_start(ap, format);
        vsnprintf(to + at, size - at, format, ap);
        va_end(ap);
}
#define EVIDENCE(p, ...) say((p)->evidence, sizeof((p)->evidence), __VA_ARGS__)
#define CURE(p, ...)     say((p)->cure, sizeof((p)->cure), __VA_ARGS__)

static const char *module_name(const struct probe_facts *f) {
        return f->cpu_svm ? "kvm_amd" : "kvm_intel";
}

static void judge_missing(struct probe *p) {
        const struct probe_facts *f = &p->facts;
        bool flag = f->cpu_vmx || f->cpu_svm;

        p->verdict = PROBE_MISSING;
        EVIDENCE(p, "there is no /dev/kvm (%s); the processor shows %s%s%s%s", strerror(f->open_errno),
                 flag ? (f->cpu_svm ? "svm" : "vmx") : "neither vmx nor svm",
                 f->cpu_hypervisor ? ", and is itself virtual" : "",
                 f->module_loaded ? ", the KVM module is loaded" : "", f->container ? ", and this is a container" : "");
        if (f->container && f->module_loaded)
                CURE(p, "hand the device to the container: docker run --device /dev/kvm (Podman: the same)");
        else if (flag && f->module_loaded)
                CURE(p,
                     "the module is loaded but made no device: switch on %s in the firmware setup, then look at dmesg "
                     "| grep -i kvm",
                     f->cpu_svm ? "SVM" : "Intel VT-x");
        else if (flag && f->container)
                CURE(p,
                     "on the host outside this container: modprobe %s, then start the container with --device /dev/kvm",
                     module_name(f));
        else if (flag && f->module_available)
                CURE(p,
                     "load the module: modprobe %s (if it refuses, dmesg says why; often virtualization is off in the "
                     "firmware setup)",
                     module_name(f));
        else if (flag)
                CURE(p,
                     "this kernel has no KVM module: install the full kernel package (Debian: linux-image-amd64), "
                     "reboot, modprobe %s",
                     module_name(f));
        else if (f->cpu_hypervisor)
                CURE(p, "switch on nested virtualization for this machine in the hypervisor that runs it (its CPU type "
                        "must pass vmx or svm "
                        "through); until then use --engine qemu, which emulates");
        else
                CURE(p, "switch on virtualization (Intel VT-x or AMD SVM) in the firmware setup; if there is no such "
                        "switch, the processor "
                        "lacks it: use --engine qemu, which emulates");
}

static void judge_forbidden(struct probe *p) {
        const struct probe_facts *f = &p->facts;

        p->verdict = PROBE_FORBIDDEN;
        EVIDENCE(p, "%s may not open /dev/kvm (%s): mode 0%o, group %s", f->user, strerror(f->open_errno),
                 f->device_mode, f->device_group);
        if (f->in_group_session || f->open_errno == EPERM)
                CURE(p, "%s%s",
                     f->container ? "the container's device policy forbids it: start it with --device /dev/kvm"
                                  : "a policy forbids it, or the device's mode lacks group access: chmod 660 /dev/kvm",
                     f->container ? "" : "; then see the journal for SELinux or AppArmor denials");
        else if (f->in_group_database)
                CURE(p,
                     "%s is in group %s, but this login session began before that: log out and in again, or: newgrp %s",
                     f->user, f->device_group, f->device_group);
        else if (strcmp(f->device_group, "root") == 0)
                CURE(p,
                     "the device belongs to group root: apt install udev sets its group, or: chgrp kvm /dev/kvm && "
                     "chmod 660 /dev/kvm; then: "
                     "adduser %s kvm, and log in again",
                     f->user);
        else
                CURE(p, "as root: adduser %s %s; then log out and in again", f->user, f->device_group);
}

static void judge_busy(struct probe *p) {
        const struct probe_facts *f = &p->facts;

        p->verdict = PROBE_BUSY;
        EVIDENCE(p, "%s fails: %s%s", step_names[f->step], strerror(EBUSY),
                 f->vbox_loaded     ? "; VirtualBox's module vboxdrv is loaded"
                 : f->vmware_loaded ? "; VMware's module vmmon is loaded"
                                    : "");
        if (f->vbox_loaded)
                CURE(p, "shut down VirtualBox's machines, then: modprobe -r vboxnetadp vboxnetflt vboxdrv");
        else if (f->vmware_loaded)
                CURE(p, "shut down VMware's machines, then: modprobe -r vmmon");
        else
                CURE(p,
                     "another hypervisor holds the processor's virtualization: end its machines and unload its module");
}

static void speed_evidence(struct probe *p) {
        const struct probe_facts *f = &p->facts;

        if (f->guest_mips > 0)
                EVIDENCE(p, "the guest runs %.0f million instructions a second, the host %.0f (%.2f of its speed)",
                         f->guest_mips, f->host_mips, f->host_mips > 0 ? f->guest_mips / f->host_mips : 0);
}

static const char *exit_name(unsigned int reason) {
        switch (reason) {
        case KVM_EXIT_IO:
                return "wrong result";
        case KVM_EXIT_SHUTDOWN:
                return "triple fault";
        case KVM_EXIT_FAIL_ENTRY:
                return "the processor refused to enter the guest";
        case KVM_EXIT_INTERNAL_ERROR:
                return "internal error of KVM";
        case KVM_EXIT_MMIO:
                return "a memory access went astray";
        case UINT32_MAX:
                return "no answer within the time limit";
        default:
                return "unexpected exit";
        }
}

static void failed_step_evidence(struct probe *p) {
        const struct probe_facts *f = &p->facts;

        EVIDENCE(p, "%s%s failed: ", p->evidence[0] ? "; " : "", step_names[f->step]);
        if (f->step_errno) {
                EVIDENCE(p, "%s: %s", f->step_message, strerror(f->step_errno));
                return;
        }
        EVIDENCE(p, "%s", exit_name(f->exit_reason));
        if (f->exit_reason != UINT32_MAX)
                EVIDENCE(p, " (exit %u, detail %u)", f->exit_reason, f->exit_detail);
        if (f->instruction_len > 0)
                EVIDENCE(p, ", at bytes");
        for (unsigned int i = 0; i < f->instruction_len; i++)
                EVIDENCE(p, " %02x", f->instruction[i]);
}

/* An emulator that gave up on an instruction: hardware never asks KVM to emulate what the steps execute. */
static bool gave_up_on_instruction(const struct probe_facts *f) {
        return f->step_errno == 0 && f->step >= PROBE_STEP_START && f->step < PROBE_STEP_DONE &&
               f->exit_reason == KVM_EXIT_INTERNAL_ERROR && f->exit_detail == KVM_INTERNAL_ERROR_EMULATION;
}

static void judge_guest(struct probe *p) {
        static const char emulated_cure[] =
                "this /dev/kvm is software: stock guests are slow or stop; use --engine qemu, or a host with "
                "hardware virtualization";
        const struct probe_facts *f = &p->facts;
        bool slow = f->guest_mips > 0 && f->guest_mips < f->host_mips * PROBE_SPEED_MIN;

        speed_evidence(p);
        if (f->step == PROBE_STEP_DONE) {
                p->verdict = slow ? PROBE_EMULATED : PROBE_HARDWARE;
                EVIDENCE(p, "; SSE2 and cmpxchg16b work");
                if (slow)
                        CURE(p, "%s", emulated_cure);
                return;
        }
        failed_step_evidence(p);
        if (slow || gave_up_on_instruction(f)) {
                p->verdict = PROBE_EMULATED;
                CURE(p, "%s", emulated_cure);
                return;
        }
        p->verdict = PROBE_BROKEN;
        if (f->step_errno == ENOMEM)
                CURE(p, "free memory on the host, or raise the limit: ulimit -v, the service's MemoryMax");
        else
                CURE(p, "look at dmesg | grep -i kvm; a newer kernel may mend it; until then use --engine qemu");
}

void probe_judge(struct probe *p) {
        const struct probe_facts *f = &p->facts;

        p->evidence[0] = p->cure[0] = '\0';
        if (f->open_errno == ENOENT || f->open_errno == ENXIO || f->open_errno == ENODEV)
                judge_missing(p);
        else if (f->open_errno == EACCES || f->open_errno == EPERM)
                judge_forbidden(p);
        else if (f->open_errno == EBUSY ||
                 (f->open_errno == 0 && f->step == PROBE_STEP_CREATE && f->step_errno == EBUSY))
                judge_busy(p);
        else if (f->open_errno != 0) {
                p->verdict = PROBE_BROKEN;
                EVIDENCE(p, "opening /dev/kvm fails: %s", strerror(f->open_errno));
                CURE(p, "look at dmesg | grep -i kvm, and at ls -l /dev/kvm: it should be character device 10, 232");
        } else
                judge_guest(p);
}

void probe_run(struct probe *ret_probe) {
        struct timespec a, b;

        *ret_probe = (struct probe){ 0 };
        clock_gettime(CLOCK_MONOTONIC, &a);
        probe_gather("/dev/kvm", &ret_probe->facts);
        probe_judge(ret_probe);
        clock_gettime(CLOCK_MONOTONIC, &b);
        ret_probe->ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
}
