// SPDX-License-Identifier: GPL-2.0-or-later
/* console: see console.h */
#include "cli/console.h"

#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/io.h"

#define CHUNK 4096 /* at most PIPE_BUF: a pipe that polls writable takes it whole */

struct console {
        struct loop *loop;
        struct console_options options;
        const struct console_ops *ops;
        void *opaque;
        struct terminal *terminal;
        struct terminal_filter filter;
        struct loop_source *machine, *input, *output;
        int out_fd;      /* -1: nowhere */
        char out[CHUNK]; /* on its way to out_fd */
        size_t out_len;
        char in[CHUNK]; /* on its way to the machine */
        size_t in_len;
        bool started, gone, in_ended;
        struct tail tail;
};

/* ---- messages ---------------------------------------------------------------------------------------------------- */

void console_message(struct console *c, const char *format, ...) {
        _cleanup_free_ char *text = NULL;
        const char *end = c && c->terminal ? "\r\n" : "\n";
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        if (!text)
                return;
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < 0x20 || *p == 0x7f)
                        *p = '?';
        fprintf(stderr, "lodge: %s%s", text, end);
}

static void show_menu(struct console *c) {
        fputs("\r\n", stderr);
        console_message(c, "p power button, r reset, k kill, c continue, d detach, ? help, Ctrl-] sends Ctrl-]");
}

static void show_help(struct console *c) {
        console_message(c, "p  press the power button: the guest shuts down if it listens (ACPI)");
        console_message(c, "r  reset, as by the button: what the guest has not written is lost");
        console_message(c, "k  end the machine at once, as by pulling its plug");
        console_message(c, "c  or any other key: go on");
        console_message(c, c->options.detachable
                                   ? "d  detach: leave the console, the machine runs on"
                                   : "d  detach: for machines that the daemon keeps: lodge launch, lodge console");
}

/* ---- from the machine -------------------------------------------------------------------------------------------- */

static void gone(struct console *c) {
        if (c->gone)
                return;
        c->gone = true;
        c->out_len = 0;
        loop_source_free(TAKE_PTR(c->input));
        loop_source_free(TAKE_PTR(c->output));
        if (c->machine)
                loop_source_set_events(c->machine, EPOLLIN | (c->in_len ? EPOLLOUT : 0));
        c->ops->on_gone(c->opaque);
}

static bool writable(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLOUT };

        return poll(&p, 1, 0) > 0;
}

static void set_machine_events(struct console *c) {
        if (c->machine)
                loop_source_set_events(c->machine, (c->out_len ? 0 : EPOLLIN) | (c->in_len ? EPOLLOUT : 0));
}

static void on_output_ready(void *opaque, int fd, uint32_t events);

static void push_output(struct console *c) {
        while (c->out_len > 0 && writable(c->out_fd)) {
                ssize_t n = write(c->out_fd, c->out, c->out_len);

                if (n < 0 && (errno == EINTR || errno == EAGAIN))
                        continue;
                if (n <= 0) {
                        gone(c);
                        return;
                }
                c->out_len -= (size_t)n;
                memmove(c->out, c->out + n, c->out_len);
        }
        /* A regular file is always writable; what isn't can be watched. */
        if (c->out_len > 0 && !c->output)
                loop_add_fd(c->loop, c->out_fd, EPOLLOUT, on_output_ready, c, &c->output);
        if (c->out_len == 0)
                loop_source_free(TAKE_PTR(c->output));
        set_machine_events(c);
}

static void on_output_ready(void *opaque, int fd, uint32_t events) {
        push_output(opaque);
}

static void take_output(struct console *c, const char *data, size_t n) {
        if (!c->started) {
                c->started = true;
                c->ops->on_first_output(c->opaque);
        }
        tail_add(&c->tail, data, n);
        if (c->out_fd < 0 || c->gone)
                return;
        memcpy(c->out, data, n);
        c->out_len = n;
        push_output(c);
}

static void push_input(struct console *c) {
        while (c->in_len > 0) {
                ssize_t n = send(c->options.fd, c->in, c->in_len, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno != EAGAIN)
                        c->in_len = 0; /* the machine is gone: its process's end tells */
                if (n <= 0)
                        break;
                c->in_len -= (size_t)n;
                memmove(c->in, c->in + n, c->in_len);
        }
        set_machine_events(c);
        if (c->input)
                loop_source_set_events(c->input, c->in_len ? 0 : EPOLLIN);
}

static void on_machine(void *opaque, int fd, uint32_t events) {
        struct console *c = opaque;
        char buf[CHUNK];
        ssize_t n;

        if (events & EPOLLOUT)
                push_input(c);
        if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || c->out_len > 0) {
                if (events & (EPOLLHUP | EPOLLERR) && c->out_len > 0)
                        loop_source_free(TAKE_PTR(c->machine)); /* what is left comes by console_drain() */
                return;
        }
        n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n > 0)
                take_output(c, buf, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
                loop_source_free(TAKE_PTR(c->machine));
}

