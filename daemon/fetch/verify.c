// SPDX-License-Identifier: GPL-2.0-or-later
/* verify: see verify.h */
#include "daemon/fetch/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/spawn.h"
#include "daemon/fetch/shut-in.h"

#define BEGIN       "-----BEGIN PGP PUBLIC KEY BLOCK-----"
#define END         "-----END PGP PUBLIC KEY BLOCK-----"
#define STATUS_MAX  (64u << 10)
#define CONTENT_MAX (64u << 20)
#define CPU_S       120

/* ---- the keyring --------------------------------------------------------------------------------------------------------- */

static int sextet(char c) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *at = c ? strchr(digits, c) : NULL;

        return at ? (int)(at - digits) : -1;
}

/* One block's body, up to its checksum or padding. gpgv finds out whether it makes sense. */
static size_t decode(const char *text, const char *end, unsigned char *to) {
        uint32_t bits = 0;
        unsigned int n_bits = 0;
        size_t n = 0;

        for (; text < end && *text != '='; text++) {
                int v = sextet(*text);

                if (v < 0)
                        continue;
                bits = bits << 6 | (uint32_t)v;
                n_bits += 6;
                if (n_bits >= 8) {
                        n_bits -= 8;
                        to[n++] = (unsigned char)(bits >> n_bits);
                }
        }
        return n;
}

int keyring_of_armour(const char *text, unsigned char **ret_data, size_t *ret_n) {
        _cleanup_free_ unsigned char *data = malloc(strlen(text) + 1);
        size_t n = 0;

        if (!data)
                return -ENOMEM;
        while ((text = strstr(text, BEGIN))) {
                const char *end = strstr(text, END), *body;

                if (!end)
                        return -EINVAL;
                /* Headers end at an empty line (RFC 4880 §6.2). */
                for (body = strchr(text, '\n'); body && body < end; body = strchr(body + 1, '\n'))
                        if (body[1] == '\n' || (body[1] == '\r' && body[2] == '\n'))
                                break;
                if (!body || body >= end)
                        return -EINVAL;
                n += decode(body, end, data + n);
                text = end;
        }
        if (n == 0)
                return -EINVAL;
        *ret_data = TAKE_PTR(data);
        *ret_n = n;
        return 0;
}

static int keyring_file(const char *keys, struct error *e) {
        _cleanup_close_ int fd = memfd_create("lodge-keyring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        _cleanup_free_ unsigned char *data = NULL;
        size_t n;
        int r = fd < 0 ? -errno : keyring_of_armour(keys, &data, &n);

        if (r == -EINVAL)
                return error_set(e, r, "source-key", "export it: gpg --armor --export KEY >FILE",
                                 "the source's key is no OpenPGP public key in ASCII armour");
        if (r == 0)
                r = io_write_all(fd, data, n);
        if (r == 0)
                r = shut_in_seal(fd);
        return r < 0 ? error_set(e, r, "fetch", NULL, "cannot make a keyring") : TAKE_FD(fd);
}

/* ---- gpgv ---------------------------------------------------------------------------------------------------------------- */

static bool says(const char *status, const char *word) {
        char line[64];
        int n = snprintf(line, sizeof(line), "[GNUPG:] %s ", word);

        for (const char *at = status; at && *at; at = strchr(at, '\n')) {
                at += *at == '\n';
                if (strncmp(at, line, (size_t)n) == 0)
                        return true;
        }
        return false;
}

static int judge(int status_fd, int exit_status, struct error *e) {
        static const char *const bad[] = { "BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG" };
        _cleanup_free_ char *text = NULL;
        const char *why = "nobody whose key was given has signed it";
        size_t n;
        int r = lseek(status_fd, 0, SEEK_SET) < 0 ? -errno : io_read_all(status_fd, STATUS_MAX, &text, &n);

        if (r < 0)
                return error_set(e, r, "fetch", NULL, "cannot read what gpgv says");
        if (says(text, "BADSIG"))
                why = "it is not what was signed";
        else if (says(text, "EXPKEYSIG") || says(text, "EXPSIG"))
                why = "the key or the signature has expired";
        else if (says(text, "REVKEYSIG"))
                why = "the key was revoked";
        else if (says(text, "NO_PUBKEY"))
                why = "it is signed by another key";
        else if (exit_status == 0 && says(text, "GOODSIG") && says(text, "VALIDSIG")) {
                bool good = true;

                for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                        good &= !says(text, bad[i]);
                if (good)
                        return 0;
        }
        return error_set(e, -EBADMSG, "fetch-signature",
                         "do not use it; ask the server's owner, or give the right key: lodge image source add",
                         "the index is not to be believed: %s", why);
}

/* @out_fd: the signed content, of an inline signature; -EBADF with a detached one. */
static int run_gpgv(const char *keys, int data_fd, int signature_fd, int out_fd, struct error *e) {
        _cleanup_close_ int keyring = keyring_file(keys, e), status = -EBADF;
        char keyring_path[40], data_path[40], signature_path[40], status_text[16];
        const char *argv[] = { "gpgv",       "--homedir",   "/nonexistent", "--keyring",
                               keyring_path, "--status-fd", status_text,    "--output",
                               "-",          "--",          data_path,      NULL,
                               NULL };
        _cleanup_free_ char *path = NULL;
        int exit_status = 0, r;

        if (keyring < 0)
                return keyring;
        if (spawn_find("gpgv", &path) < 0)
                return error_set(e, -ENOENT, "gpgv-missing", "apt-get install gpgv",
                                 "gpgv is not installed, and without it no signature can be checked");
        status = memfd_create("lodge-gpgv-status", MFD_CLOEXEC);
        if (status < 0)
                return error_set(e, -errno, "fetch", NULL, "cannot hear gpgv");
        snprintf(keyring_path, sizeof(keyring_path), "/proc/self/fd/%d", keyring);
        snprintf(data_path, sizeof(data_path), "/proc/self/fd/%d", data_fd);
        snprintf(signature_path, sizeof(signature_path), "/proc/self/fd/%d", signature_fd);
        snprintf(status_text, sizeof(status_text), "%d", status);
        if (signature_fd >= 0) {
                argv[7] = "--";
                argv[8] = signature_path;
                argv[9] = data_path;
                argv[10] = NULL;
        }
        const int keep[] = { keyring, data_fd, signature_fd >= 0 ? signature_fd : data_fd, status };
        const struct shut_in_program program = { .path = path,
                                                 .argv = argv,
                                                 .stdin_fd = -1,
                                                 .stdout_fd = out_fd,
                                                 .stderr_fd = -1,
                                                 .keep = keep,
                                                 .n_keep = ELEMENTSOF(keep) };
        const struct shut_in_limits limits = { .file_bytes = CONTENT_MAX, .cpu_seconds = CPU_S };

        r = shut_in_program(&program, &limits, &exit_status, e);
        return r < 0 ? r : judge(status, exit_status, e);
}

int verify_detached(const char *keys, int data_fd, int signature_fd, struct error *e) {
        return run_gpgv(keys, data_fd, signature_fd, -EBADF, e);
}

int verify_inline(const char *keys, int data_fd, int *ret_fd, struct error *e) {
        _cleanup_close_ int out = memfd_create("lodge-signed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        int r = out < 0 ? error_set(e, -errno, "fetch", NULL, "cannot keep the index") : 0;

        if (r == 0)
                r = run_gpgv(keys, data_fd, -EBADF, out, e);
        if (r == 0 && shut_in_seal(out) < 0)
                r = error_set(e, -EIO, "fetch", NULL, "cannot keep the index");
        if (r == 0)
                *ret_fd = TAKE_FD(out);
        return r;
}
