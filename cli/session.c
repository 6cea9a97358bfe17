// SPDX-License-Identifier: GPL-2.0-or-later
/* session: see session.h; the console's streams are in console.c */
#include "cli/session.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/io.h"
#include "base/log.h"
#include "base/spawn.h"
#include "cli/console.h"
#include "daemon/engine/agent.h"
#include "daemon/engine/qmp.h"
#include "daemon/engine/watch.h"

#define STORAGE_RETRY_US 5000000
#define STORAGE_WELL_US  1000000 /* without an error, and it works again */

/* The ladder: what is asked of the machine, one after the other, and how long each may take. */
enum rung { RUNG_NONE, RUNG_AGENT, RUNG_BUTTON, RUNG_QUIT, RUNG_KILL, RUNG_COUNT };
static const uint64_t rung_us[RUNG_COUNT] = {
        [RUNG_AGENT] = 20000000, [RUNG_BUTTON] = 10000000, [RUNG_QUIT] = 3000000, [RUNG_KILL] = UINT64_MAX
};

struct session {
        const struct session_options *options;
        struct engine *engine;
        struct parts *parts;
        struct session_result *result;
        struct error *e;
        struct loop *loop;
        struct qmp_client *qmp;
        struct agent *agent;
        struct console *console;
        struct loop_source *storage; /* timer: look whether the storage is well again */
        enum { STORAGE_WELL, STORAGE_FAILED, STORAGE_TRIED } storage_state;
        struct loop_source *ladder, *agent_deadline;
        struct watch *watch;
        enum rung rung;
        bool panicked, power_asked, ended, agent_ready, exec_done, control_lost;
        int signo, exec_status;
};

static double since_start_ms(const struct session *s) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return ((double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3 - s->options->start_us) / 1e3;
}

/* ---- the ladder -------------------------------------------------------------------------------------------------- */

static void climb(struct session *s, enum rung rung);

static void on_refused(void *opaque, int result, json_t *value) {
        struct session *s = opaque;

        if (result < 0 && s->rung < RUNG_KILL)
                climb(s, s->rung + 1);
}

/* Ask for the end, at @rung or, where that can't even be asked, at the next one. */
static void climb(struct session *s, enum rung rung) {
        if (s->ended || rung <= s->rung)
                return;
        s->rung = rung;
        if (rung == RUNG_AGENT && agent_shutdown(s->agent) < 0)
                s->rung = rung = RUNG_BUTTON;
        if (rung == RUNG_BUTTON &&
            (!qmp_client_ready(s->qmp) || qmp_client_command(s->qmp, "system_powerdown", NULL, on_refused, s) < 0))
                s->rung = rung = RUNG_QUIT;
        /* "quit" waits for the greeting if need be: a machine that is only starting must end as well. */
        if (rung == RUNG_QUIT && qmp_client_command(s->qmp, "quit", NULL, on_refused, s) < 0)
                s->rung = rung = RUNG_KILL;
        if (rung == RUNG_KILL)
                kill(s->engine->pid, SIGKILL);
        loop_timer_set(s->ladder, rung_us[rung]);
}

static void on_ladder(void *opaque) {
        struct session *s = opaque;

        climb(s, s->control_lost ? RUNG_KILL : s->rung + 1);
}

/* ---- control socket ---------------------------------------------------------------------------------------------- */

/* A machine that is paused because a disk failed goes on by itself when it can: nobody else is here to say so. */
static void on_storage_timer(void *opaque) {
        struct session *s = opaque;

        if (s->storage_state == STORAGE_FAILED) {
                s->storage_state = STORAGE_TRIED;
                qmp_client_command(s->qmp, "cont", NULL, NULL, NULL);
                loop_timer_set(s->storage, STORAGE_WELL_US);
        } else {
                s->storage_state = STORAGE_WELL;
                console_message(s->console, "the machine's storage works again");
        }
}

