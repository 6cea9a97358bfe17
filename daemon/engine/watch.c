// SPDX-License-Identifier: GPL-2.0-or-later
/* watch: see watch.h */
#include "daemon/engine/watch.h"

#include <sys/epoll.h>

#include "base/spawn.h"
#include "daemon/engine/parts-backend.h"

#define DRAIN_READS 64 /* a process that is gone left at most a pipe full */

struct watch {
        const struct watch_ops *ops;
        void *opaque;
        const struct engine *engine;
        struct parts *parts;
        struct loop_source *process, *log, *tpm, *passt[LAYOUT_NETS_MAX], *backends[LAYOUT_DISKS_MAX];
        bool backend_lost[LAYOUT_DISKS_MAX];
        struct tail tail;
};

static void on_log(void *opaque, int fd, uint32_t events) {
        struct watch *w = opaque;
        char buf[4096];
        ssize_t n = read(fd, buf, sizeof(buf));

        if (n > 0)
                tail_add(&w->tail, buf, (size_t)n);
        else if (n == 0 || errno != EAGAIN)
                loop_source_free(TAKE_PTR(w->log));
}

static void on_process_end(void *opaque, int fd, uint32_t events) {
        struct watch *w = opaque;

        loop_source_free(TAKE_PTR(w->process));
        if (w->ops->on_end)
                w->ops->on_end(w->opaque);
}

/* The last line that a helper has said. */
static const char *last_words(int log_fd, char *buf, size_t size) {
        ssize_t len = read(log_fd, buf, size - 1);

        return len > 0 ? last_line(buf, (size_t)len) : "no reason given";
}

static void on_swtpm_end(void *opaque, int fd, uint32_t events) {
        struct watch *w = opaque;
        struct part_tpm *t = &w->parts->tpm;
        char buf[4096];
        int status;

        if (spawn_wait(t->pid, fd, 0, &status) < 0)
                return;
        t->pid = 0;
        loop_source_free(TAKE_PTR(w->tpm));
        if (w->ops->on_tpm_dead)
                w->ops->on_tpm_dead(w->opaque, status, last_words(t->log_fd, buf, sizeof(buf)));
}

static void on_passt_end(void *opaque, int fd, uint32_t events) {
        struct watch *w = opaque;

        for (size_t i = 0; i < w->parts->n_nets; i++) {
                struct part_net *n = &w->parts->nets[i];
                char buf[4096];
                int status;

                if (n->pid <= 0 || n->pidfd != fd || spawn_wait(n->pid, fd, 0, &status) < 0)
                        continue;
                n->pid = 0;
                loop_source_free(TAKE_PTR(w->passt[i]));
                if (w->ops->on_net_dead)
                        w->ops->on_net_dead(w->opaque, i, status, last_words(n->log_fd, buf, sizeof(buf)));
        }
}

/* lodge-vmm has lost a disk's back end, and asks for a connection: again and again, so it is told of once. */
static void on_backend_wanted(void *opaque, int fd, uint32_t events) {
        struct watch *w = opaque;

        for (size_t i = 0; i < w->parts->n_disks; i++) {
                const struct part_disk *d = &w->parts->disks[i];
                bool lost;
                int r;

                if (!w->backends[i] || d->parent_fd != fd)
                        continue;
                r = part_backend_answer(d);
                if (r == -EPIPE) /* the process has ended */
                        loop_source_free(TAKE_PTR(w->backends[i]));
                if (r == -EPIPE || r == -EAGAIN)
                        return;
                lost = r < 0;
                if (w->ops->on_backend && (!lost || !w->backend_lost[i]))
                        w->ops->on_backend(w->opaque, i, lost);
                w->backend_lost[i] = lost;
        }
}

static int add_sources(struct watch *w, struct loop *loop) {
        struct parts *p = w->parts;
        int r = loop_add_fd(loop, w->engine->pidfd, EPOLLIN, on_process_end, w, &w->process);

        if (r == 0)
                r = loop_add_fd(loop, w->engine->log_fd, EPOLLIN, on_log, w, &w->log);
        if (r == 0 && p->tpm.pid > 0)
                r = loop_add_fd(loop, p->tpm.pidfd, EPOLLIN, on_swtpm_end, w, &w->tpm);
        for (size_t i = 0; i < p->n_nets && r == 0; i++)
                if (p->nets[i].pid > 0)
                        r = loop_add_fd(loop, p->nets[i].pidfd, EPOLLIN, on_passt_end, w, &w->passt[i]);
        for (size_t i = 0; i < p->n_disks && r == 0; i++)
                if (p->disks[i].socket)
                        r = loop_add_fd(loop, p->disks[i].parent_fd, EPOLLIN, on_backend_wanted, w, &w->backends[i]);
        return r;
}

int watch_new(struct loop *loop, const struct engine *engine, struct parts *parts, const struct watch_ops *ops,
              void *opaque, struct watch **ret_watch) {
        _cleanup_(watch_freep) struct watch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        w->ops = ops;
        w->opaque = opaque;
        w->engine = engine;
        w->parts = parts;
        r = add_sources(w, loop);
        if (r < 0)
                return r;
        *ret_watch = TAKE_PTR(w);
        return 0;
}

void watch_drain(struct watch *w) {
        for (int i = 0; w->log && i < DRAIN_READS; i++) {
                size_t before = w->tail.len;

                on_log(w, w->engine->log_fd, EPOLLIN);
                if (w->log && w->tail.len == before && before < TAIL_MAX)
                        break; /* somebody else holds its end, and says nothing */
        }
}

const struct tail *watch_log(const struct watch *w) {
        return w && w->tail.len > 0 ? &w->tail : NULL;
}

void watch_free(struct watch *w) {
        if (!w)
                return;
        loop_source_free(w->process);
        loop_source_free(w->log);
        loop_source_free(w->tpm);
        for (size_t i = 0; i < LAYOUT_NETS_MAX; i++)
                loop_source_free(w->passt[i]);
        for (size_t i = 0; i < LAYOUT_DISKS_MAX; i++)
                loop_source_free(w->backends[i]);
        free(w);
}
