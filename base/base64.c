// SPDX-License-Identifier: GPL-2.0-or-later
/* base64: see base64.h */
#include "base/base64.h"

#include <stdint.h>

#include "base/cleanup.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t len) {
        const unsigned char *p = data;
        char *text, *q;

        if (len > SIZE_MAX / 2)
                return NULL;
        text = q = malloc((len + 2) / 3 * 4 + 1);
        if (!text)
                return NULL;
        for (size_t i = 0; i < len; i += 3) {
                size_t n = MIN(len - i, (size_t)3);
                uint32_t v = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);

                *q++ = digits[v >> 18];
                *q++ = digits[v >> 12 & 63];
                *q++ = n > 1 ? digits[v >> 6 & 63] : '=';
                *q++ = n > 2 ? digits[v & 63] : '=';
        }
        *q = '\0';
        return text;
}

static int value_of(char c) {
        if (c >= 'A' && c <= 'Z')
                return c - 'A';
        if (c >= 'a' && c <= 'z')
                return c - 'a' + 26;
        if (c >= '0' && c <= '9')
                return c - '0' + 52;
        return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(const char *text, size_t len, unsigned char **ret_data, size_t *ret_len) {
        _cleanup_free_ unsigned char *data = NULL;
        size_t n = 0, pad = 0;

        if (len % 4 != 0)
                return -EINVAL;
        if (len > 0)
                pad = text[len - 1] != '=' ? 0 : text[len - 2] != '=' ? 1 : 2;
        data = malloc(len / 4 * 3 + 1);
        if (!data)
                return -ENOMEM;
        for (size_t i = 0; i < len; i += 4) {
                size_t used = i + 4 == len ? 4 - pad : 4;
                uint32_t v = 0;

                for (size_t k = 0; k < 4; k++) {
                        int digit = k < used ? value_of(text[i + k]) : 0;

                        if (digit < 0)
                                return -EINVAL;
                        v = v << 6 | (uint32_t)digit;
                }
                if ((used == 3 && (v & 0xff)) || (used == 2 && (v & 0xffff)))
                        return -EINVAL;
                data[n++] = v >> 16 & 0xff;
                if (used > 2)
                        data[n++] = v >> 8 & 0xff;
                if (used > 3)
                        data[n++] = v & 0xff;
        }
        data[n] = '\0';
        *ret_data = TAKE_PTR(data);
        *ret_len = n;
        return 0;
}
