// SPDX-License-Identifier: GPL-2.0-or-later
/* tail: see tail.h */
#include "daemon/engine/tail.h"

#include <string.h>

void tail_add(struct tail *t, const char *data, size_t n) {
        if (n >= TAIL_MAX) {
                memcpy(t->data, data + n - TAIL_MAX, TAIL_MAX);
                t->len = TAIL_MAX;
                return;
        }
        if (t->len + n > TAIL_MAX) {
                size_t drop = t->len + n - TAIL_MAX;

                memmove(t->data, t->data + drop, t->len - drop);
                t->len -= drop;
        }
        memcpy(t->data + t->len, data, n);
        t->len += n;
}

static void print_line(const char *name, const char *line, size_t n, FILE *f) {
        while (n > 0 && line[n - 1] == '\r')
                n--;
        fprintf(f, "  %s| ", name);
        for (size_t i = 0; i < n; i++) {
                unsigned char c = (unsigned char)line[i];

                if ((c < 0x20 && c != '\t') || c == 0x7f)
                        fprintf(f, "\\x%02x", c);
                else
                        fputc(c, f);
        }
        fputc('\n', f);
}

size_t tail_start(const struct tail *t) {
        size_t start = t->len, lines = 0;

        while (start > 0 && t->data[start - 1] == '\n')
                start--;
        while (start > 0 && (t->data[start - 1] != '\n' || ++lines < TAIL_LINES))
                start--;
        return start;
}

void tail_print(const struct tail *t, const char *name, FILE *f) {
        for (size_t at = tail_start(t); at < t->len;) {
                const char *end = memchr(t->data + at, '\n', t->len - at);
                size_t n = end ? (size_t)(end - t->data) - at : t->len - at;

                print_line(name, t->data + at, n, f);
                at += n + 1;
        }
}

const char *last_line(char *buf, size_t n) {
        size_t start;

        while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
                n--;
        buf[n] = '\0';
        for (start = n; start > 0 && buf[start - 1] != '\n'; start--)
                ;
        return buf + start;
}
