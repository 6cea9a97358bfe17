// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * live: one machine that runs, watched; see machine.h
 *
 * The broker hands over three sockets: a fresh QMP connection, the guest agent's port, and the keeper's announcements, on which the machine's end comes. All three are
 * read here, in the worker, since what comes on them is the guest's or a taken-over VMM's.
 *
 * Asking a machine to end is a ladder that is climbed again and again until it ends or its operation has waited long enough: the agent first; then the power button,
 * every 10 s, since a guest that is still booting, or shows a login screen that swallows the first press, hears a later one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/machine/internal.h"

#define AGENT_PATIENCE_US 15000000
#define BUTTON_AGAIN_US   10000000
#define EVENT_BYTES_MAX   65536

struct attach {
        struct machines *ms;
        char *uuid, *name, *project, *engine_reason;
        json_t *addresses;
        live_attached_fn fn;
        void *opaque;
};

/* ---- exec ----------------------------------------------------------------------------------------------------------- */

static void job_free(struct exec_job *job) {
        struct exec_job **at = &job->live->jobs;

        while (*at != job)
                at = &(*at)->next;
        *at = job->next;
        loop_source_free(job->deadline);
        free(job);
}

static void on_job_deadline(void *opaque) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct exec_job *job = opaque;
        machine_exec_fn fn = TAKE_PTR(job->fn); /* its place stays taken until the agent says that it has ended */

        error_set(&e, -ETIMEDOUT, "exec-timeout", "give it longer: --timeout SECONDS",
                  "the command did not end in time; it goes on in the guest");
        if (fn)
                fn(job->opaque, &e, NULL);
}

static void on_job_ended(void *opaque, int result, const struct agent_result *value, const char *reason) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct exec_job *job = opaque;
        machine_exec_fn fn = job->fn;
        void *owner = job->opaque;

        if (result == -EPIPE)
                error_set(&e, -EIO, "agent-lost", NULL, "the guest agent is gone");
        else if (result < 0)
                error_set(&e, -EPROTO, "exec-start", "the guest needs /bin/sh and an agent that allows guest-exec",
                          "the guest agent can't run the command: %.200s", reason ?: "");
        job_free(job);
        if (fn)
                fn(owner, result < 0 ? &e : NULL, value);
}

/* The machine is gone, and its agent with it: whoever waits hears of it. */
static void jobs_fail(struct machine_live *live) {
        _cleanup_error_ struct error e = ERROR_INIT;

        error_set(&e, -EIO, "machine-ended", NULL, "the machine has ended");
        while (live->jobs) {
                struct exec_job *job = live->jobs;
                machine_exec_fn fn = job->fn;
                void *owner = job->opaque;

                agent_forget(live->agent, job);
                job_free(job);
                if (fn)
                        fn(owner, &e, NULL);
        }
}

int live_agent(struct machines *ms, const struct store_machine *row, struct machine_live **ret_live, struct error *e) {
        struct machine_live *live = live_find(ms, row->uuid);

        if (!live)
                return machine_refuse_stopped(row, e);
        if (!live->agent_ready) {
                error_set(e, -EAGAIN, "agent-missing", NULL, "the guest agent of %s does not answer", row->name);
                error_set_fix(e,
                              "until it has booted: lodge wait %s --for agent; the guest needs qemu-guest-agent, "
                              "started at boot",
                              row->name);
                return -EAGAIN;
        }
        *ret_live = live;
        return 0;
}

int machine_exec(struct machines *ms, const struct store_machine *row, const char *command, unsigned int timeout_s,
                 machine_exec_fn fn, void *opaque, struct error *e) {
        struct machine_live *live;
        struct exec_job *job;
        int r = live_agent(ms, row, &live, e);

        if (r < 0)
                return r;
        job = calloc(1, sizeof(*job));
        if (!job)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot run a command");
        *job = (struct exec_job){ .next = live->jobs, .live = live, .fn = fn, .opaque = opaque };
        live->jobs = job;
        r = loop_add_timer(ms->loop, on_job_deadline, job, &job->deadline);
        if (r == 0)
                r = loop_timer_set(job->deadline, timeout_s * 1000000ull);
        if (r == 0)
                r = agent_exec(live->agent, command, on_job_ended, job);
        if (r == 0)
                return 0;
        job_free(job);
        if (r == -EBUSY)
                return error_set(e, -EAGAIN, "exec-busy", "try again in a moment", "too many commands run in %s",
                                 row->name);
        return error_set(e, r, "exec-start", NULL, "cannot hand the command to the guest agent");
}

