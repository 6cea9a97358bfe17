// SPDX-License-Identifier: GPL-2.0-or-later
/* dnsmasq: see dnsmasq.h */
#include "daemon/network/dnsmasq.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/io.h"
#include "base/spawn.h"
#include "base/text.h"
#include "daemon/network/notes.h"
#include "daemon/network/state.h"

#define START_MS   5000
#define END_MS     2000
#define ARGS_MAX   48
#define LEASES_MAX 70000 /* more than the largest subnet has */

/* ---- its arguments ------------------------------------------------------------------------------------------------ */

struct args {
        char *argv[ARGS_MAX + 1];
        size_t n;
        bool failed;
};

static void args_clear(struct args *a) {
        for (size_t i = 0; i < a->n; i++)
                free(a->argv[i]);
}

static void __attribute__((format(printf, 2, 3))) arg(struct args *a, const char *format, ...) {
        va_list ap;
        int r = -1;

        va_start(ap, format);
        if (a->n < ARGS_MAX)
                r = vasprintf(&a->argv[a->n], format, ap);
        va_end(ap);
        if (r < 0)
                a->failed = true;
        else
                a->argv[++a->n] = NULL;
}

/* The user that Debian's package makes, or nobody. */
static const char *run_as(char *group, size_t size) {
        const char *user = getpwnam("dnsmasq") ? "dnsmasq" : "nobody";
        struct passwd *pw = getpwnam(user);
        struct group *gr = pw ? getgrgid(pw->pw_gid) : NULL;

        snprintf(group, size, "%s", gr ? gr->gr_name : "nogroup");
        return user;
}

static int args_make(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                     struct args *a) {
        char text[CIDR_TEXT_MAX], group[64];
        const char *user = run_as(group, sizeof(group)), *dir = ctx->state_dir;

        arg(a, "dnsmasq");
        arg(a, "--pid-file=%s/%s/dnsmasq.pid", dir, c->name);
        arg(a, "--conf-file=/dev/null");
        arg(a, "--user=%s", user);
        arg(a, "--group=%s", group);
        arg(a, "--interface=%s", c->bridge);
        arg(a, "--except-interface=lo"); /* else it adds that by itself */
        arg(a, "--bind-dynamic");
        arg(a, "--no-hosts");
        arg(a, "--hostsdir=%s/%s/dns", dir, c->name);
        arg(a, "--domain=%s", c->domain);
        arg(a, "--local=/%s/", c->domain);
        arg(a, "--expand-hosts");
        arg(a, "--domain-needed");
        arg(a, "--bogus-priv");
        arg(a, "--cache-size=1000");
        arg(a, "--dhcp-authoritative");
        arg(a, "--dhcp-ignore-names");
        arg(a, "--no-ping"); /* each address has one owner */
        arg(a, "--dhcp-lease-max=65536");
        arg(a, "--dhcp-leasefile=%s/%s/leases", dir, c->name);
        arg(a, "--dhcp-hostsdir=%s/%s/dhcp", dir, c->name);
        arg(a, "--dhcp-range=%s,static,12h", cidr_format_address(&p->subnet, text));
        if (c->mtu != 1500)
                arg(a, "--dhcp-option=option:mtu,%" PRIu32, c->mtu);
        if (p->has6) {
                arg(a, "--dhcp-range=%s,static,slaac,ra-names,64,12h", cidr_format_address(&p->subnet6, text));
                arg(a, "--dhcp-option=option6:domain-search,%s", c->domain);
                arg(a, "--enable-ra");
        }
        return a->failed ? -ENOMEM : 0;
}

/* ---- its process -------------------------------------------------------------------------------------------------- */

static int pidfd_signal(int pidfd, int signo) {
        return syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0) < 0 ? -errno : 0;
}

/* The arguments of a process, each ended by a NUL; it must run as root or as dnsmasq's user. */
static int process_arguments(pid_t pid, char **ret_text, size_t *ret_n) {
        _cleanup_close_ int fd = -EBADF;
        char path[64], group[64];
        struct passwd *pw = getpwnam(run_as(group, sizeof(group)));
        struct stat st;

        snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (st.st_uid != 0 && (!pw || st.st_uid != pw->pw_uid))
                return -ESRCH;
        return io_read_all(fd, 1 << 16, ret_text, ret_n);
}

