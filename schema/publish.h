// SPDX-License-Identifier: GPL-2.0-or-later
/* publish: a published port as a person writes it: [ADDRESS:]HOSTPORT:PORT[/tcp|/udp], an IPv6 address in brackets */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct publish {
        char address[46]; /* of the host; "": all */
        uint16_t host_port, port;
        bool udp;
};

/** publish_parse() - -EINVAL when it is none. */
int publish_parse(const char *text, struct publish *ret);
