// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * loop: see loop.h
 *
 * Sources hang on a list, and epoll carries a pointer to each. A freed source leaves the list at once but its memory
 * stays on a graveyard until the round ends, since epoll may already have handed out a pointer to it. Posts travel
 * through a fixed ring under a mutex and wake the loop by an eventfd.
 */
#include "base/loop.h"

#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "base/clock.h"
#include "base/pace.h"

/* seccomp: main,io: epoll_wait, read -- waiting; timers and wake-ups are descriptors */
/* seccomp: main,vcpu: epoll_ctl, timerfd_settime -- devices change what they wait for on the thread of the exit */
/* seccomp: io: timerfd_settime (rare) -- a queue that has more than one round's work */
/* seccomp: main,vcpu,io: write -- loop_post() */
/* seccomp: main,io: sched_getscheduler arg0=0 (rare) -- loop_set_pace() */
/* seccomp: main,io: sched_setscheduler arg0=0 and arg1=SCHED_BATCH (rare) -- loop_set_pace() */
/* seccomp: main,io: sched_setscheduler arg0=0 and arg1=SCHED_NORMAL (rare) -- loop_set_pace() */

#define LOOP_POSTS  1024
#define LOOP_EVENTS 32
#define LOOP_LOOKS  64      /* looks that found something, in a row */
#define IDLE_MIN_NS 4000ull /* the first time that looking seems to pay */

enum source_kind { SOURCE_FD, SOURCE_TIMER, SOURCE_SIGNAL };

struct loop_source {
        struct loop *loop;
        struct loop_source *prev, *next;
        enum source_kind kind;
        int fd; /* timers and signals: owned */
        bool dead;
        union {
                loop_fd_fn on_fd;
                loop_timer_fn on_timer;
                loop_signal_fn on_signal;
        };
        void *opaque;
};

struct post {
        loop_post_fn fn;
        void *opaque;
};

struct loop {
        int epoll_fd, wake_fd;
        struct loop_source *sources, *graveyard;
        bool quit, dispatching;
        int status;
        pthread_mutex_t *guard;

        const struct loop_idle_ops *idle_ops;
        void *idle_opaque;
        uint64_t idle_max_ns, idle_ns; /* look for so long, at most and at the moment */

        bool paced;
        struct pace pace;
        uint64_t work; /* since the last sleep */

        pthread_mutex_t lock; /* protects the ring below */
        struct post posts[LOOP_POSTS];
        unsigned int head, count;
};

static void bury(struct loop *loop) {
        while (loop->graveyard) {
                struct loop_source *s = loop->graveyard;

                loop->graveyard = s->next;
                free(s);
        }
}

static void run_posts(void *opaque, int fd, uint32_t events) {
        struct loop *loop = opaque;
        uint64_t n;

        (void)!read(fd, &n, sizeof(n));
        for (;;) {
                struct post p;

                pthread_mutex_lock(&loop->lock);
                if (loop->count == 0) {
                        pthread_mutex_unlock(&loop->lock);
                        return;
                }
                p = loop->posts[loop->head];
                loop->head = (loop->head + 1) % LOOP_POSTS;
                loop->count--;
                pthread_mutex_unlock(&loop->lock);
                p.fn(p.opaque);
        }
}

int loop_new(struct loop **ret_loop) {
        struct loop *loop = calloc(1, sizeof(*loop));
        int r;

        if (!loop)
                return -ENOMEM;
        pthread_mutex_init(&loop->lock, NULL);
        loop->wake_fd = -EBADF;
        loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (loop->epoll_fd >= 0)
                loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = loop->wake_fd < 0 ? -errno : loop_add_fd(loop, loop->wake_fd, EPOLLIN, run_posts, loop, NULL);
        if (r < 0) {
                loop_free(loop);
                return r;
        }
        *ret_loop = loop;
        return 0;
}

void loop_free(struct loop *loop) {
        if (!loop)
                return;
        while (loop->sources)
                loop_source_free(loop->sources);
        bury(loop);
        safe_close(loop->wake_fd);
        safe_close(loop->epoll_fd);
        pthread_mutex_destroy(&loop->lock);
        free(loop);
}

