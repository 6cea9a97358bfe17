// SPDX-License-Identifier: GPL-2.0-or-later
/* request: what a request wants: route, caller, objects; and its answer. See api.h */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/text.h"
#include "daemon/api/internal.h"
#include "daemon/api/uri.h"

#define ALLOWED_SIZE    64
#define REQUEST_ID_SIZE 17 /* of one that we make */

/* ---- who ------------------------------------------------------------------------------------------------------------ */

static void peer_of_network(struct api *api, const struct api_connection *c, struct access *a) {
        _cleanup_(store_client_freep) struct store_client *client = NULL;
        char text[FINGERPRINT_TEXT_SIZE];

        a->network = true;
        a->certified = c->certified;
        if (!c->certified)
                return;
        memcpy(a->fingerprint, c->fingerprint, sizeof(a->fingerprint));
        snprintf(a->who, sizeof(a->who), "certificate %.16s", fingerprint_format(c->fingerprint, text));
        if (store_client_find(api->o.store, c->fingerprint, &client, NULL) == 0 && client->revoked == 0 &&
            access_of_client(client->name, client->role, client->projects, a) < 0)
                log_warning("client %s is not let in: the store holds a role or projects of it that make no sense",
                            client->name);
}

void request_peer(struct api *api, const struct api_connection *c, struct access *ret_access) {
        struct access *a = ret_access;

        *a = (struct access){ .role = SCHEMA_ROLE_NONE, .who = "nobody" };
        if (!c)
                return;
        if (c->network) {
                peer_of_network(api, c, a);
                return;
        }
        snprintf(a->who, sizeof(a->who), "user %u", c->uid);
        if (c->uid == api->o.config->owner || c->uid == 0)
                a->role = SCHEMA_ROLE_ADMIN;
        else if (c->in_group)
                a->role = SCHEMA_ROLE_OPERATOR;
}

int request_unknown(const struct access *a, struct error *e) {
        static const char fix[] = "on the server: lodge token create NAME; then here: lodge remote add NAME TOKEN";

        return a->certified ? error_set(e, -EKEYREJECTED, "client-unknown", fix, "%s is not known here", a->who)
                            : error_set(e, -EKEYREJECTED, "client-unknown", fix, "this connection has no certificate");
}

bool request_sees(const struct api_request *q, const char *project) {
        return access_sees(&q->access, project);
}

/* ---- the answer ------------------------------------------------------------------------------------------------------ */

static void request_free(struct api_request *q) {
        struct api_request **at = &q->api->waiting;

        while (*at && *at != q)
                at = &(*at)->next;
        if (*at)
                *at = q->next;
        if (q->paused && !q->gone)
                soup_server_message_unpause(q->message);
        g_object_unref(q->message);
        if (q->route && q->route->query)
                schema_free(q->route->query, q->query);
        if (q->route && q->route->body)
                schema_free(q->route->body, q->body);
        json_decref(q->patch);
        json_decref(q->decision);
        for (size_t i = 0; i < URI_PARAMETERS_MAX; i++)
                free(q->parameters[i]);
        free(q->idempotency_key);
        free(q->state);
        free(q);
}

int api_answer_text(struct api_request *q, unsigned int status, const char *type, const char *text, size_t n) {
        SoupMessageHeaders *headers = soup_server_message_get_response_headers(q->message);

        if (!q->gone) {
                soup_server_message_set_status(q->message, status, NULL);
                soup_message_headers_replace(headers, "Connection", "close");
                soup_message_headers_replace(headers, "X-Request-Id", q->id);
                soup_message_headers_replace(headers, "Cache-Control", "no-store");
                soup_message_headers_replace(headers, "X-Content-Type-Options", "nosniff");
                soup_server_message_set_response(q->message, type, SOUP_MEMORY_COPY, text, n);
        }
        if (q->route)
                api_audit(q, status);
        connection_answers(q->api, q->message);
        idempotency_end(q, status, text, n);
        q->api->counts[status / 100 < 6 ? status / 100 : 0]++;
        log_debug("request %s: %s %s by %s: %u", q->id, q->route ? q->route->method : "?",
                  q->route ? q->route->name : "?", q->access.who, status);
        request_free(q);
        return 0;
}

