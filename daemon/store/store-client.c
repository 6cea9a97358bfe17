// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store-client: who may come over the network: certificates, and the tokens by which they are enrolled
 *
 * A token is taken by deleting it, in the transaction that adds the client: used once, or not at all. Only digests are
 * kept, so that who reads the file can't enrol with what is in it. A client that was revoked stays, so that it is known
 * as such.
 */
#include <errno.h>
#include <string.h>

#include "daemon/store/internal.h"

void store_token_free(struct store_token *t) {
        if (!t)
                return;
        free(t->name);
        free(t->role);
        free(t->projects);
        free(t);
}

void store_client_free(struct store_client *c) {
        if (!c)
                return;
        free(c->name);
        free(c->role);
        free(c->projects);
        free(c);
}

/* ---- tokens ---- */

static int token_insert(struct store *s, const uint8_t *digest, const struct store_token *t, int64_t now,
                        struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_TOKEN_ADD);
        int r;

        query_blob(&q, 1, digest, STORE_DIGEST_SIZE);
        query_text(&q, 2, t->name);
        query_text(&q, 3, t->role);
        query_text(&q, 4, t->projects);
        query_int(&q, 5, now);
        query_int(&q, 6, t->expires);
        r = query_run_unique(&q, e);
        if (r == -EEXIST)
                return error_set(e, r, "token-exists", "take another name, or delete that one",
                                 "there is a token %s already", t->name);
        return r;
}

int store_token_add(struct store *s, const uint8_t digest[static STORE_DIGEST_SIZE], struct store_token *t,
                    struct error *e) {
        int64_t now = store_now();
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = store_leave(s, token_insert(s, digest, t, now, e), e);
        if (r >= 0)
                t->created = now;
        return r;
}

static int token_of_row(struct query *q, struct store_token *t, struct error *e) {
        *t = (struct store_token){
                .name = query_get_text(q, 0),
                .role = query_get_text(q, 1),
                .projects = query_get_text(q, 2),
                .created = query_get_int(q, 3),
                .expires = query_get_int(q, 4),
        };
        return t->name && t->role ? 0 : store_row_damaged(q->s, "read a token", e);
}

/* All are looked at, whole, so that the time tells nothing of how near a guess was. Return: 1 it is there, 0 not. */
static int token_known(struct store *s, const uint8_t *digest, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_TOKEN_DIGESTS);
        int found = 0, r;

        while ((r = query_row(&q, e)) > 0) {
                uint8_t other[STORE_DIGEST_SIZE], difference = 0;

                if (!query_get_digest(&q, 0, other))
                        return store_row_damaged(s, "read a token", e);
                for (size_t i = 0; i < sizeof(other); i++)
                        difference |= other[i] ^ digest[i];
                found |= difference == 0;
        }
        return r < 0 ? r : found;
}

static int token_remove(struct store *s, const uint8_t *digest, struct store_token **ret_token, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_TOKEN_TAKE);
        _cleanup_(store_token_freep) struct store_token *t = calloc(1, sizeof(*t));
        struct store_token row;
        int r = token_known(s, digest, e);

        if (r > 0) {
                query_blob(&q, 1, digest, STORE_DIGEST_SIZE);
                r = query_row(&q, e);
        }
        if (r < 0)
                return r;
        if (r == 0)
                return error_set(e, -ENOENT, "token-unknown", "ask for a new one: each can be used once",
                                 "the token is not known, or it was used");
        r = token_of_row(&q, &row, e);
        if (r < 0)
                return r;
        if (!t || query_get_copy(&q, 0, &t->name) < 0 || query_get_copy(&q, 1, &t->role) < 0 ||
            query_get_copy(&q, 2, &t->projects) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read a token");
        t->created = row.created;
        t->expires = row.expires;
        r = query_run(&q, e);
        if (r < 0)
                return r;
        *ret_token = TAKE_PTR(t);
        return 0;
}

int store_token_take(struct store *s, const uint8_t digest[static STORE_DIGEST_SIZE], struct store_token **ret_token,
                     struct error *e) {
        _cleanup_(store_token_freep) struct store_token *t = NULL;
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = store_leave(s, token_remove(s, digest, &t, e), e);
        if (r < 0)
                return r;
        if (t->expires <= store_now())
                return error_set(e, -EKEYEXPIRED, "token-expired", "ask for a new one", "token %s has expired",
                                 t->name);
        *ret_token = TAKE_PTR(t);
        return 0;
}

static int token_delete(struct store *s, const char *name, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_TOKEN_DELETE);
        int r;

        query_text(&q, 1, name);
        r = query_run(&q, e);
        if (r < 0 || sqlite3_changes(s->db) > 0)
                return r;
        return error_set(e, -ENOENT, "token-unknown", "it may have been used", "there is no token %s", name);
}

int store_token_delete(struct store *s, const char *name, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, token_delete(s, name, e), e);
}

