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

#define GROUPS_MAX     256
#define QUERY_KEYS_MAX 32
#define PART_MAX       512 /* bytes of a parameter in a path */

/* ---- who ------------------------------------------------------------------------------------------------------------ */

void request_peer(struct api *api, SoupServerMessage *message, char *ret_who, size_t n, enum schema_role *ret_role) {
        const struct api_connection *c = connection_of(api, message);

        *ret_role = SCHEMA_ROLE_NONE;
        snprintf(ret_who, n, "nobody");
        if (!c)
                return;
        snprintf(ret_who, n, "user %u", c->uid);
        if (c->uid == api->o.config->owner || c->uid == 0)
                *ret_role = SCHEMA_ROLE_ADMIN;
        else if (c->in_group)
                *ret_role = SCHEMA_ROLE_OPERATOR;
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
        for (size_t i = 0; i < API_PARAMETERS_MAX; i++)
                free(q->parameters[i]);
        free(q->idempotency_key);
        free(q->state);
        free(q);
}

int api_answer_text(struct api_request *q, unsigned int status, const char *type, const char *text, size_t n) {
        SoupMessageHeaders *headers = soup_server_message_get_response_headers(q->message);

        if (!q->gone) {
                soup_server_message_set_status(q->message, status, NULL);
                soup_message_headers_replace(headers, "X-Request-Id", q->id);
                soup_message_headers_replace(headers, "Cache-Control", "no-store");
                soup_message_headers_replace(headers, "X-Content-Type-Options", "nosniff");
                soup_server_message_set_response(q->message, type, SOUP_MEMORY_COPY, text, n);
        }
        q->api->counts[status / 100 < 6 ? status / 100 : 0]++;
        log_debug("request %s: %s %s by %s: %u", q->id, q->route ? q->route->method : "?",
                  q->route ? q->route->name : "?", q->who, status);
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
                { -EINVAL, 400 },   { -EPROTO, 400 },   { -EDOM, 400 },      { -ERANGE, 400 },  { -EACCES, 403 },
                { -EPERM, 403 },    { -ENOENT, 404 },   { -ENODEV, 404 },    { -EEXIST, 409 },  { -EBUSY, 409 },
                { -EALREADY, 409 }, { -ENOTUNIQ, 409 }, { -ENOTEMPTY, 409 }, { -EUCLEAN, 409 }, { -ESTALE, 412 },
                { -EFBIG, 413 },    { -EMSGSIZE, 413 }, { -E2BIG, 413 },     { -ENOTSUP, 422 }, { -ENOSYS, 422 },
                { -EAGAIN, 503 },   { -EPIPE, 503 },    { -ETIMEDOUT, 504 }, { -ENOSPC, 507 },  { -ECANCELED, 409 },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (table[i].code == code)
                        return table[i].status;
        return 500;
}

