// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp: hostile, slow and split input costs its sender only; replies and events have QMP's shape */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/io.h"
#include "schema/lodge-schema.h"
#include "vmm/control/frame.h"
#include "vmm/control/qmp.h"
#include "vmm/machine/cpus.h"
#include "vmm/machine/machine.h"

#define READY "{\"execute\":\"qmp_capabilities\"}"

struct env {
        struct machine machine;
        struct vmm_config config;
        struct qmp *qmp;
        int client;
        unsigned int pauses, resets, buttons, shutdowns;
        unsigned int limited; /* the disk whose limits were set last */
        struct throttle_config limits;
        char group[64];
        uint64_t resized;
        void (*resize_done)(void *opaque, int result, const struct error *e);
        void *resize_opaque;
        struct machine_mirror mirror; /* asked for; the descriptor is ours */
        struct machine_disk_job job;  /* disk 1's */
        bool has_job, completed;
        char last[16384];
        size_t n_last;
};

static struct env *env_of(struct machine *machine) {
        return CONTAINER_OF(machine, struct env, machine);
}

/* The machine, as far as control knows it. */

static void emit(struct machine *machine, enum machine_event event, enum shutdown_reason reason) {
        for (size_t i = 0; i < MACHINE_LISTENERS_MAX; i++)
                if (machine->listeners[i].fn)
                        machine->listeners[i].fn(machine->listeners[i].opaque, event, reason);
}

int machine_listen(struct machine *machine, machine_event_fn fn, void *opaque) {
        machine->listeners[0] = (struct machine_listener){ fn, opaque };
        return 0;
}

void machine_unlisten(struct machine *machine, machine_event_fn fn, void *opaque) {
        machine->listeners[0].fn = NULL;
}

int machine_pause(struct machine *machine) {
        env_of(machine)->pauses++;
        machine->state = MACHINE_PAUSED;
        emit(machine, MACHINE_EVENT_STOP, 0);
        return 0;
}

int machine_resume(struct machine *machine) {
        if (machine->state != MACHINE_PAUSED)
                return -EINVAL;
        machine->state = MACHINE_RUNNING;
        emit(machine, MACHINE_EVENT_RESUME, 0);
        return 0;
}

int machine_reset(struct machine *machine) {
        env_of(machine)->resets++;
        emit(machine, MACHINE_EVENT_RESET, SHUTDOWN_GUEST_RESET);
        return 0;
}

int machine_power_button(struct machine *machine) {
        env_of(machine)->buttons++;
        emit(machine, MACHINE_EVENT_POWERDOWN, 0);
        return 0;
}

void machine_request_shutdown(struct machine *machine, enum shutdown_reason reason, int exit_status) {
        env_of(machine)->shutdowns++;
        emit(machine, MACHINE_EVENT_SHUTDOWN, reason);
}

const char *machine_state_name(enum machine_state state) {
        return state == MACHINE_RUNNING ? "running" : "paused";
}

unsigned int cpus_count(const struct cpus *cpus) {
        return 2;
}

int cpus_thread_id(const struct cpus *cpus, unsigned int index) {
        return 1000 + (int)index;
}

static int set_disk_limits(struct machine *machine, unsigned int disk, const struct throttle_config *limits,
                           struct error *e) {
        struct env *env = env_of(machine);

        if (disk > 3)
                return error_set(e, -ENOENT, "disk-unknown", NULL, "there is no disk %u", disk);
        env->limited = disk;
        env->limits = *limits;
        snprintf(env->group, sizeof(env->group), "%s", limits->group ?: "-");
        return 0;
}

static int resize_disk(struct machine *machine, unsigned int disk, uint64_t size,
                       void (*done)(void *opaque, int result, const struct error *e), void *opaque, struct error *e) {
        struct env *env = env_of(machine);

        if (disk > 3)
                return error_set(e, -ENOENT, "disk-unknown", NULL, "there is no disk %u", disk);
        env->resized = size;
        env->resize_done = done;
        env->resize_opaque = opaque;
        return 0;
}

static int mirror_disk(struct machine *machine, unsigned int disk, const struct machine_mirror *options,
                       struct error *e) {
        struct env *env = env_of(machine);

        if (disk != 1)
                return error_set(e, -ENOENT, "disk-unknown", NULL, "there is no disk %u", disk);
        if (env->has_job)
                return error_set(e, -EBUSY, "disk-busy", NULL, "the disk is being mirrored already");
        env->mirror = *options;
        env->job = (struct machine_disk_job){ .disk = 1, .done = 65536, .left = 131072, .speed = options->speed };
        env->job.state = MACHINE_JOB_RUNNING;
        env->has_job = true;
        return 0;
}

