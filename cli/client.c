// SPDX-License-Identifier: GPL-2.0-or-later
/* client: see client.h */
#include "cli/client.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define TIMEOUT_S      60
#define STARTING_TRIES 100 /* 10 s */
#define GROUPS_MAX     256

/* ---- where --------------------------------------------------------------------------------------------------------- */

int client_connect(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -EBADF;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int client_session_socket(char **ret_path) {
        const char *runtime = getenv("XDG_RUNTIME_DIR");
        int n;

        if (runtime && runtime[0] == '/')
                n = asprintf(ret_path, "%s/lodge/lodged.sock", runtime);
        else
                n = asprintf(ret_path, "/tmp/lodge-%u/lodged.sock", geteuid());
        return n < 0 ? -ENOMEM : 0;
}

/* Anybody may make /tmp/lodge-UID: a daemon in a directory that is not ours could be anybody's. */
static int check_ours(const char *socket_path, struct error *e) {
        _cleanup_free_ char *dir = strdup(socket_path);
        struct stat st;

        if (!dir)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot look for the daemon");
        *strrchr(dir, '/') = '\0';
        if (lstat(dir, &st) < 0)
                return errno == ENOENT ? 0 : error_set(e, -errno, "socket-dir", NULL, "cannot look at %s", dir);
        if (S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022))
                return 0;
        error_set(e, -EPERM, "socket-dir", NULL,
                  "%s is not used: it must be a directory that is yours and that nobody else can write to", dir);
        error_set_fix(e, "look at it (ls -ld %s), and remove it", dir);
        return -EPERM;
}

/* ---- who may ------------------------------------------------------------------------------------------------------- */

static bool process_in_group(gid_t gid) {
        gid_t groups[GROUPS_MAX];
        int n = getgroups(GROUPS_MAX, groups);

        if (getegid() == gid)
                return true;
        for (int i = 0; i < n; i++)
                if (groups[i] == gid)
                        return true;
        return false;
}

static bool user_in_group(const struct passwd *user, const struct group *group) {
        if (user->pw_gid == group->gr_gid)
                return true;
        for (char **member = group->gr_mem; *member; member++)
                if (streq(*member, user->pw_name))
                        return true;
        return false;
}

static int client_refused(const char *path, struct error *e) {
        const struct passwd *user = getpwuid(geteuid());
        const struct group *group;
        struct stat st;

        if (stat(path, &st) < 0)
                return error_set(e, -EACCES, "socket-access", "let root look at it: ls -ld of its directories",
                                 "cannot reach %s", path);
        group = getgrgid(st.st_gid);
        if (!user || !group || (st.st_mode & 0060) != 0060 || st.st_gid == 0 || process_in_group(st.st_gid)) {
                error_set(e, -EACCES, "socket-access", NULL, "the daemon's socket %s admits nobody but user %u", path,
                          st.st_uid);
                error_set_fix(
                        e,
                        "start the daemon again after: groupadd --system lodge; or use your own: lodge ... --session");
                return -EACCES;
        }
        if (user_in_group(user, group)) {
                error_set(e, -EACCES, "socket-login", NULL,
                          "user %s is in group %s, but not yet in this login session, so the system daemon refuses it",
                          user->pw_name, group->gr_name);
                error_set_fix(e, "log in again, or for this shell: newgrp %s", group->gr_name);
                return -EACCES;
        }
        error_set(e, -EACCES, "socket-group", NULL, "user %s is not in group %s, so the system daemon refuses it",
                  user->pw_name, group->gr_name);
        error_set_fix(e, "sudo usermod -aG %s %s, then log in again; or use your own daemon: --session", group->gr_name,
                      user->pw_name);
        return -EACCES;
}

/* ---- open ---------------------------------------------------------------------------------------------------------- */

static bool not_there(int code) {
        return code == -ENOENT || code == -ECONNREFUSED || code == -ENOTDIR;
}

