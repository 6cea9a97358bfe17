// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * console: the machine's serial port on one side, the person's terminal, pipes or nothing on the other
 *
 * Theory of operation. Neither side may stop the other or the loop: the machine's output is read only when stdout takes it, input is read
 * only when the machine takes it, and in between lies one small buffer each way. What came out of the machine is kept in a tail as well,
 * for the report when something fails.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "base/loop.h"
#include "cli/terminal.h"
#include "daemon/engine/tail.h"

struct console_options {
        int fd;                    /* the serial port; borrowed */
        bool interactive;          /* stdin goes to the machine; if it is a terminal, raw with a menu */
        bool detachable;           /* somebody else keeps the machine: d leaves it */
        bool to_stdout, to_stderr; /* where the output goes; neither: only into the tail */
};

struct console_ops {
        void (*on_key)(void *opaque, enum terminal_key key); /* POWER, RESET, KILL; DETACH if it can be done */
        void (*on_gone)(void *opaque);                       /* terminal or stdout went away */
        void (*on_first_output)(void *opaque);
};

struct console;

int console_new(struct loop *loop, const struct console_options *options, const struct console_ops *ops, void *opaque,
                struct console **ret_console);
void console_free(struct console *console);

/** console_drain() - show what is left when the machine has ended. */
void console_drain(struct console *console);

/** console_resume() - after SIGCONT. */
void console_resume(struct console *console);

/** console_close_terminal() - give the terminal back; messages may be printed normally again. */
void console_close_terminal(struct console *console);

/** console_message() - a line for the person, on stderr, also in raw mode; control characters escaped. */
void console_message(struct console *console, const char *format, ...) __attribute__((format(printf, 2, 3)));

void console_show_tail(const struct console *console, FILE *f);
