// SPDX-License-Identifier: GPL-2.0-or-later
/* remote: see remote.h */
#include "cli/remote.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/address.h"
#include "base/io.h"
#include "base/new-file.h"
#include "base/xdg.h"
#include "cli/tls.h"

#define FILE_MAX     65536
#define CONNECT_MS   5000
#define HANDSHAKE_MS 15000
#define NAME_SIZE    80 /* of a remote, with its suffix */

void remote_free(struct remote *remote) {
        if (!remote)
                return;
        remote_config_free(remote->config);
        identity_free(remote->identity);
        free(remote);
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

/* Return: a descriptor of the directory, -ENOENT when there is none and @make is not set. */
static int open_dir(bool make, struct error *e) {
        _cleanup_free_ char *path = NULL;
        int fd, r = xdg_path(XDG_CONFIG, "lodge/remotes", &path);

        if (r == -ENOENT)
                return error_set(e, -ENOTDIR, "remote-dir", "set HOME", "cannot tell where remotes are kept");
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot look for remotes");
        if (make)
                r = io_make_dirs(path, 0700, 0700);
        fd = r < 0 ? r : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 && r == 0)
                r = -errno;
        if (r == -ENOENT)
                return r;
        return r < 0 ? error_set(e, r, "remote-dir", NULL, "cannot use %s", path) : fd;
}

static int unknown(const char *name, struct error *e) {
        return error_set(e, -ENOENT, "remote-unknown", "lodge remote list; a new one: lodge remote add NAME TOKEN",
                         "there is no remote %s", name);
}

