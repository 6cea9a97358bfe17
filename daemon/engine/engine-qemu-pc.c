// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine-qemu-pc: what of a PC only QEMU has, for guests that bring a boot loader: firmware, TPM, CD drives, a display adapter
 *
 * Theory of operation. UEFI is two flash chips on descriptors: the code, read-only, and the variables. For Secure Boot the second one may be written in
 * system management mode only, so that a guest's kernel can't enrol keys of its own. QEMU starts the TPM by the control socket of a swtpm that runs already. CD
 * drives hang on an AHCI controller, since installers have its driver, at the place where q35's own one is (1f.2); the display adapter is beside
 * it: the other places on the bus are those of lodge-vmm's devices (layout.h), and stay theirs.
 *
 * The order of boot is that of the disks, then of the CDs: an empty disk is passed over until a system is installed on it.
 */
#include "daemon/engine/engine-qemu.h"

#include <stdio.h>

#define ADDR_VIDEO "0x1f.1"
#define ADDR_SATA  "0x1f.2"
#define BOOT_CDROM 100 /* after all disks */

const char *qemu_pc_machine(const struct parts *p) {
        switch (p->config->firmware) {
        case MACHINE_FIRMWARE_UEFI:
                return ",pflash0=firmware,pflash1=variables";
        case MACHINE_FIRMWARE_UEFI_SECURE:
                return ",pflash0=firmware,pflash1=variables,smm=on";
        default:
                return "";
        }
}

/*
 * What Windows uses when it finds Hyper-V (Hypervisor Top Level Functional Specification 6.0): each makes it leave out something that is slow in a
 * virtual machine. All of them are in every KVM since Linux 5.0; an emulator has none.
 */
const char *qemu_pc_cpu(const struct parts *p, bool kvm) {
        if (!p->config->hyperv || !kvm)
                return "";
        return ",hv-relaxed=on,hv-vapic=on,hv-spinlocks=0x1fff,hv-vpindex=on,hv-runtime=on,hv-time=on,hv-synic=on,"
               "hv-stimer=on,hv-reset=on,hv-frequencies=on,hv-tlbflush=on,hv-ipi=on";
}

static void add_flash(struct qemu_args *a, int set, int fd, const char *name, bool readonly) {
        qemu_add(a, "-add-fd");
        qemu_add(a, "fd=%d,set=%d", fd, set);
        qemu_add(a, "-blockdev");
        qemu_add(a, "driver=file,node-name=%s-file,filename=/dev/fdset/%d,locking=off,read-only=%s", name, set,
                 readonly ? "on" : "off");
        qemu_add(a, "-blockdev");
        qemu_add(a, "driver=raw,node-name=%s,file=%s-file,read-only=%s", name, name, readonly ? "on" : "off");
}

static void add_firmware(struct qemu_args *a, const struct parts *p) {
        if (qemu_pc_machine(p)[0] == '\0')
                return;
        add_flash(a, QEMU_SETS_FIRMWARE, p->code_fd, "firmware", true);
        add_flash(a, QEMU_SETS_FIRMWARE + 1, p->vars_fd, "variables", false);
        if (p->config->firmware == MACHINE_FIRMWARE_UEFI_SECURE) {
                qemu_add(a, "-global");
                qemu_add(a, "driver=cfi.pflash01,property=secure,value=on");
        }
}

static void add_tpm(struct qemu_args *a, const struct parts *p) {
        if (!p->config->tpm)
                return;
        qemu_add(a, "-chardev");
        qemu_add(a, "socket,id=swtpm,fd=%d", p->tpm.fd);
        qemu_add(a, "-tpmdev");
        qemu_add(a, "emulator,id=tpm0,chardev=swtpm");
        qemu_add(a, "-device");
        qemu_add(a, "tpm-crb,tpmdev=tpm0");
}

static void add_cdroms(struct qemu_args *a, const struct parts *p) {
        if (p->n_cdroms == 0)
                return;
        qemu_add(a, "-device");
        qemu_add(a, "ich9-ahci,id=sata,bus=pcie.0,addr=" ADDR_SATA);
        for (size_t i = 0; i < p->n_cdroms; i++) {
                qemu_add(a, "-add-fd");
                qemu_add(a, "fd=%d,set=%zu", p->cdrom_fds[i], QEMU_SETS_CDROM + i);
                qemu_add(a, "-blockdev");
                qemu_add(a, "driver=file,node-name=cdrom%zu-file,filename=/dev/fdset/%zu,locking=off,read-only=on", i,
                         QEMU_SETS_CDROM + i);
                qemu_add(a, "-blockdev");
                qemu_add(a, "driver=raw,node-name=cdrom%zu,file=cdrom%zu-file,read-only=on", i, i);
                qemu_add(a, "-device");
                qemu_add(a, "ide-cd,bus=sata.%zu,drive=cdrom%zu,bootindex=%zu", i, i, BOOT_CDROM + i);
        }
}

void qemu_pc_add(struct qemu_args *a, const struct parts *p) {
        add_firmware(a, p);
        add_tpm(a, p);
        add_cdroms(a, p);
        if (p->config->video == MACHINE_VIDEO_VGA) {
                qemu_add(a, "-device");
                qemu_add(a, "VGA,bus=pcie.0,addr=" ADDR_VIDEO);
        }
        if (p->config->rtc == MACHINE_RTC_LOCALTIME) {
                qemu_add(a, "-rtc");
                qemu_add(a, "base=localtime");
        }
}
