// SPDX-License-Identifier: GPL-2.0-or-later
/* keeper: its socket against hostile clients, its console against slow viewers, its files and roots */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/io.h"
#include "daemon/engine/parts-roots.h"
#include "daemon/keeper/client.h"
#include "daemon/keeper/feed.h"
#include "daemon/keeper/place.h"
#include "daemon/keeper/record.h"
#include "daemon/keeper/server.h"

struct fixture {
        char dir[64];
        int dir_fd, listen_fd;
        struct loop *loop;
        struct server *server;
        unsigned int requests;
};

static int on_request(void *opaque, const struct keeper_request *request, struct keeper_reply *reply, int *ret_fd,
                      struct error *e) {
        struct fixture *f = opaque;

        f->requests++;
        if (request->op == KEEPER_OP_KILL)
                return error_set(e, -ESRCH, "no-such-thing", "a fix", "a message with \033 in it");
        if (request->op == KEEPER_OP_CONSOLE)
                *ret_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        reply->status.pid = 42;
        return 0;
}

static int setup(void **state) {
        static const struct server_ops ops = { .on_request = on_request };
        struct fixture *f = calloc(1, sizeof(*f));

        snprintf(f->dir, sizeof(f->dir), "/tmp/lodge-test-keeper-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        assert_int_equal(place_open(f->dir, -EBADF, &f->dir_fd, NULL), 0);
        assert_int_equal(place_listen(f->dir_fd, PLACE_SOCKET, SOCK_SEQPACKET, &f->listen_fd), 0);
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(server_new(f->loop, f->listen_fd, &ops, f, &f->server), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        server_free(f->server);
        loop_free(f->loop);
        safe_close(f->listen_fd);
        place_clear(f->dir_fd);
        safe_close(f->dir_fd);
        rmdir(f->dir);
        free(f);
        return 0;
}

static void turn(struct fixture *f) {
        while (loop_run_once(f->loop, 0) > 0)
                ;
}

static int client(struct fixture *f) {
        int fd;

        assert_int_equal(place_connect(f->dir_fd, PLACE_SOCKET, SOCK_SEQPACKET, &fd), 0);
        turn(f);
        return fd;
}

/* Send a packet and give back the answer's error id, "" for none, NULL when the connection ended. */
static char *ask(struct fixture *f, int fd, const char *packet, size_t n) {
        static char id[64];
        struct keeper_reply *reply;
        char answer[8192];
        ssize_t got;

        assert_int_equal(send(fd, packet, n, MSG_NOSIGNAL), n);
        turn(f);
        got = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        if (got <= 0)
                return NULL;
        assert_int_equal(keeper_reply_parse(answer, (size_t)got, &reply, NULL), 0);
        snprintf(id, sizeof(id), "%s", reply->error.code ? reply->error.id ?: "?" : "");
        keeper_reply_free(reply);
        return id;
}

/* A worker that was taken over sends what it likes: the keeper answers, keeps nothing, and serves the next. */
static void test_hostile_packets(void **state) {
        static const struct {
                const char *packet, *id;
        } cases[] = {
                { "hello", "schema-json" },
                { "{\"op\":\"format-disk\"}", "schema-enum" },
                { "{\"id\":1}", "schema-required" },
                { "{\"op\":\"status\",\"op\":\"kill\"}", "schema-json" },
                { "{\"op\":\"console\",\"history\":99999999}", "schema-range" },
                { "{\"op\":\"status\",\"id\":-1}", "schema-range" },
                { "[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "schema-too-deep" },
                { "{\"op\":\"status\"}{\"op\":\"kill\"}", "schema-json" },
        };
        struct fixture *f = *state;
        char *big = malloc(200000), *id;
        _cleanup_close_ int fd = client(f);

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                id = ask(f, fd, cases[i].packet, strlen(cases[i].packet));
                assert_non_null(id);
                if (strcmp(cases[i].id, "schema-json") != 0)
                        assert_string_equal(id, cases[i].id);
                assert_string_not_equal(id, "");
        }
        memset(big, ' ', 200000);
        memcpy(big, "{\"op\":\"status\"}", 15); /* what fits would be a request */
        id = ask(f, fd, big, 70000);
        assert_string_equal(id, "keeper-packet");
        id = ask(f, fd, big, SERVER_PACKET_MAX + 1);
        assert_string_equal(id, "keeper-packet");
        assert_int_equal(f->requests, 0);
        id = ask(f, fd, big, SERVER_PACKET_MAX);
        assert_string_equal(id, "");
        assert_int_equal(f->requests, 1);
        id = ask(f, fd, "{\"op\":\"kill\",\"id\":4294967295}", 29);
        assert_string_equal(id, "no-such-thing");
        free(big);
}

/* Descriptors that a client sends must not pile up here. */
static void test_a_client_that_sends_descriptors_is_dropped(void **state) {
        struct fixture *f = *state;
        _cleanup_close_ int fd = client(f), gift = open("/dev/null", O_RDONLY | O_CLOEXEC);
        char byte;

        assert_int_equal(io_send_fds(fd, "{\"op\":\"status\"}", 15, &gift, 1), 0);
        turn(f);
        assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
        assert_int_equal(f->requests, 0);
}

/* A hundred connections are no more than noise, and room is made when they go. */
static void test_a_hundred_clients(void **state) {
        struct fixture *f = *state;
        int fds[100];
        size_t served = 0;

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = client(f);
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                struct pollfd p = { .fd = fds[i], .events = POLLIN };

                if (poll(&p, 1, 0) > 0) /* closed */
                        continue;
                assert_string_equal(ask(f, fds[i], "{\"op\":\"status\"}", 15), "");
                served++;
        }
        assert_int_equal(served, SERVER_CLIENTS_MAX);
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                close(fds[i]);
        turn(f);
        fds[0] = client(f);
        assert_string_equal(ask(f, fds[0], "{\"op\":\"status\"}", 15), "");
        close(fds[0]);
}

/* Who asks without end and never reads must not take memory, or the keeper's time. */
static void test_a_client_that_never_reads_is_dropped(void **state) {
        struct fixture *f = *state;
        _cleanup_close_ int fd = client(f), other = client(f);
        int sent = 0;

        while (sent < 100000 && send(fd, "{\"op\":\"status\"}", 15, MSG_DONTWAIT | MSG_NOSIGNAL) == 15) {
                sent++;
                turn(f);
        }
        assert_in_range(sent, 1, 99999);
        assert_string_equal(ask(f, other, "{\"op\":\"status\"}", 15), "");
}

/* Events go to those who asked, and one of them that does not read holds up nobody. */
static void test_events(void **state) {
        struct fixture *f = *state;
        _cleanup_close_ int deaf = client(f), fd = client(f), other = client(f);
        struct keeper_event *event, told = { .event = KEEPER_EVENT_KIND_NET_DEAD, .index = 3 };
        struct pollfd p = { .fd = other, .events = POLLIN };

        assert_int_equal(keeper_event_read(fd, &event), 0);
        assert_string_equal(ask(f, deaf, "{\"op\":\"events\"}", 15), "");
        assert_string_equal(ask(f, fd, "{\"op\":\"events\"}", 15), "");
        for (int i = 0; i < 2000; i++) {
                server_tell(f->server, &told);
                assert_int_equal(keeper_event_read(fd, &event), 1);
                assert_int_equal(event->index, 3);
                keeper_event_free(event);
        }
        assert_int_equal(poll(&p, 1, 0), 0);
        server_free(TAKE_PTR(f->server));
        assert_int_equal(keeper_event_read(fd, &event), -EPIPE);
}

/* ---- the console ------------------------------------------------------------------------------------------------- */

struct console {
        struct loop *loop;
        struct feed *feed;
        int ours, guest;
};

static void console_open(struct console *c) {
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        c->ours = pair[0];
        c->guest = pair[1];
        assert_int_equal(loop_new(&c->loop), 0);
        assert_int_equal(feed_new(c->loop, c->ours, &c->feed), 0);
}

static void console_close(struct console *c) {
        feed_free(c->feed);
        loop_free(c->loop);
        close(c->ours);
        close(c->guest);
}

static void console_turn(struct console *c) {
        for (int i = 0; i < 1000 && loop_run_once(c->loop, 0) > 0; i++)
                ;
}

/* The stream is made of its own offsets, so that what is missing or doubled shows. */
static char at(uint64_t offset) {
        return (char)('a' + (offset * 2654435761u >> 7) % 26);
}

static void guest_says(struct console *c, uint64_t *total, size_t n) {
        while (n > 0) {
                char buf[4096];
                size_t part = MIN(n, sizeof(buf));

                for (size_t i = 0; i < part; i++)
                        buf[i] = at(*total + i);
                assert_int_equal(write(c->guest, buf, part), part);
                *total += part;
                n -= part;
                console_turn(c);
        }
}

/* Read all that is there, from @from on; returns where it ends. *@ret_ended: the stream has. */
static uint64_t viewer_reads(struct console *c, int fd, uint64_t from, bool *ret_ended) {
        char buf[8192];
        ssize_t n;

        while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
                for (ssize_t i = 0; i < n; i++)
                        assert_int_equal(buf[i], at(from + (uint64_t)i));
                from += (uint64_t)n;
                console_turn(c);
        }
        *ret_ended = n == 0;
        return from;
}