static void answer_error(struct api_request *q, unsigned int status, const struct error *e) {
        json_t *error =
                json_pack("{s:s, s:s, s:s*, s:s*, s:s}", "id", e->id ?: "unknown", "message", e->message ?: "it failed",
                          "fix", e->fix, "code", strerrorname_np(-e->code), "request", q->id);
        json_t *answer = error ? json_pack("{s:o}", "error", error) : NULL;
        _cleanup_free_ char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
        SoupMessageHeaders *headers = soup_server_message_get_response_headers(q->message);
        const char *fallback = "{\"error\":{\"id\":\"text\",\"message\":\"the error's text is no UTF-8\"}}";

        json_decref(answer);
        if (status == 503 && !q->gone)
                soup_message_headers_replace(headers, "Retry-After", "1");
        if (status >= 500)
                log_warning("request %s: %s %s by %s: %s [%s]", q->id, q->route ? q->route->method : "?",
                            q->route ? q->route->name : "?", q->who, e->message ?: "", e->id ?: "");
        api_answer_text(q, status, "application/json", text ?: fallback, strlen(text ?: fallback));
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

/* Does a path fit a route's? Its parameters are decoded into @q. */
static bool path_fits(const char *pattern, const char *path, char **parameters) {
        size_t n_parameters = 0;

        while (*pattern && *path) {
                if (*pattern == '{') {
                        size_t n = strcspn(path, "/");

                        if (n == 0 || n > PART_MAX || n_parameters == API_PARAMETERS_MAX)
                                break;
                        free(parameters[n_parameters]);
                        parameters[n_parameters++] = strndup(path, n);
                        path += n;
                        pattern += strcspn(pattern, "}");
                        pattern += *pattern == '}';
                } else if (*pattern++ != *path++)
                        return false;
        }
        return !*pattern && !*path;
}

static bool parameters_decode(struct api_request *q) {
        for (size_t i = 0; i < API_PARAMETERS_MAX && q->parameters[i]; i++) {
                char *plain = g_uri_unescape_string(q->parameters[i], "/");

                if (!plain || !g_utf8_validate(plain, -1, NULL)) {
                        g_free(plain);
                        return false;
                }
                free(q->parameters[i]);
                q->parameters[i] = strdup(plain);
                g_free(plain);
        }
        return true;
}

/* @ret_allowed: the path is known, for other methods. */
static const struct schema_route *route_find(struct api_request *q, const char *method, const char *path,
                                             bool *ret_known) {
        const struct schema_route *found = NULL;

        *ret_known = false;
        for (size_t i = 0; i < ROUTE_COUNT && !found; i++) {
                if (!path_fits(schema_routes[i].path, path, q->parameters))
                        continue;
                *ret_known = true;
                if (streq(schema_routes[i].method, method))
                        found = &schema_routes[i];
        }
        return found;
}

/* A query's text as the JSON that its field wants. */
static json_t *query_value(const struct schema_field *f, const char *text) {
        uint64_t number;

        switch (f->kind) {
        case SCHEMA_BOOL:
                return streq(text, "true") || streq(text, "1") || !*text ? json_true()
                       : streq(text, "false") || streq(text, "0")        ? json_false()
                                                                         : json_string(text);
        case SCHEMA_INT:
                return text_parse_uint(text, INT64_MAX, &number) == 0 ? json_integer((json_int_t)number)
                                                                      : json_string(text);
        default:
                return json_string(text);
        }
}

static int query_parse(struct api_request *q, const char *query, struct error *e) {
        GHashTable *pairs = query && *query ? soup_form_decode(query) : NULL;
        json_auto_t *object = json_object();
        _cleanup_free_ char *text = NULL;
        GHashTableIter iter;
        gpointer key, value;
        int r = 0;

        if (pairs && g_hash_table_size(pairs) > QUERY_KEYS_MAX)
                r = error_set(e, -EINVAL, "query", NULL, "the query has too many keys");
        if (pairs && r == 0) {
                g_hash_table_iter_init(&iter, pairs);
                while (r == 0 && g_hash_table_iter_next(&iter, &key, &value)) {
                        const struct schema_field *field = NULL;

                        for (unsigned int i = 0; q->route->query && i < q->route->query->n_fields && !field; i++)
                                if (streq(q->route->query->fields[i].name, (char *)key))
                                        field = &q->route->query->fields[i];
                        if (!field || json_object_set_new(object, key, query_value(field, value)) < 0)
                                r = error_set(e, -EINVAL, "query",
                                              "the OpenAPI document lists what there is: GET /v1/openapi.json",
                                              "the query has a key, or a value, that %s does not take", q->route->name);
                }
        }
        if (pairs)
                g_hash_table_unref(pairs);
        if (r < 0 || !q->route->query)
                return r;
        text = json_dumps(object, JSON_COMPACT);
        return text ? schema_parse(q->route->query, text, strlen(text), &q->query, e) : -ENOMEM;
}

static const struct schema_field *query_field(const struct api_request *q, const char *name) {
        for (unsigned int i = 0; q->route->query && i < q->route->query->n_fields; i++)
                if (streq(q->route->query->fields[i].name, name))
                        return &q->route->query->fields[i];
        return NULL;
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
        } else
                r = schema_parse(q->route->body, n ? data : "{}", n ? n : 2, &q->body, e);
        g_bytes_unref(bytes);
        return r;
}