int store_token_each(struct store *s, int (*fn)(void *opaque, const struct store_token *t), void *opaque,
                     struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_TOKEN_EACH);
        int r;

        while ((r = query_row(&q, e)) > 0) {
                struct store_token t;

                r = token_of_row(&q, &t, e);
                if (r < 0)
                        return r;
                r = fn(opaque, &t);
                if (r != 0)
                        return r;
        }
        return r;
}

/* ---- clients ---- */

static int client_insert(struct store *s, const struct store_client *c, int64_t now, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_CLIENT_ADD);
        int r;

        query_blob(&q, 1, c->fingerprint, sizeof(c->fingerprint));
        query_text(&q, 2, c->name);
        query_text(&q, 3, c->role);
        query_text(&q, 4, c->projects);
        query_int(&q, 5, now);
        query_int(&q, 6, c->revoked);
        r = query_run_unique(&q, e);
        if (r == -EEXIST)
                return error_set(e, r, "client-exists", "take another name, or revoke that one",
                                 "there is a client %s already, or one with its certificate", c->name);
        return r;
}

int store_client_add(struct store *s, struct store_client *c, struct error *e) {
        int64_t now = store_now();
        int r = store_enter(s, e);

        if (r < 0)
                return r;
        r = store_leave(s, client_insert(s, c, now, e), e);
        if (r >= 0)
                c->created = now;
        return r;
}

static int client_of_row(struct query *q, struct store_client *c, struct error *e) {
        *c = (struct store_client){
                .name = query_get_text(q, 1),
                .role = query_get_text(q, 2),
                .projects = query_get_text(q, 3),
                .created = query_get_int(q, 4),
                .revoked = query_get_int(q, 5),
        };
        if (!c->name || !c->role || !query_get_digest(q, 0, c->fingerprint))
                return store_row_damaged(q->s, "read a client", e);
        return 0;
}

static int client_unknown(const char *name, struct error *e) {
        return error_set(e, -ENOENT, "client-unknown", "it may be revoked already: lodge client list",
                         "there is no client %s", name);
}

static int client_copy(struct query *q, struct store_client **ret_client, struct error *e) {
        _cleanup_(store_client_freep) struct store_client *c = NULL;
        struct store_client row;
        int r = client_of_row(q, &row, e);

        if (r < 0)
                return r;
        c = calloc(1, sizeof(*c));
        if (!c || query_get_copy(q, 1, &c->name) < 0 || query_get_copy(q, 2, &c->role) < 0 ||
            query_get_copy(q, 3, &c->projects) < 0)
                return error_set(e, -ENOMEM, "store-memory", NULL, "cannot read a client");
        memcpy(c->fingerprint, row.fingerprint, sizeof(c->fingerprint));
        c->created = row.created;
        c->revoked = row.revoked;
        *ret_client = TAKE_PTR(c);
        return 0;
}

int store_client_find(struct store *s, const uint8_t fingerprint[static STORE_DIGEST_SIZE],
                      struct store_client **ret_client, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_CLIENT_FIND);
        int r;

        query_blob(&q, 1, fingerprint, STORE_DIGEST_SIZE);
        r = query_row(&q, e);
        if (r == 0)
                return error_set(e, -ENOENT, "client-unknown", "enrol it with a token", "the certificate is not known");
        return r < 0 ? r : client_copy(&q, ret_client, e);
}

int store_client_find_name(struct store *s, const char *name, struct store_client **ret_client, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_CLIENT_FIND_NAME);
        int r;

        query_text(&q, 1, name);
        r = query_row(&q, e);
        return r == 0 ? client_unknown(name, e) : r < 0 ? r : client_copy(&q, ret_client, e);
}

static int client_grant(struct store *s, const char *name, const char *role, const char *projects, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_CLIENT_GRANT);
        int r;

        query_text(&q, 1, name);
        query_text(&q, 2, role);
        query_text(&q, 3, projects);
        r = query_run(&q, e);
        return r < 0 || sqlite3_changes(s->db) > 0 ? r : client_unknown(name, e);
}

int store_client_grant(struct store *s, const char *name, const char *role, const char *projects, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, client_grant(s, name, role, projects, e), e);
}

static int client_revoke(struct store *s, const char *name, struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_CLIENT_REVOKE);
        int r;

        query_text(&q, 1, name);
        query_int(&q, 2, MAX(store_now(), (int64_t)1)); /* 0 would mean: not */
        r = query_run(&q, e);
        return r < 0 || sqlite3_changes(s->db) > 0 ? r : client_unknown(name, e);
}

int store_client_revoke(struct store *s, const char *name, struct error *e) {
        int r = store_enter(s, e);

        return r < 0 ? r : store_leave(s, client_revoke(s, name, e), e);
}

int store_client_each(struct store *s, int (*fn)(void *opaque, const struct store_client *c), void *opaque,
                      struct error *e) {
        _cleanup_(query_end) struct query q = query_start(s, STMT_CLIENT_EACH);
        int r;

        while ((r = query_row(&q, e)) > 0) {
                struct store_client c;

                r = client_of_row(&q, &c, e);
                if (r < 0)
                        return r;
                r = fn(opaque, &c);
                if (r != 0)
                        return r;
        }
        return r;
}
