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
        bool native = native_serves(c, probe, why_not, sizeof(why_not));
        int r;

        if (c->engine == MACHINE_ENGINE_NATIVE || (c->engine == MACHINE_ENGINE_AUTO && native)) {
                if (!native) {
                        r = error_set(e, probe->verdict == PROBE_BUSY ? -EBUSY : -ENOTSUP, "engine-native", NULL,
                                      "the native engine can't run this machine: %s", why_not);
                        error_set_fix(e, "%s",
                                      probe->cure[0] ? probe->cure
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
        *ret_choice = choice;
        return 0;
}
