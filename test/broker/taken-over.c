// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * taken-over: a worker that is the enemy
 *
 * usage: none by hand; taken-over [lodged's options] is the real broker, which finds this program beside itself under the name of its worker.
 * FORBIDDEN in the environment: a file outside of all that machines may use
 *
 * Plays a worker that somebody has taken over, and asks for files of
 * its choice through every operation, with arguments of every wrong kind, and breaks the protocol. Each call must be answered with an error and without descriptors;
 * each breach must end the worker and not the broker, which starts the next one, that goes on with the next phase. In the end the broker holds as many
 * descriptors as in the beginning. Says how it went on standard error, in TAP.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/text.h"
#include "daemon/wire/wire.h"
#include "schema/lodge-schema.h"

#define UUID     "11111111-2222-4333-8444-555555555555"
#define REPLY_MS 30000
#define FDS_MANY 40

struct enemy {
        int sock, state_dir;
        pid_t broker;
        unsigned int phase, n, failed;
        json_int_t last_call;
};

static void say(struct enemy *m, bool ok, const char *what, const char *detail) {
        m->n++;
        m->failed += !ok;
        fprintf(stderr, "%sok - %s%s%s\n", ok ? "" : "not ", what, detail && !ok ? ": " : "",
                detail && !ok ? detail : "");
}

static int count_fds(pid_t pid) {
        char path[64];
        DIR *dir;
        int n = 0;

        snprintf(path, sizeof(path), "/proc/%d/fd", pid);
        dir = opendir(path);
        if (!dir)
                return -errno;
        while (readdir(dir))
                n++;
        closedir(dir);
        return n - 2;
}

/* Return: 1 with the answer to the call @id, -errno. */
static int answer(struct enemy *m, json_int_t id, struct wire_message *ret) {
        for (;;) {
                struct pollfd p = { .fd = m->sock, .events = POLLIN };
                int r = poll(&p, 1, REPLY_MS) > 0 ? wire_receive(m->sock, ret) : -ETIMEDOUT;

                if (r <= 0)
                        return r == 0 ? -EPIPE : r;
                if (json_integer_value(json_object_get(ret->json, "call")) == id &&
                    !json_object_get(ret->json, "progress"))
                        return 1;
                wire_message_clear(ret);
        }
}

/* A call that must be refused, with nothing handed over. @args is taken over. */
static void refused(struct enemy *m, const char *op, json_t *args, const char *what) {
        struct wire_message reply = { 0 };
        json_int_t id = ++m->last_call;
        json_t *call = json_pack("{s:I, s:s}", "call", id, "op", op);
        char name[256], *text = NULL;
        int r;

        json_object_set_new(call, "args", args);
        r = wire_send(m->sock, call, NULL, 0);
        if (r == 0)
                r = answer(m, id, &reply);
        snprintf(name, sizeof(name), "%s: %s", op, what);
        if (r < 0) {
                say(m, false, name, strerror(-r));
        } else {
                text = json_dumps(reply.json, JSON_COMPACT);
                say(m, json_is_object(json_object_get(reply.json, "error")) && reply.n_fds == 0, name, text);
                if (getenv("VERBOSE"))
                        fprintf(stderr, "# %s\n", text);
        }
        free(text);
        wire_message_clear(&reply);
        json_decref(call);
}

static json_t *start_args(json_t *machine) {
        json_object_set_new(machine, "name", json_string("evil"));
        json_object_set_new(machine, "uuid", json_string(UUID));
        return json_pack("{s:s, s:i, s:s, s:o, s:{}, s:[]}", "uuid", UUID, "number", 1, "pool", "default", "machine",
                         machine, "limits", "networks");
}

/* ---- files of its choice --------------------------------------------------------------------------------------------- */

static void ask_for_files(struct enemy *m) {
        const char *file = getenv("FORBIDDEN") ?: "/etc/shadow";
        static const char *const names[] = {
                "../../../etc/shadow", "/etc/shadow", "..", "", "a/../../b", "x\ny", "-rf"
        };
        char climb[512];

        snprintf(climb, sizeof(climb), "/proc/self/root%s", file);
        refused(m, "machine-start", start_args(json_pack("{s:s}", "kernel", file)), "a kernel from outside");
        refused(m, "machine-start", start_args(json_pack("{s:s}", "kernel", climb)), "a kernel through /proc");
        refused(m, "machine-check", start_args(json_pack("{s:s}", "kernel", file)), "a look at a kernel from outside");
        refused(m, "machine-check", start_args(json_pack("{s:[{s:s, s:s}]}", "disks", "path", file, "format", "raw")),
                "a look at a disk from outside");
        refused(m, "machine-start", start_args(json_pack("{s:s, s:s}", "kernel", file, "initrd", file)),
                "an initrd from outside");
        refused(m, "machine-start", start_args(json_pack("{s:s, s:[{s:s}]}", "firmware", file, "disks", "path", file)),
                "firmware and a disk from outside");
        refused(m, "machine-start", start_args(json_pack("{s:[{s:s, s:s}]}", "disks", "path", file, "format", "raw")),
                "a disk from outside");
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                json_t *args = start_args(json_object());

                json_object_set_new(args, "image", json_string(names[i]));
                refused(m, "machine-start", args, "an image by a path");
                args = start_args(json_object());
                json_object_set_new(args, "volume", json_string(names[i]));
                refused(m, "machine-start", args, "a volume by a path");
                refused(m, "image-find", json_pack("{s:s}", "name", names[i]), "a path");
                refused(m, "image-delete", json_pack("{s:s}", "name", names[i]), "a path");
                refused(m, "volume-make", json_pack("{s:s, s:s, s:i}", "pool", names[i], "name", "v", "size", 1 << 20),
                        "a pool by a path");
                refused(m, "volume-make",
                        json_pack("{s:s, s:s, s:i}", "pool", "default", "name", names[i], "size", 1 << 20), "a path");
                refused(m, "volume-make",
                        json_pack("{s:s, s:s, s:s}", "pool", "default", "name", "v", "source", names[i]),
                        "a source by a path");
                refused(m, "volume-delete", json_pack("{s:s, s:s}", "pool", "default", "name", names[i]), "a path");
                refused(m, "volume-grow",
                        json_pack("{s:s, s:s, s:i}", "pool", "default", "name", names[i], "size", 1 << 20), "a path");
                refused(m, "volume-list", json_pack("{s:s}", "pool", names[i]), "a path");
                refused(m, "pool-usage", json_pack("{s:s}", "pool", names[i]), "a path");
                refused(m, "machine-disk",
                        json_pack("{s:s, s:s, s:s}", "pool", "default", "name", "v", "image", names[i]),
                        "an image by a path");
                refused(m, "machine-attach", json_pack("{s:s}", "uuid", names[i]), "a path");
                refused(m, "machine-console", json_pack("{s:s}", "uuid", names[i]), "a path");
                refused(m, "machine-kill", json_pack("{s:s}", "uuid", names[i]), "a path");
                refused(m, "machine-end", json_pack("{s:s}", "uuid", names[i]), "a path");
                refused(m, "machine-forget", json_pack("{s:s}", "uuid", names[i]), "a path");
                refused(m, "machine-purge", json_pack("{s:s}", "uuid", names[i]), "a path");
                refused(m, "seed-write", json_pack("{s:s, s:s, s:{}}", "uuid", names[i], "name", "x", "cloud"),
                        "a path");
        }
        refused(m, "machine-attach", json_pack("{s:s}", "uuid", UUID), "a machine that is not there");
        refused(m, "machine-console", json_pack("{s:s}", "uuid", UUID), "a machine that is not there");
        refused(m, "machine-kill", json_pack("{s:s}", "uuid", UUID), "a machine that is not there");
}