static int source_new(struct loop *loop, enum source_kind kind, int fd, uint32_t events, void *opaque,
                      struct loop_source **ret_source) {
        struct loop_source *s = calloc(1, sizeof(*s));
        struct epoll_event e = { .events = events };

        if (!s)
                return -ENOMEM;
        *s = (struct loop_source){ .loop = loop, .kind = kind, .fd = fd, .opaque = opaque };
        e.data.ptr = s;
        if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) {
                free(s);
                return -errno;
        }
        s->next = loop->sources;
        if (s->next)
                s->next->prev = s;
        loop->sources = s;
        *ret_source = s;
        return 0;
}

int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *opaque,
                struct loop_source **ret_source) {
        struct loop_source *s;
        int r = source_new(loop, SOURCE_FD, fd, events, opaque, &s);

        if (r < 0)
                return r;
        s->on_fd = fn;
        if (ret_source)
                *ret_source = s;
        return 0;
}

int loop_source_set_events(struct loop_source *source, uint32_t events) {
        struct epoll_event e = { .events = events, .data.ptr = source };

        return epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &e) < 0 ? -errno : 0;
}

int loop_add_timer(struct loop *loop, loop_timer_fn fn, void *opaque, struct loop_source **ret_source) {
        _cleanup_close_ int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        struct loop_source *s;
        int r;

        if (fd < 0)
                return -errno;
        r = source_new(loop, SOURCE_TIMER, fd, EPOLLIN, opaque, &s);
        if (r < 0)
                return r;
        (void)TAKE_FD(fd);
        s->on_timer = fn;
        *ret_source = s;
        return 0;
}

int loop_timer_set(struct loop_source *source, uint64_t usec) {
        struct itimerspec t = { 0 };

        if (usec == 0)
                t.it_value.tv_nsec = 1; /* all zero would disarm */
        else if (usec != UINT64_MAX) {
                t.it_value.tv_sec = (time_t)(usec / 1000000);
                t.it_value.tv_nsec = (long)(usec % 1000000) * 1000;
        }
        return timerfd_settime(source->fd, 0, &t, NULL) < 0 ? -errno : 0;
}

int loop_add_signal(struct loop *loop, int signo, loop_signal_fn fn, void *opaque) {
        _cleanup_close_ int fd = -EBADF;
        struct loop_source *s;
        sigset_t set;
        int r;

        sigemptyset(&set);
        sigaddset(&set, signo);
        r = pthread_sigmask(SIG_BLOCK, &set, NULL);
        if (r != 0)
                return -r;
        fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
                return -errno;
        r = source_new(loop, SOURCE_SIGNAL, fd, EPOLLIN, opaque, &s);
        if (r < 0)
                return r;
        (void)TAKE_FD(fd);
        s->on_signal = fn;
        return 0;
}

int loop_post(struct loop *loop, loop_post_fn fn, void *opaque) {
        uint64_t one = 1;
        int r = -EAGAIN;

        pthread_mutex_lock(&loop->lock);
        if (loop->count < LOOP_POSTS) {
                loop->posts[(loop->head + loop->count) % LOOP_POSTS] = (struct post){ fn, opaque };
                loop->count++;
                r = 0;
        }
        pthread_mutex_unlock(&loop->lock);
        (void)!write(loop->wake_fd, &one, sizeof(one));
        return r;
}

void loop_source_free(struct loop_source *s) {
        struct loop *loop;

        if (!s || s->dead)
                return;
        loop = s->loop;
        s->dead = true;
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
        if (s->kind != SOURCE_FD)
                s->fd = safe_close(s->fd);
        if (s->prev)
                s->prev->next = s->next;
        else
                loop->sources = s->next;
        if (s->next)
                s->next->prev = s->prev;
        s->next = loop->graveyard;
        loop->graveyard = s;
        if (!loop->dispatching)
                bury(loop);
}

static void dispatch(struct loop_source *s, uint32_t events) {
        struct signalfd_siginfo info;
        uint64_t n;

        switch (s->kind) {
        case SOURCE_FD:
                s->on_fd(s->opaque, s->fd, events);
                break;
        case SOURCE_TIMER:
                if (read(s->fd, &n, sizeof(n)) == sizeof(n))
                        s->on_timer(s->opaque);
                break;
        case SOURCE_SIGNAL:
                if (read(s->fd, &info, sizeof(info)) == sizeof(info))
                        s->on_signal(s->opaque, (int)info.ssi_signo);
                break;
        }
}