static void on_storage_error(struct session *s, json_t *data) {
        const char *disk = json_string_value(json_object_get(data, "node-name"));
        const char *operation = json_string_value(json_object_get(data, "operation"));
        const char *reason = json_string_value(json_object_get(data, "reason"));
        const char *action = json_string_value(json_object_get(data, "action"));

        if (!action || !streq(action, "stop"))
                return;
        if (s->storage_state == STORAGE_WELL)
                console_message(
                        s->console,
                        "%.40s: the host cannot %.10s: %.80s: the machine waits, and tries again every %d s%s",
                        disk ?: "a disk", operation ?: "do it", reason ?: "no reason given", STORAGE_RETRY_US / 1000000,
                        json_is_true(json_object_get(data, "nospace")) ? "; make space where the disk's file is" : "");
        s->storage_state = STORAGE_FAILED;
        loop_timer_set(s->storage, STORAGE_RETRY_US);
}

static void on_event(void *opaque, const char *name, json_t *data) {
        struct session *s = opaque;

        log_debug("machine: event %.40s", name);
        if (streq(name, "GUEST_PANICKED")) {
                s->panicked = true;
                climb(s, RUNG_QUIT);
        } else if (streq(name, "BLOCK_IO_ERROR"))
                on_storage_error(s, data);
        else if (streq(name, "SHUTDOWN"))
                s->power_asked |= json_is_true(json_object_get(data, "guest"));
        else if (streq(name, "INTERNAL_ERROR") || streq(name, "STOP_ON_ERROR"))
                climb(s, RUNG_QUIT);
}

static void on_control_end(void *opaque, int reason) {
        struct session *s = opaque;

        /* Usually the process has ended. If it lives on without a control socket, it is out of control. */
        s->control_lost = true;
        if (!s->ended && s->rung < RUNG_KILL)
                loop_timer_set(s->ladder, rung_us[RUNG_QUIT]);
}

/* ---- agent and --exec -------------------------------------------------------------------------------------------- */

static void on_exec(void *opaque, int result, const struct agent_result *value, const char *reason) {
        struct session *s = opaque;

        if (result == -EPIPE) /* on_agent_end() says why */
                return;
        s->exec_done = true;
        s->result->exec_ms = since_start_ms(s);
        if (result < 0)
                error_set(s->e, -EPROTO, "exec-start", "the guest needs /bin/sh and an agent that allows guest-exec",
                          "the guest agent can't run the command: %.200s", reason);
        else {
                s->exec_status = value->status;
                if (value->out_truncated || value->err_truncated)
                        log_warning("the command's output was longer than 16 MiB: the rest is lost");
                s->result->out = malloc(value->out_len + 1);
                s->result->err = malloc(value->err_len + 1);
                if (s->result->out && value->out)
                        memcpy(s->result->out, value->out, s->result->out_len = value->out_len);
                if (s->result->err && value->err)
                        memcpy(s->result->err, value->err, s->result->err_len = value->err_len);
        }
        climb(s, RUNG_AGENT);
}

static void on_agent_ready(void *opaque) {
        struct session *s = opaque;

        if (s->agent_ready) /* it was found again */
                return;
        s->agent_ready = true;
        s->result->agent_ms = since_start_ms(s);
        loop_timer_set(s->agent_deadline, UINT64_MAX);
        if (!s->options->exec || s->rung != RUNG_NONE)
                return;
        if (agent_exec(s->agent, s->options->exec, on_exec, s) < 0) {
                error_set(s->e, -EIO, "exec-start", NULL, "cannot hand the command to the guest agent");
                climb(s, RUNG_AGENT);
        }
}

static void on_agent_refused(void *opaque) {
        struct session *s = opaque;

        if (s->rung == RUNG_AGENT)
                climb(s, RUNG_BUTTON);
}

static void on_agent_end(void *opaque, int reason) {
        struct session *s = opaque;

        /* A port that just closes is the machine's end, which has a cause of its own. */
        if ((reason == -EPROTO || reason == -EMSGSIZE || reason == -ENOMEM) && s->options->exec && !s->exec_done) {
                error_set(s->e, reason, "agent-protocol", NULL, "the guest agent broke off the conversation");
                climb(s, RUNG_BUTTON);
        }
}

