// SPDX-License-Identifier: GPL-2.0-or-later
/* sys: the table of the real calls; see sys.h */
#include "base/sys.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static int io_uring_setup(unsigned int entries, struct io_uring_params *params) {
        return (int)syscall(SYS_io_uring_setup, entries, params);
}

static int io_uring_register(int fd, unsigned int opcode, void *arg, unsigned int n) {
        return (int)syscall(SYS_io_uring_register, fd, opcode, arg, n);
}

const struct sys sys_real = {
        .open = open,
        .pread = pread,
        .pwrite = pwrite,
        .preadv = preadv,
        .pwritev = pwritev,
        .read = read,
        .write = write,
        .fstat = fstat,
        .fstatvfs = fstatvfs,
        .fdatasync = fdatasync,
        .fallocate = fallocate,
        .ftruncate = ftruncate,
        .ioctl = ioctl,
        .io_uring_setup = io_uring_setup,
        .io_uring_register = io_uring_register,
        .mmap = mmap,
};