static int connect_named(const char *path, struct error *e) {
        int fd = client_connect(path);

        if (fd == -EACCES)
                return client_refused(path, e);
        if (fd == -ENAMETOOLONG)
                return error_set(e, -EINVAL, "socket-path", NULL, "the socket's name is too long: %.200s", path);
        if (fd < 0) {
                error_set(e, -ECONNREFUSED, "socket-connect", NULL, "no daemon answers at %s", path);
                error_set_fix(e, "%s: is lodged running? ls -l %s", strerror(-fd), path);
                return -ECONNREFUSED;
        }
        return fd;
}

static int connect_session(char **ret_path, bool start, struct error *e) {
        const char *path;
        int fd, r = client_session_socket(ret_path);

        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot look for the daemon");
        path = *ret_path;
        r = check_ours(path, e);
        if (r < 0)
                return r;
        fd = client_connect(path);
        if (fd >= 0 || !not_there(fd))
                return fd >= 0 ? fd : connect_named(path, e);
        if (!start)
                return error_set(e, -ECONNREFUSED, "socket-connect", "start one: systemctl start lodged",
                                 "no daemon runs");
        return client_start_session(path, e);
}

bool client_has_system(void) {
        _cleanup_close_ int fd = client_connect(CLIENT_SYSTEM_SOCKET);

        return fd >= 0 || !not_there(fd);
}

bool client_has_session(void) {
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = client_session_socket(&path) < 0 ? -ENOENT : client_connect(path);

        return fd >= 0;
}

static const char *named_socket(const struct client_options *o) {
        const char *path = o->socket ?: getenv("LODGE_SOCKET");

        return path && *path ? path : NULL;
}

static int find(const struct client_options *o, bool start, char **ret_path, struct error *e) {
        const char *named = named_socket(o);
        int fd;

        if (named) {
                *ret_path = strdup(named);
                return *ret_path ? connect_named(named, e) : -ENOMEM;
        }
        if (!o->session) {
                fd = client_connect(CLIENT_SYSTEM_SOCKET);
                if (fd >= 0 || !not_there(fd)) {
                        *ret_path = strdup(CLIENT_SYSTEM_SOCKET);
                        return fd >= 0 ? fd : connect_named(CLIENT_SYSTEM_SOCKET, e);
                }
        }
        return connect_session(ret_path, start, e);
}

/* The remote's name; NULL: this host's daemon is asked. What was typed comes before the environment. */
static int choose(const struct client_options *o, const char **ret_name, struct error *e) {
        const char *name = o->remote ?: o->socket || o->session ? NULL : getenv("LODGE_REMOTE");

        if (o->remote && (o->socket || o->session))
                return error_set(e, -EINVAL, "remote-socket", "leave one out", "--remote %s and --%s name two daemons",
                                 o->remote, o->socket ? "socket" : "session");
        *ret_name = name && *name && !streq(name, REMOTE_LOCAL) ? name : NULL;
        return 0;
}

bool client_is_named(const struct client_options *o) {
        const char *name;

        return o->remote || o->session || named_socket(o) || (choose(o, &name, NULL) == 0 && name);
}

static int client_new(const struct client_options *options, struct client **ret_client, struct error *e) {
        const char *project = options->project ?: getenv("LODGE_PROJECT");
        struct client *c = calloc(1, sizeof(*c));

        if (!c)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        *c = (struct client){ .options = options,
                              .project = project && *project ? project : NULL,
                              .http = HTTP_INIT,
                              .stop_fd = -EBADF };
        *ret_client = c;
        return 0;
}

int client_open_remote(const struct client_options *options, struct remote *remote, struct client **ret_client,
                       struct error *e) {
        _cleanup_(client_freep) struct client *c = NULL;
        int r = client_new(options, &c, e);

        if (r < 0)
                return r;
        c->remote = remote;
        c->borrowed = true;
        r = remote_connect(c->remote, &c->http, e);
        if (r == 0)
                *ret_client = TAKE_PTR(c);
        return r;
}

int client_open(const struct client_options *options, bool start, struct client **ret_client, struct error *e) {
        _cleanup_(client_freep) struct client *c = NULL;
        const char *name = NULL;
        int r = client_new(options, &c, e);

        if (r == 0)
                r = choose(options, &name, e);
        if (r == 0 && name)
                r = remote_load(name, &c->remote, e);
        if (r < 0)
                return r;
        r = name ? remote_connect(c->remote, &c->http, e) : find(options, start, &c->path, e);
        if (r < 0)
                return r;
        if (!name)
                c->http.fd = r;
        *ret_client = TAKE_PTR(c);
        return 0;
}

