// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * api-client: who may come over the network: tokens, and the clients that they let in
 *
 * Theory of operation. An admin makes a token for a name, a role and a project. Its secret is 256 random bits, of which the store keeps the SHA-256; the token's
 * word holds the server's fingerprint and addresses, too, so that a client knows whom it gives the secret to. A client shows its certificate in the TLS
 * handshake and sends the secret: the token is deleted and the client added in one transaction. Sent again by the same client it is answered again, for an answer may be lost.
 *
 * Nobody guesses 256 bits. Wrong guesses are limited all the same, for each place that they come from, and the first ones are in the audit record: they tell of
 * somebody who tries. A client that is deleted stays in the store as revoked, so that its certificate is never let in again; what it has open is closed at once.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/text.h"
#include "daemon/api/internal.h"
#include "daemon/tls/token.h"

#define TOKENS_MAX     1000u
#define CLIENTS_MAX    10000u
#define GUESSES_MAX    20u /* wrong ones, from one place in a minute */
#define GUESSES_NS     60000000000ull
#define GUESSES_PLACES 64u
#define AUDITED_MAX    60u /* wrong guesses from everywhere in a minute that are written down */

static_assert(FINGERPRINT_SIZE == STORE_DIGEST_SIZE, "fingerprints and digests are SHA-256");

struct guesses {
        uint64_t place, since;
        unsigned int n;
};

struct api_guesses {
        struct guesses of[GUESSES_PLACES], all;
};

static int no_memory(struct error *e) {
        return error_set(e, -ENOMEM, "memory", NULL, "cannot answer");
}

/* JSON list of one project, as the store keeps it. */
static char *projects_of(const char *project) {
        json_auto_t *list = project ? json_pack("[s]", project) : NULL;

        return list ? json_dumps(list, JSON_COMPACT) : NULL;
}

static char *project_in(const char *projects) {
        json_auto_t *list = projects ? json_loads(projects, 0, NULL) : NULL;

        return text_copy(json_string_value(json_array_get(list, 0)));
}

static enum client_role role_in(const char *role) {
        int r = client_role_from_string(role);

