// SPDX-License-Identifier: GPL-2.0-or-later
/* broker: see broker.h; directories are in paths.c, tasks in task.c, operations in op-*.c */
#include "daemon/broker/broker.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/spawn.h"
#include "daemon/broker/cgroup.h"
#include "daemon/engine/engine.h"
#include "daemon/image/image.h"
#include "daemon/network/network.h"

#define SEND_TIMEOUT_S   10
#define RESPAWN_CALM_NS  60000000000ull /* a worker that lived so long is not one that can't start */
#define RESPAWN_MAX      8              /* after so many in a row the broker gives up: the last answer is in the log */
#define STOP_GRACE_MS    5000
#define FALLBACK_WORKER  61443 /* an id that distributions give to nobody, for a system without a user `lodge` */
#define LISTEN_BACKLOG   1024
#define WORKER_CALLS_MAX 256

static const struct broker_op *const tables[] = { broker_host_ops,    broker_image_ops, broker_machine_ops,
                                                  broker_network_ops, broker_usage_ops, broker_volume_ops };

static int spawn_worker(struct broker *b, struct error *e);

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static void fds_close(struct broker_call *call) {
        while (call->n_fds > 0)
                safe_close(call->fds[--call->n_fds]);
}

static void call_free(struct broker_call *call) {
        struct broker_call **at = &call->broker->calls;

        while (*at && *at != call)
                at = &(*at)->next;
        if (*at)
                *at = call->next;
        if (call->release)
                call->release(call->opaque);
        json_decref(call->result);
        fds_close(call);
        free(call);
}

static void send_message(struct broker *b, json_t *message, const int *fds, size_t n_fds) {
        int r = message ? wire_send(b->wire_fd, message, fds, n_fds) : -ENOMEM;

        json_decref(message);
        if (r == -EPIPE || r == -ECONNRESET || b->wire_fd < 0)
                return; /* it has ended: its pidfd says so, too */
        if (r < 0) {
                log_warning("the worker does not read its answers (%s): it is ended", strerror(-r));
                kill(b->worker, SIGKILL);
        }
}

void broker_answer(struct broker_call *call, const struct error *e) {
        json_t *message;

        if (e && e->code < 0)
                message = json_pack("{s:I, s:o}", "call", (json_int_t)call->id, "error", wire_error(e));
        else
                message = json_pack("{s:I, s:o}", "call", (json_int_t)call->id, "result",
                                    call->result ? json_incref(call->result) : json_object());
        fault_point(&call->broker->fault, call->op, "answer");
        send_message(call->broker, message, call->fds, call->n_fds);
        fault_point(&call->broker->fault, call->op, "answered");
        call_free(call);
}

unsigned int broker_calls_alike(const struct broker_call *call) {
        unsigned int n = 0;

        for (const struct broker_call *c = call->broker->calls; c; c = c->next)
                n += c->op == call->op;
        return n;
}

void broker_progress(struct broker_call *call, const char *text) {
        send_message(call->broker, json_pack("{s:I, s:s}", "call", (json_int_t)call->id, "progress", text), call->fds,
                     call->fds_early ? call->n_fds : 0);
        if (call->fds_early)
                fds_close(call);
}

static const struct broker_op *op_find(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(tables); i++)
                for (const struct broker_op *op = tables[i]; op->name; op++)
                        if (streq(op->name, name))
                                return op;
        return NULL;
}

static int op_run(const struct broker_op *op, struct broker_call *call, struct error *e) {
        _cleanup_free_ char *text = NULL;
        void *args = NULL;
        int r;

        if (!op)
                return error_set(e, -ENOSYS, "broker-op", NULL, "the broker has no such operation");
        if (!op->args)
                return op->run(call, NULL, e);
        text = call->args ? json_dumps(call->args, JSON_COMPACT) : strdup("{}");
        if (!text)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the call");
        r = schema_parse(op->args, text, strlen(text), &args, e);
        if (r < 0)
                return r;
        r = op->run(call, args, e);
        schema_free(op->args, args);
        return r;
}

