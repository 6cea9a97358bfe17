// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * probe-guest: see probe-guest.h
 *
 * The guest has 2 MiB, mapped at 0 by one large page, and starts in 64-bit mode (AMD APM volume 2 §14.6; Intel SDM volume 3 §10.8.5),
 * with the segment registers set as if a GDT had been loaded. It talks by OUT to port 0x10: AL is the number of the step that it has
 * finished. How long the loop is, and whether another round follows, it reads from its memory, where we write it between two exits;
 * the time is taken here. Which rounds there are, probe-speed.h says; the host runs each before the guest does.
 *
 * Time limit. A periodic SIGALRM interrupts KVM_RUN, so that neither a signal that comes a moment too early nor a guest that never
 * exits can hold the probe up: after each interruption the clock is looked at. What the guest answered counts, however late it is:
 * on a loaded machine it may be the scheduler that was slow.
 */
#include "daemon/host/probe-guest.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/sys.h"
#include "daemon/host/probe-speed.h"
#include "vmm/kvm/kvm.h"

#define GUEST_SIZE  (2u << 20)
#define GUEST_PML4  0x1000u
#define GUEST_PDPT  0x2000u
#define GUEST_PD    0x3000u
#define GUEST_CODE  0x4000u
#define GUEST_DATA  0x5000u
#define GUEST_STACK 0x8000u
#define GUEST_PORT  0x10
#define LIMIT_US    600000.0
#define TICK_US     20000

#define CR0_PE      (1u << 0)
#define CR0_MP      (1u << 1)
#define CR0_NE      (1u << 5)
#define CR0_PG      (1u << 31)
#define CR4_PAE     (1u << 5)
#define CR4_OSFXSR  (1u << 9)
#define CR4_OSXMMEX (1u << 10)
#define EFER_LME    (1u << 8)
#define EFER_LMA    (1u << 10)

/* The loop, for host and guest alike: nothing but registers, SPEED_LOOP instructions a turn, RCX turns. */
#define LOOP_ASM(R)                                                                                                    \
        "1:     add " R "rcx, " R "rax\n"                                                                              \
        "       xor " R "rcx, " R "rdx\n"                                                                              \
        "       lea 7(" R "rax), " R "rsi\n"                                                                           \
        "       add " R "rsi, " R "rdx\n"                                                                              \
        "       ror $3, " R "rdx\n"                                                                                    \
        "       mov " R "rdx, " R "rdi\n"                                                                              \
        "       and " R "rcx, " R "rdi\n"                                                                              \
        "       sub " R "rdi, " R "rax\n"                                                                              \
        "       dec " R "rcx\n"                                                                                        \
        "       jnz 1b\n"

/* RBX: GUEST_DATA, where 64(RBX) is the loop's length and 72(RBX) says if there is another round. AL: which enum probe_step is done. */
__asm__(".pushsection .rodata, \"a\"\n"
        ".balign 16\n"
        "probe_guest_code:\n"
        "       mov $2, %al\n" /* PROBE_STEP_START */
        "       out %al, $0x10\n"
        "2:     mov 64(%rbx), %rcx\n" LOOP_ASM("%") "       mov $3, %al\n" /* PROBE_STEP_SPEED, once for each round */
                                                    "       out %al, $0x10\n"
                                                    "       cmpq $0, 72(%rbx)\n"
                                                    "       jne 2b\n"
                                                    "       movdqu (%rbx), %xmm0\n"
                                                    "       movdqu 16(%rbx), %xmm1\n"
                                                    "       paddq %xmm0, %xmm1\n"
                                                    "       pcmpeqd 32(%rbx), %xmm1\n"
                                                    "       pmovmskb %xmm1, %eax\n"
                                                    "       cmp $0xffff, %eax\n"
                                                    "       jne 9f\n"
                                                    "       mov $4, %al\n" /* PROBE_STEP_SSE2 */
                                                    "       out %al, $0x10\n"
                                                    "       mov 48(%rbx), %rax\n"
                                                    "       mov 56(%rbx), %rdx\n"
                                                    "       mov $5, %ecx\n"
                                                    "       push %rbx\n"
                                                    "       lea 48(%rbx), %rdi\n"
                                                    "       mov $7, %ebx\n"
                                                    "       lock cmpxchg16b (%rdi)\n"
                                                    "       pop %rbx\n"
                                                    "       jnz 9f\n"
                                                    "       cmpq $7, (%rdi)\n"
                                                    "       jne 9f\n"
                                                    "       mov $5, %al\n" /* PROBE_STEP_CX16 */
                                                    "       out %al, $0x10\n"
                                                    "9:     mov $0xff, %al\n" /* a wrong result */
                                                    "       out %al, $0x10\n"
                                                    "       jmp 9b\n"
                                                    "probe_guest_end:\n"
                                                    ".popsection\n");
