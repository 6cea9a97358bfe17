// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shell: a terminal in the guest, by nothing but its agent: no network, no SSH, no password
 *
 * Theory of operation. The agent runs commands and moves files; it has no terminal and no stream. So a directory of the guest's holds one:
 *
 *      keys  -> FIFO in --> script(1): a terminal, and the shell on it --> pipe --> dd, a piece at a time --> files 1, 2, 3 ... -> us
 *                                                                                    ^
 *                                                        FIFO credit: write N, and file N comes when there is something
 *
 * A shell that floods its terminal is held up by the pipe, since the next piece is read when we have asked for it; /run holds two pieces at most. That a
 * file is there we find out by opening it, often after a key and five times a second in a quiet shell. An empty file is the end.
 *
 * The image tiny has no script(1), but a tool of its own: lodge-pty.
 *
 *      SETUP --made--> OPENING --FIFOs open--> RUNNING --empty piece, or the session has ended--> ENDING --> gone
 *
 * Whoever leaves ends the session: its processes are hung up. What a daemon left that was killed is cleared by the first shell of the next one: the directories' names
 * begin with a number of ours.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/text.h"
#include "daemon/machine/internal.h"

#define DIR           "/run/lodge-shell"
#define PIECE_MAX     65536
#define POLL_US       8000
#define POLL_SLOW_US  200000
#define LAST_WORDS_US 3000000 /* after the session's end: its last piece has to be there */
#define KEYS_MAX      (256u << 10)
#define KEYS_CHUNK    2048 /* a terminal's queue holds 4095 */
#define SHELLS_MAX    16

/* A process, for the file `pids`: its number, and when it began, in clock ticks since the guest's boot, since numbers are used again. */
#define NAME_PROCESS "echo $$ $(cut -d' ' -f22 /proc/$$/stat 2>/dev/null)"
/* Hang up those that `pids` names. A guest without /proc has numbers alone, and nothing to compare. */
#define HANG_UP                                                                                                        \
        "while read -r p t; do [ \"$t\" = \"$(cut -d' ' -f22 /proc/$p/stat 2>/dev/null)\" ] && kill -HUP $p; done "    \
        "2>/dev/null"

enum shell_state { SHELL_SETUP, SHELL_OPENING, SHELL_RUNNING, SHELL_ENDING };

struct machine_shell {
        struct machine_shell *next;
        struct machine_live *live;
        enum shell_state state;
        char dir[sizeof(DIR) + 40];
        char *session; /* the script that is the session */
        const struct machine_shell_ops *ops;
        void *opaque;
        struct loop_source *timer;
        json_int_t in, credit, piece; /* handles; 0: none */
        unsigned int number;          /* of the piece that is waited for */
        bool polls;                   /* a request about a piece is open */
        bool writes;                  /* one about keys is */
        bool unflushed;               /* keys that the agent has, and the guest not yet */
        bool over;                    /* the session has ended */
        int status;
        uint64_t poll_us, over_us;
        char *keys;
        size_t n_keys, n_sent; /* those that the open request holds */
};

static void shell_free(struct machine_shell *s) {
        struct machine_shell **at = &s->live->shells;

        while (*at && *at != s)
                at = &(*at)->next;
        if (*at)
                *at = s->next;
        agent_forget(s->live->agent, s);
        loop_source_free(s->timer);
        free(s->session);
        free(s->keys);
        free(s);
}

static void close_handle(struct machine_shell *s, json_int_t *handle) {
        if (*handle)
                agent_call(s->live->agent, "guest-file-close", json_pack("{s:I}", "handle", *handle), NULL, NULL);
        *handle = 0;
}

static void ignore(void *opaque, int result, const struct agent_result *value, const char *reason) {
}

/* Hang its processes up, and leave nothing. */
static void clear_guest(struct machine_shell *s) {
        _cleanup_free_ char *command = NULL;

        close_handle(s, &s->piece);
        close_handle(s, &s->in);
        close_handle(s, &s->credit);
        if (asprintf(&command, "cd %s 2>/dev/null || exit 0; " HANG_UP " <pids; sleep 1; rm -rf %s", s->dir, s->dir) <
            0)
                command = NULL;
        if (command)
                agent_exec(s->live->agent, command, ignore, NULL);
}

/* Its end, for whoever looks at it. */
static void shell_end(struct machine_shell *s, int status, const char *why) {
        const struct machine_shell_ops *ops = s->ops;
        void *opaque = s->opaque;

        clear_guest(s);
        shell_free(s);
        ops->on_end(opaque, status, why);
}

