// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vcpu: one virtual CPU; see kvm.h
 *
 * Kicking. kvm_vcpu_kick() sets immediate_exit in the run area and then sends the vCPU's thread a signal. Whichever side
 * of KVM_RUN the thread is on, it comes back: before it, KVM sees the flag at once; inside it, the signal ends guest mode. KVM
 * first completes a pending PIO or MMIO access, so no access is lost or done twice.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/kvm/internal.h"

/* seccomp: vcpu: ioctl arg1=KVM_RUN */
/* seccomp: vcpu: ioctl arg1=KVM_GET_REGS (rare) -- the message when KVM cannot go on */
/* seccomp: main: ioctl arg1=KVM_SET_SREGS -- reset, entry, and so on to KVM_SET_MSRS */
/* seccomp: main: ioctl arg1=KVM_GET_SREGS */
/* seccomp: main: ioctl arg1=KVM_SET_REGS */
/* seccomp: main: ioctl arg1=KVM_SET_LAPIC */
/* seccomp: main: ioctl arg1=KVM_SET_FPU */
/* seccomp: main: ioctl arg1=KVM_SET_VCPU_EVENTS */
/* seccomp: main: ioctl arg1=KVM_SET_DEBUGREGS */
/* seccomp: main: ioctl arg1=KVM_SET_MP_STATE */
/* seccomp: main: ioctl arg1=KVM_SET_XCRS */
/* seccomp: main: ioctl arg1=KVM_SET_MSRS */
/* seccomp: main: ioctl arg1=KVM_KVMCLOCK_CTRL -- resume */
/* seccomp: main,vcpu: getpid -- kicks */
/* seccomp: main,vcpu: tgkill arg0=PID -- kicks */
/* seccomp: main,vcpu: tgkill arg0=PID -- kicks */
/* seccomp: main,vcpu: getpid -- pthread_kill() */
/* seccomp: vcpu: rt_sigreturn -- back from a kick */

#define KICK_SIGNAL SIGUSR1

/*
 * MSRs at power-on (Intel SDM vol. 3 §9.1.1, vol. 4; AMD APM vol. 2 §14.1.3): what the guest may have set and a reset must
 * undo. MTRRs start enabled with write-back as the default type, as firmware would leave them. kvmclock and its relatives
 * must stop writing to addresses that the next kernel uses for something else.
 */
static const struct {
        uint32_t index;
        uint64_t value;
} reset_msrs[] = {
        { 0x174, 0 },      /* SYSENTER_CS */
        { 0x175, 0 },      /* SYSENTER_ESP */
        { 0x176, 0 },      /* SYSENTER_EIP */
        { 0x1a0, 1 },      /* MISC_ENABLE: fast strings */
        { 0x2ff, 0x806 },  /* MTRR_DEF_TYPE: enabled, write-back */
        { 0x6e0, 0 },      /* TSC_DEADLINE */
        { 0xc0000081, 0 }, /* STAR */
        { 0xc0000082, 0 }, /* LSTAR */
        { 0xc0000083, 0 }, /* CSTAR */
        { 0xc0000084, 0 }, /* SYSCALL_MASK */
        { 0xc0000102, 0 }, /* KERNEL_GS_BASE */
        { 0x4b564d00, 0 }, /* MSR_KVM_WALL_CLOCK_NEW */
        { 0x4b564d01, 0 }, /* MSR_KVM_SYSTEM_TIME_NEW */
        { 0x4b564d02, 0 }, /* MSR_KVM_ASYNC_PF_EN */
        { 0x4b564d03, 0 }, /* MSR_KVM_STEAL_TIME */
        { 0x4b564d04, 0 }, /* MSR_KVM_PV_EOI_EN */
};

struct kvm_vcpu {
        struct kvm *kvm;
        unsigned int apic_id;
        int fd;
        struct kvm_run *run;
        _Atomic pid_t tid; /* of the thread that runs it; 0: none yet */

        bool initial_valid;
        struct kvm_regs initial_regs;
        struct kvm_sregs initial_sregs;
        struct kvm_lapic_state initial_lapic;
        struct kvm_vcpu_events initial_events;
};

static int vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned long request, const void *arg) {
        int r = vcpu->kvm->sys->ioctl(vcpu->fd, request, arg);

        return r < 0 ? -errno : r;
}

int kvm_vcpu_new(struct kvm *kvm, unsigned int apic_id, struct kvm_vcpu **ret_vcpu, struct error *e) {
        _cleanup_(kvm_vcpu_freep) struct kvm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
        void *run;

        if (!vcpu)
                return error_set(e, -ENOMEM, "vcpu-create", NULL, "cannot create vCPU %u", apic_id);
        vcpu->kvm = kvm;
        vcpu->apic_id = apic_id;
        vcpu->fd = kvm->sys->ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)apic_id);
        if (vcpu->fd < 0)
                return error_set(e, -errno, "vcpu-create", "ask for fewer CPUs: --cpus",
                                 "cannot create vCPU %u (KVM allows %u)", apic_id, kvm_max_vcpus(kvm));
        run = kvm->sys->mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
        if (run == MAP_FAILED)
                return error_set(e, -errno, "vcpu-create", NULL, "cannot map the run area of vCPU %u", apic_id);
        vcpu->run = run;
        kvm_find_coalesced(kvm, run);
        *ret_vcpu = TAKE_PTR(vcpu);
        return 0;
}

