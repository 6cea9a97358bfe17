// SPDX-License-Identifier: GPL-2.0-or-later
/* agent: the conversation with the guest agent, played by a script; a hostile guest can end it but not confuse it */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "daemon/engine/agent.h"

struct fixture {
        struct loop *loop;
        struct agent *agent;
        int ours, theirs;
        int ready, execs, ended, end_reason, refused, result;
        struct agent_result last;
        char out[64], reason[128];
        char heard[65536];
};

static void on_ready(void *opaque) {
        ((struct fixture *)opaque)->ready++;
}

static void on_exec(void *opaque, int result, const struct agent_result *value, const char *reason) {
        struct fixture *f = opaque;

        f->execs++;
        f->result = result;
        if (value) {
                f->last = *value;
                snprintf(f->out, sizeof(f->out), "%s", value->out ?: "");
        }
        snprintf(f->reason, sizeof(f->reason), "%s", reason ?: "");
}

static void on_refused(void *opaque) {
        ((struct fixture *)opaque)->refused++;
}

static void on_end(void *opaque, int reason) {
        struct fixture *f = opaque;

        f->ended++;
        f->end_reason = reason;
}

static void spin(struct fixture *f, int ms) {
        for (int i = 0; i < ms / 10; i++)
                while (loop_run_once(f->loop, 10) > 0)
                        ;
}

