// SPDX-License-Identifier: GPL-2.0-or-later
/* publish: see publish.h */
#include "schema/publish.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

static int take_port(const char *text, size_t n, uint16_t *ret_port) {
        uint64_t value;
        char digits[8];

        if (n == 0 || n >= sizeof(digits))
                return -EINVAL;
        memcpy(digits, text, n);
        digits[n] = 0;
        if (strspn(digits, "0123456789") != n || text_parse_uint(digits, 65535, &value) < 0 || value == 0)
                return -EINVAL;
        *ret_port = (uint16_t)value;
        return 0;
}

static int take_address(const char *text, size_t n, char ret[static 46]) {
        unsigned char bytes[16];
        char address[46];
        bool six = n > 2 && text[0] == '[' && text[n - 1] == ']';

        if (six) {
                text++;
                n -= 2;
        }
        if (n == 0 || n >= sizeof(address))
                return -EINVAL;
        memcpy(address, text, n);
        address[n] = 0;
        if (inet_pton(six ? AF_INET6 : AF_INET, address, bytes) != 1)
                return -EINVAL;
        memcpy(ret, address, n + 1);
        return 0;
}

int publish_parse(const char *text, struct publish *ret) {
        struct publish p = { 0 };
        const char *slash = strchr(text, '/'), *end = slash ?: text + strlen(text), *last, *middle;
        int r;

        if (slash && strcmp(slash, "/udp") != 0 && strcmp(slash, "/tcp") != 0)
                return -EINVAL;
        p.udp = slash && slash[1] == 'u';
        last = memrchr(text, ':', (size_t)(end - text));
        if (!last)
                return -EINVAL;
        middle = memrchr(text, ':', (size_t)(last - text));
        r = take_port(last + 1, (size_t)(end - last - 1), &p.port);
        if (r == 0)
                r = take_port(middle ? middle + 1 : text, (size_t)(last - (middle ? middle + 1 : text)), &p.host_port);
        if (r == 0 && middle)
                r = take_address(text, (size_t)(middle - text), p.address);
        if (r == 0)
                *ret = p;
        return r;
}
