// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * seed: what a machine's first boot is told, by cloud-init's NoCloud data source
 *
 *      struct cloud_config --seed_validate()--> --seed_make()--> seed.iso --guest--> cloud-init
 *      what the guest's agent says of it --seed_result_parse()--> done, running, error with messages
 *
 * Theory of operation. The seed is a small ISO 9660 file system with the volume id "cidata", which cloud-init looks for
 * among the machine's disks; in it are meta-data, user-data and network-config. What we write into these is JSON, which is
 * YAML too, so that no text of a person's can change what is around it. Our part names the machine's user as
 * cloud-init's default user: keys and passwords that the person's own #cloud-config gives to "the" user then go to the
 * same one. The person's data is a part of its own, before ours; ours adds to lists and changes nothing that is there.
 *
 * All that can be known to be wrong is refused before the machine starts: a mistake in user-data otherwise shows as a
 * machine that boots well and lets nobody in.
 *
 * Threads. No state; any thread.
 *
 * Error ids: ssh-key, user-data, cloud-user, password-hash, no-login, seed-io, no-memory.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "schema/lodge-schema.h"

#define SEED_FILE_NAME     "seed.iso"
#define SEED_USER_DATA_MAX (256u << 10)
#define SEED_WARNINGS_MAX  16
#define SEED_MESSAGES_MAX  16
#define SEED_MESSAGE_MAX   512 /* bytes */

/* What is odd but not wrong. Strings are owned; zeroed at first. */
struct seed_warnings {
        char *text[SEED_WARNINGS_MAX];
        size_t n;
};

/** seed_warnings_clear() - release and reset. */
void seed_warnings_clear(struct seed_warnings *warnings);

/**
 * seed_validate() - can a machine be started with this?
 * @image_has_own_login: somebody can log in whatever the seed says: image->login of daemon/image/image.h is not NULL
 * @warnings:            added to; may be NULL
 *
 * Return: 0; -EINVAL with "ssh-key", "password-hash", "cloud-user", "user-data" (with line and column), or "no-login": nobody could
 * log in; -ENOMEM.
 */
int seed_validate(const struct cloud_config *config, bool image_has_own_login, struct seed_warnings *warnings,
                  struct error *e);

/* What belongs to one machine. */
struct seed_machine {
        const char *
                instance_id; /* cloud-init does its work once for each: a clone needs another one. 1 to 255 of [A-Za-z0-9._-] */
        const char *name;        /* its hostname where the configuration has none */
        const char *const *macs; /* its network interfaces, "52:54:00:12:34:56"; the first one is waited for at boot */
        size_t n_macs;           /* 0: each Ethernet interface, whatever its address is */
};

/**
 * seed_make() - write the seed of a machine, in place of one that is there
 * @config:   which seed_validate() has passed
 * @dir:      the machine's directory; gets "seed.iso", 0600
 * @ret_path: of that file, owned by the caller; may be NULL
 *
 * Complete or as before. Return: 0, or -errno with "seed-io".
 */
int seed_make(const struct cloud_config *config, const struct seed_machine *machine, const char *dir, char **ret_path,
              struct error *e);

/** seed_sweep() - remove what a killed seed_make() may have left in @dir where files can't be made without a name. */
int seed_sweep(const char *dir);

/* The texts that seed_make() packs; for tests and for people who ask. NULL without memory; free() them. */
char *seed_meta_data(const struct cloud_config *config, const struct seed_machine *machine);
char *seed_user_data(const struct cloud_config *config);
char *seed_network_config(const struct cloud_config *config,
                          const struct seed_machine *machine); /* NULL for network=none, too */

enum seed_state {
        SEED_RUNNING, /* or not begun */
        SEED_DONE,
        SEED_ERROR,
        SEED_OFF, /* the guest has cloud-init, but it doesn't run: it found no data */
};

/* What cloud-init says of itself. Messages are UTF-8 without control characters; owned. */
struct seed_result {
        enum seed_state state;
        char *messages[SEED_MESSAGES_MAX];
        size_t n_messages; /* those behind the last are dropped */
};

/**
 * seed_result_parse() - understand `cloud-init status --format json`, or /run/cloud-init/result.json
 * @text: up to 1 MiB, from the guest: hostile
 *
 * Return: 0, -EINVAL: it is neither; -ENOMEM. Fill with seed_result_clear() afterwards.
 */
int seed_result_parse(const char *text, size_t len, struct seed_result *ret_result);
void seed_result_clear(struct seed_result *result);
const char *seed_state_name(enum seed_state state);

/** ssh_key_check() - is it one public key, as a .pub file has it, without options? -EINVAL "ssh-key". */
int ssh_key_check(const char *line, struct error *e);

/**
 * ssh_keys_find() - the public keys of the user who calls: ~/.ssh/id_*.pub, sorted, without those that ssh_key_check() refuses
 * @home: NULL: $HOME
 * Return: 0 (also with none), -ENOMEM. Free with ssh_keys_free().
 */
int ssh_keys_find(const char *home, char ***ret_keys, size_t *ret_n);
void ssh_keys_free(char **keys, size_t n);
