// SPDX-License-Identifier: GPL-2.0-or-later
/* tls: see tls.h */
#include "cli/tls.h"

#include <poll.h>
#include <string.h>

#include "base/clock.h"

struct tls {
        gnutls_session_t session;
        uint8_t fingerprint[FINGERPRINT_SIZE];
        bool other; /* the server has shown another one */
};

static int on_certificate(gnutls_session_t session) {
        struct tls *t = gnutls_session_get_ptr(session);
        uint8_t shown[FINGERPRINT_SIZE];

        t->other = session_fingerprint(session, shown) < 0 || memcmp(shown, t->fingerprint, sizeof(shown)) != 0;
        return t->other ? GNUTLS_E_CERTIFICATE_ERROR : 0;
}

static int wait_for(const struct tls *t, int fd, int stop_fd, uint64_t until) {
        struct pollfd fds[2] = { { .fd = fd, .events = gnutls_record_get_direction(t->session) ? POLLOUT : POLLIN },
                                 { .fd = stop_fd, .events = POLLIN } };
        uint64_t now = clock_ns();
        int r = now >= until ? 0 : poll(fds, 2, (int)((until - now) / 1000000 + 1));

        if (r < 0 && errno != EINTR)
                return -errno;
        if (r > 0 && fds[1].revents)
                return -ECANCELED;
        return r == 0 ? -ETIMEDOUT : 0;
}

static int shake(struct tls *t, int fd, int stop_fd, int timeout_ms, const char **ret_reason) {
        const uint64_t until = clock_ns() + (uint64_t)timeout_ms * 1000000;

        for (;;) {
                int r = gnutls_handshake(t->session);

                if (r == GNUTLS_E_SUCCESS)
                        return 0;
                if (gnutls_error_is_fatal(r)) {
                        gnutls_alert_send_appropriate(t->session, r);
                        *ret_reason = r == GNUTLS_E_FATAL_ALERT_RECEIVED
                                              ? gnutls_alert_get_name(gnutls_alert_get(t->session))
                                              : gnutls_strerror(r);
                        return t->other ? -EKEYREJECTED : -EPROTO;
                }
                if (r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED) {
                        r = wait_for(t, fd, stop_fd, until);
                        if (r < 0)
                                return r;
                }
        }
}

int tls_open(const struct identity *identity, int fd, const uint8_t fingerprint[static FINGERPRINT_SIZE],
             int timeout_ms, int stop_fd, struct tls **ret_tls, const char **ret_reason) {
        _cleanup_(tls_freep) struct tls *t = calloc(1, sizeof(*t));
        int r = t ? identity_session(identity, false, fd, &t->session) : -ENOMEM;

        if (r < 0)
                return r;
        memcpy(t->fingerprint, fingerprint, sizeof(t->fingerprint));
        gnutls_session_set_ptr(t->session, t);
        gnutls_session_set_verify_function(t->session, on_certificate);
        r = shake(t, fd, stop_fd, timeout_ms, ret_reason);
        if (r < 0)
                return r;
        *ret_tls = TAKE_PTR(t);
        return 0;
}

void tls_close(struct tls *tls) {
        if (!tls)
                return;
        if (tls->session) {
                gnutls_bye(tls->session, GNUTLS_SHUT_WR);
                gnutls_deinit(tls->session);
        }
        free(tls);
}

static ssize_t code_of(ssize_t r) {
        if (r >= 0)
                return r;
        if (r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED || !gnutls_error_is_fatal((int)r))
                return -EAGAIN;
        return r == GNUTLS_E_PUSH_ERROR || r == GNUTLS_E_PULL_ERROR ? -ECONNRESET : -EPROTO;
}

ssize_t tls_read(struct tls *tls, void *buf, size_t n) {
        ssize_t r = gnutls_record_recv(tls->session, buf, n);

        /* No goodbye: HTTP and WebSockets say by themselves where a message ends. */
        return r == GNUTLS_E_PREMATURE_TERMINATION ? 0 : code_of(r);
}

ssize_t tls_write(struct tls *tls, const void *buf, size_t n) {
        return code_of(gnutls_record_send(tls->session, buf, n));
}

bool tls_pending(const struct tls *tls) {
        return gnutls_record_check_pending(tls->session) > 0;
}
