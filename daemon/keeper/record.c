// SPDX-License-Identifier: GPL-2.0-or-later
/* record: see record.h */
#include "daemon/keeper/record.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define MESSAGE_MAX  4096
#define LOG_LINE_MAX 1024

char *record_text(const char *text, size_t n, size_t max) {
        _cleanup_free_ char *whole = strndup(text, n);
        char *plain = malloc(max + 1), *to = plain;

        if (!whole || !plain) {
                free(plain);
                return NULL;
        }
        for (const char *p = whole; *p;) {
                bool shown;
                size_t len = text_char(p, &shown);

                if ((size_t)(to - plain) + len > max)
                        break;
                if (shown) {
                        memcpy(to, p, len);
                        to += len;
                } else
                        *to++ = *p == '\t' ? ' ' : '?';
                p += len;
        }
        *to = '\0';
        return plain;
}

char *record_time(void) {
        char text[32];
        time_t now = time(NULL);
        struct tm tm;

        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
        return strdup(text);
}

uint64_t record_boottime_ms(void) {
        struct timespec t;

        clock_gettime(CLOCK_BOOTTIME, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static char *copy(const char *text) {
        return text ? record_text(text, strlen(text), MESSAGE_MAX) : NULL;
}

void record_error(struct keeper_error *to, const struct error *e) {
        to->code = (uint32_t)(e->code < 0 ? -e->code : EIO);
        to->id = e->id ? record_text(e->id, strlen(e->id), 63) : NULL;
        to->message = copy(e->message);
        to->fix = copy(e->fix);
}

int record_log(struct keeper_exit *to, const struct tail *tail) {
        char **lines;

        if (!tail)
                return 0;
        lines = calloc(TAIL_LINES, sizeof(*lines));
        if (!lines)
                return -ENOMEM;
        to->log = lines;
        for (size_t at = tail_start(tail); at < tail->len && to->n_log < TAIL_LINES;) {
                const char *line = tail->data + at, *end = memchr(line, '\n', tail->len - at);
                size_t n = end ? (size_t)(end - line) : tail->len - at;

                at += n + 1;
                while (n > 0 && line[n - 1] == '\r')
                        n--;
                lines[to->n_log] = record_text(line, n, LOG_LINE_MAX);
                if (!lines[to->n_log])
                        return -ENOMEM;
                to->n_log++;
        }
        return 0;
}

void record_end(const siginfo_t *info, uint32_t *ret_status, uint32_t *ret_signal) {
        bool exited = info->si_code == CLD_EXITED;

        *ret_signal = exited ? 0 : (uint32_t)info->si_status;
        *ret_status = exited ? (uint32_t)info->si_status & 0xff : 128 + (uint32_t)info->si_status;
}
