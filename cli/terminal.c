// SPDX-License-Identifier: GPL-2.0-or-later
/* terminal: see terminal.h */
#include "cli/terminal.h"

#include <signal.h>
#include <string.h>
#include <termios.h>

#define CTRL_BRACKET 0x1d

struct terminal {
        int fd;
        struct termios saved, raw;
};

/* A process has one controlling terminal, and a signal handler has no argument: hence the one global. */
static struct terminal *volatile crash_terminal;

static const int crash_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };

static enum terminal_key key_of(char c) {
        switch (c) {
        case 'p':
        case 'P':
                return TERMINAL_POWER;
        case 'r':
        case 'R':
                return TERMINAL_RESET;
        case 'k':
        case 'K':
                return TERMINAL_KILL;
        case 'd':
        case 'D':
                return TERMINAL_DETACH;
        case '?':
        case 'h':
                return TERMINAL_HELP;
        default:
                return TERMINAL_CONTINUE;
        }
}

size_t terminal_filter(struct terminal_filter *filter, const char *in, size_t n, char *out, size_t *ret_out,
                       enum terminal_key *ret_key) {
        size_t len = 0;

        *ret_key = TERMINAL_NONE;
        for (size_t i = 0; i < n; i++) {
                if (!filter->menu && in[i] != CTRL_BRACKET) {
                        out[len++] = in[i];
                        continue;
                }
                if (!filter->menu) {
                        filter->menu = true;
                        *ret_key = TERMINAL_MENU;
                } else {
                        filter->menu = false;
                        if (in[i] == CTRL_BRACKET)
                                out[len++] = in[i];
                        *ret_key = key_of(in[i]);
                        filter->menu = *ret_key == TERMINAL_HELP;
                }
                *ret_out = len;
                return i + 1;
        }
        *ret_out = len;
        return n;
}

static void on_crash(int signo) {
        struct terminal *t = crash_terminal;

        if (t)
                tcsetattr(t->fd, TCSANOW, &t->saved);
        raise(signo); /* SA_RESETHAND: the default action now */
}

int terminal_open(int fd, struct terminal **ret_terminal) {
        struct sigaction action = { .sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND };
        struct terminal *t = calloc(1, sizeof(*t));

        if (!t)
                return -ENOMEM;
        t->fd = fd;
        if (tcgetattr(fd, &t->saved) < 0) {
                int code = -errno;

                free(t);
                return code;
        }
        t->raw = t->saved;
        cfmakeraw(&t->raw);
        crash_terminal = t;
        for (size_t i = 0; i < ELEMENTSOF(crash_signals); i++)
                sigaction(crash_signals[i], &action, NULL);
        tcsetattr(fd, TCSANOW, &t->raw);
        *ret_terminal = t;
        return 0;
}

void terminal_close(struct terminal *t) {
        static const char plain[] =
                "\033[0m\033[?25h"; /* no colours, a visible cursor: the guest may have left others */

        if (!t)
                return;
        (void)!write(t->fd, plain, sizeof(plain) - 1);
        tcsetattr(t->fd, TCSANOW, &t->saved);
        for (size_t i = 0; i < ELEMENTSOF(crash_signals); i++)
                signal(crash_signals[i], SIG_DFL);
        crash_terminal = NULL;
        free(t);
}

void terminal_resume(struct terminal *t) {
        if (t)
                tcsetattr(t->fd, TCSANOW, &t->raw);
}
