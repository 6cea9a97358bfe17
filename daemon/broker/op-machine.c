// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * op-machine: machines that run, by their UUIDs: start, find, attach, end
 *
 * A machine's files are found here from names: its image's, its volume's, its seed's. Paths come from the worker only for files that the person named, and the
 * keeper refuses what lies outside the directories that are given to it here.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/spawn.h"
#include "daemon/allow/allow.h"
#include "daemon/broker/broker.h"
#include "daemon/broker/cgroup.h"
#include "daemon/broker/devices.h"
#include "daemon/engine/boot-image.h"
#include "daemon/engine/engine.h"
#include "daemon/image/image.h"
#include "daemon/keeper/client.h"
#include "daemon/keeper/place.h"
#include "daemon/seed/seed.h"
#include "daemon/storage/pool.h"

#define END_TIMEOUT_MS 8000
#define CHANGE_WAIT_MS 20
#define CHANGE_TRIES   50
#define CHECKS_MAX     8u
#define UID_BASE       0x40000000u /* machines' users, in a system daemon: this plus the machine's number */
#define LOG_MAX        1024

static char *run_dir(const struct broker *b, const char *uuid) {
        char *path;

        return asprintf(&path, "%s/%s", b->paths.machines, uuid) < 0 ? NULL : path;
}

/* ---- children ------------------------------------------------------------------------------------------------------- */

static void on_child(void *opaque, int fd, uint32_t events) {
        struct broker_child *child = opaque, **at = &child->broker->children;
        int status;

        spawn_wait(child->pid, fd, 0, &status);
        while (*at && *at != child)
                at = &(*at)->next;
        if (*at)
                *at = child->next;
        loop_source_free(child->source);
        safe_close(child->pidfd);
        free(child);
}

/* A keeper is our child until we end: then somebody else reaps it. */
static void adopt(struct broker *b, pid_t pid, int pidfd) {
        struct broker_child *child = calloc(1, sizeof(*child));

        if (!child) {
                safe_close(pidfd);
                return;
        }
        *child = (struct broker_child){ .next = b->children, .broker = b, .pid = pid, .pidfd = pidfd };
        b->children = child;
        if (loop_add_fd(b->loop, pidfd, EPOLLIN, on_child, child, &child->source) < 0)
                log_warning("cannot watch keeper %d", pid);
}

/* ---- start ---------------------------------------------------------------------------------------------------------- */

struct start {
        struct broker_call *call;
        struct engine_choice choice;
        int status_fd;
        struct loop_source *source;
        json_t *addresses;
};

static void start_release(void *opaque) {
        struct start *s = opaque;

        loop_source_free(s->source);
        safe_close(s->status_fd);
        json_decref(s->addresses);
        free(s);
}

static void on_started(void *opaque, int fd, uint32_t events) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct start *s = opaque;
        struct broker_call *call = s->call;
        int r = keeper_started(fd, &e);

        if (r == -EAGAIN && e.code == 0)
                return;
        if (r == 0)
                call->result = engine_json(&s->choice);
        if (call->result)
                json_object_set(call->result, "addresses", s->addresses);
        broker_answer(call, &e);
}

static int add_disks(struct broker *b, const struct broker_start_args *a, const struct image *image,
                     struct machine_config *c, struct error *e) {
        const struct volume_config recorded = { .name = a->volume, .pool = a->pool, .image = a->image };
        _cleanup_(pool_freep) struct pool *pool = NULL;
        _cleanup_(volume_freep) struct volume *volume = NULL;
        struct volume_config check = recorded;
        struct machine_disk_config *seed;
        char *path;
        int r = 0;

        if (a->volume) {
                r = broker_pool_open(b, a->pool, &pool, e);
                if (r == 0)
                        r = volume_find(pool, a->volume, &volume, e);
                if (r < 0)
                        return r;
                /* A raw volume stands on nothing; an overlay on the machine's image, whatever its header says. */
                check.format = volume->format;
                if (volume->format == VOLUME_FORMAT_RAW)
                        check.image = NULL;
                r = volume_check(pool, &check, e);
                if (r == 0)
                        r = volume_path(pool, a->volume, &path, e);
                if (r == 0)
                        r = boot_image_add_disk(c, path,
                                                volume->format == VOLUME_FORMAT_RAW ? MACHINE_DISK_FORMAT_RAW
                                                                                    : MACHINE_DISK_FORMAT_QCOW2,
                                                e);
                if (r == 0) {
                        c->disks[0].cache = a->disk_cache;
                        c->disks[0].iothreads = a->disk_iothreads;
                }
        }
        if (r < 0 || !a->seed)
                return r;
        r = machine_config_add_disks(c, &seed);
        if (r == 0 && asprintf(&seed->path, "%s/%s/" SEED_FILE_NAME, b->paths.seeds, a->uuid) < 0)
                r = -ENOMEM;
        if (r < 0)
                return error_set(e, r, "too-many-devices", NULL, "there is no room for the seed of the first boot");
        seed->readonly = true;
        return 0;
}