static int query_disk_job(struct machine *machine, unsigned int disk, struct machine_disk_job *ret_job) {
        *ret_job = env_of(machine)->job;
        if (disk > 1)
                return -ENOENT;
        return disk == 1 && env_of(machine)->has_job ? 0 : -ESRCH;
}

static int end_disk_job(struct machine *machine, unsigned int disk, bool complete, struct error *e) {
        struct env *env = env_of(machine);

        if (disk != 1 || !env->has_job)
                return error_set(e, -ESRCH, "job-none", NULL, "disk%u is not being mirrored", disk);
        env->has_job = false;
        env->completed = complete;
        env->mirror.fd = safe_close(env->mirror.fd);
        return 0;
}

/* Disk 1 is a back end's, and disk 3 is not there. */
static int query_disk_stats(struct machine *machine, unsigned int disk, struct machine_disk_stats *ret_stats) {
        if (disk == 1)
                return -ESRCH;
        if (disk > 2)
                return -ENOENT;
        *ret_stats = (struct machine_disk_stats){ .operations = { 10 + disk, 20, 30, 40 },
                                                  .bytes = { 5120, UINT32_MAX + 1ull, 0, 4096 },
                                                  .failed = { 1, 2, 3, 4 } };
        return 0;
}

static const struct machine_hooks hooks = {
        .set_disk_limits = set_disk_limits,
        .resize_disk = resize_disk,
        .mirror_disk = mirror_disk,
        .query_disk_job = query_disk_job,
        .query_disk_stats = query_disk_stats,
        .end_disk_job = end_disk_job,
};

