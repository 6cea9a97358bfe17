// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * task: work that lasts, in a child of the broker
 *
 * The broker has one thread, so it can fork without exec: the child has all that the broker has, does one thing, and says on a pipe
 * how far it is and how it ended, a line of JSON each: {"progress": ...}, {"result": ...}, {"error": ...}. It ends when the broker does, and
 * when the pipe to it becomes readable, which is how it is cancelled.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/io.h"
#include "base/spawn.h"
#include "daemon/broker/broker.h"
#include "daemon/image/image.h"

#define LINE_MAX_BYTES (256u << 10)

struct task {
        struct broker_call *call;
        pid_t pid;
        int pidfd, out_fd, cancel_fd;
        struct loop_source *source;
        char *text; /* what came, up to a line's end */
        size_t len;
        json_t *last;
};

/* ---- in the child ------------------------------------------------------------------------------------------------ */

static void say(int fd, json_t *line) {
        _cleanup_free_ char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

        if (text) {
                io_write_all(fd, text, strlen(text));
                io_write_all(fd, "\n", 1);
        }
        json_decref(line);
}

static void on_step(void *opaque, const char *text) {
        json_t *value = json_string(text);

        if (value)
                say(*(int *)opaque, json_pack("{s:o}", "progress", value));
}

static void child(struct broker_call *call, broker_task_fn fn, void *opaque, int out_fd, int cancel_fd) {
        struct image_progress progress = { .step = on_step, .opaque = &out_fd, .cancel_fd = cancel_fd };
        _cleanup_error_ struct error e = ERROR_INIT;
        json_t *result = NULL;
        int r = fn(opaque, &progress, &result, &e);

        fault_point(&call->broker->fault, call->op, "done");
        if (r < 0) {
                error_set(&e, r, "task", NULL, "cannot do it");
                say(out_fd, json_pack("{s:o}", "error", wire_error(&e)));
        } else
                say(out_fd, json_pack("{s:o}", "result", result ?: json_object()));
        _exit(0);
}

/* ---- in the broker ----------------------------------------------------------------------------------------------- */

static void task_release(void *opaque) {
        struct task *t = opaque;

        loop_source_free(t->source);
        safe_close(t->cancel_fd);
        safe_close(t->out_fd);
        if (t->pid > 0)
                spawn_end(t->pid, t->pidfd, 1000);
        safe_close(t->pidfd);
        json_decref(t->last);
        free(t->text);
        free(t);
}

static void task_cancel(void *opaque) {
        struct task *t = opaque;

        (void)!write(t->cancel_fd, "", 1); /* and not a close: tasks that were forked later hold this end, too */
}

static void on_line(struct task *t, const char *text, size_t n) {
        json_t *line = json_loadb(text, n, 0, NULL);
        const char *progress = json_string_value(json_object_get(line, "progress"));

        if (progress)
                broker_progress(t->call, progress);
        else if (json_is_object(line)) {
                json_decref(t->last);
                t->last = json_incref(line);
        }
        json_decref(line);
}

static void finish(struct task *t) {
        _cleanup_error_ struct error e = ERROR_INIT;
        struct broker_call *call = t->call;
        json_t *error = json_object_get(t->last, "error"), *result = json_object_get(t->last, "result");

        if (error)
                wire_load_error(error, &e);
        else if (result)
                call->result = json_incref(result);
        else
                error_set(&e, -EIO, "task-lost", "try again; the daemon's log may say more",
                          "the process that did this ended before it was done");
        broker_answer(call, &e);
}

static void on_output(void *opaque, int fd, uint32_t events) {
        struct task *t = opaque;
        char buf[8192], *end;
        ssize_t n = read(fd, buf, sizeof(buf));
        char *grown;

        if (n < 0 && errno == EAGAIN)
                return;
        if (n <= 0 || t->len + (size_t)n > LINE_MAX_BYTES) {
                finish(t);
                return;
        }
        grown = realloc(t->text, t->len + (size_t)n);
        if (!grown) {
                finish(t);
                return;
        }
        t->text = grown;
        memcpy(t->text + t->len, buf, (size_t)n);
        t->len += (size_t)n;
        while ((end = memchr(t->text, '\n', t->len))) {
                size_t line = (size_t)(end - t->text) + 1;

                on_line(t, t->text, line - 1);
                t->len -= line;
                memmove(t->text, end + 1, t->len);
        }
}

/* In a task: a pipe of another call's has to end with that call, not with this one. */
static void close_others(const struct broker_call *ours) {
        for (struct broker_call *c = ours->broker->calls; c; c = c->next)
                for (size_t i = 0; c != ours && i < c->n_fds; i++)
                        close(c->fds[i]);
}

int broker_task(struct broker_call *call, broker_task_fn fn, void *opaque, struct error *e) {
        int out[2] = { -EBADF, -EBADF }, cancel[2] = { -EBADF, -EBADF };
        struct task *t = calloc(1, sizeof(*t));
        pid_t broker = getpid();

        if (!t || pipe2(out, O_CLOEXEC) < 0 || pipe2(cancel, O_CLOEXEC) < 0)
                goto failed;
        *t = (struct task){ .call = call, .pidfd = -EBADF, .out_fd = out[0], .cancel_fd = cancel[1] };
        t->pid = fork();
        if (t->pid < 0)
                goto failed;
        if (t->pid == 0) {
                sigset_t none;

                sigemptyset(&none);
                sigprocmask(SIG_SETMASK, &none, NULL);
                prctl(PR_SET_PDEATHSIG, SIGTERM);
                safe_close(call->broker->wire_fd);
                safe_close(call->broker->listen_fd);
                close_others(call);
                close(out[0]);
                close(cancel[1]);
                fault_arm(&call->broker->fault, "task");
                fault_point(&call->broker->fault, call->op, "begin");
                if (getppid() == broker)
                        child(call, fn, opaque, out[1], cancel[0]);
                _exit(1);
        }
        close(out[1]);
        close(cancel[0]);
        out[1] = cancel[0] = -EBADF;
        t->pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
        io_set_nonblock(t->out_fd, true);
        call->opaque = t;
        call->cancel = task_cancel;
        call->release = task_release;
        if (t->pidfd < 0 || loop_add_fd(call->broker->loop, t->out_fd, EPOLLIN, on_output, t, &t->source) < 0)
                return error_set(e, -EMFILE, "task", NULL, "cannot watch the process that does this");
        return 1;
failed:
        error_set(e, -errno, "task", NULL, "cannot start a process for this");
        for (int i = 0; i < 2; i++) {
                safe_close(out[i]);
                safe_close(cancel[i]);
        }
        free(t);
        return e ? e->code : -EAGAIN;
}