static int add_root(struct keeper_config *k, const char *path) {
        char **grown = realloc(k->roots, (k->n_roots + 1) * sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        k->roots = grown;
        grown[k->n_roots] = strdup(path);
        return grown[k->n_roots] && ++k->n_roots ? 0 : -ENOMEM;
}

/* Read at each start: what a person allows counts at once. */
static int add_allowed(const struct broker *b, struct keeper_config *k, struct error *e) {
        _cleanup_(allow_freep) struct allow *allow = NULL;
        int r = allow_load(b->scope == API_SCOPE_SESSION, &allow, e);

        for (size_t i = 0; r == 0 && i < allow->n; i++)
                r = add_root(k, allow->dirs[i]);
        return r;
}

static int add_roots(const struct broker *b, struct keeper_config *k, struct error *e) {
        int r = 0;

        for (size_t i = 0; i < b->n_roots && r == 0; i++)
                r = add_root(k, b->roots[i]);
        if (r == 0)
                r = add_allowed(b, k, e);
        return r == -ENOMEM ? error_set(e, r, "memory", NULL, "cannot prepare the machine") : r;
}

static int set_cgroup(const struct broker *b, const struct broker_start_args *a, struct keeper_config *k,
                      struct error *e) {
        _cleanup_free_ char *path = NULL;
        int r = cgroup_make(b->cgroups, a->uuid, &a->limits, &path, e);

        if (r < 0 || !path)
                return r;
        k->cgroups = calloc(1, sizeof(*k->cgroups));
        if (!k->cgroups)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        k->cgroups[k->n_cgroups++] = TAKE_PTR(path);
        return 0;
}

/* What the machine is made of, and which engine runs it: all that is found out before anything is done. */
static int resolve(struct broker *b, struct broker_start_args *a, struct keeper_config *k, struct engine_choice *ret,
                   struct error *e) {
        _cleanup_(image_freep) struct image *image = NULL;
        int r = 0;

        /* The keeper's copy of the machine takes over what was sent. */
        schema_clear(&machine_config_schema, &k->machine);
        k->machine = a->machine;
        a->machine = (struct machine_config){ 0 };
        if (a->image)
                r = image_find(b->images, a->image, &image, e);
        if (r == 0)
                r = add_disks(b, a, image, &k->machine, e);
        if (r == 0 && image)
                r = boot_image_apply(image, &k->machine, e);
        if (r == 0)
                r = add_roots(b, k, e);
        if (r == 0)
                r = engine_decide(&k->machine, broker_probe(b), ret, e);
        return r;
}

static int prepare(struct broker *b, struct broker_start_args *a, struct keeper_config *k, struct start *s,
                   struct error *e) {
        int r = resolve(b, a, k, &s->choice, e);

        if (r < 0)
                return r;
        k->version = 1;
        k->engine = s->choice.kind == ENGINE_NATIVE ? KEEPER_ENGINE_NATIVE : KEEPER_ENGINE_QEMU;
        k->kvm = s->choice.kind == ENGINE_NATIVE || s->choice.kvm;
        if (b->scope == API_SCOPE_SYSTEM)
                k->uid = k->gid = UID_BASE + a->number;
        r = devices_dir(b, a->uuid, &k->machine, &k->devices_dir, e);
        if (r < 0)
                return r;
        k->run_dir = run_dir(b, a->uuid);
        if (!k->run_dir)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        if (mkdir(k->run_dir, 0700) < 0 && errno != EEXIST)
                return error_set(e, -errno, "run-dir", NULL, "cannot make %s", k->run_dir);
        r = set_cgroup(b, a, k, e);
        if (r < 0)
                return r;
        return broker_networks_attach(b, &k->machine, a->networks, a->n_networks,
                                      b->scope == API_SCOPE_SYSTEM ? k->uid : geteuid(), s->addresses, e);
}

static int machine_begin(struct broker_call *call, void *args, struct error *e) {
        _cleanup_(keeper_config_freep) struct keeper_config *k = NULL;
        struct broker *b = call->broker;
        struct start *s = calloc(1, sizeof(*s));
        pid_t pid;
        int pidfd, r;

        if (!s || keeper_config_new(&k) < 0) {
                free(s);
                return error_set(e, -ENOMEM, "memory", NULL, "cannot prepare the machine");
        }
        *s = (struct start){ .call = call, .status_fd = -EBADF, .addresses = json_array() };
        call->opaque = s;
        call->release = start_release;
        r = prepare(b, args, k, s, e);
        fault_point(&b->fault, call->op, "prepared");
        if (r == 0)
                r = keeper_spawn(k, &pid, &pidfd, &s->status_fd, e);
        if (r < 0)
                return r;
        fault_point(&b->fault, call->op, "spawned");
        adopt(b, pid, pidfd);
        r = loop_add_fd(b->loop, s->status_fd, EPOLLIN, on_started, s, &s->source);
        return r < 0 ? error_set(e, r, "keeper", NULL, "cannot watch the machine's start") : 1;
}

/* A dry run: what machine_begin() and the keeper would find wrong with the host, and nothing done. Headers are read, so it is a task's. */
struct check {
        const struct keeper_config *keeper;
        const struct engine_choice *choice;
};

static int check_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        const struct check *c = opaque;
        const struct parts_options options = { .roots = (const char *const *)c->keeper->roots,
                                               .n_roots = c->keeper->n_roots };
        int r = parts_look(&c->keeper->machine, &options, e);

        if (r == 0)
                *ret = engine_json(c->choice);
        return r;
}