/* "--pid-file=<state>/NETWORK/dnsmasq.pid" as its first argument: the network's name, in place; else NULL. */
static char *arguments_network(struct network_ctx *ctx, char *text, size_t n) {
        char *first = n > 0 && text[n - 1] == '\0' ? text + strlen(text) + 1 : NULL, *slash;
        size_t dir = strlen(ctx->state_dir);

        if (!first || first >= text + n || strncmp(first, "--pid-file=", 11) != 0)
                return NULL;
        first += 11;
        if (strncmp(first, ctx->state_dir, dir) != 0 || first[dir] != '/')
                return NULL;
        first += dir + 1;
        slash = strchr(first, '/');
        if (!slash || slash == first || !streq(slash, "/dnsmasq.pid"))
                return NULL;
        *slash = '\0';
        return first;
}

/* A descriptor of process @pid, if it is the one of this network. */
static int process_open(struct network_ctx *ctx, pid_t pid, const char *network, char **ret_arguments, size_t *ret_n) {
        _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        _cleanup_free_ char *text = NULL, *copy = NULL;
        const char *found;
        size_t n;
        int r;

        if (pidfd < 0)
                return -errno;
        r = process_arguments(pid, &text, &n);
        if (r < 0)
                return r;
        copy = malloc(n + 1);
        if (!copy)
                return -ENOMEM;
        memcpy(copy, text, n + 1);
        found = arguments_network(ctx, copy, n);
        if (!found || !streq(found, network) || pidfd_signal(pidfd, 0) < 0)
                return -ESRCH;
        if (ret_arguments) {
                *ret_arguments = TAKE_PTR(text);
                *ret_n = n;
        }
        return TAKE_FD(pidfd);
}

static void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

int dnsmasq_scan(struct network_ctx *ctx, int (*fn)(void *opaque, const char *network, pid_t pid), void *opaque) {
        _cleanup_(closedirp) DIR *d = opendir("/proc");
        int r = 0;

        if (!d)
                return -errno;
        for (struct dirent *de = readdir(d); de && r >= 0; de = readdir(d)) {
                _cleanup_free_ char *text = NULL;
                const char *network;
                uint64_t pid;
                size_t n;

                if (!isdigit((unsigned char)de->d_name[0]) || text_parse_uint(de->d_name, INT32_MAX, &pid) < 0 ||
                    process_arguments((pid_t)pid, &text, &n) < 0)
                        continue;
                network = arguments_network(ctx, text, n);
                if (network)
                        r = fn(opaque, network, (pid_t)pid);
        }
        return r;
}

struct wanted {
        const char *network;
        pid_t pid;
};

static int scan_one(void *opaque, const char *network, pid_t pid) {
        struct wanted *w = opaque;

        if (streq(network, w->network))
                w->pid = pid;
        return 0;
}

/* The network's dnsmasq, by its pid file, or by looking at all processes: the file may have been lost. -ESRCH. */
static int process_find(struct network_ctx *ctx, const char *network, char **ret_arguments, size_t *ret_n) {
        _cleanup_close_ int dir_fd = state_open(ctx, network, false);
        _cleanup_free_ char *text = NULL;
        struct wanted w = { .network = network };
        uint64_t pid;
        int r = -ESRCH;

        if (dir_fd >= 0 && state_read(dir_fd, "dnsmasq.pid", &text) == 0) {
                text[strcspn(text, "\n")] = '\0';
                if (text_parse_uint(text, INT32_MAX, &pid) == 0 && pid > 0)
                        r = process_open(ctx, (pid_t)pid, network, ret_arguments, ret_n);
        }
        if (r >= 0)
                return r;
        r = dnsmasq_scan(ctx, scan_one, &w);
        return r < 0 ? r : w.pid == 0 ? -ESRCH : process_open(ctx, w.pid, network, ret_arguments, ret_n);
}

