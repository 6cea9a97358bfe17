// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * init: what bench/boot's guest runs
 *
 * The whole user space of the guest: it writes a marker to its console, which the kernel opened from /dev/console as descriptor 1, waits
 * long enough for bench/boot to look at the VMM while the guest is alive, and powers off. No libc, so that its own start costs nothing.
 */
#include <linux/reboot.h>
#include <linux/time_types.h>
#include <sys/syscall.h>

static long call(long nr, long a, long b, long c, long d) {
        register long r10 __asm__("r10") = d;
        long r;

        __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
        return r;
}

void _start(void) {
        static const char marker[] = "LODGE-BENCH-INIT\n";
        static const struct __kernel_timespec pause = { .tv_sec = 1 };

        call(SYS_write, 1, (long)marker, sizeof(marker) - 1, 0);
        call(SYS_nanosleep, (long)&pause, 0, 0, 0);
        call(SYS_reboot, (long)LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0);
        for (;;)
                call(SYS_pause, 0, 0, 0, 0);
}
