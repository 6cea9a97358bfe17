// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine: what the engines share: the round of completions, and waiting for the end of all of them
 *
 * A round is never nested: done() may submit more, and round() may kick; a kick inside a round only starts operations, and
 * their ends wait for the next round. So the stack stays flat however fast a guest feeds us.
 */
#include "vmm/block/engine.h"

#include <poll.h>
#include <sys/epoll.h>

#include "base/clock.h"

/* seccomp: main,vcpu: poll (rare) -- a device reset waits for the end of what is in flight */

uint64_t engine_now_ms(void) {
        return clock_ns() / 1000000;
}

static unsigned int engine_reap_failed(struct engine *engine) {
        unsigned int n = 0;

        while (engine->failed) {
                struct block_io *io = engine->failed;

                engine->failed = io->next;
                n++;
                engine->options.done(engine->options.opaque, io);
        }
        return n;
}

static void engine_round(struct engine *engine) {
        if (engine->reaping)
                return;
        engine->reaping = true;
        do {
                unsigned int n = engine_reap_failed(engine) + engine->ops->reap(engine);

                engine->in_flight -= n;
                if (n > 0) {
                        engine->ops->kick(engine); /* continuations of short transfers */
                        engine->options.round(engine->options.opaque);
                }
        } while (engine->failed);
        engine->reaping = false;
}

void engine_fail(struct engine *engine, struct block_io *io, int result) {
        io->result = result;
        io->next = engine->failed;
        engine->failed = io;
}

static void engine_ready(void *opaque, int fd, uint32_t events) {
        engine_round(opaque);
}

int engine_attach(struct engine *engine, int poll_fd) {
        engine->poll_fd = poll_fd;
        return loop_add_fd(engine->options.loop, poll_fd, EPOLLIN, engine_ready, engine, &engine->source);
}

void engine_submit(struct engine *engine, struct block_io *io) {
        engine->in_flight++;
        engine->ops->submit(engine, io);
}

void engine_kick(struct engine *engine) {
        engine->ops->kick(engine);
        engine_round(engine);
}

int engine_drain(struct engine *engine, bool cancel, uint64_t deadline_ms) {
        if (cancel)
                engine->ops->cancel(engine);
        for (;;) {
                struct pollfd p = { .fd = engine->poll_fd, .events = POLLIN };
                uint64_t now;

                engine->ops->kick(engine); /* what the kernel would not take yet */
                engine_round(engine);
                if (engine->in_flight == 0)
                        return 0;
                now = engine_now_ms();
                if (now >= deadline_ms)
                        return -ETIMEDOUT;
                (void)poll(&p, 1, (int)MIN(deadline_ms - now, (uint64_t)1000));
        }
}

void engine_refile(struct engine *engine, const struct sys *sys, int fd) {
        engine->options.sys = sys;
        engine->options.fd = fd;
        if (engine->ops->refile)
                engine->ops->refile(engine);
}

void engine_free(struct engine *engine) {
        if (!engine)
                return;
        if (engine->in_flight > 0)
                engine_drain(engine, true, UINT64_MAX);
        loop_source_free(engine->source);
        engine->ops->free(engine);
}