static int machine_check(struct broker_call *call, void *args, struct error *e) {
        _cleanup_(keeper_config_freep) struct keeper_config *k = NULL;
        struct engine_choice choice;
        struct check check = { .choice = &choice };
        int r = keeper_config_new(&k);

        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot look at the machine");
        check.keeper = k;
        if (broker_calls_alike(call) > CHECKS_MAX) /* each is a process, which a disk that does not answer holds up */
                return error_set(e, -EBUSY, "check-busy", "try again in a moment", "%u machines are being looked at",
                                 CHECKS_MAX);
        r = resolve(call->broker, args, k, &choice, e);
        return r < 0 ? r : broker_task(call, check_task, &check, e);
}

/* ---- what runs ------------------------------------------------------------------------------------------------------ */

static bool is_uuid(const char *name) {
        return strlen(name) == 36 && strspn(name, "0123456789abcdef-") == 36;
}

/*
 * "running" (it starts or ends, perhaps), "exited" (it has left its last words), or "gone" (its keeper was killed, or the host: nothing is known). Who holds the
 * directory but does not listen is about to do so, or has just ended.
 */
static const char *state_of(const char *dir) {
        static const struct timespec pause = { .tv_nsec = CHANGE_WAIT_MS * 1000000 };
        _cleanup_(keeper_exit_freep) struct keeper_exit *ended = NULL;
        int fd, r = -EWOULDBLOCK;

        for (int i = 0; i < CHANGE_TRIES && r == -EWOULDBLOCK; i++) {
                if (i > 0)
                        nanosleep(&pause, NULL);
                if (keeper_connect(dir, &fd, NULL) == 0) {
                        close(fd);
                        return "running";
                }
                r = place_lock(dir, &fd);
                if (r == 0)
                        close(fd);
        }
        if (r == -EWOULDBLOCK)
                return "running";
        return keeper_exit_read(dir, &ended, NULL) == 0 ? "exited" : "gone";
}

/* Which boot of the host this is: the worker may not look. */
static json_t *boot_id(void) {
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        char text[64];
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

        while (n > 0 && text[n - 1] == '\n')
                n--;
        return n > 0 ? json_stringn(text, (size_t)n) : NULL;
}

static int machines_list(struct broker_call *call, void *args, struct error *e) {
        json_t *items;
        DIR *dir = opendir(call->broker->paths.machines);

        if (!dir)
                return error_set(e, -errno, "run-dir", NULL, "cannot list %s", call->broker->paths.machines);
        items = json_array();
        for (const struct dirent *entry; (entry = readdir(dir));) {
                _cleanup_free_ char *path = is_uuid(entry->d_name) ? run_dir(call->broker, entry->d_name) : NULL;

                if (path)
                        json_array_append_new(items,
                                              json_pack("{s:s, s:s}", "uuid", entry->d_name, "state", state_of(path)));
        }
        closedir(dir);
        call->result = json_pack("{s:o, s:o*}", "items", items, "boot", boot_id());
        return call->result ? 0 : -ENOMEM;
}

