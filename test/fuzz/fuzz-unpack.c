// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz-unpack: any bytes as a compressed kernel
 *
 * A payload may claim to expand for ever: what comes out is bounded, and a refusal has its reason.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/sys.h"
#include "vmm/boot/unpack.h"

#define OUT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_close_ int in = memfd_create("in", MFD_CLOEXEC), out = memfd_create("out", MFD_CLOEXEC);
        _cleanup_error_ struct error e = ERROR_INIT;
        int r;

        if (in < 0 || out < 0 || io_write_at(&sys_real, in, data, size, 0) < 0)
                abort();
        r = kernel_unpack(in, out, OUT_MAX, &e);
        if (r < 0 && (!e.id || !e.message))
                abort();
        if (lseek(out, 0, SEEK_END) > (off_t)OUT_MAX)
                abort();
        return 0;
}
