// SPDX-License-Identifier: GPL-2.0-or-later
/* base: errors keep the first cause, the loop survives sources that free themselves, sizes mean what people write */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/loop.h"
#include "base/text.h"

/* The error nearest to the cause must win, or a person reads about a symptom. */
static void test_first_error_wins(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;

        assert_int_equal(error_set(&e, -ENOENT, "first", "look", "no %s", "disk"), -ENOENT);
        assert_int_equal(error_set(&e, -EPERM, "second", NULL, "other"), -EPERM);
        error_prefix(&e, "machine %s", "web");
        assert_string_equal(e.id, "first");
        assert_string_equal(e.message, "machine web: no disk");
        assert_string_equal(e.fix, "look");
        assert_int_equal(e.code, -ENOENT);
}

/* A hostile name with an escape sequence must not reach the terminal raw. */
static void test_error_print_escapes(void **state) {
        _cleanup_error_ struct error e = ERROR_INIT;
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        error_set(&e, -EINVAL, "x", NULL, "bad name \033[2J");
        error_print(&e, "lodge", f);
        fclose(f);
        assert_string_equal(text, "lodge: bad name \\x1b[2J  [x]\n");
        free(text);
}

/* What a terminal obeys instead of showing it has other forms than a byte below 32: names with these must not steer it either. */
static void test_text_char(void **state) {
        static const struct {
                const char *text;
                size_t n;
                bool plain;
        } cases[] = {
                { "a", 1, true },
                { "\xc3\xbc", 2, true },                  /* u umlaut */
                { "\xe2\x82\xac", 3, true },              /* euro */
                { "\xf0\x9f\x92\xbe", 4, true },          /* a disk */
                { "\x1b", 1, false },                     /* escape */
                { "\x7f", 1, false },                     /* delete */
                { "\xc2\x9b", 2, false },                 /* C1's control sequence introducer */
                { "\xe2\x80\xae\xe2\x80\xac", 3, false }, /* right-to-left override */
                { "\xe2\x81\xa6\xe2\x81\xa9", 3, false }, /* left-to-right isolate */
                { "\xe2\x80\xa8", 3, false },             /* line separator */
                { "\x9b", 1, false },                     /* the same as one byte: no UTF-8 */
                { "\xf6ne", 1, false },                   /* Latin-1 */
                { "\xe2\x80", 1, false },                 /* cut off: not a byte behind the end is looked at */
                { "\xc1\x9b", 1, false },                 /* longer than need be */
                { "\xe0\x82\x9b", 1, false },
                { "\xed\xa0\x80", 3, false },     /* a surrogate */
                { "\xf5\x80\x80\x80", 4, false }, /* beyond Unicode */
                { "\xff", 1, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                bool plain = !cases[i].plain;

                assert_int_equal(text_char(cases[i].text, &plain), cases[i].n);
                assert_int_equal(plain, cases[i].plain);
        }
}

static void test_sizes(void **state) {
        uint64_t v = 7;

        assert_int_equal(text_parse_size("512M", &v), 0);
        assert_int_equal(v, 512ull << 20);
        assert_int_equal(text_parse_size("1.5GiB", &v), 0);
        assert_int_equal(v, 3ull << 29);
        assert_int_equal(text_parse_size("4096", &v), 0);
        assert_int_equal(v, 4096);
        assert_int_equal(text_parse_size("16E", &v), -ERANGE);
        assert_int_equal(text_parse_size("-1", &v), -EINVAL);
        assert_int_equal(text_parse_size("1.5", &v), -EINVAL);
        assert_int_equal(text_parse_size("5Q", &v), -EINVAL);
        assert_int_equal(text_parse_size("5Bi", &v), -EINVAL);
        assert_int_equal(v, 4096); /* untouched on failure */
}

static void test_uints(void **state) {
        uint64_t v;

        assert_int_equal(text_parse_uint("0x10", 255, &v), 0);
        assert_int_equal(v, 16);
        assert_int_equal(text_parse_uint("256", 255, &v), -ERANGE);
        assert_int_equal(text_parse_uint("", 255, &v), -EINVAL);
        assert_int_equal(text_parse_uint("12x", 255, &v), -EINVAL);
        assert_int_equal(text_parse_uint("0x", 255, &v), -EINVAL);
}

struct pair {
        struct loop_source *a, *b;
        int calls;
};

static void free_both(void *opaque, int fd, uint32_t events) {
        struct pair *p = opaque;

        p->calls++;
        loop_source_free(p->a);
        loop_source_free(p->b);
}

/* Two ready sources, each freeing both: the second must not be dispatched from freed memory. */
static void test_source_frees_its_neighbour(void **state) {
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct pair p = { 0 };
        int s[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
        assert_int_equal(write(s[0], "x", 1), 1);
        assert_int_equal(write(s[1], "x", 1), 1);
        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_fd(loop, s[0], EPOLLIN, free_both, &p, &p.a), 0);
        assert_int_equal(loop_add_fd(loop, s[1], EPOLLIN, free_both, &p, &p.b), 0);
        assert_int_equal(loop_run_once(loop, 0), 1);
        assert_int_equal(p.calls, 1);
        assert_int_equal(loop_run_once(loop, 0), 0);
        close(s[0]);
        close(s[1]);
}

static void quit_now(void *opaque) {
        loop_quit(opaque, 42);
}

/* Posts are how vCPU threads reach the main loop: a lost wake-up is a hung machine. */
static void test_post_and_timer(void **state) {
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct loop_source *timer;

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_post(loop, quit_now, loop), 0);
        assert_int_equal(loop_run(loop), 42);
        assert_int_equal(loop_add_timer(loop, quit_now, loop, &timer), 0);
        assert_int_equal(loop_timer_set(timer, 1000), 0);
        assert_int_equal(loop_run(loop), 42);
}