/* Viewers see every byte once, late ones what is kept; one that sleeps is dropped, and the guest never waits. */
static void test_viewers(void **state) {
        struct console c;
        uint64_t total = 0, seen = 0;
        int awake, asleep, late;
        bool ended;

        console_open(&c);
        guest_says(&c, &total, 1000);
        assert_int_equal(feed_view(c.feed, 100, &awake), 0);
        assert_int_equal(feed_view(c.feed, 0, &asleep), 0);
        seen = viewer_reads(&c, awake, total - 100, &ended);
        assert_int_equal(seen, total);
        for (int i = 0; i < 100; i++) {
                guest_says(&c, &total, 12345);
                seen = viewer_reads(&c, awake, seen, &ended);
                assert_int_equal(seen, total);
                assert_false(ended);
        }
        assert_true(viewer_reads(&c, asleep, 1000, &ended) < total); /* what its socket held */
        assert_true(ended);
        assert_int_equal(feed_view(c.feed, SIZE_MAX, &late), 0);
        seen = viewer_reads(&c, late, total - FEED_RING_SIZE, &ended);
        console_turn(&c);
        seen = viewer_reads(&c, late, seen, &ended);
        assert_int_equal(seen, total);
        assert_int_equal(feed_total(c.feed), total);
        feed_end(c.feed);
        viewer_reads(&c, late, seen, &ended);
        assert_true(ended);
        console_close(&c);
        close(awake);
        close(asleep);
        close(late);
}

