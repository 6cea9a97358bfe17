// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine: what both engines share; see engine.h
 *
 * Every socket is a pair: our end is close-on-exec, the far end is named in the child's list of descriptors and closed
 * here once it runs, so that our end sees the end of file when the process is gone.
 */
#include "daemon/engine/engine.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/spawn.h"

static const char *const names[] = { [ENGINE_NATIVE] = "native", [ENGINE_QEMU] = "qemu" };
_Static_assert(ELEMENTSOF(names) == ENGINE_KIND_COUNT, "every engine has a name");

const char *engine_name(enum engine_kind kind) {
        return names[kind];
}

static int make_pair(int *ret_ours, int *ret_theirs) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        *ret_ours = pair[0];
        *ret_theirs = pair[1];
        return io_set_nonblock(pair[0], true);
}

static int make_log(int *ret_ours, int *ret_theirs) {
        int pair[2];

        if (pipe2(pair, O_CLOEXEC) < 0)
                return -errno;
        *ret_ours = pair[0];
        *ret_theirs = pair[1];
        return io_set_nonblock(pair[0], true);
}

static void ends_close(struct engine_ends *ends) {
        safe_close(ends->control_fd);
        safe_close(ends->console_fd);
        safe_close(ends->agent_fd);
        safe_close(ends->log_fd);
}

/* A listening socket goes to the process as it is, by a descriptor of its own. */
static int make_control(const struct engine_options *o, struct engine *engine, struct engine_ends *ends) {
        if (!o || o->listen_fd < 0)
                return make_pair(&engine->control_fd, &ends->control_fd);
        ends->control_listens = true;
        ends->control_fd = fcntl(o->listen_fd, F_DUPFD_CLOEXEC, 3);
        return ends->control_fd < 0 ? -errno : 0;
}

int engine_start(const struct engine_choice *choice, const struct parts *parts, const struct engine_options *options,
                 struct engine *ret_engine, struct error *e) {
        __attribute__((cleanup(ends_close))) struct engine_ends ends = { -EBADF, -EBADF, -EBADF, -EBADF, false };
        __attribute__((cleanup(engine_clear))) struct engine engine = ENGINE_INIT;
        const struct spawn_jail *jail = options ? options->jail : NULL;
        int r;

        engine.kind = choice->kind;
        r = make_control(options, &engine, &ends);
        if (r == 0)
                r = make_pair(&engine.console_fd, &ends.console_fd);
        if (r == 0)
                r = make_pair(&engine.agent_fd, &ends.agent_fd);
        if (r == 0)
                r = make_log(&engine.log_fd, &ends.log_fd);
        if (r < 0)
                return error_set(e, r, "engine-sockets", NULL, "cannot make the machine's sockets");

        if (choice->kind == ENGINE_NATIVE)
                r = engine_native_start(parts, &ends, jail, &engine, e);
        else
                r = engine_qemu_start(parts, &ends, choice->kvm, jail, &engine, e);
        if (r < 0)
                return r;
        *ret_engine = engine;
        engine = ENGINE_INIT;
        return 0;
}

int engine_end(struct engine *engine, int grace_ms) {
        int r;

        if (engine->pid <= 0)
                return -ECHILD;
        r = spawn_end(engine->pid, engine->pidfd, grace_ms);
        engine->pid = 0;
        return r;
}

void engine_clear(struct engine *engine) {
        if (engine->pid > 0)
                engine_end(engine, 1000);
        safe_close(engine->pidfd);
        safe_close(engine->control_fd);
        safe_close(engine->console_fd);
        safe_close(engine->agent_fd);
        safe_close(engine->log_fd);
        *engine = ENGINE_INIT;
}