static int setup(void **state) {
        static struct env env;
        _cleanup_error_ struct error e = ERROR_INIT;
        int pair[2];

        env = (struct env){ .config = { .name = (char *)"web" } };
        env.machine.config = &env.config;
        env.machine.hooks = &hooks;
        env.machine.state = MACHINE_RUNNING;
        env.machine.cpus = (void *)&env;
        assert_int_equal(loop_new(&env.machine.loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        assert_int_equal(qmp_new(&env.machine, pair[0], &env.qmp, &e), 0);
        env.client = pair[1];
        *state = &env;
        return 0;
}

static int teardown(void **state) {
        struct env *env = *state;

        qmp_free(env->qmp);
        loop_free(env->machine.loop);
        safe_close(env->client);
        return 0;
}

static void run_loop(struct env *env) {
        while (loop_run_once(env->machine.loop, 0) > 0)
                ;
}

static void say(struct env *env, const char *text) {
        assert_int_equal(io_write_all(env->client, text, strlen(text)), 0);
        run_loop(env);
}

/* The next object from @fd, or NULL at the end or when nothing is there. */
static json_t *hear_from(struct env *env, int fd) {
        for (;;) {
                char *end = memchr(env->last, '\n', env->n_last);
                ssize_t n;

                if (end) {
                        size_t len = (size_t)(end - env->last) + 1;
                        json_t *object = json_loadb(env->last, len, 0, NULL);

                        assert_non_null(object);
                        assert_true(len >= 2 && end[-1] == '\r');
                        env->n_last -= len;
                        memmove(env->last, end + 1, env->n_last);
                        return object;
                }
                run_loop(env);
                n = recv(fd, env->last + env->n_last, sizeof(env->last) - env->n_last, MSG_DONTWAIT);
                if (n <= 0)
                        return NULL;
                env->n_last += (size_t)n;
        }
}

static json_t *hear(struct env *env) {
        return hear_from(env, env->client);
}

/* The next object must contain @expected, a JSON object: every key there with the same value. */
static void expect(struct env *env, const char *expected) {
        json_t *object = hear(env), *wanted = json_loads(expected, 0, NULL), *value;
        const char *key;

        assert_non_null(wanted);
        if (!object)
                fail_msg("nothing came, expected %s", expected);
        json_object_foreach(wanted, key, value) {
                char *text = json_dumps(object, 0);

                if (!json_equal(json_object_get(object, key), value))
                        fail_msg("expected %s in %s", expected, text);
                free(text);
        }
        json_decref(object);
        json_decref(wanted);
}

static void expect_error(struct env *env, const char *class) {
        json_t *object = hear(env), *error = json_object_get(object, "error");

        assert_non_null(error);
        assert_string_equal(json_string_value(json_object_get(error, "class")), class);
        assert_true(json_is_string(json_object_get(error, "desc")));
        json_decref(object);
}

static void expect_event(struct env *env, const char *name, const char *data) {
        json_t *object = hear(env), *wanted = data ? json_loads(data, 0, NULL) : NULL, *time;

        assert_non_null(object);
        assert_string_equal(json_string_value(json_object_get(object, "event")), name);
        time = json_object_get(object, "timestamp");
        assert_true(json_integer_value(json_object_get(time, "seconds")) > 1600000000);
        assert_in_range(json_integer_value(json_object_get(time, "microseconds")), 0, 999999);
        if (wanted)
                assert_true(json_equal(json_object_get(object, "data"), wanted));
        else
                assert_null(json_object_get(object, "data"));
        json_decref(wanted);
        json_decref(object);
}

static void negotiate(struct env *env) {
        json_decref(hear(env)); /* greeting */
        say(env, READY);
        expect(env, "{\"return\":{}}");
}

/* A client made for QEMU must get through its opening here. */
static void test_greeting_and_negotiation(void **state) {
        struct env *env = *state;
        json_t *greeting = hear(env), *qmp = json_object_get(greeting, "QMP");

        assert_true(json_is_array(json_object_get(qmp, "capabilities")));
        assert_true(
                json_is_integer(json_object_get(json_object_get(json_object_get(qmp, "version"), "qemu"), "major")));
        json_decref(greeting);
        say(env, "{\"execute\":\"query-status\"}");
        expect_error(env, "CommandNotFound"); /* not before qmp_capabilities */
        machine_pause(&env->machine);
        assert_null(hear(env)); /* nor events */
        say(env, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}");
        expect_error(env, "GenericError");
        say(env, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}");
        expect(env, "{\"return\":{}}");
        say(env, READY);
        expect_error(env, "CommandNotFound");
}

static void test_queries(void **state) {
        struct env *env = *state;

        negotiate(env);
        say(env, "{\"execute\":\"query-status\",\"id\":7}");
        expect(env, "{\"return\":{\"status\":\"running\",\"running\":true},\"id\":7}");
        say(env, "{\"execute\":\"query-name\",\"id\":{\"a\":[1,null]}}");
        expect(env, "{\"return\":{\"name\":\"web\"},\"id\":{\"a\":[1,null]}}");
        say(env, "{\"execute\":\"query-cpus-fast\",\"arguments\":{}}");
        expect(env, "{\"return\":[{\"cpu-index\":0,\"qom-path\":\"/machine/"
                    "cpu[0]\",\"thread-id\":1000,\"target\":\"x86_64\"},"
                    "{\"cpu-index\":1,\"qom-path\":\"/machine/cpu[1]\",\"thread-id\":1001,\"target\":\"x86_64\"}]}");
        say(env, "{\"execute\":\"query-commands\"}{\"execute\":\"query-version\"}");
        json_decref(hear(env));
        json_decref(hear(env));
}

#define STATS(reads)                                                                                                   \
        "\"stats\":{\"rd_bytes\":5120,\"rd_operations\":" reads ",\"failed_rd_operations\":1,\"wr_bytes\":4294967296," \
        "\"wr_operations\":20,\"failed_wr_operations\":2,\"flush_operations\":30,\"failed_flush_operations\":3,"       \
        "\"unmap_bytes\":4096,\"unmap_operations\":40,\"failed_unmap_operations\":4}"

/* The daemon reads both engines' answer: the names are QEMU's, and a disk that we do not count for is not there rather than idle. */
static void test_blockstats(void **state) {
        struct env *env = *state;

        negotiate(env);
        say(env, "{\"execute\":\"query-blockstats\"}");
        expect(env, "{\"return\":[{\"device\":\"disk0\",\"node-name\":\"disk0\"," STATS(
                            "10") "},"
                                  "{\"device\":\"disk2\",\"node-name\":\"disk2\"," STATS("12") "}]}");
        say(env, "{\"execute\":\"query-blockstats\",\"arguments\":{\"query-nodes\":true}}");
        expect_error(env, "GenericError");
}

/* Each command reaches the machine once, and each event says who was behind it. */
static void test_commands_and_events(void **state) {
        struct env *env = *state;

        negotiate(env);
        say(env, "{\"execute\":\"cont\"}");
        expect_error(env, "GenericError"); /* it runs already, says this machine */
        say(env, "{\"execute\":\"stop\"}");
        expect_event(env, "STOP", NULL);
        expect(env, "{\"return\":{}}");
        say(env, "{\"execute\":\"cont\"}");
        expect_event(env, "RESUME", NULL);
        expect(env, "{\"return\":{}}");
        say(env, "{\"execute\":\"system_reset\"}");
        expect_event(env, "RESET", "{\"guest\":false,\"reason\":\"host-qmp-system-reset\"}");
        expect(env, "{\"return\":{}}");
        machine_reset(&env->machine);
        expect_event(env, "RESET", "{\"guest\":true,\"reason\":\"guest-reset\"}");
        say(env, "{\"execute\":\"system_powerdown\"}");
        expect_event(env, "POWERDOWN", NULL);
        expect(env, "{\"return\":{}}");
        emit(&env->machine, MACHINE_EVENT_GUEST_PANICKED, SHUTDOWN_PANIC);
        expect_event(env, "GUEST_PANICKED", "{\"action\":\"poweroff\"}");
        emit(&env->machine, MACHINE_EVENT_SHUTDOWN, SHUTDOWN_HOST_QUIT);
        expect_event(env, "SHUTDOWN", "{\"guest\":false,\"reason\":\"host-signal\"}");
        emit(&env->machine, MACHINE_EVENT_SHUTDOWN, SHUTDOWN_GUEST);
        expect_event(env, "SHUTDOWN", "{\"guest\":true,\"reason\":\"guest-shutdown\"}");
        say(env, "{\"execute\":\"quit\"}");
        expect_event(env, "SHUTDOWN", "{\"guest\":false,\"reason\":\"host-qmp-quit\"}");
        expect(env, "{\"return\":{}}");
        assert_int_equal(env->pauses, 1);
        assert_int_equal(env->resets, 2);
        assert_int_equal(env->buttons, 1);
        assert_int_equal(env->shutdowns, 1);
}

/* A stream has no message borders: every way to cut it must give the same answers. */
#define SET      "{\"execute\":\"block_set_io_throttle\",\"arguments\":{"
#define ALL_ZERO "\"bps\":0,\"bps_rd\":0,\"bps_wr\":0,\"iops\":0,\"iops_rd\":0,\"iops_wr\":0"

/* Who manages QEMU's limits manages ours: each name must reach its own limit, and nothing wrong may change any. */
static void test_disk_limits(void **state) {
        static const char *const bad[] = {
                SET "\"id\":\"disk4\"," ALL_ZERO "}}",
                SET "\"id\":\"disk\"," ALL_ZERO "}}",
                SET "\"id\":\"disk0x\"," ALL_ZERO "}}",
                SET "\"id\":7," ALL_ZERO "}}",
                SET ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"bps\":5}}",
                SET "\"id\":\"disk0\",\"speed\":5," ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"iops_max\":-1," ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"iops_max\":1.5," ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"iops_max\":1000000000000001," ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"iops_max_length\":2,\"bps_max_length\":3," ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"group\":\"\"," ALL_ZERO "}}",
                SET "\"id\":\"disk0\",\"group\":"
                    "\"0123456789012345678901234567890123456789012345678901234567890123\"," ALL_ZERO "}}",
        };
        struct env *env = *state;

        negotiate(env);
        env->limited = 99;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                say(env, bad[i]);
                expect_error(env, "GenericError");
        }
        assert_int_equal(env->limited, 99);
        say(env, SET "\"id\":\"disk3\",\"bps\":1,\"bps_rd\":2,\"bps_wr\":3,\"iops\":4,\"iops_rd\":5,\"iops_wr\":6,"
                     "\"bps_max\":11,\"bps_rd_max\":12,\"bps_wr_max\":13,\"iops_max\":14,\"iops_rd_max\":15,"
                     "\"iops_wr_max\":16,\"iops_size\":17,\"iops_wr_max_length\":18,\"group\":\"g\"}}");
        expect(env, "{\"return\":{}}");
        assert_int_equal(env->limited, 3);
        env->limits.group = NULL;
        const struct throttle_config wanted = { .bps = 1,
                                                .bps_read = 2,
                                                .bps_write = 3,
                                                .iops = 4,
                                                .iops_read = 5,
                                                .iops_write = 6,
                                                .bps_burst = 11,
                                                .bps_read_burst = 12,
                                                .bps_write_burst = 13,
                                                .iops_burst = 14,
                                                .iops_read_burst = 15,
                                                .iops_write_burst = 16,
                                                .iops_size = 17,
                                                .burst_seconds = 18 };
        _cleanup_free_ char *is = throttle_config_format(&env->limits), *should_be = throttle_config_format(&wanted);

        assert_string_equal(is, should_be); /* not the structs' bytes: there is padding in them */
        assert_string_equal(env->group, "g");
        say(env, SET "\"device\":\"disk0\"," ALL_ZERO "}}");
        expect(env, "{\"return\":{}}");
        assert_int_equal(env->limited, 0);
        assert_string_equal(env->group, "-");
}

#define RESIZE "{\"execute\":\"block_resize\",\"id\":9,\"arguments\":{\"device\":"

/* An answer that takes its time must neither be lost nor hold up anybody but its own client, and a client may go before it comes. */
static void test_answers_that_come_later(void **state) {
        static const char *const bad[] = {
                RESIZE "\"disk4\",\"size\":512}}",
                RESIZE "\"disk0\"}}",
                RESIZE "\"disk0\",\"size\":-1}}",
        };
        struct env *env = *state;
        struct error e = { .message = (char *)"no room" };

        negotiate(env);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                say(env, bad[i]);
                expect_error(env, "GenericError");
        }
        say(env, RESIZE "\"disk1\",\"size\":1048576}}{\"execute\":\"query-name\",\"id\":10}");
        assert_null(hear(env));
        assert_int_equal(env->resized, 1048576);
        machine_pause(&env->machine);
        expect_event(env, "STOP", NULL); /* events go on */
        env->resize_done(env->resize_opaque, 0, NULL);
        expect(env, "{\"return\":{},\"id\":9}");
        expect(env, "{\"id\":10}"); /* what waited behind it */
        say(env, RESIZE "\"disk1\",\"size\":1048576}}");
        env->resize_done(env->resize_opaque, -ENOSPC, &e);
        expect_error(env, "GenericError");
        say(env, RESIZE "\"disk1\",\"size\":2097152}}{\"execute\":\"query-name\"}");
        assert_int_equal(env->resized, 2097152);
        close(env->client);
        env->client = -1;
        run_loop(env);
        env->resize_done(env->resize_opaque, 0, NULL); /* to nobody */
        run_loop(env);
}