static bool arguments_same(const struct args *a, const char *text, size_t n) {
        const char *p = text;

        for (size_t i = 0; i < a->n; i++) {
                size_t length = strlen(a->argv[i]) + 1;

                if ((size_t)(text + n - p) < length || memcmp(p, a->argv[i], length) != 0)
                        return false;
                p += length;
        }
        return p == text + n;
}

static enum dnsmasq_state look(struct network_ctx *ctx, const char *network, const struct args *a) {
        _cleanup_free_ char *text = NULL;
        size_t n = 0;
        _cleanup_close_ int pidfd = process_find(ctx, network, &text, &n);

        return pidfd < 0 ? DNSMASQ_MISSING : arguments_same(a, text, n) ? DNSMASQ_RUNNING : DNSMASQ_OUTDATED;
}

enum dnsmasq_state dnsmasq_look(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p) {
        _cleanup_(args_clear) struct args a = { .n = 0 };

        return args_make(ctx, c, p, &a) < 0 ? DNSMASQ_MISSING : look(ctx, c->name, &a);
}

static int reload(struct network_ctx *ctx, const char *network) {
        _cleanup_close_ int pidfd = process_find(ctx, network, NULL, NULL);

        return pidfd < 0 ? pidfd : pidfd_signal(pidfd, SIGHUP);
}

int dnsmasq_down(struct network_ctx *ctx, const char *network, struct error *e) {
        for (int tries = 0; tries < 4; tries++) { /* there is one, unless somebody played with them */
                _cleanup_close_ int pidfd = process_find(ctx, network, NULL, NULL);
                struct pollfd p = { .fd = pidfd, .events = POLLIN };

                if (pidfd < 0)
                        return 0;
                pidfd_signal(pidfd, SIGTERM);
                if (poll(&p, 1, END_MS) == 1)
                        continue;
                pidfd_signal(pidfd, SIGKILL);
                if (poll(&p, 1, END_MS) != 1)
                        break;
        }
        return error_set(e, -EBUSY, "network-dnsmasq", "see what it waits for: ps -C dnsmasq -o pid,stat,wchan,args",
                         "network %s's dnsmasq does not end", network);
}

/* It reads files as its own user: that must get to them. */
static int check_path(struct network_ctx *ctx, const char *user, struct error *e) {
        _cleanup_free_ char *path = strdup(ctx->state_dir);
        struct stat st;

        if (!path)
                return -ENOMEM;
        for (char *end = path + strlen(path); end > path; end = strrchr(path, '/')) {
                *end = '\0';
                if (path[0] == '\0' || stat(path, &st) < 0 || (st.st_mode & S_IXOTH))
                        continue;
                error_set(e, -EACCES, "network-state-dir", NULL, "directory %s is closed to user %s, who runs dnsmasq",
                          path, user);
                error_set_fix(e, "let others pass through it: chmod o+x %s", path);
                return -EACCES;
        }
        return 0;
}

static int start(struct args *a, const char *network, struct error *e) {
        _cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF, pidfd = -EBADF;
        struct spawn s = { .path = "dnsmasq", .argv = (const char *const *)a->argv, .stdin_fd = -1, .stdout_fd = -1 };
        char said[512] = "";
        int fds[2], status = -1, r;
        ssize_t n;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return error_set(e, -errno, "network-dnsmasq", NULL, "cannot start dnsmasq");
        read_fd = fds[0];
        s.stderr_fd = write_fd = fds[1];
        r = spawn_child(&s, &pid, &pidfd, e);
        if (r < 0) {
                if (r == -ENOENT)
                        error_set_fix(e, "install it: apt-get install dnsmasq-base");
                return r;
        }
        r = spawn_wait(pid, pidfd, START_MS, &status); /* it goes to the background once all is well */
        if (r < 0)
                spawn_end(pid, pidfd, 0);
        if (r == 0 && status == 0)
                return 0;
        n = read(read_fd, said, sizeof(said) - 1);
        said[n > 0 ? n : 0] = '\0';
        for (char *p = said; *p; p++)
                if (*p == '\n')
                        *p = ' ';
        error_set(e, r < 0 ? r : -EIO, "network-dnsmasq", NULL, "dnsmasq of network %s does not start: %s", network,
                  said[strspn(said, " ")] ? said + strspn(said, " ") : "no answer in time");
        error_set_fix(e, strstr(said, "in use")
                                 ? "another DNS or DHCP server listens on all addresses: ss -lunp 'sport = 53 or sport "
                                   "= 67'; let it "
                                   "listen on its own interfaces only (dnsmasq: bind-interfaces, unbound: interface)"
                                 : "what it was told: ps -C dnsmasq -o args, and journalctl -t dnsmasq");
        return r < 0 ? r : -EIO;
}