static void call_begin(struct broker *b, json_t *message) {
        _cleanup_error_ struct error e = ERROR_INIT;
        const char *name = json_string_value(json_object_get(message, "op"));
        struct broker_call *call = calloc(1, sizeof(*call));
        unsigned int n = 0;
        int r;

        if (!call)
                return;
        for (struct broker_call *c = b->calls; c; c = c->next)
                n++;
        *call = (struct broker_call){
                .broker = b,
                .id = (uint64_t)json_integer_value(json_object_get(message, "call")),
                .args = json_object_get(message, "args"),
        };
        const struct broker_op *op = name ? op_find(name) : NULL;
        call->op = op ? op->name : "?";
        call->next = b->calls;
        b->calls = call;
        if (n >= WORKER_CALLS_MAX)
                r = error_set(&e, -EBUSY, "broker-busy", "try again in a moment", "the broker has too much to do");
        else {
                fault_point(&b->fault, call->op, "asked");
                r = op_run(op, call, &e);
                if (r > 0)
                        fault_point(&b->fault, call->op, "begun");
        }
        call->args = NULL;
        log_debug("call %s: %d", call->op, r);
        if (r < 0 && e.code == 0)
                error_set(&e, r, "broker", NULL, "cannot do %s", call->op);
        if (r <= 0)
                broker_answer(call, &e);
}

static void call_cancel(struct broker *b, uint64_t id) {
        for (struct broker_call *c = b->calls; c; c = c->next)
                if (c->id == id && c->cancel) {
                        c->cancel(c->opaque);
                        return;
                }
}

static void on_wire(void *opaque, int fd, uint32_t events) {
        struct broker *b = opaque;
        struct wire_message m = { 0 };
        json_t *cancel;
        int r = wire_receive(fd, &m);

        if (r == -EAGAIN)
                return;
        if (r <= 0) { /* the end of the process follows, or is due */
                if (r < 0) {
                        log_warning("the worker broke the protocol (%s): it is ended", strerror(-r));
                        kill(b->worker, SIGKILL);
                }
                loop_source_free(TAKE_PTR(b->wire_source));
                return;
        }
        cancel = json_object_get(m.json, "cancel");
        if (cancel)
                call_cancel(b, (uint64_t)json_integer_value(cancel));
        else
                call_begin(b, m.json);
        wire_message_clear(&m);
}

/* ---- the worker -------------------------------------------------------------------------------------------------- */

static void worker_forget(struct broker *b) {
        loop_source_free(TAKE_PTR(b->wire_source));
        loop_source_free(TAKE_PTR(b->worker_source));
        b->wire_fd = safe_close(b->wire_fd);
        b->worker_pidfd = safe_close(b->worker_pidfd);
        b->worker = 0;
        /* Nobody waits for these any more. What lasts is ended; what the new worker finds half done it does again. */
        while (b->calls) {
                struct broker_call *call = b->calls;

                if (call->cancel)
                        call->cancel(call->opaque);
                call_free(call);
        }
}

static void on_worker_end(void *opaque, int fd, uint32_t events) {
        struct broker *b = opaque;
        int status = 0;

        spawn_wait(b->worker, b->worker_pidfd, -1, &status);
        worker_forget(b);
        unsetenv(FAULT_ENVIRONMENT); /* one death is enough */
        fault_point(&b->fault, "worker", "ended");
        if (b->stopping || status == 0) {
                loop_quit(b->loop, 0);
                return;
        }
        if (clock_ns() - b->worker_started > RESPAWN_CALM_NS)
                b->respawns = 0;
        /* 64 + n is the worker's own "this cannot work": it has said why. */
        if ((status >= 64 && status < 128) || ++b->respawns > RESPAWN_MAX) {
                log_error("the worker ended with status %d: lodged gives up; machines run on", status);
                loop_quit(b->loop, 2);
                return;
        }
        log_warning("the worker ended with status %d: it is started again", status);
        b->worker_status = status & 255;
        loop_timer_set(b->respawn, b->respawns * 100000ull);
}

