// SPDX-License-Identifier: GPL-2.0-or-later
/* state: see state.h */
#include "daemon/network/state.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/io.h"

#define STATE_FILE_MAX (8u << 20)
static const char *const subdirs[] = { "ports", "dhcp", "dns" };

static void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

int state_write(int dir_fd, const char *name, const char *text, mode_t mode) {
        _cleanup_close_ int fd = -EBADF;
        char temp[256];
        int r;

        if (snprintf(temp, sizeof(temp), ".%s.tmp", name) >= (int)sizeof(temp))
                return -ENAMETOOLONG;
        fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);
        if (fd < 0)
                return -errno;
        r = fchmod(fd, mode) < 0 ? -errno : io_write_all(fd, text, strlen(text));
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        if (r == 0 && renameat(dir_fd, temp, dir_fd, name) < 0)
                r = -errno;
        if (r < 0)
                unlinkat(dir_fd, temp, 0);
        return r < 0 ? r : fsync(dir_fd) < 0 ? -errno : 0;
}

int state_read(int dir_fd, const char *name, char **ret_text) {
        _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        size_t n;

        return fd < 0 ? -errno : io_read_all(fd, STATE_FILE_MAX, ret_text, &n);
}

int state_remove(int dir_fd, const char *name) {
        return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* dnsmasq's user passes through it, but can't list it. */
static int dir_make(int dir_fd, const char *name, mode_t mode) {
        _cleanup_close_ int fd = -EBADF;

        if (mkdirat(dir_fd, name, mode) < 0 && errno != EEXIST)
                return -errno;
        fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fchmod(fd, mode) < 0)
                return -errno;
        return TAKE_FD(fd);
}

bool state_name_ok(const char *name) {
        size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

        return n > 0 && n < 64 && name[n] == '\0' && name[0] != '-';
}

char *state_boot_id(void) {
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        char *id;
        size_t n;

        if (fd < 0 || io_read_all(fd, 128, &id, &n) < 0)
                return NULL;
        id[strcspn(id, "\n")] = '\0';
        return id;
}