int dnsmasq_up(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p, bool restart,
               struct network_notes *changes, struct error *e) {
        _cleanup_(args_clear) struct args a = { .n = 0 };
        enum dnsmasq_state state;
        int r = args_make(ctx, c, p, &a);

        if (r < 0)
                return error_set(e, r, "network-dnsmasq", NULL, "cannot start dnsmasq");
        state = look(ctx, c->name, &a);
        if (state == DNSMASQ_RUNNING && !restart)
                return 0;
        if (state == DNSMASQ_MISSING)
                note_add(changes, "dnsmasq-missing", NULL, "dnsmasq of network %s did not run", c->name);
        if (state == DNSMASQ_OUTDATED)
                note_add(changes, "dnsmasq-outdated", NULL, "dnsmasq of network %s ran with other arguments", c->name);
        r = check_path(ctx, a.argv[3] + strlen("--user="), e);
        if (r == 0)
                r = dnsmasq_down(ctx, c->name, e);
        return r < 0 ? r : start(&a, c->name, e);
}

/* ---- its files ---------------------------------------------------------------------------------------------------- */

/* 1: replaced one that said something else; 0: new, or the same. */
static int put(struct network_ctx *ctx, const char *network, const char *dir, const char *machine, const char *text) {
        _cleanup_close_ int fd = state_open(ctx, network, true), sub = -EBADF;
        _cleanup_free_ char *have = NULL;
        int r = fd;

        if (fd < 0)
                return r;
        sub = openat(fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (sub < 0)
                return -errno;
        if (state_read(sub, machine, &have) == 0 && streq(have, text))
                return 0;
        r = state_write(sub, machine, text, 0644);
        return r < 0 ? r : have ? 1 : 0;
}

static bool lease_is(const char *line, const char *address) {
        const char *second = strchr(line, ' '), *third = second ? strchr(second + 1, ' ') : NULL;
        size_t n = address ? strlen(address) : 0;

        return third && n > 0 && strncmp(third + 1, address, n) == 0 && third[1 + n] == ' ';
}

/* The file without a port's leases; NULL when it has none, or there is no memory. */
static char *leases_without(char *text, const struct network_port *port) {
        char *rest = NULL, *save = NULL;
        bool found = false;
        size_t size;
        FILE *f = open_memstream(&rest, &size);

        for (char *line = f ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
                if (lease_is(line, port->address4) || lease_is(line, port->address6))
                        found = true;
                else
                        fprintf(f, "%s\n", line);
        }
        if (f && ((ferror(f) | fclose(f)) || !found)) {
                free(rest);
                return NULL;
        }
        return rest;
}

int dnsmasq_evict(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                  const struct network_port *port, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, c->name, false), pidfd = -EBADF;
        _cleanup_free_ char *text = NULL, *again = NULL, *rest = NULL;
        int r;

        if (fd < 0 || state_read(fd, "leases", &text) < 0)
                return 0;
        rest = leases_without(text, port);
        if (!rest)
                return 0;
        pidfd = process_find(ctx, c->name, NULL, NULL);
        r = dnsmasq_down(ctx, c->name, e); /* and only now the file stays as it is */
        if (r < 0)
                return r;
        r = state_read(fd, "leases", &again);
        free(rest);
        rest = r < 0 ? NULL : leases_without(again, port);
        if (rest)
                r = state_write(fd, "leases", rest, 0644);
        if (r < 0)
                return error_set(e, r, "network-state", NULL, "cannot end the leases of %s", port->machine);
        return pidfd < 0 ? 0 : dnsmasq_up(ctx, c, p, false, NULL, e);
}

