// SPDX-License-Identifier: GPL-2.0-or-later
/* sysctl: see sysctl.h */
#include "daemon/network/sysctl.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/io.h"
#include "daemon/network/notes.h"
#include "daemon/network/state.h"

#define FORWARD4 "net/ipv4/ip_forward"
#define FORWARD6 "net/ipv6/conf/all/forwarding"
#define SAVED    ".sysctl" /* "boot=" and which one, then lines "name=value" */

static int sysctl_open(const char *name, int flags) {
        char path[256];
        int fd;

        if (snprintf(path, sizeof(path), "/proc/sys/%s", name) >= (int)sizeof(path))
                return -ENAMETOOLONG;
        fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
        return fd < 0 ? -errno : fd;
}

static int sysctl_get(const char *name, char *buf, size_t size) {
        _cleanup_close_ int fd = sysctl_open(name, O_RDONLY);
        ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

        if (fd < 0 || n < 0)
                return fd < 0 ? fd : -errno;
        buf[n] = '\0';
        buf[strcspn(buf, "\n")] = '\0';
        return 0;
}

bool sysctl_is(const char *name, const char *value) {
        char have[64];

        return sysctl_get(name, have, sizeof(have)) == 0 && streq(have, value);
}

int sysctl_set(const char *name, const char *value) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (sysctl_is(name, value))
                return 0;
        fd = sysctl_open(name, O_WRONLY);
        if (fd < 0)
                return fd;
        r = io_write_all(fd, value, strlen(value));
        return r < 0 ? r : 1;
}

static int fail(struct error *e, int code, const char *name) {
        error_set(e, code, "network-sysctl", NULL, "cannot set /proc/sys/%s", name);
        error_set_fix(e, "see who keeps it: ls -l /proc/sys/%s; in a container, let it be writable", name);
        return code;
}

static void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

/* Interfaces that learn their routes from advertisements; calls @fn with the switch's name. */
static int each_accept_ra(const char *value, int (*fn)(void *opaque, const char *name), void *opaque) {
        _cleanup_(closedirp) DIR *d = opendir("/proc/sys/net/ipv6/conf");
        int r = 0;

        if (!d)
                return errno == ENOENT ? 0 : -errno;
        for (struct dirent *de = readdir(d); de && r >= 0; de = readdir(d)) {
                char name[sizeof(de->d_name) + 64];

                snprintf(name, sizeof(name), "net/ipv6/conf/%s/accept_ra", de->d_name);
                if (de->d_name[0] != '.' && !streq(de->d_name, "all") && sysctl_is(name, value))
                        r = fn(opaque, name);
        }
        return r;
}

static int save_one(void *opaque, const char *name) {
        return fprintf(opaque, "%s=1\n", name) < 0 ? -ENOMEM : 0;
}

static int raise_one(void *opaque, const char *name) {
        return sysctl_set(name, "2");
}

/* What is there is kept before the first change of each boot. */
static int save(struct network_ctx *ctx) {
        _cleanup_free_ char *text = NULL, *have = NULL, *boot = state_boot_id();
        char v4[64] = "", v6[64] = "";
        size_t size;
        FILE *f;
        int r;

        if (boot && state_read(ctx->fd, SAVED, &have) == 0 && strncmp(have, "boot=", 5) == 0 &&
            strncmp(have + 5, boot, strlen(boot)) == 0)
                return 0;
        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        fprintf(f, "boot=%s\n", boot ?: "");
        if (sysctl_get(FORWARD4, v4, sizeof(v4)) == 0)
                fprintf(f, "%s=%s\n", FORWARD4, v4);
        if (sysctl_get(FORWARD6, v6, sizeof(v6)) == 0)
                fprintf(f, "%s=%s\n", FORWARD6, v6);
        r = streq(v6, "0") ? each_accept_ra("1", save_one, f) : 0;
        if (ferror(f) | fclose(f))
                r = -ENOMEM;
        return r < 0 ? r : state_write(ctx->fd, SAVED, text, 0600);
}

int sysctl_forwarding_up(struct network_ctx *ctx, bool ipv6, struct network_notes *changes, struct error *e) {
        int r = save(ctx);

        if (r < 0)
                return error_set(e, r, "network-state", "check that the file system has room: df",
                                 "cannot keep what the host's routing switches are");
        r = sysctl_set(FORWARD4, "1");
        if (r < 0)
                return fail(e, r, FORWARD4);
        if (r > 0)
                note_add(changes, "forwarding", NULL, "the host did not forward IPv4");
        if (!ipv6 || sysctl_is(FORWARD6, "1"))
                return 0;
        r = each_accept_ra("1", raise_one, NULL);
        if (r >= 0)
                r = sysctl_set(FORWARD6, "1");
        if (r < 0 && r != -ENOENT)
                return fail(e, r, FORWARD6);
        if (r > 0)
                note_add(changes, "forwarding", NULL, "the host did not forward IPv6");
        return 0;
}

int sysctl_forwarding_down(struct network_ctx *ctx, bool others, struct error *e) {
        _cleanup_free_ char *text = NULL;
        char *save_ptr = NULL;
        int r = state_read(ctx->fd, SAVED, &text);

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return error_set(e, r, "network-state", NULL, "cannot read what the host's routing switches were");
        /* Forwarding goes off before accept_ra goes back to 1: the file holds them in this order. */
        for (char *line = strtok_r(text, "\n", &save_ptr); line && !others; line = strtok_r(NULL, "\n", &save_ptr)) {
                char *value = strchr(line, '=');

                if (!value || strncmp(line, "net/ipv", 7) != 0 || strstr(line, "..") || strlen(value) != 2)
                        continue;
                *value = '\0';
                r = sysctl_set(line, value + 1);
                if (r < 0 && r != -ENOENT) /* the interface may be gone */
                        return fail(e, r, line);
        }
        r = state_remove(ctx->fd, SAVED);
        return r < 0 ? error_set(e, r, "network-state", NULL, "cannot remove %s/" SAVED, ctx->state_dir) : 0;
}

int sysctl_bridge_up(const char *bridge, bool ipv6, struct error *e) {
        const struct {
                const char *family, *name, *value;
        } switches[] = {
                { "ipv4", "route_localnet", "1" }, /* rules.c: the host's own way to forwarded ports */
                { "ipv4", "rp_filter", "1" },      /* what comes in here is from the subnet */
                { "ipv4", "send_redirects", "0" }, /* machines reach each other over the bridge */
                { "ipv6", "disable_ipv6", ipv6 ? "0" : "1" },
                { "ipv6", "accept_ra", "0" }, /* machines advertise nothing to us */
                { "ipv6", "autoconf", "0" },
        };

        for (size_t i = 0; i < ELEMENTSOF(switches); i++) {
                char name[128];
                int r;

                snprintf(name, sizeof(name), "net/%s/conf/%s/%s", switches[i].family, bridge, switches[i].name);
                r = sysctl_set(name, switches[i].value);
                if (r < 0 && !(r == -ENOENT && streq(switches[i].family, "ipv6") && !ipv6))
                        return fail(e, r, name);
        }
        return 0;
}