static void say_with_fd(struct env *env, const char *text, int fd) {
        assert_int_equal(io_send_fds(env->client, text, strlen(text), &fd, 1), 0);
        run_loop(env);
}

static bool is_open(int fd) {
        return fcntl(fd, F_GETFD) >= 0;
}

#define GETFD(name)   "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"" name "\"}}"
#define CLOSEFD(name) "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"" name "\"}}"

/* Is somebody else still holding the other end of @pipe? */
static bool is_held(int pipe) {
        char c;

        return read(pipe, &c, 1) < 0 && errno == EAGAIN;
}

/* The end of a pipe that was handed over, so that one sees when it is closed. */
static int hand_over(struct env *env, const char *text) {
        int ends[2];

        assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
        say_with_fd(env, text, ends[1]);
        close(ends[1]);
        return ends[0];
}

/* Descriptors must be neither lost nor left open: a client could use them all up, and the machine's disks with them. */
static void test_descriptors_are_kept_by_name(void **state) {
        static const char *const bad[] = { GETFD("a"),
                                           GETFD(""),
                                           GETFD("1a"),
                                           CLOSEFD("a"),
                                           "{\"execute\":\"getfd\"}",
                                           GETFD("abcdefghijklmnopqrstuvwxyz0123456789") };
        struct env *env = *state;
        int pipes[6];

        negotiate(env);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                say(env, bad[i]);
                expect_error(env, "GenericError");
        }
        pipes[0] = hand_over(env, " "); /* that nobody asks for */
        pipes[1] = hand_over(env, GETFD("a"));
        expect(env, "{\"return\":{}}");
        assert_false(is_held(pipes[0]));
        assert_true(is_held(pipes[1]));
        pipes[2] = hand_over(env, GETFD("a") GETFD("b")); /* one descriptor, one name */
        expect(env, "{\"return\":{}}");
        expect_error(env, "GenericError");
        assert_false(is_held(pipes[1]));
        say(env, CLOSEFD("a"));
        expect(env, "{\"return\":{}}");
        assert_false(is_held(pipes[2]));
        for (unsigned int i = 0; i < 3; i++)
                close(pipes[i]);
        pipes[0] = hand_over(env, GETFD("a"));
        pipes[1] = hand_over(env, GETFD("b"));
        pipes[2] = hand_over(env, GETFD("c"));
        pipes[3] = hand_over(env, GETFD("d"));
        for (unsigned int i = 0; i < 4; i++)
                expect(env, "{\"return\":{}}");
        pipes[4] = hand_over(env, GETFD("e"));
        expect_error(env, "GenericError");
        assert_true(is_held(pipes[3]));
        close(env->client);
        env->client = -1;
        run_loop(env);
        for (unsigned int i = 0; i < 5; i++) {
                assert_false(is_held(pipes[i]));
                close(pipes[i]);
        }
}