/* ---- arguments of every wrong kind ----------------------------------------------------------------------------------- */

static void ask_wrongly(struct enemy *m) {
        static const char *const ops[] = { "machine-start",   "machine-attach", "machine-console", "machine-kill",
                                           "machine-end",     "machine-forget", "machine-purge",   "machine-disk",
                                           "volume-make",     "volume-delete",  "volume-grow",     "volume-list",
                                           "seed-write",      "image-find",     "engine-decide",   "network-up",
                                           "network-forwards" };
        json_t *deep;

        for (size_t i = 0; i < ELEMENTSOF(ops); i++) {
                if (!streq(ops[i], "volume-list")) /* that has a default */
                        refused(m, ops[i], json_object(), "nothing");
                refused(m, ops[i], json_null(), "null");
                refused(m, ops[i], json_array(), "a list");
                refused(m, ops[i], json_string("x"), "a text");
                refused(m, ops[i], json_integer(-1), "a number");
                refused(m, ops[i], json_pack("{s:i, s:i, s:i, s:i}", "uuid", -1, "name", 7, "pool", 0, "machine", 1),
                        "numbers for texts");
                refused(m, ops[i], json_pack("{s:s, s:s}", "uuid", UUID, "surprise", "x"), "a field that is unknown");
                deep = json_object();
                for (int depth = 0; depth < 1500; depth++)
                        deep = json_pack("{s:o}", "machine", deep);
                refused(m, ops[i], deep, "deep nesting");
        }
        refused(m, "volume-make",
                json_pack("{s:s, s:s, s:I}", "pool", "default", "name", "v", "size", (json_int_t)-4096),
                "a negative size");
        refused(m, "volume-make", json_pack("{s:s, s:s, s:I}", "pool", "default", "name", "v", "size", INT64_MAX),
                "a size of 8 EiB");
        refused(m, "machine-console", json_pack("{s:s, s:i}", "uuid", UUID, "history", -1), "a negative length");
        refused(m, "machine-start", json_pack("{s:s, s:i, s:{}}", "uuid", UUID, "number", -5, "machine"),
                "a negative number");
        refused(m, "no-such-operation", NULL, "it is unknown");
        refused(m, "", NULL, "no name");
        refused(m, "machine-start ", NULL, "it is unknown");
}