/* ---- pieces ---------------------------------------------------------------------------------------------------------- */

static void poll_soon(struct machine_shell *s) {
        s->poll_us = POLL_US;
        loop_timer_set(s->timer, POLL_US);
}

static void poll_later(struct machine_shell *s) {
        s->poll_us = MIN(s->poll_us + s->poll_us / 4, (uint64_t)POLL_SLOW_US);
        loop_timer_set(s->timer, s->poll_us);
}

static void ask_piece(struct machine_shell *s) {
        char text[16];
        _cleanup_free_ char *b64 = NULL;
        int n = snprintf(text, sizeof(text), "%u\n", ++s->number);

        b64 = base64_encode(text, (size_t)n);
        agent_call(s->live->agent, "guest-file-write",
                   json_pack("{s:I, s:s}", "handle", s->credit, "buf-b64", b64 ?: ""), NULL, NULL);
        agent_call(s->live->agent, "guest-file-flush", json_pack("{s:I}", "handle", s->credit), NULL, NULL);
}

static void on_piece(void *opaque, int result, json_t *value, const char *reason) {
        json_t *text = json_object_get(value, "buf-b64");
        _cleanup_free_ unsigned char *data = NULL;
        struct machine_shell *s = opaque;
        size_t n = 0;

        s->polls = false;
        if (result < 0 || !json_is_string(text) ||
            base64_decode(json_string_value(text), json_string_length(text), &data, &n) < 0 || n > PIECE_MAX) {
                shell_end(s, -1, "the guest agent's answer makes no sense");
                return;
        }
        close_handle(s, &s->piece);
        if (n == 0) { /* the end of the terminal; the exit status comes with the session's end */
                s->state = SHELL_ENDING;
                if (s->over)
                        shell_end(s, s->status, "");
                return;
        }
        ask_piece(s);
        poll_soon(s);
        s->ops->on_output(s->opaque, data, n);
}

static void on_piece_there(void *opaque, int result, json_t *value, const char *reason) {
        struct machine_shell *s = opaque;

        if (result < 0 || !json_is_integer(value)) {
                s->polls = false;
                if (result == -EPIPE)
                        shell_end(s, -1, "the guest agent is gone");
                else if (s->over && clock_ns() / 1000 > s->over_us + LAST_WORDS_US)
                        shell_end(s, s->status, "");
                else
                        poll_later(s);
                return;
        }
        s->piece = json_integer_value(value);
        if (agent_call(s->live->agent, "guest-file-read",
                       json_pack("{s:I, s:i}", "handle", s->piece, "count", PIECE_MAX), on_piece, s) < 0)
                shell_end(s, -1, "the guest agent does not listen");
}

static void keys_send(struct machine_shell *s);

static void on_timer(void *opaque) {
        struct machine_shell *s = opaque;
        char path[sizeof(s->dir) + 16];

        if (s->state != SHELL_RUNNING || s->polls)
                return;
        keys_send(s);
        if (!s->ops->takes_more(s->opaque)) {
                loop_timer_set(s->timer, POLL_US * 4);
                return;
        }
        snprintf(path, sizeof(path), "%s/%u", s->dir, s->number);
        if (agent_call(s->live->agent, "guest-file-open", json_pack("{s:s, s:s}", "path", path, "mode", "r"),
                       on_piece_there, s) < 0)
                poll_later(s); /* it is busy, or being found again */
        else
                s->polls = true;
}

/* ---- keys ------------------------------------------------------------------------------------------------------------ */

/*
 * A guest that does not read holds its keys up: the FIFO is full, and takes a chunk whole or not at all (pipe(7)). Then the timer tries again. An agent that buffers
 * has taken the keys when only its flush fails.
 */
static void on_flushed(void *opaque, int result, json_t *value, const char *reason) {
        struct machine_shell *s = opaque;

        s->writes = false;
        s->unflushed = result < 0;
        if (!s->unflushed)
                keys_send(s);
}

static void keys_flush(struct machine_shell *s) {
        s->writes =
                agent_call(s->live->agent, "guest-file-flush", json_pack("{s:I}", "handle", s->in), on_flushed, s) == 0;
}

static void on_keys(void *opaque, int result, json_t *value, const char *reason) {
        struct machine_shell *s = opaque;

        s->writes = false;
        if (result < 0)
                return;
        s->n_keys -= s->n_sent;
        memmove(s->keys, s->keys + s->n_sent, s->n_keys);
        keys_flush(s);
}