        return r < 0 ? CLIENT_ROLE_VIEWER : (enum client_role)r;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */

static int list_token(void *opaque, const struct store_token *t) {
        struct token_page *page = opaque;
        struct token_view *v;

        if (page->n_items == TOKENS_MAX)
                return 1;
        if (token_page_add_items(page, &v) < 0)
                return -ENOMEM;
        v->name = text_copy(t->name);
        v->role = role_in(t->role);
        v->project = project_in(t->projects);
        v->created = time_text(t->created);
        v->expires = time_text(t->expires);
        v->expired = t->expires <= g_get_real_time();
        return 0;
}

static int tokens(struct api_request *q, struct token_page **ret_page, struct error *e) {
        _cleanup_(token_page_freep) struct token_page *page = NULL;
        int r = token_page_new(&page);

        if (r < 0)
                return no_memory(e);
        page->scope = q->api->o.config->scope;
        r = store_token_each(q->api->o.store, list_token, page, e);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot list the tokens");
        *ret_page = TAKE_PTR(page);
        return 0;
}

int api_token_list(struct api_request *q, struct error *e) {
        _cleanup_(token_page_freep) struct token_page *page = NULL;
        int r = tokens(q, &page, e);

        return r < 0 ? r : api_answer(q, page);
}

int api_token_delete(struct api_request *q, struct error *e) {
        int r = store_token_delete(q->api->o.store, q->parameters[0], e);

        return r < 0 ? r : api_token_list(q, e);
}

struct taken {
        const char *name;
        size_t n;
        bool found;
};

static int see_client(void *opaque, const struct store_client *c) {
        struct taken *t = opaque;

        t->n += c->revoked == 0;
        t->found |= c->revoked == 0 && streq(c->name, t->name);
        return 0;
}

/* The name is free: no client has it, and no token that can still be used; one that has expired makes way. */
static int name_free(struct api_request *q, const char *name, struct error *e) {
        _cleanup_(token_page_freep) struct token_page *page = NULL;
        struct taken taken = { .name = name };
        int r = store_client_each(q->api->o.store, see_client, &taken, e);

        if (r == 0)
                r = tokens(q, &page, e);
        if (r < 0)
                return r;
        if (taken.found) {
                error_set(e, -EEXIST, "client-exists", NULL, "there is a client %s already", name);
                error_set_fix(e, "take another name, or let that one in no longer: lodge client delete %s", name);
                return -EEXIST;
        }
        if (page->n_items == TOKENS_MAX || taken.n >= CLIENTS_MAX)
                return error_set(e, -EBUSY, "too-many-clients", "delete some: lodge token list, lodge client list",
                                 "there are too many tokens or clients");
        for (size_t i = 0; i < page->n_items && r == 0; i++)
                if (page->items[i].expired && streq(page->items[i].name, name))
                        r = store_token_delete(q->api->o.store, name, e);
        return r;
}

static int token_keep(struct api_request *q, const struct token *t, int64_t expires, struct error *e) {
        const struct token_request *how = q->body;
        _cleanup_free_ char *projects = projects_of(how->project);
        struct store_token row = { .name = how->name,
                                   .role = (char *)client_role_to_string(how->role),
                                   .projects = projects,
                                   .expires = expires };
        uint8_t digest[STORE_DIGEST_SIZE];

        if (digest_sha256(t->secret, sizeof(t->secret), digest) < 0 || (how->project && !projects))
                return no_memory(e);
        return store_token_add(q->api->o.store, digest, &row, e);
}

static int token_answer(struct api_request *q, const struct token *t, int64_t expires, struct error *e) {
        _cleanup_(token_created_freep) struct token_created *v = NULL;
        const struct token_request *how = q->body;
        const struct worker_config *c = q->api->o.config;
        char fingerprint[FINGERPRINT_TEXT_SIZE];
        int r = token_created_new(&v);

        if (r == 0)
                r = token_format(t, &v->token);
        if (r < 0)
                return no_memory(e);
        v->name = text_copy(how->name);
        v->role = how->role;
        v->project = text_copy(how->project);
        v->expires = time_text(expires);
        v->fingerprint = text_copy(fingerprint_format(t->fingerprint, fingerprint));
        v->addresses = calloc(c->n_addresses + 1, sizeof(*v->addresses));
        for (size_t i = 0; v->addresses && i < c->n_addresses; i++)
                v->addresses[v->n_addresses++] = text_copy(c->addresses[i]);
        return api_answer(q, v);
}

int api_token_create(struct api_request *q, struct error *e) {
        const struct token_request *how = q->body;
        const struct worker_config *c = q->api->o.config;
        const int64_t expires = g_get_real_time() + how->expires * 1000000ll;
        struct token t = { .addresses = c->addresses, .n_addresses = c->n_addresses };
        int r = name_free(q, how->name, e);

        if (r == 0 && !q->api->o.identity)
                r = error_set(e, -ENOTSUP, "network-closed", "start it with --listen ADDRESS:PORT",
                              "this daemon does not listen on the network");
        if (r == 0 && getrandom(t.secret, sizeof(t.secret), 0) != sizeof(t.secret))
                r = error_set(e, -EIO, "random", NULL, "the host has no random numbers");
        if (r < 0)
                return r;
        memcpy(t.fingerprint, q->api->o.identity->fingerprint, sizeof(t.fingerprint));
        q->parameters[0] = text_copy(how->name); /* for the audit record */
        r = token_keep(q, &t, expires, e);
        if (r == 0)
                r = token_answer(q, &t, expires, e);
        gnutls_memset(t.secret, 0, sizeof(t.secret));
        return r;
}

/* ---- enrolment ---------------------------------------------------------------------------------------------------------- */

static struct guesses *guesses_of(struct api_guesses *all, uint64_t place) {
        struct guesses *oldest = &all->of[0];

