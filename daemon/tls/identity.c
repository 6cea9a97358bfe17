// SPDX-License-Identifier: GPL-2.0-or-later
/* identity: see identity.h */
#include "daemon/tls/identity.h"

#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/io.h"
#include "base/new-file.h"

#define FILE_MAX    65536
#define SERIAL_SIZE 16
#define DAY         (24 * 3600)

/* A program that never speaks TLS should not pay for its tables and settings: identity_load() asks for them. The library looks for this from outside. */
#pragma GCC visibility push(default)
GNUTLS_SKIP_GLOBAL_INIT
#pragma GCC visibility pop

static const char priority[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3";

static int failed(int code, struct error *e, const char *what) {
        return error_set(e, code == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EIO, "tls-identity", NULL, "cannot %s: %s", what,
                         gnutls_strerror(code));
}

const char *fingerprint_format(const uint8_t fingerprint[static FINGERPRINT_SIZE],
                               char text[static FINGERPRINT_TEXT_SIZE]) {
        for (size_t i = 0; i < FINGERPRINT_SIZE; i++)
                snprintf(text + 2 * i, 3, "%02x", fingerprint[i]);
        return text;
}

static int digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int fingerprint_parse(const char *text, uint8_t ret_fingerprint[static FINGERPRINT_SIZE]) {
        uint8_t bytes[FINGERPRINT_SIZE];

        if (strlen(text) != 2 * sizeof(bytes))
                return -EINVAL;
        for (size_t i = 0; i < sizeof(bytes); i++) {
                int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return -EINVAL;
                bytes[i] = (uint8_t)(high << 4 | low);
        }
        memcpy(ret_fingerprint, bytes, sizeof(bytes));
        return 0;
}

int digest_sha256(const void *data, size_t n, uint8_t ret_digest[static FINGERPRINT_SIZE]) {
        return gnutls_hash_fast(GNUTLS_DIG_SHA256, data, n, ret_digest) < 0 ? -EIO : 0;
}

/* ---- making one ------------------------------------------------------------------------------------------------------ */

static int certificate_fill(gnutls_x509_crt_t crt, gnutls_x509_privkey_t key, const char *whose) {
        uint8_t serial[SERIAL_SIZE];
        int r = getrandom(serial, sizeof(serial), 0) == sizeof(serial) ? 0 : GNUTLS_E_RANDOM_FAILED;

        serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, and not shorter */
        if (r >= 0)
                r = gnutls_x509_crt_set_version(crt, 3);
        if (r >= 0)
                r = gnutls_x509_crt_set_serial(crt, serial, sizeof(serial));
        if (r >= 0)
                r = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, whose,
                                                  (unsigned int)strlen(whose));
        /* Clocks differ: a day is allowed for. And it has no end: RFC 5280 §4.1.2.5. */
        if (r >= 0)
                r = gnutls_x509_crt_set_activation_time(crt, time(NULL) - DAY);
        if (r >= 0)
                r = gnutls_x509_crt_set_expiration_time(crt, (time_t)-1);
        if (r >= 0)
                r = gnutls_x509_crt_set_key(crt, key);
        if (r >= 0)
                r = gnutls_x509_crt_set_basic_constraints(crt, 0, -1);
        if (r >= 0)
                r = gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
        if (r >= 0)
                r = gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, whose, (unsigned int)strlen(whose),
                                                         GNUTLS_FSAN_SET);
        if (r >= 0)
                r = gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
        return r;
}

static int write_both(int fd, const gnutls_datum_t *key, const gnutls_datum_t *crt) {
        int r = io_write_all(fd, key->data, key->size);

        return r < 0 ? r : io_write_all(fd, crt->data, crt->size);
}

static int file_make(int dir_fd, const char *name, const gnutls_datum_t *key, const gnutls_datum_t *crt,
                     struct error *e) {
        _cleanup_(new_file_drop) struct new_file f = NEW_FILE_INIT;
        int r = new_file_open(&f, dir_fd, 0600);

        if (r == 0)
                r = write_both(f.fd, key, crt);
        if (r == 0)
                r = new_file_keep(&f, name, false);
        if (r == -EEXIST) /* somebody else was faster, and it is his that counts */
                r = 0;
        return r < 0 ? error_set(e, r, "tls-identity", NULL, "cannot write %s", name) : 0;
}