static void on_agent_deadline(void *opaque) {
        struct session *s = opaque;

        error_set(s->e, -ETIMEDOUT, "agent-timeout",
                  "the guest needs qemu-guest-agent, started at boot; its console's last lines are above",
                  "the guest agent did not answer within %d s", s->options->agent_timeout_ms / 1000);
        climb(s, RUNG_QUIT);
}

/* ---- terminal ---------------------------------------------------------------------------------------------------- */

static void on_key(void *opaque, enum terminal_key key) {
        struct session *s = opaque;

        switch (key) {
        case TERMINAL_POWER:
                qmp_client_command(s->qmp, "system_powerdown", NULL, NULL, NULL);
                break;
        case TERMINAL_RESET:
                qmp_client_command(s->qmp, "system_reset", NULL, NULL, NULL);
                break;
        case TERMINAL_KILL:
                climb(s, RUNG_QUIT);
                break;
        default:
                break;
        }
}

static void on_console_gone(void *opaque) {
        struct session *s = opaque;

        s->signo = SIGHUP;
        climb(s, RUNG_BUTTON);
}

static void on_first_output(void *opaque) {
        struct session *s = opaque;

        s->result->first_output_ms = since_start_ms(s);
}

static void on_signal(void *opaque, int signo) {
        struct session *s = opaque;

        if (signo == SIGCONT) {
                console_resume(s->console);
                return;
        }
        /* A second signal means it: no more waiting. */
        climb(s, s->signo ? RUNG_KILL : signo == SIGHUP ? RUNG_BUTTON : RUNG_QUIT);
        s->signo = signo;
}

/* ---- the process ------------------------------------------------------------------------------------------------- */

static void on_process_end(void *opaque) {
        struct session *s = opaque;

        s->ended = true;
        loop_quit(s->loop, 0);
}

/* What passt says before it gives up, as one warning: the machine runs on without that interface. */
static void on_net_dead(void *opaque, size_t index, int status, const char *reason) {
        struct session *s = opaque;

        if (s->rung == RUNG_NONE && status != 0)
                console_message(s->console, "network interface %zu is dead: passt ended with status %d: %s", index,
                                status, reason);
}

static void on_tpm_dead(void *opaque, int status, const char *reason) {
        struct session *s = opaque;

        if (s->rung == RUNG_NONE)
                console_message(s->console, "the TPM is dead: swtpm ended with status %d: %s", status, reason);
}

static void on_backend(void *opaque, size_t index, bool lost) {
        struct session *s = opaque;
        const char *socket = s->parts->disks[index].socket;

        if (lost)
                console_message(s->console, "nobody serves disk %zu (%s): the guest waits for it", index, socket);
        else
                console_message(s->console, "disk %zu (%s) has a back end again", index, socket);
}

static int watch_all(struct session *s) {
        static const struct qmp_client_ops qmp_ops = { .on_event = on_event, .on_end = on_control_end };
        static const struct agent_ops agent_ops = { .on_ready = on_agent_ready,
                                                    .on_refused = on_agent_refused,
                                                    .on_end = on_agent_end };
        static const struct console_ops console_ops = { .on_key = on_key,
                                                        .on_gone = on_console_gone,
                                                        .on_first_output = on_first_output };
        static const struct watch_ops watch_ops = { .on_end = on_process_end,
                                                    .on_net_dead = on_net_dead,
                                                    .on_tpm_dead = on_tpm_dead,
                                                    .on_backend = on_backend };
        static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCONT };
        struct console_options console_options = {
                .fd = s->engine->console_fd,
                .interactive = !s->options->exec,
                .to_stdout = !s->options->exec && !s->options->json,
                .to_stderr = s->options->exec ? s->options->console : s->options->json,
        };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(signals) && r == 0; i++)
                r = loop_add_signal(s->loop, signals[i], on_signal, s);
        if (r == 0)
                r = loop_add_timer(s->loop, on_ladder, s, &s->ladder);
        if (r == 0)
                r = loop_add_timer(s->loop, on_storage_timer, s, &s->storage);
        if (r == 0)
                r = loop_add_timer(s->loop, on_agent_deadline, s, &s->agent_deadline);
        if (r == 0)
                r = watch_new(s->loop, s->engine, s->parts, &watch_ops, s, &s->watch);
        if (r == 0)
                r = qmp_client_new(s->loop, s->engine->control_fd, &qmp_ops, s, &s->qmp);
        if (r == 0)
                r = agent_new(s->loop, s->engine->agent_fd, &agent_ops, s, &s->agent);
        if (r == 0)
                r = console_new(s->loop, &console_options, &console_ops, s, &s->console);
        if (r == 0 && s->options->exec)
                r = loop_timer_set(s->agent_deadline, (uint64_t)s->options->agent_timeout_ms * 1000);
        return r;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void drain(struct session *s) {
        watch_drain(s->watch);
        console_drain(s->console);
}

