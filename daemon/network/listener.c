// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * listener: see listener.h
 *
 * /proc/net/tcp and its like: "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 12345 ...": addresses as 32-bit
 * words of the host's byte order.
 */
#include "daemon/network/listener.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/io.h"

#define TCP_LISTENING 0x0a

static void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

static bool has_socket(const char *pid, const char *want) {
        char path[300], target[64];
        _cleanup_(closedirp) DIR *d = NULL;

        snprintf(path, sizeof(path), "/proc/%s/fd", pid);
        d = opendir(path);
        for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
                ssize_t n = readlinkat(dirfd(d), de->d_name, target, sizeof(target) - 1);

                if (n > 0) {
                        target[n] = '\0';
                        if (streq(target, want))
                                return true;
                }
        }
        return false;
}

static int owner_of(uint64_t inode, char **ret_who) {
        _cleanup_(closedirp) DIR *d = opendir("/proc");
        char want[64];

        snprintf(want, sizeof(want), "socket:[%" PRIu64 "]", inode);
        for (struct dirent *de = d ? readdir(d) : NULL; de; de = readdir(d)) {
                char path[300], name[32] = "";
                _cleanup_close_ int fd = -EBADF;
                ssize_t n;

                if (!isdigit((unsigned char)de->d_name[0]) || !has_socket(de->d_name, want))
                        continue;
                snprintf(path, sizeof(path), "/proc/%s/comm", de->d_name);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                n = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);
                name[n > 0 ? n : 0] = '\0';
                name[strcspn(name, "\n")] = '\0';
                return asprintf(ret_who, "%s (process %s)", name, de->d_name) < 0 ? -ENOMEM : 0;
        }
        *ret_who = strdup("a process");
        return *ret_who ? 0 : -ENOMEM;
}

/* "0100007F" or four of that. */
static int address_parse(const char *hex, int family, struct cidr *ret) {
        struct cidr c = { .family = family, .bits = family == AF_INET ? 32 : 128 };

        for (unsigned int i = 0; i < c.bits / 32; i++) {
                char word[9] = "";
                uint32_t v;

                memcpy(word, hex + 8 * (size_t)i, 8);
                v = (uint32_t)strtoul(word, NULL, 16);
                memcpy(c.address + 4 * (size_t)i, &v, 4);
        }
        if (family == AF_INET6 && memcmp(c.address, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0) {
                struct cidr v4 = { .family = AF_INET, .bits = 32 };

                memcpy(v4.address, c.address + 12, 4);
                c = v4;
        }
        *ret = c;
        return 0;
}

static bool matches(const struct cidr *host, const struct cidr *bound) {
        return cidr_same_listener(host, bound) ||
               (bound->family == AF_INET6 && cidr_is_any(bound) && host->family == AF_INET);
}

/* The inode of a socket in one of these files that is in the way; 0: none. */
static uint64_t search(const char *path, int family, bool tcp, const struct cidr *host, unsigned int port) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        char *save = NULL;
        size_t n;

        if (fd < 0 || io_read_all(fd, 64u << 20, &text, &n) < 0)
                return 0;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char hex[33];
                unsigned int local, state;
                uint64_t inode;
                struct cidr bound;

                if (sscanf(line, " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*u %*u %" SCNu64, hex, &local,
                           &state, &inode) != 4 ||
                    strlen(hex) != (family == AF_INET ? 8u : 32u) || local != port || (tcp && state != TCP_LISTENING))
                        continue;
                if (address_parse(hex, family, &bound) == 0 && matches(host, &bound))
                        return inode;
        }
        return 0;
}

int listener_find(enum network_protocol protocol, const struct cidr *host, unsigned int port, char **ret_who) {
        bool tcp = protocol == NETWORK_PROTOCOL_TCP;
        uint64_t inode = search(tcp ? "/proc/net/tcp" : "/proc/net/udp", AF_INET, tcp, host, port);
        int r;

        if (inode == 0)
                inode = search(tcp ? "/proc/net/tcp6" : "/proc/net/udp6", AF_INET6, tcp, host, port);
        if (inode == 0)
                return 0;
        r = owner_of(inode, ret_who);
        return r < 0 ? r : 1;
}