void machine_exec_forget(struct machines *ms, const void *opaque) {
        for (struct machine_live *l = ms->live; l; l = l->next)
                for (struct exec_job *job = l->jobs; job; job = job->next)
                        if (job->opaque == opaque)
                                job->fn = NULL;
}

/* ---- the agent ------------------------------------------------------------------------------------------------------ */

static void on_agent_ready(void *opaque) {
        struct machine_live *live = opaque;

        if (!live->agent_ready) /* and not only found again */
                machines_event(live->ms, "agent-ready", live->project, live->name, NULL, "the guest agent answers");
        live->agent_ready = true;
}

static void on_agent_refused(void *opaque) {
        struct machine_live *live = opaque;

        live_ask_end(live, false);
}

static void on_agent_end(void *opaque, int reason) {
        struct machine_live *live = opaque;

        live->agent_ready = false;
}

/* ---- QMP ------------------------------------------------------------------------------------------------------------ */

static void on_status(void *opaque, int result, json_t *value) {
        struct machine_live *live = opaque;

        if (result == 0 && value)
                live->paused = !json_is_true(json_object_get(value, "running"));
}

static void on_qmp_event(void *opaque, const char *name, json_t *data) {
        static const struct {
                const char *name, *kind, *message;
        } told[] = {
                { "STOP", "machine-paused", "its CPUs are stopped" },
                { "RESUME", "machine-resumed", "its CPUs go on" },
                { "RESET", "machine-reset", "it was reset" },
                { "GUEST_PANICKED", "guest-panicked", "the guest's kernel panicked: see its console" },
                { "BLOCK_IO_ERROR", "storage-error", "the host cannot read or write a disk of its" },
        };
        struct machine_live *live = opaque;

        if (streq(name, "STOP"))
                live->paused = true;
        else if (streq(name, "RESUME"))
                live->paused = false;
        else if (streq(name, "GUEST_PANICKED"))
                live->panicked = true;
        else if (streq(name, "SHUTDOWN"))
                live->ending = true; /* what its helpers say from now on is of no interest */
        for (size_t i = 0; i < ELEMENTSOF(told); i++)
                if (streq(told[i].name, name))
                        machines_event(live->ms, told[i].kind, live->project, live->name, NULL, "%s", told[i].message);
        if (streq(name, "GUEST_PANICKED") && qmp_client_ready(live->qmp))
                qmp_client_command(live->qmp, "quit", NULL, NULL, NULL);
}

static void on_qmp_end(void *opaque, int reason) {
        struct machine_live *live = opaque;

        log_debug("%s: control socket ended: %d", live->name, reason);
}

/* ---- its end -------------------------------------------------------------------------------------------------------- */

static void on_keeper(void *opaque, int fd, uint32_t events) {
        struct machine_live *live = opaque;
        char buf[EVENT_BYTES_MAX];
        ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        json_t *event;
        const char *name;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) { /* the keeper is gone, and so is the machine */
                live_ended(live, -1);
                return;
        }
        event = json_loadb(buf, (size_t)n, 0, NULL);
        name = json_string_value(json_object_get(event, "event"));
        if (name && streq(name, "exited"))
                live_ended(live, (int)json_integer_value(json_object_get(event, "status")));
        else if (name && !live->ending)
                machines_event(live->ms, name, live->project, live->name, NULL, "%s",
                               json_string_value(json_object_get(event, "reason")) ?: "");
        json_decref(event);
}

static void on_ladder(void *opaque) {
        live_ask_end(opaque, false);
}