/* What has no call to answer, is no call at all, or is one too many. */
static void flood(struct enemy *m) {
        struct wire_message reply = { 0 };
        int given[WIRE_FDS_MAX], r = 0;
        json_t *call;

        for (int i = 0; i < 2000 && r == 0; i++) {
                call = json_pack("{s:I}", "cancel", (json_int_t)i * 7919);
                r = wire_send(m->sock, call, NULL, 0);
                json_decref(call);
        }
        say(m, r == 0, "2,000 cancellations of nothing", strerror(-r));
        for (size_t i = 0; i < ELEMENTSOF(given); i++)
                given[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        for (int i = 0; i < 100 && r == 0; i++) {
                call = json_pack("{s:I, s:s}", "call", ++m->last_call, "op", "machine-list");
                r = wire_send(m->sock, call, given, ELEMENTSOF(given));
                json_decref(call);
                if (r == 0 && (r = answer(m, m->last_call, &reply)) > 0) {
                        r = 0;
                        wire_message_clear(&reply);
                }
        }
        for (size_t i = 0; i < ELEMENTSOF(given); i++)
                close(given[i]);
        say(m, r == 0, "100 calls with 16 descriptors each", strerror(-r));
        call = json_object();
        r = wire_send(m->sock, call, NULL, 0);
        json_decref(call);
        refused(m, "no-such-operation", NULL, "after a message without a call");
}

/* ---- breaches of the protocol: each is this worker's end ------------------------------------------------------------- */

/* More than our own code would send. */
static void send_many(int sock, const int *fds, size_t n) {
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * FDS_MANY)] = { 0 };
        char text[] = "{}";
        struct iovec iov = { .iov_base = text, .iov_len = 2 };
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * n)
        };
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
        if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
                perror("sendmsg");
}

