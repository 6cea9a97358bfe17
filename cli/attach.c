// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * attach: lodge console and lodge shell: the serial console of a machine that the daemon keeps, or a shell in its guest, in the terminal
 *
 *      terminal <-> console.c <-> socket pair <-> here <-> WebSocket <-> lodged
 *
 * console.c is the same as lodge run's, so keys and menu are the same, and it takes a socket for the serial port. What the daemon sends is read only as fast as
 * the terminal takes it. Leaving (Ctrl-] d, the end of the terminal, Ctrl-C without one) leaves the machine as it is.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/loop.h"
#include "cli/ask.h"
#include "cli/console.h"
#include "cli/websocket.h"

#define CHUNK      4096
#define TIMEOUT_MS 60000

struct attach {
        struct ask *a;
        struct loop *loop;
        struct http *http;
        int ours; /* our end of the pair */
        struct loop_source *daemon, *pair;
        struct console *console;
        const char *rest; /* of the last message: what the terminal has not taken */
        size_t rest_len;
        bool hung; /* the daemon has ended the connection, and not all of it was shown */
        struct error *e;
        bool shell;
        bool told; /* the shell's status has come */
        bool left; /* whoever looked at it has gone */
};

static void end(struct attach *t) {
        loop_quit(t->loop, 0);
}

static void leave(struct attach *t) {
        t->left = true;
        end(t);
}

static void fail(struct attach *t, int code) {
        error_set(t->e, code, "console", "look at the daemon's log", "the connection to the console broke");
        end(t);
}

static void on_close(struct attach *t, const struct websocket_message *m) {
        _cleanup_free_ char *why = strndup(m->data, m->len);

        if (m->code >= 4000)
                error_set(t->e, -EPROTO, t->shell ? "shell" : "console", NULL, "%s: %s", t->a->request->name,
                          why && *why ? why : "it is not there");
        end(t);
}

/* {"status":N}: a shell's last word. */
static void on_word(struct attach *t, const struct websocket_message *m) {
        json_auto_t *word = json_loadb(m->data, m->len, 0, NULL);

        const json_t *status = json_object_get(word, "status");

        if (!json_is_integer(status))
                return;
        t->a->status = (int)(json_integer_value(status) & 255);
        t->told = true;
}

/* The guest's terminal has the size of ours. */
static void send_size(struct attach *t) {
        struct winsize size;
        char text[64];
        int n;

        if (!t->shell || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_row == 0 || size.ws_col == 0)
                return;
        n = snprintf(text, sizeof(text), "{\"rows\":%u,\"columns\":%u}", size.ws_row, size.ws_col);
        if (websocket_send(t->http, WEBSOCKET_TEXT, text, (size_t)n) < 0)
                fail(t, -EPIPE);
}

/* Hands on what has come, until the terminal takes no more or there is no more. */
static void pump(struct attach *t) {
        struct websocket_message m;
        int r = 1;

        while (r > 0) {
                while (t->rest_len > 0) {
                        ssize_t n = send(t->ours, t->rest, t->rest_len, MSG_DONTWAIT | MSG_NOSIGNAL);

                        if (n < 0 && errno != EAGAIN && errno != EINTR)
                                t->rest_len = 0; /* nobody looks any more */
                        if (n < 0 && errno == EAGAIN) {
                                if (t->daemon)
                                        loop_source_set_events(t->daemon, 0);
                                loop_source_set_events(t->pair, EPOLLIN | EPOLLOUT);
                                return;
                        }
                        if (n > 0) {
                                t->rest += n;
                                t->rest_len -= (size_t)n;
                        }
                }
                r = websocket_next(t->http, &m);
                if (r > 0 && m.kind == WEBSOCKET_CLOSE) {
                        on_close(t, &m);
                        return;
                }
                if (r > 0 && m.kind == WEBSOCKET_TEXT)
                        on_word(t, &m);
                else if (r > 0) {
                        t->rest = m.data;
                        t->rest_len = m.len;
                }
        }
        if (r < 0)
                fail(t, r);
        if (t->hung)
                end(t);
        else
                loop_source_set_events(t->daemon, EPOLLIN);
        loop_source_set_events(t->pair, EPOLLIN);
}

static void on_daemon(void *opaque, int fd, uint32_t events) {
        struct attach *t = opaque;
        ssize_t n;

        if (t->rest_len >
            0) { /* the buffer holds what the terminal has not taken yet: the daemon is not waited for, so this is its end */
                t->hung = true;
                loop_source_free(TAKE_PTR(t->daemon));
                return;
        }
        n = websocket_read(t->http);
        if (n == 0)
                end(t);
        else if (n < 0 && n != -ETIMEDOUT)
                fail(t, (int)n);
        else if (n > 0)
                pump(t);
}

static void on_pair(void *opaque, int fd, uint32_t events) {
        struct attach *t = opaque;
        char keys[CHUNK];
        ssize_t n;

        if (events & EPOLLOUT)
                pump(t);
        if (!(events & EPOLLIN))
                return;
        n = recv(fd, keys, sizeof(keys), MSG_DONTWAIT);
        if (n > 0 && websocket_send(t->http, WEBSOCKET_BINARY, keys, (size_t)n) < 0)
                fail(t, -EPIPE);
}