/* What somebody pipes in and leaves must arrive, whole, however slowly the guest reads; a guest that never reads stops nobody. */
static void test_typing(void **state) {
        size_t size = 60000, got = 0;
        char *text = malloc(size), buf[1000];
        struct console c;
        int viewer, more[FEED_VIEWERS_MAX];
        ssize_t n;

        console_open(&c);
        for (size_t i = 0; i < size; i++)
                text[i] = at(i);
        assert_int_equal(feed_view(c.feed, 0, &viewer), 0);
        assert_int_equal(write(viewer, text, size), size);
        close(viewer);
        for (int i = 0; i < 1000 && got < size; i++) {
                console_turn(&c);
                while ((n = recv(c.guest, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
                        assert_memory_equal(buf, text + got, (size_t)n);
                        got += (size_t)n;
                }
        }
        assert_int_equal(got, size);
        /* It stops reading: the buffers fill, each of these leaves something behind, and a new viewer still finds a place. */
        for (int round = 0; round < 3; round++)
                for (size_t i = 0; i < FEED_VIEWERS_MAX; i++) {
                        assert_int_equal(feed_view(c.feed, 0, &more[i]), 0);
                        io_set_nonblock(more[i], true);
                        while (write(more[i], text, size) > 0)
                                console_turn(&c);
                        close(more[i]);
                        console_turn(&c);
                }
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                assert_int_equal(feed_view(c.feed, 0, &more[i]), 0);
        assert_int_equal(feed_view(c.feed, 0, &viewer), -EUSERS);
        for (size_t i = 0; i < FEED_VIEWERS_MAX; i++)
                close(more[i]);
        console_close(&c);
        free(text);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* What a taken-over VMM wrote to its log must not spoil the record of its end, or the reader's terminal. */
static void test_a_hostile_log(void **state) {
        static struct tail tail;
        struct keeper_exit *record, *again;
        char *text, line[3000];

        memset(line, 'x', sizeof(line));
        for (int i = 0; i < 50; i++)
                tail_add(&tail, "\033[2J\xff\xfe\" \xe2\x80\xae\r\n", 13);
        tail_add(&tail, line, sizeof(line));
        assert_int_equal(keeper_exit_new(&record), 0);
        record->version = 1;
        assert_int_equal(record_log(record, &tail), 0);
        assert_int_equal(record->n_log, TAIL_LINES);
        text = keeper_exit_format(record);
        assert_non_null(text);
        assert_int_equal(keeper_exit_parse(text, strlen(text), &again, NULL), 0);
        assert_null(strchr(text, '\033'));
        free(text);
        keeper_exit_free(record);
        keeper_exit_free(again);
}

static void touch(const char *dir, const char *name) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int check(const struct parts_options *o, const char *dir, const char *name) {
        _cleanup_close_ int fd = -EBADF;
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        return parts_check_roots(o, fd, "disk", path, NULL);
}

/* A link, a neighbour with a longer name, or a way up must not lead out of a machine's directories. */
static void test_roots(void **state) {
        char dir[] = "/tmp/lodge-test-roots-XXXXXX", a[64], ab[64], path[128], file[128], link_root[64];
        const char *roots[2] = { a, "/nonexistent/lodge" };
        struct parts_options o = { .roots = roots, .n_roots = 2 };

        assert_non_null(mkdtemp(dir));
        snprintf(a, sizeof(a), "%s/a", dir);
        snprintf(ab, sizeof(ab), "%s/ab", dir);
        snprintf(link_root, sizeof(link_root), "%s/link", dir);
        assert_int_equal(mkdir(a, 0700) | mkdir(ab, 0700), 0);
        touch(a, "disk");
        touch(ab, "disk");
        snprintf(path, sizeof(path), "%s/passwd", a);
        assert_int_equal(symlink("/etc/passwd", path), 0);
        assert_int_equal(symlink(a, link_root), 0);
        assert_int_equal(check(&o, a, "disk"), 0);
        assert_int_equal(check(&o, a, "passwd"), -EPERM);
        assert_int_equal(check(&o, ab, "disk"), -EPERM);
        assert_int_equal(check(&o, a, "../ab/disk"), -EPERM);
        assert_int_equal(check(&o, "/etc", "passwd"), -EPERM);
        assert_int_equal(check(NULL, "/etc", "passwd"), 0);
        roots[0] = link_root; /* somebody has put a link in a root's place: it opens nothing */
        assert_int_equal(check(&o, a, "disk"), -EPERM);
        snprintf(file, sizeof(file), "%s/disk", ab); /* a root may be one file, such as a block device */
        roots[0] = file;
        assert_int_equal(check(&o, ab, "disk"), 0);
        assert_int_equal(check(&o, a, "disk"), -EPERM);
        roots[0] = "/";
        assert_int_equal(check(&o, "/etc", "passwd"), 0);
        snprintf(path, sizeof(path), "rm -r %s", dir);
        assert_int_equal(system(path), 0);
}

/* One keeper a machine; and a directory that others may write to is no place for its sockets. */
static void test_place(void **state) {
        char dir[] = "/tmp/lodge-test-place-XXXXXX";
        _cleanup_error_ struct error e = ERROR_INIT, open_to_all = ERROR_INIT;
        struct keeper_exit *record;
        int first, second, fd;

        assert_non_null(mkdtemp(dir));
        assert_int_equal(keeper_exit_read(dir, &record, NULL), -ENOENT);
        assert_int_equal(keeper_connect(dir, &fd, NULL), -ENOENT);
        assert_int_equal(place_open(dir, -EBADF, &first, NULL), 0);
        assert_int_equal(place_listen(first, PLACE_SOCKET, SOCK_SEQPACKET, &fd), 0);
        close(fd);
        assert_int_equal(keeper_connect(dir, &fd, NULL), -ECONNREFUSED); /* its keeper was killed */
        assert_int_equal(place_open(dir, -EBADF, &second, &e), -EBUSY);
        assert_string_equal(e.id, "keeper-busy");
        close(first);
        assert_int_equal(place_open(dir, -EBADF, &second, NULL), 0);
        assert_int_equal(keeper_connect(dir, &fd, NULL), -ENOENT);
        close(second);
        assert_int_equal(chmod(dir, 0755), 0);
        assert_int_equal(place_open(dir, -EBADF, &second, &open_to_all), -EPERM);
        assert_string_equal(open_to_all.id, "keeper-run-dir");
        assert_int_equal(rmdir(dir), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_hostile_packets, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_client_that_sends_descriptors_is_dropped, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_hundred_clients, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_client_that_never_reads_is_dropped, setup, teardown),
                cmocka_unit_test_setup_teardown(test_events, setup, teardown),
                cmocka_unit_test(test_viewers),
                cmocka_unit_test(test_typing),
                cmocka_unit_test(test_a_hostile_log),
                cmocka_unit_test(test_roots),
                cmocka_unit_test(test_place),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