#define MIRROR(arguments) "{\"execute\":\"blockdev-mirror\",\"arguments\":{" arguments "}}"
#define JOB(what)         "{\"execute\":\"block-job-" what "\",\"arguments\":{\"device\":\"disk1\"}}"
#define JOB_DATA          "\"type\":\"mirror\",\"device\":\"disk1\",\"len\":196608,\"offset\":65536,\"speed\":4096"

static void start_mirror(struct env *env, const char *pivot) {
        char command[200];
        int pipe = hand_over(env, GETFD("t"));

        expect(env, "{\"return\":{}}");
        snprintf(
                command, sizeof(command),
                MIRROR("\"device\":\"disk1\",\"target\":\"t\",\"format\":\"qcow2\",\"sync\":\"full\",\"speed\":4096%s"),
                pivot);
        say(env, command);
        expect(env, "{\"return\":{}}");
        assert_true(is_held(pipe));
        close(pipe);
}

/* A mirror is asked for, watched and ended as in QEMU; the target's descriptor becomes the machine's with success only. */
static void test_mirror(void **state) {
        static const char *const bad[] = {
                MIRROR("\"target\":\"t\",\"format\":\"raw\""),
                MIRROR("\"device\":\"disk1\",\"format\":\"raw\""),
                MIRROR("\"device\":\"disk1\",\"target\":\"u\",\"format\":\"raw\""),
                MIRROR("\"device\":\"disk1\",\"target\":\"t\""),
                MIRROR("\"device\":\"disk1\",\"target\":\"t\",\"format\":\"vmdk\""),
                MIRROR("\"device\":\"disk1\",\"target\":\"t\",\"format\":\"raw\",\"sync\":\"top\""),
                MIRROR("\"device\":\"disk1\",\"target\":\"t\",\"format\":\"raw\",\"speed\":-1"),
                MIRROR("\"device\":\"disk1\",\"target\":\"t\",\"format\":\"raw\",\"pivot\":1"),
                MIRROR("\"device\":\"disk7\",\"target\":\"t\",\"format\":\"raw\""),
                JOB("cancel"),
                JOB("complete"),
        };
        struct env *env = *state;
        int pipe;

        negotiate(env);
        say(env, "{\"execute\":\"query-block-jobs\"}");
        expect(env, "{\"return\":[]}");
        pipe = hand_over(env, GETFD("t"));
        expect(env, "{\"return\":{}}");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                say(env, bad[i]);
                expect_error(env, "GenericError");
        }
        assert_true(is_held(pipe));
        start_mirror(env, "");
        assert_false(is_held(pipe)); /* the name was given to another one */
        close(pipe);
        assert_string_equal(env->mirror.format, "qcow2");
        assert_true(is_open(env->mirror.fd) && env->mirror.speed == 4096 && !env->mirror.pivot);
        say(env, CLOSEFD("t"));
        expect_error(env, "GenericError"); /* it is the machine's now */
        say(env, "{\"execute\":\"query-block-jobs\"}");
        expect(env, "{\"return\":[{" JOB_DATA ",\"ready\":false,\"status\":\"running\",\"busy\":true,\"paused\":false,"
                    "\"io-status\":\"ok\",\"auto-finalize\":true,\"auto-dismiss\":true}]}");
        say(env, JOB("complete"));
        expect(env, "{\"return\":{}}");
        assert_true(env->completed && !env->has_job);
        start_mirror(env, ",\"pivot\":false");
        assert_false(env->mirror.pivot);
        say(env, JOB("complete"));
        expect(env, "{\"return\":{}}");
        start_mirror(env, ",\"pivot\":true");
        assert_true(env->mirror.pivot);
        say(env, JOB("cancel"));
        expect(env, "{\"return\":{}}");
        assert_false(env->completed || env->has_job);
}