static void keys_send(struct machine_shell *s) {
        _cleanup_free_ char *b64 = NULL;

        if (s->state != SHELL_RUNNING || s->writes)
                return;
        if (s->unflushed) {
                keys_flush(s);
                return;
        }
        s->n_sent = MIN(s->n_keys, (size_t)KEYS_CHUNK);
        b64 = s->n_sent > 0 ? base64_encode(s->keys, s->n_sent) : NULL;
        if (!b64)
                return;
        s->writes = agent_call(s->live->agent, "guest-file-write",
                               json_pack("{s:I, s:s}", "handle", s->in, "buf-b64", b64), on_keys, s) == 0;
        if (!s->polls)
                poll_soon(s);
        s->poll_us = POLL_US;
}

void machine_shell_input(struct machine_shell *s, const void *data, size_t n) {
        char *more;

        if (n == 0 || s->n_keys + n > KEYS_MAX)
                return;
        more = realloc(s->keys, s->n_keys + n);
        if (!more)
                return;
        s->keys = more;
        memcpy(s->keys + s->n_keys, data, n);
        s->n_keys += n;
        keys_send(s);
}

void machine_shell_resize(struct machine_shell *s, unsigned int rows, unsigned int columns) {
        _cleanup_free_ char *command = NULL;

        if (s->state != SHELL_RUNNING || rows == 0 || columns == 0 ||
            asprintf(&command, "stty rows %u cols %u <$(cat %s/tty)", rows, columns, s->dir) < 0)
                return;
        agent_exec(s->live->agent, command, ignore, NULL);
}

/* ---- the beginning --------------------------------------------------------------------------------------------------- */

static void on_session(void *opaque, int result, const struct agent_result *value, const char *reason) {
        struct machine_shell *s = opaque;

        if (result < 0) {
                shell_end(s, -1, result == -EPIPE ? "the guest agent is gone" : reason ?: "it cannot be run");
                return;
        }
        s->over = true;
        s->over_us = clock_ns() / 1000;
        s->status = value->status;
        if (s->state == SHELL_ENDING)
                shell_end(s, s->status, "");
        else if (!s->polls)
                poll_soon(s);
}

static void on_fifo(struct machine_shell *s, json_int_t *handle, int result, json_t *value) {
        if (result < 0 || !json_is_integer(value)) {
                shell_end(s, -1, "the guest agent cannot open a FIFO in " DIR);
                return;
        }
        *handle = json_integer_value(value);
        if (!s->in || !s->credit)
                return;
        s->state = SHELL_RUNNING;
        if (agent_exec(s->live->agent, s->session, on_session, s) < 0) {
                shell_end(s, -1, "the guest agent does not listen");
                return;
        }
        ask_piece(s);
        poll_soon(s);
        keys_send(s);
}

static void on_in(void *opaque, int result, json_t *value, const char *reason) {
        struct machine_shell *s = opaque;

        on_fifo(s, &s->in, result, value);
}

static void on_credit(void *opaque, int result, json_t *value, const char *reason) {
        struct machine_shell *s = opaque;

        on_fifo(s, &s->credit, result, value);
}

static int open_fifo(struct machine_shell *s, const char *name, agent_reply_fn fn) {
        char path[sizeof(s->dir) + 16];

        snprintf(path, sizeof(path), "%s/%s", s->dir, name);
        return agent_call(s->live->agent, "guest-file-open", json_pack("{s:s, s:s}", "path", path, "mode", "r+"), fn,
                          s);
}

static void on_made(void *opaque, int result, const struct agent_result *value, const char *reason) {
        struct machine_shell *s = opaque;

        if (result < 0 || value->status != 0) {
                shell_end(s, -1,
                          result == -EPIPE       ? "the guest agent is gone"
                          : result < 0           ? "the guest agent can't run commands"
                          : value->status == 127 ? "the guest has no script(1): it is in util-linux, or bsdutils"
                          : value->status == 126 ? "the guest has no such user"
                                                 : "the guest has no " DIR " that can be written");
                return;
        }
        s->state = SHELL_OPENING;
        if (open_fifo(s, "in", on_in) < 0 || open_fifo(s, "credit", on_credit) < 0)
                shell_end(s, -1, "the guest agent does not listen");
}