extern const uint8_t probe_guest_code[] __attribute__((visibility("hidden")));
extern const uint8_t probe_guest_end[] __attribute__((visibility("hidden")));

_Static_assert(PROBE_STEP_START == 2 && PROBE_STEP_SPEED == 3 && PROBE_STEP_SSE2 == 4 && PROBE_STEP_CX16 == 5 &&
                       GUEST_PORT == 0x10,
               "the guest's code has these numbers in it");

static double now_us(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* The host's round. Return: microseconds. */
static double host_round(uint64_t turns) {
        double start = now_us();

        __asm__ volatile(LOOP_ASM("%%") : "+c"(turns) : : "rax", "rdx", "rsi", "rdi", "cc");
        return now_us() - start;
}

static void put_u64(uint8_t *memory, uint64_t at, uint64_t value) {
        memcpy(memory + at, &value, sizeof(value));
}

static void fill_memory(uint8_t *m) {
        put_u64(m, GUEST_PML4, GUEST_PDPT | 3); /* present, writable */
        put_u64(m, GUEST_PDPT, GUEST_PD | 3);
        put_u64(m, GUEST_PD, 0 | 0x83); /* and large */
        memcpy(m + GUEST_CODE, probe_guest_code, (size_t)(probe_guest_end - probe_guest_code));
        for (unsigned int i = 0; i < 2; i++) {
                put_u64(m, GUEST_DATA + i * 8, 0x1111111111111111ull * (i + 1));
                put_u64(m, GUEST_DATA + 16 + i * 8, 0x0123456789abcdefull);
                put_u64(m, GUEST_DATA + 32 + i * 8, 0x1111111111111111ull * (i + 1) + 0x0123456789abcdefull);
                put_u64(m, GUEST_DATA + 48 + i * 8, 0xfeedface00000000ull + i);
        }
}

static int set_registers(struct kvm_vcpu *vcpu) {
        struct kvm_regs regs = { .rip = GUEST_CODE,
                                 .rsp = GUEST_STACK,
                                 .rbx = GUEST_DATA,
                                 .rflags = 2 /* always set */ };
        struct kvm_segment code = {
                .limit = 0xffffffff, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
        };
        struct kvm_segment data = {
                .limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
        };
        struct kvm_sregs sregs;
        int r = kvm_vcpu_get_sregs(vcpu, &sregs);

        if (r < 0)
                return r;
        sregs.cs = code;
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
        sregs.cr3 = GUEST_PML4;
        sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEX;
        sregs.efer = EFER_LME | EFER_LMA;
        sregs.cr0 = CR0_PE | CR0_MP | CR0_NE | CR0_PG;
        r = kvm_vcpu_set_sregs(vcpu, &sregs);
        return r < 0 ? r : kvm_vcpu_set_regs(vcpu, &regs);
}

static void record_errno(struct probe_facts *f, int code, const char *message) {
        f->step_errno = -code;
        snprintf(f->step_message, sizeof(f->step_message), "%s", message);
}

static void record_exit(struct probe_facts *f, const struct kvm_run *run) {
        f->exit_reason = run->exit_reason;
        if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
                f->exit_detail = (unsigned int)run->fail_entry.hardware_entry_failure_reason;
        if (run->exit_reason != KVM_EXIT_INTERNAL_ERROR)
                return;
        f->exit_detail = run->internal.suberror;
        if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
            run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
                f->instruction_len =
                        MIN((unsigned int)run->emulation_failure.insn_size, (unsigned int)sizeof(f->instruction));
                memcpy(f->instruction, run->emulation_failure.insn_bytes, f->instruction_len);
        }
}