static void on_respawn(void *opaque) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct broker *b = opaque;

        if (spawn_worker(b, &e) < 0) {
                error_print(&e, "lodged", stderr);
                loop_quit(b->loop, 2);
        }
}

static char *worker_config_text(const struct broker *b, int wire_fd) {
        uint32_t network_fds[BROKER_NETWORK_FDS_MAX];
        struct worker_config c = {
                .version = 1,
                .scope = b->scope,
                .wire_fd = wire_fd,
                .listen_fd = b->listen_fd,
                .network_fds = network_fds,
                .n_network_fds = b->n_network_fds,
                .addresses = (char **)b->addresses,
                .n_addresses = b->n_addresses,
                .store_dir = b->paths.store,
                .uid = b->worker_uid,
                .gid = b->worker_uid,
                .become = b->worker_uid != geteuid(),
                .owner = geteuid(),
                .group = b->group,
                .broker_pid = (uint32_t)getpid(),
                .started = (char *)b->started,
                .idle_exit = b->options->idle_exit,
                .ended = (uint32_t)b->worker_status,
                .debug = b->options->debug,
        };

        for (size_t i = 0; i < b->n_network_fds; i++)
                network_fds[i] = (uint32_t)b->network_fds[i];
        return worker_config_format(&c);
}

