// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * user-data: what a person hands to cloud-init, looked at before the machine starts
 */
#pragma once

#include "daemon/seed/seed.h"

enum user_data_kind { USER_DATA_NONE, USER_DATA_CLOUD_CONFIG, USER_DATA_SCRIPT, USER_DATA_MIME };

/** user_data_kind() - by its first line, as cloud-init decides; -EINVAL "user-data" when it is nothing that we know. */
int user_data_kind(const char *text, enum user_data_kind *ret_kind, struct error *e);

/**
 * user_data_check() - is it well formed, as far as that can be seen from outside?
 * @ret_login: it lets somebody in, or it may: what a script does can't be known
 *
 * Time and memory are bounded by the text's length: nothing is expanded, nesting and aliases are limited.
 */
int user_data_check(const char *text, bool *ret_login, struct seed_warnings *warnings, struct error *e);

/** seed_warn() - add a warning; when there is no room or memory it is dropped. @warnings may be NULL. */
void seed_warn(struct seed_warnings *warnings, const char *format, ...) __attribute__((format(printf, 2, 3)));
