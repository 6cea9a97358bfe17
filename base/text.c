// SPDX-License-Identifier: GPL-2.0-or-later
/* text: see text.h */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"

static const char units[] = "BKMGTPE";

char *text_copy(const char *text) {
        return text ? strdup(text) : NULL;
}

int text_parse_uint(const char *text, uint64_t max, uint64_t *ret_value) {
        bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        const char *digits = hex ? text + 2 : text;
        unsigned long long v;
        char *end;

        if (!(hex ? isxdigit((unsigned char)*digits) : isdigit((unsigned char)*digits)))
                return -EINVAL;
        errno = 0;
        v = strtoull(digits, &end, hex ? 16 : 10);
        if (*end)
                return -EINVAL;
        if (errno == ERANGE || v > max)
                return -ERANGE;
        *ret_value = v;
        return 0;
}

/* "" , "K", "KB", "KiB" in any case -> power of 1024, or -EINVAL. */
static int unit_shift(const char *unit) {
        const char *u;

        if (!*unit)
                return 0;
        u = strchr(units, toupper((unsigned char)*unit));
        if (!u)
                return -EINVAL;
        if (unit[1] && (u == units || (strcasecmp(unit + 1, "b") != 0 && strcasecmp(unit + 1, "ib") != 0)))
                return -EINVAL;
        return (int)(u - units) * 10;
}

int text_parse_size(const char *text, uint64_t *ret_bytes) {
        unsigned long long whole;
        uint64_t thousandths = 0, scale = 100;
        char *end;
        int shift;

        if (!isdigit((unsigned char)*text))
                return -EINVAL;
        errno = 0;
        whole = strtoull(text, &end, 10);
        if (errno == ERANGE)
                return -ERANGE;
        if (*end == '.') {
                if (!isdigit((unsigned char)*++end))
                        return -EINVAL;
                for (; isdigit((unsigned char)*end); end++, scale /= 10)
                        thousandths += (uint64_t)(*end - '0') * scale;
        }
        while (*end == ' ')
                end++;
        shift = unit_shift(end);
        if (shift < 0)
                return shift;
        if (thousandths > 0 && shift == 0)
                return -EINVAL; /* no half bytes */
        if (shift > 0 && whole >> (64 - shift))
                return -ERANGE;
        *ret_bytes = ((uint64_t)whole << shift) + (shift > 0 ? (thousandths << (shift - 10)) * 1024 / 1000 : 0);
        return 0;
}

const char *text_format_size(uint64_t bytes, char buf[static TEXT_SIZE_MAX]) {
        uint64_t v = bytes, rest = 0;
        int unit = 0;

        while (v >= 1024 && units[unit + 1]) {
                rest = v % 1024;
                v /= 1024;
                unit++;
        }
        if (unit == 0)
                snprintf(buf, TEXT_SIZE_MAX, "%u B", (unsigned int)v);
        else if (rest * 10 / 1024 > 0 && v < 100)
                snprintf(buf, TEXT_SIZE_MAX, "%u.%u %ciB", (unsigned int)v, (unsigned int)(rest * 10 / 1024),
                         units[unit]);
        else
                snprintf(buf, TEXT_SIZE_MAX, "%u %ciB", (unsigned int)v, units[unit]);
        return buf;
}

size_t text_char(const char *text, bool *ret_plain) {
        static const struct {
                uint32_t first, last;
        } not_shown[] = {
                { 0, 0x1f },        { 0x7f, 0x9f },     { 0x61c, 0x61c },   { 0x200e, 0x200f },
                { 0x2028, 0x202e }, { 0x2066, 0x2069 }, { 0xd800, 0xdfff }, { 0x110000, UINT32_MAX },
        };
        static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 }; /* below it, another form is shorter */
        const uint8_t *p = (const uint8_t *)text;
        size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc0 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf8 ? 4 : 0;
        uint32_t c = n > 1 ? p[0] & (0x7f >> n) : p[0];

        *ret_plain = false;
        for (size_t i = 1; i < n; i++) {
                if ((p[i] & 0xc0) != 0x80) /* also the text's end */
                        return 1;
                c = c << 6 | (p[i] & 0x3f);
        }
        if (n == 0 || c < least[n])
                return 1;
        for (size_t i = 0; i < ELEMENTSOF(not_shown); i++)
                if (c >= not_shown[i].first && c <= not_shown[i].last)
                        return n;
        *ret_plain = true;
        return n;
}

char *text_shell_quote(const char *text) {
        size_t n = 3;
        char *word, *p;

        for (const char *q = text; *q; q++)
                n += *q == '\'' ? 4 : 1;
        word = p = malloc(n);
        if (!word)
                return NULL;
        *p++ = '\'';
        for (; *text; text++)
                if (*text == '\'')
                        p = stpcpy(p, "'\\''");
                else
                        *p++ = *text;
        *p++ = '\'';
        *p = '\0';
        return word;
}

bool text_lies_below(const char *path, const char *root) {
        size_t n = strlen(root);

        while (n > 0 && root[n - 1] == '/')
                n--;
        return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}
