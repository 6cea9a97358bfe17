// SPDX-License-Identifier: GPL-2.0-or-later
/* sys: the table of the real calls; see sys.h */
#include "base/sys.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

const struct sys sys_real = {
        .open = open,
        .pread = pread,
        .pwrite = pwrite,
        .preadv = preadv,
        .pwritev = pwritev,
        .read = read,
        .write = write,
        .fdatasync = fdatasync,
        .fallocate = fallocate,
        .ftruncate = ftruncate,
        .ioctl = ioctl,
        .mmap = mmap,
};