static int machine_attach(struct broker_call *call, void *args, struct error *e) {
        const struct broker_machine_args *a = args;
        _cleanup_(keeper_status_freep) struct keeper_status *status = NULL;
        _cleanup_free_ char *dir = run_dir(call->broker, a->uuid);
        _cleanup_close_ int fd = -EBADF, events = -EBADF, control = -EBADF, agent = -EBADF;
        int r = dir ? keeper_connect(dir, &fd, e) : -ENOMEM;

        if (r == 0)
                r = keeper_get_status(fd, &status, e);
        if (r == 0)
                r = keeper_control(fd, &control, e);
        if (r == 0)
                r = keeper_agent(fd, &agent, e);
        if (r == 0)
                r = keeper_connect(dir, &events, e);
        if (r == 0)
                r = keeper_events(events, e);
        if (r < 0)
                return r;
        call->result = json_pack("{s:s, s:b, s:i, s:s*}", "engine", keeper_engine_to_string(status->engine), "kvm",
                                 status->kvm, "pid", (int)status->pid, "started", status->started);
        call->fds[0] = TAKE_FD(control);
        call->fds[1] = TAKE_FD(agent);
        call->fds[2] = TAKE_FD(events);
        call->n_fds = 3;
        return call->result ? 0 : -ENOMEM;
}

static int machine_console(struct broker_call *call, void *args, struct error *e) {
        const struct broker_console_args *a = args;
        _cleanup_free_ char *dir = run_dir(call->broker, a->uuid);
        _cleanup_close_ int fd = -EBADF, console = -EBADF;
        int r = dir ? keeper_connect(dir, &fd, e) : -ENOMEM;

        if (r == 0)
                r = keeper_console(fd, a->history, &console, e);
        if (r < 0)
                return r;
        call->fds[0] = TAKE_FD(console);
        call->n_fds = 1;
        return 0;
}

static int machine_kill(struct broker_call *call, void *args, struct error *e) {
        const struct broker_machine_args *a = args;
        _cleanup_free_ char *dir = run_dir(call->broker, a->uuid);
        _cleanup_close_ int fd = -EBADF;
        int r = dir ? keeper_connect(dir, &fd, e) : -ENOMEM;

        return r < 0 ? r : keeper_kill(fd, e);
}

/* ---- its end -------------------------------------------------------------------------------------------------------- */

static json_t *exit_json(const struct keeper_exit *ended) {
        char words[LOG_MAX] = "";
        size_t n = 0;

        for (size_t i = 0; i < ended->n_log && n < sizeof(words); i++)
                n += (size_t)snprintf(words + n, sizeof(words) - n, "%s%s", i ? "; " : "", ended->log[i]);
        return json_pack("{s:i, s:s*, s:s}", "status", (int)ended->status, "time", ended->time, "log", words);
}

/* What its end has left is read, and removed but for its console's last page. */
static int machine_forget(struct broker_call *call, void *args, struct error *e) {
        const struct broker_end_args *a = args;
        _cleanup_(keeper_exit_freep) struct keeper_exit *ended = NULL;
        _cleanup_free_ char *dir = run_dir(call->broker, a->uuid), *path = NULL;

        if (!dir || asprintf(&path, "%s/" PLACE_EXIT, dir) < 0)
                return -ENOMEM;
        if (keeper_exit_read(dir, &ended, NULL) == 0)
                call->result = exit_json(ended);
        unlink(path);
        if (call->result && cgroup_oom_kills(call->broker->cgroups, a->uuid) > 0)
                json_object_set_new(call->result, "oom", json_true());
        cgroup_remove(call->broker->cgroups, a->uuid);
        broker_networks_detach(call->broker, a->name, a->networks, a->n_networks, false);
        return 0;
}

struct end {
        struct broker_call *call;
        const struct broker_end_args *args;
        const char *dir;
};

