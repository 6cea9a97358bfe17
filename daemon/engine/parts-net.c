// SPDX-License-Identifier: GPL-2.0-or-later
/* parts-net: see parts-net.h */
#include "daemon/engine/parts-net.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/spawn.h"

#define VNET_HEADER_SIZE 12 /* virtio 1.2 §5.1.6: struct virtio_net_hdr with num_buffers */
#define PASST_GRACE_MS   500

void parts_mac(const char *name, unsigned int index, char ret_mac[static 18]) {
        uint32_t hash = 2166136261u; /* FNV-1a */

        for (const char *p = name; *p; p++)
                hash = (hash ^ (uint8_t)*p) * 16777619u;
        hash = (hash ^ index) * 16777619u;
        snprintf(ret_mac, 18, "52:54:%02x:%02x:%02x:%02x", hash >> 24, hash >> 16 & 0xff, hash >> 8 & 0xff,
                 hash & 0xff);
}

static int tap_open(const char *interface, int *ret_fd, struct error *e) {
        _cleanup_close_ int fd = -EBADF;
        struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
        int size = VNET_HEADER_SIZE;

        if (!interface || if_nametoindex(interface) == 0) {
                error_set(e, -ENODEV, "net-unknown", NULL, "there is no network interface %s", interface ?: "");
                error_set_fix(e, "make it: ip tuntap add %s mode tap user $USER; what exists: ip -br link",
                              interface ?: "tap0");
                return -ENODEV;
        }
        fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return error_set(e, -errno, "net-tap",
                                 errno == ENOENT ? "load the module: modprobe tun" : "run as root, or use --net user",
                                 "cannot open /dev/net/tun");
        snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", interface);
        if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
                int code = -errno;

                error_set(e, code, "net-tap", NULL, "cannot attach to interface %s", interface);
                error_set_fix(e,
                              code == -EBUSY ? "another machine uses %s: give this one its own"
                              : code == -EINVAL
                                      ? "%s is not a tap interface, or not one of its kind: ip -d link show"
                                      : "it belongs to another user: ip tuntap add NAME mode tap user $USER (not %s)",
                              interface);
                return code;
        }
        if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
                return error_set(e, -errno, "net-tap", NULL, "cannot set up interface %s", interface);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Does the host have a default route for IPv4? (/proc/net/route: destination and mask 0.) */
static bool has_default_route(void) {
        FILE *f = fopen("/proc/net/route", "re");
        unsigned int destination, mask;
        bool found = false;
        char line[256];

        while (f && !found && fgets(line, sizeof(line), f))
                found = sscanf(line, "%*s %x %*x %*x %*d %*d %*d %x", &destination, &mask) == 2 && destination == 0 &&
                        mask == 0;
        if (f)
                fclose(f);
        return found;
}

/*
 * The guest's IPv4 network is the same on every host: it is 10.0.2.15/24, and its gateway 10.0.2.2 is the host. passt wants an interface
 * that leads outside; a host without one still serves its guests: they reach the host.
 */
static const char *const passt_ipv4[] = { "--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2" };
static const char *const passt_offline[] = { "--ipv4-only", "--interface", "lo", "--mac-addr", "52:55:0a:00:02:02" };
#define PASST_ARGS (ELEMENTSOF(passt_ipv4) + ELEMENTSOF(passt_offline))

static int passt_start(struct part_net *n, const struct spawn_jail *jail, struct error *e) {
        static const char missing_fix[] = "install it (apt install passt), or run without network: --net none";
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF, log_ours = -EBADF, log_theirs = -EBADF;
        char fd_text[16], mtu[16];
        enum { PASST_FIXED = 8 };
        const char *argv[PASST_FIXED + PASST_ARGS + 1] = { "passt", "--foreground", "--quiet", "--stderr",
                                                           "--fd",  fd_text,        "--mtu",   mtu };
        struct spawn s = {
                .path = "passt", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .death_signal = 15, .jail = jail
        };
        int pair[2], r;

        memcpy(argv + PASST_FIXED, passt_ipv4, sizeof(passt_ipv4));
        if (!has_default_route())
                memcpy(argv + PASST_FIXED + ELEMENTSOF(passt_ipv4), passt_offline, sizeof(passt_offline));
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return error_set(e, -errno, "net-passt", NULL, "cannot make a socket for passt");
        ours = pair[0];
        theirs = pair[1];
        if (pipe2(pair, O_CLOEXEC) < 0)
                return error_set(e, -errno, "net-passt", NULL, "cannot make a pipe for passt");
        log_ours = pair[0];
        log_theirs = pair[1];
        r = io_set_nonblock(log_ours, true);
        if (r < 0)
                return error_set(e, r, "net-passt", NULL, "cannot make a pipe for passt");
        snprintf(fd_text, sizeof(fd_text), "%d", theirs);
        snprintf(mtu, sizeof(mtu), "%u", n->mtu);
        s.fds = &theirs;
        s.n_fds = 1;
        s.stderr_fd = log_theirs;
        r = spawn_child(&s, &n->pid, &n->pidfd, e);
        if (r < 0) {
                if (r == -ENOENT)
                        error_set_fix(e, "%s", missing_fix);
                error_prefix(e, "user networking");
                return r;
        }
        n->fd = TAKE_FD(ours);
        n->log_fd = TAKE_FD(log_ours);
        return 0;
}

int part_net_open(const struct machine_net_config *c, const char *name, unsigned int index,
                  const struct spawn_jail *jail, struct part_net *ret_net, struct error *e) {
        struct part_net n = { .type = c->type, .fd = -EBADF, .pidfd = -EBADF, .log_fd = -EBADF, .mtu = c->mtu ?: 1500 };
        int r;

        if (c->mac)
                snprintf(n.mac, sizeof(n.mac), "%s", c->mac);
        else
                parts_mac(name, index, n.mac);
        r = c->type == MACHINE_NET_TYPE_TAP ? tap_open(c->interface, &n.fd, e) : passt_start(&n, jail, e);
        if (r < 0)
                return r;
        *ret_net = n;
        return 0;
}

void part_net_close(struct part_net *n) {
        int status;

        n->fd = safe_close(n->fd);
        if (n->pid > 0 && spawn_wait(n->pid, n->pidfd, PASST_GRACE_MS, &status) == -ETIMEDOUT)
                spawn_end(n->pid, n->pidfd, PASST_GRACE_MS);
        n->pid = 0;
        n->pidfd = safe_close(n->pidfd);
        n->log_fd = safe_close(n->log_fd);
}
