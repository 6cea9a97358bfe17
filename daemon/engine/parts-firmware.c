// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-firmware: see parts-firmware.h */
#include "daemon/engine/parts-firmware.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/io.h"
#include "base/new-file.h"
#include "base/spawn.h"

#define DRIVERS_ISO    "/usr/share/virtio-win/virtio-win.iso"
#define SWTPM_GRACE_MS 500

static const char ovmf_fix[] = "install it: apt install ovmf";
static const char swtpm_fix[] = "install it (apt install swtpm), or leave the TPM out";

/* The distribution's files; those for Secure Boot hold Microsoft's keys, and code that only runs in SMM may change them. */
static const struct {
        const char *code, *vars;
} firmwares[MACHINE_FIRMWARE_COUNT] = {
        [MACHINE_FIRMWARE_UEFI] = { "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd" },
        [MACHINE_FIRMWARE_UEFI_SECURE] = { "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd" },
};

/* ---- what the host has ------------------------------------------------------------------------------------------- */

bool part_vars_name(enum machine_firmware firmware, char ret_name[static PART_VARS_MAX]) {
        if (!firmwares[firmware].vars)
                return false;
        snprintf(ret_name, PART_VARS_MAX, "%s.vars", machine_firmware_to_string(firmware));
        return true;
}

static int fail_missing(enum machine_firmware firmware, const char *path, struct error *e) {
        return error_set(e, -ENOENT, "firmware-missing", ovmf_fix, "firmware %s is not installed: there is no %s",
                         machine_firmware_to_string(firmware), path);
}

int part_firmware_check(const struct machine_config *c, struct error *e) {
        const char *const paths[] = { firmwares[c->firmware].code, firmwares[c->firmware].vars };
        _cleanup_free_ char *swtpm = NULL;

        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                if (paths[i] && access(paths[i], R_OK) < 0)
                        return fail_missing(c->firmware, paths[i], e);
        if (c->tpm && spawn_find("swtpm", &swtpm) < 0)
                return error_set(e, -ENOENT, "tpm-missing", swtpm_fix, "a TPM needs swtpm, which is not installed");
        return 0;
}

const char *part_drivers_path(const struct machine_config *c, bool *ret_there) {
        *ret_there = access(DRIVERS_ISO, R_OK) == 0;
        return c->drivers == MACHINE_DRIVERS_VIRTIO_WIN ? DRIVERS_ISO : NULL;
}

/* ---- UEFI -------------------------------------------------------------------------------------------------------- */

static int open_installed(enum machine_firmware firmware, const char *path, int *ret_fd, struct error *e) {
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

        if (fd < 0)
                return errno == ENOENT ? fail_missing(firmware, path, e)
                                       : error_set(e, -errno, "firmware-missing", ovmf_fix, "cannot open %s", path);
        *ret_fd = fd;
        return 0;
}

static int copy_all(int from, int to) {
        off_t at = 0;
        struct stat st;

        if (fstat(from, &st) < 0)
                return -errno;
        while (at < st.st_size) {
                ssize_t n = sendfile(to, from, &at, (size_t)(st.st_size - at));

                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
        }
        return 0;
}

int part_vars_make(int dir_fd, const char *name, int from_fd) {
        _cleanup_(new_file_drop) struct new_file file = NEW_FILE_INIT;
        int r = new_file_open(&file, dir_fd, 0600);

        if (r == 0)
                r = copy_all(from_fd, file.fd);
        return r < 0 ? r : new_file_keep(&file, name, true);
}

/* Variables of another size are no variables: QEMU would refuse them with less to say. */
static int check_vars(int fd, int template_fd, const char *dir, const char *name, struct error *e) {
        struct stat st, wanted;

        if (fstat(fd, &st) < 0 || fstat(template_fd, &wanted) < 0)
                return error_set(e, -errno, "firmware-vars", NULL, "cannot look at %s/%s", dir, name);
        if (S_ISREG(st.st_mode) && st.st_size == wanted.st_size)
                return 0;
        error_set(e, -EUCLEAN, "firmware-vars", NULL,
                  "%s/%s holds no UEFI variables: it has %lld bytes instead of %lld", dir, name, (long long)st.st_size,
                  (long long)wanted.st_size);
        error_set_fix(e,
                      "bring it back from a backup; or begin with new variables, which forget boot entries: rm %s/%s",
                      dir, name);
        return -EUCLEAN;
}

static int open_kept_vars(const char *dir, const char *name, int template_fd, int *ret_fd, struct error *e) {
        _cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), fd = -EBADF;
        int r = dir_fd < 0 ? -errno : 0;

        if (r == 0) {
                fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
                if (fd < 0 && errno == ENOENT) {
                        r = part_vars_make(dir_fd, name, template_fd);
                        fd = r < 0 ? -EBADF : openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
                }
                if (r == 0 && fd < 0)
                        r = -errno;
        }
        if (r < 0)
                return error_set(e, r, "firmware-vars", NULL, "cannot open the UEFI variables %s/%s", dir, name);
        r = check_vars(fd, template_fd, dir, name, e);
        if (r == 0)
                r = disk_lock(fd, false, name, e);
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

