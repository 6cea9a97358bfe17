// SPDX-License-Identifier: GPL-2.0-or-later
/* token: see token.h */
#include "daemon/tls/token.h"

#include <assert.h>
#include <ctype.h>
#include <jansson.h>
#include <string.h>

#include "base/address.h"
#include "base/text.h"

#define PREFIX "lodge1_"

static_assert(TOKEN_SECRET_SIZE == FINGERPRINT_SIZE, "both are written by the same functions");

void token_free(struct token *token) {
        if (!token)
                return;
        gnutls_memset(token->secret, 0, sizeof(token->secret));
        for (size_t i = 0; i < token->n_addresses; i++)
                free(token->addresses[i]);
        free(token->addresses);
        free(token);
}

static json_t *to_json(const struct token *t) {
        char secret[FINGERPRINT_TEXT_SIZE], fingerprint[FINGERPRINT_TEXT_SIZE];
        json_t *addresses = json_array();

        for (size_t i = 0; i < t->n_addresses && i < TOKEN_ADDRESSES_MAX; i++)
                json_array_append_new(addresses, json_string(t->addresses[i]));
        return json_pack("{s:s, s:s, s:o}", "secret", fingerprint_format(t->secret, secret), "fingerprint",
                         fingerprint_format(t->fingerprint, fingerprint), "addresses", addresses);
}

/* RFC 4648 §5, without the padding. */
static void to_url(char *text) {
        for (; *text; text++) {
                if (*text == '+')
                        *text = '-';
                else if (*text == '/')
                        *text = '_';
                else if (*text == '=') {
                        *text = '\0';
                        return;
                }
        }
}

int token_format(const struct token *token, char **ret_text) {
        json_auto_t *json = to_json(token);
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        gnutls_datum_t in = { (unsigned char *)text, text ? (unsigned int)strlen(text) : 0 }, out;
        int n;

        if (!text)
                return -ENOMEM;
        if (gnutls_base64_encode2(&in, &out) < 0)
                return -ENOMEM;
        to_url((char *)out.data);
        n = asprintf(ret_text, PREFIX "%s", out.data);
        gnutls_free(out.data);
        return n < 0 ? -ENOMEM : 0;
}

/* The plain form of the rest of a word; NULL: it is none. */
static char *from_url(const char *text, size_t n) {
        char *plain = malloc(n + 4);

        for (size_t i = 0; plain && i < n; i++) {
                if (!isalnum((unsigned char)text[i]) && text[i] != '-' && text[i] != '_') {
                        free(plain);
                        return NULL;
                }
                plain[i] = text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
        }
        while (plain && n % 4)
                plain[n++] = '=';
        if (plain)
                plain[n] = '\0';
        return plain;
}

static int take_addresses(struct token *t, const json_t *list) {
        size_t n = json_array_size(list);

        if (n == 0 || n > TOKEN_ADDRESSES_MAX)
                return -EINVAL;
        t->addresses = calloc(n, sizeof(*t->addresses));
        if (!t->addresses)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const char *text = json_string_value(json_array_get(list, i)), *port;
                _cleanup_free_ char *host = NULL;

                if (!text || address_split(text, &host, &port) < 0)
                        return -EINVAL;
                t->addresses[t->n_addresses] = strdup(text);
                if (!t->addresses[t->n_addresses++])
                        return -ENOMEM;
        }
        return 0;
}

static int take_json(struct token *t, const json_t *json) {
        const char *secret = json_string_value(json_object_get(json, "secret"));
        const char *fingerprint = json_string_value(json_object_get(json, "fingerprint"));

        if (!secret || !fingerprint || fingerprint_parse(secret, t->secret) < 0 ||
            fingerprint_parse(fingerprint, t->fingerprint) < 0)
                return -EINVAL;
        return take_addresses(t, json_object_get(json, "addresses"));
}

int token_parse(const char *text, struct token **ret_token, struct error *e) {
        _cleanup_(token_freep) struct token *t = calloc(1, sizeof(*t));
        _cleanup_free_ char *plain = NULL;
        gnutls_datum_t out = { NULL, 0 };
        size_t n;
        int r = -EINVAL;

        if (!t)
                return error_set(e, -ENOMEM, "memory", NULL, "cannot read the token");
        while (isspace((unsigned char)*text))
                text++;
        n = strlen(text);
        while (n > 0 && isspace((unsigned char)text[n - 1]))
                n--;
        if (n < TOKEN_TEXT_MAX && n > strlen(PREFIX) && strncmp(text, PREFIX, strlen(PREFIX)) == 0)
                plain = from_url(text + strlen(PREFIX), n - strlen(PREFIX));
        if (plain &&
            gnutls_base64_decode2(&(const gnutls_datum_t){ (unsigned char *)plain, (unsigned int)strlen(plain) },
                                  &out) >= 0) {
                json_auto_t *json = json_loadb((const char *)out.data, out.size, JSON_REJECT_DUPLICATES, NULL);

                r = json ? take_json(t, json) : -EINVAL;
                gnutls_free(out.data);
        }
        if (r < 0)
                return error_set(e, r, "token", "copy all of it; a new one, on the server: lodge token create NAME",
                                 "this is no token, or not all of one");
        *ret_token = TAKE_PTR(t);
        return 0;
}
