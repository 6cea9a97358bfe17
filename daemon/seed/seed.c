// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * seed: check what a machine's first boot is told, and pack it; see seed.h
 */
#include "daemon/seed/seed.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/new-file.h"
#include "daemon/seed/iso9660.h"
#include "daemon/seed/user-data.h"

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "no-memory", NULL, "out of memory");
}

/* What crypt(5) knows and is not broken: a plain password would be in the seed, and in our store, for everybody to read. */
static int check_password(const char *hash, struct error *e) {
        static const char *const methods[] = { "$y$", "$gy$", "$7$", "$2b$", "$2y$", "$2a$", "$6$", "$5$" };
        static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./$=,_-";

        for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
                size_t n = strlen(methods[i]), len = strlen(hash);

                if (strncmp(hash, methods[i], n) == 0 && len >= n + 20 && strspn(hash, set) == len &&
                    strchr(hash + n, '$'))
                        return 0;
        }
        return error_set(e, -EINVAL, "password-hash", "make one, and give what it prints: openssl passwd -6",
                         "this is no hash of a password that is known here");
}

int seed_validate(const struct cloud_config *config, bool image_has_own_login, struct seed_warnings *warnings,
                  struct error *e) {
        bool login = false;
        int r = 0;

        if (!config->user || streq(config->user, "root"))
                return error_set(e, -EINVAL, "cloud-user", "name another one, who may become root by sudo: lodge",
                                 "the user that is made can't be root");
        for (size_t i = 0; r == 0 && i < config->n_ssh_keys; i++)
                r = ssh_key_check(config->ssh_keys[i], e);
        if (r == 0 && config->password_hash)
                r = check_password(config->password_hash, e);
        if (r == 0)
                r = user_data_check(config->user_data, &login, warnings, e);
        if (r < 0)
                return r;
        if (login || config->n_ssh_keys > 0 || config->password_hash || image_has_own_login)
                return 0;
        return error_set(e, -EINVAL, "no-login",
                         "give a key: --ssh-key ~/.ssh/id_ed25519.pub (ssh-keygen -t ed25519 makes one), or a password",
                         "nobody could log in to this machine: it has no SSH key and no password");
}

static int check_machine(const struct seed_machine *m, struct error *e) {
        static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
        size_t len = m->instance_id ? strlen(m->instance_id) : 0;

        if (len == 0 || len > 255 || strspn(m->instance_id, set) != len || !m->name)
                return error_set(e, -EINVAL, "seed-io", NULL, "a seed needs an instance id and a name");
        for (size_t i = 0; i < m->n_macs; i++)
                if (strlen(m->macs[i]) != 17 || strspn(m->macs[i], "0123456789abcdefABCDEF:") != 17)
                        return error_set(e, -EINVAL, "seed-io", NULL, "'%.20s' is no MAC address", m->macs[i]);
        return 0;
}

static int write_seed(const void *image, size_t size, const char *dir, struct error *e) {
        _cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        int r = dir_fd < 0 ? -errno : new_file_open(&f, dir_fd, 0600);

        if (r == 0)
                r = io_write_all(f.fd, image, size);
        if (r == 0)
                r = new_file_keep(&f, SEED_FILE_NAME, true);
        return r < 0 ? error_set(e, r, "seed-io", "look for a full disk, and whether the directory is yours",
                                 "cannot write the seed in %s", dir)
                     : 0;
}

int seed_make(const struct cloud_config *config, const struct seed_machine *machine, const char *dir, char **ret_path,
              struct error *e) {
        _cleanup_free_ char *meta = NULL, *user = NULL, *network = NULL, *path = NULL;
        _cleanup_free_ void *image = NULL;
        size_t size;
        int r = check_machine(machine, e);

        if (r < 0)
                return r;
        meta = seed_meta_data(config, machine);
        user = seed_user_data(config);
        network = seed_network_config(config, machine);
        if (!meta || !user || (!network && config->network != CLOUD_NETWORK_NONE) ||
            asprintf(&path, "%s/" SEED_FILE_NAME, dir) < 0)
                return no_memory(e);
        const struct iso_file files[] = {
                { "META-DATA", meta, strlen(meta) },
                { "NETWORK-CONFIG", network, network ? strlen(network) : 0 },
                { "USER-DATA", user, strlen(user) },
        };
        r = iso_make("cidata", files, sizeof(files) / sizeof(*files), &image, &size);
        if (r < 0)
                return error_set(e, r, "seed-io", NULL, "cannot pack the seed");
        r = write_seed(image, size, dir, e);
        if (r < 0)
                return r;
        if (ret_path)
                *ret_path = TAKE_PTR(path);
        return 0;
}

int seed_sweep(const char *dir) {
        _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = fd < 0 ? -errno : new_file_sweep(fd);

        return MIN(r, 0);
}
