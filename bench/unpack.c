// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * unpack: write the vmlinux inside a compressed kernel to a file, as lodge does once for each kernel before its first start
 *
 * usage: bench-unpack BZIMAGE VMLINUX
 */
#include <fcntl.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vmm/boot/unpack.h"

#define VMLINUX_MAX (512ull << 20)

int main(int argc, char **argv) {
        _cleanup_error_ struct error e = ERROR_INIT;
        _cleanup_close_ int in = -EBADF, out = -EBADF;
        int r;

        if (argc != 3) {
                fputs("usage: bench-unpack BZIMAGE VMLINUX\n", stderr);
                return 1;
        }
        in = open(argv[1], O_RDONLY | O_CLOEXEC);
        out = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (in < 0 || out < 0) {
                perror("bench-unpack");
                return 2;
        }
        r = kernel_unpack(in, out, VMLINUX_MAX, &e);
        if (r < 0)
                error_print(&e, "bench-unpack", stderr);
        else if (r == 0)
                fputs("bench-unpack: this kernel is not compressed\n", stderr);
        return r > 0 ? 0 : 2;
}