struct idle {
        struct loop *loop;
        bool looking;
        unsigned int events, looks, begins, ends, ticks;
        struct loop_source *timer;
};

static void idle_begin(void *opaque) {
        struct idle *i = opaque;

        i->looking = true;
        i->begins++;
}

/* Finds something at the third look, and that was it. */
static bool idle_look(void *opaque) {
        struct idle *i = opaque;

        assert_true(i->looking);
        if (++i->looks == 3)
                loop_quit(i->loop, 7);
        return i->looks == 3;
}

static bool idle_end(void *opaque) {
        struct idle *i = opaque;

        i->looking = false;
        i->ends++;
        return false;
}

static void idle_event(void *opaque, int fd, uint32_t events) {
        struct idle *i = opaque;
        uint64_t n;

        assert_false(i->looking); /* descriptors are watched with doorbells on */
        i->events++;
        (void)!read(fd, &n, sizeof(n));
        if (i->looks == 0) /* the next sleep is short as well */
                (void)!write(fd, &n, sizeof(n));
}

static void idle_tick(void *opaque) {
        struct idle *i = opaque;

        if (++i->ticks == 3)
                loop_quit(i->loop, 42);
        else
                assert_int_equal(loop_timer_set(i->timer, 5000), 0);
}

/* A loop that never looks costs each request of a busy guest two wake-ups; one that always looks burns a processor while nothing happens. */
static void test_loop_looks_before_it_sleeps(void **state) {
        static const struct loop_idle_ops ops = { idle_begin, idle_look, idle_end };
        _cleanup_(loop_freep) struct loop *loop = NULL;
        _cleanup_close_ int fd = eventfd(1, EFD_NONBLOCK);
        struct idle idle = { 0 };

        assert_int_equal(loop_new(&loop), 0);
        idle.loop = loop;
        assert_int_equal(loop_add_fd(loop, fd, EPOLLIN, idle_event, &idle, NULL), 0);
        loop_set_idle(loop, &ops, &idle, 1000000000);
        assert_int_equal(loop_run(loop), 7); /* by the third look, which only short sleeps bring about */
        assert_true(idle.events > 0);
        assert_int_equal(idle.begins, idle.ends);

        loop_set_idle(loop, &ops, &idle, 1000);
        idle.begins = 0;
        assert_int_equal(loop_add_timer(loop, idle_tick, &idle, &idle.timer), 0);
        assert_int_equal(loop_timer_set(idle.timer, 5000), 0);
        assert_int_equal(loop_run(loop), 42);
        assert_int_equal(idle.begins, 0); /* sleeps are long */
}

/* More descriptors than the receiver has room for must be closed, not leaked. */
static void test_fds_overflow(void **state) {
        int s[2], fds[2] = { 0, 1 }, got[1];
        size_t n = 1;
        char c;

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s), 0);
        assert_int_equal(io_send_fds(s[0], "x", 1, fds, 2), 0);
        assert_int_equal(io_recv_fds(s[1], &c, 1, got, &n), -EMSGSIZE);
        assert_int_equal(io_send_fds(s[0], "y", 1, fds, 1), 0);
        assert_int_equal(io_recv_fds(s[1], &c, 1, got, &n), 1);
        assert_int_equal(n, 1);
        close(got[0]);
        close(s[0]);
        close(s[1]);
}

struct paced {
        struct loop *loop;
        unsigned int rounds;
        int policy;
};

/* Always ready: one piece of work at a time, many when patient. */
static void paced_event(void *opaque, int fd, uint32_t events) {
        struct paced *p = opaque;

        p->policy = sched_getscheduler(0);
        loop_did(p->loop, p->policy == SCHED_BATCH ? 1000 : 1);
        if (++p->rounds == 1000)
                loop_quit(p->loop, 0);
}

static void *run_paced(void *opaque) {
        struct paced *p = opaque;
        int fd = eventfd(1, EFD_CLOEXEC);

        if (p->policy == SCHED_IDLE)
                assert_int_equal(sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 }), 0);
        loop_set_pace(p->loop);
        assert_int_equal(loop_add_fd(p->loop, fd, EPOLLIN, paced_event, p, NULL), 0);
        assert_int_equal(loop_run(p->loop), 0);
        close(fd);
        return NULL;
}

/* A thread that always takes the CPU from its waker finds one request where thirty could be; one that was given its policy keeps it. */
static void test_loop_keeps_pace(void **state) {
        for (int i = 0; i < 2; i++) {
                _cleanup_(loop_freep) struct loop *loop = NULL;
                struct paced p = { .policy = i == 0 ? SCHED_OTHER : SCHED_IDLE };
                pthread_t id;

                assert_int_equal(loop_new(&loop), 0);
                p.loop = loop;
                assert_int_equal(pthread_create(&id, NULL, run_paced, &p), 0);
                assert_int_equal(pthread_join(id, NULL), 0);
                assert_int_equal(p.policy, i == 0 ? SCHED_BATCH : SCHED_IDLE);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_first_error_wins),
                cmocka_unit_test(test_error_print_escapes),
                cmocka_unit_test(test_text_char),
                cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_uints),
                cmocka_unit_test(test_source_frees_its_neighbour),
                cmocka_unit_test(test_post_and_timer),
                cmocka_unit_test(test_loop_looks_before_it_sleeps),
                cmocka_unit_test(test_loop_keeps_pace),
                cmocka_unit_test(test_fds_overflow),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