int state_open(struct network_ctx *ctx, const char *network, bool make) {
        _cleanup_close_ int fd = -EBADF;

        if (!state_name_ok(network))
                return -EINVAL;
        if (!make) {
                fd = openat(ctx->fd, network, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                return fd < 0 ? -errno : TAKE_FD(fd);
        }
        fd = dir_make(ctx->fd, network, 0711);
        for (size_t i = 0; fd >= 0 && i < ELEMENTSOF(subdirs); i++) {
                int sub = dir_make(fd, subdirs[i], streq(subdirs[i], "ports") ? 0700 : 0755);

                if (sub < 0)
                        return sub;
                close(sub);
        }
        return TAKE_FD(fd);
}

char *state_path(struct network_ctx *ctx, const char *network, const char *name) {
        char *path;

        if (asprintf(&path, "%s/%s%s%s", ctx->state_dir, network, name ? "/" : "", name ?: "") < 0)
                return NULL;
        return path;
}

void state_names_free(char **names) {
        for (size_t i = 0; names && names[i]; i++)
                free(names[i]);
        free(names);
}

/* The entries of a directory that may be names of ours: none begins with a dot. */
static int dir_names(int fd, char ***ret_names) {
        _cleanup_(closedirp) DIR *d = NULL;
        char **names = calloc(1, sizeof(*names));
        size_t n = 0;

        if (fd < 0 || !names) {
                free(names);
                safe_close(fd);
                return fd < 0 ? -errno : -ENOMEM;
        }
        d = fdopendir(fd);
        if (!d) {
                free(names);
                safe_close(fd);
                return -ENOMEM;
        }
        for (struct dirent *de = readdir(d); de; de = readdir(d)) {
                char **more;

                if (!state_name_ok(de->d_name))
                        continue;
                more = reallocarray(names, n + 2, sizeof(*names));
                if (more)
                        names = more;
                if (!more || !(names[n] = strdup(de->d_name))) {
                        state_names_free(names);
                        return -ENOMEM;
                }
                names[++n] = NULL;
        }
        *ret_names = names;
        return 0;
}

int state_networks(struct network_ctx *ctx, char ***ret_names) {
        _cleanup_close_ int fd = openat(ctx->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char **names;
        size_t kept = 0;
        int r = dir_names(TAKE_FD(fd), &names);

        if (r < 0)
                return r;
        for (size_t i = 0; names[i]; i++) {
                struct stat st;

                if (fstatat(ctx->fd, names[i], &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
                        names[kept++] = names[i];
                else
                        free(names[i]);
        }
        names[kept] = NULL;
        *ret_names = names;
        return 0;
}

static int fail_state(struct error *e, int code, const char *what, const char *name) {
        return error_set(e, code, "network-state", "check that the file system has room and can be written: df, mount",
                         "cannot %s the state of %s", what, name);
}

int state_config_load(struct network_ctx *ctx, const char *network, struct network_config **ret, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, network, false);
        _cleanup_free_ char *text = NULL;
        int r = fd < 0 ? fd : state_read(fd, "config.json", &text);

        if (r == -ENOENT)
                return r;
        if (r < 0)
                return fail_state(e, r, "read", network);
        r = network_config_parse(text, strlen(text), ret, e);
        if (r < 0)
                error_prefix(e, "%s/%s/config.json", ctx->state_dir, network);
        return r;
}

int state_config_save(struct network_ctx *ctx, const struct network_config *c, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, c->name, true);
        _cleanup_free_ char *text = network_config_format(c), *have = NULL;
        int r = fd < 0 ? fd : !text ? -ENOMEM : 0;

        if (r == 0 && state_read(fd, "config.json", &have) == 0 && have && text && streq(have, text))
                return 0;
        if (r == 0)
                r = state_write(fd, "config.json", text, 0600);
        return r < 0 ? fail_state(e, r, "write", c->name) : 0;
}

/* ---- ports -------------------------------------------------------------------------------------------------------- */

void state_ports_clear(struct network_ports *ports) {
        for (size_t i = 0; i < ports->n; i++)
                network_port_free(ports->items[i]);
        free(ports->items);
        *ports = (struct network_ports){ 0 };
}

struct network_port *state_port_find(const struct network_ports *ports, const char *machine) {
        for (size_t i = 0; i < ports->n; i++)
                if (streq(ports->items[i]->machine, machine))
                        return ports->items[i];
        return NULL;
}

static int compare_ports(const void *a, const void *b) {
        return strcmp((*(struct network_port *const *)a)->machine, (*(struct network_port *const *)b)->machine);
}

int state_port_add(struct network_ports *ports, struct network_port *port) {
        struct network_port **items = reallocarray(ports->items, ports->n + 1, sizeof(struct network_port *));

        if (!items) {
                network_port_free(port);
                return -ENOMEM;
        }
        ports->items = items;
        items[ports->n++] = port;
        qsort(items, ports->n, sizeof(struct network_port *), compare_ports);
        return 0;
}

int state_ports_load(struct network_ctx *ctx, const char *network, struct network_ports *ret, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, network, false), ports_fd = -EBADF;
        _cleanup_ports_ struct network_ports ports = { 0 };
        char **names = NULL;
        int r = fd == -ENOENT ? 0 : fd < 0 ? fd : 0;

        if (fd >= 0) {
                ports_fd = openat(fd, "ports", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (ports_fd >= 0)
                        r = dir_names(dup(ports_fd), &names);
                else
                        r = errno == ENOENT ? 0 : -errno;
        }
        if (r < 0)
                return fail_state(e, r, "read", network);
        for (size_t i = 0; names && names[i] && r == 0; i++) {
                _cleanup_free_ char *text = NULL;
                struct network_port *port;

                r = state_read(ports_fd, names[i], &text);
                if (r < 0)
                        fail_state(e, r, "read", names[i]);
                else
                        r = network_port_parse(text, strlen(text), &port, e);
                if (r == 0 && !streq(port->machine, names[i])) {
                        network_port_free(port);
                        r = error_set(e, -EINVAL, "network-state", NULL, "file is another machine's");
                }
                if (r == 0)
                        r = state_port_add(&ports, port);
                if (r < 0)
                        error_prefix(e, "%s/%s/ports/%s", ctx->state_dir, network, names[i]);
        }
        state_names_free(names);
        if (r < 0)
                return r;
        *ret = ports;
        ports = (struct network_ports){ 0 };
        return 0;
}

int state_port_save(struct network_ctx *ctx, const char *network, const struct network_port *port, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, network, true), ports_fd = -EBADF;
        _cleanup_free_ char *text = network_port_format(port), *have = NULL;
        int r = fd < 0 ? fd : !text ? -ENOMEM : 0;

        if (r == 0) {
                ports_fd = openat(fd, "ports", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                r = ports_fd < 0 ? -errno : 0;
        }
        if (r == 0 && state_read(ports_fd, port->machine, &have) == 0 && have && text && streq(have, text))
                return 0;
        if (r == 0)
                r = state_write(ports_fd, port->machine, text, 0600);
        return r < 0 ? fail_state(e, r, "write", port->machine) : 0;
}

int state_port_remove(struct network_ctx *ctx, const char *network, const char *machine, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, network, false), ports_fd = -EBADF;
        int r;

        if (!state_name_ok(machine) || fd == -ENOENT)
                return 0;
        if (fd < 0)
                return fail_state(e, fd, "read", network);
        ports_fd = openat(fd, "ports", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (ports_fd < 0)
                return errno == ENOENT ? 0 : fail_state(e, -errno, "read", network);
        r = state_remove(ports_fd, machine);
        return r < 0 ? fail_state(e, r, "remove", machine) : 0;
}

static int dir_empty(int parent, const char *name) {
        _cleanup_close_ int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        _cleanup_(closedirp) DIR *d = NULL;

        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        d = fdopendir(fd);
        if (!d)
                return -errno;
        TAKE_FD(fd);
        for (struct dirent *de = readdir(d); de; de = readdir(d))
                if (!streq(de->d_name, ".") && !streq(de->d_name, "..") && unlinkat(dirfd(d), de->d_name, 0) < 0 &&
                    errno != EISDIR)
                        return -errno;
        return 0;
}

int state_delete(struct network_ctx *ctx, const char *network, struct error *e) {
        _cleanup_close_ int fd = state_open(ctx, network, false);
        int r = fd < 0 ? fd : 0;

        if (fd == -ENOENT)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(subdirs) && r == 0; i++) {
                r = dir_empty(fd, subdirs[i]);
                if (r == 0 && unlinkat(fd, subdirs[i], AT_REMOVEDIR) < 0 && errno != ENOENT)
                        r = -errno;
        }
        if (r == 0)
                r = dir_empty(ctx->fd, network);
        if (r == 0 && unlinkat(ctx->fd, network, AT_REMOVEDIR) < 0 && errno != ENOENT)
                r = -errno;
        return r < 0 ? fail_state(e, r, "remove", network) : 0;
}