static void make_id(struct api_request *q) {
        const char *theirs =
                soup_message_headers_get_one(soup_server_message_get_request_headers(q->message), "X-Request-Id");
        unsigned char random[8];
        size_t n = theirs ? strlen(theirs) : 0;

        if (n > 0 && n < sizeof(q->id)) {
                size_t good = 0;

                while (isalnum((unsigned char)theirs[good]) || (theirs[good] && strchr("-_.", theirs[good])))
                        good++;
                if (good == n) {
                        memcpy(q->id, theirs, n + 1);
                        return;
                }
        }
        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                memset(random, 0, sizeof(random));
        for (size_t i = 0; i < sizeof(random); i++)
                snprintf(q->id + 2 * i, 3, "%02x", random[i]);
}

static int allowed(const struct api_request *q, struct error *e) {
        static const char *const names[] = { "nobody", "viewer", "operator", "admin" };

        if (q->role >= q->route->role)
                return 0;
        return error_set(e, -EACCES, "role", "ask the daemon's administrator for that role",
                         "%s is %s, and %s needs the role %s", q->who, q->role ? names[q->role] : "not known here",
                         q->route->name, names[q->route->role]);
}

static int prepare(struct api_request *q, const char *query, struct error *e) {
        const struct schema_field *field;
        int r = allowed(q, e);

        if (r == 0 && !parameters_decode(q))
                r = error_set(e, -EINVAL, "path", NULL, "the path holds what is no UTF-8 text");
        if (r == 0)
                r = query_parse(q, query, e);
        if (r == 0)
                r = body_parse(q, e);
        if (r < 0)
                return r;
        q->project = "default";
        field = query_field(q, "project");
        if (field)
                q->project = *(char **)schema_at(q->query, field->offset);
        field = query_field(q, "dry_run");
        q->dry_run = field && *(bool *)schema_at(q->query, field->offset);
        if (q->dry_run && !q->route->dry_run) /* never do what was not to be done */
                return error_set(e, -EINVAL, "dry-run", "leave dry_run out", "%s has no dry run", q->route->name);
        if (!q->api->ready && q->route->role > SCHEMA_ROLE_VIEWER)
                return error_set(e, -EAGAIN, "daemon-starting", "try again in a moment",
                                 "the daemon is still finding out which machines run");
        return 0;
}

void request_take(struct api *api, SoupServerMessage *message) {
        _cleanup_error_ struct error e = ERROR_INIT;
        GUri *uri = soup_server_message_get_uri(message);
        struct api_request *q = calloc(1, sizeof(*q));
        bool known;
        int r;

        if (!q) {
                soup_server_message_set_status(message, SOUP_STATUS_SERVICE_UNAVAILABLE, NULL);
                return;
        }
        *q = (struct api_request){ .api = api, .message = g_object_ref(message), .next = api->waiting };
        api->waiting = q;
        make_id(q);
        request_peer(api, message, q->who, sizeof(q->who), &q->role);
        q->caller = (struct machine_caller){ q->who, q->id };
        q->route = route_find(q, soup_server_message_get_method(message), g_uri_get_path(uri), &known);
        if (!q->route) {
                error_set(&e, known ? -ENOTSUP : -ENOENT, known ? "method" : "path",
                          "the OpenAPI document lists what there is: GET /v1/openapi.json",
                          known ? "this path does not take that method" : "there is no such path");
                answer_error(q, known ? 405 : 404, &e);
                return;
        }
        r = prepare(q, g_uri_get_query(uri), &e);
        if (r == 0)
                r = api_handler_of((enum schema_route_id)(q->route - schema_routes))(q, &e);
        if (r < 0) {
                error_set(&e, r, "internal", NULL, "%s failed", q->route->name);
                api_answer_error(q, &e);
        } else if (r > 0) {
                q->paused = true;
                soup_server_message_pause(message);
        }
}