/* The menu's keys are requests of their own. */
static void on_key(void *opaque, enum terminal_key key) {
        static const char acpi[] = "{\"way\":\"acpi\"}", force[] = "{\"way\":\"force\"}";
        struct attach *t = opaque;
        struct client_call call = { .route = key == TERMINAL_RESET ? ROUTE_MACHINE_RESET : ROUTE_MACHINE_STOP,
                                    .parameter = t->a->request->name,
                                    .body = key == TERMINAL_POWER ? acpi : force };
        _cleanup_(client_freep) struct client *client = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        json_auto_t *answer = NULL;

        if (key == TERMINAL_DETACH) {
                leave(t);
                return;
        }
        if (key == TERMINAL_RESET)
                call.body = NULL;
        if (client_open(t->a->options, false, &client, &e) < 0 || client_call(client, &call, &answer, &e) < 0)
                console_message(t->console, "%s", e.message ?: "it failed");
}

static void on_gone(void *opaque) {
        leave(opaque);
}

static void on_first_output(void *opaque) {
}

static void on_signal(void *opaque, int signo) {
        struct attach *t = opaque;

        if (signo == SIGCONT)
                console_resume(t->console);
        else if (signo == SIGWINCH)
                send_size(t);
        else
                leave(t);
}

static int start(struct attach *t, int theirs, struct error *e) {
        static const struct console_ops ops = { on_key, on_gone, on_first_output };
        static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGCONT, SIGWINCH };
        const struct console_options options = {
                .fd = theirs, .interactive = true, .to_stdout = true, .detachable = true
        };
        int r = loop_new(&t->loop);

        for (size_t i = 0; i < ELEMENTSOF(signals) && r == 0; i++)
                r = loop_add_signal(t->loop, signals[i], on_signal, t);
        if (r == 0)
                r = loop_add_fd(t->loop, t->http->fd, EPOLLIN, on_daemon, t, &t->daemon);
        if (r == 0)
                r = loop_add_fd(t->loop, t->ours, EPOLLIN, on_pair, t, &t->pair);
        if (r == 0)
                r = console_new(t->loop, &options, &ops, t, &t->console);
        return r < 0 ? error_set(e, r, "console", NULL, "cannot show the console") : 0;
}

static int shake(struct ask *a, const char *what, const char *query, struct error *e) {
        _cleanup_(http_answer_clear) struct http_answer refusal = { 0 };
        _cleanup_free_ char *target = NULL;
        int r = client_stream_target(a->client, a->request->name, what, query, &target);

        if (r == 0)
                r = websocket_open(&a->client->http, target, TIMEOUT_MS, &refusal);
        if (r == -EPROTO && refusal.status)
                return client_refusal(&refusal, e);
        return r < 0 ? error_set(e, r, what, NULL, "cannot reach the %s", what) : 0;
}

static int attach(struct ask *a, const char *what, const char *query, struct error *e) {
        struct attach t = { .a = a, .http = &a->client->http, .e = e, .shell = streq(what, "shell") };
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        int pair[2], r = shake(a, what, query, e);

        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return error_set(e, -errno, "console", NULL, "cannot show the console");
        t.ours = ours = pair[0];
        theirs = pair[1];
        signal(SIGPIPE, SIG_IGN);
        r = start(&t, theirs, e);
        if (r == 0 && !t.shell && isatty(STDIN_FILENO))
                console_message(t.console, "the console of %s; Ctrl-] opens a menu, Ctrl-] d leaves", a->request->name);
        if (r == 0) {
                pump(&t); /* what came with the handshake */
                r = loop_run(t.loop);
                console_drain(t.console);
                if (r < 0)
                        error_set(e, r, "console", NULL, "cannot show the console");
        }
        console_free(t.console);
        loop_free(t.loop);
        if (e->code == 0 && t.shell && !t.told && !t.left) {
                error_set(e, -EPIPE, "shell-lost", NULL, "the connection broke; how the command ended is not known");
                error_set_fix(e, "look whether it goes on: lodge shell %s", a->request->name);
        }
        return e->code < 0 ? e->code : 0;
}

int ask_machine_console(struct ask *a, struct error *e) {
        const struct console_query_options *how = ask_object(a, &console_query_options_schema);
        _cleanup_free_ char *query = NULL, *number = NULL;

        if (asprintf(&number, "%llu", (unsigned long long)how->history) < 0) {
                number = NULL;
                return -ENOMEM;
        }
        return client_query_add(&query, "history", number) < 0 ? -ENOMEM : attach(a, "console", query, e);
}

int ask_machine_shell(struct ask *a, struct error *e) {
        struct machine_shell_request *how = ask_object(a, &machine_shell_request_schema);
        const char *terminal = getenv("TERM");
        _cleanup_free_ char *query = NULL;
        struct winsize size;
        int r;

        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
                how->rows = size.ws_row;
                how->columns = size.ws_col;
        }
        free(how->project);
        how->project = strdup(a->client->project ?: "default");
        if (a->request->n_words > 0)
                how->command = ask_command_line(a->request->words, a->request->n_words);
        if (!how->project || (a->request->n_words > 0 && !how->command))
                return -ENOMEM;
        if (terminal && *terminal) {
                char *ours = TAKE_PTR(how->terminal);

                how->terminal = strdup(terminal);
                if (!how->terminal || machine_shell_request_check(how, e) < 0) { /* a name of no use in a guest */
                        free(how->terminal);
                        how->terminal = TAKE_PTR(ours);
                        error_clear(e);
                }
                free(ours);
        }
        r = machine_shell_request_check(how, e);
        if (r == 0)
                r = client_query_object(&query, &machine_shell_request_schema, how);
        return r < 0 ? r : attach(a, "shell", query, e);
}
