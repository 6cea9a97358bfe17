// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * error: see error.h
 *
 * Running out of memory while recording an error must not hide it: the message falls back to a constant text.
 */
#include "base/error.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

/* Codes whose text adds nothing to a message that already says what is wrong. */
static bool code_is_plain(int code) {
        return code == -EINVAL || code == -EPROTO || code == -ENOTSUP || code == -EUCLEAN;
}

/* "No such file" behind "there is no machine web" would only puzzle. @message may have a prefix: error_prefix(). */
static bool wants_reason(const char *message) {
        static const char tried[] = "cannot ";
        const char *at = message;

        while (strncmp(at, tried, strlen(tried)) != 0) {
                at = strstr(at, ": ");
                if (!at)
                        return false;
                at += 2;
        }
        return true;
}

int error_set(struct error *e, int code, const char *id, const char *fix, const char *format, ...) {
        va_list ap;

        if (code >= 0)
                code = -EIO;
        if (!e || e->code != 0)
                return code;

        e->code = code;
        e->id = id;
        e->fix = fix ? strdup(fix) : NULL;

        va_start(ap, format);
        if (vasprintf(&e->message, format, ap) < 0)
                e->message = NULL;
        va_end(ap);
        return code;
}

int error_set_foreign(struct error *e, int code, const char *id, const char *fix, const char *message) {
        if (e && e->code != 0)
                return code < 0 ? code : -EIO;
        code = error_set(e, code, "foreign", fix, "%s", message);
        if (e && id) {
                char *to = e->foreign = strndup(id, 63);

                for (const char *from = e->foreign; from && *from; from++)
                        if ((*from >= 'a' && *from <= 'z') || (*from >= '0' && *from <= '9') || *from == '-')
                                *to++ = *from;
                if (e->foreign && to > e->foreign) {
                        *to = 0;
                        e->id = e->foreign;
                }
        }
        return code;
}

void error_set_fix(struct error *e, const char *format, ...) {
        char *fix = NULL;
        va_list ap;

        if (!e || e->code == 0)
                return;
        va_start(ap, format);
        if (vasprintf(&fix, format, ap) < 0)
                fix = NULL;
        va_end(ap);
        if (!fix)
                return;
        free(e->fix);
        e->fix = fix;
}

void error_prefix(struct error *e, const char *format, ...) {
        _cleanup_free_ char *prefix = NULL;
        char *joined = NULL;
        va_list ap;

        if (!e || e->code == 0)
                return;
        va_start(ap, format);
        if (vasprintf(&prefix, format, ap) < 0)
                prefix = NULL;
        va_end(ap);
        if (!prefix || asprintf(&joined, "%s: %s", prefix, e->message ?: "out of memory") < 0)
                return;
        free(e->message);
        e->message = joined;
}

void error_clear(struct error *e) {
        free(e->message);
        free(e->fix);
        free(e->foreign);
        *e = ERROR_INIT;
}

static void print_escaped(const char *text, FILE *f) {
        bool plain;

        for (size_t n; *text; text += n) {
                n = text_char(text, &plain);
                if (plain)
                        fwrite(text, 1, n, f);
                for (size_t i = 0; i < n && !plain; i++)
                        fprintf(f, "\\x%02x", (unsigned char)text[i]);
        }
}

void error_print(const struct error *e, const char *program, FILE *f) {
        fprintf(f, "%s: ", program);
        print_escaped(e->message ?: "out of memory", f);
        if (!code_is_plain(e->code) && e->message && wants_reason(e->message))
                fprintf(f, ": %s", strerror(-e->code));
        fprintf(f, "  [%s]\n", e->id ?: "unknown");
        if (e->fix) {
                fputs("  fix: ", f);
                print_escaped(e->fix, f);
                fputc('\n', f);
        }
}

int error_exit_status(const struct error *e) {
        switch (e->code) {
        case 0:
                return 0;
        case -EINVAL:
                return 1;
        case -ENOTCONN:
        case -ECONNREFUSED:
                return 3;
        case -EAGAIN:
        case -EBUSY:
                return 4;
        default:
                return 2;
        }
}
