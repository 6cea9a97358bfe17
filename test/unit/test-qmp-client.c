// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp-client: the order of greeting and commands, replies that match, and a VMM that turned hostile */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "daemon/engine/qmp.h"

struct fixture {
        struct loop *loop;
        struct qmp_client *client;
        int ours, theirs;
        char event[64];
        int ended, end_reason, replies, result;
        json_int_t value;
};

static void on_event(void *opaque, const char *name, json_t *data) {
        struct fixture *f = opaque;

        snprintf(f->event, sizeof(f->event), "%s", name);
}

static void on_end(void *opaque, int reason) {
        struct fixture *f = opaque;

        f->ended++;
        f->end_reason = reason;
}

static void on_reply(void *opaque, int result, json_t *value) {
        struct fixture *f = opaque;

        f->replies++;
        f->result = result;
        f->value = json_integer_value(json_object_get(value, "n"));
}

static int setup(void **state) {
        static const struct qmp_client_ops ops = { .on_event = on_event, .on_end = on_end };
        struct fixture *f = calloc(1, sizeof(*f));
        int pair[2];

        assert_non_null(f);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        f->ours = pair[0];
        f->theirs = pair[1];
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(qmp_client_new(f->loop, f->ours, &ops, f, &f->client), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        qmp_client_free(f->client);
        loop_free(f->loop);
        safe_close(f->ours);
        safe_close(f->theirs);
        free(f);
        return 0;
}

static void say(struct fixture *f, const char *text) {
        assert_int_equal(io_write_all(f->theirs, text, strlen(text)), 0);
        while (loop_run_once(f->loop, 20) > 0)
                ;
}

static void heard(struct fixture *f, char *buf, size_t size) {
        ssize_t n = recv(f->theirs, buf, size - 1, MSG_DONTWAIT);

        buf[n > 0 ? n : 0] = '\0';
}

/* A command before the greeting is an error to QEMU: it must wait. */
static void test_commands_wait_for_the_greeting(void **state) {
        struct fixture *f = *state;
        char buf[512];

        assert_int_equal(qmp_client_command(f->client, "query-status", NULL, on_reply, f), 0);
        heard(f, buf, sizeof(buf));
        assert_string_equal(buf, "");
        say(f, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
        heard(f, buf, sizeof(buf));
        assert_string_equal(buf, "{\"execute\":\"qmp_capabilities\",\"id\":2}\n");
        assert_false(qmp_client_ready(f->client));
        say(f, "{\"return\": {}, \"id\": 2}\r\n");
        assert_true(qmp_client_ready(f->client));
        heard(f, buf, sizeof(buf));
        assert_string_equal(buf, "{\"execute\":\"query-status\",\"id\":1}\n");
        say(f, "{\"event\": \"RESUME\", \"timestamp\": {}}\n{\"return\": {\"n\": 7}, \"id\": 1}\n");
        assert_string_equal(f->event, "RESUME");
        assert_int_equal(f->replies, 1);
        assert_int_equal(f->result, 0);
        assert_int_equal(f->value, 7);
}

/* A refused command must not look like success, and must be answered once. */
static void test_errors_and_strays(void **state) {
        struct fixture *f = *state;

        say(f, "{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n");
        assert_int_equal(qmp_client_command(f->client, "stop", json_object(), on_reply, f), 0);
        say(f, "{\"return\": {}, \"id\": 99}\n{\"return\": {}}\n{\"return\": {}, \"id\": -1}\n{\"return\": {}, \"id\": "
               "0}\n");
        assert_int_equal(f->replies, 0);
        say(f,
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 2}\n{\"return\": {}, \"id\": 2}\n");
        assert_int_equal(f->replies, 1);
        assert_int_equal(f->result, -EREMOTEIO);
        assert_int_equal(f->ended, 0);
}

/* Nonsense ends the conversation once, and later commands fail instead of waiting for ever. */
static void test_garbage_ends_it(void **state) {
        struct fixture *f = *state;

        say(f, "{\"QMP\": {}}\n[1,2\n{\"event\": \"X\"}\n");
        assert_int_equal(f->ended, 1);
        assert_int_equal(f->end_reason, -EPROTO);
        assert_string_equal(f->event, "");
        assert_int_equal(qmp_client_command(f->client, "stop", NULL, NULL, NULL), -EPIPE);
}

/* A line without an end must not take all memory. */
static void test_endless_line(void **state) {
        struct fixture *f = *state;
        static char chunk[65536];

        memset(chunk, 'x', sizeof(chunk));
        for (int i = 0; i < 40 && !f->ended; i++) {
                ssize_t n = send(f->theirs, chunk, sizeof(chunk), MSG_DONTWAIT | MSG_NOSIGNAL);

                (void)n;
                while (loop_run_once(f->loop, 0) > 0)
                        ;
        }
        assert_int_equal(f->ended, 1);
        assert_int_equal(f->end_reason, -EMSGSIZE);
}

static void test_close_ends_it(void **state) {
        struct fixture *f = *state;

        f->theirs = safe_close(f->theirs);
        loop_run_once(f->loop, 1000);
        assert_int_equal(f->ended, 1);
        assert_int_equal(f->end_reason, 0);
}

/* A machine that never answers must not make us queue for ever. */
static void test_queue_is_bounded(void **state) {
        struct fixture *f = *state;
        int i = 0;

        while (i < 1000 && qmp_client_command(f->client, "stop", NULL, NULL, NULL) == 0)
                i++;
        assert_int_equal(i, 32);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_commands_wait_for_the_greeting, setup, teardown),
                cmocka_unit_test_setup_teardown(test_errors_and_strays, setup, teardown),
                cmocka_unit_test_setup_teardown(test_garbage_ends_it, setup, teardown),
                cmocka_unit_test_setup_teardown(test_endless_line, setup, teardown),
                cmocka_unit_test_setup_teardown(test_close_ends_it, setup, teardown),
                cmocka_unit_test_setup_teardown(test_queue_is_bounded, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