static void breach(struct enemy *m) {
        static char big[WIRE_INLINE_MAX + 100];
        int fds[FDS_MANY];
        const char *text = m->phase == 2 ? "[1, 2, 3]" : m->phase == 3 ? "no JSON at all" : "";
        json_t *call;

        memset(big, ' ', sizeof(big));
        switch (m->phase) {
        case 1:
                (void)!send(m->sock, big, sizeof(big), MSG_NOSIGNAL);
                break;
        case 2:
        case 3:
                (void)!send(m->sock, text, strlen(text), MSG_NOSIGNAL);
                break;
        case 4: /* more descriptors than there may be */
                for (int i = 0; i < FDS_MANY; i++)
                        fds[i] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
                send_many(m->sock, fds, FDS_MANY);
                break;
        case 5: /* as memory, a device that never ends */
                fds[0] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
                io_send_fds(m->sock, "@", 1, fds, 1);
                break;
        case 6: /* never read an answer */
                for (int i = 0; i < 100000; i++) {
                        call = json_pack("{s:i, s:s}", "call", i, "op", "machine-list");
                        wire_send(m->sock, call, NULL, 0);
                        json_decref(call);
                }
                break;
        }
        sleep(60); /* to be ended */
        say(m, false, "a breach of the protocol ends the worker", NULL);
}

/* ---- phases ----------------------------------------------------------------------------------------------------------- */

/* Which worker this is, and how many descriptors the broker had when the first one began. */
static unsigned int phase_next(const char *store_dir, int fds, int *ret_first_fds) {
        unsigned int phase = 0;
        char path[4096];
        FILE *f;

        snprintf(path, sizeof(path), "%s/phase", store_dir);
        *ret_first_fds = fds;
        f = fopen(path, "r");
        if (f) {
                if (fscanf(f, "%u %d", &phase, ret_first_fds) != 2)
                        phase = 0;
                fclose(f);
        }
        f = fopen(path, "w");
        if (f) {
                fprintf(f, "%u %d\n", phase + 1, *ret_first_fds);
                fclose(f);
        }
        return phase;
}

static int enemy_run(int config_fd) {
        _cleanup_(worker_config_freep) struct worker_config *c = NULL;
        _cleanup_free_ char *text = NULL;
        struct enemy m = { .broker = getppid() };
        char detail[64];
        size_t n;
        int first, now;

        if (io_read_all(config_fd, 65536, &text, &n) < 0 || worker_config_parse(text, n, &c, NULL) < 0)
                return 99;
        m.sock = c->wire_fd;
        close(config_fd);
        /* Whoever answers has come back from starting this, and has closed what that took. */
        refused(&m, "no-such-operation", json_object(), "an operation that is none");
        now = count_fds(m.broker);
        m.phase = phase_next(c->store_dir, now, &first);
        if (m.phase > 0) {
                snprintf(detail, sizeof(detail), "%d descriptors instead of %d", now, first);
                say(&m, now <= first,
                    "the broker has started the next worker, and holds no more descriptors than before", detail);
        }
        if (m.phase >= 1 && m.phase <= 6) {
                breach(&m);
                return 0;
        }
        if (m.phase > 6)
                return 0; /* status 0: the broker ends, too */
        ask_for_files(&m);
        ask_wrongly(&m);
        flood(&m);
        now = count_fds(m.broker);
        snprintf(detail, sizeof(detail), "%d descriptors instead of %d", now, first);
        say(&m, now <= first, "the broker holds no more descriptors than before", detail);
        kill(getpid(), SIGKILL);
        return 0;
}

int main(int argc, char **argv) {
        uint64_t fd;

        if (argc != 3 || !streq(argv[1], "--config-fd") || text_parse_uint(argv[2], INT_MAX, &fd) < 0)
                return 2;
        return enemy_run((int)fd);
}