static int read_config(int dir, const char *name, struct remote_config **ret_config, struct error *e) {
        char file[NAME_SIZE];
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        size_t n;
        int r;

        snprintf(file, sizeof(file), "%.63s.json", name);
        fd = openat(dir, file, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
                return unknown(name, e);
        r = fd < 0 ? -errno : io_read_all(fd, FILE_MAX, &text, &n);
        if (r == 0)
                r = remote_config_parse(text, n, ret_config, e);
        if (r < 0) {
                error_set(e, r, "remote-file", NULL, "cannot read what is known of remote %s", name);
                error_set_fix(e, "add it again: lodge remote delete %s, lodge remote add %s TOKEN", name, name);
        }
        return r;
}

static int load_identity(int dir, struct remote *r, struct error *e) {
        char file[NAME_SIZE];

        snprintf(file, sizeof(file), "%.63s.pem", r->config->name);
        return identity_load(dir, file, "lodge", &r->identity, e);
}

int remote_load(const char *name, struct remote **ret_remote, struct error *e) {
        _cleanup_(remote_freep) struct remote *remote = calloc(1, sizeof(*remote));
        _cleanup_close_ int dir = remote ? open_dir(false, e) : -ENOMEM;
        int r;

        if (dir < 0)
                return dir == -ENOENT ? unknown(name, e) : error_set(e, dir, "memory", NULL, "cannot look for remotes");
        r = read_config(dir, name, &remote->config, e);
        if (r == 0 && fingerprint_parse(remote->config->fingerprint, remote->fingerprint) < 0)
                r = error_set(e, -EINVAL, "remote-file", NULL, "the fingerprint of remote %s is none", name);
        if (r == 0)
                r = load_identity(dir, remote, e);
        if (r == 0)
                *ret_remote = TAKE_PTR(remote);
        return r;
}

static int config_of_token(const char *name, const struct token *token, struct remote_config **ret_config) {
        _cleanup_(remote_config_freep) struct remote_config *c = NULL;
        char fingerprint[FINGERPRINT_TEXT_SIZE];

        if (remote_config_new(&c) < 0)
                return -ENOMEM;
        c->name = strdup(name);
        c->fingerprint = strdup(fingerprint_format(token->fingerprint, fingerprint));
        c->addresses = calloc(token->n_addresses, sizeof(*c->addresses));
        for (size_t i = 0; c->addresses && i < token->n_addresses; i++) {
                c->addresses[i] = strdup(token->addresses[i]);
                c->n_addresses = i + 1;
                if (!c->addresses[i])
                        return -ENOMEM;
        }
        if (!c->name || !c->fingerprint || !c->addresses)
                return -ENOMEM;
        *ret_config = TAKE_PTR(c);
        return 0;
}

int remote_new(const char *name, const struct token *token, struct remote **ret_remote, struct error *e) {
        _cleanup_(remote_freep) struct remote *remote = calloc(1, sizeof(*remote));
        _cleanup_close_ int dir = remote ? open_dir(true, e) : -ENOMEM;
        char file[NAME_SIZE];
        int r;

        if (dir < 0)
                return error_set(e, dir, "memory", NULL, "cannot add a remote");
        snprintf(file, sizeof(file), "%.63s.json", name);
        if (faccessat(dir, file, F_OK, 0) == 0) {
                error_set(e, -EEXIST, "remote-exists", NULL, "there is a remote %s already", name);
                error_set_fix(e, "take another name, or forget that one: lodge remote delete %s", name);
                return -EEXIST;
        }
        new_file_sweep(dir);
        memcpy(remote->fingerprint, token->fingerprint, sizeof(remote->fingerprint));
        r = config_of_token(name, token, &remote->config);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot add a remote");
        r = load_identity(dir, remote, e);
        if (r == 0)
                *ret_remote = TAKE_PTR(remote);
        return r;
}

int remote_save(struct remote *remote, struct error *e) {
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        _cleanup_close_ int dir = open_dir(true, e);
        _cleanup_free_ char *text = NULL;
        struct remote_config *c = remote->config;
        char file[NAME_SIZE], *first = c->addresses[remote->reached];
        int r;

        if (dir < 0)
                return dir;
        memmove(c->addresses + 1, c->addresses, remote->reached * sizeof(*c->addresses));
        c->addresses[0] = first;
        remote->reached = 0;
        text = remote_config_format(c);
        snprintf(file, sizeof(file), "%.63s.json", c->name);
        r = text ? new_file_open(&f, dir, 0600) : -ENOMEM;
        if (r == 0)
                r = io_write_all(f.fd, text, strlen(text));
        if (r == 0)
                r = new_file_keep(&f, file, true);
        return r < 0 ? error_set(e, r, "remote-file", NULL, "cannot keep remote %s", c->name) : 0;
}

int remote_delete(const char *name, struct error *e) {
        _cleanup_close_ int dir = open_dir(false, e);
        char config[NAME_SIZE], key[NAME_SIZE];
        bool had;

        if (dir < 0)
                return dir == -ENOENT ? unknown(name, e) : dir;
        snprintf(config, sizeof(config), "%.63s.json", name);
        snprintf(key, sizeof(key), "%.63s.pem", name);
        had = unlinkat(dir, config, 0) == 0;
        if (!had && errno != ENOENT)
                return error_set(e, -errno, "remote-file", NULL, "cannot forget remote %s", name);
        had |= unlinkat(dir, key, 0) == 0; /* also one that an enrolment has left that failed */
        return had ? 0 : unknown(name, e);
}

static int by_name(const void *a, const void *b) {
        return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "name")) ?: "",
                      json_string_value(json_object_get(*(json_t *const *)b, "name")) ?: "");
}

/* The remote of that file, as JSON; NULL: it is none, or can't be read. */
static json_t *list_one(int dir, const char *file) {
        _cleanup_(remote_config_freep) struct remote_config *c = NULL;
        _cleanup_free_ char *text = NULL;
        size_t n = strlen(file);
        char name[NAME_SIZE];

        if (n <= strlen(".json") || n >= sizeof(name) || !streq(file + n - strlen(".json"), ".json"))
                return NULL;
        snprintf(name, sizeof(name), "%.*s", (int)(n - strlen(".json")), file);
        if (read_config(dir, name, &c, NULL) < 0)
                return NULL;
        text = remote_config_format(c);
        return text ? json_loads(text, 0, NULL) : NULL;
}

int remote_list(json_t **ret_page, struct error *e) {
        json_t *found[1000], *items = json_array();
        int dir = open_dir(false, e);
        DIR *d = dir >= 0 ? fdopendir(dir) : NULL;
        const struct dirent *de;
        size_t n = 0;

        if (dir < 0 && dir != -ENOENT) {
                json_decref(items);
                return dir;
        }
        while (d && (de = readdir(d)) && n < ELEMENTSOF(found)) {
                found[n] = list_one(dir, de->d_name);
                n += found[n] != NULL;
        }
        if (d)
                closedir(d);
        else
                safe_close(dir);
        qsort(found, n, sizeof(*found), by_name);
        for (size_t i = 0; i < n; i++)
                json_array_append_new(items, found[i]);
        *ret_page = json_pack("{s:o}", "items", items);
        return *ret_page ? 0 : error_set(e, -ENOMEM, "memory", NULL, "cannot list the remotes");
}

