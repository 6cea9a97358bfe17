// SPDX-License-Identifier: GPL-2.0-or-later
/* io-thread: see io-thread.h */
#include "vmm/machine/io-thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/thread.h"
#include "vmm/machine/machine.h"

#define STACK (256 * 1024)

struct io_thread {
        struct machine *machine;
        struct loop *loop;
        pthread_mutex_t lock; /* the loop's guard */
        pthread_cond_t said;  /* whether it could start */
        bool running, has_said;
        int start_error;
        pthread_t id;
};

static void *thread_main(void *opaque) {
        struct io_thread *t = opaque;
        const struct machine_hooks *hooks = t->machine->hooks;
        int r;

        (void)pthread_setname_np(pthread_self(), "io");
        r = hooks && hooks->io_thread_start ? hooks->io_thread_start(t->machine) : 0;
        pthread_mutex_lock(&t->lock);
        t->start_error = r;
        t->has_said = true;
        pthread_cond_broadcast(&t->said);
        pthread_mutex_unlock(&t->lock);
        if (r >= 0)
                (void)loop_run(t->loop);
        return NULL;
}

int io_thread_new(struct machine *machine, struct io_thread **ret_thread) {
        struct io_thread *t = calloc(1, sizeof(*t));
        int r;

        if (!t)
                return -ENOMEM;
        t->machine = machine;
        pthread_mutex_init(&t->lock, NULL);
        pthread_cond_init(&t->said, NULL);
        r = loop_new(&t->loop);
        if (r < 0) {
                io_thread_free(t);
                return r;
        }
        loop_set_guard(t->loop, &t->lock);
        loop_set_pace(t->loop);
        *ret_thread = t;
        return 0;
}

int io_thread_start(struct io_thread *t) {
        int r = thread_spawn(&t->id, STACK, thread_main, t);
        if (r < 0)
                return r;
        t->running = true;
        pthread_mutex_lock(&t->lock);
        while (!t->has_said)
                pthread_cond_wait(&t->said, &t->lock);
        r = t->start_error;
        pthread_mutex_unlock(&t->lock);
        return r;
}

static void quit(void *opaque) {
        loop_quit(opaque, 0);
}

int io_thread_place(struct io_thread *t, const uint32_t *cpus, size_t n_cpus) {
        union {
                cpu_set_t first;
                unsigned char bytes[CPU_ALLOC_SIZE(IO_THREAD_CPUS_MAX)];
        } set = { .bytes = { 0 } };

        for (size_t i = 0; i < n_cpus; i++)
                CPU_SET_S(cpus[i], sizeof(set), &set.first);
        return -pthread_setaffinity_np(t->id, sizeof(set), &set.first);
}

void io_thread_stop(struct io_thread *t) {
        if (!t || !t->running)
                return;
        while (t->start_error >= 0 && loop_post(t->loop, quit, t->loop) == -EAGAIN)
                ; /* it empties its posts */
        pthread_join(t->id, NULL);
        t->running = false;
}

void io_thread_free(struct io_thread *t) {
        if (!t)
                return;
        io_thread_stop(t);
        loop_free(t->loop);
        pthread_cond_destroy(&t->said);
        pthread_mutex_destroy(&t->lock);
        free(t);
}

struct loop *io_thread_loop(struct io_thread *t) {
        return t->loop;
}

void io_thread_lock(struct io_thread *t) {
        pthread_mutex_lock(&t->lock);
}

void io_thread_unlock(struct io_thread *t) {
        pthread_mutex_unlock(&t->lock);
}