int api_answer(struct api_request *q, const void *object) {
        /* A dry run has made nothing, and started nothing. */
        const unsigned int status = q->dry_run ? SOUP_STATUS_OK : q->route->status;
        _cleanup_free_ char *text = schema_format(q->dry_run ? q->route->dry_answer : q->route->answer, object);
        _cleanup_error_ struct error e = ERROR_INIT;

        if (!text) {
                error_set(&e, -ENOMEM, "memory", NULL, "cannot write the answer");
                api_answer_error(q, &e);
                return 0;
        }
        return api_answer_text(q, status, "application/json", text, strlen(text));
}

/* RFC 9110 for errnos. What is not a person's mistake and passes by itself is 503: try again. */
static unsigned int status_of(int code) {
        static const struct {
                int code;
                unsigned int status;
        } table[] = {
                { -EINVAL, 400 },    { -EPROTO, 400 },       { -EDOM, 400 },        { -ERANGE, 400 },
                { -EACCES, 403 },    { -EPERM, 403 },        { -ENOENT, 404 },      { -ENODEV, 404 },
                { -EEXIST, 409 },    { -EBUSY, 409 },        { -EALREADY, 409 },    { -ENOTUNIQ, 409 },
                { -ENOTEMPTY, 409 }, { -EUCLEAN, 409 },      { -ESTALE, 412 },      { -EFBIG, 413 },
                { -EMSGSIZE, 413 },  { -E2BIG, 413 },        { -ENOTSUP, 422 },     { -ENOSYS, 422 },
                { -EAGAIN, 503 },    { -EPIPE, 503 },        { -ETIMEDOUT, 504 },   { -ENOSPC, 507 },
                { -ECANCELED, 409 }, { -EKEYREJECTED, 401 }, { -EKEYEXPIRED, 403 }, { -EUSERS, 429 },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (table[i].code == code)
                        return table[i].status;
        return 500;
}

static char *utf8_text(const char *text) {
        char *valid = text ? g_utf8_make_valid(text, -1) : NULL, *own = valid ? strdup(valid) : NULL;

        g_free(valid);
        return own;
}

static void answer_error(struct api_request *q, unsigned int status, const struct error *e) {
        /* A message may hold what a client sent, cut off in the middle of a character. */
        _cleanup_free_ char *message = utf8_text(e->message), *fix = utf8_text(e->fix);
        json_t *error =
                json_pack("{s:s, s:s, s:s*, s:s*, s:s}", "id", e->id ?: "unknown", "message", message ?: "it failed",
                          "fix", fix, "code", strerrorname_np(-e->code), "request", q->id);
        json_t *answer = error ? json_pack("{s:o}", "error", error) : NULL;
        _cleanup_free_ char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
        SoupMessageHeaders *headers = soup_server_message_get_response_headers(q->message);
        const char *fallback =
                "{\"error\":{\"id\":\"memory\",\"message\":\"there is no memory for the error's text\"}}";

        json_decref(answer);
        if (status == 503 && !q->gone)
                soup_message_headers_replace(headers, "Retry-After", "1");
        if (status >= 500)
                log_warning("request %s: %s %s by %s: %s [%s]", q->id, q->route ? q->route->method : "?",
                            q->route ? q->route->name : "?", q->access.who, e->message ?: "", e->id ?: "");
        api_answer_text(q, status, "application/json", text ?: fallback, strlen(text ?: fallback));
}

static void random_id(char ret_id[static REQUEST_ID_SIZE]) {
        unsigned char random[(REQUEST_ID_SIZE - 1) / 2];

        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                memset(random, 0, sizeof(random));
        for (size_t i = 0; i < sizeof(random); i++)
                snprintf(ret_id + 2 * i, 3, "%02x", random[i]);
}

void request_refuse(SoupServerMessage *message, unsigned int status, const char *id, const char *fix,
                    const char *text) {
        SoupMessageHeaders *headers = soup_server_message_get_response_headers(message);
        char request[REQUEST_ID_SIZE];
        _cleanup_free_ char *body = NULL;

        random_id(request);
        /* The texts are ours and hold nothing that JSON would have to escape. */
        if (asprintf(&body, "{\"error\":{\"id\":\"%s\",\"message\":\"%s\",\"fix\":\"%s\",\"request\":\"%s\"}}", id,
                     text, fix, request) < 0)
                body = NULL;
        if (status)
                soup_server_message_set_status(message, status, NULL);
        soup_message_headers_replace(headers, "Connection", "close");
        soup_message_headers_replace(headers, "X-Request-Id", request);
        soup_message_headers_replace(headers, "Cache-Control", "no-store");
        soup_message_headers_replace(headers, "X-Content-Type-Options", "nosniff");
        soup_message_body_truncate(
                soup_server_message_get_response_body(message)); /* a response that is set is added */
        soup_server_message_set_response(message, "application/json", SOUP_MEMORY_COPY, body ?: "",
                                         body ? strlen(body) : 0);
}

void api_answer_error(struct api_request *q, const struct error *e) {
        _cleanup_error_ struct error own = ERROR_INIT;

        if (!e) {
                error_set(&own, -EIO, "internal", NULL, "the request was given up");
                e = &own;
        }
        answer_error(q, status_of(e->code), e);
}

void api_etag(struct api_request *q, uint64_t generation) {
        char text[32];

        snprintf(text, sizeof(text), "\"%llu\"", (unsigned long long)generation);
        soup_message_headers_replace(soup_server_message_get_response_headers(q->message), "ETag", text);
}

int api_if_match(struct api_request *q, uint64_t *ret_generation, struct error *e) {
        const char *text =
                soup_message_headers_get_one(soup_server_message_get_request_headers(q->message), "If-Match");
        char number[24] = "";
        size_t n;

        *ret_generation = 0;
        if (!text || streq(text, "*"))
                return 0;
        n = strlen(text);
        if (n > 2 && n < sizeof(number) + 2 && text[0] == '"' && text[n - 1] == '"') {
                memcpy(number, text + 1, n - 2);
                number[n - 2] = 0;
        }
        if (text_parse_uint(number, INT64_MAX, ret_generation) < 0 || *ret_generation == 0)
                return error_set(e, -EINVAL, "etag", "send the ETag of an answer as it came",
                                 "If-Match is no ETag of ours");
        return 0;
}

/* ---- what ------------------------------------------------------------------------------------------------------------ */

/* The route, with its parameters in @q; else 0 and the methods that the path takes, "" for an unknown path, or -errno. */
static int route_find(struct api_request *q, const char *method, const char *path,
                      char ret_allowed[static ALLOWED_SIZE]) {
        size_t n = 0;

        ret_allowed[0] = 0;
        for (size_t i = 0; i < ROUTE_COUNT; i++) {
                char *parameters[URI_PARAMETERS_MAX] = { NULL };
                int r = uri_path_match(schema_routes[i].path, path, parameters);

                if (r > 0 && streq(schema_routes[i].method, method)) {
                        memcpy(q->parameters, parameters, sizeof(parameters));
                        q->route = &schema_routes[i];
                        return 1;
                }
                for (size_t k = 0; k < URI_PARAMETERS_MAX; k++)
                        free(parameters[k]);
                if (r < 0)
                        return r;
                if (r > 0 && n < ALLOWED_SIZE)
                        n += (size_t)snprintf(ret_allowed + n, ALLOWED_SIZE - n, "%s%s", n > 0 ? ", " : "",
                                              schema_routes[i].method);
        }
        return 0;
}

bool request_is_upload(SoupServerMessage *message) {
        const char *path = g_uri_get_path(soup_server_message_get_uri(message));
        int r = 0;

        for (size_t i = 0; r == 0 && i < ROUTE_COUNT; i++) {
                char *parameters[URI_PARAMETERS_MAX] = { NULL };

                if (!schema_routes[i].upload ||
                    !streq(schema_routes[i].method, soup_server_message_get_method(message)))
                        continue;
                r = uri_path_match(schema_routes[i].path, path, parameters);
                for (size_t k = 0; k < URI_PARAMETERS_MAX; k++)
                        free(parameters[k]);
        }
        return r > 0;
}

/* A null for a key that there is not would change nothing, and leave a typing mistake unnoticed. Lists are replaced as a whole. */
static int patch_check(const struct schema_object *o, const json_t *patch, const struct schema_path *path,
                       struct error *e) {
        const char *key;
        json_t *value;

        json_object_foreach((json_t *)patch, key, value) {
                const struct schema_path at = { .up = path, .name = key, .index = -1 };
                const struct schema_field *field = schema_field_find(o, key);
                int r = 0;

                if (!field)
                        return schema_unknown_key(o, key, path, e);
                if (field->kind == SCHEMA_OBJECT && json_is_object(value))
                        r = patch_check(field->object, value, &at, e);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* A body whose template fills in what it leaves out. One without is parsed as it came, for what the errors say of its lines. */
static int template_parse(struct api_request *q, const char *data, size_t n, struct error *e) {
        _cleanup_free_ char *text = NULL;
        json_auto_t *body = NULL;
        int r = schema_parse_json(data, n, &body, e);

        if (r < 0)
                error_clear(e);
        if (r < 0 || !json_object_get(body, "template"))
                return schema_parse(q->route->body, data, n, &q->body, e);
        r = schema_template_apply(body, e);
        if (r < 0)
                return r;
        text = json_dumps(body, JSON_COMPACT);
        if (!text)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the body");
        return schema_parse(q->route->body, text, strlen(text), &q->body, e);
}

static int body_parse(struct api_request *q, struct error *e) {
        SoupMessageBody *body = soup_server_message_get_request_body(q->message);
        GBytes *bytes = soup_message_body_flatten(body);
        gsize n;
        const char *data = g_bytes_get_data(bytes, &n);
        int r = 0;

        if (!q->route->body) {
                if (n > 0 && strspn(data, "{} \r\n\t") < n)
                        r = error_set(e, -EINVAL, "body", NULL, "%s takes no body", q->route->name);
        } else if (q->route->patch) {
                /* Of the right form and not too deep is what matters here: the merged object is parsed by the schema. */
                r = schema_parse_json(data ?: "", n, &q->patch, e);
                if (r == 0) {
                        const struct schema_path root = { .name = q->route->body->name, .index = -1 };

                        r = patch_check(q->route->body, q->patch, &root, e);
                }
        } else if (q->route->template)
                r = template_parse(q, n ? data : "{}", n ? n : 2, e);
        else
                r = schema_parse(q->route->body, n ? data : "{}", n ? n : 2, &q->body, e);
        g_bytes_unref(bytes);
        return r;
}

static void make_id(struct api_request *q) {
        const char *theirs =
                soup_message_headers_get_one(soup_server_message_get_request_headers(q->message), "X-Request-Id");
        size_t n = theirs ? strlen(theirs) : 0, good = 0;

        if (n > 0 && n < sizeof(q->id)) {
                while (isalnum((unsigned char)theirs[good]) || (theirs[good] && strchr("-_.", theirs[good])))
                        good++;
                if (good == n) {
                        memcpy(q->id, theirs, n + 1);
                        return;
                }
        }
        random_id(q->id);
}

int request_allowed(const struct access *a, const struct schema_route *route, const char *project, struct error *e) {
        static const char *const names[] = { "nobody", "viewer", "operator", "admin" };

        switch (access_judge(a, route, project)) {
        case ACCESS_GRANTED:
                return 0;
        case ACCESS_UNKNOWN:
                return request_unknown(a, e);
        case ACCESS_PROJECT:
                return error_set(e, -EACCES, "project", "ask the daemon's administrator for a client of that project",
                                 "%s is held to project %s", a->who, a->project);
        case ACCESS_HOST:
                return error_set(e, -EACCES, "project", "ask somebody who works in all projects",
                                 "%s is held to project %s, and %s is about more than that", a->who, a->project,
                                 route->name);
        case ACCESS_ROLE:
                break;
        }
        return error_set(e, -EACCES, "role", "ask the daemon's administrator for that role",
                         "%s is %s, and %s needs the role %s", a->who, a->role ? names[a->role] : "not known here",
                         route->name, names[route->role]);
}

int request_project(const struct access *a, const struct schema_route *route, const char *query, void *object,
                    const char **ret_project) {
        const struct schema_field *field = schema_field_find(route->query, "project");
        char **value = field ? schema_at(object, field->offset) : NULL;

        *ret_project = NULL;
        if (!value)
                return 0;
        if (a->project[0] && !uri_query_has(query, "project")) {
                char *own = strdup(a->project);

                if (!own)
                        return -ENOMEM;
                free(*value);
                *value = own;
        }
        *ret_project = *value;
        return 0;
}

static int prepare(struct api_request *q, const char *query, struct error *e) {
        const struct schema_field *field;
        const char *project = NULL;
        int r = request_allowed(&q->access, q->route, NULL, e);

        if (r == 0)
                r = uri_query_parse(q->route->query, query, &q->query, e);
        if (r == 0)
                r = request_project(&q->access, q->route, query, q->query, &project);
        if (r == 0)
                r = request_allowed(&q->access, q->route, project, e);
        if (r == 0 && !q->route->upload)
                r = body_parse(q, e);
        if (r < 0)
                return r;
        q->project = project ?: "default";
        field = schema_field_find(q->route->query, "dry_run");
        q->dry_run = field && *(bool *)schema_at(q->query, field->offset);
        if (q->dry_run && !q->route->dry_run) /* never do what was not to be done */
                return error_set(e, -EINVAL, "dry-run", "leave dry_run out", "%s has no dry run", q->route->name);
        if (!q->api->ready && q->route->role > SCHEMA_ROLE_VIEWER)
                return error_set(e, -EAGAIN, "daemon-starting", "try again in a moment",
                                 "the daemon is still finding out which machines run");
        return 0;
}

static void answer_no_route(struct api_request *q, int code, const char *allow) {
        static const char *const look = "the OpenAPI document lists what there is: GET /v1/openapi.json";
        _cleanup_error_ struct error e = ERROR_INIT;

        if (q->access.network && q->access.role == SCHEMA_ROLE_NONE) {
                request_unknown(&q->access, &e);
                api_answer_error(q, &e);
        } else if (code < 0) {
                error_set(&e, code, "path", look, "the path holds what is no UTF-8 text, or a name that is too long");
                api_answer_error(q, &e);
        } else if (*allow) {
                soup_message_headers_replace(soup_server_message_get_response_headers(q->message), "Allow", allow);
                error_set(&e, -ENOTSUP, "method", look, "this path takes %s only", allow);
                answer_error(q, SOUP_STATUS_METHOD_NOT_ALLOWED, &e);
        } else {
                error_set(&e, -ENOENT, "path", look, "there is no such path");
                api_answer_error(q, &e);
        }
}

void request_take(struct api *api, SoupServerMessage *message) {
        _cleanup_error_ struct error e = ERROR_INIT;
        GUri *uri = soup_server_message_get_uri(message);
        struct api_request *q = calloc(1, sizeof(*q));
        char allow[ALLOWED_SIZE];
        int r;

        if (!q) {
                soup_server_message_set_status(message, SOUP_STATUS_SERVICE_UNAVAILABLE, NULL);
                return;
        }
        *q = (struct api_request){ .api = api, .message = g_object_ref(message), .next = api->waiting };
        api->waiting = q;
        make_id(q);
        request_peer(api, connection_of(api, message), &q->access);
        q->caller = (struct machine_caller){ q->access.who, q->id };
        r = route_find(q, soup_server_message_get_method(message), g_uri_get_path(uri), allow);
        if (r <= 0) {
                answer_no_route(q, r, allow);
                return;
        }
        r = prepare(q, g_uri_get_query(uri), &e);
        if (r == 0)
                r = idempotency_begin(q, &e);
        if (r > 0)
                return; /* answered: it was asked before */
        if (r == 0)
                r = api_handler_of((enum schema_route_id)(q->route - schema_routes))(q, &e);
        if (r < 0) {
                error_set(&e, r, "internal", NULL, "cannot do %s", q->route->name);
                api_answer_error(q, &e);
        } else if (r > 0) {
                q->paused = true;
                soup_server_message_pause(message);
        }
}
