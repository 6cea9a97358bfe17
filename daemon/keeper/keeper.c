// SPDX-License-Identifier: GPL-2.0-or-later
/* keeper: see keeper.h */
#include "daemon/keeper/keeper.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/capability.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/spawn.h"
#include "base/text.h"
#include "daemon/engine/watch.h"
#include "daemon/keeper/feed.h"
#include "daemon/keeper/place.h"
#include "daemon/keeper/record.h"
#include "daemon/keeper/server.h"

#define START_US 25000000 /* until the VMM answers on its control socket */
#define STOP_US  3000000  /* between SIGTERM and SIGKILL */

_Static_assert((int)KEEPER_ENGINE_NATIVE == (int)ENGINE_NATIVE && (int)KEEPER_ENGINE_QEMU == (int)ENGINE_QEMU &&
                       (int)KEEPER_ENGINE_COUNT == (int)ENGINE_KIND_COUNT,
               "the schema knows the engines");

struct keeper {
        const struct keeper_config *config;
        struct error *e;
        int status_fd, dir_fd, listen_fd, control_fd, greeting_fd;
        struct loop *loop;
        struct parts *parts;
        struct engine engine;
        struct watch *watch;
        struct feed *feed;
        struct server *server;
        struct loop_source *deadline, *greeting;
        unsigned int greeting_lines;
        enum keeper_state state;
        enum keeper_cause cause;
        char *started;
        uint64_t started_ms;
        uint32_t status, signal;
};

/* ---- how the start went ------------------------------------------------------------------------------------------ */

/* One write: whoever reads gets the line whole. The broker may be gone: then the next one asks. */
static void write_ready(int fd, uint32_t pid, const struct error *e) {
        _cleanup_(keeper_ready_freep) struct keeper_ready *ready = NULL;
        _cleanup_free_ char *text = NULL, *line = NULL;

        if (keeper_ready_new(&ready) < 0)
                return;
        ready->state = e ? KEEPER_STATE_EXITED : KEEPER_STATE_RUNNING;
        ready->pid = pid;
        if (e)
                record_error(&ready->error, e);
        text = keeper_ready_format(ready);
        if (!text || asprintf(&line, "%s\n", text) < 0)
                line = NULL;
        if (line)
                (void)io_write_all(fd, line, strlen(line));
}

static void report(struct keeper *k, const struct error *e) {
        if (k->status_fd < 0)
                return;
        write_ready(k->status_fd, e ? 0 : (uint32_t)k->engine.pid, e);
        k->status_fd = safe_close(k->status_fd);
}

void keeper_report_failure(int status_fd, const struct error *e) {
        if (status_fd >= 0)
                write_ready(status_fd, 0, e);
        safe_close(status_fd);
}

/*
 * What the keeper still needs when the machine runs: to signal a VMM of another user, which the kernel checks for its own death signal too, and
 * to reach a back end's socket that is another user's.
 */
static int confine(const struct keeper *k) {
        struct rlimit no_core = { 0 };
        uint32_t keep = 1u << CAP_KILL;

        for (size_t i = 0; i < k->parts->n_disks; i++)
                if (k->parts->disks[i].socket)
                        keep |= 1u << CAP_DAC_OVERRIDE;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0)
                return -errno;
        capability_bound();
        return capability_keep(keep);
}

static void started(struct keeper *k) {
        int r;

        loop_source_free(TAKE_PTR(k->greeting));
        k->greeting_fd = safe_close(k->greeting_fd);
        if (k->state != KEEPER_STATE_STARTING ||
            k->cause != KEEPER_CAUSE_ENDED) /* its end was asked for: that stands */
                return;
        loop_timer_set(k->deadline, UINT64_MAX);
        r = confine(k);
        if (r < 0) {
                error_set(k->e, r, "keeper-sandbox", NULL, "cannot drop privileges");
                kill(k->engine.pid, SIGKILL);
                return;
        }
        k->state = KEEPER_STATE_RUNNING;
        report(k, NULL);
}

/*
 * The greeting alone says little: QEMU sends it from a thread of its own, before it has looked at the machine. An answer comes from its main
 * loop. What the lines hold does not matter.
 */