void live_ask_end(struct machine_live *live, bool agent) {
        if (live->paused && qmp_client_ready(live->qmp)) /* who is stopped can't hear */
                qmp_client_command(live->qmp, "cont", NULL, NULL, NULL);
        if (agent && live->agent_ready && agent_shutdown(live->agent) == 0) {
                loop_timer_set(live->ladder, AGENT_PATIENCE_US);
                return;
        }
        qmp_client_command(live->qmp, "system_powerdown", NULL, NULL, NULL);
        loop_timer_set(live->ladder, BUTTON_AGAIN_US);
}

struct reap {
        struct machines *ms;
        char *uuid, *reason;
        int status;
        bool panicked, host, oom;
};

static void reap_free(struct reap *r) {
        free(r->uuid);
        free(r->reason);
        free(r);
}

/* What the row says about the end. In one transaction with what follows from it. */
static int row_ended(struct store_machine *row, int status, const char *reason, const char *when) {
        json_t *facts = row_facts(row);
        char *now = when ? strdup(when) : time_text((int64_t)time(NULL) * 1000000);
        int r;

        json_object_set_new(facts, "exit_status", json_integer(status < 0 ? 255 : status & 255));
        json_object_set_new(facts, "reason", json_string(reason));
        json_object_set_new(facts, "ended", json_string(now ?: ""));
        free(now);
        free(row->running);
        row->running = NULL;
        r = row_set_facts(row, facts);
        json_decref(facts);
        return r;
}

static const char *end_reason(const struct reap *reap, bool wanted) {
        if (reap->panicked)
                return "the guest's kernel panicked";
        if (reap->status == 0)
                return "it powered off";
        if (reap->host)
                return "its host was restarted";
        if (reap->oom)
                return "the kernel ended it: it had more memory than its limit, or than the host, allows";
        if (!wanted && (reap->status > 128 || reap->status < 0))
                return "its plug was pulled";
        if (reap->status == -1)
                return "its keeper was killed";
        return reap->status > 128 ? "its process was killed" : "its process failed";
}

static void follow_end(struct reap *reap, const char *last_words, const char *when) {
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;
        _cleanup_error_ struct error e = ERROR_INIT;
        const struct operation *op;
        bool clean = reap->status == 0 && !reap->panicked, asked, again = false;
        char reason[512];

        if (store_machine_find(reap->ms->store, NULL, reap->uuid, &row, &e) < 0)
                return;
        op = operation_of_target(reap->ms->operations, row->uuid);
        asked = !row->wanted || reap->host || (op && op->kind == &reboot_kind); /* nobody expects it to run on */
        snprintf(reason, sizeof(reason), "%s%s%.300s", end_reason(reap, row->wanted),
                 last_words && last_words[0] && !clean && !asked ? ": " : "",
                 last_words && !clean && !asked ? last_words : "");
        networks_withdraw(reap->ms, row);
        if (row_ended(row, reap->status, reason, when) < 0)
                return;
        if (!reap->host && !op)
                again = restart_consider(reap->ms, row, clean);
        /* A guest that powers itself off is stopped because it wanted that; one that breaks is failed. With its host a machine ends without a fault of its own. */
        if (row->wanted && (clean || reap->host) && !again)
                row->wanted = false;
        if (store_machine_update(reap->ms->store, row, 0, &e) < 0) {
                log_warning("%s has ended, which could not be written down: %s", row->name, e.message ?: "");
                return;
        }
        machines_event(reap->ms, clean || asked ? "machine-stopped" : "machine-failed", row->project, row->name, NULL,
                       "%s%s", reason, again ? "; it is started again" : "");
}

