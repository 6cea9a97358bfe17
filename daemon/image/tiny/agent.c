// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * agent: see agent.h
 *
 * Theory of operation. The protocol is JSON objects in both directions on a byte stream (QEMU
 * docs/interop/qemu-ga-ref). The host may connect, go away in the middle of a request and come back; it starts with
 * guest-sync-delimited, whose 0xFF byte, which no JSON has, tells us to forget what came before. Requests are cut out
 * of the stream by counting brackets outside of strings.
 *
 * One thread, one poll(): the port and the pipes of running commands. The host is trusted: it owns this machine.
 * Bounds are there all the same, for a host that has lost its way: a request of at most REQUEST_MAX bytes, output
 * kept up to OUTPUT_MAX per stream.
 */
#include "daemon/image/tiny/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netpacket/packet.h>

#include "base/base64.h"
#include "daemon/image/tiny/file.h"

#define REQUEST_MAX (4U << 20)
#define OUTPUT_MAX  (16U << 20) /* qemu-ga's limit too */
#define JOBS_MAX    64

struct stream {
        int fd; /* -1: closed */
        char *data;
        size_t len;
        bool truncated;
};

struct job {
        pid_t pid; /* 0: this slot is free */
        bool exited;
        int status;
        struct stream out, err;
        int in; /* -1: nothing left to be written */
        char *input;
        size_t in_len, in_at;
};

struct agent {
        int port;
        char *request;
        size_t len, size;
        int depth;
        bool in_string, escaped;
        struct job jobs[JOBS_MAX];
        struct files files;
};

struct reply {
        json_t *value;     /* "return"; NULL: {} */
        const char *class; /* not NULL: an error */
        char desc[200];
        bool silent; /* success is not answered */
        bool delimited;
};

__attribute__((format(printf, 3, 4))) static void fail(struct reply *r, const char *class, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vsnprintf(r->desc, sizeof(r->desc), format, ap);
        va_end(ap);
        r->class = class;
}

static void cmd_sync(struct agent *a, json_t *args, struct reply *r) {
        json_t *id = json_object_get(args, "id");

        if (!json_is_integer(id))
                fail(r, "GenericError", "Parameter 'id' is missing");
        else
                r->value = json_incref(id);
}

static void cmd_sync_delimited(struct agent *a, json_t *args, struct reply *r) {
        cmd_sync(a, args, r);
        r->delimited = true;
}

static void cmd_ping(struct agent *a, json_t *args, struct reply *r) {
}

static void close_stream(struct stream *s) {
        if (s->fd >= 0)
                close(s->fd);
        s->fd = -1;
}

static void free_job(struct job *j) {
        close_stream(&j->out);
        close_stream(&j->err);
        if (j->in >= 0)
                close(j->in);
        free(j->out.data);
        free(j->err.data);
        free(j->input);
        *j = (struct job){ .in = -1, .out.fd = -1, .err.fd = -1 };
}

static struct job *free_slot(struct agent *a) {
        for (size_t i = 0; i < JOBS_MAX; i++)
                if (a->jobs[i].pid == 0)
                        return &a->jobs[i];
        return NULL;
}

/* An array of strings as argv or envp; NULL without memory or with something else in it. */
static char **strings_of(json_t *array, const char *first) {
        size_t n = json_array_size(array), k = 0;
        char **v = calloc(n + 2, sizeof(*v));

        if (v && first)
                v[k++] = (char *)(uintptr_t)first;
        for (size_t i = 0; v && i < n; i++) {
                v[k] = (char *)(uintptr_t)json_string_value(json_array_get(array, i));
                if (!v[k++]) {
                        free(v);
                        return NULL;
                }
        }
        return v;
}

/* Opens the pipes of a job: [0] for the command, [1] for us, close-on-exec; no capture: /dev/null. */
static int open_pipes(bool capture, bool input, int fds[3], struct job *j) {
        int p[3][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 } };

        for (int i = 0; i < 3; i++) {
                bool piped = i == 0 ? input : capture;

                if (piped ? pipe2(p[i], O_CLOEXEC) < 0
                          : (p[i][i == 0 ? 0 : 1] = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) {
                        for (int k = 0; k <= i; k++) {
                                close(p[k][0]);
                                close(p[k][1]);
                        }
                        return -errno;
                }
                fds[i] = p[i][i == 0 ? 0 : 1];
        }
        j->in = p[0][1];
        j->out.fd = p[1][0];
        j->err.fd = p[2][0];
        int ours[] = { j->in, j->out.fd, j->err.fd };
        for (int i = 0; i < 3; i++)
                if (ours[i] >= 0)
                        fcntl(ours[i], F_SETFL, O_NONBLOCK);
        return 0;
}

