// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * log: one line per event to stderr, with the level in front in the form that journald reads (<3> .. <7>) when stderr
 * is not a terminal
 *
 * The level is the one mutable global of the project.
 */
#pragma once

enum log_level {
        LOG_LEVEL_ERROR = 3,
        LOG_LEVEL_WARNING = 4,
        LOG_LEVEL_INFO = 6,
        LOG_LEVEL_DEBUG = 7,
};

/** log_set_level() - show messages up to @level; the default is LOG_LEVEL_WARNING. */
void log_set_level(enum log_level level);

/** log_message() - write one line; needs only write(2), so it works under every seccomp filter. Not for hot paths. */
void log_message(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)