void client_free(struct client *client) {
        if (!client)
                return;
        http_close(&client->http);
        safe_close(client->stop_fd);
        if (!client->borrowed)
                remote_free(client->remote);
        free(client->path);
        free(client);
}

/* ---- texts --------------------------------------------------------------------------------------------------------- */

/* RFC 3986: all but the unreserved is written as %XX. */
static char *encode(const char *text) {
        char *encoded = malloc(strlen(text) * 3 + 1), *to = encoded;

        for (; encoded && *text; text++) {
                if (isalnum((unsigned char)*text) || strchr("-._~", *text))
                        *to++ = *text;
                else
                        to += sprintf(to, "%%%02X", (unsigned char)*text);
        }
        if (encoded)
                *to = '\0';
        return encoded;
}

int client_query_add(char **query, const char *key, const char *value) {
        _cleanup_free_ char *encoded = encode(value);
        char *joined;

        if (!encoded || asprintf(&joined, "%s%s%s=%s", *query ?: "", *query ? "&" : "", key, encoded) < 0)
                return -ENOMEM;
        free(*query);
        *query = joined;
        return 0;
}

int client_query_object(char **query, const struct schema_object *object, const void *value) {
        _cleanup_free_ char *text = schema_format(object, value);
        json_auto_t *json = text ? json_loads(text, 0, NULL) : NULL;
        const char *key;
        json_t *field;
        int r = json ? 0 : -ENOMEM;

        json_object_foreach(json, key, field) {
                char number[24];

                if (r < 0)
                        break;
                snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(field));
                if (!streq(key, "project") && (json_is_string(field) || json_is_integer(field) || json_is_true(field)))
                        r = client_query_add(query, key,
                                             json_is_true(field)     ? "true"
                                             : json_is_string(field) ? json_string_value(field)
                                                                     : number);
        }
        return r;
}

static char *make_target(const struct client *c, const struct client_call *call) {
        const char *path = schema_routes[call->route].path, *open = strchr(path, '{');
        _cleanup_free_ char *name = call->parameter ? encode(call->parameter) : NULL, *query = NULL;
        char *text;

        if (call->query)
                query = strdup(call->query);
        if (c->project && schema_routes[call->route].query &&
            schema_field_find(schema_routes[call->route].query, "project") &&
            client_query_add(&query, "project", c->project) < 0)
                return NULL;
        if (asprintf(&text, "%.*s%s%s%s%s", open ? (int)(open - path) : (int)strlen(path), path,
                     open && name ? name : "", open ? strchr(open, '}') + 1 : "", query ? "?" : "", query ?: "") < 0)
                return NULL;
        return text;
}

/* ---- ask ----------------------------------------------------------------------------------------------------------- */

int client_code(const char *name, int fallback) {
        for (int code = 1; name && code < 134; code++)
                if (strerrorname_np(code) && streq(strerrorname_np(code), name))
                        return -code;
        return fallback;
}

static int answer_error(const struct http_answer *answer, const json_t *json, struct error *e) {
        const json_t *error = json_object_get(json, "error");
        const char *message = json_string_value(json_object_get(error, "message"));
        int code;

        if (!message)
                return error_set(e, answer->status == 503 ? -EAGAIN : -EPROTO, "daemon-answer",
                                 "look into the daemon's log", "the daemon answered with status %u and no reason",
                                 answer->status);
        code = client_code(json_string_value(json_object_get(error, "code")), answer->status == 400 ? -EINVAL : -EIO);
        return error_set_foreign(e, answer->status == 503 ? -EAGAIN : code,
                                 json_string_value(json_object_get(error, "id")),
                                 json_string_value(json_object_get(error, "fix")), message);
}