static int identity_make(int dir_fd, const char *name, const char *whose, struct error *e) {
        gnutls_datum_t key_text = { NULL, 0 }, crt_text = { NULL, 0 };
        gnutls_x509_privkey_t key = NULL;
        gnutls_x509_crt_t crt = NULL;
        int r = gnutls_x509_privkey_init(&key);

        if (r >= 0)
                r = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1),
                                                 0);
        if (r >= 0)
                r = gnutls_x509_crt_init(&crt);
        if (r >= 0)
                r = certificate_fill(crt, key, whose);
        if (r >= 0)
                r = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &key_text);
        if (r >= 0)
                r = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &crt_text);
        r = r < 0 ? failed(r, e, "make a certificate") : file_make(dir_fd, name, &key_text, &crt_text, e);
        if (key_text.data)
                gnutls_memset(key_text.data, 0, key_text.size);
        gnutls_free(key_text.data);
        gnutls_free(crt_text.data);
        gnutls_x509_crt_deinit(crt);
        gnutls_x509_privkey_deinit(key);
        return r;
}

/* ---- loading it -------------------------------------------------------------------------------------------------------- */

static int own_fingerprint(struct identity *i) {
        gnutls_x509_crt_t *list = NULL;
        size_t size = sizeof(i->fingerprint);
        unsigned int n = 0;
        int r = gnutls_certificate_get_x509_crt(i->credentials, 0, &list, &n);

        if (r >= 0)
                r = n == 0 ? GNUTLS_E_NO_CERTIFICATE_FOUND
                           : gnutls_x509_crt_get_fingerprint(list[0], GNUTLS_DIG_SHA256, i->fingerprint, &size);
        for (unsigned int k = 0; k < n; k++)
                gnutls_x509_crt_deinit(list[k]);
        gnutls_free(list);
        return r;
}

static int identity_parse(const char *text, size_t n, struct identity **ret_identity, struct error *e) {
        const gnutls_datum_t pem = { (unsigned char *)text, (unsigned int)n };
        _cleanup_(identity_freep) struct identity *i = calloc(1, sizeof(*i));
        int r = i ? gnutls_certificate_allocate_credentials(&i->credentials) : GNUTLS_E_MEMORY_ERROR;

        if (r >= 0)
                r = gnutls_certificate_set_x509_key_mem2(i->credentials, &pem, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (r >= 0)
                r = own_fingerprint(i);
        if (r >= 0)
                r = gnutls_priority_init(&i->priority, priority, NULL);
        if (r < 0)
                return failed(r, e, "use the certificate");
        *ret_identity = TAKE_PTR(i);
        return 0;
}

int identity_load(int dir_fd, const char *name, const char *whose, struct identity **ret_identity, struct error *e) {
        _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        char *text = NULL;
        size_t n = 0;
        int r = gnutls_global_init(); /* a second time, it only counts */

        if (r < 0)
                return failed(r, e, "use GnuTLS");
        if (fd < 0 && errno == ENOENT) {
                r = identity_make(dir_fd, name, whose, e);
                if (r < 0)
                        return r;
                fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        }
        r = fd < 0 ? -errno : io_read_all(fd, FILE_MAX, &text, &n);
        if (r < 0)
                return error_set(e, r, "tls-identity", NULL, "cannot read %s", name);
        r = identity_parse(text, n, ret_identity, e);
        gnutls_memset(text, 0, n);
        free(text);
        if (r < 0 && e) {
                error_prefix(e, "%s", name);
                error_set_fix(e, "bring it back from a copy; or remove it: another is made, and all who know this one "
                                 "have to be told");
        }
        return r;
}

void identity_free(struct identity *identity) {
        if (!identity)
                return;
        if (identity->credentials)
                gnutls_certificate_free_credentials(identity->credentials);
        if (identity->priority)
                gnutls_priority_deinit(identity->priority);
        free(identity);
}

/* ---- sessions ---------------------------------------------------------------------------------------------------------- */

int identity_session(const struct identity *identity, bool server, int fd, gnutls_session_t *ret_session) {
        const unsigned int flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
        gnutls_session_t session;
        int r = gnutls_init(&session, flags | (server ? GNUTLS_SERVER : GNUTLS_CLIENT));

        if (r < 0)
                return -ENOMEM;
        r = gnutls_priority_set(session, identity->priority);
        if (r >= 0)
                r = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, identity->credentials);
        if (r < 0) {
                gnutls_deinit(session);
                return -EIO;
        }
        if (server)
                gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
        gnutls_transport_set_int(session, fd);
        gnutls_handshake_set_timeout(session, GNUTLS_INDEFINITE_TIMEOUT); /* the caller has a clock */
        *ret_session = session;
        return 0;
}

int session_fingerprint(gnutls_session_t session, uint8_t ret_fingerprint[static FINGERPRINT_SIZE]) {
        unsigned int n = 0;
        const gnutls_datum_t *list = gnutls_certificate_get_peers(session, &n);

        if (!list || n == 0 || gnutls_certificate_type_get2(session, GNUTLS_CTYPE_PEERS) != GNUTLS_CRT_X509)
                return -ENOENT;
        return digest_sha256(list[0].data, list[0].size, ret_fingerprint);
}