        for (size_t i = 0; i < GUESSES_PLACES; i++) {
                if (all->of[i].n > 0 && all->of[i].place == place)
                        return &all->of[i];
                if (all->of[i].n == 0 || (oldest->n > 0 && all->of[i].since < oldest->since))
                        oldest = &all->of[i];
        }
        *oldest = (struct guesses){ .place = place };
        return oldest;
}

static bool too_many(struct guesses *g, unsigned int max) {
        if (clock_ns() - g->since > GUESSES_NS)
                g->n = 0;
        return g->n >= max;
}

static void guess_count(struct guesses *g) {
        if (g->n++ == 0)
                g->since = clock_ns();
}

static int client_answer(struct api_request *q, const struct store_client *c, struct error *e) {
        _cleanup_(client_view_freep) struct client_view *v = NULL;
        char fingerprint[FINGERPRINT_TEXT_SIZE];

        if (client_view_new(&v) < 0)
                return no_memory(e);
        v->name = text_copy(c->name);
        v->role = role_in(c->role);
        v->project = project_in(c->projects);
        v->fingerprint = text_copy(fingerprint_format(c->fingerprint, fingerprint));
        v->created = time_text(c->created);
        return api_answer(q, v);
}

/* Whole, or not at all. */
static int client_add(struct api_request *q, const uint8_t *digest, struct store_client *c,
                      struct store_token **ret_token, struct error *e) {
        _cleanup_(store_token_freep) struct store_token *t = NULL;
        struct store *s = q->api->o.store;
        int r = store_begin(s, e);

        if (r < 0)
                return r;
        r = store_token_take(s, digest, &t, e);
        if (r == 0) {
                c->name = t->name;
                c->role = t->role;
                c->projects = t->projects;
                r = store_client_add(s, c, e);
        }
        if (r == 0)
                r = store_commit(s, e);
        else
                store_rollback(s);
        if (r < 0)
                return r;
        *ret_token = TAKE_PTR(t);
        return 0;
}

static int may_guess(struct api_request *q, const struct store_client *known, struct guesses **ret_guesses,
                     struct error *e) {
        const struct api_connection *c = connection_of(q->api, q->message);