/* Until the guest's next OUT. Return: AL, or negative when it failed and was recorded. */
static int run_to_out(struct kvm_vcpu *vcpu, double deadline, struct probe_facts *f) {
        struct kvm_run *run = kvm_vcpu_run_area(vcpu);

        for (;;) {
                int r = kvm_vcpu_run(vcpu);

                if (r == -EINTR || r == -EAGAIN) {
                        if (now_us() < deadline)
                                continue;
                        f->exit_reason = UINT32_MAX;
                        return -ETIME;
                }
                if (r < 0) {
                        record_errno(f, r, "KVM_RUN");
                        return r;
                }
                if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
                    run->io.port == GUEST_PORT)
                        return *((uint8_t *)run + run->io.data_offset);
                record_exit(f, run);
                return -EIO;
        }
}

static void run_steps(struct kvm_vcpu *vcpu, uint8_t *memory, struct probe_facts *f) {
        double begin = now_us(), deadline = begin + LIMIT_US, start, host_us = 0;
        struct probe_speed speed = PROBE_SPEED_INIT;

        f->step = PROBE_STEP_START;
        while (f->step < PROBE_STEP_DONE) {
                int al;

                start = now_us();
                al = run_to_out(vcpu, deadline, f);
                if (al < 0)
                        return;
                if (al != (int)f->step) {
                        f->exit_reason = KVM_EXIT_IO; /* the guest itself says that a result is wrong */
                        return;
                }
                if (al == PROBE_STEP_SPEED) {
                        double end = now_us();
                        bool more = probe_speed_next(&speed, host_us, end - start, end - begin);

                        f->host_mips = speed.host_mips;
                        f->guest_mips = speed.guest_mips;
                        put_u64(memory, GUEST_DATA + 72, more);
                        if (!more)
                                f->step++;
                } else
                        f->step++;
                if (f->step == PROBE_STEP_SPEED) {
                        put_u64(memory, GUEST_DATA + 64, speed.turns);
                        host_us = host_round(speed.turns);
                }
        }
}

static void ignore_signal(int signo) {
}

static void run_with_alarm(struct kvm_vcpu *vcpu, uint8_t *memory, struct probe_facts *f) {
        struct itimerval tick = { { 0, TICK_US }, { 0, TICK_US } }, off = { 0 }, old_tick;
        struct sigaction action = { .sa_handler = ignore_signal }, old_action; /* no SA_RESTART: KVM_RUN must return */
        sigset_t set, old_set;

        sigemptyset(&set);
        sigaddset(&set, SIGALRM);
        sigaction(SIGALRM, &action, &old_action);
        pthread_sigmask(SIG_UNBLOCK, &set, &old_set);
        setitimer(ITIMER_REAL, &tick, &old_tick);
        run_steps(vcpu, memory, f);
        setitimer(ITIMER_REAL, &off, NULL);
        pthread_sigmask(SIG_SETMASK, &old_set, NULL);
        sigaction(SIGALRM, &old_action, NULL);
}

void probe_guest_run(int kvm_fd, struct probe_facts *f) {
        _cleanup_(kvm_freep) struct kvm *kvm = NULL;
        _cleanup_(kvm_vcpu_freep) struct kvm_vcpu *vcpu = NULL;
        _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        uint8_t *memory;
        int r;

        f->step = PROBE_STEP_CREATE;
        memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
                record_errno(f, -errno, "guest memory");
                return;
        }
        fill_memory(memory);
        r = kvm_open(&sys_real, kvm_fd, false, &kvm, &e);
        if (r == 0) {
                f->max_vcpus = kvm_max_vcpus(kvm);
                r = kvm_set_memory(kvm, 0, 0, GUEST_SIZE, memory, false);
        }
        if (r == 0)
                r = kvm_vcpu_new(kvm, 0, &vcpu, &e);
        if (r == 0)
                r = kvm_supported_cpuid(kvm_fd, &sys_real, &cpuid);
        if (r == 0)
                r = kvm_vcpu_set_cpuid(vcpu, cpuid);
        if (r == 0)
                r = set_registers(vcpu);
        if (r < 0)
                record_errno(f, r, e.message ?: "setting up a virtual CPU");
        else
                run_with_alarm(vcpu, memory, f);
        /* The guest must be gone before its memory is. */
        kvm_vcpu_free(TAKE_PTR(vcpu));
        kvm_close(TAKE_PTR(kvm));
        munmap(memory, GUEST_SIZE);
}