int part_firmware_open(struct parts *p, const struct parts_options *o, struct error *e) {
        enum machine_firmware firmware = p->config->firmware;
        _cleanup_close_ int template_fd = -EBADF;
        char name[PART_VARS_MAX];
        int r;

        if (!part_vars_name(firmware, name))
                return 0;
        r = open_installed(firmware, firmwares[firmware].code, &p->code_fd, e);
        if (r == 0)
                r = open_installed(firmware, firmwares[firmware].vars, &template_fd, e);
        if (r < 0)
                return r;
        if (o && o->devices_dir)
                return open_kept_vars(o->devices_dir, name, template_fd, &p->vars_fd, e);
        p->vars_fd = memfd_create("lodge-vars", MFD_CLOEXEC);
        r = p->vars_fd < 0 ? -errno : copy_all(template_fd, p->vars_fd);
        return r < 0 ? error_set(e, r, "firmware-vars", NULL, "cannot copy the UEFI variables") : 0;
}

/* ---- TPM --------------------------------------------------------------------------------------------------------- */

/* A directory of swtpm's own user's, who writes there. */
static int open_state_dir(const char *dir, const struct spawn_jail *jail, int *ret_fd) {
        _cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), fd = -EBADF;

        if (dir_fd < 0 || (mkdirat(dir_fd, PART_TPM_DIR, 0700) < 0 && errno != EEXIST))
                return -errno;
        fd = openat(dir_fd, PART_TPM_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || (jail && jail->identity && fchown(fd, jail->uid, jail->gid) < 0))
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* What swtpm keeps, as its option says it. */
static int open_state(const struct parts_options *o, char *ret_text, size_t size, int *ret_fd) {
        bool kept = o && o->devices_dir;
        int r;

        if (kept)
                r = open_state_dir(o->devices_dir, o->own_jail, ret_fd);
        else {
                *ret_fd = memfd_create("lodge-tpm", MFD_CLOEXEC);
                r = *ret_fd < 0 ? -errno : 0;
        }
        if (r == 0)
                snprintf(ret_text, size, "%s/proc/self/fd/%d%s", kept ? "dir=" : "backend-uri=file://", *ret_fd,
                         kept ? ",mode=0600" : "");
        return r;
}

static int start_swtpm(struct part_tpm *t, const struct parts_options *o, int state_fd, const char *state, int control,
                       int log, struct error *e) {
        const int fds[] = { state_fd, control };
        char ctrl[48];
        const char *const argv[] = { "swtpm", "socket", "--tpm2", "--terminate", "--tpmstate",
                                     state,   "--ctrl", ctrl,     NULL };
        const struct spawn s = {
                .path = "swtpm",
                .argv = argv,
                .fds = fds,
                .n_fds = ELEMENTSOF(fds),
                .stdin_fd = -1,
                .stdout_fd = -1,
                .stderr_fd = log,
                .death_signal = 15,
                .jail = o ? o->own_jail : NULL,
        };
        int r;

        snprintf(ctrl, sizeof(ctrl), "type=unixio,clientfd=%d", control);
        r = spawn_child(&s, &t->pid, &t->pidfd, e);
        if (r == -ENOENT)
                error_set_fix(e, "%s", swtpm_fix);
        if (r < 0)
                error_prefix(e, "TPM");
        return r;
}

int part_tpm_open(struct parts *p, const struct parts_options *o, struct error *e) {
        _cleanup_close_ int theirs = -EBADF, log_theirs = -EBADF, state_fd = -EBADF;
        struct part_tpm *t = &p->tpm;
        char state[80];
        int pair[2], r;

        if (!p->config->tpm)
                return 0;
        r = open_state(o, state, sizeof(state), &state_fd);
        if (r < 0)
                return error_set(e, r, "tpm", NULL, "cannot open what the TPM keeps%s%s",
                                 o && o->devices_dir ? ": " : "", o && o->devices_dir ? o->devices_dir : "");
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return error_set(e, -errno, "tpm", NULL, "cannot make a socket for swtpm");
        t->fd = pair[0];
        theirs = pair[1];
        if (pipe2(pair, O_CLOEXEC) < 0)
                return error_set(e, -errno, "tpm", NULL, "cannot make a pipe for swtpm");
        t->log_fd = pair[0];
        log_theirs = pair[1];
        r = io_set_nonblock(t->log_fd, true);
        if (r < 0)
                return error_set(e, r, "tpm", NULL, "cannot make a pipe for swtpm");
        return start_swtpm(t, o, state_fd, state, theirs, log_theirs, e);
}

void part_tpm_close(struct part_tpm *t) {
        int status;

        t->fd = safe_close(t->fd);
        if (t->pid > 0 && spawn_wait(t->pid, t->pidfd, SWTPM_GRACE_MS, &status) == -ETIMEDOUT)
                spawn_end(t->pid, t->pidfd, SWTPM_GRACE_MS);
        t->pid = 0;
        t->pidfd = safe_close(t->pidfd);
        t->log_fd = safe_close(t->log_fd);
}