static int worker_config_file(const struct broker *b, int wire_fd, int *ret_fd) {
        _cleanup_free_ char *text = worker_config_text(b, wire_fd);
        _cleanup_close_ int fd = memfd_create("lodge-worker", MFD_CLOEXEC);
        int r;

        if (!text)
                return -ENOMEM;
        if (fd < 0)
                return -errno;
        r = io_write_all(fd, text, strlen(text));
        if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
                r = -errno;
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

static int spawn_worker(struct broker *b, struct error *e) {
        const struct timeval patience = { .tv_sec = SEND_TIMEOUT_S };
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF, config_fd = -EBADF;
        const int size = 1 << 20;
        char fd_text[16];
        const char *argv[] = { "lodged-worker", "--config-fd", fd_text, NULL };
        int pair[2], fds[3 + BROKER_NETWORK_FDS_MAX], r;
        struct spawn s = { .path = "lodged-worker",
                           .exec_fd = b->worker_exec_fd,
                           .argv = argv,
                           .fds = fds,
                           .n_fds = 3 + b->n_network_fds,
                           .stdin_fd = -1,
                           .stdout_fd = STDERR_FILENO,
                           .stderr_fd = STDERR_FILENO,
                           .death_signal = SIGKILL };

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_set(e, -errno, "worker-start", NULL, "cannot make the worker's socket");
        ours = pair[0];
        theirs = pair[1];
        for (int i = 0; i < 2; i++)
                if (setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0 ||
                    setsockopt(pair[i], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
                        return error_set(e, -errno, "worker-start", NULL, "cannot make the worker's socket");
        r = worker_config_file(b, theirs, &config_fd);
        if (r < 0)
                return error_set(e, r, "worker-start", NULL, "cannot configure the worker");
        snprintf(fd_text, sizeof(fd_text), "%d", config_fd);
        fds[0] = theirs;
        fds[1] = config_fd;
        fds[2] = b->listen_fd;
        memcpy(fds + 3, b->network_fds, b->n_network_fds * sizeof(*fds));
        r = spawn_child(&s, &b->worker, &b->worker_pidfd, e);
        if (r < 0)
                return r;
        b->worker_started = clock_ns();
        b->wire_fd = TAKE_FD(ours);
        r = loop_add_fd(b->loop, b->wire_fd, EPOLLIN, on_wire, b, &b->wire_source);
        if (r == 0)
                r = loop_add_fd(b->loop, b->worker_pidfd, EPOLLIN, on_worker_end, b, &b->worker_source);
        return r < 0 ? error_set(e, r, "worker-start", NULL, "cannot watch the worker") : 0;
}

/* Opened once: however often it is started, and whatever is installed meanwhile, it is the one that came with this broker. */
static int worker_find(struct broker *b, struct error *e) {
        _cleanup_free_ char *path = NULL;
        int r = engine_program_path("lodged-worker", &path);

        if (r == 0) {
                b->worker_exec_fd = open(path, O_PATH | O_CLOEXEC);
                r = b->worker_exec_fd < 0 ? -errno : 0;
        }
        return r < 0 ? error_set(e, r, "worker-missing", "install Lodge anew",
                                 "cannot find lodged's other half, lodged-worker")
                     : 0;
}

/* ---- start and end ----------------------------------------------------------------------------------------------- */

static void on_signal(void *opaque, int signo) {
        struct broker *b = opaque;

        log_info("lodged ends; machines run on");
        b->stopping = true;
        if (b->worker > 0)
                kill(b->worker, SIGTERM);
        else
                loop_quit(b->loop, 0);
}

/* A socket that systemd holds for us (sd_listen_fds(3)), so that it is there before we are. */
static int socket_inherited(void) {
        const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");
        int fd = 3;

        if (!pid || !n || strtol(pid, NULL, 10) != getpid() || strtol(n, NULL, 10) < 1)
                return -EBADF;
        io_set_cloexec(fd, true);
        return fd;
}

static int socket_make(struct broker *b, struct error *e) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = socket_inherited();

        if (fd < 0) {
                fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                if (fd < 0)
                        return error_set(e, -errno, "socket", NULL, "cannot make the API's socket");
                if (strlen(b->paths.socket) >= sizeof(address.sun_path))
                        return error_set(e, -ENAMETOOLONG, "socket", "choose a shorter one: --run-dir DIR",
                                         "the socket's name is too long: %s", b->paths.socket);
                memcpy(address.sun_path, b->paths.socket, strlen(b->paths.socket) + 1);
                unlink(b->paths.socket); /* the lock is ours, so its owner is dead */
                if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
                        return error_set(e, -errno, "socket", NULL, "cannot listen on %s", b->paths.socket);
                if (chmod(b->paths.socket, b->scope == API_SCOPE_SYSTEM ? 0660 : 0600) < 0 ||
                    (b->scope == API_SCOPE_SYSTEM && b->group && chown(b->paths.socket, 0, b->group) < 0))
                        return error_set(e, -errno, "socket", NULL, "cannot give %s to its users", b->paths.socket);
        }
        io_set_nonblock(fd, true);
        b->listen_fd = TAKE_FD(fd);
        return 0;
}

/* Who the worker is, and who may connect: looked up once, before anything is made. */
static int identities(struct broker *b, struct error *e) {
        const struct group *group;
        const struct passwd *user;

        b->worker_uid = geteuid();
        if (b->scope == API_SCOPE_SESSION || geteuid() != 0)
                return 0; /* one user's daemon: the worker stays that user, without capabilities, in its sandbox */
        user = getpwnam(b->options->user);
        b->worker_uid = user ? user->pw_uid : FALLBACK_WORKER;
        if (!user && getpwuid(FALLBACK_WORKER))
                return error_set(e, -EEXIST, "worker-user", "make a user for it: useradd --system lodge",
                                 "there is no user %s, and id %u belongs to somebody", b->options->user,
                                 FALLBACK_WORKER);
        group = getgrnam(b->options->group);
        b->group = group ? group->gr_gid : 0;
        if (!group)
                log_warning("there is no group %s: only root may connect; groupadd --system %s, and start lodged again",
                            b->options->group, b->options->group);
        return 0;
}

static int lock_state(struct broker *b, struct error *e) {
        _cleanup_free_ char *path = NULL;
        char text[32] = "";

        if (asprintf(&path, "%s/lodged.lock", b->paths.state) < 0)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot start");
        b->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (b->lock_fd < 0)
                return error_set(e, -errno, "state-dir", NULL, "cannot open %s", path);
        if (flock(b->lock_fd, LOCK_EX | LOCK_NB) < 0) {
                int code = -errno;

                (void)!read(b->lock_fd, text, sizeof(text) - 1);
                return error_set(e, code == -EWOULDBLOCK ? -EBUSY : code, "daemon-running",
                                 "use that one, or end it: kill PID", "another lodged uses %s (process %ld)",
                                 b->paths.state, strtol(text, NULL, 10));
        }
        if (ftruncate(b->lock_fd, 0) < 0 || dprintf(b->lock_fd, "%d\n", getpid()) < 0)
                return error_set(e, -errno, "state-dir", NULL, "cannot write %s", path);
        return 0;
}

static int start(struct broker *b, struct error *e) {
        static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
        struct tm tm;
        time_t now = time(NULL);
        int r = worker_find(b, e);

        strftime(b->started, sizeof(b->started), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
        if (r == 0)
                r = identities(b, e);
        if (r == 0)
                r = broker_paths_make(b, e);
        if (r == 0)
                r = lock_state(b, e);
        if (r == 0)
                r = image_store_open(b->options->state_dir || b->scope == API_SCOPE_SYSTEM ? b->paths.images : NULL,
                                     NULL, &b->images, e);
        if (r == 0)
                r = broker_roots_make(b, e);
        if (r == 0 && b->scope == API_SCOPE_SYSTEM && geteuid() == 0)
                r = cgroup_base(b->options->cgroup, &b->cgroups);
        if (r == 0 && b->scope == API_SCOPE_SYSTEM && geteuid() == 0)
                r = network_ctx_new(b->paths.networks, &b->networks, e);
        if (r == 0)
                r = broker_listen(b, e);
        if (r == 0)
                r = socket_make(b, e);
        if (r < 0)
                return r;
        r = loop_new(&b->loop);
        for (size_t i = 0; i < ELEMENTSOF(signals) && r == 0; i++)
                r = loop_add_signal(b->loop, signals[i], on_signal, b);
        if (r == 0)
                r = loop_add_timer(b->loop, on_respawn, b, &b->respawn);
        if (r < 0)
                return error_set(e, r, "loop", NULL, "cannot start");
        return spawn_worker(b, e);
}

static void finish(struct broker *b) {
        if (b->worker > 0)
                spawn_end(b->worker, b->worker_pidfd, STOP_GRACE_MS);
        worker_forget(b);
        while (b->children) { /* they run on */
                struct broker_child *child = b->children;

                b->children = child->next;
                loop_source_free(child->source);
                safe_close(child->pidfd);
                free(child);
        }
        image_store_free(b->images);
        free(b->cgroups);
        network_ctx_free(b->networks);
        safe_close(b->listen_fd);
        broker_listen_end(b);
        loop_free(b->loop);
        safe_close(b->worker_exec_fd);
        safe_close(b->lock_fd);
        broker_roots_clear(b);
        broker_paths_clear(&b->paths);
}

int broker_run(const struct lodged_options *options, struct error *e) {
        struct broker b = { .options = options,
                            .scope = options->session ? API_SCOPE_SESSION : API_SCOPE_SYSTEM,
                            .lock_fd = -EBADF,
                            .listen_fd = -EBADF,
                            .wire_fd = -EBADF,
                            .worker_exec_fd = -EBADF,
                            .worker_pidfd = -EBADF };
        int r;

        signal(SIGPIPE, SIG_IGN);
        fault_arm(&b.fault, "broker");
        r = start(&b, e);
        if (r == 0) {
                log_info("lodged listens on %s", b.paths.socket);
                r = loop_run(b.loop);
        }
        finish(&b);
        return r;
}