static void test_mirror_events(void **state) {
        struct env *env = *state;

        negotiate(env);
        env->machine.disk_job = (struct machine_disk_job){ .disk = 1, .done = 65536, .left = 131072, .speed = 4096 };
        emit(&env->machine, MACHINE_EVENT_JOB_READY, 0);
        expect_event(env, "BLOCK_JOB_READY", "{" JOB_DATA "}");
        emit(&env->machine, MACHINE_EVENT_JOB_CANCELLED, 0);
        expect_event(env, "BLOCK_JOB_CANCELLED", "{" JOB_DATA "}");
        emit(&env->machine, MACHINE_EVENT_JOB_COMPLETED, 0);
        expect_event(env, "BLOCK_JOB_COMPLETED", "{" JOB_DATA "}");
        env->machine.disk_job.error = ENOSPC;
        env->machine.disk_job.message = "no room";
        env->machine.disk_job.write = true;
        emit(&env->machine, MACHINE_EVENT_JOB_ERROR, 0);
        expect_event(env, "BLOCK_JOB_ERROR", "{\"device\":\"disk1\",\"operation\":\"write\",\"action\":\"report\"}");
        emit(&env->machine, MACHINE_EVENT_JOB_COMPLETED, 0);
        expect_event(env, "BLOCK_JOB_COMPLETED", "{" JOB_DATA ",\"error\":\"no room: No space left on device\"}");
}

