// SPDX-License-Identifier: GPL-2.0-or-later
/* resolver: see resolver.h */
#include "daemon/network/resolver.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "base/log.h"
#include "base/spawn.h"
#include "daemon/network/notes.h"

#define RESOLVECTL_MS 1000

static bool resolved_runs(void) {
        return access("/run/systemd/resolve/io.systemd.Resolve", F_OK) == 0;
}

static int resolvectl(const char *verb, const char *bridge, const char *value) {
        const char *const argv[] = { "resolvectl", verb, bridge, value, NULL };
        const struct spawn s = { .path = "resolvectl", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1 };
        _cleanup_close_ int pidfd = -EBADF;
        int status, r;
        pid_t pid;

        r = spawn_child(&s, &pid, &pidfd, NULL);
        if (r < 0)
                return r;
        r = spawn_wait(pid, pidfd, RESOLVECTL_MS, &status);
        if (r < 0) {
                spawn_end(pid, pidfd, 0);
                return r;
        }
        return status == 0 ? 0 : -EIO;
}

void resolver_register(const struct network_config *c, const struct network_plan *p) {
        char gateway[CIDR_TEXT_MAX];

        if (!resolved_runs())
                return;
        if (resolvectl("dns", c->bridge, cidr_format_address(&p->gateway, gateway)) < 0 ||
            resolvectl("domain", c->bridge, c->domain) < 0 || resolvectl("default-route", c->bridge, "no") < 0)
                log_warning("systemd-resolved does not take the domain of network %s", c->name);
}

int resolver_warnings(const struct network_config *c, const struct network_plan *p, struct network_notes *warnings) {
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        char gateway[CIDR_TEXT_MAX], fix[512], *save = NULL;
        size_t n;

        if (resolved_runs())
                return 0;
        cidr_format_address(&p->gateway, gateway);
        fd = open("/etc/resolv.conf", O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && io_read_all(fd, 65536, &text, &n) == 0)
                for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                        if (strncmp(line, "nameserver", 10) == 0 &&
                            streq(line + 10 + strspn(line + 10, " \t"), gateway))
                                return 0;
        snprintf(fix, sizeof(fix),
                 "put these lines first in /etc/resolv.conf: \"nameserver %s\", \"search %s\"; or run "
                 "systemd-resolved; or let the host's dnsmasq "
                 "ask: server=/%s/%s",
                 gateway, c->domain, c->domain, gateway);
        return note_add(warnings, "host-resolver", fix, "this host does not resolve names in %s; machines do",
                        c->domain);
}