static int ask_failed(int r, struct error *e) {
        switch (r) {
        case -ECANCELED:
                return r;
        case -ETIMEDOUT:
                return error_set(e, -ETIMEDOUT, "daemon-silent", "look into its log: journalctl -u lodged",
                                 "the daemon took the request and does not answer");
        case -ECONNRESET:
                return error_set(e, -ECONNREFUSED, "daemon-gone", "look whether it was done, and try again",
                                 "the daemon ended before it answered");
        case -ESTALE:
                return error_set(e, -EPROTO, "upload-file", "wait until nobody writes to it, and send it again",
                                 "the file became shorter while it was sent");
        case -EBADMSG:
                return error_set(e, -EPROTO, "daemon-answer", "is it lodged that listens there?",
                                 "what came is no answer of lodged");
        default:
                return error_set(e, r, "daemon-ask", NULL, "cannot ask the daemon");
        }
}

int client_reconnect(struct client *client, struct error *e) {
        int r;

        http_close(&client->http);
        client->http.used = 0;
        if (client->remote)
                return remote_connect(client->remote, &client->http, e);
        r = client->http.fd = client->path ? client_connect(client->path) : -ENOMEM;
        return not_there(r) ? -ECONNREFUSED : r < 0 ? r : 0; /* -ENOENT would be the answer's: no such object */
}

/* Each request has a connection of its own: one that lay idle may be closed at any moment, and then nobody knows what became of a request. */
static int ask_once(struct client *client, const struct http_request *request, struct http_answer *ret_answer,
                    struct error *e) {
        int r = client->used ? client_reconnect(client, e) : 0;

        client->http.stop_fd = client->stop_fd;
        client->used = true;
        return r < 0 ? r : http_ask(&client->http, request, ret_answer);
}

int client_refusal(const struct http_answer *answer, struct error *e) {
        json_auto_t *json = json_loadb(answer->body ?: "", answer->len, 0, NULL);

        return answer_error(answer, json, e);
}

int client_target(const struct client *client, const struct client_call *call, char **ret_target) {
        *ret_target = make_target(client, call);
        return *ret_target ? 0 : -ENOMEM;
}

int client_stream_target(const struct client *client, const char *name, const char *what, const char *query,
                         char **ret_target) {
        _cleanup_free_ char *encoded = encode(name), *all = query ? strdup(query) : NULL;

        if (!encoded || (query && !all))
                return -ENOMEM;
        if (client->project && client_query_add(&all, "project", client->project) < 0)
                return -ENOMEM;
        return asprintf(ret_target, "/v1/machines/%s/%s%s%s", encoded, what, all ? "?" : "", all ?: "") < 0 ? -ENOMEM
                                                                                                            : 0;
}

static bool still_starting(const json_t *json) {
        const char *id = json_string_value(json_object_get(json_object_get(json, "error"), "id"));

        return id && streq(id, "daemon-starting");
}

int client_call(struct client *client, const struct client_call *call, json_t **ret_json, struct error *e) {
        _cleanup_free_ char *text = make_target(client, call), *headers = NULL;
        struct http_request request = { .method = schema_routes[call->route].method,
                                        .target = text,
                                        .body = call->body,
                                        .file = call->file,
                                        .timeout_ms = (call->timeout_s ?: TIMEOUT_S) * 1000 };

        if (!text || (call->if_match && (asprintf(&headers, "If-Match: %s\r\n", call->if_match) < 0 || !headers)))
                return error_set(e, -ENOMEM, "memory", NULL, "cannot ask the daemon");
        request.headers = headers;
        for (unsigned int i = 0;; i++) {
                _cleanup_(http_answer_clear) struct http_answer answer = { 0 };
                json_auto_t *json = NULL;
                int r = ask_once(client, &request, &answer, e);

                if (r < 0)
                        return ask_failed(r, e);
                json = json_loadb(answer.body, answer.len, 0, NULL);
                if (answer.status == 503 && still_starting(json) && i < STARTING_TRIES) {
                        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
                        continue;
                }
                memcpy(client->etag, answer.etag, sizeof(client->etag));
                memcpy(client->request, answer.request, sizeof(client->request));
                if (answer.status >= 300)
                        return answer_error(&answer, json, e);
                if (!json)
                        return ask_failed(-EBADMSG, e);
                *ret_json = TAKE_PTR(json);
                return 0;
        }
}