/* What a sleep of @ns says of looking: it would have caught this; it never will; it would, if it took longer. */
static void learn(struct loop *loop, uint64_t ns) {
        if (ns > loop->idle_max_ns)
                loop->idle_ns = 0;
        else if (ns > loop->idle_ns)
                loop->idle_ns = MIN(loop->idle_ns > 0 ? 2 * loop->idle_ns : IDLE_MIN_NS, loop->idle_max_ns);
}

void loop_set_pace(struct loop *loop) {
        loop->paced = true;
}

void loop_did(struct loop *loop, unsigned int n) {
        loop->work += n;
}

/* The loop was asleep, and has done what it was woken for. */
static void keep_pace(struct loop *loop) {
        uint64_t work = loop->work;
        int expected, policy;

        loop->work = 0;
        if (!pace_woken(&loop->pace, work, pace_needs_clock(&loop->pace) ? clock_ns() : 0))
                return;
        expected = loop->pace.patient ? SCHED_OTHER : SCHED_BATCH;
        policy = loop->pace.patient ? SCHED_BATCH : SCHED_OTHER;
        /* A policy that somebody gave this thread is not ours to change. */
        if (sched_getscheduler(0) != expected || sched_setscheduler(0, policy, &(struct sched_param){ 0 }) < 0)
                loop->paced = false;
}

int loop_run_once(struct loop *loop, int timeout_ms) {
        struct epoll_event events[LOOP_EVENTS];
        bool learns = loop->idle_ops && timeout_ms < 0;
        uint64_t before = learns ? clock_ns() : 0;
        int n = epoll_wait(loop->epoll_fd, events, LOOP_EVENTS, timeout_ms);

        if (learns)
                learn(loop, clock_ns() - before);
        if (n < 0)
                return errno == EINTR ? 0 : -errno;
        if (loop->guard)
                pthread_mutex_lock(loop->guard);
        loop->dispatching = true;
        for (int i = 0; i < n; i++) {
                struct loop_source *s = events[i].data.ptr;

                if (!s->dead)
                        dispatch(s, events[i].events);
        }
        loop->dispatching = false;
        bury(loop);
        if (loop->paced && timeout_ms < 0)
                keep_pace(loop);
        if (loop->guard)
                pthread_mutex_unlock(loop->guard);
        return n > 0;
}

void loop_set_guard(struct loop *loop, pthread_mutex_t *mutex) {
        loop->guard = mutex;
}

void loop_set_idle(struct loop *loop, const struct loop_idle_ops *ops, void *opaque, uint64_t max_ns) {
        loop->idle_ops = ops;
        loop->idle_opaque = opaque;
        loop->idle_max_ns = max_ns;
        loop->idle_ns = 0;
}

/* Look for work: false when there was none for idle_ns. */
static bool look(struct loop *loop) {
        const struct loop_idle_ops *ops = loop->idle_ops;
        uint64_t since = clock_ns();
        unsigned int found = 0;

        if (loop->guard)
                pthread_mutex_lock(loop->guard);
        ops->begin(loop->idle_opaque);
        do {
                if (ops->look(loop->idle_opaque)) {
                        found++;
                        since = clock_ns();
                } else
                        __builtin_ia32_pause();
        } while (found < LOOP_LOOKS && clock_ns() - since < loop->idle_ns);
        found += ops->end(loop->idle_opaque);
        if (loop->guard)
                pthread_mutex_unlock(loop->guard);
        return found > 0;
}

int loop_run(struct loop *loop) {
        while (!loop->quit) {
                int r = loop_run_once(loop, loop->idle_ns > 0 && look(loop) ? 0 : -1);

                if (r < 0)
                        return r;
        }
        loop->quit = false;
        return loop->status;
}

int loop_fd(const struct loop *loop) {
        return loop->epoll_fd;
}

void loop_quit(struct loop *loop, int status) {
        loop->quit = true;
        loop->status = status;
}