static void on_reaped(void *opaque, const struct error *e, struct wire_message *reply) {
        struct reap *reap = opaque;
        struct operation *op = operation_of_target(reap->ms->operations, reap->uuid);
        const char *words = reply ? json_string_value(json_object_get(reply->json, "log")) : NULL;
        const char *when = reply ? json_string_value(json_object_get(reply->json, "time")) : NULL;
        json_t *status = reply ? json_object_get(reply->json, "status") : NULL;

        if (reap->status < 0 && json_is_integer(status))
                reap->status = (int)json_integer_value(status);
        reap->oom = reply && json_is_true(json_object_get(reply->json, "oom"));
        follow_end(reap, words, when);
        if (op && op->kind != &launch_kind && op->kind != &start_kind && op->busy && op->state)
                operation_step_done(op, NULL); /* it waits for this */
        reap_free(reap);
}

void live_ended(struct machine_live *live, int status) {
        struct machines *ms = live->ms;
        struct reap *reap = calloc(1, sizeof(*reap));
        _cleanup_(store_machine_freep) struct store_machine *row = NULL;

        if (reap && store_machine_find(ms->store, NULL, live->uuid, &row, NULL) == 0) {
                *reap = (struct reap){
                        .ms = ms, .uuid = strdup(live->uuid), .status = status, .panicked = live->panicked
                };
                if (broker_call(ms->broker, "machine-forget", machine_end_args(ms, row), NULL, on_reaped, reap, NULL) <
                    0)
                        reap_free(reap);
        } else
                free(reap);
        live_free(live);
}

void live_reap(struct machines *ms, const struct store_machine *row, bool host) {
        struct reap *reap = calloc(1, sizeof(*reap));

        if (!reap)
                return;
        *reap = (struct reap){ .ms = ms, .uuid = strdup(row->uuid), .status = -1, .host = host };
        if (!reap->uuid ||
            broker_call(ms->broker, "machine-forget", machine_end_args(ms, row), NULL, on_reaped, reap, NULL) < 0)
                reap_free(reap);
}

/* ---- attaching ------------------------------------------------------------------------------------------------------ */

void live_free(struct machine_live *live) {
        struct machine_live **at = &live->ms->live;

        while (*at && *at != live)
                at = &(*at)->next;
        if (*at) {
                *at = live->next;
                live->ms->n_live--;
        }
        jobs_fail(live);
        guest_files_end(live);
        shells_end(live);
        change_end(live);
        loop_source_free(live->events);
        loop_source_free(live->ladder);
        agent_free(live->agent);
        qmp_client_free(live->qmp);
        safe_close(live->control_fd);
        safe_close(live->agent_fd);
        safe_close(live->events_fd);
        free(live->uuid);
        free(live->name);
        free(live->project);
        free(live->engine);
        free(live->engine_reason);
        free(live->since);
        json_decref(live->addresses);
        free(live);
}

static int watch(struct machine_live *live) {
        static const struct qmp_client_ops qmp_ops = { .on_event = on_qmp_event, .on_end = on_qmp_end };
        static const struct agent_ops agent_ops = { .on_ready = on_agent_ready,
                                                    .on_refused = on_agent_refused,
                                                    .on_end = on_agent_end };
        struct loop *loop = live->ms->loop;
        int r = live->control_fd < 0 || live->agent_fd < 0 || live->events_fd < 0 ? -EPROTO : 0;

        if (r == 0)
                r = io_set_nonblock(live->control_fd, true);
        if (r == 0)
                r = io_set_nonblock(live->agent_fd, true);
        if (r == 0)
                r = loop_add_timer(loop, on_ladder, live, &live->ladder);
        if (r == 0)
                r = loop_add_fd(loop, live->events_fd, EPOLLIN, on_keeper, live, &live->events);
        if (r == 0)
                r = qmp_client_new(loop, live->control_fd, &qmp_ops, live, &live->qmp);
        if (r == 0)
                r = agent_new(loop, live->agent_fd, &agent_ops, live, &live->agent);
        if (r == 0)
                r = qmp_client_command(live->qmp, "query-status", NULL, on_status, live);
        return r;
}