/* ---- connections ------------------------------------------------------------------------------------------------------- */

static int connect_wait(int fd, const struct addrinfo *a) {
        struct pollfd p = { .fd = fd, .events = POLLOUT };
        int code = 0, r;
        socklen_t n = sizeof(code);

        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
                return 0;
        if (errno != EINPROGRESS)
                return -errno;
        do
                r = poll(&p, 1, CONNECT_MS);
        while (r < 0 && errno == EINTR);
        if (r <= 0)
                return r < 0 ? -errno : -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n) < 0)
                return -errno;
        return -code;
}

/* Return: a connected socket, -EHOSTUNREACH when the name says nothing, -errno. */
static int connect_one(const char *text) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
        _cleanup_free_ char *host = NULL;
        struct addrinfo *found = NULL;
        const char *port;
        const int on = 1;
        int r = address_split(text, &host, &port);

        if (r < 0 || getaddrinfo(host, port, &hints, &found) != 0)
                return r < 0 ? r : -EHOSTUNREACH;
        r = -EHOSTUNREACH;
        for (const struct addrinfo *a = found; a; a = a->ai_next) {
                _cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

                r = fd < 0 ? -errno : connect_wait(fd, a);
                if (r == 0) {
                        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
                        freeaddrinfo(found);
                        return TAKE_FD(fd);
                }
        }
        freeaddrinfo(found);
        return r;
}

static int begin_tls(struct remote *remote, int fd, int stop_fd, struct tls **ret_tls, struct error *e) {
        const char *reason = "it does not answer", *name = remote->config->name;
        int r = tls_open(remote->identity, fd, remote->fingerprint, HANDSHAKE_MS, stop_fd, ret_tls, &reason);

        if (r == 0 || r == -ECANCELED)
                return r;
        if (r != -EKEYREJECTED)
                return error_set(e, r == -ETIMEDOUT ? -ECONNREFUSED : -EPROTO, "remote-tls",
                                 "is it lodged that listens there, and of a version that speaks TLS 1.3?",
                                 "%s at %s does not speak TLS as it should: %s", name,
                                 remote->config->addresses[remote->reached], reason);
        error_set(e, r, "remote-certificate", NULL,
                  "what answers for %s at %s has another certificate than the one that is known", name,
                  remote->config->addresses[remote->reached]);
        error_set_fix(e,
                      "somebody may be in between; if its certificate was renewed: lodge remote delete %s, then lodge "
                      "remote add %s "
                      "with a new token",
                      name, name);
        return r;
}

int remote_connect(struct remote *remote, struct http *h, struct error *e) {
        const struct remote_config *c = remote->config;
        _cleanup_error_ struct error failed = ERROR_INIT;
        int r = -EHOSTUNREACH;

        for (size_t i = 0; i < c->n_addresses; i++) {
                _cleanup_close_ int fd = connect_one(c->addresses[i]);
                _cleanup_error_ struct error none = ERROR_INIT; /* only the first handshake's error is told */

                if (fd < 0) {
                        r = fd;
                        continue;
                }
                remote->reached = i;
                r = begin_tls(remote, fd, h->stop_fd, &h->tls, failed.code ? &none : &failed);
                if (r == 0)
                        h->fd = TAKE_FD(fd);
                if (r == 0 || r == -ECANCELED)
                        return r;
        }
        if (failed.code) {
                r = failed.code;
                if (e && e->code == 0) {
                        *e = failed;
                        failed = ERROR_INIT;
                }
                return r;
        }
        error_set(e, -ECONNREFUSED, "remote-connect", NULL, "remote %s does not answer at %s: %s", c->name,
                  c->addresses[0], strerror(-r));
        error_set_fix(e, "is lodged --listen running there, and the port open? lodge remote list shows %s",
                      c->n_addresses > 1 ? "all its addresses" : "its address");
        return -ECONNREFUSED;
}