static void test_split_and_pipelined(void **state) {
        static const char text[] = " \r\n{\"execute\" : \"query-name\", \"id\":\"}{\\\"]\"}\n"
                                   "{\"execute\":\"query-name\",\"id\":2}{\"execute\":\"query-name\",\"id\":3}";
        struct env *env = *state;

        negotiate(env);
        for (size_t step = 1; step <= strlen(text); step += step < 8 ? 1 : 17) {
                for (size_t at = 0; at < strlen(text); at += step) {
                        assert_int_equal(io_write_all(env->client, text + at, MIN(step, strlen(text) - at)), 0);
                        run_loop(env);
                }
                expect(env, "{\"id\":\"}{\\\"]\"}");
                expect(env, "{\"id\":2}");
                expect(env, "{\"id\":3}");
                assert_null(hear(env));
        }
}

/* Wrong shapes are answered, and the connection goes on. */
static void test_errors_are_answered(void **state) {
        static const char *const bad[] = {
                "[]",
                "[{\"execute\":\"stop\"}]",
                "{}",
                "{\"execute\":1}",
                "{\"execute\":\"stop\",\"arguments\":[]}",
                "{\"execute\":\"stop\",\"arguments\":{\"x\":1}}",
                "{\"execute\":\"stop\",\"extra\":1}",
                "{\"execute\":}",
                "{\"execute\":\"stop\",\"execute\":\"stop\"}",
                "{]",
                "{\"execute\":\"\\u0000\"}",
                "{\"a\":\xff}",
        };
        struct env *env = *state;

        negotiate(env);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                say(env, bad[i]);
                expect_error(env, "GenericError");
        }
        say(env, "stop please { }\n");
        expect_error(env, "GenericError");
        say(env, "{\"execute\":\"format-host-disk\",\"id\":1}");
        expect_error(env, "CommandNotFound");
        say(env, "{\"execute\":\"query-name\",\"id\":\"still here\"}");
        expect(env, "{\"id\":\"still here\"}");
        assert_int_equal(env->pauses, 0);
}

static bool hung_up(struct env *env) {
        char buf[65536];
        ssize_t n;

        run_loop(env);
        do
                n = recv(env->client, buf, sizeof(buf), MSG_DONTWAIT);
        while (n > 0);
        return n == 0 || errno == ECONNRESET;
}

/* Without bounds, one client could take all memory, or the parser's stack. */
static void test_too_long(void **state) {
        struct env *env = *state;
        char block[4096];

        negotiate(env);
        memset(block, 'x', sizeof(block));
        say(env, "{\"execute\":\"");
        for (unsigned int i = 0; i < 20 && !hung_up(env); i++) {
                if (io_write_all(env->client, block, sizeof(block)) < 0)
                        break;
        }
        assert_true(hung_up(env));
}

static void test_too_deep(void **state) {
        struct env *env = *state;
        char text[FRAME_DEPTH_MAX + 2];

        negotiate(env);
        memset(text, '[', sizeof(text) - 1);
        text[FRAME_DEPTH_MAX + 1] = '\0';
        say(env, text);
        assert_true(hung_up(env));
}

/* A client that asks and never reads must neither grow us nor be executed without end; when it reads, all answers come. */
static void test_client_that_does_not_read(void **state) {
        static const char ask[] = "{\"execute\":\"query-commands\"}";
        struct env *env = *state;
        unsigned int asked = 0, answers = 0;
        json_t *object;

        negotiate(env);
        for (; asked < 100000; asked++) {
                if (send(env->client, ask, sizeof(ask) - 1, MSG_DONTWAIT) < (ssize_t)sizeof(ask) - 1)
                        break;
                if (asked % 64 == 0)
                        run_loop(env);
        }
        assert_true(asked < 100000); /* pushed back */
        while ((object = hear(env))) {
                json_decref(object);
                answers++;
        }
        assert_true(answers >= asked);
}