static void on_greeting(void *opaque, int fd, uint32_t events) {
        static const char command[] = "{\"execute\":\"qmp_capabilities\"}\n";
        struct keeper *k = opaque;
        char buf[1024];
        ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

        for (ssize_t i = 0; i < n; i++)
                if (buf[i] == '\n' && k->greeting_lines++ == 0)
                        (void)send(fd, command, sizeof(command) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0 && k->greeting_lines >= 2)
                started(k);
        else if (n == 0 || (n < 0 && errno != EAGAIN)) /* its process's end will tell */
                loop_source_free(TAKE_PTR(k->greeting));
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void on_deadline(void *opaque) {
        struct keeper *k = opaque;

        if (k->state == KEEPER_STATE_STARTING && k->cause == KEEPER_CAUSE_ENDED)
                error_set(k->e, -ETIMEDOUT, "vmm-start", NULL,
                          "the virtual machine's process did not get ready in %d s", START_US / 1000000);
        kill(k->engine.pid, SIGKILL);
}

/* Both VMMs take SIGTERM for QMP's "quit", and need no free control socket for it. */
static void on_term(void *opaque, int signo) {
        struct keeper *k = opaque;

        if (k->state == KEEPER_STATE_EXITED)
                return;
        k->cause = KEEPER_CAUSE_STOPPED;
        kill(k->engine.pid, SIGTERM);
        loop_timer_set(k->deadline, STOP_US);
}

static void tell(struct keeper *k, enum keeper_event_kind kind, size_t index, uint32_t status, uint32_t signo,
                 const char *reason) {
        _cleanup_(keeper_event_freep) struct keeper_event *event = NULL;

        if (keeper_event_new(&event) < 0)
                return;
        event->event = kind;
        event->index = (uint32_t)index;
        event->status = status;
        event->signal = signo;
        event->reason = reason ? record_text(reason, strlen(reason), 1024) : NULL;
        server_tell(k->server, event);
}

static void on_end(void *opaque) {
        struct keeper *k = opaque;

        k->state = KEEPER_STATE_EXITED;
        loop_quit(k->loop, 0);
}

static void on_net_dead(void *opaque, size_t index, int status, const char *reason) {
        tell(opaque, KEEPER_EVENT_KIND_NET_DEAD, index, (uint32_t)status & 0xff, 0, reason);
}

static void on_tpm_dead(void *opaque, int status, const char *reason) {
        char text[512];

        snprintf(text, sizeof(text),
                 "swtpm ended with status %d (%.300s): the guest's TPM answers no more until the machine is stopped "
                 "and started",
                 status, reason);
        tell(opaque, KEEPER_EVENT_KIND_TPM_DEAD, 0, (uint32_t)status & 0xff, 0, text);
}

static void on_backend(void *opaque, size_t index, bool lost) {
        tell(opaque, lost ? KEEPER_EVENT_KIND_DISK_LOST : KEEPER_EVENT_KIND_DISK_BACK, index, 0, 0, NULL);
}

static int write_console(int fd, const void *opaque) {
        return feed_dump(opaque, fd);
}

static int write_text(int fd, const void *opaque) {
        const char *text = opaque;

        return io_write_all(fd, text, strlen(text));
}

static void write_exit(struct keeper *k, const struct error *e) {
        _cleanup_(keeper_exit_freep) struct keeper_exit *record = NULL;
        _cleanup_free_ char *text = NULL;
        int r = keeper_exit_new(&record);

        if (r == 0) {
                record->version = 1;
                record->time = record_time();
                record->cause = e->code < 0 ? KEEPER_CAUSE_FAILED : k->cause;
                record->status = k->status;
                record->signal = k->signal;
                if (e->code < 0)
                        record_error(&record->error, e);
                r = record_log(record, watch_log(k->watch));
                text = keeper_exit_format(record);
        }
        if (r == 0)
                r = text ? place_write(k->dir_fd, PLACE_EXIT, write_text, text) : -ENOMEM;
        if (r < 0)
                log_warning("keeper: cannot write " PLACE_EXIT ": %s", strerror(-r));
}

/* It never got ready: its last words say why, and lodge-vmm's what to do as well, one line further. */
static void explain_failure(struct keeper *k) {
        static const char mark[] = "  fix: ";
        const struct tail *log = watch_log(k->watch);
        char text[TAIL_MAX + 1] = "";
        const char *line, *fix = NULL;

        if (log)
                memcpy(text, log->data, log->len);
        line = last_line(text, log ? log->len : 0);
        if (strncmp(line, mark, sizeof(mark) - 1) == 0) {
                fix = line + sizeof(mark) - 1;
                line = last_line(text, (size_t)(line - text));
        }
        error_set(k->e, -EUCLEAN, "vmm-failed", fix, "the virtual machine's process (%s) ended with status %u%s%s",
                  engine_name(k->engine.kind), k->status, line[0] ? ": " : "", line);
}

/* The VMM has ended: reap it, and keep what it left. */
static void finish(struct keeper *k) {
        siginfo_t info = { 0 };
        int r;

        feed_end(k->feed);
        watch_drain(k->watch);
        while (waitid(P_PID, (id_t)k->engine.pid, &info, WEXITED) < 0 && errno == EINTR)
                ;
        k->engine.pid = 0;
        record_end(&info, &k->status, &k->signal);
        if (k->status_fd >= 0 && k->e->code == 0)
                explain_failure(k);
        r = place_write(k->dir_fd, PLACE_CONSOLE, write_console, k->feed);
        if (r < 0)
                log_warning("keeper: cannot write " PLACE_CONSOLE ": %s", strerror(-r));
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static int give_status(struct keeper *k, struct keeper_status *s) {
        s->name = text_copy(k->parts->name);
        s->started = text_copy(k->started);
        s->engine = k->config->engine;
        s->kvm = k->config->engine == KEEPER_ENGINE_NATIVE || k->config->kvm;
        s->state = k->state;
        s->pid = (uint32_t)k->engine.pid;
        s->started_boottime_ms = k->started_ms;
        s->console_bytes = feed_total(k->feed);
        return 0;
}

static int give_agent(struct keeper *k, int *ret_fd) {
        *ret_fd = fcntl(k->engine.agent_fd, F_DUPFD_CLOEXEC, 3);
        return *ret_fd < 0 ? -errno : 0;
}

static int kill_vmm(struct keeper *k) {
        if (k->cause == KEEPER_CAUSE_ENDED)
                k->cause = KEEPER_CAUSE_KILLED;
        return kill(k->engine.pid, SIGKILL) < 0 ? -errno : 0;
}

static int on_request(void *opaque, const struct keeper_request *request, struct keeper_reply *reply, int *ret_fd,
                      struct error *e) {
        struct keeper *k = opaque;
        int r = -EOPNOTSUPP;

        if (request->op != KEEPER_OP_STATUS && k->state == KEEPER_STATE_EXITED)
                return error_set(e, -ESRCH, "keeper-exited", NULL, "the machine has ended");
        switch (request->op) {
        case KEEPER_OP_STATUS:
                r = give_status(k, &reply->status);
                break;
        case KEEPER_OP_CONTROL:
                r = place_connect(k->dir_fd, PLACE_CONTROL, SOCK_STREAM, ret_fd);
                break;
        case KEEPER_OP_AGENT:
                r = give_agent(k, ret_fd);
                break;
        case KEEPER_OP_CONSOLE:
                r = feed_view(k->feed, request->history, ret_fd);
                break;
        case KEEPER_OP_KILL:
                r = kill_vmm(k);
                break;
        case KEEPER_OP_EVENTS:
        case KEEPER_OP_COUNT:
                break;
        }
        return r < 0 ? error_set(e, r, "keeper-request", NULL, "cannot do it: %s", keeper_op_to_string(request->op))
                     : 0;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* The machine's user, without anything. */
static struct spawn_jail own_jail(const struct keeper_config *c) {
        return (struct spawn_jail){
                .cgroups = (const char *const *)c->cgroups,
                .n_cgroups = c->n_cgroups,
                .identity = c->uid != UINT32_MAX,
                .uid = c->uid,
                .gid = c->gid == UINT32_MAX ? c->uid : c->gid,
                .alone = geteuid() == 0,
        };
}

static int open_machine(struct keeper *k) {
        const struct keeper_config *c = k->config;
        const struct spawn_jail own = own_jail(c);
        const struct spawn_jail helper_jail = { .cgroups = (const char *const *)c->cgroups, .n_cgroups = c->n_cgroups };
        const struct parts_options options = {
                .roots = (const char *const *)c->roots,
                .n_roots = c->n_roots,
                .helper_jail = &helper_jail,
                .own_jail = &own,
                .devices_dir = c->devices_dir,
        };

        return parts_open(&c->machine, &options, &k->parts, k->e);
}

/* QEMU opens /dev/kvm by itself. Return: must it be in a group for that, and which? */
static bool kvm_group(const struct keeper_config *c, gid_t *ret_group) {
        struct stat st;

        if (c->engine != KEEPER_ENGINE_QEMU || !c->kvm || stat("/dev/kvm", &st) < 0 || st.st_gid == 0 ||
            (st.st_mode & 0666) == 0666)
                return false;
        *ret_group = st.st_gid;
        return true;
}

/* Also connects for the greeting, while the socket is certainly there. */
static int start_vmm(struct keeper *k) {
        const struct keeper_config *c = k->config;
        gid_t group = 0;
        const struct engine_choice choice = { .kind = (enum engine_kind)c->engine, .kvm = c->kvm };
        struct spawn_jail jail = own_jail(c);
        const struct engine_options options = { .listen_fd = k->control_fd, .jail = &jail };
        int r;

        jail.groups = &group;
        jail.n_groups = kvm_group(c, &group) ? 1 : 0;
        r = engine_start(&choice, k->parts, &options, &k->engine, k->e);

        if (r < 0)
                return r;
        parts_close_files(k->parts);
        r = place_connect(k->dir_fd, PLACE_CONTROL, SOCK_STREAM, &k->greeting_fd);
        if (r < 0)
                return error_set(k->e, r, "keeper-watch", NULL, "cannot reach the machine's control socket");
        k->control_fd = safe_close(k->control_fd); /* the VMM's alone: nobody connects to one that has ended */
        k->started_ms = record_boottime_ms();
        k->started = record_time();
        return 0;
}

/* @k->engine runs; from now on its end is an event. */
static int watch_all(struct keeper *k) {
        static const struct watch_ops watch_ops = {
                .on_end = on_end, .on_net_dead = on_net_dead, .on_tpm_dead = on_tpm_dead, .on_backend = on_backend
        };
        static const struct server_ops server_ops = { .on_request = on_request };
        int r = watch_new(k->loop, &k->engine, k->parts, &watch_ops, k, &k->watch);

        if (r == 0)
                r = feed_new(k->loop, k->engine.console_fd, &k->feed);
        if (r == 0)
                r = server_new(k->loop, k->listen_fd, &server_ops, k, &k->server);
        if (r == 0)
                r = loop_add_timer(k->loop, on_deadline, k, &k->deadline);
        if (r == 0)
                r = loop_timer_set(k->deadline, START_US);
        if (r == 0)
                r = loop_add_fd(k->loop, k->greeting_fd, EPOLLIN, on_greeting, k, &k->greeting);
        return r < 0 ? error_set(k->e, r, "keeper-watch", NULL, "cannot watch the machine") : 0;
}

static int prepare(struct keeper *k) {
        int r = loop_new(&k->loop);

        if (r == 0)
                r = loop_add_signal(k->loop, SIGTERM, on_term, k);
        if (r < 0)
                return error_set(k->e, r, "keeper-watch", NULL, "cannot watch the machine");
        r = place_open(k->config->run_dir, k->config->lock_fd, &k->dir_fd, k->e);
        if (r < 0)
                return r;
        r = place_listen(k->dir_fd, PLACE_SOCKET, SOCK_SEQPACKET, &k->listen_fd);
        if (r == 0)
                r = place_listen(k->dir_fd, PLACE_CONTROL, SOCK_STREAM, &k->control_fd);
        if (r < 0)
                return error_set(k->e, r, "keeper-sockets", NULL, "cannot make the sockets in %s", k->config->run_dir);
        return 0;
}

static int run(struct keeper *k) {
        int r = prepare(k);

        if (r == 0)
                r = open_machine(k);
        if (r == 0)
                r = start_vmm(k);
        if (r == 0)
                r = watch_all(k);
        if (r == 0) {
                r = loop_run(k->loop);
                if (r < 0)
                        error_set(k->e, r, "keeper-watch", NULL, "cannot watch the machine");
        }
        if (k->engine.pid > 0 && k->state != KEEPER_STATE_EXITED)
                engine_end(&k->engine, STOP_US / 1000); /* something failed here: no machine without a keeper */
        if (k->state == KEEPER_STATE_EXITED)
                finish(k);
        if (k->e->code < 0)
                report(k, k->e);
        if (k->dir_fd >= 0)
                write_exit(k, k->e);
        if (k->server)
                tell(k, KEEPER_EVENT_KIND_EXITED, 0, k->status, k->signal, NULL);
        return k->e->code;
}

static void release(struct keeper *k) {
        if (k->dir_fd >= 0)
                place_clear(k->dir_fd);
        server_free(k->server);
        feed_free(k->feed);
        watch_free(k->watch);
        loop_source_free(k->greeting);
        safe_close(k->greeting_fd);
        safe_close(k->listen_fd);
        safe_close(k->control_fd);
        safe_close(k->status_fd);
        engine_clear(&k->engine);
        parts_free(k->parts);
        loop_free(k->loop);
        free(k->started);
        safe_close(k->dir_fd); /* last: the next keeper may come */
}

int keeper_run(const struct keeper_config *config, int status_fd, struct error *e) {
        struct keeper k = {
                .config = config,
                .e = e,
                .status_fd = status_fd,
                .dir_fd = -EBADF,
                .listen_fd = -EBADF,
                .control_fd = -EBADF,
                .greeting_fd = -EBADF,
                .engine = ENGINE_INIT,
                .state = KEEPER_STATE_STARTING,
                .cause = KEEPER_CAUSE_ENDED,
        };
        int r = run(&k);

        release(&k);
        return r;
}