_Noreturn static void exec_job(const char *path, char **argv, char **envp, const int fds[3], int report) {
        sigset_t none;
        int moved[3];

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        setsid();
        for (int i = 0; i < 3; i++)
                moved[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 10);
        for (int i = 0; i < 3; i++)
                dup2(moved[i], i);
        (void)!chdir("/");
        if (envp)
                for (char **e = envp; *e; e++)
                        putenv(*e);
        execvp(path, argv);
        (void)!write(report, &errno, sizeof(errno));
        _exit(127);
}

static void cmd_exec(struct agent *a, json_t *args, struct reply *r) {
        const char *path = json_string_value(json_object_get(args, "path"));
        const char *input = json_string_value(json_object_get(args, "input-data"));
        json_t *cap = json_object_get(args, "capture-output");
        bool capture = json_is_true(cap) || (json_is_string(cap) && strcmp(json_string_value(cap), "none") != 0);
        char **argv = strings_of(json_object_get(args, "arg"), path),
             **envp = strings_of(json_object_get(args, "env"), NULL);
        struct job *j = free_slot(a);
        int fds[3], report[2] = { -1, -1 }, error = 0;

        if (!path || !argv || !envp)
                fail(r, "GenericError", "Parameter 'path', 'arg' or 'env' is missing or wrong");
        else if (!j)
                fail(r, "GenericError", "Too many commands: ask for the status of those that ended");
        else if (input && base64_decode(input, strlen(input), (unsigned char **)&j->input, &j->in_len) < 0)
                fail(r, "GenericError", "Parameter 'input-data' is not base64");
        else if (pipe2(report, O_CLOEXEC) < 0 || open_pipes(capture, input, fds, j) < 0)
                fail(r, "GenericError", "No descriptors");
        if (r->class)
                goto out;
        fflush(NULL);
        j->pid = fork();
        if (j->pid == 0)
                exec_job(path, argv, envp, fds, report[1]);
        for (int i = 0; i < 3; i++)
                close(fds[i]);
        close(report[1]);
        report[1] = -1;
        if (j->pid < 0) {
                fail(r, "GenericError", "Cannot fork");
                free_job(j);
        } else if (read(report[0], &error, sizeof(error)) == sizeof(error)) { /* else the exec closed it: it runs */
                fail(r, "GenericError", "Failed to execute child process \"%.100s\" (%s)", path, strerror(error));
                waitpid(j->pid, NULL, 0);
                free_job(j);
        } else
                r->value = json_pack("{s:i}", "pid", (int)j->pid);
out:
        close(report[0]);
        close(report[1]);
        free(argv);
        free(envp);
}

static void put_stream(json_t *o, const char *data, const char *truncated, const struct stream *s) {
        char *text;

        if (s->len == 0)
                return;
        text = base64_encode(s->data, s->len);
        if (text)
                json_object_set_new(o, data, json_string_nocheck(text));
        if (s->truncated)
                json_object_set_new(o, truncated, json_true());
        free(text);
}

static void cmd_exec_status(struct agent *a, json_t *args, struct reply *r) {
        json_int_t pid = json_integer_value(json_object_get(args, "pid"));
        struct job *j = NULL;
        bool done;

        for (size_t i = 0; pid > 0 && i < JOBS_MAX; i++)
                if (a->jobs[i].pid == pid)
                        j = &a->jobs[i];
        if (!j) {
                fail(r, "GenericError", "Invalid parameter 'pid'");
                return;
        }
        done = j->exited && j->out.fd < 0 && j->err.fd < 0;
        r->value = json_pack("{s:b}", "exited", done);
        if (!done)
                return;
        if (WIFEXITED(j->status))
                json_object_set_new(r->value, "exitcode", json_integer(WEXITSTATUS(j->status)));
        else
                json_object_set_new(r->value, "signal", json_integer(WTERMSIG(j->status)));
        put_stream(r->value, "out-data", "out-truncated", &j->out);
        put_stream(r->value, "err-data", "err-truncated", &j->err);
        free_job(j);
}