/* Events cannot wait for a client: it is hung up on, and the machine and other clients go on. */
static void test_events_pile_up(void **state) {
        struct env *env = *state;

        negotiate(env);
        for (unsigned int i = 0; i < 20000; i++)
                emit(&env->machine, MACHINE_EVENT_STOP, 0);
        assert_true(hung_up(env));
        emit(&env->machine, MACHINE_EVENT_STOP, 0);
}

/* A last word without a newline before hanging up must still be executed and answered. */
static void test_half_close(void **state) {
        struct env *env = *state;

        negotiate(env);
        assert_int_equal(io_write_all(env->client, "{\"execute\":\"query-name\",\"id\":9}", 31), 0);
        shutdown(env->client, SHUT_WR);
        expect(env, "{\"id\":9}");
        assert_true(hung_up(env));
        assert_int_equal(loop_run_once(env->machine.loop, 20), 0); /* nothing spins */
}

/* lodged and a person with a debugger at the same time: each gets its own replies, both get events; the ninth is turned away. */
static void test_several_clients(void **state) {
        struct env *env = *state;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t len = sizeof(address.sun_family);
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), clients[9];
        struct qmp *qmp;
        json_t *object;

        assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0); /* an abstract name */
        assert_int_equal(listen(listener, 16), 0);
        len = sizeof(address);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
        qmp_free(env->qmp);
        env->qmp = NULL;
        assert_int_equal(qmp_new(&env->machine, listener, &qmp, NULL), 0);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                assert_int_equal(connect(clients[i], (struct sockaddr *)&address, len), 0);
                run_loop(env);
                object = hear_from(env, clients[i]);
                assert_int_equal(object != NULL, i < 8);
                json_decref(object);
        }
        for (size_t i = 0; i < 8; i++) {
                assert_int_equal(io_write_all(clients[i], READY, strlen(READY)), 0);
                object = hear_from(env, clients[i]);
                assert_non_null(json_object_get(object, "return"));
                json_decref(object);
        }
        close(clients[3]);
        run_loop(env);
        emit(&env->machine, MACHINE_EVENT_RESUME, 0);
        for (size_t i = 0; i < 8; i++) {
                if (i == 3)
                        continue;
                object = hear_from(env, clients[i]);
                assert_string_equal(json_string_value(json_object_get(object, "event")), "RESUME");
                json_decref(object);
                close(clients[i]);
        }
        close(clients[8]);
        run_loop(env);
        qmp_free(qmp);
}

/* The last event tells the parent why we end: it must be in the socket when we are gone. */
static void test_last_event_is_sent(void **state) {
        struct env *env = *state;

        negotiate(env);
        emit(&env->machine, MACHINE_EVENT_SHUTDOWN, SHUTDOWN_GUEST);
        qmp_free(env->qmp);
        env->qmp = NULL;
        expect_event(env, "SHUTDOWN", "{\"guest\":true,\"reason\":\"guest-shutdown\"}");
        assert_true(hung_up(env));
}

static void test_wrong_descriptor(void **state) {
        struct env *env = *state;
        _cleanup_error_ struct error e = ERROR_INIT;
        struct qmp *qmp = NULL;
        int fds[2];

        assert_int_equal(pipe(fds), 0);
        assert_int_equal(qmp_new(&env->machine, fds[0], &qmp, &e), -ENOTSOCK);
        assert_string_equal(e.id, "control-fd");
        assert_null(qmp);
        close(fds[0]);
        close(fds[1]);
        assert_int_equal(qmp_new(&env->machine, -1, &qmp, NULL), 0);
        qmp_free(qmp);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_greeting_and_negotiation),
                TEST(test_queries),
                TEST(test_blockstats),
                TEST(test_commands_and_events),
                TEST(test_disk_limits),
                TEST(test_answers_that_come_later),
                TEST(test_descriptors_are_kept_by_name),
                TEST(test_mirror),
                TEST(test_mirror_events),
                TEST(test_split_and_pipelined),
                TEST(test_errors_are_answered),
                TEST(test_too_long),
                TEST(test_too_deep),
                TEST(test_client_that_does_not_read),
                TEST(test_events_pile_up),
                TEST(test_half_close),
                TEST(test_several_clients),
                TEST(test_last_event_is_sent),
                TEST(test_wrong_descriptor),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
