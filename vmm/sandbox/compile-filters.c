// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * compile-filters: turn the table of seccomp rules into BPF programs, at build time
 *
 * libseccomp does the work here, so lodge-vmm neither links it nor spends memory and start time on it: it carries the
 * finished programs as constants. Prints a C header.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/sandbox/internal.h"
#include "vmm/sandbox/sandbox.h"

struct rule {
        enum sandbox_role role;
        int call;
        unsigned int n_terms;
        struct {
                unsigned int arg;
                uint64_t mask, value;
        } terms[3];
        const char *where;
};

static const struct rule rules[] = {
#include "vmm/sandbox/rules.h" /* made by collect.py */
};

static const char *const role_names[] = {
        [SANDBOX_ROLE_MAIN] = "main",
        [SANDBOX_ROLE_VCPU] = "vcpu",
        [SANDBOX_ROLE_BLOCK] = "block",
        [SANDBOX_ROLE_IO] = "io",
};
_Static_assert(sizeof(role_names) / sizeof(role_names[0]) == SANDBOX_ROLE_COUNT, "each role has a name");

static int add_rule(scmp_filter_ctx filter, const struct rule *rule) {
        struct scmp_arg_cmp terms[3];
        int r;

        for (unsigned int i = 0; i < rule->n_terms; i++)
                terms[i] = (struct scmp_arg_cmp){
                        .arg = rule->terms[i].arg,
                        .op = SCMP_CMP_MASKED_EQ,
                        .datum_a = rule->terms[i].mask,
                        .datum_b = rule->terms[i].value,
                };
        r = seccomp_rule_add_exact_array(filter, SCMP_ACT_ALLOW, rule->call, rule->n_terms, terms);
        if (r < 0 && r != -EEXIST) {
                fprintf(stderr, "%s: %s\n", rule->where, strerror(-r));
                return r;
        }
        return 0;
}

static int print_filter(scmp_filter_ctx filter, const char *name) {
        FILE *f = tmpfile();
        struct sock_filter insn;
        int r;

        if (!f)
                return -errno;
        r = seccomp_export_bpf(filter, fileno(f));
        if (r < 0) {
                fclose(f);
                return r;
        }
        rewind(f);
        printf("static const struct sock_filter filter_%s[] = {\n", name);
        while (fread(&insn, sizeof(insn), 1, f) == 1)
                printf("        { 0x%02x, %u, %u, 0x%08x },\n", insn.code, insn.jt, insn.jf, insn.k);
        printf("};\n\n");
        fclose(f);
        return 0;
}

static int compile(enum sandbox_role role) {
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
        int r;

        if (!filter)
                return -ENOMEM;
        /* A call of another architecture (int 0x80, x32) is never ours. */
        r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        if (r >= 0) /* KVM_RUN is the one that matters */
                r = seccomp_syscall_priority(filter, SCMP_SYS(ioctl), 255);
        for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]) && r >= 0; i++)
                if (rules[i].role == role)
                        r = add_rule(filter, &rules[i]);
        if (r >= 0)
                r = print_filter(filter, role_names[role]);
        seccomp_release(filter);
        return r;
}

int main(void) {
        printf("/* Made by compile-filters; do not edit. */\n\n");
        for (enum sandbox_role role = 0; role < SANDBOX_ROLE_COUNT; role++) {
                int r = compile(role);

                if (r < 0) {
                        fprintf(stderr, "compile-filters: role %s: %s\n", role_names[role], strerror(-r));
                        return 1;
                }
        }
        return 0;
}