void kvm_vcpu_free(struct kvm_vcpu *vcpu) {
        if (!vcpu)
                return;
        if (vcpu->run) {
                kvm_forget_coalesced(vcpu->kvm, vcpu->run);
                munmap(vcpu->run, vcpu->kvm->run_size);
        }
        safe_close(vcpu->fd);
        free(vcpu);
}

static int save_initial(struct kvm_vcpu *vcpu) {
        int r;

        r = vcpu_ioctl(vcpu, KVM_GET_REGS, &vcpu->initial_regs);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_GET_SREGS, &vcpu->initial_sregs);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_GET_LAPIC, &vcpu->initial_lapic);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &vcpu->initial_events);
        if (r < 0)
                return r;
        vcpu->initial_valid = true;
        return 0;
}

int kvm_vcpu_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid) {
        int r = vcpu_ioctl(vcpu, KVM_SET_CPUID2, cpuid);

        if (r < 0)
                return r;
        return vcpu->initial_valid ? 0 : save_initial(vcpu);
}

int kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool boot) {
        struct kvm_mp_state mp = { .mp_state = boot ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED };
        struct kvm_fpu fpu = { .fcw = 0x37f, .mxcsr = 0x1f80 };
        struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 1 };
        struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };
        int r;

        /* The special registers come first: they hold the APIC base, which decides how the LAPIC state is read. */
        r = vcpu_ioctl(vcpu, KVM_SET_SREGS, &vcpu->initial_sregs);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_SET_REGS, &vcpu->initial_regs);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_SET_LAPIC, &vcpu->initial_lapic);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_SET_FPU, &fpu);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &vcpu->initial_events);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_SET_DEBUGREGS, &debug);
        if (r >= 0)
                r = vcpu_ioctl(vcpu, KVM_SET_MP_STATE, &mp);
        if (r < 0)
                return r;
        (void)vcpu_ioctl(vcpu, KVM_SET_XCRS, &xcrs); /* only where the guest has XSAVE */
        for (size_t i = 0; i < ELEMENTSOF(reset_msrs); i++)
                (void)kvm_vcpu_set_msr(vcpu, reset_msrs[i].index, reset_msrs[i].value); /* not every CPU has each */
        return 0;
}

int kvm_vcpu_get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *ret_regs) {
        return vcpu_ioctl(vcpu, KVM_GET_REGS, ret_regs);
}

int kvm_vcpu_set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *regs) {
        return vcpu_ioctl(vcpu, KVM_SET_REGS, regs);
}

int kvm_vcpu_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *ret_sregs) {
        return vcpu_ioctl(vcpu, KVM_GET_SREGS, ret_sregs);
}

int kvm_vcpu_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs) {
        return vcpu_ioctl(vcpu, KVM_SET_SREGS, sregs);
}

int kvm_vcpu_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t value) {
        struct {
                struct kvm_msrs head;
                struct kvm_msr_entry entry;
        } msr = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };
        int r = vcpu_ioctl(vcpu, KVM_SET_MSRS, &msr);

        if (r < 0)
                return r;
        return r == 1 ? 0 : -ENXIO;
}

int kvm_vcpu_clock_paused(struct kvm_vcpu *vcpu) {
        return vcpu_ioctl(vcpu, KVM_KVMCLOCK_CTRL, NULL);
}

struct kvm_run *kvm_vcpu_run_area(struct kvm_vcpu *vcpu) {
        return vcpu->run;
}

int kvm_vcpu_run(struct kvm_vcpu *vcpu) {
        int r = vcpu_ioctl(vcpu, KVM_RUN, NULL);

        return r == -EAGAIN ? -EINTR : r; /* EAGAIN: an AP was woken by INIT/SIPI and is to be run again */
}

void kvm_vcpu_kick(struct kvm_vcpu *vcpu) {
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        if (atomic_load(&vcpu->tid) > 0)
                (void)tgkill(getpid(), atomic_load(&vcpu->tid), KICK_SIGNAL);
}

void kvm_vcpu_unkick(struct kvm_vcpu *vcpu) {
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static void on_kick(int signo) {
        /* Being delivered is all that it is for. */
}

int kvm_vcpu_bind(struct kvm_vcpu *vcpu) {
        struct sigaction action = { .sa_handler = on_kick };
        sigset_t set;

        if (sigaction(KICK_SIGNAL, &action, NULL) < 0)
                return -errno;
        sigemptyset(&set);
        sigaddset(&set, KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        atomic_store(&vcpu->tid, gettid());
        return 0;
}