/* ---- from the person --------------------------------------------------------------------------------------------- */

static void on_menu_key(struct console *c, enum terminal_key key) {
        switch (key) {
        case TERMINAL_MENU:
                show_menu(c);
                return;
        case TERMINAL_HELP:
                show_help(c);
                return;
        case TERMINAL_DETACH:
                if (c->options.detachable)
                        c->ops->on_key(c->opaque, key);
                else
                        console_message(c, "only a machine that the daemon keeps can be left: lodge launch, then lodge "
                                           "console");
                return;
        case TERMINAL_NONE:
        case TERMINAL_CONTINUE:
                return;
        default:
                console_message(c, "%s",
                                key == TERMINAL_POWER   ? "power button pressed"
                                : key == TERMINAL_RESET ? "reset"
                                                        : "ending the machine");
                c->ops->on_key(c->opaque, key);
        }
}

static void take_input(struct console *c, const char *data, size_t n) {
        while (n > 0) {
                enum terminal_key key = TERMINAL_NONE;
                size_t len = 0, used = n;

                if (c->terminal)
                        used = terminal_filter(&c->filter, data, n, c->in + c->in_len, &len, &key);
                else
                        memcpy(c->in + c->in_len, data, len = n);
                c->in_len += len;
                data += used;
                n -= used;
                on_menu_key(c, key);
        }
        push_input(c);
}

static void on_input(void *opaque, int fd, uint32_t events) {
        struct console *c = opaque;
        char buf[CHUNK];
        ssize_t n;

        if (c->in_len > 0) {
                if (events & (EPOLLHUP | EPOLLERR))
                        gone(c);
                return;
        }
        n = read(fd, buf, sizeof(buf));
        if (n > 0) {
                take_input(c, buf, (size_t)n);
                return;
        }
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return;
        loop_source_free(TAKE_PTR(c->input));
        if (c->terminal)
                gone(c); /* a pipe's end is just the end of what there was to type */
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int open_input(struct console *c) {
        int r;

        if (isatty(STDIN_FILENO)) {
                if (isatty(STDOUT_FILENO) || c->options.to_stderr) {
                        r = terminal_open(STDIN_FILENO, &c->terminal);
                        if (r < 0)
                                return r;
                }
        }
        r = loop_add_fd(c->loop, STDIN_FILENO, EPOLLIN, on_input, c, &c->input);
        if (r == -EPERM) { /* a regular file or /dev/null: as much as fits the buffer is typed at once */
                ssize_t n = read(STDIN_FILENO, c->in, sizeof(c->in));

                c->in_len = n > 0 ? (size_t)n : 0;
                push_input(c);
                return 0;
        }
        return r == -EBADF ? 0 : r;
}

int console_new(struct loop *loop, const struct console_options *options, const struct console_ops *ops, void *opaque,
                struct console **ret_console) {
        struct console *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return -ENOMEM;
        c->loop = loop;
        c->options = *options;
        c->ops = ops;
        c->opaque = opaque;
        c->out_fd = options->to_stdout ? STDOUT_FILENO : options->to_stderr ? STDERR_FILENO : -1;
        r = loop_add_fd(loop, options->fd, EPOLLIN, on_machine, c, &c->machine);
        if (r == 0 && options->interactive)
                r = open_input(c);
        if (r < 0) {
                console_free(c);
                return r;
        }
        *ret_console = c;
        return 0;
}

void console_free(struct console *c) {
        if (!c)
                return;
        terminal_close(c->terminal);
        loop_source_free(c->machine);
        loop_source_free(c->input);
        loop_source_free(c->output);
        free(c);
}

void console_drain(struct console *c) {
        char buf[CHUNK];
        ssize_t n;

        /* Up to a second for a reader that is slow, none for one that is gone. */
        for (int i = 0; i < 10 && c->out_len > 0 && !c->gone; i++) {
                struct pollfd p = { .fd = c->out_fd, .events = POLLOUT };

                poll(&p, 1, 100);
                push_output(c);
        }
        while (c->out_len == 0 && (n = recv(c->options.fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
                take_output(c, buf, (size_t)n);
}

void console_resume(struct console *c) {
        terminal_resume(c->terminal);
}

void console_close_terminal(struct console *c) {
        terminal_close(TAKE_PTR(c->terminal));
        c->options.interactive = false;
}

void console_show_tail(const struct console *c, FILE *f) {
        if (c->tail.len > 0)
                tail_print(&c->tail, "console", f);
        else
                fputs("  console| (no output at all)\n", f);
}
