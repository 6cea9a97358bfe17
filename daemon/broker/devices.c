// SPDX-License-Identifier: GPL-2.0-or-later
/* devices: see devices.h */
#include "daemon/broker/devices.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/engine/parts-firmware.h"
#include "daemon/image/store.h"

#define VARS_MAX (16 << 20) /* bytes; OVMF's take some hundred KiB */

static int make_dir(const struct broker *b, const char *uuid, char **ret_path, struct error *e) {
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/%s", b->paths.devices, uuid) < 0) {
                path = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        }
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return error_set(e, -errno, "state-dir", NULL, "cannot make %s", path);
        *ret_path = TAKE_PTR(path);
        return 0;
}

int devices_dir(const struct broker *b, const char *uuid, const struct machine_config *machine, char **ret_path,
                struct error *e) {
        char name[PART_VARS_MAX];

        return machine->tpm || part_vars_name(machine->firmware, name) ? make_dir(b, uuid, ret_path, e) : 0;
}

int devices_remove(const struct broker *b, const char *uuid, struct error *e) {
        _cleanup_close_ int fd = open(b->paths.devices, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = fd < 0 ? -errno : remove_tree(fd, uuid);

        if (r == -ENOTEMPTY) /* a swtpm that outlives its keeper for a moment */
                r = remove_tree(fd, uuid);
        return r < 0 ? error_set(e, r, "state-dir", NULL, "cannot remove %s/%s", b->paths.devices, uuid) : 0;
}

/* Return: 1 when it was copied, 0 when there is none, -errno with @e. */
static int copy_vars(int from_dir, int to_dir, const char *name, struct error *e) {
        _cleanup_close_ int fd = openat(from_dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
        struct stat st;
        int r;

        if (fd < 0 && errno == ENOENT)
                return 0;
        /* The machine's QEMU can write it, and we have one thread: no pipes, no holes of a terabyte. */
        if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > VARS_MAX))
                return error_set(e, -EUCLEAN, "firmware-vars", "bring it back from a backup, or remove it",
                                 "%s holds no UEFI variables", name);
        r = fd < 0 ? -errno : disk_lock(fd, true, name, e);
        if (r == 0)
                r = part_vars_make(to_dir, name, fd);
        if (r < 0)
                return error_set(e, r, "firmware-vars", NULL, "cannot copy the UEFI variables %s", name);
        return 1;
}

int devices_copy(const struct broker *b, const char *uuid, const char *source, struct error *e) {
        _cleanup_free_ char *from = NULL, *to = NULL;
        _cleanup_close_ int from_dir = -EBADF, to_dir = -EBADF;
        int r = 0;

        if (asprintf(&from, "%s/%s", b->paths.devices, source) < 0) {
                from = NULL;
                return error_set(e, -ENOMEM, "memory", NULL, "cannot copy the UEFI variables");
        }
        from_dir = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (from_dir < 0 && errno == ENOENT) /* it was never started */
                return 0;
        if (from_dir >= 0)
                r = make_dir(b, uuid, &to, e);
        if (r < 0)
                return r;
        to_dir = from_dir < 0 ? -EBADF : open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (to_dir < 0)
                return error_set(e, -errno, "firmware-vars", NULL, "cannot copy the UEFI variables");
        for (unsigned int i = 0; i < MACHINE_FIRMWARE_COUNT && r >= 0; i++) {
                char name[PART_VARS_MAX];

                if (part_vars_name((enum machine_firmware)i, name))
                        r = copy_vars(from_dir, to_dir, name, e);
        }
        return r < 0 ? r : 0;
}
