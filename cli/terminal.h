// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * terminal: the person's terminal as the machine's serial console
 *
 * Theory of operation. In raw mode every key goes to the guest, Ctrl-C included; only Ctrl-] stays here and opens a menu of one more key.
 * Whatever happens, the terminal must be usable afterwards, so its settings are restored by terminal_close() on every ordinary way out and
 * by a signal handler when lodge itself crashes. (SIGTERM, SIGHUP and SIGINT arrive through the event loop and are ordinary ways out.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

enum terminal_key {
        TERMINAL_NONE,
        TERMINAL_MENU, /* Ctrl-] was pressed: show the menu */
        TERMINAL_POWER,
        TERMINAL_RESET,
        TERMINAL_KILL,
        TERMINAL_DETACH,
        TERMINAL_CONTINUE,
        TERMINAL_HELP,
};

/* Ctrl-] and the key after it, found in a stream of input. */
struct terminal_filter {
        bool menu;
};

/**
 * terminal_filter() - take input up to the next menu key
 * @in, @n:     bytes from the terminal
 * @out:        room for @n bytes: what goes to the guest. Ctrl-] twice sends one.
 * @ret_out:    how many
 * @ret_key:    the key found, or TERMINAL_NONE
 *
 * Return: bytes taken from @in; call again with the rest.
 */
size_t terminal_filter(struct terminal_filter *filter, const char *in, size_t n, char *out, size_t *ret_out,
                       enum terminal_key *ret_key);

struct terminal;

/** terminal_open() - make the terminal on @fd raw; -ENOTTY, -errno. One at a time in a process. */
int terminal_open(int fd, struct terminal **ret_terminal);

/** terminal_close() - restore its settings. NULL is fine. */
void terminal_close(struct terminal *terminal);
DEFINE_CLEANUP(terminal, terminal_close);

/** terminal_resume() - make it raw again after the process was stopped. */
void terminal_resume(struct terminal *terminal);
