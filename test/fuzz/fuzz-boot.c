// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-boot: any bytes as a kernel file of any format
 *
 * The first byte says whether the rest is followed by an initrd (its last 16 bytes) and a command line. Whatever a header
 * claims, nothing may be written outside guest RAM (the sanitizer sees it) and a refusal has its reason.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "vmm/boot/boot.h"
#include "vmm/machine/layout.h"
#include "vmm/machine/memory.h"

#define RAM         (32ull << 20)
#define INITRD_SIZE 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int file_of(const void *data, size_t n) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);

        if (fd < 0 || io_write_at(&sys_real, fd, data, n, 0) < 0)
                abort();
        return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const struct memory_options options = { .size = RAM };
        const struct kvm_sregs sregs = { .apic_base = 0xfee00900 };
        _cleanup_(memory_freep) struct memory *memory = NULL;
        _cleanup_close_ int kernel = -EBADF, initrd = -EBADF;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct boot_source source = { .initrd_fd = -1, .rsdp = LAYOUT_ACPI };
        struct boot_entry entry;

        if (size < 1 + INITRD_SIZE)
                return -1;
        if (memory_new(&options, &memory, &e) < 0)
                abort();
        kernel = file_of(data + 1, size - 1);
        source.kernel_fd = kernel;
        if (data[0] & 1) {
                initrd = file_of(data + size - INITRD_SIZE, INITRD_SIZE);
                source.initrd_fd = initrd;
        }
        if (data[0] & 2)
                source.append = "console=ttyS0 root=/dev/vda1";
        if (boot_load(memory, &source, &sregs, &entry, &e) < 0) {
                if (!e.id || !e.message)
                        abort();
        } else if (entry.format >= BOOT_FORMAT_COUNT) {
                abort();
        }
        return 0;
}
