// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * session: a machine that runs in the foreground, from its start to its end
 *
 * Theory of operation. One event loop watches the machine's process, its control socket, its serial console, its agent's port, the
 * person's terminal and the signals. A session ends when the process does, and only then: everything else (a power-off, Ctrl-] k,
 * SIGTERM, the end of --exec) asks for that, with a ladder of deadlines behind it, so that the end always comes:
 *
 *      agent: guest-shutdown -> power button -> QMP quit -> SIGKILL
 *
 * each step taken when the one before it was refused or had its time. SIGTERM and SIGINT begin at quit; a terminal that
 * went away begins at the power button, since somebody's work may be in the guest.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "daemon/engine/engine.h"

struct session_options {
        const char *exec;     /* run this by the agent, then power off; NULL: the terminal is the console */
        bool console;         /* with exec: show the console on stderr */
        bool json;            /* the console goes to stderr, since stdout is for the result */
        double start_us;      /* monotonic time when lodge started: the timings count from there */
        int agent_timeout_ms; /* how long exec waits for the agent */
};

struct session_result {
        const char
                *reason; /* "guest-shutdown", "guest-panic", "quit", "killed", "signal", "vmm-failed": why it ended */
        int exit_status;
        double first_output_ms, agent_ms, exec_ms, total_ms; /* since start_us; negative: did not happen */
        char *out, *err;                                     /* exec's output; owned */
        size_t out_len, err_len;
};

/** session_run() - until the machine has ended. @engine is reaped then. Return: 0, or -errno with @e; @ret_result holds what is known in both cases. */
int session_run(const struct session_options *options, struct engine *engine, struct parts *parts,
                struct session_result *ret_result, struct error *e);

void session_result_clear(struct session_result *result);