static void cmd_shutdown(struct agent *a, json_t *args, struct reply *r) {
        const char *mode = json_string_value(json_object_get(args, "mode"));
        int signo = !mode || strcmp(mode, "powerdown") == 0 ? SIGUSR2
                    : strcmp(mode, "halt") == 0             ? SIGUSR1
                    : strcmp(mode, "reboot") == 0           ? SIGTERM
                                                            : 0;

        if (signo == 0)
                fail(r, "GenericError", "Parameter 'mode' must be halt, powerdown or reboot");
        else if (kill(1, signo) < 0)
                fail(r, "GenericError", "Cannot reach init");
        else
                r->silent = true;
}

static void cmd_get_host_name(struct agent *a, json_t *args, struct reply *r) {
        char name[65] = "";

        gethostname(name, sizeof(name) - 1);
        r->value = json_pack("{s:s}", "host-name", name);
}

static void cmd_get_osinfo(struct agent *a, json_t *args, struct reply *r) {
        struct utsname u;

        uname(&u);
        r->value = json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", "lodge-tiny", "name", "Lodge tiny", "kernel-release",
                             u.release, "kernel-version", u.version, "machine", u.machine);
}

static void cmd_get_time(struct agent *a, json_t *args, struct reply *r) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        r->value = json_integer((json_int_t)t.tv_sec * 1000000000 + t.tv_nsec);
}

static json_t *interface_of(json_t *all, const char *name) {
        json_t *i, *o;
        size_t k;

        json_array_foreach(all, k, i) if (strcmp(json_string_value(json_object_get(i, "name")), name) == 0) return i;
        o = json_pack("{s:s, s:[]}", "name", name, "ip-addresses");
        json_array_append_new(all, o);
        return o;
}