int dnsmasq_reserve(struct network_ctx *ctx, const struct network_config *c, const struct network_plan *p,
                    const struct network_port *port, struct error *e) {
        _cleanup_free_ char *dhcp = NULL, *dns = NULL;
        const char *network = c->name;
        int r, changed;

        if (asprintf(&dhcp, "%s,%s,%s%s%s%s\n", port->mac, port->address4, port->address6 ? "[" : "",
                     port->address6 ?: "", port->address6 ? "]," : "", port->machine) < 0)
                dhcp = NULL;
        if (asprintf(&dns, "%s %s\n", port->address4, port->machine) < 0)
                dns = NULL;
        r = dhcp && dns ? put(ctx, network, "dhcp", port->machine, dhcp) : -ENOMEM;
        changed = r;
        if (r >= 0)
                r = put(ctx, network, "dns", port->machine, dns);
        if (r < 0)
                return error_set(e, r, "network-state", "check that the file system has room: df",
                                 "cannot write the reservation of %s", port->machine);
        if (changed > 0 || r > 0)
                reload(ctx, network);
        return changed > 0 ? dnsmasq_evict(ctx, c, p, port, e) : 0;
}

int dnsmasq_release(struct network_ctx *ctx, const char *network, const char *machine, struct error *e) {
        static const char *const dirs[] = { "dhcp", "dns" };
        _cleanup_close_ int fd = state_open(ctx, network, false);
        bool gone = false;

        for (size_t i = 0; i < ELEMENTSOF(dirs) && fd >= 0; i++) {
                _cleanup_close_ int sub = openat(fd, dirs[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

                if (sub >= 0 && unlinkat(sub, machine, 0) == 0)
                        gone = true;
                else if (sub < 0 || errno != ENOENT)
                        return error_set(e, -errno, "network-state", NULL, "cannot remove the reservation of %s",
                                         machine);
        }
        if (gone)
                reload(ctx, network);
        return 0;
}

/* "EXPIRES MAC ADDRESS NAME CLIENT"; of IPv6 "EXPIRES IAID ADDRESS NAME DUID"; "duid ..." lies between. */
static int lease_parse(char *line, struct network_lease *ret) {
        char *save = NULL, *words[5];
        struct cidr address;
        struct network_lease l = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                words[i] = strtok_r(i == 0 ? line : NULL, " ", &save);
                if (!words[i])
                        return -EINVAL;
        }
        if (text_parse_uint(words[0], UINT64_MAX, &l.expires) < 0 || cidr_parse_address(words[2], &address) < 0)
                return -EINVAL;
        l.mac = strdup(address.family == AF_INET ? words[1] : words[4]);
        l.address = strdup(words[2]);
        l.name = streq(words[3], "*") ? NULL : strdup(words[3]);
        *ret = l;
        return 0;
}

int dnsmasq_leases(struct network_ctx *ctx, const char *network, struct network_lease **ret_leases, size_t *ret_n) {
        _cleanup_close_ int fd = state_open(ctx, network, false);
        _cleanup_free_ char *text = NULL;
        struct network_lease *leases = NULL;
        char *save = NULL;
        size_t n = 0;
        int r = fd < 0 ? fd : state_read(fd, "leases", &text);

        if (r < 0 && r != -ENOENT)
                return r;
        for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && n < LEASES_MAX;
             line = strtok_r(NULL, "\n", &save)) {
                struct network_lease l, *more;

                if (lease_parse(line, &l) < 0)
                        continue;
                more = reallocarray(leases, n + 1, sizeof(*leases));
                if (!more) {
                        free(l.mac);
                        free(l.address);
                        free(l.name);
                        break;
                }
                leases = more;
                leases[n++] = l;
        }
        *ret_leases = leases;
        *ret_n = n;
        return 0;
}
