// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine-auto: which engine a machine gets, and the sentence that says why
 *
 * Native, wherever KVM is hardware and the machine asks for nothing that lodge-vmm lacks. Whatever rules it out is named; --engine native turns
 * that reason into an error, auto into a fallback that is always said aloud.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/spawn.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/parts-firmware.h"

#ifndef LODGE_LIBEXECDIR
#        define LODGE_LIBEXECDIR "/usr/libexec/lodge"
#endif

int engine_program_path(const char *name, char **ret_path) {
        /* The build tree's directories, then an installation's. */
        static const char *const places[] = { ".", "../..", "../libexec/lodge", NULL };
        char path[PATH_MAX];
        int r = spawn_find_beside(name, places, ret_path);

        if (r != -ENOENT)
                return r;
        snprintf(path, sizeof(path), LODGE_LIBEXECDIR "/%s", name);
        if (access(path, X_OK) < 0)
                return -ENOENT;
        *ret_path = strdup(path);
        return *ret_path ? 0 : -ENOMEM;
}

int engine_vmm_path(char **ret_path) {
        return engine_program_path("lodge-vmm", ret_path);
}

/* What lodge-vmm has nothing of, as the machine's fields say it. Return: false when the machine asks for nothing of that. */
static bool native_lacks(const struct machine_config *c, char *ret_reason, size_t size) {
        const struct {
                bool asked;
                const char *field, *value;
        } lacks[] = {
                { c->firmware != MACHINE_FIRMWARE_NONE, "firmware", machine_firmware_to_string(c->firmware) },
                { c->tpm, "tpm", NULL },
                { c->hyperv, "hyperv", NULL },
                { c->n_cdroms > 0, "cdrom", NULL },
                { c->drivers != MACHINE_DRIVERS_NONE, "drivers", machine_drivers_to_string(c->drivers) },
                { c->video != MACHINE_VIDEO_NONE, "video", machine_video_to_string(c->video) },
                { c->rtc != MACHINE_RTC_UTC, "rtc", machine_rtc_to_string(c->rtc) },
        };

        for (size_t i = 0; i < ELEMENTSOF(lacks); i++)
                if (lacks[i].asked) {
                        snprintf(ret_reason, size, "%s%s%s: lodge-vmm does not have it yet", lacks[i].field,
                                 lacks[i].value ? " " : "", lacks[i].value ?: "");
                        return true;
                }
        return false;
}

/* What QEMU leaves out here, rather than refuse the machine. */
static void warn_left_out(const struct machine_config *c, struct engine_choice *choice) {
        bool there;
        const char *drivers = part_drivers_path(c, &there);
        size_t n = 0;

        if (c->hyperv && !choice->kvm)
                n = (size_t)snprintf(choice->warning, sizeof(choice->warning),
                                     "hyperv is left out: QEMU has it with KVM only");
        if (drivers && !there)
                snprintf(choice->warning + n, sizeof(choice->warning) - n,
                         "%sno drivers in a CD drive: get virtio-win.iso from "
                         "https://fedorapeople.org/groups/virt/virtio-win/direct-downloads/stable-virtio/ and put it "
                         "to %s",
                         n > 0 ? "; " : "", drivers);
}

/* What keeps lodge-vmm from serving this machine here? Return: false and a reason, or true. */
static bool native_serves(const struct machine_config *c, const struct probe *probe, char *ret_reason, size_t size) {
        _cleanup_free_ char *vmm = NULL;

        if (probe->verdict != PROBE_HARDWARE) {
                snprintf(ret_reason, size, "KVM is %s here: %.300s", probe_verdict_name(probe->verdict),
                         probe->evidence);
                return false;
        }
        if (engine_vmm_path(&vmm) < 0) {
                snprintf(ret_reason, size, "lodge-vmm is not installed");
                return false;
        }
        if (probe->facts.max_vcpus > 0 && c->cpus > probe->facts.max_vcpus) {
                snprintf(ret_reason, size, "the machine asks for %u CPUs, this host's KVM allows %u", c->cpus,
                         probe->facts.max_vcpus);
                return false;
        }
        return true;
}

int engine_decide(const struct machine_config *c, const struct probe *probe, struct engine_choice *ret_choice,
                  struct error *e) {
        struct engine_choice choice = { .kvm = probe->verdict == PROBE_HARDWARE };
        _cleanup_free_ char *qemu = NULL;
        char why_not[400] = "";
        bool lacks = native_lacks(c, why_not, sizeof(why_not));
        bool native = !lacks && native_serves(c, probe, why_not, sizeof(why_not));
        int r;

        if (c->engine == MACHINE_ENGINE_NATIVE || (c->engine == MACHINE_ENGINE_AUTO && native)) {
                if (!native) {
                        r = error_set(e, probe->verdict == PROBE_BUSY && !lacks ? -EBUSY : -ENOTSUP, "engine-native",
                                      NULL, "the native engine can't run this machine: %s", why_not);
                        error_set_fix(e, "%s",
                                      probe->cure[0] && !lacks
                                              ? probe->cure
                                              : "use --engine qemu, or leave the choice to --engine auto");
                        return r;
                }
                choice.kind = ENGINE_NATIVE;
                snprintf(choice.reason, sizeof(choice.reason), "%s%.480s",
                         c->engine == MACHINE_ENGINE_NATIVE ? "asked for; " : "", probe->evidence);
                *ret_choice = choice;
                return 0;
        }
        choice.kind = ENGINE_QEMU;
        choice.fallback = c->engine == MACHINE_ENGINE_AUTO;
        snprintf(choice.reason, sizeof(choice.reason), "%s", choice.fallback ? why_not : "asked for");
        if (spawn_find("qemu-system-x86_64", &qemu) < 0) {
                r = error_set(e, -ENOENT, "engine-qemu", NULL, "QEMU is needed and not installed%s%s",
                              choice.fallback ? ": " : "", choice.fallback ? why_not : "");
                error_set_fix(e, "apt install qemu-system-x86");
                return r;
        }
        r = part_firmware_check(c, e);
        if (r < 0)
                return r;
        warn_left_out(c, &choice);
        *ret_choice = choice;
        return 0;
}