static void add_address(json_t *all, const struct ifaddrs *i) {
        json_t *o = interface_of(all, i->ifa_name);
        bool six = i->ifa_addr->sa_family == AF_INET6;
        char text[INET6_ADDRSTRLEN];
        unsigned prefix = 0;

        if (i->ifa_addr->sa_family == AF_PACKET) {
                const struct sockaddr_ll *ll = (const void *)i->ifa_addr;
                char mac[18];

                snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", ll->sll_addr[0], ll->sll_addr[1],
                         ll->sll_addr[2], ll->sll_addr[3], ll->sll_addr[4], ll->sll_addr[5]);
                json_object_set_new(o, "hardware-address", json_string(mac));
        } else if (six || i->ifa_addr->sa_family == AF_INET) {
                const uint8_t *addr =
                        six ? (const void *)&((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr
                            : (const void *)&((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr;
                const uint8_t *mask =
                        six ? (const void *)&((const struct sockaddr_in6 *)(const void *)i->ifa_netmask)->sin6_addr
                            : (const void *)&((const struct sockaddr_in *)(const void *)i->ifa_netmask)->sin_addr;

                for (int k = 0; k < (six ? 16 : 4); k++)
                        prefix += (unsigned)__builtin_popcount(mask[k]);
                inet_ntop(i->ifa_addr->sa_family, addr, text, sizeof(text));
                json_array_append_new(json_object_get(o, "ip-addresses"),
                                      json_pack("{s:s, s:s, s:i}", "ip-address", text, "ip-address-type",
                                                six ? "ipv6" : "ipv4", "prefix", (int)prefix));
        }
}

static void cmd_network(struct agent *a, json_t *args, struct reply *r) {
        struct ifaddrs *list = NULL;

        if (getifaddrs(&list) < 0) {
                fail(r, "GenericError", "Cannot list the interfaces");
                return;
        }
        r->value = json_array();
        for (struct ifaddrs *i = list; i; i = i->ifa_next)
                if (i->ifa_addr && (i->ifa_netmask || i->ifa_addr->sa_family == AF_PACKET))
                        add_address(r->value, i);
        freeifaddrs(list);
}

static void cmd_info(struct agent *a, json_t *args, struct reply *r);

static const struct {
        const char *name;
        void (*run)(struct agent *a, json_t *args, struct reply *r);
        json_t *(*file)(struct files *f, json_t *args, char desc[FILE_DESC_SIZE]); /* instead: see file.h */
} commands[] = {
        { "guest-exec", cmd_exec },
        { "guest-exec-status", cmd_exec_status },
        { "guest-file-close", .file = file_close },
        { "guest-file-flush", .file = file_flush },
        { "guest-file-open", .file = file_open },
        { "guest-file-read", .file = file_read },
        { "guest-file-seek", .file = file_seek },
        { "guest-file-write", .file = file_write },
        { "guest-get-host-name", cmd_get_host_name },
        { "guest-get-osinfo", cmd_get_osinfo },
        { "guest-get-time", cmd_get_time },
        { "guest-info", cmd_info },
        { "guest-network-get-interfaces", cmd_network },
        { "guest-ping", cmd_ping },
        { "guest-shutdown", cmd_shutdown },
        { "guest-sync", cmd_sync },
        { "guest-sync-delimited", cmd_sync_delimited },
};
#define N_COMMANDS (sizeof(commands) / sizeof(*commands))

static void cmd_info(struct agent *a, json_t *args, struct reply *r) {
        json_t *list = json_array();

        for (size_t i = 0; i < N_COMMANDS; i++)
                json_array_append_new(list, json_pack("{s:s, s:b, s:b}", "name", commands[i].name, "enabled", 1,
                                                      "success-response", commands[i].run != cmd_shutdown));
        r->value = json_pack("{s:s, s:o}", "version", "lodge-tiny 1", "supported_commands", list);
}

static void write_all(int fd, const char *p, size_t n) {
        while (n > 0) {
                ssize_t k = write(fd, p, n);
                struct pollfd w = { .fd = fd, .events = POLLOUT };

                if (k > 0) {
                        p += k;
                        n -= (size_t)k;
                } else if (errno == EAGAIN)
                        poll(&w, 1, 1000);
                else if (errno != EINTR)
                        return; /* the host has gone: it will sync when it comes back */
        }
}

static void answer(struct agent *a, struct reply *r, json_t *id) {
        json_t *o = json_object();
        char *text;

        if (r->class)
                json_object_set_new(o, "error", json_pack("{s:s, s:s}", "class", r->class, "desc", r->desc));
        else
                json_object_set_new(o, "return", r->value ? json_incref(r->value) : json_object());
        if (id)
                json_object_set(o, "id", id);
        text = json_dumps(o, JSON_COMPACT);
        if (text && r->delimited && !r->class)
                write_all(a->port, "\xff", 1);
        if (text) {
                write_all(a->port, text, strlen(text));
                write_all(a->port, "\n", 1);
        }
        free(text);
        json_decref(o);
}

static void handle(struct agent *a, const char *text, size_t n) {
        json_t *request = json_loadb(text, n, 0, NULL);
        const char *name = json_string_value(json_object_get(request, "execute"));
        struct reply r = { 0 };
        size_t i;

        if (!name)
                fail(&r, "GenericError", "Invalid JSON, or no member 'execute'");
        for (i = 0; name && i < N_COMMANDS; i++)
                if (strcmp(name, commands[i].name) == 0)
                        break;
        if (name && i < N_COMMANDS && commands[i].file) {
                r.value = commands[i].file(&a->files, json_object_get(request, "arguments"), r.desc);
                r.class = r.value ? NULL : "GenericError";
        } else if (name && i < N_COMMANDS)
                commands[i].run(a, json_object_get(request, "arguments"), &r);
        else if (name)
                fail(&r, "CommandNotFound", "The command %.100s has not been found", name);
        if (!r.silent || r.class)
                answer(a, &r, json_object_get(request, "id"));
        json_decref(r.value);
        json_decref(request);
}

static void forget(struct agent *a) {
        a->len = 0;
        a->depth = 0;
        a->in_string = a->escaped = false;
}

/* One byte of the stream: see the head of this file. */
static void take(struct agent *a, char c) {
        if ((uint8_t)c == 0xff || a->len >= REQUEST_MAX) {
                forget(a);
                return;
        }
        if (a->depth == 0 && c != '{')
                return;
        if (a->len == a->size) {
                char *more = realloc(a->request, a->size + 4096);

                if (!more) {
                        forget(a);
                        return;
                }
                a->request = more;
                a->size += 4096;
        }
        a->request[a->len++] = c;
        if (a->in_string) {
                if (a->escaped)
                        a->escaped = false;
                else if (c == '\\')
                        a->escaped = true;
                else if (c == '"')
                        a->in_string = false;
        } else if (c == '"')
                a->in_string = true;
        else if (c == '{' || c == '[')
                a->depth++;
        else if ((c == '}' || c == ']') && --a->depth == 0) {
                handle(a, a->request, a->len);
                forget(a);
        }
}

static void read_stream(struct stream *s) {
        char buf[16384], *more;
        ssize_t n = read(s->fd, buf, sizeof(buf));

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                close_stream(s);
                return;
        }
        if (s->len + (size_t)n > OUTPUT_MAX) {
                s->truncated = true;
                return;
        }
        more = realloc(s->data, s->len + (size_t)n);
        if (!more) {
                s->truncated = true;
                return;
        }
        memcpy(more + s->len, buf, (size_t)n);
        s->data = more;
        s->len += (size_t)n;
}

static void write_input(struct job *j) {
        ssize_t n = write(j->in, j->input + j->in_at, j->in_len - j->in_at);

        if (n > 0)
                j->in_at += (size_t)n;
        if ((n < 0 && errno != EAGAIN && errno != EINTR) || j->in_at == j->in_len) {
                close(j->in);
                j->in = -1;
        }
}

static void reap_jobs(struct agent *a) {
        for (size_t i = 0; i < JOBS_MAX; i++) {
                struct job *j = &a->jobs[i];

                if (j->pid > 0 && !j->exited && waitpid(j->pid, &j->status, WNOHANG) == j->pid)
                        j->exited = true;
        }
}

static void wait_and_serve(struct agent *a, bool host_is_there) {
        struct pollfd fds[1 + 3 * JOBS_MAX];
        bool running = false;

        fds[0] = (struct pollfd){ .fd = host_is_there ? a->port : -1, .events = POLLIN };
        for (size_t i = 0; i < JOBS_MAX; i++) {
                struct job *j = &a->jobs[i];

                fds[1 + 3 * i] = (struct pollfd){ .fd = j->out.fd, .events = POLLIN };
                fds[2 + 3 * i] = (struct pollfd){ .fd = j->err.fd, .events = POLLIN };
                fds[3 + 3 * i] = (struct pollfd){ .fd = j->in, .events = POLLOUT };
                running |= j->pid > 0 && !j->exited;
        }
        /* A command's end is seen by its pipes most of the time, by this tick in any case. */
        poll(fds, 1 + 3 * JOBS_MAX, !host_is_there ? 50 : running ? 20 : -1);
        for (size_t i = 0; i < JOBS_MAX; i++) {
                struct job *j = &a->jobs[i];

                if (fds[1 + 3 * i].revents && j->out.fd >= 0)
                        read_stream(&j->out);
                if (fds[2 + 3 * i].revents && j->err.fd >= 0)
                        read_stream(&j->err);
                if (fds[3 + 3 * i].revents && j->in >= 0)
                        write_input(j);
        }
        reap_jobs(a);
}

/* /dev/vportNpM of the port with that name, or -1. */
static int open_port(const char *name) {
        DIR *d = opendir("/sys/class/virtio-ports");
        struct dirent *de;
        int port = -1;

        while (d && port < 0 && (de = readdir(d))) {
                char path[300], text[100] = "";
                int fd;

                snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", de->d_name);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd < 0)
                        continue;
                (void)!read(fd, text, sizeof(text) - 1);
                close(fd);
                text[strcspn(text, "\n")] = '\0';
                if (strcmp(text, name) != 0)
                        continue;
                snprintf(path, sizeof(path), "/dev/%s", de->d_name);
                port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        }
        if (d)
                closedir(d);
        return port;
}

int agent_run(const char *port_name) {
        struct agent *a = calloc(1, sizeof(*a));
        bool host_is_there = true;

        if (!a)
                return -ENOMEM;
        for (size_t i = 0; i < JOBS_MAX; i++)
                free_job(&a->jobs[i]);
        files_init(&a->files);
        signal(SIGPIPE, SIG_IGN);
        while ((a->port = open_port(port_name)) < 0)
                usleep(50 * 1000);
        for (;;) {
                char buf[4096];
                ssize_t n = read(a->port, buf, sizeof(buf));

                if (n < 0 && errno != EAGAIN && errno != EINTR) {
                        int r = -errno;
                        close(a->port);
                        return r; /* the port was unplugged: init starts us again */
                }
                host_is_there = n != 0; /* 0: nobody has the other end open, and poll() would return at once */
                if (n == 0) {
                        forget(a);
                        files_close(&a->files);
                }
                for (ssize_t i = 0; i < n; i++)
                        take(a, buf[i]);
                if (n <= 0)
                        wait_and_serve(a, host_is_there);
        }
}