        if (!q->access.network || !c)
                return error_set(e, -ENOTSUP, "client-network", "whoever reaches the socket needs no enrolment",
                                 "this is for clients that come over the network");
        if (!q->access.certified)
                return error_set(e, -EINVAL, "client-certificate",
                                 "show one in the TLS handshake: it may have signed itself",
                                 "this connection has no certificate");
        if (known && known->revoked)
                return error_set(e, -EKEYREJECTED, "client-revoked",
                                 "make another key: lodge remote delete NAME, then lodge remote add NAME TOKEN",
                                 "this certificate was let in once, and is no longer");
        if (!q->api->guesses)
                q->api->guesses = calloc(1, sizeof(*q->api->guesses));
        if (!q->api->guesses)
                return no_memory(e);
        *ret_guesses = guesses_of(q->api->guesses, c->place);
        if (too_many(*ret_guesses, GUESSES_MAX))
                return error_set(e, -EUSERS, "token-guesses", "wait a minute", "too many tokens were wrong");
        return 0;
}

int api_client_enrol(struct api_request *q, struct error *e) {
        const struct client_enrol_request *how = q->body;
        _cleanup_(store_token_freep) struct store_token *t = NULL;
        _cleanup_(store_client_freep) struct store_client *known = NULL;
        struct store_client c = { .name = NULL };
        uint8_t secret[TOKEN_SECRET_SIZE], digest[STORE_DIGEST_SIZE];
        struct guesses *guesses = NULL;
        int r;

        if (q->access.certified)
                store_client_find(q->api->o.store, q->access.fingerprint, &known, NULL);
        r = may_guess(q, known, &guesses, e);
        if (r == 0 && (fingerprint_parse(how->secret, secret) < 0 || digest_sha256(secret, sizeof(secret), digest) < 0))
                r = error_set(e, -EINVAL, "token", NULL, "the secret is not one");
        if (r < 0)
                return r;
        memcpy(c.fingerprint, q->access.fingerprint, sizeof(c.fingerprint));
        r = client_add(q, digest, &c, &t, e);
        if (r == -ENOENT && known) { /* it has asked before, and lost the answer */
                error_clear(e);
                return client_answer(q, known, e);
        }
        q->audited = r == 0 || !too_many(&q->api->guesses->all, AUDITED_MAX);
        if (r < 0) {
                guess_count(guesses);
                guess_count(&q->api->guesses->all);
                return r;
        }
        q->parameters[0] = text_copy(c.name);
        machines_event(q->api->o.machines, "client-enrolled", NULL, c.name, q->id, "%s was let in as client %s",
                       q->access.who, c.name);
        return client_answer(q, &c, e);
}

/* ---- clients ------------------------------------------------------------------------------------------------------------ */

static int list_client(void *opaque, const struct store_client *c) {
        struct client_page *page = opaque;
        char fingerprint[FINGERPRINT_TEXT_SIZE];
        struct client_view *v;

        if (c->revoked)
                return 0;
        if (page->n_items == CLIENTS_MAX)
                return 1;
        if (client_page_add_items(page, &v) < 0)
                return -ENOMEM;
        v->name = text_copy(c->name);
        v->role = role_in(c->role);
        v->project = project_in(c->projects);
        v->fingerprint = text_copy(fingerprint_format(c->fingerprint, fingerprint));
        v->created = time_text(c->created);
        return 0;
}

int api_client_list(struct api_request *q, struct error *e) {
        _cleanup_(client_page_freep) struct client_page *page = NULL;
        int r = client_page_new(&page);

        if (r < 0)
                return no_memory(e);
        page->scope = q->api->o.config->scope;
        r = store_client_each(q->api->o.store, list_client, page, e);
        if (r < 0)
                return error_set(e, r, "memory", NULL, "cannot list the clients");
        return api_answer(q, page);
}

/* What it has open ends now, but for the connection that it may have asked this by. @known: it may come again */
static void client_cut(struct api_request *q, const uint8_t fingerprint[static FINGERPRINT_SIZE], bool known) {
        const struct api_connection *ours = connection_of(q->api, q->message);

        api_stream_revoke(q->api, fingerprint, known);
        for (struct api_connection *c = q->api->connections; c; c = c->next) {
                if (!c->network || !c->certified || c == ours ||
                    memcmp(c->fingerprint, fingerprint, FINGERPRINT_SIZE) != 0)
                        continue;
                c->known = known;
                if (!c->stream_open)
                        connection_close(c);
        }
}

int api_client_delete(struct api_request *q, struct error *e) {
        _cleanup_(store_client_freep) struct store_client *c = NULL;
        int r = store_client_find_name(q->api->o.store, q->parameters[0], &c, e);

        if (r == 0)
                r = store_client_revoke(q->api->o.store, c->name, e);
        if (r < 0)
                return r;
        client_cut(q, c->fingerprint, false);
        machines_event(q->api->o.machines, "client-revoked", NULL, c->name, q->id, "client %s is let in no longer",
                       c->name);
        return api_client_list(q, e);
}

/* ---- what a client may do ---------------------------------------------------------------------------------------------- */

/* An ETag that is made of what may change: two that are equal are of the same grant. */
static int grant_tag(const struct store_client *c, uint64_t *ret_tag) {
        uint8_t digest[FINGERPRINT_SIZE];
        _cleanup_free_ char *text = NULL;

        if (asprintf(&text, "%lld %s %s", (long long)c->created, c->role, c->projects ?: "") < 0) {
                text = NULL;
                return -ENOMEM;
        }
        if (digest_sha256(text, strlen(text), digest) < 0)
                return -ENOMEM;
        memcpy(ret_tag, digest, sizeof(*ret_tag));
        *ret_tag = (*ret_tag & INT64_MAX) | 1; /* as other ETags: a positive number */
        return 0;
}

static int client_answer_tagged(struct api_request *q, const struct store_client *c, struct error *e) {
        uint64_t tag;

        if (grant_tag(c, &tag) < 0)
                return no_memory(e);
        api_etag(q, tag);
        return client_answer(q, c, e);
}

int api_client_show(struct api_request *q, struct error *e) {
        _cleanup_(store_client_freep) struct store_client *c = NULL;
        int r = store_client_find_name(q->api->o.store, q->parameters[0], &c, e);

        return r < 0 ? r : client_answer_tagged(q, c, e);
}

/* The grant as it will be: what the patch does not name stays, a null is the default. */
static int grant_merge(const struct store_client *c, const json_t *patch, struct client_grant **ret, struct error *e) {
        _cleanup_free_ char *project = project_in(c->projects), *text = NULL;
        json_auto_t *grant = json_pack("{s:s, s:s*}", "role", c->role, "project", project);
        const char *key;
        json_t *value;

        json_object_foreach((json_t *)patch, key, value) {
                if (json_is_null(value))
                        json_object_del(grant, key);
                else
                        json_object_set(grant, key, value);
        }
        text = grant ? json_dumps(grant, JSON_COMPACT) : NULL;
        return text ? client_grant_parse(text, strlen(text), ret, e) : no_memory(e);
}

/* Is there anything that it could do before, and can't now? */
static bool grant_falls(const struct store_client *c, const struct client_grant *to) {
        _cleanup_free_ char *project = project_in(c->projects);

        return to->role < role_in(c->role) || (to->project && (!project || !streq(project, to->project)));
}

static int grant_keep(struct api_request *q, struct store_client *c, const struct client_grant *to, struct error *e) {
        _cleanup_free_ char *projects = projects_of(to->project);
        char *role = text_copy(client_role_to_string(to->role));
        int r = role && (projects || !to->project) ? 0 : no_memory(e);

        if (r == 0)
                r = store_client_grant(q->api->o.store, c->name, role, projects, e);
        if (r < 0) {
                free(role);
                return r;
        }
        free(c->role);
        c->role = role;
        free(c->projects);
        c->projects = TAKE_PTR(projects);
        return 0;
}

int api_client_change(struct api_request *q, struct error *e) {
        _cleanup_(store_client_freep) struct store_client *c = NULL;
        _cleanup_(client_grant_freep) struct client_grant *to = NULL;
        uint64_t seen = 0, tag = 0;
        bool falls;
        int r = store_client_find_name(q->api->o.store, q->parameters[0], &c, e);

        if (r == 0)
                r = api_if_match(q, &seen, e);
        if (r == 0 && grant_tag(c, &tag) < 0)
                r = no_memory(e);
        if (r == 0 && seen && seen != tag) {
                r = error_set(e, -ESTALE, "client-changed", NULL, "client %s has changed since you looked at it",
                              c->name);
                error_set_fix(e, "look at it again: lodge client show %s", c->name);
        }
        if (r == 0)
                r = grant_merge(c, q->patch, &to, e);
        if (r < 0)
                return r;
        falls = grant_falls(c, to);
        r = grant_keep(q, c, to, e);
        if (r < 0)
                return r;
        if (falls)
                client_cut(q, c->fingerprint, true);
        machines_event(q->api->o.machines, "client-changed", NULL, c->name, q->id, "%s made client %s %s of %s%s",
                       q->access.who, c->name, c->role, to->project ? "project " : "all projects", to->project ?: "");
        return client_answer_tagged(q, c, e);
}