/* What makes the directory, and clears what an earlier daemon left. */
static char *setup_script(const struct machine_shell *s, const char *user) {
        const struct machines *ms = s->live->ms;
        char *text;

        if (asprintf(&text,
                     "umask 077; mkdir -p " DIR " && cd " DIR " || exit 1\n"
                     "for o in *; do case $o in '*' | %08x-*) ;; *) " HANG_UP " <$o/pids; rm -rf $o ;; "
                     "esac; done\n"
                     "command -v script >/dev/null || command -v lodge-pty >/dev/null || exit 127\n"
                     "id %s >/dev/null 2>&1 || exit 126\n"
                     "mkdir %s && cd %s && mkfifo in credit && : >pids\n",
                     ms->shell_epoch, user, s->dir, s->dir) < 0)
                return NULL;
        return text;
}

/* The session: the terminal in a pipe to the pieces. `pids` names who is hung up when nobody looks any more. */
static char *session_script(const struct machine_shell *s, const struct machine_shell_request *how) {
        _cleanup_free_ char *command = how->command ? text_shell_quote(how->command) : NULL, *inner = NULL,
                            *quoted = NULL;
        char *text;

        if ((how->command && !command) ||
            asprintf(&inner,
                     "tty >%s/tty; " NAME_PROCESS " >>%s/pids; stty rows %u cols %u; export TERM=%s; exec su -l %s%s%s",
                     s->dir, s->dir, how->rows, how->columns, how->terminal, how->user, command ? " -c " : "",
                     command ?: "") < 0)
                return NULL;
        quoted = text_shell_quote(inner);
        if (!quoted ||
            asprintf(&text,
                     "cd %s || exit 1\n"
                     "{ " NAME_PROCESS " >>pids\n"
                     "  if command -v lodge-pty >/dev/null; then lodge-pty %s; else script -qfec %s /dev/null; fi\n"
                     "  echo $? >status; } <in 2>&1 | {\n"
                     "  while read -r n <&3; do\n"
                     "    dd bs=%u count=1 of=t 2>/dev/null; mv t $n; [ -s $n ] || break\n"
                     "    rm -f $((n - 2))\n"
                     "  done; } 3<>credit\n"
                     "read -r n <status && exit $n\n",
                     s->dir, quoted, quoted, PIECE_MAX) < 0)
                return NULL;
        return text;
}

int machine_shell_open(struct machines *ms, const struct store_machine *row, const struct machine_shell_request *how,
                       const struct machine_shell_ops *ops, void *opaque, struct machine_shell **ret_shell,
                       struct error *e) {
        _cleanup_free_ char *setup = NULL;
        struct machine_live *live;
        struct machine_shell *s;
        unsigned int n = 0;
        int r = live_agent(ms, row, &live, e);

        if (r < 0)
                return r;
        for (s = live->shells; s; s = s->next)
                n++;
        s = n < SHELLS_MAX ? calloc(1, sizeof(*s)) : NULL;
        if (!s)
                return error_set(e, -EAGAIN, "shell-busy", "leave one of them first", "too many shells are open in %s",
                                 row->name);
        *s = (struct machine_shell){ .next = live->shells, .live = live, .ops = ops, .opaque = opaque };
        live->shells = s;
        while (ms->shell_epoch == 0)
                if (getrandom(&ms->shell_epoch, sizeof(ms->shell_epoch), 0) < 0)
                        ms->shell_epoch = 1;
        snprintf(s->dir, sizeof(s->dir), DIR "/%08x-%u", ms->shell_epoch, ++ms->n_shells);
        setup = setup_script(s, how->user);
        s->session = session_script(s, how);
        r = setup && s->session ? loop_add_timer(ms->loop, on_timer, s, &s->timer) : -ENOMEM;
        if (r == 0)
                r = agent_exec(live->agent, setup, on_made, s);
        if (r < 0) {
                shell_free(s);
                return error_set(e, r == -EBUSY ? -EAGAIN : r, "shell-open", "try again in a moment",
                                 "the guest agent of %s does not listen now", row->name);
        }
        *ret_shell = s;
        return 0;
}

void machine_shell_close(struct machine_shell *s) {
        if (s->state != SHELL_SETUP || s->live->agent_ready)
                clear_guest(s);
        shell_free(s);
}

void shells_end(struct machine_live *live) {
        while (live->shells) {
                struct machine_shell *s = live->shells;
                const struct machine_shell_ops *ops = s->ops;
                void *opaque = s->opaque;

                shell_free(s);
                ops->on_end(opaque, -1, "the machine or the daemon has ended");
        }
}