static int judge(struct session *s, int status) {
        struct session_result *res = s->result;

        res->exit_status = 2;
        if (s->signo) {
                res->reason = "signal";
                res->exit_status = 128 + s->signo;
                return 0;
        }
        if (s->e->code < 0) {
                res->reason = "failed";
                return s->e->code;
        }
        if (s->exec_done) {
                res->reason = "exec-done";
                res->exit_status = s->exec_status;
                return 0;
        }
        if (s->panicked) {
                res->reason = "guest-panic";
                return error_set(s->e, -EUCLEAN, "guest-panic", "the console's last lines say what the kernel met",
                                 "the guest's kernel panicked");
        }
        if (s->rung >= RUNG_QUIT) {
                res->reason = s->rung == RUNG_KILL ? "killed" : "quit";
                return 0;
        }
        if (status != 0 && !s->power_asked) {
                res->reason = "vmm-failed";
                return error_set(s->e, -EUCLEAN, "vmm-failed",
                                 "the lines above are its own words; lodge run --explain shows the engine's choice",
                                 "the virtual machine's process (%s) ended with status %d",
                                 engine_name(s->engine->kind), status);
        }
        res->reason = "guest-shutdown";
        if (s->options->exec)
                return error_set(s->e, -EUCLEAN, "exec-lost", "its console's last lines are above",
                                 "the machine powered off before the command ended");
        res->exit_status = 0;
        return 0;
}

static void show_failure(struct session *s) {
        if (s->e->code == 0)
                return;
        if (s->options->exec && !s->options->console)
                console_show_tail(s->console, stderr);
        if (watch_log(s->watch))
                tail_print(watch_log(s->watch), engine_name(s->engine->kind), stderr);
}

static int run(struct session *s) {
        int r = watch_all(s), status;

        if (r == 0)
                r = loop_run(s->loop);
        if (r < 0) {
                engine_end(s->engine, 1000);
                return error_set(s->e, r, "session", NULL, "cannot watch the machine");
        }
        drain(s);
        r = spawn_wait(s->engine->pid, s->engine->pidfd, -1, &status);
        s->engine->pid = 0;
        s->result->total_ms = since_start_ms(s);
        r = judge(s, r < 0 ? 2 : status);
        console_close_terminal(s->console);
        show_failure(s);
        return r;
}

int session_run(const struct session_options *options, struct engine *engine, struct parts *parts,
                struct session_result *ret_result, struct error *e) {
        struct session s = { .options = options, .engine = engine, .parts = parts, .result = ret_result, .e = e };
        int r;

        *ret_result = (struct session_result){ .reason = "failed",
                                               .exit_status = 2,
                                               .first_output_ms = -1,
                                               .agent_ms = -1,
                                               .exec_ms = -1,
                                               .total_ms = -1 };
        r = loop_new(&s.loop);
        if (r < 0)
                return error_set(e, r, "session", NULL, "cannot watch the machine");
        r = run(&s);
        watch_free(s.watch);
        console_free(s.console);
        agent_free(s.agent);
        qmp_client_free(s.qmp);
        loop_free(s.loop);
        return r;
}

void session_result_clear(struct session_result *result) {
        free(TAKE_PTR(result->out));
        free(TAKE_PTR(result->err));
}