static int setup(void **state) {
        static const struct agent_ops ops = { on_ready, on_refused, on_end };
        struct fixture *f = calloc(1, sizeof(*f));
        int pair[2];

        assert_non_null(f);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        f->ours = pair[0];
        f->theirs = pair[1];
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(agent_new(f->loop, f->ours, &ops, f, &f->agent), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        agent_free(f->agent);
        loop_free(f->loop);
        safe_close(f->ours);
        safe_close(f->theirs);
        free(f);
        return 0;
}

static void say(struct fixture *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct fixture *f, const char *format, ...) {
        char buf[4096];
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(buf, sizeof(buf), format, ap);
        va_end(ap);
        assert_int_equal(io_write_all(f->theirs, buf, (size_t)n), 0);
        for (int i = 0; i < 3; i++)
                loop_run_once(f->loop, 0);
}

/* Everything said to the agent since the last time. */
static const char *hear(struct fixture *f) {
        ssize_t n = recv(f->theirs, f->heard, sizeof(f->heard) - 1, MSG_DONTWAIT);

        f->heard[n > 0 ? n : 0] = '\0';
        return f->heard;
}

static long long number_after(const char *text, const char *key) {
        const char *at = strstr(text, key);

        assert_non_null(at);
        return atoll(at + strlen(key));
}

static void become_ready(struct fixture *f) {
        long long id;

        spin(f, 20);
        id = number_after(hear(f), "\"id\":");
        say(f, "\xff{\"return\": %lld}\n", id);
        assert_int_equal(number_after(hear(f), "\"guest-sync\",\"arguments\":{\"id\":"), id + 1);
        assert_int_equal(f->ready, 0);
        say(f, "{\"return\": %lld}\n", id + 1);
        assert_int_equal(f->ready, 1);
}

/* An agent that starts late must be found: the knock is repeated, each time with the byte that clears its parser. */
static void test_knocks_until_answered(void **state) {
        struct fixture *f = *state;
        const char *first, *second;

        spin(f, 300);
        first = hear(f);
        assert_int_equal((unsigned char)first[0], 0xff);
        second = strchr(first + 1, '\xff');
        assert_non_null(second);
        say(f, "{\"return\": 1}\n{\"error\": {\"desc\": \"stray\"}}\n");
        assert_int_equal(f->ready, 0);
        spin(f, 300);
        become_ready(f);
}

/* Many guests have no agent: what nobody reads must not pile up in the daemon, five knocks a second for each machine. */
static void test_knocks_do_not_pile_up(void **state) {
        struct fixture *f = *state;
        const int size = 1;
        size_t taken = 0, total = 0;
        char first[8192];
        ssize_t n;

        /* The smallest buffer that there is; what is left of it is filled until nothing is taken. */
        assert_int_equal(setsockopt(f->ours, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
        while (send(f->ours, "\n", 1, MSG_DONTWAIT) == 1)
                taken++;
        spin(f, 900); /* four knocks */
        while ((n = recv(f->theirs, first, sizeof(first), MSG_DONTWAIT)) > 0) {
                total += (size_t)n;
                loop_run_once(f->loop, 0);
        }
        assert_true(total > taken);
        assert_true(total - taken < 100); /* one */
}

/* The answers to further knocks, errors among them, must not be taken for the answer to the command. */
static void test_echoes_are_skipped(void **state) {
        struct fixture *f = *state;
        long long id;

        spin(f, 20);
        id = number_after(hear(f), "\"id\":");
        say(f, "\xff{\"return\": %lld}\n{\"error\": {\"desc\": \"stray 0xff\"}}\n\xff{\"return\": %lld}\n", id, id);
        assert_int_equal(f->ready, 0);
        say(f, "{\"return\": %lld}\n", id + 1);
        assert_int_equal(f->ready, 1);
        assert_int_equal(f->ended, 0);
}

static void test_exec(void **state) {
        struct fixture *f = *state;
        const char *text;

        assert_int_equal(agent_exec(f->agent, "true", on_exec, f), -EBUSY);
        become_ready(f);
        assert_int_equal(agent_exec(f->agent, "uname \"-a\"", on_exec, f), 0);
        text = hear(f);
        assert_non_null(strstr(text, "\"/bin/sh\""));
        assert_non_null(strstr(text, "[\"-c\",\"uname \\\"-a\\\"\"]"));
        say(f, "{\"return\": {\"pid\": 42}}\n");
        spin(f, 30);
        assert_int_equal(number_after(hear(f), "\"pid\":"), 42);
        say(f, "{\"return\": {\"exited\": false}}\n");
        assert_int_equal(f->execs, 0);
        spin(f, 60);
        say(f,
            "{\"return\": {\"exited\": true, \"exitcode\": 3, \"out-data\": \"aGVsbG8K\", \"out-truncated\": true}}\n");
        assert_int_equal(f->execs, 1);
        assert_int_equal(f->result, 0);
        assert_int_equal(f->last.status, 3);
        assert_int_equal(f->last.out_len, 6);
        assert_string_equal(f->out, "hello\n");
        assert_true(f->last.out_truncated);
        assert_int_equal(f->last.err_len, 0);
}

/* A command that a signal ended must not look like success. */
static void test_signal_and_refusal(void **state) {
        struct fixture *f = *state;

        become_ready(f);
        assert_int_equal(agent_exec(f->agent, "kill -9 $$", on_exec, f), 0);
        say(f, "{\"return\": {\"pid\": 1}}\n");
        spin(f, 30);
        say(f, "{\"return\": {\"exited\": true, \"signal\": 9}}\n");
        assert_int_equal(f->last.status, 137);
        assert_int_equal(agent_exec(f->agent, "x", on_exec, f), 0);
        say(f, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"disabled\"}}\n");
        assert_int_equal(f->execs, 2);
        assert_int_equal(f->result, -EREMOTEIO);
        assert_string_equal(f->reason, "disabled");
        hear(f);
        assert_int_equal(agent_shutdown(f->agent), 0);
        assert_non_null(strstr(hear(f), "guest-shutdown"));
        say(f, "{\"error\": {\"desc\": \"no /sbin/shutdown\"}}\n");
        assert_int_equal(f->refused, 1);
}

struct count {
        int n, result;
        long long value;
};

static void on_reply(void *opaque, int result, json_t *value, const char *reason) {
        struct count *c = opaque;

        c->n++;
        c->result = result;
        c->value = json_integer_value(value);
}

/* A long command must not keep others from being run, and answers must find their own command: one request is open at a time. */
static void test_two_at_once(void **state) {
        struct fixture *f = *state;
        struct count c = { 0 };

        become_ready(f);
        assert_int_equal(agent_exec(f->agent, "sleep 1000", on_exec, f), 0);
        assert_int_equal(agent_call(f->agent, "guest-file-open", json_pack("{s:s}", "path", "/x"), on_reply, &c), 0);
        assert_null(strstr(hear(f), "guest-file-open"));
        say(f, "{\"return\": {\"pid\": 7}}\n");
        assert_non_null(strstr(hear(f), "guest-file-open"));
        say(f, "{\"return\": 1000}\n");
        assert_int_equal(c.n, 1);
        assert_int_equal(c.value, 1000);
        assert_int_equal(f->execs, 0);
        spin(f, 30);
        assert_int_equal(number_after(hear(f), "\"pid\":"), 7);
        say(f, "{\"return\": {\"exited\": true, \"exitcode\": 1}}\n");
        assert_int_equal(f->execs, 1);
        assert_int_equal(f->last.status, 1);
}

/* Whoever has gone must not be called, and the answer that he waited for must not go to the next one. */
static void test_call_and_forget(void **state) {
        struct count gone = { 0 }, here = { 0 };
        struct fixture *f = *state;

        become_ready(f);
        assert_int_equal(agent_call(f->agent, "guest-ping", json_object(), on_reply, &gone), 0);
        assert_int_equal(agent_call(f->agent, "guest-get-time", json_object(), on_reply, &here), 0);
        agent_forget(f->agent, &gone);
        say(f, "{\"return\": 1}\n");
        say(f, "{\"error\": {\"desc\": \"no clock\"}}\n");
        assert_int_equal(gone.n, 0);
        assert_int_equal(here.n, 1);
        assert_int_equal(here.result, -EREMOTEIO);
        assert_int_equal(agent_call(f->agent, "guest-ping", json_object(), on_reply, &here), 0);
        safe_close(f->theirs);
        f->theirs = -EBADF;
        spin(f, 20);
        assert_int_equal(here.n, 2);
        assert_int_equal(here.result, -EPIPE);
        assert_int_equal(f->ended, 1);
}

/* Wrong types and impossible numbers from the guest end it, once, without a result. */
static void test_hostile_results(void **state) {
        static const char *const lies[] = {
                "{\"return\": {\"exited\": 1}}\n",
                "{\"return\": {\"exited\": true}}\n",
                "{\"return\": {\"exited\": true, \"exitcode\": 256}}\n",
                "{\"return\": {\"exited\": true, \"exitcode\": -1}}\n",
                "{\"return\": {\"exited\": true, \"signal\": 4096}}\n",
                "{\"return\": {\"exited\": true, \"exitcode\": 0, \"out-data\": 7}}\n",
                "{\"return\": {\"exited\": true, \"exitcode\": 0, \"out-data\": \"a===\"}}\n",
                "\"string\"\n",
        };

        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                void *one = NULL;
                struct fixture *f;

                setup(&one);
                f = one;
                become_ready(f);
                assert_int_equal(agent_exec(f->agent, "x", on_exec, f), 0);
                say(f, "{\"return\": {\"pid\": 1}}\n");
                spin(f, 30);
                say(f, "%s", lies[i]);
                assert_int_equal(f->execs, 1);
                assert_int_equal(f->result, -EPIPE);
                assert_int_equal(f->ended, 1);
                assert_int_equal(f->end_reason, -EPROTO);
                assert_int_equal(agent_exec(f->agent, "x", on_exec, f), -EPIPE);
                teardown(&one);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_knocks_until_answered, setup, teardown),
                cmocka_unit_test_setup_teardown(test_knocks_do_not_pile_up, setup, teardown),
                cmocka_unit_test_setup_teardown(test_echoes_are_skipped, setup, teardown),
                cmocka_unit_test_setup_teardown(test_exec, setup, teardown),
                cmocka_unit_test_setup_teardown(test_signal_and_refusal, setup, teardown),
                cmocka_unit_test(test_hostile_results),
                cmocka_unit_test_setup_teardown(test_two_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_call_and_forget, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