/* Until nobody holds the directory any more: also a keeper that is only about to start its machine. */
static int end_task(void *opaque, const struct image_progress *progress, json_t **ret, struct error *e) {
        static const struct timespec pause = { .tv_nsec = CHANGE_WAIT_MS * 1000000 };
        const struct end *end = opaque;
        uint64_t until = clock_ns() + END_TIMEOUT_MS * 1000000ull;
        _cleanup_close_ int lock_fd = -EBADF;
        bool killed = false;
        int r;

        while ((r = place_lock(end->dir, &lock_fd)) == -EWOULDBLOCK) {
                _cleanup_close_ int fd = -EBADF;

                if (clock_ns() > until)
                        return error_set(e, -ETIMEDOUT, "machine-end", NULL, "the machine's process does not end");
                if (!killed && keeper_connect(end->dir, &fd, NULL) == 0)
                        killed = keeper_kill(fd, NULL) == 0;
                fault_point(&end->call->broker->fault, end->call->op, "killed");
                nanosleep(&pause, NULL);
        }
        if (r < 0 && r != -ENOENT)
                return error_set(e, r, "machine-end", NULL, "cannot look at %s", end->dir);
        if (r == 0)
                unlinkat(lock_fd, PLACE_EXIT, 0);
        cgroup_remove(end->call->broker->cgroups, end->args->uuid);
        broker_networks_detach(end->call->broker, end->args->name, end->args->networks, end->args->n_networks, false);
        return 0;
}

/* A start that is undone: end what may have been started, and wait for that. */
static int machine_end(struct broker_call *call, void *args, struct error *e) {
        const struct broker_end_args *a = args;
        _cleanup_free_ char *dir = run_dir(call->broker, a->uuid);
        struct end end = { call, a, dir };

        return dir ? broker_task(call, end_task, &end, e) : -ENOMEM;
}

/* A keeper that has told of its end is gone in a moment. */
static int wait_lock(const char *dir, int *ret_fd) {
        static const struct timespec pause = { .tv_nsec = CHANGE_WAIT_MS * 1000000 };
        int r = place_lock(dir, ret_fd);

        for (int i = 0; i < CHANGE_TRIES && r == -EWOULDBLOCK; i++) {
                nanosleep(&pause, NULL);
                r = place_lock(dir, ret_fd);
        }
        return r;
}

/* All that is left of a deleted machine outside of its pool. One that is only renamed keeps what its devices remember. */
static int machine_purge(struct broker_call *call, void *args, struct error *e) {
        static const char *const names[] = { PLACE_EXIT, PLACE_CONSOLE, PLACE_SOCKET, PLACE_CONTROL };
        const struct broker_end_args *a = args;
        _cleanup_free_ char *dir = run_dir(call->broker, a->uuid);
        _cleanup_close_ int lock_fd = -EBADF;
        char path[4096];
        int r = dir ? wait_lock(dir, &lock_fd) : -ENOMEM;

        if (r < 0 && r != -ENOENT)
                return error_set(e, r, "machine-running", "stop it first", "a process still holds %s", dir ?: "it");
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
                unlink(path);
        }
        rmdir(dir);
        fault_point(&call->broker->fault, call->op, "run-dir");
        snprintf(path, sizeof(path), "%s/%s/" SEED_FILE_NAME, call->broker->paths.seeds, a->uuid);
        unlink(path);
        snprintf(path, sizeof(path), "%s/%s", call->broker->paths.seeds, a->uuid);
        rmdir(path);
        r = a->devices ? devices_remove(call->broker, a->uuid, e) : 0;
        if (r < 0)
                return r;
        fault_point(&call->broker->fault, call->op, "devices");
        cgroup_remove(call->broker->cgroups, a->uuid); /* if a helper outlived the machine for a moment */
        broker_networks_detach(call->broker, a->name, a->networks, a->n_networks, true);
        return 0;
}

static int machine_limits(struct broker_call *call, void *args, struct error *e) {
        const struct broker_limits_args *a = args;

        return cgroup_change(call->broker->cgroups, a->uuid, &a->limits, e);
}

/* What a clone's devices remember of the other machine's. */
static int machine_devices(struct broker_call *call, void *args, struct error *e) {
        const struct broker_machine_args *a = args;

        return a->source ? devices_copy(call->broker, a->uuid, a->source, e) : 0;
}

const struct broker_op broker_machine_ops[] = {
        { "machine-list", NULL, machines_list },
        { "machine-start", &broker_start_args_schema, machine_begin },
        { "machine-check", &broker_start_args_schema, machine_check },
        { "machine-attach", &broker_machine_args_schema, machine_attach },
        { "machine-console", &broker_console_args_schema, machine_console },
        { "machine-limits", &broker_limits_args_schema, machine_limits },
        { "machine-kill", &broker_machine_args_schema, machine_kill },
        { "machine-end", &broker_end_args_schema, machine_end },
        { "machine-forget", &broker_end_args_schema, machine_forget },
        { "machine-purge", &broker_end_args_schema, machine_purge },
        { "machine-devices", &broker_machine_args_schema, machine_devices },
        { 0 },
};
