// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * root: see root.h
 *
 * What an initramfs of a distribution does with udev, shell and a dozen programs is, for a machine whose disk and
 * file system are known, this: look at the block devices until one has the superblock that is asked for (ext4: magic
 * 0xEF53 at 1080, UUID at 1128), mount it, move /dev, /proc, /sys and /run there, and execute its init. On an
 * emulated processor that saves several seconds.
 */
#include "daemon/image/tiny/root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define CMDLINE_MAX 4096

/* The value of the last WORD=... on the command line, or an empty string for WORD alone; NULL: not there. */
static const char *word_of(const char *cmdline, const char *word, char *buf, size_t size) {
        const char *found = NULL;
        size_t n = strlen(word);

        for (const char *p = cmdline; *p;) {
                size_t len = strcspn(p, " \n");

                if (strncmp(p, word, n) == 0 && (len == n || p[n] == '=')) {
                        size_t value = len == n ? 0 : len - n - 1;

                        snprintf(buf, size, "%.*s", (int)value, len == n ? "" : p + n + 1);
                        found = buf;
                }
                p += len;
                p += strspn(p, " \n");
        }
        return found;
}

static bool has_uuid(const char *device, const char *uuid) {
        uint8_t sb[256];
        char text[37], *p = text;
        int fd = open(device, O_RDONLY | O_CLOEXEC);
        bool ok = fd >= 0 && pread(fd, sb, sizeof(sb), 1024) == sizeof(sb) && sb[0x38] == 0x53 && sb[0x39] == 0xef;

        if (fd >= 0)
                close(fd);
        for (int i = 0; ok && i < 16; i++)
                p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", sb[0x68 + i]);
        return ok && strcasecmp(text, uuid) == 0;
}

static bool find_device(const char *root, char path[300]) {
        struct dirent *de;
        bool found = false;
        DIR *d;

        if (strncmp(root, "UUID=", 5) != 0) {
                snprintf(path, 300, "%s", root);
                return access(path, F_OK) == 0;
        }
        d = opendir("/sys/class/block");
        while (d && !found && (de = readdir(d))) {
                if (de->d_name[0] == '.')
                        continue;
                snprintf(path, 300, "/dev/%s", de->d_name);
                found = has_uuid(path, root + 5);
        }
        if (d)
                closedir(d);
        return found;
}

void root_switch(void) {
        static const char *const moved[] = { "/dev", "/proc", "/sys", "/run" };
        char cmdline[CMDLINE_MAX] = "", root[256], init[256], buf[8], path[300];
        int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
        unsigned long flags;
        sigset_t none;

        if (fd < 0 || read(fd, cmdline, sizeof(cmdline) - 1) < 0 || !word_of(cmdline, "root", root, sizeof(root)))
                return;
        close(fd);
        for (unsigned tries = 0; !find_device(root, path); tries++) {
                if (tries % 500 == 100)
                        dprintf(2, "init: still waiting for the disk with root=%s\n", root);
                usleep(20 * 1000);
        }
        flags = word_of(cmdline, "rw", buf, sizeof(buf)) ? 0 : MS_RDONLY;
        if (mount(path, "/mnt", "ext4", flags, NULL) < 0) {
                dprintf(2, "init: cannot mount %s: %s\n", path, strerror(errno));
                return;
        }
        for (size_t i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
                snprintf(path, sizeof(path), "/mnt%s", moved[i]);
                if (mount(moved[i], path, NULL, MS_MOVE, NULL) < 0)
                        dprintf(2, "init: cannot move %s: %s\n", moved[i], strerror(errno));
        }
        if (chdir("/mnt") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0) {
                dprintf(2, "init: cannot change to the root: %s\n", strerror(errno));
                return;
        }
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (!word_of(cmdline, "init", init, sizeof(init)))
                snprintf(init, sizeof(init), "/sbin/init");
        execl(init, init, NULL);
        dprintf(2, "init: cannot execute %s: %s\n", init, strerror(errno));
}