static int live_make(const struct attach *a, struct wire_message *reply) {
        struct machine_live *live = calloc(1, sizeof(*live));
        json_t *j = reply->json;
        int r;

        if (!live)
                return -ENOMEM;
        *live = (struct machine_live){
                .ms = a->ms,
                .next = a->ms->live,
                .uuid = text_copy(a->uuid),
                .name = text_copy(a->name),
                .project = text_copy(a->project),
                .engine = text_copy(json_string_value(json_object_get(j, "engine"))),
                .engine_reason = text_copy(a->engine_reason),
                .since = text_copy(json_string_value(json_object_get(j, "started"))),
                .addresses = json_incref(a->addresses),
                .kvm = json_is_true(json_object_get(j, "kvm")),
                .sampled_ns = clock_ns(),
                .found = operation_of_target(a->ms->operations, a->uuid) == NULL,
                .pid = (uint32_t)json_integer_value(json_object_get(j, "pid")),
                .control_fd = wire_take_fd(reply, 0),
                .agent_fd = wire_take_fd(reply, 1),
                .events_fd = wire_take_fd(reply, 2),
        };
        a->ms->live = live;
        a->ms->n_live++;
        r = live->uuid && live->name && live->project ? watch(live) : -ENOMEM;
        if (r < 0)
                live_free(live);
        return r;
}

static void attach_free(struct attach *a) {
        free(a->uuid);
        free(a->name);
        free(a->project);
        free(a->engine_reason);
        json_decref(a->addresses);
        free(a);
}

static void on_attach(void *opaque, const struct error *e, struct wire_message *reply) {
        _cleanup_error_ struct error own = ERROR_INIT;
        struct attach *a = opaque;
        int r;

        if (!e && !live_find(a->ms, a->uuid)) {
                r = live_make(a, reply);
                if (r < 0) {
                        error_set(&own, r, "machine-attach", NULL, "cannot talk to machine %s", a->name);
                        e = &own;
                } else
                        machine_settle(a->ms, a->uuid, NULL, NULL); /* the last daemon may have been about to */
        }
        a->fn(a->opaque, e);
        attach_free(a);
}

int live_attach(struct machines *ms, const struct store_machine *row, live_attached_fn fn, void *opaque,
                struct error *e) {
        json_auto_t *facts = row_facts(row);
        struct attach *a = calloc(1, sizeof(*a));

        if (!a)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot watch the machine");
        *a = (struct attach){ .ms = ms,
                              .uuid = text_copy(row->uuid),
                              .name = text_copy(row->name),
                              .project = text_copy(row->project),
                              .engine_reason = text_copy(json_string_value(json_object_get(facts, "engine_reason"))),
                              .addresses = json_incref(json_object_get(facts, "addresses")),
                              .fn = fn,
                              .opaque = opaque };
        if (broker_call(ms->broker, "machine-attach", json_pack("{s:s}", "uuid", row->uuid), NULL, on_attach, a, NULL) <
            0) {
                attach_free(a);
                return error_set(e, -EPIPE, "broker-gone", "try again in a moment", "the daemon's broker is gone");
        }
        return 0;
}

/* ---- commands ------------------------------------------------------------------------------------------------------- */

struct command {
        machine_done_fn fn;
        void *opaque;
};

static void on_command(void *opaque, int result, json_t *value) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct command *c = opaque;

        if (result < 0)
                error_set(&e, -EIO, "machine-refused", NULL, "the machine refused: %.200s",
                          json_string_value(json_object_get(value, "desc")) ?: "no reason given");
        c->fn(c->opaque, result < 0 ? &e : NULL);
        free(c);
}

int machine_command(struct machines *ms, const struct store_machine *row, const char *command, machine_done_fn fn,
                    void *opaque, struct error *e) {
        struct machine_live *live = live_find(ms, row->uuid);
        struct command *c;

        if (!live)
                return machine_refuse_stopped(row, e);
        c = calloc(1, sizeof(*c));
        if (!c)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the machine");
        *c = (struct command){ fn, opaque };
        if (qmp_client_command(live->qmp, command, NULL, on_command, c) < 0) {
                free(c);
                return error_set(e, -EAGAIN, "machine-busy", "try again in a moment", "%s does not listen now",
                                 row->name);
        }
        return 0;
}
